package main

import (
	"errors"
	"fmt"
	"syscall"
	"time"

	"sluice/bench/faults/history"
)

// This file owns the scenarios in which workers publish alerts beside results.

// withinTransaction are the places at which a worker's transaction is open.
var withinTransaction = []string{"after-add-partitions", "after-produce", "after-add-offsets",
	"after-txn-offset-commit", "before-end-txn", "after-end-txn"}

// alertsDie kills workers within their transactions while a broker dies, and looks in between whether what is visible
// fits.
func alertsDie(r *run) error {
	d := r.schedule(r.workers, withinTransaction, pick(r, 1, 10))
	died := make(chan error, 1)
	go func() { died <- d.happen() }()
	err := down("kill", coordinatorOfTransactions)(r)
	if err := errors.Join(err, <-died); err != nil {
		return err
	}
	if _, err := d.total(); err != nil {
		return err
	}
	for range pick(r, 1, 6) {
		sleep(r.ctx, r.between(500*time.Millisecond, 2*time.Second))
		if err := r.still(); err != nil {
			return err
		}
	}
	return nil
}

// still freezes all workers until their open transactions have timed out, and checks P3 on what is visible then.
func (r *run) still() error {
	for _, w := range r.workers {
		w.signal(syscall.SIGSTOP)
	}
	defer func() {
		for _, w := range r.workers {
			w.signal(syscall.SIGCONT)
		}
	}()
	if err := await(r.ctx, 30*time.Second, "the open transactions to time out", func() error {
		for _, topic := range []string{r.out, r.urgent} {
			stable, err := r.c.admin.ListCommittedOffsets(r.ctx, topic)
			if err == nil {
				err = stable.Error()
			}
			if err != nil {
				return err
			}
			ends, err := r.c.admin.ListEndOffsets(r.ctx, topic)
			if err == nil {
				err = ends.Error()
			}
			if err != nil {
				return err
			}
			for p, o := range stable.Offsets()[topic] {
				if end, _ := ends.Lookup(topic, p); end.Offset != o.At {
					return fmt.Errorf("%s/%d is stable to %d of %d", topic, p, o.At, end.Offset)
				}
			}
		}
		return nil
	}); err != nil {
		return err
	}
	outputs, err := r.outputs(r.out)
	if err != nil {
		return err
	}
	alerts, err := r.outputs(r.urgent)
	if err != nil {
		return err
	}
	seen := history.CheckAlerts(outputs, alerts)
	for _, e := range seen.Examples {
		r.fail("in the middle of the run: %s", e)
	}
	if r.note("%d results and %d alerts fit in the middle of the run", len(outputs), len(alerts)); len(alerts) == 0 {
		return errors.New("no alert is visible in the middle of the run: nothing was checked")
	}
	return nil
}

func alertScenarios() []scenario {
	return []scenario{{name: "alerts", fault: "workers and a broker die while routes publish alerts",
		injected: "SIGKILL at every failpoint within a transaction and at random, SIGKILL of the transaction " +
			"coordinator's broker; then all workers are frozen until their transactions time out, and what is " +
			"visible is checked, too",
		promises: "P3", do: alertsDie, brokers: 3, workers: 2, alerts: true}}
}
