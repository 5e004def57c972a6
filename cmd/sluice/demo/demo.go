// Package demo shows the main job without a cluster: a broker inside this process, a producer of real sentences, a
// worker, and an independent read_committed consumer whose view is what the terminal shows. It does not know how a
// worker is made: whoever calls it hands that in.
//
//	demo.go      the broker, and who runs beside whom
//	traffic.go   the producer and the consumer
//	standin.go   an endpoint to escalate to
//	texts.go     what is produced
//	row.go       a result, as its consumers read it
//	state.go     what has happened so far (plain state behind a lock)
//	view.go      the output; table.go what stands where
package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"

	"sluice/pipeline"
)

const (
	inputTopic      = "customer_reviews"
	outputTopic     = "review_analysis"
	deadLetterTopic = "review_dlq"
	partitions      = 3
	mostAhead       = 500 // most records produced and not yet answered, so that a Rate of 0 does not fill the memory
	retention       = 10 * time.Minute
)

// Options say what is shown.
type Options struct {
	Rate     float64 // records a second; 0: as fast as they are judged
	Records  int     // that are produced; 0: until ctx ends
	Models   []Model
	Port     int  // of the broker on 127.0.0.1; 0: any that is free
	Plain    bool // lines, also on a terminal
	Escalate bool // ask a stand-in of an endpoint about what the model is unsure of
}

// Model is one that the worker runs.
type Model struct {
	Name  string
	Dir   string
	Field string // of its verdicts; "": Name
}

// Verdict is the name of the model's verdicts.
func (m *Model) Verdict() string {
	if m.Field != "" {
		return m.Field
	}
	return m.Name
}

// Find finds the models of the demo in a directory: sentiment and ner, or where neither is there whatever the directory
// holds under names that are valid.
func Find(dir string, valid func(name string) bool) ([]Model, error) {
	has := func(name string) bool {
		_, err := os.Stat(filepath.Join(dir, name, "config.json"))
		return err == nil
	}
	var list []Model
	for _, m := range []Model{{Name: "sentiment"}, {Name: "ner", Field: "entities"}} {
		if has(m.Name) {
			list = append(list, m)
		}
	}
	if list == nil {
		entries, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, pipeline.Faultf(pipeline.Config, "start", "models", "demo: %w", err)
		}
		for _, e := range entries {
			if has(e.Name()) && valid(e.Name()) {
				list = append(list, Model{Name: e.Name()})
			}
		}
	}
	if list == nil {
		return nil, pipeline.Faultf(pipeline.Config, "start", "models", "demo: there is no model directory in %s; "+
			"give the directory that holds them with --models", dir)
	}
	for i := range list {
		list[i].Dir = filepath.Join(dir, list[i].Name)
	}
	return list, nil
}

// Plan is what the worker is to do: what a configuration file for the demo would say. All else is as by default.
type Plan struct {
	Broker                    string
	Group, Instance           string
	Input, Output, DeadLetter string // topics
	CommitInterval            time.Duration
	Models                    []Model
	Listen                    string      // of its HTTP server
	Escalation                *Escalation // nil: nothing is asked
}

// Escalation is whom the worker asks about what.
type Escalation struct {
	Verdict, When string
	Topic         string // of requests
	URL, Model    string // of the endpoint
	Instruction   string
}

// Worker is a worker at work, for those who look at it.
type Worker struct {
	Models    []string // tags, as in verdicts
	Describe  []string // a line a model
	Address   string   // of its HTTP server; "": none
	Guarantee string
	Queue     func() (lag int64, inFlight int)
	Problem   func() string // the latest, with its time; "": none
}

// Job is what a worker is run with.
type Job struct {
	Plan    Plan
	Log     io.Writer                        // for its log
	Say     func(format string, args ...any) // for what a person should read while it starts
	Started func(Worker)                     // called once, when the worker begins to join its group
}

// Run runs until the records are judged, ctx ends, or something fails. worker runs a worker until its context ends
// (nil) or it fails. What is shown goes to out, log lines to errw.
func Run(ctx context.Context, out, errw io.Writer, o Options, worker func(context.Context, Job) error) error {
	began := time.Now()
	texts, err := Texts()
	if err != nil {
		return err
	}
	cluster, err := startBroker(o.Port)
	if err != nil {
		return err
	}
	defer cluster.Close()
	plan := Plan{Broker: cluster.ListenAddrs()[0], Group: "sluice-demo", Instance: "demo-0", Input: inputTopic,
		Output: outputTopic, DeadLetter: deadLetterTopic, CommitInterval: 50 * time.Millisecond, Models: o.Models,
		Listen: "127.0.0.1:0"}
	if o.Escalate {
		end, err := escalate(&plan)
		if err != nil {
			return err
		}
		defer end()
	}
	live := newState(began, plan)
	view := newView(out, live, o.Plain)
	view.introduce(plan)

	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	// The consumer outlives the worker, to see what it commits while it stops.
	consuming, stopConsumer := context.WithCancel(context.WithoutCancel(ctx))
	defer stopConsumer()
	var wg sync.WaitGroup
	errs := make(chan error, 4)
	start := func(what string, f func() error) {
		wg.Go(func() {
			if err := f(); err != nil && ctx.Err() == nil {
				errs <- err
				stop(fmt.Errorf("%s failed", what))
			}
		})
	}
	start("the worker", func() error {
		defer stopConsumer()
		err := worker(ctx, Job{Plan: plan, Log: view.logWriter(errw), Say: view.say, Started: func(w Worker) {
			live.attach(w)
			view.ready(w)
		}})
		if err == nil && ctx.Err() == nil {
			err = errors.New("the worker ended before the demo")
		}
		return err
	})
	start("the producer", func() error { return produce(ctx, plan.Broker, texts, o, live) })
	start("the consumer", func() error {
		return consume(consuming, plan.Broker, live, view, o.Records, func() { stop(nil) })
	})
	start("retention", func() error { forget(ctx, cluster); return nil })
	wg.Wait()
	view.end()
	live.summary(out, o.Records)
	select {
	case err := <-errs:
		return err
	default:
	}
	if missing := live.missing(o.Records); missing != "" && context.Cause(ctx) == context.Canceled {
		return errors.New(missing)
	}
	return nil
}

// startBroker starts the broker with its topics.
func startBroker(port int) (*kfake.Cluster, error) {
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.Ports(port))
	if err != nil {
		return nil, pipeline.Faultf(pipeline.Config, "start", "broker", "demo: the embedded broker cannot listen on "+
			"127.0.0.1:%d (%w); give another --port, or 0", port, err)
	}
	keep := map[string]string{"retention.ms": strconv.FormatInt(retention.Milliseconds(), 10)}
	for _, topic := range []string{inputTopic, outputTopic, deadLetterTopic, requestTopic} {
		if err := cluster.CreateTopic(topic, partitions, keep); err != nil {
			cluster.Close()
			return nil, fmt.Errorf("demo: creating topic %s: %w", topic, err)
		}
	}
	return cluster, nil
}

// forget has the broker drop what is too old, until ctx ends: it holds records in memory.
func forget(ctx context.Context, cluster *kfake.Cluster) {
	tick := time.NewTicker(time.Minute)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			cluster.ApplyRetention()
		case <-ctx.Done():
			return
		}
	}
}
