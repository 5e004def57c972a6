package escalate

import (
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"sluice/pipeline"
	"sluice/pipeline/llm/label"
)

func TestWhatAnAnswerMayChange(t *testing.T) {
	ranked := Policy{Severity: []string{"low", "medium", "high"}, Floor: 0.5, Confident: 0.9}
	answer := func(name string) label.Answer { return label.Answer{Label: name, Score: 0.7, Scored: true} }
	taken := func(label string, flags ...string) Decision {
		return Decision{Label: label, Score: 0.7, Scored: true, By: "llm", Flags: flags}
	}
	kept := func(label string, score float64, flags ...string) Decision {
		return Decision{Label: label, Score: score, Scored: true, By: "fallback", Reason: "severity-floor",
			Flags: flags}
	}
	for _, c := range []struct {
		name   string
		policy Policy
		local  Local
		answer label.Answer
		want   Decision
	}{
		{"agrees", ranked, Local{"high", 0.95}, answer("high"), taken("high")},
		{"raises", ranked, Local{"low", 0.6}, answer("high"), taken("high")},
		{"raises what the model was sure of", ranked, Local{"low", 0.9}, answer("high"),
			taken("high", "disagrees-with-confident")},
		{"lowers what the model doubted", ranked, Local{"high", 0.49}, answer("low"), taken("low")},
		{"lowers at the floor", ranked, Local{"high", 0.5}, answer("low"), kept("high", 0.5)},
		{"lowers by one step", ranked, Local{"high", 0.6}, answer("medium"), kept("high", 0.6)},
		{"lowers what the model was sure of", ranked, Local{"high", 0.97}, answer("low"), kept("high", 0.97,
			"disagrees-with-confident")},
		{"lowers to a label without a rank", ranked, Local{"low", 0.6}, answer("other"), kept("low", 0.6)},
		{"raises from a label without a rank", ranked, Local{"other", 0.6}, answer("low"), taken("low")},
		{"changes between labels without a rank", ranked, Local{"other", 0.6}, answer("another"), taken("another")},
		{"without ranks nothing is lower", Policy{Confident: 0.9}, Local{"high", 0.8}, answer("low"), taken("low")},
		{"floor 0 always holds", Policy{Severity: []string{"high"}, Confident: 1}, Local{"high", 0}, answer("low"),
			kept("high", 0)},
		{"a bare label has no score", ranked, Local{"low", 0.6}, label.Answer{Label: "high"}, Decision{Label: "high",
			By: "llm"}},
		{"a local score that is no number counts as the highest", ranked, Local{"high", math.NaN()}, answer("low"),
			Decision{Label: "high", By: "fallback", Reason: "severity-floor",
				Flags: []string{"disagrees-with-confident"}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := c.policy.Decide(c.local, c.answer)
			if !got.Scored {
				got.Score = 0
			}
			if d := cmp.Diff(c.want, got); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestSeverityNeverFallsBelowAConfidentLocalVerdict(t *testing.T) {
	rank := map[string]int{"low": 1, "medium": 2, "high": 3} // others: 0
	labels := []string{"low", "medium", "high", "other"}
	rapid.Check(t, func(t *rapid.T) {
		p := Policy{Severity: labels[:3], Floor: rapid.Float64Range(0, 1).Draw(t, "floor"),
			Confident: rapid.Float64Range(0, 1).Draw(t, "confident")}
		local := Local{rapid.SampledFrom(labels).Draw(t, "local"), rapid.Float64Range(0, 1).Draw(t, "score")}
		a := label.Answer{Label: rapid.SampledFrom(labels).Draw(t, "answer")}
		d := p.Decide(local, a)
		if local.Score >= p.Floor && rank[d.Label] < rank[local.Label] {
			t.Fatalf("%+v lowered to %+v", local, d)
		}
		if d.Label != local.Label && d.Label != a.Label {
			t.Fatalf("%+v and %+v became %+v", local, a, d)
		}
		if (d.By == pipeline.Fallback) != (d.Label != a.Label) {
			t.Fatalf("%+v and %+v became %+v", local, a, d)
		}
	})
}

func TestPoliciesThatAreWrong(t *testing.T) {
	labels := []string{"low", "high"}
	if err := (Policy{Severity: []string{"low", "high"}, Floor: 0.5, Confident: 1}).Check(labels); err != nil {
		t.Error(err)
	}
	err := Policy{Severity: []string{"low", "hihg", "low"}, Floor: math.NaN(), Confident: 1.5}.Check(labels)
	if err == nil {
		t.Fatal("nothing was refused")
	}
	for _, want := range []string{`"hihg" is not a label; labels are low, high`, `"low" stands twice`,
		"severity floor: NaN", "confident: 1.5"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%v\ndoes not say %s", err, want)
		}
	}
}
