package kafka

import (
	"fmt"
	"slices"

	"sluice/pipeline"
)

// This file owns what a read_committed reader may see of a fetch answer.

// corruptError says that the log of a partition cannot be read at an offset.
type corruptError struct {
	tp     pipeline.TopicPartition
	offset int64
	behind int64 // the offset behind the batch, as its header says, which may be damaged too; -1: it says nothing
	err    error
}

func (e *corruptError) Error() string {
	return fmt.Sprintf("%s cannot be read at offset %d: %v", e.tp, e.offset, e.err)
}

func (e *corruptError) Unwrap() error { return e.err }

// committedRecords decodes the answer to a fetch from position from: without control records and without records of
// aborted transactions (the algorithm of Java's CompletedFetch). next is the position behind everything looked at. It
// lies beyond the last record where control batches, aborted batches or batches emptied by compaction follow it.
//
// The error is errPartial when the answer is cut within its first batch, a *corruptError when that batch is damaged.
// Damage further on is left for the next fetch, whose first batch it will be.
func committedRecords(tp pipeline.TopicPartition, res *fetchResult, from int64) (records []pipeline.Record, next int64,
	err error) {
	v := view{open: slices.Clone(res.Aborted), aborted: map[int64]bool{}}
	slices.SortFunc(v.open, func(a, b abortedTxn) int {
		switch {
		case a.FirstOffset < b.FirstOffset:
			return -1
		case a.FirstOffset > b.FirstOffset:
			return 1
		}
		return 0
	})
	next = from
	for p := res.Records; len(p) > 0; {
		var b batch
		var rest []byte
		b, rest, records, err = v.take(p, tp, from, records)
		switch {
		case err == nil:
		case next > from:
			return records, next, nil
		case err == errPartial:
			return nil, from, err
		case b.payload != nil:
			return nil, from, &corruptError{tp, from, b.last + 1, err}
		default:
			return nil, from, &corruptError{tp, from, offsetBehind(p), err}
		}
		next, p = max(next, b.last+1), rest
	}
	return records, next, nil
}

// view is what is known of transactions at a point of the log.
type view struct {
	open    []abortedTxn   // that begin further on, in their order
	aborted map[int64]bool // producers whose records at this point belong to an aborted transaction
}

// take reads the first batch of p, appends what may be seen of it from offset from on, and returns the bytes behind it.
// A panic over the batch, of ours or of a codec's, is an error of that batch.
func (v *view) take(p []byte, tp pipeline.TopicPartition, from int64, to []pipeline.Record) (b batch, rest []byte,
	records []pipeline.Record, err error) {
	records = to
	defer func() {
		if x := recover(); x != nil {
			err = fmt.Errorf("decoding %w", pipeline.Recovered(x))
		}
	}()
	if b, rest, err = nextBatch(p); err != nil {
		return b, rest, to, err
	}
	for len(v.open) > 0 && v.open[0].FirstOffset <= b.last {
		v.aborted[v.open[0].ProducerID] = true
		v.open = v.open[1:]
	}
	switch {
	case b.control():
		var aborts bool
		if aborts, err = b.aborts(); aborts {
			delete(v.aborted, b.producer)
		}
	case b.transactional() && v.aborted[b.producer]:
	case b.last >= from:
		records, err = b.records(tp, from, to)
	}
	return b, rest, records, err
}
