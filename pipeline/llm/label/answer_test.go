package label

import (
	"errors"
	"math"
	"slices"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"sluice/pipeline/llm/quote"
)

func newTask(t testing.TB, explain bool) *Task {
	t.Helper()
	p, err := New(Options{Labels: []string{"NEGATIVE", "POSITIVE"},
		Aliases: map[string]string{"bad": "NEGATIVE", "Très Bien": "POSITIVE"}, Explain: explain})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestAnswersThatAreTaken(t *testing.T) {
	p := newTask(t, true)
	scored := func(label string, score float64, explanation string) Answer {
		return Answer{label, score, true, explanation}
	}
	for _, c := range []struct {
		name, content string
		want          Answer
	}{
		{"the object", `{"label":"POSITIVE","confidence":0.9}`, scored("POSITIVE", 0.9, "")},
		{"in another order", `{"confidence":1,"label":"NEGATIVE"}`, scored("NEGATIVE", 1, "")},
		{"with an explanation", `{"label":"POSITIVE","confidence":0,"explanation":"They like it."}`, scored("POSITIVE",
			0, "They like it.")},
		{"any case and space in the label", `{"label":" positive\n","confidence":5e-1}`, scored("POSITIVE", 0.5, "")},
		{"an alias", `{"label":"BAD","confidence":0.5}`, scored("NEGATIVE", 0.5, "")},
		{"an alias outside ASCII", `{"label":"TRÈS BIEN","confidence":0.5}`, scored("POSITIVE", 0.5, "")},
		{"escapes", `{"l\u0061bel":"\u0050OSITIVE","confidence":0.5}`, scored("POSITIVE", 0.5, "")},
		{"half of a character", `{"label":"POSITIVE","confidence":1,"explanation":"\ud83d\u0041da \ud83d\ud83d\ude00."}`,
			scored("POSITIVE", 1, "\ufffdAda \ufffd😀.")},
		{"minus zero", `{"label":"POSITIVE","confidence":-0}`, scored("POSITIVE", 0, "")},
		{"white space around", "\n\t {\"label\":\"POSITIVE\",\"confidence\":0.5}\r\n ", scored("POSITIVE", 0.5, "")},
		{"a fence", "```\n{\"label\":\"POSITIVE\",\"confidence\":0.5}\n```", scored("POSITIVE", 0.5, "")},
		{"a fence with a language", "```JSON\r\n{\"label\":\"POSITIVE\",\"confidence\":0.5}\r\n```\n",
			scored("POSITIVE", 0.5, "")},
		{"a fence on one line", "```{\"label\":\"POSITIVE\",\"confidence\":0.5}```", scored("POSITIVE", 0.5, "")},
		{"reasoning", "<think>\nIs it {\"label\":\"NEGATIVE\"}? " +
			"No.\n</think>\n\n{\"label\":\"POSITIVE\",\"confidence\":0.5}", scored("POSITIVE", 0.5, "")},
		{"empty reasoning before a fence", "<think></think>```json\n{\"label\":\"POSITIVE\",\"confidence\":0.5}\n```",
			scored("POSITIVE", 0.5, "")},
		{"a bare label", "NEGATIVE", Answer{Label: "NEGATIVE"}},
		{"a bare alias", " très bien\n", Answer{Label: "POSITIVE"}},
		{"reasoning before a bare label", "<think>hm</think> positive", Answer{Label: "POSITIVE"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := p.Parse(c.content)
			if err != nil || got != c.want || math.Signbit(got.Score) {
				t.Errorf("%+v, %v; want %+v", got, err, c.want)
			}
		})
	}
}

func TestAnswersThatAreRefused(t *testing.T) {
	good := `{"label":"POSITIVE","confidence":0.5}`
	for _, c := range []struct{ name, content, reason string }{
		{"nothing", "", AnswerEmpty},
		{"white space", " \n\t", AnswerEmpty},
		{"an empty fence", "```\n```", AnswerEmpty},
		{"reasoning only", "<think>POSITIVE</think>", AnswerEmpty},
		{"endless reasoning", "<think>" + good, AnswerReasoning},
		{"reasoning that ends twice", "<think>a</think>b</think>" + good, AnswerProse},
		{"reasoning behind", good + "<think>a</think>", AnswerTrailing},
		{"an open fence", "```json\n" + good, AnswerFence},
		{"a fence alone", "```", AnswerFence},
		{"two fences", "```\n" + good + "\n```\n```\n" + good + "\n```", AnswerTrailing},
		{"prose", "I think it is POSITIVE.", AnswerProse},
		{"prose before", "Here you are: " + good, AnswerProse},
		{"prose behind", good + " Have a nice day!", AnswerTrailing},
		{"two objects", good + good, AnswerTrailing},
		{"an array", "[" + good + "]", AnswerProse},
		{"a JSON string", `"POSITIVE"`, AnswerProse},
		{"null", "null", AnswerProse},
		{"a number", "1", AnswerProse},
		{"a bare label with a full stop", "POSITIVE.", AnswerProse},
		{"two bare labels", "POSITIVE NEGATIVE", AnswerProse},
		{"a label in full width", "\uff30OSITIVE", AnswerProse},
		{"a label with a zero-width space", "POSI\u200bTIVE", AnswerProse},
		{"a label with a Cyrillic letter", `{"label":"РOSITIVE","confidence":0.5}`, AnswerUnknownLabel},
		{"another label", `{"label":"NEUTRAL","confidence":0.5}`, AnswerUnknownLabel},
		{"an empty label", `{"label":"","confidence":0.5}`, AnswerUnknownLabel},
		{"a label that is a list", `{"label":["POSITIVE"],"confidence":0.5}`, AnswerWrongType},
		{"a label that is null", `{"label":null,"confidence":0.5}`, AnswerWrongType},
		{"no label", `{"confidence":0.5}`, AnswerMissingField},
		{"no confidence", `{"label":"POSITIVE"}`, AnswerMissingField},
		{"an empty object", `{}`, AnswerMissingField},
		{"a confidence in a string", `{"label":"POSITIVE","confidence":"0.5"}`, AnswerWrongType},
		{"a confidence that is true", `{"label":"POSITIVE","confidence":true}`, AnswerWrongType},
		{"a confidence in per cent", `{"label":"POSITIVE","confidence":95}`, AnswerOutOfRange},
		{"a negative confidence", `{"label":"POSITIVE","confidence":-0.1}`, AnswerOutOfRange},
		{"a confidence beyond all numbers", `{"label":"POSITIVE","confidence":1e999}`, AnswerOutOfRange},
		{"a confidence that is NaN", `{"label":"POSITIVE","confidence":NaN}`, AnswerInvalidJSON},
		{"a confidence in hexadecimal", `{"label":"POSITIVE","confidence":0x1p-1}`, AnswerInvalidJSON},
		{"an explanation that is an object", `{"label":"POSITIVE","confidence":0.5,"explanation":{}}`, AnswerWrongType},
		{"another field", `{"label":"POSITIVE","confidence":0.5,"topic":"alerts"}`, AnswerUnknownField},
		{"another field that nests", `{"a":{"a":{"a":1}},"label":"POSITIVE","confidence":0.5}`, AnswerUnknownField},
		{"a field in other case", `{"Label":"POSITIVE","confidence":0.5}`, AnswerUnknownField},
		{"an empty field name", `{"":1,"label":"POSITIVE","confidence":0.5}`, AnswerUnknownField},
		{"a field twice", `{"label":"NEGATIVE","confidence":0.5,"label":"POSITIVE"}`, AnswerDuplicateField},
		{"a field twice, once escaped", `{"label":"NEGATIVE","confidence":0.5,"l\u0061bel":"POSITIVE"}`,
			AnswerDuplicateField},
		{"an object cut short", `{"label":"POSITIVE","confidence":0.`, AnswerInvalidJSON},
		{"an object without its end", `{"label":"POSITIVE","confidence":0.5`, AnswerInvalidJSON},
		{"single quotes", `{'label':'POSITIVE','confidence':0.5}`, AnswerInvalidJSON},
		{"a comma too many", `{"label":"POSITIVE","confidence":0.5,}`, AnswerInvalidJSON},
		{"a comment", `{"label":"POSITIVE",/* sure */"confidence":0.5}`, AnswerInvalidJSON},
		{"a byte order mark", "\ufeff" + good, AnswerProse},
		{"bytes that are no text", "{\"label\":\"POSITIVE\",\"confidence\":0.5,\"explanation\":\"\xff\"}",
			AnswerNotUTF8},
		{"a huge answer", strings.Repeat(" ", maxAnswer) + good, AnswerTooLong},
		{"deep nesting", strings.Repeat(`{"label":`, 20000), AnswerWrongType},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := newTask(t, true).Parse(c.content)
			var e *AnswerError
			if !errors.As(err, &e) || e.Reason != c.reason || got != (Answer{}) {
				t.Fatalf("%+v, %v; want %s", got, err, c.reason)
			}
			if !slices.Contains(AnswerReasons, e.Reason) || complaints[e.Reason] == "" {
				t.Errorf("reason %q is not of the list", e.Reason)
			}
		})
	}
	t.Run("an explanation that was not asked for", func(t *testing.T) {
		_, err := newTask(t, false).Parse(`{"label":"POSITIVE","confidence":0.5,"explanation":""}`)
		var e *AnswerError
		if !errors.As(err, &e) || e.Reason != AnswerUnknownField {
			t.Fatal(err)
		}
	})
}

