package engine

import (
	"math/bits"
	"slices"
)

// This file owns the choice of what runs next: a pure state machine without locks, clocks or goroutines. Every pool has
// one.
//
// The cost of a run is that of its rows: their tokens, where they are texts. A free runner takes what waits, at once,
// up to the model's token budget: nobody waits for a batch to fill (work-conserving). Rows wait by priority and by
// class of like cost, since attention is padded to the longest row of a batch; among the classes of a priority the row
// that is due first decides. Three rules bend that order:
//
//   - Urgent rows go before others, but of urgentStreak+1 batches in a row at least one is for the others, if any wait.
//   - Long rows occupy at most all runners but one while shorter ones wait: a short text never queues behind long ones
//     on every core.
//   - A row that is due first goes first, whatever its class; due is bounded by the time of arrival (Handle.due), so
//     that nothing starves.

// BatchReason says what closed a batch; it labels sluice_batches_total.
type BatchReason string

const (
	ByBudget  BatchReason = "budget"  // the token budget is reached
	ByDrained BatchReason = "drained" // nothing more was waiting
	ByShare   BatchReason = "shared"  // the rest is left to idle runners
	ByLength  BatchReason = "length"  // what else was waiting is of unlike length or priority
	BySplit   BatchReason = "split"   // half of a batch that failed
)

// DefaultBatchTokens is the token budget of one run where none is measured or chosen: for tools that run a model for a
// moment only. A worker measures its own (budget.go).
const DefaultBatchTokens = 256

// longTokens is where a row counts as long. At 768 wide such a row keeps a core busy for tens of milliseconds.
const longTokens = 64

// urgentStreak is how many batches of urgent rows may run in a row while others wait.
const urgentStreak = 3

// priority orders rows before their due time does.
type priority int

const (
	urgent priority = iota
	ordinary
	priorities
)

// task is one distinct row waiting to run, for everybody who asked for it.
type task struct {
	input    Input
	queue    *queue // its model's
	cost     int    // the input's
	priority priority
	due      int64  // the least goes first: nanoseconds on the engine's clock
	seq      uint64 // order of arrival: decides among equals
	hash     uint64 // of the row, in the pool's table of rows in flight
	askers   []asker
	running  bool
}

// asker is one place where a row's logits go.
type asker struct {
	req   *request
	index int // of the row in the request
}

// Length classes are a quarter of an octave wide (8 tokens and less are one class), so that the rows of a class fill at
// least four fifths of a padded batch.
const classes = 1 + 4*10

func classOf(cost int) int {
	if cost <= 8 {
		return 0
	}
	octave := bits.Len(uint(cost-1)) - 4 // 9..16: 0, 17..32: 1
	quarter := ((cost-1)>>(octave+1) - 4)
	return min(classes-1, 1+4*octave+quarter)
}

// octaveBelow is the first class whose longest rows are more than half as long as those of class c.
func octaveBelow(c int) int { return max(0, c-3) }

var longClass = classOf(longTokens + 1)

// queue is what waits for one model.
type queue struct {
	handle  *Handle // whose queue it is
	budget  Budget
	waiting [priorities][classes]taskHeap
	rows    int // waiting
	cost    int // of the rows that wait
	running int // batches
}

// quiet says that no row of the model waits or runs.
func (q *queue) quiet() bool { return q.rows == 0 && q.running == 0 }

// batch is one run.
type batch struct {
	queue  *queue
	tasks  []*task
	cost   int
	long   bool
	reason BatchReason
}

type batcher struct {
	runners     int
	queues      []*queue // one a model
	seq         uint64
	streak      int // batches of urgent rows since the last of others
	runningLong int
}

func newBatcher(runners int) *batcher { return &batcher{runners: runners} }

// open takes rows for a model from now on.
func (b *batcher) open(q *queue) { b.queues = append(b.queues, q) }

// drop forgets a model of which nothing waits.
func (b *batcher) drop(q *queue) {
	b.queues = slices.DeleteFunc(b.queues, func(other *queue) bool { return other == q })
}

func (b *batcher) add(t *task) {
	b.seq++
	t.seq = b.seq
	q := t.queue
	q.waiting[t.priority][classOf(t.cost)].push(t)
	q.rows++
	q.cost += t.cost
}

