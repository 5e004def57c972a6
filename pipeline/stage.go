package pipeline

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"sluice/pipeline/failpoint"
)

// This file owns the flow of one stage: records from a Source to a Processor, outcomes into the ledger, ready prefixes
// to a Sink. The rule that everything here serves: nothing is committed before its result is durable, and offsets and
// results become durable in one step.
//
// Locks: Stage.mu guards the ledger and the flags beside it and is never held across a call that can block, nor across
// one of code that looks into a record (Quarantine, Refused): that runs under the watchdog, with its record's entry
// unfinished or its commit in progress. Sink.Commit runs in one goroutine only (commitLoop).

// Job is one record handed to a Processor. Exactly one call of Done ends it.
type Job struct {
	Record *Record
	stage  *Stage
	entry  *entry
}

// Arrived is when the record was fetched.
func (j *Job) Arrived() time.Time { return j.entry.arrived }

// Weigh tells the stage how many tokens the record turned out to have; they count against Limits until it is committed.
func (j *Job) Weigh(tokens int) { j.stage.weigh(j.entry, tokens) }

// Done ends the job with its outcome. Any goroutine may call it, in any order among jobs.
func (j *Job) Done(o Outcome) { j.stage.finish(j.entry, o) }

// Dropped says that the record's partition has moved away: nobody wants the outcome any more, and Done need not be
// called.
func (j *Job) Dropped() bool {
	j.stage.mu.Lock()
	defer j.stage.mu.Unlock()
	return j.entry.lane.gone
}

// Processor turns records into outcomes.
type Processor interface {
	// Process takes a job and returns without waiting for its outcome. The number of jobs in flight is bounded by
	// the stage's Limits, so a processor may queue without a bound of its own.
	Process(j *Job)
}

// StageOptions configure a Stage; the zero value of a field means the default named with it.
type StageOptions struct {
	Limits Limits // DefaultLimits
	// their partitions have their own limits only, so that a backlog elsewhere cannot hold them up
	UrgentTopics   []string
	CommitInterval time.Duration // the longest a finished record waits for its transaction to begin; 100 ms
	Grace          time.Duration // how long Run goes on finishing after its context ended; 30 s
	// Refused makes another outcome for a record of which the broker refuses a message (Publisher.Refused). meant is
	// what was to be published, refusals what was said to that and then to each outcome in its place, in order. It
	// reports false when there is nothing left to try: then a person must act, and the worker stops when everything
	// else is committed. nil: nothing is tried. Commits wait for it.
	Refused func(r *Record, meant *Outcome, refusals []Refusal) (Outcome, bool)
	// Quarantine makes the outcome of a record that has killed the process too often to be processed again
	// (Writer.Quarantine); deaths is how many workers died with it in flight. Called on a goroutine of its own. nil: no
	// such record is looked for, and no marks are kept beside offsets (see quarantine.go).
	Quarantine func(r *Record, deaths int) Outcome
	// Panicked makes the dead letter of a record over which Refused or Quarantine has panicked, or which has killed the
	// process in Quarantine, too (Writer.Panicked). It must not look into the record. Required with either.
	Panicked func(*Record, *Fault) Outcome
	// Watchdog looks at Refused, Quarantine and Taps. nil: nothing does.
	Watchdog *Watchdog
	// Taps see each outcome once it is durable. One that panics is told of nothing further.
	Taps []Tap
	// Attachments are kept beside the offsets of owned partitions.
	Attachments []Attachment
	Metrics     *StageMetrics // required
	Logger      *slog.Logger  // slog.Default()
}

// A transaction holds at most commitRecords records, and messages of about commitBytes bytes.
const (
	commitRecords = 2000
	commitBytes   = 8 << 20
)

