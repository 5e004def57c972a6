package kafka

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"sluice/pipeline"
)

// This file owns Commit: messages and offsets in one transaction (or, with at-least-once, messages, then offsets), and
// the way back from every failure to a state in which the next Commit can begin.

const (
	defaultMaxMessage = 1048588 // Kafka's default of max.message.bytes
	// framing is what a message's batch and record headers take of max.message.bytes, at most, for up to about 40
	// headers.
	framing = 512
)

// Commit implements pipeline.Sink.
func (c *Client) Commit(ctx context.Context, commit *pipeline.Commit) error {
	c.mu.Lock()
	s, broken := c.session, c.broken
	c.mu.Unlock()
	if broken != nil {
		return broken
	}
	if s == nil {
		return pipeline.Faultf(pipeline.Rebalance, "commit", "no-membership", "this worker is not a member of group "+
			"%s at the moment", c.cfg.Group)
	}
	began := time.Now()
	if !c.take(ctx) {
		return stopped("commit", ctx.Err())
	}
	c.mu.Lock()
	stale := c.session != s // while waiting: positions have been read without this commit
	c.mu.Unlock()
	if stale {
		c.release()
		return pipeline.Faultf(pipeline.Rebalance, "commit", "no-membership", "this worker has joined group %s again "+
			"meanwhile", c.cfg.Group)
	}
	err := c.commit(ctx, s, commit)
	c.release()
	if f := new(pipeline.Fault); errors.As(err, &f) && f.Kind != pipeline.Transient && f.Kind != pipeline.Rebalance {
		// What was sent may still lie in an open transaction, and another commit in the same epoch would commit it,
		// too.
		c.mu.Lock()
		c.broken = err
		c.mu.Unlock()
	}
	if c.cfg.Observer.transaction != nil {
		result := map[pipeline.Kind]string{"": "committed", pipeline.Transient: "aborted",
			pipeline.Rebalance: "rebalance", pipeline.Fenced: "fenced"}[pipeline.KindOf(err)]
		switch {
		case errors.As(err, new(*pipeline.RefusedError)):
			result = "aborted"
		case result == "":
			result = "failed"
		}
		c.cfg.Observer.transaction(result, time.Since(began))
	}
	return err
}

func (c *Client) commit(ctx context.Context, s *session, commit *pipeline.Commit) error {
	var queues map[pipeline.TopicPartition][]encodedBatch
	var begun, ambiguous bool
	var err error
	if c.cfg.Guarantee == ExactlyOnce {
		if queues, begun, err = c.begin(ctx, commit); err == nil {
			ambiguous, err = c.transaction(ctx, s, queues, commit)
		}
	} else if queues, err = c.encode(ctx, commit); err == nil {
		begun = true
		c.failpoint("before-commit")
		err = c.publish(ctx, s, queues, commit)
	}
	switch {
	case err != nil && !begun:
		return err
	case err != nil:
		return c.recoverCommit(ctx, s, commit, ambiguous, err)
	}
	c.mu.Lock()
	maps.Copy(c.committed, commit.Offsets)
	c.mu.Unlock()
	return nil
}

// begin begins a transaction whose predecessor is done for good, and encodes the messages for its epoch. begun says
// that there is something to abort.
func (c *Client) begin(ctx context.Context, commit *pipeline.Commit) (queues map[pipeline.TopicPartition][]encodedBatch,
	begun bool, err error) {
	p := c.producer
	for range 5 {
		if err := p.settle(ctx); err != nil {
			return nil, false, c.identityFault(ctx, "commit", err)
		}
		if p.doubtful {
			continue
		}
		if queues, err = c.encode(ctx, commit); err != nil {
			return nil, false, err
		}
		c.failpoint("before-commit")
		step, first := "add-offsets", func() error { return p.addOffsets(ctx) }
		if len(queues) > 0 {
			step, first = "add-partitions", func() error {
				return p.addPartitions(ctx,
					slices.Collect(maps.Keys(queues)))
			}
		}
		if err := c.retry(ctx, step, time.Now().Add(c.cfg.deliveryTimeout()), first); err != nil {
			return nil, true, err
		}
		c.failpoint("after-add-partitions")
		// The coordinator says yes only when it is done with the last transaction: if that is the one that decided it,
		// so are the markers.
		if p.settled() {
			return queues, true, nil
		}
	}
	return nil, false, pipeline.Faultf(pipeline.Transient, "commit", "network", "connections keep breaking and "+
		"answers of the coordinators get lost: no transaction can begin that a late request could not end")
}

