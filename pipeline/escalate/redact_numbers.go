package escalate

import (
	"regexp"
	"strings"
	"unicode"

	"golang.org/x/text/unicode/norm"

	"sluice/pipeline/llm/quote"
)

// This file owns what e-mail addresses, phone numbers and long numbers look like. Patterns see the skeleton of a text,
// in which the many ways to write the same thing are one. Where a shape is doubtful it is taken: a placeholder too many
// costs the endpoint a little meaning, one too few costs somebody's privacy.

// skeleton is a text in compatibility decomposition (NFKD), in lower case, without marks, invisible and control
// characters, with ASCII digits, hyphens, dots and spaces for all their relatives.
type skeleton struct {
	text string
	at   []int // for each byte of text, the character it came from; one more for the end
}

func newSkeleton(chars []rune) *skeleton {
	var b strings.Builder
	sk := &skeleton{at: make([]int, 0, len(chars)+1)}
	add := func(r rune, from int) {
		before := b.Len()
		b.WriteRune(r)
		for range b.Len() - before {
			sk.at = append(sk.at, from)
		}
	}
	for i, char := range chars {
		if char < 0x80 {
			if r := bare(char); r >= 0 {
				add(r, i)
			}
			continue
		}
		written := string(char)
		for _, r := range norm.NFKD.String(written) {
			if r = bare(r); r >= 0 {
				add(r, i)
			}
		}
	}
	sk.text = b.String()
	sk.at = append(sk.at, len(chars))
	return sk
}

// bare is r as it stands in a skeleton, -1 if it does not.
func bare(r rune) rune {
	switch {
	case 'a' <= r && r <= 'z', '0' <= r && r <= '9':
		return r
	case r == '\n', r == '\u2028', r == '\u2029', r == '\v', r == '\f', r == '\r', r == 0x85:
		return '\n'
	case unicode.IsSpace(r):
		return ' '
	case unicode.IsControl(r), unicode.Is(unicode.M, r), quote.Invisible(r):
		return -1
	case unicode.Is(unicode.Nd, r):
		return '0' + digit(r)
	case unicode.Is(unicode.Pd, r), r == 0x2212, r == 0x2043: // minus, hyphen bullet
		return '-'
	case r == 0xB7, r == 0x2022, r == 0x2219, r == 0x3002, r == 0x30FB: // middle dot, bullets, East Asian dots
		return '.'
	}
	return unicode.ToLower(r)
}

// digit is the value of a decimal digit of any script. Unicode keeps them in runs of ten that begin with zero.
func digit(r rune) rune {
	for _, block := range unicode.Nd.R16 {
		if lo, hi := rune(block.Lo), rune(block.Hi); lo <= r && r <= hi {
			return (r - lo) % 10
		}
	}
	for _, block := range unicode.Nd.R32 {
		if lo, hi := rune(block.Lo), rune(block.Hi); lo <= r && r <= hi {
			return (r - lo) % 10
		}
	}
	return 0
}

// part is bytes [start, end) of the skeleton, in characters of the text.
func (sk *skeleton) part(start, end int, kind string) found {
	return found{sk.at[start], sk.at[end-1] + 1, kind}
}

func (sk *skeleton) matches(pattern *regexp.Regexp, kind string) []found {
	var parts []found
	for _, m := range pattern.FindAllStringIndex(sk.text, -1) {
		parts = append(parts, sk.part(m[0], m[1], kind))
	}
	return parts
}

// email takes addresses of RFC 5321 and 6531 and the usual ways to write them past a filter: "ada (at) example [dot]
// com".
var email = regexp.MustCompile(`(?:[\pL\pN.!#$%&'*+/=?^_` + "`" +
	`{|}~\-]+|"[^"\n]{1,64}")(?: ?@ ?| ?[\[({] ?(?:at|@) ?[\])}] ?)` +
	`(?:[\pL\pN\-]+(?:(?:\.| ?[\[({] ?(?:dot|\.) ?[\])}] ?)[\pL\pN\-]+)+|\[[0-9a-f.:]+\]|localhost)`)

var (
	// run is digits in groups, and what may stand before the first and between them.
	run = regexp.MustCompile(
		`(?:\+ ?)?(?:\( ?(?:\+ ?)?)?[0-9]+(?:(?: ?[\-/._] ?\(?| ?\) ?[\-/.]? ?| ?\( ?|,| {1,2})[0-9]+)*`)
	// date is what would be a run but is not: days, with or without a year, ISO 8601 or as people write them.
	date = regexp.MustCompile(`\b(?:(?:19|20)[0-9]{2}[\-/.](?:0?[1-9]|1[0-2])[\-/.](?:[12][0-9]|3[01]|0?[1-9])|` +
		`(?:[12][0-9]|3[01]|0?[1-9])[\-/.](?:[12][0-9]|3[01]|0?[1-9])[\-/.](?:19|20)[0-9]{2})(?:\b|t)`)
	// amount has thousands separated by dots or commas. Spaces and hyphens make it an account.
	amount = regexp.MustCompile(
		`^[1-9][0-9]{0,2}(?:(?:\.[0-9]{3}){1,3}(?:,[0-9]{1,2})?|(?:,[0-9]{3}){1,3}(?:\.[0-9]{1,2})?)$`)
	// country begins an IBAN (ISO 13616): country and check digits.
	country = regexp.MustCompile(`\b[a-z]{2}[0-9]{2}`)
)

