package llm

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/sony/gobreaker/v2"

	"sluice/pipeline"
)

// This file owns one attempt at one endpoint: the request as it goes out, and the strict reading of what comes back.
// What an endpoint says never gets into an error; of a refusal there is one sentence for the log (said).

// endpoint is one URL and what is known about it. Pool.mu guards everything below url.
type endpoint struct {
	url string // without the slash at its end; holds no credentials

	breaker   *gobreaker.TwoStepCircuitBreaker[struct{}]
	state     gobreaker.State // as last told by the breaker
	openUntil time.Time       // when an open breaker lets one call through
	coolUntil time.Time       // Retry-After: no call before
	limiter   limiter
	last      Reason // of the last attempt that ended
	manners          // how it wants to be asked
	grievance        // what it refuses
}

// failure is an attempt without an answer.
type failure struct {
	reason     Reason
	status     int
	err        error
	retry      bool          // another attempt may bring an answer
	retryAfter time.Duration // what the endpoint asked for; 0: nothing
	spent      bool          // it may have cost tokens
	load       signal
	sick       bool // counts against the endpoint's health
	neutral    bool // says nothing about the endpoint's health
	elsewhere  bool // another attempt may bring an answer, but not at this endpoint
	own        bool // it refuses this question, and would take others
	form       bool // it may be about how the answer's form was asked for
	named      bool // and says so
	gone       bool // the endpoint may have been replaced by another program

	parameter, instead string // it does not take the parameter of this name, and wants that name for it
	said               string // the endpoint's own words, fit for a log; "": none
}

// answered says that the endpoint took the request and its model said something.
func (f *failure) answered() bool {
	return f == nil || f.status == http.StatusOK && !f.sick && !f.own && f.load == signalAnswered
}

