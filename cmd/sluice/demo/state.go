package demo

import (
	"context"
	"fmt"
	"io"
	"slices"
	"sort"
	"strconv"
	"strings"
	"sync"
	"time"
)

// This file owns what has happened so far: producer, consumer and worker write to it, the view reads it.

// state is what has happened so far.
type state struct {
	began time.Time
	plan  Plan

	mu        sync.Mutex
	worker    *Worker
	attached  chan struct{}
	sent      int
	results   int
	dead      int
	repeated  int             // results that came a second time
	open      map[string]bool // records, by source, whose result is provisional
	amended   int             // final verdicts by the endpoint
	changed   int             // of them: with another label
	fellBack  int             // final verdicts that are the local one
	waits     []time.Duration // from produced to final, a ring
	waitRing  int
	last      map[string]int64 // newest source offset by topic and source partition
	labels    map[string]int   // verdicts by label
	entities  map[string]int   // entities by group
	first     time.Duration    // from the start to the first verdict
	firstAt   time.Time
	lastAt    time.Time
	latencies []time.Duration // of the latest results, a ring
	arrivals  []time.Time     // of the latest results, a ring
	ring      int
	rows      []row // the latest, newest last
	answer    chan struct{}
}

const (
	ringSize = 4096
	mostRows = 200
)

func newState(began time.Time, plan Plan) *state {
	return &state{began: began, plan: plan, attached: make(chan struct{}),
		last:   map[string]int64{},
		labels: map[string]int{}, entities: map[string]int{}, open: map[string]bool{}, answer: make(chan struct{}, 1)}
}

// attach makes the worker's status visible.
func (d *state) attach(w Worker) {
	d.mu.Lock()
	d.worker = &w
	d.mu.Unlock()
	close(d.attached)
}

