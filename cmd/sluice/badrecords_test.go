package main

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"

	"sluice/pipeline/pipelinetest/badrecords"
)

// Thousands of good records with as many bad ones of every kind between them: each has its answer, and the results of
// the good ones are the same bytes as without the bad ones.
func TestBadRecordsChangeNothingForTheirBatchMates(t *testing.T) {
	dir := needModel(t, "sentiment-tiny")
	rnd := rand.New(rand.NewPCG(20261124, 6))
	const good = 3000
	words := strings.Fields("the hotel was lovely and quiet but the food took hours awful service friendly staff we " +
		"will come back never again a view over the sea")
	text := func() string {
		var b []string
		for range 2 + rnd.IntN(30) {
			b = append(b, words[rnd.IntN(len(words))])
		}
		return strings.Join(b, " ")
	}
	var alone, mixed []*kgo.Record
	bad := 0
	for i := range good {
		r := kgo.Record{Partition: int32(i % 3), Key: fmt.Append(nil, i), Value: fmt.Appendf(nil,
			`{"id":%d,"text":"%s"}`, i, text())}
		a, m := r, r
		alone, mixed = append(alone, &a), append(mixed, &m)
		if rnd.IntN(2) == 0 {
			mixed = append(mixed, &kgo.Record{Partition: int32(rnd.IntN(3)), Key: []byte("bad"),
				Value: badrecords.Kinds[rnd.IntN(len(badrecords.Kinds))](rnd)})
			bad++
		}
	}
	run := func(records []*kgo.Record) (results map[string][]byte, letters int) {
		address, _ := cluster(t, "customer_reviews", "review_analysis", "review_dlq")
		client, err := kgo.NewClient(kgo.SeedBrokers(address), kgo.DefaultProduceTopic("customer_reviews"),
			kgo.RecordPartitioner(kgo.ManualPartitioner()))
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		if err := client.ProduceSync(t.Context(), records...).FirstErr(); err != nil {
			t.Fatal(err)
		}
		w := startWorker(t, "-c", runConfig(t, address, dir))
		results = map[string][]byte{}
		answers := map[string]int{}
		for _, r := range consume(t, address, len(records), "review_analysis", "review_dlq") {
			for _, h := range r.Headers {
				if h.Key == "sluice.id" {
					answers[string(h.Value)]++
				}
			}
			switch {
			case r.Topic == "review_dlq":
				letters++
				if string(r.Key) != "bad" {
					t.Errorf("a good record is a dead letter: %s %s", r.Value, r.Headers)
				}
			case string(r.Key) != "bad":
				results[string(r.Key)] = r.Value
			}
		}
		if len(answers) != len(records) {
			t.Errorf("%d of %d records have an answer", len(answers), len(records))
		}
		w.cmd.Process.Kill()
		<-w.done
		return results, letters
	}
	want, none := run(alone)
	got, letters := run(mixed)
	if none != 0 || letters < bad/4 {
		t.Errorf("%d dead letters without bad records, %d with %d of them", none, letters, bad)
	}
	different := 0
	for key, value := range want {
		if !bytes.Equal(got[key], value) {
			if different++; different <= 5 {
				t.Errorf("record %s: %s beside bad records, %s without them", key, got[key], value)
			}
		}
	}
	if len(want) != good || len(got) != good {
		t.Errorf("%d and %d results, want %d", len(want), len(got), good)
	}
	t.Logf("%d good records, %d bad ones between them, %d dead letters; %d results differ", good, bad, letters,
		different)
}
