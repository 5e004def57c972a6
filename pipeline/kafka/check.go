package kafka

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/segmentio/kafka-go/protocol"
	"github.com/segmentio/kafka-go/protocol/apiversions"

	"sluice/pipeline"
)

// This file owns what can be known about a cluster before work begins.

// needed is the version of each API that wire.go speaks, or that kafka-go speaks for us.
var needed = map[protocol.ApiKey]int16{
	protocol.Produce: 8, protocol.Fetch: 11, protocol.ListOffsets: 5, protocol.Metadata: 8, protocol.FindCoordinator: 2,
	protocol.JoinGroup: 9, protocol.SyncGroup: 5, protocol.Heartbeat: 4, protocol.OffsetFetch: 7,
	protocol.InitProducerId: 4, protocol.AddPartitionsToTxn: 3, protocol.AddOffsetsToTxn: 3,
	protocol.TxnOffsetCommit: 3, protocol.EndTxn: 3,
	protocol.OffsetCommit: 7, protocol.LeaveGroup: 5, protocol.DescribeConfigs: 3,
}

// checkVersions compares what a broker offers with what is needed. kafka-go picks versions without looking at the
// broker's minimum; a version that is gone would show as a closed connection.
func (c *Client) checkVersions(ctx context.Context, deadline time.Time) error {
	var r *apiversions.Response
	err := c.retry(ctx, "api-versions", deadline, func() (err error) {
		r, err = ask[*apiversions.Response](ctx, c, requestTimeout, &apiversions.Request{})
		return err
	})
	if err != nil {
		return err
	}
	return compareVersions(r.ApiKeys)
}

func compareVersions(offered []apiversions.ApiKeyResponse) error {
	ranges := map[protocol.ApiKey]apiversions.ApiKeyResponse{}
	for _, k := range offered {
		ranges[protocol.ApiKey(k.ApiKey)] = k
	}
	var missing []string
	for key, v := range needed {
		o, ok := ranges[key]
		switch {
		case !ok:
			missing = append(missing, fmt.Sprintf("%s (not offered)", key))
		case v < o.MinVersion || v > o.MaxVersion:
			missing = append(missing, fmt.Sprintf("%s v%d (offered: v%d to v%d)", key, v, o.MinVersion, o.MaxVersion))
		}
	}
	if len(missing) == 0 {
		return nil
	}
	slices.Sort(missing)
	return pipeline.Faultf(pipeline.Config, "start", "versions", "the brokers do not speak what Sluice needs: %v; "+
		"Apache Kafka 3.2 to 4.x does", missing)
}

// Check looks at the cluster as far as it can be seen without writing or joining: contact and login, API versions,
// topics, permissions. It returns every problem found. What the topics are set to, Settings tells.
//
// What it cannot see: WRITE on the outputs (Kafka tells only when something is written; DESCRIBE, which WRITE implies,
// is seen), and group.max.session.timeout.ms (told at the join). It takes no producer id of the worker's transactional
// id, because that would fence a worker that is running.
func (c *Client) Check(ctx context.Context) (problems []error) {
	bad := func(format string, args ...any) { problems = append(problems, fmt.Errorf(format, args...)) }
	deadline := time.Now().Add(15 * time.Second)
	var sentence string
	err := c.retry(ctx, "contact", deadline, func() error {
		err := c.refresh(ctx)
		if err != nil {
			var hopeless bool
			if sentence, hopeless = c.connectionProblem(err); hopeless {
				return pipeline.Faultf(pipeline.Config, "check", "connection", "%s: %w", sentence, err)
			}
		}
		return err
	})
	if err != nil {
		bad("%s", sentence)
		return problems // nothing else can be seen
	}
	if err := c.checkVersions(ctx, deadline); err != nil {
		problems = append(problems, err)
	}
	note := func(stage string, err error) {
		var f *pipeline.Fault
		switch {
		case err == nil:
		case is(err, errUnknownTopic):
			problems = append(problems, missingTopic(stage, err))
		case errors.As(err, &f):
			problems = append(problems, f)
		default:
			if f := c.configFault(stage, err); f != nil {
				problems = append(problems, f)
			} else if sentence, hopeless := c.connectionProblem(err); hopeless { // of another broker than the first
				bad("%s: %s: %w", stage, sentence, err)
			} else {
				bad("%s: %w", stage, err)
			}
		}
	}
	for _, t := range c.allTopics() {
		_, err := c.partitions([]string{t})
		note("topic "+t, err)
	}
	for _, t := range c.cfg.Topics {
		if _, err := c.partitions([]string{t}); err == nil {
			note("topic "+t, c.checkRead(ctx, t))
		}
	}
	note("group", c.retry(ctx, "check", deadline, func() error {
		c.forget(groupCoordinator)
		_, err := c.coordinator(ctx, groupCoordinator)
		return err
	}))
	if c.cfg.Guarantee == ExactlyOnce {
		note("transactional id", c.retry(ctx, "check", deadline, func() error {
			c.forget(txnCoordinator)
			_, err := c.coordinator(ctx, txnCoordinator)
			return err
		}))
	}
	return problems
}

// checkRead fetches nothing from the end of partition 0: an answer needs READ.
func (c *Client) checkRead(ctx context.Context, topic string) error {
	tp := pipeline.TopicPartition{Topic: topic}
	s := newSession("", -1, false)
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	end, err := c.logOffset(ctx, s, tp, Latest)
	if err != nil {
		return err
	}
	return c.retry(ctx, "check", time.Now().Add(requestTimeout), func() error {
		req := &fetchRequest{ReplicaID: -1, MaxWaitMs: 1, MinBytes: 1, MaxBytes: 1, IsolationLevel: 1, SessionEpoch: -1,
			Topics: []fetchTopic{{Name: topic, Partitions: []fetchPartition{{LeaderEpoch: -1, Offset: end,
				LogStartOffset: -1, MaxBytes: 1}}}}}
		req.route(c.leader(tp))
		r, err := ask[*fetchResponse](ctx, c, requestTimeout, req)
		if err != nil {
			return err
		}
		for _, t := range r.Topics {
			for _, x := range t.Partitions {
				return answer(x.ErrorCode, "Fetch", "topic %s", t.Name)
			}
		}
		return nil
	})
}
