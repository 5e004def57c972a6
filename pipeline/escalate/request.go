package escalate

import (
	"bytes"
	"encoding/json"
	"iter"
	"slices"
	"strings"

	"sluice/model"
	"sluice/pipeline"
	"sluice/pipeline/codec"
	"sluice/pipeline/publish"
	"sluice/pipeline/rule"
)

// This file owns escalation requests: the record that carries a question from the classify stage to the escalate stage.
//
// A request is the source record itself, byte for byte, with four headers behind its own: sluice.source, sluice.id,
// sluice.model and sluice.escalation, a JSON object with the local verdicts. So the escalate stage needs nothing but
// the request, and what it publishes has the source's fields as they were (P6).

// HeaderEscalation is the header of a request that holds the local verdicts, as JSON.
const HeaderEscalation = "sluice.escalation"

// Mode says what becomes of a record while the endpoint is asked about it.
type Mode string

const (
	Amend  Mode = "amend"  // the local verdict is published at once, as provisional; revision 2 follows
	Defer  Mode = "defer"  // only the final verdict is published
	Shadow Mode = "shadow" // the local verdict is final; the endpoint's is only compared and counted
)

// Request is one question to the endpoint.
type Request struct {
	Source pipeline.Record // the record that was judged, at its own topic, partition and offset, with its own headers
	Mode   Mode
	// Verdict is the fact that is in question, Label and Score what the local model says.
	Verdict string
	Label   string
	Score   float64
	// StudentLabel is what an unsure student said before; "": none was asked.
	StudentLabel string
	Spans        []Span // of every entity that a local model has found

	models string          // tags of the local verdicts, as the classify stage gave them
	facts  []pipeline.Fact // the local verdicts
	asked  int             // which of them is in question
	flags  codec.Flags
	rules  map[string]json.RawMessage // what rules see of each verdict
}

// requestHeader is the value of HeaderEscalation.
type requestHeader struct {
	Version  int                        `json:"version"`
	Mode     Mode                       `json:"mode"`
	Verdict  string                     `json:"verdict"`
	Rules    map[string]json.RawMessage `json:"rules"`
	Verdicts json.RawMessage            `json:"verdicts"`
}

const requestVersion = 1

// newRequest makes the message that asks about a judged record.
func newRequest(j *publish.Judged, topic, verdict string, mode Mode, env rule.Env) pipeline.Message {
	verdicts := append(codec.AppendVerdicts([]byte{'{'}, &j.Verdicts), '}')
	h := requestHeader{Version: requestVersion, Mode: mode, Verdict: verdict, Rules: map[string]json.RawMessage{},
		Verdicts: verdicts}
	for i := range j.Facts {
		name := rule.Name(j.Facts[i].Name)
		h.Rules[name] = mustJSON(env[name])
	}
	r := j.Record
	return pipeline.Message{Topic: topic, Source: r.TopicPartition(), Timestamp: r.Timestamp, Key: r.Key,
		Value: r.Value,
		Headers: publish.WithHeaders(r.Headers,
			pipeline.Header{Key: publish.HeaderSource, Value: publish.Source(r)},
			pipeline.Header{Key: publish.HeaderID, Value: publish.ID(r, publish.EscalationID)},
			pipeline.Header{Key: publish.HeaderModel, Value: []byte(publish.Tags(j.Facts))},
			pipeline.Header{Key: HeaderEscalation, Value: mustJSON(h)})}
}

// mustJSON encodes what cannot fail: strings, numbers and JSON made by this package.
func mustJSON(v any) []byte {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false) // the members of the output field stay as they are
	if err := e.Encode(v); err != nil {
		panic(err)
	}
	return bytes.TrimSuffix(b.Bytes(), []byte{'\n'})
}

// asWritten parts the headers of a request as the classify stage wrote it from those that it got as a dead letter, if
// it is one that was produced again.
func asWritten(headers []pipeline.Header) (request, letter []pipeline.Header) {
	for i, h := range slices.Backward(headers) {
		if h.Key == HeaderEscalation && len(publish.Foreign(headers[i+1:])) == 0 {
			return headers[:i+1], headers[i+1:]
		}
	}
	return headers, nil
}

