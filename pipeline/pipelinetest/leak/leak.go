// Package leak tells whether a process holds more and more as it judges texts: the texts, and the judgement of what was
// sampled.
package leak

import (
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"slices"
	"strings"
	"time"
)

// Sample is what a process holds after so many texts.
type Sample struct {
	Texts      int
	At         time.Duration // since the first text
	Resident   float64       // bytes
	Heap       float64       // bytes, live after the last collection; 0: not known
	Goroutines int
}

// words are what texts are made of.
var words = strings.Fields("the hotel was lovely and quiet but the food took hours awful service friendly staff we " +
	"will come back never again a view over the sea")

// Texts are short texts (4 to 28 words) with long ones (1,500 to 2,500 words) spread evenly among them. No two are
// equal.
func Texts(short, long int) iter.Seq2[int, string] {
	return func(yield func(int, string) bool) {
		rnd := rand.New(rand.NewPCG(1, 7))
		total := short + long
		every := total / long
		var b strings.Builder
		for i := range total {
			n := 3 + rnd.IntN(25)
			if i%every == every/2 && i/every < long {
				n = 1500 + rnd.IntN(1000)
			}
			b.Reset()
			for range n {
				b.WriteString(words[rnd.IntN(len(words))])
				b.WriteByte(' ')
			}
			fmt.Fprint(&b, i)
			if !yield(i, b.String()) {
				return
			}
		}
	}
}

// Verdict is what samples say.
type Verdict struct {
	Texts         int     // between the first sample that counts and the last
	PerThousand   float64 // growth of resident memory, bytes per 1,000 texts: the least-squares slope
	First, Last   float64 // median of resident memory in the first and last fifth, bytes
	Least, Most   int     // goroutines
	Before, After float64 // median of goroutines in the first and last fifth
}

func (v Verdict) String() string {
	return fmt.Sprintf("RSS %.1f MiB at the beginning of what counts, %.1f MiB at the end, slope %+.0f bytes per "+
		"1,000 texts; goroutines %d to %d",
		v.First/(1<<20), v.Last/(1<<20), v.PerThousand, v.Least, v.Most)
}

// fewest is how many samples it takes to judge.
const fewest = 40

// Judge looks at samples in the order in which they were taken. The first quarter does not count: it fills buffers,
// caches of allocators and the like. The error says what is not flat.
func Judge(samples []Sample) (Verdict, error) {
	if len(samples) < fewest {
		return Verdict{}, fmt.Errorf("%d samples, want %d and more", len(samples), fewest)
	}
	settled := samples[len(samples)/4:]
	var x, rss, running []float64
	for _, s := range settled {
		x, rss, running = append(x, float64(s.Texts)), append(rss, s.Resident), append(running, float64(s.Goroutines))
	}
	fifth := len(settled) / 5
	v := Verdict{Texts: int(x[len(x)-1] - x[0]), PerThousand: slope(x, rss) * 1000, First: median(rss[:fifth]),
		Last:  median(rss[len(rss)-fifth:]),
		Least: int(slices.Min(running)), Most: int(slices.Max(running)), Before: median(running[:fifth]),
		After: median(running[len(running)-fifth:])}
	var errs []error
	// Timers of runs come and go, and towards the end a command winds down while its last answers are read.
	if v.After > v.Before+3 || float64(v.Most) > v.Before+10 {
		errs = append(errs, fmt.Errorf("goroutines go from %.0f to %.0f, between %d and %d", v.Before, v.After, v.Least,
			v.Most))
	}
	if grown := v.PerThousand * float64(v.Texts) / 1000; grown > max(0.1*v.First, 24<<20) ||
		v.Last > v.First*1.15+(24<<20) {
		errs = append(errs, fmt.Errorf("resident memory grows by %.1f MiB over %d texts, from %.1f to %.1f MiB",
			grown/(1<<20), v.Texts, v.First/(1<<20), v.Last/(1<<20)))
	}
	return v, errors.Join(errs...)
}

// slope is the least-squares slope of y over x.
func slope(x, y []float64) float64 {
	var mx, my, sxy, sxx float64
	for i := range x {
		mx += x[i] / float64(len(x))
		my += y[i] / float64(len(y))
	}
	for i := range x {
		sxy += (x[i] - mx) * (y[i] - my)
		sxx += (x[i] - mx) * (x[i] - mx)
	}
	return sxy / sxx
}

func median(v []float64) float64 {
	v = slices.Sorted(slices.Values(v))
	return v[len(v)/2]
}
