package kafka

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"sluice/pipeline"
	"sluice/pipeline/pipelinetest"
)

// grow gives a topic more partitions and waits until the brokers know.
func grow(t testing.TB, addrs []string, topic string, partitions int) {
	t.Helper()
	admin := kadm.NewClient(franz(t, addrs))
	r, err := admin.UpdatePartitions(t.Context(), partitions, topic)
	if err == nil {
		err = r.Error()
	}
	if err != nil {
		t.Fatal(err)
	}
	await(t, 20*time.Second, "new partitions", func() bool {
		topics, err := admin.ListTopics(t.Context(), topic)
		return err == nil && len(topics[topic].Partitions) == partitions
	})
}

// put writes numbers into one partition.
func put(t testing.TB, addrs []string, topic string, partition int32, from, to int) {
	t.Helper()
	var rs []*kgo.Record
	for i := from; i < to; i++ {
		rs = append(rs, &kgo.Record{Topic: topic, Partition: partition, Value: []byte(strconv.Itoa(i))})
	}
	if err := franz(t, addrs).ProduceSync(t.Context(), rs...).FirstErr(); err != nil {
		t.Fatal(err)
	}
}

// TestRealPartitionsThatAppearLaterAreReadFromTheirBeginning: while the worker runs, before it looks; while it is down;
// and again after a restart, with offsets of its own, of an administrator's, and of a version that noted nothing beside
// them.
func TestRealPartitionsThatAppearLaterAreReadFromTheirBeginning(t *testing.T) {
	for _, g := range []Guarantee{ExactlyOnce, AtLeastOnce} {
		for _, start := range []Start{Latest, StartError, Earliest} {
			t.Run(fmt.Sprint(g, "-", start), func(t *testing.T) {
				b, l := pipelinetest.TestListener(t)
				in, out, group := topicNames(t)
				createTopics(t, b.Addrs(), 1, nil, in, out)
				put(t, b.Addrs(), in, 0, 900, 903)
				cfg := realConfig(t, b, l, g, in, out, group)
				cfg.Start = start
				want := map[string]bool{}
				due := func(from, to int) {
					for i := from; i < to; i++ {
						want[strconv.Itoa(i)] = true
					}
				}
				switch start {
				case StartError: // an administrator has said where to begin
					offsets := kadm.Offsets{}
					offsets.AddOffset(in, 0, 3, -1)
					if err := kadm.NewClient(franz(t, b.Addrs())).CommitAllOffsets(t.Context(), group,
						offsets); err != nil {
						t.Fatal(err)
					}
				case Earliest:
					due(900, 903)
				}
				work := func(does func()) {
					t.Helper()
					c := newClient(t, cfg)
					c.growthPoll = 3 * time.Second
					w := runWorker(t, c, newStage(c, c, copier{out}))
					await(t, 30*time.Second, "an offset of the group", func() bool {
						o, err := kadm.NewClient(franz(t, b.Addrs())).FetchOffsets(t.Context(), group)
						if err != nil {
							return false
						}
						at, ok := o.Lookup(in, 0)
						return ok && at.At >= 3
					})
					does()
					w.awaitCommitted(t, int64(3+len(want)-map[Start]int{Earliest: 3}[start]))
					w.stop()
					if err := w.wait(t); err != nil {
						t.Fatal(err)
					}
				}
				work(func() {
					put(t, b.Addrs(), in, 0, 0, 5)
					due(0, 5)
					grow(t, b.Addrs(), in, 2)
					put(t, b.Addrs(), in, 1, 100, 110) // before the worker looks
					due(100, 110)
				})
				grow(t, b.Addrs(), in, 4) // while it is down
				put(t, b.Addrs(), in, 2, 200, 210)
				put(t, b.Addrs(), in, 3, 300, 301)
				due(200, 210)
				due(300, 301)
				work(func() {})
				work(func() {
					put(t, b.Addrs(), in, 1, 400, 403)
					due(400, 403)
				})
				var got []string
				for _, r := range readAll(t, b.Addrs(), out, kgo.ReadCommitted()) {
					got = append(got, string(r.Value))
				}
				slices.Sort(got)
				if all := slices.Sorted(maps.Keys(want)); !slices.Equal(got, all) {
					t.Errorf("results of %v\nwant %v", got, all)
				}
			})
		}
	}
}

