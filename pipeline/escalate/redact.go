package escalate

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"sluice/pipeline/llm/quote"
	"sluice/tokenize"
)

// This file owns what of a text stays in the worker: which parts are replaced by placeholders before an endpoint sees
// them, and how they come back. What a phone number or an account looks like is in redact_numbers.go.

// Span is a part of a text that a model found, in characters (code points, or maximal invalid parts, as tokenize.Runes
// counts them).
type Span struct {
	Group      string // entity group, e.g. PER
	Start, End int    // [Start, End)
}

// Kinds that are found by their pattern. All others are entity groups.
const (
	kindEmail  = "email"
	kindPhone  = "phone"
	kindNumber = "number"
)

// Redactor replaces what is personal in texts. It never changes and may be used concurrently.
type Redactor struct {
	email, phone, number bool
	groups               []string
}

var groupName = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_-]{0,30}$`)

// NewRedactor takes "email", "phone", "number" and the entity groups of a model. Without kinds nothing is replaced. The
// error names all kinds that are wrong.
func NewRedactor(kinds []string) (*Redactor, error) {
	r := &Redactor{}
	var errs []error
	for i, kind := range kinds {
		switch {
		case slices.Contains(kinds[:i], kind):
			errs = append(errs, fmt.Errorf("escalate: redact: %q stands twice; name each kind once", kind))
		case kind == kindEmail:
			r.email = true
		case kind == kindPhone:
			r.phone = true
		case kind == kindNumber:
			r.number = true
		case strings.EqualFold(kind, kindEmail), strings.EqualFold(kind, kindPhone), strings.EqualFold(kind,
			kindNumber):
			errs = append(errs, fmt.Errorf("escalate: redact: %q: write %q; other spellings would be an entity group",
				kind, strings.ToLower(kind)))
		case !groupName.MatchString(kind):
			errs = append(errs, fmt.Errorf("escalate: redact: %q is neither email, phone or number nor an entity "+
				"group such as PER", kind))
		default:
			r.groups = append(r.groups, kind)
		}
	}
	if errs != nil {
		return nil, errors.Join(errs...)
	}
	return r, nil
}

// Groups are the entity groups whose spans Redact must be given.
func (r *Redactor) Groups() []string { return slices.Clone(r.groups) }

// found is a part of the text to be replaced, in characters.
type found struct {
	start, end int
	kind       string
}

// Redact replaces e-mail addresses, phone numbers, long numbers and the spans of the redactor's groups by placeholders
// such as [PER_1]: equal values by the same one, never one that the text itself holds. What was found once is replaced
// wherever else it stands as words of its own (see skeleton.repeats). Overlapping parts are replaced as one. The text
// comes out valid UTF-8; back is never nil.
//
// Numbers and addresses are found as a reader would put them together: digits of any script, full width, with invisible
// characters or combining marks in between. Numbers spelled in words are not found, nor is anything that the model
// overlooked.
func (r *Redactor) Redact(text string, spans []Span) (redacted string, back *Restorer) {
	back = &Restorer{}
	text = string(tokenize.Repair([]byte(text)))
	if !r.email && !r.phone && !r.number && len(r.groups) == 0 {
		return text, back
	}
	chars := []rune(text)
	sk := newSkeleton(chars)
	var parts []found
	for _, s := range spans {
		if slices.Contains(r.groups, s.Group) {
			if start, end := wholeWords(chars, s.Start, s.End); start < end {
				parts = append(parts, found{start, end, s.Group})
			}
		}
	}
	if r.email {
		parts = append(parts, sk.matches(email, kindEmail)...)
	}
	if r.phone || r.number {
		parts = append(parts, sk.numbers(r.phone, r.number)...)
	}
	wholeCharacters(chars, parts)
	more := sk.repeats(chars, parts)
	wholeCharacters(chars, more)
	parts = merge(append(parts, more...))

	taken := make(map[string]bool) // placeholders that stand in the text already
	for at := range chars {
		if chars[at] == '[' {
			if p := quote.Placeholder(string(chars[at:min(len(chars), at+quote.LongestPlaceholder)])); p != "" {
				taken[p] = true
			}
		}
	}
	type written struct{ kind, text string }
	made, last := make(map[written]string), make(map[string]int)
	var out strings.Builder
	at := 0
	for _, part := range parts {
		out.WriteString(string(chars[at:part.start]))
		v := written{strings.ToUpper(part.kind), string(chars[part.start:part.end])}
		placeholder, ok := made[v]
		for !ok {
			last[v.kind]++
			placeholder = "[" + v.kind + "_" + strconv.Itoa(last[v.kind]) + "]"
			ok = !taken[placeholder]
		}
		if made[v] == "" {
			made[v] = placeholder
			back.pairs = append(back.pairs, placeholder, v.text)
		}
		out.WriteString(placeholder)
		at = part.end
	}
	out.WriteString(string(chars[at:]))
	return out.String(), back
}

// Restorer knows the placeholders of one text.
type Restorer struct{ pairs []string }

// maxRestored is how many bytes Restore adds at most: an endpoint may repeat a placeholder as often as it likes.
const maxRestored = 64 << 10

// Restore puts back the values of the placeholders that Redact made, each exactly as it was written, and leaves all
// others alone. It adds at most 64 KiB; placeholders beyond that stay, and so do those whose value an explanation must
// not hold: links, and control and invisible characters, which a model took for a part of a name.
func (b *Restorer) Restore(s string) string {
	return b.replace(s, func(placeholder, value string) bool {
		if strings.HasPrefix(placeholder, "["+strings.ToUpper(kindEmail)+"_") {
			return value == visibleOnly(value)
		}
		return value == visibleOnly(value) && !quote.HasLink(value)
	})
}

// visibleOnly is s without control and invisible characters.
func visibleOnly(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || quote.Invisible(r) {
			return -1
		}
		return r
	}, s)
}

// replace puts back the values that fit.
func (b *Restorer) replace(s string, fits func(placeholder, value string) bool) string {
	values := make(map[string]string, len(b.pairs)/2)
	for i := 0; i < len(b.pairs); i += 2 {
		values[b.pairs[i]] = b.pairs[i+1]
	}
	var out strings.Builder
	added := 0
	for len(s) > 0 {
		at := strings.IndexByte(s, '[')
		if at < 0 {
			break
		}
		out.WriteString(s[:at])
		s = s[at:]
		p := quote.Placeholder(s)
		value, ok := values[p]
		if !ok || added+len(value) > maxRestored || !fits(p, value) {
			out.WriteByte('[')
			s = s[1:]
			continue
		}
		out.WriteString(value)
		added += len(value)
		s = s[len(p):]
	}
	out.WriteString(s)
	return out.String()
}

// wholeWords widens [start, end) to whole words, because a model that splits words may mark a part of a name only, and
// narrows it to what is not white space. It is clamped to the text. Words are taken to have at most 200 characters on
// either side.
func wholeWords(chars []rune, start, end int) (int, int) {
	start, end = max(start, 0), min(end, len(chars))
	for start < end && unicode.IsSpace(chars[start]) {
		start++
	}
	for end > start && unicode.IsSpace(chars[end-1]) {
		end--
	}
	if start >= end {
		return 0, 0
	}
	const longest = 200
	for least := max(0, start-longest); start > least && joined(chars[start-1], chars[start]); {
		start--
	}
	for most := min(len(chars), end+longest); end < most && joined(chars[end-1], chars[end]); {
		end++
	}
	return start, end
}

// wholeCharacters widens parts by the marks and invisible characters that hang on their last character, up to 64.
func wholeCharacters(chars []rune, parts []found) {
	for i := range parts {
		end := parts[i].end
		for most := min(len(chars), end+64); end < most && (unicode.Is(unicode.M, chars[end]) ||
			quote.Invisible(chars[end])); {
			end++
		}
		parts[i].end = end
	}
}

// joined says whether two neighbours belong to one word: both letters or digits, of scripts that put spaces between
// words.
func joined(a, b rune) bool { return inWord(a) && inWord(b) }

func inWord(r rune) bool {
	if unicode.Is(unicode.M, r) || quote.Invisible(r) && !unicode.Is(unicode.Zl, r) && !unicode.Is(unicode.Zp, r) {
		return true
	}
	return (unicode.IsLetter(r) || unicode.IsDigit(r)) && !unicode.In(r, unicode.Han, unicode.Hiragana,
		unicode.Katakana, unicode.Hangul,
		unicode.Thai, unicode.Lao, unicode.Khmer, unicode.Myanmar)
}

// merge sorts the parts and makes one of those that overlap: it covers both, and is of the kind of the longest.
func merge(parts []found) []found {
	slices.SortStableFunc(parts, func(a, b found) int {
		if a.start != b.start {
			return a.start - b.start
		}
		return b.end - a.end
	})
	var merged []found
	longest := 0 // of the parts in the last one
	for _, part := range parts {
		n := len(merged)
		if n == 0 || part.start >= merged[n-1].end {
			merged = append(merged, part)
			longest = part.end - part.start
			continue
		}
		if size := part.end - part.start; size > longest {
			merged[n-1].kind, longest = part.kind, size
		}
		merged[n-1].end = max(merged[n-1].end, part.end)
	}
	return merged
}
