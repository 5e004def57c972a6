package pipeline

import (
	"encoding/json"
	"errors"
	"fmt"
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
	HeaderSource   = "sluice.source"   // topic/partition/offset of the input record
	HeaderID       = "sluice.id"       // the same for every repeat of a message: source#number of the message
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
	// MaxBytes is the largest message a topic takes, 0 if unknown; nil: no limit is known.
	MaxBytes func(topic string) int
}

// overhead is what a message needs beyond key, value and headers: the batch's header (61 bytes), the record's own varints
// and those of its headers, rounded up.
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

// Result publishes the source object with the verdicts added.
func (w *Writer) Result(r *Record, models []ClassifierModel, made []Decision, f Flags) Outcome {
	scratch := scratches.Get().(*[]byte)
	b := w.member((*scratch)[:0])
	for i := range models {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendKey(b, models[i].Name)
		b = append(b, '{')
		b = made[i].AppendJSON(b)
		b = append(b, `,"route":"`...)
		b = append(b, made[i].Route...)
		b = append(b, `","model":`...)
		b = model.AppendString(b, made[i].Tag)
		b = append(b, `,"revision":1}`...)
	}
	b = appendFlags(b, f)
	b = append(b, '}')
	value := w.value(r, b)
	*scratch = b
	scratches.Put(scratch)
	tags := made[0].Tag
	for i := range made[1:] {
		tags += "," + made[i+1].Tag
	}
	return w.publish(r, Scored, value, tags)
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
	return w.publish(r, Empty, w.value(r, b), tags(models))
}

// Tombstone forwards a null value as it is.
func (w *Writer) Tombstone(r *Record) Outcome {
	return w.publish(r, Tombstone, nil, "")
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

// Replace is the outcome of a record whose message the broker refused for its size although it looked small enough.
func (w *Writer) Replace(r *Record, cause *TooLargeError) Outcome {
	return w.pointer(r, Faultf(Poison, "commit", "result-too-large", "%w", cause), cause.Topic, r.Size(), 0)
}

// publish makes the result message, or a pointer in the dead letter topic when the result is larger than its topic takes.
func (w *Writer) publish(r *Record, d Disposition, value []byte, models string) Outcome {
	m := Message{Topic: w.Output, Source: r.TopicPartition(), Timestamp: r.Timestamp, Key: r.Key, Value: value}
	m.Headers = append(make([]Header, 0, len(r.Headers)+4), r.Headers...)
	m.Headers = append(m.Headers, origin(r)...)
	if models != "" {
		m.Headers = append(m.Headers, Header{HeaderModel, []byte(models)}, Header{HeaderRevision, []byte("1")})
	}
	if limit, ok := w.fits(&m); !ok {
		return w.pointer(r, Faultf(Poison, "encode", "result-too-large",
			"the result has %d bytes, topic %s takes %d (max.message.bytes)", m.Size(), m.Topic, limit), m.Topic, m.Size(), limit)
	}
	return Outcome{Messages: []Message{m}, Disposition: d}
}

// largestKey is how much of a key goes with a pointer: a dead letter that is itself too large would block its partition.
const largestKey = 16 << 10

// pointer is a dead letter that says where the record is instead of repeating it. The source's headers stay behind, and so
// does a key of more than 16 KiB.
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
	m := Message{Topic: w.DeadLetters, Source: r.TopicPartition(), Timestamp: r.Timestamp, Key: r.Key, Value: value, Headers: errorHeaders(r, f, 1)}
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
	id := make([]byte, 0, len(r.Topic)+32)
	id = append(append(id, r.Topic...), '/')
	id = append(strconv.AppendInt(id, int64(r.Partition), 10), '/')
	id = strconv.AppendInt(id, r.Offset, 10)
	source := id[:len(id):len(id)]
	id = append(id, "#0"...)
	return []Header{{HeaderSource, source}, {HeaderID, id}}
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
