package llm_test

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"sluice/pipeline/llm"
	"sluice/pipeline/llm/standin"
)

// This file owns the tests of who is asked when: fail-over, breakers, back-off, limits.

func TestFailOverAndReturn(t *testing.T) {
	inBubble(t, func(t *bubble) {
		p := t.pool(llm.Options{}, "a", "b")
		first := t.must(p, "good").Endpoint
		name, other := "a", "b"
		if first == "http://b/v1" {
			name, other = "b", "a"
		}
		t.net.Stop(name)
		start := time.Now()
		for range 20 {
			if r := t.must(p, "good"); r.Endpoint != "http://"+other+"/v1" {
				t.Fatalf("answered by %s, which is stopped", r.Endpoint)
			}
		}
		if took := time.Since(start); took != 0 {
			t.Errorf("failing over took %v; there was no need to wait", took)
		}
		i := slices.IndexFunc(p.Status(), func(s llm.EndpointStatus) bool { return s.URL == first })
		if s := p.Status()[i]; s.Breaker != "open" || s.LastReason != llm.ReasonConnect || s.BreakerUntil.IsZero() {
			t.Errorf("status of the stopped endpoint: %+v", s)
		}
		t.net.Serve(name, map[string]*standin.Server{"a": t.a, "b": t.b}[name])
		time.Sleep(11 * time.Second)
		if r := t.must(p, "good"); r.Endpoint != first || r.Attempts != 1 {
			t.Errorf("the endpoint is back, but %+v", r)
		}
		if s := p.Status()[i]; s.Breaker != "closed" {
			t.Errorf("status of the endpoint that is back: %+v", s)
		}
	})
}

func TestAffinity(t *testing.T) {
	inBubble(t, func(t *bubble) {
		names := []string{"a", "b", "c", "d"}
		for _, n := range names {
			t.net.Serve(n, newStub(standin.Options{}))
		}
		p, q := t.pool(llm.Options{}, names...), t.pool(llm.Options{}, "d", "c", "b", "a")
		before, count := map[string]string{}, map[string]int{}
		for i := range 200 {
			text := fmt.Sprintf("good %d", i)
			before[text] = t.must(p, text).Endpoint
			count[before[text]]++
			if got := t.must(q, text).Endpoint; got != before[text] {
				t.Fatalf("another worker asks %s, not %s", got, before[text])
			}
		}
		for u, n := range count {
			if n < 25 || n > 75 {
				t.Errorf("%s has %d of 200 affinities", u, n)
			}
		}
		t.net.Stop("c")
		for text, was := range before {
			if got := t.must(p, text).Endpoint; was != "http://c/v1" && got != was {
				t.Fatalf("with c gone, %q moved from %s to %s", text, was, got)
			}
		}
	})
}

func TestRetryAfterIsHonouredAndCapped(t *testing.T) {
	for _, c := range []struct {
		after string
		want  time.Duration
	}{
		{"7", 7 * time.Second}, {"100000", time.Minute}, {"DATE", 5 * time.Second}, {"", 250 * time.Millisecond},
		{"0", 250 * time.Millisecond}, {"-1", 250 * time.Millisecond}, {"99999999999999999999",
			250 * time.Millisecond},
	} {
		t.Run(c.after, func(t *testing.T) {
			inBubble(t, func(t *bubble) {
				after := c.after
				if after == "DATE" {
					after = time.Now().Add(5 * time.Second).UTC().Format("Mon, 02 Jan 2006 15:04:05 GMT")
				}
				t.a.Script(standin.Status(429, after))
				p := t.pool(llm.Options{}, "a")
				start := time.Now()
				var wg sync.WaitGroup
				wg.Go(func() { t.must(p, "good") })
				synctest.Wait()
				if c.want > time.Second {
					if s := p.Status()[0]; s.NotBefore.Sub(start) != c.want {
						t.Errorf("not before %v, want %v", s.NotBefore.Sub(start), c.want)
					}
				}
				wg.Go(func() { // another call keeps to it, too
					time.Sleep(time.Millisecond)
					t.must(p, "bad")
					if c.want > time.Second && time.Since(start) < c.want {
						t.Errorf("another call went out after %v", time.Since(start))
					}
				})
				wg.Wait()
				if took := time.Since(start); took != c.want {
					t.Errorf("asked again after %v, want %v", took, c.want)
				}
			})
		})
	}
}

func TestRetryAfterBeyondTheDeadlineEndsTheCallAtOnce(t *testing.T) {
	inBubble(t, func(t *bubble) {
		t.a.Always(standin.Status(429, "50"))
		p := t.pool(llm.Options{}, "a")
		start := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		if e := t.fails(ctx, p, "good"); e.Reason != llm.ReasonRateLimited || time.Since(start) > time.Second {
			t.Errorf("%+v after %v", e, time.Since(start))
		}
		if e := t.fails(ctx, p, "good"); e.Reason != llm.ReasonRateLimited || e.Attempts != 0 ||
			time.Since(start) > time.Second {
			t.Errorf("%+v after %v", e, time.Since(start))
		}
	})
}

