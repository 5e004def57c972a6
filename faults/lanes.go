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

	"sluice/faults/report"
)

// This file owns lanes: scenarios that run at the same time, each lane on a cluster and behind a proxy of its own. Most of a
// scenario is waiting, for a pause to end or a session to expire, so that three lanes fill two cores.

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

// all runs the scenarios in lanes, and then those that must have the machine to themselves. It returns when every lane has
// ended and its cluster is gone.
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

// side shares scenarios out among lanes. Lanes with equally many brokers take from one queue, in the order of the list.
func (p *plan) side(ctx context.Context, chosen []*scenario, lanes int) {
	bySize := map[int][]*scenario{}
	for _, s := range chosen {
		bySize[s.brokers] = append(bySize[s.brokers], s)
	}
	var wg sync.WaitGroup
	n := share(bySize, lanes)
	for _, size := range sizes(bySize) {
		queue := make(chan *scenario, len(bySize[size]))
		for _, s := range bySize[size] {
			queue <- s
		}
		close(queue)
		for range n[size] {
			wg.Go(func() { p.lane(ctx, size, queue) })
		}
		if lanes == 1 {
			wg.Wait() // one cluster after the other
		}
	}
	wg.Wait()
}

// sizes are the sizes of clusters, largest first: they take longest to start.
func sizes(bySize map[int][]*scenario) []int {
	return slices.SortedFunc(maps.Keys(bySize), func(a, b int) int { return b - a })
}

// share says how many lanes each size of cluster gets: one where there is anything to do, the others where most scenarios wait
// for a lane, never more than there are scenarios. One lane serves all sizes, one after the other.
func share(bySize map[int][]*scenario, lanes int) map[int]int {
	n := map[int]int{}
	left := lanes
	for size := range bySize {
		n[size] = 1
		left--
	}
	for ; left > 0; left-- {
		most, at := 0.0, 0
		for _, size := range sizes(bySize) {
			waiting := len(bySize[size])
			if each := float64(waiting) / float64(n[size]); n[size] < waiting && each > most {
				most, at = each, size
			}
		}
		if at == 0 {
			break
		}
		n[at]++
	}
	return n
}

// lane runs what it finds in the queue. A lane that has no cluster leaves the queue to the others.
func (p *plan) lane(ctx context.Context, size int, queue <-chan *scenario) {
	var c *cluster
	end := func() {
		if c == nil {
			return
		}
		if err := c.stop(); err != nil {
			say("stopping the cluster of %d: %v", size, err)
		}
		c = nil
	}
	defer end() // whatever ends the run, no broker stays
	for ctx.Err() == nil {
		if c != nil { // before a scenario is taken from the queue: one that cannot run here may run in another lane
			if err := c.heal(ctx); err != nil && ctx.Err() == nil {
				say("the cluster of %d is not whole again after the last scenario, it is replaced: %v", size, err)
				end()
			}
		}
		unlock, err := p.lock.take(ctx)
		if err != nil {
			p.broken(err)
			return
		}
		if c == nil && len(queue) > 0 {
			if c, err = startCluster(ctx, size, size == 3); err != nil {
				p.broken(fmt.Errorf("a cluster of %d: %w", size, err), unlock())
				return
			}
		}
		s, more := <-queue
		if !more {
			p.broken(unlock())
			return
		}
		began := time.Now()
		row := execute(ctx, c, s, p.o, seedOf(p.seed, s.name))
		row.Seed = fmt.Sprint(p.seed)
		if err := unlock(); err != nil {
			p.broken(err)
			return
		}
		if ctx.Err() != nil {
			return
		}
		if err := p.made(row, time.Since(began)); err != nil {
			p.broken(err)
			return
		}
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
		errs = append(errs, fmt.Errorf("%d of %d scenarios failed: %s", len(failed), len(p.rows), strings.Join(failed, ", ")))
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
