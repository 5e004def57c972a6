package kafka

import (
	"context"
	"encoding/binary"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kgo"

	"sluice/pipeline"
	"sluice/pipeline/pipelinetest"
)

// Tests against a real Apache Kafka broker. They run on plaintext, or on the secured listener that
// pipelinetest.ListenerVariable names, with a principal that has exactly the permissions that ACLs lists.

func TestRealCopiesEachRecordOnce(t *testing.T) {
	for _, g := range []Guarantee{ExactlyOnce, AtLeastOnce} {
		t.Run(string(g), func(t *testing.T) {
			b, l := pipelinetest.TestListener(t)
			in, out, group := topicNames(t)
			createTopics(t, b.Addrs(), 4, nil, in, out)
			send(t, b.Addrs(), in, 4, 0, 5000)
			cfg := realConfig(t, b, l, g, in, out, group)
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

// losingConn loses answers: the broker has done what was asked, but the connection ends before the answer is read.
type losingConn struct {
	net.Conn
	lose func(apiKey int16) bool

	mu      sync.Mutex
	asking  bool
	losing  bool
	partial []byte
}

func (c *losingConn) Write(p []byte) (int, error) {
	c.mu.Lock()
	if !c.asking {
		c.partial = append(c.partial, p...)
		if len(c.partial) >= 6 {
			c.losing = c.lose(int16(binary.BigEndian.Uint16(c.partial[4:])))
			c.asking, c.partial = true, nil
		}
	}
	c.mu.Unlock()
	return c.Conn.Write(p)
}

func (c *losingConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.asking = false
	if c.losing && err == nil {
		c.Conn.Close()
		return 0, io.ErrUnexpectedEOF
	}
	return n, err
}

// TestLostAnswers: of every kind of request some answers are lost. What was done and not known to be done is asked
// again, not guessed.
func TestLostAnswers(t *testing.T) {
	const n = 3000
	b, l := pipelinetest.TestListener(t)
	for _, g := range []Guarantee{ExactlyOnce, AtLeastOnce} {
		t.Run(string(g), func(t *testing.T) {
			in, out, group := topicNames(t)
			createTopics(t, b.Addrs(), 3, nil, in, out)
			cfg := realConfig(t, b, l, g, in, out, group)
			c := newClient(t, cfg)
			var mu sync.Mutex
			lost := map[int16]int{}
			c.transport.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
				conn, err := c.dial(ctx, network, address)
				if err != nil {
					return nil, err
				}
				return &losingConn{Conn: conn, lose: func(key int16) bool {
					mu.Lock()
					defer mu.Unlock()
					if key == 18 || key == 3 { // ApiVersions and Metadata: the transport's own business
						return false
					}
					if _, met := lost[key]; met && rand.IntN(12) > 0 {
						return false
					}
					lost[key]++ // the first of each kind for certain
					return true
				}}, nil
			}
			// many transactions
			w := runWorker(t, c, pipeline.NewStage(copier{out}, c,
				pipeline.StageOptions{CommitInterval: time.Millisecond,
					Limits: pipeline.Limits{PartitionRecords: 10, PartitionBytes: 1 << 20, PartitionTokens: 1,
						TotalRecords: 30, TotalBytes: 1 << 20, TotalTokens: 1},
					Metrics: pipeline.NewStageMetrics(prometheus.NewRegistry(), pipeline.StageMetricsOptions{}),
					Logger:  cfg.Logger}))
			for i := range 10 {
				send(t, b.Addrs(), in, 3, i*n/10, (i+1)*n/10)
			}
			w.awaitCommitted(t, n)
			w.stop()
			if err := w.wait(t); err != nil {
				t.Fatal(err)
			}
			mu.Lock()
			t.Logf("answers lost, by API key: %v", lost)
			for _, key := range map[Guarantee][]int16{
				ExactlyOnce: {0, 1, 2, 9, 10, 11, 14, 22, 24, 25, 26, 28},
				AtLeastOnce: {0, 1, 2, 8, 9, 10, 11, 14, 22},
			}[g] {
				if lost[key] == 0 {
					t.Errorf("no answer of API key %d was lost", key)
				}
			}
			mu.Unlock()
			if r := history(readAll(t, b.Addrs(), out, kgo.ReadCommitted()), 3).Check(n); !r.Clean() {
				t.Error(r)
			}
		})
	}
}

// TestBrokerDies and comes back: the worker goes on by itself, nothing is lost or doubled.
func TestBrokerDies(t *testing.T) {
	const n = 4000
	b, l := pipelinetest.TestListener(t)
	in, out, group := topicNames(t)
	createTopics(t, b.Addrs(), 3, nil, in, out)
	cfg := realConfig(t, b, l, ExactlyOnce, in, out, group)
	cfg.FetchMaxBytes = 4096
	w := startWorker(t, cfg)
	send(t, b.Addrs(), in, 3, 0, n/2)
	w.awaitCommitted(t, n/8) // in the middle of it
	b.Do(t, "kill", "1")
	b.Do(t, "restart", "1")
	send(t, b.Addrs(), in, 3, n/2, n)
	w.awaitCommitted(t, n)
	w.stop()
	if err := w.wait(t); err != nil {
		t.Fatal(err)
	}
	if r := history(readAll(t, b.Addrs(), out, kgo.ReadCommitted()), 3).Check(n); !r.Clean() {
		t.Error(r)
	}
}

// TestTransactionTimesOut: a worker that was frozen for longer than its transaction lives finds its epoch gone, learns
// that there is no successor, and goes on.
func TestTransactionTimesOut(t *testing.T) {
	b, l := pipelinetest.TestListener(t)
	in, out, group := topicNames(t)
	createTopics(t, b.Addrs(), 2, nil, in, out)
	cfg := realConfig(t, b, l, ExactlyOnce, in, out, group)
	cfg.TransactionTimeout = time.Second
	aborted := make(chan struct{})
	var frozen, told sync.Once
	cfg.Failpoint = func(name string) {
		if name == "after-add-offsets" {
			frozen.Do(func() { time.Sleep(4 * time.Second) }) // the freeze itself
		}
	}
	cfg.Observer.transaction = func(result string, _ time.Duration) {
		if result == "aborted" {
			told.Do(func() { close(aborted) })
		}
	}
	w := startWorker(t, cfg)
	send(t, b.Addrs(), in, 2, 0, 200)
	w.awaitCommitted(t, 200)
	w.stop()
	if err := w.wait(t); err != nil {
		t.Fatal(err)
	}
	select {
	case <-aborted:
	default:
		t.Error("no transaction has timed out")
	}
	if r := history(readAll(t, b.Addrs(), out, kgo.ReadCommitted()), 2).Check(200); !r.Clean() {
		t.Error(r)
	}
}

// TestMessagesNearTheLimit: what fits goes through, also many of them at once; what does not is told before it is sent.
func TestMessagesNearTheLimit(t *testing.T) {
	b, l := pipelinetest.TestListener(t)
	in, out, group := topicNames(t)
	createTopics(t, b.Addrs(), 1, nil, in)
	limit := "20000"
	createTopics(t, b.Addrs(), 1, map[string]*string{"max.message.bytes": &limit}, out)
	cfg := realConfig(t, b, l, ExactlyOnce, in, out, group)
	if l.Principal != "" { // beyond what a worker needs: without it, it takes Kafka's default for the limit
		b.Grant(t, l.Principal, pipelinetest.Permission{Operation: "DescribeConfigs", Resource: "Topic", Name: out,
			Pattern: "literal"})
	}
	sink, _ := directSink(t, cfg)
	most := sink.MaxMessageBytes(out)
	if most < 19000 || most > 20000 {
		t.Fatalf("MaxMessageBytes %d", most)
	}
	from := pipeline.TopicPartition{Topic: in}
	commit := &pipeline.Commit{Offsets: map[pipeline.TopicPartition]int64{from: 1}}
	for range 50 {
		commit.Messages = append(commit.Messages, pipeline.Message{Topic: out, Source: from, Value: randomBytes(most)},
			pipeline.Message{Topic: out, Source: from, Value: randomBytes(700)})
	}
	if err := sink.Commit(t.Context(), commit); err != nil {
		t.Fatal(err)
	}
	if rs := readAll(t, b.Addrs(), out, kgo.ReadCommitted()); len(rs) != 100 || len(rs[98].Value) != most {
		t.Errorf("%d messages", len(rs))
	}
}

// TestLeaveMovesPartitionsAtOnce: a scale-in need not wait for the session timeout.
func TestLeaveMovesPartitionsAtOnce(t *testing.T) {
	b, l := pipelinetest.TestListener(t)
	in, out, group := topicNames(t)
	createTopics(t, b.Addrs(), 2, nil, in, out)
	cfg := realConfig(t, b, l, ExactlyOnce, in, out, group)
	cfg.SessionTimeout = 10 * time.Second // heartbeats every second
	_, flow := directSink(t, cfg)
	cfg.InstanceID = "pod-1"
	goes := startWorker(t, cfg)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if _, err := flow.Await(ctx, func(s *pipelinetest.Seen) bool { return len(s.Positions) == 1 }); err != nil {
		t.Fatal(err)
	}
	goes.stop()
	if err := goes.wait(t); err != nil {
		t.Fatal(err)
	}
	if err := goes.client.Leave(ctx); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if _, err := flow.Await(ctx, func(s *pipelinetest.Seen) bool { return len(s.Positions) == 2 }); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("the partitions took %v to move", took)
	}
}

// TestMetadataTravelsWithOffsets: what is committed beside an offset comes back with the next assignment, to whoever
// owns the partition then, in both guarantees.
func TestMetadataTravelsWithOffsets(t *testing.T) {
	b, l := pipelinetest.TestListener(t)
	for _, g := range []Guarantee{ExactlyOnce, AtLeastOnce} {
		t.Run(string(g), func(t *testing.T) {
			in, out, group := topicNames(t)
			createTopics(t, b.Addrs(), 2, nil, in, out)
			send(t, b.Addrs(), in, 2, 0, 10)
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			cfg := realConfig(t, b, l, g, in, out, group)
			// own runs a member until it has an assignment; then does is called, in the membership.
			own := func(instance string, does func(c *Client, seen *pipelinetest.Seen)) {
				cfg := cfg
				cfg.InstanceID = instance
				c, flow := newClient(t, cfg), &pipelinetest.Flow{}
				ctx, stop := context.WithCancel(ctx)
				ended := make(chan error, 1)
				go func() { ended <- c.Run(ctx, flow) }()
				seen, err := flow.Await(ctx, func(s *pipelinetest.Seen) bool { return len(s.Committed) == 2 })
				if err == nil {
					does(c, seen)
				}
				if err := c.Leave(ctx); err != nil {
					t.Error(err)
				}
				stop()
				if e := <-ended; err != nil || e != nil {
					t.Fatal(err, e)
				}
			}
			p0, p1 := pipeline.TopicPartition{Topic: in, Partition: 0}, pipeline.TopicPartition{Topic: in, Partition: 1}
			own("one", func(c *Client, _ *pipelinetest.Seen) {
				if err := c.Commit(ctx, &pipeline.Commit{
					Offsets:  map[pipeline.TopicPartition]int64{p0: 3, p1: 2},
					Metadata: map[pipeline.TopicPartition]string{p0: `{"spent":7}`},
				}); err != nil {
					t.Error(err)
				}
			})
			own("two", func(_ *Client, seen *pipelinetest.Seen) {
				if seen.Committed[p0] != 3 || seen.Committed[p1] != 2 || seen.Metadata[p0] != `{"spent":7}` ||
					seen.Metadata[p1] != "" {
					t.Errorf("the next owner was told offsets %v and metadata %q", seen.Committed, seen.Metadata)
				}
			})
		})
	}
}
