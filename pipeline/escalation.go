package pipeline

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/tidwall/gjson"

	"sluice/model"
)

// This file owns escalation requests: the record that carries a question from the classify stage to the escalate stage,
// and the final verdict made of its answer. Everything here is a pure function of its arguments.
//
// A request is the source record itself, byte for byte, with four headers behind its own: sluice.source, sluice.id,
// sluice.model and sluice.escalation, a JSON object with the local verdicts. So the escalate stage needs nothing but
// the request, and what it publishes has the source's fields as they were (P6).

// Header names of escalation.
const (
	HeaderEscalation = "sluice.escalation" // of a request: the local verdicts, as JSON
	HeaderAmends     = "sluice.amends"     // of an amendment: sluice.id of the result that it takes the place of
	HeaderRoute      = "sluice.route"      // of a routed copy: the name of the route
)

// Mode says what becomes of a record while the endpoint is asked about it.
type Mode string

const (
	Amend  Mode = "amend"  // the local verdict is published at once, as provisional; revision 2 follows
	Defer  Mode = "defer"  // only the final verdict is published
	Shadow Mode = "shadow" // the local verdict is final; the endpoint's is only compared and counted
)

// Escalation says which records go to the escalate stage. A nil Escalation is none.
type Escalation struct {
	When    *VerdictRule
	Verdict string // member of the output field whose verdict is in question
	Topic   string
	Mode    Mode
}

// TopicRoute copies results to another topic. Copy and result are in one transaction (P3).
type TopicRoute struct {
	Name  string
	When  *VerdictRule
	Topic string
}

// Request is one question to the endpoint.
type Request struct {
	Source Record // the record that was judged, at its own topic, partition and offset, with its own headers
	Mode   Mode
	// Verdict is the member of the output field that is in question, Label and Score what the local model says.
	Verdict string
	Label   string
	Score   float64
	// StudentLabel is what an unsure student said before; "": none was asked.
	StudentLabel string
	Spans        []RequestSpan // of every entity that a local model has found

	models   string                     // tags
	verdicts []byte                     // the members of the output field
	local    []byte                     // the verdict in question
	rules    map[string]json.RawMessage // what rules see of each verdict
}

