package pipeline

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

func TestTheMarkLeavesWhatOthersKeepBesideAnOffset(t *testing.T) {
	for _, c := range []struct {
		name, metadata string
		mark           mark
		want           string
	}{
		{"nothing there", "", mark{Open: true}, `{"starts":{"open":true}}`},
		{"something of others", `{"budget":{"v":1,"calls":7}}`, mark{Open: true, Unclean: 2, Until: 99, Alone: 1},
			`{"budget":{"v":1,"calls":7},"starts":{"open":true,"unclean":2,"until":99,"alone":1}}`},
		{"a mark is taken back", `{"budget":[1],"starts":{"open":true}}`, mark{}, `{"budget":[1]}`},
		{"nothing is left", `{"starts":{"open":true}}`, mark{}, ""},
		{"no JSON", "a note of a person", mark{Open: true}, `{"starts":{"open":true}}`},
		{"no object", "null", mark{Unclean: 1, Until: 3}, `{"starts":{"unclean":1,"until":3}}`},
	} {
		tp := TopicPartition{"in", 0}
		got, _ := compose(c.mark, nil, tell(nil, map[TopicPartition]Committed{tp: {Metadata: c.metadata}})[tp], tp)
		if got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
		if back := readMark(got); back != c.mark {
			t.Errorf("%s: read back as %+v", c.name, back)
		}
	}
	for _, bad := range []string{"", "{", "[]", `{"starts":7}`, `{"starts":{"unclean":-1}}`} {
		if got := readMark(bad); got != (mark{}) {
			t.Errorf("the mark of %q is %+v", bad, got)
		}
	}
}

// mortal is a processor that dies with the process, which Stage.Fail stands for: what is in flight then is never
// finished.
type mortal struct {
	kills func(*Record) bool
	took  func(*Record) time.Duration
	away  func(*Record) bool // Quarantine kills, too; nil: it does not
	end   chan struct{}      // ends what a killing Quarantine has left, with the test

	mu    sync.Mutex
	stage *Stage
	dead  bool
	runs  map[string]int // by record, over all lives
}

var errKilled = errors.New("killed")

func (p *mortal) Process(j *Job) {
	p.mu.Lock()
	p.runs[fmt.Sprint(j.Record.TopicPartition(), "@", j.Record.Offset)]++
	stage := p.stage
	p.mu.Unlock()
	time.AfterFunc(p.took(j.Record), func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		switch {
		case p.dead || p.stage != stage:
		case p.kills(j.Record):
			p.dead = true
			stage.Fail(errKilled)
		default:
			j.Done(Outcome{Disposition: Scored, Messages: []Message{{Topic: "out", Source: j.Record.TopicPartition(),
				Headers: []Header{{"o", fmt.Append(nil, j.Record.Offset)}}}}})
		}
	})
}

// deadLetter is a StageOptions.Panicked.
func deadLetter(r *Record, f *Fault) Outcome {
	return Outcome{Disposition: DeadLetter, Fault: f, Messages: []Message{{Topic: "dlq", Source: r.TopicPartition(),
		Headers: []Header{{"o", fmt.Append(nil, r.Offset)}}}}}
}

// quarantine is a StageOptions.Quarantine of stage.
func (p *mortal) quarantine(stage *Stage, r *Record) Outcome {
	p.mu.Lock()
	dies := p.away != nil && p.away(r) && p.stage == stage
	if dies {
		p.dead = true
		stage.Fail(errKilled)
	}
	p.mu.Unlock()
	if dies {
		<-p.end // it does not come back
	}
	return deadLetter(r, nil)
}

