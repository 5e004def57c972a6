package kafka

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"sluice/pipeline"
	"sluice/pipeline/pipelinetest"
)

// Tests against an in-process broker whose answers can be falsified.

func fakeKafka(t testing.TB, partitions int, topics ...string) *kfake.Cluster {
	t.Helper()
	c, err := kfake.NewCluster(kfake.NumBrokers(2), kfake.SeedTopics(int32(partitions), topics...),
		kfake.GroupMinSessionTimeout(100*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// every returns a fault's When that is true for n requests, after letting skip of them pass. The broker asks it once
// for each partition of a request.
func every(skip, n int64) func(kmsg.Request) bool {
	var seen int64
	var last kmsg.Request
	return func(r kmsg.Request) bool { // on the one goroutine of the cluster
		if r != last {
			last = r
			seen++
		}
		return seen > skip && seen <= skip+n
	}
}

// TestTransientErrorsAreRiddenOut: every request of the loop fails for a while, with every code that is no reason to
// give up; the result is as if nothing had happened.
func TestTransientErrorsAreRiddenOut(t *testing.T) {
	for _, c := range []struct {
		key      kmsg.Key
		skip     int64
		topLevel bool
		errs     []*kerr.Error
	}{
		{kmsg.FindCoordinator, 0, true, []*kerr.Error{kerr.CoordinatorNotAvailable, kerr.CoordinatorLoadInProgress}},
		{kmsg.InitProducerID, 0, true, []*kerr.Error{kerr.ConcurrentTransactions, kerr.NotCoordinator,
			kerr.CoordinatorLoadInProgress, kerr.RequestTimedOut}},
		{kmsg.JoinGroup, 0, true, []*kerr.Error{kerr.NotCoordinator, kerr.RebalanceInProgress,
			kerr.CoordinatorLoadInProgress, kerr.UnknownMemberID}},
		{kmsg.SyncGroup, 0, true, []*kerr.Error{kerr.NotCoordinator, kerr.RebalanceInProgress, kerr.IllegalGeneration}},
		{kmsg.OffsetFetch, 0, true, []*kerr.Error{kerr.NotCoordinator, kerr.CoordinatorLoadInProgress}},
		{kmsg.OffsetFetch, 0, false, []*kerr.Error{kerr.UnstableOffsetCommit}},
		{kmsg.ListOffsets, 0, false, []*kerr.Error{kerr.NotLeaderForPartition, kerr.LeaderNotAvailable}},
		{kmsg.Fetch, 1, false, []*kerr.Error{kerr.NotLeaderForPartition, kerr.UnknownLeaderEpoch,
			kerr.KafkaStorageError, kerr.CorruptMessage}},
		{kmsg.AddPartitionsToTxn, 2, false, []*kerr.Error{kerr.ConcurrentTransactions, kerr.NotCoordinator}},
		{kmsg.Produce, 1, false, []*kerr.Error{kerr.NotLeaderForPartition, kerr.NotEnoughReplicas,
			kerr.NotEnoughReplicasAfterAppend, kerr.RequestTimedOut}},
		{kmsg.Produce, 1, false, []*kerr.Error{kerr.OutOfOrderSequenceNumber}},
		{kmsg.AddOffsetsToTxn, 2, true, []*kerr.Error{kerr.ConcurrentTransactions, kerr.NotCoordinator,
			kerr.RequestTimedOut}},
		{kmsg.TxnOffsetCommit, 1, false, []*kerr.Error{kerr.NotCoordinator, kerr.CoordinatorLoadInProgress,
			kerr.RequestTimedOut}},
		{kmsg.TxnOffsetCommit, 1, false, []*kerr.Error{kerr.IllegalGeneration}},
		{kmsg.TxnOffsetCommit, 1, false, []*kerr.Error{kerr.UnknownMemberID}},
		{kmsg.EndTxn, 2, true, []*kerr.Error{kerr.ConcurrentTransactions, kerr.NotCoordinator,
			kerr.CoordinatorLoadInProgress, kerr.RequestTimedOut}},
		{kmsg.EndTxn, 2, true, []*kerr.Error{kerr.InvalidTxnState}},
		{kmsg.EndTxn, 2, true, []*kerr.Error{kerr.ProducerFenced}}, // a mere timeout: InitProducerId says so
		{kmsg.Produce, 1, false, []*kerr.Error{kerr.InvalidProducerEpoch}},
		{kmsg.AddPartitionsToTxn, 2, false, []*kerr.Error{kerr.InvalidTxnState}},
		{kmsg.Heartbeat, 1, true, []*kerr.Error{kerr.NotCoordinator, kerr.RebalanceInProgress}},
		{kmsg.Heartbeat, 1, true, []*kerr.Error{kerr.UnknownMemberID}},
		{kmsg.Heartbeat, 1, true, []*kerr.Error{kerr.IllegalGeneration}},
		{kmsg.InitProducerID, 0, true, []*kerr.Error{kerr.UnknownServerError}},
		{kmsg.JoinGroup, 0, true, []*kerr.Error{kerr.UnknownServerError}},
		{kmsg.EndTxn, 2, true, []*kerr.Error{kerr.UnknownServerError}},
	} {
		var titles []string
		for _, e := range c.errs {
			titles = append(titles, e.Message)
		}
		t.Run(fmt.Sprintf("%s-%s", c.key.Name(), strings.Join(titles, "-")), func(t *testing.T) {
			t.Parallel()
			const n = 300
			k := fakeKafka(t, 3, "in", "out")
			send(t, k.ListenAddrs(), "in", 3, 0, n/2)
			var faults []*kfake.FaultHandle
			for _, e := range c.errs {
				faults = append(faults, k.Fault(kfake.Fault{Keys: []kmsg.Key{c.key}, TopLevel: c.topLevel, Err: e,
					Count: 2, When: every(c.skip, 2)}))
			}
			cfg := testConfig(t, k.ListenAddrs(), "in", "out", "g")
			cfg.SessionTimeout = time.Second // heartbeats every 100 ms
			w := startWorker(t, cfg)
			w.awaitCommitted(t, n/2)
			send(t, k.ListenAddrs(), "in", 3, n/2, n)
			w.awaitCommitted(t, n)
			for i, f := range faults {
				await(t, 20*time.Second, "fault "+c.errs[i].Message+" met", func() bool { return f.Hits() > 0 })
			}
			w.stop()
			if err := w.wait(t); err != nil {
				t.Fatal(err)
			}
			if r := history(readAll(t, k.ListenAddrs(), "out", kgo.ReadCommitted()), 3).Check(n); !r.Clean() {
				t.Error(r)
			}
		})
	}
}

// TestFinalErrorsEndTheWorker: what a person must mend, or what a twin has done, ends the run with the right kind of
// fault and a sentence that names the thing.
func TestFinalErrorsEndTheWorker(t *testing.T) {
	for _, c := range []struct {
		key      kmsg.Key
		skip     int64
		topLevel bool
		err      *kerr.Error
		kind     pipeline.Kind
		says     string
	}{
		{kmsg.Heartbeat, 0, true, kerr.FencedInstanceID, pipeline.Fenced, `instance "pod-0" of group "g"`},
		{kmsg.JoinGroup, 0, true, kerr.FencedInstanceID, pipeline.Fenced, "instance_id"},
		{kmsg.TxnOffsetCommit, 0, false, kerr.FencedInstanceID, pipeline.Fenced, "instance_id"},
		{kmsg.JoinGroup, 0, true, kerr.GroupAuthorizationFailed, pipeline.Config, "READ on group g"},
		{kmsg.FindCoordinator, 0, true, kerr.TransactionalIDAuthorizationFailed, pipeline.Config,
			"WRITE on transactional id g.pod-0"},
		{kmsg.JoinGroup, 0, true, kerr.InvalidSessionTimeout, pipeline.Config, "group.max.session.timeout.ms"},
		{kmsg.JoinGroup, 0, true, kerr.InconsistentGroupProtocol, pipeline.Config, "another program"},
		{kmsg.InitProducerID, 0, true, kerr.InvalidTransactionTimeout, pipeline.Config, "transaction.max.timeout.ms"},
		{kmsg.AddPartitionsToTxn, 0, false, kerr.TopicAuthorizationFailed, pipeline.Config, "WRITE on topic out"},
		{kmsg.AddPartitionsToTxn, 1, false, kerr.TopicAuthorizationFailed, pipeline.Config, "WRITE on topic out"},
		{kmsg.Produce, 0, false, kerr.TopicAuthorizationFailed, pipeline.Config, "WRITE on topic out"},
		{kmsg.Produce, 0, false, kerr.InvalidRecord, pipeline.Config, "compacted topic"},
		{kmsg.Fetch, 1, false, kerr.TopicAuthorizationFailed, pipeline.Config, "READ on topic in"},
		{kmsg.Fetch, 1, false, kerr.CorruptMessage, pipeline.Config, "in-"},
	} {
		t.Run(fmt.Sprintf("%s-%s-%d", c.key.Name(), c.err.Message, c.skip), func(t *testing.T) {
			t.Parallel()
			k := fakeKafka(t, 3, "in", "out")
			send(t, k.ListenAddrs(), "in", 3, 0, 30)
			k.Fault(kfake.Fault{Keys: []kmsg.Key{c.key}, TopLevel: c.topLevel, Err: c.err, Count: -1,
				When: every(c.skip, 1<<40)})
			if c.kind == pipeline.Fenced { // a twin has taken the producer's next epoch before it joined
				k.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.InitProducerID}, TopLevel: true, Err: kerr.ProducerFenced,
					Count: -1, When: every(1, 1<<40)},
					kfake.Fault{Keys: []kmsg.Key{kmsg.Heartbeat}, TopLevel: true, Err: kerr.FencedInstanceID,
						Count: -1})
			}
			cfg := testConfig(t, k.ListenAddrs(), "in", "out", "g")
			cfg.SessionTimeout = time.Second
			err := startWorker(t, cfg).wait(t)
			var f *pipeline.Fault
			if pipeline.KindOf(err) != c.kind || !errors.As(err, &f) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%v (%s); want %s with %q", err, pipeline.KindOf(err), c.kind, c.says)
			}
		})
	}
}

