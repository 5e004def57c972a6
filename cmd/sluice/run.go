package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/spf13/cobra"

	"sluice/cmd/sluice/config"
	"sluice/cmd/sluice/settings"
	"sluice/model/ort"
	"sluice/pipeline"
	"sluice/pipeline/engine"
	"sluice/pipeline/failpoint"
	"sluice/pipeline/kafka"
	"sluice/pipeline/plan"
	"sluice/pipeline/plan/text"
	"sluice/pipeline/tap"
)

func runCommand() *cobra.Command {
	var file, stages string
	var grace time.Duration
	cmd := &cobra.Command{
		Use:   "run -c FILE",
		Short: "Run a worker: read topics, write verdicts",
		Long: `Runs one worker. It loads, verifies and self-tests the models, then joins its consumer group, reads the input topics and
writes results and dead letters, until SIGTERM or SIGINT: then it finishes and commits what is in flight, for at most the
grace period, and ends with exit code 0. A second signal ends it at once. A restart within the session timeout causes no
rebalance.

With escalation in the configuration the worker also reads the escalation topic, asks the endpoint and writes final verdicts.
--stage splits the two, so that each can be scaled by itself; the configuration stays the same.`,
		Example: "  sluice run -c reviews.yaml\n  SLUICE_KAFKA__GROUP=reviews-test sluice run -c reviews.yaml " +
			"--input.start=latest",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := commandConfig(cmd, file)
			if err != nil {
				return err
			}
			if !slices.Contains([]string{stageAll, stageClassify, stageEscalate}, stages) {
				return usageErrorf("--stage %s: it is one of %s, %s and %s", stages, stageAll, stageClassify,
					stageEscalate)
			}
			log, problems := newLogger(cmd.ErrOrStderr(), c.Log)
			for _, w := range c.Warnings {
				log.Warn("configuration: " + w.String())
			}
			return runWorker(cmd.Context(), &c.Settings, workerOptions{
				stages: stages, grace: grace, log: log, problems: problems,
				steps: steps{func(format string, args ...any) { log.Info(fmt.Sprintf(format, args...)) }},
			})
		},
	}
	addConfigFlag(cmd, &file)
	cmd.Flags().DurationVar(&grace, "grace", 30*time.Second, "`DURATION` for which a stopping worker goes on "+
		"finishing what is in flight")
	describe(cmd.Flags(), "grace", envGrace, "10s")
	cmd.Flags().StringVar(&stages, "stage", stageAll, "`STAGE` to run: all, classify (models only), or escalate (the "+
		"endpoint only, no models are loaded)")
	describe(cmd.Flags(), "stage", envStage, "escalate")
	settings.Keys().AddFlags(cmd.Flags())
	return cmd
}

func addConfigFlag(cmd *cobra.Command, file *string) {
	cmd.Flags().StringVarP(file, "config", "c", "", "configuration `FILE` (YAML)")
	describe(cmd.Flags(), "config", envConfig, "reviews.yaml")
}

// commandConfig is the configuration of a command that has -c and the key flags.
func commandConfig(cmd *cobra.Command, file string) (*settings.Loaded, error) {
	hostname, err := os.Hostname()
	if err != nil {
		hostname = "" // then ${HOSTNAME} is a mistake that is named with its line
	}
	src := config.Source{File: file, Environ: os.Environ(), Flags: cmd.Flags(), Hostname: hostname,
		Commands: commandEnv}
	if file == "" && !src.AnyKeyGiven() {
		return nil, usageErrorf("%s: no configuration; give -c FILE (or %s)", cmd.CommandPath(), envConfig)
	}
	return settings.Load(src)
}

// What --stage may say.
const (
	stageAll      = "all"
	stageClassify = "classify"
	stageEscalate = "escalate"
)

// workerOptions is what a worker needs beside its settings.
type workerOptions struct {
	stages   string // stageAll, stageClassify or stageEscalate; "" is stageAll
	grace    time.Duration
	log      *slog.Logger
	problems *problemLog
	steps    steps
	started  func(*runningWorker) // called when the worker begins to join its group
}

// wrapProcessor is for tests that need a record which ends the process.
var wrapProcessor = func(p pipeline.Processor) pipeline.Processor { return p }

