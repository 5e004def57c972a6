package load

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// This file owns the traffic: one goroutine that sends when records are due, and one that collects what a
// read_committed consumer sees.

// Options are what holds for all steps of a session.
type Options struct {
	Texts    *Texts
	Seed     uint64
	Warmup   float64       // share of each step whose records do not count for latency and throughput; 0.2
	Patience time.Duration // longest time without any result while records wait; 30 s
	Probe    Probe         // of the system under test
	Progress func(Progress)
}

// Progress is where a step is.
type Progress struct {
	Phase   string // "warm-up", "search", "load"
	Step    int    // of the phase, from 1
	Steps   int    // 0: unknown
	Rate    float64
	Share   float64 // of the maximum; 0: unknown
	At      time.Duration
	Length  time.Duration
	Sent    int
	Seen    int
	P50     float64 // ms, so far
	P99     float64
	Drained bool // the load is over: what is still open is waited for
}

// Session sends to one pair of topics and collects from them. Its methods are for one goroutine.
type Session struct {
	target   Target
	o        Options
	mark     marker
	producer *kgo.Client
	consumer *kgo.Client
	stop     context.CancelFunc
	done     chan struct{}
	next     int // partition
	phase    Progress

	mu      sync.Mutex
	tallies []*tally
	results int       // in all
	moved   time.Time // of the last result
	strange int       // records without a mark of this run
	failure error
	observe func(Mark, *kgo.Record)
}

// Open checks the topics and begins to collect, from what is written from now on.
func Open(ctx context.Context, target Target, o Options) (*Session, error) {
	if o.Warmup <= 0 || o.Warmup >= 0.9 {
		o.Warmup = 0.2
	}
	if o.Patience <= 0 {
		o.Patience = 30 * time.Second
	}
	if o.Progress == nil {
		o.Progress = func(Progress) {}
	}
	if target.Format == "" {
		target.Format = JSON
	}
	if o.Texts != nil && o.Texts.profile.Poison > 0 {
		if target.Format != JSON {
			return nil, errors.New("poison needs JSON values: any value is a text otherwise")
		}
		if target.DeadLetter == "" {
			return nil, errors.New("poison needs a dead letter topic, else every spoilt record would count as lost")
		}
	}
	if err := target.Check(ctx); err != nil {
		return nil, err
	}
	s := &Session{target: target, o: o, mark: newMarker(), done: make(chan struct{})}
	var err error
	s.producer, err = kgo.NewClient(target.options(kgo.DefaultProduceTopic(target.Input),
		kgo.RecordPartitioner(kgo.ManualPartitioner()),
		kgo.ProducerLinger(0), kgo.ProducerBatchCompression(kgo.NoCompression()), kgo.MaxBufferedRecords(100_000))...)
	if err != nil {
		return nil, err
	}
	starts, err := ends(ctx, s.producer, target.outputs())
	if err == nil {
		s.consumer, err = kgo.NewClient(target.options(kgo.ConsumePartitions(starts),
			kgo.FetchIsolationLevel(kgo.ReadCommitted()),
			kgo.FetchMaxWait(500*time.Millisecond))...)
	}
	if err != nil {
		s.producer.Close()
		return nil, err
	}
	ctx, s.stop = context.WithCancel(context.WithoutCancel(ctx))
	go s.collect(ctx)
	return s, nil
}

// ends are the offsets behind the last record of every partition.
func ends(ctx context.Context, client *kgo.Client, topics []string) (map[string]map[int32]kgo.Offset, error) {
	listed, err := kadm.NewClient(client).ListEndOffsets(ctx, topics...)
	if err == nil {
		err = listed.Error()
	}
	if err != nil {
		return nil, fmt.Errorf("the ends of %s: %w", strings.Join(topics, ", "), err)
	}
	starts := map[string]map[int32]kgo.Offset{}
	listed.Each(func(o kadm.ListedOffset) {
		if starts[o.Topic] == nil {
			starts[o.Topic] = map[int32]kgo.Offset{}
		}
		starts[o.Topic][o.Partition] = kgo.NewOffset().At(o.Offset)
	})
	return starts, nil
}

// Close ends the session.
func (s *Session) Close() {
	s.stop()
	<-s.done
	s.consumer.Close()
	s.producer.Close()
}

