package pipeline

import "math/bits"

// This file owns the choice of what runs next: a pure state machine without locks, clocks or goroutines. Engine owns it.
//
// The cost of a run is its tokens. A free runner takes what waits, at once, up to its token budget: nobody waits for a
// batch to fill (work-conserving). Rows wait in classes of like length, oldest first, since attention is padded to the
// longest row of a batch; the class of the row that has waited longest goes first, so no class starves.

// BatchReason says what closed a batch; it labels sluice_batches_total.
type BatchReason string

const (
	ByBudget  BatchReason = "budget"  // the token budget is reached
	ByDrained BatchReason = "drained" // nothing more was waiting
	ByShare   BatchReason = "shared"  // the rest is left to idle runners
	ByLength  BatchReason = "length"  // what else was waiting is of unlike length
	BySplit   BatchReason = "split"   // half of a batch that failed
)

// DefaultBatchTokens is the token budget of one run. On CPU a row of 16 tokens and more is compute-bound already, so larger
// batches buy little throughput and cost latency; above about 256 tokens activations leave the cache and throughput falls.
// The one place where the number stands; bench/ holds what it was measured with.
const DefaultBatchTokens = 256

// task is one row waiting to run.
type task struct {
	row   Row
	index int // of the row in its request
	req   *request
	seq   uint64 // order of arrival
}

// Length classes: class c holds rows of at most 8<<c tokens, so that the rows of a class fill at least half of a padded
// batch.
const classes = 12

func classOf(tokens int) int {
	if tokens <= 8 {
		return 0
	}
	return min(classes-1, bits.Len(uint(tokens-1))-3)
}

// queue is what waits for one model.
type queue struct {
	class  [classes]fifo
	rows   int
	tokens int
}

// fifo is a queue of tasks that reuses its memory.
type fifo struct {
	items []task
	head  int
}

func (f *fifo) len() int     { return len(f.items) - f.head }
func (f *fifo) first() *task { return &f.items[f.head] }

func (f *fifo) push(t task) {
	if f.head > 64 && f.head*2 > len(f.items) {
		n := copy(f.items, f.items[f.head:])
		clear(f.items[n:])
		f.items, f.head = f.items[:n], 0
	}
	f.items = append(f.items, t)
}

func (f *fifo) pop() task {
	t := f.items[f.head]
	f.items[f.head] = task{}
	f.head++
	if f.head == len(f.items) {
		f.items, f.head = f.items[:0], 0
	}
	return t
}

// batch is one run.
type batch struct {
	model  int
	tasks  []task
	tokens int
	reason BatchReason
}

type batcher struct {
	budget int
	queues []queue // one a model
	seq    uint64
}

func newBatcher(models, budget int) *batcher {
	return &batcher{budget: budget, queues: make([]queue, models)}
}

func (b *batcher) add(model int, req *request, index int, row Row) {
	b.seq++
	q := &b.queues[model]
	q.class[classOf(len(row))].push(task{row: row, index: index, req: req, seq: b.seq})
	q.rows++
	q.tokens += len(row)
}

// next forms the batch for a free runner while idle other runners wait for work too. It returns false when nothing waits.
func (b *batcher) next(idle int, into []task) (batch, bool) {
	model, class, oldest := -1, 0, uint64(0)
	for m := range b.queues {
		for c := range b.queues[m].class {
			if f := &b.queues[m].class[c]; f.len() > 0 && (model < 0 || f.first().seq < oldest) {
				model, class, oldest = m, c, f.first().seq
			}
		}
	}
	if model < 0 {
		return batch{}, false
	}
	q := &b.queues[model]
	out := batch{model: model, tasks: into[:0], reason: ByDrained}
	// With idle runners beside this one, each takes its share of the rows: one message on an idle worker never waits,
	// and a few are spread over the cores instead of being queued behind each other.
	share := (q.rows + idle) / (idle + 1)
	// The class of the oldest row first, then shorter ones: they fit between rows of this class and pad less than longer
	// ones would.
	for c := class; c >= 0; c-- {
		f := &q.class[c]
		for f.len() > 0 {
			n := len(f.first().row)
			if len(out.tasks) > 0 && out.tokens+n > b.budget {
				out.reason = ByBudget
				return b.taken(q, out), true
			}
			if len(out.tasks) >= share && q.rows > len(out.tasks) {
				out.reason = ByShare
				return b.taken(q, out), true
			}
			out.tasks = append(out.tasks, f.pop())
			out.tokens += n
		}
		if c == class-1 {
			break // two neighbouring classes at most: beyond, padding costs more than the run saves
		}
	}
	switch {
	case out.tokens >= b.budget:
		out.reason = ByBudget
	case q.rows > len(out.tasks):
		out.reason = ByLength
	}
	return b.taken(q, out), true
}

func (b *batcher) taken(q *queue, out batch) batch {
	q.rows -= len(out.tasks)
	q.tokens -= out.tokens
	return out
}
