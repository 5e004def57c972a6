package pipeline

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// fakeGroup is a broker in memory: a log per partition, committed offsets, and the messages of committed transactions.
type fakeGroup struct {
	mu        sync.Mutex
	logs      map[TopicPartition]int64 // records 0..n-1
	committed map[TopicPartition]int64
	metadata  map[TopicPartition]string
	visible   []Message
	commits   int
	fail      func(n int, c *Commit) error // what the n-th commit answers; nil commits
	took      time.Duration                // of a commit
}

func (g *fakeGroup) Commit(ctx context.Context, c *Commit) error {
	time.Sleep(g.took)
	g.mu.Lock()
	defer g.mu.Unlock()
	g.commits++
	if g.fail != nil {
		if err := g.fail(g.commits, c); err != nil {
			return err
		}
	}
	for tp, at := range c.Offsets {
		if at < g.committed[tp] {
			panic(fmt.Sprintf("%v: offset goes back from %d to %d", tp, g.committed[tp], at))
		}
		g.committed[tp], g.metadata[tp] = at, c.Metadata[tp]
	}
	g.visible = append(g.visible, c.Messages...)
	return nil
}

func (g *fakeGroup) MaxMessageBytes(string) int { return 0 }

// fakeSource reads every partition of the group; rebalance makes it join again.
type fakeSource struct {
	group     *fakeGroup
	rebalance chan struct{}
}

func (s *fakeSource) Run(ctx context.Context, flow Flow) error {
	for {
		s.group.mu.Lock()
		owned := map[TopicPartition]Committed{}
		for tp := range s.group.logs {
			owned[tp] = Committed{Offset: s.group.committed[tp], Metadata: s.group.metadata[tp]}
		}
		s.group.mu.Unlock()
		at := flow.Assign(owned)
		again := false
		for !again {
			for tp := range owned {
				s.group.mu.Lock()
				end := s.group.logs[tp]
				s.group.mu.Unlock()
				if flow.Room(tp) == 0 || at[tp] >= end {
					continue
				}
				next := min(end, at[tp]+7)
				var rs []Record
				for o := at[tp]; o < next; o++ {
					rs = append(rs, Record{Topic: tp.Topic, Partition: tp.Partition, Offset: o, Value: []byte("x")})
				}
				if !flow.Deliver(tp, at[tp], rs, next) {
					return fmt.Errorf("delivery of %v at %d refused", tp, at[tp])
				}
				flow.Lag(tp, end)
				at[tp] = next
			}
			select {
			case <-ctx.Done():
				return nil
			case <-s.rebalance:
				again = true
			case <-time.After(5 * time.Millisecond):
			}
		}
		flow.Quiesce(ctx)
	}
}

// fakeProcessor finishes jobs after random times, out of order.
type fakeProcessor struct {
	runs sync.Map // "tp offset" -> number of times processed
	took func(*Record) time.Duration
}

func (p *fakeProcessor) Process(j *Job) {
	key := fmt.Sprint(j.Record.TopicPartition(), j.Record.Offset)
	n, _ := p.runs.LoadOrStore(key, new(int))
	*n.(*int)++
	d := p.took(j.Record)
	time.AfterFunc(d, func() {
		j.Done(Outcome{Disposition: Scored, Messages: []Message{{Topic: "out", Source: j.Record.TopicPartition(),
			Headers: []Header{{"o", fmt.Append(nil, j.Record.Offset)}}}}})
	})
}

func newFakeGroup(partitions int, records int64) *fakeGroup {
	g := &fakeGroup{logs: map[TopicPartition]int64{}, committed: map[TopicPartition]int64{},
		metadata: map[TopicPartition]string{}, took: 8 * time.Millisecond}
	for p := range partitions {
		g.logs[TopicPartition{"in", int32(p)}] = records
	}
	return g
}

// check fails the test unless every record is visible exactly once and in order.
func (g *fakeGroup) check(t *testing.T) {
	t.Helper()
	next := map[TopicPartition]int64{}
	for _, m := range g.visible {
		if got, want := string(m.Headers[0].Value), fmt.Sprint(next[m.Source]); got != want {
			t.Fatalf("%v: record %s is visible where %s was due", m.Source, got, want)
		}
		next[m.Source]++
	}
	for tp, n := range g.logs {
		if next[tp] != n || g.committed[tp] != n {
			t.Fatalf("%v: %d records visible, %d committed, %d in the log", tp, next[tp], g.committed[tp], n)
		}
	}
}

func random(most time.Duration) func(*Record) time.Duration {
	return func(*Record) time.Duration { return rand.N(most) }
}

func runStage(t *testing.T, g *fakeGroup, p *fakeProcessor, o StageOptions, during func(stop context.CancelFunc,
	s *Stage, src *fakeSource)) error {
	t.Helper()
	o.Metrics = NewStageMetrics(prometheus.NewRegistry(), StageMetricsOptions{})
	o.Logger = slog.New(slog.DiscardHandler)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	s := NewStage(p, g, o)
	src := &fakeSource{group: g, rebalance: make(chan struct{})}
	result := make(chan error)
	go func() { result <- s.Run(ctx, src) }()
	during(stop, s, src)
	return <-result
}

