package calibrate

// How good probabilities are: expected calibration error, likelihood, accuracy, and the reliability table behind the
// plots.

import (
	"cmp"
	"math"
	"slices"
)

// Bins is the number of bins of an expected calibration error.
const Bins = 15

// Measures of scores on labelled rows.
type Measures struct {
	Rows        int     // probabilities that were measured: one a row, or one a label of a row
	ECE         float64 // expected calibration error: 15 bins of equal width (Guo et al. 2017)
	ECEAdaptive float64 // the same with 15 bins of equal size (Nguyen and O'Connor 2015)
	NLL         float64 // mean negative log-likelihood of what is right, in nats; of independent labels per label
	// share of rows whose top label is right; of independent labels, of labels on the right side of 0.5
	Accuracy float64
}

// Bin is one line of a reliability table.
type Bin struct {
	From, To   float64 // scores
	Count      int
	Confidence float64 // mean score
	Accuracy   float64 // share that is right
}

// leastProbability bounds the loss of what a score says is impossible: float32 has no probability between 0 and 1e-45.
const leastProbability = 1e-12

// Measure compares scores, [rows][labels], with what is right.
func (r *Rows) Measure(scores [][]float32) Measures {
	all, correct, labels := r.collect(scores), 0, 0
	for i, s := range scores {
		if !r.Independent {
			labels++
			if r.Truth[i][argmax(r.Logits[i])] { // no map moves the top label
				correct++
			}
			continue
		}
		for k, p := range s {
			labels++
			if (p >= 0.5) == r.Truth[i][k] {
				correct++
			}
		}
	}
	var loss float64
	for _, l := range r.rowLosses(scores) {
		loss += l
	}
	return Measures{
		Rows: len(all), ECE: expectedError(widthBins(all)), ECEAdaptive: expectedError(sizeBins(all)),
		NLL: loss / float64(labels), Accuracy: float64(correct) / float64(labels),
	}
}

// Reliability is the table with bins of equal width; empty bins are left out.
func (r *Rows) Reliability(scores [][]float32) []Bin { return widthBins(r.collect(scores)) }

// Reliability of probabilities that something is right: of the sentence-level confidence of token-classification, for
// one.
func Reliability(p []float64, right []bool) (bins []Bin, ece float64) {
	all := make([]outcome, len(p))
	for i := range p {
		all[i] = outcome{p[i], right[i]}
	}
	bins = widthBins(all)
	return bins, expectedError(bins)
}

func (r *Rows) collect(scores [][]float32) []outcome {
	var all []outcome
	for i, s := range scores {
		all = append(all, r.outcomes(i, s)...)
	}
	return all
}

// rowLosses are the negative log-likelihoods of rows, of independent labels the sum over labels.
func (r *Rows) rowLosses(scores [][]float32) []float64 {
	losses := make([]float64, len(scores))
	for i, s := range scores {
		for k, p := range s {
			switch {
			case r.Truth[i][k]:
				losses[i] -= math.Log(max(float64(p), leastProbability))
			case r.Independent:
				losses[i] -= math.Log(max(1-float64(p), leastProbability))
			}
		}
	}
	return losses
}

// losses are the mean losses a group, for comparing methods text by text.
func (r *Rows) losses(scores [][]float32) []float64 {
	sum, count := make([]float64, r.Groups), make([]float64, r.Groups)
	for i, l := range r.rowLosses(scores) {
		sum[r.Group[i]] += l
		count[r.Group[i]]++
	}
	for g := range sum {
		if count[g] > 0 {
			sum[g] /= count[g]
		}
	}
	return sum
}

// widthBins puts a score on the border of two bins into the lower one, as is usual: bins are (from, to].
func widthBins(all []outcome) []Bin {
	bins := make([]Bin, Bins)
	for i := range bins {
		bins[i].From, bins[i].To = float64(i)/Bins, float64(i+1)/Bins
	}
	for _, o := range all {
		bins[min(Bins-1, max(0, int(math.Ceil(o.p*Bins))-1))].add(o)
	}
	return finished(bins)
}

// sizeBins have as equally many outcomes as their number allows.
func sizeBins(all []outcome) []Bin {
	all = slices.Clone(all)
	slices.SortStableFunc(all, func(a, b outcome) int { return cmp.Compare(a.p, b.p) })
	bins := make([]Bin, Bins)
	for i := range bins {
		part := all[i*len(all)/Bins : (i+1)*len(all)/Bins]
		for _, o := range part {
			bins[i].add(o)
		}
		if len(part) > 0 {
			bins[i].From, bins[i].To = part[0].p, part[len(part)-1].p
		}
	}
	return finished(bins)
}

// add counts sums; finished divides them.
func (b *Bin) add(o outcome) {
	b.Count++
	b.Confidence += o.p
	if o.right {
		b.Accuracy++
	}
}

func finished(bins []Bin) []Bin {
	for i := range bins {
		if n := float64(bins[i].Count); n > 0 {
			bins[i].Confidence /= n
			bins[i].Accuracy /= n
		}
	}
	return slices.DeleteFunc(bins, func(b Bin) bool { return b.Count == 0 })
}

// expectedError is the mean distance of score and share, weighted by how many there are.
func expectedError(bins []Bin) float64 {
	var sum, count float64
	for _, b := range bins {
		sum += float64(b.Count) * math.Abs(b.Accuracy-b.Confidence)
		count += float64(b.Count)
	}
	if count == 0 {
		return 0
	}
	return sum / count
}
