package escalate

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"

	"sluice/pipeline"
	"sluice/pipeline/llm/label"
)

// This file owns the last word: whether an answer that could be read may replace what the local model said. Pure
// functions.

// Routes and reasons of a decision, and its flags.
const (
	ReasonSeverityFloor = "severity-floor" // the answer would have lowered the severity

	FlagDisagrees = "disagrees-with-confident" // the answer differs from a confident local verdict
)

// Policy limits what an answer may change.
type Policy struct {
	// Severity are labels, ascending; empty: none. Labels that it does not name rank below all that it names, and are
	// equal to each other.
	Severity []string
	// Floor is the local score from which an answer may not lower the severity; 0: it never may.
	Floor float64
	// Confident is the local score from which a disagreement is flagged; 0: every one is.
	Confident float64
}

// Local is what the local model said.
type Local struct {
	Label string
	Score float64 // 0..1
}

// Decision is the final verdict.
type Decision struct {
	Label  string
	Score  float64 // 0..1, where Scored
	Scored bool
	By     pipeline.By // ByLLM or Fallback
	Reason string      // ReasonSeverityFloor or ""
	Flags  []string    // FlagDisagrees or none
}

// Check says all that is wrong with the policy for a model with these labels.
func (p Policy) Check(labels []string) error {
	var errs []error
	for i, label := range p.Severity {
		if !slices.Contains(labels, label) {
			errs = append(errs, fmt.Errorf("escalate: severity: %q is not a label; labels are %s", label,
				strings.Join(labels, ", ")))
		}
		if slices.Contains(p.Severity[:i], label) {
			errs = append(errs, fmt.Errorf("escalate: severity: label %q stands twice; name each label once, the "+
				"least severe first", label))
		}
	}
	for _, limit := range []struct {
		name  string
		score float64
	}{{"severity floor", p.Floor}, {"confident", p.Confident}} {
		if !(limit.score >= 0 && limit.score <= 1) { // NaN too
			errs = append(errs, fmt.Errorf("escalate: %s: %v is not a score; it must be from 0 to 1", limit.name,
				limit.score))
		}
	}
	return errors.Join(errs...)
}

// Decide takes the answer, or lets the local verdict stand where the answer would lower its severity. A local score
// that is not a number counts as the highest: the floor holds.
func (p Policy) Decide(local Local, a label.Answer) Decision {
	var flags []string
	if a.Label != local.Label && reaches(local.Score, p.Confident) {
		flags = []string{FlagDisagrees}
	}
	// An unnamed label has index -1: below all.
	if slices.Index(p.Severity, a.Label) < slices.Index(p.Severity, local.Label) && reaches(local.Score, p.Floor) {
		return Decision{Label: local.Label, Score: local.Score, Scored: !math.IsNaN(local.Score), By: pipeline.Fallback,
			Reason: ReasonSeverityFloor, Flags: flags}
	}
	return Decision{Label: a.Label, Score: a.Score, Scored: a.Scored, By: pipeline.ByLLM, Flags: flags}
}

func reaches(score, limit float64) bool { return !(score < limit) }
