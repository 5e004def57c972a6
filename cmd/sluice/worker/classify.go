package worker

import (
	"context"
	"fmt"
	"strings"

	"sluice/cmd/sluice/audit"
	"sluice/cmd/sluice/settings"
	"sluice/model/ort"
	"sluice/pipeline"
	"sluice/pipeline/codec"
	"sluice/pipeline/codec/formats"
	"sluice/pipeline/engine"
	"sluice/pipeline/kafka"
	"sluice/pipeline/plan"
	"sluice/pipeline/plan/text"
	"sluice/pipeline/publish"
	"sluice/pipeline/rule"
)

// This file owns the kind classify: records of the input topics, through the models, to results, dead letters and
// requests of the escalation.

// Classify runs models over the records of the input topics. Every configuration has it.
var Classify = Kind{
	Name: "classify", Help: "models only",
	On: func(*settings.Settings) bool { return true },
	Kafka: func(s *settings.Settings, base kafka.Config) kafka.Config {
		base.Topics, base.Outputs, base.DeadLetters = s.Input.Topics, resultTopics(s), s.DeadLetter.Topic
		if s.Escalation.On() {
			base.Outputs = append(base.Outputs, s.Escalation.Topic)
		}
		return base
	},
	Metrics: pipeline.StageMetricsOptions{Dispositions: pipeline.ClassifyDispositions},
	Absent:  []Member{{"onnxruntime", ""}, {"models", []ModelPage{}}},
	Check:   checkModels,
	Audit:   auditResults,
	Build:   buildClassify,
}

// checkModels verifies, loads and self-tests every model, one after the other: one that is broken hides no other.
func checkModels(ctx context.Context, c *settings.Loaded, r Report) {
	for i, s := range c.ModelsToOpen() {
		models, err := r.Process.OpenModels(ctx, []settings.Model{s}, 1, c.RunTimeout, r.Steps)
		if err != nil {
			r.Wrong(fmt.Errorf("%s: models[%d] (%s): %w", c.Origin(fmt.Sprintf("models[%d].path", i)), i, s.Name,
				Unfault(err)))
			continue
		}
		for _, m := range models.WithStudents() {
			p := m.Page()
			r.OK(fmt.Sprintf("model %s: %s, %s, %s, %s, %d labels, on %s; self-test passed", p.Name, p.Model, p.Task,
				p.Layout, p.Precision, len(p.Labels), p.Provider))
			for _, w := range p.Warnings {
				r.Warn("model %s: %s", p.Name, w)
			}
		}
		models.Close()
	}
}

// auditResults: every record of the input that no rule leaves out has one result or one dead letter.
func auditResults(s *settings.Settings, p *audit.Plan) error {
	skips, err := skipsOf(s)
	if err != nil {
		return err
	}
	if len(skips) > 0 {
		form, err := newCodec(s)
		if err != nil {
			return err
		}
		p.Skipped = func(r *pipeline.Record) bool {
			var v codec.Value
			if r.Value != nil {
				v, _ = form.Open(context.Background(), r.Value) // nil where it cannot be read
			}
			return skips.Of(r, v, nil) != ""
		}
	}
	p.Inputs, p.Output, p.DeadLetter = s.Input.Topics, s.Output.Topic, s.DeadLetter.Topic
	for _, t := range resultTopics(s) {
		if t != p.Output && t != p.DeadLetter {
			p.Routed = append(p.Routed, t)
		}
	}
	return nil
}

// buildClassify loads the models and makes the stage that runs them.
func buildClassify(ctx context.Context, e Env) (_ *Running, err error) {
	s := e.Settings
	var escalation *Escalation
	if s.Escalation.On() { // looked at first: models take long to load
		if escalation, err = PlanEscalation(ctx, s); err != nil {
			return nil, err
		}
	}
	c := &classifying{Env: e}
	defer func() {
		if err != nil {
			c.close()
		}
	}()
	runners := Runners(s.Runners)
	e.Enter("starting: verifying and loading models")
	if c.models, err = e.Process.OpenModels(ctx, s.ModelsToOpen(), runners, s.RunTimeout, e.Steps); err != nil {
		return nil, err
	}
	c.sayModels()
	e.Enter("starting: warming up models")
	end := e.Steps.Begin("warming up")
	c.engine, err = c.models.Engine(ctx, engine.Options{
		Devices: Devices(runners), BatchTokens: s.BatchTokens, Warm: true, Deadline: s.Deadline,
		CacheBytes: int(s.Cache.MaxBytes), Timeout: s.RunTimeout, Watchdog: e.Stage.Watchdog,
		Metrics: engine.NewMetrics(e.Registry, e.Stage.Metrics), Fail: e.Fail,
	})
	end()
	if err != nil {
		return nil, err
	}
	pages := c.pages()
	publisher, err := NewPublisher(s, e.Client.MaxMessageBytes, e.Stage.Metrics.RuleFailed)
	if err != nil {
		return nil, err
	}
	if c.plan, err = e.Process.NewPlan(c.models, s, escalation, publisher, plan.Options{
		Metrics: plan.NewMetrics(e.Registry, e.Stage.Metrics), Watchdog: e.Stage.Watchdog, Fail: e.Fail},
		text.NewMetrics(e.Registry)); err != nil {
		return nil, err
	}
	o := e.Stage
	o.UrgentTopics = s.Urgent.Topics
	o.Refused, o.Panicked, o.Quarantine = publisher.Refused, publisher.Panicked, publisher.Quarantine
	return &Running{Stage: e.NewStage(c.plan, o), Source: e.Client, Models: pages, Close: c.close,
		Page: func(p StagePage) []Member {
			return []Member{{"onnxruntime", ort.Version()}, {"models", pages}, {"stage", p}}
		}}, nil
}

