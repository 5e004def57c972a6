package labelled

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestRead(t *testing.T) {
	got, err := Read(strings.NewReader("{\"text\": \"fine\", \"label\": \"GOOD\", \"id\": "+
		"7}\r\n\n{\"text\":\"no\",\"label\":\"BAD\",\"llm\":\"\"}\n{\"text\":\"so\",\"label\":\"BAD\",\"llm\":null}"),
		Wanted{})
	want := []Text{{Line: 1, Text: "fine", Label: "GOOD"}, {Line: 3, Text: "no", Label: "BAD", Answered: true},
		{Line: 4, Text: "so", Label: "BAD"}}
	if d := cmp.Diff(want, got); err != nil || d != "" {
		t.Errorf("%v\n%s", err, d)
	}
	got, err = Read(strings.NewReader(`{"text":"Åke in Rome","entities":[{"entity_group":"LOC","start":7,"end":11,`+
		`"score":1},{"entity_group":"PER","start":0,"end":3}]}`+"\n"+`{"text":"no","entities":[]}`), Wanted{})
	want = []Text{{Line: 1, Text: "Åke in Rome", Label: "PER 0-3, LOC 7-11", Entities: []Entity{{"LOC", 7, 11},
		{"PER", 0, 3}}}, {Line: 2, Text: "no", Entities: []Entity{}}}
	if d := cmp.Diff(want, got); err != nil || d != "" {
		t.Errorf("%v\n%s", err, d)
	}
	for name, tc := range map[string]struct{ file, says string }{
		"nothing": {"\n\n", "there is no text in it"},
		"a list": {"[1]\n", "line 1: is a list; write each object on a line of its own, as jq -c '.[]' " +
			"FILE does"},
		"no object": {"1\n", "line 1: is not a JSON object"},
		"cut off":   {"{\"text\":\"a\",\"label\":\"B\"}\n{\"text\":", "line 2: is not a JSON object"},
		"null":      {"null", "line 1: is not a JSON object"},
		"no label": {`{"text":"a"}`,
			`line 1: has no "label" (it has: text); write {"text": "…", "label": "…"}`},
		"no text":          {`{"label":"a"}`, `line 1: has no "text"`},
		"text is a number": {`{"text":1,"label":"a"}`, `line 1: "text" is 1, not a string; write it in quotes`},
		"label is null":    {`{"text":"a","label":null}`, `"label" is null; write a label's name, or its number`},
		"label is a list":  {`{"text":"a","label":["b"]}`, `"label" is ["b"]; write a label's name, or its number`},
		"llm is an object": {`{"text":"a","label":"b","llm":{}}`, `"llm" is {}; write a label's name, or its number`},
		"blank text":       {`{"text":" ","label":"b"}`, `line 1: its text is empty; remove the line`},
		"other members": {`{"body":"a","stars":5}`,
			`line 1: has no "text" (it has: body, stars); write {"text": "…", "label": "…"}`},
		"no entities": {`{"text":"a","entities":null}`, `"entities" is null; write [{"entity_group"`},
		"an entity": {`{"text":"ab","entities":[{"entity_group":"A","start":1,"end":3}]}`,
			"line 1: entities[0] is from 1 to 3 of a text of 2 characters"},
		"no end": {`{"text":"ab","entities":[{"entity_group":"A","start":1}]}`,
			`entities[0] has no "start" or no "end"`},
		"no group": {`{"text":"ab","entities":[{"start":0,"end":1}]}`, `entities[0] has no "entity_group"`},
		"both kinds": {`{"text":"a","entities":[]}` + "\n" + `{"text":"a","label":"b"}`,
			`line 2: line 1 has "label" where this has "entities", or the other way round`},
		"line too long": {`{"text":"` + strings.Repeat("a", longestLine) + `"}`, "line 1: is longer than 16 MiB"},
	} {
		if _, err := Read(strings.NewReader(tc.file), Wanted{}); err == nil || !strings.Contains(err.Error(), tc.says) {
			t.Errorf("%s: %v, want %q", name, err, tc.says)
		}
	}
	if _, err := Read(strings.NewReader(strings.Repeat("x\n", 50)), Wanted{}); strings.Count(err.Error(),
		"line ") != mostProblems {
		t.Errorf("not the first %d mistakes: %v", mostProblems, err)
	}
}

func TestResolveNamesTheLine(t *testing.T) {
	_, err := Resolve([]Text{{Line: 3, Label: "A"}, {Line: 9, Label: "good"}}, []string{"A", "POSITIVE"}, nil)
	if err == nil || !strings.HasPrefix(err.Error(), `line 9: "good" is none of the model's labels (A, POSITIVE)`) {
		t.Error(err)
	}
	_, err = Resolve([]Text{{Line: 3, Label: "PER 0-1", Entities: []Entity{{"PER", 0, 1}}},
		{Line: 4, Entities: []Entity{{"person", 0, 1}}}}, []string{"PER"}, nil)
	if err == nil ||
		err.Error() != `line 4: "person" is none of the model's labels (PER); correct it, or name another model` {
		t.Error(err)
	}
}

func TestReadForAModel(t *testing.T) {
	near := func(name string, known []string) string { return "; did you mean " + known[0] + "?" }
	one := Wanted{Form: OneLabel, Known: []string{"NEGATIVE", "POSITIVE"}, Suggest: near}
	several := Wanted{Form: IndependentLabels, Known: []string{"toxic", "insult"}}
	spans := Wanted{Form: Entities, Known: []string{"PER", "LOC"}}
	for name, tc := range map[string]struct {
		want       Wanted
		file, says string
	}{
		"cut off": {one, "{",
			`line 1: is not a JSON object (unexpected end of JSON input); write {"text": "…", "label": ` +
				`"NEGATIVE"}`},
		"no label": {one, `{"text":"a","entities":[]}`,
			`line 1: has no "label" (it has: entities, text); write {"text": "…", "label": "NEGATIVE"}`},
		"a slip": {one, `{"text":"a","label":"NEGATVE"}`,
			`line 1: "NEGATVE" is none of the model's labels (NEGATIVE, ` +
				`POSITIVE); did you mean NEGATIVE?`},
		"one for several": {several, `{"text":"a","label":"toxic"}`,
			`line 1: "label" is "toxic"; write {"text": "…", "labels": ["toxic"]}, or [] where there are none`},
		"no list": {several, `{"text":"a","labels":"toxic"}`, `line 1: "labels" is "toxic"; write {"text"`},
		"a label": {several, `{"text":"a","labels":["toxic","rude"]}`, `"rude" is none of the model's labels`},
		"no entities": {spans, `{"text":"a","label":"PER"}`,
			`line 1: has no "entities" (it has: label, text); write {"text": "…", "entities"`},
		"another group": {spans, `{"text":"a","entities":[{"entity_group":"person","start":0,"end":1}]}`,
			`"person" is none`},
		"nothing at all": {several, " \n",
			`there is no text in it; write lines like {"text": "…", "labels": ["toxic"]}`},
	} {
		if _, err := Read(strings.NewReader(tc.file), tc.want); err == nil || !strings.Contains(err.Error(), tc.says) {
			t.Errorf("%s: %v, want %q", name, err, tc.says)
		}
	}
	got, err := Read(strings.NewReader(`{"text":"a","labels":["insult"],"label":"x"}`+"\n"+`{"text":"b","labels":[]}`),
		several)
	if d := cmp.Diff([]Text{{Line: 1, Text: "a", Labels: []string{"insult"}}, {Line: 2, Text: "b",
		Labels: []string{}}}, got); err != nil || d != "" {
		t.Errorf("%v\n%s", err, d)
	}
}
