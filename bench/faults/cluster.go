package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"sluice/bench/faults/proxy"
)

// This file owns the brokers: a real Kafka cluster made by scripts/kafka-local, the proxy before it, and the client of
// the harness itself, which goes past the proxy.

type cluster struct {
	dir    string
	size   int
	proxy  *proxy.Proxy
	direct []string // addresses past the proxy
	// of the first broker, from its first start on: a cluster that is down as a whole comes back where it was
	port   string
	client *kgo.Client
	admin  *kadm.Client
	disk   string // mount point of the last broker's small disk; empty: it has none
}

// choosing is held while a cluster chooses its ports and takes them: two at once might choose the same.
var choosing sync.Mutex

// startCluster starts size brokers. The working directory must be the repository's root. Where smallDisk is set and may
// be mounted, the last broker's data lie on a disk of their own, of diskBytes.
func startCluster(ctx context.Context, size int, smallDisk bool) (_ *cluster, err error) {
	dir, err := os.MkdirTemp("", "sluice-faults-")
	if err != nil {
		return nil, err
	}
	c := &cluster{dir: dir, size: size}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.stop())
		}
	}()
	if c.proxy, err = proxy.New(size); err != nil {
		return nil, err
	}
	if smallDisk {
		if err := c.mountDisk(); err != nil {
			say("no small disk: %v", err)
		}
	}
	choosing.Lock()
	_, err = c.local(ctx, "start", strconv.Itoa(size))
	choosing.Unlock()
	if err != nil {
		return nil, err
	}
	env, err := c.local(ctx, "env")
	if err != nil {
		return nil, err
	}
	exported := map[string]string{}
	for line := range strings.Lines(env) {
		name, value, _ := strings.Cut(strings.TrimPrefix(strings.TrimSpace(line), "export "), "=")
		exported[name] = value
	}
	c.direct = strings.Split(exported["KAFKA_BOOTSTRAP"], ",")
	behind := strings.Split(exported["KAFKA_BEHIND_PROXIES"], ",")
	if len(c.direct) != size || len(behind) != size {
		return nil, fmt.Errorf("scripts/kafka-local env names other addresses than %d brokers:\n%s", size, env)
	}
	_, c.port, _ = strings.Cut(c.direct[0], ":")
	c.proxy.Forward(behind)
	if c.client, err = kgo.NewClient(kgo.SeedBrokers(c.direct...), kgo.RecordPartitioner(kgo.ManualPartitioner()),
		kgo.MetadataMinAge(200*time.Millisecond),
		kgo.MetadataMaxAge(2*time.Second), kgo.ProducerLinger(5*time.Millisecond), kgo.ProducerBatchMaxBytes(16<<10),
		kgo.RequestTimeoutOverhead(5*time.Second),
		kgo.MaxBufferedRecords(200_000)); err != nil {
		return nil, err
	}
	c.admin = kadm.NewClient(c.client)
	return c, nil
}

const diskBytes = 192 << 20

func (c *cluster) mountDisk() error {
	at := filepath.Join(c.dir, "kafka", fmt.Sprintf("broker-%d", c.size), "data")
	if err := os.MkdirAll(at, 0o700); err != nil {
		return err
	}
	if out, err := exec.Command("mount", "-t", "tmpfs", "-o", fmt.Sprintf("size=%d", diskBytes), "tmpfs",
		at).CombinedOutput(); err != nil {
		return fmt.Errorf("mounting a tmpfs, which needs root: %w: %s", err, bytes.TrimSpace(out))
	}
	c.disk = at
	return nil
}

// local runs a verb of kafka-local.
func (c *cluster) local(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "scripts/kafka-local", args...)
	cmd.Env = append(os.Environ(), "KAFKA_LOCAL_PORT="+c.port, "KAFKA_LOCAL_DIR="+filepath.Join(c.dir, "kafka"),
		"KAFKA_LOCAL_PROXIES="+strings.Join(c.proxy.Addresses(), ","))
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("scripts/kafka-local %s: %w\n%s", strings.Join(args, " "), err, stderr.String())
	}
	return stdout.String(), nil
}

// broker does something to one broker (from 1): kill, term, restart, pause, resume.
func (c *cluster) broker(ctx context.Context, verb string, id int) error {
	_, err := c.local(ctx, verb, strconv.Itoa(id))
	return err
}

// each does something to every broker, at once.
func (c *cluster) each(ctx context.Context, verb string) error {
	errs := make(chan error, c.size)
	for id := 1; id <= c.size; id++ {
		go func() { errs <- c.broker(ctx, verb, id) }()
	}
	var all []error
	for range c.size {
		all = append(all, <-errs)
	}
	return errors.Join(all...)
}

