package pipeline

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"

	"sluice/model"
	"sluice/tokenize"
)

// This file owns the way out: the messages made of a record and its verdicts. Everything here is a pure function of its
// arguments, so that making an outcome again gives the same bytes (P5) and a repeat carries the same id (P1).

// Header names on what the worker publishes.
const (
	HeaderSource = "sluice.source" // topic/partition/offset of the input record
	// the same for every repeat of a message: source#0; #2 is its amendment, or the dead letter in an amendment's
	// place, #0@name a routed copy
	HeaderID       = "sluice.id"
	HeaderModel    = "sluice.model"    // tags of the models, comma-separated
	HeaderRevision = "sluice.revision" // 1; amendments count up

	HeaderErrorStage     = "sluice.error.stage"
	HeaderErrorKind      = "sluice.error.kind"
	HeaderErrorReason    = "sluice.error.reason"
	HeaderErrorMessage   = "sluice.error.message"
	HeaderErrorTopic     = "sluice.error.topic"
	HeaderErrorPartition = "sluice.error.partition"
	HeaderErrorOffset    = "sluice.error.offset"
	HeaderErrorAttempts  = "sluice.error.attempts"
)

// Flags say what was done to a text before it was tokenized.
type Flags struct {
	Repaired bool // bytes that are no UTF-8 read as U+FFFD
	Cut      bool // longer than the byte limit
}

// Writer makes outcomes.
type Writer struct {
	Format      Format
	Output      string // topic of results
	DeadLetters string // topic of dead letters
	Field       string // of the result object that holds the verdicts
	Routes      []TopicRoute
	Escalation  *Escalation // nil: none
	// told of every rule that could not be evaluated, which then does not hold; nil: nobody
	RuleFailed func(rule string)
	// MaxBytes is the largest message a topic takes, 0 if unknown; nil: no limit is known.
	MaxBytes func(topic string) int
}

// overhead is what a message needs beyond key, value and headers: the batch's header (61 bytes), the record's own
// varints and those of its headers, rounded up.
func overhead(m *Message) int { return 61 + 32 + 10*len(m.Headers) }

func (w *Writer) fits(m *Message) (limit int, ok bool) {
	if w.MaxBytes == nil {
		return 0, true
	}
	limit = w.MaxBytes(m.Topic)
	return limit, limit <= 0 || m.Size()+overhead(m) <= limit
}

// scratches are buffers for the output field, which value copies into the message.
var scratches = sync.Pool{New: func() any { return new([]byte) }}

// Result publishes the source object with the verdicts added, copies of it for the routes whose rules hold, and, where
// the record is to be escalated, a request: in mode Amend beside a provisional result, in mode Defer in its place.
func (w *Writer) Result(r *Record, text []byte, models []ClassifierModel, made []Decision, f Flags) Outcome {
	tags := made[0].Tag
	for i := range made[1:] {
		tags += "," + made[i+1].Tag
	}
	var env ruleEnv
	if len(w.Routes) > 0 || w.Escalation != nil {
		env = newRuleEnv(r, text, models, made)
	}
	scratch := scratches.Get().(*[]byte)
	defer scratches.Put(scratch)
	b := w.member((*scratch)[:0])
	begin := len(b)
	var request *Message
	if w.Escalation != nil && w.holds("escalation.when", w.Escalation.When, env) {
		asked := slices.IndexFunc(models, func(m ClassifierModel) bool { return m.Name == w.Escalation.Verdict })
		made[asked].provisional = w.Escalation.Mode == Amend
		b = appendVerdicts(b, models, made, f)
		m := w.request(r, b[begin:], env, models, tags)
		if _, ok := w.fits(&m); ok {
			request = &m
		} else if w.Escalation.Mode != Shadow { // no answer will come: the local verdict is the final one
			made[asked].provisional, made[asked].Route, made[asked].Reason = false, Fallback, "request-too-large"
		}
		b = b[:begin]
	}
	if request != nil && w.Escalation.Mode == Defer {
		*scratch = b
		return Outcome{Messages: []Message{*request}, Disposition: Deferred}
	}
	b = append(appendVerdicts(b, models, made, f), '}')
	value := w.value(r, b)
	*scratch = b
	o := w.publish(r, Scored, value, ourHeaders(r, tags))
	if o.Disposition == Scored && len(w.Routes) > 0 {
		o = w.route(o, r, env)
	}
	if o.Disposition == Scored && request != nil {
		o.Messages = append(o.Messages, *request)
	}
	return o
}

func appendVerdicts(b []byte, models []ClassifierModel, made []Decision, f Flags) []byte {
	for i := range models {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendKey(b, models[i].Name)
		b = append(b, '{')
		b = made[i].AppendJSON(b)
		b = append(b, `,"route":"`...)
		b = append(b, made[i].Route...)
		if made[i].Reason != "" {
			b = append(b, `","reason":"`...)
			b = append(b, made[i].Reason...)
		}
		b = append(b, `","model":`...)
		b = model.AppendString(b, made[i].Tag)
		b = append(b, `,"revision":1`...)
		if made[i].provisional {
			b = append(b, `,"provisional":true`...)
		}
		b = append(b, '}')
	}
	return appendFlags(b, f)
}