// ParseRequest reads a record of the escalation topic. The error is a Poison fault: the record is not a request of this
// version.
func ParseRequest(r *pipeline.Record) (*Request, error) {
	bad := func(format string, args ...any) (*Request, error) {
		return nil, pipeline.Faultf(pipeline.Poison, "decode", "not-a-request", "not an escalation request: "+format,
			args...)
	}
	headers, letter := asWritten(r.Headers)
	n := len(headers) - 4
	names := []string{publish.HeaderSource, publish.HeaderID, publish.HeaderModel, HeaderEscalation}
	named := func(h pipeline.Header, name string) bool { return h.Key == name }
	if n < 0 || !slices.EqualFunc(headers[n:], names, named) {
		return bad("its last headers are not %s; only workers write to the escalation topic", strings.Join(names, ", "))
	}
	q := &Request{Source: *r, models: string(headers[n+2].Value)}
	q.Source.Headers = append(headers[:n:n], letter...)
	var err error
	q.Source.Topic, q.Source.Partition, q.Source.Offset, err = publish.ParseSource(string(headers[n].Value))
	if err != nil {
		return bad("header %s: %w", publish.HeaderSource, err)
	}
	var h requestHeader
	if err := json.Unmarshal(headers[n+3].Value, &h); err != nil {
		return bad("header %s: %w", HeaderEscalation, err)
	}
	if h.Version != requestVersion {
		return bad("its version is %d, this build reads %d: the classify stage is of another version; upgrade the "+
			"workers of the escalate stage first", h.Version, requestVersion)
	}
	if !slices.Contains([]Mode{Amend, Defer, Shadow}, h.Mode) {
		return bad("its mode is %q", h.Mode)
	}
	q.Mode, q.Verdict, q.rules, q.asked = h.Mode, h.Verdict, h.Rules, -1
	for name, v := range members(h.Verdicts) {
		q.read(name, v)
	}
	if q.asked < 0 {
		return bad("it has no verdict %q with a label", h.Verdict)
	}
	var seen rule.Verdict
	if json.Unmarshal(h.Rules[rule.Name(h.Verdict)], &seen) == nil { // else it has said nothing
		q.StudentLabel = seen.StudentLabel
	}
	return q, nil
}

// members are those of a JSON object in their order, the values byte for byte; none where raw is no object.
func members(raw []byte) iter.Seq2[string, json.RawMessage] {
	return func(yield func(string, json.RawMessage) bool) {
		d := json.NewDecoder(bytes.NewReader(raw))
		if t, err := d.Token(); err != nil || t != json.Delim('{') {
			return
		}
		for d.More() {
			key, err := d.Token()
			name, ok := key.(string)
			var v json.RawMessage
			if err != nil || !ok || d.Decode(&v) != nil || !yield(name, v) {
				return
			}
		}
	}
}

// written is what is read of a member of the output field.
type written struct {
	Model    string
	By       string
	Route    string // what by was called before
	Label    *string
	Score    float64
	Entities []struct {
		Group string `json:"entity_group"`
		Label string `json:"entity"`
		Start int
		End   int
	}
}

// read takes one member of the output field.
func (q *Request) read(name string, raw json.RawMessage) {
	if name == "flags" {
		var flags []string
		if json.Unmarshal(raw, &flags) == nil {
			for _, f := range flags {
				q.flags.Add(f)
			}
		}
		return
	}
	var v written
	_ = json.Unmarshal(raw, &v) // a member of another type, which is some other fact's, is left out, and the rest read
	for _, e := range v.Entities {
		if e.Group == "" {
			_, e.Group = model.SplitLabel(e.Label)
		}
		q.Spans = append(q.Spans, Span{Group: e.Group, Start: e.Start, End: e.End})
	}
	f := pipeline.Fact{Name: name, Revision: 1, Tag: v.Model, By: pipeline.By(v.By)}
	if f.By == "" {
		f.By = pipeline.By(v.Route)
	}
	if raw[0] == '{' {
		f.Value = localVerdict(raw)
	}
	if name == q.Verdict && v.Label != nil {
		q.asked, q.Label, q.Score = len(q.facts), *v.Label, v.Score
	}
	q.facts = append(q.facts, f)
}

// local is a local verdict as the request brought it: its own members, byte for byte.
type local []byte

// localVerdict keeps the members that are a verdict's own; the others are those of its fact.
func localVerdict(raw []byte) local {
	var b local
	for name, v := range members(raw) {
		switch name {
		case "by", "route", "reason", "model", "revision", "provisional":
			continue
		}
		if len(b) > 0 {
			b = append(b, ',')
		}
		b = append(append(model.AppendString(b, name), ':'), v...)
	}
	return b
}

// AppendJSON implements codec.Appender.
func (l local) AppendJSON(b []byte) []byte { return append(b, l...) }
