package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"sluice/pipeline/failpoint"
	"sluice/pipeline/kafka"
)

// This file owns the scenarios in which workers die, freeze, meet twins, come and go.

// points are the places at which workers are killed, with how often one is passed in a second of work, about.
func points() []string {
	all := append(slices.Clone(kafka.Failpoints), failpoint.Names...)
	// A worker that is not stopping never drains: that place has a scenario of its own. One without an LLM endpoint
	// never escalates.
	return slices.DeleteFunc(all, func(p string) bool {
		return slices.Contains([]string{failpoint.WhileDraining, failpoint.EscalateBeforeCall,
			failpoint.EscalateAfterCall}, p)
	})
}

// plan says when a worker that is killed at a point dies: at which passing.
func (r *run) plan(point string) string {
	at := 1
	if !strings.HasPrefix(point, "after-init") && point != "after-scrub" && point != "while-joining" &&
		point != "after-join" {
		at += r.rng.IntN(12)
	}
	return fmt.Sprintf("%s:%d:kill", point, at)
}

// deaths is a schedule of deaths for some workers, and what came of it.
type deaths struct {
	r       *run
	workers []*worker
	places  []string

	mu                        sync.Mutex
	plans                     []string // name:count:kill; "": at random
	waits                     []time.Duration
	random, arming, unreached int
}

// schedule plans a death at every place, rounds times, and others at random in between.
func (r *run) schedule(workers []*worker, places []string, rounds int) *deaths {
	d := &deaths{r: r, workers: workers, places: places}
	for range rounds {
		for _, p := range places {
			d.plans = append(d.plans, r.plan(p))
			if r.rng.IntN(3) == 0 {
				d.plans = append(d.plans, "")
			}
		}
	}
	r.rng.Shuffle(len(d.plans), func(i, j int) { d.plans[i], d.plans[j] = d.plans[j], d.plans[i] })
	for range d.plans {
		d.waits = append(d.waits, r.between(50*time.Millisecond, 1500*time.Millisecond))
	}
	return d
}

// next takes the next death of the schedule.
func (d *deaths) next() (point string, wait time.Duration, more bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.plans) == 0 {
		return "", 0, false
	}
	point, wait = d.plans[0], d.waits[0]
	d.plans, d.waits = d.plans[1:], d.waits[1:]
	return point, wait, true
}

// happen lets the workers die as it was planned, all of them at the same time.
func (d *deaths) happen() error {
	errs := make(chan error, len(d.workers))
	for _, w := range d.workers {
		go func() {
			for d.r.ctx.Err() == nil {
				point, wait, more := d.next()
				if !more {
					break
				}
				if err := d.once(w, point, wait); err != nil {
					errs <- err
					return
				}
			}
			errs <- nil
		}()
	}
	var all []error
	for range d.workers {
		all = append(all, <-errs)
	}
	return errors.Join(all...)
}

// once kills a worker and waits until it is there again.
func (d *deaths) once(w *worker, point string, wait time.Duration) error {
	count := func(n *int) {
		d.mu.Lock()
		*n++
		d.mu.Unlock()
	}
	if point == "" {
		sleep(d.r.ctx, wait)
		w.end(syscall.SIGKILL)
		count(&d.random)
		return w.await(d.r.ctx)
	}
	w.arm(point)
	w.end(syscall.SIGKILL) // the next start has the failpoint
	count(&d.arming)
	before, _ := w.counts()
	err := await(d.r.ctx, 20*time.Second, "the death at "+point, func() error {
		if n, _ := w.counts(); n < before+2 {
			return errors.New("it lives")
		}
		return nil
	})
	w.arm("")
	if err != nil {
		w.end(syscall.SIGKILL) // so that it starts without it
		count(&d.unreached)
	}
	return w.await(d.r.ctx)
}

