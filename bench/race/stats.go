package main

import (
	"fmt"
	"math"
	"slices"
	"time"
)

// This file is the arithmetic of the race. Nothing in it touches the machine.

// spread is a median with its range.
type spread struct {
	Median float64 `json:"median"`
	Low    float64 `json:"low"`
	High   float64 `json:"high"`
	Rounds int     `json:"rounds"`
}

// spreadOf is the zero spread for no values.
func spreadOf(values []float64) spread {
	if len(values) == 0 {
		return spread{}
	}
	v := slices.Sorted(slices.Values(values))
	middle := v[len(v)/2]
	if len(v)%2 == 0 {
		middle = (v[len(v)/2-1] + v[len(v)/2]) / 2
	}
	return spread{Median: middle, Low: v[0], High: v[len(v)-1], Rounds: len(v)}
}

func (s spread) text(format string) string {
	switch {
	case s.Rounds == 0:
		return "-"
	case s.Rounds == 1:
		return fmt.Sprintf(format, s.Median)
	}
	return fmt.Sprintf(format+" ("+format+"–"+format+")", s.Median, s.Low, s.High)
}

// steady finds the stretch of a drain that counts. arrivals are the times of the results, in order. Systems write
// results in bursts (a window, a transaction), so the stretch begins and ends right behind a burst: at the first end of
// a burst at or behind the share `from` of all results, and at the last one at or before the share `to`. The start-up
// and the tail, when some cores have nothing left, do not count. It returns the indexes of those two results; equal
// ones where there is no such stretch.
func steady(arrivals []time.Duration, from, to float64) (first, last int) {
	const gap = 2 * time.Millisecond // records of one fetch are seen closer together than this
	first, last = -1, -1
	for i, at := range arrivals {
		if i+1 < len(arrivals) && arrivals[i+1]-at < gap {
			continue
		}
		n := float64(i + 1)
		if first < 0 && n >= from*float64(len(arrivals)) {
			first = i
		}
		if n <= to*float64(len(arrivals)) {
			last = i
		}
	}
	if first < 0 || last <= first {
		return 0, 0
	}
	return first, last
}

// agreement is the share of equal labels; NaN without any.
func agreement(got, reference []string) float64 {
	if len(got) == 0 {
		return math.NaN()
	}
	equal := 0
	for i, label := range got {
		if label == reference[i%len(reference)] {
			equal++
		}
	}
	return float64(equal) / float64(len(got))
}

// rotated is the order of n systems in a round: each round begins with the next one, every second round runs backwards,
// so that nobody always follows the same neighbour.
func rotated(n, round int) []int {
	order := make([]int, n)
	for i := range order {
		order[i] = (i + round) % n
	}
	if round%2 == 1 {
		slices.Reverse(order)
	}
	return order
}

// ratios are a's rates by b's of the same round; rounds that either lacks are left out.
func ratios(a, b map[int]float64) []float64 {
	var out []float64
	for _, round := range slices.Sorted(keys(a)) {
		if other, ok := b[round]; ok && other > 0 {
			out = append(out, a[round]/other)
		}
	}
	return out
}

func keys(m map[int]float64) func(func(int) bool) {
	return func(yield func(int) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}

// leastAgreement is what a system needs to be ranked.
const leastAgreement = 0.99

// rank orders the systems by their median rate, fastest first; the ranked ones before those that are only shown.
func rank(systems []*summary) {
	slices.SortStableFunc(systems, func(a, b *summary) int {
		if a.Ranked != b.Ranked {
			if a.Ranked {
				return -1
			}
			return 1
		}
		switch {
		case a.Messages.Median > b.Messages.Median:
			return -1
		case a.Messages.Median < b.Messages.Median:
			return 1
		}
		return 0
	})
}
