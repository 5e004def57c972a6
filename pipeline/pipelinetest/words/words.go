// Package words has a tokenizer and models that cost next to nothing, and a plan on them, for tests of what stands
// around.
package words

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"sluice/model"
	"sluice/pipeline"
	"sluice/pipeline/codec"
	"sluice/pipeline/codec/jsonvalue"
	"sluice/pipeline/engine"
	"sluice/pipeline/engine/enginetest"
	"sluice/pipeline/plan"
	"sluice/pipeline/plan/text"
	"sluice/pipeline/publish"
	"sluice/tokenize"
)

// Tokenizer makes one token of every word: its length. It counts how often it is asked.
type Tokenizer struct {
	Name string // what Digest says; "": words

	mu    sync.Mutex
	texts int
}

// Texts is how many texts have been tokenized.
func (w *Tokenizer) Texts() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.texts
}

// Encode implements tokenize.Tokenizer. A text with the word untokenizable is refused.
func (w *Tokenizer) Encode(texts [][]byte, o tokenize.Options) []tokenize.Encoded {
	w.mu.Lock()
	w.texts += len(texts)
	w.mu.Unlock()
	out := make([]tokenize.Encoded, len(texts))
	for i, text := range texts {
		e := tokenize.Encoding{}
		at := 0
		for _, word := range bytes.Fields(text) {
			at += bytes.Index(text[at:], word)
			e.IDs = append(e.IDs, int32(len(word)))
			e.Offsets = append(e.Offsets, tokenize.Span{Start: at, End: at + len(word)})
			e.Special = append(e.Special, false)
			at += len(word)
		}
		if o.MaxTokens > 0 && len(e.IDs) > o.MaxTokens {
			e.IDs, out[i].Truncated = e.IDs[:o.MaxTokens], true
		}
		out[i].Windows = []tokenize.Encoding{e}
		if bytes.Contains(text, []byte("untokenizable")) {
			out[i] = tokenize.Encoded{Err: errors.New("no tokens for this text")}
		}
	}
	return out
}

// EncodePairs implements tokenize.Tokenizer: the words of both texts.
func (w *Tokenizer) EncodePairs(pairs [][2][]byte, o tokenize.Options) []tokenize.Encoded {
	out := make([]tokenize.Encoded, len(pairs))
	for i, pair := range pairs {
		both := w.Encode(pair[:], tokenize.Options{})
		for kind, half := range both {
			if half.Err != nil {
				out[i].Err = half.Err
				break
			}
			if kind == 0 {
				out[i].Windows = []tokenize.Encoding{{}}
			}
			row := &out[i].Windows[0]
			for _, id := range half.Windows[0].IDs {
				if o.MaxTokens > 0 && len(row.IDs) == o.MaxTokens {
					out[i].Truncated = true
					break
				}
				row.IDs = append(row.IDs, id)
				if o.Types {
					row.TypeIDs = append(row.TypeIDs, byte(kind))
				}
			}
		}
	}
	return out
}

// Token implements tokenize.Tokenizer.
func (w *Tokenizer) Token(id int32) string { return fmt.Sprint(id) }

// Join implements tokenize.Tokenizer.
func (w *Tokenizer) Join(ts []string) string { return strings.Join(ts, " ") }

// ContinuingPrefix implements tokenize.Tokenizer.
func (w *Tokenizer) ContinuingPrefix() string { return "##" }

// Digest implements tokenize.Tokenizer.
func (w *Tokenizer) Digest() string {
	if w.Name == "" {
		return "words"
	}
	return w.Name
}

// Close implements tokenize.Tokenizer.
func (w *Tokenizer) Close() error { return nil }

// run is sure of POSITIVE by the length of the first word. A first word of 13 letters fails the batch, one of 14 gives
// NaN; when Broken is set everything fails.
func (b *Bench) run(rows []engine.Input) ([][]float32, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.Broken {
		return nil, errors.New("the model is broken")
	}
	out := make([][]float32, len(rows))
	for i, row := range rows {
		switch first := row.(interface{ TokenIDs() []int32 }).TokenIDs()[0]; first {
		case 13:
			return nil, pipeline.Faultf(pipeline.Internal, "infer", "run-failed", "thirteen")
		case 14:
			out[i] = []float32{float32(math.NaN()), 0}
		default:
			out[i] = []float32{-float32(first), float32(first)}
		}
	}
	return out, nil
}

// Bench is a plan on words.
type Bench struct {
	Tokenizer *Tokenizer
	Models    []text.Model // m0, m1, ...: tag m0@0123456789ab, labels NEGATIVE and POSITIVE
	Publisher *publish.Publisher
	Stage     *pipeline.StageMetrics
	Registry  *prometheus.Registry
	Failure   chan error // what the plan, the engine or the watchdog could not go on with
	Limit     int        // of messages for the topic out, in bytes; 0: none
	Broken    bool       // the models fail on everything, from the next run on

	mu   sync.Mutex
	t    testing.TB
	plan *plan.Plan
}

