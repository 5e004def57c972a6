package pipelinetest

import (
	"context"
	"fmt"
	"maps"
	"sync"

	"sluice/pipeline"
)

// Flow is a pipeline.Flow for tests of a Source: it keeps what is delivered and checks that the source keeps the
// contract.
type Flow struct {
	RoomBytes int // what Room answers; 0 means 1 MiB

	mu        sync.Mutex
	assigned  map[pipeline.TopicPartition]int64 // position
	records   []pipeline.Record
	high      map[pipeline.TopicPartition]int64
	assigns   int
	quiesces  int
	broken    []error
	changed   chan struct{}
	paused    map[pipeline.TopicPartition]bool
	committed map[pipeline.TopicPartition]int64 // as the last Assign gave it
	metadata  map[pipeline.TopicPartition]string
}

var _ pipeline.Flow = (*Flow)(nil)

// signal wakes Await. f.mu is held.
func (f *Flow) signal() {
	if f.changed != nil {
		close(f.changed)
		f.changed = nil
	}
}

// Pause makes Room answer 0 for tp.
func (f *Flow) Pause(tp pipeline.TopicPartition, paused bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.paused == nil {
		f.paused = map[pipeline.TopicPartition]bool{}
	}
	f.paused[tp] = paused
}

// Room implements pipeline.Flow.
func (f *Flow) Room(tp pipeline.TopicPartition) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.paused[tp]:
		return 0
	case f.RoomBytes > 0:
		return f.RoomBytes
	}
	return 1 << 20
}

// Deliver implements pipeline.Flow.
func (f *Flow) Deliver(tp pipeline.TopicPartition, from int64, records []pipeline.Record, next int64) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	at, owned := f.assigned[tp]
	if !owned || at != from {
		f.broken = append(f.broken, fmt.Errorf("Deliver(%s) from %d, position is %d (assigned: %v)", tp, from, at,
			owned))
		return false
	}
	for _, r := range records {
		if r.TopicPartition() != tp || r.Offset < at || r.Offset >= next {
			f.broken = append(f.broken, fmt.Errorf("Deliver(%s, %d..%d) has record %s@%d", tp, from, next,
				r.TopicPartition(), r.Offset))
		}
		at = r.Offset + 1
	}
	f.assigned[tp] = next
	f.records = append(f.records, records...)
	f.signal()
	return true
}

// Quiesce implements pipeline.Flow.
func (f *Flow) Quiesce(context.Context) {
	f.mu.Lock()
	f.quiesces++
	f.mu.Unlock()
}

// Assign implements pipeline.Flow.
func (f *Flow) Assign(committed map[pipeline.TopicPartition]pipeline.Committed) map[pipeline.TopicPartition]int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.assigns++
	f.assigned, f.committed, f.metadata = map[pipeline.TopicPartition]int64{}, map[pipeline.TopicPartition]int64{},
		map[pipeline.TopicPartition]string{}
	for tp, c := range committed {
		f.assigned[tp], f.committed[tp], f.metadata[tp] = c.Offset, c.Offset, c.Metadata
	}
	f.signal()
	return maps.Clone(f.assigned)
}

// Lag implements pipeline.Flow.
func (f *Flow) Lag(tp pipeline.TopicPartition, high int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.high == nil {
		f.high = map[pipeline.TopicPartition]int64{}
	}
	f.high[tp] = high
}

// Seen is a snapshot of a Flow.
type Seen struct {
	Records   []pipeline.Record
	Positions map[pipeline.TopicPartition]int64 // of the partitions assigned now
	Committed map[pipeline.TopicPartition]int64 // as given with the last Assign
	Metadata  map[pipeline.TopicPartition]string
	High      map[pipeline.TopicPartition]int64
	Assigns   int
	Quiesces  int
	Broken    []error // breaches of the contract
}

// Await waits until done says so or ctx ends, and returns the snapshot that it said it of.
func (f *Flow) Await(ctx context.Context, done func(*Seen) bool) (*Seen, error) {
	for {
		f.mu.Lock()
		s := &Seen{Records: f.records, Positions: maps.Clone(f.assigned), Committed: maps.Clone(f.committed),
			Metadata: maps.Clone(f.metadata), High: maps.Clone(f.high), Assigns: f.assigns, Quiesces: f.quiesces,
			Broken: f.broken}
		if f.changed == nil {
			f.changed = make(chan struct{})
		}
		changed := f.changed
		f.mu.Unlock()
		if done(s) {
			return s, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return s, fmt.Errorf("after %d records, %d assignments: %w", len(s.Records), s.Assigns, ctx.Err())
		}
	}
}
