package kafka

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"sluice/pipeline"
	"sluice/pipeline/pipelinetest"
)

// produced are the values in the first batch of a produce request.
func produced(t testing.TB, r kmsg.Request) (topic string, values []string) {
	topics := r.(*kmsg.ProduceRequest).Topics
	if len(topics) != 1 || len(topics[0].Partitions) != 1 {
		t.Errorf("a request for %d topics", len(topics))
		return "", nil
	}
	b, _, err := nextBatch(topics[0].Partitions[0].Records)
	if err != nil {
		t.Error(err)
		return "", nil
	}
	records, err := b.records(pipeline.TopicPartition{}, 0, nil)
	if err != nil {
		t.Error(err)
	}
	for i := range records {
		values = append(values, string(records[i].Value))
	}
	return topics[0].Topic, values
}

// refusedWorker is a worker that copies records to out, and to letters when out refuses them.
type refusedWorker struct {
	*running
	mu      sync.Mutex
	refused map[string][]pipeline.Refusal // by value
	results map[string]int                // of commits
}

func startRefused(t testing.TB, cfg Config, out, letters string) *refusedWorker {
	w := &refusedWorker{refused: map[string][]pipeline.Refusal{}, results: map[string]int{}}
	cfg.Outputs = []string{out, letters}
	cfg.Observer.transaction = func(result string, _ time.Duration) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.results[result]++
	}
	c := newClient(t, cfg)
	letter := func(r *pipeline.Record) pipeline.Outcome {
		return pipeline.Outcome{Disposition: pipeline.DeadLetter, Messages: []pipeline.Message{{Topic: letters,
			Source: r.TopicPartition(), Key: []byte("dead"), Value: r.Value[:min(10, len(r.Value))]}}}
	}
	w.running = runWorker(t, c, pipeline.NewStage(copier{out}, c, pipeline.StageOptions{
		CommitInterval: 20 * time.Millisecond, Logger: cfg.Logger,
		Metrics:  pipeline.NewStageMetrics(prometheus.NewRegistry(), pipeline.StageMetricsOptions{}),
		Panicked: func(r *pipeline.Record, _ *pipeline.Fault) pipeline.Outcome { return letter(r) },
		Refused: func(r *pipeline.Record, _ *pipeline.Outcome, refusals []pipeline.Refusal) (pipeline.Outcome, bool) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.refused[string(r.Value[:min(10, len(r.Value))])] = slices.Clone(refusals)
			return letter(r), true
		}}))
	return w
}

