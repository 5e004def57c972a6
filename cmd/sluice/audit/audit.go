// Package audit says what became of the records of a time: it reads a worker's input, result and dead letter topics
// with an independent client and counts, per input partition, what is lost, doubled or out of order.
//
// It joins no group, commits nothing and writes nothing.
package audit

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/twmb/franz-go/pkg/kgo"

	"sluice/pipeline"
	"sluice/pipeline/escalate"
	"sluice/pipeline/publish"
)

// This file owns the counting. It knows no broker: fetch.go tells it of records, in the order of each partition.

// Kind is what a topic that a worker writes to is for.
type Kind int

// The kinds of topics.
const (
	Results     Kind = iota // verdicts
	DeadLetters             // records without one, with the reason
	Routed                  // copies for which a rule holds
	Requests                // what is asked of an endpoint later
)

// examples is how many records of each sort are named per partition.
const examples = 5

// Partition is what was found for one input partition.
type Partition struct {
	Topic     string `json:"topic"`
	Partition int32  `json:"partition"`
	From      int64  `json:"from"` // the first offset that was looked at
	To        int64  `json:"to"`   // the offset behind the last one: nothing beyond what the group has committed

	Records int64 `json:"records"` // that are in the log between the two
	// offsets between the two without a record: transaction markers, aborted, deleted or compacted away
	Gaps        int64 `json:"gaps"`
	Results     int64 `json:"results"`      // records with a first result
	DeadLetters int64 `json:"dead_letters"` // records with a dead letter
	// records without an answer that a rule leaves out, as the configuration has it now
	Skipped int64 `json:"skipped,omitempty"`
	// records in whose place a request was published: their result comes later
	Deferred   int64 `json:"deferred,omitempty"`
	Requests   int64 `json:"requests,omitempty"`   // records with a request to an endpoint
	Amended    int64 `json:"amended,omitempty"`    // records with a final verdict of the escalation
	Pending    int64 `json:"pending,omitempty"`    // requests that the escalation's group has not committed yet
	Lost       int64 `json:"lost"`                 // records without an answer
	Unfinished int64 `json:"unfinished,omitempty"` // requests that were committed and have no final verdict
	Doubled    int64 `json:"doubled"`              // messages whose id was there before
	Disordered int64 `json:"disordered"`           // results before which a later record's result stands
	Stray      int64 `json:"stray,omitempty"`      // routed copies of records that have no result
	// records without an answer, whose answer may have been deleted since
	Unverifiable int64    `json:"unverifiable,omitempty"`
	InFlight     int64    `json:"in_flight"` // offsets that the group has not committed: not counted above
	Examples     []string `json:"examples,omitempty"`
}

// clean says that nothing is wrong. Repeats are no fault where the worker promises no more.
func (p *Partition) clean(repeats bool) bool {
	return p.Lost+p.Unfinished+p.Disordered+p.Stray == 0 && (p.Doubled == 0 || repeats)
}

// lane is one input partition while it is looked at.
type lane struct {
	Partition
	source    string // topic/partition
	exists    bitmap
	skipped   bitmap            // a rule leaves it out
	answered  bitmap            // by result or dead letter
	asked     bitmap            // every request
	deferred  bitmap            // requests in whose place there is no result yet
	due       bitmap            // requests that must have a final verdict
	final     bitmap            // final verdicts
	copies    map[string]bitmap // routed copies, by topic and route
	last      map[string]int64  // the latest record that was seen first, by output partition
	seenFrom  map[string]int64  // the earliest record that an output topic has
	uncertain []string          // output topics that may have lost answers for this partition
}

// tally counts for all input partitions. Its methods may be called at the same time for different topics' partitions.
type tally struct {
	mu      sync.Mutex
	lanes   map[pipeline.TopicPartition]*lane
	request string // topic of requests; "": none
	skipped func(*pipeline.Record) bool
	foreign map[string]int64
}

func newTally() *tally {
	return &tally{lanes: map[pipeline.TopicPartition]*lane{}, foreign: map[string]int64{}}
}

// open begins with one input partition: offsets from up to, not including, to.
func (t *tally) open(tp pipeline.TopicPartition, from, to int64) *lane {
	l := &lane{
		Partition: Partition{Topic: tp.Topic, Partition: tp.Partition, From: from, To: to},
		source:    tp.Topic + "/" + strconv.Itoa(int(tp.Partition)),
		exists:    bitmap{}, skipped: bitmap{},
		answered: bitmap{}, asked: bitmap{}, deferred: bitmap{}, due: bitmap{}, final: bitmap{},
		copies: map[string]bitmap{}, last: map[string]int64{}, seenFrom: map[string]int64{},
	}
	t.lanes[tp] = l
	return l
}

