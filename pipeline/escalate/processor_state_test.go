package escalate

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"sluice/pipeline/llm"
	"sluice/pipeline/llm/label"
	"sluice/pipeline/llm/standin"
	"sluice/pipeline/publish"
)

// This file owns the tests of what a worker keeps, and of what leaves it: budgets, work in flight, and texts.

const spentWarning = "budget of today is spent"

func TestTheBudgetOfCallsIsNeverExceeded(t *testing.T) {
	inBubble(t, func(t *bubble) {
		t.slowly(100 * time.Millisecond)
		b := newBroker(3)
		b.add(t, distinct(30, 3)...)
		d := t.work(b, deskOptions{concurrency: 6, limits: Limits{CallsPerDay: 11}})
		got := d.await(30)
		if f := fallbacks(got); f[""] != 11 || f[FallbackBudget] != 19 || t.a.Stats().Requests != 11 {
			t.Errorf("%v after %d calls, want 11 answers", f, t.a.Stats().Requests)
		}
		d.counts(map[string]float64{"fallbacks_total reason=budget": 19, "questions_total result=answered": 11,
			"budget_left resource=calls": 0})
		if n := strings.Count(d.logs.String(), spentWarning); n != 1 {
			t.Errorf("%d warnings, want one\n%s", n, d.logs)
		}
		d.stop()

		// Another worker with nothing but the group's offsets knows it, too.
		b.add(t, distinct(33, 3)[30:]...)
		d = t.work(b, deskOptions{concurrency: 6, limits: Limits{CallsPerDay: 11}})
		if f := fallbacks(d.await(33)); f[FallbackBudget] != 22 || t.a.Stats().Requests != 11 {
			t.Errorf("after a restart: %v, %d calls", f, t.a.Stats().Requests)
		}
		// The next day begins at midnight UTC: the bubble's clock starts there.
		time.Sleep(24 * time.Hour)
		b.add(t, distinct(36, 3)[33:]...)
		if f := fallbacks(d.await(36)); f[""] != 14 || t.a.Stats().Requests != 14 {
			t.Errorf("on the next day: %v, %d calls", f, t.a.Stats().Requests)
		}
		if n := strings.Count(d.logs.String(), "budget again"); n != 1 {
			t.Errorf("%d times there was budget again\n%s", n, d.logs)
		}
		d.stop()
	})
}

// Attempts that fail are calls, too.
func TestRetriesAreCharged(t *testing.T) {
	inBubble(t, func(t *bubble) {
		t.a.Always(standin.Status(http.StatusInternalServerError, ""))
		b := newBroker(1)
		b.add(t, distinct(8, 1)...)
		d := t.work(b, deskOptions{concurrency: 2, limits: Limits{CallsPerDay: 9},
			pool: llm.Options{BreakerFailures: 1000, MaxAttempts: 4}, deadline: time.Hour})
		f := fallbacks(d.await(8))
		if t.a.Stats().Requests != 9 || f[FallbackBudget] < 5 || f[FallbackBudget]+f[FallbackEndpoint] != 8 {
			t.Errorf("%v after %d calls, want 9", f, t.a.Stats().Requests)
		}
		d.stop()
	})
}

