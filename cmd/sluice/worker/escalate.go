package worker

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"sluice/cmd/sluice/audit"
	"sluice/cmd/sluice/settings"
	"sluice/pipeline"
	"sluice/pipeline/escalate"
	"sluice/pipeline/kafka"
	"sluice/pipeline/llm"
	"sluice/pipeline/llm/openai"
)

// This file owns the kind escalate: requests from their topic, through the endpoint, to results.

// Escalate asks an endpoint about the records that the stage classify is unsure of.
var Escalate = Kind{
	Name: "escalate", Help: "the endpoint only, no models are loaded",
	On: func(s *settings.Settings) bool { return s.Escalation.On() },
	Off: "escalation.when is not set, so there are no requests to read; set it as the workers of the classify stage " +
		"have it",
	Kafka: func(s *settings.Settings, base kafka.Config) kafka.Config {
		base.Group = escalationGroup(s)
		base.Topics, base.Outputs = []string{s.Escalation.Topic}, resultTopics(s)
		base.DeadLetters = s.DeadLetter.Topic
		base.Start = kafka.Earliest // a request is never skipped
		return base
	},
	Metrics: escalate.StageMetrics,
	Check:   checkEscalation,
	Audit: func(s *settings.Settings, p *audit.Plan) error {
		p.Requests, p.Escalation = s.Escalation.Topic, escalationGroup(s)
		return nil
	},
	Build: buildEscalate,
}

// escalationGroup is the consumer group that reads requests.
func escalationGroup(s *settings.Settings) string {
	if s.Escalation.Group != "" {
		return s.Escalation.Group
	}
	return s.Kafka.Group + "-escalation"
}

// checkEscalation looks at the section beside the models, and whether its key and certificates can be read. The
// endpoint is not asked.
func checkEscalation(ctx context.Context, c *settings.Loaded, r Report) {
	e := &c.Escalation
	plan, err := PlanEscalation(ctx, &c.Settings)
	if err != nil {
		r.Wrong(Unfault(err))
		return
	}
	pool, err := newPool(&e.Endpoint, slog.New(slog.DiscardHandler), llm.Observer{})
	if err != nil {
		r.Wrong(Unfault(err))
		return
	}
	pool.Close()
	r.OK(fmt.Sprintf("escalation: %s where %s, mode %s, to %s at %s (not asked now), prompt %s", plan.Verdict, e.When,
		e.Mode, e.Endpoint.Model, strings.Join(e.Endpoint.URLs, ", "), plan.Task.Version()))
}

