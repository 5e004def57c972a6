package kafka

import (
	"fmt"
	"maps"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"sluice/pipeline"
)

// drawCounts draws some topics with some partitions.
func drawCounts(t *rapid.T) map[string]int {
	counts := map[string]int{}
	for i := range rapid.IntRange(1, 4).Draw(t, "topics") {
		counts[fmt.Sprintf("t%d", i)] = rapid.IntRange(1, 17).Draw(t, "partitions")
	}
	return counts
}

func sum(counts map[string]int) (n int) {
	for _, k := range counts {
		n += k
	}
	return n
}

// members makes members p0..pn-1, all subscribed to everything, with what an earlier assignment gave them.
func members(names []string, counts map[string]int, before map[string][]pipeline.TopicPartition) []member {
	var ms []member
	for _, n := range names {
		ms = append(ms, member{instance: n, topics: slices.Collect(maps.Keys(counts)), owned: before[n], generation: 1})
	}
	return ms
}

func names(n int) []string {
	var out []string
	for i := range n {
		out = append(out, fmt.Sprintf("p%02d", i))
	}
	return out
}

// checkShares fails unless every partition has exactly one owner and the shares differ by one at most.
func checkShares(t *rapid.T, shares map[string][]pipeline.TopicPartition, counts map[string]int) {
	owner := map[pipeline.TopicPartition]string{}
	least, most := 1<<30, 0
	for m, tps := range shares {
		least, most = min(least, len(tps)), max(most, len(tps))
		for _, tp := range tps {
			if other, taken := owner[tp]; taken {
				t.Fatalf("%v belongs to %s and %s", tp, m, other)
			}
			if int(tp.Partition) >= counts[tp.Topic] {
				t.Fatalf("%v does not exist", tp)
			}
			owner[tp] = m
		}
	}
	if len(owner) != sum(counts) {
		t.Fatalf("%d of %d partitions have an owner", len(owner), sum(counts))
	}
	if most-least > 1 {
		t.Fatalf("shares from %d to %d partitions: %v", least, most, shares)
	}
}

// moved counts partitions whose owner of before is still a member but not the owner any more.
func moved(before, after map[string][]pipeline.TopicPartition) (n int) {
	for m, tps := range before {
		if _, here := after[m]; here {
			for _, tp := range tps {
				if !slices.Contains(after[m], tp) {
					n++
				}
			}
		}
	}
	return n
}

func TestAssignGivesEveryPartitionToOneMemberInEqualShares(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		counts := drawCounts(t)
		ns := names(rapid.IntRange(1, 9).Draw(t, "members"))
		ms := members(ns, counts, nil)
		for i := range ms { // any claims, also false and contradicting ones
			ms[i].generation = int32(rapid.IntRange(-1, 3).Draw(t, "generation"))
			for range rapid.IntRange(0, 12).Draw(t, "claims") {
				ms[i].owned = append(ms[i].owned, pipeline.TopicPartition{Topic: rapid.SampledFrom([]string{"t0", "t1",
					"gone"}).Draw(t, "topic"), Partition: int32(rapid.IntRange(0, 20).Draw(t, "partition"))})
			}
		}
		shares := assign(ms, counts)
		checkShares(t, shares, counts)
		slices.Reverse(ms)
		if again := assign(ms, counts); !maps.EqualFunc(shares, again, slices.Equal) {
			t.Fatalf("the order of members changes the shares: %v, %v", shares, again)
		}
	})
}

