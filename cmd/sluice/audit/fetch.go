package audit

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"sluice/pipeline"
)

// This file owns the reading: which offsets, from which brokers, until where. Fetch requests are our own because a
// consumer does not say how far it has come where a log ends with transaction markers or aborted records.

// Plan is what to look at.
type Plan struct {
	Group       string
	Inputs      []string
	Output      string
	DeadLetter  string
	Routed      []string // topics of routed copies
	Requests    string   // topic of escalation requests; "": none
	Escalation  string   // consumer group of the escalation stage; required with Requests
	AtLeastOnce bool
	// Skipped says which records of the input are left out by a rule, so that they need no answer; nil: none are.
	Skipped  func(*pipeline.Record) bool
	Since    time.Time // of the input records' timestamps; zero: the beginning of the log
	Until    time.Time // zero: now
	Patience time.Duration
	// MostRecords bounds the memory, of which two million records take about a megabyte; 0: 2^31.
	MostRecords int64
	// Progress is told how much was read, now and then; nil: nobody is.
	Progress func(topic string, read, of int64)
}

// skew is how much earlier than a record its answer may seem to be: an output topic with LogAppendTime has the times of
// another machine's clock.
const skew = time.Minute

// auditor is one run.
type auditor struct {
	plan   Plan
	client *kgo.Client
	admin  *kadm.Client
	tally  *tally
	report *Report

	mu     sync.Mutex
	topics kadm.TopicDetails
}

// span is a part of one partition's log.
type span struct {
	tp       pipeline.TopicPartition
	from, to int64
}

// Run reads and counts. It returns what could be counted together with an error that ended it. The client needs neither
// a group nor topics.
func Run(ctx context.Context, client *kgo.Client, plan Plan) (*Report, error) {
	if plan.Patience <= 0 {
		plan.Patience = 90 * time.Second
	}
	if plan.MostRecords <= 0 {
		plan.MostRecords = 1 << 31
	}
	if plan.Progress == nil {
		plan.Progress = func(string, int64, int64) {}
	}
	a := &auditor{plan: plan, client: client, admin: kadm.NewClient(client), tally: newTally(),
		report: &Report{Group: plan.Group, Repeats: plan.AtLeastOnce}}
	a.tally.request, a.tally.skipped = plan.Requests, plan.Skipped
	if !plan.Since.IsZero() {
		a.report.Since = plan.Since.UTC().Format(time.RFC3339)
	}
	until := plan.Until
	if until.IsZero() {
		until = time.Now()
	}
	a.report.Until = until.UTC().Format(time.RFC3339)
	if err := a.refresh(ctx); err != nil {
		return nil, err
	}
	inputs, err := a.inputs(ctx)
	if err != nil {
		return nil, err
	}
	// Ends come after the group's offsets: a message of a committed transaction lies before the end by then.
	ends, err := a.listed(ctx, "the ends", a.admin.ListEndOffsets)
	if err != nil {
		return nil, err
	}
	earliest := int64(math.MaxInt64)
	var mu sync.Mutex
	if err := a.read(ctx, "input", inputs, func(r *kgo.Record) {
		a.tally.input(r)
		mu.Lock()
		earliest = min(earliest, r.Timestamp.UnixMilli())
		mu.Unlock()
	}); err != nil {
		return nil, err
	}
	if err := a.outputs(ctx, ends, earliest); err != nil {
		return nil, err
	}
	a.tally.report(a.report)
	return a.report, nil
}

