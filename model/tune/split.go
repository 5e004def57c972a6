// Package tune chooses the thresholds of a cascade from labelled texts: from which score on a student's verdict is
// final, and below which score a verdict is asked of an LLM endpoint. It runs no model: whoever calls it has done that.
package tune

import (
	"math"
	"math/rand/v2"
	"slices"
)

// This file owns how labelled texts are parted.

// strata are what a split keeps the proportions of: labels, and of entities whether there are any.
func strata(samples []Sample) []string {
	labels := make([]string, len(samples))
	for i := range samples {
		switch t := &samples[i].Text; {
		case t.Entities == nil:
			labels[i] = t.Label
		case len(t.Entities) > 0:
			labels[i] = "entities"
		}
	}
	return labels
}

// Split parts n samples in two at random, each label in the same proportions. share, between 0 and 1, is that of the
// second part, which is held out. The same labels and seed give the same parts. Both are in ascending order.
func Split(labels []string, share float64, seed uint64) (choose, held []int) {
	byLabel := map[string][]int{}
	for i, l := range labels {
		byLabel[l] = append(byLabel[l], i)
	}
	names := make([]string, 0, len(byLabel))
	for l := range byLabel {
		names = append(names, l)
	}
	slices.Sort(names)
	random := rand.New(rand.NewPCG(seed, 0))
	for _, l := range names {
		of := byLabel[l]
		random.Shuffle(len(of), func(i, j int) { of[i], of[j] = of[j], of[i] })
		n := int(math.Round(share * float64(len(of))))
		held, choose = append(held, of[:n]...), append(choose, of[n:]...)
	}
	slices.Sort(held)
	slices.Sort(choose)
	return choose, held
}
