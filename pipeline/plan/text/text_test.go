package text_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"sluice/model"
	"sluice/pipeline"
	"sluice/pipeline/pipelinetest/words"
	"sluice/pipeline/plan"
	"sluice/pipeline/plan/text"
	"sluice/pipeline/publish"
	"sluice/tokenize"
)

// counted is the value of a counter whose labels hold a value.
func counted(t *testing.T, b *words.Bench, name, label string) float64 {
	t.Helper()
	families, err := b.Registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.Metric {
			for _, l := range m.Label {
				if f.GetName() == name && l.GetValue() == label {
					return m.Counter.GetValue()
				}
			}
		}
	}
	return 0
}

// Every row of the README's table of inputs.
func TestWhatBecomesOfEveryKindOfRecord(t *testing.T) {
	const verdict = `{"label":"POSITIVE","score":0.999994,"by":"model","model":"m0@0123456789ab","revision":1}`
	deep := strings.Repeat(`{"a":`, 513) + `1` + strings.Repeat(`}`, 513)
	for name, c := range map[string]struct {
		value, want string // want: the result's value; for a dead letter its reason
		disposition pipeline.Disposition
	}{
		"an object": {`{"user_id": 7, "text":"sixsix"}`,
			`{"user_id": 7, "text":"sixsix","inference":{"m0":` + verdict + `}}`, pipeline.Scored},
		"white space around": {" {\"text\" : \"sixsix\" \n} \n", " {\"text\" : \"sixsix\" " +
			"\n,\"inference\":{\"m0\":" + verdict + "}} \n", pipeline.Scored},
		"the last of repeated keys": {`{"text":"a","text":"sixsix"}`,
			`{"text":"a","text":"sixsix","inference":{"m0":` + verdict + `}}`, pipeline.Scored},
		"escapes": {`{"t\u0065xt":"\u0073ixsix"}`,
			`{"t\u0065xt":"\u0073ixsix","inference":{"m0":` + verdict + `}}`, pipeline.Scored},
		"numbers no float can hold": {`{"text":"sixsix","n":12345678901234567890123,"e":1e999}`,
			`{"text":"sixsix","n":12345678901234567890123,"e":1e999,"inference":{"m0":` + verdict + `}}`,
			pipeline.Scored},
		"a text that is cut": {`{"text":"sixsix ` + strings.Repeat("é", 60) + `"}`, `{"text":"sixsix ` +
			strings.Repeat("é", 60) + `","inference":{"m0":` + verdict + `,"flags":["text-cut"]}}`, pipeline.Scored},
		"too many tokens": {`{"text":"sixsix a b c d e f g"}`,
			`{"text":"sixsix a b c d e f g","inference":{"m0":` + strings.Replace(verdict, `,"by"`,
				`,"truncated":true,"by"`, 1) + `}}`, pipeline.Scored},
		"invalid UTF-8": {"{\"text\":\"si\xffsix\"}", "{\"text\":\"si\xffsix\",\"inference\":{\"m0\":" +
			verdict + ",\"flags\":[\"invalid-utf8\"]}}", pipeline.Scored},
		"half of a character": {`{"text":"\ud83d\u0073ix"}`, `{"text":"\ud83d\u0073ix","inference":{"m0":` +
			verdict + `,"flags":["unpaired-surrogate"]}}`, pipeline.Scored}, // U+FFFD and six are six bytes
		"a byte order mark": {"\xef\xbb\xbf{\"text\":\"sixsix\"}",
			`{"text":"sixsix","inference":{"m0":` + verdict + `}}`, pipeline.Scored},
		"Confluent's five bytes": {"\x00\x00\x00\x00\x07{\"text\":\"a\"}", "schema-registry-format",
			pipeline.DeadLetter},
		"an empty text": {`{"text":""}`, `{"text":"","inference":{"m0":null,"reason":"empty"}}`, pipeline.Empty},
		"a blank text": {`{"text":" \t\n\u2003"}`,
			`{"text":" \t\n\u2003","inference":{"m0":null,"reason":"empty"}}`, pipeline.Empty},
		"a tombstone":                   {`null`, ``, pipeline.Tombstone},
		"no JSON":                       {`{"text":"a"`, "invalid-json", pipeline.DeadLetter},
		"something after the object":    {`{"text":"a"} x`, "invalid-json", pipeline.DeadLetter},
		"an empty value":                {``, "invalid-json", pipeline.DeadLetter},
		"an array":                      {`["a"]`, "not-an-object", pipeline.DeadLetter},
		"no text field":                 {`{"Text":"a"}`, "missing-text", pipeline.DeadLetter},
		"a text that is no string":      {`{"text":null}`, "text-not-a-string", pipeline.DeadLetter},
		"the output field is there":     {`{"text":"a","inference":1}`, "output-field-present", pipeline.DeadLetter},
		"nested too deep":               {deep, "too-deep", pipeline.DeadLetter},
		"a text no tokenizer takes":     {`{"text":"untokenizable"}`, "tokenizer-failed", pipeline.DeadLetter},
		"a text the model fails on":     {`{"text":"thirteenthirt"}`, "run-failed", pipeline.DeadLetter},
		"a text with NaN for an answer": {`{"text":"fourteenfourte"}`, "not-finite", pipeline.DeadLetter},
	} {
		t.Run(name, func(t *testing.T) {
			b := words.New(t, words.Options{})
			o := b.Outcomes(c.value)[0]
			m := &o.Messages[0]
			if o.Disposition != c.disposition || len(o.Messages) != 1 {
				t.Fatalf("it became %s (%v), want %s", o.Disposition, o.Fault, c.disposition)
			}
			if string(m.Key) != "k" || words.Header(m, "traceparent") != "00-abc" || len(m.Headers) < 3 ||
				m.Headers[1].Value != nil || string(m.Headers[2].Value) != "2" {
				t.Errorf("key or headers are not the source's: %s %v", m.Key, m.Headers)
			}
			if words.Header(m, publish.HeaderSource) != "in/3/100" ||
				words.Header(m, publish.HeaderID) != "in/3/100#0" {
				t.Errorf("source %q, id %q", words.Header(m, publish.HeaderSource), words.Header(m, publish.HeaderID))
			}
			if o.Disposition == pipeline.DeadLetter {
				if string(m.Value) != c.value || m.Topic != "dlq" {
					t.Errorf("dead letter to %s is %q, not the original bytes", m.Topic, m.Value)
				}
				if got := words.Header(m, publish.HeaderErrorReason); got != c.want {
					t.Errorf("reason %q (%s), want %q", got, words.Header(m, publish.HeaderErrorMessage), c.want)
				}
				if words.Header(m, publish.HeaderErrorTopic) != "in" ||
					words.Header(m, publish.HeaderErrorPartition) != "3" ||
					words.Header(m, publish.HeaderErrorOffset) != "100" ||
					words.Header(m, publish.HeaderErrorKind) != "poison" {
					t.Errorf("headers %v", m.Headers)
				}
				return
			}
			if string(m.Value) != c.want || (m.Value == nil) != (o.Disposition == pipeline.Tombstone) ||
				m.Topic != "out" {
				t.Errorf("to %s:\n got %s\nwant %s", m.Topic, m.Value, c.want)
			}
		})
	}
}

