// Package plan is a record's way from its bytes to its outcome: opened by a codec, then through steps, each of which
// may wait for something and may fail in its own way, then to the publisher.
//
// A plan is a set of steps with needs. Goals are what every record is to have; other steps run for a record only where
// one of its goals needs them, so a step that no model of a record needs costs nothing. Steps that can run side by side
// do.
package plan

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"

	"sluice/pipeline"
	"sluice/pipeline/codec"
	"sluice/pipeline/publish"
)

// This file owns the plan: which steps there are, in which order they may run, and the goroutines that take records in.
// One record's state is item.go's, how it moves on is run.go's.

// Options configure a Plan. Everything without a default is required.
type Options struct {
	Codec        codec.Codec
	Publisher    *publish.Publisher
	MaxTextBytes int     // longer texts are cut before they are judged, and flagged; 0: none is
	Skip         Skips   // which records are left out
	Urgent       *Urgent // which records go first; nil: none
	Metrics      *Metrics
	Watchdog     *pipeline.Watchdog
	// Fail is told of an error that a person must mend, or that breaks a promise: the worker must stop. The record that
	// met it stays unfinished.
	Fail func(error)
}

// AtOnce bounds how many records a local step gets at a time, so that the first of a burst is through soon.
const AtOnce = 16

// maxSteps is how many steps a plan may have: a set of them is a word.
const maxSteps = 64

// Plan is a set of steps, and the Processor that takes records through them.
type Plan struct {
	steps []stepState // needs before those who need them
	goals uint64
	facts []pipeline.Fact // of a record about which nothing is known yet
	o     Options
	ctx   context.Context // ends at Close
	stop  context.CancelFunc

	mu     sync.Mutex
	work   *sync.Cond
	first  []*Item // urgent by topic or header
	intake []*Item
	closed bool
	wg     sync.WaitGroup
}

// stepState is a step in its plan.
type stepState struct {
	Info
	index   int
	local   Local
	waiting Waiting
	asks    Conditional
	after   uint64
	needs   uint64
}

func (s *stepState) bit() uint64 { return 1 << s.index }

// New checks that steps fit together and starts the goroutines that take records in; Close stops them. Facts are in the
// order in which their first steps stand.
func New(steps []Step, o Options) (*Plan, error) {
	p := &Plan{o: o}
	if err := p.build(steps); err != nil {
		return nil, fmt.Errorf("plan: %w", err)
	}
	p.work = sync.NewCond(&p.mu)
	p.ctx, p.stop = context.WithCancel(context.Background())
	for range runtime.GOMAXPROCS(0) {
		p.wg.Go(p.takeIn)
	}
	return p, nil
}

func (p *Plan) build(steps []Step) error {
	if len(steps) > maxSteps {
		return fmt.Errorf("%d steps, at most %d are possible", len(steps), maxSteps)
	}
	infos := make([]Info, len(steps))
	at := map[string]int{}
	for i, s := range steps {
		infos[i] = s.Describe()
		if _, twice := at[infos[i].Name]; twice || infos[i].Name == "" {
			return fmt.Errorf("step %d: the name %q is empty or taken", i, infos[i].Name)
		}
		at[infos[i].Name] = i
	}
	order, err := sorted(infos, at)
	if err != nil {
		return err
	}
	slots := map[string]int{}
	for _, info := range infos {
		if _, there := slots[info.Fact]; info.Fact != "" && !there {
			slots[info.Fact] = len(p.facts)
			p.facts = append(p.facts, pipeline.Fact{Name: info.Fact, Tag: info.Tag, Revision: 1})
		}
	}
	index := map[string]int{}
	p.steps = make([]stepState, len(steps))
	for i, k := range order {
		s := stepState{Info: infos[k], index: i}
		s.local, _ = steps[k].(Local)
		s.waiting, _ = steps[k].(Waiting)
		s.asks, _ = steps[k].(Conditional)
		if (s.local == nil) == (s.waiting == nil) {
			return fmt.Errorf("step %s: it must be either Local or Waiting", s.Name)
		}
		for _, n := range s.After {
			s.after |= 1 << index[n]
		}
		for _, n := range s.Needs {
			s.needs |= 1 << index[n]
		}
		place := steps[k].place()
		*place = Place{index: i, slot: -1}
		if s.Fact != "" {
			place.slot = slots[s.Fact]
		}
		if s.Goal {
			p.goals |= s.bit()
		}
		index[s.Name] = i
		p.steps[i] = s
	}
	return nil
}

// sorted is the order in which every step stands behind those it needs.
func sorted(infos []Info, at map[string]int) ([]int, error) {
	var order []int
	const underWay, done = 1, 2
	state := make([]int, len(infos))
	var visit func(i int) error
	visit = func(i int) error {
		switch state[i] {
		case underWay:
			return fmt.Errorf("step %s needs itself, through others", infos[i].Name)
		case done:
			return nil
		}
		state[i] = underWay
		for _, n := range slices.Concat(infos[i].After, infos[i].Needs) {
			k, there := at[n]
			if !there {
				return fmt.Errorf("step %s needs %q, which is not in the plan", infos[i].Name, n)
			}
			if err := visit(k); err != nil {
				return err
			}
		}
		state[i] = done
		order = append(order, i)
		return nil
	}
	for i := range infos {
		if err := visit(i); err != nil {
			return nil, err
		}
	}
	return order, nil
}

// Process implements pipeline.Processor.
func (p *Plan) Process(j *pipeline.Job) { p.take(p.newItem(j.Record, j, nil)) }

