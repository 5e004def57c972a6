package kafka

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"sluice/pipeline"
	"sluice/pipeline/pipelinetest"
)

func TestMain(m *testing.M) {
	if os.Getenv("SLUICE_SOAK_WORKER") != "" {
		os.Exit(soakWorker())
	}
	code := m.Run()
	pipelinetest.StopKafka()
	os.Exit(code)
}

// topicNames makes names that no other test uses.
func topicNames(t testing.TB) (in, out, group string) {
	base := strings.ToLower(strings.NewReplacer("/", "-", " ", "-").Replace(t.Name())) + "-" +
		strconv.FormatInt(time.Now().UnixNano()%1e9, 36)
	return base + ".in", base + ".out", base + ".group"
}

// franz is an independent client: tests write and read with it, never with the client under test. On a real broker it
// is the administrator's, whatever the listener of addrs.
func franz(t testing.TB, addrs []string, opts ...kgo.Opt) *kgo.Client {
	t.Helper()
	c, err := kgo.NewClient(slices.Concat(pipelinetest.Administrator(addrs),
		[]kgo.Opt{kgo.RecordPartitioner(kgo.ManualPartitioner())}, opts)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func createTopics(t testing.TB, addrs []string, partitions int, configs map[string]*string, topics ...string) {
	t.Helper()
	adm := kadm.NewClient(franz(t, addrs))
	r, err := adm.CreateTopics(t.Context(), int32(partitions), -1, configs, topics...)
	if err == nil {
		err = r.Error()
	}
	if err != nil {
		t.Fatal(err)
	}
}

func testConfig(t testing.TB, addrs []string, in, out, group string) Config {
	cfg := DefaultConfig()
	cfg.Brokers, cfg.Topics, cfg.Outputs, cfg.Group, cfg.InstanceID = addrs, []string{in}, []string{out}, group, "pod-0"
	cfg.FetchMaxWait = 100 * time.Millisecond
	cfg.SessionTimeout = 20 * time.Second
	cfg.Logger = testLogger(t)
	return cfg
}

// realConfig is a worker's on a real broker, by the listener that the tests run on (pipelinetest.ListenerVariable). Its
// principal is granted exactly what it needs for these topics, this group and this guarantee.
func realConfig(t testing.TB, b *pipelinetest.Broker, l *pipelinetest.Listener, g Guarantee, in, out,
	group string) Config {
	t.Helper()
	cfg := testConfig(t, l.Brokers, in, out, group)
	cfg.Guarantee = g
	if err := secureBy(&cfg, l); err != nil {
		t.Fatal(err)
	}
	if l.Principal != "" {
		b.Grant(t, l.Principal, permissions(cfg.Access())...)
	}
	return cfg
}

// secureBy makes cfg use a listener, with files read anew whenever they are used.
func secureBy(cfg *Config, l *pipelinetest.Listener) error {
	cfg.Brokers = l.Brokers
	if l.CAFile != "" {
		cfg.TLS = func() (*tls.Config, error) {
			c := &tls.Config{RootCAs: x509.NewCertPool()}
			pem, err := os.ReadFile(l.CAFile)
			if err != nil || !c.RootCAs.AppendCertsFromPEM(pem) {
				return nil, fmt.Errorf("%s: no certificate: %v", l.CAFile, err)
			}
			if l.CertFile != "" {
				cert, err := tls.LoadX509KeyPair(l.CertFile, l.KeyFile)
				if err != nil {
					return nil, err
				}
				c.Certificates = []tls.Certificate{cert}
			}
			return c, nil
		}
	}
	cfg.SASL = SASL{Mechanism: l.Mechanism, User: l.User}
	switch {
	case l.Password != "":
		cfg.SASL.Secret = Fixed(pipeline.NewSecret(l.Password))
	case l.TokenFile != "":
		cfg.SASL.Secret = func(context.Context) (pipeline.Secret, error) { return pipeline.ReadSecret(l.TokenFile) }
	case l.TokenURL != "":
		pem, err := os.ReadFile(l.TokenCAFile)
		pool := x509.NewCertPool()
		if err != nil || !pool.AppendCertsFromPEM(pem) {
			return fmt.Errorf("%s: no certificate: %v", l.TokenCAFile, err)
		}
		cfg.SASL.Secret = NewTokenSource(OIDC{TokenURL: l.TokenURL, ClientID: l.ClientID, Scope: l.Scope,
			ClientSecret: token(l.ClientSecret),
			RootCAs:      func() (*x509.CertPool, error) { return pool, nil }}).Token
	}
	return nil
}

// permissions are those of ACLs.
func permissions(clients ...Access) []pipelinetest.Permission {
	var ps []pipelinetest.Permission
	for _, a := range ACLs(clients...) {
		ps = append(ps, pipelinetest.Permission(a))
	}
	return ps
}

// testLogger writes to the test's log under -v, and nowhere otherwise.
func testLogger(t testing.TB) *slog.Logger {
	w := io.Discard
	if testing.Verbose() {
		w = t.Output()
	}
	return slog.New(slog.NewTextHandler(w, nil))
}

func newClient(t testing.TB, cfg Config) *Client {
	t.Helper()
	c, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// copier makes of each record one message with the same key, value and headers.
type copier struct{ topic string }

func (c copier) Process(j *pipeline.Job) {
	j.Done(pipeline.Outcome{Disposition: pipeline.Scored, Messages: []pipeline.Message{{Topic: c.topic,
		Source:    j.Record.TopicPartition(),
		Timestamp: j.Record.Timestamp, Key: j.Record.Key, Value: j.Record.Value, Headers: j.Record.Headers}}})
}

func newStage(c *Client, sink pipeline.Sink, p pipeline.Processor) *pipeline.Stage {
	return pipeline.NewStage(p, sink, pipeline.StageOptions{CommitInterval: 20 * time.Millisecond,
		Metrics: pipeline.NewStageMetrics(prometheus.NewRegistry(), pipeline.StageMetricsOptions{}),
		Logger:  c.cfg.Logger})
}

// running is a worker in this process.
type running struct {
	client *Client
	stop   context.CancelFunc
	ended  chan struct{} // closed when Run has returned
	err    error         // valid then
}

func startWorker(t testing.TB, cfg Config) *running {
	t.Helper()
	c := newClient(t, cfg)
	return runWorker(t, c, newStage(c, c, copier{cfg.Outputs[0]}))
}

func runWorker(t testing.TB, c *Client, stage *pipeline.Stage) *running {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	r := &running{client: c, stop: cancel, ended: make(chan struct{})}
	go func() {
		defer close(r.ended)
		r.err = stage.Run(ctx, c)
	}()
	t.Cleanup(func() { // before the client is closed and the test's log ends
		cancel()
		<-r.ended
	})
	return r
}

// wait waits for the end of the worker.
func (r *running) wait(t testing.TB) error {
	t.Helper()
	select {
	case <-r.ended:
		return r.err
	case <-time.After(30 * time.Second):
		t.Fatal("the worker does not end")
		return nil
	}
}

// send writes records from..to-1 to partition i mod partitions, with its number as value.
func send(t testing.TB, addrs []string, topic string, partitions, from, to int) {
	t.Helper()
	c := franz(t, addrs)
	var rs []*kgo.Record
	for i := from; i < to; i++ {
		rs = append(rs, &kgo.Record{Topic: topic, Partition: int32(i % partitions), Key: []byte(fmt.Sprint("k", i)),
			Value: []byte(strconv.Itoa(i))})
	}
	if err := c.ProduceSync(t.Context(), rs...).FirstErr(); err != nil {
		t.Fatal(err)
	}
}

// readAll reads a topic from its begin to the end as it is now.
func readAll(t testing.TB, addrs []string, topic string, isolation kgo.IsolationLevel) []*kgo.Record {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	adm := kadm.NewClient(franz(t, addrs))
	list := adm.ListEndOffsets
	if isolation == kgo.ReadCommitted() {
		list = adm.ListCommittedOffsets
	}
	ends, err := list(ctx, topic)
	if err == nil {
		err = ends.Error()
	}
	if err != nil {
		t.Fatal(err)
	}
	offsets := map[string]map[int32]kgo.Offset{topic: {}}
	left := map[int32]int64{}
	ends.Each(func(o kadm.ListedOffset) {
		if o.Offset > 0 {
			offsets[topic][o.Partition] = kgo.NewOffset().At(0)
			left[o.Partition] = o.Offset
		}
	})
	if len(left) == 0 {
		return nil
	}
	c := franz(t, addrs, kgo.ConsumePartitions(offsets), kgo.FetchIsolationLevel(isolation), kgo.KeepControlRecords())
	var all []*kgo.Record
	for len(left) > 0 {
		fs := c.PollFetches(ctx)
		if err := ctx.Err(); err != nil {
			t.Fatalf("reading %s: %v; still to read: %v", topic, err, left)
		}
		fs.EachRecord(func(r *kgo.Record) {
			if r.Offset+1 >= left[r.Partition] {
				delete(left, r.Partition)
			}
			if !r.Attrs.IsControl() {
				all = append(all, r)
			}
		})
	}
	return all
}

// history checks an output topic whose values are the numbers that send wrote.
func history(rs []*kgo.Record, partitions int) *pipelinetest.History {
	h := &pipelinetest.History{}
	for _, r := range rs {
		digits, _, _ := strings.Cut(string(r.Value), " ")
		i, err := strconv.Atoi(digits)
		if err != nil || i%partitions != int(r.Partition) {
			i = -1
		}
		h.Add(r.Partition, r.Offset, i)
	}
	return h
}

// awaitCommitted waits until the group's offsets add up to n.
func awaitCommitted(t testing.TB, addrs []string, group string, n int64) {
	t.Helper()
	adm := kadm.NewClient(franz(t, addrs))
	await(t, 90*time.Second, fmt.Sprintf("%d committed records of group %s", n, group),
		func() bool { return committedSum(t, adm, group) >= n })
}

func committedSum(t testing.TB, adm *kadm.Client, group string) (sum int64) {
	os, err := adm.FetchOffsets(t.Context(), group)
	if err != nil {
		return 0
	}
	os.Each(func(o kadm.OffsetResponse) { sum += max(0, o.At) })
	return sum
}

// awaitCommitted waits until the worker's group has committed n records; the worker must not end before.
func (r *running) awaitCommitted(t testing.TB, n int64) {
	t.Helper()
	adm := kadm.NewClient(franz(t, r.client.cfg.Brokers))
	await(t, 60*time.Second, fmt.Sprintf("%d committed records", n), func() bool {
		select {
		case <-r.ended:
			t.Fatalf("the worker has ended: %v", r.err)
		default:
		}
		return committedSum(t, adm, r.client.cfg.Group) >= n
	})
}

// await polls until ok.
func await(t testing.TB, d time.Duration, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(d); !ok(); {
		if time.Now().After(end) {
			t.Fatalf("after %v: no %s", d, what)
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-t.Context().Done():
			t.Fatal(t.Context().Err())
		}
	}
}

// randomBytes do not compress.
func randomBytes(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(rand.Uint32())
	}
	return b
}
