package tune

import (
	"math"
	"math/rand/v2"
	"strings"
	"testing"

	"sluice/model/labelled"
)

// population makes texts on which the student's score is uniform between 0.5 and 1. It disagrees with the model the
// more often, the less sure it is, and loses three of four disagreements.
func population(r *rand.Rand, n int) []Sample {
	samples := make([]Sample, n)
	for i := range samples {
		s := &samples[i]
		score := 0.5 + r.Float64()/2
		s.Label, s.Student, s.Model = "A", Verdict{Label: "A", Score: score}, Verdict{Label: "A", Score: 0.5 +
			r.Float64()/2}
		if r.Float64() < disagreement(score) {
			if r.Float64() < 0.75 {
				s.Student.Label = "B"
			} else {
				s.Model.Label = "B"
			}
		} else if r.Float64() < 0.1 {
			s.Student.Label, s.Model.Label = "B", "B"
		}
	}
	return samples
}

func disagreement(score float64) float64 { return 0.4 * (1 - score) }

// trueLoss is what a threshold costs in accuracy on all texts there are: the integral of half the disagreement.
func trueLoss(threshold float64) float64 {
	if threshold == Never {
		return 0
	}
	return 0.5 * 0.4 * (1 - threshold) * (1 - threshold)
}

func goal() Goal {
	return Goal{Within: 0.003, MostCalls: math.NaN(), StudentLoss: 0.003, Confidence: 0.95}
}

func TestTheChoiceHoldsOnTextsThatNobodyHasSeen(t *testing.T) {
	c := &Cascade{HasStudent: true, Labels: []string{"A", "B"}}
	r := rand.New(rand.NewPCG(1, 2))
	const rounds = 400
	wrong, useful := 0, 0
	for range rounds {
		choice := c.Choose(population(r, 2000), goal())
		if trueLoss(choice.Student) > 0.003 {
			wrong++
		}
		if choice.Student < 0.95 {
			useful++
		}
	}
	if wrong > rounds*8/100 { // 5 % are allowed; 8 % are three standard deviations more
		t.Errorf("%d of %d choices lose more than they should", wrong, rounds)
	}
	if useful < rounds/2 {
		t.Errorf("only %d of %d choices let the student do a tenth: too timid to be of use", useful, rounds)
	}
}

func TestAChoiceBySmallestEstimateWouldNotHold(t *testing.T) { // what the test above is worth
	c := &Cascade{HasStudent: true, Labels: []string{"A", "B"}}
	r := rand.New(rand.NewPCG(1, 2))
	wrong := 0
	for range 200 {
		samples := population(r, 2000)
		naive := Never
		for _, threshold := range c.StudentSteps(samples) {
			if c.At(samples, Setting{Student: threshold}).Difference >= -0.003 {
				naive = threshold
			}
		}
		if trueLoss(naive) > 0.003 {
			wrong++
		}
	}
	if wrong < 100 {
		t.Errorf("the naive choice was wrong only %d times of 200", wrong)
	}
}

func TestTooFewTextsAreSaidSo(t *testing.T) {
	c := &Cascade{HasStudent: true, Labels: []string{"A", "B"}}
	var samples []Sample
	for i := range 899 {
		samples = append(samples, Sample{Text: labelled.Text{Label: "A"}, Student: Verdict{Label: "A", Score: 0.9 +
			float64(i)/1e4}, Model: Verdict{Label: "A", Score: 1}})
	}
	choice := c.Choose(samples, goal())
	if choice.Reached || choice.Student != Never || !strings.Contains(choice.StudentReason, "899 texts cannot show "+
		"so little, even where the student never errs; 900 or more are needed") {
		t.Errorf("%+v", choice)
	}
	one := samples[0]
	if choice = c.Choose(append(samples, one), goal()); !choice.Reached || choice.Student != 0.9 {
		t.Errorf("with one more: %+v", choice)
	}
}

func TestABadStudentIsNotChosen(t *testing.T) {
	c := &Cascade{HasStudent: true, Labels: []string{"A", "B"}}
	var samples []Sample
	for i := range 2000 {
		s := Sample{Text: labelled.Text{Label: "A"}, Student: Verdict{Label: "A", Score: 0.5 + float64(i)/4000},
			Model: Verdict{Label: "A", Score: 1}}
		if i%2 == 0 {
			s.Student.Label = "B"
		}
		samples = append(samples, s)
	}
	choice := c.Choose(samples, goal())
	if choice.Student != Never || choice.Reached || !strings.Contains(choice.StudentReason, "take another student") {
		t.Errorf("%+v", choice)
	}
	g := goal()
	g.Within = math.NaN() // nobody asked: it is only not used
	if choice = c.Choose(samples, g); choice.Student != Never || !choice.Reached {
		t.Errorf("%+v", choice)
	}
}

func TestTheEndpointIsAskedAsLittleAsTheGoalAllows(t *testing.T) {
	c := &Cascade{Labels: []string{"A", "B"}, LLMAccuracy: 0.98}
	r := rand.New(rand.NewPCG(3, 4))
	var samples []Sample
	for range 4000 { // right with the probability that the score says
		s := Sample{Text: labelled.Text{Label: "A"}, Model: Verdict{Label: "A", Score: 0.5 + r.Float64()/2}}
		if r.Float64() > s.Model.Score {
			s.Model.Label = "B"
		}
		samples = append(samples, s)
	}
	g := goal()
	g.Within, g.Accuracy = math.NaN(), 0.85 // the model alone has about 0.75
	choice := c.Choose(samples, g)
	p := c.At(samples, choice.Setting)
	if !choice.Reached || !choice.Escalates || p.Accuracy < 0.85 || p.Escalated > 0.45 {
		t.Errorf("%+v: accuracy %g, asked %g", choice, p.Accuracy, p.Escalated)
	}
	g.MostCalls = 0.1
	if choice = c.Choose(samples, g); choice.Reached || !strings.Contains(choice.EscalateReason,
		"the calls that it would take are more than 10 %") {
		t.Errorf("%+v", choice)
	}
	g.Accuracy = 0
	choice = c.Choose(samples, g)
	if p = c.At(samples, choice.Setting); !choice.Reached || p.Escalated > 0.1 || p.Escalated < 0.085 {
		t.Errorf("%+v: asked %g", choice, p.Escalated)
	}
	g.MostCalls = 0.0001
	if choice = c.Choose(samples, g); choice.Reached || !strings.Contains(choice.EscalateReason, "give more texts") {
		t.Errorf("%+v", choice)
	}
	g.Accuracy, g.MostCalls, c.LLMAccuracy = 0.85, math.NaN(), 0
	if choice = c.Choose(samples, g); choice.Reached || !strings.Contains(choice.EscalateReason,
		"what the endpoint says is unknown") {
		t.Errorf("%+v", choice)
	}
	g.Accuracy = 0.5 // reached without it
	if choice = c.Choose(samples, g); !choice.Reached || choice.Escalates {
		t.Errorf("%+v", choice)
	}
	c.LLMAccuracy, g.Accuracy = 0.7, 0.99
	if choice = c.Choose(samples, g); choice.Reached || !strings.Contains(choice.EscalateReason,
		"no share of calls reaches it") {
		t.Errorf("%+v", choice)
	}
}