func TestBadRowsAreFoundAndTheirNeighboursDelivered(t *testing.T) {
	b := words.New(t, words.Options{Models: 1})
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
	for i, o := range b.Outcomes(values...) {
		bad := i == 7 || i == 40 || i == 41
		if (o.Disposition == pipeline.DeadLetter) != bad {
			t.Errorf("record %d became %s (%v)", i, o.Disposition, o.Fault)
		}
	}
	select {
	case err := <-b.Failure:
		t.Errorf("bad texts stop the worker: %v", err)
	default:
	}
}

func TestModelsWithOneTokenizerShareOneTokenization(t *testing.T) {
	b := words.New(t, words.Options{Models: 3})
	o := b.Outcomes(`{"text":"abc"}`)[0]
	if b.Tokenizer.Texts() != 1 {
		t.Errorf("the text was tokenized %d times for 3 models", b.Tokenizer.Texts())
	}
	var result struct {
		Inference map[string]struct{ Label, Model, By string }
	}
	if err := json.Unmarshal(o.Messages[0].Value, &result); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"m0", "m1", "m2"} {
		if v := result.Inference[name]; v.Label != "POSITIVE" || v.Model != name+"@0123456789ab" || v.By != "model" {
			t.Errorf("verdict of %s: %+v", name, v)
		}
	}
	got := words.Header(&o.Messages[0], publish.HeaderModel)
	if got != "m0@0123456789ab,m1@0123456789ab,m2@0123456789ab" {
		t.Errorf("sluice.model: %s", got)
	}
}

