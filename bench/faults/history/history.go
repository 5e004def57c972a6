// Package history checks what came out of a run against what went in: the promises P1 to P6 and P8 of a worker
// group. It knows no Kafka client: it is given what an independent reader saw.
package history

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Partition names one partition of a topic.
type Partition struct {
	Topic  string
	Number int32
}

func (p Partition) String() string { return fmt.Sprintf("%s/%d", p.Topic, p.Number) }

// Input is a record of an input topic, as a read_committed reader sees it.
type Input struct {
	Partition Partition
	Offset    int64
	Key       string
	Value     []byte
	Same      string // inputs with equal Same must get equal verdicts; empty: no such demand
	Optional  bool   // may be lost, by the start policy or with its topic; never doubled
}

// Output is a message of a result or dead letter topic, as a read_committed reader sees it.
type Output struct {
	Partition Partition
	Offset    int64
	Key       string
	Value     []byte
	Source    string // header sluice.source
	Dead      bool   // a dead letter
	Pointer   bool   // a dead letter that says where the record is instead of repeating it

	ID          string // header sluice.id
	Amends      string // header sluice.amends: the ID of the provisional result whose place this one takes
	Revision    int    // header sluice.revision; 2: a final verdict after a provisional one
	Provisional bool
	Asked       bool   // the rule of the escalation holds for it, as the reader works it out: it has to be provisional
	Fallback    bool   // a final verdict that no endpoint gave
	Reason      string // why
	Due         bool   // the rule of a route holds for it, as the reader works it out: it has to have an alert
}

// Sample is a committed offset of the group, as it was seen at some moment.
type Sample struct {
	Partition Partition
	Offset    int64
	At        time.Time
}

// Group is where the group stands at the end.
type Group struct {
	Committed map[Partition]int64 // absent or negative: none
	Ends      map[Partition]int64 // of the logs
}

// Run is everything that is checked.
type Run struct {
	Inputs  []Input
	Outputs []Output
	Alerts  []Output // messages of a route's topic; its rule holds for outputs that are Due
	Samples []Sample // in the order in which they were taken
	Group   Group
	// an input topic was deleted and made again: records are known by their keys, as offsets, and order with them,
	// began anew
	Remade bool
}

// Report counts what broke a promise. All but those of the first two lines ought to be 0.
type Report struct {
	Inputs, Results, DeadLetters int // final verdicts of provisional results are not counted as results
	Finals, Alerts               int

	Lost      int // P1: no result and no dead letter
	Doubled   int // P1: more than one, or more than one final verdict
	Foreign   int // P1: an output of no input
	Unsettled int // P1: a provisional result without a final verdict
	// P1: a final verdict that amends no provisional result, or one provisional that should not be, or the other way
	// round
	Misplaced  int
	Unreasoned int   // a final verdict that fell back without a reason
	Disorder   int   // P2
	Silent     int   // P3: a result without the alert that is due
	Repeated   int   // P3: more than one alert of a result
	Alone      int   // P3: an alert without its result, or for which no rule holds
	Ahead      int   // P4: an output of a record that is not committed
	Backward   int   // P4: a committed offset went back
	Passed     int   // P4: a committed offset beyond the end of its log
	Unlike     int   // P5: another verdict than an equal text got
	Changed    int   // P6: source bytes that did not come out as they went in
	Lag        int64 // P8: records between the committed offsets and the ends of the logs

	Examples []string // of each kind, at most five
}

// Clean says that every promise was kept.
func (r *Report) Clean() bool {
	return r.Lost == 0 && r.Doubled == 0 && r.Foreign == 0 && r.Unsettled == 0 && r.Misplaced == 0 &&
		r.Unreasoned == 0 && r.Silent == 0 && r.Repeated == 0 && r.Alone == 0 && r.Disorder == 0 && r.Ahead == 0 &&
		r.Backward == 0 && r.Passed == 0 &&
		r.Unlike == 0 && r.Changed == 0 && r.Lag == 0
}

// String lists the counts that are not 0, or says that all is well.
func (r *Report) String() string {
	s := fmt.Sprintf("%d records, %d results, %d dead letters", r.Inputs, r.Results, r.DeadLetters)
	if r.Alerts > 0 {
		s += fmt.Sprintf(", %d alerts", r.Alerts)
	}
	if r.Finals > 0 {
		s += fmt.Sprintf(", %d final verdicts of provisional results", r.Finals)
	}
	if r.Clean() {
		return s + ": none lost, none doubled, in order"
	}
	for _, c := range []struct {
		name string
		n    int64
	}{{"lost", int64(r.Lost)}, {"doubled", int64(r.Doubled)}, {"foreign", int64(r.Foreign)},
		{"provisional without a final verdict", int64(r.Unsettled)}, {"final verdicts misplaced", int64(r.Misplaced)},
		{"fallbacks without a reason", int64(r.Unreasoned)}, {"results without their alert", int64(r.Silent)},
		{"alerts repeated", int64(r.Repeated)}, {"alerts alone", int64(r.Alone)}, {"disorder", int64(r.Disorder)},
		{"ahead of the commit", int64(r.Ahead)},
		{"offsets back", int64(r.Backward)}, {"offsets beyond the end", int64(r.Passed)}, {"unlike verdicts",
			int64(r.Unlike)}, {"changed bytes", int64(r.Changed)}, {"lag", r.Lag}} {
		if c.n != 0 {
			s += fmt.Sprintf(", %d %s", c.n, c.name)
		}
	}
	return s
}

const (
	examples = 5
	clock    = "15:04:05.000" // as in the workers' logs
)

