package pipeline

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"math"
	"runtime"
	"slices"
	"sync"
	"time"

	"sluice/pipeline/failpoint"
)

// This file owns the runners: N goroutines, each locked to an OS thread (and pinned to a core by its Runner), each able
// to run every model. They share the batcher. A failed batch is halved until the bad row is alone.

// Row is one row of model input: token ids with the model's special tokens.
type Row []int32

// Runner computes logits on one OS thread. Implemented by model/ort; one runner belongs to one goroutine that is locked
// to its thread.
type Runner interface {
	// Bind is called once, on the locked thread, before the first Run: the place to pin the thread to a core.
	Bind() error
	// Run computes the logits of rows, in their order: [labels] per row for text-classification, [tokens*labels] per
	// row (row-major) for token-classification. The slices are the caller's. The context's deadline ends the run. Rows
	// with NaN or Inf logits are returned as they are; the caller checks.
	Run(ctx context.Context, rows []Row) ([][]float32, error)
	Close() error
}

// EngineModel is one model that the engine runs.
type EngineModel struct {
	Name   string
	Digest string                           // of the bytes that make its logits; part of every key of the cache
	Open   func(runner int) (Runner, error) // makes the runner-th runner's instance
	Probe  Row                              // a row known to work: tells a bad row from a broken model
	// Warm runs the largest shape once, so that the first record does not pay for growing buffers; nil: nothing to do.
	Warm func(context.Context, Runner) error
	// Clock is the time that counts when token budgets are measured: the calling thread's processor time for a model on
	// the CPU; nil: the wall clock's.
	Clock func() time.Duration
}

// EngineOptions configure an Engine.
type EngineOptions struct {
	Runners     int // goroutines that run models; GOMAXPROCS, which follows the container's CPU limit
	BatchTokens int // token budget of one run; 0: measured for every model (needs EngineModel.Probe)
	// a record should be judged this long after its timestamp; 0: in order of arrival. See due
	Deadline   time.Duration
	CacheBytes int           // about the most memory for results of rows seen before; 0: no cache
	Timeout    time.Duration // longest one run may take; 30 s
	// how much longer a run may take to end when it is told to, and what cannot be told, see watchdog.go; then it is
	// wedged; 10 s
	Grace   time.Duration
	Metrics *Metrics    // required
	Fail    func(error) // called once when a model is broken and the worker must stop; required
	// Wedged is called, after Fail, when a run, a tokenizer or what else is done to records does not return within
	// Timeout and Grace. Its thread cannot be ended, so Close (the Classifier's or the Engine's), or NewEngine where it
	// happens there, will not return: the process must be left. nil: nobody is told.
	Wedged func(error)
}

// Ask is one text for one model.
type Ask struct {
	Model  int       // index in the list given to NewEngine
	Rows   []Row     // of the text: one, or one a window; never written to
	Urgent bool      // goes before others, see batcher.go
	Since  time.Time // the record's timestamp; the zero time: unknown
	// Done is called once, on a runner's goroutine, or on the caller's where nothing had to be run.
	Done func(Answer)
}

// Answer is what became of an Ask.
type Answer struct {
	Logits [][]float32 // one slice a row, shared with others who asked for the same row: not to be written to
	Cached bool        // every row's logits came from the cache
	Err    error       // a *Fault: Poison when a row of this text fails though the model works
}

// request is an Ask under way: it ends with the last of its rows.
type request struct {
	answer  Answer
	left    int
	started bool
	added   time.Time
	done    func(Answer)
}

// Engine runs rows of several models on a fixed set of runners. A row that is waiting or running already is not run
// again for another text: both get its logits.
type Engine struct {
	models  []EngineModel
	o       EngineOptions
	count   []modelCounters
	budgets []Budget
	dog     *Watchdog
	epoch   time.Time // zero of the clock of due
	seed    maphash.Seed
	cache   *resultCache // nil: none

	mu       sync.Mutex
	work     *sync.Cond
	batcher  *batcher         // nil while the runners get ready
	inFlight map[uint64]*task // rows waiting or running, by hash
	idle     int
	closed   bool
	wg       sync.WaitGroup
}

// modelCounters are a model's metrics, resolved once.
type modelCounters struct {
	rows, tokens, slots, duplicates, hits, misses interface{ Add(float64) }
	batchTokens                                   interface{ Observe(float64) }
	reasons                                       map[BatchReason]interface{ Inc() }
}