// TestWhichPartitionsAreLate: what the group has for the other partitions of a topic, and what stands beside it, says
// whether one without an offset is new, or the group is.
func TestWhichPartitionsAreLate(t *testing.T) {
	for _, c := range []struct {
		name string
		held map[int32]string // beside the offset 2 of each partition; of the others there is none
		want map[int32]int64  // where reading begins of those without an offset; each log holds 0 to 4
	}{
		{"nothing is committed: a new group", nil, map[int32]int64{0: 5, 1: 5, 2: 5}},
		{"another worker of a new group was faster", map[int32]string{0: `{"partitions":3}`}, map[int32]int64{1: 5, 2: 5}},
		{"and has a mark, too", map[int32]string{0: `{"partitions":3,"starts":{"open":true}}`},
			map[int32]int64{1: 5, 2: 5}},
		{"the topic has grown", map[int32]string{0: `{"partitions":1}`}, map[int32]int64{1: 0, 2: 0}},
		{"the topic has grown twice", map[int32]string{0: `{"partitions":1}`, 1: `{"partitions":2}`},
			map[int32]int64{2: 0}},
		{"it has grown, and somebody has deleted an offset", map[int32]string{0: `{"partitions":2}`},
			map[int32]int64{1: 5, 2: 0}},
		{"the newest one was there first in the group", map[int32]string{2: `{"partitions":3}`},
			map[int32]int64{0: 5, 1: 5}},
		{"an offset by hand", map[int32]string{0: ""}, map[int32]int64{1: 0, 2: 0}},
		{"an offset of an earlier version", map[int32]string{0: `{"starts":{"open":true}}`},
			map[int32]int64{1: 0, 2: 0}},
		{"an offset with another program's words", map[int32]string{0: `by cron`}, map[int32]int64{1: 0, 2: 0}},
	} {
		for _, start := range []Start{Latest, Earliest} {
			t.Run(c.name+", "+string(start), func(t *testing.T) {
				t.Parallel()
				k := fakeKafka(t, 3, "in", "out")
				for p := range int32(3) {
					put(t, k.ListenAddrs(), "in", p, 0, 5)
				}
				offsets := kadm.Offsets{}
				for p, metadata := range c.held {
					offsets.Add(kadm.Offset{Topic: "in", Partition: p, At: 2, LeaderEpoch: -1, Metadata: metadata})
				}
				if len(offsets) > 0 {
					if err := kadm.NewClient(franz(t, k.ListenAddrs())).CommitAllOffsets(t.Context(), "g",
						offsets); err != nil {
						t.Fatal(err)
					}
				}
				cfg := testConfig(t, k.ListenAddrs(), "in", "out", "g")
				cfg.Start = start
				client, flow := newClient(t, cfg), &pipelinetest.Flow{}
				ctx, stop := context.WithTimeout(t.Context(), 20*time.Second)
				defer stop()
				ended := make(chan error)
				go func() { ended <- client.Run(ctx, flow) }()
				seen, err := flow.Await(ctx, func(s *pipelinetest.Seen) bool { return len(s.Committed) == 3 })
				if err != nil {
					t.Fatal(err)
				}
				for p := range int32(3) {
					tp := pipeline.TopicPartition{Topic: "in", Partition: p}
					at, beside := c.want[p], `{"partitions":3}`
					if start == Earliest {
						at = 0
					}
					if metadata, ok := c.held[p]; ok {
						at, beside = 2, metadata
					}
					if seen.Committed[tp] != at || seen.Metadata[tp] != beside {
						t.Errorf("%v begins at %d, %q; want %d, %q", tp, seen.Committed[tp], seen.Metadata[tp], at,
							beside)
					}
				}
				stop()
				<-ended
			})
		}
	}
}

// With start: error a partition without an offset ends the worker only where the group is new to it.
func TestStartErrorIsAboutPartitionsThatWereThere(t *testing.T) {
	for metadata, ends := range map[string]bool{`{"partitions":1}`: false, `{"partitions":2}`: true} {
		k := fakeKafka(t, 2, "in", "out")
		offsets := kadm.Offsets{}
		offsets.Add(kadm.Offset{Topic: "in", Partition: 0, At: 0, LeaderEpoch: -1, Metadata: metadata})
		if err := kadm.NewClient(franz(t, k.ListenAddrs())).CommitAllOffsets(t.Context(), "g", offsets); err != nil {
			t.Fatal(err)
		}
		put(t, k.ListenAddrs(), "in", 1, 0, 5)
		cfg := testConfig(t, k.ListenAddrs(), "in", "out", "g")
		cfg.Start = StartError
		w := startWorker(t, cfg)
		if ends {
			if err := w.wait(t); pipeline.KindOf(err) != pipeline.Config || !strings.Contains(err.Error(), "in-1") {
				t.Errorf("%s: %v", metadata, err)
			}
			continue
		}
		w.awaitCommitted(t, 5)
	}
}
