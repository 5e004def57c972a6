package load

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
)

// These tests run the generator against small systems of their own, on an embedded broker.

func broker(t *testing.T, topics ...string) Target {
	t.Helper()
	c, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(2, topics...))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	target := Target{Brokers: c.ListenAddrs(), Input: topics[0], Format: JSON}
	if len(topics) > 1 {
		target.Output = topics[1]
	}
	if len(topics) > 2 {
		target.DeadLetter = topics[2]
	}
	return target
}

// echo is a system that answers every record by what reply makes of it.
func echo(t *testing.T, target Target, reply func(*kgo.Record) []*kgo.Record) {
	t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(target.Brokers...), kgo.ConsumeTopics(target.Input),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.ProducerLinger(0))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			client.PollFetches(ctx).EachRecord(func(r *kgo.Record) {
				for _, out := range reply(r) {
					client.Produce(ctx, out, nil)
				}
			})
		}
	}()
	t.Cleanup(func() { cancel(); <-done; client.Close() })
}

func texts(t *testing.T, p Profile) *Texts {
	t.Helper()
	x, err := NewTexts(p, material(), 1)
	if err != nil {
		t.Fatal(err)
	}
	return x
}

func open(t *testing.T, target Target, o Options) *Session {
	t.Helper()
	s, err := Open(t.Context(), target, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// A system that keeps nothing but the value, loses one record in 100 and doubles another.
func TestLostAndDoubledAreSeenThroughASystemThatKeepsTheValueOnly(t *testing.T) {
	target := broker(t, "in", "out")
	var n atomic.Int64
	echo(t, target, func(r *kgo.Record) []*kgo.Record {
		answer := func() *kgo.Record {
			return &kgo.Record{Topic: target.Output, Value: []byte(`{"label":"POSITIVE","source":` + string(r.Value) +
				`}`)}
		}
		switch n.Add(1) % 100 {
		case 13:
			return nil
		case 57:
			return []*kgo.Record{answer(), answer()}
		}
		return []*kgo.Record{answer()}
	})
	s := open(t, target, Options{Texts: texts(t, profile(t, "short")), Patience: time.Second})
	st, err := s.Step(t.Context(), 1000, time.Second)
	if err != nil {
		t.Fatal(err)
	}
	want := st.Records / 100
	if st.Records < 850 || st.Lost < want-1 || st.Lost > want+1 || st.Doubled < want-1 || st.Doubled > want+1 ||
		st.Results != st.Records-st.Lost {
		t.Errorf("%d records: %d results, %d lost, %d doubled", st.Records, st.Results, st.Lost, st.Doubled)
	}
	if st.Latency.Count < int64(st.Records)*7/10 || st.Latency.P50 <= 0 || st.Latency.P50 > 500 ||
		st.Latency.P99 < st.Latency.P50 {
		t.Errorf("%+v", st.Latency)
	}
}

func TestAWholeRunFindsTheMaximumOfASystemOfKnownCapacity(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: this takes ten seconds")
	}
	target := broker(t, "in", "out", "dlq")
	const capacity = 800.0
	begin, done := time.Now(), 0.0
	echo(t, target, func(r *kgo.Record) []*kgo.Record {
		// Not more than capacity records a second, by a debt that idle time pays off.
		now := time.Since(begin).Seconds()
		done = max(done, now) + 1/capacity
		if ahead := done - now; ahead > 0.002 {
			time.Sleep(time.Duration(ahead * float64(time.Second)))
		}
		topic := target.Output
		if !strings.HasSuffix(string(r.Value), "}") {
			topic = target.DeadLetter
		}
		return []*kgo.Record{{Topic: topic, Key: r.Key, Value: []byte("verdict")}}
	})
	var lines []string
	var seen Progress
	s := open(t, target, Options{Texts: texts(t, profile(t, "poison")), Progress: func(p Progress) { seen = p }})
	rep, err := s.Run(t.Context(), Plan{Shares: []float64{0.5, 1.3}, Length: 1500 * time.Millisecond,
		Trial: time.Second, FindOpts: FindOptions{Tolerance: 0.2}},
		func(format string, args ...any) { lines = append(lines, format) })
	if err != nil {
		t.Fatal(err)
	}
	if rep.Maximum < 0.6*capacity || rep.Maximum > 1.15*capacity {
		t.Errorf("maximum %g of a system that does %g: %+v", rep.Maximum, capacity, rep.Trials)
	}
	if len(rep.Steps) != 2 || !rep.Clean() || rep.Steps[0].Share != 0.5 || rep.Steps[0].Lost+rep.Steps[1].Lost > 0 {
		t.Fatalf("%+v", rep)
	}
	if calm, full := rep.Steps[0].Latency.P50, rep.Steps[1].Latency.P99; full < 1.5*calm {
		t.Errorf("p50 %g ms at half load, p99 %g ms at overload", calm, full)
	}
	if rep.Total.DeadLetters == 0 || seen.Phase != "load" || len(lines) < 5 {
		t.Errorf("%+v, %+v, %q", rep.Total, seen, lines)
	}
}

func TestMissingTopicsAreNamed(t *testing.T) {
	target := broker(t, "in", "out")
	target.Output, target.DeadLetter = "verdicts", "letters"
	err := target.Check(t.Context())
	for _, want := range []string{"topic verdicts", "topic letters", "create it"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v does not say %q", err, want)
		}
	}
	target.DeadLetter = "in"
	if err := target.Check(t.Context()); err == nil || !strings.Contains(err.Error(), "must be different") {
		t.Errorf("%v", err)
	}
}

