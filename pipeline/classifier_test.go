package pipeline

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"sluice/model"
	"sluice/tokenize"
)

// wordTokenizer makes one token of every word: its length. It counts how often it is asked.
type wordTokenizer struct {
	mu    sync.Mutex
	texts int
}

func (w *wordTokenizer) Encode(texts [][]byte, o tokenize.Options) []tokenize.Encoded {
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
func (w *wordTokenizer) Token(id int32) string    { return fmt.Sprint(id) }
func (w *wordTokenizer) Join(ts []string) string  { return strings.Join(ts, " ") }
func (w *wordTokenizer) ContinuingPrefix() string { return "##" }
func (w *wordTokenizer) Digest() string           { return "words" }
func (w *wordTokenizer) VocabSize() int           { return 100 }
func (w *wordTokenizer) Close() error             { return nil }

// wordRunner is sure of POSITIVE by the length of the first word. A first word of 13 letters fails the batch, one of 14
// gives NaN; when broken is set everything fails.
type wordRunner struct {
	mu     *sync.Mutex
	runs   *[]int // rows of each run
	broken *bool
}

// run is what an engine runs, see classifier_engine_test.go.
func (r wordRunner) run(rows [][]int32) ([][]float32, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	*r.runs = append(*r.runs, len(rows))
	if *r.broken {
		return nil, errors.New("the model is broken")
	}
	out := make([][]float32, len(rows))
	for i, row := range rows {
		switch row[0] {
		case 13:
			return nil, Faultf(Internal, "infer", "run-failed", "thirteen")
		case 14:
			out[i] = []float32{float32(math.NaN()), 0}
		default:
			out[i] = []float32{-float32(row[0]), float32(row[0])}
		}
	}
	return out, nil
}

// bench is a classifier on fakes.
type bench struct {
	c       *Classifier
	tok     *wordTokenizer
	runs    []int
	broken  bool
	failure chan error
	limit   int // of the output topic
}

// startEngine makes an engine whose models all run rows by run, and a function that closes it. Set by
// classifier_engine_test.go, in the package that may import the engine.
var startEngine engineStarter

type engineStarter = func(t testing.TB, names []string, cacheBytes int, run func([][]int32) ([][]float32, error),
	m *StageMetrics, dog *Watchdog, fail func(error)) ([]Asker, func())

// StartEngine sets startEngine.
func StartEngine(f engineStarter) { startEngine = f }

func newBench(t testing.TB, models int) *bench { return newCachingBench(t, models, 0) }

func newCachingBench(t testing.TB, models, cacheBytes int) *bench {
	b := &bench{tok: &wordTokenizer{}, failure: make(chan error, 100)}
	metrics := NewMetrics(prometheus.NewRegistry())
	fail := func(err error) { b.failure <- err }
	dog := NewWatchdog(WatchdogOptions{Timeout: 30 * time.Second, Grace: 10 * time.Second, Wedged: fail})
	var mu sync.Mutex
	var names []string
	for i := range models {
		names = append(names, fmt.Sprintf("m%d", i))
	}
	askers, closeEngine := startEngine(t, names, cacheBytes, wordRunner{&mu, &b.runs, &b.broken}.run,
		metrics.StageMetrics, dog, fail)
	var cm []ClassifierModel
	for i, name := range names {
		judge, err := model.NewJudge(&model.Model{Name: name, Task: model.TextClassification,
			Labels: []string{"NEGATIVE", "POSITIVE"}}, b.tok, model.JudgeOptions{})
		if err != nil {
			t.Fatal(err)
		}
		cm = append(cm, ClassifierModel{Name: name, Step: Step{Ask: askers[i], Tag: name + "@0123456789ab",
			Tokenizer: b.tok,
			Judge:     judge, Options: tokenize.Options{MaxTokens: 6}}})
	}
	b.runs = nil
	b.c = NewClassifier(cm, ClassifierOptions{
		Decoder: Decoder{Format: JSON, Path: []string{"text"}, Field: "inference", MaxDepth: 512},
		Writer: Writer{Format: JSON, Output: "out", DeadLetters: "dlq", Field: "inference",
			MaxBytes: func(topic string) int {
				if topic == "out" {
					return b.limit
				}
				return 0
			}},
		MaxTextBytes: 60, Metrics: metrics, Tokenizers: 2, Watchdog: dog,
	})
	t.Cleanup(func() { b.c.Close(); closeEngine() })
	return b
}

// outcomes runs values through the classifier and returns what became of each.
func (b *bench) outcomes(t *testing.T, values ...string) []Outcome {
	t.Helper()
	s := NewStage(b.c, nil, StageOptions{Metrics: b.c.o.Metrics.StageMetrics})
	tp := TopicPartition{"in", 3}
	s.Assign(map[TopicPartition]Committed{tp: {Offset: 100}})
	rs := make([]Record, len(values))
	for i, v := range values {
		rs[i] = Record{Topic: "in", Partition: 3, Offset: int64(100 + i), Key: []byte("k"), Value: []byte(v),
			Headers: []Header{{"traceparent", []byte("00-abc")}, {"x", nil}, {"x", []byte("2")}}}
		if v == "null" {
			rs[i].Value = nil
		}
	}
	s.Deliver(tp, 100, rs, int64(100+len(rs)))
	deadline := time.After(10 * time.Second)
	for {
		s.mu.Lock()
		ready, _ := s.ledger.pending()
		changed := s.changed()
		s.mu.Unlock()
		if ready == len(values) {
			break
		}
		select {
		case <-changed:
		case <-deadline:
			t.Fatalf("%d of %d records finished", ready, len(values))
		}
	}
	out := make([]Outcome, len(values))
	for i, e := range s.ledger.lanes[tp].entries {
		out[i] = e.outcome
	}
	return out
}

func header(m *Message, key string) string {
	for i := len(m.Headers) - 1; i >= 0; i-- {
		if m.Headers[i].Key == key {
			return string(m.Headers[i].Value)
		}
	}
	return ""
}

// Every row of the README's table of inputs.
func TestWhatBecomesOfEveryKindOfRecord(t *testing.T) {
	const verdict = `{"label":"POSITIVE","score":0.999994,"route":"model","model":"m0@0123456789ab","revision":1}`
	deep := strings.Repeat(`{"a":`, 513) + `1` + strings.Repeat(`}`, 513)
	for name, c := range map[string]struct {
		value, want string // want: the result's value; for a dead letter its reason
		disposition Disposition
	}{
		"an object": {`{"user_id": 7, "text":"sixsix"}`,
			`{"user_id": 7, "text":"sixsix","inference":{"m0":` + verdict + `}}`, Scored},
		"white space around": {" {\"text\" : \"sixsix\" \n} \n", " {\"text\" : \"sixsix\" " +
			"\n,\"inference\":{\"m0\":" + verdict + "}} \n", Scored},
		"the last of repeated keys": {`{"text":"a","text":"sixsix"}`,
			`{"text":"a","text":"sixsix","inference":{"m0":` + verdict + `}}`, Scored},
		"escapes": {`{"t\u0065xt":"\u0073ixsix"}`,
			`{"t\u0065xt":"\u0073ixsix","inference":{"m0":` + verdict + `}}`, Scored},
		"numbers no float can hold": {`{"text":"sixsix","n":12345678901234567890123,"e":1e999}`,
			`{"text":"sixsix","n":12345678901234567890123,"e":1e999,"inference":{"m0":` + verdict + `}}`, Scored},
		"a text that is cut": {`{"text":"sixsix ` + strings.Repeat("é", 60) + `"}`, `{"text":"sixsix ` +
			strings.Repeat("é", 60) + `","inference":{"m0":` + verdict + `,"flags":["text-cut"]}}`, Scored},
		"too many tokens": {`{"text":"sixsix a b c d e f g"}`,
			`{"text":"sixsix a b c d e f g","inference":{"m0":` + strings.Replace(verdict, `,"route"`,
				`,"truncated":true,"route"`, 1) + `}}`, Scored},
		"invalid UTF-8": {"{\"text\":\"si\xffsix\"}", "{\"text\":\"si\xffsix\",\"inference\":{\"m0\":" +
			verdict + ",\"flags\":[\"invalid-utf8\"]}}", Scored},
		"an empty text": {`{"text":""}`, `{"text":"","inference":{"m0":null,"reason":"empty"}}`, Empty},
		"a blank text": {`{"text":" \t\n\u2003"}`,
			`{"text":" \t\n\u2003","inference":{"m0":null,"reason":"empty"}}`, Empty},
		"a tombstone":                   {`null`, ``, Tombstone},
		"no JSON":                       {`{"text":"a"`, "invalid-json", DeadLetter},
		"something after the object":    {`{"text":"a"} x`, "invalid-json", DeadLetter},
		"an empty value":                {``, "invalid-json", DeadLetter},
		"an array":                      {`["a"]`, "not-an-object", DeadLetter},
		"no text field":                 {`{"Text":"a"}`, "missing-text", DeadLetter},
		"a text that is no string":      {`{"text":null}`, "text-not-a-string", DeadLetter},
		"the output field is there":     {`{"text":"a","inference":1}`, "output-field-present", DeadLetter},
		"nested too deep":               {deep, "too-deep", DeadLetter},
		"a text no tokenizer takes":     {`{"text":"untokenizable"}`, "tokenizer-failed", DeadLetter},
		"a text the model fails on":     {`{"text":"thirteenthirt"}`, "run-failed", DeadLetter},
		"a text with NaN for an answer": {`{"text":"fourteenfourte"}`, "not-finite", DeadLetter},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, 1)
			o := b.outcomes(t, c.value)[0]
			m := &o.Messages[0]
			if o.Disposition != c.disposition || len(o.Messages) != 1 {
				t.Fatalf("it became %s (%v), want %s", o.Disposition, o.Fault, c.disposition)
			}
			if string(m.Key) != "k" || header(m, "traceparent") != "00-abc" || len(m.Headers) < 3 ||
				m.Headers[1].Value != nil || string(m.Headers[2].Value) != "2" {
				t.Errorf("key or headers are not the source's: %s %v", m.Key, m.Headers)
			}
			if header(m, HeaderSource) != "in/3/100" || header(m, HeaderID) != "in/3/100#0" {
				t.Errorf("source %q, id %q", header(m, HeaderSource), header(m, HeaderID))
			}
			if o.Disposition == DeadLetter {
				if string(m.Value) != c.value || m.Topic != "dlq" {
					t.Errorf("dead letter to %s is %q, not the original bytes", m.Topic, m.Value)
				}
				if got := header(m, HeaderErrorReason); got != c.want {
					t.Errorf("reason %q (%s), want %q", got, header(m, HeaderErrorMessage), c.want)
				}
				if header(m, HeaderErrorTopic) != "in" || header(m, HeaderErrorPartition) != "3" ||
					header(m, HeaderErrorOffset) != "100" || header(m, HeaderErrorKind) != "poison" {
					t.Errorf("headers %v", m.Headers)
				}
				return
			}
			if string(m.Value) != c.want || (m.Value == nil) != (o.Disposition == Tombstone) || m.Topic != "out" {
				t.Errorf("to %s:\n got %s\nwant %s", m.Topic, m.Value, c.want)
			}
		})
	}
}