// transaction runs the steps after begin. ambiguous says that the request to commit went out: it may have succeeded
// although err is not nil.
func (c *Client) transaction(ctx context.Context, s *session, queues map[pipeline.TopicPartition][]encodedBatch,
	commit *pipeline.Commit) (ambiguous bool, err error) {
	p := c.producer
	deadline := time.Now().Add(c.cfg.deliveryTimeout())
	if len(queues) > 0 {
		if err := p.produce(ctx, deadline, queues); err != nil {
			return false, err
		}
		c.failpoint("after-produce")
		// Where there are no messages begin has done it.
		if err := c.retry(ctx, "add-offsets", deadline, func() error { return p.addOffsets(ctx) }); err != nil {
			return false, err
		}
	}
	c.failpoint("after-add-offsets")
	if err := c.retry(ctx, "txn-offset-commit", deadline, func() error {
		return p.commitOffsets(ctx, s,
			commit)
	}); err != nil {
		return false, err
	}
	c.failpoint("after-txn-offset-commit")
	c.failpoint("before-end-txn")
	// From here on only the same request may be sent again, for as long as it takes: an abort after a commit whose
	// answer was lost would make a finished transaction look undone.
	if err := p.end(ctx, "end-txn", time.Time{}, true); err != nil {
		return true, err
	}
	c.failpoint("after-end-txn")
	return false, nil
}

