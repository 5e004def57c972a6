package main

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"sluice/cmd/sluice/config"
	"sluice/cmd/sluice/settings"
	"sluice/cmd/sluice/worker"
)

func runCommand(p *worker.Process) *cobra.Command {
	var file, stage string
	var grace time.Duration
	cmd := &cobra.Command{
		Use:   "run -c FILE",
		Short: "Run a worker: read topics, write verdicts",
		Long: `Runs one worker. It loads, verifies and self-tests the models, then joins its consumer group, reads the
input topics and writes results and dead letters, until SIGTERM or SIGINT: then it finishes and commits what is in
flight, for at most the grace period, and ends with exit code 0. A second signal ends it at once. A restart within the
session timeout causes no rebalance.

With escalation in the configuration the worker also reads the escalation topic, asks the endpoint and writes final
verdicts. --stage splits the two, so that each can be scaled by itself; the configuration stays the same.`,
		Example: "  sluice run -c reviews.yaml\n  SLUICE_KAFKA__GROUP=reviews-test sluice run -c reviews.yaml " +
			"--input.start=latest",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := commandConfig(cmd, file)
			if err != nil {
				return err
			}
			if err := checkStage(stage); err != nil {
				return err
			}
			log, problems := worker.NewLogger(cmd.ErrOrStderr(), c.Log)
			for _, w := range c.Warnings {
				log.Warn("configuration: " + w.String())
			}
			return worker.Kinds.Run(cmd.Context(), &c.Settings, worker.Options{
				Stage: stage, Grace: grace, Version: ownVersion(), Log: log, Problems: problems, Process: p,
				Steps: worker.Steps{Tell: func(format string, args ...any) { log.Info(fmt.Sprintf(format, args...)) }},
			})
		},
	}
	addConfigFlag(cmd, &file)
	cmd.Flags().DurationVar(&grace, "grace", 30*time.Second, "`DURATION` for which a stopping worker goes on "+
		"finishing what is in flight")
	describe(cmd.Flags(), "grace", envGrace, "10s")
	cmd.Flags().StringVar(&stage, "stage", worker.All, "`STAGE` to run: "+worker.Kinds.Explained())
	describe(cmd.Flags(), "stage", envStage, "escalate")
	workerKeys().AddFlags(cmd.Flags())
	return cmd
}

// checkStage says whether there is a stage of a name, for --stage.
func checkStage(name string) error {
	if stages := worker.Kinds.Stages(); !slices.Contains(stages, name) {
		last := len(stages) - 1
		return usageErrorf("--stage %s: it is one of %s and %s", name, strings.Join(stages[:last], ", "), stages[last])
	}
	return nil
}

// workerKeys are those of a worker's configuration, with the sections of its kinds of stages.
func workerKeys() *config.Schema { return settings.Keys(worker.Kinds.Sections()...) }

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
	return settings.Load(src, worker.Kinds.Sections()...)
}