// NewEngine opens every model on every runner, warms it up, measures token budgets where none is given, and starts the
// runners.
func NewEngine(models []EngineModel, o EngineOptions) (*Engine, error) {
	if o.Runners <= 0 {
		o.Runners = runtime.GOMAXPROCS(0)
	}
	if o.Timeout <= 0 {
		o.Timeout = 30 * time.Second
	}
	if o.Grace <= 0 {
		o.Grace = 10 * time.Second
	}
	e := &Engine{models: models, o: o, epoch: time.Now(), seed: maphash.MakeSeed(), inFlight: map[uint64]*task{}}
	e.dog = NewWatchdog(WatchdogOptions{Timeout: o.Timeout, Grace: o.Grace, Wedged: e.wedge})
	e.work = sync.NewCond(&e.mu)
	if o.CacheBytes > 0 {
		e.cache = newResultCache(o.CacheBytes)
		o.Metrics.watchCache(e.cache)
	}
	for _, m := range models {
		c := modelCounters{
			rows: o.Metrics.rows.WithLabelValues(m.Name), tokens: o.Metrics.tokens.WithLabelValues(m.Name),
			slots:      o.Metrics.slots.WithLabelValues(m.Name),
			duplicates: o.Metrics.duplicates.WithLabelValues(m.Name), hits: o.Metrics.cacheHits.WithLabelValues(m.Name),
			misses:      o.Metrics.cacheMisses.WithLabelValues(m.Name),
			batchTokens: o.Metrics.batchTokens.WithLabelValues(m.Name), reasons: map[BatchReason]interface{ Inc() }{},
		}
		for _, r := range []BatchReason{ByBudget, ByDrained, ByShare, ByLength, BySplit} {
			c.reasons[r] = o.Metrics.batches.WithLabelValues(m.Name, string(r))
		}
		e.count = append(e.count, c)
	}
	type readiness struct {
		curves [][]BudgetPoint
		err    error
	}
	ready := make(chan readiness, o.Runners)
	for i := range o.Runners {
		e.wg.Go(func() {
			runtime.LockOSThread() // never unlocked: a pinned thread must not go back to the pool
			runners, curves, err := e.prepare(i)
			defer func() {
				for _, r := range runners {
					r.Close()
				}
			}()
			ready <- readiness{curves, err}
			if err == nil {
				e.serve(runners)
			}
		})
	}
	var err error
	curves := make([][][]BudgetPoint, len(models)) // of each model, one a runner
	for range o.Runners {
		r := <-ready
		err = errors.Join(err, r.err)
		for m := range r.curves {
			curves[m] = append(curves[m], r.curves[m])
		}
	}
	if err != nil {
		e.Close()
		return nil, err
	}
	for m := range models {
		b := Budget{Model: models[m].Name, Tokens: o.BatchTokens, Least: o.BatchTokens}
		if o.BatchTokens <= 0 {
			b = chooseBudget(models[m].Name, curves[m])
		}
		e.budgets = append(e.budgets, b)
	}
	e.mu.Lock()
	e.batcher = newBatcher(o.Runners, e.budgets)
	e.mu.Unlock()
	e.work.Broadcast()
	return e, nil
}

// Watchdog looks at what is done to records.
func (e *Engine) Watchdog() *Watchdog { return e.dog }

// Runners is how many runs may be in progress at once.
func (e *Engine) Runners() int { return e.o.Runners }

// Budgets are the token budgets of a run, one a model, in the order of the models.
func (e *Engine) Budgets() []Budget { return e.budgets }