// Stage connects a source, a processor and a sink.
type Stage struct {
	processor Processor
	sink      Sink
	o         StageOptions

	mu         sync.Mutex
	ledger     *ledger
	quiet      bool          // between Quiesce and Assign: no commit may start
	flushing   bool          // Quiesce waits for a commit: do not wait for more to become ready
	draining   bool          // shutting down: nothing more is taken in
	committing bool          // a commit is in progress
	attempts   int           // commits that have ended, well or badly
	ending     bool          // a record blocks its partition: nothing more is taken in, and the stage ends
	fault      error         // the first fatal error; ends Run
	waiting    chan struct{} // closed at the next change of anything above; nil when nobody waits

	taps []Tap // those that have not panicked; commitLoop's

	abort context.CancelFunc // ends the run at once, with fault as its result
}

// NewStage makes a stage; Run starts it. It panics where an option lacks another that it requires, or two
// attachments have one name.
func NewStage(p Processor, sink Sink, o StageOptions) *Stage {
	if o.Panicked == nil && (o.Refused != nil || o.Quarantine != nil) {
		panic("pipeline: StageOptions has Refused or Quarantine without Panicked")
	}
	owners := map[string]bool{markKey: true}
	for _, a := range o.Attachments {
		if owners[a.Name()] {
			panic("pipeline: two owners of what stands beside offsets as " + a.Name())
		}
		owners[a.Name()] = true
	}
	if o.Limits == (Limits{}) {
		o.Limits = DefaultLimits
	}
	if o.CommitInterval <= 0 {
		o.CommitInterval = 100 * time.Millisecond
	}
	if o.Grace <= 0 {
		o.Grace = 30 * time.Second
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	s := &Stage{processor: p, sink: sink, o: o, ledger: newLedger(o.Limits, o.UrgentTopics...), quiet: true,
		taps: slices.Clone(o.Taps)}
	s.ledger.guarded = o.Quarantine != nil
	return s
}

// Run processes until ctx ends; then it takes in nothing more, finishes and commits what is in flight for at most
// Grace, and returns nil. It returns the fault that ended it otherwise. What is left uncommitted is processed by
// whoever owns the partition next.
func (s *Stage) Run(ctx context.Context, source Source) error {
	// hard ends everything at once. It outlives ctx by the draining.
	hard, abort := context.WithCancel(context.WithoutCancel(ctx))
	defer abort()
	s.mu.Lock()
	s.abort = abort
	s.mu.Unlock()

	var wg sync.WaitGroup
	wg.Go(func() { s.commitLoop(hard) })
	wg.Go(func() {
		if err := source.Run(hard, s); err != nil {
			s.Fail(err)
		}
		abort()
	})
	stop := context.AfterFunc(ctx, func() { s.drain(hard); abort() })
	wg.Wait()
	stop()

	s.mu.Lock()
	defer s.mu.Unlock()
	return s.fault
}

// drain waits until nothing is in flight any more, for at most Grace.
func (s *Stage) drain(hard context.Context) {
	s.mu.Lock()
	s.draining, s.ledger.stopping = true, true
	s.ledger.withdraw()
	s.signal()
	in := s.ledger.usage.records
	s.mu.Unlock()
	s.o.Logger.Info("stopping: finishing what is in flight", "records", in, "grace", s.o.Grace)
	failpoint.Hit(failpoint.WhileDraining)

	timeout := time.NewTimer(s.o.Grace)
	defer timeout.Stop()
	for {
		s.mu.Lock()
		left := s.ledger.usage.records
		_, dirty := s.ledger.pending()
		// A quiet stage (mid-rebalance, or never assigned) cannot commit: what it holds belongs to the next owner.
		idle := !s.committing && (left == 0 && !dirty || s.quiet)
		changed := s.changed()
		s.mu.Unlock()
		if idle {
			return
		}
		select {
		case <-changed:
		case <-hard.Done():
			return
		case <-timeout.C:
			s.o.Logger.Warn("stopping: grace period is over; the rest will be processed again by the next owner",
				"records", left)
			return
		}
	}
}

// Fail ends the run with err, unless it is ending with another fault already.
func (s *Stage) Fail(err error) {
	s.mu.Lock()
	if s.fault == nil {
		s.fault = err
	}
	abort := s.abort
	s.signal()
	s.mu.Unlock()
	if abort != nil {
		abort()
	}
}

// changed is closed at the next change. s.mu is held.
func (s *Stage) changed() <-chan struct{} {
	if s.waiting == nil {
		s.waiting = make(chan struct{})
	}
	return s.waiting
}

// signal wakes whoever waits for a change. s.mu is held.
func (s *Stage) signal() {
	if s.waiting != nil {
		close(s.waiting)
		s.waiting = nil
	}
}

// Room implements Flow.
func (s *Stage) Room(tp TopicPartition) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.draining || s.ending {
		return 0
	}
	return s.ledger.room(tp)
}

