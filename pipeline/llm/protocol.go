package llm

import (
	"encoding/json"
	"net/http"

	"sluice/pipeline"
)

// This file owns what a protocol must know, so that a pool need not: how a call is written, and how an answer is read.

// Protocol is how a call becomes the body of an HTTP request, and how the body of an HTTP answer becomes text. A pool
// does the rest: it chooses the endpoint, sends a POST, bounds time and size, and decides by status, content type and
// Retry-After whose fault a failure is. Requests and answers are JSON.
//
// A Protocol keeps no state and does not block. Its methods are called concurrently, one or a few times an attempt.
// What an endpoint said must not get into an error of a Protocol, because errors are logged.
type Protocol interface {
	// Name is the protocol's name in error messages, for example "OpenAI-compatible".
	Name() string

	// Path is added to every URL of Options.URLs, for example "/chat/completions". It begins with a slash.
	Path() string

	// Header sets the headers of a request, its content type and the key among them. The key is one that a header can
	// hold, or zero where there is none.
	Header(h http.Header, key pipeline.Secret)

	// Encode writes the body of a request. An error says that this question can never be asked.
	Encode(r *Request) ([]byte, error)

	// Modes lists the ways to hold an answer to a form, the best first. The last one, ModeNone, asks for no form.
	Modes() []string

	// Takes says whether the call has what a mode needs: a schema, or choices.
	Takes(mode string, c *Call) bool

	// Kept says whether content can be an answer of an endpoint that enforces the mode. It does not say whether the
	// answer is right: that is for Task.Parse.
	Kept(mode, content string, c *Call) bool

	// Complaint says what a refusal is about, where it names that. It is called for the statuses 400, 422, 500 and 501
	// only, with the first 64 KiB of the body, which may be anything.
	Complaint(status int, body []byte) Complaint

	// Decode reads the whole body of an answer with status 200. An error says why the answer is malformed. There may be
	// an answer beside the error: then its usage counts all the same.
	Decode(body []byte) (*Answer, error)
}

// ModeNone is the last of every protocol's modes: only the question says what an answer looks like.
const ModeNone = "none"

// ModeAuto, in Options.Structured, is the first of the protocol's modes that an endpoint understands.
const ModeAuto = "auto"

// Request is a call as it goes out to one endpoint.
type Request struct {
	Model     string // Options.Model
	MaxTokens int    // Options.MaxTokens
	Mode      string // one of Protocol.Modes that Protocol.Takes for this call
	*Call
}

// Complaint is what an endpoint's refusal is about.
type Complaint int

// What refusals are about.
const (
	ComplaintOther  Complaint = iota // it does not say, or it is about something else
	ComplaintLength                  // the question is longer than the endpoint's context
	ComplaintForm                    // how the answer's form was asked for
)

// Answer is what a whole answer says, in the words of no protocol.
type Answer struct {
	Content string // as it came; the pool refuses an empty one
	End     End
	// PromptTokens and CompletionTokens are what the endpoint counted; "" where it does not say. They are not trusted:
	// Usage has them only within what is possible.
	PromptTokens, CompletionTokens json.Number
}

// End is why an answer ends where it does.
type End int

// Why answers end.
const (
	EndStop    End = iota // it is finished
	EndLength             // it was cut off at Request.MaxTokens
	EndRefusal            // the model, or its filter, declined
)
