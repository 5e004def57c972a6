package kafka

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"sluice/pipeline"
)

// This file owns fetching: one long-poll request per leader at a time, with all partitions in it that the leader leads
// and the flow has room for. Leaving a partition out of the next request is all of back-pressure.
//
// One goroutine per leader. A fetcher lives as long as an assignment of positions; when run has returned, nothing more
// is delivered. fetcher.mu guards parts and nodes and is never held across a request or a call of the flow.

const (
	partitionMaxBytes = 1 << 20 // most bytes of one partition in an answer, unless its first batch is larger
	pausedWait        = 20 * time.Millisecond
	roomPoll          = 5 * time.Millisecond
	stalePause        = 100 * time.Millisecond // before a partition with an error is asked for again
	corruptTries      = 4
	faultPatience     = 30 * time.Second // for what is in flight, before what cannot be read ends the worker
	largestAnswer     = 1 << 30
)

type fetcher struct {
	c       *Client
	flow    pipeline.Flow
	session *session
	stale   chan struct{} // asks for new metadata

	mu     sync.Mutex
	parts  map[pipeline.TopicPartition]*fetchState
	nodes  map[int32]bool // leaders that have a goroutine
	resets map[pipeline.TopicPartition]int64
	turn   int
	ending *pipeline.Fault // why nothing more is fetched; nil: it is
	since  time.Time       // of ending
}

// fetchState is one partition. While busy it belongs to the goroutine whose request it is in.
type fetchState struct {
	began    int64 // where reading began
	next     int64
	busy     bool
	starved  bool // an answer had no room for its first batch: it goes first next time
	maxBytes int  // larger than partitionMaxBytes after a cut batch
	corrupt  int  // attempts at a damaged batch
	notNow   time.Time
	told     time.Time
}

func newFetcher(c *Client, flow pipeline.Flow, s *session, owned []pipeline.TopicPartition,
	from map[pipeline.TopicPartition]int64) *fetcher {
	f := &fetcher{c: c, flow: flow, session: s, stale: make(chan struct{}, 1),
		parts: map[pipeline.TopicPartition]*fetchState{},
		nodes: map[int32]bool{}, resets: map[pipeline.TopicPartition]int64{}}
	for _, tp := range owned {
		if at, ok := from[tp]; ok {
			f.parts[tp] = &fetchState{began: at, next: at, maxBytes: partitionMaxBytes}
		}
	}
	return f
}

// run fetches until ctx ends, and returns why it ended: ctx's error, a fault, or errReposition.
func (f *fetcher) run(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel(nil) // before waiting
	for {
		changed := f.c.metadataChanged()
		leaderless := false
		f.mu.Lock()
		for tp := range f.parts {
			n := f.c.leader(tp)
			leaderless = leaderless || n < 0
			if n < 0 || f.nodes[n] {
				continue
			}
			f.nodes[n] = true
			wg.Go(func() {
				if err := f.serve(ctx, n); err != nil {
					cancel(err)
				}
			})
		}
		f.mu.Unlock()
		var look <-chan time.Time
		if leaderless {
			look = time.After(time.Second)
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-changed:
			continue
		case <-look:
		case <-f.stale:
			if !sleep(ctx, stalePause/2) {
				return context.Cause(ctx)
			}
		}
		if err := f.c.refresh(ctx); err != nil {
			f.c.observeRetry("metadata", err)
			sleep(ctx, stalePause)
			f.refreshSoon()
		}
	}
}

func (f *fetcher) refreshSoon() {
	select {
	case f.stale <- struct{}{}:
	default:
	}
}

// wanted is one partition of a request.
type wanted struct {
	tp    pipeline.TopicPartition
	state *fetchState
	bytes int
}

// plan picks what the next request to a leader asks for. led is how many partitions it leads; paused says that some of
// them have no room or wait after an error.
func (f *fetcher) plan(n int32) (want []wanted, led int, paused bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for tp, p := range f.parts {
		if f.c.leader(tp) != n {
			continue
		}
		led++
		if p.busy || f.ending != nil || time.Now().Before(p.notNow) {
			paused = true
			continue
		}
		want = append(want, wanted{tp: tp, state: p})
	}
	if led == 0 {
		delete(f.nodes, n)
		return nil, 0, false
	}
	// An answer has no room for everything: partitions take turns to be first, and whose batch did not fit goes before.
	slices.SortFunc(want, func(a, b wanted) int {
		if a.state.starved != b.state.starved {
			if a.state.starved {
				return -1
			}
			return 1
		}
		if c := int(a.tp.Partition) - int(b.tp.Partition); c != 0 {
			return c
		}
		return strings.Compare(a.tp.Topic, b.tp.Topic)
	})
	starved := 0
	for starved < len(want) && want[starved].state.starved {
		starved++
	}
	if rest := want[starved:]; len(rest) > 1 {
		k := f.turn % len(rest)
		rotated := append(slices.Clone(rest[k:]), rest[:k]...)
		copy(rest, rotated)
	}
	f.turn++
	for i := range want {
		want[i].state.busy = true
	}
	return want, led, paused
}

