package kafka

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"slices"
	"strings"
	"time"
	"unicode"

	"sluice/pipeline"
)

// This file owns batches that a broker refuses for what is in them, and finds the messages that are at fault.
//
// What brokers check is in Kafka's LogValidator, UnifiedLog (analyzeAndValidateRecords, append) and ReplicaManager. A
// refused batch leaves nothing in the log and uses up no sequence number, so parts of it can be sent in its place:
//
//	the broker names records (KIP-467, Produce v8)   those are refused; the others go on as a batch of their own
//	it does not, and there are several               the halves go on
//	it does not, and there is one                    that is refused
//
// So one look at a transaction finds every message that is refused. If there is one, the transaction cannot be
// committed: the committer aborts it and tells the stage (pipeline.RefusedError). Where a batch was only too large as a
// whole, none is, and the transaction goes on.

// refusal is what a broker's error code says about the messages of a batch.
type refusal struct{ reason, remedy string }

// refusing are the codes with which a broker refuses messages for what they are. All others concern the producer, the
// partition, permissions or the broker itself.
var refusing = map[int16]refusal{
	errMessageTooLarge: {pipeline.RefusedSize, "raise max.message.bytes of the topic"},
	errRecordListTooLarge: {pipeline.RefusedSize, "raise segment.bytes of the topic: a batch must fit into a segment " +
		"of its log"},
	errInvalidTimestamp: {pipeline.RefusedTimestamp, "messages carry the timestamp of their input record: mend its " +
		"producer (microseconds for milliseconds?), or raise message.timestamp.after.max.ms or " +
		"message.timestamp.before.max.ms of the topic, or set its message.timestamp.type to LogAppendTime"},
	errInvalidRecord: {pipeline.RefusedRecord, "a compacted topic takes no message without a key: give the input " +
		"records keys, or set cleanup.policy=delete; a broker that checks values against a schema says so itself"},
	errPolicyViolation: {pipeline.RefusedPolicy, "ask who runs the brokers which policy it is"},
	errUnsupportedForMessage: {pipeline.RefusedFormat, "the topic's message.format.version is older than Kafka 0.11, " +
		"or a gateway takes no transactions: raise the version"},
	// told of a message without a key on a compacted topic before KIP-467, and by brokers of others to this day
	errCorrupt: {pipeline.RefusedCorrupt, "on its way from here to the broker it is damaged each time: look at " +
		"proxies and network cards; or the topic is compacted and the record has no key: give the input records " +
		"keys, or set cleanup.policy=delete"},
	errInvalidRequest: {pipeline.RefusedRequest, "a gateway before the brokers may have rules of its own"},
}

// largestSentence is how much of a broker's words is kept: a plug-in may repeat a record in them.
const largestSentence = 300

// sentence is a broker's words as one line without anything that acts on a terminal.
func sentence(said string) string {
	said = strings.Join(strings.FieldsFunc(strings.ToValidUTF8(said, "\uFFFD"), func(r rune) bool {
		return unicode.IsSpace(r) || !unicode.IsPrint(r)
	}), " ")
	if len(said) > largestSentence {
		cut := largestSentence
		for said[cut]&0xc0 == 0x80 { // within a character
			cut--
		}
		said = said[:cut] + "…"
	}
	return said
}

// refuse takes apart a batch that the broker refuses. It returns what is refused for good, and what of the batch is
// still to be sent.
func (c *Client) refuse(e *batcher, tp pipeline.TopicPartition, b encodedBatch, x *produceResult) (
	[]pipeline.Refusal, []encodedBatch, error) {
	refused := map[int]string{} // what is said, by index in the batch
	for _, r := range x.RecordErrors {
		if i := int(r.Index); i >= 0 && i < len(b.messages) {
			refused[i] = r.Message
		}
	}
	if refusing[x.ErrorCode].reason == pipeline.RefusedSize && len(b.messages) > 1 {
		c.smaller(tp.Topic, len(b.data)/2)
		clear(refused) // it is the batch that is too large
	}
	if len(refused) == 0 && len(b.messages) == 1 {
		refused[0] = ""
	}
	if len(refused) == 0 {
		half := len(b.messages) / 2
		rest, err := e.batches(b.messages[:half], b.messages[half:])
		return nil, rest, err
	}
	var found []pipeline.Refusal
	var others []outgoing
	for i, m := range b.messages {
		said, is := refused[i]
		if !is {
			others = append(others, m)
			continue
		}
		if said == "" {
			said = x.ErrorMessage
		}
		size := 0
		if len(b.messages) == 1 {
			size = len(b.data)
		}
		found = append(found, c.refusal(tp, m, size, x.ErrorCode, said))
	}
	rest, err := e.batches(others)
	return found, rest, err
}

// refusal is a broker's word about one message. said are its own words, "" where it has none.
func (c *Client) refusal(tp pipeline.TopicPartition, m outgoing, size int, code int16, said string) pipeline.Refusal {
	// One code holds for a batch: where one record's timestamp is wrong it is that, whatever the others' fault is.
	// These are the words of Kafka's LogValidator.validateKey.
	if code == errInvalidTimestamp && strings.Contains(said, "without key") {
		code = errInvalidRecord
	}
	r := refusing[code]
	x := pipeline.Refusal{Message: m.at, Topic: tp.Topic, Partition: tp.Partition, Reason: r.reason}
	err := answer(code, "Produce", "topic %s", tp.Topic)
	if said = sentence(said); said != "" {
		err = fmt.Errorf("%w: the broker says: %s", err, said)
	}
	if x.Reason == pipeline.RefusedSize {
		x.Bytes = size
		x.Limit, _ = c.sizeLimits(tp.Topic)
	}
	x.Err = fmt.Errorf("%w (%s)", err, r.remedy)
	return x
}

// smaller makes the batches for a topic that are made from now on smaller.
func (c *Client) smaller(topic string, limit int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	l := c.limits[topic]
	l.batch = max(batchHeader, limit)
	c.limits[topic] = l
}

// stamp gives a batch the sequence number that is due: earlier ones of its partition may have been refused.
func (b *encodedBatch) stamp(sequence int32) {
	if binary.BigEndian.Uint32(b.data[batchSequence:]) == uint32(sequence) {
		return
	}
	b.data = slices.Clone(b.data) // a request with it may still be on its way
	binary.BigEndian.PutUint32(b.data[batchSequence:], uint32(sequence))
	binary.BigEndian.PutUint32(b.data[batchCRC:], crc32.Checksum(b.data[batchAttrs:], castagnoli))
}

// search is the look for refused messages in one produce: what was found, and until when it is looked for.
type search struct {
	found    []pipeline.Refusal
	deadline time.Time
}

// over says that enough was found: the transaction does not last for ever.
func (s *search) over() bool { return len(s.found) > 0 && time.Now().After(s.deadline) }

// err is what was found, nil for nothing. The order is that of the commit.
func (s *search) err() error {
	if len(s.found) == 0 {
		return nil
	}
	slices.SortFunc(s.found, func(a, b pipeline.Refusal) int { return a.Message - b.Message })
	return &pipeline.RefusedError{Refusals: s.found}
}