// check demands that each of n records is in one of two topics, in order: those of bad in letters, the others in out,
// with a reason. With at-least-once they may repeat.
func (w *refusedWorker) check(t testing.TB, addrs []string, out, letters string, n int, bad func(int) bool,
	reason, says string) {
	t.Helper()
	exactly := w.client.cfg.Guarantee == ExactlyOnce
	for topic, wants := range map[string]bool{out: false, letters: true} {
		last, seen := -1, map[int]bool{}
		for _, r := range readAll(t, addrs, topic, kgo.ReadCommitted()) {
			i, err := strconv.Atoi(strings.Split(string(r.Value), " ")[0])
			if err != nil || bad(i) != wants {
				t.Errorf("%s holds %.40q", topic, r.Value)
			}
			if exactly && i <= last {
				t.Errorf("%s: %d comes after %d", topic, i, last)
			}
			last, seen[i] = i, true
		}
		for i := range n {
			if bad(i) == wants && !seen[i] {
				t.Errorf("%s lacks %d", topic, i)
			}
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for value, refusals := range w.refused {
		i, _ := strconv.Atoi(strings.Split(value, " ")[0])
		x := refusals[0]
		if !bad(i) || len(refusals) != 1 || x.Topic != out || x.Reason != reason || !strings.Contains(x.Error(), says) {
			t.Errorf("%q is refused with %v, reason %s; want %s, %q", value, refusals, x.Reason, reason, says)
		}
	}
	if w.results["failed"] > 0 || w.results["aborted"] > 6 {
		t.Errorf("commits: %v; one look finds all that is refused in a transaction", w.results)
	}
}

// TestEveryRefusedMessageIsFoundAndItsNeighboursComeOut: with the codes that mean the message, whether the broker names
// records or not, in the midst of good ones, many in a row, and all of them.
func TestEveryRefusedMessageIsFoundAndItsNeighboursComeOut(t *testing.T) {
	const n = 120
	some := func(i int) bool { return i%17 == 3 || i >= 40 && i < 45 || i == 0 || i == n-1 }
	for _, c := range []struct {
		name   string
		err    *kerr.Error
		names  bool   // the broker names the records
		says   string // its words
		bad    func(int) bool
		reason string
	}{
		{"a timestamp", kerr.InvalidTimestamp, true, "Timestamp 17 of message", some, pipeline.RefusedTimestamp},
		{"a timestamp, by a broker that names no record", kerr.InvalidTimestamp, false, "", some,
			pipeline.RefusedTimestamp},
		{"no key", kerr.InvalidRecord, true, "Compacted topic cannot accept message without key", some,
			pipeline.RefusedRecord},
		{"no key, beside wrong timestamps", kerr.InvalidTimestamp, true, "message without key", some,
			pipeline.RefusedRecord},
		{"a record, by a broker that names none", kerr.InvalidRecord, false, "", some, pipeline.RefusedRecord},
		{"a policy", kerr.PolicyViolation, false, "", some, pipeline.RefusedPolicy},
		{"a policy, with words for all", kerr.PolicyViolation, true, "", some, pipeline.RefusedPolicy},
		{"the format", kerr.UnsupportedForMessageFormat, false, "", some, pipeline.RefusedFormat},
		{"too large", kerr.MessageTooLarge, false, "max.message.bytes", some, pipeline.RefusedSize},
		{"a batch larger than a segment", kerr.RecordListTooLarge, false, "segment.bytes", some, pipeline.RefusedSize},
		{"damaged", kerr.CorruptMessage, false, "", func(i int) bool { return i == 60 }, pipeline.RefusedCorrupt},
		{"an invalid request", kerr.InvalidRequest, false, "", some, pipeline.RefusedRequest},
		{"all of them", kerr.PolicyViolation, false, "", func(int) bool { return true }, pipeline.RefusedPolicy},
		{"all of them, named", kerr.InvalidTimestamp, true, "Timestamp", func(int) bool { return true },
			pipeline.RefusedTimestamp},
	} {
		for _, g := range []Guarantee{ExactlyOnce, AtLeastOnce} {
			t.Run(c.name+", "+string(g), func(t *testing.T) {
				t.Parallel()
				k := fakeKafka(t, 1, "in", "out", "letters")
				k.ControlKey(int16(kmsg.Produce), func(r kmsg.Request) (kmsg.Response, error, bool) {
					k.KeepControl()
					if _, in := r.(*kmsg.ProduceRequest); !in || r.(*kmsg.ProduceRequest).Topics[0].Topic != "out" {
						return nil, nil, false
					}
					_, values := produced(t, r)
					var named []kmsg.ProduceResponseTopicPartitionErrorRecord
					for i, v := range values {
						if number, _ := strconv.Atoi(v); c.bad(number) {
							x := kmsg.NewProduceResponseTopicPartitionErrorRecord()
							if x.RelativeOffset = int32(i); c.says != "" {
								x.ErrorMessage = kmsg.StringPtr(c.says)
							}
							named = append(named, x)
						}
					}
					if named == nil {
						return nil, nil, false
					}
					res := r.ResponseKind().(*kmsg.ProduceResponse)
					p := kmsg.NewProduceResponseTopicPartition()
					p.ErrorCode, p.ErrorMessage = c.err.Code, kmsg.StringPtr("what it says of all")
					if c.names {
						p.ErrorRecords = named
					}
					topic := kmsg.NewProduceResponseTopic()
					topic.Topic, topic.Partitions = "out", append(topic.Partitions, p)
					res.Topics = append(res.Topics, topic)
					return res, nil, true
				})
				cfg := testConfig(t, k.ListenAddrs(), "in", "out", "g")
				cfg.Guarantee = g
				send(t, k.ListenAddrs(), "in", 1, 0, n)
				w := startRefused(t, cfg, "out", "letters")
				w.awaitCommitted(t, n)
				w.stop()
				if err := w.wait(t); err != nil {
					t.Fatal(err)
				}
				says := c.says
				if c.names && says == "" {
					says = "what it says of all"
				}
				w.check(t, k.ListenAddrs(), "out", "letters", n, c.bad, c.reason, says)
			})
		}
	}
}

// A batch that is too large as a whole goes through in parts, within the same transaction.
func TestABatchThatIsTooLargeIsSentInParts(t *testing.T) {
	k := fakeKafka(t, 1, "in", "out")
	var largest int
	k.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Err: kerr.MessageTooLarge, Count: -1,
		When: func(r kmsg.Request) bool {
			_, values := produced(t, r)
			largest = max(largest, len(values))
			return len(values) > 3
		}})
	cfg := testConfig(t, k.ListenAddrs(), "in", "out", "g")
	var mu sync.Mutex
	results := map[string]int{}
	cfg.Observer.transaction = func(result string, _ time.Duration) {
		mu.Lock()
		defer mu.Unlock()
		results[result]++
	}
	sink, _ := directSink(t, cfg)
	in := pipeline.TopicPartition{Topic: "in"}
	commit := &pipeline.Commit{Offsets: map[pipeline.TopicPartition]int64{in: 50}}
	for i := range 50 {
		commit.Messages = append(commit.Messages, pipeline.Message{Topic: "out", Source: in,
			Value: []byte(strconv.Itoa(i))})
	}
	if err := sink.Commit(t.Context(), commit); err != nil {
		t.Fatal(err)
	}
	if r := history(readAll(t, k.ListenAddrs(), "out", kgo.ReadCommitted()), 1).Check(50); !r.Clean() || largest != 50 {
		t.Error(r, largest)
	}
	mu.Lock()
	defer mu.Unlock()
	if !maps.Equal(results, map[string]int{"committed": 1}) {
		t.Error(results)
	}
}