// Deliver implements Flow.
func (s *Stage) Deliver(tp TopicPartition, from int64, records []Record, next int64) bool {
	s.mu.Lock()
	if s.draining {
		s.mu.Unlock()
		return true // taken by nobody and never committed: the next owner reads it again
	}
	_, ok := s.ledger.deliver(tp, from, records, next, time.Now())
	if ok {
		s.signal()
	}
	begun := s.begin()
	s.mu.Unlock()
	s.process(begun)
	return ok
}

// begun is what is to be done next, once the lock is released. Whoever takes it from begin hands it to process: the
// ledger waits for all of it to be finished.
type begun struct {
	entries   []*entry   // go to the processor
	condemned []sentence // do not
}

// sentence is a record that is not to be processed, with what is known of it. Both counts are read with the lock held.
type sentence struct {
	entry  *entry
	deaths int // of workers, with it in flight
	alone  int // of them, with only it running, or being put away
}

// begin is what is to be done now. s.mu is held.
func (s *Stage) begin() (b begun) {
	entries, condemned := s.ledger.begin()
	for _, e := range condemned {
		b.condemned = append(b.condemned, sentence{e, e.lane.unclean, e.lane.deaths})
	}
	b.entries = entries
	return b
}

func (s *Stage) process(b begun) {
	for _, c := range b.condemned {
		// On a goroutine of its own: the caller may be the source, whose other partitions go on, or commitLoop.
		go s.condemn(c)
	}
	if len(b.entries) > 0 {
		failpoint.Hit(failpoint.AfterFetch)
	}
	for _, e := range b.entries {
		s.processor.Process(&Job{Record: &e.record, stage: s, entry: e})
	}
}

// condemn finishes a record that is not processed any more. Until it has, the record is one that runs alone: nothing of
// suspect partitions begins, and a worker that ends here is counted. Should the stage end meanwhile, the outcome goes
// nowhere, as any other.
func (s *Stage) condemn(c sentence) {
	r := &c.entry.record
	s.o.Logger.Error("a record has killed the worker again and again; it goes to the dead letter topic without "+
		"being processed",
		"topic", r.Topic, "partition", r.Partition, "offset", r.Offset, "deaths", c.deaths)
	s.finish(c.entry, s.outcome("process", r, ofCondemning(r), func() Outcome {
		if c.alone >= 2*DeathsAlone { // the last ones died in Quarantine
			return s.o.Panicked(r, killer(c.deaths))
		}
		return s.o.Quarantine(r, c.deaths)
	}))
}

// outcome is what is made for a record outside its processor: watched, and a dead letter where that panics. It is the
// record's fate, as any panic over it is. s.mu is not held.
func (s *Stage) outcome(stage string, r *Record, doing func() string, of func() Outcome) (o Outcome) {
	w := s.o.Watchdog.Watch(stage, doing)
	defer func() {
		w.End()
		if x := recover(); x != nil {
			o = s.o.Panicked(r, Panicked(stage, x))
		}
	}()
	return of()
}

