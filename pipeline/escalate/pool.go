// Package escalate is the second stage: what the local models were unsure of is asked of an OpenAI-compatible endpoint.
//
// This file owns a Pool's options and a call's way through attempts: which endpoint, how often, how long to wait
// between. One attempt is endpoint.go's; who may be asked now is queue.go's.
package escalate

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

// PoolOptions say how endpoints are asked. NewPool fills in what is zero.
type PoolOptions struct {
	URLs   []string // of OpenAI-compatible APIs, up to and with /v1; /chat/completions is added
	Model  string
	APIKey func() (pipeline.Secret, error) // read before every attempt (KeyFile); nil: none

	Timeout          time.Duration // of one attempt, until the last byte; 30 s
	MaxAttempts      int           // of one call, all endpoints together; 4
	MaxConcurrency   int           // of one endpoint; the limit adapts itself below it; 32
	MaxTokens        int           // of an answer; 256
	MaxResponseBytes int64         // of an answer with everything around it; 256 KiB
	Structured       string        // one of StructuredModes; auto

	BackoffBase, BackoffMax time.Duration // exponential, full jitter; 250 ms, 15 s
	MaxRetryAfter           time.Duration // the longest that Retry-After is honoured; 60 s
	// in a row that open an endpoint's breaker (half of at least 20 within 30 s do, too); 5
	BreakerFailures int
	BreakerOpen     time.Duration // until one call may try again; 10 s
	// how long calls wait (within their deadline) while all endpoints fail, before they are given up at once; 30 s
	MaxDown time.Duration

	// Proxy is an http, https or socks5 URL; "": none, whatever the environment says. With one, which address an
	// endpoint's name stands for is the proxy's business: only addresses written as numbers are checked then.
	Proxy string
	TLS   *tls.Config // nil: the system's

	Logger   *slog.Logger // nil: none
	Observer Observer

	// Dial stands in for the network in tests. Its addresses are not checked.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
}

// Observer is told what happens, for metrics. Any of it may be nil. It must not block and must not call the pool.
type Observer struct {
	Attempt func(endpoint string, reason Reason, took time.Duration) // an attempt has ended
	Breaker func(endpoint, state string)                             // closed, open, half-open
}

// Pool asks endpoints. Its methods may be called concurrently.
type Pool struct {
	o      PoolOptions
	client *http.Client
	stop   context.Context
	cancel context.CancelFunc
	jitter func() float64 // in [0, 1)

	mu        sync.Mutex
	endpoints []*endpoint
	waiters   []*waiter
	wake      *time.Timer
	downSince time.Time // since when no breaker is closed; zero: one is
	events    []func()  // for the observer and the log, told after mu is released
	telling   sync.Mutex
	closed    bool
}