func TestBackoffIsExponentialWithFullJitter(t *testing.T) {
	inBubble(t, func(t *bubble) {
		t.a.Always(standin.Status(500, ""))
		p := t.pool(llm.Options{MaxAttempts: 8, BreakerFailures: 100}, "a")
		p.SetBackoff(time.Second, 10*time.Second)
		start := time.Now()
		t.fails(t.Context(), p, "good")
		if took := time.Since(start); took != (1+2+4+8+10+10+10)*time.Second {
			t.Errorf("8 attempts took %v at the most jitter", took)
		}
		p.SetJitter(func() float64 { return 0 })
		start = time.Now()
		t.fails(t.Context(), p, "good")
		if took := time.Since(start); took != 0 {
			t.Errorf("8 attempts took %v at the least jitter", took)
		}
	})
}

func TestBreakerAndMaxDown(t *testing.T) {
	inBubble(t, func(t *bubble) {
		var states []string
		t.a.Always(standin.Status(500, ""))
		p := t.pool(llm.Options{MaxAttempts: 5, Observer: llm.Observer{
			Breaker: func(_, state string) { states = append(states, state) }}}, "a")
		p.SetBackoff(time.Millisecond, 15*time.Second)
		start := time.Now()
		t.fails(t.Context(), p, "good") // five in a row
		if s := p.Status()[0]; s.Breaker != "open" {
			t.Fatalf("%+v", s)
		}
		before := t.a.Stats().Requests
		var wg sync.WaitGroup
		for range 50 { // they wait, and are the probes
			wg.Go(func() {
				if e := t.fails(t.Context(), p, "good"); e.Reason != llm.ReasonDown && e.Reason != llm.ReasonStatus {
					t.Errorf("%+v", e)
				}
			})
		}
		wg.Wait()
		if took := time.Since(start); took < 29*time.Second || took > 31*time.Second {
			t.Errorf("waiting calls were given up after %v, want MaxDown, 30s", took)
		}
		if n := t.a.Stats().Requests - before; n > 3 {
			t.Errorf("%d requests went to an endpoint that is down for 30s", n)
		}
		at := time.Now()
		for range 10 {
			t.fails(t.Context(), p, "good")
		}
		if took := time.Since(at); took > time.Second {
			t.Errorf("10 calls to endpoints that have been down for long took %v", took)
		}
		t.a.Always(standin.Good())
		time.Sleep(11 * time.Second)
		t.must(p, "good")
		if states[0] != "open" || states[1] != "half-open" || states[len(states)-1] != "closed" {
			t.Errorf("breaker: %v", states)
		}
	})
}

func TestABlipCostsNoAnswer(t *testing.T) {
	inBubble(t, func(t *bubble) {
		p := t.pool(llm.Options{}, "a")
		t.must(p, "good")
		t.net.Stop("a")
		var wg sync.WaitGroup
		for i := range 100 {
			wg.Go(func() {
				time.Sleep(time.Duration(i) * 50 * time.Millisecond)
				if _, err := p.Ask(t.Context(), question(t.task, "good")); err != nil && i > 5 {
					t.Errorf("call %d: %v", i, err)
				}
			})
		}
		time.Sleep(9 * time.Second)
		t.net.Serve("a", t.a)
		wg.Wait()
	})
}

func TestConcurrencyFindsWhatTheEndpointTakes(t *testing.T) {
	inBubble(t, func(t *bubble) {
		served := newStub(standin.Options{Slots: 8, Queue: 2, Latency: standin.Constant(100 * time.Millisecond)})
		t.net.Serve("a", served)
		var mu sync.Mutex
		var limits []int // after every answer
		reasons := map[llm.Reason]int{}
		p := t.pool(llm.Options{MaxConcurrency: 64, MaxAttempts: 50, Observer: llm.Observer{
			Attempt: func(_ string, r llm.Reason, _ time.Duration) { reasons[r]++ },
		}}, "a")
		start := time.Now()
		var wg sync.WaitGroup
		for range 64 {
			wg.Go(func() {
				for range 25 {
					t.must(p, "good")
					limit := p.Status()[0].Limit
					mu.Lock()
					limits = append(limits, limit)
					mu.Unlock()
				}
			})
		}
		wg.Wait()
		took := time.Since(start)
		if reasons[llm.ReasonAnswered] != 1600 || reasons[llm.ReasonRateLimited] == 0 ||
			20*reasons[llm.ReasonRateLimited] > 1600 {
			t.Errorf("attempts: %v; want 1600 answers and few refusals", reasons)
		}
		if ideal := 20 * time.Second; took > ideal*14/10 {
			t.Errorf("1600 calls took %v where 8 at once need %v", took, ideal)
		}
		if slices.Max(limits) > 13 || slices.Min(limits) < 2 {
			t.Errorf("limits from %d to %d at an endpoint that takes 10", slices.Min(limits), slices.Max(limits))
		}
	})
}

