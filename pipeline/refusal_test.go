package pipeline

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

// refusing is a broker that refuses some messages, and names them.
func refusing(refuses func(*Message) bool) func(int, *Commit) error {
	return func(_ int, c *Commit) error {
		e := &RefusedError{}
		for i := range c.Messages {
			if m := &c.Messages[i]; refuses(m) {
				e.Refusals = append(e.Refusals, Refusal{Message: i, Topic: m.Topic, Reason: RefusedTimestamp,
					Err: errors.New("out of range")})
			}
		}
		if len(e.Refusals) > 0 {
			return e
		}
		return nil
	}
}

// copies is a processor that publishes a copy of every third result.
type copies struct{}

func (copies) Process(j *Job) {
	tp, headers := j.Record.TopicPartition(), []Header{{"o", fmt.Append(nil, j.Record.Offset)}}
	o := Outcome{Disposition: Scored, Messages: []Message{{Topic: "out", Source: tp, Headers: headers}}}
	if j.Record.Offset%3 == 0 {
		o.Messages = append(o.Messages, Message{Topic: "alerts", Source: tp, Headers: headers})
	}
	go j.Done(o)
}

func TestOnlyRecordsWithARefusedMessageGetAnotherOutcome(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const partitions, records = 3, 500
		g := newFakeGroup(partitions, records)
		bad := func(m *Message) bool { // in the middle of transactions of all partitions
			var o int
			fmt.Sscan(string(m.Headers[0].Value), &o)
			switch m.Topic {
			case "out":
				return o%50 == int(m.Source.Partition)*7+2
			case "alerts": // a copy, whose result is not refused
				return o%120 == 60
			}
			return false
		}
		g.fail = refusing(bad)
		replaced := map[string]int{}
		logs := &bytes.Buffer{}
		metrics := NewStageMetrics(prometheus.NewRegistry(), StageMetricsOptions{})
		s := NewStage(copies{}, g, StageOptions{Panicked: deadLetter, Metrics: metrics,
			Logger: slog.New(slog.NewTextHandler(logs, nil)),
			Refused: func(r *Record, meant *Outcome, refusals []Refusal) (Outcome, bool) {
				if len(refusals) != 1 || meant.Disposition != Scored || refusals[0].At != time.Now() {
					t.Errorf("%s@%d: meant %v, refusals %v", r.TopicPartition(), r.Offset, meant, refusals)
				}
				replaced[fmt.Sprintf("%v@%d", r.TopicPartition(), r.Offset)]++
				return deadLetter(r, nil), true
			}})
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- s.Run(ctx, &fakeSource{group: g, rebalance: make(chan struct{})}) }()
		g.until(t)
		stop()
		if err := <-ended; err != nil {
			t.Fatal(err)
		}
		want, refused := 0, 0
		for p := range partitions {
			for o := range records {
				result := o%50 == p*7+2
				alert := o%120 == 60
				if result || alert {
					want++
				}
				for _, is := range []bool{result, alert} {
					if is {
						refused++
					}
				}
			}
		}
		if len(replaced) != want {
			t.Errorf("%d records were replaced, %d are due", len(replaced), want)
		}
		next, copied := map[TopicPartition]int{}, map[string]bool{}
		for _, m := range g.visible {
			o := string(m.Headers[0].Value)
			key := fmt.Sprintf("%v@%s", m.Source, o)
			if bad(&m) {
				t.Fatalf("%s of %s is visible", m.Topic, key)
			}
			if m.Topic == "alerts" {
				copied[key] = true
				continue
			}
			if o != fmt.Sprint(next[m.Source]) {
				t.Fatalf("%v: %s where %d was due", m.Source, o, next[m.Source])
			}
			next[m.Source]++
			if dead := m.Topic == "dlq"; dead != (replaced[key] == 1) {
				t.Errorf("%s in %s, %d times replaced", key, m.Topic, replaced[key])
			}
		}
		for key := range replaced {
			if copied[key] {
				t.Errorf("a copy of %s is visible, whose result is a dead letter", key)
			}
		}
		if n := testutil.ToFloat64(metrics.refused.WithLabelValues("out", RefusedTimestamp)) +
			testutil.ToFloat64(metrics.refused.WithLabelValues("alerts", RefusedTimestamp)); n != float64(refused) {
			t.Errorf("%v refused messages are counted, there were %d", n, refused)
		}
		if testutil.ToFloat64(metrics.transactions.WithLabelValues("refused")) == 0 {
			t.Error("no refused transaction is counted")
		}
		for _, words := range []string{"topic=in partition=1 offset=9 refused_by=out reason=refused-timestamp",
			"out of range"} {
			if !strings.Contains(logs.String(), words) {
				t.Errorf("the log does not say %q:\n%.2000s", words, logs)
			}
		}
	})
}

func TestADeadLetterThatIsRefusedTooGetsSmaller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newFakeGroup(2, 40)
		g.fail = refusing(func(m *Message) bool {
			return string(m.Headers[0].Value) == "17" && m.Topic != "pointers"
		})
		var saw []string
		err := runStage(t, g, &fakeProcessor{took: random(time.Millisecond)}, StageOptions{Panicked: deadLetter,
			Refused: func(r *Record, meant *Outcome, refusals []Refusal) (Outcome, bool) {
				if r.Partition == 1 {
					saw = append(saw, fmt.Sprintf("%s after %d", meant.Disposition, len(refusals)))
				}
				o := deadLetter(r, nil)
				if len(refusals) > 1 {
					o.Messages[0].Topic = "pointers"
				}
				return o, true
			}}, func(stop context.CancelFunc, _ *Stage, _ *fakeSource) {
			g.until(t)
			stop()
		})
		if err != nil {
			t.Fatal(err)
		}
		g.check(t)
		if !slices.Equal(saw, []string{"result after 1", "result after 2"}) {
			t.Error(saw)
		}
		if got := g.seen(TopicPartition{"in", 1}); got[17] != "pointers" || slices.Index(got, "dlq") >= 0 {
			t.Error(got)
		}
	})
}

