package pipeline

import (
	"fmt"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

// BenchmarkRecord is everything that the worker itself does for a record, from its delivery to its outcome in a settled
// commit: decoding, bookkeeping, batching, judging, writing. The tokenizer and the model are fakes that cost next to
// nothing. ns/op, B/op and allocs/op are per record; bytes published are reported beside them.
func BenchmarkRecord(b *testing.B) {
	t := newBench(b, 1)
	s := NewStage(t.c, nil, StageOptions{Metrics: NewStageMetrics(prometheus.NewRegistry(), StageMetricsOptions{})})
	tp := TopicPartition{"in", 3}
	s.Assign(map[TopicPartition]Committed{tp: {}})
	const many = 500
	records := make([]Record, many)
	published := 0
	var next int64
	b.ReportAllocs()
	for n := 0; n < b.N; n += many {
		for i := range records {
			offset := next + int64(i)
			records[i] = Record{Topic: "in", Partition: 3, Offset: offset, Key: []byte("k"),
				Headers: []Header{{"traceparent", []byte("00-abc")}},
				Value: fmt.Appendf(nil, `{"user_id": %d, "text":"a review of a hotel by the sea %d"}`, offset,
					offset)}
		}
		s.Deliver(tp, next, records, next+many)
		next += many
		for {
			s.mu.Lock()
			ready, _ := s.ledger.pending()
			if ready == many {
				c, _ := s.ledger.take(many, 1<<30)
				for i := range c.Messages {
					published += c.Messages[i].Size()
				}
				s.ledger.settle()
				s.mu.Unlock()
				break
			}
			changed := s.changed()
			s.mu.Unlock()
			<-changed
		}
	}
	b.ReportMetric(float64(published)/float64(next), "published-B/op")
}
