package pipeline

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"sluice/tokenize"
)

// fragileTokenizer panics over some texts, and with them over their batch.
type fragileTokenizer struct{ *wordTokenizer }

func (f fragileTokenizer) Encode(texts [][]byte, o tokenize.Options) []tokenize.Encoded {
	for _, text := range texts {
		if bytes.Contains(text, []byte("fragile")) {
			panic("slice bounds out of range")
		}
	}
	return f.wordTokenizer.Encode(texts, o)
}

// Wherever code panics over a record: that record is a dead letter, which says where, and its batch-mates have the
// results that they have without it.
func TestAPanicOverARecordIsThatRecordsFate(t *testing.T) {
	var good []string
	for i := range 60 {
		good = append(good, fmt.Sprintf(`{"id":%d,"text":"%s and more"}`, i, strings.Repeat("x", 1+i%9)))
	}
	noSuchTopic := func(b *bench) {
		b.c.o.Writer.MaxBytes = func(topic string) int {
			if topic == "out" {
				panic("no such topic")
			}
			return 0
		}
	}
	alone := newBench(t, 2).outcomes(t, good...)
	for _, c := range []struct {
		name, stage string
		spoil       func(*bench)
		text        string
	}{
		{"tokenizer", "tokenize", func(b *bench) {
			for i := range b.c.groups {
				b.c.groups[i].tokenizer = fragileTokenizer{b.tok}
			}
		}, "fragile"},
		{"an outcome without a model", "decode", noSuchTopic, ""},
		{"the outcome of verdicts", "encode", noSuchTopic, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBench(t, 2)
			c.spoil(b)
			values := good
			if c.stage == "decode" {
				values = []string{`{"text":" "}`, "null"}
			}
			if c.text != "" {
				values = slices.Insert(slices.Clone(good), 30, `{"text":"very `+c.text+`"}`)
			}
			out := b.outcomes(t, values...)
			for i, o := range out {
				bad := c.text == "" || strings.Contains(values[i], c.text)
				switch {
				case bad && (o.Disposition != DeadLetter || header(&o.Messages[0], HeaderErrorReason) != "panic" ||
					header(&o.Messages[0], HeaderErrorStage) != c.stage ||
					!strings.Contains(header(&o.Messages[0], HeaderErrorMessage), "panicked at sluice/pipeline")):
					t.Errorf("%s: %s %s", values[i], o.Disposition, o.Messages[0].Headers)
				case !bad && (o.Disposition != Scored || !slices.ContainsFunc(alone,
					func(a Outcome) bool { return bytes.Equal(a.Messages[0].Value, o.Messages[0].Value) })):
					t.Errorf("%s: %s", values[i], o.Messages[0].Value)
				}
			}
		})
	}
}

func TestAPanicWhileAMessageIsReplacedIsThatRecordsFate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newFakeGroup(1, 9)
		dead := 0
		g.fail = func(_ int, c *Commit) error {
			for _, m := range c.Messages {
				if m.Topic == "out" && string(m.Headers[0].Value) == "4" {
					return &TooLargeError{Topic: "out"}
				}
			}
			return nil
		}
		o := StageOptions{
			Replace: func(*Record, *TooLargeError) Outcome { panic("no room") },
			Panicked: func(r *Record, f *Fault) Outcome {
				if dead++; r.Offset != 4 || f.Kind != Poison || f.Reason != "panic" {
					t.Errorf("offset %d: %v", r.Offset, f)
				}
				return Outcome{Disposition: DeadLetter, Messages: []Message{{Topic: "dead", Source: r.TopicPartition(),
					Headers: []Header{{"o", fmt.Append(nil, r.Offset)}}}}}
			},
		}
		err := runStage(t, g, &fakeProcessor{took: random(time.Millisecond)}, o, func(stop context.CancelFunc, _ *Stage,
			_ *fakeSource) {
			time.Sleep(time.Minute)
			stop()
		})
		if err != nil || dead != 1 {
			t.Errorf("%v, %d dead letters", err, dead)
		}
		g.check(t)
	})
}