// holding keeps records back until its channel is closed.
type holding struct {
	copier
	until chan struct{}
}

func (h holding) Process(j *pipeline.Job) {
	go func() {
		<-h.until
		h.copier.Process(j)
	}()
}

// said is a log that waits for a sentence.
type said struct {
	part string
	once sync.Once
	told chan struct{} // closed when it has been said
}

func (s *said) Write(p []byte) (int, error) {
	if bytes.Contains(p, []byte(s.part)) {
		s.once.Do(func() { close(s.told) })
	}
	return len(p), nil
}

// TestWhatComesBeforeDamageIsCommittedFirst: the message of a worker that gives up tells an operator to move the group
// past the damage. What was in flight then must not be lost by that.
func TestWhatComesBeforeDamageIsCommittedFirst(t *testing.T) {
	for _, c := range []struct {
		err   *kerr.Error
		start Start
		says  string
	}{{kerr.CorruptMessage, Earliest, "to-offset"}, {kerr.OffsetOutOfRange, StartError, "to-earliest"}} {
		t.Run(c.err.Message, func(t *testing.T) {
			k := fakeKafka(t, 1, "in", "out")
			send(t, k.ListenAddrs(), "in", 1, 0, 30)
			adm := kadm.NewClient(franz(t, k.ListenAddrs()))
			var at kadm.Offsets
			at.Add(kadm.Offset{Topic: "in", LeaderEpoch: -1})
			if err := adm.CommitAllOffsets(t.Context(), "g", at); err != nil {
				t.Fatal(err)
			}
			k.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Fetch}, Err: c.err, Count: -1, When: every(1, 1<<40)})
			cfg := testConfig(t, k.ListenAddrs(), "in", "out", "g")
			cfg.Start = c.start
			told := &said{part: "finishing what is in flight", told: make(chan struct{})}
			cfg.Logger = slog.New(slog.NewTextHandler(told, nil))
			client, until := newClient(t, cfg), make(chan struct{})
			w := runWorker(t, client, newStage(client, client, holding{copier{"out"}, until}))
			select {
			case <-told.told:
			case <-w.ended:
				t.Fatalf("it ended with records in flight: %v", w.err)
			}
			close(until)
			if err := w.wait(t); pipeline.KindOf(err) != pipeline.Config || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%v", err)
			}
			offsets, err := adm.FetchOffsets(t.Context(), "g")
			if o, _ := offsets.Lookup("in", 0); err != nil || o.At != 30 {
				t.Errorf("%v: %d is committed, want 30", err, o.At)
			}
		})
	}
}

