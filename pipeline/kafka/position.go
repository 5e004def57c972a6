package kafka

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"time"

	"sluice/pipeline"
)

// This file owns where reading begins: the group's committed offsets, and the start policy where there is none.

// errSessionOver ends a wait because the membership it was for is over.
var errSessionOver = errors.New("the group is rebalancing")

// groupOffsets reads the group's committed offsets and what was committed beside them, -1 where there is none. Where
// they are to be stable it waits for transactions that hold offsets (KIP-447), so that the former owner's last
// transaction is either in or out.
func (c *Client) groupOffsets(ctx context.Context, s *session, tps []pipeline.TopicPartition, stable bool) (
	map[pipeline.TopicPartition]pipeline.Committed, error) {
	ctx, cancel := s.until(ctx)
	defer cancel()
	req := &offsetFetchRequest{GroupID: c.cfg.Group, RequireStable: stable}
	for _, t := range byTopic(tps) {
		req.Topics = append(req.Topics, offsetFetchTopic{Name: t.topic, Partitions: t.partitions})
	}
	offsets := make(map[pipeline.TopicPartition]pipeline.Committed, len(tps))
	if len(tps) == 0 {
		return offsets, nil
	}
	var unstable time.Time
	began := time.Now()
	defer func() {
		if !unstable.IsZero() && c.cfg.Observer.UnstableOffsets != nil {
			c.cfg.Observer.UnstableOffsets(0)
		}
	}()
	err := c.retry(ctx, "offset-fetch", time.Time{}, func() error {
		r, err := askCoordinator[*offsetFetchResponse](ctx, c, groupCoordinator, requestTimeout, req)
		if err == nil {
			err = c.coordinated(groupCoordinator, r.ErrorCode, "OffsetFetch", "group %s", c.cfg.Group)
		}
		if is(err, errUnstableOffsets) {
			return c.heldUp(ctx, &unstable, err)
		}
		if err != nil {
			return err
		}
		for _, t := range r.Topics {
			for _, x := range t.Partitions {
				if x.ErrorCode == errUnstableOffsets {
					return c.heldUp(ctx, &unstable, answer(x.ErrorCode, "OffsetFetch", "%s-%d", t.Name, x.Partition))
				}
				if err := c.coordinated(groupCoordinator, x.ErrorCode, "OffsetFetch", "topic %s", t.Name); err != nil {
					return err
				}
				offsets[pipeline.TopicPartition{Topic: t.Name, Partition: x.Partition}] = pipeline.Committed{
					Offset: max(-1, x.Offset), Metadata: x.Metadata}
			}
		}
		for _, tp := range tps {
			if _, ok := offsets[tp]; !ok {
				return errors.New("OffsetFetch: the answer lacks " + tp.String())
			}
		}
		if err := c.outdated(offsets); err != nil {
			if time.Since(began) < outdatedWait {
				return err
			}
			c.log.Error("the group has lost offsets that this worker committed; records will be processed again",
				"error", err)
			c.mu.Lock()
			for tp, now := range offsets { // they are waited for once
				if _, ok := c.committed[tp]; ok && now.Offset >= 0 {
					c.committed[tp] = now.Offset
				}
			}
			c.mu.Unlock()
		}
		return nil
	})
	if err != nil && s.over() {
		return nil, errSessionOver
	}
	return offsets, err
}

// outdatedWait is for how long offsets below those that this worker has committed are taken for an old answer.
const outdatedWait = time.Minute

// outdated says that the group's offsets are older than what this worker itself has committed. A coordinator that
// restarts together with its followers answers from the last high watermark that it knew, until they have caught up;
// beginning again from there would double records. No offset at all (the topic was made anew) is no old answer.
func (c *Client) outdated(offsets map[pipeline.TopicPartition]pipeline.Committed) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for tp, now := range offsets {
		if had, ok := c.committed[tp]; ok && now.Offset >= 0 && now.Offset < had {
			return fmt.Errorf("OffsetFetch: %s stands at %d, this worker has committed %d: the coordinator is behind "+
				"its log", tp, now.Offset, had)
		}
	}
	return nil
}