func TestAssignMovesNoMoreThanItMust(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		counts := drawCounts(t)
		n := rapid.IntRange(1, 8).Draw(t, "members")
		before := assign(members(names(n), counts, nil), counts)

		same := assign(members(names(n), counts, before), counts)
		if k := moved(before, same); k != 0 {
			t.Fatalf("%d partitions moved although nothing changed", k)
		}

		grown := assign(members(names(n+1), counts, before), counts)
		checkShares(t, grown, counts)
		if k := moved(before, grown); k > sum(counts)/(n+1)+1 || k != len(grown[names(n + 1)[n]]) {
			t.Fatalf("a new member took %d partitions, %d moved", len(grown[names(n + 1)[n]]), k)
		}

		if n > 1 {
			gone := rapid.IntRange(0, n-1).Draw(t, "gone")
			left := slices.Delete(names(n), gone, gone+1)
			shrunk := assign(members(left, counts, before), counts)
			checkShares(t, shrunk, counts)
			if k := moved(before, shrunk); k != 0 {
				t.Fatalf("%d partitions of members that stayed have moved", k)
			}
		}

		more := maps.Clone(counts)
		more["t0"] += rapid.IntRange(1, 5).Draw(t, "new partitions")
		wider := assign(members(names(n), more, before), more)
		checkShares(t, wider, more)
		if k := moved(before, wider); k != 0 {
			t.Fatalf("%d partitions moved because a topic has grown", k)
		}
	})
}

func TestAssignGivesPartitionsOnlyToSubscribers(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		counts := drawCounts(t)
		var ms []member
		anybody := map[string]bool{}
		for _, n := range names(rapid.IntRange(1, 6).Draw(t, "members")) {
			m := member{instance: n}
			for topic := range counts {
				if rapid.Bool().Draw(t, "subscribes") {
					m.topics = append(m.topics, topic)
					anybody[topic] = true
				}
			}
			ms = append(ms, m)
		}
		owned := 0
		for name, share := range assign(ms, counts) {
			i := slices.IndexFunc(ms, func(m member) bool { return m.instance == name })
			for _, tp := range share {
				owned++
				if !slices.Contains(ms[i].topics, tp.Topic) {
					t.Fatalf("%s got %v without subscribing", name, tp)
				}
			}
		}
		want := 0
		for topic := range anybody {
			want += counts[topic]
		}
		if owned != want {
			t.Fatalf("%d of %d partitions have an owner", owned, want)
		}
	})
}

func TestTheYoungerClaimWins(t *testing.T) {
	tp := pipeline.TopicPartition{Topic: "t", Partition: 0}
	shares := assign([]member{
		{instance: "a", topics: []string{"t"}, owned: []pipeline.TopicPartition{tp}, generation: 3}, // was away
		{instance: "b", topics: []string{"t"}, owned: []pipeline.TopicPartition{tp}, generation: 7},
	}, map[string]int{"t": 1})
	if !slices.Contains(shares["b"], tp) {
		t.Errorf("shares: %v", shares)
	}
}

func TestSubscriptionAndAssignmentRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		counts := drawCounts(t)
		m := member{instance: "x", topics: slices.Sorted(maps.Keys(counts)), generation: rapid.Int32().Draw(t,
			"generation")}
		for _, tp := range sortedPartitions(counts) {
			if rapid.Bool().Draw(t, "owned") {
				m.owned = append(m.owned, tp)
			}
		}
		got, err := readSubscription("x", m.subscription())
		if err != nil || !slices.Equal(got.topics, m.topics) || got.generation != m.generation ||
			len(got.owned) != len(m.owned) {
			t.Fatalf("%+v, %v; want %+v", got, err, m)
		}
		share, read, err := readAssignment(assignment(m.owned, counts))
		if err != nil || !maps.Equal(read, counts) || len(share) != len(m.owned) {
			t.Fatalf("%v %v %v", share, read, err)
		}
		for _, tp := range m.owned {
			if !slices.Contains(share, tp) || !slices.Contains(got.owned, tp) {
				t.Fatalf("%v is missing", tp)
			}
		}
	})
}

func FuzzReadSubscriptionAndAssignment(f *testing.F) {
	m := member{topics: []string{"a", "b"}, owned: []pipeline.TopicPartition{{Topic: "a", Partition: 3}}, generation: 2}
	f.Add(m.subscription())
	f.Add(assignment(m.owned, map[string]int{"a": 4}))
	f.Add([]byte{0, 1, 0x7f, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, b []byte) {
		readSubscription("x", b)
		readAssignment(b)
	})
}
