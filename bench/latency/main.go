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
	"os"
	"path/filepath"
	"strings"
	"time"

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

func main() {
	binary := flag.String("sluice", "dist/sluice", "the worker")
	model := flag.String("model", "models/sentiment", "model directory")
	material := flag.String("texts", "cmd/sluice/demo/stream.jsonl", "JSON lines with a text field: the words of the "+
		"texts")
	seconds := flag.Duration("length", time.Minute, "length of each load step; that at 120 % lasts four times as long")
	trial := flag.Duration("trial", 20*time.Second, "length of each step of the search")
	partitions := flag.Int("partitions", 6, "partitions of the topics")
	out := flag.String("out", "bench/results/latency", "where the reports go, without .md and .json")
	flag.Parse()
	if err := run(context.Background(), *binary, *model, *material, *out, *partitions, *seconds, *trial); err != nil {
		fmt.Fprintln(os.Stderr, "bench/latency:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, binary, model, material, out string, partitions int, length, trial time.Duration) error {
	words, err := load.ReadTexts(material, "text")
	if err != nil {
		return err
	}
	profile, err := load.ProfileNamed("mixed")
	if err != nil {
		return err
	}
	broker, err := load.StartBroker()
	if err != nil {
		return err
	}
	defer broker.Stop()
	var page bytes.Buffer
	m := load.DescribeMachine()
	fmt.Fprintf(&page, "# Latency under load\n\nModel `%s`; texts of mixed lengths (5 to about 128 tokens, hardly "+
		"two alike), Poisson arrivals fixed in advance; from the intended send time until a read_committed consumer "+
		"has the result.\n"+
		"Broker, generator and worker share the cores. The maximum is the highest rate at which the queue did not "+
		"grow. Made by `make bench-latency`. Machine: %s, %d cores; %s.\n", filepath.Base(model), m.CPU, m.Cores,
		time.Now().UTC().Format(time.DateOnly))
	var reports []*load.Report
	for i, s := range settings {
		texts, err := load.NewTexts(profile, words, 1)
		if err != nil {
			return err
		}
		rep, err := measure(ctx, broker, load.WorkerPlan{Binary: binary, Model: model, Dir: broker.Dir,
			Group: fmt.Sprintf("latency-%d", i), Name: "latency-0", Serve: true,
			Args: []string{"--kafka.guarantee=" + s.guarantee, "--kafka.commit_interval=" + s.interval}}, texts,
			partitions, s.shares, length, trial)
		if err != nil {
			return fmt.Errorf("%s: %w", s.guarantee, err)
		}
		rep.System = fmt.Sprintf("sluice run, %s, commit_interval %s", s.guarantee, s.interval)
		reports = append(reports, rep)
		fmt.Fprintf(&page, "\n## %s, commit_interval %s\n\nMaximum %.0f msgs/s.\n\n| load | offered/s | achieved/s | "+
			"p50 ms | p90 | p99 | p99.9 | max | CPU s per 1,000 | peak RSS MiB | queue grew by, s of load | empty "+
			"after, s | lost, doubled |\n|---|---|---|---|---|---|---|---|---|---|---|---|---|\n",
			s.guarantee, s.interval, rep.Maximum)
		for _, st := range rep.Steps {
			l := st.Latency
			cpu, rss := "-", "-"
			if u := st.Worker; u != nil {
				cpu, rss = fmt.Sprintf("%.2f", u.CPUPer1000), fmt.Sprintf("%.0f to %.0f", u.RSSBegin/(1<<20),
					u.RSSMax/(1<<20))
			}
			fmt.Fprintf(&page, "| %.0f %% | %.0f | %.0f | %.1f | %.1f | %.1f | %.1f | %.1f | %s | %s | %.1f | %.1f | "+
				"%d, %d |\n",
				100*st.Share, st.Rate, st.Achieved, l.P50, l.P90, l.P99, l.P999, l.Max, cpu, rss, st.Growth, st.Drained,
				st.Lost, st.Doubled)
		}
		for _, note := range rep.Notes {
			fmt.Fprintf(&page, "\nNote: %s.\n", strings.TrimSuffix(note, "."))
		}
	}
	os.Stdout.Write(page.Bytes())
	encoded, err := json.MarshalIndent(reports, "", " ")
	if err == nil {
		err = os.WriteFile(out+".json", append(encoded, '\n'), 0o644)
	}
	return errors.Join(err, os.WriteFile(out+".md", page.Bytes(), 0o644))
}

// measure runs one worker through the search and the load steps.
func measure(ctx context.Context, b *load.Broker, plan load.WorkerPlan, texts *load.Texts, partitions int,
	shares []float64, length, trial time.Duration) (rep *load.Report, err error) {
	run := fmt.Sprint(time.Now().UnixNano())
	plan.Target = load.Target{Brokers: []string{b.Address}, Input: "in-" + run, Output: "out-" + run,
		DeadLetter: "dlq-" + run, Format: load.JSON}
	if err := load.CreateTopics(ctx, plan.Target, partitions); err != nil {
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
	for _, share := range shares {
		if share > 1 {
			over = append(over, share)
		} else {
			steady = append(steady, share)
		}
	}
	rep, err = s.Run(ctx, load.Plan{Shares: steady, Length: length, Trial: trial}, say)
	if err != nil {
		return nil, err
	}
	for _, share := range over {
		st, err := s.Step(ctx, share*rep.Maximum, 4*length)
		if err != nil {
			return nil, err
		}
		st.Share = share
		rep.Steps = append(rep.Steps, st)
	}
	return rep, nil
}
