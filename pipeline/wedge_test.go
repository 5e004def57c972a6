package pipeline

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"sluice/tokenize"
)

// stuckTokenizer does not return from texts that say so until it is freed.
type stuckTokenizer struct {
	*wordTokenizer
	free <-chan struct{}
}

func (s stuckTokenizer) Encode(texts [][]byte, o tokenize.Options) []tokenize.Encoded {
	for _, text := range texts {
		if bytes.Contains(text, []byte("stuck")) {
			<-s.free
		}
	}
	return s.wordTokenizer.Encode(texts, o)
}

// Whatever is done to a record by code without a deadline is watched: the worker ends, and nothing of the record is
// answered.
func TestARecordThatNeverEndsEndsTheWorker(t *testing.T) {
	blockOutcome := func(b *bench, free <-chan struct{}) {
		b.c.o.Writer.MaxBytes = func(topic string) int {
			if topic == "out" {
				<-free
			}
			return 0
		}
	}
	for _, c := range []struct {
		name, stage, value, says string
		cached                   bool
		block                    func(*bench, <-chan struct{})
	}{
		{"in the tokenizer", "tokenize", `{"text":"stuck"}`, "the text of in-3 at offset 41 has been tokenized", false,
			func(b *bench, free <-chan struct{}) {
				for i := range b.c.groups {
					b.c.groups[i].tokenizer = stuckTokenizer{b.tok, free}
				}
			}},
		{"before it", "decode", `{"text":" "}`, "the record of in-3 at offset 41 has been read", false, blockOutcome},
		{"behind the model", "judge", `{"text":"some text"}`, "verdicts on 1 texts", false, blockOutcome},
		{"behind the cache", "judge", `{"text":"some text"}`, "verdicts on 1 texts", true, blockOutcome},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				cacheBytes := 0
				if c.cached {
					cacheBytes = 1 << 20
				}
				b := newCachingBench(t, 1, cacheBytes)
				free := make(chan struct{})
				if c.cached {
					b.outcomes(t, c.value)
				}
				c.block(b, free)
				s := NewStage(b.c, nil, StageOptions{Metrics: NewStageMetrics(prometheus.NewRegistry(), "")})
				began := time.Now()
				record := Record{Topic: "in", Partition: 3, Offset: 41, Value: []byte(c.value)}
				s.Assign(map[TopicPartition]Committed{record.TopicPartition(): {Offset: 41}})
				s.Deliver(record.TopicPartition(), 41, []Record{record}, 42)
				err := <-b.failure
				if after := time.Since(began); after < 40*time.Second || after > 42*time.Second {
					t.Errorf("given up after %v", after)
				}
				var f *Fault
				if !errors.As(err, &f) || f.Stage != c.stage || f.Reason != "wedged" || KindOf(err) != Internal ||
					!strings.Contains(err.Error(), c.says) {
					t.Errorf("%v", err)
				}
				time.Sleep(time.Hour)
				if left := unfinished(s); len(b.failure) > 0 || left != 1 {
					t.Errorf("%d more faults, %d records unfinished", len(b.failure), left)
				}
				close(free) // so that the test can end
			})
		})
	}
}

func unfinished(s *Stage) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ledger.unfinished()
}

// Time is a piece of work's own: sixteen texts that are slow, one after the other, are not one that hangs.
func TestSlowRecordsAreNotTakenForOneThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, 1)
		b.c.o.Writer.MaxBytes = func(string) int {
			time.Sleep(39 * time.Second)
			return 0
		}
		s := NewStage(b.c, nil, StageOptions{Metrics: NewStageMetrics(prometheus.NewRegistry(), "")})
		tp := TopicPartition{"in", 3}
		s.Assign(map[TopicPartition]Committed{tp: {}})
		s.Deliver(tp, 0, slices.Collect(func(yield func(Record) bool) {
			for i := range int64(40) {
				yield(Record{Topic: "in", Partition: 3, Offset: i, Value: []byte(`{"text":" "}`)})
			}
		}), 40)
		time.Sleep(time.Hour)
		if left := unfinished(s); left > 0 {
			t.Errorf("%d records are not finished", left)
		}
		if len(b.failure) > 0 {
			t.Error(<-b.failure)
		}
	})
}
