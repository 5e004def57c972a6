package escalate

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"sluice/pipeline"
	"sluice/pipeline/llm"
	"sluice/pipeline/llm/label"
	"sluice/pipeline/llm/standin"
	"sluice/pipeline/publish"
)

// This file owns the whole escalate stage on a broker in memory: what the tests of processor_*_test.go stand on.

// broker is the escalation topic, the offsets of its group, and what was published: all that survives a worker.
type broker struct {
	mu        sync.Mutex
	log       map[pipeline.TopicPartition][]pipeline.Record
	committed map[pipeline.TopicPartition]pipeline.Committed
	owned     []pipeline.TopicPartition // by the one worker
	visible   []pipeline.Message
	changed   chan struct{}
}

func newBroker(partitions int32) *broker {
	b := &broker{log: map[pipeline.TopicPartition][]pipeline.Record{},
		committed: map[pipeline.TopicPartition]pipeline.Committed{}, changed: make(chan struct{})}
	for p := range partitions {
		b.owned = append(b.owned, pipeline.TopicPartition{Topic: "asks", Partition: p})
	}
	return b
}

// change does something under the lock and wakes whoever waits.
func (b *broker) change(f func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	f()
	close(b.changed)
	b.changed = make(chan struct{})
}

// Run implements pipeline.Source.
func (b *broker) Run(ctx context.Context, flow pipeline.Flow) error {
	var at map[pipeline.TopicPartition]int64
	var mine []pipeline.TopicPartition
	for {
		b.mu.Lock()
		changed, owned := b.changed, slices.Clone(b.owned)
		b.mu.Unlock()
		if at == nil || !slices.Equal(owned, mine) {
			flow.Quiesce(ctx)
			b.mu.Lock()
			committed := map[pipeline.TopicPartition]pipeline.Committed{}
			for _, tp := range owned {
				committed[tp] = b.committed[tp]
			}
			b.mu.Unlock()
			at, mine = flow.Assign(committed), owned
		}
		for _, tp := range mine {
			b.mu.Lock()
			rs := slices.Clone(b.log[tp][at[tp]:])
			b.mu.Unlock()
			if len(rs) == 0 || flow.Room(tp) == 0 {
				continue
			}
			rs = rs[:min(len(rs), 7)]
			next := at[tp] + int64(len(rs))
			if !flow.Deliver(tp, at[tp], rs, next) {
				return fmt.Errorf("delivery of %v at %d refused", tp, at[tp])
			}
			at[tp] = next
			changed = closed
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil
		}
		if ctx.Err() != nil {
			return nil
		}
	}
}

var closed = func() chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}()

// Commit implements pipeline.Sink.
func (b *broker) Commit(_ context.Context, c *pipeline.Commit) error {
	b.change(func() {
		for tp, at := range c.Offsets {
			if at < b.committed[tp].Offset {
				panic(fmt.Sprintf("%v: offset goes back from %d to %d", tp, b.committed[tp].Offset, at))
			}
			if len(c.Metadata[tp]) > 200 {
				panic(fmt.Sprintf("%v: metadata of %d bytes", tp, len(c.Metadata[tp])))
			}
			b.committed[tp] = pipeline.Committed{Offset: at, Metadata: c.Metadata[tp]}
		}
		b.visible = append(b.visible, c.Messages...)
	})
	return nil
}

func (b *broker) MaxMessageBytes(string) int { return 0 }

// ask is one request, as the classify stage writes it.
type ask struct {
	partition int32
	text      string
	label     string // NEGATIVE
	score     float64
	mode      Mode // Amend
	age       time.Duration
	student   string
	spans     []Span
	value     string // in place of one made of text
}

