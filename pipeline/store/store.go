// Package store keeps outcomes in places beside Kafka: a database, an index, a web hook.
//
// A place beside Kafka has no part in its transactions. So outcomes are put there before the Kafka commit, and the
// commit waits for them: what is committed has been put. The other way round it may be that an outcome has been put and
// is not committed, ever or yet: then it is made and put again, here or by another worker. A store takes outcomes by
// their ids, so that it ends as if each had come once.
package store

import (
	"context"
	"fmt"
	"strconv"

	"sluice/pipeline"
)

// Item is one record and what became of it. Neither is to be written to.
type Item struct {
	Record  *pipeline.Record
	Outcome *pipeline.Outcome
}

// ID names the record: topic/partition/offset, as in the header sluice.source of its messages. It is the same whenever
// and wherever the outcome is made. Messages have ids of their own, in the header sluice.id.
func (i Item) ID() string {
	r := i.Record
	b := append(append(make([]byte, 0, len(r.Topic)+24), r.Topic...), '/')
	b = append(strconv.AppendInt(b, int64(r.Partition), 10), '/')
	return string(strconv.AppendInt(b, r.Offset, 10))
}

// Store is a place beside Kafka that takes outcomes.
type Store interface {
	// Put returns nil when all items are as durable as the place makes them. It replaces what it has under an item's
	// id: a commit that fails is repeated with the same items, perhaps among others, and so is what a worker that died
	// had put. Items come in the order of their offsets within a partition; an outcome that is made again mostly has
	// the same bytes, but an endpoint may answer otherwise. A worker that has been fenced finds that out after it has
	// put: what it put stays until the partition's new owner has put the same ids.
	//
	// Called by one goroutine at a time, with nothing of the items to be used when it has returned. It ends when ctx
	// does, and has a time limit of its own: commits of all partitions wait for it, and a rebalance waits for a commit
	// in progress. Its error is one of two:
	//
	//   *Fault{Kind: Transient}  the place is away: the commit is tried again, with a pause that grows to a second.
	//   *Fault{Kind: Config}     a person must act (permission, missing table): the worker stops.
	//
	// Any other ends the worker as a broken promise of the store's code (Internal). No error is one record's: what the
	// place cannot hold, the store cuts or leaves out, and counts.
	Put(ctx context.Context, items []Item) error
	// Close frees what the store holds. Called by who made it, after the stage has ended.
	Close() error
}

// Before is a sink that puts the outcomes of a commit into stores, one after the other, and commits when all have taken
// them. Without stores it is the sink itself.
func Before(sink pipeline.Sink, stores ...Store) pipeline.Sink {
	if len(stores) == 0 {
		return sink
	}
	return &before{Sink: sink, stores: stores}
}

type before struct {
	pipeline.Sink
	stores []Store
	items  []Item // of the commit in progress; kept for its room
}

// Commit implements pipeline.Sink.
func (b *before) Commit(ctx context.Context, c *pipeline.Commit) error {
	if c.Outcomes != nil {
		for r, o := range c.Outcomes {
			b.items = append(b.items, Item{r, o})
		}
	}
	defer func() {
		clear(b.items)
		b.items = b.items[:0]
	}()
	if len(b.items) > 0 {
		for _, s := range b.stores {
			if err := put(ctx, s, b.items); err != nil {
				return err
			}
		}
	}
	return b.Sink.Commit(ctx, c)
}

// put says what a store's error, or its panic, means for the commit.
func put(ctx context.Context, s Store, items []Item) (err error) {
	defer func() {
		if x := recover(); x != nil {
			err = pipeline.Faultf(pipeline.Internal, "store", "panic", "%T: %w", s, pipeline.Recovered(x))
		}
	}()
	err = s.Put(ctx, items)
	switch kind := pipeline.KindOf(err); {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return pipeline.Faultf(pipeline.Transient, "store", "stopping", "%T was left: %v", s, err)
	case kind == pipeline.Transient || kind == pipeline.Config:
		return fault(s, kind, err)
	}
	return fault(s, pipeline.Internal, err)
}

// fault says which store it was. What else is in err's chain (a RefusedError of a store that is a sink, too, say) is
// cut off: it has a meaning for who commits, and here it would have the wrong one.
func fault(s Store, kind pipeline.Kind, err error) error {
	return &pipeline.Fault{Kind: kind, Stage: "store", Reason: "store", Err: fmt.Errorf("%T: %v", s, err)}
}
