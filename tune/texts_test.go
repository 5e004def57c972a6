package tune

import (
	"slices"
	"strings"
	"testing"
)

func TestReadTexts(t *testing.T) {
	got, err := ReadTexts(strings.NewReader("{\"text\": \"fine\", \"label\": \"GOOD\", \"id\": 7}\r\n\n{\"text\":\"no\",\"label\":\"BAD\",\"llm\":\"\"}\n{\"text\":\"so\",\"label\":\"BAD\",\"llm\":null}"))
	want := []Text{{Line: 1, Text: "fine", Label: "GOOD"}, {Line: 3, Text: "no", Label: "BAD", Answered: true}, {Line: 4, Text: "so", Label: "BAD"}}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("%+v, %v", got, err)
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
		"entities":         {`{"text":"a","entities":[]}`, "text-classification only"},
		"line too long":    {`{"text":"` + strings.Repeat("a", longestLine) + `"}`, "line 1: is longer than 16 MiB"},
	} {
		if _, err := ReadTexts(strings.NewReader(tc.file)); err == nil || !strings.Contains(err.Error(), tc.says) {
			t.Errorf("%s: %v, want %q", name, err, tc.says)
		}
	}
	if _, err := ReadTexts(strings.NewReader(strings.Repeat("x\n", 50))); strings.Count(err.Error(), "line ") != mostProblems {
		t.Errorf("not the first %d mistakes: %v", mostProblems, err)
	}
}

func TestCheckLabelsNamesTheLine(t *testing.T) {
	err := CheckLabels([]Text{{Line: 3, Label: "A"}, {Line: 9, Label: "positive"}}, []string{"A", "POSITIVE"})
	if err == nil || !strings.HasPrefix(err.Error(), `line 9: the label "positive" is none of the model's (A, POSITIVE)`) {
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
