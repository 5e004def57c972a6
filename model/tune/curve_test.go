package tune

import (
	"math"
	"slices"
	"testing"

	"sluice/model/labelled"
)

// four texts, all POSITIVE: student and model are right or wrong as the names say.
func four() []Sample {
	say := func(studentRight bool, student float64, modelRight bool, model float64) Sample {
		label := func(right bool) string { return map[bool]string{true: "POSITIVE", false: "NEGATIVE"}[right] }
		return Sample{Text: labelled.Text{Text: "x", Label: "POSITIVE"}, Student: Verdict{Label: label(studentRight),
			Score: student}, Model: Verdict{Label: label(modelRight), Score: model}, StudentTokens: 10, ModelTokens: 10,
			PromptTokens: 100}
	}
	return []Sample{say(true, 0.99, false, 0.9), say(false, 0.95, true, 0.9), say(true, 0.8, true, 0.6),
		say(false, 0.7, false, 0.55)}
}

func cascade() *Cascade {
	return &Cascade{HasStudent: true, Labels: []string{"NEGATIVE", "POSITIVE"}, Speed: Speed{Tokenize: 1000,
		Student: 10000, Model: 1000}, Prices: Prices{InputPerMillion: 2, OutputPerMillion: 10, AnswerTokens: 20}}
}

func TestPointOfASetting(t *testing.T) {
	c := cascade()
	near := func(what string, got, want float64) {
		t.Helper()
		if math.Abs(got-want) > 1e-9 {
			t.Errorf("%s: %g, want %g", what, got, want)
		}
	}
	p := c.At(four(), Setting{Student: Never})
	near("accuracy of the full model", p.Accuracy, 0.5)
	near("its rate", p.PerSecond, 1/(0.001+0.01)) // no student is asked

	p = c.At(four(), Setting{Student: 0.9})
	near("student", p.ByStudent, 0.5)
	near("model", p.ByModel, 0.5)
	near("accuracy", p.Accuracy, 0.5)
	near("gain", p.Gain, 1)
	near("loss", p.Loss, 1)
	near("difference", p.Difference, 0)
	near("rate", p.PerSecond, 1/(0.001+0.001+0.005))

	p = c.At(four(), Setting{Student: 0.9, Escalate: 0.65})
	near("escalated", p.Escalated, 0.5)
	near("calls", p.Calls, 500_000)
	near("cost of a million", p.Cost, 500_000*(100*2+20*10)/1e6)
	if p.Known {
		t.Error("nobody knows what the endpoint says")
	}
	near("accuracy without it", p.Accuracy, 0.5)

	c.LLMAccuracy = 0.9
	p = c.At(four(), Setting{Student: 0.9, Escalate: 0.65})
	near("expected accuracy", p.Accuracy, (1+0+0.9+0.9)/4)
	near("expected gain", p.Gain, 1+0.9)
	near("expected loss", p.Loss, 1+0.1)

	s := four()
	s[2].LLM, s[2].Answered = "NEGATIVE", true
	s[3].LLM, s[3].Answered = "I cannot say", true // a fallback: the local verdict stays
	p = c.At(s, Setting{Student: Never, Escalate: 0.65})
	near("accuracy with answers", p.Accuracy, 0.25)
	if !p.Known {
		t.Error("both answers are known")
	}
	if empty := c.At(nil, Setting{}); empty.Texts != 0 || math.IsNaN(empty.Accuracy) {
		t.Errorf("%+v", empty)
	}
}

