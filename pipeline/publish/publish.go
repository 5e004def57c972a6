// Package publish makes the messages of a finished record: its result, copies for routes, its dead letter. Everything
// here is a pure function of its arguments, so that making an outcome again gives the same bytes (P5) and a repeat
// carries the same id (P1).
package publish

import (
	"encoding/json"
	"slices"
	"time"

	"sluice/pipeline"
	"sluice/pipeline/codec"
	"sluice/pipeline/rule"
)

// Route copies results to another topic. Copy and result are in one transaction (P3).
type Route struct {
	Name  string
	When  *rule.Verdicts
	Topic string
}

// Publisher makes outcomes. Its fields do not change once it is in use; it is safe for concurrent use.
type Publisher struct {
	Codec       codec.Codec
	Output      string // topic of results
	DeadLetters string // topic of dead letters
	Routes      []Route
	RuleFailed  func(rule string) // told of every rule that could not be evaluated, and so does not hold; may be nil
	// MaxBytes is the largest message a topic takes, 0 if unknown; nil: no limit is known.
	MaxBytes func(topic string) int
}

// Judged is a record about which everything has been found out.
type Judged struct {
	Record         *pipeline.Record
	Value          codec.Value // of the record
	Text           []byte      // as it was judged
	Pair           []byte      // the second text, where records have two
	codec.Verdicts             // what has been found out
	// Requests are messages to another stage, in the transaction of the result.
	Requests []pipeline.Message
	Deferred bool // nothing but Requests is published: the result comes from whoever answers them
}

// Subject is the record as rules see it.
func (j *Judged) Subject() *rule.Subject {
	return &rule.Subject{Record: j.Record, Value: j.Value, Text: j.Text}
}

// overhead is what a message needs beyond key, value and headers: the batch's header (61 bytes), the record's own
// varints and those of its headers, rounded up.
func overhead(m *pipeline.Message) int { return 61 + 32 + 10*len(m.Headers) }

// Fits says whether the topic of a message takes it, as far as its limit (in bytes; 0: unknown) is known.
func (p *Publisher) Fits(m *pipeline.Message) (limit int, ok bool) {
	if p.MaxBytes == nil {
		return 0, true
	}
	limit = p.MaxBytes(m.Topic)
	return limit, limit <= 0 || m.Size()+overhead(m) <= limit
}

// Holds evaluates a rule. One that cannot be evaluated does not hold; name tells metrics which.
func (p *Publisher) Holds(name string, r *rule.Verdicts, env rule.Env) bool {
	yes, err := r.Holds(env)
	if err != nil && p.RuleFailed != nil {
		p.RuleFailed(name)
	}
	return yes
}

// Result publishes the record's value with the verdicts added, copies of it for the routes whose rules hold, and
// requests to other stages. A deferred record has its requests only.
func (p *Publisher) Result(j *Judged) pipeline.Outcome {
	if j.Deferred {
		return pipeline.Outcome{Facts: j.Facts, Messages: j.Requests, Disposition: pipeline.Deferred}
	}
	var env rule.Env
	if len(p.Routes) > 0 {
		env = rule.NewEnv(j.Subject(), j.Facts)
	}
	o := p.Amend(j, Amendment{Disposition: pipeline.Scored, Headers: ourHeaders(j.Record, j.Facts), Env: env})
	if o.Disposition == pipeline.Scored {
		o.Messages = append(o.Messages, j.Requests...)
	}
	return o
}

// Amendment is how a judged record is published where that is another stage's to say.
type Amendment struct {
	Disposition pipeline.Disposition
	Headers     []pipeline.Header // behind the source's
	Env         rule.Env          // what the rules of routes see; needed where there are routes
}

// Amend publishes the record's value with the verdicts added, and copies of it for the routes whose rules hold; a
// pointer in the dead letter topic where a message is larger than its topic takes.
func (p *Publisher) Amend(j *Judged, a Amendment) pipeline.Outcome {
	value, err := p.Codec.Seal(j.Value, &j.Verdicts)
	if err != nil {
		return p.DeadLetter(j.Record, pipeline.AsFault("encode", err), 1)
	}
	o := p.publish(j.Record, a.Disposition, value, a.Headers)
	o.Facts = j.Facts
	if o.Disposition == a.Disposition && len(p.Routes) > 0 {
		o = p.route(o, j.Record, a.Env)
	}
	return o
}