// Observe calls f with every answer that carries a mark of this session, on the collector's goroutine; dead letters
// too. Set it before the first step.
func (s *Session) Observe(f func(Mark, *kgo.Record)) { s.observe = f }

func (s *Session) collect(ctx context.Context) {
	defer close(s.done)
	for {
		fetches := s.consumer.PollFetches(ctx)
		now := time.Now() // this is when a consumer sees them
		if ctx.Err() != nil {
			return
		}
		for _, e := range fetches.Errors() {
			s.fail(fmt.Errorf("reading %s-%d: %w", e.Topic, e.Partition, e.Err))
		}
		s.mu.Lock()
		fetches.EachRecord(func(r *kgo.Record) {
			k, ok := s.mark.find(r)
			if !ok || k.Step >= len(s.tallies) {
				s.strange++
				return
			}
			s.results++
			s.moved = now
			s.tallies[k.Step].seen(k.Seq, k.Intended, now, r.Topic == s.target.DeadLetter)
			if s.observe != nil {
				s.observe(k, r)
			}
		})
		s.mu.Unlock()
	}
}

func (s *Session) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failure == nil {
		s.failure = err
	}
}

// Step is what one offered rate gave.
type Step struct {
	Share       float64   `json:"share,omitempty"` // of the maximum
	Rate        float64   `json:"rate"`            // records a second, offered
	Sent        float64   `json:"sent_per_s"`      // that were sent
	Achieved    float64   `json:"achieved_per_s"`  // results between the end of the warm-up and the end of the load
	Seconds     float64   `json:"seconds"`
	Warmup      float64   `json:"warmup_s"` // of them, dropped
	Records     int       `json:"records"`
	Results     int       `json:"results"`
	DeadLetters int       `json:"dead_letters"`
	Poison      int       `json:"poison"`      // records that were spoilt: dead letters are due for these
	Misdirected int       `json:"misdirected"` // dead letters for good records, or results for spoilt ones
	Lost        int       `json:"lost"`
	Doubled     int       `json:"doubled"`
	Latency     Quantiles `json:"latency"`
	// how much later than intended the generator sent: a share of the latency above
	Late      Quantiles `json:"sender_late"`
	Growth    float64   `json:"growth_s"` // of the queue, in seconds of load
	Sustained bool      `json:"sustained"`
	Drained   float64   `json:"drained_s"` // from the end of the load to the last result
	Worker    *Usage    `json:"worker,omitempty"`
	Timeline  []Point   `json:"timeline,omitempty"`

	tally *tally
}

// Step offers a rate for a while and waits until all is answered, or nothing comes any more.
func (s *Session) Step(ctx context.Context, rate float64, length time.Duration) (*Step, error) {
	s.mu.Lock()
	n := len(s.tallies)
	s.mu.Unlock()
	due, err := Schedule(s.o.Texts.profile.Arrivals, rate, length, s.o.Seed+uint64(n))
	if err != nil {
		return nil, err
	}
	if len(due) == 0 {
		return nil, fmt.Errorf("%g records a second for %v is no record", rate, length)
	}
	warm := time.Duration(float64(length) * s.o.Warmup)
	return s.run(ctx, rate, due, length, warm)
}

// state is how far a step is. It only goes on.
type state int

const (
	warming  state = iota // what is sent does not count yet
	loading               // what is measured
	late                  // the time of the load is over, but the sender is behind: it will be sent
	draining              // all is sent: what is still open is waited for
)

// running is a step under way. It belongs to the goroutine that runs it.
type running struct {
	*Session
	tally    *tally
	rate     float64
	state    state
	turn     *time.Timer   // fires when warming, and then loading, is over
	sent     chan struct{} // closed when the sender is done
	from, to Reading       // of the probe, at the beginning and the end of loading
	looked   time.Time     // at the memory, last
	whole    Progress      // what holds for all of the step
}

