package main

// This file joins the escalate stage: requests from their topic, through the endpoint, to results.

import (
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"sluice/cmd/sluice/settings"
	"sluice/cmd/sluice/suggest"
	"sluice/model"
	"sluice/pipeline"
	"sluice/pipeline/codec"
	"sluice/pipeline/codec/jsonvalue"
	"sluice/pipeline/codec/textvalue"
	"sluice/pipeline/escalate"
	"sluice/pipeline/failpoint"
	"sluice/pipeline/kafka"
	"sluice/pipeline/llm"
	"sluice/pipeline/llm/label"
	"sluice/pipeline/llm/openai"
	"sluice/pipeline/publish"
	"sluice/pipeline/rule"
	"sluice/pipeline/tap"
)

// escalationPlan is what the settings of escalation mean, given the models.
type escalationPlan struct {
	verdict  string // member of the output field
	task     *label.Task
	redactor *escalate.Redactor // nil: nothing is redacted
	policy   escalate.Policy
}

// planEscalation checks the settings against the models' directories, which are only opened, not loaded: a worker of
// the escalate stage runs no model. The error is a configuration fault that joins all mistakes.
func planEscalation(s *settings.Settings) (*escalationPlan, error) {
	e := &s.Escalation
	p := &escalationPlan{verdict: e.Verdict, policy: escalate.Policy{Severity: e.Severity, Floor: e.SeverityFloor,
		Confident: e.Confident}}
	var errs []error
	var asked *model.Model
	var groups []string
	for i, ms := range s.Models {
		m, err := model.Open(ms.Path)
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
			asked, p.verdict = m, ms.VerdictField()
		}
	}
	if len(errs) > 0 {
		return nil, configFaultOf(errs)
	}
	switch {
	case asked == nil:
		errs = append(errs, fmt.Errorf("escalation.verdict: there is no verdict %q", e.Verdict))
	case asked.Task != model.TextClassification:
		errs = append(errs, fmt.Errorf("escalation.verdict: %s is a model for %s; the endpoint can be asked about "+
			"the label of a text only (text-classification)", p.verdict, asked.Task))
	case asked.Config.ProblemType == model.MultiLabel || asked.Config.ProblemType == model.Regression ||
		len(asked.Labels) < 2:
		errs = append(errs, fmt.Errorf("escalation.verdict: %s has not one label a text (problem_type %q, %d "+
			"labels); the endpoint can be asked to choose one of several labels only", p.verdict,
			asked.Config.ProblemType, len(asked.Labels)))
	default:
		if err := p.policy.Check(asked.Labels); err != nil {
			errs = append(errs, fmt.Errorf("escalation.severity: %w", err))
		}
		var err error
		p.task, err = label.New(label.Options{Labels: asked.Labels, Descriptions: e.Prompt.Labels,
			Aliases: e.Prompt.Aliases, Instruction: e.Prompt.Instruction, Explain: e.Prompt.Explain})
		if err != nil {
			errs = append(errs, fmt.Errorf("escalation.prompt: %w", err))
		}
	}
	if len(e.Redact) > 0 {
		r, err := escalate.NewRedactor(e.Redact)
		if err != nil {
			errs = append(errs, fmt.Errorf("escalation.redact: %w", err))
		} else {
			for _, g := range r.Groups() {
				if !slices.Contains(groups, g) {
					errs = append(errs, fmt.Errorf("escalation.redact: no model of this configuration finds entities "+
						"of the group %q%s; add a token-classification model that does, or remove it", g,
						suggest.DidYouMean(g, append(groups, "email", "phone", "number"))))
				}
			}
			p.redactor = r
		}
	}
	if len(errs) > 0 {
		return nil, configFaultOf(errs)
	}
	return p, nil
}

func configFaultOf(errs []error) error {
	return &pipeline.Fault{Kind: pipeline.Config, Stage: "start", Reason: "escalation", Err: errors.Join(errs...)}
}

// escalationGroup is the consumer group that reads requests.
func escalationGroup(s *settings.Settings) string {
	if s.Escalation.Group != "" {
		return s.Escalation.Group
	}
	return s.Kafka.Group + "-escalation"
}

