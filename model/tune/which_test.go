package tune

import (
	"errors"
	"strings"
	"testing"

	"sluice/model"
	"sluice/model/labelled"
)

func candidate(name string, task model.Task, labels ...string) Candidate {
	return candidateOf(name, &model.Model{Task: task, Labels: labels})
}

func candidateOf(name string, m *model.Model) Candidate {
	return Candidate{Name: name, Field: name, Open: func() (*model.Model, error) { return m, nil }}
}

func entities(group string) []labelled.Text {
	return []labelled.Text{{Line: 1, Entities: []labelled.Entity{{Group: group, Start: 0, End: 1}}}, {Line: 2,
		Entities: []labelled.Entity{}}}
}

// A label of a token model needs no prefix, and what stands before its hyphen is part of its group.
func TestTextsFindTheModelOfTheirGroups(t *testing.T) {
	candidates := []Candidate{
		candidate("sentiment", model.TextClassification, "NEGATIVE", "POSITIVE"),
		candidate("plain", model.TokenClassification, "O", "PER"),
		candidate("brands", model.TokenClassification, "O", "BRAND-NAME"),
		candidate("prefixed", model.TokenClassification, "O", "B-LOC", "I-LOC"),
	}
	for group, want := range map[string]int{"PER": 1, "BRAND-NAME": 2, "LOC": 3} {
		if at, _, err := Which(candidates, "", entities(group), nil); err != nil || at != want {
			t.Errorf("%s: model %d, want %d: %v", group, at, want, err)
		}
		alone := candidates[want : want+1]
		if _, _, err := Which(alone, "", entities(group), nil); err != nil {
			t.Errorf("%s alone: %v", group, err)
		}
	}
	for _, group := range []string{"NAME", "O", "B-LOC"} {
		if at, _, err := Which(candidates, "", entities(group), nil); err == nil {
			t.Errorf("%s is a group of model %d", group, at)
		}
	}
}

func TestWhichSaysWhatIsWrong(t *testing.T) {
	texts := []labelled.Text{{Line: 1, Label: "POSITIVE"}, {Line: 2, Label: "NEGATIVE"}}
	sentiment := candidate("sentiment", model.TextClassification, "NEGATIVE", "POSITIVE")
	again := candidate("again", model.TextClassification, "NEGATIVE", "POSITIVE")
	ner := candidate("ner", model.TokenClassification, "O", "B-PER")
	single := ner
	single.Aggregation = model.AggregationNone
	several := candidateOf("several", &model.Model{Task: model.TextClassification, Labels: []string{"NEGATIVE",
		"POSITIVE"}, Config: model.Config{ProblemType: model.MultiLabel}})
	missing := candidate("missing", model.TextClassification)
	missing.Open = func() (*model.Model, error) { return nil, errors.New("it is not there") }
	value := candidate("value", model.TextClassification, "POSITIVE")
	near := func(string, []string) string { return "; did you mean sentiment?" }
	for says, tc := range map[string]struct {
		candidates []Candidate
		name       string
		texts      []labelled.Text
	}{
		"":                {[]Candidate{sentiment, ner}, "", texts},
		"it is not there": {[]Candidate{sentiment, missing}, "", texts},
		"several models (sentiment, again); name one with --verdict":     {[]Candidate{sentiment, again}, "", texts},
		`no model "sentimnt"; did you mean sentiment?; it has sentiment`: {[]Candidate{sentiment}, "sentimnt", texts},
		"no model of the configuration (sentiment, ner) has all labels": {[]Candidate{sentiment, ner}, "",
			entities("ORG")},
		"finds entities, and the file has labels": {[]Candidate{sentiment, ner}, "ner", texts},
		"gives labels, and the file has entities": {[]Candidate{sentiment}, "", entities("PER")},
		"gives single tokens":                     {[]Candidate{single}, "", entities("PER")},
		"a score of its own":                      {[]Candidate{several}, "", texts},
		"gives a number and no label":             {[]Candidate{value}, "", texts},
		`line 1: "ORG" is none of the model's labels (PER); did you mean sentiment?`: {[]Candidate{ner}, "",
			entities("ORG")},
	} {
		at, _, err := Which(tc.candidates, tc.name, tc.texts, near)
		if says == "" && (err != nil || at != 0) || says != "" && (err == nil || !strings.Contains(err.Error(), says)) {
			t.Errorf("model %d, %v; want %q", at, err, says)
		}
	}
	if at, _, err := Which([]Candidate{missing, sentiment}, "sentiment", texts, nil); err != nil || at != 1 {
		t.Errorf("a model that was not asked for: %v", err)
	}
}
