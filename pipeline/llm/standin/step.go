package standin

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"net/http"
	"strings"
	"time"
)

// This file owns misbehaviour: one Step is what happens to one request. Every way in which real endpoints, and the
// proxies before them, have been seen to fail has a constructor here.

// Step is what happens to one request. The zero Step is a good answer. Constructors make the useful ones; they may be
// changed further.
type Step struct {
	Delay   time.Duration // before anything happens
	Status  int           // instead of an answer; the request is not even looked at
	Header  http.Header   // to be set, over the usual
	Raw     []byte        // the body instead of an answer's
	Hang    bool          // until the client has gone
	Reset   bool          // the connection, halfway through the answer
	Drip    time.Duration // between any two bytes of the body
	Cut     bool          // half of the body, as if it were all
	Endless bool          // the body never ends

	Bend func(*Answer) // changes a good answer
}

// Answer is a chat completion, as it is about to be written.
type Answer struct {
	Content   string
	Finish    string
	Role      string
	Refusal   string
	Choices   int
	ToolCalls int
	Usage     map[string]any // nil: none
	Shuffle   bool           // the fields of the completion in another order

	// The parts of Content, for steps that change it; Content is made of them where it is left empty.
	Label      string
	Confidence float64
	text       string
}

// Text is the text that the question was about.
func (a *Answer) Text() string { return a.text }

// Good is the zero Step by name.
func Good() Step { return Step{} }

// Status refuses with a status. retryAfter is the header's value; "": none.
func Status(code int, retryAfter string) Step {
	s := Step{Status: code, Header: http.Header{}}
	if retryAfter != "" {
		s.Header.Set("Retry-After", retryAfter)
	}
	return s
}

// Hang never answers.
func Hang() Step { return Step{Hang: true} }

// Slow answers after d.
func Slow(d time.Duration) Step { return Step{Delay: d} }

// Drip sends a good answer, one byte each d.
func Drip(d time.Duration) Step { return Step{Drip: d} }

// Reset breaks the connection halfway through the answer.
func Reset() Step { return Step{Reset: true} }

// Cut sends the first half of a good answer, whole as far as HTTP can tell.
func Cut() Step { return Step{Cut: true} }

// Endless sends an answer that never ends, as fast as it is taken.
func Endless() Step { return Step{Endless: true} }

// Garbage answers with bytes that are not JSON, but say so.
func Garbage() Step { return Step{Raw: []byte("\x00\xff{]<html>"), Status: http.StatusOK} }

// HTML answers with a proxy's error page, with status 200.
func HTML() Step {
	return Step{Raw: []byte("<html><body>Bad gateway</body></html>"), Status: http.StatusOK,
		Header: http.Header{"Content-Type": {"text/html"}}}
}

// Body answers with a status and a JSON body of its own.
func Body(status int, body string) Step { return Step{Status: status, Raw: []byte(body)} }

// Redirect points elsewhere.
func Redirect(to string) Step {
	return Step{Status: http.StatusTemporaryRedirect, Header: http.Header{"Location": {to}}}
}

// Echo refuses with 400 and repeats the whole request, its key included, in the error.
func Echo() Step { return Step{Status: -1} }

// Fences puts the answer into a Markdown code block, with a sentence before it.
func Fences() Step {
	return Step{Bend: func(a *Answer) { a.Content = "```json\n" + a.JSON() + "\n```" }}
}

// Prose answers in a sentence.
func Prose() Step {
	return Step{Bend: func(a *Answer) {
		a.Content = "I think that this is probably " + strings.ToLower(a.Label) + ", but it depends."
	}}
}

// Content answers with exactly that.
func Content(content string) Step { return Step{Bend: func(a *Answer) { a.Content = content }} }

// WrongLabel answers with a label that is not of the set.
func WrongLabel() Step { return Step{Bend: func(a *Answer) { a.Label = "WONDERFUL" }} }

// MissingField leaves the label out.
func MissingField() Step { return Content(`{"confidence": 0.9}`) }

// ReorderedFields is a good answer with the fields of everything in another order.
func ReorderedFields() Step {
	return Step{Bend: func(a *Answer) {
		a.Shuffle = true
		a.Content = fmt.Sprintf(`{"confidence": %v, "label": %q}`, a.Confidence, a.Label)
	}}
}

// ExtraField adds a field.
func ExtraField() Step {
	return Step{Bend: func(a *Answer) {
		a.Content = fmt.Sprintf(`{"label": %q, "confidence": 0.9, "topic": "admin"}`, a.Label)
	}}
}

// OutOfRange answers with a confidence that is none.
func OutOfRange() Step { return Step{Bend: func(a *Answer) { a.Confidence = 17 }} }

// Choices answers with n choices.
func Choices(n int) Step { return Step{Bend: func(a *Answer) { a.Choices = n }} }

// Finish answers with another finish_reason; "length" cuts the content, too.
func Finish(reason string) Step {
	return Step{Bend: func(a *Answer) {
		a.Finish = reason
		if reason == "length" {
			c := a.JSON()
			a.Content = c[:len(c)/2]
		}
	}}
}

// Empty answers with white space.
func Empty() Step { return Content(" \n") }

// Refusal declines.
func Refusal() Step {
	return Step{Bend: func(a *Answer) { a.Content, a.Refusal = "", "I cannot help with that." }}
}

// ToolCall calls a tool that nobody offered.
func ToolCall() Step { return Step{Bend: func(a *Answer) { a.ToolCalls = 1 }} }

// Usage answers with other numbers (any JSON value); none at all where both are nil.
func Usage(prompt, completion any) Step {
	return Step{Bend: func(a *Answer) {
		a.Usage = nil
		if prompt != nil || completion != nil {
			a.Usage = map[string]any{"prompt_tokens": prompt, "completion_tokens": completion}
		}
	}}
}