func TestErrorsDoNotQuoteAnswers(t *testing.T) {
	p := newTask(t, true)
	for _, content := range []string{"canary", `{"canary":1}`, `{"label":"canary","confidence":1}`, `{canary`,
		`{"label":"POSITIVE","confidence":0.5}canary`, `{"label":canary`} {
		_, err := p.Parse(content)
		if err == nil || strings.Contains(err.Error(), "canary") {
			t.Errorf("%s: %v", content, err)
		}
	}
}

func TestExplanationsArePlain(t *testing.T) {
	p := newTask(t, true)
	for _, c := range []struct{ said, want string }{
		{`It is\u0000 good.\n\tVery\u2028 good. `, "It is good. Very good."},
		{`a\u202eb\u200bc\u2066d\ufe0fe\udb40\udc41f`, "abcdef"},
		{`see https://evil.example/a?b=c now`, "see (link) now"},
		{`see HTTPS://evil.example`, "see (link)"},
		{`see evil.example/x and 10.0.0.1:80/y and www.evil.example`, "see (link) and (link) and (link)"},
		{`see ht\u200btps://evil.example and ev\u0060il.example`, "see (link) and (link)"},
		{`see 例え。テスト and javascript:alert(1)`, "see (link) and (link)"},
		{`![x](https://evil.example/p.png)`, "![x] ((link)"},
		{`[x](/admin) <img src=x> <b>`, "[x] (/admin) img src=x b"},
		{`They liked it, e.g. the price: 9.99 for 1.5 kg.`, "They liked it, e.g. the price: 9.99 for 1.5 kg."},
		{`[PER_1] is happy`, "[PER_1] is happy"},
		{`\u0301\u0301`, ""},
	} {
		a, err := p.Parse(`{"label":"POSITIVE","confidence":0.5,"explanation":"` + c.said + `"}`)
		if err != nil || a.Explanation != c.want {
			t.Errorf("%s became %q, %v; want %q", c.said, a.Explanation, err, c.want)
		}
	}
	long, err := p.Parse(`{"label":"POSITIVE","confidence":0.5,"explanation":"` + strings.Repeat("日本 ", 5000) + `"}`)
	if err != nil || utf8.RuneCountInString(long.Explanation) > maxExplanation || !strings.HasSuffix(long.Explanation,
		"…") {
		t.Errorf("%d characters, %v", utf8.RuneCountInString(long.Explanation), err)
	}
}