// classifying is what the stage is made of. What was not reached yet is nil.
type classifying struct {
	Env
	models Models
	engine *engine.Engine
	plan   *plan.Plan
}

func (c *classifying) close() {
	if c.plan != nil {
		c.plan.Close()
	}
	if c.engine != nil {
		c.engine.Close()
	}
	c.models.Close()
}

func (c *classifying) sayModels() {
	for _, m := range c.models.WithStudents() {
		c.Log.Info("model loaded", "name", m.Settings.Name, "model", m.Tag(), "task", m.Model.Task, "provider",
			m.Session.Provider(), "layout", m.Model.Layout)
		for _, w := range m.warnings() {
			c.Log.Warn("model "+m.Settings.Name, "warning", w)
		}
	}
}

// pages are the models in the engine, for /status.
func (c *classifying) pages() []ModelPage {
	pages := []ModelPage{}
	for _, m := range c.models.WithStudents() {
		b := m.Handle.Budget()
		c.Log.Info("token budget of a batch", "model", b.Model, "tokens", b.Tokens, "measured", b.Curve != nil)
		pages = append(pages, m.Page())
	}
	return pages
}

// NewPlan starts the processor that runs models, which are in an engine, on every record, and publishes by way of p.
// escalation is nil without one. o says who else is told: its Codec, Publisher, MaxTextBytes, Urgent and Skip are
// filled in. The error is a configuration fault.
func (p *Process) NewPlan(models Models, s *settings.Settings, escalation *Escalation, to *publish.Publisher,
	o plan.Options, m *text.Metrics) (*plan.Plan, error) {
	var err error
	if o.Urgent, err = urgentOf(s.Urgent); err != nil {
		return nil, err
	}
	if o.Skip, err = skipsOf(s); err != nil {
		return nil, err
	}
	step := func(m *Model) text.Step {
		return text.Step{Handle: m.Handle, Tag: m.Tag(), Tokenizer: p.tokenizer(m.Tokenizer), Judge: m.Judge,
			Options: m.TokenizeOptions(), Pair: m.pair}
	}
	list := make([]text.Model, len(models))
	for i, m := range models {
		list[i] = text.Model{Name: m.Settings.VerdictField(), Step: step(m)}
		if m.Student != nil {
			list[i].Student = &text.Student{Step: step(m.Student), Threshold: m.Settings.StudentThreshold}
		}
	}
	steps := text.Steps(list, m)
	if escalation != nil {
		ask, err := escalation.ask(s, to, text.Names(list))
		if err != nil {
			return nil, err
		}
		steps = append(steps, ask)
	}
	o.Codec, o.Publisher, o.MaxTextBytes = to.Codec, to, int(s.Input.MaxTextBytes)
	return plan.New(steps, o)
}

// skipsOf are the rules that leave records out. Those that look at fields are left out themselves where values have
// none: they say nothing of such records.
func skipsOf(s *settings.Settings) (plan.Skips, error) {
	form := formats.Named(s.Input.Format)
	var skips plan.Skips
	for i, k := range s.Skip {
		when, err := rule.ParseBeforeText(k.When)
		if err != nil {
			return nil, startFault("skip", fmt.Errorf("skip[%d].when: %w", i, err))
		}
		if form != nil && !form.Fields && when.ReadsFields() {
			continue
		}
		skips = append(skips, plan.Skip{Name: k.Name, When: when})
	}
	return skips, nil
}

// urgentOf is nil where nothing is urgent.
func urgentOf(s settings.Urgent) (*plan.Urgent, error) {
	if len(s.Topics) == 0 && s.Header == "" && s.When == "" {
		return nil, nil
	}
	u := &plan.Urgent{Topics: s.Topics}
	u.HeaderName, u.HeaderValue, _ = strings.Cut(s.Header, "=")
	if s.When != "" {
		var err error
		if u.When, err = rule.Parse(s.When); err != nil {
			return nil, pipeline.Faultf(pipeline.Config, "start", "urgent", "urgent.when: %w", err)
		}
	}
	return u, nil
}