// numbers finds phone numbers and long numbers.
func (sk *skeleton) numbers(phone, number bool) []found {
	var parts []found
	text := date.ReplaceAllStringFunc(sk.text, func(s string) string { return strings.Repeat("~", len(s)) })
	for _, m := range run.FindAllStringIndex(text, -1) {
		switch s := text[m[0]:m[1]]; {
		case phone && isPhone(s):
			parts = append(parts, sk.part(m[0], m[1], kindPhone))
		case number && isLongNumber(s):
			parts = append(parts, sk.part(m[0], m[1], kindNumber))
		}
	}
	if number {
		for _, m := range country.FindAllStringIndex(text, -1) {
			if end := ibanEnd(text, m[0]); end > 0 {
				parts = append(parts, sk.part(m[0], end, kindNumber))
			}
		}
	}
	return parts
}

// groupsOf are the lengths of the groups of digits of a run, and the digits without what stands between.
func groupsOf(run string) (lengths []int, digits string) {
	var all strings.Builder
	for _, group := range strings.FieldsFunc(run, func(r rune) bool { return r < '0' || r > '9' }) {
		lengths = append(lengths, len(group))
		all.WriteString(group)
	}
	return lengths, all.String()
}

// isPhone knows the international form (E.164: at most 15 digits), the trunk prefix 0, areas in parentheses, the usual
// groupings, and numbers in one piece of the lengths of mobile numbers.
func isPhone(run string) bool {
	groups, digits := groupsOf(run)
	n := len(digits)
	first := digits[0]
	switch {
	case strings.Contains(run, "+"):
		return n >= 7 && n <= 17 // with a trunk 0 in parentheses, or an extension
	case strings.HasPrefix(digits, "00"):
		return n >= 9 && n <= 17
	case strings.HasPrefix(run, "("):
		return n >= 7 && n <= 13
	case first == '0':
		return n >= 10 && n <= 13 || len(groups) > 1 && n >= 8 && n <= 13
	case len(groups) == 1:
		return n == 11 && first == '1' || n == 10 && first >= '2'
	case amount.MatchString(run) || n < 9 || n > 12 || areYears(run):
		return false
	}
	for _, length := range groups[1:] {
		if length < 2 || length > 5 {
			return false
		}
	}
	return groups[0] <= 5 && (len(groups) >= 3 || groups[0] >= 2)
}

// isLongNumber takes cards, accounts and the like: one group of eight digits or more, or nine digits and more in groups
// that are no amount, or whatever has thirteen.
func isLongNumber(run string) bool {
	groups, digits := groupsOf(run)
	if amount.MatchString(run) || areYears(run) {
		return false
	}
	longest := 0
	for _, length := range groups {
		longest = max(longest, length)
	}
	return longest >= 8 || len(digits) >= 9 && longest >= 3 || len(digits) >= 13
}

var years = regexp.MustCompile(`^(?:19|20)[0-9]{2}(?:[ ,/\-]+(?:19|20)[0-9]{2}){1,2}$`)

func areYears(run string) bool { return years.MatchString(run) }

// ibanEnd is where the IBAN ends that begins at start, 0 if there is none: the longest whose check digits are right
// (ISO 7064, mod 97). One with a slip is still taken by its digits.
func ibanEnd(text string, start int) int {
	const shortest, longest = 15, 34
	var number []byte
	end := 0
	for at := start; at < len(text) && len(number) < longest; at++ {
		c := text[at]
		switch {
		case '0' <= c && c <= '9', 'a' <= c && c <= 'z':
			number = append(number, c)
			if len(number) >= shortest && mod97(number) == 1 {
				end = at + 1
			}
		case (c == ' ' || c == '-' || c == '.') && text[at-1] != c: // one between groups
		default:
			return end
		}
	}
	return end
}

func mod97(iban []byte) int {
	rest := 0
	for i := range iban {
		c := iban[(i+4)%len(iban)]
		if c >= 'a' {
			rest = (rest*100 + int(c-'a') + 10) % 97
		} else {
			rest = (rest*10 + int(c-'0')) % 97
		}
	}
	return rest
}
