package publish_test

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"sluice/pipeline"
	"sluice/pipeline/publish"
)

func header(m pipeline.Message, name string) string {
	for _, h := range m.Headers {
		if h.Key == name {
			return string(h.Value)
		}
	}
	return ""
}

// TestWhatStandsInForARefusedRecordGetsSmaller: from the record as it is to a message that has nothing of it.
func TestWhatStandsInForARefusedRecordGetsSmaller(t *testing.T) {
	p := &publish.Publisher{Output: "out", DeadLetters: "dlq"}
	micros := time.UnixMilli(1_764_000_000_000_000)
	now := time.UnixMilli(1_764_000_000_000)
	record := pipeline.Record{Topic: "in", Partition: 3, Offset: 41, Timestamp: micros, Value: []byte("text"),
		Headers: []pipeline.Header{{Key: "h", Value: []byte("v")}}}
	result := pipeline.Outcome{Disposition: pipeline.Scored}
	letter := p.DeadLetter(&record, pipeline.Faultf(pipeline.Poison, "decode", "invalid-json", "no JSON"), 1)
	by := func(topic, reason string) pipeline.Refusal {
		return pipeline.Refusal{Topic: topic, Reason: reason, Err: errors.New("it says no"), At: now}
	}
	late := pipeline.RefusedTimestamp
	for _, c := range []struct {
		name     string
		meant    pipeline.Outcome
		key      []byte
		refusals []pipeline.Refusal
		whole    bool // the record, byte for byte, at its own time
		wantKey  string
		at       time.Time
		reason   string
		by       string
		end      bool // nothing is left to try
	}{
		{"a result", result, nil, []pipeline.Refusal{by("out", late)}, true, "", micros, late, "", false},
		{"then its dead letter", result, nil, []pipeline.Refusal{by("out", late), by("dlq", late)}, false, "in/3/41",
			now, late, "dlq", false},
		{"a key stays", result, []byte("k"), []pipeline.Refusal{by("out", late), by("dlq", late)}, false, "k",
			now, late, "dlq", false},
		{"also an empty one", result, []byte{}, []pipeline.Refusal{by("out", late), by("dlq", late)}, false, "",
			now, late, "dlq", false},
		{"a large one does not", result, make([]byte, 20<<10), []pipeline.Refusal{by("out", late),
			by("dlq", pipeline.RefusedSize)}, false, "in/3/41", now, late, "dlq", false},
		{"then the pointer: the clock is wrong", result, []byte("k"), []pipeline.Refusal{by("out", late),
			by("dlq", late), by("dlq", late)}, false, "in/3/41", time.Time{}, late, "dlq", false},
		{"then the pointer: its key is too large", result, []byte("k"), []pipeline.Refusal{by("out", late),
			by("dlq", late), by("dlq", pipeline.RefusedSize)}, false, "in/3/41", now, late, "dlq", false},
		{"then nothing", result, nil, []pipeline.Refusal{by("out", late), by("dlq", late), by("dlq", late),
			by("dlq", late)}, false, "in/3/41", time.Time{}, late, "dlq", true},
		{"a result that is too large", result, nil, []pipeline.Refusal{by("out", pipeline.RefusedSize)}, false,
			"in/3/41", now, pipeline.RefusedSize, "out", false},
		{"a dead letter keeps its reason", letter, nil, []pipeline.Refusal{by("dlq", pipeline.RefusedRecord)}, false,
			"in/3/41", now, "invalid-json", "dlq", false},
		{"a dead letter, then its pointer", letter, nil, []pipeline.Refusal{by("dlq", late), by("dlq", late)}, false,
			"in/3/41", time.Time{}, "invalid-json", "dlq", false},
		{"a dead letter, at the end", letter, nil, []pipeline.Refusal{by("dlq", late), by("dlq", late),
			by("dlq", late)}, false, "in/3/41", time.Time{}, "invalid-json", "dlq", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := record
			r.Key = c.key
			o, ok := p.Refused(&r, &c.meant, c.refusals)
			if ok == c.end {
				t.Fatalf("there is more to try: %v", ok)
			}
			m := o.Messages[0]
			if len(o.Messages) != 1 || o.Disposition != pipeline.DeadLetter || m.Topic != "dlq" ||
				m.Source != r.TopicPartition() || o.Fault == nil || o.Fault.Reason != c.reason ||
				header(m, publish.HeaderErrorReason) != c.reason || header(m, publish.HeaderSource) != "in/3/41" ||
				header(m, publish.HeaderID) != "in/3/41#0" {
				t.Errorf("%+v", o)
			}
			if !m.Timestamp.Equal(c.at) || string(m.Key) != c.wantKey || (m.Key == nil) != (c.whole && c.key == nil) {
				t.Errorf("at %v with key %q; want %v, %q", m.Timestamp, m.Key, c.at, c.wantKey)
			}
			if c.meant.Fault == nil && !strings.Contains(header(m, publish.HeaderErrorMessage), "it says no") {
				t.Errorf("the broker's words are not in %q", m.Headers)
			}
			if c.whole {
				if string(m.Value) != "text" || header(m, "h") != "v" {
					t.Errorf("%+v is not the record", m)
				}
				return
			}
			var at struct {
				Topic     string
				Partition int32
				Offset    int64
				Timestamp int64
				Refused   string `json:"refused_by"`
				Because   string
			}
			if err := json.Unmarshal(m.Value, &at); err != nil || at.Topic != "in" || at.Partition != 3 ||
				at.Offset != 41 || at.Timestamp != 1_764_000_000_000_000 || at.Refused != c.by ||
				at.Because != "it says no" || header(m, "h") != "" || len(m.Key) > 1000 {
				t.Errorf("%s: %v", m.Value, err)
			}
		})
	}
}
