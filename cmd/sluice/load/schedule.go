package load

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"time"
)

// Arrivals is how records are spread over time.
type Arrivals string

const (
	Poisson  Arrivals = "poisson"  // independent senders: exponential gaps
	Constant Arrivals = "constant" // equal gaps
	Bursts   Arrivals = "bursts"   // half of the records at once at the beginning of every second, half Poisson
)

// ArrivalKinds are all of them, for help texts.
var ArrivalKinds = []Arrivals{Poisson, Constant, Bursts}

// Schedule is when records are due, from the beginning of a step, in ascending order. It is fixed before the first
// record is sent and knows nothing of the answers: that is what makes the loop open.
func Schedule(kind Arrivals, rate float64, length time.Duration, seed uint64) ([]time.Duration, error) {
	if rate <= 0 || length <= 0 {
		return nil, fmt.Errorf("a schedule needs a rate and a length above zero, not %g/s for %v", rate, length)
	}
	random := rand.New(rand.NewPCG(seed, 0x5c4ed))
	due := make([]time.Duration, 0, int(rate*length.Seconds()*1.05)+16)
	poisson := func(rate float64) {
		for t := random.ExpFloat64() / rate; t < length.Seconds(); t += random.ExpFloat64() / rate {
			due = append(due, time.Duration(t*float64(time.Second)))
		}
	}
	switch kind {
	case Poisson:
		poisson(rate)
	case Constant:
		for i := range int(rate * length.Seconds()) {
			due = append(due, time.Duration(float64(i)/rate*float64(time.Second)))
		}
	case Bursts:
		poisson(rate / 2)
		owed := 0.0
		for at := time.Duration(0); at < length; at += time.Second {
			owed += rate / 2 * min(1, (length-at).Seconds())
			for ; owed >= 1; owed-- {
				due = append(due, at)
			}
		}
		slices.Sort(due)
	default:
		return nil, fmt.Errorf("arrivals %q are unknown; they are %s", kind, list(ArrivalKinds))
	}
	return due, nil
}

// pace calls send(i) for every record when it is due, or at once where it is late already: lateness is never made good
// by moving the schedule. wait sleeps until a moment and returns false when the loop must end.
func pace(begin time.Time, due []time.Duration, now func() time.Time, wait func(until time.Time) bool,
	send func(i int, intended time.Time) error) error {
	for i, d := range due {
		intended := begin.Add(d)
		if now().Before(intended) && !wait(intended) {
			return nil
		}
		if err := send(i, intended); err != nil {
			return err
		}
	}
	return nil
}

func list[T ~string](words []T) string {
	out := ""
	for i, w := range words {
		if i > 0 {
			out += ", "
		}
		out += string(w)
	}
	return out
}
