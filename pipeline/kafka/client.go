package kafka

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	segmentio "github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"
	"github.com/segmentio/kafka-go/protocol/findcoordinator"

	"sluice/pipeline"
)

// This file owns requests: the transport, the coordinators' addresses, the view of topics and leaders, retries.

const (
	requestTimeout = 10 * time.Second // of a request that a broker answers at once
	pauseFirst     = 2 * time.Millisecond
	pauseCode      = 100 * time.Millisecond // longest pause after an error code
	pauseNetwork   = 500 * time.Millisecond // longest pause after a network error
)

// Client is one worker's connection to Kafka: a Source and a Sink that share a membership and a producer identity.
// Run and Commit may run at the same time; each of them one call at a time.
type Client struct {
	cfg       Config
	log       *slog.Logger
	addr      net.Addr
	transport *segmentio.Transport
	dials     atomic.Int64 // connections made
	producer  *producer
	turn      chan struct{} // holds a token while Commit, or Run between sessions, uses the producer

	growthPoll time.Duration // how often a leader looks for new partitions of the inputs

	mu           sync.Mutex
	coordinators map[int8]int32 // by key type; absent: unknown
	topics       map[string]topicView
	refreshed    time.Time
	changed      chan struct{}        // closed when topics changes
	limits       map[string]sizeLimit // of output topics
	session      *session             // the membership, nil while there is none
	joined       *session             // what the last answer to JoinGroup said, whether it came to a session or not
	committed    map[pipeline.TopicPartition]int64
	ran          bool
	broken       error // why no Commit may follow; nil while one may
}

var (
	_ pipeline.Source = (*Client)(nil)
	_ pipeline.Sink   = (*Client)(nil)
)

// topicView is what the last metadata said of a topic.
type topicView struct {
	code     int16
	leaders  []int32 // by partition; -1: none
	replicas int     // of the partition that has the fewest
}

// New makes a client; it connects at the first use. The error joins all mistakes of the configuration.
func New(cfg Config) (*Client, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	c := &Client{
		cfg:  cfg,
		log:  cfg.Logger.With("room", "kafka", "group", cfg.Group, "instance", cfg.InstanceID),
		addr: segmentio.TCP(cfg.Brokers...),
		transport: &segmentio.Transport{
			ClientID: cfg.ClientID, DialTimeout: dialTimeout, IdleTimeout: 30 * time.Second,
			// Every routing decision uses the transport's cluster view; a broker that came back on another address is
			// found as fast as this.
			MetadataTTL: time.Second,
		},
		turn:         make(chan struct{}, 1),
		growthPoll:   30 * time.Second,
		coordinators: map[int8]int32{},
		topics:       map[string]topicView{},
		changed:      make(chan struct{}),
		limits:       map[string]sizeLimit{},
	}
	c.transport.Dial = c.dial
	c.transport.MetadataTopics = c.allTopics()
	c.producer = &producer{c: c, id: -1, epoch: -1}
	return c, nil
}

// Close drops idle connections. Call it when Run and Commit have returned.
func (c *Client) Close() { c.transport.CloseIdleConnections() }

func (c *Client) allTopics() []string {
	all := append(slices.Clone(c.cfg.Topics), c.cfg.Outputs...)
	slices.Sort(all)
	return slices.Compact(all)
}

// take waits for the producer; false when ctx ended first.
func (c *Client) take(ctx context.Context) bool {
	select {
	case c.turn <- struct{}{}:
		return true
	case <-ctx.Done():
		return false
	}
}

func (c *Client) release() { <-c.turn }

func (c *Client) failpoint(name string) {
	if c.cfg.Failpoint != nil {
		c.cfg.Failpoint(name)
	}
}

// routed is a message that names the node it goes to.
type routed interface {
	protocol.Message
	route(to int32)
}

func (n *node) route(to int32) { *n = node(to) }

// ask sends a message and waits for its answer, at most timeout: without a deadline a frozen broker would hold the
// connection for ever.
func ask[R protocol.Message](ctx context.Context, c *Client, timeout time.Duration, req protocol.Message) (R, error) {
	var none R
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	res, err := c.transport.RoundTrip(ctx, c.addr, req)
	if err != nil {
		return none, fmt.Errorf("%s: %w", req.ApiKey(), err)
	}
	r, ok := res.(R)
	if !ok {
		return none, fmt.Errorf("%s: the transport answered with a %T", req.ApiKey(), res)
	}
	return r, nil
}

// The two kinds of coordinator, with the numbers that FindCoordinator uses.
const (
	groupCoordinator int8 = 0
	txnCoordinator   int8 = 1
)

// askCoordinator sends a message to the coordinator of the group or of the transactional id.
func askCoordinator[R protocol.Message](ctx context.Context, c *Client, kind int8, timeout time.Duration, req routed) (
	R, error) {
	var none R
	at, err := c.coordinator(ctx, kind)
	if err != nil {
		return none, err
	}
	req.route(at)
	r, err := ask[R](ctx, c, timeout, req)
	if err != nil {
		c.forget(kind)
	}
	return r, err
}

