package main

import (
	"errors"
	"fmt"
	"time"
)

// This file owns the scenarios in which brokers fail.

// victim finds the broker that a scenario is about.
type victim func(r *run) (int, error)

func leaderOfInput(r *run) (int, error) {
	return r.c.leader(r.ctx, r.in, int32(r.rng.IntN(r.partitions)))
}
func coordinatorOfGroup(r *run) (int, error) { return r.c.groupCoordinator(r.ctx, r.group) }
func coordinatorOfTransactions(r *run) (int, error) {
	return r.c.txnCoordinator(r.ctx, r.group+"."+r.workers[0].name)
}

// down ends one broker while records flow, and starts it again after a while; several rounds in the long form.
func down(verb string, who victim) func(*run) error {
	return func(r *run) error {
		for range pick(r, 1, 6) {
			sleep(r.ctx, r.between(1500*time.Millisecond, 3*time.Second))
			id, err := who(r)
			if err != nil {
				return err
			}
			if err := r.c.broker(r.ctx, verb, id); err != nil {
				return err
			}
			sleep(r.ctx, r.between(4*time.Second, 7*time.Second))
			if err := r.c.broker(r.ctx, "restart", id); err != nil {
				return err
			}
		}
		return nil
	}
}

func pauseBroker(who victim) func(*run) error {
	return func(r *run) error {
		sleep(r.ctx, 2*time.Second)
		id, err := who(r)
		if err != nil {
			return err
		}
		if err := r.c.broker(r.ctx, "pause", id); err != nil {
			return err
		}
		d := pick(r, 20*time.Second, r.between(20*time.Second, 60*time.Second))
		sleep(r.ctx, d)
		r.note("paused %.0f s", d.Seconds())
		return r.c.broker(r.ctx, "resume", id)
	}
}

// between is a random duration of the schedule.
func (r *run) between(least, most time.Duration) time.Duration {
	return least + time.Duration(r.rng.Int64N(int64(most-least)))
}

// away takes all brokers away for a while: the worker stays, is not ready, does not grow, and goes on afterwards.
func away(r *run) error {
	sleep(r.ctx, 2*time.Second)
	before := make([]map[string]float64, len(r.workers))
	for i, w := range r.workers {
		var err error
		if before[i], err = w.metrics(); err != nil {
			return err
		}
	}
	if err := r.c.each(r.ctx, "kill"); err != nil {
		return err
	}
	d := pick(r, 25*time.Second, 5*time.Minute)
	sleep(r.ctx, d)
	for i, w := range r.workers {
		if starts, exits := w.counts(); starts != 1 {
			r.fail("%s ended while the brokers were away, with %v; it should wait", w.name, exits)
			continue
		}
		if w.ready() == nil {
			r.fail("%s says that it is ready, and no broker has been there for %v", w.name, d)
		}
		now, err := w.metrics()
		if err != nil {
			return err
		}
		const rss, routines = "process_resident_memory_bytes", "go_goroutines"
		grown := (now[rss] - before[i][rss]) / (1 << 20)
		r.note("%s: RSS %+.1f MiB, goroutines %.0f, before %.0f", w.name, grown, now[routines], before[i][routines])
		if grown > 48 {
			r.fail("%s grew by %.1f MiB while the brokers were away for %v; the bound is 48", w.name, grown, d)
		}
		if now[routines] > before[i][routines]+50 {
			r.fail("%s has %.0f goroutines after %v without brokers, %.0f before", w.name, now[routines], d,
				before[i][routines])
		}
	}
	return r.c.startAll(r.ctx)
}

// killAll ends all brokers at once, several times.
func killAll(r *run) error {
	for range pick(r, 2, 6) {
		sleep(r.ctx, r.between(time.Second, 3*time.Second))
		if err := r.c.each(r.ctx, "kill"); err != nil {
			return err
		}
		sleep(r.ctx, r.between(0, 3*time.Second))
		if err := r.c.startAll(r.ctx); err != nil {
			return err
		}
	}
	return nil
}

// fullDisk fills the disk of the last broker until it cannot write, and frees it later.
func fullDisk(r *run) error {
	sleep(r.ctx, 2*time.Second)
	free, err := fill(r.c.disk)
	if err != nil {
		return err
	}
	id := r.c.size
	gone := await(r.ctx, 40*time.Second, fmt.Sprintf("broker %d to give up on its full disk", id), func() error {
		if _, err := r.c.local(r.ctx, "status"); err == nil {
			return errors.New("it runs")
		}
		return nil
	})
	if gone == nil {
		r.note("broker %d ended", id)
	} else {
		r.note("broker %d ran on with its disk full", id)
	}
	sleep(r.ctx, 3*time.Second)
	if err := free(); err != nil {
		return err
	}
	return r.c.broker(r.ctx, "restart", id)
}

func brokerScenarios() []scenario {
	s := []scenario{
		{name: "broker-kill-leader", fault: "leader of an input partition dies", injected: "SIGKILL of the broker; " +
			"back after 4 to 7 s", do: down("kill", leaderOfInput)},
		{name: "broker-kill-group", fault: "group coordinator dies", injected: "SIGKILL of the broker; back after 4 " +
			"to 7 s", do: down("kill", coordinatorOfGroup)},
		{name: "broker-kill-txn", fault: "transaction coordinator dies", injected: "SIGKILL of the broker; back " +
			"after 4 to 7 s", do: down("kill", coordinatorOfTransactions)},
		{name: "broker-stop", fault: "transaction coordinator is stopped cleanly", injected: "SIGTERM of the broker " +
			"(controlled shutdown, coordinators and leaders move); back after 4 to 7 s",
			do: down("term", coordinatorOfTransactions)},
		{name: "broker-pause-leader", fault: "leader of an input partition freezes", injected: "SIGSTOP of the " +
			"broker for 20 s (long: 20 to 60 s)", do: pauseBroker(leaderOfInput)},
		{name: "broker-pause-txn", fault: "transaction coordinator freezes", injected: "SIGSTOP of the broker for 20 " +
			"s (long: 20 to 60 s)", do: pauseBroker(coordinatorOfTransactions)},
		{name: "broker-pause-group", fault: "group coordinator freezes", injected: "SIGSTOP of the broker for 20 to " +
			"60 s", do: pauseBroker(coordinatorOfGroup), long: true},
		{name: "brokers-kill-all", fault: "all brokers die at once", injected: "SIGKILL of all three, twice (long: " +
			"six times); back after 0 to 3 s", do: killAll},
		{name: "brokers-away", fault: "all brokers are away", injected: "SIGKILL of all three; back after 25 s " +
			"(long: 5 minutes)", promises: "P7 (RSS grows by at most 48 MiB, goroutines by 50; readiness false; no " +
			"exit)", do: away, settle: 5 * time.Minute},
		{name: "disk-full", fault: "a broker's disk is full, and freed", injected: "one of three brokers on a tmpfs " +
			"of 192 MiB that is filled to the last byte", do: fullDisk, disk: true},
	}
	for i := range s {
		s[i].brokers, s[i].workers = 3, 2
	}
	return append(s,
		scenario{name: "single-kill", fault: "the only broker dies", injected: "SIGKILL, twice (long: six times); " +
			"back after 0 to 3 s. One broker has no other to keep its markers", do: killAll, brokers: 1, workers: 2},
		scenario{name: "single-pause", fault: "the only broker freezes", injected: "SIGSTOP for 20 s (long: 20 to 60 " +
			"s), longer than session and transaction timeout", do: pauseBroker(func(*run) (int, error) {
			return 1,
				nil
		}), brokers: 1, workers: 2},
	)
}
