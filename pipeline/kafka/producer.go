package kafka

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"syscall"
	"time"

	"sluice/pipeline"
)

// This file owns the producer's identity (id, epoch, sequences) and the single steps of a transaction. sink.go strings
// the steps together. Only one goroutine uses a producer at a time: Run's before the first assignment, Commit's after
// it.
//
// What a producer knows of its transactions is in four variables, and settled and outcome are worked out from them:
//
//	doubtful    a request of this epoch had no answer and may still arrive. It becomes true at a step that got none
//	            (unanswered), false with a new epoch (init). While it is true no transaction begins.
//	committed   how the last transaction ended of which something can be in a log; false at the start of a process. A
//	            transaction that ends sets it (end); a new epoch makes it outcome, because the broker aborts what was
//	            open.
//	dirty       a produce request or offset of a transaction since then has been sent, so that something may be in a
//	            log. It becomes true before the first such request (produceHeads, commitOffsets), false when a
//	            transaction ends or an epoch is new.
//	mark        how many connections had been made when the last EndTxn that got a yes was first sent.
//	settled     no connection has been made since mark: the markers of the last transaction are in the logs.
//	outcome     committed and not dirty: how to end a transaction of which nothing is in a log. true repeats the
//	            COMMIT before it, whose markers may be missing; false aborts.
//
// The states between two steps, for exactly-once, and what leads on:
//
//	no identity     before begin. -> begin: init, then scrub, which aborts what a former process left -> settled
//	settled         not doubtful. A transaction may begin: addOffsets or addPartitions, then settled is asked again,
//	                for only a coordinator that is done with the last transaction says yes. -> open
//	                a connection is made -> unsettled
//	unsettled       -> settle: scrub, an empty transaction with the outcome of the last one -> settled, or unsettled
//	                again where a connection was made meanwhile; Client.begin tries five times, then Transient
//	open, clean     begun, nothing in a log. A fault ends it with outcome, which may be a commit: nothing is lost by
//	                that, and an abort would lose what a missing marker left open. -> recovering
//	                the first produce or offset -> open, dirty
//	open, dirty     -> end(commit) with a yes -> settled, committed
//	                a fault before that request -> end(abort), Client.recoverCommit -> recovering
//	                a fault at that request, or no answer: ambiguous -> recovering without an abort; the group's
//	                offsets tell what became of it (afterRecovery)
//	recovering      -> renew: init, then scrub, until neither is in doubt -> settled. An epoch that is lost to a twin
//	                is Fenced instead, and the worker ends.
//	doubtful        in any state between transactions -> settle renews, so that the broker refuses what is late
//
// With at-least-once there are no transactions: only id, epoch and sequences count, and renew takes a new id.

type producer struct {
	c     *Client
	id    int64
	epoch int16
	// sequences holds the next sequence number of each output partition. They begin at 0 with every new epoch.
	sequences map[pipeline.TopicPartition]int32
	// doubtful says that a request of this epoch was given up without an answer and sent again. The first one may still
	// be under way, and could end, or move the offsets of, a later transaction of the same epoch (KIP-890). So the next
	// transaction takes a new epoch first, in which the broker refuses it. Produce needs no doubt: it has sequence
	// numbers.
	doubtful bool
	// What is known of the last transaction that ended: how, and how many connections had been made before its first
	// EndTxn. dirty says that something of a later one may be in a log.
	committed bool
	mark      int64
	dirty     bool
}

// settled says that the markers of the last transaction are in the logs: the coordinator that answered has lived on.
// One that restarts loads a decided transaction and writes its markers, but skips partitions that have no leader at
// that moment, as all have while a cluster comes back ("Couldn't find leader endpoint ... hence can be skipped"), and
// calls it complete. Then what was committed is open, and the next ABORT marker of this producer id would throw it
// away: records lost. A broker that restarts breaks its connections, and a new one shows it.
func (p *producer) settled() bool { return p.c.dials.Load() == p.mark }

// settle ends the last transaction once more, the same way, where its markers may be missing; what is there already is
// not changed by another marker. It comes before anything of the next transaction is in a log, also where that has
// begun.
func (p *producer) settle(ctx context.Context) error {
	var err error
	if !p.settled() {
		p.c.log.Debug("a connection has been made since the last transaction; ending that once more", "commit",
			p.outcome())
		err = p.scrub(ctx)
	}
	if p.doubtful || lostEpoch(err) || is(err, errInvalidTxnState, errInvalidPidMapping) {
		err = p.renew(ctx)
	}
	return err
}

