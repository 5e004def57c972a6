package load

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// DrainPlan is a backlog: records that wait in a topic before the system under test starts.
type DrainPlan struct {
	Target     Target // topics that exist already
	Records    int
	Texts      *Texts
	Value      func(i int, mark []byte) []byte // of record i, in place of Texts
	From       float64                         // share of the results that is not counted: start-up and warm-up; 0.1
	Patience   time.Duration                   // longest time without any result; 60 s
	Begin      func(ctx context.Context) (pids []int, err error)
	Observe    func(Mark, *kgo.Record) // every result and dead letter, on the collector's goroutine
	AllowLoss  bool                    // report lost records instead of failing
	AllowTwice bool                    // report doubled results instead of failing
}

// Drained is how fast a backlog was worked off.
type Drained struct {
	Rate        float64 `json:"results_per_s"` // from From of the results to the last one
	Counted     int     `json:"counted"`
	Seconds     float64 `json:"seconds"`
	First       float64 `json:"first_result_s"` // after Begin
	CPUPer1000  float64 `json:"cpu_seconds_per_1000"`
	RSS         float64 `json:"rss_bytes"` // at the end
	Records     int     `json:"records"`
	DeadLetters int     `json:"dead_letters"`
	Lost        int     `json:"lost"`
	Doubled     int     `json:"doubled"`
}

// Drain fills the input topic, begins the system and measures until every record has an answer.
func Drain(ctx context.Context, plan DrainPlan) (d Drained, err error) {
	if plan.From <= 0 {
		plan.From = 0.1
	}
	if plan.Patience <= 0 {
		plan.Patience = time.Minute
	}
	s, err := Open(ctx, plan.Target, Options{Texts: plan.Texts, Patience: plan.Patience})
	if err != nil {
		return d, err
	}
	defer s.Close()
	if plan.Observe != nil {
		s.Observe(plan.Observe)
	}
	t, err := s.fill(ctx, plan)
	if err != nil {
		return d, err
	}
	start := time.Now()
	pids, err := plan.Begin(ctx)
	if err != nil {
		return d, err
	}
	probe := Probe{PIDs: pids}
	var began time.Time
	var before Reading
	counted := 0
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return d, context.Cause(ctx)
		case <-tick.C:
		}
		s.mu.Lock()
		n, last, failure, none := t.answered, t.last, s.failure, s.results == 0
		s.mu.Unlock()
		if failure != nil {
			return d, failure
		}
		quiet := time.Since(start) > plan.Patience && time.Since(last) > plan.Patience
		switch {
		case quiet && none:
			return d, s.silence()
		case quiet && !plan.AllowLoss:
			return d, fmt.Errorf("%d of %d records have an answer, and for %v there was no other: did the system "+
				"under test stop?", n, plan.Records, plan.Patience)
		}
		if began.IsZero() && float64(n) >= plan.From*float64(plan.Records) {
			began, counted = last, n
			if probe.On() {
				if before, err = probe.Read(ctx); err != nil {
					return d, err
				}
			}
		}
		if n < plan.Records && !quiet {
			continue
		}
		var after Reading
		if probe.On() && !quiet {
			if after, err = probe.Read(ctx); err != nil {
				return d, err
			}
		}
		select { // what comes twice comes a little later
		case <-time.After(300 * time.Millisecond):
		case <-ctx.Done():
			return d, context.Cause(ctx)
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		d = Drained{Counted: n - counted, Seconds: last.Sub(began).Seconds(),
			First: max(0, t.first.Sub(start).Seconds()), Records: plan.Records,
			DeadLetters: t.dead, Lost: t.open(), Doubled: t.doubled}
		if d.Seconds > 0 {
			d.Rate = float64(d.Counted) / d.Seconds
		}
		if after != nil && before != nil && d.Counted > 0 {
			d.CPUPer1000 = (after[cpuSeconds] - before[cpuSeconds]) / float64(d.Counted) * 1000
			d.RSS = after[residentBytes]
		}
		if d.Doubled > 0 && !plan.AllowTwice {
			return d, fmt.Errorf("%d of %d records have more than one answer", d.Doubled, d.Records)
		}
		if d.Counted == 0 || d.Seconds <= 0 {
			return d, errors.New("all results came at once: give more records")
		}
		return d, nil
	}
}

// fill writes the backlog.
func (s *Session) fill(ctx context.Context, plan DrainPlan) (*tally, error) {
	begin := time.Now().Truncate(time.Microsecond)
	t := newTally(0, begin, make([]time.Duration, plan.Records), time.Hour, 0)
	s.mu.Lock()
	s.tallies = append(s.tallies, t)
	s.mu.Unlock()
	var failed error
	before, behind, err := s.target.around()
	if err != nil {
		return nil, err
	}
	promise := func(_ *kgo.Record, err error) {
		if err != nil {
			s.fail(fmt.Errorf("writing to %s: %w", plan.Target.Input, err))
		}
	}
	for i := range plan.Records {
		mark := s.mark.append(make([]byte, 0, markSize), Mark{0, i, begin})
		var value []byte
		poison := false
		if plan.Value != nil {
			value = plan.Value(i, mark)
		} else {
			value, poison = plan.Texts.Value(s.target.Format, mark, before, behind)
		}
		s.mu.Lock()
		t.sending(i, poison, begin)
		failed = s.failure
		s.mu.Unlock()
		if failed != nil {
			return nil, failed
		}
		s.producer.Produce(ctx, &kgo.Record{Key: mark, Value: value, Partition: int32(i % s.target.Found.Input),
			Headers: []kgo.RecordHeader{{Key: Header, Value: mark}}}, promise)
	}
	if err := s.producer.Flush(ctx); err != nil {
		return nil, fmt.Errorf("writing to %s: %w", plan.Target.Input, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return t, s.failure
}

// CreateTopics makes the topics of a target, with one replica.
func CreateTopics(ctx context.Context, t Target, partitions int) error {
	client, err := kgo.NewClient(t.options()...)
	if err != nil {
		return err
	}
	defer client.Close()
	made, err := kadm.NewClient(client).CreateTopics(ctx, int32(partitions), 1, nil, append(t.outputs(), t.Input)...)
	if err == nil {
		err = made.Error()
	}
	if err != nil {
		return fmt.Errorf("creating the topics %s, %s, %s: %w", t.Input, t.Output, t.DeadLetter, err)
	}
	return nil
}