// live runs one worker after the other until all is visible, or one of them ends otherwise than by a kill. It returns
// the number of deaths and the records in the dead letters.
func (p *mortal) live(t *testing.T, g *fakeGroup, limits Limits) (deaths int, condemned []string) {
	t.Helper()
	p.runs = map[string]int{}
	for range 60 {
		p.mu.Lock()
		var stage *Stage
		p.stage, p.dead = NewStage(p, g, StageOptions{Limits: limits, Metrics: NewStageMetrics(prometheus.NewRegistry(),
			StageMetricsOptions{}), Logger: slog.New(slog.DiscardHandler),
			Quarantine: func(r *Record, deaths int) Outcome { return p.quarantine(stage, r) },
			Panicked:   deadLetter}), false
		stage = p.stage
		p.mu.Unlock()
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- stage.Run(ctx, &fakeSource{group: g, rebalance: make(chan struct{})}) }()
		looked := make(chan struct{})
		go func() {
			defer close(looked)
			for !g.all() && ctx.Err() == nil {
				time.Sleep(10 * time.Millisecond)
			}
			stop()
		}()
		err := <-done
		stop()
		<-looked // else the test may end before it does
		synctest.Wait()
		switch {
		case err == nil:
			for _, m := range g.visible {
				if m.Topic == "dlq" {
					condemned = append(condemned, fmt.Sprint(m.Source, "@", string(m.Headers[0].Value)))
				}
			}
			return deaths, condemned
		case !errors.Is(err, errKilled):
			t.Fatalf("a worker ended with %v", err)
		}
		deaths++
	}
	t.Fatalf("not done after %d deaths", deaths)
	return deaths, nil
}

// all says whether every record of the group is visible.
func (g *fakeGroup) all() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	var n int64
	for _, end := range g.logs {
		n += end
	}
	return int64(len(g.visible)) >= n
}

var narrow = Limits{200, 1 << 20, 20000, 600, 1 << 20, 60000}

func TestARecordThatKillsTheWorkerIsQuarantinedAndNoOther(t *testing.T) {
	for _, c := range []struct {
		name    string
		killers []string
		most    int // deaths
	}{
		{"in the middle of a busy partition", []string{"in-1@333"}, 4},
		{"the first record of all", []string{"in-0@0"}, 4},
		{"the last one", []string{"in-2@499"}, 4},
		{"two beside each other", []string{"in-1@100", "in-1@101"}, 8},
		{"in two partitions at a time", []string{"in-0@50", "in-2@50"}, 8},
	} {
		for seed := range uint64(16) {
			t.Run(fmt.Sprint(c.name, " ", seed), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					rnd := rand.New(rand.NewPCG(seed, 7))
					g := newFakeGroup(3, 500)
					p := &mortal{kills: func(r *Record) bool {
						for _, k := range c.killers {
							if k == fmt.Sprint(r.TopicPartition(), "@", r.Offset) {
								return true
							}
						}
						return false
					}, took: func(*Record) time.Duration {
						return time.Duration(
							rnd.Int64N(int64(30 * time.Millisecond)))
					}}
					deaths, condemned := p.live(t, g, narrow)
					g.check(t)
					if len(condemned) != len(c.killers) {
						t.Errorf("in the dead letters are %v, want %v", condemned, c.killers)
					}
					for _, k := range c.killers {
						if p.runs[k] > 2+2*DeathsAlone { // once more for every death by another killer before it
							t.Errorf("%s ran %d times", k, p.runs[k])
						}
					}
					if deaths > c.most {
						t.Errorf("%d deaths, at most %d were due", deaths, c.most)
					}
					if len(g.metadata) == 0 {
						t.Error("no partition has metadata")
					}
					for tp, m := range g.metadata {
						if m := readMark(m); m.Open || m.Alone > 0 {
							t.Errorf("%v: %+v is left after a clean stop", tp, m)
						}
					}
				})
			})
		}
	}
}

// Deaths that have nothing to do with a record, at any time, dozens of them. Four in a row, the last two within the few
// milliseconds in which the same record happens to run alone, cannot be told from those by a record: about one death in
// three hundred, where a worker starts in no time and lives for a second.
func TestRandomDeathsCondemnFewRecords(t *testing.T) {
	for _, c := range []struct {
		name   string
		limits Limits
		most   float64 // condemned records for each death
	}{
		{"workers that live as long as suspicion", narrow, 0.02},
		{"workers that live ten times as long", Limits{20, 1 << 20, 2000, 60, 1 << 20, 6000}, 0.02},
	} {
		t.Run(c.name, func(t *testing.T) {
			var condemned []string
			deaths := 0
			for seed := range uint64(3) {
				synctest.Test(t, func(t *testing.T) {
					rnd := rand.New(rand.NewPCG(seed, 7))
					g := newFakeGroup(3, 25_000)
					p := &mortal{kills: func(*Record) bool { return false },
						took: func(*Record) time.Duration { return rand.N(20 * time.Millisecond) }}
					ctx, cancel := context.WithCancel(t.Context())
					go func() {
						for range 30 {
							select {
							case <-time.After(time.Duration(rnd.ExpFloat64() * float64(time.Second))):
							case <-ctx.Done():
								return
							}
							p.mu.Lock()
							if p.stage != nil && !p.dead {
								p.dead = true
								p.stage.Fail(errKilled)
							}
							p.mu.Unlock()
						}
					}()
					d, dead := p.live(t, g, c.limits)
					cancel()
					g.check(t)
					deaths += d
					condemned = append(condemned, dead...)
				})
			}
			if deaths < 30 || float64(len(condemned)) > c.most*float64(deaths) {
				t.Errorf("after %d deaths %d records are condemned: %v", deaths, len(condemned), condemned)
			}
			t.Logf("%d deaths, %d records condemned", deaths, len(condemned))
		})
	}
}

