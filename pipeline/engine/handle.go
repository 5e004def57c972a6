package engine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"sync"
	"sync/atomic"
	"time"

	"sluice/model"
	"sluice/pipeline"
)

// This file owns how models come and go, and how rows get to them.

// Model is a model as it is loaded.
type Model struct {
	Name   string // in metrics, logs and errors
	Digest string // of the bytes that make its logits; part of every key of the cache
	// Session is the opened model. The engine does not close it; whoever does waits for Release, or Close.
	Session Session
	Probe   Input // a row known to work: tells a bad row from a broken model; nil: none
	// Tag, Precision and Layout are labels of sluice_model_info.
	Tag       string
	Precision model.Precision
	Layout    model.Layout
}

// Handle is a loaded model. Safe for concurrent use.
type Handle struct {
	engine *Engine
	pool   *pool
	model  Model
	number uint64 // tells its rows from equal rows of other models
	count  modelCounters
	info   [6]string

	queue                // of the pool's batcher; guarded by pool.mu, but for budget
	released atomic.Bool // written with pool.mu held
	retired  bool        // its runners are being closed, or are; guarded by pool.mu
	left     int         // runners to close, once retired; guarded by pool.mu
	gone     chan struct{}
}

// Load makes a model ready: a runner of it is opened and bound on each thread of its device's pool, tried with the
// probe, warmed up where Options say so, and its token budget is measured where none is given, with all runners at
// work. Models that are there already go on meanwhile: threads do a piece of this work between two batches. An error is
// a *pipeline.Fault or says what the runner said, and leaves nothing behind; ctx ends the work with its error.
func (e *Engine) Load(ctx context.Context, m Model) (*Handle, error) {
	all, err := e.LoadAll(ctx, []Model{m})
	if err != nil {
		return nil, err
	}
	return all[0], nil
}

