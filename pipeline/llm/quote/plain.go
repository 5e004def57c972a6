package quote

import (
	"regexp"
	"strings"
	"unicode"
)

// This file owns how what a model said is written where people read it.

// links are what a reader's program might make a link of: schemes, www, and host names with or without a path. Dots of
// East Asian scripts count as dots in host names (UTS 46).
var links = regexp.MustCompile(
	`(?i)[\p{L}\p{N}+.\-]*://\S*|\b(?:mailto|javascript|vbscript|data|file|tel|sms|urn|blob):\S+|` +
		`[\p{L}\p{N}\-_]+(?:[.\x{3002}\x{FF0E}\x{FF61}][\p{L}\p{N}\-_]+)*[.\x{3002}\x{FF0E}\x{FF61}]\p{L}{2,}(?:[:/?#]\S*)?|\d{1,3}(?:\.\d{1,3}){3}(?:[:/]\S*)?`)

// HasLink says whether s holds what a reader's program might make a link of.
func HasLink(s string) bool { return links.MatchString(s) }

// Plain is s as it can be shown anywhere: one line of at most limit characters, no invisible and no control characters,
// no links, no markup.
func Plain(s string, limit int) string {
	var b strings.Builder
	count := 0
	for _, r := range s {
		switch {
		case Invisible(r) && r != '\u2028' && r != '\u2029', r == '<', r == '>', r == '`', unicode.Is(unicode.M,
			r) &&
			count == 0:
			continue
		case unicode.IsSpace(r), unicode.IsControl(r), r == '\u2028', r == '\u2029':
			r = ' '
		}
		b.WriteRune(r)
		if count++; count > 4*limit { // enough to know that it is too long, links included
			break
		}
	}
	s = links.ReplaceAllString(b.String(), "(link)")
	s = strings.ReplaceAll(s, "](", "] (")
	s = strings.Join(strings.Fields(s), " ")
	if runes := []rune(s); len(runes) > limit {
		s = strings.TrimSpace(string(runes[:limit-1])) + "…"
	}
	return s
}
