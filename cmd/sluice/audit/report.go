package audit

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"time"

	"sluice/cmd/sluice/terminal"
)

// This file owns how a report is shown, and how a time to look at is written.

// column is one of the table.
type column struct {
	name   string
	value  func(*Partition) int64
	always bool // else only where it has something to say
}

var columns = []column{
	{"from", func(p *Partition) int64 { return p.From }, true},
	{"to", func(p *Partition) int64 { return p.To }, true},
	{"records", func(p *Partition) int64 { return p.Records }, true},
	{"results", func(p *Partition) int64 { return p.Results }, true},
	{"dead letters", func(p *Partition) int64 { return p.DeadLetters }, true},
	{"skipped", func(p *Partition) int64 { return p.Skipped }, false},
	{"deferred", func(p *Partition) int64 { return p.Deferred }, false},
	{"requests", func(p *Partition) int64 { return p.Requests }, false},
	{"amended", func(p *Partition) int64 { return p.Amended }, false},
	{"pending", func(p *Partition) int64 { return p.Pending }, false},
	{"lost", func(p *Partition) int64 { return p.Lost }, true},
	{"unfinished", func(p *Partition) int64 { return p.Unfinished }, false},
	{"doubled", func(p *Partition) int64 { return p.Doubled }, true},
	{"disordered", func(p *Partition) int64 { return p.Disordered }, true},
	{"stray copies", func(p *Partition) int64 { return p.Stray }, false},
	{"unverifiable", func(p *Partition) int64 { return p.Unverifiable }, false},
	{"gaps", func(p *Partition) int64 { return p.Gaps }, false},
	{"in flight", func(p *Partition) int64 { return p.InFlight }, false},
}

// WriteJSON writes the report for machines.
func (r *Report) WriteJSON(w io.Writer) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", " ")
	return enc.Encode(r)
}

// WriteText writes the report for people: a table, with the columns that have something to say, notes, and what it
// comes to.
func (r *Report) WriteText(w io.Writer) {
	since := r.Since
	if since == "" {
		since = "the beginning of the log"
	}
	fmt.Fprintf(w, "group %s, records from %s to %s\n\n", r.Group, since, r.Until)
	head := []string{"partition"}
	shown := slices.DeleteFunc(slices.Clone(columns), func(c column) bool {
		return !c.always && c.value(&r.Total) == 0
	})
	for _, c := range shown {
		head = append(head, c.name)
	}
	table := [][]string{head}
	for i := range r.Partitions {
		p := &r.Partitions[i]
		row := []string{fmt.Sprintf("%s-%d", p.Topic, p.Partition)}
		for _, c := range shown {
			row = append(row, strconv.FormatInt(c.value(p), 10))
		}
		table = append(table, row)
	}
	total := []string{"total", "", ""}
	for _, c := range shown[2:] {
		total = append(total, strconv.FormatInt(c.value(&r.Total), 10))
	}
	terminal.WriteTable(w, append(table, total))
	fmt.Fprintln(w)
	r.writeNotes(w)
	fmt.Fprintln(w, r.verdict())
}

// writeNotes writes what there is to say beside the table.
func (r *Report) writeNotes(w io.Writer) {
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
}

// verdict is what the report comes to, in one line.
func (r *Report) verdict() string {
	switch t := &r.Total; {
	case r.Incomplete:
		return "NOT COMPLETE: a topic could not be read to its end"
	case !r.Clean():
		return fmt.Sprintf("NOT CLEAN: %d lost, %d without a final verdict, %d doubled, %d out of order, "+
			"%d stray copies", t.Lost, t.Unfinished, t.Doubled, t.Disordered, t.Stray)
	case t.Records == 0:
		return "nothing to count: the group has committed no record of this time"
	case t.Unverifiable > 0:
		return fmt.Sprintf("clean as far as the logs reach: %d of %d records cannot be verified", t.Unverifiable,
			t.Records)
	case t.Doubled > 0:
		return fmt.Sprintf("clean: every record has an answer; %d repeats, which at-least-once allows", t.Doubled)
	case t.Skipped > 0:
		return fmt.Sprintf("clean: each of %d records has exactly one answer, in order; %d more were left out by "+
			"rules of skip", t.Records-t.Skipped, t.Skipped)
	default:
		return fmt.Sprintf("clean: each of %d records has exactly one answer, in order", t.Records)
	}
}

// ParseTime reads a duration before now (90m), or a time (RFC 3339).
func ParseTime(s string, now time.Time) (time.Time, error) {
	if d, err := time.ParseDuration(s); err == nil && d >= 0 {
		return now.Add(-d), nil
	}
	t, err := time.Parse(time.RFC3339, s)
	if err != nil {
		return t, fmt.Errorf("%q is neither a duration before now (90m) nor a time (2026-11-24T08:00:00Z)", s)
	}
	return t, nil
}