func TestAResultLargerThanItsTopicTakesBecomesAPointer(t *testing.T) {
	b := words.New(t, words.Options{Models: 1})
	b.Limit = 400
	o := b.Outcomes(`{"text":"abc","payload":"` + strings.Repeat("x", 400) + `"}`)[0]
	m := &o.Messages[0]
	if o.Disposition != pipeline.DeadLetter || words.Header(m, publish.HeaderErrorReason) != "result-too-large" {
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

func TestABrokenModelStopsTheWorkerInsteadOfFillingTheDeadLetterTopic(t *testing.T) {
	b := words.New(t, words.Options{})
	b.Break()
	b.Plan().Submit(&words.Records(`{"text":"abc"}`)[0], func(_ *plan.Item, o pipeline.Outcome) {
		t.Errorf("the record became %s", o.Disposition)
	})
	if err := <-b.Failure; pipeline.KindOf(err) != pipeline.Internal || !strings.Contains(err.Error(), "m0") {
		t.Errorf("stopped with %v", err)
	}
}

// asStudent makes the second model the student of the first.
func asStudent(b *words.Bench) {
	student := b.Models[1].Step
	b.Models = b.Models[:1]
	b.Models[0].Student = &text.Student{Step: student, Threshold: 0.95}
}

// A student decides what it is sure of; of the rest, and of what it fails on, the full model decides.
func TestAStudentIsAskedFirst(t *testing.T) {
	b := words.New(t, words.Options{Models: 2, Change: asStudent})
	full, student := b.Models[0], b.Models[0].Student
	// The fake models are surer the longer the first word is: 1 letter 0.88, 2 letters 0.982.
	for i, o := range b.Outcomes(`{"text":"a"}`, `{"text":"bb"}`, `{"text":"thirteenthirt"}`) {
		want := []struct{ by, tag string }{{"model", full.Tag}, {"student", student.Tag}, {"", ""}}[i]
		if want.tag == "" {
			if o.Disposition != pipeline.DeadLetter ||
				words.Header(&o.Messages[0], publish.HeaderErrorReason) != "run-failed" {
				t.Errorf("what both models fail on became %s: %v", o.Disposition, o.Fault)
			}
			continue
		}
		if v := string(o.Messages[0].Value); !strings.Contains(v, `"by":"`+want.by+`","model":"`+want.tag+`"`) ||
			words.Header(&o.Messages[0], publish.HeaderModel) != want.tag {
			t.Errorf("record %d: %s (%s), want by %s of %s", i, v, words.Header(&o.Messages[0], publish.HeaderModel),
				want.by,
				want.tag)
		}
		said, _ := o.Facts[0].Unsure.(*model.Verdict)
		if v, ok := o.Facts[0].Value.(*model.Verdict); !ok || v.Label != "POSITIVE" ||
			string(o.Facts[0].By) != want.by ||
			o.Facts[0].Tag != want.tag || (said != nil) != (i == 0) {
			t.Errorf("record %d: the outcome's fact is %+v", i, o.Facts[0])
		}
	}
	if b.Tokenizer.Texts() != 3 {
		t.Errorf("3 texts were tokenized %d times for student and model with one tokenizer", b.Tokenizer.Texts())
	}
	for result, want := range map[string]float64{"final": 1, "unsure": 2} {
		if got := counted(t, b, "sluice_student_verdicts_total", result); got != want {
			t.Errorf("%v %s counted, want %v", got, result, want)
		}
	}
}

// A step that no model of a record needs does not run for it: the tokens of a full model whose student is sure.
func TestAStepThatNobodyNeedsDoesNotRun(t *testing.T) {
	other := &words.Tokenizer{Name: "others"}
	b := words.New(t, words.Options{Models: 2, Change: func(b *words.Bench) {
		asStudent(b)
		b.Models[0].Tokenizer = other
	}})
	b.Outcomes(`{"text":"a"}`, `{"text":"bb"}`, `{"text":"cc"}`)
	if b.Tokenizer.Texts() != 3 || other.Texts() != 1 {
		t.Errorf("%d texts were tokenized for the student, %d for the model; want 3 and the one that the student was "+
			"not sure of",
			b.Tokenizer.Texts(), other.Texts())
	}
}

// fragileTokenizer panics over some texts, and with them over their batch.
type fragileTokenizer struct{ *words.Tokenizer }

func (f fragileTokenizer) Encode(texts [][]byte, o tokenize.Options) []tokenize.Encoded {
	for _, text := range texts {
		if bytes.Contains(text, []byte("fragile")) {
			panic("slice bounds out of range")
		}
	}
	return f.Tokenizer.Encode(texts, o)
}

// Wherever code panics over a record: that record is a dead letter, which says where, and its batch-mates have the
// results that they have without it.
func TestAPanicOverARecordIsThatRecordsFate(t *testing.T) {
	var good []string
	for i := range 60 {
		good = append(good, fmt.Sprintf(`{"id":%d,"text":"%s and more"}`, i, strings.Repeat("x", 1+i%9)))
	}
	noSuchTopic := func(b *words.Bench) {
		b.Publisher.MaxBytes = func(topic string) int {
			if topic == "out" {
				panic("no such topic")
			}
			return 0
		}
	}
	alone := words.New(t, words.Options{Models: 2}).Outcomes(good...)
	for _, c := range []struct {
		name, stage string
		spoil       func(*words.Bench)
		text        string
	}{
		{"tokenizer", "tokenize", func(b *words.Bench) {
			for i := range b.Models {
				b.Models[i].Tokenizer = fragileTokenizer{b.Tokenizer}
			}
		}, "fragile"},
		{"an outcome without a model", "decode", noSuchTopic, ""},
		{"the outcome of verdicts", "encode", noSuchTopic, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := words.New(t, words.Options{Models: 2, Change: c.spoil})
			values := good
			if c.stage == "decode" {
				values = []string{`{"text":" "}`, "null"}
			}
			if c.text != "" {
				values = slices.Insert(slices.Clone(good), 30, `{"text":"very `+c.text+`"}`)
			}
			out := b.Outcomes(values...)
			for i, o := range out {
				bad := c.text == "" || strings.Contains(values[i], c.text)
				switch {
				case bad && (o.Disposition != pipeline.DeadLetter ||
					words.Header(&o.Messages[0], publish.HeaderErrorReason) != "panic" ||
					words.Header(&o.Messages[0], publish.HeaderErrorStage) != c.stage ||
					!strings.Contains(words.Header(&o.Messages[0], publish.HeaderErrorMessage),
						"panicked at sluice/pipeline")):
					t.Errorf("%s: %s %s", values[i], o.Disposition, o.Messages[0].Headers)
				case !bad && (o.Disposition != pipeline.Scored || !slices.ContainsFunc(alone,
					func(a pipeline.Outcome) bool { return bytes.Equal(a.Messages[0].Value, o.Messages[0].Value) })):
					t.Errorf("%s: %s", values[i], o.Messages[0].Value)
				}
			}
		})
	}
}

// stuckTokenizer does not return from texts that say so until it is freed.
type stuckTokenizer struct {
	*words.Tokenizer
	free <-chan struct{}
}

func (s stuckTokenizer) Encode(texts [][]byte, o tokenize.Options) []tokenize.Encoded {
	for _, text := range texts {
		if bytes.Contains(text, []byte("stuck")) {
			<-s.free
		}
	}
	return s.Tokenizer.Encode(texts, o)
}

// Whatever is done to a record by code without a deadline is watched: the worker ends, and nothing of the record is
// answered.
func TestARecordThatNeverEndsEndsTheWorker(t *testing.T) {
	blockOutcome := func(b *words.Bench, free <-chan struct{}) {
		b.Publisher.MaxBytes = func(topic string) int {
			if topic == "out" {
				<-free
			}
			return 0
		}
	}
	for _, c := range []struct {
		name, stage, value, says string
		cached                   bool
		block                    func(*words.Bench, <-chan struct{})
	}{
		{"in the tokenizer", "tokenize", `{"text":"stuck"}`, "the text of in-3 at offset 41 has been tokenized", false,
			func(b *words.Bench, free <-chan struct{}) {
				for i := range b.Models {
					b.Models[i].Tokenizer = stuckTokenizer{b.Tokenizer, free}
				}
			}},
		{"before it", "decode", `{"text":" "}`, "the record of in-3 at offset 41 has been read", false, blockOutcome},
		{"behind the model", "judge", `{"text":"some text"}`, "verdicts on 1 texts", false, blockOutcome},
		{"behind the cache", "judge", `{"text":"some text"}`, "verdicts on 1 texts", true, blockOutcome},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				free := make(chan struct{})
				var blocked func(string) int
				o := words.Options{Change: func(b *words.Bench) {
					limits := b.Publisher.MaxBytes
					c.block(b, free)
					if c.cached { // the first time it is let through
						blocked, b.Publisher.MaxBytes = b.Publisher.MaxBytes, limits
					}
				}}
				if c.cached {
					o.CacheBytes = 1 << 20
				}
				b := words.New(t, o)
				if c.cached {
					b.Outcomes(c.value)
					b.Publisher.MaxBytes = blocked
				}
				began := time.Now()
				record := pipeline.Record{Topic: "in", Partition: 3, Offset: 41, Value: []byte(c.value)}
				finished := false
				b.Plan().Submit(&record, func(*plan.Item, pipeline.Outcome) { finished = true })
				err := <-b.Failure
				if after := time.Since(began); after < 40*time.Second || after > 42*time.Second {
					t.Errorf("given up after %v", after)
				}
				var f *pipeline.Fault
				if !errors.As(err, &f) || f.Stage != c.stage || f.Reason != "wedged" ||
					pipeline.KindOf(err) != pipeline.Internal ||
					!strings.Contains(err.Error(), c.says) {
					t.Errorf("%v", err)
				}
				time.Sleep(time.Hour)
				synctest.Wait()
				if len(b.Failure) > 0 || finished {
					t.Errorf("%d more faults, finished %v", len(b.Failure), finished)
				}
				close(free) // so that the test can end
			})
		})
	}
}

// Time is a piece of work's own: sixteen texts that are slow, one after the other, are not one that hangs.
func TestSlowRecordsAreNotTakenForOneThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := words.New(t, words.Options{Change: func(b *words.Bench) {
			b.Publisher.MaxBytes = func(string) int {
				time.Sleep(39 * time.Second)
				return 0
			}
		}})
		done := make(chan struct{}, 40)
		for _, r := range words.Records(slices.Repeat([]string{`{"text":" "}`}, 40)...) {
			b.Plan().Submit(&r, func(*plan.Item, pipeline.Outcome) { done <- struct{}{} })
		}
		time.Sleep(time.Hour)
		if len(done) != 40 {
			t.Errorf("%d records of 40 are finished", len(done))
		}
		if len(b.Failure) > 0 {
			t.Error(<-b.Failure)
		}
	})
}