// outcome is how a transaction of which nothing is in a log ends: as the one before, whose markers it may have to
// write.
func (p *producer) outcome() bool { return p.committed && !p.dirty }

// unanswered notes that a step may arrive late, and returns err.
func (p *producer) unanswered(err error) error {
	if err != nil && codeOf(err) == 0 && !errors.Is(err, syscall.ECONNREFUSED) &&
		!errors.As(err, new(*pipeline.Fault)) {
		p.doubtful = true
	}
	return err
}

// begin takes an identity at the start of the process. For transactions it fences the former self and aborts what that
// had open, which must happen once per process only: a zombie that did it would fence its successor.
func (p *producer) begin(ctx context.Context) error {
	if err := p.init(ctx, -1, -1); err != nil {
		return err
	}
	p.c.failpoint("after-init-producer")
	if p.c.cfg.Guarantee != ExactlyOnce {
		return nil
	}
	err := p.scrub(ctx)
	if lostEpoch(err) || is(err, errInvalidTxnState) { // it took longer than the transaction timeout
		err = p.renew(ctx)
	}
	if err == nil {
		p.c.failpoint("after-scrub")
	}
	return err
}

// renew takes the next epoch after a failed transaction: only so are the sequence numbers known again. The broker's
// answer to the present id and epoch is the first judge: success means that the transaction failed or timed out
// (KIP-360). lostEpoch may mean a successor, but also that the coordinator has taken two epochs since: one for the
// timeout, one for a renewal whose answer was lost. Then the group is the judge: it knows a successor by its member id.
func (p *producer) renew(ctx context.Context) error {
	for tries := 1; ; tries++ {
		id, epoch := p.id, p.epoch
		if p.c.cfg.Guarantee != ExactlyOnce {
			id, epoch = -1, -1 // an idempotent producer just takes a new id
		}
		err := p.init(ctx, id, epoch)
		if lostEpoch(err) || is(err, errInvalidPidMapping) {
			twin, unknown := p.c.beingReplaced(ctx)
			if unknown != nil {
				return unknown
			}
			if !twin {
				p.c.log.Warn("the producer's epoch is gone, and nobody has taken this worker's place in the group; "+
					"taking a new identity", "error", err)
				err = p.init(ctx, -1, -1)
			}
		}
		if err != nil || p.c.cfg.Guarantee != ExactlyOnce {
			return err
		}
		err = p.scrub(ctx)
		// The scrub's own requests can be late, too.
		again := lostEpoch(err) || is(err, errInvalidTxnState) // no successor: the next round's answer tells
		if !again && !(err == nil && p.doubtful && tries < 5) {
			return err
		}
		if !sleep(ctx, pauseCode) {
			return stopped("commit", errors.Join(ctx.Err(), err))
		}
	}
}

func (p *producer) init(ctx context.Context, id int64, epoch int16) error {
	req := &initProducerRequest{ProducerID: id, ProducerEpoch: epoch,
		TimeoutMs: int32(p.c.cfg.TransactionTimeout.Milliseconds())}
	what := "an idempotent producer"
	kind := groupCoordinator // any broker would do; this one is known
	if p.c.cfg.Guarantee == ExactlyOnce {
		req.TransactionalID = p.c.cfg.TransactionalID()
		what = "transactional id " + req.TransactionalID
		kind = txnCoordinator
	}
	return p.c.retry(ctx, "init-producer", time.Time{}, func() error {
		r, err := askCoordinator[*initProducerResponse](ctx, p.c, kind, requestTimeout, req)
		if err == nil {
			err = p.c.coordinated(kind, r.ErrorCode, "InitProducerId", "%s", what)
		}
		if err != nil {
			return err
		}
		p.id, p.epoch, p.sequences = r.ProducerID, r.ProducerEpoch, map[pipeline.TopicPartition]int32{}
		p.committed = p.outcome() // what had begun is aborted
		p.doubtful, p.dirty = false, false
		return nil
	})
}

