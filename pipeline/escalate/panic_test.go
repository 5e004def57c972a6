package escalate

import (
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"sluice/pipeline"
	"sluice/pipeline/llm"
	"sluice/pipeline/publish"
)

// This file owns the tests of panics: each is the fate of one request, wherever it happens.

// outOfRange panics as Go's runtime does.
func outOfRange(text string) { neverRead = text[len(text):][0] }

var neverRead byte

func TestAPanicOverARequestIsThatRequestsFate(t *testing.T) {
	for step, dead := range map[string]bool{"decode": true, "redact": false, "prompt": false, "parse": false,
		"decide": false, "encode": true} {
		t.Run(step, func(t *testing.T) {
			inBubble(t, func(t *bubble) {
				b := newBroker(1)
				asks := distinct(12, 1)
				asks[5].text = "a fragile text that is good"
				b.add(t, asks...)
				d := t.work(b, deskOptions{concurrency: 3, redact: []string{"email"}, cacheBytes: 1 << 20,
					step: func(name, text string) {
						if name == step && strings.Contains(text, "fragile") {
							outOfRange(text)
						}
					}})
				for _, p := range d.await(12) {
					var offset int64
					if p.Topic == "results" {
						_, offset = p.source(t)
					} else {
						offset = 5
					}
					switch {
					case offset != 5:
						if p.Verdict.By != "llm" || p.Verdict.Label != oracle(asks[offset].text) {
							t.Errorf("record %d, beside the one that panics: %+v", offset, p.Verdict)
						}
					case dead && (p.Topic != "letters" || p.header(publish.HeaderErrorStage) != step ||
						p.header(publish.HeaderErrorReason) != "panic"):
						t.Errorf("the one that panics: %s %v", p.Topic, p.Headers)
					case !dead && (p.Verdict.By != "fallback" || p.Verdict.Reason != FallbackPanic ||
						p.Verdict.Label != "NEGATIVE" || p.Verdict.Revision != 2):
						t.Errorf("the one that panics: %s %+v", p.Topic, p.Verdict)
					}
				}
				log := d.logs.String()
				if strings.Count(log, "panic.stack=") != 1 || !strings.Contains(log, "escalate.outOfRange") ||
					!strings.Contains(log, "index out of range") || !strings.Contains(log, "offset=5") {
					t.Errorf("the log does not say where:\n%s", log)
				}
				if strings.Contains(log, "fragile") {
					t.Errorf("the text is in the log:\n%s", log)
				}
				fell := 1.0
				if dead {
					fell = 0
				}
				d.counts(map[string]float64{"fallbacks_total reason=panic": fell,
					"questions_total result=fallback": fell})
				d.stop()
			})
		})
	}
}

// Of records with the same text one asks for all. What it panics over may be its own: the others ask again.
func TestAPanicIsNotSharedAsAnAnswerWouldBe(t *testing.T) {
	inBubble(t, func(t *bubble) {
		t.slowly(time.Second)
		b := newBroker(1)
		b.add(t, slices.Repeat([]ask{{text: "all the same and good", score: 0.6}}, 4)...)
		var parsed atomic.Int32
		d := t.work(b, deskOptions{concurrency: 4, step: func(name, text string) {
			if name == "parse" && parsed.Add(1) == 1 {
				panic("an answer: " + text)
			}
		}})
		if f := fallbacks(d.await(4)); f[FallbackPanic] != 1 || f[""] != 3 {
			t.Errorf("%v, want one fallback and three answers", f)
		}
		if log := d.logs.String(); strings.Contains(log, "all the same") ||
			!strings.Contains(log, "a value of type string") {
			t.Errorf("what was processed is in the log:\n%s", log)
		}
		d.stop()
	})
}

// A panic within a call gives back what the call holds: its slot, and what it cannot have taken of the budget.
func TestAPanicWithinACallIsItsReason(t *testing.T) {
	inBubble(t, func(t *bubble) {
		b := newBroker(1)
		b.add(t, distinct(12, 1)...)
		var calls atomic.Int32
		d := t.work(b, deskOptions{concurrency: 1, limits: Limits{CallsPerDay: 100},
			pool: llm.Options{MaxConcurrency: 1, APIKey: func() (pipeline.Secret, error) {
				if calls.Add(1)%4 == 0 {
					outOfRange("")
				}
				return pipeline.NewSecret("key"), nil
			}}})
		if f := fallbacks(d.await(12)); f[FallbackPanic] != 3 || f[""] != 9 {
			t.Errorf("%v, want three fallbacks and nine answers", f)
		}
		if s := d.pool.Status()[0]; s.InFlight != 0 || s.Breaker != "closed" {
			t.Errorf("afterwards %+v", s)
		}
		d.counts(map[string]float64{"calls_total reason=panic": 3, "calls_total reason=answered": 9,
			"budget_left resource=calls": 88, "calls_in_flight endpoint=http://a/v1": 0,
			"concurrency_limit endpoint=http://a/v1": 1})
		if log := d.logs.String(); strings.Count(log, "panic.stack=\"sluice/pipeline/escalate.outOfRange") != 3 {
			t.Errorf("the log:\n%s", log)
		}
		d.stop()
	})
}