// Lag implements Flow.
func (s *Stage) Lag(tp TopicPartition, high int64) {
	s.mu.Lock()
	if ln := s.ledger.lanes[tp]; ln != nil {
		ln.high = high
	}
	s.mu.Unlock()
}

// Quiesce implements Flow. What is ready is committed first, so that a partition that moves away moves with everything
// this worker has finished; work in flight is not waited for.
func (s *Stage) Quiesce(ctx context.Context) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.flushing, s.ledger.handover = true, true
	s.signal()
	last := s.attempts + 1 // the commit to wait for: the next one, which comes after the one in progress
	if s.committing {
		last++
	}
	for s.attempts < last && !s.quiet && ctx.Err() == nil {
		if _, dirty := s.ledger.pending(); !dirty && !s.committing {
			break
		}
		s.wait(ctx)
	}
	s.quiet, s.flushing = true, false
	for s.committing { // cannot be given up half-way: it ends by itself, bounded by the sink
		s.wait(context.Background())
	}
	s.signal()
}

// wait releases s.mu until something changes or ctx ends.
func (s *Stage) wait(ctx context.Context) {
	changed := s.changed()
	s.mu.Unlock()
	select {
	case <-changed:
	case <-ctx.Done():
	}
	s.mu.Lock()
}

// Assign implements Flow.
func (s *Stage) Assign(committed map[TopicPartition]Committed) map[TopicPartition]int64 {
	others := tell(s.o.Attachments, committed)
	var begun begun
	defer func() { s.process(begun) }() // with the lock released
	s.mu.Lock()
	defer s.mu.Unlock()
	before := s.ledger.usage.records
	from, dropped := s.ledger.assign(committed, others)
	s.quiet, s.ledger.handover = false, false
	if !s.draining {
		// what waited for a record of a partition that has gone, or for a mark that turns out to be durable
		begun = s.begin()
	}
	s.signal()
	s.o.Logger.Info("assigned", "partitions", len(from), "kept_records", before-dropped, "dropped_records", dropped)
	few, alone := s.ledger.suspects()
	for _, ln := range few {
		s.o.Logger.Warn("a worker ended here without stopping; a few records at a time are processed for a while",
			"partition", ln.tp, "until", ln.until)
	}
	for _, ln := range alone {
		s.o.Logger.Warn("workers ended here again and again without stopping; records are processed one at a time "+
			"for a while", "partition", ln.tp, "times", ln.unclean, "until", ln.until)
	}
	return from
}

func (s *Stage) weigh(e *entry, tokens int) {
	s.mu.Lock()
	s.ledger.weigh(e, tokens)
	s.mu.Unlock()
}

func (s *Stage) finish(e *entry, o Outcome) {
	s.mu.Lock()
	if s.ledger.finish(e, o) {
		s.signal()
	}
	s.mu.Unlock()
}

// commitLoop makes ready prefixes durable, one transaction at a time.
func (s *Stage) commitLoop(ctx context.Context) {
	var readySince, retryAt time.Time
	var pause time.Duration
	for ctx.Err() == nil {
		s.mu.Lock()
		commit, records := (*Commit)(nil), 0
		wait := s.untilCommit(&readySince, retryAt)
		if wait == 0 {
			commit, records = s.ledger.take(commitRecords, commitBytes)
			if commit != nil {
				s.annotate(commit)
			}
			s.committing = commit != nil
		}
		changed := s.changed()
		s.mu.Unlock()
		if commit == nil {
			sleep(ctx, wait, changed)
			continue
		}

		began := time.Now()
		var begun begun
		var durable []*entry
		err := s.sink.Commit(ctx, commit)
		s.o.Metrics.transaction(err, time.Since(began))
		var refused *RefusedError
		if errors.As(err, &refused) {
			err = s.replace(ctx, refused)
		}

		s.mu.Lock()
		s.committing = false
		if err != refused { // else it goes on with other outcomes of the same records
			s.attempts++
		}
		readySince, retryAt = time.Time{}, time.Time{}
		switch {
		case err == nil:
			durable = s.ledger.settle()
			if !s.draining {
				begun = s.begin()
			}
			pause = 0
		case err == refused:
			s.ledger.release()
		case KindOf(err) == Transient:
			s.ledger.release()
			pause = min(max(2*pause, 20*time.Millisecond), time.Second)
			retryAt = time.Now().Add(pause)
			s.o.Logger.Warn("commit failed; it will be repeated from the ledger", "records", records, "error", err)
		case KindOf(err) == Rebalance:
			s.ledger.release()
			s.quiet = true // until Assign
			s.o.Logger.Info("commit given up: the group is rebalancing", "records", records)
		default:
			s.ledger.release()
		}
		s.signal()
		s.mu.Unlock()
		s.process(begun)
		s.count(durable)
		switch KindOf(err) {
		case "", Transient, Rebalance:
		default:
			if err != refused && ctx.Err() == nil {
				s.Fail(err)
			}
		}
	}
}