func TestBadRowsAreFoundAndTheirNeighboursDelivered(t *testing.T) {
	b := newBench(t, 1)
	var values []string
	for i := range 64 {
		switch i {
		case 7, 40:
			values = append(values, `{"text":"thirteenthirt"}`)
		case 41:
			values = append(values, `{"text":"fourteenfourte"}`)
		default:
			values = append(values, `{"text":"abcdef"}`)
		}
	}
	for i, o := range b.outcomes(t, values...) {
		bad := i == 7 || i == 40 || i == 41
		if (o.Disposition == DeadLetter) != bad {
			t.Errorf("record %d became %s (%v)", i, o.Disposition, o.Fault)
		}
	}
	select {
	case err := <-b.failure:
		t.Errorf("bad texts stop the worker: %v", err)
	default:
	}
}

func TestABrokenModelStopsTheWorkerInsteadOfFillingTheDeadLetterTopic(t *testing.T) {
	b := newBench(t, 1)
	b.broken = true
	b.outcomes(t, `{"text":"abc"}`)
	select {
	case err := <-b.failure:
		if KindOf(err) != Internal || !strings.Contains(err.Error(), "m0") {
			t.Errorf("stopped with %v", err)
		}
	default:
		t.Error("the worker goes on with a model that fails on its own probe")
	}
}

