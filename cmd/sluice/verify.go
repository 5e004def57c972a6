package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"
	"github.com/twmb/franz-go/pkg/kgo"

	"sluice/cmd/sluice/audit"
	"sluice/cmd/sluice/settings"
	"sluice/cmd/sluice/terminal"
	"sluice/cmd/sluice/witness"
	"sluice/cmd/sluice/worker"
)

func verifyCommand() *cobra.Command {
	var file, since, until string
	var asJSON bool
	var patience time.Duration
	cmd := &cobra.Command{
		Use:   "verify -c FILE",
		Short: "Count lost, doubled and disordered records in one's own cluster",
		Long: `Reads the topics of a worker's configuration with a client of its own, as read_committed, and counts for
every input partition: records without a result or a dead letter (lost), messages whose id was there before (doubled),
and results before which a later record's result stands (disordered); with escalation also requests that were committed
and have no final verdict (unfinished), and with routes copies of records that have no result (stray). Only records
that the group has committed count; the rest is in flight. What retention or compaction has removed is named as
unverifiable, not as lost. Nothing is written or committed, and no group is joined. Exit code 1 when something is lost,
doubled or out of order, or could not be read to the end. With guarantee: at-least-once doubled messages are shown and
are no fault.`,
		Example: "  sluice verify -c reviews.yaml --since 1h\n  sluice verify -c reviews.yaml --since " +
			"2026-11-24T08:00:00Z --until 10m --json",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := commandConfig(cmd, file)
			if err != nil {
				return err
			}
			plan, err := auditPlan(&c.Settings, since, until, time.Now())
			if err != nil {
				return err
			}
			plan.Patience = patience
			return verify(cmd, &c.Settings, plan, asJSON)
		},
	}
	addConfigFlag(cmd, &file)
	fs := cmd.Flags()
	fs.StringVar(&since, "since", "1h", "look at records with a timestamp from `TIME` on: a duration before now, a "+
		"time as RFC 3339, or all")
	describe(fs, "since", envVerify+"SINCE", "24h")
	fs.StringVar(&until, "until", "", "look at records before `TIME`; default: up to what the group has committed")
	describe(fs, "until", envVerify+"UNTIL", "10m")
	fs.DurationVar(&patience, "patience", 90*time.Second, "`DURATION` to wait for an open transaction to end; more "+
		"than kafka.transaction_timeout")
	describe(fs, "patience", envVerify+"PATIENCE", "2m")
	fs.BoolVar(&asJSON, "json", false, "print one JSON object in place of the table")
	describe(fs, "json", envVerify+"JSON", "true")
	workerKeys().AddFlags(fs)
	return cmd
}

// auditPlan says which records of which topics to look at.
func auditPlan(s *settings.Settings, since, until string, now time.Time) (audit.Plan, error) {
	p, err := worker.Kinds.Audit(s)
	if err != nil {
		return p, err
	}
	if since != "all" {
		if p.Since, err = audit.ParseTime(since, now); err != nil {
			return p, usageErrorf("verify: --since: %v", err)
		}
	}
	if until != "" {
		if p.Until, err = audit.ParseTime(until, now); err != nil {
			return p, usageErrorf("verify: --until: %v", err)
		}
		if !p.Until.After(p.Since) {
			return p, usageErrorf("verify: --until (%s) is not after --since (%s)", until, since)
		}
	}
	return p, nil
}

func verify(cmd *cobra.Command, s *settings.Settings, plan audit.Plan, asJSON bool) error {
	k, err := worker.KafkaConfig(s)
	if err != nil {
		return err
	}
	options, err := witness.Options(k)
	if err != nil {
		return err
	}
	client, err := kgo.NewClient(append(options, kgo.SeedBrokers(s.Kafka.Brokers...), kgo.ClientID("sluice-verify"))...)
	if err != nil {
		return fmt.Errorf("verify: %w", err)
	}
	defer client.Close()
	view := terminal.NewProgress(cmd.ErrOrStderr())
	defer view.Clear()
	plan.Progress = func(what string, read, of int64) { view.Status("%s: %d of %d offsets", what, read, of) }
	report, err := audit.Run(cmd.Context(), client, plan)
	view.Clear()
	if err != nil {
		return fmt.Errorf("verify: %w", err)
	}
	if asJSON {
		if err := report.WriteJSON(cmd.OutOrStdout()); err != nil {
			return fmt.Errorf("verify: %w", err)
		}
	} else {
		report.WriteText(cmd.OutOrStdout())
	}
	if !report.Clean() {
		return &exitError{exitFailed}
	}
	return nil
}
