package pipeline

import (
	"encoding/json"
	"maps"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// The ledger against a plain model of the broker, under random orders of everything that can happen to it: deliveries
// with gaps, outcomes in any order, commits that succeed and fail, partitions that move away and come back.
func TestLedgerKeepsItsPromisesInAnyOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		parts := []TopicPartition{{"in", 0}, {"in", 1}, {"other", 0}}
		l := newLedger(Limits{PartitionRecords: 20, PartitionBytes: 1 << 20, PartitionTokens: 1000, TotalRecords: 50,
			TotalBytes: 1 << 20, TotalTokens: 5000})
		group := map[TopicPartition]int64{}       // the group's committed offsets
		published := map[TopicPartition][]int64{} // offsets of records whose messages are durable, in order
		// The log: some offsets hold no record (compacted away, control records).
		exists := func(tp TopicPartition, o int64) bool { return (o*o+3*o+int64(tp.Partition))%5 < 3 }
		end := map[TopicPartition]int64{} // how far the log was ever read or committed
		finished := map[*entry]bool{}
		var open []*entry
		position := map[TopicPartition]int64{}

		commit := func(succeed bool) {
			most := rapid.IntRange(1, 30).Draw(t, "most")
			c, n := l.take(most, 1<<20)
			if c == nil {
				return
			}
			if n > most {
				t.Fatalf("take(%d) took %d records", most, n)
			}
			if !succeed {
				l.release()
				return
			}
			for _, m := range c.Messages {
				published[m.Source] = append(published[m.Source], m.Timestamp.UnixNano())
			}
			for tp, at := range c.Offsets {
				if at < group[tp] {
					t.Fatalf("%v: committed offset goes back from %d to %d", tp, group[tp], at)
				}
				for _, e := range open {
					if e.lane == l.lanes[tp] && e.record.Offset < at && !finished[e] {
						t.Fatalf("%v: commit of %d passes unfinished record %d", tp, at, e.record.Offset)
					}
				}
				group[tp] = at
			}
			l.settle()
		}

		t.Repeat(map[string]func(*rapid.T){
			"assign": func(t *rapid.T) {
				owned := map[TopicPartition]int64{}
				for _, tp := range parts {
					if rapid.Bool().Draw(t, "owned") {
						owned[tp] = group[tp]
					}
				}
				from, _ := assignAt(l, owned)
				if len(from) != len(owned) {
					t.Fatalf("assigned %d, positions for %d", len(owned), len(from))
				}
				for tp, at := range from {
					if at < owned[tp] {
						t.Fatalf("%v: fetch position %d lies before the committed offset %d", tp, at, owned[tp])
					}
					position[tp] = at
				}
			},
			"another member commits": func(t *rapid.T) {
				tp := rapid.SampledFrom(parts).Draw(t, "tp")
				if l.lanes[tp] != nil {
					return
				}
				upTo := group[tp] + int64(rapid.IntRange(0, 5).Draw(t, "n"))
				for o := group[tp]; o < upTo; o++ {
					if exists(tp, o) {
						published[tp] = append(published[tp], o)
					}
				}
				group[tp], end[tp] = upTo, max(end[tp], upTo)
			},
			"deliver": func(t *rapid.T) {
				tp := rapid.SampledFrom(parts).Draw(t, "tp")
				if l.room(tp) == 0 {
					return
				}
				at := position[tp]
				var rs []Record
				next := at + int64(rapid.IntRange(1, 9).Draw(t, "n"))
				for o := at; o < next; o++ {
					if exists(tp, o) {
						rs = append(rs, Record{Topic: tp.Topic, Partition: tp.Partition, Offset: o, Value: []byte("x")})
					}
				}
				es, ok := l.deliver(tp, at, rs, next, time.Unix(0, 0))
				if !ok || len(es) != len(rs) {
					t.Fatalf("%v: delivery at the position refused", tp)
				}
				open = append(open, es...)
				position[tp], end[tp] = next, max(end[tp], next)
				if _, again := l.deliver(tp, at, rs, next, time.Unix(0, 0)); again {
					t.Fatalf("%v: the same delivery taken twice", tp)
				}
			},
			"finish": func(t *rapid.T) {
				if len(open) == 0 {
					return
				}
				i := rapid.IntRange(0, len(open)-1).Draw(t, "which")
				e := open[i]
				open = append(open[:i:i], open[i+1:]...)
				finished[e] = true
				l.weigh(e, 3)
				l.finish(e, Outcome{Disposition: Scored, Messages: []Message{{Source: e.lane.tp, Timestamp: time.Unix(0,
					e.record.Offset), Value: []byte("y")}}})
			},
			"commit":       func(t *rapid.T) { commit(true) },
			"commit fails": func(t *rapid.T) { commit(false) },
			"": func(t *rapid.T) {
				var sum usage
				for _, ln := range l.lanes {
					if ln.committed > ln.position(ln.ready) || ln.position(ln.ready) > ln.next {
						t.Fatalf("%v: committed %d, ready %d, next %d out of order", ln.tp, ln.committed,
							ln.position(ln.ready), ln.next)
					}
					var u usage
					for _, e := range ln.entries {
						u.add(1, e.size, e.tokens)
					}
					if u != ln.usage {
						t.Fatalf("%v: usage %+v, entries hold %+v", ln.tp, ln.usage, u)
					}
					sum.add(u.records, u.bytes, u.tokens)
				}
				if sum != l.usage {
					t.Fatalf("total usage %+v, lanes hold %+v", l.usage, sum)
				}
			},
		})

		// In the end: every partition comes home, everything finishes, everything is committed.
		owned := map[TopicPartition]int64{}
		for _, tp := range parts {
			owned[tp] = group[tp]
		}
		from, _ := assignAt(l, owned)
		for tp, at := range from { // what was delivered before but dropped with its lane is read again
			for o := at; o < end[tp]; o++ {
				if exists(tp, o) {
					es, ok := l.deliver(tp, l.lanes[tp].next, []Record{{Topic: tp.Topic, Partition: tp.Partition,
						Offset: o}}, o+1, time.Unix(0, 0))
					if !ok {
						t.Fatalf("%v: refused to read %d again", tp, o)
					}
					open = append(open, es...)
				}
			}
		}
		for _, e := range open {
			finished[e] = true
			l.finish(e, Outcome{Messages: []Message{{Source: e.lane.tp, Timestamp: time.Unix(0, e.record.Offset)}}})
		}
		open = nil
		for range 1000 {
			if _, dirty := l.pending(); !dirty {
				break
			}
			commit(true)
		}
		for _, tp := range parts {
			offsets := published[tp]
			seen := map[int64]bool{}
			for i, o := range offsets {
				if seen[o] {
					t.Fatalf("%v: record %d published twice", tp, o)
				}
				seen[o] = true
				if i > 0 && o < offsets[i-1] {
					t.Fatalf("%v: record %d published after %d", tp, o, offsets[i-1])
				}
			}
			for o := range end[tp] {
				if exists(tp, o) && !seen[o] {
					t.Fatalf("%v: record %d lost", tp, o)
				}
			}
		}
		if l.usage != (usage{}) {
			t.Fatalf("usage %+v left with nothing in flight", l.usage)
		}
	})
}

