// Package enginetest is a runtime whose models are functions: for tests of the engine, and of what stands on it.
package enginetest

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"sluice/model"
	"sluice/pipeline/engine"
	"sluice/tokenize"
)

// Runtime implements engine.Runtime.
type Runtime struct {
	// Run computes the logits of rows for a model. Required.
	Run func(m *model.Model, rows []engine.Input) ([][]float32, error)
}

// Open implements engine.Runtime.
func (r Runtime) Open(m *model.Model, o engine.RuntimeOptions) (engine.Session, error) {
	return &Session{On: o.Device, Run: func(rows []engine.Input) ([][]float32, error) { return r.Run(m, rows) }}, nil
}

// Session implements engine.Session: a model that is a function.
type Session struct {
	// Run computes the logits of rows; nil where NewRunner is replaced by Runner.
	Run func(rows []engine.Input) ([][]float32, error)
	// Runner makes the n-th runner, in place of one that calls Run.
	Runner func(n int) (engine.Runner, error)
	On     string // the device; "cpu"

	open   atomic.Int64
	closed atomic.Bool
}

// Runners is how many runners are open.
func (s *Session) Runners() int { return int(s.open.Load()) }

// NewRunner implements engine.Session.
func (s *Session) NewRunner(n int) (engine.Runner, error) {
	r := &runner{session: s}
	if s.Runner != nil {
		var err error
		if r.Runner, err = s.Runner(n); err != nil {
			return nil, err
		}
	}
	s.open.Add(1)
	return r, nil
}

// SelfTest implements engine.Session.
func (s *Session) SelfTest(context.Context, tokenize.Tokenizer) (note string, err error) {
	return "", nil
}

// Warmup implements engine.Session. A function has no buffers to grow.
func (s *Session) Warmup(context.Context, engine.Runner) error { return nil }

// Clock implements engine.Session: the wall clock.
func (s *Session) Clock() func() time.Duration { return nil }

// Device implements engine.Session.
func (s *Session) Device() string {
	if s.On == "" {
		return "cpu"
	}
	return s.On
}

// Provider implements engine.Session.
func (s *Session) Provider() string { return s.Device() }

// Warnings implements engine.Session.
func (s *Session) Warnings() []string { return nil }

// Close implements engine.Session. It is an error where runners are still open.
func (s *Session) Close() error {
	if s.open.Load() > 0 {
		return errors.New("enginetest: the session is closed before its runners")
	}
	s.closed.Store(true)
	return nil
}

// runner calls the session's function, or another runner.
type runner struct {
	engine.Runner
	session *Session
	closed  atomic.Bool
}

// Bind implements engine.Runner.
func (r *runner) Bind() error {
	if r.Runner != nil {
		return r.Runner.Bind()
	}
	return nil
}

// Run implements engine.Runner. It is an error after Close.
func (r *runner) Run(ctx context.Context, rows []engine.Input) ([][]float32, error) {
	switch {
	case r.closed.Load() || r.session.closed.Load():
		return nil, errors.New("enginetest: a run after Close")
	case r.Runner != nil:
		return r.Runner.Run(ctx, rows)
	}
	return r.session.Run(rows)
}

// Close implements engine.Runner.
func (r *runner) Close() error {
	if r.closed.Swap(true) {
		return errors.New("enginetest: a runner is closed twice")
	}
	r.session.open.Add(-1)
	if r.Runner != nil {
		return r.Runner.Close()
	}
	return nil
}
