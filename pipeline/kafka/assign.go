package kafka

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"

	"sluice/pipeline"
)

// This file owns who gets which partition: a pure function over what the members told the leader, and the bytes in
// which they tell it (Kafka's consumer protocol, so that kafka-consumer-groups can show both).

// protocolName is the name of our assignment protocol: members of other programs are refused by the broker (code 23).
const protocolName = "sluice-sticky"

// member is what the leader knows of a group member. Members are told apart by instance id: member ids change at every
// restart.
type member struct {
	instance   string
	topics     []string
	owned      []pipeline.TopicPartition // as of generation
	generation int32
}

// assign shares the partitions out. Every partition of a topic that somebody subscribes to goes to exactly one
// subscriber. With equal subscriptions the shares differ by at most one partition, and no partition moves that need
// not: owners keep theirs unless they have more than their share or are gone.
func assign(members []member, counts map[string]int) map[string][]pipeline.TopicPartition {
	members = slices.Clone(members)
	slices.SortFunc(members, func(a, b member) int { return strings.Compare(a.instance, b.instance) })
	all := sortedPartitions(counts)

	subscribed := make([]map[string]bool, len(members))
	owner := map[pipeline.TopicPartition]int{} // index of the member that the partition stays with
	for i, m := range members {
		subscribed[i] = map[string]bool{}
		for _, t := range m.topics {
			subscribed[i][t] = true
		}
		for _, tp := range m.owned {
			if !subscribed[i][tp.Topic] || int(tp.Partition) >= counts[tp.Topic] {
				continue
			}
			// Two claims: a member that was away still claims what it had then; the younger generation is right.
			if j, taken := owner[tp]; !taken || members[j].generation < m.generation {
				owner[tp] = i
			}
		}
	}
	total := make([]int, len(members))
	ofTopic := make([]map[string]int, len(members))
	for i := range members {
		ofTopic[i] = map[string]int{}
	}
	give := func(tp pipeline.TopicPartition, to int) {
		owner[tp] = to
		total[to]++
		ofTopic[to][tp.Topic]++
	}
	for tp, i := range owner {
		give(tp, i)
	}
	// lightest is the subscriber of the topic with the fewest partitions, then the fewest of this topic.
	lightest := func(topic string) int {
		best := -1
		for i := range members {
			if subscribed[i][topic] && (best < 0 || total[i] < total[best] || total[i] == total[best] &&
				ofTopic[i][topic] < ofTopic[best][topic]) {
				best = i
			}
		}
		return best
	}
	for _, tp := range all {
		if _, owned := owner[tp]; !owned {
			if i := lightest(tp.Topic); i >= 0 {
				give(tp, i)
			}
		}
	}
	// Move one partition at a time from a member to one that has at least two fewer. Each move brings the shares closer
	// together, so it ends. A member gives up what it has most of.
	for {
		var tp pipeline.TopicPartition
		from, to := -1, -1
		for _, p := range all {
			i, owned := owner[p]
			if !owned {
				continue
			}
			j := lightest(p.Topic)
			if total[i]-total[j] < 2 {
				continue
			}
			if from < 0 || total[i] > total[from] || i == from && ofTopic[i][p.Topic] > ofTopic[from][tp.Topic] {
				tp, from, to = p, i, j
			}
		}
		if from < 0 {
			break
		}
		total[from]--
		ofTopic[from][tp.Topic]--
		give(tp, to)
	}
	out := make(map[string][]pipeline.TopicPartition, len(members))
	for i := range members {
		out[members[i].instance] = nil
	}
	for _, tp := range all {
		if i, owned := owner[tp]; owned {
			out[members[i].instance] = append(out[members[i].instance], tp)
		}
	}
	return out
}

// sortedPartitions lists all partitions, partition 0 of every topic first: dealt out in this order every member gets
// some of every topic.
func sortedPartitions(counts map[string]int) []pipeline.TopicPartition {
	var all []pipeline.TopicPartition
	for t, n := range counts {
		for p := range n {
			all = append(all, pipeline.TopicPartition{Topic: t, Partition: int32(p)})
		}
	}
	slices.SortFunc(all, func(a, b pipeline.TopicPartition) int {
		if a.Partition != b.Partition {
			return int(a.Partition) - int(b.Partition)
		}
		return strings.Compare(a.Topic, b.Topic)
	})
	return all
}

// subscription encodes a member's metadata: ConsumerProtocolSubscription version 2 (topics, owned partitions,
// generation).
func (m *member) subscription() []byte {
	b := []byte{0, 2}
	b = binary.BigEndian.AppendUint32(b, uint32(len(m.topics)))
	for _, t := range m.topics {
		b = appendString(b, t)
	}
	b = binary.BigEndian.AppendUint32(b, 0xffffffff) // no user data
	b = appendPartitions(b, m.owned)
	return binary.BigEndian.AppendUint32(b, uint32(m.generation))
}

