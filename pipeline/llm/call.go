package llm

import (
	"context"
	"encoding/json"
	"fmt"
	"time"
)

// This file owns the words of a call: what is sent, what comes back, and why there is no answer. It knows no HTTP.

// Call is one question, as a Task makes it.
type Call struct {
	// Affinity decides which endpoint is asked first (rendezvous hashing), so that calls with the same one find their
	// prefix in that endpoint's cache.
	Affinity string
	Messages []Message
	Schema   json.RawMessage // JSON schema of the answer, for endpoints that enforce one
	Choices  []string        // the only possible answers, for endpoints that can choose but take no schema

	// Attempt, where set, is called before every attempt goes out, the first included (attempt counts from 1). It may
	// wait. An error ends the call with reason "not-allowed".
	Attempt func(ctx context.Context, attempt int) error
}

// Usage is what a call took, in tokens, all its attempts together. What an endpoint says about it is taken only within
// what is possible (Pool.Ceiling); what it does not say is estimated.
type Usage struct {
	PromptTokens, CompletionTokens int
}

func (u *Usage) add(v Usage) {
	u.PromptTokens += v.PromptTokens
	u.CompletionTokens += v.CompletionTokens
}

// Reply is an answer's text, for Task.Parse to judge.
type Reply struct {
	Content string
	Usage
	UsageEstimated bool          // the endpoint gave no numbers, or impossible ones
	Endpoint       string        // the URL that answered
	Structured     string        // how the answer's form was asked for: one of Protocol.Modes
	Took           time.Duration // of the attempt that answered
	Attempts       int
}

// Reason is why an attempt, or a whole call, brought no answer. The list is closed: reasons are metric labels.
type Reason string

// Reasons of attempts and of calls.
const (
	ReasonAnswered Reason = "answered" // of an attempt: it brought an answer
	ReasonTimeout  Reason = "timeout"  // no whole answer within Options.Timeout
	// the caller's deadline has passed, or would before there could be an answer
	ReasonDeadline Reason = "deadline"
	ReasonCanceled Reason = "canceled" // the caller has given up
	ReasonConnect  Reason = "connect"  // no connection, or it broke
	ReasonTLS      Reason = "tls"      // the certificate, or no TLS at all
	// the host is at an address that is refused (link-local, unspecified, multicast)
	ReasonAddress      Reason = "address"
	ReasonRateLimited  Reason = "rate-limited"    // 429, or 503 with Retry-After
	ReasonStatus       Reason = "status"          // 5xx and every status that has no reason of its own
	ReasonUnauthorized Reason = "unauthorized"    // 401, 403
	ReasonQuota        Reason = "quota"           // 402, or a refusal that says so: no credit is left
	ReasonNotFound     Reason = "not-found"       // 404, or a refusal that says so: the URL or the model
	ReasonRedirect     Reason = "redirect"        // 3xx: never followed
	ReasonRefused      Reason = "request-refused" // 400, 422 and the like: asking the same again brings the same
	ReasonTooLong      Reason = "too-long"        // the text is longer than the endpoint's context
	ReasonContentType  Reason = "content-type"    // the answer is not application/json
	ReasonTooLarge     Reason = "too-large"       // the answer is larger than Options.MaxResponseBytes
	ReasonMalformed    Reason = "malformed"       // the answer is not what Protocol.Decode takes for one
	ReasonLength       Reason = "length"          // the answer was cut off at Options.MaxTokens
	ReasonEmpty        Reason = "empty"           // the answer has no text
	ReasonRefusal      Reason = "refusal"         // the model, or its filter, declined, with whatever status
	ReasonAPIKey       Reason = "api-key"         // the key cannot be read
	ReasonNotAllowed   Reason = "not-allowed"     // Call.Attempt said no
	ReasonDown         Reason = "down"            // every endpoint has been failing for longer than half a minute
	ReasonPanic        Reason = "panic"           // our own code, or a library's, panicked
	ReasonClosed       Reason = "closed"          // the pool is closed
)

// CallError says why a call was given up. Its text holds nothing that an endpoint said, no key and no payload.
type CallError struct {
	Name     string // Options.Name
	Reason   Reason
	Status   int    // HTTP status of the last attempt; 0 if there was none
	Endpoint string // URL of the last attempt; empty if there was none
	Attempts int
	Usage    Usage // what the attempts may have cost all the same: those that were sent and not seen to be refused
	Err      error
}

// Error implements error.
func (e *CallError) Error() string {
	where := e.Name
	if e.Endpoint != "" {
		where += ": " + e.Endpoint
	}
	if e.Attempts > 1 {
		return fmt.Sprintf("%s: %v (%d attempts)", where, e.Err, e.Attempts)
	}
	return fmt.Sprintf("%s: %v", where, e.Err)
}

// Unwrap is Err.
func (e *CallError) Unwrap() error { return e.Err }

// Refused says that endpoints refuse requests, whatever they ask, until somebody changes the endpoint, the account or
// the configuration. Where that is said of one question only, it is Unusable.
func (e *CallError) Refused() bool { return e.Reason.lasts() }

// lasts says that a failure is no fault of the question: the next one will be refused, too.
func (r Reason) lasts() bool {
	switch r {
	case ReasonRefused, ReasonUnauthorized, ReasonQuota, ReasonNotFound:
		return true
	}
	return false
}

// Unusable says that an endpoint did answer, and that asking again would bring nothing better: the fault is with the
// question or the model, not with the endpoint's health.
func (e *CallError) Unusable() bool {
	switch e.Reason {
	case ReasonRefused, ReasonTooLong, ReasonLength, ReasonEmpty, ReasonRefusal:
		return true
	}
	return false
}