// heldUp watches a transaction that holds up offsets. One of our own producer id is ended by a new epoch with its
// scrub; one of another id is for that worker's next start, or for an operator.
func (c *Client) heldUp(ctx context.Context, since *time.Time, cause error) error {
	if since.IsZero() {
		*since = time.Now()
	}
	held := time.Since(*since)
	if c.cfg.Observer.UnstableOffsets != nil {
		c.cfg.Observer.UnstableOffsets(held)
	}
	if held < c.cfg.TransactionTimeout+3*time.Second {
		return cause
	}
	c.log.Error("a transaction holds up the group's offsets for longer than transaction_timeout; if another instance "+
		"of this group has left it, starting that instance ends it, else: kafka-transactions abort",
		"held", held.Round(time.Second), "error", cause)
	*since = time.Now()
	if err := c.producer.renew(ctx); err != nil {
		return c.identityFault(ctx, "join", err)
	}
	return cause
}

// positions finds where each partition's reading begins. committed is what the group has, -1 for none; from is that or
// what the start policy says, with the committed metadata.
func (c *Client) positions(ctx context.Context, s *session, m *membership) (
	committed map[pipeline.TopicPartition]int64, from map[pipeline.TopicPartition]pipeline.Committed, err error) {
	held, err := c.settledOffsets(ctx, s, m.owned)
	if err != nil {
		return nil, nil, err
	}
	late, err := c.latecomers(ctx, s, held, m.counts)
	if err != nil {
		return nil, nil, err
	}
	committed = make(map[pipeline.TopicPartition]int64, len(m.owned))
	from = make(map[pipeline.TopicPartition]pipeline.Committed, len(m.owned))
	for _, tp := range m.owned {
		at, metadata := held[tp].Offset, held[tp].Metadata
		committed[tp] = at
		if at < 0 {
			metadata = began{m.counts[tp.Topic]}.text()
		}
		if reset, ok := m.resets[tp]; ok {
			at = reset
		}
		if at < 0 {
			start := c.cfg.Start
			if late[tp] {
				start = Earliest
			}
			if start == StartError {
				return nil, nil, pipeline.Faultf(pipeline.Config, "join", "no-offset",
					"group %s has no offset for %s, and input.start is error: set start to earliest or latest, or "+
						"give the group an offset with kafka-consumer-groups --reset-offsets", c.cfg.Group, tp)
			}
			if at, err = c.logOffset(ctx, s, tp, start); err != nil {
				return nil, nil, err
			}
			why := "no committed offset; reading begins by start policy"
			if late[tp] {
				why = "the partition appeared while the group was reading its topic; reading begins at its beginning"
			}
			c.log.Info(why, "partition", tp.String(), "start", start, "offset", at)
		}
		from[tp] = pipeline.Committed{Offset: at, Metadata: metadata}
	}
	return committed, from, nil
}

// began stands beside the first offset that the group commits for a partition, and stays there: how many partitions the
// topic had when reading of that one began. The flow keeps it, as every member that it does not know.
type began struct {
	Partitions int `json:"partitions"`
}

func (b began) text() string {
	text, err := json.Marshal(b)
	if err != nil { // a number
		panic(err)
	}
	return string(text)
}