func TestTheBudgetsOfTokensAndMoneyHold(t *testing.T) {
	for _, c := range []struct {
		name  string
		limit Limits
		spent func(*desk) float64
		most  func(prompt, completion int) float64 // of one call
		total float64
	}{
		{"tokens", Limits{TokensPerDay: 8000}, func(d *desk) float64 { return d.metric("tokens_total") },
			func(p, c int) float64 { return float64(p + c) }, 8000},
		{"money", Limits{MoneyPerDay: 0.02, InputPerMillion: 2, OutputPerMillion: 6},
			func(d *desk) float64 { return d.metric("money_total") },
			func(p, c int) float64 { return (2*float64(p) + 6*float64(c)) / 1e6 }, 0.02},
	} {
		t.Run(c.name, func(t *testing.T) {
			inBubble(t, func(t *bubble) {
				t.slowly(time.Second)
				b := newBroker(2)
				b.add(t, distinct(100, 2)...)
				d := t.work(b, deskOptions{concurrency: 3, limits: c.limit})
				f := fallbacks(d.await(100))
				call := llm.Call{Messages: t.task.Messages("text 99 is good"), Schema: t.task.Schema()}
				spent, most := c.spent(d), c.most(d.pool.Ceiling(&call))
				// With calls in progress their ceilings are taken; what is left when the last ends is less than theirs.
				if spent > c.total || spent < c.total-3*most || f[FallbackBudget] == 0 || f[""] == 0 ||
					f[""]+f[FallbackBudget] != 100 {
					t.Errorf("%v; spent %v of %v, a call takes up to %v", f, spent, c.total, most)
				}
				if t.a.Stats().Requests != f[""] {
					t.Errorf("%d calls for %d answers", t.a.Stats().Requests, f[""])
				}
				// Near its end the budget is spent and not spent by turns, as calls are settled: one alert all the
				// same.
				if n := strings.Count(d.logs.String(), spentWarning); n != 1 {
					t.Errorf("%d warnings, want one\n%s", n, d.logs)
				}
				d.stop()
			})
		})
	}
}

func TestAStoppingWorkerFinishesItsCalls(t *testing.T) {
	inBubble(t, func(t *bubble) {
		t.slowly(5 * time.Second)
		b := newBroker(1)
		b.add(t, distinct(3, 1)...)
		d := t.work(b, deskOptions{concurrency: 3, grace: 20 * time.Second})
		synctest.Wait()
		d.stop()
		if f := fallbacks(d.read(b.visible)); f[""] != 3 {
			t.Errorf("published %v, three calls were in progress", f)
		}
	})
}

// A call that does not end within the grace period has brought nothing: its request belongs to the next worker.
func TestWorkInFlightIsLeftToTheNextWorker(t *testing.T) {
	inBubble(t, func(t *bubble) {
		b := newBroker(1)
		asks := distinct(4, 1)
		b.add(t, asks[0])
		d := t.work(b, deskOptions{concurrency: 2, grace: 3 * time.Second, pool: llm.Options{Timeout: time.Hour},
			deadline: time.Hour, limits: Limits{CallsPerDay: 100}})
		d.await(1)
		t.a.Script(standin.Hang())
		b.add(t, asks[1])
		synctest.Wait()
		b.add(t, asks[2:]...)
		synctest.Wait() // two answers are there, but behind the one that is not
		d.stop()
		if n := t.a.Stats().Answers; n != 3 {
			t.Errorf("%d answers before the stop, want 3", n)
		}
		if len(b.visible) != 1 || b.committed[b.owned[0]].Offset != 1 {
			t.Errorf("%d results, offset %d; the second question had no answer", len(b.visible),
				b.committed[b.owned[0]].Offset)
		}
		d = t.work(b, deskOptions{concurrency: 2, limits: Limits{CallsPerDay: 100}})
		got := d.await(4)
		seen := map[string]int{}
		for _, p := range got {
			seen[p.header(publish.HeaderID)]++
		}
		if len(got) != 4 || len(seen) != 4 || fallbacks(got)[""] != 4 {
			t.Errorf("%d results: %v", len(got), seen)
		}
		d.stop()
	})
}

func TestCloseEndsCallsAtOnce(t *testing.T) {
	inBubble(t, func(t *bubble) {
		b := newBroker(1)
		t.a.Always(standin.Hang())
		b.add(t, distinct(10, 1)...)
		d := t.work(b, deskOptions{concurrency: 2, grace: time.Second})
		synctest.Wait()
		began := time.Now()
		d.processor.Close()
		if took := time.Since(began); took > 0 {
			t.Errorf("took %v", took)
		}
		d.stop()
		if at := b.committed[b.owned[0]].Offset; len(b.visible) > 0 || at > 0 {
			t.Errorf("published %d, offset %d", len(b.visible), at)
		}
	})
}

