package pipeline

import (
	"fmt"
	"strings"
	"time"
)

// This file owns messages that a broker refuses for what they are: too large, a timestamp out of the topic's range, no
// key where a compacted topic wants one, a policy. Such a message will be refused again for as long as it is sent, so
// its record gets another outcome, and its neighbours come out (Stage.replace).

// Why a broker refuses a message: the reason of the dead letter in its place, and a label of metrics.
const (
	RefusedSize      = "result-too-large"  // max.message.bytes or segment.bytes of the topic
	RefusedTimestamp = "refused-timestamp" // message.timestamp.before.max.ms or .after.max.ms of the topic
	RefusedRecord    = "refused-record"    // no key on a compacted topic, or a check of the broker's own
	RefusedPolicy    = "refused-policy"    // a policy of the broker
	RefusedFormat    = "refused-format"    // the topic's message format is older than what the worker writes
	RefusedCorrupt   = "refused-corrupt"   // damaged each time that it arrives
	RefusedRequest   = "refused-request"   // a request that the broker calls invalid, again and again
)

// Refusal is a broker's word about one message of a commit.
type Refusal struct {
	Message   int // index in Commit.Messages
	Topic     string
	Partition int32
	Reason    string // one of Refused...
	Bytes     int    // of a message that is too large; 0: unknown
	Limit     int    // bytes that the topic takes; 0: unknown
	Err       error  // what the broker said, and what a person can do
	At        time.Time
}

func (x *Refusal) Error() string {
	return fmt.Sprintf("topic %s, partition %d, refuses the message: %v", x.Topic, x.Partition, x.Err)
}

func (x *Refusal) Unwrap() error { return x.Err }

// RefusedError says that the broker refused messages of a commit, and which: nothing of the commit is visible
// (exactly-once), and the same commit would be refused again. There is at least one refusal.
type RefusedError struct{ Refusals []Refusal }

func (e *RefusedError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "commit: %d messages are refused", len(e.Refusals))
	if len(e.Refusals) > 0 {
		fmt.Fprintf(&b, ", the first: %v", &e.Refusals[0])
	}
	return b.String()
}