func TestSilenceHasAReason(t *testing.T) {
	target := broker(t, "in", "out")
	s := open(t, target, Options{Texts: texts(t, profile(t, "short")), Patience: 200 * time.Millisecond})
	if _, err := s.Warm(t.Context()); err == nil || !strings.Contains(err.Error(), "does the system under test run, "+
		"read in and write out?") {
		t.Errorf("nobody answers: %v", err)
	}
	target = broker(t, "in", "out")
	echo(t, target, func(r *kgo.Record) []*kgo.Record {
		return []*kgo.Record{{Topic: target.Output, Value: []byte("verdict")}}
	})
	s = open(t, target, Options{Texts: texts(t, profile(t, "short")), Patience: 400 * time.Millisecond})
	if _, err := s.Warm(t.Context()); err == nil || !strings.Contains(err.Error(), "none carries a mark of this run") {
		t.Errorf("answers without a mark: %v", err)
	}
}

func TestPoisonNeedsSomewhereToGo(t *testing.T) {
	target := broker(t, "in", "out")
	if _, err := Open(t.Context(), target, Options{Texts: texts(t, profile(t, "poison"))}); err == nil ||
		!strings.Contains(err.Error(), "dead letter topic") {
		t.Errorf("%v", err)
	}
	target = broker(t, "in", "out", "dlq")
	target.Format = Text
	if _, err := Open(t.Context(), target, Options{Texts: texts(t, profile(t, "poison"))}); err == nil ||
		!strings.Contains(err.Error(), "JSON") {
		t.Errorf("%v", err)
	}
}

func TestDrainMeasuresABacklog(t *testing.T) {
	target := broker(t, "in", "out")
	began := false
	d, err := Drain(t.Context(), DrainPlan{Target: target, Records: 3000, Texts: texts(t, profile(t, "mixed")),
		Begin: func(context.Context) ([]int, error) {
			began = true
			begin, done := time.Now(), 0.0
			echo(t, target, func(r *kgo.Record) []*kgo.Record {
				now := time.Since(begin).Seconds()
				done = max(done, now) + 1.0/3000
				time.Sleep(time.Duration((done - now) * float64(time.Second)))
				return []*kgo.Record{{Topic: target.Output, Key: r.Key}}
			})
			return nil, nil
		}})
	if err != nil {
		t.Fatal(err)
	}
	if !began || d.Records != 3000 || d.Lost+d.Doubled+d.DeadLetters > 0 || d.Rate < 500 || d.Rate > 4500 ||
		d.Counted > 2700 || d.First <= 0 {
		t.Errorf("%+v", d)
	}
}

func TestDrainTellsDoubledResults(t *testing.T) {
	target := broker(t, "in", "out")
	_, err := Drain(t.Context(), DrainPlan{Target: target, Records: 50, Texts: texts(t, profile(t, "mixed")),
		Begin: func(context.Context) ([]int, error) {
			echo(t, target, func(r *kgo.Record) []*kgo.Record {
				a := &kgo.Record{Topic: target.Output, Key: r.Key}
				b := *a
				return []*kgo.Record{a, &b}
			})
			return nil, nil
		}})
	if err == nil || !strings.Contains(err.Error(), "more than one answer") {
		t.Errorf("%v", err)
	}
}