// directSink is a client that is in its group, with a fake flow, so that a test can call Commit itself.
func directSink(t *testing.T, cfg Config) (*Client, *pipelinetest.Flow) {
	t.Helper()
	c := newClient(t, cfg)
	flow := &pipelinetest.Flow{}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx, flow) }()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	waiting, stop := context.WithTimeout(t.Context(), 20*time.Second)
	defer stop()
	if _, err := flow.Await(waiting, func(s *pipelinetest.Seen) bool { return s.Assigns > 0 }); err != nil {
		t.Fatal(err)
	}
	return c, flow
}

func oneMessage(topic string, value []byte, offset int64) *pipeline.Commit {
	in := pipeline.TopicPartition{Topic: "in", Partition: 0}
	return &pipeline.Commit{Messages: []pipeline.Message{{Topic: topic, Source: in, Value: value}},
		Offsets: map[pipeline.TopicPartition]int64{in: offset}}
}

func TestCommitSaysWhatToDo(t *testing.T) {
	for _, c := range []struct {
		name   string
		fault  kfake.Fault
		commit *pipeline.Commit
		kind   pipeline.Kind
		large  bool
	}{
		{name: "sequence lost", fault: kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Err: kerr.OutOfOrderSequenceNumber},
			kind: pipeline.Transient},
		{name: "transaction timed out before produce", fault: kfake.Fault{Keys: []kmsg.Key{kmsg.AddPartitionsToTxn},
			Err: kerr.ProducerFenced, When: func(r kmsg.Request) bool {
				return len(r.(*kmsg.AddPartitionsToTxnRequest).Topics[0].Partitions) == 1 // a scrub has them all
			}}, kind: pipeline.Transient},
		{name: "transaction timed out at produce", fault: kfake.Fault{Keys: []kmsg.Key{kmsg.Produce},
			Err: kerr.InvalidProducerEpoch}, kind: pipeline.Transient},
		{name: "old generation", fault: kfake.Fault{Keys: []kmsg.Key{kmsg.TxnOffsetCommit},
			Err: kerr.IllegalGeneration}, kind: pipeline.Rebalance},
		{name: "group prepares a rebalance", fault: kfake.Fault{Keys: []kmsg.Key{kmsg.TxnOffsetCommit},
			Err: kerr.RebalanceInProgress}, kind: pipeline.Rebalance},
		{name: "unknown member", fault: kfake.Fault{Keys: []kmsg.Key{kmsg.TxnOffsetCommit}, Err: kerr.UnknownMemberID},
			kind: pipeline.Rebalance},
		{name: "a member that the coordinator has forgotten", fault: kfake.Fault{Keys: []kmsg.Key{kmsg.TxnOffsetCommit},
			Err: kerr.FencedInstanceID}, kind: pipeline.Rebalance},
		{name: "too large, says the broker", fault: kfake.Fault{Keys: []kmsg.Key{kmsg.Produce},
			Err: kerr.MessageTooLarge}, large: true},
		{name: "too large, says the topic's limit", commit: oneMessage("out", randomBytes(2<<20), 1), large: true},
		{name: "a topic that is not an output", commit: oneMessage("elsewhere", []byte("x"), 1),
			kind: pipeline.Internal},
		{name: "offsets alone", commit: &pipeline.Commit{Offsets: map[pipeline.TopicPartition]int64{{Topic: "in"}: 1}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			k := fakeKafka(t, 2, "in", "out")
			sink, flow := directSink(t, testConfig(t, k.ListenAddrs(), "in", "out", "g"))
			if c.fault.Keys != nil {
				k.Fault(c.fault)
			}
			commit := c.commit
			if commit == nil {
				commit = oneMessage("out", []byte("0"), 1)
			}
			err := sink.Commit(t.Context(), commit)
			var refused *pipeline.RefusedError
			if errors.As(err, &refused) != c.large || !c.large && pipeline.KindOf(err) != c.kind {
				t.Fatalf("%v (%s); want %q", err, pipeline.KindOf(err), c.kind)
			}
			if refused != nil && (len(refused.Refusals) != 1 || refused.Refusals[0].Topic != "out" ||
				refused.Refusals[0].Reason != pipeline.RefusedSize) {
				t.Errorf("the error names %v", refused.Refusals)
			}
			if err == nil || c.kind == pipeline.Fenced || c.kind == pipeline.Internal {
				return
			}
			// Nothing of the failed commit is visible, and the next one goes through once the group is in order again.
			if c.kind == pipeline.Rebalance {
				ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
				defer cancel()
				if _, err := flow.Await(ctx, func(s *pipelinetest.Seen) bool { return s.Assigns > 1 }); err != nil {
					t.Fatal(err)
				}
			}
			await(t, 20*time.Second, "commit after the failure", func() bool {
				return sink.Commit(t.Context(), oneMessage("out", []byte("0"), 1)) == nil
			})
			if r := history(readAll(t, k.ListenAddrs(), "out", kgo.ReadCommitted()), 2).Check(1); !r.Clean() {
				t.Error(r)
			}
		})
	}
}