// TestRefusalsOfARealBroker: Apache Kafka's own word, by the settings of the topics, and its own tool as the reader.
func TestRefusalsOfARealBroker(t *testing.T) {
	b := pipelinetest.Kafka(t)
	const n = 60
	bad := func(i int) bool { return i%10 == 4 }
	for _, c := range []struct {
		name   string
		config map[string]string // of the output topic
		record func(i int, r *kgo.Record)
		reason string
		says   string
	}{
		{"microseconds", nil, func(i int, r *kgo.Record) { r.Timestamp = time.UnixMilli(time.Now().UnixMicro()) },
			pipeline.RefusedTimestamp, "is out of range. The timestamp should be within"},
		{"a replay of old records", map[string]string{"message.timestamp.before.max.ms": "86400000"},
			func(i int, r *kgo.Record) { r.Timestamp = time.Now().Add(-72 * time.Hour) }, pipeline.RefusedTimestamp,
			"is out of range"},
		{"no key", map[string]string{"cleanup.policy": "compact"}, func(i int, r *kgo.Record) { r.Key = nil },
			pipeline.RefusedRecord, "Compacted topic cannot accept message without key"},
		{"no key, compact and delete", map[string]string{"cleanup.policy": "compact,delete"},
			func(i int, r *kgo.Record) { r.Key = nil }, pipeline.RefusedRecord, "without key"},
		{"larger than the topic takes", map[string]string{"max.message.bytes": "1500"}, func(i int, r *kgo.Record) {
			r.Value = fmt.Appendf(nil, "%d %x", i, randomBytes(3000))
		}, pipeline.RefusedSize, "max.message.bytes"},
		{"larger than a segment", map[string]string{"segment.bytes": "1048576", "max.message.bytes": "4000000",
			"compression.type": "uncompressed"}, func(i int, r *kgo.Record) {
			r.Value = fmt.Appendf(nil, "%d %x", i, randomBytes(700_000))
		}, pipeline.RefusedSize, "segment.bytes"},
	} {
		for _, g := range []Guarantee{ExactlyOnce, AtLeastOnce} {
			t.Run(c.name+", "+string(g), func(t *testing.T) {
				t.Parallel()
				in, out, group := topicNames(t)
				in = strings.ReplaceAll(in, ",", "")
				out, group = strings.ReplaceAll(out, ",", ""), strings.ReplaceAll(group, ",", "")
				letters := out + ".letters"
				lax, large := "9223372036854775807", "8000000"
				createTopics(t, b.Addrs(), 1, map[string]*string{"message.timestamp.after.max.ms": &lax,
					"max.message.bytes": &large}, in)
				config := map[string]*string{}
				for k, v := range c.config {
					config[k] = &v
				}
				createTopics(t, b.Addrs(), 1, config, out)
				createTopics(t, b.Addrs(), 1, nil, letters)
				var rs []*kgo.Record
				for i := range n {
					r := &kgo.Record{Topic: in, Key: fmt.Append(nil, "k", i), Value: []byte(strconv.Itoa(i)),
						Timestamp: time.Now()}
					if bad(i) {
						c.record(i, r)
					}
					rs = append(rs, r)
				}
				producer := franz(t, b.Addrs(), kgo.ProducerBatchMaxBytes(4<<20))
				if err := producer.ProduceSync(t.Context(), rs...).FirstErr(); err != nil {
					t.Fatal(err)
				}
				cfg := testConfig(t, b.Addrs(), in, out, group)
				cfg.Guarantee = g
				w := startRefused(t, cfg, out, letters)
				w.awaitCommitted(t, n)
				w.stop()
				if err := w.wait(t); err != nil {
					t.Fatal(err)
				}
				w.check(t, b.Addrs(), out, letters, n, bad, c.reason, c.says)
				if g == AtLeastOnce || strings.Contains(c.name, "larger") {
					return
				}
				said := b.Do(t, "tool", "org.apache.kafka.tools.consumer.ConsoleConsumer", "--bootstrap-server",
					b.Env["KAFKA_BOOTSTRAP"], "--topic", letters, "--from-beginning", "--timeout-ms", "5000",
					"--command-property", "isolation.level=read_committed")
				if got := strings.Fields(said); !slices.Equal(got, []string{"4", "14", "24", "34", "44", "54"}) {
					t.Errorf("Kafka's own reader sees %q", said)
				}
			})
		}
	}
}

