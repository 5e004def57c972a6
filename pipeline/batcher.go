package pipeline

import "math/bits"

// This file owns the choice of what runs next: a pure state machine without locks, clocks or goroutines. Engine owns
// it.
//
// The cost of a run is its tokens. A free runner takes what waits, at once, up to the model's token budget: nobody
// waits for a batch to fill (work-conserving). Rows wait by priority and by class of like length, since attention is
// padded to the longest row of a batch; among the classes of a priority the row that is due first decides. Three rules
// bend that order:
//
//   - Urgent rows go before others, but of urgentStreak+1 batches in a row at least one is for the others, if any wait.
//   - Long rows occupy at most all runners but one while shorter ones wait: a short text never queues behind long ones
//   on
//     every core.
//   - A row that is due first goes first, whatever its class; due is bounded by the time of arrival (Engine.due), so
//   that
//     nothing starves.

// BatchReason says what closed a batch; it labels sluice_batches_total.
type BatchReason string

const (
	ByBudget  BatchReason = "budget"  // the token budget is reached
	ByDrained BatchReason = "drained" // nothing more was waiting
	ByShare   BatchReason = "shared"  // the rest is left to idle runners
	ByLength  BatchReason = "length"  // what else was waiting is of unlike length or priority
	BySplit   BatchReason = "split"   // half of a batch that failed
)

// DefaultBatchTokens is the token budget of one run where none is measured (classify) or given. The worker measures its
// own at the start (probe.go).
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
	row      Row
	model    int
	priority priority
	due      int64  // the least goes first: nanoseconds on the engine's clock
	seq      uint64 // order of arrival: decides among equals
	hash     uint64 // of the row, in the engine's table of rows in flight
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

func classOf(tokens int) int {
	if tokens <= 8 {
		return 0
	}
	octave := bits.Len(uint(tokens-1)) - 4 // 9..16: 0, 17..32: 1
	quarter := ((tokens-1)>>(octave+1) - 4)
	return min(classes-1, 1+4*octave+quarter)
}

// octaveBelow is the first class whose longest rows are more than half as long as those of class c.
func octaveBelow(c int) int { return max(0, c-3) }

var longClass = classOf(longTokens + 1)

// queue is what waits for one model.
type queue struct {
	waiting [priorities][classes]taskHeap
	rows    int
	tokens  int
}

// batch is one run.
type batch struct {
	model  int
	tasks  []*task
	tokens int
	long   bool
	reason BatchReason
}

type batcher struct {
	runners     int
	budgets     []Budget // one a model
	queues      []queue  // one a model
	seq         uint64
	streak      int // batches of urgent rows since the last of others
	runningLong int
}

func newBatcher(runners int, budgets []Budget) *batcher {
	return &batcher{runners: runners, budgets: budgets, queues: make([]queue, len(budgets))}
}

func (b *batcher) add(t *task) {
	b.seq++
	t.seq = b.seq
	q := &b.queues[t.model]
	q.waiting[t.priority][classOf(len(t.row))].push(t)
	q.rows++
	q.tokens += len(t.row)
}

// head is where the row stands that should run next.
type head struct {
	model, class int
	priority     priority
	first        *task
}

// first finds the row of a priority that is due first, among those of classes less than below.
func (b *batcher) first(p priority, below int) (h head) {
	for m := range b.queues {
		if b.queues[m].rows == 0 {
			continue
		}
		for c := range below {
			if f := b.queues[m].waiting[p][c]; len(f) > 0 && (h.first == nil || f[0].before(h.first)) {
				h = head{model: m, class: c, priority: p, first: f[0]}
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
	q := &b.queues[h.model]
	// While less waits than the runners could take, each takes its part, if that is enough for a run to be worth its
	// while: so two runners are done with it sooner than one would be. Under load the budget is what counts.
	budget := min(b.budgets[h.model].Tokens, max(b.budgets[h.model].Least, q.tokens/b.runners))
	out := batch{model: h.model, tasks: into[:0], long: h.class >= longClass, reason: ByDrained}
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
			n := len((*f)[0].row)
			if len(out.tasks) > 0 && out.tokens+n > budget {
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
	}
	switch {
	case out.tokens >= budget:
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

// done says that a batch of next has run.
func (b *batcher) done(out batch) {
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
