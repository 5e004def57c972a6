package escalate_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"sluice/pipeline"
	"sluice/pipeline/codec"
	"sluice/pipeline/codec/jsonvalue"
	"sluice/pipeline/escalate"
	"sluice/pipeline/llm"
	"sluice/pipeline/llm/label"
	"sluice/pipeline/llm/openai"
	"sluice/pipeline/llm/standin"
	"sluice/pipeline/pipelinetest/injections"
	"sluice/pipeline/publish"
)

// requests is a source of escalation requests.
type requests []pipeline.Record

// textOf is how the values of these tests hold their text.
var textOf = jsonvalue.New(jsonvalue.Options{Text: codec.Path{"text"}, Field: "inference", MaxDepth: 32})

func (r requests) Run(ctx context.Context, flow pipeline.Flow) error {
	flow.Quiesce(ctx)
	tp := r[0].TopicPartition()
	flow.Assign(map[pipeline.TopicPartition]pipeline.Committed{tp: {}})
	flow.Deliver(tp, 0, r, int64(len(r)))
	<-ctx.Done()
	return nil
}

// results is a sink that closes full when it has n messages.
type results struct {
	n    int
	full chan struct{}
	mu   sync.Mutex
	got  []pipeline.Message
}

func (r *results) Commit(_ context.Context, c *pipeline.Commit) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	before := len(r.got)
	r.got = append(r.got, c.Messages...)
	if before < r.n && len(r.got) >= r.n {
		close(r.full)
	}
	return nil
}

func (r *results) MaxMessageBytes(string) int { return 0 }

