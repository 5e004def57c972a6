package store_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"sluice/pipeline"
	"sluice/pipeline/store"
)

// memory is a store in memory.
type memory struct {
	mu      sync.Mutex
	rows    map[string]string // by id
	order   []string          // ids as they first came
	puts    int
	away    error
	closed  bool
	answers func(n int) error // to the n-th put; nil: nil
}

func newMemory() *memory { return &memory{rows: map[string]string{}} }

func (m *memory) Put(_ context.Context, items []store.Item) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.puts++
	if m.away != nil {
		return m.away
	}
	for _, i := range items {
		if _, there := m.rows[i.ID()]; !there {
			m.order = append(m.order, i.ID())
		}
		m.rows[i.ID()] = string(i.Outcome.Messages[0].Value)
	}
	if m.answers != nil {
		return m.answers(m.puts)
	}
	return nil
}

func (m *memory) Close() error {
	m.closed = true
	return nil
}

func (m *memory) set(away error) {
	m.mu.Lock()
	m.away = away
	m.mu.Unlock()
}

// kafka is a sink in memory that looks whether what it commits is in a store.
type kafka struct {
	mu        sync.Mutex
	store     *memory
	committed int64
	visible   []string
	commits   int
	fails     func(n int) error
	missing   int
}

func (k *kafka) Commit(_ context.Context, c *pipeline.Commit) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.commits++
	if k.fails != nil {
		if err := k.fails(k.commits); err != nil {
			return err
		}
	}
	k.committed = c.Offsets[input]
	for _, m := range c.Messages {
		k.visible = append(k.visible, string(m.Value))
		k.store.mu.Lock()
		if k.store.rows["reviews/0/"+string(m.Value)] != string(m.Value) {
			k.missing++
		}
		k.store.mu.Unlock()
	}
	return nil
}

func (k *kafka) MaxMessageBytes(string) int { return 77 }

var input = pipeline.TopicPartition{Topic: "reviews"}

// source delivers n records, a few at a time.
type source int64

func (n source) Run(ctx context.Context, f pipeline.Flow) error {
	f.Assign(map[pipeline.TopicPartition]pipeline.Committed{input: {}})
	for at := int64(0); at < int64(n); at += 10 {
		var rs []pipeline.Record
		for o := at; o < at+10; o++ {
			rs = append(rs, pipeline.Record{Topic: "reviews", Offset: o, Value: fmt.Append(nil, o)})
		}
		if !f.Deliver(input, at, rs, at+10) {
			return errors.New("refused")
		}
		time.Sleep(30 * time.Millisecond)
	}
	<-ctx.Done()
	return nil
}

// copies makes a message of each record.
type copies struct{}

func (copies) Process(j *pipeline.Job) {
	j.Done(pipeline.Outcome{Disposition: pipeline.Scored, Messages: []pipeline.Message{{Topic: "out", Source: input,
		Value: j.Record.Value}}})
}

// run runs a stage over n records until the test stops it.
func run(t *testing.T, n source, sink pipeline.Sink) (stop func() error) {
	s := pipeline.NewStage(copies{}, sink, pipeline.StageOptions{CommitInterval: 10 * time.Millisecond,
		Metrics: pipeline.NewStageMetrics(prometheus.NewRegistry(), pipeline.StageMetricsOptions{}),
		Logger:  slog.New(slog.NewTextHandler(io.Discard, nil))})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx, n) }()
	return func() error { cancel(); return <-done }
}

func TestEachOutcomeIsInTheStoreOnceAndBeforeItIsCommitted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, second := newMemory(), newMemory()
		m.answers = func(n int) error { // it has taken them, but its answer is lost
			if n%5 == 0 {
				return pipeline.Faultf(pipeline.Transient, "store", "away", "lost")
			}
			return nil
		}
		k := &kafka{store: m, fails: func(n int) error {
			if n%3 == 0 {
				return pipeline.Faultf(pipeline.Transient, "commit", "aborted", "again")
			}
			return nil
		}}
		sink := store.Before(k, m, second)
		stop := run(t, 500, sink)
		time.Sleep(time.Minute)
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		var ids, values []string
		for o := range 500 {
			ids, values = append(ids, fmt.Sprintf("reviews/0/%d", o)), append(values, fmt.Sprint(o))
		}
		if !slices.Equal(k.visible, values) || k.missing > 0 {
			t.Errorf("%d visible, %d of them not in the store", len(k.visible), k.missing)
		}
		for i, s := range []*memory{m, second} {
			if !slices.Equal(s.order, ids) || len(s.rows) != 500 {
				t.Errorf("store %d: %d rows, %d in order", i, len(s.rows), len(s.order))
			}
		}
		if k.commits < 50 || m.puts <= second.puts || sink.MaxMessageBytes("out") != 77 {
			t.Errorf("%d commits, %d and %d puts", k.commits, m.puts, second.puts)
		}
	})
}