// Submit takes a record through the plan that belongs to no stage. done is called once, on any goroutine, with what was
// found out and what would be published; it is not called for a record that is not done when the plan is closed or has
// failed.
func (p *Plan) Submit(r *pipeline.Record, done func(*Item, pipeline.Outcome)) {
	p.take(p.newItem(r, nil, done))
}

func (p *Plan) newItem(r *pipeline.Record, j *pipeline.Job, done func(*Item, pipeline.Outcome)) *Item {
	it := &Item{job: j, finish: done}
	it.Record = r
	return it
}

func (p *Plan) take(it *Item) {
	early := p.o.Urgent.early(it.Record)
	p.mu.Lock()
	if early {
		p.first = append(p.first, it)
	} else {
		p.intake = append(p.intake, it)
	}
	p.mu.Unlock()
	p.work.Signal()
}

// Close stops taking records in. What is not done by then never is.
func (p *Plan) Close() {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.stop()
	p.work.Broadcast()
	p.wg.Wait()
}

func (p *Plan) takeIn() {
	var items []*Item
	for {
		p.mu.Lock()
		for len(p.first)+len(p.intake) == 0 && !p.closed {
			p.work.Wait()
		}
		if p.closed {
			p.mu.Unlock()
			return
		}
		items = takeItems(&p.first, items[:0])
		items = takeItems(&p.intake, items)
		p.mu.Unlock()
		p.begin(items)
	}
}

// takeItems moves items from the front of a queue until there are AtOnce.
func takeItems(from *[]*Item, to []*Item) []*Item {
	n := min(AtOnce-len(to), len(*from))
	to = append(to, (*from)[:n]...)
	rest := copy(*from, (*from)[n:])
	clear((*from)[rest:])
	*from = (*from)[:rest]
	return to
}

// begin opens records and takes them as far as they come at once.
func (p *Plan) begin(items []*Item) {
	began := time.Now()
	w := p.o.Watchdog.Watch("decode", ofReading(items[0].Record))
	defer w.End()
	opened := make([]*Item, 0, len(items))
	for i, it := range items {
		if i > 0 {
			w.Next("decode", ofReading(it.Record))
		}
		if p.openSafely(it) {
			opened = append(opened, it)
		}
	}
	if len(opened) > 0 {
		p.advanceAll(opened, w, began)
	}
}

// openSafely is open, whose panic is its record's fault.
func (p *Plan) openSafely(it *Item) (on bool) {
	defer func() {
		if x := recover(); x != nil {
			on = false
			p.end(it, p.o.Publisher.DeadLetter(it.Record, pipeline.Panicked("decode", x), 1))
		}
	}()
	return p.open(it)
}

// open reads a record. It returns false when it goes no further: its outcome needs no step, or it is opened again
// later.
func (p *Plan) open(it *Item) bool {
	r := it.Record
	var f *pipeline.Fault
	if r.Value != nil {
		var err error
		if it.Value, err = p.o.Codec.Open(p.ctx, r.Value); err != nil {
			if f = pipeline.AsFault("decode", err); f.Kind != pipeline.Poison {
				p.unopened(it, f)
				return false
			}
		}
	}
	if by := p.o.Skip.Of(r, it.Value, p.o.Publisher.RuleFailed); by != "" {
		p.end(it, pipeline.Outcome{Disposition: pipeline.Skipped, SkippedBy: by})
		return false
	}
	switch {
	case r.Value == nil:
		p.end(it, p.o.Publisher.Tombstone(r))
		return false
	case f != nil:
		p.end(it, p.o.Publisher.DeadLetter(r, f, 0))
		return false
	}
	it.Text, it.Flags = codec.Clean(it.Value, p.o.MaxTextBytes)
	pair, flags := codec.CleanPair(it.Value, p.o.MaxTextBytes)
	it.Pair, it.Flags = pair, it.Flags.Or(flags)
	it.Facts = append(it.fact1[:0], p.facts...)
	if blank(it.Text) || pair != nil && blank(pair) {
		p.end(it, p.o.Publisher.Empty(&it.Judged))
		return false
	}
	if len(p.steps) <= len(it.kept1) {
		it.kept = it.kept1[:len(p.steps)]
	} else {
		it.kept = make([]any, len(p.steps))
	}
	it.Urgent = p.o.Urgent.is(&it.Judged, p.o.Metrics, p.o.Publisher.RuleFailed)
	return true
}

// unopened is what becomes of a record whose value cannot be read yet, or by a fault that is not its own.
func (p *Plan) unopened(it *Item, f *pipeline.Fault) {
	if f.Kind != pipeline.Transient {
		p.o.Fail(f)
		return
	}
	p.o.Metrics.retried("decode")
	it.opens++
	time.AfterFunc(pause(it.opens), func() {
		if !it.dropped() {
			p.take(it)
		}
	})
}

// blank says that a text has nothing but white space.
func blank(text []byte) bool {
	for len(text) > 0 {
		r, n := utf8.DecodeRune(text)
		if !unicode.IsSpace(r) {
			return false
		}
		text = text[n:]
	}
	return true
}

// end gives a record's outcome to whoever waits for it.
func (p *Plan) end(it *Item, o pipeline.Outcome) {
	if it.job == nil {
		it.finish(it, o)
		return
	}
	// The outcome's facts hold the item until they are durable; what was needed to find them out need not stay so long.
	if it.tries == nil { // else a step that was late may still be looking
		clear(it.kept)
		it.Value, it.Text, it.Pair = nil, nil, nil
	}
	it.job.Done(o)
}
