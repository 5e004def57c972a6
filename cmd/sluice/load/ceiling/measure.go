package ceiling

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"sluice/cmd/sluice/load"
	"sluice/cmd/sluice/load/bare"
	"sluice/pipeline/engine"
)

// This file owns the rounds: every line is measured once in each, so that all of them see the same machine.

// Plan is what is measured.
type Plan struct {
	Rows   []engine.Input
	Loop   bare.Options // Runners and BatchTokens are those of each line
	Rounds int
	Status func(format string, args ...any) // what is under way
}

func (p *Plan) loop(ctx context.Context, runners, budget int) (bare.Result, error) {
	o := p.Loop
	o.Runners, o.BatchTokens = runners, budget
	return bare.Run(ctx, p.Rows, o)
}

// Measure measures the bare loop with every number of runners and every token budget, and adds a row for each pair.
func (r *Report) Measure(ctx context.Context, p Plan, runners, budgets []int) error {
	results := make([][]bare.Result, len(runners)*len(budgets))
	for round := range p.Rounds {
		for i := range results {
			n, budget := runners[i/len(budgets)], budgets[i%len(budgets)]
			p.Status("round %d of %d: %d runners, batches of %d tokens", round+1, p.Rounds, n, budget)
			got, err := p.loop(ctx, n, budget)
			if err != nil {
				return err
			}
			results[i] = append(results[i], got)
		}
	}
	r.Rounds = p.Rounds
	for _, rs := range results {
		r.add(rs)
	}
	return nil
}

// Scale measures the bare loop with each of the numbers of runners, the first of which is 1, and the whole path with as
// many workers of one runner each: whole works off a backlog that lasts about as long at so many texts a second. It
// adds a row and a line for each number.
func (r *Report) Scale(ctx context.Context, p Plan, counts []int, budget int,
	whole func(ctx context.Context, workers int, perS float64) (load.Drained, error)) error {
	loops, drains := make([][]bare.Result, len(counts)), make([][]load.Drained, len(counts))
	for round := range p.Rounds {
		for i, n := range counts { // in alternation, so that both see the same machine
			p.Status("round %d of %d: bare loop with %d runners", round+1, p.Rounds, n)
			loop, err := p.loop(ctx, n, budget)
			if err != nil {
				return err
			}
			p.Status("round %d of %d: whole path with %d workers", round+1, p.Rounds, n)
			drained, err := whole(ctx, n, loop.RowsPerS)
			if err != nil {
				return fmt.Errorf("%d workers: %w", n, err)
			}
			loops[i], drains[i] = append(loops[i], loop), append(drains[i], drained)
		}
	}
	r.Rounds = p.Rounds
	for i, n := range counts {
		r.addScale(n, loops[i], drains[i])
	}
	return nil
}

// add makes one row of all rounds of a measurement.
func (r *Report) add(rs []bare.Result) *Row {
	slices.SortFunc(rs, func(a, b bare.Result) int { return cmp.Compare(a.RowsPerS, b.RowsPerS) })
	row := Row{Result: rs[len(rs)/2], Least: rs[0].RowsPerS, Most: rs[len(rs)-1].RowsPerS}
	row.GMACs = r.Model.Shape.MACs(row.MeanTokens, row.MeanSquare) * row.RowsPerS / 1e9
	if p := r.Machine.Peak; p != nil {
		row.ShareOfPeak = row.GMACs / (p.GMACs * float64(min(row.Runners, r.Machine.Cores)))
	}
	r.Rows = append(r.Rows, row)
	return &r.Rows[len(r.Rows)-1]
}

// addScale makes a row and a line of all rounds with n runners and n workers.
func (r *Report) addScale(n int, loops []bare.Result, drains []load.Drained) {
	ratios := make([]float64, len(loops)) // of equal rounds, before either is sorted
	for k := range ratios {
		ratios[k] = drains[k].Rate / loops[k].RowsPerS
	}
	slices.Sort(ratios)
	slices.SortFunc(drains, func(a, b load.Drained) int { return cmp.Compare(a.Rate, b.Rate) })
	row := r.add(loops)
	row.Efficiency = row.RowsPerS / float64(n) / r.Rows[0].RowsPerS
	middle := len(drains) / 2
	line := Workers{Workers: n, Drained: drains[middle], OfBare: ratios[middle], Efficiency: 1}
	if len(r.Workers) > 0 {
		line.Efficiency = line.Drained.Rate / float64(n) / r.Workers[0].Drained.Rate
	}
	r.Workers = append(r.Workers, line)
}