// until waits, in fake time, for everything to be committed.
func (g *fakeGroup) until(t *testing.T) {
	for range 100_000 {
		g.mu.Lock()
		done := true
		for tp, n := range g.logs {
			done = done && g.committed[tp] == n
		}
		g.mu.Unlock()
		if done {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatal("the lag does not go to zero")
}

func TestStageCommitsEverythingOnceInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, p := newFakeGroup(3, 500), &fakeProcessor{took: random(50 * time.Millisecond)}
		err := runStage(t, g, p, StageOptions{Limits: Limits{100, 1 << 20, 1000, 200, 1 << 20, 2000}},
			func(stop context.CancelFunc, s *Stage, src *fakeSource) {
				g.until(t)
				stop()
			})
		if err != nil {
			t.Fatal(err)
		}
		g.check(t)
	})
}

func TestStageRepeatsAnAbortedCommitWithoutNewInference(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, p := newFakeGroup(2, 300), &fakeProcessor{took: random(20 * time.Millisecond)}
		g.fail = func(n int, c *Commit) error {
			if n%3 != 0 {
				return Faultf(Transient, "commit", "aborted", "the transaction timed out")
			}
			return nil
		}
		if err := runStage(t, g, p, StageOptions{}, func(stop context.CancelFunc, s *Stage,
			src *fakeSource) {
			g.until(t)
			stop()
		}); err != nil {
			t.Fatal(err)
		}
		g.check(t)
		p.runs.Range(func(k, n any) bool {
			if *n.(*int) != 1 {
				t.Errorf("record %v was processed %d times", k, *n.(*int))
			}
			return true
		})
	})
}

func TestStageGoesOnAcrossRebalances(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, p := newFakeGroup(3, 400), &fakeProcessor{took: random(80 * time.Millisecond)}
		g.fail = func(n int, c *Commit) error {
			if n%5 == 0 {
				return Faultf(Rebalance, "commit", "rebalance", "[27] rebalance in progress")
			}
			return nil
		}
		if err := runStage(t, g, p, StageOptions{}, func(stop context.CancelFunc, s *Stage, src *fakeSource) {
			done := make(chan struct{})
			go func() { g.until(t); close(done) }()
			for {
				select {
				case src.rebalance <- struct{}{}:
					time.Sleep(60 * time.Millisecond)
					continue
				case <-done:
				}
				break
			}
			stop()
		}); err != nil {
			t.Fatal(err)
		}
		g.check(t)
	})
}

func TestStageFinishesWhatIsInFlightWhenStopped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, p := newFakeGroup(2, 1000), &fakeProcessor{took: func(
			*Record) time.Duration {
			return 300 * time.Millisecond
		}}
		if err := runStage(t, g, p, StageOptions{}, func(stop context.CancelFunc, s *Stage,
			src *fakeSource) {
			time.Sleep(time.Second)
			stop()
		}); err != nil {
			t.Fatal(err)
		}
		n := 0
		p.runs.Range(func(any, any) bool { n++; return true })
		if len(g.visible) != n || n == 0 {
			t.Fatalf("%d records were begun, %d are visible after the stop", n, len(g.visible))
		}
	})
}

func TestStageGivesUpAfterTheGracePeriod(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, p := newFakeGroup(1, 10), &fakeProcessor{took: func(*Record) time.Duration { return time.Hour }}
		var began time.Time
		if err := runStage(t, g, p, StageOptions{Grace: 5 * time.Second}, func(stop context.CancelFunc, s *Stage,
			src *fakeSource) {
			time.Sleep(time.Second)
			began = time.Now()
			stop()
		}); err != nil {
			t.Fatal(err)
		}
		if d := time.Since(began); d != 5*time.Second {
			t.Fatalf("the stop took %v, want the grace period of 5s", d)
		}
		if len(g.visible) != 0 {
			t.Fatalf("%d unfinished records are visible", len(g.visible))
		}
		time.Sleep(2 * time.Hour) // let the processor's timers end inside the bubble
	})
}

func TestStageEndsWithTheFaultOfItsSink(t *testing.T) {
	for _, kind := range []Kind{Fenced, Config} {
		synctest.Test(t, func(t *testing.T) {
			g, p := newFakeGroup(1, 10), &fakeProcessor{took: random(time.Millisecond)}
			g.fail = func(int, *Commit) error { return Faultf(kind, "commit", "test", "no") }
			err := runStage(t, g, p, StageOptions{}, func(context.CancelFunc, *Stage, *fakeSource) {})
			if KindOf(err) != kind {
				t.Fatalf("Run ends with %v, want a %s fault", err, kind)
			}
			if len(g.visible) != 0 {
				t.Fatal("messages of a failed commit are visible")
			}
			time.Sleep(time.Second)
		})
	}
}

// At low load nothing waits for the commit interval; at high load one transaction carries what an interval brings.
func TestStageBeginsATransactionWhenNothingElseCouldJoinIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, p := newFakeGroup(1, 1), &fakeProcessor{took: func(*Record) time.Duration { return 10 * time.Millisecond }}
		var after time.Duration
		if err := runStage(t, g, p, StageOptions{CommitInterval: 10 * time.Second}, func(stop context.CancelFunc,
			s *Stage, src *fakeSource) {
			began := time.Now()
			g.until(t)
			after = time.Since(began)
			stop()
		}); err != nil {
			t.Fatal(err)
		}
		if after > 100*time.Millisecond {
			t.Fatalf("a lone record was visible after %v, with a commit interval of 10s and nothing else in flight",
				after)
		}
	})
}
