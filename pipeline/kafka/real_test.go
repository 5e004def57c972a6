package kafka

import (
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"

	"sluice/pipeline/pipelinetest"
)

// Tests against a real Apache Kafka broker.

func TestRealCopiesEachRecordOnce(t *testing.T) {
	for _, g := range []Guarantee{ExactlyOnce, AtLeastOnce} {
		t.Run(string(g), func(t *testing.T) {
			b := pipelinetest.Kafka(t)
			in, out, group := topicNames(t)
			createTopics(t, b.Addrs(), 4, nil, in, out)
			send(t, b.Addrs(), in, 4, 0, 5000)
			cfg := testConfig(t, b.Addrs(), in, out, group)
			cfg.Guarantee = g
			w := startWorker(t, cfg)
			w.awaitCommitted(t, 5000)
			w.stop()
			if err := w.wait(t); err != nil {
				t.Fatal(err)
			}
			if r := history(readAll(t, b.Addrs(), out, kgo.ReadCommitted()), 4).Check(5000); !r.Clean() {
				t.Error(r)
			}
		})
	}
}