// total notes how many deaths there were and returns the number. The error names places at which nobody died.
func (d *deaths) total() (int, error) {
	met, at := map[string]int{}, 0
	for _, w := range d.workers {
		for p, n := range w.log.met() {
			met[p] += n
			at += n
		}
	}
	d.r.note("%d SIGKILLs at %d failpoints, %d at random, %d arming kills", at, len(met), d.random+d.unreached,
		d.arming)
	n := at + d.random + d.unreached + d.arming
	never := slices.DeleteFunc(slices.Clone(d.places), func(p string) bool { return met[p] > 0 })
	if len(never) > 0 {
		return n, fmt.Errorf("no worker died at %s", strings.Join(never, ", "))
	}
	return n, nil
}

// kills lets two workers die at every failpoint, and at random in between: in the long form at least 500 times.
func kills(r *run) error {
	d := r.schedule(r.workers, points(), pick(r, 1, 24))
	if err := d.happen(); err != nil {
		return err
	}
	n, err := d.total()
	if err == nil && r.o.long && n < 500 {
		err = fmt.Errorf("only %d SIGKILLs", n)
	}
	return err
}

// storm: five workers join, die and come back at random.
func storm(r *run) error {
	for i := 2; i < 5; i++ {
		if _, err := r.start(fmt.Sprintf("w-%d", i)); err != nil {
			return err
		}
	}
	kills, stops := 0, 0
	until := time.Now().Add(pick(r, 30*time.Second, 2*time.Minute))
	for time.Now().Before(until) {
		sleep(r.ctx, r.between(300*time.Millisecond, 3*time.Second))
		w := r.workers[r.rng.IntN(len(r.workers))]
		if r.rng.IntN(3) == 0 {
			w.signal(syscall.SIGTERM)
			stops++
		} else {
			w.end(syscall.SIGKILL)
			kills++
		}
	}
	r.note("%d SIGKILLs, %d SIGTERMs of 5 workers", kills, stops)
	return nil
}

// restarts: members that are back within their session leave the group as it is.
func restarts(r *run) error {
	sleep(r.ctx, 2*time.Second)
	before := make([]float64, len(r.workers))
	for i, w := range r.workers {
		m, err := w.metrics()
		if err != nil {
			return err
		}
		before[i] = m["sluice_rebalances_total"]
	}
	for round := range pick(r, 2, 10) {
		for i, w := range r.workers {
			w.end([]syscall.Signal{syscall.SIGKILL, syscall.SIGTERM}[round%2])
			if err := w.await(r.ctx); err != nil {
				return err
			}
			before[i] = 1 // its own join
			sleep(r.ctx, time.Second)
			for j, other := range r.workers {
				m, err := other.metrics()
				if err != nil {
					return err
				}
				if n := m["sluice_rebalances_total"]; n > before[j] {
					r.fail("%s joined the group %.0f times, %.0f were due: the restart of %s caused a rebalance",
						other.name, n, before[j], w.name)
				}
			}
		}
	}
	return nil
}

// twin starts a second process under the name of a first one, which has to end with exit code 3.
func twin(r *run) error {
	for range pick(r, 1, 5) {
		sleep(r.ctx, 2*time.Second)
		old := r.workers[0]
		args, err := r.writeConfig(old.name)
		if err != nil {
			return err
		}
		second := supervise(r.o.sluice, old.name, args)
		r.twins = append(r.twins, second)
		_, before := old.counts()
		err = await(r.ctx, 40*time.Second, "the older twin to end", func() error {
			if _, exits := old.counts(); len(exits) == len(before) {
				return errors.New("it lives")
			}
			return nil
		})
		if err != nil {
			return err
		}
		if _, exits := old.counts(); exits[len(before)] != exitFenced {
			r.fail("the older twin ended with exit code %d, want %d", exits[len(before)], exitFenced)
		}
		second.stop(syscall.SIGKILL) // one of them is a mistake; its operator has found it
	}
	return nil
}

