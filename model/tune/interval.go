package tune

import "math"

// This file owns the intervals of what was counted.

// Interval is where the true value lies with some confidence.
type Interval struct {
	Low  float64 `json:"low"`
	High float64 `json:"high"`
}

// quantile is the point below which a standard normal value lies with probability p, 0 < p < 1.
func quantile(p float64) float64 { return math.Sqrt2 * math.Erfinv(2*p-1) }

// Wilson is the score interval of a proportion (Wilson 1927): hits of n, which may be expected values and so no whole
// numbers. With no n nothing is known.
func Wilson(hits float64, n int, confidence float64) Interval {
	if n == 0 {
		return Interval{0, 1}
	}
	z, size := quantile((1+confidence)/2), float64(n)
	p, zz := hits/size, z*z/size
	middle := (p + zz/2) / (1 + zz)
	half := z * math.Sqrt(p*(1-p)/size+zz/(4*size)) / (1 + zz)
	return Interval{max(0, middle-half), min(1, middle+half)}
}

// Paired is the score interval of the difference of two accuracies on the same n texts (Tango 1998, Statistics in
// Medicine 17:891): gain texts only the first has right, loss texts only the second. Texts on which they agree carry no
// information but their number. Expected values may be given as well.
func Paired(gain, loss float64, n int, confidence float64) Interval {
	if n == 0 {
		return Interval{-1, 1}
	}
	z := quantile((1 + confidence) / 2)
	size, estimate := float64(n), (gain-loss)/float64(n)
	// score falls from above +z to below -z as the true difference goes from -1 to 1.
	score := func(d float64) float64 {
		b := -gain - loss + (2*size-gain+loss)*d
		c := -loss * d * (1 - d)
		q := (math.Sqrt(max(0, b*b-8*size*c)) - b) / (4 * size) // of a loss, most likely where the difference is d
		variance := size * (2*q + d*(1-d))
		if variance <= 0 {
			return math.Inf(int(math.Copysign(1, estimate-d)))
		}
		return (gain - loss - size*d) / math.Sqrt(variance)
	}
	root := func(low, high, at float64) float64 { // of score == at
		for range 100 {
			middle := (low + high) / 2
			if score(middle) > at {
				low = middle
			} else {
				high = middle
			}
		}
		return (low + high) / 2
	}
	return Interval{root(-1, estimate, z), root(estimate, 1, -z)}
}

// onesided is the confidence of a two-sided interval each of whose ends holds with the given one.
func onesided(confidence float64) float64 { return 2*confidence - 1 }
