package escalate

import (
	"sluice/pipeline"
	"sluice/pipeline/plan"
	"sluice/pipeline/publish"
	"sluice/pipeline/rule"
)

// This file owns the decision to ask: the last step of the classify stage.

// AskOptions configure an Ask; all are required.
type AskOptions struct {
	When    *rule.Verdicts
	Verdict string // the fact in question
	Topic   string // of requests
	Mode    Mode
	Needs   []string // steps that make the facts
	// Publisher knows which messages fit, and is told of rules that cannot be evaluated.
	Publisher *publish.Publisher
}

// Ask is the step that adds a request to the records for which the rule holds: in mode Amend beside a provisional
// result, in mode Defer in its place.
type Ask struct {
	plan.Place
	o AskOptions
}

// NewAsk makes the step.
func NewAsk(o AskOptions) *Ask { return &Ask{o: o} }

// Describe implements plan.Step.
func (a *Ask) Describe() plan.Info {
	return plan.Info{Name: "escalate", Stage: "encode", Needs: a.o.Needs, Goal: true, Doing: "looked at for escalation"}
}

// Do implements plan.Local.
func (a *Ask) Do(items []*plan.Item) {
	for _, it := range items {
		a.decide(&it.Judged)
	}
}

func (a *Ask) decide(j *publish.Judged) {
	env := rule.NewEnv(j.Subject(), j.Facts)
	if !a.o.Publisher.Holds("escalation.when", a.o.When, env) {
		return
	}
	asked := factNamed(j.Facts, a.o.Verdict)
	asked.Provisional = a.o.Mode == Amend
	m := newRequest(j, a.o.Topic, a.o.Verdict, a.o.Mode, env)
	if _, ok := a.o.Publisher.Fits(&m); ok {
		j.Requests = append(j.Requests, m)
		j.Deferred = a.o.Mode == Defer
		return
	}
	if a.o.Mode != Shadow { // no answer will come: the local verdict is the final one
		asked.Provisional, asked.By, asked.Reason = false, pipeline.Fallback, "request-too-large"
	}
}

func factNamed(facts []pipeline.Fact, name string) *pipeline.Fact {
	for i := range facts {
		if facts[i].Name == name {
			return &facts[i]
		}
	}
	panic("escalate: there is no fact " + name) // the configuration was checked
}