// freeze stops a worker for longer than its session and its transaction live, and thaws it in the middle of things.
func freeze(point string) func(*run) error {
	return func(r *run) error {
		w := r.workers[0]
		for range pick(r, 1, 5) {
			if point != "" {
				w.arm(fmt.Sprintf("%s:%d:pause", point, 2+r.rng.IntN(10)))
				w.end(syscall.SIGKILL)
				before := w.log.met()[point]
				if err := await(r.ctx, 30*time.Second, w.name+" to freeze at "+point, func() error {
					if w.log.met()[point] == before {
						return errors.New("it runs")
					}
					return nil
				}); err != nil {
					return err
				}
				w.arm("")
			} else {
				sleep(r.ctx, 2*time.Second)
				w.signal(syscall.SIGSTOP)
			}
			sleep(r.ctx, r.between(13*time.Second, 18*time.Second))
			w.signal(syscall.SIGCONT)
			sleep(r.ctx, 2*time.Second)
			if err := w.await(r.ctx); err != nil {
				return err
			}
		}
		return nil
	}
}

// drain stops workers under load: they finish and end with exit code 0. In the long form one dies while it drains.
func drain(r *run) error {
	for round := range pick(r, 2, 6) {
		w := r.workers[round%2]
		sleep(r.ctx, r.between(time.Second, 2*time.Second))
		_, before := w.counts()
		w.end(syscall.SIGTERM)
		if _, exits := w.counts(); exits[len(before)] != 0 {
			r.fail("%s ended with exit code %d after SIGTERM, want 0", w.name, exits[len(before)])
		}
		if err := w.await(r.ctx); err != nil {
			return err
		}
	}
	w := r.workers[0]
	w.arm(failpoint.WhileDraining + ":1:kill")
	w.end(syscall.SIGKILL)
	sleep(r.ctx, 500*time.Millisecond)
	if err := w.await(r.ctx); err != nil {
		return err
	}
	w.arm("")
	w.end(syscall.SIGTERM)
	if w.log.met()[failpoint.WhileDraining] == 0 {
		r.fail("no worker died while draining")
	}
	return w.await(r.ctx)
}

// crowd starts more workers than there are partitions.
func crowd(r *run) error {
	for i := len(r.workers); i <= r.partitions; i++ {
		if _, err := r.start(fmt.Sprintf("w-%d", i)); err != nil {
			return err
		}
	}
	for _, w := range r.workers {
		if err := w.await(r.ctx); err != nil {
			return err
		}
	}
	sleep(r.ctx, 3*time.Second)
	w := r.workers[r.rng.IntN(len(r.workers))]
	w.end(syscall.SIGKILL)
	return w.await(r.ctx)
}

func processScenarios() []scenario {
	s := []scenario{
		{name: "kill-failpoints", fault: "workers die", injected: "SIGKILL at every failpoint of the worker, and at " +
			"random in between (long: at least 500 deaths)", do: kills, rate: 150},
		{name: "rebalance-storm", fault: "rebalance storm", injected: "5 workers, SIGKILL or SIGTERM of a random one " +
			"every 0.3 to 3 s, for 30 s (long: 2 minutes)", do: storm, partitions: 6},
		{name: "restart", fault: "restart within the session timeout", injected: "SIGKILL, then SIGTERM, of each " +
			"worker; its supervisor starts it again at once", promises: "P10", do: restarts},
		{name: "twin", fault: "twin with the same instance id", injected: "a second process under the first one's " +
			"name; the older one must end with exit code 3", do: twin, ends: []string{"exit 3"}},
		{name: "freeze", fault: "a worker is frozen past its session, and thawed", injected: "SIGSTOP for 13 to 18 " +
			"s, session and transaction timeout are 10 s, another worker has its partitions meanwhile", do: freeze("")},
		{name: "freeze-in-transaction", fault: "a worker is frozen before EndTxn, and thawed",
			injected: "SIGSTOP at failpoint before-end-txn for 13 to 18 s, session and transaction timeout are 10 s",
			do:       freeze("before-end-txn")},
		{name: "drain", fault: "workers are stopped under load", injected: "SIGTERM, exit code 0; then SIGKILL at " +
			"failpoint while-draining", do: drain},
		{name: "crowd", fault: "13 workers on 12 partitions", injected: "all started at once, one killed", do: crowd,
			partitions: 12, long: true},
	}
	for i := range s {
		s[i].brokers, s[i].workers = 1, 2
	}
	return s
}
