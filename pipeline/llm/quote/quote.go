// Package quote writes strangers' words: a text where a model reads it, so that it can end nothing, begin nothing and
// hide nothing, and what a model says where people read it. Every task of package llm that asks about texts wants it.
package quote

import (
	"crypto/rand"
	"regexp"
	"unicode"
)

// This file owns which characters of a text cannot be seen, which could act, and how both are written.

// Delimiter is a word of 128 random bits that no text can know. One is made for each question, and stands on a line of
// its own before and behind the text.
func Delimiter() string { return "text-" + rand.Text() }

// LongestPlaceholder is the most bytes that a placeholder has.
const LongestPlaceholder = 48

var placeholder = regexp.MustCompile(`^\[[A-Z][A-Z0-9_-]{0,30}_[0-9]{1,10}\]`)

// Placeholder is the placeholder that s begins with, such as [PER_1], or "". Redaction puts one in place of what must
// not leave the worker; a quoted text shows it as it is.
func Placeholder(s string) string {
	return placeholder.FindString(s[:min(len(s), LongestPlaceholder)])
}

// Invisible says whether r has no picture of its own: formatting, bidirectional and tag characters, variation
// selectors, fillers, private use and what Unicode calls default ignorable. Control characters are not among them.
func Invisible(r rune) bool {
	if r < 0xA0 {
		return false
	}
	return r == 0x2800 || 0xE0000 <= r && r <= 0xE0FFF ||
		unicode.In(r, unicode.Cf, unicode.Co, unicode.Zl, unicode.Zp, unicode.Variation_Selector,
			unicode.Other_Default_Ignorable_Code_Point, unicode.Noncharacter_Code_Point)
}

// appendEscaped appends r as a JSON string may hold any character, \u and the four hexadecimal digits of each UTF-16
// unit.
func appendEscaped(b []byte, r rune) []byte {
	const hex = "0123456789abcdef"
	unit := func(u rune) { b = append(b, '\\', 'u', hex[u>>12&15], hex[u>>8&15], hex[u>>4&15], hex[u&15]) }
	if r < 0x10000 {
		unit(r)
		return b
	}
	r -= 0x10000
	unit(0xD800 + r>>10)
	unit(0xDC00 + r&0x3FF)
	return b
}

// appendDisarmed appends r, the first character of rest, escaped if a server could take it for the beginning of a
// control token ("<|im_end|>", "</s>", "[INST]") or a reader could not see it. Placeholders stay as they are.
func appendDisarmed(b []byte, r rune, rest string) []byte {
	switch {
	case r == '<', r == '>', r == '&', r == '[' && Placeholder(rest) == "", unicode.IsControl(r) && r != '\n',
		Invisible(r):
		return appendEscaped(b, r)
	}
	return append(b, string(r)...)
}

// JSON is s as a JSON string of one line in which nothing can end the string, a tag or a block, or begin a control
// token.
func JSON(s string) string {
	b := append(make([]byte, 0, len(s)+len(s)/8+2), '"')
	for i, r := range s { // bytes that are not UTF-8 come as U+FFFD
		switch r {
		case '"', '\\':
			b = append(b, '\\', byte(r))
		case '\n':
			b = append(b, `\n`...)
		case '\r':
			b = append(b, `\r`...)
		case '\t':
			b = append(b, `\t`...)
		default:
			b = appendDisarmed(b, r, s[i:])
		}
	}
	return string(append(b, '"'))
}

// Disarmed is s with everything escaped that could act or hide, and cut after limit bytes of s. Unlike JSON it leaves
// quotation marks and line breaks as they are.
func Disarmed(s string, limit int) string {
	var b []byte
	for i, r := range s {
		if i >= limit {
			return string(append(b, "…"...))
		}
		b = appendDisarmed(b, r, s[i:])
	}
	return string(b)
}
