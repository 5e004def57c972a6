package tune

import (
	"fmt"
	"strings"

	"sluice/model"
	"sluice/model/labelled"
)

// This file owns the question which model of a configuration labelled texts are for.

// Candidate is a model of a configuration.
type Candidate struct {
	Name        string
	Field       string                       // what its verdicts are called
	Open        func() (*model.Model, error) // called once at most, and not where the name tells that it is another
	Aggregation model.Aggregation            // of token-classification
}

// labelsOf are those that a model's verdicts can have: its own, or the groups of its entities.
func labelsOf(m *model.Model) []string {
	if m.Task == model.TokenClassification {
		return m.Groups()
	}
	return m.Labels
}

// Which finds the candidate that texts are for, of which there is one at least: the one with a name or a field, or
// where name is "" the only one that has all labels. Labels of texts are then called as the model calls them. The error
// says why there is none, or why the one that was found cannot be tuned, and what to do.
func Which(candidates []Candidate, name string, texts []labelled.Text, suggest labelled.Suggest) (at int,
	m *model.Model, err error) {
	at = -1
	var fields, fitting []string
	for i := range candidates {
		c := &candidates[i]
		fields = append(fields, c.Field)
		if name != "" && (at >= 0 || name != c.Name && name != c.Field) {
			continue
		}
		candidate, err := c.Open()
		if err != nil {
			return 0, nil, err
		}
		if name == "" && len(candidates) > 1 {
			if (candidate.Task == model.TokenClassification) != (texts[0].Entities != nil) {
				continue
			}
			if _, err := labelled.Resolve(texts, labelsOf(candidate), nil); err != nil {
				continue
			}
			fitting = append(fitting, c.Field)
		}
		at, m = i, candidate
	}
	switch {
	case name != "" && at < 0:
		what := ""
		if suggest != nil {
			what = suggest(name, fields)
		}
		return 0, nil, fmt.Errorf("the configuration has no model %q%s; it has %s", name, what,
			strings.Join(fields, ", "))
	case at < 0:
		return 0, nil, fmt.Errorf("no model of the configuration (%s) has all labels of the file; correct them, or "+
			"name the model with --verdict to see which line is wrong", strings.Join(fields, ", "))
	case len(fitting) > 1:
		return 0, nil, fmt.Errorf("the labels are those of several models (%s); name one with --verdict",
			strings.Join(fitting, ", "))
	}
	return at, m, candidates[at].check(m, texts, suggest)
}

// check says why a model cannot be tuned by texts, or gives them the model's names for their labels.
func (c *Candidate) check(m *model.Model, texts []labelled.Text, suggest labelled.Suggest) error {
	switch {
	case m.Task == model.TokenClassification && texts[0].Entities == nil:
		return fmt.Errorf("the model %s finds entities, and the file has labels; write \"entities\" in place of "+
			"\"label\", or name another model with --verdict", c.Field)
	case m.Task == model.TextClassification && texts[0].Entities != nil:
		return fmt.Errorf("the model %s gives labels, and the file has entities; write \"label\" in place of "+
			"\"entities\", or name another model with --verdict", c.Field)
	case m.Task == model.TokenClassification && c.Aggregation == model.AggregationNone:
		return fmt.Errorf("the model %s gives single tokens (aggregation: none), which are no entities; set another "+
			"aggregation", c.Field)
	case m.Task == model.TokenClassification:
	case m.Config.ProblemType == model.MultiLabel:
		return fmt.Errorf("the model %s gives every label a score of its own, so no single score says how sure it is; "+
			"thresholds are tuned for models with one label a text", c.Field)
	case m.Config.ProblemType == model.Regression || len(m.Labels) < 2:
		return fmt.Errorf("the model %s gives a number and no label; thresholds are tuned for models with labels",
			c.Field)
	}
	resolved, err := labelled.Resolve(texts, labelsOf(m), suggest)
	if err == nil {
		copy(texts, resolved)
	}
	return err
}