// publish is the at-least-once form: messages first, then offsets.
func (c *Client) publish(ctx context.Context, s *session, queues map[pipeline.TopicPartition][]encodedBatch,
	commit *pipeline.Commit) error {
	deadline := time.Now().Add(c.cfg.deliveryTimeout())
	if err := c.producer.produce(ctx, deadline, queues); err != nil {
		return err
	}
	c.failpoint("after-produce")
	req := &offsetCommitRequest{GroupID: c.cfg.Group, Generation: s.generation, MemberID: s.member,
		InstanceID: c.cfg.InstanceID}
	for _, t := range byTopic(slices.Collect(maps.Keys(commit.Offsets))) {
		x := offsetCommitTopic{Name: t.topic}
		for _, q := range t.partitions {
			tp := pipeline.TopicPartition{Topic: t.topic, Partition: q}
			x.Partitions = append(x.Partitions, offsetCommitPartition{Partition: q, Offset: commit.Offsets[tp],
				LeaderEpoch: -1, Metadata: commit.Metadata[tp]})
		}
		req.Topics = append(req.Topics, x)
	}
	return c.retry(ctx, "offset-commit", deadline, func() error {
		r, err := askCoordinator[*offsetCommitResponse](ctx, c, groupCoordinator, requestTimeout, req)
		if err != nil {
			return err
		}
		for _, t := range r.Topics {
			for _, x := range t.Partitions {
				if err := c.coordinated(groupCoordinator, x.ErrorCode, "OffsetCommit", "topic %s", t.Name); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

// recoverCommit ends what a failed commit left open, takes a new producer epoch, and says what the caller must do.
func (c *Client) recoverCommit(ctx context.Context, s *session, commit *pipeline.Commit, ambiguous bool,
	cause error) error {
	if ctx.Err() != nil {
		return c.tidy(ctx, ambiguous, cause)
	}
	if pipeline.KindOf(cause) == pipeline.Internal && errors.As(cause, new(*pipeline.Fault)) {
		return cause
	}
	if c.cfg.Guarantee == ExactlyOnce && !ambiguous && !lostEpoch(cause) {
		// Whatever the answer is, the next step finds out how things stand. An abort by that step would lose what an
		// empty transaction leaves alone (see settled).
		deadline := time.Now().Add(20 * time.Second)
		if c.producer.outcome() {
			deadline = time.Time{}
		}
		if err := c.producer.end(ctx, "abort", deadline, c.producer.outcome()); err != nil &&
			!is(err, errInvalidTxnState) {
			c.log.Warn("aborting a transaction failed; taking a new epoch will abort it", "error", err)
		}
	}
	if is(cause, errFencedInstance) && c.cfg.Guarantee != ExactlyOnce {
		return c.fenced("commit", cause)
	}
	// A person must act: stop now, the transaction has ended.
	if f := c.configFault("commit", cause); f != nil {
		return f
	}
	if err := c.producer.renew(ctx); err != nil {
		return c.identityFault(ctx, "commit", err)
	}
	switch {
	case errors.As(cause, new(*pipeline.RefusedError)):
		return cause
	// the epoch was there to be renewed: no twin (see Client.twin)
	case lostMembership(cause), is(cause, errFencedInstance):
		s.end(cause)
		return &pipeline.Fault{Kind: pipeline.Rebalance, Stage: "commit", Reason: "rebalance", Err: cause}
	}
	return c.afterRecovery(ctx, s, commit, cause)
}

// identityFault is the fault for a producer that could not get its next epoch.
func (c *Client) identityFault(ctx context.Context, stage string, err error) error {
	var f *pipeline.Fault
	switch {
	case errors.As(err, &f):
		return err
	case ctx.Err() != nil:
		return stopped(stage, err)
	case lostEpoch(err) || is(err, errInvalidPidMapping, errFencedInstance):
		return c.fenced(stage, err)
	}
	if f := c.configFault(stage, err); f != nil {
		return f
	}
	return pipeline.Faultf(pipeline.Internal, stage, "producer", "the producer's identity cannot be renewed: %w", err)
}

// tidy ends a transaction in the little time that a stopping worker has, so that it does not hold up readers.
func (c *Client) tidy(ctx context.Context, ambiguous bool, cause error) error {
	if c.cfg.Guarantee == ExactlyOnce {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 3*time.Second)
		defer cancel()
		err := c.producer.end(ctx, "stop", time.Time{}, ambiguous || c.producer.outcome())
		switch {
		case err == nil && ambiguous:
			return nil
		case err != nil && !is(err, errInvalidTxnState):
			c.log.Warn("a transaction is left open; the broker ends it after transaction_timeout, or the next start "+
				"of this instance does", "error", err)
		}
	}
	return stopped("commit", cause)
}

// afterRecovery compares the group's offsets with what this client believes. They are the truth about what was
// committed, also when the answer to EndTxn was lost.
func (c *Client) afterRecovery(ctx context.Context, s *session, commit *pipeline.Commit, cause error) error {
	c.mu.Lock()
	before := maps.Clone(c.committed)
	c.mu.Unlock()
	now, err := c.groupOffsets(ctx, s, slices.Collect(maps.Keys(before)), c.cfg.Guarantee == ExactlyOnce)
	if err != nil {
		if ctx.Err() != nil {
			return stopped("commit", err)
		}
		if is(err, errFencedInstance) {
			return c.fenced("commit", err)
		}
		if f := c.configFault("commit", err); f != nil {
			return f
		}
		s.end(errReposition)
		return &pipeline.Fault{Kind: pipeline.Rebalance, Stage: "commit", Reason: "rebalance", Err: errors.Join(cause,
			err)}
	}
	asBefore, asMeant := true, true
	for tp, had := range before {
		want, part := commit.Offsets[tp]
		if !part {
			want = had
		}
		asBefore = asBefore && now[tp].Offset == had
		// Of an offset that stays only what stands beside it tells.
		asMeant = asMeant && now[tp].Offset == want && (!part || want != had || now[tp].Metadata == commit.Metadata[tp])
	}
	switch {
	case asMeant:
		c.log.Warn("a commit went through although its answer was lost", "error", cause)
		c.mu.Lock()
		maps.Copy(c.committed, commit.Offsets)
		c.mu.Unlock()
		return nil
	case asBefore:
		return &pipeline.Fault{Kind: pipeline.Transient, Stage: "commit", Reason: "aborted", Err: cause}
	}
	c.log.Warn("the group's offsets are not what this worker committed; reading begins again from them", "error", cause)
	s.end(errReposition)
	return &pipeline.Fault{Kind: pipeline.Rebalance, Stage: "commit", Reason: "offsets-moved", Err: cause}
}

// encode groups messages by output partition and encodes them with the sequences that are next.
func (c *Client) encode(ctx context.Context, commit *pipeline.Commit) (map[pipeline.TopicPartition][]encodedBatch,
	error) {
	used := map[string]bool{}
	for i := range commit.Messages {
		used[commit.Messages[i].Topic] = true
	}
	topics := slices.Sorted(maps.Keys(used))
	for _, t := range topics {
		if !slices.Contains(c.cfg.Outputs, t) {
			return nil, pipeline.Faultf(pipeline.Internal, "commit", "unknown-output", "a message is for topic %s, "+
				"which is not among the configured outputs %v", t, c.cfg.Outputs)
		}
	}
	counts, err := c.partitions(topics)
	if err != nil {
		counts, err = c.awaitTopics(ctx, "commit", time.Now().Add(2*topicPatience), topics)
	}
	switch {
	case err == nil:
	case ctx.Err() != nil:
		return nil, stopped("commit", err)
	case errors.As(err, new(*pipeline.Fault)):
		return nil, err
	default:
		if f := c.configFault("commit", err); f != nil {
			return nil, f
		}
		return nil, &pipeline.Fault{Kind: pipeline.Transient, Stage: "commit", Reason: "metadata", Err: err}
	}
	byPartition := map[pipeline.TopicPartition][]outgoing{}
	for i := range commit.Messages {
		m := &commit.Messages[i]
		tp := pipeline.TopicPartition{Topic: m.Topic, Partition: m.Source.Partition % int32(counts[m.Topic])}
		byPartition[tp] = append(byPartition[tp], outgoing{m, i})
	}
	var look search
	queues := make(map[pipeline.TopicPartition][]encodedBatch, len(byPartition))
	for tp, messages := range byPartition {
		e, err := c.batcher(tp)
		if err != nil {
			return nil, err
		}
		batches, err := e.encode(messages)
		if err != nil {
			return nil, &pipeline.Fault{Kind: pipeline.Internal, Stage: "commit", Reason: "encode", Err: err}
		}
		known, _ := c.sizeLimits(tp.Topic)
		for _, b := range batches {
			if known > 0 && len(b.data) > known && len(b.messages) == 1 {
				look.found = append(look.found, c.refusal(tp, b.messages[0], len(b.data), errMessageTooLarge,
					fmt.Sprintf("%d bytes; the topic takes %d (not sent)", len(b.data), known)))
			}
		}
		queues[tp] = batches
	}
	return queues, look.err()
}

// batcher makes batches of a partition as they are due now.
func (c *Client) batcher(tp pipeline.TopicPartition) (*batcher, error) {
	codec, err := codecByName(c.cfg.Compression)
	if err != nil {
		return nil, pipeline.Faultf(pipeline.Config, "commit", "compression", "%w", err)
	}
	_, limit := c.sizeLimits(tp.Topic)
	p := c.producer
	return &batcher{codec: codec, transactional: c.cfg.Guarantee == ExactlyOnce, producer: p.id, epoch: p.epoch,
		sequence: p.sequences[tp], limit: limit}, nil
}

// sizeLimit is what is known of the size of batches that a topic takes.
type sizeLimit struct {
	known int // max.message.bytes, 0 when the worker may not see it
	batch int // largest batch to make; lower than known after a refusal
}

func (c *Client) sizeLimits(topic string) (known, batch int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	l := c.limits[topic]
	if l.batch == 0 {
		l.batch = defaultMaxMessage
	}
	return l.known, l.batch
}

// MaxMessageBytes implements pipeline.Sink.
func (c *Client) MaxMessageBytes(topic string) int {
	known, _ := c.sizeLimits(topic)
	if known == 0 {
		known = defaultMaxMessage
	}
	return max(1, known-framing)
}
