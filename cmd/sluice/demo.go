package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"sluice/cmd/sluice/demo"
	"sluice/cmd/sluice/settings"
	"sluice/cmd/sluice/worker"
)

// This file is the command of the demo, and the way from its plan to a worker. What is shown is package demo's.

func demoCommand(p *worker.Process) *cobra.Command {
	var o demo.Options
	var models string
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Show the main job on an embedded broker and bundled models",
		Long: `Starts a Kafka broker in this process, produces real sentences into it, and runs the same worker as
"sluice run" with the bundled models. A table shows every verdict as a read_committed consumer sees it; without a
terminal it is plain lines. The broker listens on this machine only, and any Kafka client may connect while the demo
runs. Nothing is left behind.

With --escalate, texts that the model is unsure of are also asked about at an endpoint: a stand-in in this process that
speaks the protocol of an OpenAI-compatible API and judges by counting words. Amendments appear as they are committed.`,
		Example: "  sluice demo\n  sluice demo --records 2000 --rate 0\n  sluice demo --escalate",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if o.Rate < 0 || o.Records < 0 || o.Port < 0 || o.Port > 65535 {
				return usageErrorf("demo: --rate and --records must not be negative, --port at most 65535")
			}
			dir, err := besideBinary(models, "models")
			if err != nil {
				return err
			}
			if o.Models, err = demo.Find(dir, settings.ModelName.MatchString); err != nil {
				return err
			}
			return demo.Run(cmd.Context(), cmd.OutOrStdout(), cmd.ErrOrStderr(), o, demoWorker(p))
		},
	}
	fs := cmd.Flags()
	fs.Float64Var(&o.Rate, "rate", 50, "`N` records a second; 0: as fast as they are judged")
	describe(fs, "rate", envDemo+"RATE", "0")
	fs.IntVar(&o.Records, "records", 0, "end with a summary after `N` records; 0: go on until Ctrl-C")
	describe(fs, "records", envDemo+"RECORDS", "2000")
	fs.StringVar(&models, "models", "", "`DIR` that holds model directories; default: models beside the binary")
	describe(fs, "models", envDemo+"MODELS", "./models")
	fs.IntVar(&o.Port, "port", 0, "`PORT` of the broker on 127.0.0.1; 0: any that is free")
	describe(fs, "port", envDemo+"PORT", "9092")
	fs.BoolVar(&o.Plain, "plain", false, "lines instead of a table, also on a terminal")
	describe(fs, "plain", envDemo+"PLAIN", "true")
	fs.BoolVar(&o.Escalate, "escalate", false, "ask a stand-in of an LLM endpoint about what the model is unsure of")
	describe(fs, "escalate", envDemo+"ESCALATE", "true")
	return cmd
}

// besideBinary is a directory that was given, or one beside the binary.
func besideBinary(given string, path ...string) (string, error) {
	if given != "" {
		return given, nil
	}
	exe, err := executableDir()
	return filepath.Join(append([]string{exe}, path...)...), err
}

// executableDir is the directory of the binary, links resolved.
func executableDir() (string, error) {
	exe, err := os.Executable()
	if err == nil {
		exe, err = filepath.EvalSymlinks(exe)
	}
	if err != nil {
		return "", fmt.Errorf("where this program is: %w", err)
	}
	return filepath.Dir(exe), nil
}

// demoSettings is what a configuration file for the demo would say.
func demoSettings(p demo.Plan) *settings.Settings {
	s := settings.Default()
	s.Kafka.Brokers, s.Kafka.Group, s.Kafka.InstanceID = []string{p.Broker}, p.Group, p.Instance
	s.Kafka.CommitInterval = p.CommitInterval
	s.Input.Topics = []string{p.Input}
	s.Output.Topic, s.DeadLetter.Topic = p.Output, p.DeadLetter
	s.Server.Listen = p.Listen
	for _, d := range p.Models {
		m := settings.DefaultModel()
		m.Name, m.Path, m.Field, m.Aggregation = d.Name, d.Dir, d.Field, "first" // whole words
		s.Models = append(s.Models, m)
	}
	if a := p.Escalation; a != nil {
		e := &s.Escalation
		e.Verdict, e.When, e.Topic = a.Verdict, a.When, a.Topic
		e.Endpoint.URLs, e.Endpoint.Model = []string{a.URL}, a.Model
		e.Prompt.Instruction = a.Instruction
	}
	return &s
}

// demoWorker runs the worker of the demo: the same as that of sluice run.
func demoWorker(p *worker.Process) func(context.Context, demo.Job) error {
	return func(ctx context.Context, j demo.Job) error {
		s := demoSettings(j.Plan)
		log, problems := worker.NewLogger(j.Log, settings.Log{Level: "warn", Format: "text"})
		return worker.Kinds.Run(ctx, s, worker.Options{
			Grace: 10 * time.Second, Version: ownVersion(), Log: log, Problems: problems, Process: p,
			Steps:   worker.Steps{Tell: j.Say},
			Started: func(w *worker.Worker) { j.Started(demoSeen(w, s, problems)) },
		})
	}
}

// demoSeen is what the demo shows of its worker.
func demoSeen(w *worker.Worker, s *settings.Settings, problems *worker.Problems) demo.Worker {
	classify := w.Stage(worker.Classify.Name)
	seen := demo.Worker{Address: w.Address, Guarantee: s.Kafka.Guarantee}
	for _, m := range classify.Models {
		seen.Models = append(seen.Models, m.Model)
		seen.Describe = append(seen.Describe, fmt.Sprintf("%s: %s, %s, %s, on %s", m.Name, m.Model, m.Task,
			m.Precision, m.Provider))
	}
	seen.Queue = func() (lag int64, inFlight int) {
		for _, p := range classify.Stage.Status().Partitions {
			lag += max(0, p.Lag)
			inFlight += p.InFlight
		}
		return lag, inFlight
	}
	seen.Problem = func() string {
		p := problems.Last()
		if p == nil {
			return ""
		}
		return p.Time.Format(time.TimeOnly) + " " + p.Message
	}
	return seen
}
