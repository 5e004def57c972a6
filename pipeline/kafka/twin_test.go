package kafka

import (
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"sluice/pipeline"
)

// This file owns the tests of who has this worker's place in the group: another process, or the worker itself.

// goesOn has a worker process what is sent to it, and checks that it has not ended and that each record came once.
func goesOn(t *testing.T, w *running, addrs []string, from, to int) {
	t.Helper()
	send(t, addrs, "in", 3, from, to)
	w.awaitCommitted(t, int64(to))
	if r := history(readAll(t, addrs, "out", kgo.ReadCommitted()), 3).Check(to); !r.Clean() {
		t.Error(r)
	}
}

// A JoinGroup that got no answer is asked again. If it is only late, it comes after the second, makes a third member
// id, and fences the second: what the worker has.
func TestALateJoinOfItsOwnDoesNotEndAWorker(t *testing.T) {
	t.Parallel()
	k := fakeKafka(t, 3, "in", "out")
	addrs := k.ListenAddrs()
	var lost atomic.Pointer[kmsg.JoinGroupRequest]
	k.ControlKey(int16(kmsg.JoinGroup), func(r kmsg.Request) (kmsg.Response, error, bool) {
		lost.Store(r.(*kmsg.JoinGroupRequest))
		return nil, errors.New("the connection ends without an answer"), true
	})
	cfg := testConfig(t, addrs, "in", "out", "g")
	cfg.SessionTimeout = time.Second
	w := startWorker(t, cfg)
	goesOn(t, w, addrs, 0, 30)
	late := lost.Load()
	if late.MemberID != "" {
		t.Fatalf("the join that was lost is of member %q", late.MemberID)
	}
	var joins atomic.Int64
	var as atomic.Pointer[string]
	k.ControlKey(int16(kmsg.JoinGroup), func(r kmsg.Request) (kmsg.Response, error, bool) {
		k.KeepControl()
		if joins.Add(1) == 2 { // the first is the late one
			as.Store(&r.(*kmsg.JoinGroupRequest).MemberID)
		}
		return nil, nil, false
	})
	if _, err := franz(t, addrs).Request(t.Context(), late); err != nil {
		t.Fatal(err)
	}
	await(t, 20*time.Second, "new join of the worker", func() bool { return as.Load() != nil })
	if member := *as.Load(); member != "" {
		t.Errorf("the worker joins again as member %q, which is fenced", member)
	}
	goesOn(t, w, addrs, 30, 60)
}

// A coordinator that comes back may know only the member that this worker was before it joined last.
func TestACoordinatorThatForgetsAMemberDoesNotEndIt(t *testing.T) {
	for _, c := range []struct {
		key      kmsg.Key
		topLevel bool
	}{{kmsg.JoinGroup, true}, {kmsg.SyncGroup, true}, {kmsg.Heartbeat, true}, {kmsg.TxnOffsetCommit, false}} {
		t.Run(c.key.Name(), func(t *testing.T) {
			t.Parallel()
			k := fakeKafka(t, 3, "in", "out")
			cfg := testConfig(t, k.ListenAddrs(), "in", "out", "g")
			cfg.SessionTimeout = time.Second
			f := k.Fault(kfake.Fault{Keys: []kmsg.Key{c.key}, TopLevel: c.topLevel, Err: kerr.FencedInstanceID,
				When: every(0, 1)})
			w := startWorker(t, cfg)
			goesOn(t, w, k.ListenAddrs(), 0, 30)
			await(t, 20*time.Second, "fault met", func() bool { return f.Hits() > 0 })
			goesOn(t, w, k.ListenAddrs(), 30, 60)
		})
	}
}

// Of two processes with one instance id the older ends, wherever it learns of the other, and the younger goes on.
func TestATwinEndsTheOlder(t *testing.T) {
	for _, guarantee := range []Guarantee{ExactlyOnce, AtLeastOnce} {
		t.Run(string(guarantee), func(t *testing.T) {
			t.Parallel()
			k := fakeKafka(t, 3, "in", "out")
			cfg := testConfig(t, k.ListenAddrs(), "in", "out", "g")
			cfg.SessionTimeout, cfg.Guarantee = time.Second, guarantee
			var epoch atomic.Int32 // the last one that a transaction had
			k.ControlKey(int16(kmsg.EndTxn), func(r kmsg.Request) (kmsg.Response, error, bool) {
				k.KeepControl()
				epoch.Store(int32(r.(*kmsg.EndTxnRequest).ProducerEpoch))
				return nil, nil, false
			})
			older := startWorker(t, cfg)
			goesOn(t, older, k.ListenAddrs(), 0, 30)
			gone := epoch.Load()
			k.ControlKey(int16(kmsg.InitProducerID), func(r kmsg.Request) (kmsg.Response, error, bool) {
				k.KeepControl()
				if e := r.(*kmsg.InitProducerIDRequest).ProducerEpoch; e < 0 || int32(e) > gone {
					return nil, nil, false
				}
				res := r.ResponseKind().(*kmsg.InitProducerIDResponse)
				// as a real broker answers when somebody else has begun; this one takes any epoch
				res.ErrorCode = kerr.ProducerFenced.Code
				return res, nil, true
			})
			younger := startWorker(t, cfg)
			if err := older.wait(t); pipeline.KindOf(err) != pipeline.Fenced {
				t.Fatalf("the older ended with %v (%s)", err, pipeline.KindOf(err))
			}
			goesOn(t, younger, k.ListenAddrs(), 30, 60)
		})
	}
}

// A topic counts as missing when brokers say so for a while, not when they cannot be reached for a while.
func TestATopicIsNotMissingBecauseBrokersAre(t *testing.T) {
	t.Parallel()
	k := fakeKafka(t, 1, "in", "out")
	c := newClient(t, testConfig(t, k.ListenAddrs(), "in", "out", "g"))
	var asked atomic.Int64
	began := time.Now()
	k.ControlKey(int16(kmsg.Metadata), func(r kmsg.Request) (kmsg.Response, error, bool) {
		k.KeepControl()
		if time.Since(began) < topicPatience+time.Second {
			asked.Add(1)
			return nil, errors.New("cut"), true
		}
		return nil, nil, false
	})
	hide := k.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Metadata}, Err: kerr.UnknownTopicOrPartition, Count: 4})
	counts, err := c.awaitTopics(t.Context(), "commit", time.Time{}, []string{"out"})
	if err != nil || counts["out"] != 1 || asked.Load() == 0 || hide.Hits() == 0 {
		t.Errorf("%v, %v after %d cuts and %d denials", counts, err, asked.Load(), hide.Hits())
	}
}