// TestACommitWhoseAnswerIsLostIsNotRepeated: EndTxn is executed, but its answer, and every later one, is an error that
// says nothing about it. Only the group's offsets tell.
func TestACommitWhoseAnswerIsLostIsNotRepeated(t *testing.T) {
	k := fakeKafka(t, 2, "in", "out")
	sink, _ := directSink(t, testConfig(t, k.ListenAddrs(), "in", "out", "g"))
	var times atomic.Int64
	k.Fault(
		// done, but says it timed out
		kfake.Fault{Keys: []kmsg.Key{kmsg.EndTxn}, TopLevel: true, Err: kerr.RequestTimedOut,
			When: func(r kmsg.Request) bool { return r.(*kmsg.EndTxnRequest).Commit && times.Add(1) == 1 }},
		kfake.Fault{Keys: []kmsg.Key{kmsg.EndTxn}, TopLevel: true, Err: kerr.InvalidTxnState,
			When: func(r kmsg.Request) bool { return r.(*kmsg.EndTxnRequest).Commit && times.Load() == 2 }},
	)
	if err := sink.Commit(t.Context(), oneMessage("out", []byte("0"), 1)); err != nil {
		t.Fatalf("%v; the commit went through", err)
	}
	if r := history(readAll(t, k.ListenAddrs(), "out", kgo.ReadCommitted()), 2).Check(1); !r.Clean() {
		t.Error(r)
	}
}

// TestAMarkThatWasNotCommittedIsNotTakenForCommitted: where a commit changes only what stands beside an offset, the
// offsets look as meant also when it failed.
func TestAMarkThatWasNotCommittedIsNotTakenForCommitted(t *testing.T) {
	k := fakeKafka(t, 1, "in", "out")
	sink, _ := directSink(t, testConfig(t, k.ListenAddrs(), "in", "out", "g"))
	if err := sink.Commit(t.Context(), oneMessage("out", []byte("0"), 1)); err != nil {
		t.Fatal(err)
	}
	beside := func() string {
		os, err := kadm.NewClient(franz(t, k.ListenAddrs())).FetchOffsets(t.Context(), "g")
		if err != nil {
			t.Fatal(err)
		}
		o, _ := os.Lookup("in", 0)
		return o.Metadata
	}
	in := pipeline.TopicPartition{Topic: "in"}
	mark := &pipeline.Commit{Offsets: map[pipeline.TopicPartition]int64{in: 1},
		Metadata: map[pipeline.TopicPartition]string{in: "mark"}}
	k.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.TxnOffsetCommit}, Err: kerr.InvalidProducerEpoch, Count: 1})
	if err := sink.Commit(t.Context(), mark); pipeline.KindOf(err) != pipeline.Transient || beside() != "" {
		t.Errorf("%v, and %q is committed; the broker has refused it", err, beside())
	}
	if err := sink.Commit(t.Context(), mark); err != nil || beside() != "mark" {
		t.Errorf("%v, and %q is committed", err, beside())
	}
}

func TestEmptyAndNullAndHeadersAndTimesGoThrough(t *testing.T) {
	k := fakeKafka(t, 3, "in", "out")
	sink, _ := directSink(t, testConfig(t, k.ListenAddrs(), "in", "out", "g"))
	in := pipeline.TopicPartition{Topic: "in", Partition: 2}
	at := time.UnixMilli(1700000000123)
	if err := sink.Commit(t.Context(), &pipeline.Commit{Offsets: map[pipeline.TopicPartition]int64{in: 3},
		Messages: []pipeline.Message{
			{Topic: "out", Source: in, Timestamp: at},
			{Topic: "out", Source: in, Timestamp: at.Add(-time.Hour), Key: []byte{}, Value: []byte{}},
			{Topic: "out", Source: in, Timestamp: at, Key: []byte("k"), Value: []byte("v"),
				Headers: []pipeline.Header{{Key: "b", Value: nil}, {Key: "a", Value: []byte{}},
					{Key: "b", Value: []byte("2")}}},
		}}); err != nil {
		t.Fatal(err)
	}
	rs := readAll(t, k.ListenAddrs(), "out", kgo.ReadCommitted())
	if len(rs) != 3 {
		t.Fatalf("%d messages", len(rs))
	}
	if rs[0].Partition != 2 || rs[0].Key != nil || rs[0].Value != nil || !rs[0].Timestamp.Equal(at) {
		t.Errorf("null: %+v", rs[0])
	}
	if rs[1].Key == nil || len(rs[1].Key) != 0 || rs[1].Value == nil || !rs[1].Timestamp.Equal(at.Add(-time.Hour)) {
		t.Errorf("empty: %+v", rs[1])
	}
	if h := rs[2].Headers; len(h) != 3 || h[0].Key != "b" || h[0].Value != nil || h[1].Key != "a" ||
		h[1].Value == nil || string(h[2].Value) != "2" {
		t.Errorf("headers: %+v", rs[2])
	}
}

