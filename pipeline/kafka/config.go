package kafka

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"time"

	"sluice/pipeline"
)

// Guarantee says what a commit promises.
type Guarantee string

const (
	// ExactlyOnce publishes messages and offsets in one transaction: a read_committed reader sees each result once.
	ExactlyOnce Guarantee = "exactly-once"
	// AtLeastOnce publishes with an idempotent producer, then commits offsets: a crash between the two repeats
	// messages.
	AtLeastOnce Guarantee = "at-least-once"
)

// Start says where reading begins for a partition without a usable offset in the group.
type Start string

const (
	Earliest   Start = "earliest" // the oldest record that is still there
	Latest     Start = "latest"   // only records that arrive from now on
	StartError Start = "error"    // stop with a configuration fault: a person decides
)

// SASL says how to log in.
type SASL struct {
	Mechanism string // PLAIN, SCRAM-SHA-256, SCRAM-SHA-512 or OAUTHBEARER; empty: no login
	User      string // of PLAIN and SCRAM

	// Secret is asked for the password, or for OAUTHBEARER's token, at every login: of each new connection, and of one
	// whose session comes to its end (connections.max.reauth.ms of the broker, KIP-368). So a renewed file or token
	// takes effect while the worker runs. It is called by many goroutines; an error is tried again.
	Secret func(context.Context) (pipeline.Secret, error)
}

// Config is everything that a Client is told. DefaultConfig fills in what has a default.
type Config struct {
	Brokers  []string // host:port of some brokers, for the first contact
	ClientID string   // shown in broker logs and quotas
	Group    string   // consumer group

	// InstanceID makes the member static (KIP-345): it must be unique in the group and survive a restart, as a
	// StatefulSet's pod name does. The transactional id is Group + "." + InstanceID.
	InstanceID string

	// SessionTimeout is how long a silent member keeps its partitions. A restart that is back within it causes no
	// rebalance (P10); the partitions of a dead worker rest for as long. The broker's group.max.session.timeout.ms
	// bounds it.
	SessionTimeout time.Duration

	// RebalanceTimeout is how long a rebalance waits for every member to finish its commits and to join. A rebalance
	// while a static member is down takes all of it, so keep it short although the session timeout is long.
	RebalanceTimeout time.Duration

	// TransactionTimeout is after how long the broker aborts a transaction whose worker is silent. A dead worker holds
	// up read_committed readers for as long, unless it comes back first.
	TransactionTimeout time.Duration

	Guarantee Guarantee
	Start     Start

	Topics  []string // topics to read
	Outputs []string // every topic that a commit may publish to, dead letters included
	// DeadLetters is the topic of Outputs that takes what another refuses; "": none. Only what Settings says depends on
	// it.
	DeadLetters string

	// TLS is asked at every new connection, so that renewed certificates take effect while the worker runs. An empty
	// ServerName stands for the broker's address. nil: plaintext.
	TLS  func() (*tls.Config, error)
	SASL SASL

	Compression   string        // none, gzip, snappy, lz4 or zstd
	FetchMaxBytes int           // most bytes of one fetch answer (one broker, all partitions)
	FetchMaxWait  time.Duration // how long a broker holds a fetch while there is nothing to send

	// giveUp is how long a step of a commit is repeated (broker restarts, leader moves) before the transaction
	// is aborted and begun anew. 0: TransactionTimeout less 5 s, at least half of it. No key sets it: a worker has no
	// reason to give up earlier than its transaction does. Tests of outages do, so as not to wait that long.
	giveUp time.Duration

	Logger    *slog.Logger      // nil: slog.Default()
	Observer  Observer          // for metrics
	Failpoint func(name string) // for tests: called at each of Failpoints, may end the process
}

// Observer is told what metrics need. Every field may be nil; functions are called from several goroutines and must not
// block.
type Observer struct {
	// transaction tells how a commit ended ("committed", "aborted", "fenced", "rebalance", "failed") and how long it
	// took. Metrics have that from the stage; tests on brokers see here that a transaction was aborted and repeated,
	// which nothing outside the client shows.
	transaction func(result string, took time.Duration)
	// Rebalance tells that a new generation began, with how many partitions here.
	Rebalance func(generation int32, partitions int)
	// Retry tells that a request was repeated. Code is Kafka's error code, 0 for a network error or timeout.
	Retry func(step string, code int)
	// InGroup tells whether the worker is a member with an assignment.
	InGroup func(bool)
	// Contact tells false when no heartbeat has got through for a quarter of the session timeout, and true when one
	// does.
	Contact func(bool)
	// UnstableOffsets tells for how long the group's offsets have been held up by a transaction of another worker; 0
	// when the hold-up ends.
	UnstableOffsets func(time.Duration)
}

