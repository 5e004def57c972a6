package llm

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/sony/gobreaker/v2"

	"sluice/pipeline"
)

// This file owns who may be asked now: health, limits and the calls that wait for them. Everything here is under
// Pool.mu, and nothing here blocks while holding it.

// grant is the right to one attempt at e.
type grant struct {
	e       *endpoint
	done    func(error) // tells the breaker
	mode    string
	resume  string // the mode with which a search goes on; "": none does
	names   Names  // of parameters
	learn   bool   // mode may be changed by what the endpoint says
	started time.Time
}

// waiter is a call that waits for a grant, first come, first served.
type waiter struct {
	order []*endpoint
	tried map[*endpoint]bool
	until time.Time // its deadline; zero: none
	got   chan admission
}

// admission is what a waiter gets: a grant, or why there will be none.
type admission struct {
	grant *grant
	err   *failure
}

var errNeutral = errors.New("says nothing about health")

func (p *Pool) newEndpoint(url string) *endpoint {
	e := &endpoint{url: url, limiter: newLimiter(p.o.MaxConcurrency), manners: manners{mode: p.o.Structured,
		names: p.o.Parameters, unknown: map[string]bool{}, ways: map[string]bool{}},
		grievance: grievance{told: map[string]time.Time{}}}
	if e.mode == ModeAuto {
		e.mode = p.o.Protocol.Modes()[0]
	}
	e.breaker = gobreaker.NewTwoStepCircuitBreaker[struct{}](gobreaker.Settings{
		Name: url, MaxRequests: 1, Interval: 30 * time.Second, BucketPeriod: 3 * time.Second, Timeout: p.o.BreakerPause,
		ReadyToTrip: func(c gobreaker.Counts) bool {
			return int(c.ConsecutiveFailures) >= p.o.BreakerFailures || e.refusals >= p.o.BreakerFailures ||
				(c.Requests >= 20 && 2*c.TotalFailures >= c.Requests)
		},
		IsExcluded:    func(err error) bool { return errors.Is(err, errNeutral) },
		OnStateChange: func(_ string, _, to gobreaker.State) { p.turned(e, to) },
	})
	return e
}

// turned notes a breaker's new state. The breaker is only ever called under p.mu.
func (p *Pool) turned(e *endpoint, to gobreaker.State) {
	from := e.state
	e.state = to
	if to == gobreaker.StateOpen {
		e.openUntil = time.Now().Add(p.o.BreakerPause)
	}
	if to == gobreaker.StateHalfOpen { // what was away may be another program now, and what refused may be mended
		p.relearn(e)
	}
	all := !slices.ContainsFunc(p.endpoints, func(e *endpoint) bool { return e.state == gobreaker.StateClosed })
	switch {
	case !all:
		p.downSince = time.Time{}
	case p.downSince.IsZero():
		p.downSince = time.Now()
	}
	args := append([]any{"endpoint", e.url, "reason", e.last, "for", p.o.BreakerPause}, e.why...)
	p.tell(func() {
		switch {
		case to == gobreaker.StateOpen && from == gobreaker.StateClosed:
			p.o.Logger.Warn(article(p.o.Name)+" endpoint fails and is left alone", args...)
		case to == gobreaker.StateClosed:
			p.o.Logger.Info(article(p.o.Name)+" endpoint answers again", "endpoint", e.url)
		}
		if p.o.Observer.Breaker != nil {
			p.o.Observer.Breaker(e.url, to.String())
		}
	})
}

func (p *Pool) tell(f func()) { p.events = append(p.events, f) }

// locked runs f under p.mu, which is released also where f panics.
func (p *Pool) locked(f func()) {
	p.mu.Lock()
	defer p.unlock()
	f()
}

// unlock releases p.mu and then tells what happened under it, in order.
func (p *Pool) unlock() {
	if len(p.events) == 0 {
		p.mu.Unlock()
		return
	}
	p.mu.Unlock()
	p.telling.Lock()
	defer p.telling.Unlock()
	p.mu.Lock()
	events := p.events
	p.events = nil
	p.mu.Unlock()
	for _, f := range events {
		p.inform(f)
	}
}