// A worker that dies of its commits, at every start again: nothing is wrong with the records.
func TestDeathsByACommitCondemnNoRecord(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newFakeGroup(2, 300)
		p := &mortal{kills: func(*Record) bool { return false },
			took: func(*Record) time.Duration { return time.Millisecond }}
		left := 12
		g.fail = func(_ int, c *Commit) error {
			if len(c.Messages) > 0 && left > 0 {
				left--
				return errKilled
			}
			return nil
		}
		deaths, condemned := p.live(t, g, narrow)
		g.check(t)
		if deaths != 12 || len(condemned) > 0 {
			t.Errorf("%d deaths, condemned: %v", deaths, condemned)
		}
	})
}

// TestATrialGoesOnAfterACommitThatWentThroughUnheard: a commit can go through although its answer is that the group has
// moved on (with at-least-once: its first answer was lost, and the repeated request came too late). The next assignment
// shows its mark.
func TestATrialGoesOnAfterACommitThatWentThroughUnheard(t *testing.T) {
	for _, unheard := range []struct {
		name string
		is   func(m mark, before mark) bool
	}{
		{"the announcement", func(m, before mark) bool { return m.Alone > 0 && before.Alone == 0 }},
		{"its end", func(m, before mark) bool { return m.Alone == 0 && before.Alone > 0 }},
	} {
		t.Run(unheard.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g, p := newFakeGroup(1, 3), &fakeProcessor{took: func(
					*Record) time.Duration {
					return time.Millisecond
				}}
				tp := TopicPartition{"in", 0}
				g.metadata[tp] = `{"starts":{"open":true,"unclean":1,"until":100}}`
				src := &fakeSource{group: g, rebalance: make(chan struct{}, 1)}
				times := 0
				g.fail = func(_ int, c *Commit) error {
					if times > 0 || !unheard.is(readMark(c.Metadata[tp]), readMark(g.metadata[tp])) {
						return nil
					}
					times++
					g.committed[tp], g.metadata[tp] = c.Offsets[tp], c.Metadata[tp]
					g.visible = append(g.visible, c.Messages...)
					src.rebalance <- struct{}{}
					return Faultf(Rebalance, "commit", "rebalance", "too late")
				}
				s := NewStage(p, g, StageOptions{Metrics: NewStageMetrics(prometheus.NewRegistry(),
					StageMetricsOptions{}),
					Panicked: deadLetter,
					Logger:   slog.New(slog.DiscardHandler), Quarantine: func(*Record,
						int) Outcome {
						panic("nobody died")
					}})
				ctx, stop := context.WithCancel(t.Context())
				done := make(chan error, 1)
				go func() { done <- s.Run(ctx, src) }()
				time.Sleep(10 * time.Second)
				g.mu.Lock()
				if n := len(g.visible); n != 3 || times != 1 {
					t.Errorf("%d of 3 records are visible; %d commits were unheard", n, times)
				}
				g.mu.Unlock()
				stop()
				if err := <-done; err != nil {
					t.Fatal(err)
				}
			})
		})
	}
}

