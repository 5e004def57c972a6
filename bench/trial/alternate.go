package trial

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"sluice/cmd/sluice/load"
)

// This file compares ways to run the worker: each works off a backlog on a real broker, in turns, so that all of them
// see the same machine.

// Variant is one way to run the worker on one sequence of texts.
type Variant struct {
	Name    string
	Texts   *load.Texts                     // or
	Value   func(i int, mark []byte) []byte // of record i
	Env     []string                        // of the worker, beside that of this process
	Records int
}

// Alternation runs variants in turns.
type Alternation struct {
	Broker     *Broker
	Binary     string // of sluice
	Model      string // directory
	Partitions int
	Rounds     int
	Status     io.Writer // what is under way

	next int
}

// Drain measures one variant once, on new topics. The worker is ready and stands still while the backlog is written;
// what is measured begins when it goes on, and is all of its work: a student that runs ahead of the first results
// counts too.
func (a *Alternation) Drain(ctx context.Context, v Variant) (d load.Drained, err error) {
	a.next++
	run := fmt.Sprintf("%d-%d", time.Now().Unix(), a.next)
	target := load.Target{Brokers: []string{a.Broker.Address}, Input: "in-" + run, Output: "out-" + run,
		DeadLetter: "dlq-" + run, Format: load.JSON}
	if err := load.CreateTopics(ctx, target, a.Partitions); err != nil {
		return d, err
	}
	if v.Texts != nil {
		v.Texts.Rewind()
	}
	worker, err := load.StartWorker(ctx, load.WorkerPlan{Binary: a.Binary, Dir: a.Broker.Dir, Target: target,
		Model: a.Model, Group: "variant-" + run, Name: "variant-0", Serve: true, Env: append(os.Environ(), v.Env...)})
	if err != nil {
		return d, err
	}
	defer func() { err = errors.Join(err, worker.Stop()) }()
	if err := worker.Pause(); err != nil {
		return d, err
	}
	probe := load.Probe{PIDs: []int{worker.PID}}
	var before load.Reading
	d, err = load.Drain(ctx, load.DrainPlan{Target: target, Records: v.Records, Texts: v.Texts, Value: v.Value,
		From: 1 / float64(v.Records), Begin: func(ctx context.Context) ([]int, error) {
			if before, err = probe.Read(ctx); err != nil {
				return nil, err
			}
			return probe.PIDs, worker.Resume()
		}})
	if err != nil {
		return d, err
	}
	after, err := probe.Read(ctx)
	if err != nil {
		return d, err
	}
	d.Rate = float64(d.Records) / (d.First + d.Seconds)
	d.CPUPer1000 = (after.CPU() - before.CPU()) / float64(d.Records) * 1000
	return d, nil
}

// Run measures every variant once a round, in turns, and writes a table of their rates and of the ratios to the first
// variant in the same round.
func (a *Alternation) Run(ctx context.Context, page io.Writer, variants []Variant) error {
	rates, ratios := make([][]float64, len(variants)), make([][]float64, len(variants))
	// steadier than rates where others use the machine too
	cpu, less := make([][]float64, len(variants)), make([][]float64, len(variants))
	names := make([]string, len(variants))
	for k, v := range variants {
		names[k] = v.Name
	}
	if err := Turns(a.Status, a.Rounds, names, func(k int) error {
		d, err := a.Drain(ctx, variants[k])
		if err == nil {
			rates[k], cpu[k] = append(rates[k], d.Rate), append(cpu[k], d.CPUPer1000)
		}
		return err
	}); err != nil {
		return err
	}
	for round := range a.Rounds {
		for k := range variants {
			ratios[k] = append(ratios[k], rates[k][round]/rates[0][round])
			less[k] = append(less[k], cpu[k][round]/cpu[0][round])
		}
	}
	fmt.Fprintf(page, "| variant | msgs/s | against the first | worker CPU s per 1,000 msgs | against the first "+
		"|\n|---|---|---|---|---|\n")
	for k, v := range variants {
		fmt.Fprintf(page, "| %s | %s | %s | %s | %s |\n", v.Name, Spread(rates[k], "%.0f"), Spread(ratios[k], "%.2f"),
			Spread(cpu[k], "%.2f"), Spread(less[k], "%.2f"))
	}
	fmt.Fprintln(page)
	return nil
}

// Spread is the median with the range, each in a format.
func Spread(v []float64, format string) string {
	v = slices.Sorted(slices.Values(v))
	return fmt.Sprintf(format+" ("+format+"–"+format+")", v[len(v)/2], v[0], v[len(v)-1])
}
