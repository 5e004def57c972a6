package pipeline

import (
	"iter"
	"slices"
	"sort"
	"time"
)

// This file owns the ledger: which records are in flight, in offset order per partition, each with its outcome once
// there is one. It is plain state without locks, clocks or goroutines; Stage owns it.
//
// Per partition, positions run: committed <= first unfinished record <= next.
//
//	entries[:taken]         finished, in the commit in progress    settle takes them out, release makes taken 0
//	entries[taken:ready]    finished, as all before them           the next commits take them
//	entries[ready:started]  with the processor, or finished early  finish moves ready over those that are finished
//	entries[started:]       not begun: a suspicion holds them      begin moves started; withdraw (a stop) drops them
//	next                    the position behind all of them        deliver adds here
//
// Until settle an entry keeps its outcome, so that nothing is inferred twice because of a commit. assign keeps a lane
// whole or drops it whole.

// entry is one record in flight.
type entry struct {
	lane     *lane
	record   Record
	size     int
	tokens   int
	arrived  time.Time
	finished bool
	outcome  Outcome
	meant    *Outcome  // what outcome stands in for, once a broker has refused that; nil: none has
	refusals []Refusal // of each outcome that was tried, one
}

// lane is one assigned partition. When a partition is lost its lane is forgotten: entries of a forgotten lane may still
// finish, which then changes nothing that anyone sees.
type lane struct {
	tp        TopicPartition
	gone      bool
	committed int64 // what the group has for this partition; -1: this flow has not committed here yet
	start     int64 // where this lane began
	next      int64 // position after everything delivered
	entries   []*entry
	started   int // entries[:started] were handed to the processor
	ready     int // entries[:ready] are finished
	inCommit  bool
	taken     int     // entries[:taken] are in the commit in progress
	takenNext int64   // the offset that commit carries for this partition
	note      string  // metadata committed with the offset
	takenNote string  // what that commit carries
	others    Members // what stands there of others, to be kept
	overfull  bool    // not all that should stand there fits, and the log knows
	mark      mark    // of note
	takenMark mark
	stuck     *entry // the first whose every outcome is refused: nothing from it on is committed; nil: none
	suspicion
	usage usage
	high  int64 // high watermark seen last, -1 unknown
}

// usage is what records in flight hold, counted against Limits.
type usage struct{ records, bytes, tokens int }

func (u *usage) add(records, bytes, tokens int) {
	u.records += records
	u.bytes += bytes
	u.tokens += tokens
}

// Limits bound the records in flight. A limit may be exceeded by what one fetch brings: reaching it stops the next one.
type Limits struct {
	PartitionRecords, PartitionBytes, PartitionTokens int
	TotalRecords, TotalBytes, TotalTokens             int
}

// DefaultLimits hold a worker with a few partitions below about 200 MB of payloads.
var DefaultLimits = Limits{
	PartitionRecords: 2000, PartitionBytes: 16 << 20, PartitionTokens: 200_000,
	TotalRecords: 10_000, TotalBytes: 64 << 20, TotalTokens: 1_000_000,
}

type ledger struct {
	limits Limits
	urgent map[string]bool // topics that the total limits do not hold up
	lanes  map[TopicPartition]*lane
	order  []*lane // lanes by topic and partition: the order commits go round in
	turn   int     // index into order where the next commit begins
	usage  usage

	commit []*entry // what is in the commit in progress, in the order of its messages

	guarded  bool   // marks are kept, and records that kill the process are found by them
	handover bool   // the group is about to be joined again: close every mark
	stopping bool   // nothing more comes in: close the marks of what is empty
	trial    *trial // the record that runs alone; nil: none
}

func newLedger(l Limits, urgentTopics ...string) *ledger {
	urgent := make(map[string]bool, len(urgentTopics))
	for _, t := range urgentTopics {
		urgent[t] = true
	}
	return &ledger{limits: l, urgent: urgent, lanes: map[TopicPartition]*lane{}}
}

// room is how many bytes more of tp may be fetched, 0 when a limit is reached.
func (l *ledger) room(tp TopicPartition) int {
	ln := l.lanes[tp]
	if ln == nil {
		return 0
	}
	lim, u, all := l.limits, ln.usage, l.usage
	// a backlog elsewhere must not keep an urgent record from being fetched; its own limits bound it
	if l.urgent[tp.Topic] {
		all = usage{}
	}
	if u.records >= lim.PartitionRecords || u.tokens >= lim.PartitionTokens ||
		all.records >= lim.TotalRecords || all.tokens >= lim.TotalTokens {
		return 0
	}
	bytes := min(lim.PartitionBytes-u.bytes, lim.TotalBytes-all.bytes)
	// Small records: the byte limit alone would let far more of them in than the record limit says. What the records
	// in flight weigh on average tells how many bytes the free places are.
	if u.records > 0 {
		free := min(lim.PartitionRecords-u.records, lim.TotalRecords-all.records)
		bytes = min(bytes, max(4096, free*max(1, u.bytes/u.records)))
	}
	return max(0, bytes)
}

