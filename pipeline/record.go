// Package pipeline is the stream processor: records in, outcomes out, offsets committed with the outcomes.
//
// It is pure Go. It knows no Kafka client, no ONNX Runtime and no tokenizer library: those stand behind the small
// interfaces in source.go and in package engine, implemented in pipeline/kafka, model/ort and tokenize/hf and joined in
// cmd/sluice.
package pipeline

import (
	"fmt"
	"iter"
	"time"
)

// TopicPartition names one partition of one topic.
type TopicPartition struct {
	Topic     string
	Partition int32
}

func (tp TopicPartition) String() string { return fmt.Sprintf("%s-%d", tp.Topic, tp.Partition) }

// Header is one Kafka record header. Keys may repeat; order is kept.
type Header struct {
	Key   string
	Value []byte
}

// Record is one Kafka message on its way through. A nil Key or Value is Kafka's null, an empty one is empty.
// The byte slices belong to the record from the moment it is delivered and are never written to.
type Record struct {
	Topic     string
	Partition int32
	Offset    int64
	Timestamp time.Time
	Key       []byte
	Value     []byte
	Headers   []Header
}

// TopicPartition is where the record came from.
func (r *Record) TopicPartition() TopicPartition { return TopicPartition{r.Topic, r.Partition} }

// Size is the number of bytes the record counts for in every memory bound: key, value and headers.
func (r *Record) Size() int {
	n := len(r.Key) + len(r.Value)
	for _, h := range r.Headers {
		n += len(h.Key) + len(h.Value)
	}
	return n
}

// Message is one message to publish. It goes to partition Source.Partition modulo the number of partitions of Topic, so
// that all messages made from one input partition keep its order (P2) and copartitioned topics stay copartitioned.
type Message struct {
	Topic     string
	Source    TopicPartition // the input partition it was made from
	Timestamp time.Time      // the source record's
	Key       []byte         // nil is null
	Value     []byte         // nil is null (a tombstone)
	Headers   []Header
}

// Size is the number of bytes of key, value and headers.
func (m *Message) Size() int {
	n := len(m.Key) + len(m.Value)
	for _, h := range m.Headers {
		n += len(h.Key) + len(h.Value)
	}
	return n
}

// Commit is what one transaction makes durable: messages, in the order of their input offsets within each input
// partition, and the offsets behind them (the next offset to read, as Kafka commits it).
type Commit struct {
	Messages []Message
	Offsets  map[TopicPartition]int64
	// Metadata is kept with the offset of a partition and comes back with the next Assign, here or elsewhere; at most
	// 4096 bytes (the broker's offset.metadata.max.bytes). A partition of Offsets that is not in it has none from then
	// on. See Attachment.
	Metadata map[TopicPartition]string
	// Outcomes are what Messages are made of, with their records, in the order of Messages: for who keeps them
	// elsewhere, too (package store). They are not to be written to, nor used when Commit has returned. nil: no records
	// are in this commit, but offsets or Metadata alone.
	Outcomes iter.Seq2[*Record, *Outcome]
}
