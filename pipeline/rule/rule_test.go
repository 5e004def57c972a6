package rule

import (
	"context"
	"strings"
	"testing"

	"sluice/model"
	"sluice/pipeline"
	"sluice/pipeline/codec"
	"sluice/pipeline/codec/jsonvalue"
)

func subjectOf(t *testing.T, r pipeline.Record, text string) *Subject {
	t.Helper()
	c := jsonvalue.New(jsonvalue.Options{Text: codec.Path{"text"}, Field: "inference", MaxDepth: 9})
	v, err := c.Open(context.Background(), r.Value)
	if err != nil {
		t.Fatal(err)
	}
	return &Subject{Record: &r, Value: v, Text: []byte(text)}
}

func subject(t *testing.T) *Subject {
	return subjectOf(t, pipeline.Record{Topic: "in", Partition: 3, Value: []byte(`{"text":"Ada was  here", "n": 1.50}`),
		Headers: []pipeline.Header{{Key: "x"}}}, "Ada was here")
}

// facts are an unsure sentiment and one entity.
func facts() []pipeline.Fact {
	return []pipeline.Fact{
		{Name: "sentiment", By: pipeline.ByModel, Unsure: &model.Verdict{Label: "POSITIVE", Confidence: 0.7},
			Value: &model.Verdict{Label: "NEGATIVE", Score: 0.55, Margin: 0.1, Entropy: 0.9, Confidence: 0.55,
				Windows: 1}},
		{Name: "my-entities", By: pipeline.ByModel, Value: &model.Verdict{Windows: 1, Confidence: 0.8,
			Entities: []model.Entity{{Group: "PER", Score: 0.9, Word: "Ada <b>", Start: 0, End: 3}}}},
	}
}

func parsed(t *testing.T, source string) *Verdicts {
	t.Helper()
	r, err := ParseVerdicts(source, Declare("sentiment", "my-entities"))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestAWrongRuleIsRefusedWithItsPlace(t *testing.T) {
	for source, want := range map[string][]string{
		`text contains`: {"column 13", "headers"},
		`topik == "a"`:  {"column 1", "topik"},
		`bytes`:         {"bool"},
		`bytes > "10"`:  {"column 7", "mismatched types"},
	} {
		_, err := Parse(source)
		for _, w := range want {
			if err == nil || !strings.Contains(err.Error(), w) {
				t.Errorf("%s: %v, want %q in it", source, err, w)
			}
		}
	}
}

func TestVerdictRules(t *testing.T) {
	env := NewEnv(subject(t), facts())
	for source, want := range map[string]bool{
		`sentiment.score < 0.8`:                                    true,
		`sentiment.margin > 0.5 || sentiment.entropy < 0.5`:        false,
		`sentiment.disagrees && sentiment.student_label != ""`:     true,
		`"PER" in my_entities.groups && my_entities.entities == 1`: true,
		`len(text) > 5 && number("n") == 1.5 && topic == "in"`:     true,
		`sentiment.label in ["POSITIVE"]`:                          false,
		`sentiment.truncated || my_entities.confidence < 0.5`:      false,
		`sentiment.scores["POSITIVE"] > 0.1`:                       false,
		`sentiment.by == "model" && headers["x"] == "" && bytes>1`: true,
	} {
		got, err := parsed(t, source).Holds(env)
		if err != nil || got != want {
			t.Errorf("%s is %v, %v, want %v", source, got, err, want)
		}
	}
	for source, want := range map[string]string{
		`sentiment.scre < 0.8`:  "column 11: ",
		`sentimnt.score < 0.8`:  "column 1: unknown name sentimnt",
		`sentiment.score < "x"`: "column 17: invalid operation",
		`sentiment.score`:       "expected bool",
		`sentiment.label == `:   "column 19: unexpected token EOF",
		`my-entities.score < 1`: "column 1: unknown name my",
		`sentiment.route == ""`: "column 11: a verdict has no route (it is called by)",
	} {
		_, err := ParseVerdicts(source, Declare("sentiment", "my-entities"))
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(),
			"a rule may use sentiment, my_entities, each with .label") {
			t.Errorf("%s: %v, want %q", source, err, want)
		}
	}
	for _, names := range [][]string{{"text"}, {"len"}, {"a-b", "a_b"}} {
		if _, err := ParseVerdicts("true", Declare(names...)); err == nil {
			t.Errorf("verdicts named %q were taken", names)
		}
	}
}

// What a rule sees of a record is what the codec sees: digits that no float holds, and the last of repeated keys.
func TestRulesSeeTheRecordThatTheCodecSees(t *testing.T) {
	s := subjectOf(t, pipeline.Record{Value: []byte(`{"id":9007199254740993,"p":1,"p":9,"s":"7","t":true,"text":"a"}`)},
		"a")
	for source, want := range map[string]bool{
		`field("id") == 9007199254740993`:                           true,
		`field("id") == 9007199254740992`:                           false,
		`number("p") > 7`:                                           true,
		`field("p") == 9`:                                           true,
		`number("s") == 7 && number("t") == 1 && number("no") == 0`: true,
		`field("no") == nil`:                                        true,
	} {
		r, err := Parse(source)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := r.Holds(s); got != want || err != nil {
			t.Errorf("%s: %v (%v), want %v", source, got, err, want)
		}
	}
}