// add writes requests, and returns the source records that they are about.
func (b *broker) add(t testing.TB, asks ...ask) []pipeline.Record {
	t.Helper()
	encode := func(v any) []byte {
		s, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	var sources []pipeline.Record
	b.change(func() {
		for _, a := range asks {
			if a.label == "" {
				a.label = "NEGATIVE"
			}
			if a.mode == "" {
				a.mode = Amend
			}
			if a.value == "" {
				a.value = fmt.Sprintf(`{"n": 1.50, "text":%s}`, encode(a.text))
			}
			tp := pipeline.TopicPartition{Topic: "asks", Partition: a.partition}
			n := len(b.log[tp])
			source := pipeline.Record{Topic: "reviews", Partition: a.partition, Offset: int64(1000 + n),
				Timestamp: time.Now().Add(-a.age), Key: fmt.Appendf(nil, "key-%d-%d", a.partition, n),
				Value: []byte(a.value), Headers: []pipeline.Header{{Key: "traceparent", Value: []byte("00-1")},
					{Key: "sluice.id", Value: []byte("upstream")}}}
			entities := []any{}
			for _, s := range a.spans {
				entities = append(entities, map[string]any{"entity_group": s.Group, "score": 0.9, "start": s.Start,
					"end": s.End})
			}
			verdicts := map[string]any{
				"sentiment": map[string]any{"label": a.label, "score": a.score, "by": "model",
					"model": "sentiment@1", "revision": 1, "provisional": true},
				"names": map[string]any{"entities": entities, "by": "model", "model": "ner@2", "revision": 1},
			}
			rules := map[string]any{"sentiment": map[string]any{"label": a.label, "score": a.score,
				"student_label": a.student}}
			at := fmt.Sprintf("reviews/%d/%d", a.partition, source.Offset)
			r := source
			r.Topic, r.Offset = tp.Topic, int64(n)
			r.Headers = append(slices.Clone(source.Headers), pipeline.Header{Key: publish.HeaderSource,
				Value: []byte(at)}, pipeline.Header{Key: publish.HeaderID, Value: []byte(at + "#escalation")},
				pipeline.Header{Key: publish.HeaderModel, Value: []byte("sentiment@1,ner@2")},
				pipeline.Header{Key: HeaderEscalation, Value: encode(map[string]any{"version": 1,
					"mode": a.mode, "verdict": "sentiment", "rules": rules, "verdicts": verdicts})})
			b.log[tp] = append(b.log[tp], r)
			sources = append(sources, source)
		}
	})
	return sources
}

// desk is a worker of the escalate stage.
type desk struct {
	*bubble
	broker    *broker
	processor *Processor
	pool      *llm.Pool
	budget    *Budget
	registry  *prometheus.Registry
	logs      *lockedBuffer
	stop      func() // finish what is in flight, then end
	end       func() // at once
}

// deskOptions is what differs from a worker that asks one question at a time of endpoint a, without limits.
type deskOptions struct {
	pool        llm.Options
	limits      Limits
	prompt      label.Options
	redact      []string
	policy      Policy
	concurrency int
	cacheBytes  int
	maxAge      time.Duration
	deadline    time.Duration
	grace       time.Duration
	step        func(name, text string)
	dog         *pipeline.Watchdog
}

// work starts a worker on the broker.
func (t *bubble) work(b *broker, o deskOptions) *desk {
	t.Helper()
	d := &desk{bubble: t, broker: b, registry: prometheus.NewRegistry(), logs: &lockedBuffer{}}
	log := slog.New(slog.NewTextHandler(d.logs, nil))
	metrics := NewMetrics(d.registry)
	o.pool.Observer, o.pool.Logger = metrics.Observer(), log
	d.pool = t.pool(o.pool)
	o.prompt.Labels = labels
	task, err := label.New(o.prompt)
	if err != nil {
		t.Fatal(err)
	}
	t.task = task
	var redactor *Redactor
	if o.redact != nil {
		if redactor, err = NewRedactor(o.redact); err != nil {
			t.Fatal(err)
		}
	}
	if err := o.limits.Check(); err != nil {
		t.Fatal(err)
	}
	d.budget = NewBudget(o.limits, time.Now)
	if o.deadline == 0 {
		o.deadline = time.Minute
	}
	d.processor = NewProcessor(ProcessorOptions{
		Codec:        form,
		MaxTextBytes: 1 << 20,
		Publisher:    &publish.Publisher{Codec: form, Output: "results", DeadLetters: "letters"},
		Task:         task, Redactor: redactor, Policy: o.policy, Pool: d.pool, Budget: d.budget, Model: "llama",
		Deadline: o.deadline, MaxAge: o.maxAge,
		Concurrency: max(1, o.concurrency), CacheBytes: o.cacheBytes, Metrics: metrics, Logger: log, step: o.step,
		Watchdog: o.dog,
	})
	stage := pipeline.NewStage(d.processor, b, pipeline.StageOptions{
		Grace: o.grace, Metrics: pipeline.NewStageMetrics(d.registry, StageMetrics), Logger: log,
		Attachments: []pipeline.Attachment{d.budget.Attachment(func() int { return len(b.owned) })},
	})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- stage.Run(ctx, b) }()
	d.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		d.processor.Close()
		d.pool.Close()
	})
	d.end = sync.OnceFunc(func() {
		d.processor.Close()
		d.stop()
	})
	t.Cleanup(d.end)
	return d
}

// await waits until so many requests, over all partitions, are behind the committed offsets, and returns what is
// published.
func (d *desk) await(n int64) []published {
	d.Helper()
	deadline := time.After(100 * time.Hour) // of the bubble's clock
	for {
		d.broker.mu.Lock()
		sum := int64(0)
		for _, c := range d.broker.committed {
			sum += c.Offset
		}
		changed, visible := d.broker.changed, slices.Clone(d.broker.visible)
		d.broker.mu.Unlock()
		if sum >= n {
			if sum > n {
				d.Fatalf("%d requests are committed, there are %d", sum, n)
			}
			return d.read(visible)
		}
		select {
		case <-changed:
		case <-deadline:
			d.Fatalf("%d of %d requests are committed\n%s", sum, n, d.logs)
		}
	}
}