// TestLeadersAndCoordinatorsMove: everything moves while records flow.
func TestLeadersAndCoordinatorsMove(t *testing.T) {
	const n = 3000
	k := fakeKafka(t, 6, "in", "out")
	w := startWorker(t, testConfig(t, k.ListenAddrs(), "in", "out", "g"))
	for i := range 10 {
		send(t, k.ListenAddrs(), "in", 6, i*n/10, (i+1)*n/10)
		k.ShufflePartitionLeaders()
		k.RehashCoordinators()
	}
	w.awaitCommitted(t, n)
	w.stop()
	if err := w.wait(t); err != nil {
		t.Fatal(err)
	}
	if r := history(readAll(t, k.ListenAddrs(), "out", kgo.ReadCommitted()), 6).Check(n); !r.Clean() {
		t.Error(r)
	}
}

func TestStartPolicies(t *testing.T) {
	for _, c := range []struct {
		start Start
		first string // value of the first record read; empty: a fault
	}{{Earliest, "0"}, {Latest, "100"}, {StartError, ""}} {
		t.Run(string(c.start), func(t *testing.T) {
			k := fakeKafka(t, 1, "in", "out")
			send(t, k.ListenAddrs(), "in", 1, 0, 100)
			cfg := testConfig(t, k.ListenAddrs(), "in", "out", "g")
			cfg.Start = c.start
			if c.first == "" {
				err := startWorker(t, cfg).wait(t)
				if pipeline.KindOf(err) != pipeline.Config || !strings.Contains(err.Error(), "in-0") {
					t.Errorf("%v", err)
				}
				return
			}
			_, flow := directSink(t, cfg)
			send(t, k.ListenAddrs(), "in", 1, 100, 200)
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			s, err := flow.Await(ctx, func(s *pipelinetest.Seen) bool { return len(s.Records) > 0 })
			if err != nil || string(s.Records[0].Value) != c.first || len(s.Broken) > 0 {
				t.Errorf("%v; %v", err, s)
			}
		})
	}
}

// TestOutOfRange: records are deleted under a group that was away. earliest goes on with the oldest that is left,
// latest with the next to come, error stops.
func TestOutOfRange(t *testing.T) {
	for _, c := range []struct {
		start Start
		at    int64
	}{{Earliest, 60}, {Latest, 100}, {StartError, -1}} {
		t.Run(string(c.start), func(t *testing.T) {
			k := fakeKafka(t, 1, "in", "out")
			send(t, k.ListenAddrs(), "in", 1, 0, 100)
			adm := kadm.NewClient(franz(t, k.ListenAddrs()))
			var at, cut kadm.Offsets
			at.Add(kadm.Offset{Topic: "in", At: 10, LeaderEpoch: -1})
			cut.Add(kadm.Offset{Topic: "in", At: 60})
			if err := adm.CommitAllOffsets(t.Context(), "g", at); err != nil {
				t.Fatal(err)
			}
			if _, err := adm.DeleteRecords(t.Context(), cut); err != nil {
				t.Fatal(err)
			}
			cfg := testConfig(t, k.ListenAddrs(), "in", "out", "g")
			cfg.Start = c.start
			if c.at < 0 {
				err := startWorker(t, cfg).wait(t)
				if pipeline.KindOf(err) != pipeline.Config || !strings.Contains(err.Error(), "offset 10") {
					t.Errorf("%v", err)
				}
				return
			}
			_, flow := directSink(t, cfg)
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			s, err := flow.Await(ctx, func(s *pipelinetest.Seen) bool {
				return s.Positions[pipeline.TopicPartition{
					Topic: "in"}] == 100
			})
			if err != nil || len(s.Records) != int(100-c.at) || len(s.Broken) > 0 {
				t.Errorf("%v: %d records, %v", err, len(s.Records), s.Broken)
			}
		})
	}
}

// TestAheadOfTheLog: the group's offset lies behind the end, as after a topic was deleted and made anew.
func TestAheadOfTheLog(t *testing.T) {
	k := fakeKafka(t, 1, "in", "out")
	send(t, k.ListenAddrs(), "in", 1, 0, 50)
	var at kadm.Offsets
	at.Add(kadm.Offset{Topic: "in", At: 5000, LeaderEpoch: -1})
	if err := kadm.NewClient(franz(t, k.ListenAddrs())).CommitAllOffsets(t.Context(), "g", at); err != nil {
		t.Fatal(err)
	}
	w := startWorker(t, testConfig(t, k.ListenAddrs(), "in", "out", "g"))
	await(t, 20*time.Second, "50 results", func() bool {
		return len(readAll(t, k.ListenAddrs(), "out",
			kgo.ReadCommitted())) == 50
	})
	w.stop()
	if err := w.wait(t); err != nil {
		t.Fatal(err)
	}
}

// TestPausedPartitionIsLeftOut: back-pressure holds one partition and no other.
func TestPausedPartitionIsLeftOut(t *testing.T) {
	k := fakeKafka(t, 2, "in", "out")
	c := newClient(t, testConfig(t, k.ListenAddrs(), "in", "out", "g"))
	flow := &pipelinetest.Flow{}
	full := pipeline.TopicPartition{Topic: "in", Partition: 1}
	flow.Pause(full, true)
	run, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- c.Run(run, flow) }()
	defer func() { cancel(); <-done }()
	send(t, k.ListenAddrs(), "in", 2, 0, 200)
	ctx, stop := context.WithTimeout(t.Context(), 20*time.Second)
	defer stop()
	s, err := flow.Await(ctx, func(s *pipelinetest.Seen) bool { return len(s.Records) == 100 })
	if err != nil || s.Positions[full] != 0 {
		t.Fatalf("%v; positions %v", err, s.Positions)
	}
	flow.Pause(full, false)
	s, err = flow.Await(ctx, func(s *pipelinetest.Seen) bool { return len(s.Records) == 200 })
	if err != nil || len(s.Broken) > 0 {
		t.Fatalf("%v %v", err, s.Broken)
	}
}