// startAll starts every broker that is down. They form a quorum together, so none is waited for before all are started.
func (c *cluster) startAll(ctx context.Context) error {
	_, err := c.local(ctx, "start", strconv.Itoa(c.size))
	return err
}

// heal ends every fault of the last scenario, and waits until all partitions have all replicas in sync.
func (c *cluster) heal(ctx context.Context) error {
	c.proxy.Clear()
	for id := 1; id <= c.size; id++ {
		c.broker(ctx, "resume", id) // fails for one that is down
	}
	if err := c.startAll(ctx); err != nil {
		return err
	}
	return await(ctx, time.Minute, "all replicas in sync", func() error {
		topics, err := c.admin.ListTopicsWithInternal(ctx)
		if err != nil {
			return err
		}
		for _, t := range topics {
			for _, p := range t.Partitions {
				if p.Err != nil || len(p.ISR) < len(p.Replicas) || p.Leader < 0 {
					return fmt.Errorf("%s-%d has leader %d, in sync are %v of %v", t.Topic, p.Partition, p.Leader,
						p.ISR, p.Replicas)
				}
			}
		}
		return nil
	})
}

func (c *cluster) stop() error {
	var errs []error
	if c.client != nil {
		c.client.Close()
	}
	if c.proxy != nil {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		_, err := c.local(ctx, "stop")
		if errs = append(errs, err); c.disk != "" {
			errs = append(errs, exec.Command("umount", c.disk).Run())
		}
		_, err = c.local(ctx, "wipe")
		errs = append(errs, err, c.proxy.Close())
	}
	return errors.Join(append(errs, os.RemoveAll(c.dir))...)
}

// createTopic creates a topic with full replication, and waits until every broker knows it: a worker that starts before
// that would be told that there is no such topic. config is pairs of name and value.
func (c *cluster) createTopic(ctx context.Context, partitions int, topic string, config ...string) error {
	settings := map[string]*string{}
	for i := 0; i+1 < len(config); i += 2 {
		settings[config[i]] = &config[i+1]
	}
	unanswered := false
	if err := await(ctx, 20*time.Second, "topic "+topic, func() error {
		r, err := c.admin.CreateTopic(ctx, int32(partitions), int16(min(3, c.size)), settings, topic)
		if err = errors.Join(err, r.Err); unanswered && errors.Is(err, kerr.TopicAlreadyExists) {
			return nil // by the request before
		}
		unanswered = err != nil && !errors.Is(err, kerr.TopicAlreadyExists)
		return err
	}); err != nil {
		return err
	}
	return await(ctx, 20*time.Second, "all brokers to know topic "+topic, func() error {
		for id := 1; id <= c.size; id++ {
			ask := kmsg.NewPtrMetadataRequest()
			t := kmsg.NewMetadataRequestTopic()
			t.Topic = &topic
			ask.Topics = append(ask.Topics, t)
			answer, err := ask.RequestWith(ctx, c.client.Broker(id))
			if err != nil {
				return err
			}
			known := answer.Topics[0]
			if err := kerr.ErrorForCode(known.ErrorCode); err != nil {
				return fmt.Errorf("broker %d: %w", id, err)
			}
			led := 0
			for _, p := range known.Partitions {
				if p.Leader > 0 {
					led++
				}
			}
			if led != partitions {
				return fmt.Errorf("broker %d knows the leaders of %d of %d partitions", id, led, partitions)
			}
		}
		return nil
	})
}

// leader is the broker that leads a partition.
func (c *cluster) leader(ctx context.Context, topic string, partition int32) (int, error) {
	topics, err := c.admin.ListTopics(ctx, topic)
	if err != nil {
		return 0, err
	}
	p, ok := topics[topic].Partitions[partition]
	if !ok || p.Leader < 1 {
		return 0, fmt.Errorf("%s-%d has no leader", topic, partition)
	}
	return int(p.Leader), nil
}

// groupCoordinator is the broker that coordinates a group.
func (c *cluster) groupCoordinator(ctx context.Context, group string) (int, error) {
	r := c.admin.FindGroupCoordinators(ctx, group)[group]
	return int(r.NodeID), r.Err
}

// txnCoordinator is the broker that coordinates a transactional id.
func (c *cluster) txnCoordinator(ctx context.Context, id string) (int, error) {
	r := c.admin.FindTxnCoordinators(ctx, id)[id]
	return int(r.NodeID), r.Err
}

// await tries until done gives no error. The error says what was waited for and why it was not there.
func await(ctx context.Context, limit time.Duration, what string, done func() error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for {
		err := done()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting %v for %s: %w", limit, what, err)
		case <-time.After(100 * time.Millisecond):
		}
	}
}