// readSubscription reads what subscription wrote; later versions may have more behind it.
func readSubscription(instance string, b []byte) (member, error) {
	r := wireReader{p: b}
	version := r.int16()
	m := member{instance: instance, generation: -1}
	for range r.count() {
		m.topics = append(m.topics, r.string())
	}
	r.bytes()
	if version >= 1 {
		m.owned = r.partitions()
	}
	if version >= 2 {
		m.generation = r.int32()
	}
	if r.bad {
		return m, fmt.Errorf("the subscription of member %q (%d bytes, version %d) cannot be read", instance, len(b),
			version)
	}
	return m, nil
}

// assignment encodes a member's share: ConsumerProtocolAssignment version 1. User data holds the partition counts that
// the assignment was made from, so that a restarted leader can see that a topic has grown meanwhile.
func assignment(share []pipeline.TopicPartition, counts map[string]int) []byte {
	var user []byte
	topics := make([]string, 0, len(counts))
	for t := range counts {
		topics = append(topics, t)
	}
	slices.Sort(topics)
	user = binary.BigEndian.AppendUint32(user, uint32(len(topics)))
	for _, t := range topics {
		user = appendString(user, t)
		user = binary.BigEndian.AppendUint32(user, uint32(counts[t]))
	}
	b := appendPartitions([]byte{0, 1}, share)
	b = binary.BigEndian.AppendUint32(b, uint32(len(user)))
	return append(b, user...)
}

// readAssignment reads what assignment wrote. No bytes at all are an empty share.
func readAssignment(b []byte) (share []pipeline.TopicPartition, counts map[string]int, err error) {
	counts = map[string]int{}
	if len(b) == 0 {
		return nil, counts, nil
	}
	r := wireReader{p: b}
	r.int16()
	share = r.partitions()
	user := wireReader{p: r.bytes()}
	if len(user.p) > 0 {
		for range user.count() {
			t := user.string()
			counts[t] = int(user.int32())
		}
	}
	if r.bad || user.bad {
		return nil, nil, errors.New("the assignment from the group's leader cannot be read: does another program use " +
			"this group?")
	}
	return share, counts, nil
}

func appendString(b []byte, s string) []byte {
	b = binary.BigEndian.AppendUint16(b, uint16(len(s)))
	return append(b, s...)
}

// appendPartitions appends an array of (topic, array of partition), grouped by topic.
func appendPartitions(b []byte, tps []pipeline.TopicPartition) []byte {
	groups := byTopic(tps)
	b = binary.BigEndian.AppendUint32(b, uint32(len(groups)))
	for _, g := range groups {
		b = appendString(b, g.topic)
		b = binary.BigEndian.AppendUint32(b, uint32(len(g.partitions)))
		for _, p := range g.partitions {
			b = binary.BigEndian.AppendUint32(b, uint32(p))
		}
	}
	return b
}

type topicPartitions struct {
	topic      string
	partitions []int32
}

// byTopic groups partitions by topic, both in order.
func byTopic(tps []pipeline.TopicPartition) []topicPartitions {
	tps = slices.Clone(tps)
	slices.SortFunc(tps, func(a, b pipeline.TopicPartition) int {
		if c := strings.Compare(a.Topic, b.Topic); c != 0 {
			return c
		}
		return int(a.Partition) - int(b.Partition)
	})
	var out []topicPartitions
	for _, tp := range tps {
		if n := len(out); n == 0 || out[n-1].topic != tp.Topic {
			out = append(out, topicPartitions{topic: tp.Topic})
		}
		last := &out[len(out)-1]
		last.partitions = append(last.partitions, tp.Partition)
	}
	return out
}

// wireReader reads big-endian fields; bad is set by the first read that fails.
type wireReader struct {
	p   []byte
	bad bool
}

func (r *wireReader) take(n int) []byte {
	if n < 0 || n > len(r.p) {
		r.bad, r.p = true, nil
		return nil
	}
	b := r.p[:n]
	r.p = r.p[n:]
	return b
}

func (r *wireReader) int16() int16 {
	if b := r.take(2); b != nil {
		return int16(binary.BigEndian.Uint16(b))
	}
	return 0
}

func (r *wireReader) int32() int32 {
	if b := r.take(4); b != nil {
		return int32(binary.BigEndian.Uint32(b))
	}
	return 0
}

// count is the length of an array whose elements take at least two bytes each.
func (r *wireReader) count() int {
	n := int(r.int32())
	if n < 0 {
		return 0 // a null array
	}
	if n > len(r.p)/2 {
		r.bad, r.p = true, nil
		return 0
	}
	return n
}

func (r *wireReader) string() string { return string(r.take(int(r.int16()))) }

// bytes is nil for length -1.
func (r *wireReader) bytes() []byte {
	n := int(r.int32())
	if n < 0 {
		return nil
	}
	return r.take(n)
}

func (r *wireReader) partitions() []pipeline.TopicPartition {
	var out []pipeline.TopicPartition
	for range r.count() {
		t := r.string()
		for range r.count() {
			out = append(out, pipeline.TopicPartition{Topic: t, Partition: r.int32()})
		}
	}
	return out
}
