package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"sluice/pipeline/pipelinetest"
)

// A dead letter is produced to the input topic again, with its headers: twice as it is, then repaired. Each failure
// leaves one set of headers that goes on counting, the result none.
func TestADeadLetterIsProducedAgainOnARealBroker(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: no real broker")
	}
	dir := needModel(t, "sentiment-tiny")
	broker, listener := pipelinetest.TestListener(t)
	topics := []string{"again-in", "again-out", "again-dlq"}
	client := broker.Client(t, kgo.ConsumeTopics(topics[1:]...), kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	if _, err := kadm.NewClient(client).CreateTopics(t.Context(), 1, 1, nil, topics...); err != nil {
		t.Fatal(err)
	}
	startWorker(t, "-c", runConfigBy(t, broker, listener, dir, "customer_reviews", topics[0],
		"review_analysis", topics[1], "review_dlq", topics[2], "group: reviews", "group: again"),
		"--kafka.commit_interval=20ms")
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	offset := 0
	through := func(headers []kgo.RecordHeader, value string) *kgo.Record {
		t.Helper()
		r := &kgo.Record{Topic: topics[0], Key: []byte("k"), Value: []byte(value), Headers: headers}
		if err := client.ProduceSync(ctx, r).FirstErr(); err != nil {
			t.Fatal(err)
		}
		offset = int(r.Offset)
		for {
			f := client.PollFetches(ctx)
			if ctx.Err() != nil {
				t.Fatal("nothing came within two minutes")
			}
			if rs := f.Records(); len(rs) > 0 {
				return rs[0]
			}
		}
	}
	named := func(r *kgo.Record) (names []string, last map[string]string) {
		last = map[string]string{}
		for _, h := range r.Headers {
			names, last[h.Key] = append(names, h.Key), string(h.Value)
		}
		return names, last
	}
	foreign := []kgo.RecordHeader{{Key: "traceparent", Value: []byte("00-1")}, {Key: "x"}}
	set := strings.Fields("traceparent x sluice.source sluice.id sluice.error.stage sluice.error.kind " +
		"sluice.error.reason sluice.error.message sluice.error.topic sluice.error.partition sluice.error.offset " +
		"sluice.error.attempts")
	letter := through(foreign, "no JSON")
	first := offset
	for attempts := 1; ; attempts++ {
		names, last := named(letter)
		if letter.Topic != topics[2] || !slices.Equal(names, set) ||
			last["sluice.error.attempts"] != fmt.Sprint(attempts) ||
			last["sluice.error.offset"] != fmt.Sprint(first) ||
			last["sluice.source"] != fmt.Sprintf("%s/0/%d", topics[0], offset) {
			t.Fatalf("after %d attempts %s has %q %q", attempts, letter.Topic, names, last)
		}
		if attempts == 3 {
			break
		}
		letter = through(letter.Headers, string(letter.Value))
	}
	result := through(letter.Headers, `{"text":"What a lovely day"}`)
	names, last := named(result)
	if want := strings.Fields("traceparent x sluice.source sluice.id sluice.model sluice.revision"); result.Topic !=
		topics[1] || !slices.Equal(names, want) || last["sluice.id"] != fmt.Sprintf("%s/0/%d#0", topics[0], offset) {
		t.Errorf("%s has %q %q", result.Topic, names, last)
	}
}
