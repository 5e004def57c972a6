package tokenize

import "unicode/utf8"

// Text is a text as it goes to a tokenizer.
type Text struct {
	Bytes    []byte
	Repaired bool // holds bytes that are no UTF-8: they read as U+FFFD
	Cut      bool // was longer than the limit
}

// Clean checks a text and cuts it to at most maxBytes bytes (0: no limit), at the boundary of a character.
func Clean(b []byte, maxBytes int) Text {
	t := Text{Bytes: b}
	if maxBytes > 0 && len(b) > maxBytes {
		end := maxBytes
		for end > 0 && end > maxBytes-utf8.UTFMax && !utf8.RuneStart(b[end]) {
			end--
		}
		t.Bytes, t.Cut = b[:end], true
	}
	t.Repaired = !utf8.Valid(t.Bytes)
	return t
}