// inform runs one of the events. Whoever hears of one may panic, but not through those who take or give back a grant:
// it would be taken for ever, and with it a slot, or the one probe of a half-open breaker.
func (p *Pool) inform(event func()) {
	defer func() {
		if x := recover(); x != nil {
			p.o.Logger.Error("telling what happened to an endpoint panicked", "panic", pipeline.Recovered(x))
		}
	}()
	event()
}

// order is every endpoint, the highest score of a hash of affinity and URL first (rendezvous hashing; Thaler and
// Ravishankar, 1998): every worker finds the same one, and only the calls of an endpoint that fails go elsewhere.
func (p *Pool) order(affinity string) []*endpoint {
	type scored struct {
		e     *endpoint
		score uint64
	}
	var s []scored
	for _, e := range p.endpoints {
		h := sha256.Sum256([]byte(affinity + "\x00" + e.url))
		s = append(s, scored{e, binary.BigEndian.Uint64(h[:])})
	}
	slices.SortFunc(s, func(a, b scored) int { return cmp.Compare(b.score, a.score) })
	order := make([]*endpoint, len(s))
	for i := range s {
		order[i] = s[i].e
	}
	return order
}

// untried says whether an endpoint is left that has not failed the call and may be asked without waiting for its
// health.
func (p *Pool) untried(order []*endpoint, tried map[*endpoint]bool) bool {
	p.mu.Lock()
	defer p.unlock()
	now := time.Now()
	return slices.ContainsFunc(order, func(e *endpoint) bool {
		return !tried[e] && e.breaker.State() != gobreaker.StateOpen && !e.coolUntil.After(now)
	})
}

// acquire waits for a grant.
func (p *Pool) acquire(ctx context.Context, order []*endpoint, tried map[*endpoint]bool) (*grant, *failure) {
	w := &waiter{order: order, tried: tried, got: make(chan admission, 1)}
	w.until, _ = ctx.Deadline()
	p.locked(func() {
		p.waiters = append(p.waiters, w)
		p.dispatch()
	})
	select {
	case v := <-w.got:
		return v.grant, v.err
	case <-ctx.Done():
	}
	p.locked(func() { p.waiters = slices.DeleteFunc(p.waiters, func(x *waiter) bool { return x == w }) })
	select {
	case v := <-w.got: // granted meanwhile: give it back
		if v.grant != nil {
			p.release(v.grant, &failure{reason: ReasonCanceled, neutral: true}, nil)
		}
	default:
	}
	if errors.Is(ctx.Err(), context.Canceled) {
		return nil, &failure{reason: ReasonCanceled, err: errors.New("cancelled")}
	}
	return nil, &failure{reason: ReasonDeadline, err: errors.New("every endpoint was busy or failing until the " +
		"call's deadline")}
}

// dispatch serves the waiters that can be served, in order, and sets the timer for the next moment at which that
// changes by itself.
func (p *Pool) dispatch() {
	now := time.Now()
	p.waiters = slices.DeleteFunc(p.waiters, func(w *waiter) bool {
		v := p.serve(w, now)
		if v.grant == nil && v.err == nil {
			return false
		}
		w.got <- v
		return true
	})
	if p.wake != nil {
		p.wake.Stop()
		p.wake = nil
	}
	if len(p.waiters) == 0 || p.closed {
		return
	}
	var next time.Time
	earlier := func(t time.Time) {
		if t.After(now) && (next.IsZero() || t.Before(next)) {
			next = t
		}
	}
	for _, e := range p.endpoints {
		earlier(e.coolUntil)
		if e.state == gobreaker.StateOpen {
			earlier(e.openUntil.Add(time.Millisecond)) // the breaker half-opens after this moment, not at it
		}
	}
	if !p.downSince.IsZero() {
		earlier(p.downSince.Add(maxDown))
	}
	if next.IsZero() {
		return
	}
	p.wake = time.AfterFunc(next.Sub(now), func() {
		// nobody else would: calls that wait are looked at again when the next one begins or ends, and have their
		// deadlines
		defer func() {
			if x := recover(); x != nil {
				p.o.Logger.Error("looking for a free endpoint panicked", "panic", pipeline.Recovered(x))
			}
		}()
		p.locked(p.dispatch)
	})
}