// annotate adds what is to stand beside the offsets of a commit. s.mu is held.
func (s *Stage) annotate(c *Commit) {
	for _, left := range s.ledger.annotate(c, s.o.Attachments) {
		s.o.Logger.Warn("not all that should be kept beside an offset is: it is larger than brokers take, or no JSON",
			"partition", left.tp.String(), "left_out", left.names, "most_bytes", largestMetadata)
	}
}

// untilCommit is how long the next transaction should still wait: 0 to begin now, negative to wait for a change. A
// transaction begins when something is ready and either CommitInterval has passed since it became so, or the
// transaction is full, or nothing else is in flight that could join it, or records wait for it. s.mu is held.
func (s *Stage) untilCommit(readySince *time.Time, retryAt time.Time) time.Duration {
	ready, dirty := s.ledger.pending()
	if !dirty {
		*readySince = time.Time{}
	} else if readySince.IsZero() {
		*readySince = time.Now()
	}
	switch {
	case !dirty || s.quiet:
		return -1
	case !retryAt.IsZero():
		return max(0, time.Until(retryAt))
	case ready >= commitRecords || s.ledger.unfinished() == 0 || s.draining || s.flushing || s.ledger.hurry():
		return 0
	}
	return max(0, s.o.CommitInterval-time.Since(*readySince))
}

// sleep waits for d, for ever when d is negative, or for a change, or for the end of ctx.
func sleep(ctx context.Context, d time.Duration, changed <-chan struct{}) {
	var timer <-chan time.Time
	if d >= 0 {
		t := time.NewTimer(d)
		defer t.Stop()
		timer = t.C
	}
	select {
	case <-timer:
	case <-changed:
	case <-ctx.Done():
	}
}

// mostRefusals is how often another outcome is made for one record, should Refused never be at its end.
const mostRefusals = 8

// toldRefusals is how many refused records of one commit are logged one by one.
const toldRefusals = 10

