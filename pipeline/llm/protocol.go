package llm

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strings"

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

	// Parameters lists what a request has beside the question, and may have under another name or not at all. They are
	// the same for all requests.
	Parameters() []Parameter

	// Refusal reads a refusal: the first 64 KiB of the body of an answer with another status than 200, or of one with
	// 200 that Decode has refused. The body may be anything. sent are the names under which parameters went out.
	Refusal(status int, body []byte, sent []string) Refusal

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
	Names     Names  // of parameters
	*Call
}

// Parameter is one of Protocol.Parameters.
type Parameter struct {
	Name   string   // how the configuration calls it, and how it goes out where nothing else is known
	Others []string // the names that it has at other endpoints
	Bounds bool     // it holds Request.MaxTokens
	// Without says what it means to leave it out, in a sentence without its beginning and end.
	Without string
}

// Names are the parameters that go out under another name than their own, or not at all (Omit). Nobody changes one.
type Names map[string]string

// Omit, in Names, leaves a parameter out.
const Omit = "omit"

// Of is the name under which a parameter goes out; "": it is left out.
func (n Names) Of(parameter string) string {
	switch name, ok := n[parameter]; {
	case !ok:
		return parameter
	case name != Omit:
		return name
	}
	return ""
}

// nameable are the names that a parameter may have.
var nameable = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_.-]{0,63}$`)

// Check says what is wrong with names for the parameters of a protocol.
func (n Names) Check(p Protocol) error {
	var known []string
	for _, parameter := range p.Parameters() {
		known = append(known, parameter.Name)
	}
	for _, name := range slices.Sorted(maps.Keys(n)) {
		switch sent := n[name]; {
		case !slices.Contains(known, name):
			return fmt.Errorf("%q is no parameter that a request has; known are %s", name, strings.Join(known, ", "))
		case !nameable.MatchString(sent):
			return fmt.Errorf("%s: %q is no name of a parameter; write the name under which the endpoint takes it, or "+
				"%s to leave it out", name, sent, Omit)
		}
	}
	for _, mode := range p.Modes() {
		if _, err := p.Encode(&Request{Mode: mode, Names: n, Call: &Call{}}); err != nil {
			return err
		}
	}
	return nil
}

// Complaint is what an endpoint's refusal is about.
type Complaint int

// What refusals are about.
const (
	ComplaintOther     Complaint = iota // it does not say, or it is about something else
	ComplaintLength                     // the question is longer than the endpoint's context
	ComplaintFilter                     // a content filter does not let the text through
	ComplaintForm                       // how the answer's form was asked for
	ComplaintParameter                  // a parameter that it does not know, or not with this value
	ComplaintModel                      // it has no such model
	ComplaintQuota                      // no credit is left, and waiting does not help
)

// Refusal is what an endpoint's refusal says.
type Refusal struct {
	About     Complaint
	Parameter string // ComplaintParameter: the name as it was sent
	Instead   string // the name that the endpoint wants it to have; "": it does not say
	// Apart says that Parameter stands in a member of its own, and not only in a sentence, which may repeat a text.
	Apart  bool
	Status int // an HTTP status within the body; 0: none
	// Sentence is in the endpoint's own words, which may repeat the key or the text: for said only. "": the body has
	// none.
	Sentence string
}

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