// TestRecordsLargerThanTheRoomArrive: a record is never too large to be fetched, however little room there is.
func TestRecordsLargerThanTheRoomArrive(t *testing.T) {
	k := fakeKafka(t, 3, "in", "out")
	c := franz(t, k.ListenAddrs(), kgo.ProducerBatchCompression(kgo.NoCompression()))
	for i := range 12 {
		if err := c.ProduceSync(t.Context(), &kgo.Record{Topic: "in", Partition: int32(i % 3),
			Value: randomBytes(90_000)}).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	cfg := testConfig(t, k.ListenAddrs(), "in", "out", "g")
	cfg.FetchMaxBytes = 4096
	client := newClient(t, cfg)
	flow := &pipelinetest.Flow{RoomBytes: 1}
	run, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- client.Run(run, flow) }()
	defer func() { cancel(); <-done }()
	ctx, stop := context.WithTimeout(t.Context(), 20*time.Second)
	defer stop()
	if s, err := flow.Await(ctx, func(s *pipelinetest.Seen) bool { return len(s.Records) == 12 }); err != nil ||
		len(s.Broken) > 0 {
		t.Fatalf("%v %v", err, s.Broken)
	}
}

// TestNewPartitionsAreNoticed by the leader, which joins again.
func TestNewPartitionsAreNoticed(t *testing.T) {
	k := fakeKafka(t, 2, "in", "out")
	cfg := testConfig(t, k.ListenAddrs(), "in", "out", "g")
	c := newClient(t, cfg)
	c.growthPoll = 50 * time.Millisecond
	flow := &pipelinetest.Flow{}
	run, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- c.Run(run, flow) }()
	defer func() { cancel(); <-done }()
	ctx, stop := context.WithTimeout(t.Context(), 20*time.Second)
	defer stop()
	if _, err := flow.Await(ctx, func(s *pipelinetest.Seen) bool { return len(s.Positions) == 2 }); err != nil {
		t.Fatal(err)
	}
	if _, err := kadm.NewClient(franz(t, k.ListenAddrs())).UpdatePartitions(ctx, 5, "in"); err != nil {
		t.Fatal(err)
	}
	if _, err := flow.Await(ctx, func(s *pipelinetest.Seen) bool {
		return len(s.Positions) == 5 &&
			s.Quiesces > 0
	}); err != nil {
		t.Fatal(err)
	}
}

// TestGrowthSeenBetweenTwoSessionsIsToldToTheNext: the session that it was seen in may have ended already for another
// reason.
func TestGrowthSeenBetweenTwoSessionsIsToldToTheNext(t *testing.T) {
	k := fakeKafka(t, 2, "in", "out")
	c := newClient(t, testConfig(t, k.ListenAddrs(), "in", "out", "g"))
	c.growthPoll = time.Millisecond
	before, after := newSession("m", 1, true), newSession("m", 1, true)
	before.end(errReposition)
	current := &sessionRef{s: before}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		c.watchGrowth(ctx, current, map[string]int{"in": 1})
	}()
	defer func() { cancel(); <-done }()
	await(t, 20*time.Second, "look at the topics", func() bool { return c.PartitionCount("in") == 2 })
	select {
	case <-c.metadataChanged(): // the next look comes when what the first one saw has been told
	case <-done:
	}
	current.set(after)
	await(t, 20*time.Second, "end of the session", after.over)
	if !errors.Is(after.cause, errGrown) {
		t.Errorf("the session ended with %v", after.cause)
	}
}

// TestMembersShareAndKeep: a second member takes half; what stays with the first is not taken away and given back.
func TestMembersShareAndKeep(t *testing.T) {
	k := fakeKafka(t, 6, "in", "out")
	flows := make([]*pipelinetest.Flow, 2)
	ctx, stop := context.WithTimeout(t.Context(), 30*time.Second)
	defer stop()
	run, cancel := context.WithCancel(t.Context())
	done := make(chan error, 2)
	defer func() { cancel(); <-done; <-done }()
	var before *pipelinetest.Seen
	for i := range flows {
		cfg := testConfig(t, k.ListenAddrs(), "in", "out", "g")
		cfg.InstanceID, cfg.SessionTimeout = fmt.Sprint("pod-", i), 2*time.Second
		c := newClient(t, cfg)
		flows[i] = &pipelinetest.Flow{}
		go func() { done <- c.Run(run, flows[i]) }()
		if i == 0 {
			var err error
			if before, err = flows[0].Await(ctx, func(s *pipelinetest.Seen) bool {
				return len(
					s.Positions) == 6
			}); err != nil {
				t.Fatal(err)
			}
		}
	}
	var after [2]*pipelinetest.Seen
	for i, f := range flows {
		var err error
		if after[i], err = f.Await(ctx, func(s *pipelinetest.Seen) bool { return len(s.Positions) == 3 }); err != nil {
			t.Fatal(err)
		}
	}
	for tp := range after[0].Positions {
		if _, had := before.Positions[tp]; !had {
			t.Errorf("%v is new to the first member", tp)
		}
		if _, twice := after[1].Positions[tp]; twice {
			t.Errorf("%v belongs to both", tp)
		}
	}
}

