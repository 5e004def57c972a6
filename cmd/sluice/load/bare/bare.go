// Package bare runs a model's session in a loop, with nothing around it: no Kafka, no tokenizing, no JSON, no queue.
// What it gives is the ceiling for every worker on the same model and machine.
package bare

import (
	"context"
	"errors"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"sluice/pipeline/engine"
)

// Options say how rows are batched and run.
type Options struct {
	Runners     int                                        // threads, each on its own core
	BatchTokens int                                        // most tokens of a batch; engine.DefaultBatchTokens
	Window      int                                        // rows that are sorted by length together; 512
	Length      time.Duration                              // of the measurement; a batch that has begun is finished
	Open        func(runner int) (engine.Runner, error)    // as ort.Session.NewRunner
	Warm        func(context.Context, engine.Runner) error // nil: one batch
}

// Result is what the loop did.
type Result struct {
	Runners     int     `json:"runners"`
	BatchTokens int     `json:"batch_tokens"`
	Seconds     float64 `json:"seconds"`
	Rows        int     `json:"rows"`
	Tokens      int     `json:"tokens"`
	Batches     int     `json:"batches"`
	RowsPerS    float64 `json:"rows_per_s"`
	TokensPerS  float64 `json:"tokens_per_s"`
	MeanTokens  float64 `json:"mean_tokens"`  // of a row
	MeanSquare  float64 `json:"mean_squares"` // of a row's tokens, squared: what attention costs
	Fill        float64 `json:"fill"`         // real tokens of all token places
	RowsOfBatch float64 `json:"rows_of_a_batch"`
	CPUPer1000  float64 `json:"cpu_seconds_per_1000"` // rows: steadier than the rate where others use the machine too
	// of the cores' time that the runners got; below 1 others had the rest
	CPUShare float64 `json:"cpu_share"`
}

// Batches sorts rows by length, window by window, and cuts them into batches of at most budget tokens, as a worker with
// a full queue could.
func Batches(rows []engine.Input, window, budget int) [][]engine.Input {
	var batches [][]engine.Input
	for chunk := range slices.Chunk(slices.Clone(rows), window) {
		slices.SortStableFunc(chunk, func(a, b engine.Input) int { return a.Cost() - b.Cost() })
		begin, tokens := 0, 0
		for i, row := range chunk {
			if i > begin && tokens+row.Cost() > budget {
				batches = append(batches, chunk[begin:i])
				begin, tokens = i, 0
			}
			tokens += row.Cost()
		}
		batches = append(batches, chunk[begin:])
	}
	return batches
}

// Run loops over rows until the time is over.
func Run(ctx context.Context, rows []engine.Input, o Options) (Result, error) {
	if len(rows) == 0 {
		return Result{}, errors.New("there are no rows to run")
	}
	if o.Runners <= 0 {
		o.Runners = 1
	}
	if o.BatchTokens <= 0 {
		o.BatchTokens = engine.DefaultBatchTokens
	}
	if o.Window <= 0 {
		o.Window = 512
	}
	batches := Batches(rows, o.Window, o.BatchTokens)
	// A shuffle of the batches that is the same in every run: else one runner computes short rows while another has the
	// long ones, window after window.
	shuffled := make([][]engine.Input, len(batches))
	for i := range batches {
		shuffled[i*7919%len(batches)] = batches[i]
	}
	if len(batches)%7919 == 0 { // then the above is no permutation
		shuffled = batches
	}

	type count struct{ rows, tokens, squares, slots, batches int }
	counts := make([]count, o.Runners)
	var next atomic.Int64
	var failed atomic.Pointer[error]
	var warm, running sync.WaitGroup
	begin, end := make(chan struct{}), time.Time{}
	for n := range o.Runners {
		warm.Add(1)
		running.Go(func() {
			runtime.LockOSThread() // never unlocked: a pinned thread must not go back to the pool
			r, err := o.Open(n)
			if err == nil {
				defer r.Close()
				if err = r.Bind(); err == nil && o.Warm != nil {
					err = o.Warm(ctx, r)
				}
				for i := 0; err == nil && i < 3; i++ {
					_, err = r.Run(ctx, shuffled[i%len(shuffled)])
				}
			}
			warm.Done()
			<-begin
			var c count
			for err == nil && ctx.Err() == nil && time.Now().Before(end) {
				batch := shuffled[int(next.Add(1)-1)%len(shuffled)]
				if _, err = r.Run(ctx, batch); err != nil {
					break
				}
				widest := 0
				for _, row := range batch {
					c.tokens += row.Cost()
					c.squares += row.Cost() * row.Cost()
					widest = max(widest, row.Cost())
				}
				c.rows += len(batch)
				c.slots += widest * len(batch)
				c.batches++
			}
			if err != nil {
				failed.CompareAndSwap(nil, &err)
			}
			counts[n] = c
		})
	}
	warm.Wait()
	cpu, began := cpuTime(), time.Now()
	end = began.Add(o.Length)
	close(begin)
	running.Wait()
	took := time.Since(began).Seconds()
	cpu = cpuTime() - cpu
	if err := failed.Load(); err != nil {
		return Result{}, *err
	}
	if ctx.Err() != nil {
		return Result{}, context.Cause(ctx)
	}
	var sum count
	for _, c := range counts {
		sum.rows += c.rows
		sum.tokens += c.tokens
		sum.squares += c.squares
		sum.slots += c.slots
		sum.batches += c.batches
	}
	if sum.rows == 0 {
		return Result{}, errors.New("no batch was finished: measure for longer")
	}
	return Result{
		Runners: o.Runners, BatchTokens: o.BatchTokens, Seconds: took, Rows: sum.rows, Tokens: sum.tokens,
		Batches:  sum.batches,
		RowsPerS: float64(sum.rows) / took, TokensPerS: float64(sum.tokens) / took,
		MeanTokens: float64(sum.tokens) / float64(sum.rows),
		MeanSquare: float64(sum.squares) / float64(sum.rows), Fill: float64(sum.tokens) / float64(sum.slots),
		RowsOfBatch: float64(sum.rows) / float64(sum.batches), CPUPer1000: cpu.Seconds() / float64(sum.rows) * 1000,
		CPUShare: cpu.Seconds() / took / float64(o.Runners),
	}, nil
}

// cpuTime is the user and system time of this process so far.
func cpuTime() time.Duration {
	var use syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &use); err != nil { // cannot fail with these arguments
		return 0
	}
	return time.Duration(use.Utime.Nano() + use.Stime.Nano())
}

// Best runs the loop for a short time with each budget and returns the one with the highest rate: what a worker's own
// choice is to be compared with.
func Best(ctx context.Context, rows []engine.Input, budgets []int, o Options) (budget int, err error) {
	most := 0.0
	for _, b := range budgets {
		o.BatchTokens = b
		r, err := Run(ctx, rows, o)
		if err != nil {
			return 0, err
		}
		if r.RowsPerS > most {
			most, budget = r.RowsPerS, b
		}
	}
	return budget, nil
}