// RequestSpan is one entity: characters (code points) of the text, half-open.
type RequestSpan struct {
	Group      string
	Start, End int
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

// request makes the message that asks about a record. members are those of the output field.
func (w *Writer) request(r *Record, members []byte, env ruleEnv, models []ClassifierModel, tags string) Message {
	h := requestHeader{Version: requestVersion, Mode: w.Escalation.Mode, Verdict: w.Escalation.Verdict,
		Rules: map[string]json.RawMessage{}, Verdicts: slices.Concat([]byte{'{'}, members, []byte{'}'})}
	for i := range models {
		h.Rules[models[i].rule] = mustJSON(env[models[i].rule])
	}
	return Message{Topic: w.Escalation.Topic, Source: r.TopicPartition(), Timestamp: r.Timestamp, Key: r.Key,
		Value: r.Value,
		Headers: append(append(make([]Header, 0, len(r.Headers)+4), r.Headers...), Header{HeaderSource, sourceOf(r)},
			Header{HeaderID, messageID(r, "escalation")},
			Header{HeaderModel, []byte(tags)}, Header{HeaderEscalation, mustJSON(h)})}
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

// ParseRequest reads a record of the escalation topic. The error is a Poison fault: the record is not a request of this
// version.
func ParseRequest(r *Record) (*Request, error) {
	bad := func(format string, args ...any) (*Request, error) {
		return nil, Faultf(Poison, "decode", "not-a-request", "not an escalation request: "+format, args...)
	}
	n := len(r.Headers) - 4
	names := []string{HeaderSource, HeaderID, HeaderModel, HeaderEscalation}
	if n < 0 || !slices.EqualFunc(r.Headers[n:], names, func(h Header, name string) bool { return h.Key == name }) {
		return bad("its last headers are not %s; only workers write to the escalation topic", strings.Join(names, ", "))
	}
	q := &Request{Source: *r, models: string(r.Headers[n+2].Value)}
	q.Source.Headers = r.Headers[:n:n]
	var err error
	if q.Source.Topic, q.Source.Partition, q.Source.Offset, err = parseSource(string(r.Headers[n].Value)); err != nil {
		return bad("header %s: %w", HeaderSource, err)
	}
	var h requestHeader
	if err := json.Unmarshal(r.Headers[n+3].Value, &h); err != nil {
		return bad("header %s: %w", HeaderEscalation, err)
	}
	if h.Version != requestVersion {
		return bad("its version is %d, this build reads %d: the classify stage is of another version; upgrade the "+
			"workers of the escalate stage first", h.Version, requestVersion)
	}
	if !slices.Contains([]Mode{Amend, Defer, Shadow}, h.Mode) {
		return bad("its mode is %q", h.Mode)
	}
	local := gjson.Result{}
	gjson.ParseBytes(h.Verdicts).ForEach(func(k, v gjson.Result) bool {
		if k.Str == h.Verdict {
			local = v
		}
		v.Get("entities").ForEach(func(_, e gjson.Result) bool {
			group := e.Get("entity_group").Str
			if group == "" {
				_, group = model.SplitLabel(e.Get("entity").Str)
			}
			q.Spans = append(q.Spans, RequestSpan{Group: group, Start: int(e.Get("start").Int()),
				End: int(e.Get("end").Int())})
			return true
		})
		return true
	})
	if !local.IsObject() || local.Get("label").Type != gjson.String {
		return bad("it has no verdict %q with a label", h.Verdict)
	}
	q.Mode, q.Verdict, q.rules = h.Mode, h.Verdict, h.Rules
	q.StudentLabel = gjson.GetBytes(h.Rules[RuleName(h.Verdict)], "student_label").Str
	q.verdicts = bytes.TrimSuffix(bytes.TrimPrefix(h.Verdicts, []byte{'{'}), []byte{'}'})
	q.local, q.Label, q.Score = []byte(local.Raw), local.Get("label").Str, local.Get("score").Float()
	return q, nil
}

func parseSource(s string) (topic string, partition int32, offset int64, err error) {
	parts := strings.Split(s, "/") // no topic has a slash in its name
	if len(parts) != 3 {
		return "", 0, 0, fmt.Errorf("%q is not topic/partition/offset", s)
	}
	p, err := strconv.ParseInt(parts[1], 10, 32)
	if err == nil {
		offset, err = strconv.ParseInt(parts[2], 10, 64)
	}
	if err != nil || p < 0 || offset < 0 {
		return "", 0, 0, fmt.Errorf("%q is not topic/partition/offset", s)
	}
	return parts[0], int32(p), offset, nil
}

// Final is what the escalate stage decided about a request.
type Final struct {
	Route       Route  // ByLLM or Fallback
	Reason      string // of a Fallback: why the local verdict stands
	Label       string // ByLLM
	Score       float64
	Scored      bool   // the endpoint said how sure it is
	Model       string // of the endpoint; also of a Fallback after an answer
	Prompt      string // version
	Explanation string // "": none
	Flags       []string
}

// Final publishes the final verdict of a request: an amendment, or the one result of a deferred record; a pointer in
// the dead letter topic where that is larger than its topic takes. In shadow nothing is published.
func (w *Writer) Final(q *Request, text []byte, f Final) Outcome {
	disposition := Amended
	if f.Route == Fallback {
		disposition = FellBack
	}
	if q.Mode == Shadow {
		return Outcome{Disposition: Compared}
	}
	r := &q.Source
	b := w.member(nil)
	first := true
	gjson.ParseBytes(slices.Concat([]byte{'{'}, q.verdicts, []byte{'}'})).ForEach(func(k, v gjson.Result) bool {
		if !first {
			b = append(b, ',')
		}
		first = false
		b = append(append(b, k.Raw...), ':')
		if k.Str == q.Verdict {
			b = q.appendFinal(b, f)
		} else {
			b = append(b, v.Raw...)
		}
		return true
	})
	b = append(b, '}')
	tags := q.models
	if f.Route == ByLLM {
		var local struct{ Model string }
		if json.Unmarshal(q.local, &local) == nil && local.Model != "" {
			tags = strings.Replace(tags, local.Model, f.Model, 1)
		}
	}
	ours := []Header{{HeaderSource, sourceOf(r)}, {HeaderID, messageID(r, "0")}, {HeaderModel, []byte(tags)},
		{HeaderRevision, []byte("1")}}
	if q.Mode == Amend {
		ours[1].Value, ours[3].Value = messageID(r, "2"), []byte("2")
		ours = append(ours, Header{HeaderAmends, messageID(r, "0")})
	}
	o := w.publish(r, disposition, w.value(r, b), ours)
	if o.Disposition == disposition && len(w.Routes) > 0 {
		o = w.route(o, r, q.env(text, f))
	}
	return q.named(o)
}

// ReplaceFinal is Replace for a final verdict that the broker refused for its size.
func (w *Writer) ReplaceFinal(q *Request, cause *TooLargeError) Outcome {
	return q.named(w.Replace(&q.Source, cause))
}

// named gives a dead letter in an amendment's place the amendment's id: #0 is that of the provisional result, which is
// there.
func (q *Request) named(o Outcome) Outcome {
	if q.Mode != Amend || o.Disposition != DeadLetter {
		return o
	}
	m := &o.Messages[0]
	for i := range m.Headers {
		if m.Headers[i].Key == HeaderID {
			m.Headers[i].Value = messageID(&q.Source, "2")
		}
	}
	m.Headers = append(m.Headers, Header{HeaderAmends, messageID(&q.Source, "0")})
	return o
}

// appendFinal is the verdict in question as it is now.
func (q *Request) appendFinal(b []byte, f Final) []byte {
	b = append(b, '{')
	if f.Route == ByLLM {
		b = append(b, `"label":`...)
		b = model.AppendString(b, f.Label)
		if f.Scored {
			b = append(b, `,"score":`...)
			b = model.AppendScore(b, f.Score)
		}
	} else {
		first := true
		gjson.ParseBytes(q.local).ForEach(func(k, v gjson.Result) bool {
			if slices.Contains([]string{"route", "reason", "model", "revision", "provisional"}, k.Str) {
				return true
			}
			if !first {
				b = append(b, ',')
			}
			first = false
			b = append(append(append(b, k.Raw...), ':'), v.Raw...)
			return true
		})
	}
	b = append(b, `,"route":"`...)
	b = append(append(b, f.Route...), '"')
	text := func(name, value string) {
		if value != "" {
			b = append(append(append(b, `,"`...), name...), `":`...)
			b = model.AppendString(b, value)
		}
	}
	text("reason", f.Reason)
	if f.Route == ByLLM {
		text("model", f.Model)
	} else {
		text("model", gjson.GetBytes(q.local, "model").Str)
	}
	text("prompt", f.Prompt)
	text("explanation", f.Explanation)
	if len(f.Flags) > 0 {
		b = append(append(b, `,"flags":`...), mustJSON(f.Flags)...)
	}
	if f.Route == ByLLM {
		b = append(b, `,"local":{"label":`...)
		b = model.AppendString(b, q.Label)
		b = append(b, `,"score":`...)
		b = model.AppendScore(b, q.Score)
		b = append(b, `,"model":`...)
		b = append(model.AppendString(b, gjson.GetBytes(q.local, "model").Str), '}')
	}
	if q.Mode == Amend {
		b = append(b, `,"revision":2,"amends":`...)
		return append(model.AppendString(b, string(messageID(&q.Source, "0"))), '}')
	}
	return append(b, `,"revision":1}`...)
}

// env is what rules see of the final verdicts.
func (q *Request) env(text []byte, f Final) ruleEnv {
	env := recordEnv(&q.Source, text)
	for name, raw := range q.rules {
		var v RuleVerdict
		if json.Unmarshal(raw, &v) != nil {
			continue // then the rule fails, and is counted
		}
		if name == RuleName(q.Verdict) {
			v.Route = string(f.Route)
			if f.Route == ByLLM {
				v.Label, v.Score, v.Margin, v.Entropy, v.Confidence = f.Label, f.Score, f.Score, 0, f.Score
				v.Scores = maps.Clone(v.Scores)
				clear(v.Scores)
			}
		}
		env[name] = v
	}
	return env
}
