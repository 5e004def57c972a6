package pipeline

import "context"

// Source delivers records in offset order to a Flow until ctx ends. Implemented by pipeline/kafka.
//
// The source owns membership and positions; the flow owns everything in flight. The order of calls is: Assign, then any
// number of Deliver (concurrent for different partitions, in order for one), then, at a rebalance, Quiesce, Assign, ...
// .
type Source interface {
	// Run returns nil when ctx ended, or the *Fault that ended it (fenced, config). Transient errors it retries itself.
	Run(ctx context.Context, flow Flow) error
}

// Flow is what a source pours into. Implemented by Stage.
type Flow interface {
	// Room is how many bytes of records of tp the flow takes now; 0 leaves the partition out of the next fetch
	// (back-pressure). Called often; does not block.
	Room(tp TopicPartition) int

	// Deliver hands over records of tp in offset order, the answer to a fetch from position from. next is the position
	// after them, which may lie beyond the last record (compaction, control records, aborted transactions) and may come
	// with no records at all. Does not block. It reports false, having taken nothing, when the partition is not
	// assigned or its position is not from: an answer from before a reassignment, to be thrown away.
	Deliver(tp TopicPartition, from int64, records []Record, next int64) bool

	// Quiesce is called before the group is joined again: the flow finishes the commit in progress, commits what is
	// ready, and starts no further commit until Assign. It returns early, with nothing more in progress, when ctx ends.
	Quiesce(ctx context.Context)

	// Assign replaces the set of owned partitions. committed holds, for every owned partition, the position to start
	// from (the group's committed offset, or what the start policy says) and the metadata that was committed with it.
	// For a partition that was owned before and whose committed offset is what this flow committed last, work in flight
	// is kept; everything else is dropped. The result is the position to fetch from, for every owned partition.
	Assign(committed map[TopicPartition]Committed) map[TopicPartition]int64

	// Lag tells the high watermark (the offset behind the last committed record of the log) seen with a fetch.
	Lag(tp TopicPartition, highWatermark int64)
}

// Committed is what a group has for one partition.
type Committed struct {
	Offset   int64  // the next record to read
	Metadata string // what the last commit of this offset said beside it (Commit.Metadata); "" if nothing
}

// Sink makes commits durable. Implemented by pipeline/kafka; one commit at a time.
type Sink interface {
	// Commit returns nil when everything in c is durable and visible. Otherwise nothing of it is or ever will be
	// visible (exactly-once), or it may be published again (at-least-once), and the error says what to do:
	//
	//   *Fault{Kind: Transient}  try again: the sink has recovered. Records are not inferred again.
	//   *Fault{Kind: Rebalance}  the group has moved on: wait for the next Assign.
	//   *RefusedError            the broker refuses the messages that it names: replace them.
	//   *Fault{Kind: Fenced}     a twin has taken over: stop.
	//   *Fault{Kind: Config}     a person must act (permission, missing topic): stop.
	Commit(ctx context.Context, c *Commit) error

	// MaxMessageBytes is the largest message (key + value + headers) the topic takes, as far as known; 0 if unknown.
	MaxMessageBytes(topic string) int
}