// holds evaluates a rule. One that cannot be evaluated does not hold.
func (w *Writer) holds(name string, rule *VerdictRule, env ruleEnv) bool {
	yes, err := rule.holds(env)
	if err != nil && w.RuleFailed != nil {
		w.RuleFailed(name)
	}
	return yes
}

// route adds copies of a result, which is o's only message, for the routes whose rules hold. A copy that its topic
// would refuse for its size makes the whole outcome a dead letter: result and copies are seen together or not at all
// (P3).
func (w *Writer) route(o Outcome, r *Record, env ruleEnv) Outcome {
	for i := range w.Routes {
		t := &w.Routes[i]
		if !w.holds("routes."+t.Name, t.When, env) {
			continue
		}
		m := o.Messages[0]
		m.Topic = t.Topic
		m.Headers = append(slices.Clone(m.Headers), Header{HeaderRoute, []byte(t.Name)})
		for k := range m.Headers[len(r.Headers):] {
			if h := &m.Headers[len(r.Headers)+k]; h.Key == HeaderID {
				h.Value = append(slices.Clone(h.Value), "@"+t.Name...)
			}
		}
		if limit, ok := w.fits(&m); !ok {
			return w.pointer(r, Faultf(Poison, "encode", "result-too-large",
				"the copy for route %s has %d bytes, topic %s takes %d (max.message.bytes)", t.Name, m.Size(), m.Topic,
				limit), m.Topic, m.Size(), limit)
		}
		o.Messages = append(o.Messages, m)
	}
	return o
}

// Empty publishes the source object with a null verdict for every model.
func (w *Writer) Empty(r *Record, models []ClassifierModel, f Flags) Outcome {
	b := w.member(nil)
	for i := range models {
		b = appendKey(b, models[i].Name)
		b = append(b, "null,"...)
	}
	b = append(b, `"reason":"empty"`...)
	b = appendFlags(b, f)
	b = append(b, '}')
	return w.publish(r, Empty, w.value(r, b), ourHeaders(r, tags(models)))
}

// Tombstone forwards a null value as it is.
func (w *Writer) Tombstone(r *Record) Outcome {
	return w.publish(r, Tombstone, nil, ourHeaders(r, ""))
}

// DeadLetter publishes the record byte for byte, with the reason in headers. attempts says how often it was
// processed before it was given up.
func (w *Writer) DeadLetter(r *Record, f *Fault, attempts int) Outcome {
	m := Message{Topic: w.DeadLetters, Source: r.TopicPartition(), Timestamp: r.Timestamp, Key: r.Key, Value: r.Value,
		Headers: append(append(make([]Header, 0, len(r.Headers)+10), r.Headers...), errorHeaders(r, f, attempts)...)}
	if limit, ok := w.fits(&m); !ok {
		return w.pointer(r, f, m.Topic, m.Size(), limit)
	}
	return Outcome{Messages: []Message{m}, Disposition: DeadLetter, Fault: f}
}

// Replace is the outcome of a record (of a request: ReplaceFinal) whose message the broker refused for its size
// although it looked small enough.
func (w *Writer) Replace(r *Record, cause *TooLargeError) Outcome {
	return w.pointer(r, Faultf(Poison, "commit", "result-too-large", "%w", cause), cause.Topic, r.Size(), 0)
}

// Panicked is the outcome of a record over which Replace has panicked.
func (w *Writer) Panicked(r *Record, f *Fault) Outcome { return w.DeadLetter(r, f, 1) }

// Quarantine is the outcome of a record that is not processed any more because it kills the process.
func (w *Writer) Quarantine(r *Record, deaths int) Outcome {
	return w.DeadLetter(r, Faultf(Poison, "process", "killed-the-worker",
		"%d times a worker ended without stopping while this record was in flight, the last %d times while it was "+
			"the only one that ran; it was not run again", deaths, deathsAlone), deaths)
}

// ourHeaders are the headers of a result; those of the source go before them.
func ourHeaders(r *Record, models string) []Header {
	if models == "" {
		return origin(r)
	}
	return append(origin(r), Header{HeaderModel, []byte(models)}, Header{HeaderRevision, []byte("1")})
}

// publish makes the result message, or a pointer in the dead letter topic when the result is larger than its topic
// takes.
func (w *Writer) publish(r *Record, d Disposition, value []byte, ours []Header) Outcome {
	m := Message{Topic: w.Output, Source: r.TopicPartition(), Timestamp: r.Timestamp, Key: r.Key, Value: value}
	m.Headers = append(append(make([]Header, 0, len(r.Headers)+len(ours)), r.Headers...), ours...)
	if limit, ok := w.fits(&m); !ok {
		return w.pointer(r, Faultf(Poison, "encode", "result-too-large",
			"the result has %d bytes, topic %s takes %d (max.message.bytes)", m.Size(), m.Topic, limit), m.Topic,
			m.Size(), limit)
	}
	return Outcome{Messages: []Message{m}, Disposition: d}
}

