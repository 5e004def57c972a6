package pipeline_test

import (
	"fmt"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"sluice/pipeline"
	"sluice/pipeline/pipelinetest/words"
)

// BenchmarkRecord is everything that the worker itself does for a record, from its delivery to its outcome in a settled
// commit: decoding, bookkeeping, batching, judging, writing. The tokenizer and the model are fakes that cost next to
// nothing. ns/op, B/op and allocs/op are per record; bytes published are reported beside them.
func BenchmarkRecord(b *testing.B) {
	t := words.New(b, words.Options{})
	s := pipeline.NewStage(t.Plan(), nil, pipeline.StageOptions{Metrics: pipeline.NewStageMetrics(
		prometheus.NewRegistry(), pipeline.StageMetricsOptions{})})
	tp := pipeline.TopicPartition{Topic: "in", Partition: 3}
	s.Assign(map[pipeline.TopicPartition]pipeline.Committed{tp: {}})
	const many = 500
	records := make([]pipeline.Record, many)
	published := 0
	var next int64
	b.ReportAllocs()
	for n := 0; n < b.N; n += many {
		for i := range records {
			offset := next + int64(i)
			records[i] = pipeline.Record{Topic: "in", Partition: 3, Offset: offset, Key: []byte("k"),
				Headers: []pipeline.Header{{Key: "traceparent", Value: []byte("00-abc")}},
				Value: fmt.Appendf(nil, `{"user_id": %d, "text":"a review of a hotel by the sea %d"}`, offset,
					offset)}
		}
		s.Deliver(tp, next, records, next+many)
		next += many
		published += s.Settle(many)
	}
	b.ReportMetric(float64(published)/float64(next), "published-B/op")
}