// Empty publishes the record's value with a null verdict for every fact.
func (p *Publisher) Empty(j *Judged) pipeline.Outcome {
	j.Reason = codec.ReasonEmpty
	value, err := p.Codec.Seal(j.Value, &j.Verdicts)
	if err != nil {
		return p.DeadLetter(j.Record, pipeline.AsFault("encode", err), 1)
	}
	return p.publish(j.Record, pipeline.Empty, value, ourHeaders(j.Record, j.Facts))
}

// Tombstone forwards a null value as it is.
func (p *Publisher) Tombstone(r *pipeline.Record) pipeline.Outcome {
	return p.publish(r, pipeline.Tombstone, nil, origin(r))
}

// publish makes the result message, or a pointer in the dead letter topic when the result is larger than its topic
// takes.
func (p *Publisher) publish(r *pipeline.Record, d pipeline.Disposition, value []byte,
	ours []pipeline.Header) pipeline.Outcome {
	m := pipeline.Message{Topic: p.Output, Source: r.TopicPartition(), Timestamp: r.Timestamp, Key: r.Key, Value: value,
		Headers: WithHeaders(Foreign(r.Headers), ours...)}
	if limit, ok := p.Fits(&m); !ok {
		return p.pointer(r, pipeline.Faultf(pipeline.Poison, "encode", "result-too-large",
			"the result has %d bytes, topic %s takes %d (max.message.bytes)", m.Size(), m.Topic, limit),
			m.Topic, m.Size(), limit, nil)
	}
	return pipeline.Outcome{Messages: []pipeline.Message{m}, Disposition: d}
}

// route adds copies of a result, which is o's only message, for the routes whose rules hold. A copy that its topic
// would refuse for its size makes the whole outcome a dead letter: result and copies are seen together or not at all
// (P3).
func (p *Publisher) route(o pipeline.Outcome, r *pipeline.Record, env rule.Env) pipeline.Outcome {
	theirs := len(Foreign(r.Headers))
	for i := range p.Routes {
		t := &p.Routes[i]
		if !p.Holds("routes."+t.Name, t.When, env) {
			continue
		}
		m := o.Messages[0]
		m.Topic = t.Topic
		m.Headers = append(slices.Clone(m.Headers), pipeline.Header{Key: HeaderRoute, Value: []byte(t.Name)})
		for k := range m.Headers[theirs:] {
			if h := &m.Headers[theirs+k]; h.Key == HeaderID {
				h.Value = append(slices.Clone(h.Value), "@"+t.Name...)
			}
		}
		if limit, ok := p.Fits(&m); !ok {
			return p.pointer(r, pipeline.Faultf(pipeline.Poison, "encode", "result-too-large",
				"the copy for route %s has %d bytes, topic %s takes %d (max.message.bytes)", t.Name, m.Size(), m.Topic,
				limit), m.Topic, m.Size(), limit, nil)
		}
		o.Messages = append(o.Messages, m)
	}
	return o
}

// DeadLetter publishes the record byte for byte, with the reason in headers. attempts says how often it was processed
// before it was given up. Of a dead letter that was produced again one set of these headers remains.
func (p *Publisher) DeadLetter(r *pipeline.Record, f *pipeline.Fault, attempts int) pipeline.Outcome {
	m := pipeline.Message{Topic: p.DeadLetters, Source: r.TopicPartition(), Timestamp: r.Timestamp, Key: r.Key,
		Value:   r.Value,
		Headers: WithHeaders(Foreign(r.Headers), errorHeaders(r, f, attempts)...)}
	if limit, ok := p.Fits(&m); !ok {
		return p.pointer(r, f, m.Topic, m.Size(), limit, nil)
	}
	return pipeline.Outcome{Messages: []pipeline.Message{m}, Disposition: pipeline.DeadLetter, Fault: f}
}