// serve asks one leader for records until it leads nothing of ours any more.
func (f *fetcher) serve(ctx context.Context, n int32) error {
	for ctx.Err() == nil {
		if err := f.over(); err != nil {
			return err
		}
		planned, led, paused := f.plan(n)
		if led == 0 {
			return nil
		}
		want := planned[:0:0]
		for _, w := range planned {
			if room := f.flow.Room(w.tp); room > 0 {
				w.bytes = max(1024, min(room, w.state.maxBytes))
				want = append(want, w)
			} else {
				paused = true
				f.release(w.state)
			}
		}
		if len(want) == 0 {
			sleep(ctx, roomPoll)
			continue
		}
		wait := f.c.cfg.FetchMaxWait
		if paused {
			wait = min(wait, pausedWait) // or a partition that has room again would wait for others to have records
		}
		err := f.fetch(ctx, n, want, wait)
		for _, w := range want {
			f.release(w.state)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (f *fetcher) release(p *fetchState) {
	f.mu.Lock()
	p.busy = false
	f.mu.Unlock()
}

// postpone leaves a partition alone for a moment.
func (f *fetcher) postpone(p *fetchState, d time.Duration) {
	f.mu.Lock()
	p.notNow = time.Now().Add(d)
	f.mu.Unlock()
}

// fetch is one request and what its answer brings. The error ends the fetcher.
func (f *fetcher) fetch(ctx context.Context, n int32, want []wanted, wait time.Duration) error {
	req := &fetchRequest{ReplicaID: -1, MaxWaitMs: int32(wait.Milliseconds()), MinBytes: 1,
		MaxBytes: int32(f.c.cfg.FetchMaxBytes), IsolationLevel: 1, SessionEpoch: -1}
	for _, w := range want {
		if k := len(req.Topics); k == 0 || req.Topics[k-1].Name != w.tp.Topic {
			req.Topics = append(req.Topics, fetchTopic{Name: w.tp.Topic})
		}
		t := &req.Topics[len(req.Topics)-1]
		t.Partitions = append(t.Partitions, fetchPartition{Partition: w.tp.Partition, LeaderEpoch: -1,
			Offset: w.state.next, LogStartOffset: -1, MaxBytes: int32(w.bytes)})
		req.MaxBytes = max(req.MaxBytes, int32(min(w.state.maxBytes, largestAnswer)))
	}
	req.route(n)
	r, err := ask[*fetchResponse](ctx, f.c, wait+requestTimeout, req)
	if ctx.Err() != nil {
		return nil
	}
	if err == nil {
		err = answer(r.ErrorCode, "Fetch", "broker %d", n)
	}
	if err != nil {
		f.c.observeRetry("fetch", err)
		f.refreshSoon()
		sleep(ctx, stalePause)
		return nil
	}
	asked := make(map[pipeline.TopicPartition]*fetchState, len(want))
	for _, w := range want {
		asked[w.tp] = w.state
	}
	for i := range r.Topics {
		for j := range r.Topics[i].Partitions {
			x := &r.Topics[i].Partitions[j]
			tp := pipeline.TopicPartition{Topic: r.Topics[i].Name, Partition: x.Partition}
			p := asked[tp]
			if p == nil {
				continue
			}
			if err := f.take(ctx, tp, p, x); err != nil {
				return err
			}
		}
	}
	return nil
}

// take delivers what an answer brought for one partition.
func (f *fetcher) take(ctx context.Context, tp pipeline.TopicPartition, p *fetchState, x *fetchResult) error {
	switch x.ErrorCode {
	case 0:
	case errOffsetOutOfRange:
		return f.outOfRange(ctx, tp, p)
	case errCorrupt:
		return f.damaged(tp, p, &corruptError{tp, p.next, -1, answer(errCorrupt, "Fetch", "topic %s", tp.Topic)})
	default:
		err := answer(x.ErrorCode, "Fetch", "topic %s", tp.Topic)
		if fault := f.c.configFault("fetch", err); fault != nil {
			return fault
		}
		f.c.observeRetry("fetch", err)
		if time.Since(p.told) > 30*time.Second { // the first time, too: the zero time is long ago
			p.told = time.Now()
			f.c.log.Warn("a partition cannot be fetched at the moment", "partition", tp.String(), "error", err)
		}
		f.postpone(p, stalePause)
		f.refreshSoon()
		return nil
	}
	f.flow.Lag(tp, x.HighWatermark)
	records, next, err := committedRecords(tp, x, p.next)
	var damage *corruptError
	switch {
	case errors.Is(err, errPartial) && p.maxBytes >= largestAnswer:
		return f.damaged(tp, p, &corruptError{tp, p.next, -1, fmt.Errorf("%w, and that is not for want of room: the "+
			"batch's length cannot be true", err)})
	case errors.Is(err, errPartial):
		f.mu.Lock()
		p.maxBytes = min(2*p.maxBytes, largestAnswer)
		f.mu.Unlock()
		return nil
	case errors.As(err, &damage):
		return f.damaged(tp, p, damage)
	}
	f.mu.Lock()
	p.starved = len(x.Records) == 0 && p.next < x.LastStableOffset
	p.corrupt = 0
	f.mu.Unlock()
	if next == p.next {
		return nil
	}
	if ctx.Err() != nil {
		return nil
	}
	if !f.flow.Deliver(tp, p.next, records, next) {
		f.mu.Lock()
		delete(f.parts, tp) // not ours any more
		f.mu.Unlock()
		return nil
	}
	p.next = next
	p.maxBytes = partitionMaxBytes
	return nil
}

// damaged tries a damaged batch again (a network or a broker can be at fault) and then ends the fetcher. A batch over
// which decoding has panicked is one, too: it would end the process at every start, and only a person may say that it
// is to be skipped.
func (f *fetcher) damaged(tp pipeline.TopicPartition, p *fetchState, err *corruptError) error {
	f.c.observeRetry("fetch", err)
	var panicked *pipeline.PanicError
	way := "restore the log from a replica"
	if errors.As(err, &panicked) { // its checksum is right, so every replica has the same bytes
		way = "this is a bug of Sluice or of a codec: report the stack that is logged, and have the records written " +
			"again with another compression.type"
	}
	if panicked != nil {
		f.c.log.Error("decoding a batch panicked", "partition", tp.String(), "offset", err.offset, "panic", panicked)
	} else {
		f.c.log.Warn("a batch is damaged", "partition", tp.String(), "offset", err.offset, "error", err)
	}
	if p.corrupt++; p.corrupt < corruptTries {
		f.postpone(p, stalePause)
		return nil
	}
	to, where := "N", ", where N is the offset behind the batch"
	if err.behind > err.offset {
		to, where = strconv.FormatInt(err.behind, 10), " (the end of the batch, as its header says)"
	}
	f.end(pipeline.Faultf(pipeline.Config, "fetch", "corrupt",
		"%w (tried %d times): %s, or give the batch up: stop the workers of group %s, and when their sessions have "+
			"ended "+
			"kafka-consumer-groups --reset-offsets --group %s --topic %s:%d --to-offset %s --execute%s", err,
		corruptTries, way, f.c.cfg.Group, f.c.cfg.Group, tp.Topic, tp.Partition, to, where))
	return nil
}

// end ends the fetcher with a fault as soon as what it has delivered is committed. Whoever moves the group past what
// cannot be read must not lose what was before it; and a worker that is started again and again must not be in the
// middle of other partitions' records each time it ends, or they are taken for what ends it.
func (f *fetcher) end(fault *pipeline.Fault) {
	f.c.log.Error("reading cannot go on; finishing what is in flight", "error", fault)
	f.mu.Lock()
	if f.ending == nil {
		f.ending, f.since = fault, time.Now()
	}
	f.mu.Unlock()
}

// over is the fault to end with, when there is one and nothing is in flight any more, or not for want of waiting.
func (f *fetcher) over() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.ending == nil {
		return nil
	}
	if time.Since(f.since) > faultPatience {
		return f.ending
	}
	f.c.mu.Lock()
	defer f.c.mu.Unlock()
	for tp, p := range f.parts {
		at := f.c.committed[tp]
		if at < 0 { // the group has none: it began by start policy
			at = p.began
		}
		if p.busy || at < p.next {
			return nil
		}
	}
	return f.ending
}

// outOfRange handles a position that the log does not have: records were deleted before they were read, or the log was
// cut short or made anew. Never silently.
func (f *fetcher) outOfRange(ctx context.Context, tp pipeline.TopicPartition, p *fetchState) error {
	c := f.c
	if c.cfg.Start == StartError {
		f.end(pipeline.Faultf(pipeline.Config, "fetch", "out-of-range",
			"%s has no offset %d any more, and input.start is error: set start to earliest or latest; or stop the "+
				"workers of group %s, and when their sessions have ended "+
				"kafka-consumer-groups --reset-offsets --group %s --topic %s:%d --to-earliest --execute", tp, p.next,
			c.cfg.Group, c.cfg.Group, tp.Topic, tp.Partition))
		return nil
	}
	begin, err := c.logOffset(ctx, f.session, tp, c.cfg.Start)
	if err != nil {
		if fault := c.configFault("fetch", err); fault != nil {
			return fault
		}
		f.postpone(p, stalePause)
		return nil
	}
	c.log.Error("offset out of range: records are lost for this group; reading begins again by start policy",
		"partition", tp.String(), "offset", p.next, "start", c.cfg.Start, "new_offset", begin, "missed",
		fmt.Sprint(max(0, begin-p.next)))
	if begin >= p.next {
		// Forward: what is in flight stays, and the gap is committed behind it.
		if f.flow.Deliver(tp, p.next, nil, begin) {
			p.next = begin
		}
		return nil
	}
	// Backward: the log is another one. What is in flight belongs to the old one.
	f.mu.Lock()
	f.resets[tp] = begin
	f.mu.Unlock()
	return errReposition
}