// post sends one request and reads its answer.
func (p *Pool) post(ctx context.Context, url string, r *Request) (Reply, *failure) {
	body, err := p.o.Protocol.Encode(r)
	if err != nil {
		return Reply{}, &failure{reason: ReasonRefused, err: fmt.Errorf("the request cannot be encoded: %w", err),
			neutral: true}
	}
	var key pipeline.Secret
	if p.o.APIKey != nil {
		if key, err = p.o.APIKey(); err == nil {
			err = checkKey(key.Reveal())
		}
		if err != nil {
			return Reply{}, &failure{reason: ReasonAPIKey, err: err, neutral: true}
		}
	}
	attempt, cancel := attemptContext(ctx, p.o.Timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(attempt, http.MethodPost, url+p.o.Protocol.Path(), bytes.NewReader(body))
	if err != nil {
		return Reply{}, &failure{reason: ReasonRefused, err: errors.New("the request cannot be made"), neutral: true}
	}
	req.Header.Set("User-Agent", "sluice")
	p.o.Protocol.Header(req.Header, key)
	start := time.Now()
	resp, err := p.client.Do(req)
	if err != nil {
		return Reply{}, p.broken(ctx, attempt, err, time.Since(start))
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return Reply{}, p.refused(resp, r, key, start)
	}
	if t, _, err := mime.ParseMediaType(resp.Header.Get("Content-Type")); err != nil || t != "application/json" ||
		resp.Header.Get("Content-Encoding") != "" {
		return Reply{}, sick(ReasonContentType, "the answer is not plain application/json; is there a proxy, or "+
			"another program, at this URL?")
	}
	answer, err := io.ReadAll(io.LimitReader(resp.Body, p.o.MaxResponseBytes+1))
	if err != nil {
		return Reply{}, p.broken(ctx, attempt, err, time.Since(start))
	}
	if int64(len(answer)) > p.o.MaxResponseBytes {
		return Reply{}, sick(ReasonTooLarge, "the answer is larger than %d bytes", p.o.MaxResponseBytes)
	}
	reply, f := p.read(answer, r, key)
	reply.Took, reply.Structured = time.Since(start), r.Mode
	return reply, f
}

func sick(reason Reason, format string, args ...any) *failure {
	return &failure{reason: reason, status: http.StatusOK, err: fmt.Errorf(format, args...), retry: true, spent: true,
		sick: true, load: signalAnswered}
}

// broken is the failure of an attempt whose connection failed, or whose time ran out.
func (p *Pool) broken(ctx, attempt context.Context, err error, took time.Duration) *failure {
	switch {
	case ctx.Err() != nil && errors.Is(ctx.Err(), context.Canceled):
		return &failure{reason: ReasonCanceled, err: errors.New("cancelled"), spent: true, neutral: true}
	case ctx.Err() != nil && 2*took < p.o.Timeout: // the caller's haste says nothing about the endpoint
		return &failure{reason: ReasonDeadline, err: errors.New("no whole answer before the call's deadline"),
			spent: true, neutral: true}
	case ctx.Err() != nil:
		return &failure{reason: ReasonDeadline, err: errors.New("no whole answer before the call's deadline"),
			spent: true, sick: true, load: signalOverload}
	case attempt.Err() != nil:
		return &failure{reason: ReasonTimeout, err: fmt.Errorf("no whole answer within %v (timeout)", p.o.Timeout),
			retry: true, spent: true, sick: true, load: signalOverload}
	}
	reason, sentence := reasonOf(err)
	// A connection that broke after the request went out may have been served: only what failed while connecting was
	// not.
	var dial bool
	if reason == ReasonConnect {
		dial = strings.HasPrefix(sentence.Error(), "dial") || strings.HasPrefix(sentence.Error(), "host ")
	}
	return &failure{reason: reason, err: sentence, retry: true, sick: true, gone: true,
		spent: reason == ReasonConnect && !dial}
}

// retryAfter reads a Retry-After header (RFC 9110, 10.2.3): seconds, or a date.
func retryAfter(h string, now time.Time) (time.Duration, bool) {
	h = strings.TrimSpace(h)
	if h == "" {
		return 0, false
	}
	if s, err := strconv.ParseInt(h, 10, 64); err == nil {
		if s < 0 {
			return 0, false
		}
		return time.Duration(min(s, int64(24*time.Hour/time.Second))) * time.Second, true
	}
	t, err := http.ParseTime(h)
	if err != nil {
		return 0, false
	}
	return max(0, t.Sub(now)), true
}

// read judges a whole answer with status 200 to a request that was sent with the key.
func (p *Pool) read(body []byte, q *Request, key pipeline.Secret) (Reply, *failure) {
	a, err := p.o.Protocol.Decode(body)
	var r Reply
	if a != nil {
		c := q.Call
		r.Content = a.Content
		var guessed [2]bool
		most, mostCompleted := p.Ceiling(c)
		if !p.bounded(q.Names) { // nothing but its size bounds the answer
			mostCompleted = max(mostCompleted, int(p.o.MaxResponseBytes))
		}
		r.PromptTokens, guessed[0] = plausible(a.PromptTokens, 1, most, promptBytes(c)/4+8*len(c.Messages))
		r.CompletionTokens, guessed[1] = plausible(a.CompletionTokens, 1, mostCompleted, len(a.Content)/4+1)
		r.UsageEstimated = guessed[0] || guessed[1]
	}
	final := func(reason Reason, format string, args ...any) *failure {
		return &failure{reason: reason, status: http.StatusOK, err: fmt.Errorf(format, args...), spent: true,
			load: signalAnswered}
	}
	switch {
	case err != nil:
		if f := p.refusedWithin(body, q, key); f != nil {
			return r, f
		}
		return r, sick(ReasonMalformed, "%w", err)
	case a.End == EndRefusal:
		return r, final(ReasonRefusal, "the model or its filter declined to answer")
	case a.End == EndLength:
		return r, final(ReasonLength, "the answer was cut off at max_tokens (%d)", p.o.MaxTokens)
	case strings.TrimSpace(a.Content) == "":
		f := final(ReasonEmpty, "the answer has no text")
		f.form = true
		return r, f
	}
	return r, nil
}

// plausible is n where it is a whole number within low and high; high where it is more; else the estimate. It reports
// whether n was not taken as it is.
func plausible(n json.Number, low, high, estimate int) (int, bool) {
	v, err := strconv.ParseInt(n.String(), 10, 64)
	switch {
	case err == nil && v >= int64(low) && v <= int64(high):
		return int(v), false
	case err == nil && v > int64(high):
		return high, true
	}
	return min(max(estimate, low), high), true
}

func promptBytes(c *Call) int {
	n := 0
	for _, m := range c.Messages {
		n += len(m.Content)
	}
	return n
}

// Ceiling is the most that one attempt at c can take: a token stands for at least one byte (SentencePiece writes a
// space as three), and a chat template adds a few to each message. A budget that charges this before a call is never
// passed, as long as the parameter that bounds an answer (Parameter.Bounds) is not left out.
func (p *Pool) Ceiling(c *Call) (prompt, completion int) {
	spaces := 0
	for _, m := range c.Messages {
		spaces += strings.Count(m.Content, " ")
	}
	return promptBytes(c) + 2*spaces + len(c.Schema) + 16*len(c.Messages) + 64, p.o.MaxTokens
}
