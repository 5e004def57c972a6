package pipeline

import (
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

// Every metric has a valid name, a help text and no high-cardinality label, and moves when the thing it counts happens.
func TestMetricsAreWellFormedAndMove(t *testing.T) {
	reg := prometheus.NewPedanticRegistry()
	m := NewStageMetrics(reg, StageMetricsOptions{Dispositions: ClassifyDispositions})
	s := NewStage(nil, nil, StageOptions{Metrics: m})
	reg.MustRegister(s)
	tp := TopicPartition{"in", 0}
	s.Assign(map[TopicPartition]Committed{tp: {Offset: 5}})
	s.mu.Lock()
	entries, _ := s.ledger.deliver(tp, 5, []Record{{Topic: "in", Offset: 5, Value: []byte("abc"),
		Timestamp: time.Now().Add(-time.Minute)}}, 6, time.Now())
	s.ledger.weigh(entries[0], 7)
	s.mu.Unlock()
	s.Lag(tp, 9)
	m.Rebalanced()
	m.Retried("join", 27)
	m.Joined(true)
	m.transaction(nil, time.Second)
	m.transaction(Faultf(Transient, "commit", "aborted", "x"), time.Second)
	m.durable(&entries[0].record, &Outcome{Disposition: DeadLetter, Fault: Faultf(Poison, "decode", "invalid-json",
		"x")}, time.Now(), time.Now())
	m.durable(&entries[0].record, &Outcome{Disposition: Skipped, SkippedBy: "deletes"}, time.Now(), time.Now())

	problems, err := testutil.GatherAndLint(reg)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if !strings.HasPrefix(f.GetName(), "sluice_") || len(f.GetHelp()) < 25 {
			t.Errorf("%s: help %q", f.GetName(), f.GetHelp())
		}
	}
	const want = `
# HELP sluice_in_flight_records Records fetched and not yet committed. At its limit the partition is paused: the worker is slower than its input.
# TYPE sluice_in_flight_records gauge
sluice_in_flight_records{partition="0",topic="in"} 1
# HELP sluice_in_flight_tokens Tokens of records tokenized and not yet committed.
# TYPE sluice_in_flight_tokens gauge
sluice_in_flight_tokens{partition="0",topic="in"} 7
# HELP sluice_lag_records Offsets between the committed position and the high watermark, as of the last fetch. Growing: add workers (up to the number of partitions).
# TYPE sluice_lag_records gauge
sluice_lag_records{partition="0",topic="in"} 4
# HELP sluice_kafka_retries_total Kafka requests repeated, by request and error code. A few around restarts are normal.
# TYPE sluice_kafka_retries_total counter
sluice_kafka_retries_total{code="27",request="join"} 1
`
	if err := testutil.GatherAndCompare(reg, strings.NewReader(want), "sluice_in_flight_records",
		"sluice_in_flight_tokens", "sluice_lag_records", "sluice_kafka_retries_total"); err != nil {
		t.Error(err)
	}
	if n := testutil.ToFloat64(m.transactions.WithLabelValues("committed")); n != 1 {
		t.Errorf("transactions committed: %v", n)
	}
	if n := testutil.ToFloat64(m.deadLetters.WithLabelValues("decode", "invalid-json")); n != 1 {
		t.Errorf("dead letters: %v", n)
	}
	if n := testutil.ToFloat64(m.skipped.WithLabelValues("deletes")); n != 1 {
		t.Errorf("skipped: %v", n)
	}
	if n := testutil.ToFloat64(m.records.WithLabelValues("skipped")); n != 1 {
		t.Errorf("records skipped: %v", n)
	}
	if st := s.Status(); len(st.Partitions) != 1 || st.Partitions[0].LagSeconds < 59 {
		t.Errorf("status: %+v", st)
	}
}
