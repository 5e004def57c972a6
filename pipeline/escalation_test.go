package pipeline

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"sluice/model"
)

// twoModels are the models and verdicts of the tests below: an unsure sentiment and one entity.
func twoModels() ([]ClassifierModel, []Decision) {
	models := []ClassifierModel{{Name: "sentiment", rule: "sentiment"}, {Name: "my-entities", rule: "my_entities"}}
	made := []Decision{
		{Verdict: model.Verdict{Label: "NEGATIVE", Score: 0.55, Margin: 0.1, Entropy: 0.9, Confidence: 0.55,
			Windows: 1}, Tag: "sentiment@1", Route: ByModel,
			Unsure: &model.Verdict{Label: "POSITIVE", Confidence: 0.7}},
		{Verdict: model.Verdict{Entities: []model.Entity{{Group: "PER", Score: 0.9, Word: "Ada <b>", Start: 0, End: 3}},
			Windows: 1, Confidence: 0.8}, Tag: "ner@2", Route: ByModel},
	}
	return models, made
}

func verdictRule(t *testing.T, source string) *VerdictRule {
	t.Helper()
	r, err := ParseVerdictRule(source, []string{"sentiment", "my-entities"})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func escalatingWriter(t *testing.T, mode Mode) *Writer {
	return &Writer{Format: JSON, Output: "out", DeadLetters: "dlq", Field: "inference",
		Escalation: &Escalation{When: verdictRule(t, "sentiment.score < 0.8"), Verdict: "sentiment", Topic: "asks",
			Mode: mode},
		Routes: []TopicRoute{{Name: "bad", When: verdictRule(t,
			`sentiment.label == "NEGATIVE" && sentiment.score > 0.5`), Topic: "alerts"}}}
}

var judged = Record{Topic: "in", Partition: 3, Offset: 41, Key: []byte("k"),
	Value:   []byte(`{"text":"Ada was  here", "n": 1.50}`),
	Headers: []Header{{"sluice.id", []byte("upstream/0/1#0")}, {"x", nil}}, Timestamp: time.UnixMilli(1700000000000)}

// asRecord is a message as the next reader gets it.
func asRecord(m *Message) *Record {
	return &Record{Topic: m.Topic, Partition: 7, Offset: 1000, Timestamp: m.Timestamp, Key: m.Key, Value: m.Value,
		Headers: m.Headers}
}

func byTopicName(t *testing.T, o Outcome, topics ...string) []*Message {
	t.Helper()
	var got []string
	found := make([]*Message, len(topics))
	for i := range o.Messages {
		got = append(got, o.Messages[i].Topic)
		for k := range topics {
			if topics[k] == o.Messages[i].Topic {
				found[k] = &o.Messages[i]
			}
		}
	}
	if strings.Join(got, " ") != strings.Join(topics, " ") {
		t.Fatalf("messages for %v, want %v", got, topics)
	}
	return found
}

func TestAnAmendmentNamesWhatItAmends(t *testing.T) {
	w := escalatingWriter(t, Amend)
	models, made := twoModels()
	r := judged
	o := w.Result(&r, []byte("Ada was  here"), models, made, Flags{Repaired: true})
	ms := byTopicName(t, o, "out", "alerts", "asks")
	first, alert, ask := ms[0], ms[1], ms[2]
	want := `{"text":"Ada was  here", "n": 1.50,"inference":{"sentiment":{"label":"NEGATIVE","score":0.55,"route":"model","model":"sentiment@1","revision":1,"provisional":true},` +
		`"my-entities":{"entities":[{"entity_group":"PER","score":0.9,"word":"Ada <b>","start":0,"end":3}],"route":"model","model":"ner@2","revision":1},"flags":["invalid-utf8"]}}`
	if string(first.Value) != want {
		t.Errorf("provisional result\n%s, want\n%s", first.Value, want)
	}
	if string(alert.Value) != want || header(alert, HeaderID) != "in/3/41#0@bad" ||
		header(alert, HeaderRoute) != "bad" {
		t.Errorf("routed copy %s %v", alert.Value, alert.Headers)
	}
	if string(ask.Value) != string(r.Value) || string(ask.Key) != "k" || header(ask, HeaderID) != "in/3/41#escalation" {
		t.Errorf("the request is not the source record: %s %s %v", ask.Key, ask.Value, ask.Headers)
	}

	q, err := ParseRequest(asRecord(ask))
	if err != nil {
		t.Fatal(err)
	}
	if q.Source.Topic != "in" || q.Source.Partition != 3 || q.Source.Offset != 41 || len(q.Source.Headers) != 2 ||
		q.Label != "NEGATIVE" || q.Score != 0.55 || q.Mode != Amend {
		t.Errorf("request %+v", q)
	}
	if len(q.Spans) != 1 || q.Spans[0] != (RequestSpan{"PER", 0, 3}) {
		t.Errorf("spans %v", q.Spans)
	}
	o = w.Final(q, []byte("Ada was  here"), Final{Route: ByLLM, Label: "POSITIVE", Score: 0.875, Scored: true,
		Model: "llama", Prompt: "p-1", Flags: []string{"f"}})
	final := byTopicName(t, o, "out")[0]
	want = `{"text":"Ada was  here", "n": 1.50,"inference":{"sentiment":{"label":"POSITIVE","score":0.875,"route":"llm","model":"llama","prompt":"p-1","flags":["f"],"local":{"label":"NEGATIVE","score":0.55,"model":"sentiment@1"},"revision":2,"amends":"in/3/41#0"},` +
		`"my-entities":{"entities":[{"entity_group":"PER","score":0.9,"word":"Ada <b>","start":0,"end":3}],"route":"model","model":"ner@2","revision":1},"flags":["invalid-utf8"]}}`
	if string(final.Value) != want {
		t.Errorf("amendment\n%s, want\n%s", final.Value, want)
	}
	if o.Disposition != Amended || final.Source != (TopicPartition{"in", 3}) || header(final, HeaderAmends) != header(
		first, HeaderID) ||
		header(final, HeaderID) != "in/3/41#2" || header(final, HeaderRevision) != "2" ||
		header(final, HeaderModel) != "llama,ner@2" {
		t.Errorf("amendment %s for %v: %v", o.Disposition, final.Source, final.Headers)
	}

	o = w.Final(q, nil, Final{Route: Fallback, Reason: "budget"})
	final = byTopicName(t, o, "out", "alerts")[0]
	if o.Disposition != FellBack || !strings.Contains(string(final.Value),
		`"sentiment":{"label":"NEGATIVE","score":0.55,"route":"fallback","reason":"budget","model":"sentiment@1","revision":2,"amends":"in/3/41#0"}`) {
		t.Errorf("fallback %s", final.Value)
	}
}

// What stands in the place of a final verdict that no topic takes has that verdict's id, not the provisional result's.
func TestAFinalVerdictThatIsTooLargeIsAPointerWithItsOwnID(t *testing.T) {
	for mode, id := range map[Mode]string{Amend: "in/3/41#2", Defer: "in/3/41#0"} {
		w := escalatingWriter(t, mode)
		models, made := twoModels()
		r := judged
		ask := w.Result(&r, nil, models, made, Flags{})
		q, err := ParseRequest(asRecord(&ask.Messages[len(ask.Messages)-1]))
		if err != nil {
			t.Fatal(err)
		}
		final := Final{Route: Fallback, Reason: "budget"} // with a copy for the route
		small := func(topic string) func(string) int {
			return func(name string) int {
				if name == topic {
					return 200
				}
				return 0
			}
		}
		for name, o := range map[string]Outcome{
			"the broker": w.ReplaceFinal(q, &TooLargeError{Topic: "out"}),
			"its topic":  func() Outcome { w.MaxBytes = small("out"); return w.Final(q, nil, final) }(),
			"a route":    func() Outcome { w.MaxBytes = small("alerts"); return w.Final(q, nil, final) }(),
		} {
			m := byTopicName(t, o, "dlq")[0]
			amends := ""
			if mode == Amend {
				amends = "in/3/41#0"
			}
			if header(m, HeaderID) != id || header(m, HeaderAmends) != amends || header(m, HeaderSource) != "in/3/41" ||
				header(m, HeaderErrorReason) != "result-too-large" {
				t.Errorf("%s, refused by %s: %s", mode, name, m.Headers)
			}
		}
	}
}

func TestDeferPublishesOnlyTheFinalVerdict(t *testing.T) {
	w := escalatingWriter(t, Defer)
	models, made := twoModels()
	r := judged
	o := w.Result(&r, nil, models, made, Flags{})
	if o.Disposition != Deferred {
		t.Errorf("disposition %s", o.Disposition)
	}
	q, err := ParseRequest(asRecord(byTopicName(t, o, "asks")[0]))
	if err != nil {
		t.Fatal(err)
	}
	final := byTopicName(t, w.Final(q, nil, Final{Route: ByLLM, Label: "NEGATIVE", Score: 0.9, Scored: true,
		Model: "llama"}), "out", "alerts")[0]
	if header(final, HeaderID) != "in/3/41#0" || header(final, HeaderRevision) != "1" ||
		header(final, HeaderAmends) != "" || strings.Contains(string(final.Value), "amends") {
		t.Errorf("final %s %v", final.Value, final.Headers)
	}
}

func TestShadowPublishesTheLocalVerdictAsFinal(t *testing.T) {
	w := escalatingWriter(t, Shadow)
	models, made := twoModels()
	r := judged
	ms := byTopicName(t, w.Result(&r, nil, models, made, Flags{}), "out", "alerts", "asks")
	if strings.Contains(string(ms[0].Value), "provisional") {
		t.Errorf("result %s", ms[0].Value)
	}
	q, err := ParseRequest(asRecord(ms[2]))
	if err != nil {
		t.Fatal(err)
	}
	if o := w.Final(q, nil, Final{Route: ByLLM, Label: "POSITIVE"}); len(o.Messages) != 0 || o.Disposition != Compared {
		t.Errorf("outcome %+v", o)
	}
}

func TestARequestThatItsTopicWouldRefuseFallsBackAtOnce(t *testing.T) {
	for _, mode := range []Mode{Amend, Defer} {
		w := escalatingWriter(t, mode)
		w.MaxBytes = func(topic string) int {
			if topic == "asks" {
				return 300
			}
			return 0
		}
		models, made := twoModels()
		r := judged
		out := byTopicName(t, w.Result(&r, nil, models, made, Flags{}), "out", "alerts")[0]
		if !strings.Contains(string(out.Value),
			`"score":0.55,"route":"fallback","reason":"request-too-large","model":"sentiment@1","revision":1}`) {
			t.Errorf("%s: %s", mode, out.Value)
		}
	}
}

func TestResultAndRoutedCopyAreSeenTogetherOrNotAtAll(t *testing.T) {
	w := escalatingWriter(t, Amend)
	w.MaxBytes = func(topic string) int {
		if topic == "alerts" {
			return 200
		}
		return 0
	}
	models, made := twoModels()
	r := judged
	o := w.Result(&r, nil, models, made, Flags{})
	byTopicName(t, o, "dlq")
	if o.Disposition != DeadLetter || o.Fault.Reason != "result-too-large" || !strings.Contains(o.Fault.Error(),
		"route bad") {
		t.Errorf("outcome %+v", o)
	}
}

func TestForeignRecordsOnTheEscalationTopicArePoison(t *testing.T) {
	w := escalatingWriter(t, Amend)
	models, made := twoModels()
	r := judged
	o := w.Result(&r, nil, models, made, Flags{})
	good := asRecord(&o.Messages[2])
	n := len(good.Headers)
	change := func(i int, value string) *Record {
		c := *good
		c.Headers = append([]Header(nil), good.Headers...)
		c.Headers[i].Value = []byte(value)
		return &c
	}
	bad := map[string]*Record{
		"no headers":        {Value: good.Value},
		"headers reordered": {Value: good.Value, Headers: append([]Header{good.Headers[n-1]}, good.Headers[:n-1]...)},
		"source":            change(n-4, "in/x/41"),
		"negative offset":   change(n-4, "in/3/-1"),
		"no JSON":           change(n-1, "{"),
		"version":           change(n-1, `{"version":99}`),
		"mode":              change(n-1, `{"version":1,"mode":"x"}`),
		"verdict":           change(n-1, `{"version":1,"mode":"amend","verdict":"a","verdicts":{"b":{}}}`),
	}
	for name, r := range bad {
		_, err := ParseRequest(r)
		var f *Fault
		if !errors.As(err, &f) || f.Kind != Poison || f.Reason != "not-a-request" {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestVerdictRules(t *testing.T) {
	models, made := twoModels()
	r := judged
	env := newRuleEnv(&r, []byte("Ada was here"), models, made)
	for source, want := range map[string]bool{
		`sentiment.score < 0.8`:                                       true,
		`sentiment.margin > 0.5 || sentiment.entropy < 0.5`:           false,
		`sentiment.disagrees && sentiment.student_label != ""`:        true,
		`"PER" in my_entities.groups && my_entities.entities == 1`:    true,
		`len(text) > 5 && number("n") == 1.5 && topic == "in"`:        true,
		`sentiment.label in ["POSITIVE"]`:                             false,
		`sentiment.truncated || my_entities.confidence < 0.5`:         false,
		`sentiment.scores["POSITIVE"] > 0.1`:                          false,
		`sentiment.route == "model" && headers["x"] == "" && bytes>1`: true,
	} {
		got, err := verdictRule(t, source).holds(env)
		if err != nil || got != want {
			t.Errorf("%s is %v, %v, want %v", source, got, err, want)
		}
	}
	for source, want := range map[string]string{
		`sentiment.scre < 0.8`:  "column 11: ",
		`sentimnt.score < 0.8`:  "column 1: unknown name sentimnt",
		`sentiment.score < "x"`: "column 17: invalid operation",
		`sentiment.score`:       "expected bool",
		`sentiment.label == `:   "column 19: unexpected token EOF",
		`my-entities.score < 1`: "column 1: unknown name my",
	} {
		_, err := ParseVerdictRule(source, []string{"sentiment", "my-entities"})
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(),
			"a rule may use sentiment, my_entities, each with .label") {
			t.Errorf("%s: %v, want %q", source, err, want)
		}
	}
	for _, names := range [][]string{{"text"}, {"len"}, {"a-b", "a_b"}} {
		if _, err := ParseVerdictRule("true", names); err == nil {
			t.Errorf("verdicts named %q were taken", names)
		}
	}
}

// What rules see of a verdict goes through the request unchanged.
func TestRulesSeeTheSameBehindTheEndpoint(t *testing.T) {
	w := escalatingWriter(t, Defer)
	models, made := twoModels()
	r := judged
	text := []byte("Ada was here")
	before := newRuleEnv(&r, text, models, made)
	o := w.Result(&r, text, models, made, Flags{})
	q, err := ParseRequest(asRecord(&o.Messages[0]))
	if err != nil {
		t.Fatal(err)
	}
	after := q.env(text, Final{Route: Fallback})
	for _, name := range []string{"sentiment", "my_entities"} {
		want := before[name].(RuleVerdict)
		if name == "sentiment" {
			want.Route = "fallback"
		}
		a, _ := json.Marshal(want)
		b, _ := json.Marshal(after[name])
		if string(a) != string(b) {
			t.Errorf("%s: %s before, %s behind", name, a, b)
		}
	}
	v := q.env(text, Final{Route: ByLLM, Label: "POSITIVE", Score: 0.7})["sentiment"].(RuleVerdict)
	if v.Label != "POSITIVE" || v.Score != 0.7 || v.Route != "llm" {
		t.Errorf("after an answer rules see %+v", v)
	}
}
