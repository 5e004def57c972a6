package engine

import (
	"context"
	"runtime"
	"sync"
	"time"
)

// This file owns the threads of a device: goroutines locked to OS threads (and pinned to a core by their runners where
// the device is the CPU), each able to run every model of the device. What they do beside batches, opening and closing
// runners, reaches each as a command, so that a runner sees no other thread.

// pool is the runners of a device.
type pool struct {
	engine  *Engine
	runners int

	mu       sync.Mutex
	work     *sync.Cond // rows wait, a worker has a command, or the pool is closed
	batcher  *batcher
	inFlight map[uint64]*task // rows waiting or running, by hash
	workers  []*worker        // none before the first command
	idle     int
	closed   bool
	wg       sync.WaitGroup
}

func newPool(e *Engine, d Device) *pool {
	p := &pool{engine: e, runners: d.Runners, batcher: newBatcher(d.Runners), inFlight: map[uint64]*task{}}
	p.work = sync.NewCond(&p.mu)
	return p
}

// worker is one thread of a pool.
type worker struct {
	pool     *pool
	number   int                // from 0
	runners  map[*Handle]Runner // of this thread, of every model that is loaded, being loaded, or being released
	commands []func()           // guarded by pool.mu
	ended    bool               // guarded by pool.mu: it does nothing any more

	// reused from batch to batch
	tasks []*task
	rows  []Input
}

// each has every worker do something on its thread, between two batches, in the order of the calls; done is told when
// each has. Where the pool is closed they do it, too, unless they have ended: then there is nothing left to be done.
func (p *pool) each(done *sync.WaitGroup, do func(*worker)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.closed && p.workers == nil {
		p.start()
	}
	for _, w := range p.workers {
		if w.ended {
			continue
		}
		done.Add(1)
		w.commands = append(w.commands, func() {
			defer done.Done()
			do(w)
		})
	}
	p.work.Broadcast()
}

// start starts the threads. p.mu is held.
func (p *pool) start() {
	for i := range p.runners {
		w := &worker{pool: p, number: i, runners: map[*Handle]Runner{}}
		p.workers = append(p.workers, w)
		p.wg.Go(w.serve)
	}
}

// stop lets the workers end, end waits for them and ends what is left of handles.
func (p *pool) stop() {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.work.Broadcast()
}

func (p *pool) end() {
	p.wg.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, q := range p.batcher.queues {
		q.handle.finish()
	}
	p.batcher.queues = nil
}

// open takes rows of a model from now on; it returns false when the pool is closed.
func (p *pool) open(h *Handle) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return false
	}
	p.batcher.open(&h.queue)
	return true
}

// retire has the runners of a model closed when it has been released and nothing of it waits or runs. p.mu is held.
func (p *pool) retire(h *Handle) {
	if p.closed || h.retired || !h.released.Load() || !h.quiet() {
		return
	}
	h.retired = true
	p.batcher.drop(&h.queue)
	h.left = len(p.workers)
	for _, w := range p.workers {
		w.commands = append(w.commands, func() {
			w.drop(h)
			p.mu.Lock()
			h.left--
			last := h.left == 0
			p.mu.Unlock()
			if last {
				h.finish()
			}
		})
	}
	p.work.Broadcast()
}

// serve runs batches and does what the worker is told, until the pool is closed.
func (w *worker) serve() {
	runtime.LockOSThread() // never unlocked: a pinned thread must not go back to Go's own
	p := w.pool
	p.mu.Lock()
	for {
		if len(w.commands) > 0 {
			do := w.commands[0]
			w.commands = w.commands[1:]
			p.mu.Unlock()
			do()
			p.mu.Lock()
			continue
		}
		if p.closed {
			break
		}
		if b, ok := p.batcher.next(p.idle, w.tasks); ok {
			w.runBatch(b)
			continue
		}
		p.idle++
		p.work.Wait()
		p.idle--
	}
	w.ended = true
	p.mu.Unlock()
	for h := range w.runners {
		w.drop(h)
	}
}

// runBatch runs a batch that has been taken. p.mu is held, but for the run.
func (w *worker) runBatch(b batch) {
	p := w.pool
	p.mu.Unlock()
	w.run(b)
	w.tasks = b.tasks
	clear(w.tasks)
	clear(w.rows)
	p.mu.Lock()
	p.batcher.done(b)
	p.retire(b.queue.handle)
}

// pause runs a batch if one waits: between two pieces of other work. It returns false when the pool is closed.
func (w *worker) pause() bool {
	p := w.pool
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return false
	}
	if b, ok := p.batcher.next(p.idle, w.tasks); ok {
		w.runBatch(b)
	}
	return true
}

// prepare opens, binds, tries and warms a runner of a model, and measures the token budget. What it has opened is to be
// dropped also when there is an error.
func (w *worker) prepare(ctx context.Context, h *Handle) (curve []BudgetPoint, err error) {
	o, s := &w.pool.engine.o, h.model.Session
	next := func() error {
		if !w.pause() {
			return errClosed()
		}
		return ctx.Err()
	}
	if err := next(); err != nil {
		return nil, err
	}
	r, err := s.NewRunner(w.number)
	if err != nil {
		return nil, err
	}
	w.runners[h] = r
	if err := r.Bind(); err != nil {
		return nil, err
	}
	if h.model.Probe != nil {
		if _, err := w.try(ctx, r, []Input{h.model.Probe}); err != nil {
			return nil, err
		}
	}
	if err := next(); err != nil {
		return nil, err
	}
	if o.Warm {
		if err := w.warm(ctx, s, r); err != nil {
			return nil, err
		}
	}
	if o.BatchTokens > 0 {
		return nil, nil
	}
	clock := s.Clock()
	if clock == nil {
		clock = func() time.Duration { return time.Since(w.pool.engine.epoch) }
	}
	return measureBudgets(h.model.Probe, clock, next, func(rows []Input) error {
		_, err := w.try(ctx, r, rows)
		return err
	})
}

// warm runs the model's largest row within the time limit of a run.
func (w *worker) warm(ctx context.Context, s Session, r Runner) error {
	o := &w.pool.engine.o
	ctx, cancel := context.WithTimeout(ctx, o.Timeout)
	defer cancel()
	defer o.Watchdog.Watch("infer", ofRun(1)).End()
	return s.Warmup(ctx, r)
}

// drop closes the thread's runner of a model, if it has one.
func (w *worker) drop(h *Handle) {
	if r := w.runners[h]; r != nil {
		r.Close() // a runner that cannot be closed holds memory, and nothing that could be done about it
		delete(w.runners, h)
	}
}
