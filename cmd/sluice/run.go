package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/spf13/cobra"

	"sluice/model/ort"
	"sluice/pipeline"
	"sluice/pipeline/failpoint"
	"sluice/pipeline/kafka"
)

func runCommand() *cobra.Command {
	var file string
	var grace time.Duration
	cmd := &cobra.Command{
		Use:   "run -c FILE",
		Short: "Run a worker: read topics, write verdicts",
		Long: `Runs one worker. It loads, verifies and self-tests the models, then joins its consumer group, reads the input topics and
writes results and dead letters, until SIGTERM or SIGINT: then it finishes and commits what is in flight, for at most the
grace period, and ends with exit code 0. A second signal ends it at once. A restart within the session timeout causes no
rebalance.`,
		Example: "  sluice run -c reviews.yaml\n  SLUICE_KAFKA__GROUP=reviews-test sluice run -c reviews.yaml --input.start=latest",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := commandConfig(cmd, file)
			if err != nil {
				return err
			}
			log, problems := newLogger(cmd.ErrOrStderr(), c.Log)
			for _, w := range c.warnings {
				log.Warn("configuration: " + w.String())
			}
			return runWorker(cmd.Context(), &c.Settings, workerOptions{
				grace: grace, log: log, problems: problems, steps: steps{func(format string, args ...any) { log.Info(fmt.Sprintf(format, args...)) }},
			})
		},
	}
	addConfigFlag(cmd, &file)
	cmd.Flags().DurationVar(&grace, "grace", 30*time.Second, "`DURATION` for which a stopping worker goes on finishing what is in flight")
	describe(cmd.Flags(), "grace", envGrace, "10s")
	addKeyFlags(cmd.Flags())
	return cmd
}

func addConfigFlag(cmd *cobra.Command, file *string) {
	cmd.Flags().StringVarP(file, "config", "c", "", "configuration `FILE` (YAML)")
	describe(cmd.Flags(), "config", envConfig, "reviews.yaml")
}

// commandConfig is the configuration of a command that has -c and the key flags.
func commandConfig(cmd *cobra.Command, file string) (*loaded, error) {
	hostname, err := os.Hostname()
	if err != nil {
		hostname = "" // then ${HOSTNAME} is a mistake that is named with its line
	}
	src := configSource{file: file, environ: os.Environ(), flags: cmd.Flags(), hostname: hostname}
	if file == "" && !anyKeyGiven(src) {
		return nil, usageErrorf("%s: no configuration; give -c FILE (or %s)", cmd.CommandPath(), envConfig)
	}
	return loadConfig(src)
}

// workerOptions is what a worker needs beside its settings.
type workerOptions struct {
	grace    time.Duration
	log      *slog.Logger
	problems *problemLog
	steps    steps
	started  func(*runningWorker) // called when the worker begins to join its group
}

// runningWorker is what others may ask of a worker at work.
type runningWorker struct {
	stage  *pipeline.Stage
	models []modelPage
	server *server
}

// runWorker runs a worker until ctx ends (nil) or a fault ends it.
func runWorker(ctx context.Context, s *Settings, o workerOptions) error {
	began := time.Now()
	o.log.Info("starting", "version", ownVersion(), "group", s.Kafka.Group, "instance", s.Kafka.InstanceID, "guarantee", s.Kafka.Guarantee, "start", s.Input.Start)
	reg := prometheus.NewRegistry()
	reg.MustRegister(collectors.NewBuildInfoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), collectors.NewGoCollector())
	metrics := pipeline.NewMetrics(reg)
	runners := runnersOf(s.Runners)
	srv, err := startServer(s.Server, reg, o.problems, statusPage{
		Version: ownVersion(), Started: began, Group: s.Kafka.Group, InstanceID: s.Kafka.InstanceID, Guarantee: s.Kafka.Guarantee,
		Inputs: s.Input.Topics, Output: s.Output.Topic, DeadLetter: s.DeadLetter.Topic, Runners: runners,
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

	srv.enter("starting: verifying and loading models")
	models, err := openModels(ctx, s.Models, runners, s.RunTimeout, o.steps)
	if err != nil {
		if ctx.Err() != nil {
			return nil // stopped before it began
		}
		return err
	}
	defer closeModels(models)
	var pages []modelPage
	for i, m := range withStudents(models) {
		pages = append(pages, m.page())
		o.log.Info("model loaded", "name", m.settings.Name, "model", m.tag(), "task", m.model.Task, "provider", m.session.Provider(), "layout", m.model.Layout)
		for _, w := range pages[i].Warnings {
			o.log.Warn("model "+m.settings.Name, "warning", w)
		}
	}

	srv.enter("starting: warming up models")
	var stage *pipeline.Stage // set before the engine gets its first row
	end := o.steps.begin("warming up")
	engine, err := newEngine(models, true, pipeline.EngineOptions{
		Runners: runners, BatchTokens: s.BatchTokens, Deadline: s.Deadline, CacheBytes: int(s.Cache.MaxBytes), Timeout: s.RunTimeout,
		Metrics: metrics, Fail: func(err error) { stage.Fail(err) },
	})
	end()
	if err != nil && ctx.Err() != nil {
		return nil
	}
	if err != nil {
		return err
	}
	defer engine.Close()
	for i, b := range engine.Budgets() {
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
		return &pipeline.Fault{Kind: pipeline.Config, Stage: "start", Reason: "kafka", Err: err}
	}
	defer client.Close()
	classifier, writer, err := newClassifier(models, engine, s, client.MaxMessageBytes, metrics)
	if err != nil {
		return err
	}
	defer classifier.Close()
	stage = pipeline.NewStage(classifier, client, pipeline.StageOptions{
		Limits: limitsOf(s.Limits), UrgentTopics: s.Urgent.Topics, CommitInterval: s.Kafka.CommitInterval, Grace: o.grace, Replace: writer.Replace, Metrics: metrics, Logger: o.log,
	})
	reg.MustRegister(stage)
	srv.serve(stage.Status, func(p *statusPage) { p.Models, p.OnnxRuntime = pages, ort.Version() })
	o.log.Info("ready to join the group", "runners", runners, "after", time.Since(began).Round(time.Millisecond))
	if o.started != nil {
		o.started(&runningWorker{stage: stage, models: pages, server: srv})
	}
	err = stage.Run(ctx, client)
	if err != nil {
		o.log.Error("stopped", "kind", pipeline.KindOf(err), "error", err)
		return err
	}
	o.log.Info("stopped", "reason", context.Cause(ctx))
	return nil
}