// deliver appends records and moves the position from from to next. ok is false, and nothing is taken, for a partition
// that is not assigned, or when it does not stand at from (an answer to a fetch from before a reassignment).
func (l *ledger) deliver(tp TopicPartition, from int64, records []Record, next int64, now time.Time) (added []*entry,
	ok bool) {
	ln := l.lanes[tp]
	if ln == nil || ln.next != from {
		return nil, false
	}
	added = make([]*entry, 0, len(records))
	for i := range records {
		r := records[i]
		if r.Offset < ln.next {
			continue // a batch begins before the position asked for
		}
		e := &entry{lane: ln, record: r, size: r.Size(), arrived: now}
		ln.entries = append(ln.entries, e)
		ln.next = r.Offset + 1
		ln.usage.add(1, e.size, 0)
		l.usage.add(1, e.size, 0)
		added = append(added, e)
	}
	ln.next = max(ln.next, next)
	return added, true
}

// weigh adds the tokens that e was found to have.
func (l *ledger) weigh(e *entry, tokens int) {
	if e.lane.gone {
		return
	}
	e.tokens += tokens
	e.lane.usage.add(0, 0, tokens)
	l.usage.add(0, 0, tokens)
}

// finish records the outcome of e. It reports whether the ready prefix grew.
func (l *ledger) finish(e *entry, o Outcome) bool {
	if e.finished {
		panic("pipeline: a record finished twice")
	}
	e.finished, e.outcome = true, o
	ln := e.lane
	if l.trial != nil && l.trial.entry == e {
		l.trial.step, ln.deaths = survived, 0
	}
	if ln.gone {
		return false
	}
	before := ln.ready
	for ln.ready < len(ln.entries) && ln.entries[ln.ready].finished {
		ln.ready++
	}
	return ln.ready > before
}

// position is the offset behind n finished entries: that of the next record in flight, or, behind the last one, the
// position after everything delivered.
func (ln *lane) position(n int) int64 {
	if n < len(ln.entries) {
		return ln.entries[n].record.Offset
	}
	return ln.next
}

// pending sums up what is ready to be committed.
func (l *ledger) pending() (records int, any bool) {
	for _, ln := range l.order {
		records += l.committable(ln)
		any = any || l.dirty(ln)
	}
	return records, any
}

// unfinished counts the records that are being processed.
func (l *ledger) unfinished() int {
	n := 0
	for _, ln := range l.order {
		n += ln.started - ln.ready // entries behind the prefix may be finished: they wait for one that is not
	}
	return n
}

// take makes a commit of ready prefixes: at most maxRecords records and about maxBytes bytes of messages, at least one
// record of every round. Partitions take turns to be first. It returns nil when nothing is dirty.
func (l *ledger) take(maxRecords, maxBytes int) (*Commit, int) {
	c := &Commit{Offsets: map[TopicPartition]int64{}}
	l.commit = l.commit[:0]
	records, bytes := 0, 0
	for i := range l.order {
		ln := l.order[(l.turn+i)%len(l.order)]
		if !l.dirty(ln) {
			continue
		}
		n, most := 0, l.committable(ln)
		for n < most && records < maxRecords && (bytes < maxBytes || records == 0) {
			o := &ln.entries[n].outcome
			c.Messages = append(c.Messages, o.Messages...)
			bytes += o.size()
			records++
			n++
		}
		if n == 0 && most > 0 {
			continue // no room left in this commit
		}
		ln.inCommit, ln.taken, ln.takenNext = true, n, ln.position(n)
		c.Offsets[ln.tp] = ln.takenNext
		l.commit = append(l.commit, ln.entries[:n]...)
	}
	if len(c.Offsets) == 0 {
		return nil, 0
	}
	l.turn++
	if records > 0 {
		c.Outcomes = outcomesOf(l.commit)
	}
	return c, records
}

// outcomesOf goes through entries that are in a commit. It may run without the stage's lock: nothing of them changes
// until the commit is settled or released.
func outcomesOf(taken []*entry) iter.Seq2[*Record, *Outcome] {
	return func(yield func(*Record, *Outcome) bool) {
		for _, e := range taken {
			if !yield(&e.record, &e.outcome) {
				return
			}
		}
	}
}

// overflow is what does not fit beside the offset of a partition.
type overflow struct {
	tp    TopicPartition
	names []string
}

// annotate adds metadata to a commit that take made, and the partitions whose metadata alone has changed. It returns
// what is left out, once for each lane and assignment.
func (l *ledger) annotate(c *Commit, attachments []Attachment) (left []overflow) {
	for _, ln := range l.order {
		if !ln.inCommit && !l.guarded && len(attachments) == 0 {
			continue
		}
		at, n := ln.committed, 0
		if ln.inCommit {
			at, n = ln.takenNext, ln.taken
		}
		var m mark
		if l.guarded {
			m = l.wanted(ln, at, len(ln.entries)-n)
		}
		note, out := compose(m, attachments, ln.others, ln.tp)
		if len(out) > 0 && !ln.overfull {
			ln.overfull, left = true, append(left, overflow{ln.tp, out})
		}
		if !ln.inCommit {
			if note == ln.note || ln.committed < 0 {
				continue
			}
			ln.inCommit, ln.taken, ln.takenNext = true, 0, at
			c.Offsets[ln.tp] = at
		}
		ln.takenNote, ln.takenMark = note, m
		if note != "" {
			if c.Metadata == nil {
				c.Metadata = make(map[TopicPartition]string, len(l.order))
			}
			c.Metadata[ln.tp] = note
		}
	}
	return left
}

