package tokenize

import "unicode/utf8"

// Text is the text of a record, bounded and looked at, not changed: bytes that are not UTF-8 stay as they are, and the
// tokenizer reads each maximal invalid part as one U+FFFD.
type Text struct {
	Bytes    []byte // a prefix of the bytes given, not a copy
	Repaired bool   // Bytes are not valid UTF-8, so the tokenizer has to repair them
	Cut      bool   // Bytes are less than what was given
}

// Clean looks at b and cuts it to at most maxBytes bytes, between two characters; 0 is no limit. Truncation by tokens
// is no protection against huge texts, because a tokenizer reads all of a text before it truncates (1 MiB takes
// seconds).
func Clean(b []byte, maxBytes int) Text {
	t := Text{Bytes: b}
	if maxBytes > 0 && len(b) > maxBytes {
		t.Bytes, t.Cut = b[:boundary(b, maxBytes)], true
	}
	t.Repaired = !utf8.Valid(t.Bytes)
	return t
}

// boundary is the last offset up to limit at which a character of b begins. Invalid parts are characters too.
func boundary(b []byte, limit int) int {
	// A character that contains limit begins at most three bytes before it.
	for start := limit - 1; start >= 0 && start > limit-utf8.UTFMax; start-- {
		if !utf8.RuneStart(b[start]) {
			continue
		}
		if start+charLen(b[start:]) > limit {
			return start
		}
		break
	}
	return limit
}

// charLen is the length of the first character of b, which is not empty: a valid encoding of a rune, or a maximal
// invalid part, which Python, Rust and the Unicode standard (chapter 3.9, U+FFFD substitution of maximal subparts) read
// as one U+FFFD. utf8.DecodeRune and range count every byte of such a part.
func charLen(b []byte) int {
	if b[0] < utf8.RuneSelf {
		return 1
	}
	if r, n := utf8.DecodeRune(b); r != utf8.RuneError || n > 1 {
		return n
	}
	// The part is as long as it is the beginning of a valid encoding; table 3-7 of the standard.
	lo, hi, longest := byte(0x80), byte(0xBF), 1
	switch c := b[0]; {
	case c == 0xE0:
		lo, longest = 0xA0, 2
	case c == 0xED:
		hi, longest = 0x9F, 2
	case c >= 0xE1 && c <= 0xEF:
		longest = 2
	case c == 0xF0:
		lo, longest = 0x90, 3
	case c == 0xF4:
		hi, longest = 0x8F, 3
	case c >= 0xF1 && c <= 0xF3:
		longest = 3
	}
	n := 1
	for n < longest && n < len(b) && b[n] >= lo && b[n] <= hi {
		lo, hi = 0x80, 0xBF
		n++
	}
	return n
}

// Repair is b as a tokenizer reads it: every maximal invalid part is U+FFFD. b itself when there is none.
func Repair(b []byte) []byte {
	if utf8.Valid(b) {
		return b
	}
	out := make([]byte, 0, len(b)+16)
	for len(b) > 0 {
		n := charLen(b)
		if utf8.Valid(b[:n]) {
			out = append(out, b[:n]...)
		} else {
			out = utf8.AppendRune(out, utf8.RuneError)
		}
		b = b[n:]
	}
	return out
}

// Runes turns byte offsets of a text into character offsets, as Python counts them in
// text.decode("utf-8", errors="replace"): a character is a code point or a maximal invalid part. Offsets asked for in
// ascending order cost one pass over the text in all; going back costs a pass from the start. Not for concurrent use.
type Runes struct {
	text  []byte
	ascii int // text[:ascii] is ASCII: offsets up to it need no counting
	at    int // byte offset of a character
	count int // characters before it
}

// NewRunes makes an index of text, which must not change while the index is used.
func NewRunes(text []byte) *Runes {
	r := &Runes{text: text}
	for r.ascii < len(text) && text[r.ascii] < utf8.RuneSelf {
		r.ascii++
	}
	r.at, r.count = r.ascii, r.ascii
	return r
}

// Offset is the number of characters before byte offset i, which is clamped to the text. Within a character it is the
// number of characters that begin before i.
func (r *Runes) Offset(i int) int {
	i = min(i, len(r.text))
	if i <= r.ascii {
		return max(i, 0)
	}
	if i < r.at {
		r.at, r.count = r.ascii, r.ascii
	}
	// Stop before the character that contains i, so that its start can be asked for again; count it if it begins before
	// i.
	for r.at < i {
		n := charLen(r.text[r.at:])
		if r.at+n > i {
			return r.count + 1
		}
		r.at += n
		r.count++
	}
	return r.count
}

// Span is s, given in bytes, in characters.
func (r *Runes) Span(s Span) Span {
	return Span{r.Offset(s.Start), r.Offset(s.End)}
}
