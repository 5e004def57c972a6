package llm

import "time"

// This file owns the concurrency limit of one endpoint: plain state, no clock, no lock (Pool.mu guards it).

// limiter adapts how many calls an endpoint gets at once: additive increase, multiplicative decrease, as TCP's
// congestion control (Chiu and Jain, 1989; RFC 5681). The limit grows by one per limit's worth of good answers while it
// is in use, is halved when the endpoint says that it has too much (429, 503) or does not answer in time, and shrinks
// by a tenth while answers take much longer than they do without a queue. Where even one call at a time takes that
// long, the endpoint has become slower, and that is the new measure. The limit is cut at most once per round trip: a
// call that began before the last cut says nothing about the new limit.
type limiter struct {
	limit    float64
	max      float64
	inFlight int

	unloaded time.Duration // how long an answer takes without a queue of ours, on average
	weighed  int           // answers that unloaded is the average of
	recent   time.Duration // moving average of the last few
	cut      time.Time     // when the limit was last lowered
}

const (
	limitAtStart  = 4
	slowRatio     = 3                      // recent : unloaded from which there is a queue
	slowByAtLeast = 100 * time.Millisecond // and not just noise between two fast answers
	settled       = 8                      // answers after which unloaded means something
	weighedMost   = 1024                   // answers that it looks back on
)

type signal int

const (
	signalNone     signal = iota // says nothing about load: refused, cancelled, not connected
	signalAnswered               // a whole answer, whatever it said
	signalOverload               // 429, 503, no answer in time
)

func newLimiter(maximum int) limiter {
	return limiter{limit: min(limitAtStart, float64(maximum)), max: float64(maximum)}
}

// slots is the limit in whole calls, at least 1.
func (l *limiter) slots() int { return max(1, int(l.limit)) }

func (l *limiter) free() bool { return l.inFlight < l.slots() }

// release ends a call that began at started.
func (l *limiter) release(s signal, started, now time.Time) {
	used := 2*l.inFlight > l.slots()
	l.inFlight--
	switch s {
	case signalOverload:
		l.lower(0.5, started, now)
	case signalAnswered:
		took := now.Sub(started)
		if l.weighed == 0 {
			l.unloaded, l.recent = took, took
		}
		l.recent += (took - l.recent) / 16
		// How it is without a queue is learned while few calls are under way, and from what is quicker. Answers to many
		// calls say nothing about it: their queue would become what is normal, a little at a time.
		few := l.slots() <= limitAtStart && !started.Before(l.cut)
		if few || l.weighed < settled || l.recent < l.unloaded {
			l.weighed = min(l.weighed+1, weighedMost)
			l.unloaded += (took - l.unloaded) / time.Duration(l.weighed)
		}
		slow := l.recent > slowRatio*l.unloaded && l.recent-l.unloaded > slowByAtLeast
		switch {
		case slow && l.limit <= 1:
			// one call at a time has no queue of ours: this is how long it takes now
			l.unloaded, l.weighed = l.recent, settled
		case slow:
			l.lower(0.9, started, now)
		case used && l.weighed >= settled:
			l.limit = min(l.max, l.limit+1/l.limit)
		}
	}
}

func (l *limiter) lower(factor float64, started, now time.Time) {
	if started.Before(l.cut) {
		return
	}
	l.limit = max(1, l.limit*factor)
	l.cut = now
}
