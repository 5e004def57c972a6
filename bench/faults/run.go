package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"sluice/bench/faults/history"
	"sluice/bench/faults/report"
)

// This file owns one scenario from its topics to its verdict: records are fed, workers work, the fault happens, the lag
// must go to zero, and the history is checked (check.go).

// scenario is a fault and what is demanded of the workers under it.
type scenario struct {
	name     string
	fault    string // for the table
	injected string
	promises string // beside P1, P2, P4, P5, P6 and P8, which are always checked

	brokers    int      // 1 or 3; 3 only where the number is what the fault is about
	workers    int      // at the beginning, w-0, w-1, ...
	partitions int      // 0: 4
	rate       int      // records a second; 0: 200; negative: the scenario feeds itself
	args       []string // further flags of the workers
	disk       bool     // needs a broker with a small disk
	long       bool     // only in the long form
	distinct   bool     // every text is another: equal ones that wait together are judged once
	alone      bool     // must run with nothing beside it: it measures
	settle     time.Duration

	inConfig, outConfig []string // of the topics: pairs of name and value
	dlqConfig           []string
	before              func(r *run) error      // before workers start
	do                  func(r *run) error      // the fault, until it ends
	after               func(r *run) error      // when the lag is zero, before workers are stopped
	inputs              func(in *history.Input) // marks what is special about an input
	remade              bool
	cannot              string // why this fault is not injected: its row says so
	// how workers may end by themselves, as how says it; after any other end their logs are kept
	ends []string

	alerts   bool     // workers have a route, and P3 is checked
	escalate bool     // workers have an escalation in amend mode, and an endpoint
	stages   []string // of w-0, w-1, ... in turns; nil: both stages in each
	// what must occur among the final verdicts: "llm", or reasons of fallbacks; else nothing was injected
	finals []string
}

const everyPromise = "P1 P2 P4 P5 P6 P8"

// run is a scenario being run.
type run struct {
	ctx   context.Context
	s     *scenario
	c     *cluster
	o     *options
	rng   *rand.Rand
	dir   string
	seed  uint64
	notes []string // for the table

	group, in, out, dlq string
	urgent, asks        string // topics of alerts and of questions; empty: none
	endpoint            *endpoint
	partitions          int
	workers             []*worker
	twins               []*worker // under names of workers

	feeding  context.CancelFunc
	fed      chan error
	produced int           // records so far; the feeder's while it runs
	gone     []*kgo.Record // of the input, that may have been deleted since

	undo      []func() error // when all workers are stopped
	stopped   bool           // all workers, for good
	surprised bool           // by an end of a worker that the scenario does not expect

	mu      sync.Mutex
	failed  []string
	samples []history.Sample
}

// fail notes a broken demand.
func (r *run) fail(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.failed = append(r.failed, fmt.Sprintf(format, args...))
}

// note adds something to the table's column of counts.
func (r *run) note(format string, args ...any) {
	r.notes = append(r.notes, fmt.Sprintf(format, args...))
}

// pick is one of the forms of a duration or number, by the length of the run.
func pick[T any](r *run, short, long T) T {
	if r.o.long {
		return long
	}
	return short
}

// limit is how long a scenario may take: one that hangs fails, and the next one begins.
func (o *options) limit() time.Duration {
	if o.long {
		return 45 * time.Minute
	}
	return 6 * time.Minute
}

// execute runs a scenario and returns its row.
func execute(ctx context.Context, c *cluster, s *scenario, o *options, seed uint64) report.Row {
	row, clean := once(ctx, c, s, o, seed)
	if row.Result != report.Fail || !clean || !o.again || ctx.Err() != nil || c.heal(ctx) != nil {
		return row
	}
	say("%s: failed, though not by its history; once more", s.name)
	second, _ := once(ctx, c, s, o, seed+1)
	second.Counts = fmt.Sprintf("at the second try, the first was: %s; the second: %s", row.Counts, second.Counts)
	return second
}