func TestLedgerStopsTakingInAtEveryLimit(t *testing.T) {
	tp := TopicPartition{"in", 0}
	for name, lim := range map[string]Limits{
		"partition records": {PartitionRecords: 2, PartitionBytes: 1000, PartitionTokens: 100, TotalRecords: 100,
			TotalBytes: 1000, TotalTokens: 1000},
		"partition bytes": {PartitionRecords: 100, PartitionBytes: 20, PartitionTokens: 100, TotalRecords: 100,
			TotalBytes: 1000, TotalTokens: 1000},
		"partition tokens": {PartitionRecords: 100, PartitionBytes: 1000, PartitionTokens: 20, TotalRecords: 100,
			TotalBytes: 1000, TotalTokens: 1000},
		"total records": {PartitionRecords: 100, PartitionBytes: 1000, PartitionTokens: 100, TotalRecords: 2,
			TotalBytes: 1000, TotalTokens: 1000},
		"total bytes": {PartitionRecords: 100, PartitionBytes: 1000, PartitionTokens: 100, TotalRecords: 100,
			TotalBytes: 20, TotalTokens: 1000},
		"total tokens": {PartitionRecords: 100, PartitionBytes: 1000, PartitionTokens: 100, TotalRecords: 100,
			TotalBytes: 1000, TotalTokens: 20},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLedger(lim)
			assignAt(l, map[TopicPartition]int64{tp: 5})
			if l.room(tp) == 0 {
				t.Fatal("an empty partition has no room")
			}
			es, _ := l.deliver(tp, 5, []Record{{Offset: 5, Value: make([]byte, 10)},
				{Offset: 6, Value: make([]byte, 10)}}, 7, time.Now())
			for _, e := range es {
				l.weigh(e, 10)
			}
			if room := l.room(tp); room != 0 {
				t.Fatalf("room for %d bytes at the limit", room)
			}
			for _, e := range es {
				l.finish(e, Outcome{})
			}
			l.take(10, 1000)
			l.settle()
			if l.room(tp) == 0 {
				t.Fatal("no room after the commit")
			}
		})
	}
}

