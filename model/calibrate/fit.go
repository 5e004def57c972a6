package calibrate

// Fits one temperature by maximum likelihood, or a curve by isotonic regression (pool adjacent violators), and decides
// between them by folds that neither was fitted on.

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"

	"sluice/model"
)

// Options of Fit.
type Options struct {
	Method model.CalibrationMethod // "" is the better one on held-out folds
	Folds  int
	Seed   uint64
}

// Result is what Fit found.
type Result struct {
	Calibration *model.Calibration // nil: on held-out folds nothing is better than what the model says by itself
	Before      Measures           // as the model is
	Held        []Candidate        // every method that was tried, on held-out folds
	Scores      [][]float32        // held-out scores of all rows under the chosen method, or as the model is
	Why         string             // how the choice was made
}

// Candidate is one method on the folds that it was not fitted on.
type Candidate struct {
	Method   model.CalibrationMethod
	Measures Measures
	losses   []float64 // NLL a group
	scores   [][]float32
}

// Fit fits a calibration to rows. Temperature is refused to no model; isotonic is for text classification only, which
// the caller knows.
func Fit(r *Rows, methods []model.CalibrationMethod, o Options) (*Result, error) {
	if err := r.check(o.Folds); err != nil {
		return nil, err
	}
	if o.Method != "" {
		if !slices.Contains(methods, o.Method) {
			return nil, fmt.Errorf("method %q is not for this model", o.Method)
		}
		methods = []model.CalibrationMethod{o.Method}
	}
	fold := r.folds(o.Folds, o.Seed)
	raw := r.Scores(nil)
	res := &Result{Before: r.Measure(raw), Scores: raw}
	before := r.losses(raw)
	for _, m := range methods {
		c := Candidate{Method: m, scores: make([][]float32, r.Len())}
		for k := range o.Folds {
			held, rest := r.part(fold, k)
			fitted, err := fit(rest, m)
			if err != nil {
				return nil, fmt.Errorf("%s, without fold %d of %d: %w", m, k+1, o.Folds, err)
			}
			scores := held.Scores(fitted)
			for i, at := 0, 0; i < r.Len(); i++ {
				if fold[r.Group[i]] == k {
					c.scores[i] = scores[at]
					at++
				}
			}
		}
		c.Measures, c.losses = r.Measure(c.scores), r.losses(c.scores)
		res.Held = append(res.Held, c)
	}
	best, why := choose(before, res.Held, o.Method != "")
	res.Why = why
	if best == nil {
		return res, nil
	}
	whole, err := fit(r, best.Method)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", best.Method, err)
	}
	whole.FittedOn.Rows, whole.FittedOn.Folds, whole.FittedOn.Seed = r.Groups, o.Folds, o.Seed
	whole.Held = model.CalibrationMeasured{
		ECEBefore: digits(res.Before.ECE), ECEAfter: digits(best.Measures.ECE), NLLBefore: digits(res.Before.NLL),
		NLLAfter: digits(best.Measures.NLL),
	}
	res.Calibration, res.Scores = whole, best.scores
	return res, nil
}

// choose takes a method of more freedom only where its held-out NLL is lower by more than one standard error of the
// difference between texts: a curve of many steps is seldom better by chance alone.
func choose(before []float64, held []Candidate, asked bool) (*Candidate, string) {
	if asked {
		return &held[0], "as asked for"
	}
	var best *Candidate
	losses, name, why := before, "the model as it is", ""
	for i := range held {
		c := &held[i]
		gain, se := difference(losses, c.losses)
		verdict := "not taken"
		if gain > se {
			best, losses, verdict = c, c.losses, "taken"
		}
		if why != "" {
			why += "; "
		}
		why += fmt.Sprintf("%s against %s: held-out NLL lower by %.5f +- %.5f, %s", c.Method, name, gain, se, verdict)
		if best != nil {
			name = string(best.Method)
		}
	}
	return best, why
}

// difference is the mean of a - b with its standard error.
func difference(a, b []float64) (mean, se float64) {
	n := float64(len(a))
	for i := range a {
		mean += (a[i] - b[i]) / n
	}
	var squares float64
	for i := range a {
		d := a[i] - b[i] - mean
		squares += d * d
	}
	return mean, math.Sqrt(squares / (n - 1) / n)
}