// Refused is the outcome of a record of which a broker has refused a message, for pipeline.StageOptions: a dead letter;
// where the dead letter topic refuses that, or the message was too large, a pointer with a key and a timestamp of its
// own; where it refuses that, too, one with nothing of the record's own. It reports false when that is refused as well.
func (p *Publisher) Refused(r *pipeline.Record, meant *pipeline.Outcome, refusals []pipeline.Refusal) (
	pipeline.Outcome, bool) {
	first, last := &refusals[0], &refusals[len(refusals)-1]
	f, form := meant.Fault, len(refusals)
	if f == nil || meant.Disposition != pipeline.DeadLetter {
		f = pipeline.Faultf(pipeline.Poison, "commit", first.Reason, "%w", first)
	}
	if meant.Disposition == pipeline.DeadLetter || first.Reason == pipeline.RefusedSize {
		form++ // the whole record is what was refused, or as large
	}
	if form == 1 {
		return p.DeadLetter(r, f, 1), true
	}
	o := p.pointer(r, f, last.Topic, last.Bytes, last.Limit, last)
	m := &o.Messages[0]
	m.Timestamp = last.At
	if form > 2 {
		m.Key = Source(r)
		if last.Reason == pipeline.RefusedTimestamp {
			m.Timestamp = time.Time{} // this machine's clock is wrong: brokers take a message without a time
		}
	}
	return o, form <= 3
}

// Panicked is the outcome of a record over which making another outcome has panicked.
func (p *Publisher) Panicked(r *pipeline.Record, f *pipeline.Fault) pipeline.Outcome {
	return p.DeadLetter(r, f, 1)
}

// Quarantine is the outcome of a record that is not processed any more because it kills the process; deaths is how many
// workers ended while it was in flight, the last DeathsAlone of them while it was the only one that ran.
func (p *Publisher) Quarantine(r *pipeline.Record, deaths int) pipeline.Outcome {
	return p.DeadLetter(r, pipeline.Faultf(pipeline.Poison, "process", "killed-the-worker",
		"%d times a worker ended without stopping while this record was in flight, the last %d times while it was the "+
			"only one that ran; it was not run again", deaths, pipeline.DeathsAlone), deaths)
}

// largestKey is how much of a key goes with a pointer: a dead letter that is itself too large would block its
// partition.
const largestKey = 16 << 10

// pointer is a dead letter that says where the record is instead of repeating it. The source's headers stay behind. It
// has a key, as compacted topics want it: the record's, or where that has none, or one of more than 16 KiB, what
// sluice.source says. refusal is the broker's word that made it necessary; nil: the size was known before.
func (p *Publisher) pointer(r *pipeline.Record, f *pipeline.Fault, topic string, bytes, limit int,
	refusal *pipeline.Refusal) pipeline.Outcome {
	because := ""
	if refusal != nil && refusal.Err != nil {
		because = refusal.Err.Error()
	}
	value, err := json.Marshal(struct {
		Topic     string `json:"topic"`
		Partition int32  `json:"partition"`
		Offset    int64  `json:"offset"`
		Timestamp *int64 `json:"timestamp,omitempty"` // ms
		Bytes     int    `json:"bytes,omitempty"`
		Refused   string `json:"refused_by"`
		Limit     int    `json:"limit,omitempty"`
		Because   string `json:"because,omitempty"`
	}{r.Topic, r.Partition, r.Offset, milliseconds(r.Timestamp), bytes, topic, limit, because})
	if err != nil { // strings and numbers always marshal
		panic(err)
	}
	m := pipeline.Message{Topic: p.DeadLetters, Source: r.TopicPartition(), Timestamp: r.Timestamp, Key: r.Key,
		Value:   value,
		Headers: errorHeaders(r, f, 1)}
	if m.Key == nil || len(m.Key) > largestKey {
		m.Key = Source(r)
	}
	return pipeline.Outcome{Messages: []pipeline.Message{m}, Disposition: pipeline.DeadLetter, Fault: f}
}

// milliseconds is a record's timestamp as Kafka has it; nil: it has none.
func milliseconds(t time.Time) *int64 {
	if t.IsZero() {
		return nil
	}
	ms := t.UnixMilli()
	return &ms
}