func TestMissingTopicsAreNamed(t *testing.T) {
	k := fakeKafka(t, 1, "in")
	cfg := testConfig(t, k.ListenAddrs(), "in", "nowhere", "g")
	problems := newClient(t, cfg).Check(t.Context())
	if len(problems) != 1 || !strings.Contains(problems[0].Error(), "topic nowhere does not exist") {
		t.Errorf("Check: %v", problems)
	}
	err := startWorker(t, cfg).wait(t)
	if pipeline.KindOf(err) != pipeline.Config || !strings.Contains(err.Error(), "topic nowhere does not exist") {
		t.Errorf("Run: %v", err)
	}
	cfg.Outputs = []string{"in2"}
	if problems := newClient(t, cfg).Check(t.Context()); len(problems) != 1 {
		t.Errorf("Check: %v", problems)
	}
}

func TestCheckFindsNothingWrong(t *testing.T) {
	k := fakeKafka(t, 1, "in", "out")
	c := newClient(t, testConfig(t, k.ListenAddrs(), "in", "out", "g"))
	if problems := c.Check(t.Context()); len(problems) != 0 {
		t.Errorf("%v", problems)
	}
	if n := c.MaxMessageBytes("out"); n < 1_000_000 || n > defaultMaxMessage {
		t.Errorf("MaxMessageBytes %d", n)
	}
}

// TestHeldUpOffsets: a broker that lost the markers of an aborted transaction answers 88 for ever; a new epoch with its
// scrub ends that, if the transaction was ours.
func TestHeldUpOffsets(t *testing.T) {
	k := fakeKafka(t, 1, "in", "out")
	send(t, k.ListenAddrs(), "in", 1, 0, 10)
	var epochs atomic.Int64
	k.Fault(
		kfake.Fault{Keys: []kmsg.Key{kmsg.InitProducerID}, Observe: true, TopLevel: true, Count: -1,
			When: func(kmsg.Request) bool { epochs.Add(1); return true }},
		kfake.Fault{Keys: []kmsg.Key{kmsg.OffsetFetch}, Err: kerr.UnstableOffsetCommit, Count: -1,
			When: func(r kmsg.Request) bool {
				return r.(*kmsg.OffsetFetchRequest).RequireStable && epochs.Load() < 2
			}},
	)
	cfg := testConfig(t, k.ListenAddrs(), "in", "out", "g")
	cfg.TransactionTimeout = time.Second
	var longest atomic.Int64
	var over atomic.Bool
	cfg.Observer.UnstableOffsets = func(d time.Duration) {
		longest.Store(max(longest.Load(), int64(d)))
		over.Store(d == 0)
	}
	w := startWorker(t, cfg)
	await(t, 30*time.Second, "results after a new epoch", func() bool {
		return len(readAll(t, k.ListenAddrs(), "out",
			kgo.ReadCommitted())) == 10
	})
	if epochs.Load() < 2 || time.Duration(longest.Load()) < 4*time.Second || !over.Load() {
		t.Errorf("%d epochs, held up for %v, over: %v", epochs.Load(), time.Duration(longest.Load()), over.Load())
	}
	w.stop()
	if err := w.wait(t); err != nil {
		t.Fatal(err)
	}
}

// TestNothingIsLeftRunning after Run has returned and the client is closed.
func TestNothingIsLeftRunning(t *testing.T) {
	k := fakeKafka(t, 3, "in", "out")
	send(t, k.ListenAddrs(), "in", 3, 0, 300)
	w := startWorker(t, testConfig(t, k.ListenAddrs(), "in", "out", "g"))
	w.awaitCommitted(t, 300)
	w.stop()
	if err := w.wait(t); err != nil {
		t.Fatal(err)
	}
	w.client.Close()
	var left []string
	await(t, 20*time.Second, "end of all goroutines", func() bool {
		buf := make([]byte, 1<<20)
		left = nil
		for _, g := range strings.Split(string(buf[:runtime.Stack(buf, true)]), "\n\n") {
			if !strings.Contains(g, "testing.") && (strings.Contains(g, "sluice/pipeline") ||
				strings.Contains(g, "segmentio/kafka-go")) {
				left = append(left, g)
			}
		}
		return len(left) == 0
	})
}

// TestALateRequestCannotTouchALaterTransaction: a request whose answer never came may still arrive at any time. After
// it the next transaction must run in a new epoch, in which the broker refuses it; without such a request the epoch
// stays.
func TestALateRequestCannotTouchALaterTransaction(t *testing.T) {
	for _, lost := range []kmsg.Key{kmsg.AddPartitionsToTxn, kmsg.AddOffsetsToTxn, kmsg.TxnOffsetCommit, kmsg.EndTxn} {
		t.Run(lost.Name(), func(t *testing.T) {
			t.Parallel()
			k := fakeKafka(t, 2, "in", "out")
			sink, _ := directSink(t, testConfig(t, k.ListenAddrs(), "in", "out", "g"))
			var mu sync.Mutex
			var epochs []int16 // of the transactions that were to be committed, one a request
			k.ControlKey(int16(kmsg.EndTxn), func(r kmsg.Request) (kmsg.Response, error, bool) {
				k.KeepControl()
				mu.Lock()
				defer mu.Unlock()
				if e := r.(*kmsg.EndTxnRequest); e.Commit {
					epochs = append(epochs, e.ProducerEpoch)
				}
				return nil, nil, false
			})
			commit := func(offset int64) int16 {
				if err := sink.Commit(t.Context(), oneMessage("out", []byte("0"), offset)); err != nil {
					t.Fatal(err)
				}
				mu.Lock()
				defer mu.Unlock()
				return epochs[len(epochs)-1]
			}
			first := commit(1)
			if e := commit(2); e != first {
				t.Errorf("epochs %d and %d, and nothing was lost", first, e)
			}
			k.ControlKey(int16(lost), func(kmsg.Request) (kmsg.Response, error, bool) {
				return nil, errors.New("the connection ends without an answer"), true
			})
			commit(3) // in a new epoch already, if it was the first step that got no answer
			next := commit(4)
			if next == first {
				t.Errorf("epoch %d goes on although a %s may still arrive", next, lost.Name())
			}
			if e := commit(5); e != next {
				t.Errorf("epochs %d and %d, and nothing was lost", next, e)
			}
			if n := len(readAll(t, k.ListenAddrs(), "out", kgo.ReadCommitted())); n != 5 {
				t.Errorf("%d messages of 5 commits", n)
			}
		})
	}
}