// run sends one schedule.
func (s *Session) run(ctx context.Context, rate float64, due []time.Duration, length, warm time.Duration) (*Step,
	error) {
	r, err := s.begin(rate, due, length, warm)
	if err != nil {
		return nil, err
	}
	defer r.turn.Stop()
	ctx, cancel := context.WithCancel(ctx)
	var sending sync.WaitGroup
	defer sending.Wait()
	defer cancel() // before the wait
	sending.Go(func() {
		defer close(r.sent)
		if err := s.send(ctx, r.tally); err != nil && ctx.Err() == nil {
			s.fail(err)
		}
	})
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-r.turn.C:
			err = r.advance(ctx)
		case <-tick.C:
		}
		if err == nil {
			err = r.readMemory(ctx, time.Now())
		}
		if err != nil {
			return nil, err
		}
		over, err := r.look(time.Now())
		switch {
		case err != nil:
			return nil, err
		case over:
			return r.finish(), nil
		}
	}
}

// begin makes room for a step that begins at once.
func (s *Session) begin(rate float64, due []time.Duration, length, warm time.Duration) (*running, error) {
	if len(s.tallies) > 0xffff || len(due) > math.MaxUint32 {
		return nil, errors.New("too many steps or records for the marks that records carry")
	}
	begin := time.Now().Add(20 * time.Millisecond).Truncate(time.Microsecond)
	s.mu.Lock()
	defer s.mu.Unlock()
	t := newTally(len(s.tallies), begin, due, length, warm)
	s.tallies = append(s.tallies, t)
	s.moved = begin
	r := &running{Session: s, tally: t, rate: rate, turn: time.NewTimer(time.Until(begin.Add(warm))),
		sent: make(chan struct{}), whole: s.phase}
	r.whole.Rate, r.whole.Length = rate, length
	return r, nil
}

// advance ends the warm-up, and then the load.
func (r *running) advance(ctx context.Context) (err error) {
	switch r.state {
	case warming:
		r.state = loading
		r.turn.Reset(time.Until(r.tally.begin.Add(r.tally.length)))
		r.from, err = r.read(ctx)
	case loading:
		r.state = late
		r.to, err = r.read(ctx)
	}
	return err
}

// readMemory notes the memory of the system under test, where it was not looked at for a while.
func (r *running) readMemory(ctx context.Context, now time.Time) error {
	probe := &r.o.Probe
	if !probe.On() || now.Sub(r.looked) < max(probe.interval(), r.tally.slot) {
		return nil
	}
	r.looked = now
	rss, err := probe.resident(ctx)
	if err != nil {
		return err
	}
	r.mu.Lock()
	r.tally.resident = append(r.tally.resident, sample{now.Sub(r.tally.begin), rss})
	r.mu.Unlock()
	return nil
}

// look reports how far the step is, and says whether it is over. The error says why it cannot go on.
func (r *running) look(now time.Time) (over bool, err error) {
	t, p := r.tally, r.whole
	if r.state == late {
		select {
		case <-r.sent: // before records are counted, so that none is sent in between
			r.state = draining
		default:
		}
	}
	r.mu.Lock()
	open, failure, quiet, results := t.open(), r.failure, now.Sub(r.moved), r.results
	p.At, p.Sent, p.Seen, p.Drained = now.Sub(t.begin), t.sent, t.answered, r.state >= late
	p.P50, p.P99 = float64(t.latency.ValueAtQuantile(50))/1000, float64(t.latency.ValueAtQuantile(99))/1000
	r.mu.Unlock()
	r.o.Progress(p)
	silent := quiet > r.o.Patience
	switch {
	case failure != nil:
		return false, failure
	case silent && open > 0 && results == 0:
		return false, r.silence()
	case silent && open > 0 && r.state < late:
		return false, fmt.Errorf("no result for %.0f s while %d records wait; did the system under test stop?",
			quiet.Seconds(), open)
	}
	tooLong := now.Sub(t.begin) > 4*t.length+r.o.Patience
	return r.state == draining && (open == 0 || silent || tooLong), nil
}

func (s *Session) silence() error {
	where := s.target.Output
	if s.target.DeadLetter != "" {
		where += " or " + s.target.DeadLetter
	}
	s.mu.Lock()
	strange := s.strange
	s.mu.Unlock()
	if strange > 0 {
		return fmt.Errorf("%d records arrived in %s, but none carries a mark of this run: the system must pass on "+
			"the key, the header %q or the field %q of the value", strange, where, Header, Field)
	}
	return fmt.Errorf("no result in %s after %.0f s, though records were written to %s: does the system under test "+
		"run, read %s and write %s?",
		where, s.o.Patience.Seconds(), s.target.Input, s.target.Input, s.target.Output)
}

