// Command latency measures a worker under an open loop on a real broker: latency from the intended send time until a
// read_committed consumer has the result, at shares of the highest rate that is sustained, once with at-least-once and
// short commit intervals and once with exactly-once and the default ones. At 120 % the queue must grow, and nothing may
// be lost.
//
//	make bench-latency
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"sluice/bench/trial"
	"sluice/cmd/sluice/load"
)

// setting is one way to run the worker.
type setting struct {
	guarantee, interval string
	shares              []float64
}

var settings = []setting{
	{"at-least-once", "5ms", []float64{0.3, 0.8}},
	{"exactly-once", "100ms", []float64{0.3, 0.8, 1.2}},
}

// latency is what holds for all settings.
type latency struct {
	*trial.Command
	length, search time.Duration // of each load step, and of each step of the search
	broker         *trial.Broker
}

func main() {
	l := &latency{Command: trial.NewCommand("bench/latency", "bench/results/latency.md")}
	flag.DurationVar(&l.length, "length", time.Minute, "length of each load step; that at 120 % lasts four times as "+
		"long")
	flag.DurationVar(&l.search, "trial", 20*time.Second, "length of each step of the search")
	l.Main(l.run)
}

func (l *latency) run(ctx context.Context) (err error) {
	if l.broker, err = trial.StartBroker(); err != nil {
		return err
	}
	defer l.broker.Stop()
	var page bytes.Buffer
	fmt.Fprintf(&page, "# Latency under load\n\nModel `%s`; texts of mixed lengths (5 to about 128 tokens, hardly "+
		"two alike), Poisson arrivals fixed in advance; from the intended send time until a read_committed consumer "+
		"has the result.\n"+
		"Broker, generator and worker share the cores. The maximum is the highest rate at which the queue did not "+
		"grow. Made by `make bench-latency`. Machine: %v; %s.\n", filepath.Base(l.Model), load.DescribeMachine(),
		time.Now().UTC().Format(time.DateOnly))
	var reports []*load.Report
	for i, s := range settings {
		rep, err := l.measure(ctx, s, fmt.Sprintf("latency-%d", i))
		if err != nil {
			return fmt.Errorf("%s: %w", s.guarantee, err)
		}
		rep.System = fmt.Sprintf("sluice run, %s, commit_interval %s", s.guarantee, s.interval)
		reports = append(reports, rep)
		write(&page, s, rep)
	}
	encoded, err := json.MarshalIndent(reports, "", " ")
	if err == nil {
		err = os.WriteFile(strings.TrimSuffix(l.Out, ".md")+".json", append(encoded, '\n'), 0o644)
	}
	return errors.Join(err, l.Publish(page.Bytes()))
}

// write writes the section of a setting.
func write(page io.Writer, s setting, rep *load.Report) {
	columns := []string{"load", "offered/s", "achieved/s", "p50 ms", "p90", "p99", "p99.9", "max", "CPU s per 1,000",
		"peak RSS MiB", "queue grew by, s of load", "empty after, s", "lost, doubled"}
	fmt.Fprintf(page, "\n## %s, commit_interval %s\n\nMaximum %.0f msgs/s.\n\n| %s |\n|%s\n", s.guarantee, s.interval,
		rep.Maximum, strings.Join(columns, " | "), strings.Repeat("---|", len(columns)))
	for _, st := range rep.Steps {
		q := st.Latency
		cpu, rss := "-", "-"
		if u := st.Worker; u != nil {
			cpu, rss = fmt.Sprintf("%.2f", u.CPUPer1000), fmt.Sprintf("%.0f to %.0f", u.RSSBegin/(1<<20),
				u.RSSMax/(1<<20))
		}
		fmt.Fprintf(page, "| %.0f %% | %.0f | %.0f | %.1f | %.1f | %.1f | %.1f | %.1f | %s | %s | %.1f | %.1f | %d, "+
			"%d |\n",
			100*st.Share, st.Rate, st.Achieved, q.P50, q.P90, q.P99, q.P999, q.Max, cpu, rss, st.Growth, st.Drained,
			st.Lost, st.Doubled)
	}
	for _, note := range rep.Notes {
		fmt.Fprintf(page, "\nNote: %s.\n", strings.TrimSuffix(note, "."))
	}
}

// measure runs one worker through the search and the load steps.
func (l *latency) measure(ctx context.Context, set setting, group string) (rep *load.Report, err error) {
	texts, err := l.Generated("mixed")
	if err != nil {
		return nil, err
	}
	plan := load.WorkerPlan{Binary: l.Binary, Model: l.Model, Dir: l.broker.Dir, Group: group, Name: "latency-0",
		Serve: true, Args: []string{"--kafka.guarantee=" + set.guarantee, "--kafka.commit_interval=" + set.interval}}
	run := fmt.Sprint(time.Now().UnixNano())
	plan.Target = load.Target{Brokers: []string{l.broker.Address}, Input: "in-" + run, Output: "out-" + run,
		DeadLetter: "dlq-" + run, Format: load.JSON}
	if err := load.CreateTopics(ctx, plan.Target, l.Partitions); err != nil {
		return nil, err
	}
	worker, err := load.StartWorker(ctx, plan)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, worker.Stop()) }()
	s, err := load.Open(ctx, plan.Target, load.Options{Texts: texts, Seed: 1, Probe: load.Probe{PIDs: []int{worker.PID},
		Metrics: worker.HTTP + "/metrics"}})
	if err != nil {
		return nil, err
	}
	defer s.Close()
	say := func(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }
	var steady, over []float64
	for _, share := range set.shares {
		if share > 1 {
			over = append(over, share)
		} else {
			steady = append(steady, share)
		}
	}
	rep, err = s.Run(ctx, load.Plan{Shares: steady, Length: l.length, Trial: l.search}, say)
	if err != nil {
		return nil, err
	}
	for _, share := range over {
		st, err := s.Step(ctx, share*rep.Maximum, 4*l.length)
		if err != nil {
			return nil, err
		}
		st.Share = share
		rep.Steps = append(rep.Steps, st)
	}
	return rep, nil
}
