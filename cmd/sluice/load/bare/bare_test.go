package bare

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"sluice/pipeline/engine"
)

func rowsOf(lengths ...int) []engine.Input {
	var rows []engine.Input
	for _, n := range lengths {
		rows = append(rows, make(engine.Tokens, n))
	}
	return rows
}

func TestBatchesKeepTheBudgetAndEveryRow(t *testing.T) {
	var lengths []int
	for i := range 1000 {
		lengths = append(lengths, 3+i*37%90)
	}
	lengths = append(lengths, 500) // longer than any budget: a batch of its own
	for _, budget := range []int{1, 64, 256} {
		var seen []int
		for _, b := range Batches(rowsOf(lengths...), 128, budget) {
			tokens := 0
			for _, r := range b {
				tokens += r.Cost()
				seen = append(seen, r.Cost())
			}
			if tokens > budget && len(b) > 1 || len(b) == 0 {
				t.Errorf("budget %d: a batch of %d rows and %d tokens", budget, len(b), tokens)
			}
		}
		if want := slices.Sorted(slices.Values(lengths)); !slices.Equal(slices.Sorted(slices.Values(seen)), want) {
			t.Errorf("budget %d: %d rows came out of %d", budget, len(seen), len(want))
		}
	}
}

// fixed is a runner that takes a time for every token.
type fixed struct {
	perToken time.Duration
	ran      *atomic.Int64
	fail     error
}

func (f *fixed) Bind() error  { return nil }
func (f *fixed) Close() error { return nil }
func (f *fixed) Run(_ context.Context, rows []engine.Input) ([][]float32, error) {
	n := 0
	for _, r := range rows {
		n += r.Cost()
	}
	f.ran.Add(int64(n))
	time.Sleep(time.Duration(n) * f.perToken)
	return nil, f.fail
}

func TestTheRateIsThatOfTheRunners(t *testing.T) {
	var ran atomic.Int64
	open := func(int) (engine.Runner, error) { return &fixed{perToken: 20 * time.Microsecond, ran: &ran}, nil }
	r, err := Run(t.Context(), rowsOf(10, 20, 30, 40), Options{Runners: 3, BatchTokens: 100,
		Length: 300 * time.Millisecond, Open: open})
	if err != nil {
		t.Fatal(err)
	}
	// three runners of 50,000 tokens a second each, at the most
	if r.TokensPerS > 150_000 || r.TokensPerS < 30_000 || r.MeanTokens != 25 || r.MeanSquare != 750 ||
		r.Fill != 100.0/160 || r.RowsOfBatch != 4 || r.Runners != 3 {
		t.Errorf("%+v", r)
	}
	if int64(r.Tokens) > ran.Load() {
		t.Errorf("%d tokens counted, %d ran", r.Tokens, ran.Load())
	}
}

func TestTheBestBudgetIsTheFastest(t *testing.T) {
	// every run costs the same: the larger the batch, the better
	open := func(int) (engine.Runner, error) { return &eachRun{10 * time.Millisecond}, nil }
	best, err := Best(t.Context(), rowsOf(10, 10, 10, 10, 10, 10, 10, 10), []int{10, 80, 40},
		Options{Length: 100 * time.Millisecond, Open: open})
	if err != nil || best != 80 {
		t.Errorf("%d, %v", best, err)
	}
}

type eachRun struct{ takes time.Duration }

func (r *eachRun) Bind() error  { return nil }
func (r *eachRun) Close() error { return nil }
func (r *eachRun) Run(context.Context, []engine.Input) ([][]float32, error) {
	time.Sleep(r.takes)
	return nil, nil
}

func TestARunnersErrorEndsTheLoop(t *testing.T) {
	broken := errors.New("no such kernel")
	open := func(n int) (engine.Runner, error) { return &fixed{ran: new(atomic.Int64), fail: broken}, nil }
	if _, err := Run(t.Context(), rowsOf(5), Options{Length: time.Hour, Open: open}); !errors.Is(err, broken) {
		t.Errorf("%v", err)
	}
	if _, err := Run(t.Context(), rowsOf(5), Options{Length: time.Hour, Open: func(int) (engine.Runner,
		error) {
		return nil, broken
	}}); !errors.Is(err, broken) {
		t.Errorf("opening: %v", err)
	}
	if _, err := Run(t.Context(), nil, Options{}); err == nil {
		t.Error("no rows")
	}
}
