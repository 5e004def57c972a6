package pipeline

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// tap calls a function for each durable outcome.
type tap func(*Record, *Outcome)

func (f tap) Durable(r *Record, o *Outcome) { f(r, o) }

func TestTapsSeeWhatIsDurableInOrderWithNoLockHeld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newFakeGroup(3, 200)
		g.fail = func(n int, _ *Commit) error {
			if n%3 == 0 {
				return Faultf(Transient, "commit", "aborted", "again")
			}
			return nil
		}
		running := make(chan *Stage, 1)
		next := map[TopicPartition]int64{}
		look := tap(func(r *Record, o *Outcome) {
			tp := r.TopicPartition()
			g.mu.Lock()
			at := g.committed[tp]
			g.mu.Unlock()
			if r.Offset != next[tp] || r.Offset >= at || len(o.Messages) != 1 || o.Disposition != Scored {
				t.Errorf("%v: %d comes where %d was due, %d is committed: %+v", tp, r.Offset, next[tp], at, o)
			}
			next[tp]++
			stage := <-running
			stage.Status() // would never answer with the lock held
			running <- stage
		})
		s, _, stop := begin(t, g, StageOptions{Taps: []Tap{look}})
		running <- s
		g.until(t)
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		for tp := range g.logs {
			if next[tp] != 200 {
				t.Errorf("%v: %d of 200 were seen", tp, next[tp])
			}
		}
	})
}

func TestATapThatPanicsIsDroppedAndTheStageGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newFakeGroup(1, 100)
		calls, seen := 0, 0
		var log bytes.Buffer
		s := NewStage(&fakeProcessor{took: func(*Record) time.Duration { return time.Millisecond }}, g, StageOptions{
			Metrics: NewStageMetrics(prometheus.NewRegistry(), StageMetricsOptions{}),
			Logger:  slog.New(slog.NewTextHandler(&log, nil)),
			Taps: []Tap{tap(func(*Record, *Outcome) { calls++; panic("a tap's own fault") }),
				tap(func(*Record, *Outcome) { seen++ })}})
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- s.Run(ctx, &fakeSource{group: g, rebalance: make(chan struct{})}) }()
		g.until(t)
		stop()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		g.check(t)
		if n := strings.Count(log.String(), "a tap panicked"); calls != 1 || seen != 100 || n != 1 {
			t.Errorf("%d calls of the tap, %d of the other, told %d times:\n%s", calls, seen, n, log.String())
		}
	})
}

func TestATapThatHangsIsFound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newFakeGroup(1, 1)
		free := make(chan struct{})
		dog, wedged := watched()
		s, _, stop := begin(t, g, StageOptions{Watchdog: dog, Taps: []Tap{tap(func(*Record, *Outcome) { <-free })}})
		time.Sleep(time.Second)
		unlocked(t, s, TopicPartition{"in", 0})
		if err := <-wedged; !strings.Contains(err.Error(), "pipeline.tap has been told of 1 durable records for") {
			t.Error(err)
		}
		close(free)
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
}
