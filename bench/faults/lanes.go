package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"sluice/bench/faults/report"
)

// This file owns lanes: scenarios that run at the same time, each lane on a cluster and behind a proxy of its own. Most
// of a scenario is waiting, for a pause to end or a session to expire, so that three lanes fill two cores.

// plan is a whole run: what is to be run and what came of it.
type plan struct {
	o     *options
	seed  uint64
	names []string     // of all scenarios there are, in the order of the page
	old   []report.Row // of the page
	lock  *sharedLock

	mu   sync.Mutex // one lane at a time writes the page
	rows []report.Row
	errs []error // of the harness itself, not of a scenario
}

// all runs the scenarios in lanes, and then those that must have the machine to themselves. It returns when every lane
// has ended and its cluster is gone.
func (p *plan) all(ctx context.Context, chosen []*scenario, lanes int) {
	var beside, alone []*scenario
	for _, s := range chosen {
		if s.alone {
			alone = append(alone, s)
		} else {
			beside = append(beside, s)
		}
	}
	p.side(ctx, beside, lanes)
	p.side(ctx, alone, 1)
}

// side shares scenarios out among lanes. Those of one size of cluster are one queue, in the order of the list. A lane
// whose queue is empty goes on with the others', on a new cluster.
func (p *plan) side(ctx context.Context, chosen []*scenario, lanes int) {
	waiting := map[int]int{}
	for _, s := range chosen {
		waiting[s.brokers]++
	}
	queues := map[int]chan *scenario{}
	for size, n := range waiting {
		queues[size] = make(chan *scenario, n)
		defer close(queues[size])
	}
	for _, s := range chosen {
		queues[s.brokers] <- s
	}
	var wg sync.WaitGroup
	for _, own := range share(waiting, lanes) {
		wg.Go(func() {
			p.work(ctx, own, queues[own])
			for _, size := range sizes(waiting) {
				p.work(ctx, size, queues[size])
			}
		})
	}
	wg.Wait()
}

// sizes are the sizes of clusters, largest first: they take longest to start.
func sizes(waiting map[int]int) []int {
	return slices.SortedFunc(maps.Keys(waiting), func(a, b int) int { return b - a })
}

// share says with which size of cluster each lane begins, given how many scenarios wait for each size: every size has a
// lane, as far as there are lanes; further ones go where most scenarios wait for each; never more than there are
// scenarios.
func share(waiting map[int]int, lanes int) []int {
	var all []int
	n := map[int]int{}
	for len(all) < lanes {
		most, at := 0.0, 0
		for _, size := range sizes(waiting) {
			each := float64(waiting[size]) / float64(n[size]) // +Inf where there is no lane yet
			if n[size] < waiting[size] && each > most {
				most, at = each, size
			}
		}
		if at == 0 {
			break
		}
		n[at]++
		all = append(all, at)
	}
	return all
}

// lane is a cluster on which one scenario runs after the other.
type lane struct {
	p    *plan
	size int
	c    *cluster // nil: none yet, or not any more
}

// work runs what it finds in a queue until that is empty. A lane that gets no cluster leaves the queue to the others.
func (p *plan) work(ctx context.Context, size int, queue <-chan *scenario) {
	l := &lane{p: p, size: size}
	defer l.end() // whatever ends the run, no broker stays
	for ctx.Err() == nil && len(queue) > 0 {
		if err := l.next(ctx, queue); err != nil {
			p.broken(fmt.Errorf("a lane of %d brokers: %w", size, err))
			return
		}
	}
}

// end stops the cluster.
func (l *lane) end() {
	if l.c == nil {
		return
	}
	if err := l.c.stop(); err != nil {
		say("stopping a cluster of %d: %v", l.size, err)
	}
	l.c = nil
}

// next runs the next scenario of a queue, if there still is one.
func (l *lane) next(ctx context.Context, queue <-chan *scenario) (err error) {
	unlock, err := l.p.lock.take(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	// Before a scenario is taken from the queue: one that cannot run here may run in another lane.
	if l.c != nil {
		if err := l.c.heal(ctx); err != nil && ctx.Err() == nil {
			say("a cluster of %d is not whole after its last scenario, it is replaced: %v", l.size, err)
			l.end()
		}
	}
	if l.c == nil {
		if l.c, err = startCluster(ctx, l.size, l.size == 3); err != nil {
			return err
		}
	}
	select {
	case s := <-queue:
		began := time.Now()
		row := execute(ctx, l.c, s, l.p.o, seedOf(l.p.seed, s.name))
		row.Seed = fmt.Sprint(l.p.seed)
		if ctx.Err() != nil {
			return nil // what was interrupted is no row
		}
		return l.p.made(row, time.Since(began))
	default:
		return nil // another lane was quicker
	}
}

// broken notes what went wrong with the harness itself.
func (p *plan) broken(errs ...error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.errs = append(p.errs, errs...)
}

// made takes a row into the page: after every scenario, so that an hour of rows is not lost with the last one.
func (p *plan) made(row report.Row, took time.Duration) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	fmt.Printf("%-28s %-12s %4.0f s  %s\n", row.Name, row.Result, took.Seconds(), row.Counts)
	p.rows = append(p.rows, row)
	return writePage(p.o.page, report.Merge(p.names, p.old, p.rows))
}

// verdict is nil if every chosen scenario was run and passed.
func (p *plan) verdict(chosen []*scenario) error {
	errs := slices.Clone(p.errs)
	left := map[string]bool{}
	for _, s := range chosen {
		left[s.name] = true
	}
	var failed []string
	for _, row := range p.rows {
		delete(left, row.Name)
		if row.Result == report.Fail {
			failed = append(failed, row.Name)
		}
	}
	if len(failed) > 0 {
		errs = append(errs, fmt.Errorf("%d of %d scenarios failed: %s", len(failed), len(p.rows), strings.Join(failed,
			", ")))
	}
	if len(left) > 0 {
		var names []string
		for name := range left {
			names = append(names, name)
		}
		slices.Sort(names)
		errs = append(errs, fmt.Errorf("%d scenarios were not run: %s", len(left), strings.Join(names, ", ")))
	}
	return errors.Join(errs...)
}