// scrub is an empty transaction over the group and all output partitions that ends as the last one did: its markers end
// whatever hangs there. After an abort whose markers were skipped (see settled) the next COMMIT marker of the same
// producer id would commit the aborted records: duplicates. After such a commit the next ABORT marker would lose them.
// At the start of a process nobody knows of a commit: what hangs is aborted, outputs and offsets alike, and read again.
//
// A partition that has no leader gets no marker this time either, so it is waited for, but not for longer than a step
// of a commit is repeated: a topic whose only replica is gone must not hold up the others.
func (p *producer) scrub(ctx context.Context) error {
	c := p.c
	counts, err := c.awaitTopics(ctx, "commit", time.Time{}, c.cfg.Outputs)
	all := sortedPartitions(counts)
	if err == nil {
		err = c.awaitLeaders(ctx, all)
	}
	for _, step := range []func() error{
		func() error { return p.addOffsets(ctx) },
		func() error { return p.addPartitions(ctx, all) },
	} {
		if err == nil {
			err = c.retry(ctx, "scrub", time.Time{}, step)
		}
	}
	if err == nil {
		err = p.end(ctx, "scrub", time.Time{}, p.outcome())
	}
	return err
}

// awaitLeaders waits until every partition has a leader, for deliveryTimeout at most.
func (c *Client) awaitLeaders(ctx context.Context, tps []pipeline.TopicPartition) error {
	headless := func() []pipeline.TopicPartition {
		return slices.DeleteFunc(slices.Clone(tps), func(tp pipeline.TopicPartition) bool { return c.leader(tp) >= 0 })
	}
	err := c.retry(ctx, "scrub", time.Now().Add(c.cfg.deliveryTimeout()), func() error {
		if len(headless()) == 0 {
			return nil
		}
		if err := c.refresh(ctx); err != nil {
			return err
		}
		if without := headless(); len(without) > 0 {
			return answer(errLeaderNotAvailable, "Metadata", "topic %s", without[0].Topic)
		}
		return nil
	})
	if without := headless(); err != nil && ctx.Err() == nil && len(without) > 0 {
		c.log.Warn("partitions have had no leader for long; a transaction that is to be ended everywhere is not "+
			"ended there", "partitions", without)
		return nil
	}
	return err
}

// missingTopic is the fault for a topic that stays unknown.
func missingTopic(stage string, err error) *pipeline.Fault {
	resource := "a topic"
	var e *codeError
	if errors.As(err, &e) {
		resource = e.resource
	}
	return pipeline.Faultf(pipeline.Config, stage, "missing-topic", "%s does not exist (or the worker has no "+
		"permission to see it): create it with kafka-topics, Sluice makes no topics: %w", resource, err)
}

func (p *producer) addOffsets(ctx context.Context) error {
	r, err := askCoordinator[*addOffsetsResponse](ctx, p.c, txnCoordinator, requestTimeout, &addOffsetsRequest{
		TransactionalID: p.c.cfg.TransactionalID(), ProducerID: p.id, ProducerEpoch: p.epoch, GroupID: p.c.cfg.Group})
	if err != nil {
		return p.unanswered(err)
	}
	return p.c.coordinated(txnCoordinator, r.ErrorCode, "AddOffsetsToTxn", "group %s", p.c.cfg.Group)
}

func (p *producer) addPartitions(ctx context.Context, tps []pipeline.TopicPartition) error {
	req := &addPartitionsRequest{TransactionalID: p.c.cfg.TransactionalID(), ProducerID: p.id, ProducerEpoch: p.epoch}
	for _, t := range byTopic(tps) {
		req.Topics = append(req.Topics, addPartitionsTopic{Name: t.topic, Partitions: t.partitions})
	}
	r, err := askCoordinator[*addPartitionsResponse](ctx, p.c, txnCoordinator, requestTimeout, req)
	if err != nil {
		return p.unanswered(err)
	}
	var worst error
	for _, t := range r.Topics {
		for _, x := range t.Partitions {
			// "Not attempted" only says that another partition has an error.
			if err := p.c.coordinated(txnCoordinator, x.ErrorCode, "AddPartitionsToTxn", "topic %s",
				t.Name); err != nil && (worst == nil || is(worst, errNotAttempted) || retriable(worst)) {
				worst = err
			}
		}
	}
	return worst
}

