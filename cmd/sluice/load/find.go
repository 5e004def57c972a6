package load

import (
	"fmt"
	"math"
)

// Trial is one rate that was tried while the maximum was searched.
type Trial struct {
	Rate      float64 `json:"rate"`           // records a second, offered
	Achieved  float64 `json:"achieved"`       // results a second while it was offered
	Growth    float64 `json:"growth_s"`       // of the queue, in seconds of load
	Sustained bool    `json:"sustained"`      // the queue did not grow
	P99       float64 `json:"p99_ms"`         // from the intended send time
	Lost      int     `json:"lost,omitempty"` // must be 0
	Seconds   float64 `json:"measured_s"`     // without warm-up
}

// FindOptions bound the search.
type FindOptions struct {
	Tolerance float64 // ends when the lowest rate that failed is within this of the highest that held; 0: 0.04
	Trials    int     // most trials; 0: 14
}

// Find steps the offered rate until the queue grows, then closes in on the highest rate that is sustained. try offers
// one rate for a while. An overloaded system shows its capacity by what it achieves, which is where the search goes
// next. A rate that failed is tried again, once, only where the system has done more than that before, or has now done
// less than at a rate that it sustained: then something else was at work. So noise makes the answer lower rather than
// higher.
func Find(start float64, o FindOptions, try func(rate float64) (Trial, error)) (maximum float64, trials []Trial,
	err error) {
	if start <= 0 || math.IsNaN(start) || math.IsInf(start, 0) {
		return 0, nil, fmt.Errorf("the search cannot start from %g records a second", start)
	}
	if o.Tolerance <= 0 {
		o.Tolerance = 0.04
	}
	if o.Trials <= 0 {
		o.Trials = 14
	}
	low, high, rate, capacity, again := 0.0, math.Inf(1), start, 0.0, false
	for len(trials) < o.Trials {
		t, err := try(rate)
		if err != nil {
			return low, trials, err
		}
		t.Rate = rate
		trials = append(trials, t)
		switch {
		case t.Sustained:
			low = math.Max(low, rate)
		case !again && (rate < 0.99*capacity || t.Achieved < 0.9*low):
			again = true
			continue
		default:
			high = rate
			capacity = math.Max(capacity, t.Achieved)
		}
		again = false
		if low > 0 && high/low <= 1+o.Tolerance {
			return low, trials, nil
		}
		switch {
		case math.IsInf(high, 1):
			rate = low * 1.25
		case low == 0: // failed from the start: what it achieved is a hint, if it is one
			rate = high * 0.7
			if t.Achieved > high*0.2 && t.Achieved < high {
				rate = math.Min(t.Achieved*0.95, high*0.9)
			}
		default:
			rate = math.Sqrt(low * high)
			// Just below the capacity that the overload showed.
			if hint := t.Achieved * 0.98; !t.Sustained && hint > low*(1+o.Tolerance/2) &&
				hint < high/(1+o.Tolerance/2) {
				rate = hint
			}
		}
	}
	if low == 0 {
		return 0, trials, fmt.Errorf("no rate was sustained, down to %.3g records a second; is the machine busy with "+
			"other work?", high)
	}
	return low, trials, nil
}