func (a *auditor) all() []string {
	all := append(slices.Clone(a.plan.Inputs), a.plan.Output, a.plan.DeadLetter)
	all = append(all, a.plan.Routed...)
	if a.plan.Requests != "" {
		all = append(all, a.plan.Requests)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

func (a *auditor) note(format string, args ...any) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.report.Notes = append(a.report.Notes, fmt.Sprintf(format, args...))
}

// refresh reads where every partition is.
func (a *auditor) refresh(ctx context.Context) error {
	topics, err := a.admin.ListTopics(ctx, a.all()...)
	if err != nil {
		return fmt.Errorf("reading topics: %w", err)
	}
	for _, name := range a.all() {
		if t := topics[name]; t.Err != nil {
			return fmt.Errorf("topic %s: %w", name, t.Err)
		}
	}
	a.mu.Lock()
	a.topics = topics
	a.mu.Unlock()
	return nil
}

// listed asks for one offset of every partition of all topics.
func (a *auditor) listed(ctx context.Context, what string, list func(context.Context, ...string) (kadm.ListedOffsets,
	error)) (kadm.ListedOffsets, error) {
	o, err := list(ctx, a.all()...)
	if err == nil {
		err = o.Error()
	}
	if err != nil {
		return nil, fmt.Errorf("reading %s of the logs: %w", what, err)
	}
	return o, nil
}

func (a *auditor) after(ctx context.Context, milli int64) (kadm.ListedOffsets, error) {
	return a.listed(ctx, "positions by time", func(ctx context.Context, topics ...string) (kadm.ListedOffsets, error) {
		return a.admin.ListOffsetsAfterMilli(ctx, milli, topics...)
	})
}

// committed is what a group has, by topic and partition. Offsets of a transaction under way do not count.
func (a *auditor) committed(ctx context.Context, group string) (kadm.OffsetResponses, error) {
	o, err := a.admin.FetchOffsets(ctx, group)
	if err == nil {
		err = o.Error()
	}
	if err != nil {
		return nil, fmt.Errorf("reading the offsets of group %s: %w", group, err)
	}
	return o, nil
}

// inputs opens every input partition that has something to count.
func (a *auditor) inputs(ctx context.Context) ([]span, error) {
	committed, err := a.committed(ctx, a.plan.Group)
	if err != nil {
		return nil, err
	}
	starts, err := a.listed(ctx, "the starts", a.admin.ListStartOffsets)
	if err != nil {
		return nil, err
	}
	from := starts
	if !a.plan.Since.IsZero() {
		if from, err = a.after(ctx, a.plan.Since.UnixMilli()); err != nil {
			return nil, err
		}
	}
	stable, err := a.listed(ctx, "the stable ends", a.admin.ListCommittedOffsets)
	if err != nil {
		return nil, err
	}
	to := stable
	if !a.plan.Until.IsZero() {
		if to, err = a.after(ctx, a.plan.Until.UnixMilli()); err != nil {
			return nil, err
		}
	}
	var spans []span
	total := int64(0)
	for _, topic := range a.plan.Inputs {
		for _, p := range a.topics[topic].Partitions.Sorted() {
			tp := pipeline.TopicPartition{Topic: topic, Partition: p.Partition}
			first, _ := from.Lookup(topic, p.Partition)
			last, _ := to.Lookup(topic, p.Partition)
			start, _ := starts.Lookup(topic, p.Partition)
			end, _ := stable.Lookup(topic, p.Partition)
			c, ok := committed.Lookup(topic, p.Partition)
			if !ok || c.At < 0 {
				if end.Offset > start.Offset {
					a.note("%s: group %s has committed nothing here; nothing is counted", tp, a.plan.Group)
				}
				continue
			}
			switch {
			case c.At > end.Offset:
				a.note("%s: group %s has committed offset %d, the log ends at %d: the topic was made anew, or the "+
					"group's offsets were set by hand", tp, a.plan.Group, c.At, end.Offset)
			case c.At < start.Offset:
				a.note("%s: records %d to %d were deleted before group %s had read them (retention): they are lost "+
					"to it", tp, c.At, start.Offset-1, a.plan.Group)
			case start.Offset > 0 && first.Offset == start.Offset:
				a.note("%s: the log begins at %d; records before that are gone and cannot be verified", tp,
					start.Offset)
			}
			s := span{tp, first.Offset, min(c.At, last.Offset)}
			s.to = max(s.from, s.to)
			l := a.tally.open(tp, s.from, s.to)
			l.InFlight = max(0, end.Offset-c.At)
			total += s.to - s.from
			spans = append(spans, s)
		}
	}
	if total > a.plan.MostRecords {
		return nil, fmt.Errorf("there are %d records to look at, and the memory is bounded for %d; look at a shorter "+
			"time", total, a.plan.MostRecords)
	}
	return spans, nil
}

// outputs reads what was written for records of that time, which cannot be earlier than the earliest of them.
func (a *auditor) outputs(ctx context.Context, ends kadm.ListedOffsets, earliest int64) error {
	starts, err := a.listed(ctx, "the starts", a.admin.ListStartOffsets)
	if err != nil {
		return err
	}
	from := starts
	if earliest > skew.Milliseconds() && earliest != math.MaxInt64 {
		if from, err = a.after(ctx, earliest-skew.Milliseconds()); err != nil {
			return err
		}
	}
	var settled kadm.OffsetResponses
	if a.plan.Requests != "" {
		if settled, err = a.committed(ctx, a.plan.Escalation); err != nil {
			return err
		}
		// Amendments were written before their requests were committed.
		if ends, err = a.listed(ctx, "the ends", a.admin.ListEndOffsets); err != nil {
			return err
		}
	}
	compacted, err := a.compacted(ctx)
	if err != nil {
		return err
	}
	kinds := map[string]Kind{a.plan.Output: Results, a.plan.DeadLetter: DeadLetters}
	for _, t := range a.plan.Routed {
		kinds[t] = Routed
	}
	if a.plan.Requests != "" {
		kinds[a.plan.Requests] = Requests
	}
	order := append([]string{a.plan.Output, a.plan.DeadLetter}, a.plan.Routed...)
	if a.plan.Requests != "" {
		order = append([]string{a.plan.Requests}, order...)
	}
	for _, topic := range order {
		kind := kinds[topic]
		var spans []span
		partitions := a.topics[topic].Partitions.Sorted()
		for _, p := range partitions {
			tp := pipeline.TopicPartition{Topic: topic, Partition: p.Partition}
			first, _ := from.Lookup(topic, p.Partition)
			start, _ := starts.Lookup(topic, p.Partition)
			end, _ := ends.Lookup(topic, p.Partition)
			spans = append(spans, span{tp, first.Offset, end.Offset})
			truncated := start.Offset > 0 && first.Offset <= start.Offset
			if kind != Results && kind != DeadLetters || !truncated && !compacted[topic] {
				continue
			}
			if truncated {
				a.note("%s: the log begins at %d; what was there for older records is gone, and records without an "+
					"answer before the first one known there cannot be verified", tp, start.Offset)
			}
			for _, l := range a.tally.lanes {
				if l.Partition.Partition%int32(len(partitions)) == p.Partition {
					l.uncertain = append(l.uncertain, topic)
				}
			}
		}
		if compacted[topic] && (kind == Results || kind == DeadLetters) {
			a.note("%s is compacted: a result is removed when a later one has the same key, so records without an "+
				"answer cannot be verified", topic)
		}
		if err := a.read(ctx, topic, spans, func(r *kgo.Record) {
			done := false
			if kind == Requests {
				c, ok := settled.Lookup(r.Topic, r.Partition)
				done = ok && r.Offset < c.At
			}
			a.tally.output(kind, r, done)
		}); err != nil {
			return err
		}
		if compacted[topic] {
			for _, l := range a.tally.lanes {
				delete(l.seenFrom, topic)
			}
		}
	}
	return nil
}

// compacted says which topics of answers lose messages by their key.
func (a *auditor) compacted(ctx context.Context) (map[string]bool, error) {
	found := map[string]bool{}
	configs, err := a.admin.DescribeTopicConfigs(ctx, a.plan.Output, a.plan.DeadLetter)
	if err != nil {
		return nil, fmt.Errorf("reading the configuration of topics: %w", err)
	}
	for _, c := range configs {
		if c.Err != nil {
			a.note("%s: its configuration may not be read (%v); it is taken as not compacted", c.Name, c.Err)
			continue
		}
		for _, e := range c.Configs {
			if e.Key == "cleanup.policy" && e.Value != nil && slices.Contains(strings.Split(*e.Value, ","), "compact") {
				found[c.Name] = true
			}
		}
	}
	return found, nil
}

// read reads spans, several at a time, and hands over every record of a committed transaction or of none, in the order
// of its partition.
func (a *auditor) read(ctx context.Context, what string, spans []span, each func(*kgo.Record)) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var done, of int64
	for _, s := range spans {
		of += max(0, s.to-s.from)
	}
	var mu sync.Mutex
	ahead := func(n int64) {
		mu.Lock()
		defer mu.Unlock()
		done += n
		a.plan.Progress(what, done, of)
	}
	work := make(chan span)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for s := range work {
				if err := a.readSpan(ctx, s, ahead, each); err != nil {
					cancel(err)
				}
			}
		})
	}
	for _, s := range spans {
		if s.from < s.to {
			work <- s
		}
	}
	close(work)
	wg.Wait()
	return context.Cause(ctx)
}