func (p *producer) commitOffsets(ctx context.Context, s *session, commit *pipeline.Commit) error {
	if s.generation < 0 || s.member == "" {
		// The broker would accept it, without any fencing by the group.
		return pipeline.Faultf(pipeline.Internal, "commit", "no-generation", "offsets of generation %d and member %q "+
			"must not be committed", s.generation, s.member)
	}
	req := &txnOffsetCommitRequest{TransactionalID: p.c.cfg.TransactionalID(), GroupID: p.c.cfg.Group, ProducerID: p.id,
		ProducerEpoch: p.epoch,
		Generation:    s.generation, MemberID: s.member, InstanceID: p.c.cfg.InstanceID}
	for _, t := range byTopic(slices.Collect(maps.Keys(commit.Offsets))) {
		x := txnOffsetTopic{Name: t.topic}
		for _, q := range t.partitions {
			tp := pipeline.TopicPartition{Topic: t.topic, Partition: q}
			x.Partitions = append(x.Partitions, txnOffsetPartition{Partition: q, Offset: commit.Offsets[tp],
				LeaderEpoch: -1, Metadata: commit.Metadata[tp]})
		}
		req.Topics = append(req.Topics, x)
	}
	p.dirty = true
	r, err := askCoordinator[*txnOffsetCommitResponse](ctx, p.c, groupCoordinator, requestTimeout, req)
	if err != nil {
		return p.unanswered(err)
	}
	for _, t := range r.Topics {
		for _, x := range t.Partitions {
			if err := p.c.coordinated(groupCoordinator, x.ErrorCode, "TxnOffsetCommit", "topic %s",
				t.Name); err != nil {
				return err
			}
		}
	}
	return nil
}

// end decides the transaction, and repeats the request until the deadline (zero: until ctx ends).
func (p *producer) end(ctx context.Context, step string, deadline time.Time, commit bool) error {
	mark := p.c.dials.Load() // before the first try: the coordinator that answers a later one may have lost the markers
	err := p.c.retry(ctx, step, deadline, func() error { return p.endOnce(ctx, commit) })
	if err == nil {
		p.committed, p.mark, p.dirty = commit, mark, false
	}
	return err
}

func (p *producer) endOnce(ctx context.Context, commit bool) error {
	r, err := askCoordinator[*endTxnResponse](ctx, p.c, txnCoordinator, requestTimeout, &endTxnRequest{
		TransactionalID: p.c.cfg.TransactionalID(), ProducerID: p.id, ProducerEpoch: p.epoch, Commit: commit})
	if err != nil {
		return p.unanswered(err)
	}
	return p.c.coordinated(txnCoordinator, r.ErrorCode, "EndTxn", "transactional id %s", p.c.cfg.TransactionalID())
}

// maxProduceRequest bounds the bytes of one produce request; a batch larger than that goes alone.
const maxProduceRequest = 8 << 20

// produce publishes the queues: batches of one partition one after the other, in order, those of different leaders in
// parallel. What is retried is sent with the same bytes; "duplicate sequence" then means that it is in the log already.
// What brokers refuse is told when everything else has been sent, as a pipeline.RefusedError (refuse.go).
func (p *producer) produce(ctx context.Context, deadline time.Time,
	queues map[pipeline.TopicPartition][]encodedBatch) error {
	queues = maps.Clone(queues)
	look := &search{deadline: deadline}
	for len(queues) > 0 && !look.over() {
		err := p.c.retry(ctx, "produce", deadline, func() error { return p.produceHeads(ctx, queues, look) })
		if retriable(err) && look.over() {
			break
		}
		if err != nil {
			return err
		}
	}
	return look.err()
}

// damagedTries is how often a batch is sent that arrives damaged.
const damagedTries = 4