// latecomers are the partitions among held that have no offset because they appeared after the group had begun to read
// their topic. input.start is about records from before that; none of theirs is, so they are read from their beginning.
//
// A partition without an offset is one, if the group has an offset for another of the topic whose reading began when
// the topic did not have this one yet. Where it was there already, the group begins with the topic just now, in several
// workers, or somebody has deleted its offset: the start policy holds. An offset that nothing stands beside was
// committed by hand or by another program, such as an earlier version of this one, which gave every partition that was
// there an offset: then it is one.
func (c *Client) latecomers(ctx context.Context, s *session, held map[pipeline.TopicPartition]pipeline.Committed,
	counts map[string]int) (map[pipeline.TopicPartition]bool, error) {
	if c.cfg.Start == Earliest {
		return nil, nil
	}
	topics := map[string]bool{}
	for tp, h := range held {
		if h.Offset < 0 {
			topics[tp.Topic] = true
		}
	}
	all := maps.Clone(held)
	var others []pipeline.TopicPartition
	for topic := range topics {
		for p := range int32(counts[topic]) {
			tp := pipeline.TopicPartition{Topic: topic, Partition: p}
			if _, owned := held[tp]; !owned {
				others = append(others, tp)
			}
		}
	}
	// Other workers commit them all the time: any offset will do, so none of their transactions is waited for.
	theirs, err := c.groupOffsets(ctx, s, others, false)
	if err != nil {
		return nil, err
	}
	maps.Copy(all, theirs)
	first := map[string]int{} // the fewest partitions that a topic had when reading of one of them began
	for tp, h := range all {
		if h.Offset < 0 || !topics[tp.Topic] {
			continue
		}
		var b began
		if json.Unmarshal([]byte(h.Metadata), &b) != nil {
			b = began{}
		}
		if n, ok := first[tp.Topic]; !ok || b.Partitions < n {
			first[tp.Topic] = b.Partitions
		}
	}
	late := map[pipeline.TopicPartition]bool{}
	for tp, h := range held {
		if n, ok := first[tp.Topic]; ok && h.Offset < 0 && int(tp.Partition) >= n {
			late[tp] = true
		}
	}
	return late, nil
}

// settledOffsets are the group's offsets after the last transaction of this worker.
func (c *Client) settledOffsets(ctx context.Context, s *session, tps []pipeline.TopicPartition) (
	map[pipeline.TopicPartition]pipeline.Committed, error) {
	if c.cfg.Guarantee != ExactlyOnce {
		return c.groupOffsets(ctx, s, tps, false)
	}
	if !c.take(ctx) {
		return nil, stopped("join", ctx.Err())
	}
	defer c.release()
	if err := c.producer.settle(ctx); err != nil {
		return nil, c.identityFault(ctx, "join", err)
	}
	return c.groupOffsets(ctx, s, tps, true)
}

// logOffset is the first offset of a partition's log, or the one behind its last committed record.
func (c *Client) logOffset(ctx context.Context, s *session, tp pipeline.TopicPartition, which Start) (int64, error) {
	ctx, cancel := s.until(ctx)
	defer cancel()
	timestamp := int64(-2)
	if which == Latest {
		timestamp = -1
	}
	var offset int64
	err := c.retry(ctx, "list-offsets", time.Time{}, func() error {
		leader := c.leader(tp)
		if leader < 0 {
			if err := c.refresh(ctx); err != nil {
				return err
			}
			return answer(errLeaderNotAvailable, "ListOffsets", "topic %s", tp.Topic)
		}
		req := &listOffsetsRequest{ReplicaID: -1, IsolationLevel: 1, Topics: []listOffsetsTopic{{Name: tp.Topic,
			Partitions: []listOffsetsPartition{{Partition: tp.Partition, LeaderEpoch: -1, Timestamp: timestamp}}}}}
		req.route(leader)
		r, err := ask[*listOffsetsResponse](ctx, c, requestTimeout, req)
		if err != nil {
			return errors.Join(err, c.refresh(ctx))
		}
		if len(r.Topics) != 1 || len(r.Topics[0].Partitions) != 1 {
			return errors.New("ListOffsets: the answer is not for one partition")
		}
		x := r.Topics[0].Partitions[0]
		if err := answer(x.ErrorCode, "ListOffsets", "topic %s", tp.Topic); err != nil {
			if retriable(err) {
				err = errors.Join(err, c.refresh(ctx))
			}
			return err
		}
		offset = x.Offset
		return nil
	})
	if err != nil && s.over() {
		return 0, errSessionOver
	}
	return offset, err
}