// coordinator is the node of a coordinator, looked up once and again after forget.
func (c *Client) coordinator(ctx context.Context, kind int8) (int32, error) {
	c.mu.Lock()
	at, known := c.coordinators[kind]
	c.mu.Unlock()
	if known {
		return at, nil
	}
	key, what := c.cfg.Group, "group "+c.cfg.Group
	if kind == txnCoordinator {
		key = c.cfg.TransactionalID()
		what = "transactional id " + key
	}
	r, err := ask[*findcoordinator.Response](ctx, c, requestTimeout, &findcoordinator.Request{Key: key, KeyType: kind})
	if err == nil {
		err = answer(r.ErrorCode, "FindCoordinator", "%s", what)
	}
	if err != nil {
		return 0, err
	}
	c.mu.Lock()
	c.coordinators[kind] = r.NodeID
	c.mu.Unlock()
	return r.NodeID, nil
}

// forget makes the next request look a coordinator up again.
func (c *Client) forget(kind int8) {
	c.mu.Lock()
	delete(c.coordinators, kind)
	c.mu.Unlock()
}

// coordinated is the error for the code of a coordinator's answer. A coordinator that is none any more is forgotten.
func (c *Client) coordinated(kind int8, code int16, api, format string, args ...any) error {
	if code == errNoCoordinator || code == errNotCoordinator {
		c.forget(kind)
	}
	return answer(code, api, format, args...)
}

// refresh reads topics and leaders from a broker. Calls within 20 ms of the last one are answered by that.
func (c *Client) refresh(ctx context.Context) error {
	c.mu.Lock()
	fresh := time.Since(c.refreshed) < 20*time.Millisecond
	c.mu.Unlock()
	if fresh {
		return nil
	}
	r, err := ask[*freshMetadataResponse](ctx, c, requestTimeout, &freshMetadata{topics: c.allTopics()})
	if err != nil {
		return err
	}
	views := make(map[string]topicView, len(r.Topics))
	for _, t := range r.Topics {
		v := topicView{code: t.ErrorCode, leaders: make([]int32, len(t.Partitions))}
		for i := range v.leaders {
			v.leaders[i] = -1
		}
		for _, p := range t.Partitions {
			if int(p.PartitionIndex) < len(v.leaders) {
				v.leaders[p.PartitionIndex] = p.LeaderID
			}
			if n := len(p.ReplicaNodes); v.replicas == 0 || n < v.replicas {
				v.replicas = n
			}
		}
		views[t.Name] = v
	}
	c.mu.Lock()
	c.topics, c.refreshed = views, time.Now()
	close(c.changed)
	c.changed = make(chan struct{})
	c.mu.Unlock()
	return nil
}

// metadataChanged is closed at the next refresh.
func (c *Client) metadataChanged() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.changed
}

// leader is the node that leads tp; -1 when unknown.
func (c *Client) leader(tp pipeline.TopicPartition) int32 {
	c.mu.Lock()
	defer c.mu.Unlock()
	if v := c.topics[tp.Topic]; int(tp.Partition) < len(v.leaders) {
		return v.leaders[tp.Partition]
	}
	return -1
}

// partitions is the number of partitions of each topic; an error when one of them is not there or may not be seen.
func (c *Client) partitions(topics []string) (map[string]int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	counts := make(map[string]int, len(topics))
	for _, t := range topics {
		v, ok := c.topics[t]
		switch {
		case !ok:
			return nil, answer(errUnknownTopic, "Metadata", "topic %s", t)
		case v.code != 0 && v.code != errLeaderNotAvailable: // some partition has no leader just now
			return nil, answer(v.code, "Metadata", "topic %s", t)
		case len(v.leaders) == 0:
			return nil, answer(errUnknownTopic, "Metadata", "topic %s", t)
		}
		counts[t] = len(v.leaders)
	}
	return counts, nil
}

// PartitionCount is the number of partitions of an input topic, as last seen; 0 before the first look.
func (c *Client) PartitionCount(topic string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.topics[topic].leaders)
}

// retry repeats f while its error is retriable, with a growing pause, until the deadline (zero: until ctx ends). The
// error is the last one.
func (c *Client) retry(ctx context.Context, step string, deadline time.Time, f func() error) error {
	pause, began, told := pauseFirst, time.Now(), time.Now()
	for {
		err := f()
		if err == nil || !retriable(err) {
			return err
		}
		if ctx.Err() != nil {
			return errors.Join(ctx.Err(), err)
		}
		if !deadline.IsZero() && time.Now().After(deadline) {
			return err
		}
		c.observeRetry(step, err)
		if time.Since(told) > 5*time.Second {
			told = time.Now()
			c.log.Warn("still trying", "step", step, "for", time.Since(began).Round(time.Second), "error", err)
		}
		if !sleep(ctx, pause/2+rand.N(pause/2+1)) {
			return errors.Join(ctx.Err(), err)
		}
		longest := pauseCode
		if codeOf(err) == 0 {
			longest = pauseNetwork
		}
		pause = min(pause*2, longest)
	}
}

func (c *Client) observeRetry(step string, err error) {
	if c.cfg.Observer.Retry != nil {
		c.cfg.Observer.Retry(step, int(codeOf(err)))
	}
}

// sleep waits for d and reports true, or false as soon as ctx ends.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
