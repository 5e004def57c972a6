// Package llm asks language models at HTTP endpoints: a Pool makes calls, with retries, circuit breakers, a limit of
// concurrency that finds itself, and keys that can be rotated. How a call is written is a Protocol's (package openai);
// what is asked, and how the answer is read, is a Task's (package label). The pool knows neither.
package llm

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"sluice/pipeline"
)

// This file owns a Pool's options and a call's way through attempts: which endpoint, how often, how long to wait
// between. One attempt is endpoint.go's; who may be asked now is queue.go's.

// Options say how endpoints are asked. DefaultOptions has what is usual; NewPool refuses a zero where it says required.
type Options struct {
	// Name is that of the section of the configuration that is asked for, for example "escalation". Errors and the log
	// begin with it, and name keys of NAME.endpoint. Required.
	Name string
	// Protocol is what all endpoints speak. Required.
	Protocol Protocol
	URLs     []string                        // of APIs, up to what Protocol.Path adds. Required
	Model    string                          // as the API names it. Required
	APIKey   func() (pipeline.Secret, error) // read before every attempt (KeyFile); nil: none

	Timeout          time.Duration // of one attempt, until the last byte. Required
	MaxAttempts      int           // of one call, all endpoints together. Required
	MaxConcurrency   int           // of one endpoint; the limit adapts itself below it. Required
	MaxTokens        int           // of an answer. Required
	MaxResponseBytes int64         // of an answer with everything around it. Required
	Structured       string        // ModeAuto or one of Protocol.Modes: how an answer's form is asked for. Required
	// Parameters are those of Protocol.Parameters that go out under another name, or not at all, from the first call
	// on. What else an endpoint refuses by name is found out.
	Parameters Names

	// BreakerFailures is how many failures in a row open an endpoint's breaker. Half of at least 20 attempts within
	// 30 s do, too. Required.
	BreakerFailures int
	BreakerPause    time.Duration // until one call may try an endpoint again whose breaker is open. Required

	// Proxy is an http, https or socks5 URL; "": none, whatever the environment says. With one, which address an
	// endpoint's name stands for is the proxy's business: only addresses written as numbers are checked then.
	Proxy string
	TLS   *tls.Config // nil: the system's

	Logger   *slog.Logger // nil: none
	Observer Observer

	// Dial stands in for the network in tests. Its addresses are not checked.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
}

// DefaultOptions are what the configuration has where it says nothing. What they leave empty only the caller knows.
func DefaultOptions() Options {
	return Options{
		Timeout:          10 * time.Second,
		MaxAttempts:      4,
		MaxConcurrency:   16,
		MaxTokens:        200,
		MaxResponseBytes: 256 << 10,
		Structured:       ModeAuto,
		BreakerFailures:  10,
		BreakerPause:     15 * time.Second,
	}
}

// How long a pool waits where the configuration has no say. The deadline of the call bounds all of it.
const (
	backoffBase   = 250 * time.Millisecond // the first pause when every endpoint has failed a call; it doubles
	backoffMost   = 15 * time.Second       // the longest pause; each is drawn between 0 and what it has come to
	maxRetryAfter = time.Minute            // the longest that Retry-After is honoured
	// how long calls wait while all endpoints fail, before they are given up at once
	maxDown = 30 * time.Second
)

// Observer is told what happens, for metrics. Any of it may be nil. It must not block and must not call the pool.
type Observer struct {
	Attempt func(endpoint string, reason Reason, took time.Duration) // an attempt has ended
	Breaker func(endpoint, state string)                             // closed, open, half-open
}

// Pool asks endpoints. Its methods may be called concurrently.
type Pool struct {
	o       Options
	client  *http.Client
	stop    context.Context
	cancel  context.CancelFunc
	backoff backoff

	mu        sync.Mutex
	endpoints []*endpoint
	waiters   []*waiter
	wake      *time.Timer
	downSince time.Time // since when no breaker is closed; zero: one is
	events    []func()  // for the observer and the log, told after mu is released
	telling   sync.Mutex
	closed    bool
}

// NewPool checks the options: the error names all that is wrong with them. Nothing is connected to before the first
// call.
func NewPool(o Options) (*Pool, error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	errs := o.check()
	client, err := newClient(&o)
	if err != nil {
		errs = append(errs, err)
	}
	p := &Pool{o: o, client: client, backoff: backoff{base: backoffBase, most: backoffMost, jitter: rand.Float64}}
	urls, more := o.endpoints()
	if err := errors.Join(append(errs, more...)...); err != nil {
		return nil, fmt.Errorf("%s: %w", strings.TrimSpace(o.Name+" endpoint"), err)
	}
	for _, u := range urls {
		p.endpoints = append(p.endpoints, p.newEndpoint(u))
	}
	p.stop, p.cancel = context.WithCancel(context.Background())
	return p, nil
}

