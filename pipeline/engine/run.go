package engine

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"sluice/pipeline"
	"sluice/pipeline/failpoint"
)

// This file owns what happens to a batch: it is run, halved until a bad row is alone when it fails, and its answers go
// to everybody who asked.

// run computes one batch and ends the requests that it completes.
func (w *worker) run(b batch) {
	p, m, h := w.pool, w.pool.engine.o.Metrics, b.queue.handle
	r := w.runners[h]
	began := time.Now()
	longest := 0
	rows := w.rows[:0]
	p.mu.Lock()
	for _, t := range b.tasks {
		rows = append(rows, t.input)
		longest = max(longest, t.cost)
		t.running = true
		for _, a := range t.askers {
			if !a.req.started {
				a.req.started = true
				m.queueTime.Observe(began.Sub(a.req.added).Seconds())
			}
		}
	}
	p.mu.Unlock()
	w.rows = rows
	logits, err := w.try(context.Background(), r, rows)
	failpoint.Hit(failpoint.AfterInference)
	m.inferTime.Observe(time.Since(began).Seconds())
	c := &h.count
	c.reasons[b.reason].Inc()
	c.rows.Add(float64(len(rows)))
	c.tokens.Add(float64(b.cost))
	c.slots.Add(float64(len(rows) * longest))
	c.batchTokens.Observe(float64(b.cost))

	if err != nil && len(rows) > 1 {
		m.failed.WithLabelValues(h.model.Name, reasonOf(err)).Inc()
		half := len(rows) / 2
		for _, part := range [][]*task{b.tasks[:half], b.tasks[half:]} {
			n := 0
			for _, t := range part {
				n += t.cost
			}
			w.run(batch{queue: b.queue, tasks: part, cost: n, reason: BySplit})
		}
		return
	}
	if err != nil { // once more: a process that was frozen for a while comes back with its time limit behind it
		if logits, err = w.try(context.Background(), r, rows); err != nil {
			err = w.blame(r, b, err)
			logits = make([][]float32, len(rows))
		}
	}
	// what waits for these rows goes on within settle
	watch := p.engine.o.Watchdog.Watch("judge", ofVerdicts(len(b.tasks)))
	p.settle(b.tasks, logits, err)
	watch.End()
}

// try runs rows within the time limit, which is set here and nowhere else, and checks that every logit is a number.
func (w *worker) try(ctx context.Context, r Runner, rows []Input) ([][]float32, error) {
	o := &w.pool.engine.o
	ctx, cancel := context.WithTimeout(ctx, o.Timeout)
	defer cancel()
	defer o.Watchdog.Watch("infer", ofRun(len(rows))).End()
	logits, err := runSafely(ctx, r, rows)
	if err != nil {
		return nil, err
	}
	for i := range logits {
		for _, v := range logits[i] {
			if v64 := float64(v); math.IsNaN(v64) || math.IsInf(v64, 0) {
				return nil, pipeline.Faultf(pipeline.Internal, "infer", "not-finite", "row %d of %d has logits that "+
					"are not finite", i+1,
					len(rows))
			}
		}
	}
	return logits, nil
}

// runSafely is Run, whose panics are its errors: they concern the rows of one batch.
func runSafely(ctx context.Context, r Runner, rows []Input) (logits [][]float32, err error) {
	defer func() {
		if p := recover(); p != nil {
			f := pipeline.Panicked("infer", p)
			f.Kind = pipeline.Internal // whose fault it is, is found out
			err = f
		}
	}()
	failpoint.Hit(failpoint.InInference)
	return r.Run(ctx, rows)
}

// blame decides whose fault it is that a row failed alone, twice: if the model still answers its probe it is the row's,
// and the record goes to the dead letter topic; otherwise the model is broken and the worker stops before anything is
// committed.
func (w *worker) blame(r Runner, b batch, cause error) error {
	o, m := &w.pool.engine.o, &b.queue.handle.model
	o.Metrics.failed.WithLabelValues(m.Name, reasonOf(cause)).Inc()
	if m.Probe != nil {
		if _, err := w.try(context.Background(), r, []Input{m.Probe}); err != nil {
			fatal := pipeline.Faultf(pipeline.Internal, "infer", "model-broken", "model %s fails on a record (%v) "+
				"and on its own "+
				"golden text as well: %w", m.Name, cause, err)
			o.Fail(fatal)
			return fatal
		}
	}
	return &pipeline.Fault{Kind: pipeline.Poison, Stage: "infer", Reason: reasonOf(cause),
		Err: fmt.Errorf("model %s fails on this text, of %d tokens, also alone: %w", m.Name, b.cost, cause)}
}

func reasonOf(err error) string {
	var f *pipeline.Fault
	if errors.As(err, &f) && f.Reason != "" {
		return f.Reason
	}
	return "run-failed"
}

// settle gives the logits of tasks that have run to everybody who asked, and ends the requests that they complete.
func (p *pool) settle(tasks []*task, logits [][]float32, err error) {
	if c := p.engine.cache; c != nil && err == nil {
		for i, t := range tasks {
			c.put(t.queue.handle.model.Digest, t.input, logits[i])
		}
	}
	var complete []*request
	p.mu.Lock()
	for i, t := range tasks {
		if p.inFlight[t.hash] == t {
			delete(p.inFlight, t.hash)
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
	p.mu.Unlock()
	for _, r := range complete {
		if r.answer.Err != nil {
			r.answer.Logits = nil
		}
		r.done(r.answer)
	}
}

// What is being done, as sentences of the watchdog name it.

func ofRun(rows int) func() string {
	return func() string { return fmt.Sprintf("a model has been running on %d rows", rows) }
}

func ofVerdicts(texts int) func() string {
	return func() string { return fmt.Sprintf("verdicts on %d texts have been made", texts) }
}
