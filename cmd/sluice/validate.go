package main

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"sluice/cmd/sluice/settings"
	"sluice/cmd/sluice/worker"
)

func validateCommand(p *worker.Process) *cobra.Command {
	var file string
	var offline, show bool
	cmd := &cobra.Command{
		Use:   "validate -c FILE",
		Short: "Check a configuration, its models, topics and permissions",
		Long: `Checks a configuration and names every mistake at once, with its line, the key and what to write instead.
Then it checks what the configuration names: every model is verified, loaded and self-tested, and the brokers are asked
whether the topics are there and may be read and written by this user, and what they are set to: warnings name settings
that make a broker refuse or delete what the worker writes. Nothing is written, and no group is joined. Exit code 2 when
something is wrong; a warning is no reason.`,
		Example: "  sluice validate -c reviews.yaml\n  sluice validate -c reviews.yaml --offline --print",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := commandConfig(cmd, file)
			if err != nil {
				return err
			}
			report := cmd.OutOrStdout()
			if show {
				c.Print(report)
				report = cmd.ErrOrStderr() // standard output is the configuration, and nothing else
			}
			return validate(cmd.Context(), p, report, c, offline)
		},
	}
	addConfigFlag(cmd, &file)
	cmd.Flags().BoolVar(&offline, "offline", false, "do not talk to brokers")
	cmd.Flags().BoolVar(&show, "print", false, "print the configuration that holds, with the origin of every value; "+
		"secrets are left out")
	workerKeys().AddFlags(cmd.Flags())
	return cmd
}

// validate checks what a configuration names and reports line by line to w.
func validate(ctx context.Context, p *worker.Process, w io.Writer, c *settings.Loaded, offline bool) error {
	wrong := 0
	say := func(format string, args ...any) { fmt.Fprintf(w, format+"\n", args...) }
	report := worker.Report{
		Process: p,
		OK:      func(what string) { say("ok       %s", what) },
		Wrong: func(err error) {
			wrong++
			say("WRONG    %s", indentLines(err.Error()))
		},
		Warn:   func(format string, args ...any) { say("warning  %s", fmt.Sprintf(format, args...)) },
		Unseen: func(what string) { say("skipped  %s", what) },
		Steps:  worker.Steps{Tell: func(format string, args ...any) { say("         "+format, args...) }},
	}
	report.OK("configuration " + c.File)
	for _, w := range c.Warnings {
		report.Warn("%s", w)
	}
	worker.Kinds.Check(ctx, c, report)
	kc, err := worker.KafkaConfig(&c.Settings)
	switch {
	case err != nil:
		report.Wrong(worker.Unfault(err))
	case offline:
		say("skipped  topics and permissions (--offline)")
	default:
		worker.Kinds.CheckBrokers(ctx, &c.Settings, kc, report)
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if wrong > 0 {
		return &exitError{exitUsage}
	}
	return nil
}
