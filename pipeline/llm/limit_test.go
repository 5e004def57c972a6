package llm

import (
	"testing"
	"time"
)

// round lets as many calls as the limit allows begin at once and end after took, all with the same signal.
func round(l *limiter, at time.Time, took time.Duration, s signal) time.Time {
	n := 0
	for l.free() {
		l.inFlight++
		n++
	}
	for range n {
		l.release(s, at, at.Add(took))
	}
	return at.Add(took)
}

func TestLimitFollowsLatency(t *testing.T) {
	l, at := newLimiter(20), time.Unix(0, 0)
	for range 40 {
		at = round(&l, at, 200*time.Millisecond, signalAnswered)
	}
	if l.slots() != 20 {
		t.Fatalf("limit %d after many good rounds, want the most, 20", l.slots())
	}
	for range 10 {
		at = round(&l, at, time.Second, signalAnswered)
	}
	if l.slots() > 10 || l.slots() < 5 {
		t.Errorf("limit %d after 10 rounds of five times the latency; a tenth less a round is wanted", l.slots())
	}
	for range 60 { // it stays so: down to one at a time, and then this is the measure
		at = round(&l, at, time.Second, signalAnswered)
	}
	if l.slots() < 4 {
		t.Errorf("limit %d: an endpoint that has become slower for good is not used again", l.slots())
	}
}

func TestLimitIsCutOnceARound(t *testing.T) {
	l, at := newLimiter(64), time.Unix(0, 0)
	for range 80 {
		at = round(&l, at, 200*time.Millisecond, signalAnswered)
	}
	before := l.slots()
	at = round(&l, at, 50*time.Millisecond, signalOverload)
	if l.slots() != before/2 {
		t.Errorf("limit %d after a round of refusals at %d: want half", l.slots(), before)
	}
	for range 20 {
		at = round(&l, at, 50*time.Millisecond, signalOverload)
	}
	if l.slots() != 1 {
		t.Errorf("limit %d after 20 rounds of refusals", l.slots())
	}
	round(&l, at, time.Second, signalNone)
	if l.slots() != 1 || l.inFlight != 0 {
		t.Errorf("limit %d, in flight %d after calls that say nothing", l.slots(), l.inFlight)
	}
}
