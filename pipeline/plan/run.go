package plan

import (
	"context"
	"errors"
	"fmt"
	"math/bits"
	"math/rand/v2"
	"time"

	"sluice/pipeline"
)

// This file owns how a record moves on: which of its steps may run now, and what the end of one means for the others.
// All of it is decided by the words of Item, under its lock; nothing that can wait is called with it held.

// next marks the steps of a record that are to start now as started. over says that its outcome is to be made now, by
// whoever called. it.mu is held.
func (p *Plan) next(it *Item) (start uint64, over bool) {
	if it.over {
		return 0, false
	}
	if it.fault == nil {
		p.settle(it)
	}
	if it.fault == nil {
		for rest := it.wanted &^ it.started &^ it.ended; rest != 0; rest &= rest - 1 {
			s := &p.steps[bits.TrailingZeros64(rest)]
			if (s.after|s.needs)&^it.ended == 0 {
				start |= s.bit()
			}
		}
	}
	it.started |= start
	it.running += bits.OnesCount64(start)
	it.over = it.running == 0 && (it.fault != nil || p.goals&^it.ended == 0)
	return start, it.over
}

// settle finds out which steps are wanted, from the goals back to what they need. it.mu is held.
func (p *Plan) settle(it *Item) {
	for again := true; again && it.fault == nil; {
		again = false
		need := p.goals | it.wanted
		for i := len(p.steps) - 1; i >= 0; i-- {
			s := &p.steps[i]
			if need&s.bit() == 0 || it.ended&s.bit() != 0 {
				continue
			}
			if s.after&^it.ended != 0 { // what comes first decides
				need |= s.after
				continue
			}
			if it.settled&s.bit() == 0 {
				it.settled |= s.bit()
				if s.asks != nil && !s.wants(it) {
					it.ended |= s.bit()
					again = true // others may have waited for it
					continue
				}
			}
			it.wanted |= s.bit()
			need |= s.needs
		}
	}
}

// wants asks a conditional step. A panic is the record's fault. it.mu is held.
func (s *stepState) wants(it *Item) (yes bool) {
	defer func() {
		if x := recover(); x != nil {
			it.fault = pipeline.Panicked(s.Stage, x)
		}
	}()
	return s.asks.Wanted(it)
}

// advanceAll takes records that were taken in together through every step that they come to at once. w looks at it; the
// time that local steps take is counted from began.
func (p *Plan) advanceAll(items []*Item, w *pipeline.Watch, began time.Time) {
	var starts [AtOnce]uint64
	batch := make([]*Item, 0, len(items))
	for first := true; ; first = false {
		any := uint64(0)
		for i, it := range items {
			it.mu.Lock()
			var over bool
			starts[i], over = p.next(it)
			it.mu.Unlock()
			any |= starts[i]
			if over {
				p.finish(it)
			}
		}
		locals := false
		for rest := any; rest != 0; rest &= rest - 1 {
			s := &p.steps[bits.TrailingZeros64(rest)]
			batch = batch[:0]
			for i, it := range items {
				if starts[i]&s.bit() != 0 {
					batch = append(batch, it)
				}
			}
			if s.local != nil {
				w.Next(s.Stage, s.doingTo(batch))
				p.do(s, batch)
				locals = true
				continue
			}
			if first && locals {
				p.o.Metrics.local.Observe(time.Since(began).Seconds())
				first = false
			}
			w.Next(s.Stage, ofVerdicts(len(batch))) // an answer may be there already, and the record's last
			for _, it := range batch {
				p.start(s, it)
			}
		}
		if first && locals {
			p.o.Metrics.local.Observe(time.Since(began).Seconds())
		}
		if !locals {
			return
		}
	}
}

