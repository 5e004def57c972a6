// Package size is the arithmetic of a deployment: how many cores, workers and partitions a stream needs. It measures
// nothing.
package size

import (
	"fmt"
	"io"
	"math"
)

// Stream is what is to be planned for.
type Stream struct {
	Rate        float64 // texts a second at the busiest time
	Tokens      float64 // of a text in the mean, special tokens included
	PerCore     float64 // tokens a second of one core in the bare loop
	Efficiency  float64 // share of the bare loop that a worker reaches on the whole path
	Utilization float64 // share of the maximum to plan for
	PerWorker   int     // cores of one worker
}

// Size is the answer.
type Size struct {
	TokensPerS float64 // that the stream brings
	PerCore    float64 // tokens a second of a core at the planned utilization, on the whole path
	Cores      int
	Workers    int
	Partitions int
}

// Of says what a stream needs: cores for the tokens, whole workers for the cores, and twice as many partitions as
// workers, so that the group can be doubled and shares stay even. The error says that no machine is that large.
func Of(s Stream) (Size, error) {
	z := Size{TokensPerS: s.Rate * s.Tokens, PerCore: s.PerCore * s.Efficiency * s.Utilization}
	cores := math.Ceil(z.TokensPerS/z.PerCore - 1e-9)
	if !(z.PerCore > 0) || cores > 1e6 {
		return z, fmt.Errorf("%.3g tokens a second are more than a million cores of %.3g tokens a second could do",
			z.TokensPerS, z.PerCore)
	}
	z.Workers = max(1, int(math.Ceil(cores/float64(s.PerWorker))))
	z.Cores = z.Workers * s.PerWorker
	z.Partitions = 2 * z.Workers
	return z, nil
}

// Sources say where the figures of a plan come from.
type Sources struct {
	PerCore  string  // of Stream.PerCore, in words
	Memory   float64 // bytes of a worker without its records; 0: unknown
	MemoryBy string  // of Memory, in words
	InFlight float64 // bytes of records in flight at most (limits.total.bytes)
}

// Write writes the plan for a person, with every assumption.
func (z Size) Write(w io.Writer, s Stream, from Sources) {
	row := func(name, format string, args ...any) {
		fmt.Fprintf(w, "%-12s %s\n", name, fmt.Sprintf(format, args...))
	}
	row("stream", "%g texts/s of %g tokens: %.0f tokens/s", s.Rate, s.Tokens, z.TokensPerS)
	row("one core", "%.0f tokens/s (%s)", s.PerCore, from.PerCore)
	row("planned", "%.0f tokens/s a core: %.0f %% of that on the whole path, planned for %.0f %% of the maximum",
		z.PerCore, 100*s.Efficiency, 100*s.Utilization)
	row("cores", "%d", z.Cores)
	row("workers", "%d of %d cores", z.Workers, s.PerWorker)
	row("partitions", "%d or more: a worker needs one at least, and twice the workers leaves room to grow",
		z.Partitions)
	if from.Memory > 0 {
		row("memory", "%.0f MiB a worker: %.0f MiB (%s), and up to %.0f MiB of records in flight "+
			"(limits.total.bytes, held twice: record and result)",
			(from.Memory+2*from.InFlight)/(1<<20), from.Memory/(1<<20), from.MemoryBy, 2*from.InFlight/(1<<20))
	}
	missing := "One worker alone has nobody to take over while it restarts."
	if z.Workers > 1 {
		left := z.TokensPerS / (z.PerCore / s.Utilization * float64((z.Workers-1)*s.PerWorker))
		missing = fmt.Sprintf("With one worker missing the load is %.0f %% of the maximum.", 100*left)
	}
	fmt.Fprintf(w, "\nassumed: cores like the one that was measured, not shared with the broker or other work (two "+
		"hyper-threads are about 1.2\ncores, not two); the mean length of the texts, not their number, decides; no "+
		"cache, no duplicates, one model. With several\nmodels in one worker add up the cores of each. %s\n", missing)
}
