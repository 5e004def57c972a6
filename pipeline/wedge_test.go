package pipeline

import (
	"context"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
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
func (r fateRunner) Run(ctx context.Context, rows []Row) ([][]float32, error) {
	out := make([][]float32, len(rows))
	for i, row := range rows {
		out[i] = []float32{float32(row[0])}
		switch row[0] {
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

func newFateEngine(t *testing.T, r fateRunner, o EngineOptions) *Engine {
	t.Helper()
	o.Metrics, o.Runners, o.BatchTokens = NewMetrics(prometheus.NewRegistry()), max(o.Runners, 1), 64
	e, err := NewEngine([]EngineModel{{Name: "m", Open: func(int) (Runner, error) { return r, nil }, Probe: Row{1}}}, o)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func TestAWedgedRunEndsTheWorkerAndNothingOfItIsAnswered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		type end struct {
			err   error
			after time.Duration
		}
		failed, told := make(chan end, 1), make(chan error, 1)
		r := fateRunner{end: make(chan struct{})}
		e := newFateEngine(t, r, EngineOptions{Timeout: 30 * time.Second, Grace: 10 * time.Second, Runners: 2,
			Fail:   func(err error) { failed <- end{err, time.Since(began)} },
			Wedged: func(err error) { told <- err }})
		answered := make(chan Answer, 1)
		e.Submit(Ask{Rows: []Row{{fateWedge}}, Done: func(a Answer) { answered <- a }})
		synctest.Wait()
		var others answers
		others.submit(e, 0, 0, Row{5}) // the other runner goes on
		others.Wait()
		time.Sleep(time.Minute)
		synctest.Wait()
		if len(failed) != 1 || len(told) != 1 || len(answered) != 0 {
			t.Fatalf("failed %d times, told %d times, %d answers", len(failed), len(told), len(answered))
		}
		if f := <-failed; reasonOf(f.err) != "wedged" || KindOf(f.err) != Internal || <-told != f.err ||
			f.after < 40*time.Second || f.after > 42*time.Second {
			t.Errorf("failed after %v with %v", f.after, f.err)
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
		e := newFateEngine(t, r, EngineOptions{Timeout: time.Second, Grace: 10 * time.Second,
			Fail: func(err error) { t.Errorf("given up: %v", err) }, Wedged: func(err error) {
				t.Errorf("wedged: %v",
					err)
			}})
		defer e.Close()
		r.late <- 9 * time.Second
		r.late <- 2 * time.Second
		var a answers
		a.submit(e, 0, 0, Row{fateLate})
		a.Wait()
		if KindOf(a.got[0].Err) != Poison {
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
			e, err := NewEngine([]EngineModel{{Name: "m", Open: func(int) (Runner, error) { return r, nil },
				Probe: Row{fateWedge}}},
				EngineOptions{Metrics: NewMetrics(prometheus.NewRegistry()), Runners: 1, BatchTokens: 64,
					Fail:   func(err error) { t.Errorf("failed, although nobody is there to fail: %v", err) },
					Wedged: func(err error) { told <- err }})
			if err == nil {
				e.Close()
			}
		}()
		if err := <-told; reasonOf(err) != "wedged" {
			t.Error(err)
		}
		close(r.end)
	})
}

func TestARunnerThatPanicsSpoilsOneTextOnly(t *testing.T) {
	e := newFateEngine(t, fateRunner{}, EngineOptions{Fail: func(err error) { t.Errorf("given up: %v", err) }})
	defer e.Close()
	var a answers
	for id := range 40 {
		a.submit(e, id, 0, Row{int32(id + 1)})
	}
	a.submit(e, 40, 0, Row{fatePanic})
	a.Wait()
	for id := range 40 {
		if got := a.got[id]; got.Err != nil || !slices.Equal(got.Logits[0], []float32{float32(id + 1)}) {
			t.Errorf("text %d: %v", id, got)
		}
	}
	if err := a.got[40].Err; KindOf(err) != Poison || reasonOf(err) != "panic" || !strings.Contains(err.Error(),
		"out of range") {
		t.Errorf("the text that panics: %v", err)
	}
}

func TestARowThatFailsOnceIsTriedAgain(t *testing.T) {
	r := fateRunner{late: make(chan time.Duration, 1)}
	e := newFateEngine(t, r, EngineOptions{Fail: func(err error) { t.Errorf("given up: %v", err) }})
	defer e.Close()
	r.late <- 0
	var a answers
	a.submit(e, 0, 0, Row{fateOnce})
	a.Wait()
	if a.got[0].Err != nil {
		t.Errorf("%v", a.got[0].Err)
	}
}