// advance takes one record on after a step of it has ended.
func (p *Plan) advance(it *Item) {
	for locals := true; locals; {
		locals = false
		it.mu.Lock()
		start, over := p.next(it)
		it.mu.Unlock()
		if over {
			p.finish(it)
			return
		}
		for ; start != 0; start &= start - 1 {
			s := &p.steps[bits.TrailingZeros64(start)]
			if s.local != nil {
				w := p.o.Watchdog.Watch(s.Stage, s.doingTo([]*Item{it}))
				p.do(s, []*Item{it})
				w.End()
				locals = true
				continue
			}
			p.start(s, it)
		}
	}
}

// do runs a local step.
func (p *Plan) do(s *stepState, batch []*Item) {
	p.doSafely(s, batch)
	for _, it := range batch {
		it.mu.Lock()
		it.ended |= s.bit()
		it.running--
		it.mu.Unlock()
	}
}

// doSafely runs a local step. Where that panics it runs over each record alone, and it is the fault of those over which
// it panics again.
func (p *Plan) doSafely(s *stepState, batch []*Item) {
	defer func() {
		x := recover()
		switch {
		case x == nil:
		case len(batch) == 1:
			batch[0].Fail(pipeline.Panicked(s.Stage, x))
		default:
			for i := range batch {
				p.doSafely(s, batch[i:i+1])
			}
		}
	}()
	s.local.Do(batch)
}

// try is what is known of a waiting step that has a deadline or was repeated.
type try struct {
	repeats int
	until   time.Time // zero: no deadline
	timer   *time.Timer
	ctx     context.Context
	cancel  context.CancelFunc
	cause   error // of the last that failed
}

// try is the record of a step's tries. it.mu is held.
func (it *Item) try(s *stepState) *try {
	if it.tries == nil {
		it.tries = make([]try, len(it.kept))
	}
	return &it.tries[s.index]
}

// start starts a waiting step.
func (p *Plan) start(s *stepState, it *Item) {
	ctx := p.ctx
	if s.Deadline > 0 {
		it.mu.Lock()
		t := it.try(s)
		t.until = time.Now().Add(s.Deadline)
		t.ctx, t.cancel = context.WithDeadline(p.ctx, t.until)
		t.timer = time.AfterFunc(s.Deadline, func() { p.timeUp(s, it) })
		ctx = t.ctx
		it.mu.Unlock()
	}
	p.startSafely(s, it, ctx)
}

func (p *Plan) startSafely(s *stepState, it *Item, ctx context.Context) {
	e := End{p, it, s}
	defer func() {
		if x := recover(); x != nil {
			e.Fail(pipeline.Panicked(s.Stage, x))
		}
	}()
	s.waiting.Start(ctx, it, e)
}

// ended takes what came of a waiting step.
func (p *Plan) ended(e End, r result) {
	s, it := e.step, e.it
	it.mu.Lock()
	if it.ended&s.bit() != 0 { // its time was over before
		it.mu.Unlock()
		return
	}
	if r.err != nil {
		f := pipeline.AsFault(s.Stage, r.err)
		switch f.Kind {
		case pipeline.Transient:
			p.again(s, it, f)
			return
		case pipeline.Config, pipeline.Fenced, pipeline.Internal:
			it.mu.Unlock()
			p.o.Fail(f)
			return
		}
		if it.fault == nil {
			it.fault = f
		}
	}
	it.kept[s.index] = r.kept
	if r.made {
		it.set(s, r.fact)
	}
	it.close(s)
	it.mu.Unlock()
	p.advance(it)
}

// set puts a fact in its place. it.mu is held.
func (it *Item) set(s *stepState, f pipeline.Fact) {
	to := &it.Facts[s.waiting.place().slot]
	f.Name, f.Revision = to.Name, 1
	*to = f
}

// close notes that a waiting step has ended. it.mu is held.
func (it *Item) close(s *stepState) {
	it.ended |= s.bit()
	it.running--
	if it.tries != nil && it.tries[s.index].timer != nil {
		it.tries[s.index].timer.Stop()
		it.tries[s.index].cancel()
	}
}