// A record that nothing can stand in for stops its partition and, once all else is committed, the worker: a person must
// act, and finds everything else done.
func TestARecordThatCannotBePublishedAtAllHoldsUpNothingElse(t *testing.T) {
	for _, never := range []bool{false, true} { // Refused says so, or never comes to an end
		synctest.Test(t, func(t *testing.T) {
			g := newFakeGroup(3, 100)
			g.fail = refusing(func(m *Message) bool {
				return m.Source.Partition == 1 && string(m.Headers[0].Value) == "30"
			})
			asked := 0
			err := runStage(t, g, &fakeProcessor{took: random(time.Millisecond)}, StageOptions{Panicked: deadLetter,
				Refused: func(r *Record, _ *Outcome, refusals []Refusal) (Outcome, bool) {
					asked++
					return deadLetter(r, nil), never || len(refusals) < 3
				}}, func(context.CancelFunc, *Stage, *fakeSource) {})
			if KindOf(err) != Config || !strings.Contains(err.Error(), "in-1 at offset 30") ||
				!strings.Contains(err.Error(), "out of range") {
				t.Errorf("Run ends with %v", err)
			}
			if want := map[bool]int{false: 3, true: mostRefusals}[never]; asked != want {
				t.Errorf("asked for another outcome %d times, want %d", asked, want)
			}
			if at := g.committed[TopicPartition{"in", 1}]; at != 30 || len(g.seen(TopicPartition{"in", 1})) != 30 {
				t.Errorf("the partition stands at %d, %d messages are visible", at,
					len(g.seen(TopicPartition{"in", 1})))
			}
			for _, p := range []int32{0, 2} {
				if tp := (TopicPartition{"in", p}); int64(len(g.seen(tp))) != g.committed[tp] || g.committed[tp] == 0 {
					t.Errorf("%v stands at %d, %d messages are visible", tp, g.committed[tp], len(g.seen(tp)))
				}
			}
			time.Sleep(time.Minute) // what is in flight ends within the bubble
		})
	}
}

func TestASinkThatRefusesNothingOfACommitEndsTheStage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newFakeGroup(1, 5)
		g.fail = func(int, *Commit) error { return &RefusedError{Refusals: []Refusal{{Message: 999}}} }
		err := runStage(t, g, &fakeProcessor{took: random(time.Millisecond)}, StageOptions{}, func(context.CancelFunc,
			*Stage, *fakeSource) {
		})
		if KindOf(err) != Internal {
			t.Error(err)
		}
		time.Sleep(time.Minute)
	})
}

// beforehand is a group with something that is done before each commit.
type beforehand struct {
	*fakeGroup
	do func(*Commit)
}

func (b *beforehand) Commit(ctx context.Context, c *Commit) error {
	b.do(c)
	return b.fakeGroup.Commit(ctx, c)
}

// sourceFunc is a source of one function.
type sourceFunc func(context.Context, Flow) error

func (f sourceFunc) Run(ctx context.Context, flow Flow) error { return f(ctx, flow) }

// A rebalance that comes while messages are refused waits for what stands in for them: else the partition would move
// with its mark open, and the next owner would take it for one on which a worker died.
func TestAPartitionIsHandedOnCleanlyWhileItsMessagesAreRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const records = 40
		g, tp := newFakeGroup(1, records), TopicPartition{"in", 0}
		g.fail = refusing(func(m *Message) bool {
			return m.Topic != "pointers" && string(m.Headers[0].Value) == "20"
		})
		refused := make(chan struct{})
		var once sync.Once
		sink := &beforehand{fakeGroup: g, do: func(c *Commit) {
			if g.fail(0, c) != nil {
				once.Do(func() {
					close(refused)
					synctest.Wait() // Quiesce waits for this commit, which is refused, as the one after it
				})
			}
		}}
		s := NewStage(&fakeProcessor{took: func(*Record) time.Duration { return time.Millisecond }}, sink, StageOptions{
			Panicked: deadLetter, Quarantine: func(r *Record, _ int) Outcome { return deadLetter(r, nil) },
			Refused: func(r *Record, _ *Outcome, refusals []Refusal) (Outcome, bool) {
				o := deadLetter(r, nil)
				if len(refusals) > 1 {
					o.Messages[0].Topic = "pointers"
				}
				return o, true
			},
			Metrics: NewStageMetrics(prometheus.NewRegistry(), StageMetricsOptions{}),
			Logger:  slog.New(slog.DiscardHandler)})
		ctx, stop := context.WithCancel(t.Context())
		var at int64
		var beside string
		src := sourceFunc(func(ctx context.Context, flow Flow) error {
			flow.Assign(map[TopicPartition]Committed{tp: {}})
			rs := make([]Record, records)
			for i := range rs {
				rs[i] = Record{Topic: "in", Offset: int64(i), Value: []byte("x")}
			}
			flow.Deliver(tp, 0, rs, records)
			<-refused
			flow.Quiesce(ctx)
			g.mu.Lock()
			at, beside = g.committed[tp], g.metadata[tp]
			g.mu.Unlock()
			stop()
			return nil
		})
		if err := s.Run(ctx, src); err != nil {
			t.Fatal(err)
		}
		if at != records || readMark(beside).Open {
			t.Errorf("the partition is handed on at %d with %q beside it", at, beside)
		}
		g.check(t)
	})
}