// check says what is missing or impossible, but for the URLs.
func (o *Options) check() []error {
	var errs []error
	fail := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if o.Name == "" {
		fail("no name: errors and logs would not say what is asked for")
	}
	if len(o.URLs) == 0 {
		fail("no endpoint: urls is empty")
	}
	kind := "an"
	if o.Protocol == nil {
		fail("no protocol")
	} else {
		kind = article(o.Protocol.Name())
		if modes := append([]string{ModeAuto}, o.Protocol.Modes()...); !slices.Contains(modes, o.Structured) {
			fail("structured: %q is none of %s", o.Structured, strings.Join(modes, ", "))
		}
		if err := o.Parameters.Check(o.Protocol); err != nil {
			fail("parameters: %w", err)
		}
	}
	if o.Model == "" {
		fail("no model: %s endpoint must be told which", kind)
	}
	for _, n := range []struct {
		name  string
		value int64
	}{{"timeout", int64(o.Timeout)}, {"max_attempts", int64(o.MaxAttempts)},
		{"max_concurrency", int64(o.MaxConcurrency)}, {"max_tokens", int64(o.MaxTokens)},
		{"max_response_bytes", o.MaxResponseBytes}, {"breaker_failures", int64(o.BreakerFailures)},
		{"breaker_pause", int64(o.BreakerPause)}} {
		switch {
		case n.value < 0:
			fail("%s: it is negative", n.name)
		case n.value == 0:
			fail("%s: it is 0, and must be more", n.name)
		}
	}
	return errs
}

// endpoints are the URLs as they are asked, and what is wrong with the others.
func (o *Options) endpoints() (urls []string, errs []error) {
	path := ""
	if o.Protocol != nil {
		path = o.Protocol.Path()
	}
	for _, s := range o.URLs {
		u, err := parseEndpoint(s, path)
		switch {
		case err != nil:
			errs = append(errs, err)
		case slices.Contains(urls, u.String()):
			errs = append(errs, fmt.Errorf("endpoint %s is named twice", u))
		default:
			urls = append(urls, u.String())
		}
	}
	return urls, errs
}

// article is a noun with the indefinite article before it.
func article(noun string) string {
	if strings.ContainsAny(noun[:min(1, len(noun))], "aeioAEIO") {
		return "an " + noun
	}
	return "a " + noun
}

// backoff is how long a call waits when every endpoint has failed it: exponential, full jitter (Brooker, 2015).
type backoff struct {
	base, most time.Duration
	jitter     func() float64 // in [0, 1)
}

// pause is the wait after so many rounds.
func (b *backoff) pause(rounds int) time.Duration {
	return time.Duration(b.jitter() * float64(min(b.most, b.base<<min(rounds, 20))))
}

// Close ends every call in progress with ReasonClosed, and all connections.
func (p *Pool) Close() {
	p.locked(func() {
		p.closed = true
		p.dispatch()
	})
	p.cancel()
	p.client.CloseIdleConnections()
}