// again starts a step once more after a pause, if there is time. it.mu is held, and released.
func (p *Plan) again(s *stepState, it *Item, cause error) {
	t := it.try(s)
	t.repeats++
	t.cause = cause
	wait, ctx := pause(t.repeats), t.ctx
	late := !t.until.IsZero() && time.Now().Add(wait).After(t.until)
	it.mu.Unlock()
	if late {
		p.timeUp(s, it)
		return
	}
	if ctx == nil {
		ctx = p.ctx
	}
	p.o.Metrics.retried(s.Name)
	time.AfterFunc(wait, func() {
		if ctx.Err() == nil && !it.dropped() {
			p.startSafely(s, it, ctx)
		}
	})
}

// pause is how long to wait before the n-th repeat: 50 ms at first, twice as long each time up to 5 s, and up to half
// as long again by chance, so that many do not come back at once.
func pause(n int) time.Duration {
	d := min(50*time.Millisecond<<min(n-1, 7), 5*time.Second)
	return d + rand.N(d/2)
}

// timeUp ends a step whose deadline has passed: with its fallback, or with the record's fault.
func (p *Plan) timeUp(s *stepState, it *Item) {
	it.mu.Lock()
	if it.ended&s.bit() != 0 {
		it.mu.Unlock()
		return
	}
	cause := it.try(s).cause
	if cause == nil {
		cause = errors.New("there was no answer")
	}
	if s.Fallback != nil {
		it.set(s, s.fallback(it, cause))
		p.o.Metrics.fellBack(s.Name)
	} else if it.fault == nil {
		it.fault = pipeline.Faultf(pipeline.Poison, s.Stage, "deadline", "step %s has not ended within %v: %w",
			s.Name, s.Deadline,
			cause)
	}
	it.close(s)
	it.mu.Unlock()
	p.advance(it)
}

// fallback makes the fact in a step's place. A panic is the record's fault. it.mu is held.
func (s *stepState) fallback(it *Item, cause error) (f pipeline.Fact) {
	defer func() {
		if x := recover(); x != nil && it.fault == nil {
			it.fault = pipeline.Panicked(s.Stage, x)
		}
	}()
	f = s.Fallback(it, cause)
	f.By = pipeline.Fallback
	return f
}

// finish makes the outcome of a record about which everything has been found out.
func (p *Plan) finish(it *Item) {
	if f := it.fault; f != nil &&
		(f.Kind == pipeline.Config || f.Kind == pipeline.Fenced || f.Kind == pipeline.Internal) {
		p.o.Fail(f)
		return
	}
	p.end(it, p.outcome(it))
}

func (p *Plan) outcome(it *Item) (o pipeline.Outcome) {
	defer func() {
		if x := recover(); x != nil {
			o = p.o.Publisher.DeadLetter(it.Record, pipeline.Panicked("encode", x), 1)
		}
	}()
	if it.fault != nil {
		return p.o.Publisher.DeadLetter(it.Record, it.fault, 1)
	}
	return p.o.Publisher.Result(&it.Judged)
}

// What is being done, as the watchdog's sentences name it.

func ofReading(r *pipeline.Record) func() string {
	return func() string {
		return fmt.Sprintf("the record of %s at offset %d has been read", r.TopicPartition(), r.Offset)
	}
}

func ofVerdicts(texts int) func() string {
	return func() string { return fmt.Sprintf("verdicts on %d texts have been made", texts) }
}

func (s *stepState) doingTo(batch []*Item) func() string {
	n, r := len(batch), batch[0].Record
	return func() string {
		if n == 1 {
			return fmt.Sprintf("the text of %s at offset %d has been %s", r.TopicPartition(), r.Offset, s.Doing)
		}
		return fmt.Sprintf("%d texts, the first of them of %s at offset %d, have been %s", n,
			r.TopicPartition(), r.Offset,
			s.Doing)
	}
}
