// Package tap holds what looks at durable outcomes (pipeline.Tap): none of it can change or hold up what becomes of a
// record.
package tap

import (
	"math"
	"sync"
	"time"

	"sluice/pipeline"
)

// This file owns how many records a second become what, for /status. /metrics has the same as counters; here they are
// figures, for a person.

const (
	short = 60  // seconds of the short window
	long  = 300 // of the long one

	// mostNames bounds the memory: each name that is counted takes about 1.2 kB. What is beyond is counted as Other.
	mostNames = 64
)

// Other is the name of everything beyond the first 64 dispositions, or ways to a verdict.
const Other = "other"

// PerSecond is how often something happened, on average over the last minute and the last five. In the first minutes of
// a worker it is the average since its start. The second that is not over yet does not count. Rounded to 0.01.
type PerSecond struct {
	OneMinute   float64 `json:"1m"`
	FiveMinutes float64 `json:"5m"`
}

// RatesPage is what /status shows of a stage's rates: events a second.
type RatesPage struct {
	Records PerSecond `json:"records_per_second"` // all whose outcome became durable
	// Outcomes are records by what became of them: result, dead_letter, ...
	Outcomes map[pipeline.Disposition]PerSecond `json:"outcomes_per_second"`
	// Verdicts are verdicts by their member of the output field and by how they came to be: model, student, llm, ...
	Verdicts map[string]map[pipeline.By]PerSecond `json:"verdicts_per_second,omitempty"`
}

// Rates is a pipeline.Tap that counts outcomes and verdicts over the last minutes. Safe for concurrent use.
type Rates struct {
	now   func() time.Time
	began time.Time

	mu       sync.Mutex
	records  window
	outcomes map[pipeline.Disposition]*window
	verdicts map[way]*window
}

// way is how a verdict came to be.
type way struct {
	name string
	by   pipeline.By
}

var _ pipeline.Tap = (*Rates)(nil)

// NewRates begins to count; now is the clock: time.Now.
func NewRates(now func() time.Time) *Rates {
	return &Rates{now: now, began: now(), outcomes: map[pipeline.Disposition]*window{}, verdicts: map[way]*window{}}
}

// second is the current one: how many are over.
func (r *Rates) second() int64 { return int64(r.now().Sub(r.began) / time.Second) }

// Durable implements pipeline.Tap.
func (r *Rates) Durable(_ *pipeline.Record, o *pipeline.Outcome) {
	r.mu.Lock()
	defer r.mu.Unlock()
	at := r.second()
	r.records.count(at)
	of(r.outcomes, o.Disposition, Other).count(at)
	for i := range o.Facts {
		f := &o.Facts[i]
		of(r.verdicts, way{f.Name, f.By}, way{Other, Other}).count(at)
	}
}

// of is what counts a name.
func of[K comparable](all map[K]*window, name, other K) *window {
	w := all[name]
	if w == nil && len(all) >= mostNames {
		name = other
		w = all[name]
	}
	if w == nil {
		w = new(window)
		all[name] = w
	}
	return w
}

// Page is the rates now. Names that did not occur in the last five minutes are 0.
func (r *Rates) Page() RatesPage {
	r.mu.Lock()
	defer r.mu.Unlock()
	at := r.second()
	p := RatesPage{Records: r.records.rates(at), Outcomes: map[pipeline.Disposition]PerSecond{}}
	for d, w := range r.outcomes {
		p.Outcomes[d] = w.rates(at)
	}
	for k, w := range r.verdicts {
		if p.Verdicts == nil {
			p.Verdicts = map[string]map[pipeline.By]PerSecond{}
		}
		if p.Verdicts[k.name] == nil {
			p.Verdicts[k.name] = map[pipeline.By]PerSecond{}
		}
		p.Verdicts[k.name][k.by] = w.rates(at)
	}
	return p
}

// window counts events of the last seconds: those of second s in counts[s % len(counts)].
type window struct {
	counts [long + 1]uint32 // the current second, too
	last   int64            // the one counted last
}

// turn forgets the seconds that are too old at a second. A clock that goes back counts in the second that was last.
func (w *window) turn(at int64) int64 {
	if at <= w.last {
		return w.last
	}
	for s := max(w.last+1, at-long); s <= at; s++ {
		*w.of(s) = 0
	}
	w.last = at
	return at
}

func (w *window) of(second int64) *uint32 { return &w.counts[second%int64(len(w.counts))] }

func (w *window) count(at int64) { *w.of(w.turn(at))++ }

// rates are of the seconds before at.
func (w *window) rates(at int64) PerSecond {
	at = w.turn(at)
	mean := func(seconds int64) float64 {
		seconds = min(seconds, at)
		if seconds == 0 {
			return 0
		}
		sum := 0
		for s := at - seconds; s < at; s++ {
			sum += int(*w.of(s))
		}
		return math.Round(100*float64(sum)/float64(seconds)) / 100
	}
	return PerSecond{mean(short), mean(long)}
}
