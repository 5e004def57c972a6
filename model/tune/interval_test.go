package tune

import (
	"math"
	"testing"
)

func TestWilsonAsPublished(t *testing.T) {
	// Newcombe 1998, Statistics in Medicine 17:857, table I, method 3.
	for _, tc := range []struct {
		hits      float64
		n         int
		low, high float64
	}{{81, 263, 0.2553, 0.3662}, {15, 148, 0.0624, 0.1605}, {0, 20, 0, 0.1611}, {1, 29, 0.0061, 0.1718}} {
		got := Wilson(tc.hits, tc.n, 0.95)
		if math.Abs(got.Low-tc.low) > 6e-5 || math.Abs(got.High-tc.high) > 6e-5 {
			t.Errorf("%g of %d: %v, want %g to %g", tc.hits, tc.n, got, tc.low, tc.high)
		}
	}
	if got := Wilson(0, 0, 0.95); got != (Interval{0, 1}) {
		t.Error(got)
	}
}

func TestPairedIsSymmetricAndClosedWithoutDifferences(t *testing.T) {
	for _, tc := range [][2]float64{{0, 0}, {3, 1}, {0, 5}, {12.5, 7.25}, {400, 0}} {
		a, b := Paired(tc[0], tc[1], 400, 0.9), Paired(tc[1], tc[0], 400, 0.9)
		if math.Abs(a.Low+b.High) > 1e-9 || math.Abs(a.High+b.Low) > 1e-9 {
			t.Errorf("%v: %v, the other way round %v", tc, a, b)
		}
		if estimate := (tc[0] - tc[1]) / 400; a.Low > estimate || a.High < estimate {
			t.Errorf("%v: the estimate is outside of %v", tc, a)
		}
	}
	z := 1.6448536269514722 // one-sided 95 %
	if got, want := Paired(0, 0, 1746, 0.9).Low, -z*z/(1746+z*z); math.Abs(got-want) > 1e-9 {
		t.Errorf("%g, want %g", got, want)
	}
}

// The bound must say "at most 0.3 points lost" of a student that loses 0.3 points in at most about 5 % of all sets of
// texts. The probabilities are computed, not simulated.
func TestPairedBoundErrsAsSeldomAsItSays(t *testing.T) {
	const lost, confidence = 0.003, 0.95
	for _, n := range []int{1000, 2000, 5000} {
		for _, gainRate := range []float64{0, 0.001, 0.003, 0.01, 0.03} {
			lossRate := gainRate + lost
			wrong := 0.0
			for gain := range 300 {
				for loss := range 400 {
					p := multinomial(n, gain, loss, gainRate, lossRate)
					if p > 1e-12 && Paired(float64(gain), float64(loss), n, onesided(confidence)).Low >= -lost {
						wrong += p
					}
				}
			}
			if wrong > 0.06 {
				t.Errorf("%d texts, gains %g: wrong in %.2f %%", n, gainRate, 100*wrong)
			}
		}
	}
}

// multinomial is the probability of exactly gain and loss among n texts.
func multinomial(n, gain, loss int, gainRate, lossRate float64) float64 {
	lg := func(k int) float64 { v, _ := math.Lgamma(float64(k + 1)); return v }
	power := func(k int, p float64) float64 {
		if k == 0 {
			return 0
		}
		return float64(k) * math.Log(p)
	}
	return math.Exp(lg(n) - lg(gain) - lg(loss) - lg(n-gain-loss) + power(gain, gainRate) + power(loss, lossRate) +
		power(n-gain-loss, 1-gainRate-lossRate))
}