func (t *tally) input(r *kgo.Record) {
	skipped := t.skipped != nil && t.skipped(asRecord(r))
	t.mu.Lock()
	defer t.mu.Unlock()
	if l := t.lanes[pipeline.TopicPartition{Topic: r.Topic, Partition: r.Partition}]; l != nil && r.Offset >= l.From &&
		r.Offset < l.To {
		l.exists.add(r.Offset)
		if skipped {
			l.skipped.add(r.Offset)
		}
	}
}

// asRecord is a record of the input as rules see it.
func asRecord(r *kgo.Record) *pipeline.Record {
	headers := make([]pipeline.Header, len(r.Headers))
	for i, h := range r.Headers {
		headers[i] = pipeline.Header{Key: h.Key, Value: h.Value}
	}
	return &pipeline.Record{Topic: r.Topic, Partition: r.Partition, Offset: r.Offset, Timestamp: r.Timestamp,
		Key: r.Key, Value: r.Value, Headers: headers}
}

// output takes one message of a topic that the worker writes to: requests before results, results before dead letters.
// settled says, of a request, that the escalation's group has committed it.
func (t *tally) output(kind Kind, r *kgo.Record, settled bool) {
	source, id := origin(r, t.request)
	tp, offset, ok := parseSource(source)
	t.mu.Lock()
	defer t.mu.Unlock()
	if !ok {
		t.foreign[r.Topic]++
		return
	}
	l := t.lanes[tp]
	if l == nil {
		t.foreign[r.Topic]++
		return
	}
	if offset < l.From || offset >= l.To {
		return
	}
	_, number, _ := strings.Cut(id, "#")
	number, route, _ := strings.Cut(number, "@")
	switch {
	case kind == Routed:
		l.copied(r, offset, number+"@"+route)
	case kind == Requests:
		if !l.asked.add(offset) {
			l.double(r, offset, "request")
			return
		}
		l.Requests++
		mode := modeOf(r)
		if mode == string(escalate.Defer) {
			l.deferred.add(offset)
			l.Deferred++
		}
		switch {
		case mode == string(escalate.Shadow): // nothing more is published
		case settled:
			l.due.add(offset)
		default:
			l.Pending++
		}
	case number != "0", kind == DeadLetters && l.asked.has(offset) && l.answered.has(offset) && !l.final.has(offset):
		// an amendment, or what became of a request that could not be answered
		if !l.final.add(offset) {
			l.double(r, offset, "final verdict")
			return
		}
		l.Amended++
	default:
		l.first(kind, r, offset)
	}
}

// first takes a result or a dead letter.
func (l *lane) first(kind Kind, r *kgo.Record, offset int64) {
	if !l.answered.add(offset) {
		l.double(r, offset, "answer")
		return
	}
	if kind == DeadLetters {
		l.DeadLetters++
	} else {
		l.Results++
	}
	if first, ok := l.seenFrom[r.Topic]; !ok || offset < first {
		l.seenFrom[r.Topic] = offset
	}
	at := r.Topic + "/" + strconv.Itoa(int(r.Partition))
	if last, ok := l.last[at]; ok && offset < last && !l.deferred.has(offset) {
		l.Disordered++
		l.example("%s/%d is behind %d in %s-%d@%d", l.source, offset, last, r.Topic, r.Partition, r.Offset)
		return
	}
	l.last[at] = max(l.last[at], offset)
}

func (l *lane) copied(r *kgo.Record, offset int64, what string) {
	key := r.Topic + " " + what
	if l.copies[key] == nil {
		l.copies[key] = bitmap{}
	}
	if !l.copies[key].add(offset) {
		l.double(r, offset, "routed copy")
	}
}

func (l *lane) double(r *kgo.Record, offset int64, what string) {
	l.Doubled++
	l.example("%s/%d has its %s once more in %s-%d@%d", l.source, offset, what, r.Topic, r.Partition, r.Offset)
}

func (l *lane) example(format string, args ...any) {
	if len(l.Examples) < 2*examples {
		l.Examples = append(l.Examples, fmt.Sprintf(format, args...))
	}
}

