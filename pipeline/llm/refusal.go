package llm

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"sluice/pipeline"
)

// This file owns whose fault a refusal is: the endpoint's, the configuration's or the question's, by status and by what
// the protocol reads in the body.

// maxRefusalBytes is how much of a refusal's body is read.
const maxRefusalBytes = 64 << 10

// refused is the failure that an answer with another status than 200 stands for.
func (p *Pool) refused(resp *http.Response, r *Request, key pipeline.Secret, start time.Time) *failure {
	body, err := io.ReadAll(io.LimitReader(resp.Body, min(p.o.MaxResponseBytes, maxRefusalBytes)))
	if err != nil {
		body = nil // the status says enough, and half a sentence may be about anything
	}
	refusal := p.o.Protocol.Refusal(resp.StatusCode, body, p.sent(r.Names))
	refusal = refusal.doubted(r.Call)
	after, asked := retryAfter(resp.Header.Get("Retry-After"), start)
	f := p.judge(resp.StatusCode, refusal, asked)
	f.retryAfter = min(after, maxRetryAfter)
	f.said = said(refusal.Sentence, r, key)
	return f
}

// refusedWithin is the failure that an answer with status 200 stands for that is a refusal all the same; nil: it is
// none. Whether it has cost anything nobody knows.
func (p *Pool) refusedWithin(body []byte, r *Request, key pipeline.Secret) *failure {
	refusal := p.o.Protocol.Refusal(http.StatusOK, body[:min(len(body), maxRefusalBytes)], p.sent(r.Names))
	if refusal.Sentence == "" && refusal.Status == 0 {
		return nil
	}
	refusal = refusal.doubted(r.Call)
	code := refusal.Status
	if code < 400 {
		code = http.StatusBadRequest
		if refusal.About == ComplaintOther || refusal.About == ComplaintForm { // it may be a passing fault
			code = http.StatusInternalServerError
		}
	}
	f := p.judge(code, refusal, false)
	f.status, f.spent, f.said = http.StatusOK, true, said(refusal.Sentence, r, key)
	f.err = fmt.Errorf("an error in an answer with status 200, as good as %w", f.err)
	return f
}

// doubted is the refusal without a parameter whose name may have been the text's: some endpoints repeat that.
func (r Refusal) doubted(c *Call) Refusal {
	if r.About == ComplaintParameter && !r.Apart && slices.ContainsFunc(c.Messages, func(m Message) bool {
		return m.Role != "system" && strings.Contains(fold(m.Content), fold(r.Parameter))
	}) {
		r.About, r.Parameter, r.Instead = ComplaintOther, "", ""
	}
	return r
}

// sent are the names under which parameters go out.
func (p *Pool) sent(names Names) (sent []string) {
	for _, parameter := range p.o.Protocol.Parameters() {
		if name := names.Of(parameter.Name); name != "" {
			sent = append(sent, name)
		}
	}
	return sent
}

// bounded says that a request bounds its answer.
func (p *Pool) bounded(names Names) bool {
	return !slices.ContainsFunc(p.o.Protocol.Parameters(), func(parameter Parameter) bool {
		return parameter.Bounds && names.Of(parameter.Name) == ""
	})
}

// judge says whose fault a refusal is. asked: there is a Retry-After.
func (p *Pool) judge(code int, refusal Refusal, asked bool) *failure {
	f := &failure{reason: ReasonStatus, status: code, retry: true, sick: true, load: signalNone}
	why := func(format string, args ...any) {
		f.err = fmt.Errorf("status %d: %w", code, fmt.Errorf(format, args...))
	}
	aboutRequest := code == 400 || code == 422 || code == 500 || code == 501
	switch about := refusal.About; {
	case code == 413, about == ComplaintLength && aboutRequest:
		f.reason, f.retry, f.sick, f.own = ReasonTooLong, false, false, true
		why("the question is longer than the endpoint takes; its context must hold prompt, text and max_tokens")
	case about == ComplaintFilter && (aboutRequest || code == 403 || code == 451):
		f.reason, f.retry, f.sick, f.own = ReasonRefusal, false, false, true
		why("the endpoint's content filter does not let the text through")
	case code == 402, about == ComplaintQuota && !asked:
		f.reason, f.retry, f.elsewhere = ReasonQuota, false, true
		why("the account has no credit left; look at its plan and billing, or ask another endpoint")
	case code == 429, code == 503 && asked:
		f.reason, f.sick, f.load = ReasonRateLimited, false, signalOverload
		why("the endpoint has too much to do")
	case code == 503:
		f.load = signalOverload
	case about == ComplaintParameter && aboutRequest:
		f.reason, f.retry, f.sick, f.elsewhere = ReasonRefused, false, false, true
		f.parameter, f.instead = refusal.Parameter, refusal.Instead
		why("the endpoint does not take the parameter %s; rename it or leave it out with %s.endpoint.parameters",
			refusal.Parameter, p.o.Name)
	case code == 404, about == ComplaintModel && aboutRequest:
		f.reason = ReasonNotFound
		why("there is no such path or no model %q; check urls (they usually end with /v1) and model", p.o.Model)
	case code == 400 || code == 422:
		f.reason, f.retry, f.sick, f.elsewhere = ReasonRefused, false, false, true
		f.form, f.named = true, about == ComplaintForm
		why("the endpoint refuses the request; see its own log, and try %s.endpoint.structured: none", p.o.Name)
	case about == ComplaintForm: // not a fault of the server's, whatever its status says
		f.reason, f.retry, f.sick, f.elsewhere, f.named = ReasonRefused, false, false, true, true
		why("the endpoint does not take this way of asking for an answer's form; try %s.endpoint.structured: auto",
			p.o.Name)
	case code == 401 || code == 403:
		f.reason = ReasonUnauthorized
		why("the key is missing or wrong, or may not use this model; check api_key_file")
	case code >= 300 && code < 400:
		f.reason = ReasonRedirect
		why("the endpoint redirects, which is never followed; write the final URL into the configuration")
	case code == 408 || code == 425 || code >= 500 || code < 300:
	default:
		f.reason, f.retry, f.sick, f.elsewhere = ReasonRefused, false, false, true
		why("the endpoint refuses the request; see its own log")
	}
	if f.err == nil {
		f.err = fmt.Errorf("status %d", code)
	}
	return f
}

// errStillRefusing is why a call ends without an attempt.
var errStillRefusing = errors.New("every endpoint refuses requests; one is asked again when its breaker lets it")