// Submit queues the rows of one text for a model.
func (e *Engine) Submit(a Ask) {
	now := time.Now()
	r := &request{answer: Answer{Logits: make([][]float32, len(a.Rows))}, left: len(a.Rows), added: now, done: a.Done}
	p := ordinary
	if a.Urgent {
		p = urgent
	}
	c := &e.count[a.Model]
	hits := 0
	if e.cache != nil {
		for i, row := range a.Rows {
			if l, ok := e.cache.get(e.models[a.Model].Digest, row); ok {
				r.answer.Logits[i] = l
				hits++
			}
		}
		c.hits.Add(float64(hits))
		c.misses.Add(float64(len(a.Rows) - hits))
		if r.left -= hits; r.left == 0 {
			r.answer.Cached = true
			r.done(r.answer)
			return
		}
	}
	e.mu.Lock()
	if e.closed {
		e.mu.Unlock()
		r.done(Answer{Err: Faultf(Internal, "infer", "closed", "the engine is closed")})
		return
	}
	added := 0
	for i, row := range a.Rows {
		if r.answer.Logits[i] != nil {
			continue
		}
		hash := e.hash(a.Model, row)
		if t := e.inFlight[hash]; t != nil && t.model == a.Model && (t.running || t.priority <= p) &&
			slices.Equal(t.row, row) {
			t.askers = append(t.askers, asker{r, i})
			continue
		}
		t := &task{row: row, model: a.Model, priority: p, due: e.due(now, a.Since, a.Model, len(row)), hash: hash,
			askers: []asker{{r, i}}}
		e.inFlight[hash] = t
		e.batcher.add(t)
		added++
	}
	e.mu.Unlock()
	c.duplicates.Add(float64(len(a.Rows) - hits - added))
	switch {
	case added == 1:
		e.work.Signal()
	case added > 1:
		e.work.Broadcast()
	}
}

// due is the time, on the engine's clock, by which a row should have begun to run: Deadline after the record's
// timestamp, less what its run takes. A record that was late already when it came is as late as one that missed its
// deadline just then: so a row waits at most for rows that came up to Deadline after it. Without a Deadline it is the
// time of arrival.
func (e *Engine) due(now, since time.Time, model, tokens int) int64 {
	due := now.Sub(e.epoch)
	if e.o.Deadline <= 0 {
		return int64(due)
	}
	// its age by the wall clock as it is now: a step of that clock is not taken for the time that passed
	if !since.IsZero() {
		due -= min(max(now.Round(0).Sub(since), 0), e.o.Deadline)
	}
	return int64(due + e.o.Deadline - time.Duration(tokens)*e.budgets[model].perToken())
}

// hash finds a row in inFlight. Its seed is a secret of the process, so nobody can write texts that collide; rows are
// compared all the same.
func (e *Engine) hash(model int, row Row) uint64 {
	return maphash.Bytes(e.seed, bytesOf(row)) ^ uint64(model)*0x9E3779B97F4A7C15
}

// Close stops the runners after the run in progress; what still waits is never done.
func (e *Engine) Close() {
	e.mu.Lock()
	e.closed = true
	e.mu.Unlock()
	e.work.Broadcast()
	e.wg.Wait()
	if e.cache != nil {
		e.cache.close()
	}
}

// prepare opens, binds, tries and warms every model on the n-th runner's thread, and measures token budgets. The
// runners are to be closed also when there is an error.
func (e *Engine) prepare(n int) (runners []Runner, curves [][]BudgetPoint, err error) {
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
			w := e.dog.Watch("infer", ofRun(1))
			err = m.Warm(context.Background(), r)
			w.End()
		}
		var curve []BudgetPoint
		if err == nil && e.o.BatchTokens <= 0 {
			clock := m.Clock
			if clock == nil {
				clock = func() time.Duration { return time.Since(e.epoch) }
			}
			curve, err = measureBudgets(m.Probe, clock, func(rows []Row) error { _, err := e.try(r, rows); return err })
		}
		if err != nil {
			return runners, nil, fmt.Errorf("model %s: %w", m.Name, err)
		}
		curves = append(curves, curve)
	}
	return runners, curves, nil
}

// serve runs batches until Close.
func (e *Engine) serve(runners []Runner) {
	var tasks []*task
	for {
		e.mu.Lock()
		var b batch
		for {
			if e.closed {
				e.mu.Unlock()
				return
			}
			if e.batcher != nil {
				var ok bool
				if b, ok = e.batcher.next(e.idle, tasks); ok {
					break
				}
			}
			e.idle++
			e.work.Wait()
			e.idle--
		}
		e.mu.Unlock()
		e.run(runners[b.model], b)
		e.mu.Lock()
		e.batcher.done(b)
		e.mu.Unlock()
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
		t.running = true
		for _, a := range t.askers {
			if !a.req.started {
				a.req.started = true
				e.o.Metrics.queueTime.Observe(began.Sub(a.req.added).Seconds())
			}
		}
	}
	e.mu.Unlock()
	logits, err := e.try(r, rows)
	failpoint.Hit(failpoint.AfterInference)
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
		for _, part := range [][]*task{b.tasks[:half], b.tasks[half:]} {
			n := 0
			for _, t := range part {
				n += len(t.row)
			}
			e.run(r, batch{model: b.model, tasks: part, tokens: n, reason: BySplit})
		}
		return
	}
	if err != nil { // once more: a process that was frozen for a while comes back with its time limit behind it
		if logits, err = e.try(r, rows); err != nil {
			err = e.blame(r, b, err)
			logits = make([][]float32, len(rows))
		}
	}
	w := e.dog.Watch("judge", ofVerdicts(len(b.tasks))) // what waits for these rows goes on within settle
	e.settle(b.tasks, logits, err)
	w.End()
}