// example keeps the first few of a kind; n is how many of it there are by now.
func (r *Report) example(n int, format string, args ...any) {
	if n <= examples {
		r.Examples = append(r.Examples, fmt.Sprintf(format, args...))
	}
}

// Check checks a run.
func Check(run Run) *Report {
	r := &Report{Inputs: len(run.Inputs)}
	inputs := make(map[string]*Input, len(run.Inputs))
	id := func(key, source string) string {
		if run.Remade {
			return key
		}
		return source
	}
	of := func(in *Input) string { return id(in.Key, fmt.Sprintf("%s/%d", in.Partition, in.Offset)) }
	for i := range run.Inputs {
		inputs[of(&run.Inputs[i])] = &run.Inputs[i]
	}
	seen := make(map[string]int, len(run.Inputs))
	outputs := slices.Clone(run.Outputs)
	slices.SortFunc(outputs, func(a, b Output) int {
		if c := strings.Compare(a.Partition.Topic, b.Partition.Topic); c != 0 {
			return c
		}
		if c := int(a.Partition.Number) - int(b.Partition.Number); c != 0 {
			return c
		}
		return int(min(1, max(-1, a.Offset-b.Offset)))
	})
	type lane struct{ to, from Partition }
	last := map[lane]int64{}
	verdicts := map[string][]byte{}
	first := map[string]*Output{} // results by their source
	var amendments []*Output
	for i := range outputs {
		o := &outputs[i]
		final := !o.Dead && o.Revision > 1
		switch {
		case o.Dead:
			r.DeadLetters++
		case final:
			amendments = append(amendments, o) // counted with them
		default:
			r.Results++
			first[o.Source] = o
		}
		in := inputs[id(o.Key, o.Source)]
		if in == nil {
			r.Foreign++
			r.example(r.Foreign, "foreign: %s@%d, key %q, source %q", o.Partition, o.Offset, o.Key, o.Source)
			continue
		}
		if final { // of no order, and of a verdict that is the endpoint's
			r.source(in, o, nil)
			continue
		}
		k := of(in)
		if seen[k]++; seen[k] == 2 {
			r.Doubled++
			r.example(r.Doubled, "doubled: %s@%d, key %q, the second one at %s@%d", in.Partition, in.Offset, in.Key,
				o.Partition, o.Offset)
		}
		l := lane{o.Partition, in.Partition}
		if before, ok := last[l]; ok && in.Offset <= before && !run.Remade {
			r.Disorder++
			r.example(r.Disorder, "disorder: %s@%d comes of %s@%d, after %d", o.Partition, o.Offset, in.Partition,
				in.Offset, before)
		}
		last[l] = in.Offset
		if committed, ok := run.Group.Committed[in.Partition]; !run.Remade && (!ok || in.Offset >= committed) {
			r.Ahead++
			r.example(r.Ahead, "ahead: %s@%d is visible, its group stands at %d", in.Partition, in.Offset, committed)
		}
		r.source(in, o, verdicts)
	}
	for i := range run.Inputs {
		if in := &run.Inputs[i]; seen[of(in)] == 0 && !in.Optional {
			r.Lost++
			r.example(r.Lost, "lost: %s@%d, key %q", in.Partition, in.Offset, in.Key)
		}
	}
	r.amendments(first, amendments)
	r.alerts(run.Outputs, run.Alerts)
	r.offsets(run)
	return r
}

// source checks that the record came out byte for byte, and, where there are verdicts so far, that equal texts have
// equal ones.
func (r *Report) source(in *Input, o *Output, verdicts map[string][]byte) {
	if o.Pointer {
		return
	}
	if o.Key != in.Key {
		r.Changed++
		r.example(r.Changed, "changed: %s@%d has key %q, came out with %q", in.Partition, in.Offset, in.Key, o.Key)
		return
	}
	if len(in.Value) == 0 && len(o.Value) == 0 { // a record without a value comes out without one, as a result too
		return
	}
	end := bytes.LastIndexByte(in.Value, '}')
	switch {
	case o.Dead && !bytes.Equal(o.Value, in.Value), !o.Dead && (end < 0 || !bytes.HasPrefix(o.Value, in.Value[:end])):
		r.Changed++
		r.example(r.Changed, "changed: %s@%d came out as %.80q", in.Partition, in.Offset, o.Value)
	case o.Dead || in.Same == "" || verdicts == nil:
	default:
		verdict := o.Value[end:]
		if first, ok := verdicts[in.Same]; !ok {
			verdicts[in.Same] = verdict
		} else if !bytes.Equal(first, verdict) {
			r.Unlike++
			r.example(r.Unlike, "unlike: %s@%d has %.120q, an equal text has %.120q", in.Partition, in.Offset, verdict,
				first)
		}
	}
}

// offsets checks how the group's offsets moved and where they stand.
func (r *Report) offsets(run Run) {
	last := map[Partition]Sample{}
	for _, s := range run.Samples {
		if before, ok := last[s.Partition]; ok && s.Offset < before.Offset && !run.Remade {
			r.Backward++
			r.example(r.Backward, "back: %s was committed to %d at %s, then to %d at %s", s.Partition, before.Offset,
				before.At.Format(clock), s.Offset, s.At.Format(clock))
		}
		last[s.Partition] = s
	}
	for p, end := range run.Group.Ends {
		committed := max(0, run.Group.Committed[p])
		if committed > end {
			r.Passed++
			r.example(r.Passed, "beyond the end: %s is committed to %d, its log ends at %d", p, committed, end)
			continue
		}
		r.Lag += end - committed
	}
}