// head is where the row stands that should run next.
type head struct {
	queue    *queue
	class    int
	priority priority
	first    *task
}

// first finds the row of a priority that is due first, among those of classes less than below.
func (b *batcher) first(p priority, below int) (h head) {
	for _, q := range b.queues {
		if q.rows == 0 {
			continue
		}
		for c := range below {
			if f := q.waiting[p][c]; len(f) > 0 && (h.first == nil || f[0].before(h.first)) {
				h = head{queue: q, class: c, priority: p, first: f[0]}
			}
		}
	}
	return h
}

// pick chooses among the priorities, by the rules above.
func (b *batcher) pick() head {
	below := classes
	if b.runningLong >= max(1, b.runners-1) {
		below = longClass
	}
	first, second := b.first(urgent, below), b.first(ordinary, below)
	if first.first == nil && second.first == nil { // only long rows wait: a free runner takes them all the same
		first, second = b.first(urgent, classes), b.first(ordinary, classes)
	}
	switch {
	case first.first == nil:
		b.streak = 0
		return second
	case second.first == nil:
		b.streak = 0
		return first
	case b.streak >= urgentStreak:
		b.streak = 0
		return second
	}
	b.streak++
	return first
}

// next forms the batch for a free runner while idle other runners wait for work too. It returns false when nothing
// waits. done must be told when the batch has run.
func (b *batcher) next(idle int, into []*task) (batch, bool) {
	h := b.pick()
	if h.first == nil {
		return batch{}, false
	}
	q := h.queue
	// While less waits than the runners could take, each takes its part, if that is enough for a run to be worth its
	// while: so two runners are done with it sooner than one would be. Under load the budget is what counts.
	budget := min(q.budget.Tokens, max(q.budget.Least, q.cost/b.runners))
	out := batch{queue: q, tasks: into[:0], long: h.class >= longClass, reason: ByDrained}
	q.running++
	if out.long {
		b.runningLong++
	}
	// With idle runners beside this one, each takes its share of the rows: one message on an idle worker never waits,
	// and a few are spread over the cores instead of being queued behind each other.
	share := (q.rows + idle) / (idle + 1)
	// The class of the first row, then shorter ones: they fit between rows of this class and pad less than longer ones
	// would. Beyond an octave padding costs more than the run saves.
	for c := h.class; c >= octaveBelow(h.class); c-- {
		f := &q.waiting[h.priority][c]
		for len(*f) > 0 {
			n := (*f)[0].cost
			if len(out.tasks) > 0 && out.cost+n > budget {
				out.reason = ByBudget
				return q.taken(out), true
			}
			if len(out.tasks) >= share && q.rows > len(out.tasks) {
				out.reason = ByShare
				return q.taken(out), true
			}
			out.tasks = append(out.tasks, f.pop())
			out.cost += n
		}
	}
	switch {
	case out.cost >= budget:
		out.reason = ByBudget
	case q.rows > len(out.tasks):
		out.reason = ByLength
	}
	return q.taken(out), true
}

// taken is a batch whose rows wait no more.
func (q *queue) taken(out batch) batch {
	q.rows -= len(out.tasks)
	q.cost -= out.cost
	return out
}

// done says that a batch of next has run.
func (b *batcher) done(out batch) {
	out.queue.running--
	if out.long {
		b.runningLong--
	}
}

func (t *task) before(other *task) bool {
	return t.due < other.due || t.due == other.due && t.seq < other.seq
}

// taskHeap holds tasks, the one that is due first in front.
type taskHeap []*task

func (h *taskHeap) push(t *task) {
	*h = append(*h, t)
	s := *h
	for i := len(s) - 1; i > 0; {
		parent := (i - 1) / 2
		if !s[i].before(s[parent]) {
			break
		}
		s[i], s[parent] = s[parent], s[i]
		i = parent
	}
}

func (h *taskHeap) pop() *task {
	s := *h
	top, last := s[0], len(s)-1
	s[0] = s[last]
	s[last] = nil
	s = s[:last]
	*h = s
	for i := 0; ; {
		child := 2*i + 1
		if child >= len(s) {
			break
		}
		if child+1 < len(s) && s[child+1].before(s[child]) {
			child++
		}
		if !s[child].before(s[i]) {
			break
		}
		s[i], s[child] = s[child], s[i]
		i = child
	}
	return top
}