// settle removes what the last take held: it is durable. It returns the entries for counting.
func (l *ledger) settle() []*entry {
	var done []*entry
	for _, ln := range l.order {
		if !ln.inCommit {
			continue
		}
		for _, e := range ln.entries[:ln.taken] {
			ln.usage.add(-1, -e.size, -e.tokens)
			l.usage.add(-1, -e.size, -e.tokens)
			done = append(done, e)
		}
		rest := copy(ln.entries, ln.entries[ln.taken:])
		clear(ln.entries[rest:])
		ln.entries = ln.entries[:rest]
		ln.ready -= ln.taken
		ln.started -= ln.taken
		ln.passed(max(ln.committed, ln.start), ln.takenNext)
		ln.committed, ln.note, ln.mark = ln.takenNext, ln.takenNote, ln.takenMark
		ln.inCommit, ln.taken, ln.takenNote, ln.takenMark = false, 0, "", mark{}
		l.judged(ln)
	}
	l.forget()
	return done
}

// forget ends the commit in progress.
func (l *ledger) forget() {
	clear(l.commit)
	l.commit = l.commit[:0]
}

// release puts back what the last take held: it was not committed.
func (l *ledger) release() {
	for _, ln := range l.order {
		ln.inCommit, ln.taken, ln.takenNote, ln.takenMark = false, 0, "", mark{}
	}
	l.forget()
}

// refused finds the entries in the commit in progress whose messages a sink refuses, in the order of the commit, each
// with the first refusal of one of its messages.
func (l *ledger) refused(refusals []Refusal) (es []*entry, first []Refusal) {
	byMessage := make(map[int]Refusal, len(refusals))
	for _, x := range refusals {
		byMessage[x.Message] = x
	}
	n := 0
	for _, e := range l.commit {
		for i := range e.outcome.Messages {
			if x, ok := byMessage[n+i]; ok {
				es, first = append(es, e), append(first, x)
				break
			}
		}
		n += len(e.outcome.Messages)
	}
	return es, first
}

// block says that no outcome of e is taken: its lane stands still before it.
func (l *ledger) block(e *entry) {
	ln := e.lane
	if ln.stuck == nil || slices.Index(ln.entries, e) < slices.Index(ln.entries, ln.stuck) {
		ln.stuck = e
	}
}

// assign replaces the set of lanes; see Flow.Assign for the rule. others is what is to be kept beside their offsets. It
// returns the positions to fetch from and how many records in flight were dropped.
func (l *ledger) assign(committed map[TopicPartition]Committed, others map[TopicPartition]Members) (
	from map[TopicPartition]int64, dropped int) {
	from = make(map[TopicPartition]int64, len(committed))
	for tp, ln := range l.lanes {
		c, owned := committed[tp]
		at := c.Offset
		// A lane that has committed nothing yet is still where the group is if the group says what it began with.
		if owned && (at == ln.committed || ln.committed < 0 && at == ln.start) {
			ln.note, ln.mark = c.Metadata, readMark(c.Metadata)
			l.judged(ln) // a commit of a mark alone may have gone through although its answer was another
			continue
		}
		l.drop(ln)
		dropped += len(ln.entries)
	}
	for tp, c := range committed {
		ln := l.lanes[tp]
		if ln == nil {
			// committed -1 makes the lane dirty from the start: the first commit pins the position where reading began,
			// so that with start: latest a restart before the first record goes on from here and not from a later end.
			ln = &lane{tp: tp, committed: -1, start: c.Offset, next: c.Offset, note: c.Metadata, high: -1}
			if l.guarded {
				ln.suspicion = suspect(c, l.limits.PartitionRecords)
			}
			l.lanes[tp] = ln
		}
		ln.others, ln.overfull = others[tp], false
		from[tp] = ln.next
	}
	l.order = l.order[:0]
	for _, ln := range l.lanes {
		l.order = append(l.order, ln)
	}
	sort.Slice(l.order, func(i, j int) bool {
		a, b := l.order[i].tp, l.order[j].tp
		return a.Topic < b.Topic || a.Topic == b.Topic && a.Partition < b.Partition
	})
	return from, dropped
}

func (l *ledger) drop(ln *lane) {
	ln.gone = true
	if l.tried(ln) {
		l.trial = nil
	}
	l.usage.add(-ln.usage.records, -ln.usage.bytes, -ln.usage.tokens)
	delete(l.lanes, ln.tp)
}

// oldest is when the record that has been in flight longest arrived; the zero time when nothing is in flight.
func (l *ledger) oldest() time.Time {
	var t time.Time
	for _, ln := range l.order {
		if len(ln.entries) > 0 && (t.IsZero() || ln.entries[0].arrived.Before(t)) {
			t = ln.entries[0].arrived
		}
	}
	return t
}