// LoadAll loads models one after the other on every thread, without waiting for the slowest in between. It gives a
// handle for each, or an error and none.
func (e *Engine) LoadAll(ctx context.Context, models []Model) ([]*Handle, error) {
	all := make([]*Handle, len(models))
	for i := range models {
		p := e.pools[models[i].Session.Device()]
		if p == nil {
			return nil, pipeline.Faultf(pipeline.Config, "infer", "device", "model %s: there are no runners for the "+
				"device %s", models[i].Name, models[i].Session.Device())
		}
		all[i] = e.newHandle(models[i], p)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var (
		ready sync.WaitGroup
		mu    sync.Mutex
		errs  []error
	)
	fail := func(err error) {
		mu.Lock()
		defer mu.Unlock()
		if len(errs) == 0 || ctx.Err() == nil { // what follows the end of ctx is no news
			errs = append(errs, err)
		}
		cancel()
	}
	curves := make([][][]BudgetPoint, len(all)) // of each model, one a runner
	for i, h := range all {
		curves[i] = make([][]BudgetPoint, h.pool.runners)
		h.pool.each(&ready, func(w *worker) {
			curve, err := w.prepare(ctx, h)
			if err != nil {
				fail(fmt.Errorf("model %s: %w", h.model.Name, err))
			}
			curves[i][w.number] = curve
		})
	}
	ready.Wait()
	for i, h := range all {
		if len(errs) > 0 {
			break
		}
		h.budget = Budget{Model: h.model.Name, Tokens: e.o.BatchTokens, Least: e.o.BatchTokens}
		if e.o.BatchTokens <= 0 {
			h.budget = chooseBudget(h.model.Name, curves[i])
		}
	}
	if len(errs) == 0 && !open(all) {
		errs = append(errs, errClosed())
	}
	if len(errs) > 0 {
		for _, h := range all {
			h.pool.each(&ready, func(w *worker) { w.drop(h) })
		}
		ready.Wait()
		return nil, errors.Join(errs...)
	}
	return all, nil
}

func (e *Engine) newHandle(m Model, p *pool) *Handle {
	h := &Handle{engine: e, pool: p, model: m, number: e.handles.Add(1), count: e.o.Metrics.of(m.Name),
		info: [6]string{m.Name, m.Tag, m.Digest, m.Session.Provider(), string(m.Precision), string(m.Layout)},
		gone: make(chan struct{})}
	h.queue.handle = h
	return h
}

// open lets rows in to all handles, or to none, where the engine has been closed.
func open(all []*Handle) bool {
	for _, h := range all {
		h.engine.o.Metrics.here(h.info)
		if !h.pool.open(h) {
			h.engine.o.Metrics.gone(h.info)
			return false // Close ends those before
		}
	}
	return true
}

// Budget is the token budget of the model's runs.
func (h *Handle) Budget() Budget { return h.budget }

// Release gives the model up: asks from now on are refused, those before are answered. It returns when the last of them
// is and every runner of the model has been closed, on its thread. It must not be called by a Done, which would be what
// it waits for.
func (h *Handle) Release() {
	h.pool.mu.Lock()
	h.released.Store(true)
	h.pool.retire(h)
	h.pool.mu.Unlock()
	<-h.gone
}

// finish says that nothing is left of the model. Called once.
func (h *Handle) finish() {
	h.engine.o.Metrics.gone(h.info)
	close(h.gone)
}

func (h *Handle) errReleased() error {
	return pipeline.Faultf(pipeline.Internal, "infer", "released", "the model %s has been released", h.model.Name)
}

// Submit queues the rows of one record.
func (h *Handle) Submit(a Ask) {
	e, p := h.engine, h.pool
	now := time.Now()
	r := &request{answer: Answer{Logits: make([][]float32, len(a.Inputs))}, left: len(a.Inputs), added: now,
		done: a.Done}
	pr := ordinary
	if a.Urgent {
		pr = urgent
	}
	hits := 0
	if e.cache != nil && !h.released.Load() {
		for i, row := range a.Inputs {
			if l, ok := e.cache.get(h.model.Digest, row); ok {
				r.answer.Logits[i] = l
				hits++
			}
		}
		h.count.hits.Add(float64(hits))
		h.count.misses.Add(float64(len(a.Inputs) - hits))
		if r.left -= hits; r.left == 0 {
			r.answer.Cached = true
			r.done(r.answer)
			return
		}
	}
	p.mu.Lock()
	if p.closed || h.released.Load() {
		closed := p.closed
		p.mu.Unlock()
		err := h.errReleased()
		if closed {
			err = errClosed()
		}
		r.done(Answer{Err: err})
		return
	}
	added := 0
	for i, row := range a.Inputs {
		if r.answer.Logits[i] != nil {
			continue
		}
		key := row.Key()
		hash := h.hash(key)
		if t := p.inFlight[hash]; t != nil && t.queue == &h.queue && (t.running || t.priority <= pr) &&
			bytes.Equal(t.input.Key(), key) {
			t.askers = append(t.askers, asker{r, i})
			continue
		}
		cost := row.Cost()
		t := &task{input: row, queue: &h.queue, cost: cost, priority: pr, due: h.due(now, a.Since, cost), hash: hash,
			askers: []asker{{r, i}}}
		p.inFlight[hash] = t
		p.batcher.add(t)
		added++
	}
	p.mu.Unlock()
	h.count.duplicates.Add(float64(len(a.Inputs) - hits - added))
	switch {
	case added == 1:
		p.work.Signal()
	case added > 1:
		p.work.Broadcast()
	}
}

// due is the time, on the engine's clock, by which a row should have begun to run: Deadline after the record's
// timestamp, less what its run takes. A record that was late already when it came is as late as one that missed its
// deadline just then: so a row waits at most for rows that came up to Deadline after it. Without a Deadline it is the
// time of arrival.
func (h *Handle) due(now, since time.Time, cost int) int64 {
	e := h.engine
	due := now.Sub(e.epoch)
	if e.o.Deadline <= 0 {
		return int64(due)
	}
	// its age by the wall clock as it is now: a step of that clock is not taken for the time that passed
	if !since.IsZero() {
		due -= min(max(now.Round(0).Sub(since), 0), e.o.Deadline)
	}
	return int64(due + e.o.Deadline - time.Duration(cost)*h.budget.perToken())
}

// hash finds a row in inFlight. Its seed is a secret of the process, so nobody can write texts that collide; rows are
// compared all the same.
func (h *Handle) hash(key []byte) uint64 {
	return maphash.Bytes(h.engine.seed, key) ^ h.number*0x9E3779B97F4A7C15
}
