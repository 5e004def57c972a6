package labelled

import (
	"encoding/json"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// Files that Python's json and csv have written (scripts/make_file_cases.py); the exporter's tests read the same.
func TestFilesThatTheExporterReadsToo(t *testing.T) {
	raw, err := os.ReadFile("testdata/cases.json")
	if err != nil {
		t.Fatal(err)
	}
	var cases []struct {
		Name, File, Content, Form string
		Known                     []string
		Rows                      [][3]any // line, text, label, labels or entities
		Refused                   string
	}
	if err := json.Unmarshal(raw, &cases); err != nil || len(cases) < 50 {
		t.Fatalf("%d cases, %v", len(cases), err)
	}
	for _, c := range cases {
		t.Run(c.Name, func(t *testing.T) {
			want := Wanted{Name: c.File, Known: c.Known}
			switch c.Form {
			case "entities":
				want.Form, want.Known = Entities, []string{"PER", "LOC"}
			case "labels":
				want.Form = IndependentLabels
			default:
				want.Form = OneLabel
			}
			texts, err := Read(strings.NewReader(c.Content), want)
			if c.Refused != "" {
				place, words, inLine := strings.Cut(c.Refused, ": ")
				if _, err := strconv.Atoi(place); !inLine || err != nil {
					words, inLine = c.Refused, false
				}
				place = "line " + place + ": "
				if err == nil || !strings.Contains(err.Error(), words) ||
					inLine && !strings.HasPrefix(err.Error(), place) {
					t.Errorf("%v, want %s", err, c.Refused)
				}
				for _, word := range []string{"unmarshal", "Go struct", "cannot", "strconv", "csv:", "parse error"} {
					if err != nil && strings.Contains(err.Error(), word) {
						t.Errorf("says %q: %v", word, err)
					}
				}
				return
			}
			got := [][3]any{}
			for _, x := range texts {
				var what any = x.Label
				if x.Labels != nil {
					what = anyOf(x.Labels)
				}
				if x.Entities != nil {
					spans := []any{}
					for _, e := range x.Entities {
						spans = append(spans, []any{e.Group, float64(e.Start), float64(e.End)})
					}
					what = spans
				}
				got = append(got, [3]any{float64(x.Line), x.Text, what})
			}
			if c.Form == "entities" {
				for _, row := range got { // a file may have them in any order
					spans := row[2].([]any)
					if len(spans) == 2 && spans[0].([]any)[1].(float64) > spans[1].([]any)[1].(float64) {
						spans[0], spans[1] = spans[1], spans[0]
					}
				}
			}
			if d := cmp.Diff(c.Rows, got); err != nil || d != "" {
				t.Errorf("%v\n%s", err, d)
			}
		})
	}
}

func anyOf(words []string) []any {
	all := []any{}
	for _, w := range words {
		all = append(all, w)
	}
	return all
}

func TestLabelsAreResolvedWhenTheModelIsKnown(t *testing.T) {
	texts, err := Read(strings.NewReader("label,text,llm\n1,fine,0\nPOSITIVE,good,\n0.0,bad,a poem\n"),
		Wanted{Name: "dev.csv"})
	if err != nil {
		t.Fatal(err)
	}
	before := texts[0]
	got, err := Resolve(texts, []string{"NEGATIVE", "POSITIVE"}, nil)
	want := []Text{{Line: 2, Text: "fine", Label: "POSITIVE", LLM: "NEGATIVE", Answered: true},
		{Line: 3, Text: "good", Label: "POSITIVE"}, {Line: 4, Text: "bad", Label: "NEGATIVE", LLM: "a poem",
			Answered: true}}
	if d := cmp.Diff(want, got); err != nil || d != "" {
		t.Errorf("%v\n%s", err, d)
	}
	if d := cmp.Diff(before, texts[0]); d != "" {
		t.Errorf("what was read has changed: %s", d)
	}
	if _, err := Resolve(texts, []string{"NEGATIVE"}, nil); err == nil ||
		!strings.HasPrefix(err.Error(), `line 2: "1" is none of the model's labels (NEGATIVE)`) {
		t.Error(err)
	}
}