func TestLedgerPinsTheStartPositionOnce(t *testing.T) {
	tp := TopicPartition{"in", 0}
	l := newLedger(DefaultLimits)
	assignAt(l, map[TopicPartition]int64{tp: 0})
	c, _ := l.take(10, 1000)
	if c == nil || c.Offsets[tp] != 0 || len(c.Messages) != 0 {
		t.Fatalf("first commit: %+v, want offset 0 and no messages", c)
	}
	l.settle()
	if c, _ := l.take(10, 1000); c != nil {
		t.Fatalf("the start position is committed again: %+v", c)
	}
}

func TestLedgerKeepsWorkInFlightAcrossARebalance(t *testing.T) {
	stays, goes := TopicPartition{"in", 0}, TopicPartition{"in", 1}
	l := newLedger(DefaultLimits)
	assignAt(l, map[TopicPartition]int64{stays: 10, goes: 20})
	a, _ := l.deliver(stays, 10, []Record{{Offset: 10}, {Offset: 11}}, 12, time.Now())
	b, _ := l.deliver(goes, 20, []Record{{Offset: 20}}, 21, time.Now())
	from, dropped := assignAt(l, map[TopicPartition]int64{stays: 10})
	if from[stays] != 12 || dropped != 1 {
		t.Fatalf("fetch goes on from %d with %d dropped, want 12 and 1", from[stays], dropped)
	}
	l.finish(b[0], Outcome{Messages: []Message{{}}}) // of the lost partition: nobody sees it
	l.finish(a[0], Outcome{Messages: []Message{{}}})
	l.finish(a[1], Outcome{Messages: []Message{{}}})
	c, n := l.take(10, 1000)
	if n != 2 || len(c.Messages) != 2 || c.Offsets[stays] != 12 || len(c.Offsets) != 1 {
		t.Fatalf("commit %+v of %d records, want the 2 of %v", c, n, stays)
	}
}

func TestLedgerStartsAgainWhereAnotherMemberHasCommitted(t *testing.T) {
	tp := TopicPartition{"in", 0}
	l := newLedger(DefaultLimits)
	assignAt(l, map[TopicPartition]int64{tp: 10})
	l.deliver(tp, 10, []Record{{Offset: 10}, {Offset: 11}}, 12, time.Now())
	if from, _ := assignAt(l, map[TopicPartition]int64{tp: 11}); from[tp] != 11 {
		t.Fatalf("fetch from %d, want 11: another member had the partition and committed 11", from[tp])
	}
	if l.usage.records != 0 {
		t.Fatalf("%d stale records still count", l.usage.records)
	}
}

func TestABacklogDoesNotHoldUpUrgentTopics(t *testing.T) {
	lim := Limits{PartitionRecords: 2, PartitionBytes: 1000, PartitionTokens: 100, TotalRecords: 3, TotalBytes: 1000,
		TotalTokens: 100}
	backlog, other, urgent := TopicPartition{"reviews", 0}, TopicPartition{"reviews", 1}, TopicPartition{"incidents", 0}
	l := newLedger(lim, urgent.Topic)
	assignAt(l, map[TopicPartition]int64{backlog: 0, other: 0, urgent: 0})
	deliver := func(tp TopicPartition, from, n int64) {
		t.Helper()
		var rs []Record
		for i := range n {
			rs = append(rs, Record{Topic: tp.Topic, Partition: tp.Partition, Offset: from + i, Value: []byte("v")})
		}
		if _, ok := l.deliver(tp, from, rs, from+n, time.Time{}); !ok {
			t.Fatalf("%v takes nothing", tp)
		}
	}
	deliver(backlog, 0, 3)
	if l.room(other) != 0 {
		t.Fatal("the total limit does not hold up an ordinary topic")
	}
	if l.room(urgent) == 0 {
		t.Error("a backlog elsewhere holds up an urgent topic")
	}
	deliver(urgent, 0, 2)
	if l.room(urgent) != 0 {
		t.Error("an urgent topic has no limit of its own")
	}
}