// Failpoints are the names that Config.Failpoint is called with, in the order in which a worker passes them.
var Failpoints = []string{
	"after-init-producer", "after-scrub", "while-joining", "after-join",
	"before-commit", "after-add-partitions", "after-produce", "after-add-offsets", "after-txn-offset-commit",
	"before-end-txn", "after-end-txn",
}

// DefaultConfig has the default of every setting that has one.
func DefaultConfig() Config {
	return Config{
		ClientID:           "sluice",
		SessionTimeout:     120 * time.Second,
		RebalanceTimeout:   25 * time.Second,
		TransactionTimeout: 60 * time.Second,
		Guarantee:          ExactlyOnce,
		Start:              Earliest,
		Compression:        "lz4",
		FetchMaxBytes:      8 << 20,
		FetchMaxWait:       500 * time.Millisecond,
	}
}

// TransactionalID is the id under which a worker's transactions run: one per worker, stable across restarts, and with
// the group in it, so that two groups never share one.
func (c *Config) TransactionalID() string { return c.Group + "." + c.InstanceID }

// deliveryTimeout is how long one step of a commit is repeated.
func (c *Config) deliveryTimeout() time.Duration {
	if c.giveUp > 0 {
		return c.giveUp
	}
	return max(c.TransactionTimeout-5*time.Second, c.TransactionTimeout/2)
}

// heartbeatInterval bounds how fast a rebalance is noticed.
func (c *Config) heartbeatInterval() time.Duration {
	return min(max(c.SessionTimeout/10, 50*time.Millisecond), 3*time.Second)
}

// Validate names every mistake at once.
func (c *Config) Validate() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf("kafka: "+format, args...)) }
	if len(c.Brokers) == 0 {
		bad("brokers: none given; name at least one host:port")
	}
	if c.Group == "" {
		bad("group: is empty; name the consumer group")
	}
	if c.InstanceID == "" {
		bad("instance_id: is empty; it must be unique in the group and survive a restart, such as the pod's name")
	}
	if len(c.Topics) == 0 {
		bad("topics: no input topic given")
	}
	if len(c.Outputs) == 0 {
		bad("outputs: no output topic given")
	}
	for _, t := range c.Outputs {
		if slices.Contains(c.Topics, t) {
			bad("outputs: %q is also an input: the worker would read its own results for ever", t)
		}
	}
	if c.Guarantee != ExactlyOnce && c.Guarantee != AtLeastOnce {
		bad("guarantee: %q; use %s or %s", c.Guarantee, ExactlyOnce, AtLeastOnce)
	}
	if c.Start != Earliest && c.Start != Latest && c.Start != StartError {
		bad("start: %q; use %s, %s or %s", c.Start, Earliest, Latest, StartError)
	}
	for _, d := range []struct {
		name     string
		value    time.Duration
		min, max time.Duration
	}{
		{"session_timeout", c.SessionTimeout, 500 * time.Millisecond, 30 * time.Minute},
		{"rebalance_timeout", c.RebalanceTimeout, 500 * time.Millisecond, 30 * time.Minute},
		{"transaction_timeout", c.TransactionTimeout, time.Second, 15 * time.Minute},
		{"fetch_max_wait", c.FetchMaxWait, time.Millisecond, 30 * time.Second},
	} {
		if d.value < d.min || d.value > d.max {
			bad("%s: %v; use %v to %v", d.name, d.value, d.min, d.max)
		}
	}
	if c.FetchMaxBytes < 1024 || c.FetchMaxBytes > math.MaxInt32/2 {
		bad("fetch_max_bytes: %d; use 1024 to %d", c.FetchMaxBytes, math.MaxInt32/2)
	}
	if _, err := codecByName(c.Compression); err != nil {
		bad("compression: %v", err)
	}
	if err := c.SASL.validate(); err != nil {
		bad("sasl: %v", err)
	}
	return errors.Join(errs...)
}
