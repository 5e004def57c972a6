package load

import (
	"math"
	"slices"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// This file owns what is known about the records of one step: plain state, without clocks and locks. Session owns it.

// Latencies are held from 1 us to an hour with three digits.
const (
	shortest = 1
	longest  = int64(time.Hour / time.Microsecond)
	digits   = 3
)

// States of a record, as bits.
const (
	sent uint8 = 1 << iota
	answered
	again // answered more than once
	spoilt
)

// tally counts what becomes of the records of one step.
type tally struct {
	step   int
	begin  time.Time
	length time.Duration // of the schedule
	warm   time.Duration // of it, that does not count for latency
	due    []time.Duration
	slot   time.Duration // width of a slot of the timeline

	state   []uint8
	sent    int
	first   time.Time // result
	last    time.Time
	latency *hdrhistogram.Histogram // us
	late    *hdrhistogram.Histogram // us: how much later than intended records were sent

	answered, doubled, dead, deadWrong int
	inWindow                           int     // first answers between warm and length
	seenIn                             []int32 // first answers by slot
	resident                           []sample
}

type sample struct {
	at    time.Duration
	bytes float64
}

func newTally(step int, begin time.Time, due []time.Duration, length, warm time.Duration) *tally {
	t := &tally{step: step, begin: begin, due: due, length: length, warm: warm, state: make([]uint8, len(due)),
		slot:    max(100*time.Millisecond, (length / 80).Truncate(10*time.Millisecond)),
		latency: hdrhistogram.New(shortest, longest, digits), late: hdrhistogram.New(shortest, longest, digits)}
	return t
}

// note records a value; longer ones than an hour count as an hour.
func note(h *hdrhistogram.Histogram, d time.Duration) {
	_ = h.RecordValue(min(longest, max(shortest, d.Microseconds()))) // cannot fail: it is within the range
}

// sending notes that record i is handed to the client now.
func (t *tally) sending(i int, poison bool, now time.Time) {
	t.state[i] |= sent
	if poison {
		t.state[i] |= spoilt
	}
	t.sent++
	if t.due[i] >= t.warm {
		note(t.late, now.Sub(t.begin.Add(t.due[i])))
	}
}

// seen notes an answer to record i that was due at intended, as a reader saw it at now.
func (t *tally) seen(i int, intended, now time.Time, dead bool) {
	if i >= len(t.state) {
		return // a mark that this run has not written
	}
	t.last = now
	if t.first.IsZero() {
		t.first = now
	}
	if t.state[i]&answered != 0 {
		if t.state[i]&again == 0 {
			t.doubled++
		}
		t.state[i] |= again
		return
	}
	t.state[i] |= answered
	t.answered++
	if dead {
		t.dead++
	}
	if dead != (t.state[i]&spoilt != 0) {
		t.deadWrong++
	}
	if intended.Sub(t.begin) >= t.warm-time.Microsecond { // marks hold microseconds
		note(t.latency, now.Sub(intended))
	}
	at := now.Sub(t.begin)
	if at >= t.warm && at < t.length {
		t.inWindow++
	}
	slot := max(0, int(at/t.slot))
	for len(t.seenIn) <= slot {
		t.seenIn = append(t.seenIn, 0)
	}
	t.seenIn[slot]++
}

// open is how many sent records have no answer.
func (t *tally) open() int { return t.sent - t.answered }

// Point is the state at the end of one slot of time.
type Point struct {
	At      float64 `json:"at_seconds"`
	Due     int     `json:"due"`              // records that were due by then
	Seen    int     `json:"seen"`             // of them, with an answer
	Rate    float64 `json:"results_per_s"`    // in this slot
	RSS     float64 `json:"rss_bytes"`        // of the system under test; 0: not measured
	Backlog int     `json:"due_and_not_seen"` // Due - Seen
}

// timeline is what was due and what was seen, slot by slot, until all was seen.
func (t *tally) timeline() []Point {
	slots := max(int((t.length+t.slot-1)/t.slot), len(t.seenIn))
	points := make([]Point, 0, slots)
	due, seen, rss := 0, 0, 0
	resident := 0.0
	for s := range slots {
		end := time.Duration(s+1) * t.slot
		for due < len(t.due) && t.due[due] < end {
			due++
		}
		n := 0
		if s < len(t.seenIn) {
			n = int(t.seenIn[s])
		}
		seen += n
		for rss < len(t.resident) && t.resident[rss].at < end {
			resident = t.resident[rss].bytes
			rss++
		}
		points = append(points, Point{At: end.Seconds(), Due: due, Seen: seen, Rate: float64(n) / t.slot.Seconds(),
			RSS: resident, Backlog: due - seen})
	}
	return points
}

// Quantiles are latencies in milliseconds.
type Quantiles struct {
	Count int64   `json:"count"`
	Mean  float64 `json:"mean_ms"`
	P50   float64 `json:"p50_ms"`
	P90   float64 `json:"p90_ms"`
	P99   float64 `json:"p99_ms"`
	P999  float64 `json:"p99_9_ms"`
	Max   float64 `json:"max_ms"`
	Curve []Curve `json:"curve,omitempty"`
}

// Curve is one point of the distribution.
type Curve struct {
	Percentile float64 `json:"percentile"`
	Value      float64 `json:"ms"`
}

var curve = []float64{0, 10, 20, 30, 40, 50, 60, 70, 75, 80, 85, 90, 92.5, 95, 97, 98, 99, 99.25, 99.5, 99.75, 99.9,
	99.95, 99.99, 99.999}

func quantiles(h *hdrhistogram.Histogram, withCurve bool) Quantiles {
	ms := func(us int64) float64 { return float64(us) / 1000 }
	q := Quantiles{Count: h.TotalCount(), Mean: h.Mean() / 1000, P50: ms(h.ValueAtQuantile(50)),
		P90: ms(h.ValueAtQuantile(90)),
		P99: ms(h.ValueAtQuantile(99)), P999: ms(h.ValueAtQuantile(99.9)), Max: ms(h.Max())}
	if q.Count == 0 {
		return Quantiles{}
	}
	if withCurve {
		for _, p := range curve {
			if float64(q.Count)*(1-p/100) < 1 && p > 90 {
				break // less than one value is beyond: the maximum says it
			}
			q.Curve = append(q.Curve, Curve{p, ms(h.ValueAtQuantile(p))})
		}
	}
	return q
}

// Growth is how much longer the queue became between the first and the last quarter of what was measured, in seconds of
// load: the records that were due and not seen, divided by the rate.
func growth(points []Point, from, to, rate float64) float64 {
	var in []float64
	for _, p := range points {
		if p.At > from && p.At <= to {
			in = append(in, float64(p.Backlog))
		}
	}
	if len(in) < 4 {
		return math.NaN()
	}
	quarter := len(in) / 4
	mean := func(v []float64) float64 {
		sum := 0.0
		for _, x := range v {
			sum += x
		}
		return sum / float64(len(v))
	}
	return (mean(in[len(in)-quarter:]) - mean(in[:quarter])) / rate
}

// A queue that grows by less than this share of the time measured, or by less than this in all, is taken as stable:
// below that, it is the coming and going of a busy queue.
const (
	stableShare  = 0.02
	stableLeast  = 0.15 // s
	stableAtMost = 1.0  // s of load waiting at the end, however slowly it came to that
)

// sustained says whether the queue stayed as long as it was. from and to are seconds from the beginning of the step.
func sustained(points []Point, from, to, rate float64) (grown float64, ok bool) {
	grown = growth(points, from, to, rate)
	if math.IsNaN(grown) {
		return 0, false
	}
	i := slices.IndexFunc(points, func(p Point) bool { return p.At >= to })
	if i < 0 {
		i = len(points) - 1
	}
	waiting := float64(points[i].Backlog) / rate
	return grown, grown <= max(stableLeast, stableShare*(to-from)) && waiting <= stableAtMost
}
