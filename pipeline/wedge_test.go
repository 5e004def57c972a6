package pipeline

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"sluice/tokenize"
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

// stuckTokenizer does not return from texts that say so until it is freed.
type stuckTokenizer struct {
	*wordTokenizer
	free <-chan struct{}
}

func (s stuckTokenizer) Encode(texts [][]byte, o tokenize.Options) []tokenize.Encoded {
	for _, text := range texts {
		if bytes.Contains(text, []byte("stuck")) {
			<-s.free
		}
	}
	return s.wordTokenizer.Encode(texts, o)
}

// Whatever is done to a record by code without a deadline is watched: the worker ends, and nothing of the record is
// answered.
func TestARecordThatNeverEndsEndsTheWorker(t *testing.T) {
	blockOutcome := func(b *bench, free <-chan struct{}) {
		b.c.o.Writer.MaxBytes = func(topic string) int {
			if topic == "out" {
				<-free
			}
			return 0
		}
	}
	for _, c := range []struct {
		name, stage, value, says string
		cached                   bool
		block                    func(*bench, <-chan struct{})
	}{
		{"in the tokenizer", "tokenize", `{"text":"stuck"}`, "the text of in-3 at offset 41 has been tokenized", false,
			func(b *bench, free <-chan struct{}) {
				for i := range b.c.groups {
					b.c.groups[i].tokenizer = stuckTokenizer{b.tok, free}
				}
			}},
		{"before it", "decode", `{"text":" "}`, "the record of in-3 at offset 41 has been read", false, blockOutcome},
		{"behind the model", "judge", `{"text":"some text"}`, "verdicts on 1 texts", false, blockOutcome},
		{"behind the cache", "judge", `{"text":"some text"}`, "verdicts on 1 texts", true, blockOutcome},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t, 1)
				free := make(chan struct{})
				if c.cached {
					b.c.engine.cache = newResultCache(1 << 20)
					b.outcomes(t, c.value)
				}
				c.block(b, free)
				s := NewStage(b.c, nil, StageOptions{Metrics: NewStageMetrics(prometheus.NewRegistry(),
					StageMetricsOptions{})})
				began := time.Now()
				record := Record{Topic: "in", Partition: 3, Offset: 41, Value: []byte(c.value)}
				s.Assign(map[TopicPartition]Committed{record.TopicPartition(): {Offset: 41}})
				s.Deliver(record.TopicPartition(), 41, []Record{record}, 42)
				err := <-b.failure
				if after := time.Since(began); after < 40*time.Second || after > 42*time.Second {
					t.Errorf("given up after %v", after)
				}
				var f *Fault
				if !errors.As(err, &f) || f.Stage != c.stage || f.Reason != "wedged" || KindOf(err) != Internal ||
					!strings.Contains(err.Error(), c.says) {
					t.Errorf("%v", err)
				}
				time.Sleep(time.Hour)
				if left := unfinished(s); len(b.failure) > 0 || left != 1 {
					t.Errorf("%d more faults, %d records unfinished", len(b.failure), left)
				}
				close(free) // so that the test can end
			})
		})
	}
}

func unfinished(s *Stage) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ledger.unfinished()
}

// Time is a piece of work's own: sixteen texts that are slow, one after the other, are not one that hangs.
func TestSlowRecordsAreNotTakenForOneThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, 1)
		b.c.o.Writer.MaxBytes = func(string) int {
			time.Sleep(39 * time.Second)
			return 0
		}
		s := NewStage(b.c, nil, StageOptions{Metrics: NewStageMetrics(prometheus.NewRegistry(), StageMetricsOptions{})})
		tp := TopicPartition{"in", 3}
		s.Assign(map[TopicPartition]Committed{tp: {}})
		s.Deliver(tp, 0, slices.Collect(func(yield func(Record) bool) {
			for i := range int64(40) {
				yield(Record{Topic: "in", Partition: 3, Offset: i, Value: []byte(`{"text":" "}`)})
			}
		}), 40)
		time.Sleep(time.Hour)
		if left := unfinished(s); left > 0 {
			t.Errorf("%d records are not finished", left)
		}
		if len(b.failure) > 0 {
			t.Error(<-b.failure)
		}
	})
}