// Options are what a test may want otherwise.
type Options struct {
	Models     int // 1
	CacheBytes int
	Skip       plan.Skips
	// Change is called before the plan is made.
	Change func(*Bench)
	// Steps adds steps to those of the models.
	Steps func(*Bench) []plan.Step
}

// New makes a plan with models on words. Values are JSON objects with the text in "text", results go to the topic out,
// dead letters to dlq. A text may have 60 bytes, a row six tokens.
func New(t testing.TB, o Options) *Bench {
	b := &Bench{Tokenizer: &Tokenizer{}, Failure: make(chan error, 100), t: t, Registry: prometheus.NewRegistry()}
	b.Stage = pipeline.NewStageMetrics(b.Registry, pipeline.StageMetricsOptions{
		Dispositions: pipeline.ClassifyDispositions})
	fail := func(err error) { b.Failure <- err }
	dog := pipeline.NewWatchdog(pipeline.WatchdogOptions{Timeout: 30 * time.Second, Grace: 10 * time.Second,
		Wedged: fail})
	e := engine.New(engine.Options{Devices: []engine.Device{{Name: "cpu", Runners: 2}}, BatchTokens: 256,
		CacheBytes: o.CacheBytes, Metrics: engine.NewMetrics(b.Registry, b.Stage), Watchdog: dog, Fail: fail})
	t.Cleanup(e.Close)
	for i := range max(o.Models, 1) {
		name := fmt.Sprintf("m%d", i)
		handle, err := e.Load(t.Context(), engine.Model{Name: name, Digest: name, Probe: engine.Tokens{1},
			Session: &enginetest.Session{Run: b.run}})
		if err != nil {
			t.Fatal(err)
		}
		judge, err := model.NewJudge(&model.Model{Name: name, Task: model.TextClassification,
			Labels: []string{"NEGATIVE", "POSITIVE"}}, b.Tokenizer, model.JudgeOptions{})
		if err != nil {
			t.Fatal(err)
		}
		b.Models = append(b.Models, text.Model{Name: name, Step: text.Step{Handle: handle, Tag: name + "@0123456789ab",
			Tokenizer: b.Tokenizer, Judge: judge, Options: tokenize.Options{MaxTokens: 6}}})
	}
	form := jsonvalue.New(jsonvalue.Options{Text: codec.Path{"text"}, Field: "inference", MaxDepth: 512})
	b.Publisher = &publish.Publisher{Codec: form, Output: "out", DeadLetters: "dlq", MaxBytes: func(topic string) int {
		if topic == "out" {
			return b.Limit
		}
		return 0
	}}
	if o.Change != nil {
		o.Change(b)
	}
	steps := text.Steps(b.Models, text.NewMetrics(b.Registry))
	if o.Steps != nil {
		steps = append(steps, o.Steps(b)...)
	}
	var err error
	b.plan, err = plan.New(steps, plan.Options{Codec: b.Publisher.Codec, Publisher: b.Publisher, MaxTextBytes: 60,
		Skip: o.Skip, Metrics: plan.NewMetrics(b.Registry, b.Stage), Watchdog: dog, Fail: fail})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.plan.Close)
	return b
}

// Plan is the plan.
func (b *Bench) Plan() *plan.Plan { return b.plan }

// Break sets Broken.
func (b *Bench) Break() {
	b.mu.Lock()
	b.Broken = true
	b.mu.Unlock()
}

// Records are values as records of partition in-3 from offset 100 on, with key k and three headers; "null" is a
// tombstone.
func Records(values ...string) []pipeline.Record {
	rs := make([]pipeline.Record, len(values))
	for i, v := range values {
		rs[i] = pipeline.Record{Topic: "in", Partition: 3, Offset: int64(100 + i), Key: []byte("k"), Value: []byte(v),
			Headers: []pipeline.Header{{Key: "traceparent", Value: []byte("00-abc")}, {Key: "x"},
				{Key: "x", Value: []byte("2")}}}
		if v == "null" {
			rs[i].Value = nil
		}
	}
	return rs
}

// Outcomes takes values through the plan and returns what became of each.
func (b *Bench) Outcomes(values ...string) []pipeline.Outcome {
	b.t.Helper()
	out := make([]pipeline.Outcome, len(values))
	var left sync.WaitGroup
	left.Add(len(values))
	for i, r := range Records(values...) {
		b.plan.Submit(&r, func(_ *plan.Item, o pipeline.Outcome) {
			out[i] = o
			left.Done()
		})
	}
	done := make(chan struct{})
	go func() { left.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		b.t.Fatal("some records do not finish")
	}
	return out
}

// Header is the last header of that name; "": none.
func Header(m *pipeline.Message, key string) string {
	for i := len(m.Headers) - 1; i >= 0; i-- {
		if m.Headers[i].Key == key {
			return string(m.Headers[i].Value)
		}
	}
	return ""
}