func TestStepsLetOneMoreOfAHundredThroughAndNoMore(t *testing.T) {
	c := cascade()
	var samples []Sample
	for i := range 1000 {
		v := Verdict{Label: "POSITIVE", Score: 0.5 + float64(i)/2000}
		samples = append(samples, Sample{Student: v, Model: v})
	}
	steps := c.StudentSteps(samples)
	if steps[0] != Never || len(steps) != 101 || !slices.IsSortedFunc(steps,
		func(a, b float64) int { return int(math.Copysign(1, b-a)) }) {
		t.Fatalf("%v", steps)
	}
	for i, threshold := range steps {
		if got := c.At(samples, Setting{Student: threshold}).ByStudent; math.Abs(got-float64(i)/100) > 0.0011 {
			t.Errorf("step %d, from %g on: %g decided", i, threshold, got)
		}
	}
	for i, below := range c.EscalateSteps(samples, Never) {
		want := 0.0
		if i > 0 {
			want = escalatePercents[i-1] / 100
		}
		if got := c.At(samples, Setting{Student: Never, Escalate: below}).Escalated; math.Abs(got-want) > 0.0011 {
			t.Errorf("below %g: %g asked, want %g", below, got, want)
		}
	}
	for i := range samples { // equal scores are one step
		samples[i].Student.Score = 0.75
	}
	if got := c.StudentSteps(samples); !slices.Equal(got, []float64{Never, 0.75}) {
		t.Error(got)
	}
}

func TestEntitiesAreRightTogetherAndCountedAlone(t *testing.T) {
	per, loc := labelled.Entity{Group: "PER", Start: 0, End: 3}, labelled.Entity{Group: "LOC", Start: 10, End: 14}
	sample := func(gold, student, model []labelled.Entity, score float64) Sample {
		verdict := func(e []labelled.Entity) Verdict {
			return Verdict{Label: labelled.Canonical(e), Entities: e, Score: score}
		}
		return Sample{Text: labelled.Text{Label: labelled.Canonical(gold), Entities: gold}, Student: verdict(student),
			Model: verdict(model)}
	}
	samples := []Sample{
		// the order does not matter; the model misses one
		sample([]labelled.Entity{per, loc}, []labelled.Entity{loc, per}, []labelled.Entity{per}, 0.9),
		// the student finds what is not there
		sample([]labelled.Entity{}, []labelled.Entity{{Group: "PER", Start: 0, End: 4}}, []labelled.Entity{}, 0.5),
		// another group; the model one too many
		sample([]labelled.Entity{loc}, []labelled.Entity{{Group: "ORG", Start: 10, End: 14}},
			[]labelled.Entity{loc, per}, 0.95),
	}
	c := &Cascade{HasStudent: true, Entities: true}
	full, mixed := c.At(samples, Setting{Student: Never}), c.At(samples, Setting{Student: 0.9})
	if full.Accuracy != 1.0/3 || mixed.Accuracy != 2.0/3 || mixed.Gain != 1 || mixed.Loss != 0 {
		t.Errorf("%+v\n%+v", full, mixed)
	}
	if f := 2 * 2.0 / (3 + 3); full.F1 != f || mixed.F1 != 2*2.0/(3+3) {
		t.Errorf("F1 %g and %g", full.F1, mixed.F1)
	}
	if got := c.EscalateSteps(samples, Never); len(got) != 1 {
		t.Errorf("the endpoint is never asked about entities: %v", got)
	}
}

func TestThresholdsHaveNoMoreDigitsThanTheyNeed(t *testing.T) {
	for _, tc := range []struct{ low, high, want float64 }{
		{0.5, 0.987654321, 0.98}, {0.98, 0.987654321, 0.987}, {0.9999871, 0.9999879, 0.9999875}, {0, 0.9, 0.9},
		{0.28, 0.29, 0.29}, {math.Nextafter(0.7, 0), 0.7, 0.7},
	} {
		got := shortest(tc.low, tc.high)
		if got <= tc.low || got > tc.high || len(Threshold(got)) > len(Threshold(tc.want)) {
			t.Errorf("between %v and %v: %v", tc.low, tc.high, got)
		}
	}
}

func TestStepsOfAModelThatIsSureOfEverything(t *testing.T) { // fp32 softmax of a model without label smoothing
	c := cascade()
	var samples []Sample
	for i := range 1000 {
		v := Verdict{Label: "POSITIVE", Score: 1 - 1e-6*float64(i)/1000}
		samples = append(samples, Sample{Student: v, Model: v})
	}
	if n := len(c.StudentSteps(samples)); n < 100 {
		t.Errorf("only %d steps", n)
	}
	if n := len(c.EscalateSteps(samples, Never)); n != len(escalatePercents)+1 {
		t.Errorf("only %d steps of the escalation", n)
	}
}
