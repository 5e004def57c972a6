package main

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/spf13/cobra"
	"github.com/twmb/franz-go/pkg/kgo"

	"sluice/cmd/sluice/audit"
	"sluice/cmd/sluice/terminal"
)

func verifyCommand() *cobra.Command {
	var file, since, until string
	var asJSON bool
	var patience time.Duration
	cmd := &cobra.Command{
		Use:   "verify -c FILE",
		Short: "Count lost, doubled and disordered records in one's own cluster",
		Long: `Reads the topics of a worker's configuration with a client of its own, as read_committed, and counts for every input
partition: records without a result or a dead letter (lost), messages whose id was there before (doubled), and results
before which a later record's result stands (disordered); with escalation also requests that were committed and have no
final verdict (unfinished), and with routes copies of records that have no result (stray). Only records that the group has committed count; the rest is in
flight. What retention or compaction has removed is named as unverifiable, not as lost. Nothing is written or committed,
and no group is joined. Exit code 1 when something is lost, doubled or out of order, or could not be read to the end. With
guarantee: at-least-once doubled messages are shown and are no fault.`,
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
	addKeyFlags(fs)
	return cmd
}

// auditPlan says which records of which topics to look at.
func auditPlan(s *Settings, since, until string, now time.Time) (audit.Plan, error) {
	p := audit.Plan{Group: s.Kafka.Group, Inputs: s.Input.Topics, Output: s.Output.Topic,
		DeadLetter: s.DeadLetter.Topic, AtLeastOnce: s.Kafka.Guarantee == "at-least-once"}
	for _, r := range s.Routes {
		if r.Topic != p.Output && !slices.Contains(p.Routed, r.Topic) {
			p.Routed = append(p.Routed, r.Topic)
		}
	}
	if s.Escalation.On() {
		p.Requests, p.Escalation = s.Escalation.Topic, escalationGroup(s)
	}
	var err error
	if since != "all" {
		if p.Since, err = timeOf(since, now); err != nil {
			return p, usageErrorf("verify: --since: %v", err)
		}
	}
	if until != "" {
		if p.Until, err = timeOf(until, now); err != nil {
			return p, usageErrorf("verify: --until: %v", err)
		}
		if !p.Until.After(p.Since) {
			return p, usageErrorf("verify: --until (%s) is not after --since (%s)", until, since)
		}
	}
	return p, nil
}

// timeOf reads a duration before now, or a time.
func timeOf(s string, now time.Time) (time.Time, error) {
	if d, err := time.ParseDuration(s); err == nil && d >= 0 {
		return now.Add(-d), nil
	}
	t, err := time.Parse(time.RFC3339, s)
	if err != nil {
		return t, fmt.Errorf("%q is neither a duration before now (90m) nor a time (2026-11-24T08:00:00Z)", s)
	}
	return t, nil
}

func verify(cmd *cobra.Command, s *Settings, plan audit.Plan, asJSON bool) error {
	options, err := witnessOptions(s)
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
		enc := json.NewEncoder(cmd.OutOrStdout())
		enc.SetIndent("", " ")
		if err := enc.Encode(report); err != nil {
			return fmt.Errorf("verify: %w", err)
		}
	} else {
		printAudit(cmd.OutOrStdout(), report)
	}
	if !report.Clean() {
		return &exitError{exitFailed}
	}
	return nil
}

// printAudit shows a report as a table, with the columns that have something to say.
func printAudit(w io.Writer, r *audit.Report) {
	type column struct {
		name   string
		value  func(*audit.Partition) int64
		always bool
	}
	columns := []column{
		{"from", func(p *audit.Partition) int64 { return p.From }, true},
		{"to", func(p *audit.Partition) int64 { return p.To }, true},
		{"records", func(p *audit.Partition) int64 { return p.Records }, true},
		{"results", func(p *audit.Partition) int64 { return p.Results }, true},
		{"dead letters", func(p *audit.Partition) int64 { return p.DeadLetters }, true},
		{"deferred", func(p *audit.Partition) int64 { return p.Deferred }, false},
		{"requests", func(p *audit.Partition) int64 { return p.Requests }, false},
		{"amended", func(p *audit.Partition) int64 { return p.Amended }, false},
		{"pending", func(p *audit.Partition) int64 { return p.Pending }, false},
		{"lost", func(p *audit.Partition) int64 { return p.Lost }, true},
		{"unfinished", func(p *audit.Partition) int64 { return p.Unfinished }, false},
		{"doubled", func(p *audit.Partition) int64 { return p.Doubled }, true},
		{"disordered", func(p *audit.Partition) int64 { return p.Disordered }, true},
		{"stray copies", func(p *audit.Partition) int64 { return p.Stray }, false},
		{"unverifiable", func(p *audit.Partition) int64 { return p.Unverifiable }, false},
		{"gaps", func(p *audit.Partition) int64 { return p.Gaps }, false},
		{"in flight", func(p *audit.Partition) int64 { return p.InFlight }, false},
	}
	since := r.Since
	if since == "" {
		since = "the beginning of the log"
	}
	fmt.Fprintf(w, "group %s, records from %s to %s\n\n", r.Group, since, r.Until)
	head := []string{"partition"}
	columns = slices.DeleteFunc(columns, func(c column) bool { return !c.always && c.value(&r.Total) == 0 })
	for _, c := range columns {
		head = append(head, c.name)
	}
	table := [][]string{head}
	for i := range r.Partitions {
		p := &r.Partitions[i]
		row := []string{fmt.Sprintf("%s-%d", p.Topic, p.Partition)}
		for _, c := range columns {
			row = append(row, strconv.FormatInt(c.value(p), 10))
		}
		table = append(table, row)
	}
	total := []string{"total", "", ""}
	for _, c := range columns[2:] {
		total = append(total, strconv.FormatInt(c.value(&r.Total), 10))
	}
	terminal.WriteTable(w, append(table, total))
	fmt.Fprintln(w)
	for _, n := range r.Notes {
		fmt.Fprintf(w, "note: %s\n", n)
	}
	for _, topic := range slices.Sorted(maps.Keys(r.Foreign)) {
		fmt.Fprintf(w, "note: %s: %d messages do not come from records of the input topics; they are not counted\n",
			topic, r.Foreign[topic])
	}
	for i := range r.Partitions {
		for _, e := range r.Partitions[i].Examples {
			fmt.Fprintf(w, "found: %s\n", e)
		}
	}
	switch t := &r.Total; {
	case r.Incomplete:
		fmt.Fprintln(w, "NOT COMPLETE: a topic could not be read to its end")
	case !r.Clean():
		fmt.Fprintf(w, "NOT CLEAN: %d lost, %d without a final verdict, %d doubled, %d out of order, %d stray copies\n",
			t.Lost, t.Unfinished, t.Doubled, t.Disordered, t.Stray)
	case t.Records == 0:
		fmt.Fprintln(w, "nothing to count: the group has committed no record of this time")
	case t.Unverifiable > 0:
		fmt.Fprintf(w, "clean as far as the logs reach: %d of %d records cannot be verified\n", t.Unverifiable,
			t.Records)
	case t.Doubled > 0:
		fmt.Fprintf(w, "clean: every record has an answer; %d repeats, which at-least-once allows\n", t.Doubled)
	default:
		fmt.Fprintf(w, "clean: each of %d records has exactly one answer, in order\n", t.Records)
	}
}
