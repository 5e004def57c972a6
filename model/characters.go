package model

import (
	"unicode/utf8"
)

// characters counts a text as Python counts it after decode("utf-8", "replace"): in code points, each maximal invalid part
// being one U+FFFD. Tokenizers speak of bytes, verdicts of characters.
type characters struct {
	text  []byte
	at    []int32 // character of each byte, and at the end their number; nil for ASCII, where both are the same
	start []int32 // first byte of each character, and at the end len(text)
}

func newCharacters(text []byte) *characters {
	c := &characters{text: text}
	ascii := true
	for _, b := range text {
		if b >= utf8.RuneSelf {
			ascii = false
			break
		}
	}
	if ascii {
		return c
	}
	c.at = make([]int32, len(text)+1)
	c.start = make([]int32, 0, len(text)+1)
	for i := 0; i < len(text); {
		n := characterLen(text[i:])
		for k := i; k < i+n; k++ {
			c.at[k] = int32(len(c.start))
		}
		c.start = append(c.start, int32(i))
		i += n
	}
	c.at[len(text)] = int32(len(c.start))
	c.start = append(c.start, int32(len(text)))
	return c
}

// index is the character that byte i belongs to. For the end of the text it is the number of characters.
func (c *characters) index(i int) int {
	if c.at == nil {
		return i
	}
	return int(c.at[i])
}

// slice is text[from:to] in characters, cut at the text's end as in Python, invalid parts replaced.
func (c *characters) slice(from, to int) string {
	if c.at == nil {
		return string(c.text[min(from, len(c.text)):min(to, len(c.text))])
	}
	last := len(c.start) - 1
	part := c.text[c.start[min(from, last)]:c.start[min(to, last)]]
	if utf8.Valid(part) {
		return string(part)
	}
	var repaired []byte
	for len(part) > 0 {
		n := characterLen(part)
		if utf8.Valid(part[:n]) {
			repaired = append(repaired, part[:n]...)
		} else {
			repaired = utf8.AppendRune(repaired, utf8.RuneError)
		}
		part = part[n:]
	}
	return string(repaired)
}

// characterLen is the number of bytes of the first character of s, or of the maximal invalid part that one U+FFFD
// replaces: the longest beginning of a valid sequence (Unicode 15, section 3.9, table 3-7).
func characterLen(s []byte) int {
	if r, n := utf8.DecodeRune(s); r != utf8.RuneError || n > 1 {
		return n
	}
	low, high, most := byte(0x80), byte(0xBF), 1
	switch c := s[0]; {
	case c == 0xE0:
		low, most = 0xA0, 2
	case c == 0xED:
		high, most = 0x9F, 2
	case c >= 0xE1 && c <= 0xEF:
		most = 2
	case c == 0xF0:
		low, most = 0x90, 3
	case c == 0xF4:
		high, most = 0x8F, 3
	case c >= 0xF1 && c <= 0xF3:
		most = 3
	}
	n := 1
	for ; n < most && n < len(s) && s[n] >= low && s[n] <= high; n++ {
		low, high = 0x80, 0xBF
	}
	return n
}
