package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"strings"

	"github.com/spf13/cobra"

	"sluice/cmd/sluice/settings"
	"sluice/pipeline"
	"sluice/pipeline/kafka"
	"sluice/pipeline/llm"
)

func validateCommand() *cobra.Command {
	var file string
	var offline, show bool
	cmd := &cobra.Command{
		Use:   "validate -c FILE",
		Short: "Check a configuration, its models, topics and permissions",
		Long: `Checks a configuration and names every mistake at once, with its line, the key and what to write instead. Then it checks
what the configuration names: every model is verified, loaded and self-tested, and the brokers are asked whether the topics
are there and may be read and written by this user. Nothing is written, and no group is joined. Exit code 2 when something
is wrong.`,
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
			return validate(cmd.Context(), report, c, offline)
		},
	}
	addConfigFlag(cmd, &file)
	cmd.Flags().BoolVar(&offline, "offline", false, "do not talk to brokers")
	cmd.Flags().BoolVar(&show, "print", false, "print the configuration that holds, with the origin of every value; "+
		"secrets are left out")
	settings.Keys().AddFlags(cmd.Flags())
	return cmd
}

// validate checks what a configuration names and reports line by line to w.
func validate(ctx context.Context, w io.Writer, c *settings.Loaded, offline bool) error {
	wrong := 0
	report := func(what string, err error) {
		if err == nil {
			fmt.Fprintf(w, "ok       %s\n", what)
			return
		}
		wrong++
		fmt.Fprintf(w, "WRONG    %s\n", indentLines(err.Error()))
	}
	warn := func(format string, args ...any) { fmt.Fprintf(w, "warning  %s\n", fmt.Sprintf(format, args...)) }

	report("configuration "+c.File, nil)
	for _, p := range c.Warnings {
		warn("%s", p)
	}
	for i, s := range c.Models {
		models, err := openModels(ctx, []settings.Model{s}, 1, c.RunTimeout,
			steps{func(format string, args ...any) { fmt.Fprintf(w, "         "+format+"\n", args...) }})
		if err != nil {
			report("", fmt.Errorf("%s: models[%d] (%s): %w", c.Origin(fmt.Sprintf("models[%d].path", i)), i, s.Name,
				unfault(err)))
			continue
		}
		for _, m := range withStudents(models) {
			p := m.page()
			report(fmt.Sprintf("model %s: %s, %s, %s, %s, %d labels, on %s; self-test passed", p.Name, p.Model, p.Task,
				p.Layout, p.Precision, len(p.Labels), p.Provider), nil)
			for _, text := range p.Warnings {
				warn("model %s: %s", p.Name, text)
			}
		}
		closeModels(models)
	}
	if c.Escalation.On() {
		what, err := validateEscalation(&c.Settings)
		report(what, err)
	}
	kc, err := kafkaConfig(&c.Settings)
	switch {
	case err != nil:
		report("", unfault(err))
	case offline:
		fmt.Fprintln(w, "skipped  topics and permissions (--offline)")
	default:
		validateBrokers(ctx, kc, report)
		if c.Escalation.On() {
			validateBrokers(ctx, escalationKafka(kc, &c.Settings), report)
		}
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if wrong > 0 {
		return &exitError{exitUsage}
	}
	return nil
}

// validateEscalation checks the section against the models, and that its key and certificates can be read. The endpoint
// is not asked.
func validateEscalation(s *settings.Settings) (string, error) {
	plan, err := planEscalation(s)
	if err != nil {
		return "", unfault(err)
	}
	pool, err := newPool(s, slog.New(slog.DiscardHandler), llm.Observer{})
	if err != nil {
		return "", unfault(err)
	}
	pool.Close()
	return fmt.Sprintf("escalation: %s where %s, mode %s, to %s at %s (not asked now), prompt %s", plan.verdict,
		s.Escalation.When, s.Escalation.Mode, s.Escalation.Endpoint.Model,
		strings.Join(s.Escalation.Endpoint.URLs, ", "), plan.task.Version()), nil
}

// validateBrokers asks the brokers about topics and permissions.
func validateBrokers(ctx context.Context, kc kafka.Config, report func(string, error)) {
	kc.Logger = slog.New(slog.DiscardHandler) // problems are returned
	client, err := kafka.New(kc)
	if err != nil {
		report("", err)
		return
	}
	defer client.Close()
	problems := client.Check(ctx)
	for _, p := range problems {
		report("", unfault(p))
	}
	if len(problems) == 0 {
		report(fmt.Sprintf("brokers %s: topics and permissions of group %s, as far as they can be seen without writing",
			strings.Join(kc.Brokers, ", "), kc.Group), nil)
	}
}

// unfault is the sentence of a fault without its stage.
func unfault(err error) error {
	if f, ok := err.(*pipeline.Fault); ok && f.Err != nil {
		return f.Err
	}
	return err
}
