package main

import (
	"errors"
	"fmt"
	"syscall"
	"time"

	"sluice/bench/faults/proxy"
)

// This file owns the scenarios in which the network between workers and brokers fails.

func client(w *worker) string { return "sluice-" + w.name }

// cut resets connections to one broker (0: all) and refuses new ones.
func cut(all bool) func(*run) error {
	return func(r *run) error {
		for range pick(r, 1, 6) {
			sleep(r.ctx, r.between(time.Second, 3*time.Second))
			id := 0
			if !all {
				id = 1 + r.rng.IntN(r.c.size)
			}
			r.c.proxy.Refuse(id, true)
			sleep(r.ctx, r.between(6*time.Second, 9*time.Second))
			r.c.proxy.Refuse(id, false)
		}
		return nil
	}
}

// oneWay loses everything of one direction between one worker and all brokers, for longer than the session.
func oneWay(answers bool) func(*run) error {
	return func(r *run) error {
		sleep(r.ctx, 2*time.Second)
		rule := r.c.proxy.Add(&proxy.Rule{Client: client(r.workers[0]), Answers: answers, Do: proxy.Swallow()})
		sleep(r.ctx, pick(r, 15*time.Second, 40*time.Second))
		r.c.proxy.Remove(rule)
		r.note("%d frames lost", rule.Hits())
		return nil
	}
}

// resets cuts answers in the middle, one API after the other.
func resets(r *run) error {
	keys := []int16{proxy.Fetch, proxy.Produce, proxy.EndTxn, proxy.AddPartitionsToTxn, proxy.AddOffsetsToTxn,
		proxy.TxnOffsetCommit, proxy.Heartbeat}
	n := 0
	for range pick(r, 2, 12) {
		r.rng.Shuffle(len(keys), func(i, j int) { keys[i], keys[j] = keys[j], keys[i] })
		for _, k := range keys {
			rule := r.c.proxy.Add(&proxy.Rule{Keys: []int16{k}, Answers: true, After: r.rng.IntN(3), Times: 1,
				Do: proxy.Reset(r.rng.IntN(12))})
			select {
			case <-rule.First():
				n++
			case <-time.After(5 * time.Second):
			}
			r.c.proxy.Remove(rule)
		}
	}
	r.note("%d answers cut", n)
	if n < len(keys) {
		return fmt.Errorf("only %d answers were cut: the fault was not injected", n)
	}
	return nil
}

// halfOpen leaves workers with connections whose other end is gone.
func halfOpen(r *run) error {
	sleep(r.ctx, 2*time.Second)
	rule := r.c.proxy.Add(&proxy.Rule{Times: 12, After: 20, Do: proxy.HalfOpen()})
	sleep(r.ctx, pick(r, 15*time.Second, 40*time.Second))
	r.c.proxy.Remove(rule)
	r.note("%d connections left half-open", rule.Hits())
	if rule.Hits() == 0 {
		return errors.New("no connection was left half-open")
	}
	return nil
}

// slow delays every frame.
func slow(r *run) error {
	rule := r.c.proxy.Add(&proxy.Rule{Both: true, Do: proxy.Delay(250 * time.Millisecond)})
	sleep(r.ctx, pick(r, 12*time.Second, 60*time.Second))
	r.c.proxy.Remove(rule)
	r.note("%d frames delayed", rule.Hits())
	return nil
}

// late holds a request until its worker has given up waiting, asked again, finished that transaction and begun another;
// lets it arrive in the middle of the later one; and kills the worker at the moment at which that would hurt most
// (KIP-890 describes what such a request can do). An EndTxn would commit messages without their offsets, a
// TxnOffsetCommit would put older offsets in the place of newer ones.
func late(key int16) func(*run) error {
	return func(r *run) error {
		n := 0
		for range pick(r, 2, 8) {
			sleep(r.ctx, r.between(time.Second, 2*time.Second))
			did, err := r.lateOnce(key)
			if err != nil {
				return err
			}
			if did {
				n++
			}
		}
		if r.note("%d requests arrived in a later transaction", n); n == 0 {
			return errors.New("no request was late enough")
		}
		return nil
	}
}

func (r *run) lateOnce(key int16) (bool, error) {
	w := r.workers[0]
	release := make(chan struct{})
	defer r.c.proxy.Clear()
	met := func(rule *proxy.Rule, limit time.Duration) bool {
		select {
		case <-rule.First():
			return true
		case <-time.After(limit):
			return false
		}
	}
	held := r.c.proxy.Add(&proxy.Rule{Client: client(w), Keys: []int16{key}, After: r.rng.IntN(4), Times: 1,
		Do: proxy.Hold(release)})
	if !met(held, 20*time.Second) {
		return false, fmt.Errorf("API %d is never asked: nothing to hold", key)
	}
	again := r.c.proxy.Add(&proxy.Rule{Client: client(w), Keys: []int16{key}, Answers: true, Times: 1,
		Do: proxy.Delay(0)})
	if !met(again, 30*time.Second) {
		return false, fmt.Errorf("API %d is not asked again", key)
	}
	// The later transaction is caught when it has messages (EndTxn) or offsets (else), by keeping the answer back.
	catch := proxy.TxnOffsetCommit
	if key == proxy.EndTxn {
		catch = proxy.Produce
	} else if end := r.c.proxy.Add(&proxy.Rule{Client: client(w), Keys: []int16{proxy.EndTxn}, Answers: true, Times: 1,
		Do: proxy.Delay(0)}); !met(end, 15*time.Second) {
		return false, nil
	}
	caught := r.c.proxy.Add(&proxy.Rule{Client: client(w), Keys: []int16{catch}, Answers: true, Times: 1,
		Do: proxy.Delay(700 * time.Millisecond)})
	if !met(caught, 15*time.Second) {
		return false, nil
	}
	sleep(r.ctx, 100*time.Millisecond)
	close(release)
	if key == proxy.EndTxn {
		sleep(r.ctx, 300*time.Millisecond)
	} else if end := r.c.proxy.Add(&proxy.Rule{Client: client(w), Keys: []int16{proxy.EndTxn}, Answers: true, Times: 1,
		Do: proxy.Hold(r.ctx.Done())}); !met(end, 5*time.Second) {
		return false, nil
	}
	w.end(syscall.SIGKILL)
	return true, w.await(r.ctx)
}

