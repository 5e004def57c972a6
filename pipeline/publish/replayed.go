package publish

import (
	"math"
	"slices"
	"strconv"
	"strings"

	"sluice/pipeline"
)

// This file owns what a dead letter brings along when it is repaired and produced to an input topic again, with its
// headers. What we have written on it then is no longer true of the message that is made of it now; where it came from
// and how often it has been tried still is. Spring Kafka's DeadLetterPublishingRecoverer keeps and strips the same way
// (its original-* headers are the first record's, its exception headers the last failure's).

// errorPrefix begins the name of every header that only a dead letter has.
const errorPrefix = "sluice.error."

func ofDeadLetter(h pipeline.Header) bool { return strings.HasPrefix(h.Key, errorPrefix) }

// Foreign are the headers of a record that no dead letter has added to it, in their order: all of them, in the same
// slice, where the record is no dead letter that was produced again. Each set of a dead letter (an older build left one
// of every failure) is sluice.source, sluice.id, the headers sluice.error.* and, on an amendment's, sluice.amends. A
// source and an id from before the first failure stay: they are of another Sluice, whose result the record was.
func Foreign(headers []pipeline.Header) []pipeline.Header {
	if !slices.ContainsFunc(headers, ofDeadLetter) {
		return headers
	}
	sets := 0
	kept := make([]pipeline.Header, 0, len(headers))
	for i, h := range headers {
		switch {
		case h.Key == HeaderErrorReason:
			sets++
		case ofDeadLetter(h), h.Key == HeaderAmends && i > 0 && ofDeadLetter(headers[i-1]):
		default:
			kept = append(kept, h)
		}
	}
	// The last ones are ours, whatever order a program on the way has brought the headers into.
	for _, ours := range []string{HeaderSource, HeaderID} {
		for range max(1, sets) {
			for i, h := range slices.Backward(kept) {
				if h.Key == ours {
					kept = slices.Delete(kept, i, i+1)
					break
				}
			}
		}
	}
	return kept
}

// past is what the dead letters that a record has been say about it.
type past struct {
	topic, partition, offset string // of the record that failed first; topic "": there was none
	attempts                 int    // of all failures before
}

// pastOf reads the headers of a record. Where there are several sets, the first names the record that failed first.
// What is not as errorHeaders writes it counts for nothing: anybody may write headers.
func pastOf(headers []pipeline.Header) past {
	var p past
	first := func(key string) string {
		for _, h := range headers {
			if h.Key == key {
				return string(h.Value)
			}
		}
		return ""
	}
	failures := 0
	for _, h := range headers {
		switch h.Key {
		case HeaderErrorReason:
			failures++
		case HeaderErrorAttempts:
			if n, err := strconv.ParseInt(string(h.Value), 10, 32); err == nil && n > 0 {
				p.attempts = min(math.MaxInt32, p.attempts+int(n))
			}
		}
	}
	p.attempts = max(p.attempts, failures) // a failure to read the record was counted as no attempt by older builds
	topic, partition, offset := first(HeaderErrorTopic), first(HeaderErrorPartition), first(HeaderErrorOffset)
	if _, _, _, err := ParseSource(topic + "/" + partition + "/" + offset); err == nil && topic != "" {
		p.topic, p.partition, p.offset = topic, partition, offset
	}
	return p
}
