package load

import (
	"context"
	"errors"
	"fmt"
	"os"
)

// This file measures several workers that work off one backlog together.

// Crew is what several workers are measured with, each bound to a core of its own. The topics and the group of each
// measurement are new ones.
type Crew struct {
	Worker     WorkerPlan // of each; Target, Group, Name and Cores are the crew's
	Brokers    []string
	Partitions int
	Texts      func() (*Texts, error) // the sequence, from its beginning

	measured int
}

// Drain lets one worker a core work off a backlog of so many records.
func (c *Crew) Drain(ctx context.Context, cores []int, records int) (d Drained, err error) {
	c.measured++
	name := fmt.Sprintf("bench-%d-%d", os.Getpid(), c.measured)
	target := Target{Brokers: c.Brokers, Input: name + "-in", Output: name + "-out", DeadLetter: name + "-dlq",
		Format: JSON}
	if err := CreateTopics(ctx, target, c.Partitions); err != nil {
		return d, err
	}
	texts, err := c.Texts()
	if err != nil {
		return d, err
	}
	var workers []*Worker
	var pids []int
	defer func() {
		for _, w := range workers {
			err = errors.Join(err, w.Stop())
		}
	}()
	// Workers join before there is work, else the first would take all of it while the others load their models; and
	// they are held while the backlog is written, else they would have done half of it by then.
	for i, core := range cores {
		plan := c.Worker
		plan.Target, plan.Group, plan.Name = target, name, fmt.Sprintf("w-%d", i)
		plan.Serve, plan.Cores = true, []int{core}
		w, err := StartWorker(context.WithoutCancel(ctx), plan)
		if err != nil {
			return d, err
		}
		workers, pids = append(workers, w), append(pids, w.PID)
	}
	for _, w := range workers {
		if err := w.Pause(); err != nil {
			return d, err
		}
	}
	return Drain(ctx, DrainPlan{Target: target, Records: records, Texts: texts,
		Begin: func(context.Context) (_ []int, err error) {
			for _, w := range workers {
				err = errors.Join(err, w.Resume())
			}
			return pids, err
		}})
}
