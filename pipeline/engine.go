package pipeline

import (
	"context"
	"errors"
	"fmt"
	"math"
	"runtime"
	"sync"
	"time"
)

// This file owns the runners: N goroutines, each locked to an OS thread (and pinned to a core by its Runner), each able to
// run every model. They share the batcher. A failed batch is halved until the bad row is alone.

// Row is one row of model input: token ids with the model's special tokens.
type Row []int32

// Runner computes logits on one OS thread. Implemented by model/ort; one runner belongs to one goroutine that is locked to
// its thread.
type Runner interface {
	// Bind is called once, on the locked thread, before the first Run: the place to pin the thread to a core.
	Bind() error
	// Run computes the logits of rows, in their order: [labels] per row for text-classification, [tokens*labels] per row
	// (row-major) for token-classification. The slices are the caller's. The context's deadline ends the run. Rows with
	// NaN or Inf logits are returned as they are; the caller checks.
	Run(ctx context.Context, rows []Row) ([][]float32, error)
	Close() error
}

// EngineModel is one model that the engine runs.
type EngineModel struct {
	Name  string
	Open  func(runner int) (Runner, error) // makes the runner-th runner's instance
	Probe Row                              // a row known to work: tells a bad row from a broken model
	// Warm runs the largest shape once, so that the first record does not pay for growing buffers; nil: nothing to do.
	Warm func(context.Context, Runner) error
}

// EngineOptions configure an Engine.
type EngineOptions struct {
	Runners     int           // goroutines that run models; GOMAXPROCS, which follows the container's CPU limit
	BatchTokens int           // token budget of one run; DefaultBatchTokens
	Timeout     time.Duration // longest one run may take; 30 s
	Metrics     *Metrics      // required
	Fail        func(error)   // called once when a model is broken and the worker must stop; required
}

// request is one text for one model: done is called when the last of its rows is computed.
type request struct {
	logits  [][]float32
	left    int
	started bool
	added   time.Time
	err     error
	done    func(logits [][]float32, err error)
}

// Engine runs rows of several models on a fixed set of runners.
type Engine struct {
	models []EngineModel
	o      EngineOptions
	count  []modelCounters

	mu      sync.Mutex
	work    *sync.Cond
	batcher *batcher
	idle    int
	closed  bool
	wg      sync.WaitGroup
}

// modelCounters are a model's metrics, resolved once.
type modelCounters struct {
	rows, tokens, slots interface{ Add(float64) }
	batchTokens         interface{ Observe(float64) }
	reasons             map[BatchReason]interface{ Inc() }
}

// NewEngine opens every model on every runner, warms it up, and starts the runners.
func NewEngine(models []EngineModel, o EngineOptions) (*Engine, error) {
	if o.Runners <= 0 {
		o.Runners = runtime.GOMAXPROCS(0)
	}
	if o.BatchTokens <= 0 {
		o.BatchTokens = DefaultBatchTokens
	}
	if o.Timeout <= 0 {
		o.Timeout = 30 * time.Second
	}
	e := &Engine{models: models, o: o, batcher: newBatcher(len(models), o.BatchTokens)}
	e.work = sync.NewCond(&e.mu)
	for _, m := range models {
		c := modelCounters{
			rows: o.Metrics.rows.WithLabelValues(m.Name), tokens: o.Metrics.tokens.WithLabelValues(m.Name), slots: o.Metrics.slots.WithLabelValues(m.Name),
			batchTokens: o.Metrics.batchTokens.WithLabelValues(m.Name), reasons: map[BatchReason]interface{ Inc() }{},
		}
		for _, r := range []BatchReason{ByBudget, ByDrained, ByShare, ByLength, BySplit} {
			c.reasons[r] = o.Metrics.batches.WithLabelValues(m.Name, string(r))
		}
		e.count = append(e.count, c)
	}
	ready := make(chan error, o.Runners)
	for i := range o.Runners {
		e.wg.Go(func() { e.runner(i, ready) })
	}
	var err error
	for range o.Runners {
		err = errors.Join(err, <-ready)
	}
	if err != nil {
		e.Close()
		return nil, err
	}
	return e, nil
}

// Runners is how many runs may be in progress at once.
func (e *Engine) Runners() int { return e.o.Runners }

// BatchTokens is the token budget of one run.
func (e *Engine) BatchTokens() int { return e.o.BatchTokens }

// Submit queues the rows of one text for a model, by its index in the list given to NewEngine. done is called once, on a
// runner's goroutine, with one slice of logits per row, or with a *Fault: Poison when a row of this text fails though the
// model works.
func (e *Engine) Submit(model int, rows []Row, done func(logits [][]float32, err error)) {
	r := &request{logits: make([][]float32, len(rows)), left: len(rows), added: time.Now(), done: done}
	e.mu.Lock()
	if e.closed {
		e.mu.Unlock()
		done(nil, Faultf(Internal, "infer", "closed", "the engine is closed"))
		return
	}
	for i, row := range rows {
		e.batcher.add(model, r, i, row)
	}
	e.mu.Unlock()
	if len(rows) == 1 {
		e.work.Signal()
	} else {
		e.work.Broadcast()
	}
}

