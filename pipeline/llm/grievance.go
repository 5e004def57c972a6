package llm

import (
	"fmt"
	"strings"
	"time"
	"unicode"

	"github.com/sony/gobreaker/v2"
)

// This file owns what becomes of refusals that last: they are told once, count against the endpoint's health, and end
// calls at once while every endpoint has them. Everything here is under Pool.mu.

// grievance is what an endpoint refuses.
type grievance struct {
	refusing *failure             // it refuses every request, with this; nil: it does not
	refusals int                  // in a row that only its breaker's own count tells from failures; an answer ends it
	open     bool                 // the log has been told that it refuses, and not yet that it no longer does
	told     map[string]time.Time // refusals that the log has been told of, and when
	why      []any                // of the last failure, for the log
}

const (
	tellAgain  = 10 * time.Minute // the same refusal is told again, when there were answers in between
	mostAtOnce = 8                // different refusals that are told within tellAgain: their words may be the texts'
	mostTold   = 32               // refusals that are kept apart
)

// key names what a refusal says: two with equal keys differ in numbers, or in words with digits, at most.
func (f *failure) key() string {
	fields := strings.Fields(f.said)
	for i, w := range fields {
		if strings.ContainsFunc(w, unicode.IsDigit) {
			fields[i] = "#"
		}
	}
	return fmt.Sprint(f.reason, f.status, strings.Join(fields, " "))
}

// words are what a log says of a refusal beside its reason.
func (f *failure) words() []any {
	var args []any
	if f.status != 0 {
		args = append(args, "status", f.status)
	}
	if f.said != "" {
		args = append(args, "said", f.said)
	}
	return args
}

// hear takes note of how an attempt ended that was not one to learn from, and returns what the breaker is told.
//
// A refusal of one question says nothing about the endpoint. One that names no cause may be either: it counts as
// neither until there were Options.BreakerFailures of them with no answer in between; then the endpoint refuses
// everything, and its breaker opens.
func (p *Pool) hear(e *endpoint, f *failure, now time.Time) error {
	switch {
	case f.answered():
		p.heardAnswer(e)
		return nil
	case f.neutral:
		return errNeutral
	case f.own:
		p.tellRefusal(e, f, now)
		if e.refusing != nil {
			return errNeutral
		}
		return nil
	case f.reason.lasts():
		e.refusing, e.why = f, nil // the sentence is told here
		p.tellRefusal(e, f, now)
		if f.sick {
			return f.err
		}
		if e.refusals++; e.refusals >= p.o.BreakerFailures {
			return f.err
		}
		if e.state == gobreaker.StateHalfOpen { // it has failed otherwise before, and no longer does
			return nil
		}
		return errNeutral
	}
	e.refusing, e.why = nil, append([]any{"error", f.err}, f.words()...)
	if f.sick {
		return f.err
	}
	return nil
}

// heardAnswer ends what was refused.
func (p *Pool) heardAnswer(e *endpoint) {
	told := e.open && e.state == gobreaker.StateClosed // else the breaker says so
	e.refusing, e.refusals, e.open, e.why = nil, 0, false, nil
	if told {
		p.tell(func() {
			p.o.Logger.Info(article(p.o.Name)+" endpoint takes requests again", "endpoint", e.url)
		})
	}
}

// tellRefusal tells the log of a refusal that it has not been told of. One that lasts is told again where there were
// answers in between, but not all the time: some records may be refused among others that are answered.
func (p *Pool) tellRefusal(e *endpoint, f *failure, now time.Time) {
	key := f.key()
	if at, ok := e.told[key]; ok && (f.own || e.open || now.Sub(at) < tellAgain) {
		return
	}
	oldest, recent := "", 0
	for k, at := range e.told {
		if oldest == "" || at.Before(e.told[oldest]) {
			oldest = k
		}
		if now.Sub(at) < tellAgain {
			recent++
		}
	}
	if recent >= mostAtOnce {
		return
	}
	if len(e.told) >= mostTold {
		delete(e.told, oldest)
	}
	e.told[key] = now
	e.open = e.open || !f.own
	says := " endpoint refuses requests"
	if f.own {
		says = " endpoint refuses a question, and may refuse others"
	}
	args := append([]any{"endpoint", e.url, "reason", f.reason, "error", f.err}, f.words()...)
	p.tell(func() { p.o.Logger.Warn(article(p.o.Name)+says, args...) })
}

// stillRefused is why a call is given up that no endpoint will take; nil: one may. That there is no such path is waited
// for, as a failure is: a proxy says so while the endpoint behind it starts.
func (p *Pool) stillRefused(now time.Time) *failure {
	if p.downSince.IsZero() {
		return nil
	}
	for _, e := range p.endpoints {
		if e.refusing == nil || e.refusing.reason == ReasonNotFound && now.Sub(p.downSince) < maxDown {
			return nil
		}
	}
	f := p.endpoints[0].refusing
	return &failure{reason: f.reason, status: f.status, err: fmt.Errorf("%w; the last was %w", errStillRefusing, f.err)}
}