func TestModelsWithOneTokenizerShareOneTokenization(t *testing.T) {
	b := newBench(t, 3)
	o := b.outcomes(t, `{"text":"abc"}`)[0]
	if b.tok.texts != 1 {
		t.Errorf("the text was tokenized %d times for 3 models", b.tok.texts)
	}
	var result struct {
		Inference map[string]struct{ Label, Model, Route string }
	}
	if err := json.Unmarshal(o.Messages[0].Value, &result); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"m0", "m1", "m2"} {
		if v := result.Inference[name]; v.Label != "POSITIVE" || v.Model != name+"@0123456789ab" || v.Route != "model" {
			t.Errorf("verdict of %s: %+v", name, v)
		}
	}
	if got := header(&o.Messages[0], HeaderModel); got != "m0@0123456789ab,m1@0123456789ab,m2@0123456789ab" {
		t.Errorf("sluice.model: %s", got)
	}
}

func TestAResultLargerThanItsTopicTakesBecomesAPointer(t *testing.T) {
	b := newBench(t, 1)
	b.limit = 400
	o := b.outcomes(t, `{"text":"abc","payload":"`+strings.Repeat("x", 400)+`"}`)[0]
	m := &o.Messages[0]
	if o.Disposition != DeadLetter || header(m, HeaderErrorReason) != "result-too-large" {
		t.Fatalf("it became %s: %v", o.Disposition, o.Fault)
	}
	var p struct {
		Topic     string
		Partition int32
		Offset    int64
	}
	if err := json.Unmarshal(m.Value, &p); err != nil || p.Topic != "in" || p.Partition != 3 || p.Offset != 100 {
		t.Errorf("pointer %s: %v", m.Value, err)
	}
}