// assignAt is an assignment without metadata.
func assignAt(l *ledger, offsets map[TopicPartition]int64) (from map[TopicPartition]int64, dropped int) {
	c := make(map[TopicPartition]Committed, len(offsets))
	for tp, o := range offsets {
		c[tp] = Committed{Offset: o}
	}
	return l.assign(c, nil)
}

// notes is an attachment: what it wants to keep, and what it was told.
type notes struct {
	name string
	want map[TopicPartition]string
	told map[TopicPartition]Members
}

func (n *notes) Name() string { return n.name }
func (n *notes) Note(tp TopicPartition) json.RawMessage {
	if n.want[tp] == "" {
		return nil
	}
	return json.RawMessage(n.want[tp])
}
func (n *notes) Assigned(m map[TopicPartition]Members) {
	n.told = map[TopicPartition]Members{}
	for tp := range m {
		n.told[tp] = maps.Clone(m[tp])
	}
}

func TestMetadataJoinsACommitWhenItChanged(t *testing.T) {
	moves, rests, fresh := TopicPartition{"in", 0}, TopicPartition{"in", 1}, TopicPartition{"in", 2}
	l := newLedger(DefaultLimits)
	l.assign(map[TopicPartition]Committed{moves: {Offset: 10, Metadata: `{"n":"a"}`},
		rests: {Offset: 20, Metadata: `{"n":"b"}`}, fresh: {Offset: 30}}, nil)
	annotate := func(c *Commit, want map[TopicPartition]string) {
		l.annotate(c, []Attachment{&notes{name: "n", want: want}})
	}
	c, _ := l.take(10, 1<<20) // the start positions
	annotate(c, map[TopicPartition]string{moves: `"a"`, rests: `"b"`})
	if want := map[TopicPartition]string{moves: `{"n":"a"}`, rests: `{"n":"b"}`}; len(c.Offsets) != 3 ||
		!maps.Equal(c.Metadata, want) {
		t.Fatalf("first commit %v with %v, want all three with %v", c.Offsets, c.Metadata, want)
	}
	l.settle()

	deliver := func() {
		es, ok := l.deliver(moves, l.lanes[moves].next, []Record{{Topic: "in", Offset: l.lanes[moves].next}}, 0,
			time.Time{})
		if !ok {
			t.Fatal("delivery refused")
		}
		l.finish(es[0], Outcome{})
	}
	deliver()
	c, _ = l.take(10, 1<<20)
	annotate(c, map[TopicPartition]string{moves: `"a2"`, rests: `"b2"`, {"else", 0}: "x"})
	if want := map[TopicPartition]int64{moves: 11, rests: 20}; !maps.Equal(c.Offsets, want) {
		t.Fatalf("offsets %v, want %v: the resting partition stays where it is", c.Offsets, want)
	}
	if want := map[TopicPartition]string{moves: `{"n":"a2"}`, rests: `{"n":"b2"}`}; !maps.Equal(c.Metadata, want) {
		t.Fatalf("metadata %v, want %v", c.Metadata, want)
	}
	l.release()
	c, _ = l.take(10, 1<<20)
	annotate(c, map[TopicPartition]string{moves: `"a2"`, rests: `"b2"`})
	if len(c.Offsets) != 2 {
		t.Fatalf("after a failed commit %v, want both again", c.Offsets)
	}
	l.settle()
	deliver()
	c, _ = l.take(10, 1<<20)
	annotate(c, map[TopicPartition]string{moves: `"a3"`, rests: `"b2"`})
	if want := map[TopicPartition]int64{moves: 12}; !maps.Equal(c.Offsets, want) {
		t.Fatalf("offsets %v, want %v: nothing has changed elsewhere", c.Offsets, want)
	}
}