// runningWorker is what others may ask of a worker at work.
type runningWorker struct {
	stage  *pipeline.Stage // classify; nil where it does not run
	models []modelPage
	server *server
}

// workerStage is one stage with everything that it needs.
type workerStage struct {
	name       string // classify, escalate
	stage      *pipeline.Stage
	rates      *tap.Rates // of the stage
	source     pipeline.Source
	escalation func() *escalationPage // of the escalate stage
	close      func()                 // after the stage has ended
}

// runWorker runs a worker until ctx ends (nil) or a fault ends it.
func runWorker(ctx context.Context, s *settings.Settings, o workerOptions) error {
	began := time.Now()
	classify, asks := o.stages != stageEscalate, o.stages != stageClassify && s.Escalation.On()
	if o.stages == stageEscalate && !asks {
		return pipeline.Faultf(pipeline.Config, "start", "escalation", "--stage escalate: escalation.when is not "+
			"set, so there are no requests to read; set it as the workers of the classify stage have it")
	}
	o.log.Info("starting", "version", ownVersion(), "group", s.Kafka.Group, "instance", s.Kafka.InstanceID, "guarantee",
		s.Kafka.Guarantee, "start", s.Input.Start, "stage", o.stages)
	reg := prometheus.NewRegistry()
	reg.MustRegister(collectors.NewBuildInfoCollector(), collectors.NewProcessCollector(
		collectors.ProcessCollectorOpts{}), collectors.NewGoCollector())
	runners := runnersOf(s.Runners)
	srv, err := startServer(s.Server, reg, o.problems, statusPage{
		Version: ownVersion(), Started: began, Group: s.Kafka.Group, InstanceID: s.Kafka.InstanceID,
		Guarantee: s.Kafka.Guarantee,
		Inputs:    s.Input.Topics, Output: s.Output.Topic, DeadLetter: s.DeadLetter.Topic, Runners: runners,
	})
	if err != nil {
		return err
	}
	defer srv.close()
	if a := srv.address(); a != "" {
		o.log.Info("serving /metrics, /healthz, /readyz and /status", "address", a)
	}
	kc, err := kafkaConfig(s)
	if err != nil {
		return err
	}
	var plan *escalationPlan
	if s.Escalation.On() {
		if plan, err = planEscalation(s); err != nil {
			return err
		}
	}

	var stages []*workerStage
	defer func() {
		for _, st := range stages {
			st.close()
		}
	}()
	var pages []modelPage
	if classify {
		var st *workerStage
		if st, pages, err = newClassifyStage(ctx, s, kc, plan, reg, srv, o); err != nil {
			if ctx.Err() != nil {
				return nil // stopped before it began
			}
			return err
		}
		stages = append(stages, st)
	}
	if asks {
		st, err := newEscalateStage(s, kc, plan, reg, o)
		if err != nil {
			return err
		}
		stages = append(stages, st)
	}
	for _, st := range stages {
		reg.MustRegister(st.stage)
	}
	srv.serve(stages, func(p *statusPage) {
		p.Models = pages
		if classify {
			p.OnnxRuntime = ort.Version()
		}
	})
	o.log.Info("ready to join the group", "runners", runners, "after", time.Since(began).Round(time.Millisecond))
	if o.started != nil {
		w := &runningWorker{models: pages, server: srv}
		if classify {
			w.stage = stages[0].stage
		}
		o.started(w)
	}
	if err := runStages(ctx, stages); err != nil {
		o.log.Error("stopped", "kind", pipeline.KindOf(err), "error", err)
		return err
	}
	o.log.Info("stopped", "reason", context.Cause(ctx))
	return nil
}

// runStages runs stages until ctx ends, or one of them ends with a fault: then the others finish what is in flight,
// too, and the first fault is returned.
func runStages(ctx context.Context, stages []*workerStage) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var first error
	var once sync.Once
	var wg sync.WaitGroup
	for _, st := range stages {
		wg.Go(func() {
			if err := st.stage.Run(ctx, st.source); err != nil {
				once.Do(func() { first = err })
				cancel(fmt.Errorf("the %s stage has ended: %w", st.name, err))
			}
		})
	}
	wg.Wait()
	return first
}

