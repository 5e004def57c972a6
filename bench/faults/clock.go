package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"sluice/pipeline/failpoint"
)

// This file owns the scenario in which the wall clocks of workers are stepped.

// steppedBinary is a worker whose wall clock can be stepped; bench/faults/clockstep says how it is built.
const steppedBinary = "build/faults/sluice-clock"

func (r *run) clockFile(worker int) string {
	return filepath.Join(r.dir, fmt.Sprintf("clock-%d", worker))
}

// stepped starts two workers with clocks that can be stepped.
func stepped(r *run) error {
	usual := r.o.sluice
	defer func() { r.o.sluice = usual }()
	r.o.sluice = steppedBinary
	for i := range 2 {
		if _, err := r.command(fmt.Sprintf("w-%d", i), nil, "env", failpoint.EnvClock+"="+r.clockFile(i)); err != nil {
			return err
		}
	}
	return nil
}

// steps sets the clocks forward and back while records flow. Whoever measures durations by the wall clock sees them as
// hours, or as negative: sessions end, waits never do, figures are nonsense.
func steps(r *run) error {
	joined := make([]float64, len(r.workers))
	for i, w := range r.workers {
		m, err := w.metrics()
		if err != nil {
			return err
		}
		joined[i] = m["sluice_rebalances_total"]
	}
	far := []time.Duration{time.Hour, -time.Hour, 24 * time.Hour, 0, -24 * time.Hour}
	near := []time.Duration{300 * time.Millisecond, -300 * time.Millisecond, 5 * time.Second, -5 * time.Second, 0}
	n := 0
	for range pick(r, 1, 8) {
		for _, ahead := range append(append([]time.Duration(nil), far...), near...) {
			i := r.rng.IntN(len(r.workers))
			if err := r.step(i, ahead); err != nil {
				return err
			}
			n++
			sleep(r.ctx, r.between(500*time.Millisecond, 1500*time.Millisecond))
		}
	}
	r.note("%d steps", n)
	for i, w := range r.workers {
		m, err := w.metrics()
		if err != nil {
			return err
		}
		if m["sluice_rebalances_total"] != joined[i] {
			r.fail("%s joined the group anew %.0f times because its clock was stepped", w.name,
				m["sluice_rebalances_total"]-joined[i])
		}
		for name, v := range m {
			if strings.HasPrefix(name, "sluice_") && v < 0 {
				r.fail("%s: %s is %v", w.name, name, v)
			}
		}
		if v := m["sluice_stage_duration_seconds_sum"] +
			m["sluice_transaction_duration_seconds_sum"]; v > time.Hour.Seconds() {
			r.fail("%s says that its stages and transactions took %.0f s", w.name, v)
		}
	}
	return unharmed(r)
}

// step sets a worker's clock, and waits until it is set.
func (r *run) step(worker int, ahead time.Duration) error {
	w, file := r.workers[worker], r.clockFile(worker)
	said := fmt.Sprintf("failpoint clock is %d ms ahead", ahead.Milliseconds())
	had := strings.Count(w.log.String(), said)
	if b, err := os.ReadFile(file); err == nil && string(b) == fmt.Sprint(ahead.Milliseconds()) || err != nil &&
		ahead == 0 {
		return nil // it stands there
	}
	next := file + ".next"
	if err := os.WriteFile(next, fmt.Append(nil, ahead.Milliseconds()), 0o600); err != nil {
		return err
	}
	if err := os.Rename(next, file); err != nil {
		return err
	}
	return await(r.ctx, 10*time.Second, w.name+"'s clock to be stepped", func() error {
		if strings.Count(w.log.String(), said) == had {
			return errors.New("it is not")
		}
		return nil
	})
}

func clockScenarios() []scenario {
	s := scenario{name: "clock-steps", fault: "wall clocks of workers are stepped", promises: "no rebalance, no " +
		"exit, no negative figure", brokers: 1, before: stepped, do: steps, args: []string{"--deadline=500ms"},
		injected: "build with an overlay of Go's clock: 1 h, 1 day, 5 s and 300 ms forward and back, of one worker " +
			"at a time; the monotonic clock goes on, as with NTP or a resumed machine"}
	if _, err := os.Stat(steppedBinary); err != nil {
		s.cannot = "no worker with a clock that can be stepped: make faults builds it, on linux/amd64"
	}
	return []scenario{s}
}
