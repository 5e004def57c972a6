package worker

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"sluice/cmd/sluice/settings"
	"sluice/pipeline"
	"sluice/pipeline/failpoint"
	"sluice/pipeline/kafka"
	"sluice/pipeline/store"
	"sluice/pipeline/tap"
)

// This file owns the life of a worker: the endpoints first, then one stage after the other, then all of them at once.

// Options is what a worker needs beside its settings.
type Options struct {
	Stage    string        // one of List.Stages; "" is All
	Grace    time.Duration // how long a worker that was told to stop goes on finishing what is in flight
	Version  string        // of the program, for /status
	Log      *slog.Logger
	Problems *Problems // of Log, for /status
	Steps    Steps     // told of what takes long at the start
	Process  *Process
	Started  func(*Worker) // called when the worker begins to join its groups; nil: nobody is
}

// Worker is a worker at work.
type Worker struct {
	Address string     // of its HTTP endpoints; "" if it has none
	Stages  []*Running // in the order of the list
}

// Stage is the stage of a kind; nil where it does not run.
func (w *Worker) Stage(name string) *Running {
	for _, r := range w.Stages {
		if r.Name == name {
			return r
		}
	}
	return nil
}

// Run runs a worker until ctx ends (nil) or a fault ends it. Its stages are those of the list that o.Stage names and
// the settings have; the list is what there is to name.
func (l List) Run(ctx context.Context, s *settings.Settings, o Options) error {
	began := time.Now()
	picked, err := l.Pick(s, o.Stage)
	if err != nil {
		return err
	}
	o.Log.Info("starting", "version", o.Version, "group", s.Kafka.Group, "instance", s.Kafka.InstanceID, "guarantee",
		s.Kafka.Guarantee, "start", s.Input.Start, "stage", o.Stage)
	if failpoint.On {
		o.Log.Warn("this binary was built for fault tests: the environment can end it at its failpoints")
	}
	reg := prometheus.NewRegistry()
	reg.MustRegister(collectors.NewBuildInfoCollector(), collectors.NewProcessCollector(
		collectors.ProcessCollectorOpts{}), collectors.NewGoCollector())
	srv, err := startServer(s.Server, reg, o.Problems, l, about{Version: o.Version, Started: began, Settings: s})
	if err != nil {
		return err
	}
	defer srv.close()
	if a := srv.address(); a != "" {
		o.Log.Info("serving /metrics, /healthz, /readyz and /status", "address", a)
	}
	base, err := KafkaConfig(s)
	if err != nil {
		return err
	}
	var stages []*Running
	defer func() {
		for _, r := range stages {
			r.close()
		}
	}()
	for _, k := range picked {
		r, err := k.build(ctx, s, base, reg, srv, o)
		if err != nil {
			if ctx.Err() != nil {
				return nil // stopped before it began
			}
			return err
		}
		stages = append(stages, r)
		reg.MustRegister(r.Stage)
	}
	srv.serve(stages)
	o.Log.Info("ready to join the group", "runners", Runners(s.Runners), "after",
		time.Since(began).Round(time.Millisecond))
	if o.Started != nil {
		o.Started(&Worker{Address: srv.address(), Stages: stages})
	}
	if err := runStages(ctx, stages); err != nil {
		o.Log.Error("stopped", "kind", pipeline.KindOf(err), "error", err)
		return err
	}
	o.Log.Info("stopped", "reason", context.Cause(ctx))
	return nil
}

// build makes a stage of the kind, with all that every stage has.
func (k Kind) build(ctx context.Context, s *settings.Settings, base kafka.Config, reg prometheus.Registerer,
	srv *server, o Options) (*Running, error) {
	log := o.Log
	if k.Metrics.Prefix != "" { // lines of the stage without a prefix are those of a worker that has no other
		log = log.With("stage", k.Name)
	}
	metrics := pipeline.NewStageMetrics(reg, k.Metrics)
	client, err := newClient(k.Kafka(s, base), metrics, log)
	if err != nil {
		return nil, err
	}
	rates := tap.NewRates(time.Now)
	stage := new(atomic.Pointer[pipeline.Stage])
	stores := new([]store.Store)
	fail := func(err error) {
		if st := stage.Load(); st != nil {
			st.Fail(err)
		}
	}
	r, err := k.Build(ctx, Env{
		Settings: s, Process: o.Process, Client: client, Registry: reg, Log: log, Steps: o.Steps, Enter: srv.enter,
		Fail: fail, stage: stage, stores: stores,
		Stage: pipeline.StageOptions{
			Limits: Limits(s.Limits), CommitInterval: s.Kafka.CommitInterval, Grace: o.Grace, Metrics: metrics,
			Logger: log, Taps: []pipeline.Tap{rates},
			Watchdog: o.Process.Watchdog(s.RunTimeout, failAndSay(fail, log)),
		},
	})
	if err != nil {
		client.Close()
		return nil, err
	}
	r.Name, r.rates, r.client, r.stores, r.log = k.Name, rates, client, *stores, log
	return r, nil
}

// NewStage makes the stage: it runs p over the records of Client, and publishes by way of it. Fail ends it from now on,
// so it is made before the processor gets its first record. o is Env.Stage with what the kind adds. stores have every
// outcome before it is committed; the worker closes them after the stage.
func (e *Env) NewStage(p pipeline.Processor, o pipeline.StageOptions, stores ...store.Store) *pipeline.Stage {
	*e.stores = stores
	st := pipeline.NewStage(e.Process.processor(p), store.Before(e.Client, stores...), o)
	e.stage.Store(st)
	return st
}

// runStages runs stages until ctx ends, or one of them ends with a fault: then the others finish what is in flight,
// too, and the first fault is returned.
func runStages(ctx context.Context, stages []*Running) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var first error
	var once sync.Once
	var wg sync.WaitGroup
	for _, r := range stages {
		wg.Go(func() {
			if err := r.Stage.Run(ctx, r.Source); err != nil {
				once.Do(func() { first = err })
				cancel(fmt.Errorf("the %s stage has ended: %w", r.Name, err))
			}
		})
	}
	wg.Wait()
	return first
}
