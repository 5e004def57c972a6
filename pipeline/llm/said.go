package llm

import (
	"encoding/hex"
	"regexp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf16"

	"golang.org/x/text/unicode/norm"

	"sluice/pipeline"
	"sluice/pipeline/llm/quote"
)

// This file owns what of an endpoint's own words may stand in a log: a bounded sentence on one line, in which nothing
// is left of the key, and no word of the text but those that every refusal has. An endpoint may repeat what it was
// sent.

const (
	longestSaid = 300 // characters
	left        = "…" // stands for what is taken out
)

// secretive are the shapes of keys, whole or shortened, and of what stands where a key is named: hidden parts
// (sk-ab***yz), usual prefixes, and what follows "Bearer".
var secretive = regexp.MustCompile(`(?i)\bbearer\s+[^\s,;"'\]]+|[^\s"'` + "`" + `(\[]*\*{2,}[^\s"'` + "`" + `)\]]*|` +
	`\b(?:sk|pk|rk|gsk|hf|nvapi|xai|csk|fw|r8)[-_][A-Za-z0-9_\-]{6,}`)

// opaque is a run of characters that keys are made of.
var opaque = regexp.MustCompile(`[A-Za-z0-9+/=_.\-]{4,}`)

// said is what may be shown of a sentence of an endpoint that was sent r with the key; "" where there is nothing to
// show.
func said(sentence string, r *Request, key pipeline.Secret) string {
	if strings.HasPrefix(strings.TrimSpace(sentence), "<") { // a page of a proxy
		return ""
	}
	if len(sentence) > 8*longestSaid {
		sentence = sentence[:8*longestSaid] // the rest would not be shown; a broken character becomes U+FFFD below
	}
	sentence = strings.ToValidUTF8(unescaped(sentence), "\uFFFD")
	sentence = withoutKey(norm.NFKC.String(sentence), key.Reveal())
	sentence = quote.Plain(withoutText(sentence, r), longestSaid)
	if !strings.ContainsFunc(strings.ReplaceAll(sentence, "(link)", ""), unicode.IsLetter) {
		return ""
	}
	return sentence
}

// escaped are the ways in which a text is written within another: of JSON and JavaScript, of Python's bytes, of URLs.
var escaped = regexp.MustCompile(`(?:\\u[0-9A-Fa-f]{4})+|(?:\\x[0-9A-Fa-f]{2})+|(?:%[0-9A-Fa-f]{2})+`)

// unescaped is s with every character as itself.
func unescaped(s string) string {
	return escaped.ReplaceAllStringFunc(s, func(run string) string {
		digits := strings.NewReplacer(`\u`, "", `\x`, "", "%", "").Replace(run)
		raw, err := hex.DecodeString(digits)
		if err != nil { // the expression takes pairs of digits only
			return left
		}
		if !strings.HasPrefix(run, `\u`) {
			return string(raw)
		}
		units := make([]uint16, len(raw)/2)
		for i := range units {
			units[i] = uint16(raw[2*i])<<8 | uint16(raw[2*i+1])
		}
		return string(utf16.Decode(units))
	})
}

// withoutKey takes everything out that is the key, a part of it, or looks like one.
func withoutKey(s, key string) string {
	if key != "" {
		s = strings.ReplaceAll(s, key, left)
	}
	s = secretive.ReplaceAllString(s, left)
	return opaque.ReplaceAllStringFunc(s, func(run string) string {
		if part := strings.Trim(run, ".-_"); len(part) >= 4 && strings.Contains(key, part) ||
			slices.ContainsFunc(strings.FieldsFunc(run, func(c rune) bool { return !inWord(c) }), drawn) {
			return left
		}
		return run
	})
}

// drawn says whether a word looks like drawn at random: long, with digits among its letters. Names of models are made
// of short ones.
func drawn(word string) bool {
	digits := 0
	for _, c := range word {
		if unicode.IsDigit(c) {
			digits++
		}
	}
	return len(word) >= 16 && digits >= 2 && digits <= len(word)-2
}