// Ask makes one call: at most Options.MaxAttempts attempts, each at the first endpoint of the call's order that is
// well and not busy and has not failed it yet. When all have, it waits (back-off, Retry-After) and begins anew. An
// attempt that an endpoint refuses for how it was asked is followed by one that asks otherwise, at once. It returns the
// answer, or a *CallError within ctx's deadline.
func (p *Pool) Ask(ctx context.Context, c Call) (Reply, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(p.stop, func() { cancel(errClosed) })()
	var (
		order   = p.order(c.Affinity)
		tried   = map[*endpoint]bool{}
		asked   = map[*endpoint]*search{}
		rounds  int
		spent   Usage
		last    = failure{reason: ReasonDeadline, err: errors.New("no attempt before the call's deadline")}
		where   string
		attempt int
	)
	giveUp := func() (Reply, error) {
		if errors.Is(context.Cause(ctx), errClosed) {
			last.reason, last.err = ReasonClosed, errClosed
		}
		return Reply{}, &CallError{Name: p.o.Name, Reason: last.reason, Status: last.status, Endpoint: where,
			Attempts: attempt,
			Usage:    spent, Err: last.err}
	}
	for {
		g, err := p.acquire(ctx, order, tried)
		if err != nil {
			if attempt == 0 || err.reason == ReasonCanceled || err.reason == ReasonClosed {
				last = *err
			}
			return giveUp()
		}
		if c.Attempt != nil {
			f := guarded(func() *failure {
				if err := c.Attempt(ctx, attempt+1); err != nil {
					return &failure{reason: ReasonNotAllowed, err: err, neutral: true}
				}
				return nil
			})
			if f != nil {
				p.release(g, f, nil)
				last = *f
				return giveUp()
			}
		}
		attempt++
		where = g.e.url
		g.started = time.Now()
		if asked[g.e] == nil {
			asked[g.e] = &search{}
		}
		var reply Reply
		a := &try{search: asked[g.e], call: &c, left: p.o.MaxAttempts - attempt}
		f := guarded(func() (f *failure) {
			a.use = p.choose(g, a.search, &c, a.left)
			reply, f = p.post(ctx, g.e.url, &Request{Model: p.o.Model, MaxTokens: p.o.MaxTokens, Mode: a.use,
				Names: g.names, Call: &c})
			a.kept = f == nil && p.o.Protocol.Kept(a.use, reply.Content, &c)
			return f
		})
		again := p.release(g, f, a)
		if f == nil {
			reply.add(spent)
			reply.Endpoint, reply.Attempts = where, attempt
			return reply, nil
		}
		if f.spent {
			most, mostCompleted := p.Ceiling(&c)
			if reply.PromptTokens > 0 { // it said what it took
				most, mostCompleted = reply.PromptTokens, reply.CompletionTokens
			}
			spent.add(Usage{most, mostCompleted})
		}
		last = *f
		if attempt >= p.o.MaxAttempts {
			return giveUp()
		}
		if again {
			order = first(g.e, order)
			continue
		}
		tried[g.e] = true
		if (f.retry || f.elsewhere) && p.untried(order, tried) {
			continue
		}
		if !f.retry {
			return giveUp()
		}
		clear(tried)
		wait := p.backoff.pause(rounds)
		rounds++
		if deadline, ok := ctx.Deadline(); ok && time.Until(deadline) <= wait {
			return giveUp()
		}
		select {
		case <-ctx.Done():
			if errors.Is(ctx.Err(), context.Canceled) {
				last.reason, last.err = ReasonCanceled, errors.New("cancelled")
			}
			return giveUp()
		case <-time.After(wait):
		}
	}
}

// first is order with e in front.
func first(e *endpoint, order []*endpoint) []*endpoint {
	return append([]*endpoint{e}, slices.DeleteFunc(slices.Clone(order), func(other *endpoint) bool {
		return other == e
	})...)
}

// guarded runs a step of an attempt. A panic in it is a failure of the attempt, whose grant is then given back as ever;
// it may have cost what an attempt can cost, and says nothing about the endpoint's health.
func guarded(step func() *failure) (f *failure) {
	defer func() {
		if x := recover(); x != nil {
			f = &failure{reason: ReasonPanic, err: pipeline.Recovered(x), spent: true, neutral: true}
		}
	}()
	return step()
}

var errClosed = errors.New("the pool is closed")

// EndpointStatus is what /status shows of an endpoint.
type EndpointStatus struct {
	URL          string    `json:"url"`
	Breaker      string    `json:"breaker"` // closed, open, half-open
	Limit        int       `json:"limit"`   // of calls at once, now
	InFlight     int       `json:"in_flight"`
	Structured   string    `json:"structured"`           // how the answer's form is asked for
	Parameters   Names     `json:"parameters,omitempty"` // that go out under another name, or not at all (omit)
	Refuses      string    `json:"refuses,omitempty"`    // every request, and why; in our own words
	Latency      float64   `json:"latency_seconds"`
	LastReason   Reason    `json:"last,omitempty"`         // how the last attempt ended
	NotBefore    time.Time `json:"not_before,omitzero"`    // it asked to be left alone until then
	BreakerUntil time.Time `json:"breaker_until,omitzero"` // when an open breaker lets one call try
}

// Status is a snapshot, in the order of Options.URLs.
func (p *Pool) Status() []EndpointStatus {
	p.mu.Lock()
	defer p.unlock()
	now := time.Now()
	var s []EndpointStatus
	for _, e := range p.endpoints {
		st := EndpointStatus{
			URL: e.url, Breaker: e.breaker.State().String(), Limit: e.limiter.slots(), InFlight: e.limiter.inFlight,
			Structured: e.mode, Parameters: e.names, Latency: e.limiter.recent.Seconds(), LastReason: e.last,
		}
		if e.refusing != nil {
			st.Refuses = e.refusing.err.Error()
		}
		if e.coolUntil.After(now) {
			st.NotBefore = e.coolUntil
		}
		if st.Breaker == "open" {
			st.BreakerUntil = e.openUntil
		}
		s = append(s, st)
	}
	return s
}