func fit(r *Rows, m model.CalibrationMethod) (*model.Calibration, error) {
	c := &model.Calibration{Method: m}
	var err error
	switch m {
	case model.Temperature:
		c.Temperature, err = r.temperature()
	case model.IsotonicRegression:
		c.Isotonic = r.isotonic()
	default:
		err = errors.New("is unknown")
	}
	return c, err
}

// temperature minimises the NLL. It is convex in 1/temperature, so that the root of its slope is found by halving.
func (r *Rows) temperature() (float64, error) {
	low, high := -math.Log(model.HighestTemperature), -math.Log(model.LowestTemperature) // of ln(1/temperature)
	if r.slope(math.Exp(high)) < 0 {
		return 0, errors.New("the model is right about all of these texts: no temperature is low enough: give more " +
			"texts, and harder ones")
	}
	if r.slope(math.Exp(low)) > 0 {
		return 0, errors.New("its logits say nothing about these labels: no temperature is high enough: check that " +
			"the file is for this model")
	}
	for range 60 {
		middle := (low + high) / 2
		if r.slope(math.Exp(middle)) > 0 {
			high = middle
		} else {
			low = middle
		}
	}
	return digits(math.Exp(-(low + high) / 2)), nil
}

// slope is the derivative of the NLL by b = 1/temperature: the expected logit less that of what is right.
func (r *Rows) slope(b float64) float64 {
	var slope float64
	for i, l := range r.Logits {
		if r.Independent {
			for k, x := range l {
				z := float64(x)
				slope += z / (1 + math.Exp(-b*z))
				if r.Truth[i][k] {
					slope -= z
				}
			}
			continue
		}
		top := float64(slices.Max(l))
		var sum, weighted float64
		for k, x := range l {
			z := float64(x) - top
			w := math.Exp(b * z)
			sum += w
			weighted += w * z
			if r.Truth[i][k] {
				slope -= z
			}
		}
		slope += weighted / sum
	}
	return slope
}

// isotonic is the least-squares fit of a curve that never falls, by pooling adjacent violators. Each pool becomes one
// point at its mean score, and the curve is straight between points (centered isotonic regression, Oron and Flournoy
// 2017): it rises where the usual stairs are level, so that most texts keep their order and a threshold can part them.
// No point is 0 or 1: n texts cannot prove that (n+1 of n+2 is Laplace's rule).
func (r *Rows) isotonic() *model.Isotonic {
	var all []outcome
	for i, s := range r.Scores(nil) {
		all = append(all, r.outcomes(i, s)...)
	}
	slices.SortFunc(all, func(a, b outcome) int { return cmp.Compare(a.p, b.p) })
	type pool struct{ weight, scores, right float64 }
	var pools []pool
	for i := 0; i < len(all); {
		var next pool // of all equal scores
		for p := all[i].p; i < len(all) && all[i].p == p; i++ {
			next.weight++
			next.scores += p
			if all[i].right {
				next.right++
			}
		}
		for n := len(pools); n > 0 && pools[n-1].right*next.weight >= next.right*pools[n-1].weight; n = len(pools) {
			last := pools[n-1]
			pools = pools[:n-1]
			next = pool{last.weight + next.weight, last.scores + next.scores, last.right + next.right}
		}
		pools = append(pools, next)
	}
	least := 1 / float64(len(all)+2)
	c := &model.Isotonic{}
	for _, p := range pools {
		x, y := digits(p.scores/p.weight), digits(min(1-least, max(least, p.right/p.weight)))
		if n := len(c.X); n > 0 && c.X[n-1] >= x { // rounding made two points one
			c.Y[n-1] = y
			continue
		}
		c.X, c.Y = append(c.X, x), append(c.Y, y)
	}
	return c
}

// digits rounds to six significant digits, as scores are printed, so that a manifest says just what was measured.
func digits(x float64) float64 {
	y, err := strconv.ParseFloat(strconv.FormatFloat(x, 'g', 6, 64), 64)
	if err != nil { // what was formatted can be read
		panic(err)
	}
	return y
}
