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
// aborted transactions (the algorithm of Java's CompletedFetch). next is the position behind everything looked at. It lies
// beyond the last record where control batches, aborted batches or batches emptied by compaction follow it.
//
// The error is errPartial when the answer is cut within its first batch, a *corruptError when that batch is damaged. Damage
// further on is left for the next fetch, whose first batch it will be.
func committedRecords(tp pipeline.TopicPartition, res *fetchResult, from int64) (records []pipeline.Record, next int64, err error) {
	open := slices.Clone(res.Aborted)
	slices.SortFunc(open, func(a, b abortedTxn) int {
		switch {
		case a.FirstOffset < b.FirstOffset:
			return -1
		case a.FirstOffset > b.FirstOffset:
			return 1
		}
		return 0
	})
	aborted := map[int64]bool{} // producers whose records at this point of the log belong to an aborted transaction
	next = from
	for p := res.Records; len(p) > 0; {
		b, rest, err := nextBatch(p)
		if err == nil {
			for len(open) > 0 && open[0].FirstOffset <= b.last {
				aborted[open[0].ProducerID] = true
				open = open[1:]
			}
			switch {
			case b.control():
				if b.aborts() {
					delete(aborted, b.producer)
				}
			case b.transactional() && aborted[b.producer]:
			case b.last >= from:
				records, err = b.records(tp, from, records)
			}
		}
		switch {
		case err == nil:
		case next > from:
			return records, next, nil
		case err == errPartial:
			return nil, from, err
		default:
			return nil, from, &corruptError{tp, from, offsetBehind(p), err}
		}
		next = max(next, b.last+1)
		p = rest
	}
	return records, next, nil
}