// readSpan reads one span. Where an open transaction holds it up for longer than the patience it notes that and ends.
func (a *auditor) readSpan(ctx context.Context, s span, ahead func(int64), each func(*kgo.Record)) error {
	at, moved := s.from, time.Now()
	for at < s.to {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		part, next, err := a.fetch(ctx, s.tp, at)
		for _, r := range part.Records {
			if r.Offset < s.to {
				each(r)
			}
		}
		switch {
		case errors.Is(err, kerr.OffsetOutOfRange) && part.LogStartOffset > at:
			a.note("%s: records before %d were deleted while they were read; they cannot be verified", s.tp,
				part.LogStartOffset)
			next, err = part.LogStartOffset, nil
		case err != nil && !retriable(err):
			return fmt.Errorf("reading %s at %d: %w", s.tp, at, err)
		}
		if next > at {
			ahead(min(next, s.to) - at)
			at, moved = next, time.Now()
			continue
		}
		if time.Since(moved) > a.plan.Patience {
			why := fmt.Sprintf("an open transaction holds up its readers (last stable offset %d)",
				part.LastStableOffset)
			if err != nil {
				why = err.Error()
			}
			a.note("%s: not read beyond %d, to %d, after %s: %s", s.tp, at, s.to, a.plan.Patience, why)
			a.mu.Lock()
			a.report.Incomplete = true
			a.mu.Unlock()
			return nil
		}
		if err != nil {
			if err := a.again(ctx); err != nil && !retriable(err) {
				return err
			}
		}
	}
	return nil
}

