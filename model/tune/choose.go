package tune

import (
	"fmt"
	"math"
)

// This file owns the choice. It must hold on texts that nobody has seen, so a threshold is taken only where a one-sided
// bound says that it does, not where the estimate happens to.
//
// Many thresholds are tried on the same texts, and the best of many estimates flatters itself. The student's are
// therefore tested in a fixed order, from the strictest on, and the first that fails ends the search: then one level of
// confidence holds for all of them together (fixed-sequence testing; Angelopoulos et al. 2021, "Learn then Test", arXiv
// 2110.01052). The endpoint's have no such order, because more calls may help or hurt; there each step's bound has its
// share of the error (Bonferroni).

// Goal is what the thresholds are to reach. Accuracies and shares are between 0 and 1.
type Goal struct {
	Accuracy    float64 // at least so much; 0: not asked for
	Within      float64 // at most so much below the full model's; NaN: not asked for
	MostCalls   float64 // at most this share is asked of the endpoint; NaN: not asked for
	StudentLoss float64 // what the student may cost where nothing else bounds it
	Confidence  float64 // of every bound, one-sided
}

// Choice is what was chosen, and why.
type Choice struct {
	Setting
	Reached        bool   `json:"reached"`         // the goal is met with the confidence asked for
	StudentReason  string `json:"student_reason"`  // "" without a student
	EscalateReason string `json:"escalate_reason"` // "" where the escalation was not to be chosen
	Escalates      bool   `json:"escalates"`       // Escalate was chosen
}

// allowed is what the student may lose to the full model.
func (g *Goal) allowed() float64 {
	if math.IsNaN(g.Within) {
		return g.StudentLoss
	}
	return g.Within
}

// Choose chooses the thresholds by the samples. The student is to do as much as it may, the endpoint as little as it
// must; where only the calls are bounded, as much as it may.
func (c *Cascade) Choose(samples []Sample, g Goal) Choice {
	choice := Choice{Setting: Setting{Student: Never}, Reached: true}
	if c.HasStudent {
		choice.Student, choice.StudentReason = c.chooseStudent(samples, g)
		if choice.Student == Never && !math.IsNaN(g.Within) {
			choice.Reached = false
		}
	}
	c.chooseEscalation(samples, g, &choice)
	return choice
}

// alone says whether the full model reaches the accuracy without the endpoint.
func (c *Cascade) alone(samples []Sample, g Goal) bool {
	return g.Accuracy > 0 && g.lowest(c.At(samples, Setting{Student: Never})) >= g.Accuracy
}

// chooseStudent walks down from the strictest threshold until one fails. Where the full model reaches the accuracy that
// is asked for, the student may use up what is to spare; else it may cost what is allowed.
func (c *Cascade) chooseStudent(samples []Sample, g Goal) (chosen float64, reason string) {
	byAccuracy := c.alone(samples, g)
	test := func(p Point) bool { return Paired(p.Gain, p.Loss, p.Texts, onesided(g.Confidence)).Low >= -g.allowed() }
	what := fmt.Sprintf("at most %.2f points below the full model", 100*g.allowed())
	if byAccuracy {
		test = func(p Point) bool { return g.lowest(p) >= g.Accuracy }
		what = fmt.Sprintf("an accuracy of at least %.2f %%", 100*g.Accuracy)
	}
	chosen = Never
	var p, kept Point
	for _, t := range c.StudentSteps(samples)[1:] {
		if p = c.At(samples, Setting{Student: t}); !test(p) {
			break
		}
		chosen, kept = t, p
	}
	if chosen != Never {
		return chosen, fmt.Sprintf("from %s on it is final: the lowest threshold down to which all keep %s with %.4g "+
			"%% confidence (%g lost and %g gained of %d texts)",
			Threshold(chosen), what, 100*g.Confidence, kept.Loss, kept.Gain, kept.Texts)
	}
	reason = fmt.Sprintf("no threshold keeps %s with %.4g %% confidence", what, 100*g.Confidence)
	if need := NeededTexts(g.allowed(), g.Confidence); !byAccuracy && len(samples) < need {
		return Never, reason + fmt.Sprintf(": %d texts cannot show so little, even where the student never errs; %d "+
			"or more are needed to choose by (the held-out ones do not count), or a lower confidence", len(samples),
			need)
	}
	return Never, reason + fmt.Sprintf(": already from %s on, where it decides %.1f %%, it loses %g texts and gains "+
		"%g of %d; take another student, give more texts, or allow more",
		Threshold(p.Student), 100*p.ByStudent, p.Loss, p.Gain, p.Texts)
}

