package kafka

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"sluice/pipeline"
	"sluice/pipeline/pipelinetest"
)

// This file owns what happens after a broker has called a transaction complete without its markers (see
// producer.settled): the fake broker says yes to an EndTxn that it does not execute, and connections break, as they do
// when a broker restarts.

// untrue lets the broker answer as many EndTxn as there are entries after the next Produce without executing them: with
// an untrue yes (nil), or not at all.
func untrue(k *kfake.Cluster, answers ...error) {
	var produced bool // controls run one after the other
	k.ControlKey(int16(kmsg.Produce), func(kmsg.Request) (kmsg.Response, error, bool) {
		produced = true
		return nil, nil, false
	})
	k.ControlKey(int16(kmsg.EndTxn), func(r kmsg.Request) (kmsg.Response, error, bool) {
		if !produced || len(answers) == 0 {
			return nil, nil, false
		}
		k.KeepControl()
		err := answers[0]
		if answers = answers[1:]; err != nil {
			return nil, err, true
		}
		return r.ResponseKind(), nil, true
	})
}

// TestACommitWhoseMarkersAreLostIsEndedAgain: what was committed is in the log once, whatever comes next.
func TestACommitWhoseMarkersAreLostIsEndedAgain(t *testing.T) {
	rejoin := func(t *testing.T, sink *Client, flow *pipelinetest.Flow) {
		sink.mu.Lock()
		s := sink.session
		sink.mu.Unlock()
		s.end(errReposition)
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		seen, err := flow.Await(ctx, func(s *pipelinetest.Seen) bool { return s.Assigns > 1 })
		if err != nil {
			t.Fatal(err)
		}
		if at := seen.Committed[pipeline.TopicPartition{Topic: "in"}]; at != 1 {
			t.Errorf("reading begins at %d again; 1 is committed", at)
		}
	}
	for _, c := range []struct {
		name    string
		unheard bool // the first EndTxn gets no answer at all; else it gets the untrue one
		then    func(t *testing.T, sink *Client, flow *pipelinetest.Flow)
	}{
		{name: "answered, next commit"},
		{name: "answered, next commit fails at its first step", then: func(t *testing.T, sink *Client,
			_ *pipelinetest.Flow) {
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			if err := sink.Commit(ctx, oneMessage("out", []byte("b"), 2)); err == nil {
				t.Error("a commit went through without time")
			}
		}},
		{name: "answered, group joined again", then: rejoin},
		{name: "unheard, next commit", unheard: true},
		{name: "unheard, group joined again", unheard: true, then: rejoin},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			k := fakeKafka(t, 1, "in", "out")
			cfg := testConfig(t, k.ListenAddrs(), "in", "out", "g")
			cfg.TransactionTimeout = 5 * time.Minute // the broker must not abort meanwhile
			sink, flow := directSink(t, cfg)
			untruths := []error{nil}
			if c.unheard {
				untruths = []error{errors.New("the broker dies"), nil}
			}
			untrue(k, untruths...)
			if err := sink.Commit(t.Context(), oneMessage("out", []byte("a"), 1)); err != nil {
				t.Fatal(err)
			}
			if n := len(readAll(t, k.ListenAddrs(), "out", kgo.ReadCommitted())); n != 0 {
				t.Fatalf("the broker shows %d messages of a transaction that it has not ended", n)
			}
			dials := sink.dials.Load()
			k.ControlKey(int16(kmsg.Heartbeat), func(kmsg.Request) (kmsg.Response, error, bool) {
				if sink.dials.Load() > dials {
					return nil, nil, false
				}
				k.KeepControl() // there may be more than one connection to this broker
				return nil, errors.New("the broker dies"), true
			})
			await(t, 20*time.Second, "a new connection", func() bool { return sink.dials.Load() > dials })
			if c.then != nil {
				c.then(t, sink, flow)
			}
			if err := sink.Commit(t.Context(), oneMessage("out", []byte("b"), 2)); err != nil {
				t.Fatal(err)
			}
			all := readAll(t, k.ListenAddrs(), "out", kgo.ReadCommitted())
			if len(all) != 2 || string(all[0].Value) != "a" || string(all[1].Value) != "b" {
				t.Errorf("%d messages, %v; want a and b once each", len(all), all)
			}
		})
	}
}

