package llm_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"sluice/pipeline/llm"
	"sluice/pipeline/llm/standin"
)

// This file owns the tests of panics within a call: each is that call's failure, and what the call held is given back.

// outOfRange panics as Go's runtime does.
func outOfRange(text string) { neverRead = text[len(text):][0] }

var neverRead byte

func TestAPanicOfTheCallersOwnStepEndsTheCall(t *testing.T) {
	inBubble(t, func(t *bubble) {
		p := t.pool(llm.Options{MaxConcurrency: 1}, "a")
		c := question(t.task, "good")
		c.Attempt = func(context.Context, int) error { panic("no budget at all") }
		var e *llm.CallError
		if _, err := p.Ask(t.Context(), c); !errors.As(err, &e) || e.Reason != llm.ReasonPanic || e.Attempts != 0 {
			t.Errorf("%v", err)
		}
		t.must(p, "good") // the one slot is free again
	})
}

// net/http dials in goroutines of its own.
func TestAPanicWhileConnectingIsAFailedAttempt(t *testing.T) {
	inBubble(t, func(t *bubble) {
		var dials atomic.Int32
		p, err := llm.NewPool(filled(llm.Options{URLs: []string{"http://a/v1"}, Model: "stub", MaxAttempts: 1,
			Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
				if dials.Add(1) == 1 {
					outOfRange(address)
				}
				return t.net.Dial(ctx, network, address)
			}}))
		if err != nil {
			t.Fatal(err)
		}
		defer p.Close()
		if e := t.fails(t.Context(), p, "good"); e.Reason != llm.ReasonPanic || !strings.Contains(e.Error(),
			"llm_test.outOfRange") {
			t.Errorf("%+v", e)
		}
		t.must(p, "good")
	})
}

// While all endpoints are left alone a timer looks for one that may be asked again. Nobody waits for that goroutine.
func TestAPanicOfTheTimerLeavesThePoolUsable(t *testing.T) {
	inBubble(t, func(t *bubble) {
		logs := &lockedBuffer{}
		p := t.pool(llm.Options{MaxAttempts: 1, BreakerFailures: 1, Logger: slog.New(slog.NewTextHandler(logs, nil)),
			Observer: llm.Observer{Breaker: func(_, state string) {
				if state == "half-open" {
					panic(fmt.Sprint("no gauge for ", state))
				}
			}}}, "a")
		t.a.Always(standin.Status(http.StatusInternalServerError, ""))
		t.fails(t.Context(), p, "good")
		t.a.Always(standin.Good())
		waited := make(chan error, 1)
		go func() {
			_, err := p.Ask(t.Context(), question(t.task, "good"))
			waited <- err
		}()
		synctest.Wait()
		if err := <-waited; err != nil {
			t.Errorf("the call that waited: %v", err)
		}
		t.must(p, "good")
		if !strings.Contains(logs.String(), "telling what happened to an endpoint panicked") {
			t.Errorf("the log:\n%s", logs)
		}
	})
}

// Who takes a grant also tells what changed meanwhile: the breaker has half-opened. A panic there must not keep the one
// probe.
func TestAPanicOfAnObserverKeepsNoGrant(t *testing.T) {
	inBubble(t, func(t *bubble) {
		p := t.pool(llm.Options{MaxAttempts: 1, MaxConcurrency: 1, BreakerFailures: 1,
			Observer: llm.Observer{Breaker: func(_, state string) {
				if state == "half-open" {
					panic("no gauge")
				}
			}}}, "a")
		t.a.Always(standin.Status(http.StatusInternalServerError, ""))
		t.fails(t.Context(), p, "good")
		t.a.Always(standin.Good())
		time.Sleep(time.Minute) // the breaker half-opens at the next call, which finds it so
		func() {
			defer func() { recover() }()
			p.Ask(t.Context(), question(t.task, "good"))
		}()
		t.must(p, "good")
		if s := p.Status()[0]; s.Breaker != "closed" || s.InFlight != 0 {
			t.Errorf("afterwards %+v", s)
		}
	})
}

// lockedBuffer is a log that is read while it is written.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