// once runs a scenario. clean says that its history is not what it failed by.
func once(ctx context.Context, c *cluster, s *scenario, o *options, seed uint64) (row report.Row, clean bool) {
	row = report.Row{Name: s.name, Length: o.length(), Fault: s.fault, Injected: s.injected,
		Promises: strings.TrimSpace(everyPromise + " " + s.promises), Seed: fmt.Sprint(seed), Date: o.date}
	if s.cannot != "" {
		row.Promises, row.Result, row.Counts = s.promises, report.NotInjected, s.cannot
		return row, true
	}
	if s.disk && c.disk == "" {
		row.Result, row.Counts = report.NotInjected, "a small disk needs a tmpfs, and mounting one needs root"
		return row, true
	}
	ctx, cancel := context.WithTimeout(ctx, o.limit())
	defer cancel()
	r := &run{ctx: ctx, s: s, c: c, o: o, seed: seed, rng: rand.New(rand.NewPCG(seed, 0)), partitions: s.partitions}
	if r.partitions == 0 {
		r.partitions = 4
	}
	prefix := fmt.Sprintf("%s-%x", s.name, seed)
	r.group, r.in, r.out, r.dlq = prefix, prefix+"-in", prefix+"-out", prefix+"-dlq"
	if s.alerts {
		r.urgent = prefix + "-urgent"
	}
	if s.escalate {
		r.asks = prefix + "-asks"
	}
	checked, err := r.all()
	if err != nil {
		r.fail("%v", err)
	}
	if checked != nil {
		r.notes = append([]string{checked.String()}, r.notes...)
		for _, e := range checked.Examples {
			r.fail("%s", e)
		}
		if !checked.Clean() {
			r.fail("the history is not clean: %v", checked)
		}
	}
	row.Counts, row.Result = strings.Join(r.notes, "; "), report.Pass
	if len(r.failed) > 0 {
		row.Result = report.Fail
		row.Counts = strings.TrimPrefix(row.Counts+"; "+r.failed[0], "; ")
		for _, f := range r.failed {
			say("%s: %s", s.name, f)
		}
	}
	r.keepLogs()
	return row, checked == nil || checked.Clean()
}

// keepLogs leaves the ends of the workers' logs, after a failure or an end that nobody planned, where somebody who
// looks into it finds them.
func (r *run) keepLogs() {
	if len(r.failed) == 0 && !r.surprised {
		return
	}
	dir := filepath.Join(filepath.Dir(r.o.sluice), "logs", r.group)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		say("%s: the workers' logs: %v", r.s.name, err)
		return
	}
	for i, w := range append(r.workers, r.twins...) { // several may have one name
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("%02d-%s.log", i, w.name)), []byte(w.log.String()),
			0o644); err != nil {
			say("%s: the workers' logs: %v", r.s.name, err)
		}
	}
	say("%s: logs of the workers: %s", r.s.name, dir)
}

// count notes how often workers ended and were started again, and says of each end that the harness did not bring about
// what the worker said last.
func (r *run) count() {
	restarts, own := 0, map[string]int{}
	for _, w := range append(r.workers, r.twins...) {
		starts, _ := w.counts()
		restarts += starts - 1
		times := map[ending]int{}
		for _, e := range w.endings() {
			own[e.how]++
			times[e]++
			r.surprised = r.surprised || !slices.Contains(r.s.ends, e.how)
		}
		for e, n := range times {
			say("%s: %s ended by itself, %s ×%d: %s", r.s.name, w.name, e.how, n, e.said)
		}
	}
	if note := tally(restarts, own); note != "" {
		r.note("%s", note)
	}
}

// tally puts into words how often supervisors started workers again, and how those ended that did so by themselves.
func tally(restarts int, own map[string]int) string {
	var parts []string
	n := 0
	for _, how := range slices.Sorted(maps.Keys(own)) {
		parts = append(parts, fmt.Sprintf("%s ×%d", how, own[how]))
		n += own[how]
	}
	switch {
	case restarts == 0 && n == 0:
		return ""
	case restarts == 0:
		return "ended by themselves: " + strings.Join(parts, ", ")
	case n > 0 && restarts > n:
		parts = append(parts, fmt.Sprintf("by the harness ×%d", restarts-n))
	}
	said := fmt.Sprintf("%d restarts by supervisors", restarts)
	if len(parts) > 0 {
		said += ": " + strings.Join(parts, ", ")
	}
	return said
}