func TestQuestionsOfALostPartitionAreNotAsked(t *testing.T) {
	inBubble(t, func(t *bubble) {
		b := newBroker(2)
		stays, goes := b.owned[0], b.owned[1]
		t.a.Always(standin.Slow(10 * time.Second))
		b.add(t, ask{text: "stays 0", score: 0.6}, ask{text: "stays 1", score: 0.6},
			ask{partition: 1, text: "goes 0", score: 0.6}, ask{partition: 1, text: "goes 1", score: 0.6})
		d := t.work(b, deskOptions{limits: Limits{CallsPerDay: 100}})
		synctest.Wait() // one call is in progress, three questions wait
		b.change(func() { b.owned = b.owned[:1] })
		got := d.await(2)
		if len(got) != 2 || t.a.Saw("goes") || b.committed[goes].Offset != 0 || b.committed[stays].Offset != 2 {
			t.Errorf("%d results, offsets %v", len(got), b.committed)
		}
		b.change(func() { b.owned = append(b.owned, goes) })
		if got := d.await(4); fallbacks(got)[""] != 4 || t.a.Stats().Requests != 4 {
			t.Errorf("%v after %d calls", fallbacks(got), t.a.Stats().Requests)
		}
		d.stop()
	})
}

// The wallet of a partition that moves goes with it.
func TestALostPartitionTakesItsWalletAlong(t *testing.T) {
	inBubble(t, func(t *bubble) {
		b := newBroker(2)
		goes := b.owned[1]
		b.add(t, distinct(4, 2)...)
		d := t.work(b, deskOptions{limits: Limits{CallsPerDay: 10}})
		d.await(4)
		b.change(func() { b.owned = b.owned[:1] })
		b.add(t, ask{text: "one more", score: 0.6})
		d.await(5)
		var spent struct{ Budget struct{ Calls int } }
		if err := json.Unmarshal([]byte(b.committed[goes].Metadata), &spent); err != nil || spent.Budget.Calls != 2 {
			t.Errorf("wallet of the lost partition: %s, %v; two calls were charged to it", b.committed[goes].Metadata,
				err)
		}
		d.stop()
	})
}

func TestNoCanaryLeavesTheWorker(t *testing.T) {
	inBubble(t, func(t *bubble) {
		const person, mail, phone, card = "Zaphod Canarybrox", "canary.one@birds.example", "+49 170 5550123",
			"4000 0012 3456 7899"
		text := fmt.Sprintf("%s wrote from %s, call %s, card %s. %s is not good.", person, mail, phone, card, person)
		// The endpoint repeats the text that it was given, and makes up what it was not.
		t.a.Always(standin.Step{Bend: func(a *standin.Answer) {
			explanation, err := json.Marshal(a.Text())
			if err != nil {
				panic(err)
			}
			a.Content = fmt.Sprintf(`{"label":"POSITIVE","confidence":0.8,"explanation":%s}`, explanation)
		}})
		b := newBroker(1)
		sources := b.add(t, ask{text: text, score: 0.6, spans: []Span{{Group: "PER", Start: 0, End: len(person)}}})
		d := t.work(b, deskOptions{prompt: label.Options{Explain: true}, redact: []string{"PER", "email", "phone",
			"number"}})
		p := d.await(1)[0]
		for _, canary := range []string{"Zaphod", "Canarybrox", "canary.one", "birds.example", "5550123", "7899",
			"4000"} {
			if t.a.Saw(canary) {
				t.Errorf("%q has left the worker", canary)
			}
			if strings.Contains(d.logs.String(), canary) {
				t.Errorf("%q is in the log", canary)
			}
		}
		if !t.a.Saw("is not good") || !t.a.Saw("[PER_1]") {
			t.Error("the endpoint did not see the rest of the text")
		}
		d.intact(&p, &sources[0])
		if e := p.Verdict.Explanation; !strings.HasPrefix(e, person+" wrote from ") || strings.Contains(e, "[PER_1]") {
			t.Errorf("explanation %q: the name is not back", e)
		}
		if v := p.Verdict; v.By != "llm" || v.Label != "POSITIVE" {
			t.Errorf("verdict %+v", v)
		}
		d.stop()
	})
}