// asked is a request about a text with the local verdicts label and spans, as the classify stage writes it.
func asked(t *testing.T, id, text, label string, offset int64, spans ...escalate.Span) pipeline.Record {
	t.Helper()
	encode := func(v any) []byte {
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	verdicts := map[string]any{"sentiment": map[string]any{"label": label, "score": 0.7, "by": "model",
		"model": "sentiment@1", "revision": 1, "provisional": true}}
	if len(spans) > 0 {
		var entities []any
		for _, s := range spans {
			entities = append(entities, map[string]any{"entity_group": s.Group, "score": 0.9, "word": "",
				"start": s.Start, "end": s.End})
		}
		verdicts["ner"] = map[string]any{"entities": entities, "by": "model", "model": "ner@1", "revision": 1}
	}
	return pipeline.Record{Topic: "escalations", Offset: offset, Timestamp: time.Now(), Key: []byte("customer-" + id),
		Value: encode(map[string]any{"text": text}),
		Headers: []pipeline.Header{{Key: "traceparent", Value: []byte("00-1")}, {Key: publish.HeaderSource,
			Value: fmt.Appendf(nil, "reviews/0/%d", offset)}, {Key: publish.HeaderID, Value: fmt.Appendf(nil,
			"reviews/0/%d#escalation", offset)},
			{Key: publish.HeaderModel, Value: []byte("sentiment@1")},
			{Key: escalate.HeaderEscalation, Value: encode(map[string]any{"version": 1, "mode": "amend",
				"verdict": "sentiment", "rules": map[string]any{}, "verdicts": verdicts})}}}
}

// TestNoOrderGetsThroughTheStage sends every injection through the whole stage, endpoint, result and all, with an
// endpoint that obeys in some of its ways, different ones for each text (P6). The package injections next to this one
// tries every way, without a stage.
func TestNoOrderGetsThroughTheStage(t *testing.T) {
	corpus := injections.Corpus()
	task, err := label.New(label.Options{Labels: injections.Labels, Explain: true})
	if err != nil {
		t.Fatal(err)
	}
	number := map[string]int{}
	var source requests
	for n, i := range corpus {
		number[i.Text] = n
		source = append(source, asked(t, i.ID, i.Text, i.Truth, int64(n)))
	}
	policy := escalate.Policy{Severity: []string{"POSITIVE", "NEGATIVE"}, Floor: 0.5, Confident: 0.9}
	taken, legal := 0, 0
	for round := range 6 {
		obey := func(user string) string {
			text, _ := injections.TextOf(user)
			n := number[text]
			ways := corpus[n].Obedient()
			return ways[(3*round+n)%len(ways)]
		}
		got := throughStage(t, task, nil, policy, source, standin.New(standin.Options{Labels: injections.Labels,
			Obey: obey}))
		for _, m := range got {
			n, i := sourceOf(t, &m, corpus)
			taken += checkResult(t, &m, &source[n], i)
		}
		for n, i := range corpus {
			ways := i.Obedient()
			a, err := task.Parse(ways[(3*round+n)%len(ways)])
			if err == nil && policy.Decide(escalate.Local{Label: i.Truth, Score: 0.7}, a).By == pipeline.ByLLM {
				legal++
			}
		}
		if len(got) != len(corpus) {
			t.Errorf("round %d: %d results of %d requests", round, len(got), len(corpus))
		}
	}
	if taken != legal || legal == 0 {
		t.Errorf("%d answers were taken, %d are legal: the endpoint was not asked, or not heard", taken, legal)
	}
}

// throughStage runs the requests through a stage whose endpoint is server, until each has a message, and returns the
// messages.
func throughStage(t *testing.T, task *label.Task, redactor *escalate.Redactor, policy escalate.Policy,
	source requests, server *standin.Server) []pipeline.Message {
	t.Helper()
	var network standin.Network
	network.Serve("llm", server)
	defer network.Close()
	o := llm.DefaultOptions()
	o.Name, o.Protocol, o.URLs, o.Model = "escalation", openai.Protocol{}, []string{"http://llm/v1"}, "stub"
	o.Dial = network.Dial
	pool, err := llm.NewPool(o)
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	registry := prometheus.NewRegistry()
	budget := escalate.NewBudget(escalate.Limits{}, time.Now)
	log := slog.New(slog.NewTextHandler(io.Discard, nil))
	processor := escalate.NewProcessor(escalate.ProcessorOptions{
		Codec:        textOf,
		MaxTextBytes: 1 << 20,
		Publisher:    &publish.Publisher{Codec: textOf, Output: "review_analysis", DeadLetters: "review_dlq"},
		Task:         task, Redactor: redactor, Policy: policy, Pool: pool, Budget: budget,
		Model: "stub", Deadline: time.Minute, Concurrency: 8, Metrics: escalate.NewMetrics(registry), Logger: log,
	})
	defer processor.Close()
	sink := &results{n: len(source), full: make(chan struct{})}
	stage := pipeline.NewStage(processor, sink, pipeline.StageOptions{CommitInterval: time.Millisecond,
		Metrics: pipeline.NewStageMetrics(registry, escalate.StageMetrics), Logger: log,
		Attachments: []pipeline.Attachment{budget.Attachment(func() int { return 1 })}})
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	ended := make(chan error, 1)
	go func() { ended <- stage.Run(ctx, source) }()
	select {
	case <-sink.full:
	case <-ctx.Done():
		t.Error("the stage did not get through its requests")
	}
	cancel()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	if v := server.Violations(); len(v) > 0 {
		t.Errorf("the endpoint refused requests: %q", v)
	}
	sink.mu.Lock()
	defer sink.mu.Unlock()
	return sink.got
}

func sourceOf(t *testing.T, m *pipeline.Message, corpus []injections.Injection) (int, injections.Injection) {
	t.Helper()
	for _, h := range m.Headers {
		var n int
		if h.Key == publish.HeaderSource {
			if _, err := fmt.Sscanf(string(h.Value), "reviews/0/%d", &n); err == nil && n < len(corpus) {
				return n, corpus[n]
			}
		}
	}
	t.Fatalf("a result of nothing: %+v", m.Headers)
	panic("unreachable")
}

// checkResult looks for whatever an answer could have brought. It returns 1 if the answer was taken.
func checkResult(t *testing.T, m *pipeline.Message, r *pipeline.Record, i injections.Injection) int {
	t.Helper()
	kind, wanted := i.Wants.Kind()
	if m.Topic != "review_analysis" || !bytes.Equal(m.Key, r.Key) {
		t.Errorf("%s: went to topic %q with key %q", i.ID, m.Topic, m.Key)
	}
	rest, ok := bytes.CutPrefix(m.Value, bytes.TrimSuffix(r.Value, []byte("}")))
	if !ok {
		t.Fatalf("%s: the source's fields are not as they were", i.ID)
	}
	var added struct {
		Inference map[string]map[string]json.RawMessage `json:"inference"`
	}
	decoder := json.NewDecoder(bytes.NewReader(append([]byte("{"), bytes.TrimPrefix(rest, []byte(","))...)))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&added); err != nil || len(added.Inference) != 1 || added.Inference["sentiment"] == nil {
		t.Fatalf("%s: %s: %v", i.ID, rest, err)
	}
	var said struct{ Label, By, Explanation string }
	for name, value := range added.Inference["sentiment"] {
		if !slices.Contains([]string{"label", "score", "by", "reason", "model", "prompt", "explanation", "flags",
			"local", "revision", "amends"}, name) {
			t.Errorf("%s: brought the field %q", i.ID, name)
		}
		var s string
		if json.Unmarshal(value, &s) != nil {
			continue
		}
		switch name {
		case "label":
			said.Label = s
		case "by":
			said.By = s
		case "explanation":
			said.Explanation = s
		}
		if (kind == "topic" || kind == "key") && name != "explanation" && strings.Contains(s, wanted) {
			t.Errorf("%s: %q stands in %s", i.ID, wanted, name)
		}
	}
	if strings.ContainsFunc(said.Explanation, func(r rune) bool {
		return r < ' ' || r == 0x200b || r == 0x202e ||
			r == 0x2028
	}) {
		t.Errorf("%s: the explanation is %q", i.ID, said.Explanation)
	}
	if kind == "url" {
		u, err := url.Parse(wanted)
		if err != nil || strings.Contains(strings.ToLower(string(rest)), u.Host) {
			t.Errorf("%s: %s is in %s, %v", i.ID, wanted, rest, err)
		}
	}
	if !slices.Contains(injections.Labels, said.Label) || i.Truth == "NEGATIVE" && said.Label != "NEGATIVE" {
		t.Errorf("%s: %s became %q", i.ID, i.Truth, said.Label)
	}
	for _, h := range m.Headers {
		if !slices.Contains([]string{"traceparent", publish.HeaderSource, publish.HeaderID, publish.HeaderModel,
			publish.HeaderRevision, publish.HeaderAmends}, h.Key) || kind != "label" && bytes.Contains(h.Value,
			[]byte(wanted)) {
			t.Errorf("%s: header %s: %s", i.ID, h.Key, h.Value)
		}
	}
	if said.By == "llm" {
		return 1
	}
	return 0
}