func (r *run) all() (*history.Report, error) {
	var err error
	if r.dir, err = os.MkdirTemp("", "sluice-faults-run-"); err != nil {
		return nil, err
	}
	defer os.RemoveAll(r.dir)
	if err := r.c.createTopic(r.ctx, r.partitions, r.in, r.s.inConfig...); err != nil {
		return nil, err
	}
	if err := r.c.createTopic(r.ctx, r.partitions, r.out, r.s.outConfig...); err != nil {
		return nil, err
	}
	if err := r.c.createTopic(r.ctx, r.partitions, r.dlq, r.s.dlqConfig...); err != nil {
		return nil, err
	}
	var further []string
	for _, topic := range []string{r.urgent, r.asks} {
		if topic != "" {
			further = append(further, topic)
		}
	}
	for _, topic := range further {
		if err := r.c.createTopic(r.ctx, r.partitions, topic); err != nil {
			return nil, err
		}
	}
	if r.s.escalate {
		if r.endpoint, err = startEndpoint(r.seed); err != nil {
			return nil, err
		}
		defer r.endpoint.stop()
	}
	defer func() {
		r.stopAll() // where an error came first
		for _, undo := range r.undo {
			if err := undo(); err != nil {
				say("%s: %v", r.s.name, err)
			}
		}
		r.c.proxy.Clear()
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		r.c.admin.DeleteTopics(ctx, append(further, r.in, r.out, r.dlq)...)
	}()
	if r.s.before != nil {
		if err := r.s.before(r); err != nil {
			return nil, err
		}
	}
	watch, unwatch := context.WithCancel(r.ctx)
	var watching sync.WaitGroup
	watching.Go(func() { r.watch(watch) })
	defer watching.Wait()
	defer unwatch()
	for i := range r.s.workers {
		if _, err := r.start(fmt.Sprintf("w-%d", i)); err != nil {
			return nil, err
		}
	}
	for _, w := range r.workers {
		if err := w.await(r.ctx); err != nil {
			return nil, err
		}
		if _, exits := w.counts(); len(exits) > 0 {
			return nil, fmt.Errorf("%s ended with %v before anything was done to it", w.name, exits)
		}
	}
	if r.s.rate >= 0 {
		r.feed()
	}
	if err := r.s.do(r); err != nil {
		return nil, err
	}
	r.c.proxy.Clear()
	over := time.Now()
	sleep(r.ctx, time.Second) // some records come after the fault
	if err := r.fedAll(); err != nil {
		return nil, err
	}
	limit := r.s.settle
	if limit == 0 {
		limit = 90 * time.Second
	}
	settled := r.settle(limit)
	if settled == nil {
		r.note("lag 0 after %.1f s", time.Since(over).Seconds())
	}
	if settled == nil && r.s.after != nil {
		settled = r.s.after(r)
	}
	unwatch()
	watching.Wait()
	r.stopAll()
	checked, err := r.check()
	return checked, errors.Join(settled, err)
}

// stopAll stops all workers and takes what is to be said of their ends. Once.
func (r *run) stopAll() {
	if r.stopped {
		return
	}
	r.stopped = true
	for _, w := range append(r.workers, r.twins...) {
		w.stop(syscall.SIGKILL)
	}
	r.count()
}

// start starts a worker under a supervisor.
func (r *run) start(name string) (*worker, error) {
	args, err := r.writeConfig(name)
	if err != nil {
		return nil, err
	}
	if n := len(r.s.stages); n > 0 {
		args = append(args, "--stage="+r.s.stages[len(r.workers)%n])
	}
	w := supervise(r.o.sluice, name, args)
	r.workers = append(r.workers, w)
	return w, nil
}

// watch samples the groups' offsets.
func (r *run) watch(ctx context.Context) {
	for sleep(ctx, 250*time.Millisecond) {
		for _, group := range r.groups() {
			asked, cancel := context.WithTimeout(kadm.RequireStable(ctx), 3*time.Second)
			offsets, err := r.c.admin.FetchOffsets(asked, group)
			cancel()
			if err != nil {
				continue // no broker, just now
			}
			at := time.Now().UTC()
			r.mu.Lock()
			offsets.Each(func(o kadm.OffsetResponse) {
				if o.Err == nil && o.At >= 0 {
					r.samples = append(r.samples, history.Sample{Partition: history.Partition{Topic: o.Topic,
						Number: o.Partition}, Offset: o.At, At: at})
				}
			})
			r.mu.Unlock()
		}
	}
}

// groups are the consumer groups of the workers: that of the input and, with an escalation, that of the questions.
func (r *run) groups() []string {
	if r.asks == "" {
		return []string{r.group}
	}
	return []string{r.group, r.group + "-escalation"}
}

// sleep waits for d and reports true, or false as soon as ctx ends.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
