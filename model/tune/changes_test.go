package tune

import (
	"strings"
	"testing"

	"sluice/model"
	"sluice/model/judging"
	"sluice/model/labelled"
)

func TestChangesAreThoseOfTheChoice(t *testing.T) {
	chosen := Choice{Setting: Setting{Student: 0.9, Escalate: 0.7}, Escalates: true}
	for name, tc := range map[string]struct {
		now     Configured
		choice  Choice
		changes []string
		advice  string
	}{
		"both": {Configured{At: 1, Student: true, Threshold: 0.95, Rule: "s", When: "s.score < 0.8"}, chosen,
			[]string{"models[1].student_threshold: 0.9", "escalation.when: 's.score < 0.7'"}, ""},
		"nothing is new": {Configured{Student: true, Threshold: 0.9, Rule: "s", When: "s.score < 0.7"}, chosen, nil,
			""},
		"no escalation yet": {Configured{Rule: "s"}, chosen, nil,
			"For the escalation write:\n\n  escalation:\n    when: 's.score < 0.7'\n\n"},
		"a rule that says more": {Configured{Rule: "s", When: "s.margin < 0.5"}, chosen, nil,
			"For the escalation write"},
		"no student, no escalation": {Configured{Rule: "s", When: "s.score < 0.8"}, Choice{Setting: Setting{
			Student: Never}}, nil, ""},
		"a student without use": {Configured{At: 2, Student: true, Threshold: 0.9}, Choice{Setting: Setting{
			Student: Never}}, nil, "remove models[2].student"},
	} {
		changes, advice := tc.now.Changes(tc.choice)
		var got []string
		for i := range changes {
			got = append(got, changes[i].String()+": "+changes[i].Written())
		}
		if strings.Join(got, "\n") != strings.Join(tc.changes, "\n") || (tc.advice == "") != (advice == nil) ||
			!strings.Contains(strings.Join(advice, ""), tc.advice) {
			t.Errorf("%s: %q and advice %q", name, got, advice)
		}
	}
}

func TestSamplesKeepWhatModelsSaid(t *testing.T) {
	texts := []labelled.Text{{Text: "a", Label: "A"}, {Text: "b", Entities: []labelled.Entity{}}}
	full := []judging.Judged{{Verdict: model.Verdict{Label: "A", Confidence: 0.8}},
		{Verdict: model.Verdict{Entities: []model.Entity{{Group: "PER", Start: 0, End: 1, Score: 1}}, Confidence: 0.7}}}
	s := Samples(texts, full, nil, 100)
	if s[0].Model.Label != "A" || s[0].Model.Score != 0.8 || s[0].PromptTokens != 100 ||
		s[1].Model.Label != "PER 0-1" || len(s[1].Model.Entities) != 1 || s[1].Student.Label != "" {
		t.Errorf("%+v", s)
	}
	if s = Samples(texts, full, full, 0); s[0].Student.Label != "A" {
		t.Errorf("%+v", s)
	}
}

func TestSpeedOfTokenizersOneAfterTheOther(t *testing.T) {
	if got := Tokenizers(1000, 1000); got != 500 {
		t.Errorf("%v texts a second", got)
	}
	if got := (Speed{Tokenize: 500, Student: 10, Model: 5}).How(2); !strings.Contains(got,
		"tokenizing (500 texts/s), student (10 tokens/s) and model (5 tokens/s), each measured alone with 2 runners") {
		t.Error(got)
	}
	if got := (Speed{}).How(2); got != "not measured (--seconds 0)" {
		t.Error(got)
	}
}