// What a broker's plug-in says may be long, and may hold what acts on a terminal.
func TestABrokersWordsAreOneShortLine(t *testing.T) {
	said := "rejected\n\x1b[2Jby \u202ea\tplug-in\x00 \xff " + strings.Repeat("ä", 400)
	got := sentence(said)
	if !strings.HasPrefix(got, "rejected [2Jby a plug-in \uFFFD ää") || !strings.HasSuffix(got, "ä…") ||
		len(got) > largestSentence+5 {
		t.Errorf("%q", got)
	}
}

// The worker's own log of an aborted commit says what a person needs.
func TestARefusalNamesSettingAndRemedy(t *testing.T) {
	c := newClient(t, testConfig(t, []string{"127.0.0.1:1"}, "in", "out", "g"))
	for code, words := range map[int16][]string{
		errInvalidTimestamp:      {"message.timestamp.after.max.ms", "LogAppendTime", "producer"},
		errInvalidRecord:         {"cleanup.policy=delete", "keys"},
		errMessageTooLarge:       {"max.message.bytes"},
		errRecordListTooLarge:    {"segment.bytes"},
		errPolicyViolation:       {"policy"},
		errUnsupportedForMessage: {"message.format.version"},
		errCorrupt:               {"damaged", "compacted"},
		errInvalidRequest:        {"gateway"},
	} {
		x := c.refusal(pipeline.TopicPartition{Topic: "out", Partition: 3}, outgoing{at: 7}, 0, code, "its own words")
		for _, s := range append(words, "topic out", "partition 3", "its own words", fmt.Sprintf("[%d]", code)) {
			if !strings.Contains(x.Error(), s) {
				t.Errorf("%d: %q is not in %q", code, s, x.Error())
			}
		}
		if x.Message != 7 || x.Topic != "out" || x.Reason == "" {
			t.Errorf("%+v", x)
		}
	}
}

// Codes that are about something else end the worker, or are tried again, as before.
func TestWhatIsNoMessagesFaultIsNotARefusal(t *testing.T) {
	for code, kind := range map[*kerr.Error]pipeline.Kind{
		kerr.TopicAuthorizationFailed:   pipeline.Config,
		kerr.UnsupportedCompressionType: pipeline.Config,
		kerr.InvalidTopicException:      pipeline.Config,
		kerr.OutOfOrderSequenceNumber:   pipeline.Transient,
		kerr.InvalidProducerEpoch:       pipeline.Transient,
	} {
		t.Run(code.Message, func(t *testing.T) {
			t.Parallel()
			k := fakeKafka(t, 1, "in", "out")
			sink, _ := directSink(t, testConfig(t, k.ListenAddrs(), "in", "out", "g"))
			k.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Err: code})
			err := sink.Commit(t.Context(), oneMessage("out", []byte("0"), 1))
			if errors.As(err, new(*pipeline.RefusedError)) || pipeline.KindOf(err) != kind {
				t.Errorf("%v (%s); want %s", err, pipeline.KindOf(err), kind)
			}
		})
	}
	for code, says := range map[*kerr.Error]string{kerr.OffsetMetadataTooLarge: "offset.metadata.max.bytes",
		kerr.InvalidCommitOffsetSize: "max.message.bytes"} {
		for _, g := range []Guarantee{ExactlyOnce, AtLeastOnce} {
			t.Run(code.Message+", "+string(g), func(t *testing.T) {
				k := fakeKafka(t, 1, "in", "out")
				cfg := testConfig(t, k.ListenAddrs(), "in", "out", "g")
				cfg.Guarantee = g
				sink, _ := directSink(t, cfg)
				k.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.TxnOffsetCommit, kmsg.OffsetCommit}, Err: code})
				err := sink.Commit(t.Context(), oneMessage("out", []byte("0"), 1))
				if pipeline.KindOf(err) != pipeline.Config || !strings.Contains(err.Error(), says) {
					t.Error(err)
				}
			})
		}
	}
}
