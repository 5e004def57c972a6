package engine_test

import (
	"context"
	"sync"
	"syscall"
	"testing"

	"sluice/pipeline/engine"
	"sluice/pipeline/engine/enginetest"
)

// threadRunner notes on which threads it is used.
type threadRunner struct {
	mu      *sync.Mutex
	threads map[int]bool
}

func (r *threadRunner) note() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.threads[syscall.Gettid()] = true
}

func (r *threadRunner) Bind() error  { r.note(); return nil }
func (r *threadRunner) Close() error { r.note(); return nil }
func (r *threadRunner) Run(_ context.Context, rows []engine.Input) ([][]float32, error) {
	r.note()
	return make([][]float32, len(rows)), nil
}

// A runner sees one thread only, from when it is made until it is closed, and every model's n-th runner sees the same.
func TestARunnerLivesOnOneThread(t *testing.T) {
	e, _ := newEngine(t, engine.Options{BatchTokens: 8})
	var mu sync.Mutex
	all := map[int][]*threadRunner{}
	load := func() *engine.Handle {
		h, err := e.Load(t.Context(), engine.Model{Name: "m", Probe: engine.Tokens{1}, Session: &enginetest.Session{
			Runner: func(n int) (engine.Runner, error) {
				r := &threadRunner{&mu, map[int]bool{}}
				r.note()
				mu.Lock()
				defer mu.Unlock()
				all[n] = append(all[n], r)
				return r, nil
			}}})
		if err != nil {
			t.Fatal(err)
		}
		return h
	}
	first, second := load(), load()
	var asked sync.WaitGroup
	for i := range int32(200) {
		asked.Add(1)
		h := first
		if i%2 == 0 {
			h = second
		}
		h.Submit(engine.Ask{Inputs: []engine.Input{engine.Tokens{i}}, Done: func(engine.Answer) { asked.Done() }})
	}
	first.Release()
	asked.Wait()
	load()
	second.Release()
	e.Close()
	if len(all) != 2 || len(all[0]) != 3 {
		t.Fatalf("runners: %v", all)
	}
	for n, runners := range all {
		threads := map[int]bool{}
		for _, r := range runners {
			for id := range r.threads {
				threads[id] = true
			}
		}
		if len(threads) != 1 {
			t.Errorf("runners %d of the models saw threads %v", n, threads)
		}
	}
}