// A record runs alone only when nothing of another suspect partition, whose records came first, still runs: it could
// die in its name.
func TestNothingOfASuspectPartitionRunsBesideATrial(t *testing.T) {
	few, alone := TopicPartition{"in", 0}, TopicPartition{"in", 1}
	l := newLedger(narrow)
	l.guarded = true
	l.assign(map[TopicPartition]Committed{few: {}, alone: {}}, nil)
	for tp, m := range map[TopicPartition]mark{few: {Open: true, Unclean: 1, Until: 100}, alone: {Open: true,
		Unclean: 2, Until: 100}} {
		ln := l.lanes[tp]
		ln.committed, ln.mark, ln.suspicion = 0, m, suspicion{unclean: m.Unclean, until: m.Until}
	}
	deliver := func(tp TopicPartition) {
		if _, ok := l.deliver(tp, 0, []Record{{Topic: tp.Topic, Partition: tp.Partition}}, 1, time.Time{}); !ok {
			t.Fatal("not taken")
		}
	}
	deliver(few)
	first, _ := l.begin()
	deliver(alone)
	if l.begin(); len(first) != 1 || l.trial != nil {
		t.Fatalf("%d records run, and a trial begins beside them: %v", len(first), l.trial != nil)
	}
	l.finish(first[0], Outcome{Disposition: Scored})
	if l.begin(); l.trial == nil || l.trial.entry.lane != l.lanes[alone] {
		t.Error("no trial begins when nothing else runs")
	}
}

func TestCleanStopsAndRebalancesLeaveNoSuspicion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newFakeGroup(2, 3000)
		for range 8 {
			p := &fakeProcessor{took: func(*Record) time.Duration { return 5 * time.Millisecond }}
			s := NewStage(p, g, StageOptions{Metrics: NewStageMetrics(prometheus.NewRegistry(), StageMetricsOptions{}),
				Panicked: deadLetter,
				Logger:   slog.New(slog.DiscardHandler), Quarantine: func(*Record,
					int) Outcome {
					panic("nobody died")
				}})
			ctx, stop := context.WithCancel(t.Context())
			src := &fakeSource{group: g, rebalance: make(chan struct{})}
			done := make(chan error, 1)
			go func() { done <- s.Run(ctx, src) }()
			for range 3 {
				time.Sleep(40 * time.Millisecond)
				src.rebalance <- struct{}{}
				synctest.Wait()
				s.mu.Lock()
				few, alone := s.ledger.suspects()
				s.mu.Unlock()
				if len(few)+len(alone) > 0 {
					t.Fatalf("under suspicion: %v %v", few, alone)
				}
			}
			time.Sleep(50 * time.Millisecond)
			g.mu.Lock()
			for tp, m := range g.metadata {
				if m != `{"starts":{"open":true}}` {
					t.Errorf("%v: %q while a worker is at work", tp, m)
				}
			}
			g.mu.Unlock()
			stop()
			if err := <-done; err != nil {
				t.Fatal(err)
			}
			for tp, m := range g.metadata {
				if m != "" {
					t.Errorf("%v: %q after a clean stop", tp, m)
				}
			}
		}
	})
}

// What others keep beside offsets goes through, and comes back.
func TestMarksStandBesideTheMetadataOfOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, p := newFakeGroup(1, 20), &fakeProcessor{took: func(*Record) time.Duration { return time.Millisecond }}
		tp := TopicPartition{"in", 0}
		g.metadata[tp] = `{"wallet":5}`
		wallet := &notes{name: "wallet", want: map[TopicPartition]string{tp: "6"}}
		s := NewStage(p, g, StageOptions{Metrics: NewStageMetrics(prometheus.NewRegistry(), StageMetricsOptions{}),
			Panicked: deadLetter,
			Logger:   slog.New(slog.DiscardHandler), Quarantine: func(*Record, int) Outcome { return Outcome{} },
			Attachments: []Attachment{wallet}})
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- s.Run(ctx, &fakeSource{group: g, rebalance: make(chan struct{})}) }()
		g.until(t)
		g.mu.Lock()
		if m := g.metadata[tp]; m != `{"starts":{"open":true},"wallet":6}` {
			t.Errorf("while at work: %s", m)
		}
		g.mu.Unlock()
		stop()
		<-done
		seen := string(wallet.told[tp]["wallet"])
		if m := g.metadata[tp]; m != `{"wallet":6}` || seen != "5" {
			t.Errorf("after the stop: %s; the next worker was told %s", m, seen)
		}
	})
}