// published is a result as a reader sees it.
type published struct {
	pipeline.Message
	Verdict struct {
		Label, By, Reason, Model, Prompt, Explanation, Amends string
		Score                                                 *float64
		Flags                                                 []string
		Revision                                              int
		Local                                                 *struct {
			Label, Model string
			Score        float64
		}
	}
}

func (p *published) header(name string) string {
	value := ""
	for _, h := range p.Headers {
		if h.Key == name {
			value = string(h.Value) // the last: ours
		}
	}
	return value
}

// source is the partition and the offset of the record it is about.
func (p *published) source(t testing.TB) (partition int32, offset int64) {
	t.Helper()
	if _, err := fmt.Sscanf(p.header(publish.HeaderSource), "reviews/%d/%d", &partition, &offset); err != nil {
		t.Fatalf("header %s: %q", publish.HeaderSource, p.header(publish.HeaderSource))
	}
	return partition, offset - 1000
}

func (d *desk) read(ms []pipeline.Message) []published {
	d.Helper()
	all := make([]published, len(ms))
	for i, m := range ms {
		all[i].Message = m
		if m.Topic != "results" {
			continue
		}
		var v struct {
			Inference map[string]json.RawMessage `json:"inference"`
		}
		if err := json.Unmarshal(m.Value, &v); err != nil {
			d.Fatalf("%s: %v", m.Value, err)
		}
		if err := json.Unmarshal(v.Inference["sentiment"], &all[i].Verdict); err != nil {
			d.Fatalf("%s: %v", m.Value, err)
		}
		if got := slices.Sorted(maps.Keys(v.Inference)); !slices.Equal(got, []string{"names", "sentiment"}) {
			d.Errorf("verdicts %q", got)
		}
	}
	return all
}

// intact checks that a result is about a source record, unchanged (P6).
func (d *desk) intact(p *published, source *pipeline.Record) {
	d.Helper()
	if want := bytes.TrimSuffix(source.Value, []byte("}")); !bytes.HasPrefix(p.Value, want) ||
		!bytes.HasPrefix(p.Value[len(want):], []byte(`,"inference":{`)) {
		d.Errorf("result %s is not the source %s with one more field", p.Value, source.Value)
	}
	if p.Topic != "results" || !bytes.Equal(p.Key, source.Key) || p.Source != source.TopicPartition() ||
		!p.Timestamp.Equal(source.Timestamp) {
		d.Errorf("result for %s, key %q, of %v at %v; source %+v", p.Topic, p.Key, p.Source, p.Timestamp, source)
	}
	if n := len(source.Headers); len(p.Headers) < n || !slices.EqualFunc(p.Headers[:n], source.Headers,
		func(a, b pipeline.Header) bool { return a.Key == b.Key && bytes.Equal(a.Value, b.Value) }) {
		d.Errorf("headers %v do not begin with the source's", p.Headers)
	}
}

// metric is the value of a counter or gauge, summed over the labels that are not given ("name=value").
func (d *desk) metric(name string, labels ...string) float64 {
	d.Helper()
	families, err := d.registry.Gather()
	if err != nil {
		d.Fatal(err)
	}
	sum, found := 0.0, false
	for _, f := range families {
		if f.GetName() != "sluice_escalation_"+name {
			continue
		}
		for _, m := range f.Metric {
			var has []string
			for _, l := range m.Label {
				has = append(has, l.GetName()+"="+l.GetValue())
			}
			if slices.ContainsFunc(labels, func(l string) bool { return !slices.Contains(has, l) }) {
				continue
			}
			found = true
			sum += m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
	}
	if !found {
		d.Fatalf("there is no metric %s %v", name, labels)
	}
	return sum
}

// counts checks metrics, given as "name label=value": value.
func (d *desk) counts(want map[string]float64) {
	d.Helper()
	for _, k := range slices.Sorted(maps.Keys(want)) {
		f := strings.Fields(k)
		if got := d.metric(f[0], f[1:]...); got != want[k] {
			d.Errorf("metric %s is %v, want %v", k, got, want[k])
		}
	}
}

// fallbacks are the reasons in published verdicts, counted; "" counts answers.
func fallbacks(ps []published) map[string]int {
	m := map[string]int{}
	for _, p := range ps {
		m[p.Verdict.Reason]++
	}
	return m
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// distinct are n requests about different texts, spread over partitions.
func distinct(n int, partitions int32) []ask {
	asks := make([]ask, n)
	for i := range asks {
		asks[i] = ask{partition: int32(i) % partitions, text: fmt.Sprintf("text %d is %s", i,
			[]string{"good", "bad"}[i/int(partitions)%2]), score: 0.6}
	}
	return asks
}

// slowly makes endpoint a take so long for every answer.
func (t *bubble) slowly(d time.Duration) { t.a.Always(standin.Slow(d)) }
