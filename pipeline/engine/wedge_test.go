package engine

import (
	"context"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"sluice/pipeline"
)

// fateRunner does with a batch what the first id of its rows says.
type fateRunner struct {
	late chan time.Duration // how long after its time limit a run ends
	end  chan struct{}
}

const (
	fateWedge int32 = -1 // never returns, whatever it is told
	fatePanic int32 = -2
	fateLate  int32 = -3
	fateOnce  int32 = -4 // fails the first time
)

func (fateRunner) Bind() error  { return nil }
func (fateRunner) Close() error { return nil }
func (r fateRunner) Run(ctx context.Context, rows []Input) ([][]float32, error) {
	out := make([][]float32, len(rows))
	for i, row := range rows {
		first := row.(Tokens)[0]
		out[i] = []float32{float32(first)}
		switch first {
		case fateWedge:
			<-r.end
		case fatePanic:
			panic("an index out of range, say")
		case fateLate:
			<-ctx.Done()
			time.Sleep(<-r.late)
			return nil, ctx.Err()
		case fateOnce:
			select {
			case <-r.late: // the second time there is nothing in it
				return nil, context.DeadlineExceeded
			default:
			}
		}
	}
	return out, nil
}

func newFateEngine(t *testing.T, r fateRunner, runners int, dog *pipeline.Watchdog, o Options) *testEngine {
	t.Helper()
	o.Metrics, o.Watchdog, o.Devices, o.BatchTokens = testMetrics(), dog, []Device{{"cpu", runners}}, 64
	e := New(o)
	h, err := e.Load(t.Context(), Model{Name: "m", Session: each(r), Probe: Tokens{1}})
	if err != nil {
		t.Fatal(err)
	}
	return &testEngine{e, []*Handle{h}}
}

// awake is a watchdog that finds nothing.
func awake(t *testing.T) *pipeline.Watchdog {
	return watchdog(pipeline.WatchdogOptions{Wedged: func(err error) { t.Errorf("wedged: %v", err) }})
}

func TestAWedgedRunEndsTheWorkerAndNothingOfItIsAnswered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		type end struct {
			err   error
			after time.Duration
		}
		told := make(chan end, 1)
		r := fateRunner{end: make(chan struct{})}
		dog := watchdog(pipeline.WatchdogOptions{Timeout: 30 * time.Second, Grace: 10 * time.Second,
			Wedged: func(err error) { told <- end{err, time.Since(began)} }})
		e := newFateEngine(t, r, 2, dog, Options{Timeout: 30 * time.Second,
			Fail: func(err error) { t.Errorf("the model is called broken: %v", err) }})
		answered := make(chan Answer, 1)
		e.models[0].Submit(Ask{Inputs: []Input{Tokens{fateWedge}}, Done: func(a Answer) { answered <- a }})
		synctest.Wait()
		var others answers
		others.submit(e, 0, 0, Tokens{5}) // the other runner goes on
		others.Wait()
		time.Sleep(time.Minute)
		synctest.Wait()
		if len(told) != 1 || len(answered) != 0 {
			t.Fatalf("told %d times, %d answers", len(told), len(answered))
		}
		if f := <-told; reasonOf(f.err) != "wedged" || pipeline.KindOf(f.err) != pipeline.Internal ||
			f.after < 40*time.Second || f.after > 42*time.Second {
			t.Errorf("told after %v of %v", f.after, f.err)
		}
		if others.got[0].Err != nil {
			t.Errorf("the other runner: %v", others.got[0].Err)
		}
		close(r.end) // so that the test can end
		e.Close()
	})
}

func TestARunThatEndsWhenToldIsNotWedged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := fateRunner{late: make(chan time.Duration, 2)}
		dog := watchdog(pipeline.WatchdogOptions{Timeout: time.Second, Grace: 10 * time.Second,
			Wedged: func(err error) { t.Errorf("wedged: %v", err) }})
		e := newFateEngine(t, r, 1, dog, Options{Timeout: time.Second,
			Fail: func(err error) { t.Errorf("given up: %v", err) }})
		defer e.Close()
		r.late <- 9 * time.Second
		r.late <- 2 * time.Second
		var a answers
		a.submit(e, 0, 0, Tokens{fateLate})
		a.Wait()
		if pipeline.KindOf(a.got[0].Err) != pipeline.Poison {
			t.Errorf("a text that takes too long, twice: %v", a.got[0].Err)
		}
		time.Sleep(time.Hour)
	})
}

func TestAModelThatHangsAtTheStartIsToldOf(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := fateRunner{end: make(chan struct{})}
		told := make(chan error, 1)
		go func() {
			e := New(Options{Metrics: testMetrics(), Devices: []Device{{"cpu", 1}}, BatchTokens: 64,
				Watchdog: watchdog(pipeline.WatchdogOptions{Wedged: func(err error) { told <- err }}),
				Fail:     func(err error) { t.Errorf("failed, although nobody is there to fail: %v", err) }})
			_, _ = e.Load(context.Background(), Model{Name: "m", Session: each(r), Probe: Tokens{fateWedge}})
			e.Close()
		}()
		if err := <-told; reasonOf(err) != "wedged" {
			t.Error(err)
		}
		close(r.end)
	})
}

func TestARunnerThatPanicsSpoilsOneTextOnly(t *testing.T) {
	e := newFateEngine(t, fateRunner{}, 1, awake(t), Options{Fail: func(err error) { t.Errorf("given up: %v", err) }})
	defer e.Close()
	var a answers
	for id := range 40 {
		a.submit(e, id, 0, Tokens{int32(id + 1)})
	}
	a.submit(e, 40, 0, Tokens{fatePanic})
	a.Wait()
	for id := range 40 {
		if got := a.got[id]; got.Err != nil || !slices.Equal(got.Logits[0], []float32{float32(id + 1)}) {
			t.Errorf("text %d: %v", id, got)
		}
	}
	if err := a.got[40].Err; pipeline.KindOf(err) != pipeline.Poison || reasonOf(err) != "panic" ||
		!strings.Contains(err.Error(),
			"out of range") {
		t.Errorf("the text that panics: %v", err)
	}
}

func TestARowThatFailsOnceIsTriedAgain(t *testing.T) {
	r := fateRunner{late: make(chan time.Duration, 1)}
	e := newFateEngine(t, r, 1, awake(t), Options{Fail: func(err error) { t.Errorf("given up: %v", err) }})
	defer e.Close()
	r.late <- 0
	var a answers
	a.submit(e, 0, 0, Tokens{fateOnce})
	a.Wait()
	if a.got[0].Err != nil {
		t.Errorf("%v", a.got[0].Err)
	}
}