// escapes are the characters of a quoted text that stand as escapes in a question (package quote).
var escapes = regexp.MustCompile(`\\u[0-9a-f]{4}|\\["\\nrt]`)

// withoutText takes out every word, and every part of one in a script without spaces, that the question's text has too.
// What the words of refusals are stays: they give nothing of a text away.
func withoutText(s string, r *Request) string {
	var text strings.Builder
	for _, m := range r.Messages {
		if m.Role != "system" { // that is the configuration's
			for _, shown := range []string{m.Content, escapes.ReplaceAllString(m.Content, " "),
				escapes.ReplaceAllString(m.Content, "")} {
				text.WriteString(fold(shown) + "\n")
			}
		}
	}
	known := map[string]bool{}
	for _, w := range words(fold(r.Model)) {
		known[w] = true
	}
	var out strings.Builder
	for len(s) > 0 {
		n := strings.IndexFunc(s, func(c rune) bool { return !inWord(c) })
		if n < 0 {
			n = len(s)
		}
		if word := fold(s[:n]); n > 0 && !known[word] && !common[word] && shared(word, text.String()) {
			out.WriteString(left)
		} else {
			out.WriteString(s[:n])
		}
		s = s[n:]
		n = strings.IndexFunc(s, inWord)
		if n < 0 {
			n = len(s)
		}
		out.WriteString(s[:n])
		s = s[n:]
	}
	return out.String()
}

// shared says whether a word, or two characters in a row of it that are of a script without spaces, is in a text. What
// has one or two Latin characters gives nothing away.
func shared(word, text string) bool {
	runes := []rune(word)
	if len(runes) >= 3 && strings.Contains(text, word) {
		return true
	}
	for i := range len(runes) - 1 {
		if unspaced(runes[i]) && unspaced(runes[i+1]) && strings.Contains(text, string(runes[i:i+2])) {
			return true
		}
	}
	return false
}

func unspaced(c rune) bool {
	return unicode.In(c, unicode.Han, unicode.Hiragana, unicode.Katakana, unicode.Hangul, unicode.Thai, unicode.Lao,
		unicode.Khmer, unicode.Myanmar)
}

func inWord(c rune) bool { return unicode.IsLetter(c) || unicode.IsDigit(c) || unicode.IsMark(c) }

func words(s string) []string { return strings.FieldsFunc(s, func(c rune) bool { return !inWord(c) }) }

func fold(s string) string { return strings.Map(unicode.ToLower, norm.NFKC.String(s)) }

// common are the words that refusals are made of.
var common = func() map[string]bool {
	m := map[string]bool{}
	for _, w := range words(`
		a about above accept accepted accepts access account additional after again all allow allowed also an and
		any api application are argument arguments array as at available azure bad balance base be because been
		before below billing body boolean but by call can cannot change chat check choice choices client code
		completion completions content context could credit credits current default deployment details did disable
		disabled do does doesn don due each enable enabled endpoint error errors exceed exceeded exceeds exist
		expected extra failed failure false field fields filter filtered following for forbidden format found free
		from function gateway get given got greater guided has have header host how http https id if in input inputs
		instead insufficient integer internal invalid is it its json key keys large length less limit limits list
		litellm longer malformed max maximum may message messages method min minimum mode model models more must
		name need needs new no not null number object of on one only openai option or organization other out output
		over page param parameter parameters params parse path payload permission permitted plan please policy post
		project prompt property provide provided provider quota range read reason received reduce refused request
		requested requests require required resource response retry role route router s schema see seed serve server
		service set should size some specified state status stop stream streaming strict string structured such
		support supported supports system t temperature text than that the there this to token tokens too tool tools
		top true try type unable undefined unexpected unknown unprocessable unrecognized unsupported up upgrade
		upstream url usage use used user uses using valid validation value values version want was we were when
		where which will with within without you your`) {
		m[w] = true
	}
	return m
}()
