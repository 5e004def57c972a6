package tune

import (
	"fmt"

	"sluice/model/rewrite"
)

// This file owns what a choice means for the configuration file.

// Configured is what a configuration says today about the model that was tuned.
type Configured struct {
	At        int     // place in its list of models
	Student   bool    // it has one
	Threshold float64 // of the student
	Rule      string  // name of the model's verdict in rules
	When      string  // rule of the escalation; "": it is not about this model
}

// Changes are the values of the configuration that a choice changes. advice are sentences, whole lines, about what only
// a person can change.
func (c Configured) Changes(choice Choice) (changes []rewrite.Change, advice []string) {
	switch {
	case !c.Student:
	case choice.Student == Never:
		advice = append(advice, fmt.Sprintf("The student is no help for this goal: remove models[%d].student, or tune "+
			"for another goal.\n", c.At))
	case choice.Student != c.Threshold:
		changes = append(changes, rewrite.Change{Section: []any{"models", c.At}, Key: "student_threshold",
			After: "student", Value: Threshold(choice.Student)})
	}
	if !choice.Escalates {
		return changes, advice
	}
	now, simple := rewrite.RuleThreshold(c.When, c.Rule)
	switch {
	case !simple: // no escalation yet, or a rule that says more than a threshold
		advice = append(advice, fmt.Sprintf("For the escalation write:\n\n  escalation:\n    when: '%s.score < %s'\n\n",
			c.Rule, Threshold(choice.Escalate)))
	case now != choice.Escalate:
		changes = append(changes, rewrite.Change{Section: []any{"escalation"}, Key: "when",
			Value: Threshold(choice.Escalate), Rule: true, Model: c.Rule})
	}
	return changes, advice
}