// TestContactIsTold: a worker knows that its heartbeats do not get through, long before its session ends, and that they
// do again.
func TestContactIsTold(t *testing.T) {
	k := fakeKafka(t, 1, "in", "out")
	var gone atomic.Bool
	k.ControlKey(int16(kmsg.Heartbeat), func(kmsg.Request) (kmsg.Response, error, bool) {
		k.KeepControl()
		if gone.Load() {
			return nil, errors.New("cut"), true
		}
		return nil, nil, false
	})
	cfg := testConfig(t, k.ListenAddrs(), "in", "out", "g")
	cfg.SessionTimeout = 4 * time.Second
	told := make(chan bool, 10)
	cfg.Observer.Contact = func(there bool) { told <- there }
	directSink(t, cfg)
	for _, want := range []bool{true, false, true} {
		gone.Store(!want)
		select {
		case got := <-told:
			if got != want {
				t.Fatalf("contact %v, want %v", got, want)
			}
		case <-time.After(20 * time.Second):
			t.Fatalf("contact %v is not told", want)
		}
	}
}

// TestALostEpochIsATwinOnlyIfTheGroupSaysSo: after a timeout and a renewal whose answer was lost the coordinator
// refuses the epoch as if there were a successor. Only a process that has joined under the same instance id is one.
func TestALostEpochIsATwinOnlyIfTheGroupSaysSo(t *testing.T) {
	for _, twin := range []bool{false, true} {
		t.Run(fmt.Sprintf("twin-%v", twin), func(t *testing.T) {
			t.Parallel()
			k := fakeKafka(t, 2, "in", "out")
			cfg := testConfig(t, k.ListenAddrs(), "in", "out", "g")
			cfg.SessionTimeout = 5 * time.Minute // heartbeats every 3 s: the judge asks at once
			sink, _ := directSink(t, cfg)
			k.Fault(
				kfake.Fault{Keys: []kmsg.Key{kmsg.EndTxn}, TopLevel: true, Err: kerr.ProducerFenced, Count: 1,
					When: func(r kmsg.Request) bool { return r.(*kmsg.EndTxnRequest).Commit }},
				kfake.Fault{Keys: []kmsg.Key{kmsg.InitProducerID}, TopLevel: true, Err: kerr.ProducerFenced, Count: 1},
			)
			if twin {
				k.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Heartbeat}, TopLevel: true, Err: kerr.FencedInstanceID,
					Count: -1})
			}
			err := sink.Commit(t.Context(), oneMessage("out", []byte("0"), 1))
			if want := map[bool]pipeline.Kind{false: pipeline.Transient, true: pipeline.Fenced}[twin]; pipeline.KindOf(
				err) != want {
				t.Fatalf("%v (%s), want %s", err, pipeline.KindOf(err), want)
			}
			if twin {
				return
			}
			if err := sink.Commit(t.Context(), oneMessage("out", []byte("0"), 1)); err != nil {
				t.Fatal(err)
			}
			if n := len(readAll(t, k.ListenAddrs(), "out", kgo.ReadCommitted())); n != 1 {
				t.Errorf("%d messages of one commit", n)
			}
		})
	}
}

// TestAnOldAnswerAboutOffsetsIsAskedAgain: a coordinator that has just restarted may answer with offsets from before
// the last commits. Reading must not begin again from there.
func TestAnOldAnswerAboutOffsetsIsAskedAgain(t *testing.T) {
	k := fakeKafka(t, 1, "in", "out")
	sink, _ := directSink(t, testConfig(t, k.ListenAddrs(), "in", "out", "g"))
	for _, offset := range []int64{2, 7} {
		if err := sink.Commit(t.Context(), oneMessage("out", []byte("0"), offset)); err != nil {
			t.Fatal(err)
		}
	}
	var asked atomic.Int64
	k.ControlKey(int16(kmsg.OffsetFetch), func(r kmsg.Request) (kmsg.Response, error, bool) {
		k.KeepControl()
		if asked.Add(1) > 2 {
			return nil, nil, false
		}
		res := r.ResponseKind().(*kmsg.OffsetFetchResponse)
		p := kmsg.NewOffsetFetchResponseTopicPartition()
		p.Offset = 2
		topic := kmsg.NewOffsetFetchResponseTopic()
		topic.Topic, topic.Partitions = "in", append(topic.Partitions, p)
		res.Topics = append(res.Topics, topic)
		return res, nil, true
	})
	sink.mu.Lock()
	s := sink.session
	sink.mu.Unlock()
	in := pipeline.TopicPartition{Topic: "in"}
	got, err := sink.groupOffsets(t.Context(), s, []pipeline.TopicPartition{in}, true)
	if err != nil || got[in].Offset != 7 || asked.Load() != 3 {
		t.Errorf("offsets %v after %d questions, %v; 7 is committed", got, asked.Load(), err)
	}
}