// largestKey is how much of a key goes with a pointer: a dead letter that is itself too large would block its
// partition.
const largestKey = 16 << 10

// pointer is a dead letter that says where the record is instead of repeating it. The source's headers stay behind, and
// so does a key of more than 16 KiB.
func (w *Writer) pointer(r *Record, f *Fault, topic string, bytes, limit int) Outcome {
	value, err := json.Marshal(struct {
		Topic     string `json:"topic"`
		Partition int32  `json:"partition"`
		Offset    int64  `json:"offset"`
		Bytes     int    `json:"bytes"`
		Refused   string `json:"refused_by"`
		Limit     int    `json:"limit,omitempty"`
	}{r.Topic, r.Partition, r.Offset, bytes, topic, limit})
	if err != nil { // strings and numbers always marshal
		panic(err)
	}
	m := Message{Topic: w.DeadLetters, Source: r.TopicPartition(), Timestamp: r.Timestamp, Key: r.Key, Value: value,
		Headers: errorHeaders(r, f, 1)}
	if len(m.Key) > largestKey {
		m.Key = nil
	}
	return Outcome{Messages: []Message{m}, Disposition: DeadLetter, Fault: f}
}

func errorHeaders(r *Record, f *Fault, attempts int) []Header {
	text := f.Reason
	if f.Err != nil {
		text = f.Err.Error()
	}
	of := origin(r)
	return []Header{
		of[0],
		of[1],
		{HeaderErrorStage, []byte(f.Stage)},
		{HeaderErrorKind, []byte(f.Kind)},
		{HeaderErrorReason, []byte(f.Reason)},
		{HeaderErrorMessage, []byte(text)},
		{HeaderErrorTopic, []byte(r.Topic)},
		{HeaderErrorPartition, strconv.AppendInt(nil, int64(r.Partition), 10)},
		{HeaderErrorOffset, strconv.AppendInt(nil, r.Offset, 10)},
		{HeaderErrorAttempts, strconv.AppendInt(nil, int64(attempts), 10)},
	}
}

// origin is the headers that say which record a message was made of, and its id.
func origin(r *Record) []Header {
	id := messageID(r, "0")
	source := id[: len(id)-2 : len(id)-2]
	return append(make([]Header, 0, 4), Header{HeaderSource, source}, Header{HeaderID, id})
}

// sourceOf is topic/partition/offset.
func sourceOf(r *Record) []byte {
	b := append(append(make([]byte, 0, len(r.Topic)+32), r.Topic...), '/')
	b = append(strconv.AppendInt(b, int64(r.Partition), 10), '/')
	return strconv.AppendInt(b, r.Offset, 10)
}

// messageID names one of the messages made of a record.
func messageID(r *Record, which string) []byte {
	return append(append(sourceOf(r), '#'), which...)
}

func tags(models []ClassifierModel) string {
	t := make([]string, len(models))
	for i := range models {
		t[i] = models[i].Tag
	}
	return strings.Join(t, ",")
}

// member begins the output field: `"inference":{`.
func (w *Writer) member(b []byte) []byte {
	return append(appendKey(b, w.Field), '{')
}

// value is the result object: the source object plus member, or, for plain texts, an object of the text and member.
func (w *Writer) value(r *Record, member []byte) []byte {
	if w.Format == JSON {
		return Insert(r.Value, member)
	}
	b := appendKey(append(make([]byte, 0, len(r.Value)+len(member)+16), '{'), "text")
	b = model.AppendString(b, string(tokenize.Repair(r.Value)))
	b = append(b, ',')
	b = append(b, member...)
	return append(b, '}')
}

func appendFlags(b []byte, f Flags) []byte {
	var flags []string
	if f.Repaired {
		flags = append(flags, `"invalid-utf8"`)
	}
	if f.Cut {
		flags = append(flags, `"text-cut"`)
	}
	if flags == nil {
		return b
	}
	return append(b, `,"flags":[`+strings.Join(flags, ",")+`]`...)
}

func appendKey(b []byte, name string) []byte { return append(model.AppendString(b, name), ':') }

// ReservedNames may not be names of models: the output field uses them itself.
var ReservedNames = []string{"reason", "flags"}

// CheckField says why a name cannot be the output field or a model's name in it.
func CheckField(name string) error {
	if name == "" {
		return errors.New("it must not be empty")
	}
	for _, r := range name {
		if r < 0x20 || r == '"' || r == '\\' || r == 0xFFFD {
			return fmt.Errorf("%q holds a character that would have to be escaped in JSON", name)
		}
	}
	return nil
}
