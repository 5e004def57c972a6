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
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sony/gobreaker/v2"

	"sluice/pipeline"
)

// This file owns one attempt at one endpoint: the request as it goes out, the strict reading of what comes back, and
// which failure is whose. What an endpoint says never gets into an error or a log.

// endpoint is one URL and what is known about it. Pool.mu guards everything below url.
type endpoint struct {
	url string // without the slash at its end; holds no credentials

	breaker   *gobreaker.TwoStepCircuitBreaker[struct{}]
	state     gobreaker.State // as last told by the breaker
	openUntil time.Time       // when an open breaker lets one call through
	coolUntil time.Time       // Retry-After: no call before
	limiter   limiter
	mode      string // of structured output
	proven    bool   // mode has worked
	last      Reason // of the last attempt that ended
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
	form       bool // it may be about how the answer's form was asked for
	named      bool // and says so
	gone       bool // the endpoint may have been replaced by another program
}

// ask makes one attempt, in the grant's mode and, where the endpoint refuses that, in the modes after it. A mode that
// has worked before is only left for a refusal that names it; one that has not, for any refusal, and for an answer
// without text, which no enforced form can give: should all modes bring the same, it was not the mode. It returns the
// mode that is to be used from now on if the attempt brought an answer.
func (p *Pool) ask(ctx context.Context, g *grant, c *Call) (Reply, string, *failure) {
	var spent Usage
	mode := g.mode
	for {
		use := p.usable(mode, c)
		reply, f := p.post(ctx, g.e.url, &Request{Model: p.o.Model, MaxTokens: p.o.MaxTokens, Mode: use, Call: c})
		if f == nil || !g.learn || use == ModeNone || !f.named && (g.proven || !f.form) {
			if f == nil && g.learn && !p.o.Protocol.Kept(use, reply.Content, c) {
				mode = p.nextMode(use)
			} else if use != p.usable(g.mode, c) {
				mode = use
			}
			reply.add(spent)
			return reply, mode, f
		}
		spent.add(reply.Usage)
		mode = p.nextMode(use)
	}
}

// usable is mode, or the next that c has what it takes for.
func (p *Pool) usable(mode string, c *Call) string {
	for mode != ModeNone && !p.o.Protocol.Takes(mode, c) {
		mode = p.nextMode(mode)
	}
	return mode
}

// nextMode is the one to try where an endpoint does not understand mode.
func (p *Pool) nextMode(mode string) string {
	modes := p.o.Protocol.Modes()
	if i := slices.Index(modes, mode); i >= 0 && i+1 < len(modes) {
		return modes[i+1]
	}
	return ModeNone
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
		return Reply{}, p.refusal(resp, start)
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
	reply, f := p.read(answer, r.Call)
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

// refusal is the failure that a status other than 200 stands for.
func (p *Pool) refusal(resp *http.Response, start time.Time) *failure {
	code := resp.StatusCode
	f := &failure{reason: ReasonStatus, status: code, retry: true, sick: true, load: signalNone}
	after, asked := retryAfter(resp.Header.Get("Retry-After"), start)
	f.retryAfter = min(after, maxRetryAfter)
	complaint := ComplaintOther
	if code == 400 || code == 422 || code == 500 || code == 501 {
		// Only looked at for words that the protocol knows; it may repeat the text, so that it goes no further.
		body, _ := io.ReadAll(io.LimitReader(resp.Body, min(p.o.MaxResponseBytes, 64<<10)))
		complaint = p.o.Protocol.Complaint(code, body)
	}
	switch {
	case code == 429, code == 503 && asked:
		f.reason, f.sick, f.load = ReasonRateLimited, false, signalOverload
		f.err = fmt.Errorf("status %d: the endpoint has too much to do", code)
	case code == 503:
		f.load = signalOverload
	case code == 413, complaint == ComplaintLength:
		f.reason, f.retry, f.sick = ReasonTooLong, false, false
		f.err = fmt.Errorf("status %d: the question is longer than the endpoint takes; its context must hold prompt, "+
			"text and max_tokens", code)
	case code == 400 || code == 422:
		f.reason, f.retry, f.sick, f.form, f.named = ReasonRefused, false, false, true, complaint == ComplaintForm
		f.err = fmt.Errorf("status %d: the endpoint refuses the request; see its own log, and try "+
			"%s.endpoint.structured: none", code, p.o.Name)
	case complaint == ComplaintForm: // not a fault of the server's, whatever its status says
		f.reason, f.retry, f.sick, f.named = ReasonRefused, false, false, true
		f.err = fmt.Errorf("status %d: the endpoint does not take this way of asking for an answer's form; try "+
			"%s.endpoint.structured: auto", code, p.o.Name)
	case code == 401 || code == 402 || code == 403:
		f.reason, f.err = ReasonUnauthorized, fmt.Errorf("status %d: the key is missing or wrong, may not use this "+
			"model, or has no credit; check api_key_file", code)
	case code == 404:
		f.reason, f.err = ReasonNotFound, fmt.Errorf("status 404: there is no such path or no model %q; check urls "+
			"(they usually end with /v1) and model", p.o.Model)
	case code >= 300 && code < 400:
		f.reason, f.err = ReasonRedirect, fmt.Errorf("status %d: the endpoint redirects, which is never followed; "+
			"write the final URL into the configuration", code)
	case code == 408 || code == 425 || code >= 500 || code < 300:
	default:
		f.reason, f.retry, f.sick = ReasonRefused, false, false
	}
	if f.err == nil {
		f.err = fmt.Errorf("status %d", code)
	}
	return f
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

// read judges a whole answer with status 200.
func (p *Pool) read(body []byte, c *Call) (Reply, *failure) {
	a, err := p.o.Protocol.Decode(body)
	var r Reply
	if a != nil {
		r.Content = a.Content
		var guessed [2]bool
		most, mostCompleted := p.Ceiling(c)
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
// passed.
func (p *Pool) Ceiling(c *Call) (prompt, completion int) {
	spaces := 0
	for _, m := range c.Messages {
		spaces += strings.Count(m.Content, " ")
	}
	return promptBytes(c) + 2*spaces + len(c.Schema) + 16*len(c.Messages) + 64, p.o.MaxTokens
}