// serve decides about one waiter: a grant, an end, or neither yet.
func (p *Pool) serve(w *waiter, now time.Time) admission {
	if p.closed {
		return admission{err: &failure{reason: ReasonClosed, err: errClosed}}
	}
	// when the first of the endpoints that only asked for peace may be called
	cooling := time.Time{}
	busy := false // one is well and will be free again
	// one that has failed this call only where no other can be expected to take it
	for _, tried := range []bool{false, true} {
		for _, e := range w.order {
			switch {
			case w.tried[e] != tried || busy:
			case e.coolUntil.After(now):
				if cooling.IsZero() || e.coolUntil.Before(cooling) {
					cooling = e.coolUntil
				}
			default:
				if g := p.grant(e, now); g != nil {
					return admission{grant: g}
				}
			}
		}
		busy = slices.ContainsFunc(w.order, func(e *endpoint) bool {
			return w.tried[e] == tried && e.state == gobreaker.StateClosed && !e.coolUntil.After(now)
		})
	}
	if f := p.stillRefused(now); f != nil {
		return admission{err: f}
	}
	switch {
	case !p.downSince.IsZero() && now.Sub(p.downSince) >= maxDown:
		return admission{err: &failure{reason: ReasonDown, err: fmt.Errorf("every endpoint has been failing for %v or "+
			"longer; the next attempt to reach one is made when its breaker lets it", maxDown)}}
	case !busy && !cooling.IsZero() && !w.until.IsZero() && w.until.Before(cooling):
		return admission{err: &failure{reason: ReasonRateLimited, err: errors.New("every endpoint has asked to be " +
			"left " +
			"alone for longer than the call's deadline allows (Retry-After)")}}
	}
	return admission{}
}

// grant takes a slot at e, or returns nil where e has none free or its breaker lets nothing through.
func (p *Pool) grant(e *endpoint, now time.Time) *grant {
	if !e.limiter.free() {
		return nil
	}
	done, err := e.breaker.Allow()
	if err != nil {
		return nil
	}
	e.limiter.inFlight++
	return &grant{e: e, done: done, mode: e.mode, resume: e.resume, names: e.names, learn: p.o.Structured == ModeAuto,
		started: now}
}

// release ends an attempt: the endpoint's limit, breaker, peace and manners follow from how it ended. a is nil where
// nothing was sent. It reports whether another attempt at the endpoint, asked otherwise, may bring an answer.
func (p *Pool) release(g *grant, f *failure, a *try) (again bool) {
	now := time.Now()
	e := g.e
	reason, load := ReasonAnswered, signalAnswered
	if f != nil {
		reason, load = f.reason, f.load
	}
	p.mu.Lock()
	defer p.unlock()
	e.limiter.release(load, g.started, now)
	e.last = reason
	if a != nil {
		again = p.learn(g, a, f)
	}
	if f != nil && f.gone {
		p.relearnMode(e)
	}
	if f != nil && f.retryAfter > 0 {
		if until := now.Add(f.retryAfter); until.After(e.coolUntil) {
			e.coolUntil = until
		}
	}
	health := errNeutral
	if !again {
		health = p.hear(e, f, now)
	}
	g.done(health)
	if o := p.o.Observer; o.Attempt != nil && reason != ReasonNotAllowed {
		p.tell(func() { o.Attempt(e.url, reason, now.Sub(g.started)) })
	}
	p.dispatch()
	return again
}
