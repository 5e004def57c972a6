package tune

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestReadTexts(t *testing.T) {
	got, err := ReadTexts(strings.NewReader("{\"text\": \"fine\", \"label\": \"GOOD\", \"id\": " +
		"7}\r\n\n{\"text\":\"no\",\"label\":\"BAD\",\"llm\":\"\"}\n{\"text\":\"so\",\"label\":\"BAD\",\"llm\":null}"))
	want := []Text{{Line: 1, Text: "fine", Label: "GOOD"}, {Line: 3, Text: "no", Label: "BAD", Answered: true},
		{Line: 4, Text: "so", Label: "BAD"}}
	if d := cmp.Diff(want, got); err != nil || d != "" {
		t.Errorf("%v\n%s", err, d)
	}
	got,
		err = ReadTexts(
		strings.NewReader(
			`{"text":"Åke in Rome","entities":[{"entity_group":"LOC","start":7,"end":11,"score":1},{"entity_group":"PER","start":0,"end":3}]}` + "\n" + `{"text":"no","entities":[]}`))
	want = []Text{{Line: 1, Text: "Åke in Rome", Label: "PER 0-3, LOC 7-11", Entities: []Entity{{"LOC", 7, 11},
		{"PER", 0, 3}}}, {Line: 2, Text: "no", Entities: []Entity{}}}
	if d := cmp.Diff(want, got); err != nil || d != "" {
		t.Errorf("%v\n%s", err, d)
	}
	for name, tc := range map[string]struct{ file, says string }{
		"nothing":          {"\n\n", "there is no text in it"},
		"no object":        {"[1]\n", "line 1: is not a JSON object"},
		"cut off":          {"{\"text\":\"a\",\"label\":\"B\"}\n{\"text\":", "line 2: is not a JSON object"},
		"null":             {"null", "line 1: is not a JSON object"},
		"no label":         {`{"text":"a"}`, `line 1: has no "label"; add it as a string`},
		"no text":          {`{"label":"a"}`, `line 1: has no "text"`},
		"label is number":  {`{"text":"a","label":1}`, `line 1: "label" is 1, not a string; write it in quotes`},
		"label is null":    {`{"text":"a","label":null}`, `"label" is null`},
		"llm is an object": {`{"text":"a","label":"b","llm":{}}`, `"llm" is {}, not a string`},
		"blank text":       {`{"text":" ","label":"b"}`, `line 1: "text" is empty; remove the line`},
		"no entities":      {`{"text":"a","entities":null}`, `"entities" is null; write [{"entity_group"`},
		"an entity": {`{"text":"ab","entities":[{"entity_group":"A","start":1,"end":3}]}`,
			"line 1: entities[0] is from 1 to 3 of a text of 2 characters"},
		"no group": {`{"text":"ab","entities":[{"start":0,"end":1}]}`, `entities[0] has no "entity_group"`},
		"both kinds": {`{"text":"a","entities":[]}` + "\n" + `{"text":"a","label":"b"}`,
			`line 2: line 1 has "label" where this has "entities", or the other way round`},
		"line too long": {`{"text":"` + strings.Repeat("a", longestLine) + `"}`, "line 1: is longer than 16 MiB"},
	} {
		if _, err := ReadTexts(strings.NewReader(tc.file)); err == nil || !strings.Contains(err.Error(), tc.says) {
			t.Errorf("%s: %v, want %q", name, err, tc.says)
		}
	}
	if _, err := ReadTexts(strings.NewReader(strings.Repeat("x\n", 50))); strings.Count(err.Error(),
		"line ") != mostProblems {
		t.Errorf("not the first %d mistakes: %v", mostProblems, err)
	}
}

func TestCheckLabelsNamesTheLine(t *testing.T) {
	err := CheckLabels([]Text{{Line: 3, Label: "A"}, {Line: 9, Label: "positive"}}, []string{"A", "POSITIVE"})
	if err == nil || !strings.HasPrefix(err.Error(), `line 9: "positive" is none of the model's labels (A, POSITIVE)`) {
		t.Error(err)
	}
	err = CheckLabels([]Text{{Line: 3, Label: "PER 0-1", Entities: []Entity{{"PER", 0, 1}}},
		{Line: 4, Entities: []Entity{{"person", 0, 1}}}}, []string{"PER"})
	if err == nil ||
		err.Error() != `line 4: "person" is none of the model's labels (PER); correct it, or name another model` {
		t.Error(err)
	}
}

func TestSplitKeepsProportionsAndLosesNothing(t *testing.T) {
	var labels []string
	for i := range 1000 {
		labels = append(labels, map[bool]string{true: "RARE", false: "OFTEN"}[i%10 == 0])
	}
	choosing, held := Split(labels, 0.3, 5)
	if len(choosing) != 700 || len(held) != 300 {
		t.Errorf("%d and %d", len(choosing), len(held))
	}
	rare := 0
	for _, i := range held {
		rare += int(truth(labels[i] == "RARE"))
	}
	if rare != 30 {
		t.Errorf("%d of the rare label are held out", rare)
	}
	both := slices.Sorted(slices.Values(slices.Concat(choosing, held)))
	for i := range both {
		if both[i] != i {
			t.Fatalf("text %d is in neither part or in both", i)
		}
	}
	again, _ := Split(labels, 0.3, 5)
	other, _ := Split(labels, 0.3, 6)
	if !slices.Equal(choosing, again) || slices.Equal(choosing, other) {
		t.Error("the seed does not fix the split")
	}
	if all, none := Split(labels, 0, 5); len(all) != 1000 || len(none) != 0 {
		t.Error("a share of 0 holds something out")
	}
}
