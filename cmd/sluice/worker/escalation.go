package worker

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"sluice/cmd/sluice/settings"
	"sluice/cmd/sluice/suggest"
	"sluice/model"
	"sluice/model/source"
	"sluice/pipeline/escalate"
	"sluice/pipeline/llm/label"
	"sluice/pipeline/publish"
)

// This file owns what the section escalation means, given the models: classify decides by it which records are asked
// about, escalate asks.

// Escalation is what the section escalation means, given the models.
type Escalation struct {
	Verdict string      // member of the output field that is in question
	Task    *label.Task // what the endpoint is asked

	redactor *escalate.Redactor // nil: nothing is redacted
	policy   escalate.Policy
}

// PlanEscalation checks the section against the models' directories, which are only opened, not loaded: a worker of the
// escalate stage runs no model. The error is a configuration fault that joins all mistakes.
func PlanEscalation(ctx context.Context, s *settings.Settings) (*Escalation, error) {
	e := &s.Escalation
	p := &Escalation{Verdict: e.Verdict, policy: escalate.Policy{Severity: e.Severity, Floor: e.SeverityFloor,
		Confident: e.Confident}}
	var errs []error
	var asked *model.Model
	var groups []string
	for i, ms := range s.Models {
		m, err := source.Open(ctx, ms.Path)
		if err != nil {
			errs = append(errs, fmt.Errorf("models[%d]: %w", i, err))
			continue
		}
		for _, group := range m.Groups() {
			if !slices.Contains(groups, group) {
				groups = append(groups, group)
			}
		}
		if ms.VerdictField() == e.Verdict || e.Verdict == "" && len(s.Models) == 1 {
			asked, p.Verdict = m, ms.VerdictField()
		}
	}
	if len(errs) == 0 {
		errs = append(p.question(e, asked), p.redact(e, groups)...)
	}
	if len(errs) > 0 {
		return nil, startFault("escalation", errors.Join(errs...))
	}
	return p, nil
}

// question makes the task out of the model whose verdict is in question. It returns every mistake.
func (p *Escalation) question(e *settings.Escalation, asked *model.Model) (errs []error) {
	switch {
	case asked == nil:
		return []error{fmt.Errorf("escalation.verdict: there is no verdict %q", e.Verdict)}
	case asked.Task != model.TextClassification:
		return []error{fmt.Errorf("escalation.verdict: %s is a model for %s; the endpoint can be asked about the "+
			"label of a text only (text-classification)", p.Verdict, asked.Task)}
	case asked.Config.ProblemType == model.MultiLabel || asked.Config.ProblemType == model.Regression ||
		len(asked.Labels) < 2:
		return []error{fmt.Errorf("escalation.verdict: %s has not one label a text (problem_type %q, %d labels); the "+
			"endpoint can be asked to choose one of several labels only", p.Verdict, asked.Config.ProblemType,
			len(asked.Labels))}
	}
	if err := p.policy.Check(asked.Labels); err != nil {
		errs = append(errs, fmt.Errorf("escalation.severity: %w", err))
	}
	var err error
	p.Task, err = label.New(label.Options{Labels: asked.Labels, Descriptions: e.Prompt.Labels,
		Aliases: e.Prompt.Aliases, Instruction: e.Prompt.Instruction, Explain: e.Prompt.Explain})
	if err != nil {
		errs = append(errs, fmt.Errorf("escalation.prompt: %w", err))
	}
	return errs
}

// redact makes the redactor; groups are the groups of entities that the models find. It returns every mistake.
func (p *Escalation) redact(e *settings.Escalation, groups []string) (errs []error) {
	if len(e.Redact) == 0 {
		return nil
	}
	r, err := escalate.NewRedactor(e.Redact)
	if err != nil {
		return []error{fmt.Errorf("escalation.redact: %w", err)}
	}
	for _, g := range r.Groups() {
		if !slices.Contains(groups, g) {
			errs = append(errs, fmt.Errorf("escalation.redact: no model of this configuration finds entities of the "+
				"group %q%s; add a token-classification model that does, or remove it", g,
				suggest.DidYouMean(g, append(groups, "email", "phone", "number"))))
		}
	}
	p.redactor = r
	return errs
}

// ask makes the step that decides which records go to the endpoint. needs are the steps that make the verdicts.
func (p *Escalation) ask(s *settings.Settings, to *publish.Publisher, needs []string) (*escalate.Ask, error) {
	when, err := verdictRule(s, s.Escalation.When)
	if err != nil {
		return nil, startFault("escalation", fmt.Errorf("escalation.when: %w", err))
	}
	return escalate.NewAsk(escalate.AskOptions{When: when, Verdict: p.Verdict, Topic: s.Escalation.Topic,
		Mode: escalate.Mode(s.Escalation.Mode), Needs: needs, Publisher: to}), nil
}