// A student decides what it is sure of; of the rest, and of what it fails on, the full model decides.
func TestAStudentIsAskedFirst(t *testing.T) {
	b := newBench(t, 2)
	full, student := b.c.models[0], b.c.models[1]
	// The fake models are surer the longer the first word is: 1 letter 0.88, 2 letters 0.982.
	full.Student = &Student{Step: student.Step, Threshold: 0.95}
	c := NewClassifier([]ClassifierModel{full}, b.c.o)
	defer c.Close()
	b.c.Close()
	b.c = c
	for i, o := range b.outcomes(t, `{"text":"a"}`, `{"text":"bb"}`, `{"text":"thirteenthirt"}`) {
		want := []struct{ route, tag string }{{"model", full.Tag}, {"student", student.Tag}, {"", ""}}[i]
		if want.tag == "" {
			if o.Disposition != DeadLetter || header(&o.Messages[0], HeaderErrorReason) != "run-failed" {
				t.Errorf("what both models fail on became %s: %v", o.Disposition, o.Fault)
			}
			continue
		}
		if v := string(o.Messages[0].Value); !strings.Contains(v, `"route":"`+want.route+`","model":"`+want.tag+`"`) ||
			header(&o.Messages[0], HeaderModel) != want.tag {
			t.Errorf("record %d: %s (%s), want route %s of %s", i, v, header(&o.Messages[0], HeaderModel), want.route,
				want.tag)
		}
	}
	if b.tok.texts != 3 {
		t.Errorf("3 texts were tokenized %d times for student and model with one tokenizer", b.tok.texts)
	}
	m := b.c.o.Metrics
	if final, unsure := testutil.ToFloat64(m.student.WithLabelValues("m0", "final")),
		testutil.ToFloat64(m.student.WithLabelValues("m0", "unsure")); final != 1 || unsure != 2 {
		t.Errorf("%v final and %v unsure counted, want 1 and 2", final, unsure)
	}
}

func TestWhichRecordsAreUrgent(t *testing.T) {
	rule, err := ParseRule(`number("priority") > 7 || field("user.tier") == "gold" || text contains "outage"`)
	if err != nil {
		t.Fatal(err)
	}
	u := &Urgent{Topics: []string{"alerts"}, HeaderName: "priority", HeaderValue: "high", When: rule}
	m := NewMetrics(prometheus.NewRegistry())
	for name, c := range map[string]struct {
		r    Record
		want bool
	}{
		"by topic":             {Record{Topic: "alerts", Value: []byte(`{}`)}, true},
		"by header":            {Record{Headers: []Header{{"priority", []byte("high")}}, Value: []byte(`{}`)}, true},
		"another header value": {Record{Headers: []Header{{"priority", []byte("low")}}, Value: []byte(`{}`)}, false},
		"by a number":          {Record{Value: []byte(`{"priority": 9}`)}, true},
		"by a nested field":    {Record{Value: []byte(`{"user": {"tier": "gold"}}`)}, true},
		"by the text":          {Record{Value: []byte(`{"text": "an outage!"}`)}, true},
		"no JSON at all":       {Record{Value: []byte(`plain`)}, false},
		"none of it": {Record{Topic: "reviews", Key: []byte("k"),
			Value: []byte(`{"priority": 1, "text": "fine"}`)}, false},
	} {
		text, _ := (&Decoder{Format: JSON, Path: []string{"text"}, MaxDepth: 9}).Decode(c.r.Value)
		if got := u.is(&c.r, text, m); got != c.want {
			t.Errorf("%s: urgent %v, want %v", name, got, c.want)
		}
	}
	if n := testutil.ToFloat64(m.urgent); n != 5 {
		t.Errorf("%v urgent records counted, want 5", n)
	}
	if (*Urgent)(nil).is(&Record{Topic: "alerts"}, nil, m) {
		t.Error("a record is urgent without any rule")
	}
	loose, err := ParseRule(`field("priority") > 3`)
	if err != nil {
		t.Fatal(err)
	}
	if (&Urgent{When: loose}).is(&Record{Value: []byte(`{"priority": "high"}`)}, nil, m) ||
		testutil.ToFloat64(m.ruleErrors.WithLabelValues("urgent.when")) != 1 {
		t.Error("a rule that cannot be evaluated holds, or is not counted")
	}
}