// Close stops the runners after the run in progress; what still waits is never done.
func (e *Engine) Close() {
	e.mu.Lock()
	e.closed = true
	e.mu.Unlock()
	e.work.Broadcast()
	e.wg.Wait()
}

func (e *Engine) runner(n int, ready chan<- error) {
	runtime.LockOSThread() // never unlocked: a pinned thread must not go back to the pool
	runners := make([]Runner, 0, len(e.models))
	defer func() {
		for _, r := range runners {
			r.Close()
		}
	}()
	for _, m := range e.models {
		r, err := m.Open(n)
		if err == nil {
			runners = append(runners, r)
			err = r.Bind()
		}
		if err == nil && len(m.Probe) > 0 {
			_, err = e.try(r, []Row{m.Probe})
		}
		if err == nil && m.Warm != nil {
			err = m.Warm(context.Background(), r)
		}
		if err != nil {
			ready <- fmt.Errorf("model %s: %w", m.Name, err)
			return
		}
	}
	ready <- nil

	var tasks []task
	for {
		e.mu.Lock()
		var b batch
		for {
			var ok bool
			if e.closed {
				e.mu.Unlock()
				return
			}
			if b, ok = e.batcher.next(e.idle, tasks); ok {
				break
			}
			e.idle++
			e.work.Wait()
			e.idle--
		}
		e.mu.Unlock()
		e.run(runners[b.model], b)
		tasks = b.tasks
		clear(tasks)
	}
}

// run computes one batch and ends the requests that it completes.
func (e *Engine) run(r Runner, b batch) {
	began := time.Now()
	longest := 0
	rows := make([]Row, len(b.tasks))
	e.mu.Lock()
	for i, t := range b.tasks {
		rows[i] = t.row
		longest = max(longest, len(t.row))
		if !t.req.started {
			t.req.started = true
			e.o.Metrics.queueTime.Observe(began.Sub(t.req.added).Seconds())
		}
	}
	e.mu.Unlock()
	logits, err := e.try(r, rows)
	e.o.Metrics.inferTime.Observe(time.Since(began).Seconds())
	c := &e.count[b.model]
	c.reasons[b.reason].Inc()
	c.rows.Add(float64(len(rows)))
	c.tokens.Add(float64(b.tokens))
	c.slots.Add(float64(len(rows) * longest))
	c.batchTokens.Observe(float64(b.tokens))

	if err != nil && len(rows) > 1 {
		e.o.Metrics.failed.WithLabelValues(e.models[b.model].Name, reasonOf(err)).Inc()
		half := len(rows) / 2
		for _, part := range [][]task{b.tasks[:half], b.tasks[half:]} {
			n := 0
			for _, t := range part {
				n += len(t.row)
			}
			e.run(r, batch{model: b.model, tasks: part, tokens: n, reason: BySplit})
		}
		return
	}
	if err != nil {
		err = e.blame(r, b, err)
	}
	for i, t := range b.tasks {
		var l []float32
		if err == nil {
			l = logits[i]
		}
		e.settle(t, l, err)
	}
}

// try runs rows within the time limit and checks that every logit is a number.
func (e *Engine) try(r Runner, rows []Row) ([][]float32, error) {
	ctx, cancel := context.WithTimeout(context.Background(), e.o.Timeout)
	defer cancel()
	logits, err := r.Run(ctx, rows)
	if err != nil {
		return nil, err
	}
	for i := range logits {
		for _, v := range logits[i] {
			if v64 := float64(v); math.IsNaN(v64) || math.IsInf(v64, 0) {
				return nil, Faultf(Internal, "infer", "not-finite", "row %d of %d has logits that are not finite", i+1, len(rows))
			}
		}
	}
	return logits, nil
}

// blame decides whose fault it is that a row failed alone: if the model still answers its probe it is the row's, and the
// record goes to the dead letter topic; otherwise the model is broken and the worker stops before anything is committed.
func (e *Engine) blame(r Runner, b batch, cause error) error {
	m := e.models[b.model]
	e.o.Metrics.failed.WithLabelValues(m.Name, reasonOf(cause)).Inc()
	if len(m.Probe) > 0 {
		if _, err := e.try(r, []Row{m.Probe}); err != nil {
			fatal := Faultf(Internal, "infer", "model-broken", "model %s fails on a record (%v) and on its own golden text as well: %w", m.Name, cause, err)
			e.o.Fail(fatal)
			return fatal
		}
	}
	return &Fault{Kind: Poison, Stage: "infer", Reason: reasonOf(cause), Err: fmt.Errorf("model %s fails on this text, of %d tokens, also alone: %w", m.Name, b.tokens, cause)}
}

func reasonOf(err error) string {
	var f *Fault
	if errors.As(err, &f) && f.Reason != "" {
		return f.Reason
	}
	return "run-failed"
}

// settle stores a row's logits and ends its request when it was the last row.
func (e *Engine) settle(t task, logits []float32, err error) {
	e.mu.Lock()
	r := t.req
	r.logits[t.index] = logits
	if err != nil && r.err == nil {
		r.err = err
	}
	r.left--
	last := r.left == 0
	e.mu.Unlock()
	if !last {
		return
	}
	if r.err != nil {
		r.done(nil, r.err)
		return
	}
	r.done(r.logits, nil)
}