// TestBrokersThatGoAwayAgainAreWaitedFor: a new connection says that the last transaction is to be ended once more, and
// then nobody answers for longer than delivery_timeout. That is no reason to end the worker.
func TestBrokersThatGoAwayAgainAreWaitedFor(t *testing.T) {
	k := fakeKafka(t, 1, "in", "out")
	cfg := testConfig(t, k.ListenAddrs(), "in", "out", "g")
	cfg.giveUp = 500 * time.Millisecond
	sink, _ := directSink(t, cfg)
	if err := sink.Commit(t.Context(), oneMessage("out", []byte("a"), 1)); err != nil {
		t.Fatal(err)
	}
	sink.dials.Add(1)
	sink.mu.Lock()
	sink.refreshed = time.Time{} // the next look at the topics asks a broker
	sink.mu.Unlock()
	var since time.Time // controls run one after the other
	k.ControlKey(int16(kmsg.Metadata), func(kmsg.Request) (kmsg.Response, error, bool) {
		if since.IsZero() {
			since = time.Now()
		}
		if time.Since(since) > 4*cfg.giveUp {
			return nil, nil, false
		}
		k.KeepControl()
		return nil, errors.New("no broker is there"), true
	})
	for _, offset := range []int64{2, 3} {
		if err := sink.Commit(t.Context(), oneMessage("out", []byte("b"), offset)); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(readAll(t, k.ListenAddrs(), "out", kgo.ReadCommitted())); n != 3 {
		t.Errorf("%d messages of 3 commits", n)
	}
}

// TestPartitionsWithoutALeaderAreWaitedFor: while a cluster comes back, a marker reaches only partitions that have a
// leader again. What was committed must not hang there until an abort of the next transaction takes it away.
func TestPartitionsWithoutALeaderAreWaitedFor(t *testing.T) {
	k := fakeKafka(t, 1, "in", "out")
	cfg := testConfig(t, k.ListenAddrs(), "in", "out", "g")
	cfg.TransactionTimeout = 5 * time.Minute // the broker must not abort meanwhile
	sink, _ := directSink(t, cfg)
	untrue(k, nil)
	if err := sink.Commit(t.Context(), oneMessage("out", []byte("a"), 1)); err != nil {
		t.Fatal(err)
	}
	req := kmsg.NewPtrMetadataRequest()
	for _, topic := range []string{"in", "out"} {
		x := kmsg.NewMetadataRequestTopic()
		x.Topic = &topic
		req.Topics = append(req.Topics, x)
	}
	headless, err := req.RequestWith(t.Context(), franz(t, k.ListenAddrs()))
	if err != nil {
		t.Fatal(err)
	}
	for i := range headless.Topics {
		if x := &headless.Topics[i]; *x.Topic == "out" {
			x.Partitions[0].Leader, x.Partitions[0].ErrorCode = -1, kerr.LeaderNotAvailable.Code
		}
	}
	back := time.Now().Add(time.Second)
	k.ControlKey(int16(kmsg.Metadata), func(r kmsg.Request) (kmsg.Response, error, bool) {
		if time.Now().After(back) {
			return nil, nil, false
		}
		k.KeepControl()
		res := *headless
		res.SetVersion(r.GetVersion())
		return &res, nil, true
	})
	k.ControlKey(int16(kmsg.EndTxn), func(r kmsg.Request) (kmsg.Response, error, bool) {
		if time.Now().After(back) {
			return nil, nil, false
		}
		k.KeepControl()
		return r.ResponseKind(), nil, true
	})
	k.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.TxnOffsetCommit}, Err: kerr.InvalidProducerEpoch, Count: 1})
	sink.dials.Add(1)
	sink.mu.Lock()
	sink.refreshed = time.Time{} // the next look at the topics asks a broker
	sink.mu.Unlock()
	if err := sink.Commit(t.Context(), oneMessage("out", []byte("b"), 2)); pipeline.KindOf(err) != pipeline.Transient {
		t.Fatalf("%v; its offsets were refused", err)
	}
	if err := sink.Commit(t.Context(), oneMessage("out", []byte("b"), 2)); err != nil {
		t.Fatal(err)
	}
	all := readAll(t, k.ListenAddrs(), "out", kgo.ReadCommitted())
	if len(all) != 2 || string(all[0].Value) != "a" || string(all[1].Value) != "b" {
		t.Errorf("%d messages, %v; want a and b once each", len(all), all)
	}
}