func TestConcurrencyShrinksWhenAnswersBecomeSlow(t *testing.T) {
	inBubble(t, func(t *bubble) {
		// queues without a word
		served := newStub(standin.Options{Slots: 4, Latency: standin.Constant(200 * time.Millisecond)})
		t.net.Serve("a", served)
		p := t.pool(llm.Options{MaxConcurrency: 64, Timeout: 10 * time.Minute}, "a")
		var wg sync.WaitGroup
		for range 64 {
			wg.Go(func() {
				for range 20 {
					t.must(p, "good")
				}
			})
		}
		wg.Wait()
		if n := served.Stats().MostAtOnce; n < 5 || n > 26 {
			t.Errorf("up to %d calls at once at an endpoint that serves 4: the limit should have stopped growing at "+
				"a few times the latency without a queue", n)
		}
	})
}

func TestMaxConcurrencyHolds(t *testing.T) {
	inBubble(t, func(t *bubble) {
		served := newStub(standin.Options{Latency: standin.Exponential(50 * time.Millisecond), Seed: 3})
		t.net.Serve("a", served)
		p := t.pool(llm.Options{MaxConcurrency: 3}, "a")
		var wg sync.WaitGroup
		for range 40 {
			wg.Go(func() { t.must(p, "good") })
		}
		wg.Wait()
		if n := served.Stats().MostAtOnce; n != 3 {
			t.Errorf("%d calls at once, want 3", n)
		}
	})
}

func TestAHungEndpointDoesNotHoldUpTheOther(t *testing.T) {
	inBubble(t, func(t *bubble) {
		t.a.Always(standin.Hang())
		p := t.pool(llm.Options{Timeout: 5 * time.Second}, "a", "b")
		var wg sync.WaitGroup
		for i := range 400 {
			wg.Go(func() {
				time.Sleep(time.Duration(i) * 100 * time.Millisecond)
				start := time.Now()
				r := t.must(p, fmt.Sprint("good ", i))
				if took := time.Since(start); r.Endpoint != "http://b/v1" || took > 5*time.Second {
					t.Errorf("call %d took %v at %s", i, took, r.Endpoint)
				}
			})
		}
		wg.Wait()
		if n := t.a.Stats().Requests; n > 20 {
			t.Errorf("%d of 400 calls went to the endpoint that hangs", n)
		}
	})
}

func TestFailuresAreRiddenOut(t *testing.T) {
	for _, share := range []float64{0.1, 0.3} {
		t.Run(fmt.Sprint(share), func(t *testing.T) {
			inBubble(t, func(t *bubble) {
				for i, n := range []string{"a", "b"} {
					t.net.Serve(n, newStub(standin.Options{FailureShare: share, Seed: uint64(i),
						Latency: standin.LogNormal(200*time.Millisecond, 0.5)}))
				}
				p := t.pool(llm.Options{}, "a", "b")
				attempts := map[int]int{}
				var mu sync.Mutex
				var wg sync.WaitGroup
				failed := 0
				for i := range 500 {
					wg.Go(func() {
						r, err := p.Ask(t.Context(), question(t.task, fmt.Sprint("good ", i)))
						mu.Lock()
						defer mu.Unlock()
						if err != nil {
							failed++
						}
						attempts[r.Attempts]++
					})
				}
				wg.Wait()
				if failed > 15 {
					t.Errorf("%d of 500 calls failed at %v failures an attempt (attempts: %v)", failed, share, attempts)
				}
				for _, s := range p.Status() {
					if s.InFlight != 0 {
						t.Errorf("%+v", s)
					}
				}
			})
		})
	}
}

func TestOrderIsAPermutation(t *testing.T) {
	p, err := llm.NewPool(filled(llm.Options{Model: "m", URLs: []string{"http://a", "http://b", "http://c"}}))
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	firsts := map[string]bool{}
	for i := range 100 {
		seen := map[string]bool{}
		for _, url := range p.Order(fmt.Sprint(i)) {
			seen[url] = true
		}
		firsts[p.Order(fmt.Sprint(i))[0]] = true
		if len(seen) != 3 {
			t.Fatalf("order %v", slices.Collect(maps.Keys(seen)))
		}
	}
	if len(firsts) != 3 {
		t.Errorf("only %v come first", firsts)
	}
}