// again waits a little and looks where partitions are now.
func (a *auditor) again(ctx context.Context) error {
	select {
	case <-time.After(100 * time.Millisecond):
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	return a.refresh(ctx)
}

func retriable(err error) bool {
	var code *kerr.Error
	if errors.As(err, &code) {
		return code.Retriable
	}
	return !errors.Is(err, context.Canceled) // connections come and go
}

// fetch reads one answer of one partition: its records and the position behind them.
func (a *auditor) fetch(ctx context.Context, tp pipeline.TopicPartition, at int64) (kgo.FetchPartition, int64, error) {
	a.mu.Lock()
	topic := a.topics[tp.Topic]
	leader := topic.Partitions[tp.Partition].Leader
	a.mu.Unlock()
	if leader < 0 {
		return kgo.FetchPartition{}, at, kerr.LeaderNotAvailable
	}
	req := kmsg.NewPtrFetchRequest()
	req.ReplicaID, req.MaxWaitMillis, req.MinBytes, req.MaxBytes, req.IsolationLevel, req.SessionEpoch = -1, 500, 1,
		8<<20, 1, -1
	p := kmsg.NewFetchRequestTopicPartition()
	p.Partition, p.FetchOffset, p.PartitionMaxBytes, p.CurrentLeaderEpoch, p.LastFetchedEpoch = tp.Partition, at, 4<<20,
		-1, -1
	t := kmsg.NewFetchRequestTopic()
	t.Topic, t.TopicID, t.Partitions = tp.Topic, topic.ID, []kmsg.FetchRequestTopicPartition{p}
	req.Topics = []kmsg.FetchRequestTopic{t}
	res, err := a.client.Broker(int(leader)).Request(ctx, req)
	if err != nil {
		return kgo.FetchPartition{}, at, err
	}
	answer := res.(*kmsg.FetchResponse)
	if err := kerr.ErrorForCode(answer.ErrorCode); err != nil {
		return kgo.FetchPartition{}, at, err
	}
	if len(answer.Topics) != 1 || len(answer.Topics[0].Partitions) != 1 {
		return kgo.FetchPartition{}, at, fmt.Errorf("the broker answered for %d topics", len(answer.Topics))
	}
	part, next := kgo.ProcessFetchPartition(kgo.ProcessFetchPartitionOpts{
		Offset: at, IsolationLevel: kgo.ReadCommitted(), Topic: tp.Topic, Partition: tp.Partition,
	}, &answer.Topics[0].Partitions[0], kgo.DefaultDecompressor(), nil)
	return part, next, part.Err
}