// escalationKafka is the client's configuration of the escalate stage, made from that of the classify stage.
func escalationKafka(c kafka.Config, s *settings.Settings) kafka.Config {
	c.Group = escalationGroup(s)
	c.Topics = []string{s.Escalation.Topic}
	c.Outputs = resultTopics(s)
	c.Start = kafka.Earliest // a request is never skipped
	return c
}

// resultTopics are the topics that finished records go to, in either stage.
func resultTopics(s *settings.Settings) []string {
	topics := []string{s.Output.Topic, s.DeadLetter.Topic}
	for _, r := range s.Routes {
		if !slices.Contains(topics, r.Topic) {
			topics = append(topics, r.Topic)
		}
	}
	return topics
}

// publisherOf makes the publisher of a stage.
func publisherOf(s *settings.Settings, maxBytes func(string) int, ruleFailed func(string)) (*publish.Publisher, error) {
	p := &publish.Publisher{Codec: codecOf(s), Output: s.Output.Topic, DeadLetters: s.DeadLetter.Topic, MaxBytes: maxBytes,
		RuleFailed: ruleFailed}
	var errs []error
	for i, r := range s.Routes {
		when, err := verdictRule(s, r.When)
		if err != nil {
			errs = append(errs, fmt.Errorf("routes[%d].when: %w", i, err))
		}
		p.Routes = append(p.Routes, publish.Route{Name: r.Name, When: when, Topic: r.Topic})
	}
	if len(errs) > 0 {
		return nil, configFaultOf(errs)
	}
	return p, nil
}

// verdictRule compiles a rule over the verdicts of the configuration.
func verdictRule(s *settings.Settings, source string) (*rule.Verdicts, error) {
	return rule.ParseVerdicts(source, rule.Declare(s.VerdictNames()...))
}

// askStep makes the step that decides which records go to the endpoint. needs are the steps that make the verdicts.
func askStep(s *settings.Settings, plan *escalationPlan, p *publish.Publisher, needs []string) (*escalate.Ask, error) {
	when, err := verdictRule(s, s.Escalation.When)
	if err != nil {
		return nil, configFaultOf([]error{fmt.Errorf("escalation.when: %w", err)})
	}
	return escalate.NewAsk(escalate.AskOptions{When: when, Verdict: plan.verdict, Topic: s.Escalation.Topic,
		Mode: escalate.Mode(s.Escalation.Mode), Needs: needs, Publisher: p}), nil
}

// codecOf is the codec of the input's format.
func codecOf(s *settings.Settings) codec.Codec {
	if s.Input.Format == "text" {
		return textvalue.New(s.Output.Field)
	}
	return jsonvalue.New(jsonvalue.Options{Text: codec.ParsePath(s.Input.Text), Field: s.Output.Field, MaxDepth: s.Input.MaxDepth})
}

// newPool makes the pool of endpoints.
func newPool(s *settings.Settings, log *slog.Logger, o llm.Observer) (*llm.Pool, error) {
	e := &s.Escalation.Endpoint
	po := llm.Options{
		Name: "escalation", Protocol: openai.Protocol{},
		URLs: e.URLs, Model: e.Model, Timeout: e.Timeout, MaxAttempts: e.MaxAttempts, MaxConcurrency: e.MaxConcurrency,
		MaxTokens:        e.MaxTokens,
		MaxResponseBytes: int64(e.MaxResponseBytes), Structured: e.Structured, BreakerFailures: e.BreakerFailures,
		BreakerPause: e.BreakerPause,
		Proxy:        e.Proxy, Logger: log, Observer: o,
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
		return nil, configFaultOf(errs)
	}
	return pool, nil
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
	Stage     stagePage            `json:"stage"`
}