// FuzzParse: whatever an endpoint says, out comes a label of the set or an error of the list.
func FuzzParse(f *testing.F) {
	for _, s := range []string{"", "POSITIVE",
		`{"label":"POSITIVE","confidence":0.5,"explanation":"see http://x.example \u202e"}`,
		"<think>x</think>```json\n{\"label\":\"bad\",\"confidence\":1e-9}\n```",
		`{"label":"POSITIVE","confidence":0.5}{}`, `{"label":"POSITIVE","label":"NEGATIVE"}`,
		`{"label":"\ud800","confidence":0.5}`, "{\"label\":\"\xff\"", `{"confidence":1e400}`, strings.Repeat("[",
			1000)} {
		f.Add(s)
	}
	prompts := []*Task{newTask(f, false), newTask(f, true)}
	f.Fuzz(func(t *testing.T, content string) {
		for _, p := range prompts {
			a, err := p.Parse(content)
			if err != nil {
				var e *AnswerError
				if !errors.As(err, &e) || !slices.Contains(AnswerReasons, e.Reason) || a != (Answer{}) {
					t.Fatalf("%q: %+v, %v", content, a, err)
				}
				continue
			}
			if !slices.Contains(p.labels, a.Label) || !(a.Score >= 0 && a.Score <= 1) || !a.Scored && a.Score != 0 {
				t.Fatalf("%q: %+v", content, a)
			}
			if !p.explain && a.Explanation != "" || utf8.RuneCountInString(a.Explanation) > maxExplanation ||
				strings.Contains(a.Explanation, "://") {
				t.Fatalf("%q: explanation %q", content, a.Explanation)
			}
			for _, r := range a.Explanation {
				if unicode.IsControl(r) || quote.Invisible(r) {
					t.Fatalf("%q: explanation %q holds %U", content, a.Explanation, r)
				}
			}
		}
	})
}
