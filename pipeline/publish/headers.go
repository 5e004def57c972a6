package publish

import (
	"fmt"
	"math"
	"strconv"
	"strings"

	"sluice/pipeline"
)

// This file owns the headers of what the worker publishes, and the ids in them.

// Header names on what the worker publishes.
const (
	HeaderSource   = "sluice.source"   // topic/partition/offset of the input record
	HeaderID       = "sluice.id"       // the same for every repeat of a message, see ID
	HeaderModel    = "sluice.model"    // tags of the models, comma-separated
	HeaderRevision = "sluice.revision" // 1; amendments count up
	HeaderRoute    = "sluice.route"    // of a routed copy: the name of the route
	HeaderAmends   = "sluice.amends"   // of an amendment: sluice.id of the result that it takes the place of

	HeaderErrorStage   = errorPrefix + "stage"
	HeaderErrorKind    = errorPrefix + "kind"
	HeaderErrorReason  = errorPrefix + "reason"
	HeaderErrorMessage = errorPrefix + "message"
	// Where the record was when it failed first. HeaderSource is where it was this time.
	HeaderErrorTopic     = errorPrefix + "topic"
	HeaderErrorPartition = errorPrefix + "partition"
	HeaderErrorOffset    = errorPrefix + "offset"
	HeaderErrorAttempts  = errorPrefix + "attempts" // how often it was tried, before it was produced again included
)

// What ID names: the messages that are made of one record.
const (
	FirstID      = "0"          // the result, or the dead letter in its place
	AmendmentID  = "2"          // the amendment of the result, or the dead letter in its place
	EscalationID = "escalation" // the question to the escalate stage
)

// ID names one of the messages made of a record: topic/partition/offset#which. That of a routed copy has @ and the
// route's name behind it.
func ID(r *pipeline.Record, which string) []byte {
	return append(append(Source(r), '#'), which...)
}

// Source is topic/partition/offset of a record.
func Source(r *pipeline.Record) []byte {
	b := append(append(make([]byte, 0, len(r.Topic)+32), r.Topic...), '/')
	b = append(strconv.AppendInt(b, int64(r.Partition), 10), '/')
	return strconv.AppendInt(b, r.Offset, 10)
}

// ParseSource reads what Source writes.
func ParseSource(s string) (topic string, partition int32, offset int64, err error) {
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

// WithHeaders is the source's headers with ours behind them, in a slice of its own.
func WithHeaders(source []pipeline.Header, ours ...pipeline.Header) []pipeline.Header {
	return append(append(make([]pipeline.Header, 0, len(source)+len(ours)), source...), ours...)
}

// origin is the headers that say which record a message was made of, and its id.
func origin(r *pipeline.Record) []pipeline.Header {
	id := ID(r, FirstID)
	source := id[: len(id)-2 : len(id)-2]
	return append(make([]pipeline.Header, 0, 4), pipeline.Header{Key: HeaderSource, Value: source},
		pipeline.Header{Key: HeaderID, Value: id})
}

// ourHeaders are the headers of a result; those of the source go before them.
func ourHeaders(r *pipeline.Record, facts []pipeline.Fact) []pipeline.Header {
	return append(origin(r), pipeline.Header{Key: HeaderModel, Value: []byte(Tags(facts))},
		pipeline.Header{Key: HeaderRevision, Value: []byte("1")})
}

// Tags are the tags of facts, comma-separated.
func Tags(facts []pipeline.Fact) string {
	if len(facts) == 1 {
		return facts[0].Tag
	}
	t := make([]string, len(facts))
	for i := range facts {
		t[i] = facts[i].Tag
	}
	return strings.Join(t, ",")
}

// errorHeaders are the headers of a dead letter; what is Foreign of the source goes before them. attempts are those of
// this failure; at least one was made, also where the record cannot even be read.
func errorHeaders(r *pipeline.Record, f *pipeline.Fault, attempts int) []pipeline.Header {
	text := f.Reason
	if f.Err != nil {
		text = f.Err.Error()
	}
	of, before := origin(r), pastOf(r.Headers)
	if before.topic == "" {
		before.topic, before.partition = r.Topic, strconv.FormatInt(int64(r.Partition), 10)
		before.offset = strconv.FormatInt(r.Offset, 10)
	}
	attempts = min(math.MaxInt32, before.attempts+max(1, attempts))
	return []pipeline.Header{
		of[0],
		of[1],
		{Key: HeaderErrorStage, Value: []byte(f.Stage)},
		{Key: HeaderErrorKind, Value: []byte(f.Kind)},
		{Key: HeaderErrorReason, Value: []byte(f.Reason)},
		{Key: HeaderErrorMessage, Value: []byte(text)},
		{Key: HeaderErrorTopic, Value: []byte(before.topic)},
		{Key: HeaderErrorPartition, Value: []byte(before.partition)},
		{Key: HeaderErrorOffset, Value: []byte(before.offset)},
		{Key: HeaderErrorAttempts, Value: strconv.AppendInt(nil, int64(attempts), 10)},
	}
}