func (s *Session) read(ctx context.Context) (Reading, error) {
	if !s.o.Probe.On() {
		return nil, nil
	}
	return s.o.Probe.Read(ctx)
}

// send writes the records of a step when they are due.
func (s *Session) send(ctx context.Context, t *tally) error {
	partitions := s.target.Found.Input
	var failed error
	var mu sync.Mutex
	promise := func(_ *kgo.Record, err error) {
		if err != nil {
			mu.Lock()
			failed = err
			mu.Unlock()
		}
	}
	before, behind, err := s.target.around()
	if err != nil {
		return err
	}
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	wait := func(until time.Time) bool {
		timer.Reset(time.Until(until))
		select {
		case <-timer.C:
			return true
		case <-ctx.Done():
			return false
		}
	}
	err = pace(t.begin, t.due, time.Now, wait, func(i int, intended time.Time) error {
		mark := s.mark.append(make([]byte, 0, markSize), Mark{t.step, i, intended})
		value, poison := s.o.Texts.Value(s.target.Format, mark, before, behind)
		r := &kgo.Record{Key: mark, Value: value, Partition: int32(s.next % partitions), Timestamp: intended,
			Headers: []kgo.RecordHeader{{Key: Header, Value: mark}}}
		s.next++
		s.mu.Lock()
		t.sending(i, poison, time.Now())
		s.mu.Unlock()
		s.producer.Produce(ctx, r, promise)
		mu.Lock()
		defer mu.Unlock()
		return failed
	})
	if err == nil {
		err = s.producer.Flush(ctx)
	}
	mu.Lock()
	defer mu.Unlock()
	if err = errors.Join(err, failed); err != nil {
		return fmt.Errorf("writing to %s: %w", s.target.Input, err)
	}
	return nil
}

// finish says what the step gave.
func (r *running) finish() *Step {
	r.mu.Lock()
	defer r.mu.Unlock()
	t := r.tally
	window := (t.length - t.warm).Seconds()
	st := &Step{Rate: r.rate, Seconds: t.length.Seconds(), Warmup: t.warm.Seconds(), tally: t, Timeline: t.timeline()}
	st.Growth, st.Sustained = sustained(st.Timeline, st.Warmup, st.Seconds, r.rate)
	if window > 0 {
		st.Achieved = float64(t.inWindow) / window
	}
	st.Sent = float64(t.sent) / t.length.Seconds()
	if !t.last.IsZero() {
		st.Drained = max(0, t.last.Sub(t.begin.Add(t.length)).Seconds())
	}
	st.Worker = usage(r.from, r.to, window, t.inWindow, t.resident)
	st.count()
	return st
}

// count reads the counters, which may still move after the step: a record may be answered twice, or late.
func (st *Step) count() {
	t := st.tally
	st.Records, st.Results, st.DeadLetters = t.sent, t.answered-t.dead, t.dead
	st.Lost, st.Doubled, st.Misdirected = t.open(), t.doubled, t.deadWrong
	st.Poison = 0
	for _, s := range t.state {
		if s&spoilt != 0 {
			st.Poison++
		}
	}
	st.Latency, st.Late = quantiles(t.latency, true), quantiles(t.late, false)
}

// Warm sends bursts, each larger than the one before, until one takes more than a second to be answered. It returns how
// many results a second the last one gave: where to begin the search. What a system pays once (loading, compiling,
// joining its group) is paid then.
func (s *Session) Warm(ctx context.Context) (rate float64, err error) {
	s.phase = Progress{Phase: "warm-up"}
	for n := 50; ; n *= 3 {
		s.phase.Step++
		const length = 10 * time.Millisecond
		st, err := s.run(ctx, float64(n)/length.Seconds(), make([]time.Duration, n), length, 0)
		if err != nil {
			return 0, err
		}
		if st.Lost > 0 {
			return 0, fmt.Errorf("%d of %d records of the warm-up have no result after %.0f s", st.Lost, st.Records,
				s.o.Patience.Seconds())
		}
		s.mu.Lock()
		took := st.tally.last.Sub(st.tally.begin)
		rate = drainRate(st.tally)
		s.mu.Unlock()
		if took > 1200*time.Millisecond && s.phase.Step > 2 || n > 100_000 {
			return rate, nil
		}
	}
}