// lowest is the lower bound of a point's accuracy.
func (g *Goal) lowest(p Point) float64 {
	return Wilson(p.right, p.Texts, onesided(g.Confidence)).Low
}

// NeededTexts is how many texts a student that never errs needs to be shown to lose at most allowed. It follows from
// Paired without gain or loss: z²/(n+z²).
func NeededTexts(allowed, confidence float64) int {
	if allowed <= 0 {
		return math.MaxInt32
	}
	z := quantile(confidence)
	return int(math.Ceil(z * z * (1 - allowed) / allowed))
}

// chooseEscalation chooses the endpoint's threshold, with the student's as chosen.
func (c *Cascade) chooseEscalation(samples []Sample, g Goal, choice *Choice) {
	steps := c.EscalateSteps(samples, choice.Student)
	bounded := func(p Point) bool {
		return math.IsNaN(g.MostCalls) || Wilson(p.Escalated*float64(p.Texts), p.Texts,
			onesided(g.Confidence)).High <= g.MostCalls
	}
	switch {
	case g.Accuracy > 0 && !c.alone(samples, g):
		strict := g
		strict.Confidence = 1 - (1-g.Confidence)/float64(len(steps))
		over := false
		for _, t := range steps {
			p := c.At(samples, Setting{choice.Student, t})
			if !p.Known || strict.lowest(p) < g.Accuracy {
				continue
			}
			if over = !bounded(p); over {
				break
			}
			choice.Escalate, choice.Escalates = t, true
			choice.EscalateReason = fmt.Sprintf("below %s the endpoint is asked: the fewest calls (%.1f %%) with "+
				"which the accuracy is at least %.2f %% with %.4g %% confidence", below(t), 100*p.Escalated,
				100*g.Accuracy, 100*g.Confidence)
			return
		}
		choice.Reached = false
		alone := c.At(samples, Setting{Student: Never})
		reason := fmt.Sprintf("an accuracy of %.2f %% cannot be shown with %.4g %% confidence: the full model alone "+
			"has %.2f %% on these texts (its bound is %.2f %%)", 100*g.Accuracy, 100*g.Confidence, 100*alone.Accuracy,
			100*g.lowest(alone))
		switch {
		case c.Entities:
			reason += ", and the endpoint is not asked about entities"
		case over:
			reason += fmt.Sprintf(", and the calls that it would take are more than %.4g %%", 100*g.MostCalls)
		case !c.At(samples, Setting{choice.Student, steps[len(steps)-1]}).Known:
			reason += `, and what the endpoint says is unknown: give "llm" in the labelled file, or an assumed accuracy`
		default:
			reason += ", and no share of calls reaches it"
		}
		choice.EscalateReason = reason
	case !math.IsNaN(g.MostCalls):
		for _, t := range steps[1:] {
			if p := c.At(samples, Setting{choice.Student, t}); !bounded(p) {
				break
			}
			choice.Escalate, choice.Escalates = t, true
		}
		if !choice.Escalates {
			choice.EscalateReason = fmt.Sprintf("no step asks about at most %.4g %% with %.4g %% confidence: the "+
				"smallest one of %d texts is too many; give more texts, or allow more calls", 100*g.MostCalls,
				100*g.Confidence, len(samples))
			choice.Reached = false
			return
		}
		p := c.At(samples, Setting{choice.Student, choice.Escalate})
		choice.EscalateReason = fmt.Sprintf("below %s the endpoint is asked: %.1f %% of these texts, at most %.4g %% "+
			"with %.4g %% confidence", below(choice.Escalate), 100*p.Escalated, 100*g.MostCalls, 100*g.Confidence)
	}
}