// NewPool checks the options. Nothing is connected to before the first call.
func NewPool(o PoolOptions) (*Pool, error) {
	for _, f := range []func(){
		func() { setDefault(&o.Timeout, 30*time.Second) },
		func() { setDefault(&o.MaxAttempts, 4) },
		func() { setDefault(&o.MaxConcurrency, 32) },
		func() { setDefault(&o.MaxTokens, 256) },
		func() { setDefault(&o.MaxResponseBytes, 256<<10) },
		func() { setDefault(&o.Structured, StructuredAuto) },
		func() { setDefault(&o.BackoffBase, 250*time.Millisecond) },
		func() { setDefault(&o.BackoffMax, 15*time.Second) },
		func() { setDefault(&o.MaxRetryAfter, 60*time.Second) },
		func() { setDefault(&o.BreakerFailures, 5) },
		func() { setDefault(&o.BreakerOpen, 10*time.Second) },
		func() { setDefault(&o.MaxDown, 30*time.Second) },
		func() { setDefault(&o.Logger, slog.New(slog.DiscardHandler)) },
	} {
		f()
	}
	var errs []error
	if len(o.URLs) == 0 {
		errs = append(errs, errors.New("no endpoint: urls is empty"))
	}
	if o.Model == "" {
		errs = append(errs, errors.New("no model: an OpenAI-compatible endpoint must be told which"))
	}
	if o.Timeout < 0 || o.MaxAttempts < 0 || o.MaxConcurrency < 0 || o.MaxTokens < 0 || o.MaxResponseBytes < 0 ||
		o.BackoffBase < 0 || o.BackoffMax < 0 || o.MaxRetryAfter < 0 || o.BreakerFailures < 0 || o.BreakerOpen < 0 ||
		o.MaxDown < 0 {
		errs = append(errs, errors.New("a limit, number or time is negative"))
	}
	if !slices.Contains(StructuredModes(), o.Structured) {
		errs = append(errs, fmt.Errorf("structured: %q is none of %s", o.Structured, strings.Join(StructuredModes(),
			", ")))
	}
	client, err := newClient(&o)
	if err != nil {
		errs = append(errs, err)
	}
	p := &Pool{o: o, client: client, jitter: rand.Float64}
	seen := map[string]bool{}
	for _, s := range o.URLs {
		u, err := parseEndpoint(s)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if seen[u.String()] {
			errs = append(errs, fmt.Errorf("endpoint %s is named twice", u))
			continue
		}
		seen[u.String()] = true
		p.endpoints = append(p.endpoints, p.newEndpoint(u.String()))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("escalation endpoint: %w", err)
	}
	p.stop, p.cancel = context.WithCancel(context.Background())
	return p, nil
}

func setDefault[T comparable](v *T, standard T) {
	var zero T
	if *v == zero {
		*v = standard
	}
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

// Ask makes one call: at most PoolOptions.MaxAttempts attempts, each at the first endpoint of the call's order that is
// well and not busy and has not failed it yet. When all have, it waits (back-off, Retry-After) and begins anew. It
// returns the answer, or a *CallError within ctx's deadline.
func (p *Pool) Ask(ctx context.Context, c Call) (Reply, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(p.stop, func() { cancel(errClosed) })()
	var (
		order   = p.order(c.Affinity)
		tried   = map[*endpoint]bool{}
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
		return Reply{}, &CallError{Reason: last.reason, Status: last.status, Endpoint: where, Attempts: attempt,
			Usage: spent, Err: last.err}
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
				p.release(g, f, g.mode)
				last = *f
				return giveUp()
			}
		}
		attempt++
		where = g.e.url
		g.started = time.Now()
		var reply Reply
		mode := g.mode
		f := guarded(func() (f *failure) {
			reply, mode, f = p.ask(ctx, g, &c)
			return f
		})
		p.release(g, f, mode)
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
		if !f.retry || attempt >= p.o.MaxAttempts {
			return giveUp()
		}
		tried[g.e] = true
		if p.untried(order, tried) {
			continue
		}
		clear(tried)
		wait := time.Duration(p.jitter() * float64(min(p.o.BackoffMax, p.o.BackoffBase<<min(rounds, 20))))
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
	Structured   string    `json:"structured"` // how the answer's form is asked for
	Latency      float64   `json:"latency_seconds"`
	LastReason   Reason    `json:"last,omitempty"`         // how the last attempt ended
	NotBefore    time.Time `json:"not_before,omitzero"`    // it asked to be left alone until then
	BreakerUntil time.Time `json:"breaker_until,omitzero"` // when an open breaker lets one call try
}

// Status is a snapshot, in the order of PoolOptions.URLs.
func (p *Pool) Status() []EndpointStatus {
	p.mu.Lock()
	defer p.unlock()
	now := time.Now()
	var s []EndpointStatus
	for _, e := range p.endpoints {
		st := EndpointStatus{
			URL: e.url, Breaker: e.breaker.State().String(), Limit: e.limiter.slots(), InFlight: e.limiter.inFlight,
			Structured: e.mode, Latency: e.limiter.recent.Seconds(), LastReason: e.last,
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