// drainRate is results a second after the first tenth, by the timeline.
func drainRate(t *tally) float64 {
	seen, skipped := 0, 0
	from := t.begin
	for i, n := range t.seenIn {
		seen += int(n)
		if seen >= t.answered/10 {
			skipped, from = seen, t.begin.Add(time.Duration(i+1)*t.slot)
			break
		}
	}
	if span := t.last.Sub(from).Seconds(); span > 0 && t.answered > skipped {
		return float64(t.answered-skipped) / span
	}
	return float64(t.answered) / max(0.001, t.last.Sub(t.begin).Seconds())
}

// Plan is what a run measures.
type Plan struct {
	Rate     float64   // offered; 0: the maximum is searched
	Shares   []float64 // of the maximum, one step each; with a Rate given there is one step
	Length   time.Duration
	Trial    time.Duration // one step of the search
	FindOpts FindOptions
	Start    float64 // where the search begins; 0: what Warm measures
}

// DefaultShares are the loads that a run reports.
var DefaultShares = []float64{0.3, 0.5, 0.7, 0.8, 0.9, 1.2}

// Run warms the system up, finds its maximum (or takes the rate given), and measures the steps. What has been measured
// is returned with an error too.
func (s *Session) Run(ctx context.Context, plan Plan, say func(format string, args ...any)) (*Report, error) {
	rep := &Report{Target: s.target.describe(), Profile: s.o.Texts.profile, Seed: s.o.Seed, Warmup: s.o.Warmup}
	say("warm-up    bursts, until one takes longer than a second")
	guess, err := s.Warm(ctx)
	if err != nil {
		return rep, err
	}
	say("           about %s results a second from a full queue", number(guess))
	shares := plan.Shares
	if plan.Rate > 0 {
		shares = []float64{0}
	} else {
		if plan.Start > 0 {
			guess = plan.Start / 0.8
		}
		rep.Maximum, rep.Trials, err = s.find(ctx, 0.8*guess, plan, say)
		if err != nil {
			return rep, err
		}
		say("maximum    %s msg/s", number(rep.Maximum))
	}
	for i, share := range shares {
		rate := plan.Rate
		if rate == 0 {
			rate = share * rep.Maximum
		}
		s.phase = Progress{Phase: "load", Step: i + 1, Steps: len(shares), Share: share}
		st, err := s.Step(ctx, rate, plan.Length)
		if err != nil {
			return rep, err
		}
		st.Share = share
		rep.Steps = append(rep.Steps, st)
		say("%s", st.line())
	}
	// What comes twice may come late.
	select {
	case <-time.After(time.Second):
	case <-ctx.Done():
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, st := range rep.Steps {
		st.count()
	}
	for _, st := range rep.Steps {
		if st.Share >= 1.1 && st.Sustained {
			rep.Notes = append(rep.Notes, fmt.Sprintf("%s of the maximum was sustained too: the maximum was searched "+
				"while the machine was busy with other work, or its steps are too short; it is higher",
				percent(st.Share)))
		}
	}
	rep.Strange = s.strange
	for _, t := range s.tallies {
		rep.Total.Records += t.sent
		rep.Total.Lost += t.open()
		rep.Total.Doubled += t.doubled
		rep.Total.DeadLetters += t.dead
	}
	return rep, nil
}

func (s *Session) find(ctx context.Context, start float64, plan Plan, say func(string, ...any)) (float64, []Trial,
	error) {
	n := 0
	return Find(start, plan.FindOpts, func(rate float64) (Trial, error) {
		n++
		s.phase = Progress{Phase: "search", Step: n}
		st, err := s.Step(ctx, rate, plan.Trial)
		if err != nil {
			return Trial{}, err
		}
		t := Trial{Rate: rate, Achieved: st.Achieved, Growth: st.Growth, Sustained: st.Sustained, P99: st.Latency.P99,
			Lost: st.Lost, Seconds: st.Seconds - st.Warmup}
		verdict := "sustained"
		if !t.Sustained {
			verdict = "the queue grows"
		}
		say("search     %s msg/s offered, %s achieved, p99 %s: %s", number(rate), number(t.Achieved), millis(t.P99),
			verdict)
		return t, nil
	})
}