// newClassifyStage loads the models and makes the stage that runs them.
func newClassifyStage(ctx context.Context, s *settings.Settings, kc kafka.Config, escalation *escalationPlan, reg *prometheus.Registry,
	srv *server, o workerOptions) (_ *workerStage, pages []modelPage, err error) {
	metrics := pipeline.NewStageMetrics(reg, pipeline.StageMetricsOptions{Dispositions: pipeline.ClassifyDispositions})
	runners := runnersOf(s.Runners)
	var closers []func()
	closeAll := func() {
		for _, c := range slices.Backward(closers) {
			c()
		}
	}
	defer func() {
		if err != nil {
			closeAll()
		}
	}()
	srv.enter("starting: verifying and loading models")
	models, err := openModels(ctx, s.Models, runners, s.RunTimeout, o.steps)
	if err != nil {
		return nil, nil, err
	}
	closers = append(closers, func() { closeModels(models) })
	for i, m := range withStudents(models) {
		pages = append(pages, m.page())
		o.log.Info("model loaded", "name", m.settings.Name, "model", m.tag(), "task", m.model.Task, "provider",
			m.session.Provider(), "layout", m.model.Layout)
		for _, w := range pages[i].Warnings {
			o.log.Warn("model "+m.settings.Name, "warning", w)
		}
	}

	srv.enter("starting: warming up models")
	var stage atomic.Pointer[pipeline.Stage] // set before the engine gets its first row
	fail := func(err error) {
		if st := stage.Load(); st != nil {
			st.Fail(err)
		}
	}
	dog := newWatchdog(s.RunTimeout, failAndSay(fail, o.log))
	end := o.steps.begin("warming up")
	eng, err := newEngine(ctx, models, engine.Options{
		Devices: devices(runners), BatchTokens: s.BatchTokens, Warm: true, Deadline: s.Deadline,
		CacheBytes: int(s.Cache.MaxBytes), Timeout: s.RunTimeout, Watchdog: dog,
		Metrics: engine.NewMetrics(reg, metrics), Fail: fail,
	})
	end()
	if err != nil {
		return nil, nil, err
	}
	closers = append(closers, eng.Close)
	for i, m := range withStudents(models) {
		b := m.handle.Budget()
		pages[i].BatchTokens = b.Tokens
		pages[i].BatchMeasured = b.Curve
		o.log.Info("token budget of a batch", "model", b.Model, "tokens", b.Tokens, "measured", b.Curve != nil)
	}

	kc.Logger, kc.Observer = o.log, observe(metrics)
	if failpoint.On {
		kc.Failpoint = failpoint.Hit
		o.log.Warn("this binary was built for fault tests: the environment can end it at its failpoints")
	}
	client, err := kafka.New(kc)
	if err != nil {
		return nil, nil, &pipeline.Fault{Kind: pipeline.Config, Stage: "start", Reason: "kafka", Err: err}
	}
	closers = append(closers, client.Close)
	publisher, err := publisherOf(s, client.MaxMessageBytes, metrics.RuleFailed)
	if err != nil {
		return nil, nil, err
	}
	way, err := planOf(models, s, escalation, publisher, plan.Options{Metrics: plan.NewMetrics(reg, metrics), Watchdog: dog,
		Fail: fail}, text.NewMetrics(reg))
	if err != nil {
		return nil, nil, err
	}
	closers = append(closers, way.Close)
	rates := tap.NewRates(time.Now)
	st := pipeline.NewStage(wrapProcessor(way), client, pipeline.StageOptions{
		Limits: limitsOf(s.Limits), UrgentTopics: s.Urgent.Topics, CommitInterval: s.Kafka.CommitInterval,
		Grace: o.grace, Replace: publisher.Replace, Panicked: publisher.Panicked, Quarantine: publisher.Quarantine,
		Metrics: metrics, Logger: o.log, Taps: []pipeline.Tap{rates}, Watchdog: dog,
	})
	stage.Store(st)
	return &workerStage{name: "classify", stage: st, rates: rates, source: client, close: closeAll}, pages, nil
}