// replace gives the records in commit of which the broker refuses a message another outcome each, as small as it must
// be. The commit counts as in progress meanwhile: Quiesce waits, so that the records' lanes stay. It returns refused,
// or the fault that ends the stage. s.mu is not held.
func (s *Stage) replace(ctx context.Context, refused *RefusedError) error {
	s.mu.Lock()
	es, first := s.ledger.refused(refused.Refusals)
	s.mu.Unlock()
	if len(es) == 0 {
		return Faultf(Internal, "commit", "refused", "the sink refuses messages that are not in the commit: %w",
			refused)
	}
	for i := range refused.Refusals {
		s.o.Metrics.refuse(&refused.Refusals[i])
	}
	var blocked *Fault
	for i, e := range es {
		x, r := first[i], &e.record
		x.At = time.Now()
		meant := e.meant
		if meant == nil {
			was := e.outcome
			meant = &was
		}
		refusals := append(slices.Clip(e.refusals), x)
		if i < toldRefusals {
			s.o.Logger.Warn("a broker refuses what was to be published for a record; the record becomes a dead "+
				"letter, or a pointer to it where that is refused, too", "topic", r.Topic, "partition", r.Partition,
				"offset", r.Offset, "refused_by", x.Topic, "reason", x.Reason, "times", len(refusals), "error", x.Err)
		}
		o, more := s.another(e, meant, refusals)
		s.mu.Lock()
		e.meant, e.refusals = meant, refusals
		if more {
			e.outcome = o
		} else {
			s.ledger.block(e)
			if blocked == nil {
				blocked = Faultf(Config, "commit", "refused", "the record of %s at offset %d cannot be published at "+
					"all: %w. Whatever stands in for it is refused, and nothing may pass it: everything else is "+
					"committed, and the worker ends", r.TopicPartition(), r.Offset, &x)
			}
		}
		s.mu.Unlock()
	}
	if n := len(es) - toldRefusals; n > 0 {
		s.o.Logger.Warn("brokers refuse further messages of the same commit; their records become dead letters, too",
			"records", n, "last_topic", es[len(es)-1].record.Topic, "last_offset", es[len(es)-1].record.Offset)
	}
	if blocked != nil {
		s.endAfter(ctx, blocked)
	}
	return refused
}

// another is the outcome in place of one that was refused; false: there is none.
func (s *Stage) another(e *entry, meant *Outcome, refusals []Refusal) (o Outcome, ok bool) {
	if s.o.Refused == nil || len(refusals) > mostRefusals {
		return o, false
	}
	ok = true // a panic: the dead letter that says so
	o = s.outcome("commit", &e.record, ofReplacing(&e.record), func() (o Outcome) {
		o, ok = s.o.Refused(&e.record, meant, refusals)
		return o
	})
	return o, ok
}

// endAfter ends the stage with a fault once what is in flight is committed, for Grace at most. s.mu is not held.
func (s *Stage) endAfter(ctx context.Context, fault *Fault) {
	s.mu.Lock()
	again := s.ending
	s.ending = true
	s.mu.Unlock()
	if again {
		return
	}
	s.o.Logger.Error("a record cannot be published; finishing what is in flight", "error", fault)
	go func() {
		timeout := time.NewTimer(s.o.Grace)
		defer timeout.Stop()
		for {
			s.mu.Lock()
			_, dirty := s.ledger.pending()
			idle := !s.committing && !dirty && s.ledger.unfinished() == 0
			changed := s.changed()
			s.mu.Unlock()
			if idle {
				s.Fail(fault)
				return
			}
			select {
			case <-changed:
			case <-ctx.Done():
				return
			case <-timeout.C:
				s.Fail(fault)
				return
			}
		}
	}()
}

// count updates metrics for records that are durable now, and tells the taps of them. Only commitLoop calls it, so that
// taps see a partition's records in order. s.mu is not held: the entries are nobody else's any more.
func (s *Stage) count(es []*entry) {
	if len(es) == 0 {
		return
	}
	now := time.Now()
	for _, e := range es {
		s.o.Metrics.durable(&e.record, &e.outcome, e.arrived, now)
	}
	s.taps = slices.DeleteFunc(s.taps, func(t Tap) bool { return !s.tell(t, es) })
}

// tell is false when the tap has panicked, which is no record's fate: the outcomes are durable.
func (s *Stage) tell(t Tap, es []*entry) (well bool) {
	w := s.o.Watchdog.Watch("tap", ofTapping(t, len(es)))
	defer func() {
		w.End()
		if x := recover(); x != nil {
			s.o.Logger.Error("a tap panicked; it is told of nothing further", "tap", fmt.Sprintf("%T", t), "panic",
				Recovered(x))
		}
	}()
	for _, e := range es {
		t.Durable(&e.record, &e.outcome)
	}
	return true
}