// lost executes requests whose answers never come.
func lost(key int16) func(*run) error {
	return func(r *run) error {
		n := 0
		for range pick(r, 2, 8) {
			sleep(r.ctx, r.between(time.Second, 2*time.Second))
			rule := r.c.proxy.Add(&proxy.Rule{Keys: []int16{key}, Answers: true, After: r.rng.IntN(4), Times: 1,
				Do: proxy.Swallow()})
			select {
			case <-rule.First():
				n++
			case <-time.After(15 * time.Second):
			}
			r.c.proxy.Remove(rule)
		}
		if r.note("%d answers lost", n); n == 0 {
			return errors.New("no answer was lost")
		}
		return nil
	}
}

// damaged flips a bit in fetched batches: fewer times in a row than the worker tries.
func damaged(r *run) error {
	n := 0
	for range pick(r, 3, 12) {
		sleep(r.ctx, r.between(time.Second, 2*time.Second))
		rule := r.c.proxy.Add(&proxy.Rule{Times: 1 + r.rng.IntN(2), Do: proxy.Flip(), Answers: true,
			Keys: []int16{proxy.Fetch}})
		select {
		case <-rule.First():
		case <-time.After(10 * time.Second):
		}
		sleep(r.ctx, 500*time.Millisecond)
		r.c.proxy.Remove(rule)
		n += rule.Hits()
	}
	if r.note("%d batches damaged", n); n == 0 {
		return errors.New("no batch was damaged")
	}
	return nil
}

func networkScenarios() []scenario {
	s := []scenario{
		{name: "net-cut-one", fault: "network to one broker is cut", injected: "proxy resets connections to one " +
			"broker and refuses new ones, 6 to 9 s", do: cut(false)},
		{name: "net-cut-all", fault: "network to all brokers is cut", injected: "proxy resets all connections and " +
			"refuses new ones, 6 to 9 s", do: cut(true)},
		{name: "net-requests-lost", fault: "one-way network: requests are lost", injected: "proxy swallows every " +
			"request of one worker for 15 s (long: 40 s), longer than its session", do: oneWay(false)},
		{name: "net-answers-lost", fault: "one-way network: answers are lost", injected: "proxy swallows every " +
			"answer to one worker for 15 s (long: 40 s), longer than its session", do: oneWay(true)},
		{name: "net-reset", fault: "reset in the middle of an answer", injected: "proxy passes 0 to 11 bytes of an " +
			"answer and resets, for each of 7 APIs", do: resets},
		{name: "net-half-open", fault: "half-open connections", injected: "proxy ends the broker's side of 12 " +
			"connections, the worker's side stays open", do: halfOpen},
		{name: "net-slow", fault: "slow network", injected: "proxy delays every request and answer by 250 ms",
			do: slow},
		{name: "late-end-txn", fault: "EndTxn arrives after the next transaction has begun",
			injected: "proxy holds the request until a later transaction has messages, then lets it arrive; then " +
				"SIGKILL of the worker", do: late(proxy.EndTxn)},
		{name: "late-txn-offsets", fault: "TxnOffsetCommit arrives in a later transaction",
			injected: "proxy holds the request until a later transaction has its offsets, then lets it arrive; " +
				"SIGKILL of the worker after that transaction", do: late(proxy.TxnOffsetCommit)},
		{name: "late-produce", fault: "Produce arrives in a later transaction", injected: "proxy holds the request " +
			"until a later transaction has its offsets, then lets it arrive; SIGKILL of the worker after that " +
			"transaction", do: late(proxy.Produce), long: true},
		{name: "lost-end-txn", fault: "the answer to EndTxn is lost", injected: "proxy swallows it: executed, and " +
			"nobody knows", do: lost(proxy.EndTxn)},
		{name: "lost-produce", fault: "the answer to Produce is lost", injected: "proxy swallows it",
			do: lost(proxy.Produce), long: true},
		{name: "corrupt-batch", fault: "fetched batches are damaged", injected: "proxy flips a bit under the batch's " +
			"CRC", do: damaged},
	}
	for i := range s {
		s[i].brokers, s[i].workers = 1, 2
	}
	s[0].brokers = 3 // the others stay reachable
	return s
}