func TestAWrongRuleIsRefusedWithItsPlace(t *testing.T) {
	for source, want := range map[string][]string{
		`text contains`: {"column 13", "headers"},
		`topik == "a"`:  {"column 1", "topik"},
		`bytes`:         {"bool"},
		`bytes > "10"`:  {"column 7", "mismatched types"},
	} {
		_, err := ParseRule(source)
		for _, w := range want {
			if err == nil || !strings.Contains(err.Error(), w) {
				t.Errorf("%s: %v, want %q in it", source, err, w)
			}
		}
	}
}

func TestAPlainTextBecomesAnObject(t *testing.T) {
	w := Writer{Format: Text, Output: "out", Field: "inference"}
	r := &Record{Topic: "in", Value: []byte("a <b> & \"c\"\xe2\x82\xff\u2028")}
	o := w.Empty(r, []ClassifierModel{{Name: "m", Step: Step{Tag: "m@0"}}}, Flags{Repaired: true})
	const want = `{"text":"a <b> & \"c\"` + "\ufffd\ufffd" +
		`\u2028","inference":{"m":null,"reason":"empty","flags":["invalid-utf8"]}}`
	if got := string(o.Messages[0].Value); got != want {
		t.Errorf("\n got %s\nwant %s", got, want)
	}
}

func TestParsePath(t *testing.T) {
	for path, want := range map[string]string{"text": "text", "a.b.c": "a|b|c", `a\.b.c`: "a.b|c", `a\\b`: `a\b`} {
		if got := strings.Join(ParsePath(path), "|"); got != want {
			t.Errorf("ParsePath(%q) is %s, want %s", path, got, want)
		}
	}
}

func FuzzDecodeAndInsert(f *testing.F) {
	for _, s := range []string{`{"text":"a"}`, `{}`, `{"a":{"text":"\ud800"}}`, "{\"text\":\"\xff\"}", `[[[]]]`,
		`{"text":"a"}}`, `{"text":"a"} `, "{\"text\":\"\u2028\"}"} {
		f.Add([]byte(s))
	}
	d := Decoder{Format: JSON, Path: []string{"text"}, Field: "inference", MaxDepth: 512}
	f.Fuzz(func(t *testing.T, value []byte) {
		text, err := d.Decode(value)
		if err != nil {
			if KindOf(err) != Poison {
				t.Fatalf("%q: %v is no poison fault", value, err)
			}
			return
		}
		var source map[string]json.RawMessage
		if err := json.Unmarshal(value, &source); err != nil {
			t.Fatalf("%q was accepted, encoding/json says %v", value, err)
		}
		if utf8.Valid(value) {
			var want string
			if err := json.Unmarshal(source["text"], &want); err != nil || want != string(text) {
				t.Fatalf("%q: text %q, encoding/json has %q (%v)", value, text, want, err)
			}
		}
		out := Insert(value, []byte(`"inference":{"m":1}`))
		var result map[string]json.RawMessage
		if err := json.Unmarshal(out, &result); err != nil {
			t.Fatalf("%q became %q: %v", value, out, err)
		}
		if string(result["inference"]) != `{"m":1}` || len(result) != len(source)+1 {
			t.Fatalf("%q became %q", value, out)
		}
		end := bytes.LastIndexByte(value, '}')
		if !bytes.HasPrefix(out, value[:end]) || !bytes.HasSuffix(out, value[end:]) {
			t.Fatalf("%q became %q: source bytes changed", value, out)
		}
	})
}
