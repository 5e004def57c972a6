package pipeline

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// condemnedMark stands beside the offset of a record that is not to be run again.
const condemnedMark = `{"starts":{"open":true,"unclean":3,"until":100,"alone":2}}`

// begin runs a stage on g until the test ends, and makes sure that its lock is free whenever it is asked.
func begin(t *testing.T, g *fakeGroup, o StageOptions) (*Stage, *fakeSource, func() error) {
	t.Helper()
	o.Metrics, o.Logger = NewStageMetrics(prometheus.NewRegistry(), StageMetricsOptions{}),
		slog.New(slog.DiscardHandler)
	s := NewStage(&fakeProcessor{took: func(*Record) time.Duration { return time.Millisecond }}, g, o)
	src := &fakeSource{group: g, rebalance: make(chan struct{})}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx, src) }()
	return s, src, func() error { stop(); return <-done }
}

// unlocked fails the test where the stage holds its lock.
func unlocked(t *testing.T, s *Stage, tp TopicPartition) {
	t.Helper()
	synctest.Wait()
	if !s.mu.TryLock() {
		t.Fatal("the stage's lock is held")
	}
	s.mu.Unlock()
	if st := s.Status(); !st.Assigned || s.Room(tp) == 0 {
		t.Errorf("status %+v, room for %d bytes", st, s.Room(tp))
	}
}

func (g *fakeGroup) seen(source TopicPartition) (topics []string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, m := range g.visible {
		if m.Source == source {
			topics = append(topics, m.Topic)
		}
	}
	return topics
}

// watched is a watchdog whose findings come through the channel.
func watched() (*Watchdog, chan error) {
	wedged := make(chan error, 10)
	return NewWatchdog(WatchdogOptions{Timeout: 20 * time.Second, Wedged: func(err error) { wedged <- err }}), wedged
}

func TestAQuarantineThatHangsStopsNothingElseAndIsFound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newFakeGroup(2, 50)
		hangs, goesOn := TopicPartition{"in", 0}, TopicPartition{"in", 1}
		g.metadata[hangs] = condemnedMark
		free := make(chan struct{})
		dog, wedged := watched()
		s, _, stop := begin(t, g, StageOptions{Watchdog: dog, Panicked: deadLetter,
			Quarantine: func(r *Record, _ int) Outcome {
				<-free
				return deadLetter(r, nil)
			}})
		time.Sleep(time.Second)
		unlocked(t, s, hangs)
		if n := len(g.seen(goesOn)); n != 50 {
			t.Errorf("%d records of another partition are visible", n)
		}
		if got := g.seen(hangs); len(got) > 0 || g.committed[hangs] != 0 {
			t.Errorf("%v behind a record without an outcome, offset %d", got, g.committed[hangs])
		}
		if m := readMark(g.metadata[hangs]); !m.Open || m.Alone != 3 {
			t.Errorf("%+v while a record is put away; a worker that ends here must be counted", m)
		}
		time.Sleep(30 * time.Second)
		err := <-wedged
		if !strings.Contains(err.Error(), "for the record of in-0 at offset 0 for 3") || KindOf(err) != Internal {
			t.Error(err)
		}
		close(free)
		g.until(t)
		if got := g.seen(hangs); len(got) != 50 || got[0] != "dlq" || slices.Contains(got[1:], "dlq") {
			t.Errorf("visible in the end: %v", got)
		}
		if err := stop(); err != nil || len(wedged) > 0 {
			t.Error(err, len(wedged))
		}
		g.check(t)
	})
}

func TestAPanicInQuarantineIsADeadLetter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newFakeGroup(1, 20)
		g.metadata[TopicPartition{"in", 0}] = condemnedMark
		var faults []*Fault
		_, _, stop := begin(t, g, StageOptions{
			Quarantine: func(*Record, int) Outcome { panic("it reads the record, too") },
			Panicked: func(r *Record, f *Fault) Outcome {
				faults = append(faults, f)
				return deadLetter(r, f)
			}})
		g.until(t)
		if err := stop(); err != nil || len(faults) != 1 || faults[0].Reason != "panic" ||
			faults[0].Stage != "process" {
			t.Errorf("%v, faults %v", err, faults)
		}
		g.check(t)
	})
}

func TestAPartitionThatMovesWhileARecordIsPutAwayTakesItAlong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newFakeGroup(2, 20)
		goes := TopicPartition{"in", 0}
		g.metadata[goes] = condemnedMark
		free := make(chan struct{})
		s, src, stop := begin(t, g, StageOptions{Panicked: deadLetter, Quarantine: func(r *Record, _ int) Outcome {
			<-free
			return deadLetter(r, nil)
		}})
		time.Sleep(time.Second)
		g.mu.Lock()
		delete(g.logs, goes)
		g.mu.Unlock()
		src.rebalance <- struct{}{}
		time.Sleep(time.Second)
		close(free)
		time.Sleep(time.Second)
		if got := g.seen(goes); len(got) > 0 {
			t.Errorf("%v is visible of a partition that is another worker's", got)
		}
		unlocked(t, s, TopicPartition{"in", 1})
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
}

// What makes a dead letter may read the record that its workers died of, and die of it, too.
func TestARecordThatKillsInQuarantineGetsOutWithoutBeingRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newFakeGroup(2, 300)
		killer := func(r *Record) bool { return r.Partition == 1 && r.Offset == 100 }
		p := &mortal{kills: killer, away: killer, end: make(chan struct{}),
			took: func(*Record) time.Duration { return time.Millisecond }}
		deaths, condemned := p.live(t, g, narrow)
		close(p.end)
		g.check(t)
		if deaths > 6 || !slices.Equal(condemned, []string{"in-1@100"}) {
			t.Errorf("%d deaths, in the dead letters: %v", deaths, condemned)
		}
	})
}

func TestAReplacementThatHangsHoldsNoLockAndIsFound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newFakeGroup(1, 9)
		tp := TopicPartition{"in", 0}
		g.fail = refusing(func(m *Message) bool {
			return m.Topic == "out" && string(m.Headers[0].Value) == "4"
		})
		free := make(chan struct{})
		dog, wedged := watched()
		s, _, stop := begin(t, g, StageOptions{Watchdog: dog, Panicked: deadLetter,
			Refused: func(r *Record, _ *Outcome, _ []Refusal) (Outcome, bool) {
				<-free
				return deadLetter(r, nil), true
			}})
		time.Sleep(time.Second)
		unlocked(t, s, tp)
		s.Lag(tp, 9)
		time.Sleep(30 * time.Second)
		if err := <-wedged; !strings.Contains(err.Error(), "for the record of in-0 at offset 4 for 3") {
			t.Error(err)
		}
		close(free)
		g.until(t)
		if err := stop(); err != nil {
			t.Error(err)
		}
		g.check(t)
		if got := fmt.Sprint(g.seen(tp)); strings.Count(got, "dlq") != 1 {
			t.Error(got)
		}
	})
}