// try runs rows within the time limit and checks that every logit is a number.
func (e *Engine) try(r Runner, rows []Row) ([][]float32, error) {
	ctx, cancel := context.WithTimeout(context.Background(), e.o.Timeout)
	defer cancel()
	defer e.dog.Watch("infer", ofRun(len(rows))).End()
	logits, err := runSafely(ctx, r, rows)
	if err != nil {
		return nil, err
	}
	for i := range logits {
		for _, v := range logits[i] {
			if v64 := float64(v); math.IsNaN(v64) || math.IsInf(v64, 0) {
				return nil, Faultf(Internal, "infer", "not-finite", "row %d of %d has logits that are not finite", i+1,
					len(rows))
			}
		}
	}
	return logits, nil
}

// runSafely is Run, whose panics are its errors: they concern the rows of one batch.
func runSafely(ctx context.Context, r Runner, rows []Row) (logits [][]float32, err error) {
	defer func() {
		if p := recover(); p != nil {
			f := Panicked("infer", p)
			f.Kind = Internal // whose fault it is, is found out
			err = f
		}
	}()
	failpoint.Hit(failpoint.InInference)
	return r.Run(ctx, rows)
}

// blame decides whose fault it is that a row failed alone, twice: if the model still answers its probe it is the row's,
// and the record goes to the dead letter topic; otherwise the model is broken and the worker stops before anything is
// committed.
func (e *Engine) blame(r Runner, b batch, cause error) error {
	m := e.models[b.model]
	e.o.Metrics.failed.WithLabelValues(m.Name, reasonOf(cause)).Inc()
	if len(m.Probe) > 0 {
		if _, err := e.try(r, []Row{m.Probe}); err != nil {
			fatal := Faultf(Internal, "infer", "model-broken", "model %s fails on a record (%v) and on its own "+
				"golden text as well: %w", m.Name, cause, err)
			e.o.Fail(fatal)
			return fatal
		}
	}
	return &Fault{Kind: Poison, Stage: "infer", Reason: reasonOf(cause),
		Err: fmt.Errorf("model %s fails on this text, of %d tokens, also alone: %w", m.Name, b.tokens, cause)}
}

func reasonOf(err error) string {
	var f *Fault
	if errors.As(err, &f) && f.Reason != "" {
		return f.Reason
	}
	return "run-failed"
}

// settle gives the logits of tasks that have run to everybody who asked, and ends the requests that they complete.
func (e *Engine) settle(tasks []*task, logits [][]float32, err error) {
	if e.cache != nil && err == nil {
		for i, t := range tasks {
			e.cache.put(e.models[t.model].Digest, t.row, logits[i])
		}
	}
	var complete []*request
	e.mu.Lock()
	for i, t := range tasks {
		if e.inFlight[t.hash] == t {
			delete(e.inFlight, t.hash)
		}
		for _, a := range t.askers {
			r := a.req
			r.answer.Logits[a.index] = logits[i]
			if err != nil && r.answer.Err == nil {
				r.answer.Err = err
			}
			if r.left--; r.left == 0 {
				complete = append(complete, r)
			}
		}
	}
	e.mu.Unlock()
	for _, r := range complete {
		if r.answer.Err != nil {
			r.answer.Logits = nil
		}
		r.done(r.answer)
	}
}

// wedge gives up on the process.
func (e *Engine) wedge(err error) {
	e.mu.Lock()
	serving := e.batcher != nil
	e.mu.Unlock()
	if serving { // else NewEngine has not returned, and there is nobody to fail yet
		e.o.Fail(err)
	}
	if e.o.Wedged != nil {
		e.o.Wedged(err)
	}
}