// newEscalateStage makes the stage that reads requests, asks the endpoint and publishes final verdicts.
func newEscalateStage(s *settings.Settings, kc kafka.Config, plan *escalationPlan, reg prometheus.Registerer,
	o workerOptions) (
	*workerStage, error) {
	e := &s.Escalation
	metrics, stageMetrics := escalate.NewMetrics(reg), escalate.StageMetrics(reg)
	log := o.log.With("stage", "escalate")
	kc = escalationKafka(kc, s)
	kc.Logger, kc.Observer = log, observe(stageMetrics)
	if failpoint.On {
		kc.Failpoint = failpoint.Hit
	}
	client, err := kafka.New(kc)
	if err != nil {
		return nil, &pipeline.Fault{Kind: pipeline.Config, Stage: "start", Reason: "kafka", Err: err}
	}
	publisher, err := publisherOf(s, client.MaxMessageBytes, stageMetrics.RuleFailed)
	if err != nil {
		client.Close()
		return nil, err
	}
	pool, err := newPool(s, log, metrics.Observer())
	if err != nil {
		client.Close()
		return nil, err
	}
	b := &e.Budget
	limits := escalate.Limits{CallsPerSecond: b.CallsPerSecond, CallsPerDay: int64(b.CallsPerDay),
		TokensPerDay: int64(b.TokensPerDay), MoneyPerDay: b.MoneyPerDay,
		InputPerMillion: b.PriceInputPerMillion, OutputPerMillion: b.PriceOutputPerMillion}
	if err := limits.Check(); err != nil {
		pool.Close()
		client.Close()
		return nil, configFaultOf([]error{fmt.Errorf("escalation.budget: %w", err)})
	}
	budget := escalate.NewBudget(limits, time.Now)
	concurrency := min(e.Endpoint.MaxConcurrency*len(e.Endpoint.URLs), 1024)
	var stage *pipeline.Stage // set before the processor gets its first request
	dog := newWatchdog(s.RunTimeout, failAndSay(func(err error) { stage.Fail(err) }, log))
	processor := escalate.NewProcessor(escalate.ProcessorOptions{
		Codec: publisher.Codec, MaxTextBytes: int(s.Input.MaxTextBytes), Publisher: publisher, Task: plan.task,
		Redactor: plan.redactor, Policy: plan.policy,
		Pool: pool, Budget: budget, Model: e.Endpoint.Model, Deadline: e.Endpoint.Deadline, MaxAge: e.MaxAge,
		Concurrency: concurrency, CacheBytes: int(e.Cache),
		Metrics: metrics, Logger: log, Watchdog: dog,
	})
	limit := limitsOf(s.Limits)
	// Calls are slow: what is fetched beyond a few rounds of them would only wait here instead of in the topic.
	limit.PartitionRecords, limit.TotalRecords = min(limit.PartitionRecords, 4*concurrency), min(limit.TotalRecords,
		8*concurrency)
	rates := tap.NewRates(time.Now)
	stage = pipeline.NewStage(processor, client, pipeline.StageOptions{
		Limits: limit, CommitInterval: s.Kafka.CommitInterval, Grace: o.grace, Metrics: stageMetrics, Logger: log,
		Panicked: publisher.Panicked, Taps: []pipeline.Tap{rates}, Watchdog: dog,
		Replace: func(r *pipeline.Record, cause *pipeline.TooLargeError) pipeline.Outcome {
			if q, err := escalate.ParseRequest(r); err == nil {
				return escalate.Finals{Publisher: publisher}.Replace(q, cause)
			}
			return publisher.Replace(r, cause)
		},
		Quarantine:  processor.Quarantine,
		Attachments: []pipeline.Attachment{budget.Attachment(func() int { return client.PartitionCount(e.Topic) })},
	})
	page := func() *escalationPage {
		return &escalationPage{Group: kc.Group, Topic: e.Topic, Mode: e.Mode, Verdict: plan.verdict,
			Model: e.Endpoint.Model, Prompt: plan.task.Version(),
			Budget: budget.Left(), Endpoints: pool.Status()}
	}
	log.Info("escalation", "topic", e.Topic, "group", kc.Group, "mode", e.Mode, "verdict", plan.verdict, "model",
		e.Endpoint.Model, "endpoints", len(e.Endpoint.URLs), "prompt", plan.task.Version(), "concurrency",
		concurrency)
	return &workerStage{name: "escalate", stage: stage, rates: rates, source: client, escalation: page, close: func() {
		processor.Close()
		pool.Close()
		client.Close()
	}}, nil
}