// close counts what is missing.
func (l *lane) close() Partition {
	l.Records = l.exists.count()
	l.Gaps = l.To - l.From - l.Records
	each := func(have bitmap, do func(offset int64)) {
		for _, n := range slices.Sorted(maps.Keys(have)) {
			for o := n * page; o < (n+1)*page; o++ {
				if have.has(o) {
					do(o)
				}
			}
		}
	}
	each(l.exists, func(o int64) {
		switch {
		case l.answered.has(o), l.deferred.has(o):
		case l.skipped.has(o):
			l.Skipped++
		case l.deleted(o):
			l.Unverifiable++
		default:
			if l.Lost++; l.Lost <= examples {
				l.example("%s/%d has no answer", l.source, o)
			}
		}
	})
	each(l.due, func(o int64) {
		switch {
		case l.final.has(o), l.deferred.has(o) && l.answered.has(o):
		case l.deleted(o):
			l.Unverifiable++
		default:
			if l.Unfinished++; l.Unfinished <= examples {
				l.example("%s/%d has no final verdict, though its request was committed", l.source, o)
			}
		}
	})
	for _, what := range slices.Sorted(maps.Keys(l.copies)) {
		each(l.copies[what], func(o int64) {
			if !l.answered.has(o) && !l.final.has(o) && !l.deleted(o) {
				l.Stray++
				l.example("%s/%d has a copy (%s) and no result", l.source, o, what)
			}
		})
	}
	return l.Partition
}

// deleted says that the answer to a record may have been there: a topic of answers has lost what it had for the records
// before the first that it still knows of.
func (l *lane) deleted(offset int64) bool {
	for _, topic := range l.uncertain {
		if first, ok := l.seenFrom[topic]; !ok || offset < first {
			return true
		}
	}
	return false
}

// origin is the source and the id of a message. A record that went through several workers carries the headers of all
// of them: the last ones count. A dead letter of a request is about the record that the request was made for.
func origin(r *kgo.Record, request string) (source, id string) {
	for _, h := range slices.Backward(r.Headers) {
		if h.Key == publish.HeaderSource && source == "" {
			if s := string(h.Value); request == "" || !strings.HasPrefix(s, request+"/") {
				source = s
			} else {
				id = s + "#2" // whatever its own id is, it ends an escalation
			}
		}
		if h.Key == publish.HeaderID && id == "" {
			id = string(h.Value)
		}
	}
	return source, id
}

// modeOf is the mode of a request: amend where it does not say.
func modeOf(r *kgo.Record) string {
	for _, h := range slices.Backward(r.Headers) {
		if h.Key != escalate.HeaderEscalation {
			continue
		}
		var e struct {
			Mode string `json:"mode"`
		}
		if json.Unmarshal(h.Value, &e) == nil {
			return e.Mode
		}
	}
	return string(escalate.Amend)
}

// parseSource reads topic/partition/offset.
func parseSource(s string) (tp pipeline.TopicPartition, offset int64, ok bool) {
	parts := strings.Split(s, "/")
	if len(parts) != 3 {
		return tp, 0, false
	}
	p, err := strconv.ParseInt(parts[1], 10, 32)
	if err != nil {
		return tp, 0, false
	}
	offset, err = strconv.ParseInt(parts[2], 10, 64)
	return pipeline.TopicPartition{Topic: parts[0], Partition: int32(p)}, offset, err == nil && offset >= 0
}

// Report is what was found.
type Report struct {
	Group      string      `json:"group"`
	Since      string      `json:"since"` // RFC 3339; "" is the beginning of the log
	Until      string      `json:"until"`
	Repeats    bool        `json:"repeats_allowed"` // at-least-once: doubled messages are no fault
	Partitions []Partition `json:"partitions"`
	Total      Partition   `json:"total"`
	// messages by topic that no record of the input topics was the source of
	Foreign    map[string]int64 `json:"foreign,omitempty"`
	Notes      []string         `json:"notes,omitempty"` // what could not be verified, and why
	Incomplete bool             `json:"incomplete"`      // a topic could not be read to its end
}

// Clean says that all was read and nothing is lost, doubled or out of order.
func (r *Report) Clean() bool { return !r.Incomplete && r.Total.clean(r.Repeats) }

func (t *tally) report(r *Report) {
	r.Partitions = nil
	for _, l := range t.lanes {
		r.Partitions = append(r.Partitions, l.close())
	}
	slices.SortFunc(r.Partitions, func(a, b Partition) int {
		return cmp.Or(cmp.Compare(a.Topic, b.Topic), cmp.Compare(a.Partition, b.Partition))
	})
	sum := &r.Total
	for i := range r.Partitions {
		p := &r.Partitions[i]
		sum.Records += p.Records
		sum.Gaps += p.Gaps
		sum.Results += p.Results
		sum.DeadLetters += p.DeadLetters
		sum.Skipped += p.Skipped
		sum.Deferred += p.Deferred
		sum.Requests += p.Requests
		sum.Amended += p.Amended
		sum.Pending += p.Pending
		sum.Lost += p.Lost
		sum.Unfinished += p.Unfinished
		sum.Doubled += p.Doubled
		sum.Disordered += p.Disordered
		sum.Stray += p.Stray
		sum.Unverifiable += p.Unverifiable
		sum.InFlight += p.InFlight
	}
	if len(t.foreign) > 0 {
		r.Foreign = t.foreign
	}
}