// newPool makes the pool of endpoints.
func newPool(e *settings.Endpoint, log *slog.Logger, o llm.Observer) (*llm.Pool, error) {
	po := llm.Options{
		Name: "escalation", Protocol: openai.Protocol{},
		URLs: e.URLs, Model: e.Model, Timeout: e.Timeout, MaxAttempts: e.MaxAttempts, MaxConcurrency: e.MaxConcurrency,
		MaxTokens: e.MaxTokens, MaxResponseBytes: int64(e.MaxResponseBytes), Structured: e.Structured,
		Parameters:      e.Parameters,
		BreakerFailures: e.BreakerFailures, BreakerPause: e.BreakerPause, Proxy: e.Proxy, Logger: log, Observer: o,
	}
	var errs []error
	switch {
	case e.APIKeyFile != "":
		po.APIKey = llm.KeyFile(e.APIKeyFile)
		if _, err := po.APIKey(); err != nil {
			errs = append(errs, fmt.Errorf("escalation.endpoint.api_key_file: %w", err))
		}
	case !e.APIKey.IsZero():
		po.APIKey = func() (pipeline.Secret, error) { return e.APIKey, nil }
	}
	if e.CAFile != "" {
		var err error
		if po.TLS, err = clientTLS("escalation.endpoint", settings.TLS{CAFile: e.CAFile}); err != nil {
			errs = append(errs, err)
		}
	} else {
		po.TLS = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	pool, err := llm.NewPool(po)
	if err != nil {
		errs = append(errs, err)
	}
	if len(errs) > 0 {
		return nil, startFault("escalation", errors.Join(errs...))
	}
	return pool, nil
}

// newBudget is the wallet of the section.
func newBudget(b *settings.Budget) (*escalate.Budget, error) {
	limits := escalate.Limits{CallsPerSecond: b.CallsPerSecond, CallsPerDay: int64(b.CallsPerDay),
		TokensPerDay: int64(b.TokensPerDay), MoneyPerDay: b.MoneyPerDay,
		InputPerMillion: b.PriceInputPerMillion, OutputPerMillion: b.PriceOutputPerMillion}
	if err := limits.Check(); err != nil {
		return nil, startFault("escalation", fmt.Errorf("escalation.budget: %w", err))
	}
	return escalate.NewBudget(limits, time.Now), nil
}

// escalationPage is the escalate stage in /status.
type escalationPage struct {
	Group     string               `json:"group"`
	Topic     string               `json:"topic"`
	Mode      string               `json:"mode"`
	Verdict   string               `json:"verdict"`
	Model     string               `json:"model"`
	Prompt    string               `json:"prompt"` // version
	Budget    escalate.Left        `json:"budget_left"`
	Endpoints []llm.EndpointStatus `json:"endpoints"`
	Stage     StagePage            `json:"stage"`
}

// buildEscalate makes the stage that reads requests, asks the endpoint and publishes final verdicts.
func buildEscalate(ctx context.Context, v Env) (*Running, error) {
	s, e := v.Settings, &v.Settings.Escalation
	plan, err := PlanEscalation(ctx, s)
	if err != nil {
		return nil, err
	}
	publisher, err := NewPublisher(s, v.Client.MaxMessageBytes, v.Stage.Metrics.RuleFailed)
	if err != nil {
		return nil, err
	}
	budget, err := newBudget(&e.Budget)
	if err != nil {
		return nil, err
	}
	metrics := escalate.NewMetrics(v.Registry)
	pool, err := newPool(&e.Endpoint, v.Log, metrics.Observer())
	if err != nil {
		return nil, err
	}
	concurrency := min(e.Endpoint.MaxConcurrency*len(e.Endpoint.URLs), 1024)
	processor := escalate.NewProcessor(escalate.ProcessorOptions{
		Codec: publisher.Codec, MaxTextBytes: int(s.Input.MaxTextBytes), Publisher: publisher, Task: plan.Task,
		Redactor: plan.redactor, Policy: plan.policy,
		Pool: pool, Budget: budget, Model: e.Endpoint.Model, Deadline: e.Endpoint.Deadline, MaxAge: e.MaxAge,
		Concurrency: concurrency, CacheBytes: int(e.Cache),
		Metrics: metrics, Logger: v.Log, Watchdog: v.Stage.Watchdog,
	})
	o := v.Stage
	// Calls are slow: what is fetched beyond a few rounds of them would only wait here instead of in the topic.
	o.Limits.PartitionRecords = min(o.Limits.PartitionRecords, 4*concurrency)
	o.Limits.TotalRecords = min(o.Limits.TotalRecords, 8*concurrency)
	o.Panicked, o.Quarantine = publisher.Panicked, processor.Quarantine
	o.Refused = func(r *pipeline.Record, meant *pipeline.Outcome, refusals []pipeline.Refusal) (pipeline.Outcome,
		bool) {
		if q, err := escalate.ParseRequest(r); err == nil {
			return escalate.Finals{Publisher: publisher}.Refused(q, meant, refusals)
		}
		return publisher.Refused(r, meant, refusals)
	}
	o.Attachments = []pipeline.Attachment{budget.Attachment(func() int { return v.Client.PartitionCount(e.Topic) })}
	group := escalationGroup(s)
	v.Log.Info("escalation", "topic", e.Topic, "group", group, "mode", e.Mode, "verdict", plan.Verdict, "model",
		e.Endpoint.Model, "endpoints", len(e.Endpoint.URLs), "prompt", plan.Task.Version(), "concurrency", concurrency)
	return &Running{Stage: v.NewStage(processor, o), Source: v.Client,
		Page: func(p StagePage) []Member {
			return []Member{{"escalation", escalationPage{Group: group, Topic: e.Topic, Mode: e.Mode,
				Verdict: plan.Verdict, Model: e.Endpoint.Model, Prompt: plan.Task.Version(), Budget: budget.Left(),
				Endpoints: pool.Status(), Stage: p}}}
		},
		Close: func() {
			processor.Close()
			pool.Close()
		}}, nil
}