// JSON is the answer's label and confidence as the schema wants them.
func (a *Answer) JSON() string {
	b, _ := json.Marshal(struct { // plain fields: cannot fail
		Label      string  `json:"label"`
		Confidence float64 `json:"confidence"`
	}{a.Label, a.Confidence})
	return string(b)
}

// refuses says that the step needs no answer.
func (s *Step) refuses() bool { return s.Status != 0 || s.Hang || s.Endless }

// bends says that what is sent is not a good answer.
func (s *Step) bends() bool { return s.Bend != nil || s.Cut || s.Reset }

func (s *Step) write(w http.ResponseWriter, r *http.Request, a *Answer) {
	if s.Hang {
		<-r.Context().Done()
		return
	}
	h := w.Header()
	h.Set("Content-Type", "application/json")
	for k, v := range s.Header {
		h[k] = v
	}
	if s.Endless {
		w.WriteHeader(http.StatusOK)
		w.Write([]byte(`{"choices":[{"message":{"content":"`))
		chunk := bytes.Repeat([]byte("x"), 32<<10)
		for r.Context().Err() == nil {
			if _, err := w.Write(chunk); err != nil {
				return
			}
		}
		return
	}
	body := s.Raw
	status := http.StatusOK
	switch {
	case s.Status < 0:
		status = http.StatusBadRequest
		body, _ = json.Marshal(map[string]any{"error": map[string]any{"message": fmt.Sprint(r.Header),
			"code": r.Header.Get("Authorization")}})
	case s.Status > 0:
		status = s.Status
		if body == nil {
			body = []byte(`{"error":{"message":"scripted","type":"server_error","code":"scripted"}}`)
		}
	default:
		if s.Bend != nil {
			s.Bend(a)
		}
		body = a.encode()
	}
	switch {
	case s.Cut:
		body = body[:len(body)/2]
	case s.Reset:
		h.Set("Content-Length", fmt.Sprint(len(body)))
		w.WriteHeader(status)
		w.Write(body[:len(body)/2])
		http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}
	w.WriteHeader(status)
	if s.Drip == 0 {
		w.Write(body)
		return
	}
	for i := range body {
		if _, err := w.Write(body[i : i+1]); err != nil {
			return
		}
		http.NewResponseController(w).Flush()
		select {
		case <-r.Context().Done():
			return
		case <-time.After(s.Drip):
		}
	}
}

func (a *Answer) encode() []byte {
	content := a.Content
	if content == "" && a.Refusal == "" {
		content = a.JSON()
	}
	m := map[string]any{"role": a.Role, "content": content}
	if a.Refusal != "" {
		m["content"], m["refusal"] = nil, a.Refusal
	}
	if a.ToolCalls > 0 {
		m["tool_calls"] = []any{map[string]any{"id": "1", "type": "function",
			"function": map[string]any{"name": "publish", "arguments": "{}"}}}
	}
	choices := []any{}
	for i := range a.Choices {
		choices = append(choices, map[string]any{"index": i, "finish_reason": a.Finish, "message": m})
	}
	fields := []struct {
		name  string
		value any
	}{{"id", "chatcmpl-stub"}, {"object", "chat.completion"}, {"created", 1}, {"model", "stub"}, {"choices", choices},
		{"usage", a.Usage}}
	if a.Shuffle {
		fields[0], fields[5], fields[1], fields[4] = fields[5], fields[0], fields[4], fields[1]
	}
	var b bytes.Buffer
	b.WriteByte('{')
	for _, f := range fields {
		if f.name == "usage" && a.Usage == nil {
			continue
		}
		if b.Len() > 1 {
			b.WriteByte(',')
		}
		v, err := json.Marshal(f.value)
		if err != nil {
			panic("standin: " + err.Error())
		}
		fmt.Fprintf(&b, "%q:%s", f.name, v)
	}
	b.WriteByte('}')
	return b.Bytes()
}

// answer is the good answer to a request.
func (s *Server) answer(r *request, mode string) *Answer {
	user := r.Messages[1].Content // a repair asks again about the same text
	a := &Answer{Finish: "stop", Role: "assistant", Choices: 1, Confidence: s.o.Confidence, text: Text(user)}
	a.Label = s.o.Oracle(a.text)
	switch mode {
	case "structured_outputs", "guided_choice":
		a.Content = a.Label
	case "ignored":
		a.Content = "The label is " + a.Label + "."
	}
	if s.o.Obey != nil {
		if content := s.o.Obey(user); content != "" {
			a.Content = content
		}
	}
	completion := len(strings.Fields(a.Content)) + 1
	if a.Content == "" {
		completion = 9
	}
	a.Usage = map[string]any{"prompt_tokens": r.tokens(), "completion_tokens": completion, "total_tokens": r.tokens() +
		completion}
	return a
}

// Constant is the same latency for every answer.
func Constant(d time.Duration) Latency { return func(*rand.Rand) time.Duration { return d } }

// Uniform is any latency from a to b.
func Uniform(a, b time.Duration) Latency {
	return func(r *rand.Rand) time.Duration { return a + time.Duration(r.Float64()*float64(b-a)) }
}

// Exponential has a mean and a long tail.
func Exponential(mean time.Duration) Latency {
	return func(r *rand.Rand) time.Duration { return time.Duration(r.ExpFloat64() * float64(mean)) }
}

// LogNormal has a median, and sigma as the spread of the logarithm: what served models look like (0.5), or bad days
// (1.5).
func LogNormal(median time.Duration, sigma float64) Latency {
	return func(r *rand.Rand) time.Duration {
		return time.Duration(float64(median) * math.Exp(sigma*r.NormFloat64()))
	}
}