func TestAStoreThatIsAwayHoldsUpCommitsAndLosesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory()
		k := &kafka{store: m}
		m.set(pipeline.Faultf(pipeline.Transient, "store", "away", "connection refused"))
		stop := run(t, 300, store.Before(k, m))
		time.Sleep(time.Hour)
		synctest.Wait()
		m.mu.Lock()
		k.mu.Lock()
		if k.committed != 0 || len(k.visible) != 0 || m.puts < 3000 {
			t.Errorf("committed up to %d, %d visible, asked %d times in an hour", k.committed, len(k.visible), m.puts)
		}
		k.mu.Unlock()
		m.mu.Unlock()
		m.set(nil)
		time.Sleep(10 * time.Second)
		if err := stop(); err != nil || k.committed != 300 || len(m.rows) != 300 || k.missing > 0 {
			t.Errorf("%v, committed up to %d, %d rows", err, k.committed, len(m.rows))
		}
	})
}

func TestWhatAStoresErrorMeans(t *testing.T) {
	for _, c := range []struct {
		name string
		err  error
		want pipeline.Kind
	}{
		{"a table is missing", pipeline.Faultf(pipeline.Config, "x", "table", "no such table"), pipeline.Config},
		{"a plain error", errors.New("syntax error"), pipeline.Internal},
		{"a fault that is no store's", pipeline.Faultf(pipeline.Rebalance, "x", "x", "x"), pipeline.Internal},
		{"a record's fault", pipeline.Faultf(pipeline.Poison, "x", "x", "x"), pipeline.Internal},
		{"a sink's error", &pipeline.RefusedError{Refusals: []pipeline.Refusal{{Topic: "out"}}}, pipeline.Internal},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newMemory()
				k := &kafka{store: m}
				m.set(c.err)
				stop := run(t, 20, store.Before(k, m))
				time.Sleep(time.Minute)
				if err := stop(); pipeline.KindOf(err) != c.want || len(k.visible) > 0 {
					t.Errorf("the stage ended with %v, %d visible", err, len(k.visible))
				}
			})
		})
	}
}

// panics is a store whose code is at fault.
type panics struct{ *memory }

func (panics) Put(context.Context, []store.Item) error { panic("nil map, say") }

func TestAPanicOfAStoreEndsTheStageAndNotTheProcess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := &kafka{store: newMemory()}
		stop := run(t, 20, store.Before(k, panics{}))
		time.Sleep(time.Minute)
		if err := stop(); pipeline.KindOf(err) != pipeline.Internal || len(k.visible) > 0 {
			t.Errorf("%v, %d visible", err, len(k.visible))
		}
	})
}

func TestACommitOfOffsetsAlonePutsNothing(t *testing.T) {
	m := newMemory()
	k := &kafka{store: m}
	c := &pipeline.Commit{Offsets: map[pipeline.TopicPartition]int64{input: 7}}
	if err := store.Before(k, m).Commit(t.Context(), c); err != nil || m.puts != 0 || k.committed != 7 {
		t.Errorf("%v, %d puts, %d committed", err, m.puts, k.committed)
	}
	if store.Before(k) != pipeline.Sink(k) {
		t.Error("without stores it is not the sink itself")
	}
}

// A stage commits to Kafka what a store has taken. Who made the store closes it, when the stage has ended.
func ExampleBefore() {
	postgres := newMemory() // stands for one
	topic := &kafka{store: postgres}
	sink := store.Before(topic, postgres)

	// A stage does this: pipeline.NewStage(processor, sink, ...).
	record := &pipeline.Record{Topic: "reviews", Partition: 0, Offset: 17}
	outcome := &pipeline.Outcome{Disposition: pipeline.Scored, Messages: []pipeline.Message{{Value: []byte("17")}}}
	commit := &pipeline.Commit{Messages: outcome.Messages, Offsets: map[pipeline.TopicPartition]int64{input: 18},
		Outcomes: func(yield func(*pipeline.Record, *pipeline.Outcome) bool) { yield(record, outcome) }}
	for range 2 { // the answer to the first was lost
		if err := sink.Commit(context.Background(), commit); err != nil {
			fmt.Println(err)
		}
	}
	err := postgres.Close()
	fmt.Println(postgres.order, topic.committed, postgres.closed, err)
	// Output: [reviews/0/17] 18 true <nil>
}