// ready waits until the worker has loaded its models.
func (d *state) ready(ctx context.Context) error {
	select {
	case <-d.attached:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (d *state) produced() {
	d.mu.Lock()
	d.sent++
	d.mu.Unlock()
}

// waitForAnswers waits while more than ahead records have no answer yet.
func (d *state) waitForAnswers(ctx context.Context, ahead int) error {
	for {
		d.mu.Lock()
		open := d.sent - d.results - d.dead
		d.mu.Unlock()
		if open < ahead {
			return nil
		}
		select {
		case <-d.answer:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// answered takes note of a result or dead letter.
func (d *state) answered(row row) row {
	now := time.Now()
	d.mu.Lock()
	defer d.mu.Unlock()
	if row.amends {
		d.amend(&row)
		return row
	}
	partition, offset, _ := strings.Cut(row.source, "/")
	key := row.topic + "/" + partition
	if n, err := strconv.ParseInt(offset, 10, 64); err == nil {
		if last, ok := d.last[key]; ok && n <= last {
			d.repeated++
			return row
		}
		d.last[key] = n
	}
	if row.topic == deadLetterTopic {
		d.dead++
	} else {
		d.results++
		if row.provisional {
			d.open[row.source] = true
		}
		if d.results == 1 {
			d.first, d.firstAt = now.Sub(d.began), now
		}
		d.lastAt = now
		for _, v := range row.verdicts {
			d.labels[v.label]++
		}
		for _, e := range row.entities {
			d.entities[e.group]++
		}
		if len(d.latencies) < ringSize {
			d.latencies, d.arrivals = append(d.latencies, row.latency), append(d.arrivals, now)
		} else {
			d.latencies[d.ring], d.arrivals[d.ring] = row.latency, now
			d.ring = (d.ring + 1) % ringSize
		}
	}
	d.list(row)
	select {
	case d.answer <- struct{}{}:
	default:
	}
	return row
}

// list adds a row to the table. d.mu is held.
func (d *state) list(row row) {
	if d.rows = append(d.rows, row); len(d.rows) > 2*mostRows {
		d.rows = slices.Clone(d.rows[len(d.rows)-mostRows:])
	}
}

// amend takes note of a final verdict. d.mu is held.
func (d *state) amend(row *row) {
	if !d.open[row.source] {
		d.repeated++
		return
	}
	delete(d.open, row.source)
	if row.was == "" {
		d.fellBack++
	} else {
		d.amended++
		if row.was != row.verdicts[0].label {
			d.changed++
		}
	}
	if len(d.waits) < ringSize {
		d.waits = append(d.waits, row.latency)
	} else {
		d.waits[d.waitRing] = row.latency
		d.waitRing = (d.waitRing + 1) % ringSize
	}
	d.list(*row)
}

// complete says that so many records have an answer, and that no answer is provisional.
func (d *state) complete(records int) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.results+d.dead >= records && len(d.open) == 0
}

// count is the number of records that have an answer.
func (d *state) count() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.results + d.dead
}

// missing says what is wrong with the count of answers to all records, or "".
func (d *state) missing(records int) string {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case records > 0 && d.results+d.dead != records:
		return fmt.Sprintf("demo: %d records were to be judged, %d have an answer", records, d.results+d.dead)
	case d.repeated > 0:
		return fmt.Sprintf("demo: %d results came twice", d.repeated)
	case records > 0 && len(d.open) > 0:
		return fmt.Sprintf("demo: %d provisional results have no final verdict", len(d.open))
	}
	return ""
}

// figures are the numbers above the table.
type figures struct {
	sent, results, dead int
	rate                float64 // verdicts a second over the last 5 s
	p50, p99            time.Duration
	lag                 int64
	inFlight            int
	asked               bool // there are amendments to speak of
	amended, fellBack   int
	changed, open       int
	wait                time.Duration // p50 from produced to final
}

func (d *state) figures(now time.Time) figures {
	d.mu.Lock()
	f := figures{sent: d.sent, results: d.results, dead: d.dead, asked: d.plan.Escalation != nil,
		amended: d.amended, fellBack: d.fellBack, changed: d.changed, open: len(d.open)}
	f.wait, _ = percentiles(d.waits)
	const window = 5 * time.Second
	recent := 0
	for _, t := range d.arrivals {
		if now.Sub(t) < window {
			recent++
		}
	}
	if span := min(window, now.Sub(d.firstAt)); recent > 0 && span > 0 {
		f.rate = float64(recent) / max(span, time.Second).Seconds()
		if len(d.arrivals) == ringSize && recent == ringSize { // more than the ring holds
			oldest := d.arrivals[d.ring]
			f.rate = ringSize / max(now.Sub(oldest), time.Millisecond).Seconds()
		}
	}
	f.p50, f.p99 = percentiles(d.latencies)
	worker := d.worker
	d.mu.Unlock()
	if worker != nil {
		f.lag, f.inFlight = worker.Queue()
	}
	return f
}

func percentiles(list []time.Duration) (p50, p99 time.Duration) {
	if len(list) == 0 {
		return 0, 0
	}
	sorted := slices.Clone(list)
	slices.Sort(sorted)
	return sorted[len(sorted)/2], sorted[min(len(sorted)-1, len(sorted)*99/100)]
}

// summary is printed at the end.
func (d *state) summary(w io.Writer, records int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.results+d.dead == 0 {
		return
	}
	took := d.lastAt.Sub(d.firstAt)
	p50, p99 := percentiles(d.latencies)
	fmt.Fprintf(w, "\n%d records in, %d results and %d dead letters out, %d of them twice\n", d.sent, d.results, d.dead,
		d.repeated)
	if took > 0 && d.results > 1 {
		fmt.Fprintf(w, "%.1f verdicts/s over %.1f s; latency from produced to read committed: p50 %s, p99 %s\n",
			float64(d.results-1)/took.Seconds(), took.Seconds(), milliseconds(p50), milliseconds(p99))
	}
	fmt.Fprintf(w, "first verdict %.1f s after the start\n", d.first.Seconds())
	if len(d.labels) > 0 {
		fmt.Fprintf(w, "labels    %s\n", tally(d.labels))
	}
	if len(d.entities) > 0 {
		fmt.Fprintf(w, "entities  %s\n", tally(d.entities))
	}
	if d.plan.Escalation != nil {
		wait, most := percentiles(d.waits)
		fmt.Fprintf(w, "endpoint  %d of %d records were asked about: %d amended (%d with another label), %d fell "+
			"back, %d open; p50 %s, p99 %s from produced to final\n",
			d.amended+d.fellBack+len(d.open), d.results, d.amended, d.changed, d.fellBack, len(d.open),
			milliseconds(wait), milliseconds(most))
	}
	if records > 0 && d.results+d.dead == records && d.repeated == 0 && len(d.open) == 0 {
		fmt.Fprintln(w, "every record has exactly one answer")
	}
}

// tally is "POSITIVE 12, NEGATIVE 3", the most frequent first.
func tally(counts map[string]int) string {
	names := make([]string, 0, len(counts))
	for n := range counts {
		names = append(names, n)
	}
	sort.Slice(names, func(i, j int) bool {
		if a, b := counts[names[i]], counts[names[j]]; a != b {
			return a > b
		}
		return names[i] < names[j]
	})
	for i, n := range names {
		names[i] = fmt.Sprintf("%s %d", printable(n), counts[n])
	}
	return strings.Join(names, ", ")
}

func milliseconds(d time.Duration) string {
	if d < 10*time.Second {
		return fmt.Sprintf("%d ms", d.Milliseconds())
	}
	return fmt.Sprintf("%.1f s", d.Seconds())
}