// produceHeads sends the first batch of as many queues as one request per leader takes, and removes what the brokers
// have, or refuse. The error is the worst one: one that must not be retried before one that may.
func (p *producer) produceHeads(ctx context.Context, queues map[pipeline.TopicPartition][]encodedBatch,
	look *search) error {
	var worst error
	note := func(err error) {
		if err != nil && (worst == nil || retriable(worst) && !retriable(err)) {
			worst = err
		}
	}
	requests := map[int32]map[pipeline.TopicPartition]encodedBatch{} // by leader
	bytes := map[int32]int{}
	for tp, q := range queues {
		n := p.c.leader(tp)
		if n < 0 {
			note(answer(errLeaderNotAvailable, "Produce", "topic %s", tp.Topic))
			continue
		}
		if size := len(q[0].data); bytes[n] == 0 || bytes[n]+size <= maxProduceRequest {
			bytes[n] += size
			if requests[n] == nil {
				requests[n] = map[pipeline.TopicPartition]encodedBatch{}
			}
			q[0].stamp(p.sequences[tp])
			requests[n][tp] = q[0]
		}
	}
	p.dirty = true
	var mu sync.Mutex // guards worst, queues, look and p.sequences
	var wg sync.WaitGroup
	for n, heads := range requests {
		wg.Go(func() {
			results, err := p.produceTo(ctx, n, heads)
			mu.Lock()
			defer mu.Unlock()
			note(err)
			if err != nil {
				return
			}
			for tp, head := range heads {
				x, answered := results[tp]
				switch {
				case !answered:
					note(fmt.Errorf("produce: the answer of broker %d lacks %s", n, tp))
				case x.ErrorCode == 0 || x.ErrorCode == errDuplicateSequence:
					p.sequences[tp] = int32((int64(p.sequences[tp]) + int64(len(head.messages))) & 0x7fffffff)
					if queues[tp] = queues[tp][1:]; len(queues[tp]) == 0 {
						delete(queues, tp)
					}
				case x.ErrorCode == errCorrupt && head.damaged+1 < damagedTries:
					queues[tp][0].damaged++
					// without its code, which is repeated nowhere else
					note(fmt.Errorf("%v", answer(x.ErrorCode, "Produce", "topic %s", tp.Topic)))
				case refusing[x.ErrorCode].reason != "":
					note(p.refused(queues, look, tp, head, x))
				default:
					note(answer(x.ErrorCode, "Produce", "topic %s", tp.Topic))
				}
			}
		})
	}
	wg.Wait()
	if retriable(worst) {
		if err := p.c.refresh(ctx); err != nil {
			p.c.observeRetry("metadata", err)
		}
	}
	return worst
}

// refused puts what is left of a refused batch in its place.
func (p *producer) refused(queues map[pipeline.TopicPartition][]encodedBatch, look *search, tp pipeline.TopicPartition,
	head encodedBatch, x *produceResult) error {
	e, err := p.c.batcher(tp)
	if err != nil {
		return err
	}
	found, rest, err := p.c.refuse(e, tp, head, x)
	if err != nil {
		return &pipeline.Fault{Kind: pipeline.Internal, Stage: "commit", Reason: "encode", Err: err}
	}
	look.found = append(look.found, found...)
	if queues[tp] = append(rest, queues[tp][1:]...); len(queues[tp]) == 0 {
		delete(queues, tp)
	}
	return nil
}

// produceTo sends one request and returns what the broker says of each partition.
func (p *producer) produceTo(ctx context.Context, n int32, heads map[pipeline.TopicPartition]encodedBatch) (
	map[pipeline.TopicPartition]*produceResult, error) {
	req := &produceRequest{Acks: -1, TimeoutMs: int32(requestTimeout.Milliseconds() / 2)}
	if p.c.cfg.Guarantee == ExactlyOnce {
		req.TransactionalID = p.c.cfg.TransactionalID()
	}
	for _, t := range byTopic(slices.Collect(maps.Keys(heads))) {
		x := produceTopic{Name: t.topic}
		for _, q := range t.partitions {
			x.Partitions = append(x.Partitions, producePartition{Partition: q,
				Records: heads[pipeline.TopicPartition{Topic: t.topic, Partition: q}].data})
		}
		req.Topics = append(req.Topics, x)
	}
	req.route(n)
	r, err := ask[*produceResponse](ctx, p.c, requestTimeout, req)
	if err != nil {
		return nil, err
	}
	results := map[pipeline.TopicPartition]*produceResult{}
	for i := range r.Topics {
		t := &r.Topics[i]
		for j := range t.Partitions {
			x := &t.Partitions[j]
			results[pipeline.TopicPartition{Topic: t.Name, Partition: x.Partition}] = x
		}
	}
	return results, nil
}
