package engine

import (
	"fmt"
	"math"
	"time"
)

// This file owns the token budget of a run: how many tokens a batch should have on this machine. How much batching pays
// depends on the core: nothing beyond 16 tokens on some, twice as much at 256 on others, and above some size
// activations leave the cache. So it is measured when a model is loaded, with all runners at work, and the smallest
// budget is taken that reaches nearly the best rate: larger ones would only cost latency.

const (
	probeRow      = 16                     // cost of the smallest batch, and tokens of its row where it is text
	probeLeast    = 512                    // sizes up to this are always tried
	probeMost     = 8192                   // largest budget tried
	probeTime     = 700 * time.Millisecond // time for repeats; two rounds over all sizes are always run
	probeRepeats  = 8
	probeNoGain   = 1.03 // a size must be this much faster than the best of the smaller ones to count as a gain
	budgetNearly  = 0.95 // of the best rate: Budget.Tokens
	budgetFair    = 0.85 // of the best rate: Budget.Least
	budgetMinimum = 32   // below, a batch is one text at a time
)

// Budget is the token budget of a model's runs.
type Budget struct {
	Model  string `json:"model"`
	Tokens int    `json:"tokens"` // most tokens of a run
	// as many as a run may have without regard to other runners; see batcher.next
	Least int           `json:"least"`
	Curve []BudgetPoint `json:"measured,omitempty"` // what it was chosen from; none where it was given
}

// BudgetPoint is the rate of runs of a size: of one runner, while the others ran as well.
type BudgetPoint struct {
	Tokens int     `json:"tokens"`
	Rate   float64 `json:"tokens_per_second"`
}

// perToken is about how long a run takes for each of its tokens; 0 where it was not measured.
func (b *Budget) perToken() time.Duration {
	for _, p := range b.Curve {
		if p.Tokens == b.Tokens && p.Rate > 0 {
			return time.Duration(float64(time.Second) / p.Rate)
		}
	}
	return 0
}

// sampleRow is the row that budgets are measured with: of probeRow tokens, made of the sample's where that is text, and
// else the sample as it is.
func sampleRow(sample Input) Input {
	text, ok := sample.(tokenRow)
	if !ok {
		return sample
	}
	ids, row := text.TokenIDs(), make(Tokens, probeRow)
	for i := range row {
		row[i] = ids[i%len(ids)]
	}
	return row
}

// measureBudgets runs batches of rows like sample, a batch of a cost of at least probeRow, then of twice as many rows,
// and so on, at least to probeLeast and until two doublings in a row gain nothing; then it repeats them in turns for a
// while, and keeps the best time of each. clock is what a run takes: the thread's own time where that is the CPU's, so
// that a machine that is busy with something else does not spoil the figures. between is called between two runs, and
// ends the measuring by its error.
func measureBudgets(sample Input, clock func() time.Duration, between func() error, run func([]Input) error) (
	[]BudgetPoint, error) {
	if sample == nil || sample.Cost() == 0 {
		return nil, fmt.Errorf("no sample row to measure the token budget with; give batch_tokens")
	}
	row := sampleRow(sample)
	unit := max(1, row.Cost())
	least := unit * ((probeRow + unit - 1) / unit)
	began := time.Now()
	once := func(tokens int) (float64, error) {
		rows := make([]Input, tokens/unit)
		for i := range rows {
			rows[i] = row
		}
		t := clock()
		err := run(rows)
		return float64(tokens) / max(clock()-t, time.Microsecond).Seconds(), err
	}
	var curve []BudgetPoint
	best := 0.0
	for tokens, without := least, 0; tokens <= max(probeMost, least) &&
		(without < 2 || tokens <= probeLeast); tokens *= 2 {
		if err := between(); err != nil {
			return nil, err
		}
		rate, err := once(tokens)
		if err != nil && len(curve) > 0 { // a device may have no memory for so much: then it is no budget
			break
		}
		if err != nil {
			return nil, err
		}
		curve = append(curve, BudgetPoint{tokens, rate})
		if without++; rate > best*probeNoGain {
			without = 0
		}
		best = max(best, rate)
	}
	for n := 0; n < probeRepeats && (n == 0 || time.Since(began) < probeTime); n++ {
		for i := range curve {
			if err := between(); err != nil {
				return nil, err
			}
			rate, err := once(curve[i].Tokens)
			if err != nil {
				return nil, err
			}
			curve[i].Rate = max(curve[i].Rate, rate)
		}
	}
	return curve, nil
}

// chooseBudget takes the mean of the runners' curves and the smallest size that is nearly as fast as the best.
func chooseBudget(model string, curves [][]BudgetPoint) Budget {
	sizes := math.MaxInt // runners may have stopped at different sizes
	for _, c := range curves {
		sizes = min(sizes, len(c))
	}
	b := Budget{Model: model}
	best := 0.0
	for i := range sizes {
		p := BudgetPoint{Tokens: curves[0][i].Tokens}
		for _, c := range curves {
			p.Rate += c[i].Rate / float64(len(curves))
		}
		b.Curve = append(b.Curve, p)
		best = max(best, p.Rate)
	}
	smallest := func(part float64) int {
		for _, p := range b.Curve {
			if p.Tokens >= budgetMinimum && p.Rate >= part*best {
				return p.Tokens
			}
		}
		return budgetMinimum
	}
	b.Tokens, b.Least = smallest(budgetNearly), smallest(budgetFair)
	return b
}
