package escalate

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"sluice/model"
	"sluice/pipeline"
	"sluice/pipeline/codec"
	"sluice/pipeline/codec/jsonvalue"
	"sluice/pipeline/pipelinetest/words"
	"sluice/pipeline/publish"
	"sluice/pipeline/rule"
)

// form is how the values of these tests hold their text.
var form = jsonvalue.New(jsonvalue.Options{Text: codec.Path{"text"}, Field: "inference", MaxDepth: 512})

// twoFacts are the local verdicts of the tests below: an unsure sentiment and one entity.
func twoFacts() []pipeline.Fact {
	return []pipeline.Fact{
		{Name: "sentiment", Tag: "sentiment@1", By: pipeline.ByModel, Revision: 1,
			Value: &model.Verdict{Label: "NEGATIVE", Score: 0.55, Margin: 0.1, Entropy: 0.9, Confidence: 0.55,
				Windows: 1},
			Unsure: &model.Verdict{Label: "POSITIVE", Confidence: 0.7}},
		{Name: "my-entities", Tag: "ner@2", By: pipeline.ByModel, Revision: 1, Value: &model.Verdict{Windows: 1,
			Confidence: 0.8, Entities: []model.Entity{{Group: "PER", Score: 0.9, Word: "Ada <b>", Start: 0, End: 3}}}},
	}
}

func verdictRule(t *testing.T, source string) *rule.Verdicts {
	t.Helper()
	r, err := rule.ParseVerdicts(source, rule.Declare("sentiment", "my-entities"))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// escalating is the end of a classify stage that escalates, and the escalate stage's.
type escalating struct {
	t   *testing.T
	p   *publish.Publisher
	ask *Ask
}

func newEscalating(t *testing.T, mode Mode) *escalating {
	p := &publish.Publisher{Codec: form, Output: "out", DeadLetters: "dlq", Routes: []publish.Route{{Name: "bad",
		When: verdictRule(t, `sentiment.label == "NEGATIVE" && sentiment.score > 0.5`), Topic: "alerts"}}}
	return &escalating{t, p, NewAsk(AskOptions{When: verdictRule(t, "sentiment.score < 0.8"), Verdict: "sentiment",
		Topic: "asks", Mode: mode, Publisher: p})}
}

// result is what becomes of the record once its models are done.
func (w *escalating) result(text []byte, f codec.Flags) pipeline.Outcome {
	r := judged
	j := &publish.Judged{Record: &r, Value: w.open(r.Value), Text: text,
		Verdicts: codec.Verdicts{Facts: twoFacts(), Flags: f}}
	w.ask.decide(j)
	return w.p.Result(j)
}

func (w *escalating) open(value []byte) codec.Value {
	v, err := w.p.Codec.Open(context.Background(), value)
	if err != nil {
		w.t.Fatal(err)
	}
	return v
}

func (w *escalating) finals() Finals { return Finals{w.p} }

func (w *escalating) final(q *Request, f Final) pipeline.Outcome {
	return w.finals().Outcome(q, w.open(q.Source.Value), []byte("Ada was  here"), f)
}

var judged = pipeline.Record{Topic: "in", Partition: 3, Offset: 41, Key: []byte("k"),
	Value:     []byte(`{"text":"Ada was  here", "n": 1.50}`),
	Headers:   []pipeline.Header{{Key: "sluice.id", Value: []byte("upstream/0/1#0")}, {Key: "x"}},
	Timestamp: time.UnixMilli(1700000000000)}

// asRecord is a message as the next reader gets it.
func asRecord(m *pipeline.Message) *pipeline.Record {
	return &pipeline.Record{Topic: m.Topic, Partition: 7, Offset: 1000, Timestamp: m.Timestamp, Key: m.Key,
		Value:   m.Value,
		Headers: m.Headers}
}

func byTopicName(t *testing.T, o pipeline.Outcome, topics ...string) []*pipeline.Message {
	t.Helper()
	var got []string
	found := make([]*pipeline.Message, len(topics))
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
	w := newEscalating(t, Amend)
	o := w.result([]byte("Ada was  here"), codec.Flags{Repaired: true, Unpaired: true, Cut: true})
	ms := byTopicName(t, o, "out", "alerts", "asks")
	first, alert, ask := ms[0], ms[1], ms[2]
	want := `{"text":"Ada was  here", "n": 1.50,"inference":{"sentiment":{"label":"NEGATIVE","score":0.55,"by":"model","model":"sentiment@1","revision":1,"provisional":true},` +
		`"my-entities":{"entities":[{"entity_group":"PER","score":0.9,"word":"Ada <b>","start":0,"end":3}],"by":"model","model":"ner@2","revision":1},"flags":["invalid-utf8","unpaired-surrogate","text-cut"]}}`
	if string(first.Value) != want {
		t.Errorf("provisional result\n%s, want\n%s", first.Value, want)
	}
	if string(alert.Value) != want || words.Header(alert, publish.HeaderID) != "in/3/41#0@bad" ||
		words.Header(alert, publish.HeaderRoute) != "bad" {
		t.Errorf("routed copy %s %v", alert.Value, alert.Headers)
	}
	if string(ask.Value) != string(judged.Value) || string(ask.Key) != "k" ||
		words.Header(ask, publish.HeaderID) != "in/3/41#escalation" {
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
	if len(q.Spans) != 1 || q.Spans[0] != (Span{"PER", 0, 3}) {
		t.Errorf("spans %v", q.Spans)
	}
	o = w.final(q, Final{By: pipeline.ByLLM, Label: "POSITIVE", Score: 0.875, Scored: true,
		Model: "llama", Prompt: "p-1", Flags: []string{"f"}})
	final := byTopicName(t, o, "out")[0]
	want = `{"text":"Ada was  here", "n": 1.50,"inference":{"sentiment":{"label":"POSITIVE","score":0.875,"by":"llm","model":"llama","prompt":"p-1","flags":["f"],"local":{"label":"NEGATIVE","score":0.55,"model":"sentiment@1"},"revision":2,"amends":"in/3/41#0"},` +
		`"my-entities":{"entities":[{"entity_group":"PER","score":0.9,"word":"Ada <b>","start":0,"end":3}],"by":"model","model":"ner@2","revision":1},"flags":["invalid-utf8","unpaired-surrogate","text-cut"]}}`
	if string(final.Value) != want {
		t.Errorf("amendment\n%s, want\n%s", final.Value, want)
	}
	if o.Disposition != pipeline.Amended || final.Source != (pipeline.TopicPartition{Topic: "in", Partition: 3}) ||
		words.Header(final, publish.HeaderAmends) != words.Header(first, publish.HeaderID) ||
		words.Header(final, publish.HeaderID) != "in/3/41#2" || words.Header(final, publish.HeaderRevision) != "2" ||
		words.Header(final, publish.HeaderModel) != "llama,ner@2" {
		t.Errorf("amendment %s for %v: %v", o.Disposition, final.Source, final.Headers)
	}

	o = w.final(q, Final{By: pipeline.Fallback, Reason: "budget"})
	final = byTopicName(t, o, "out", "alerts")[0]
	if o.Disposition != pipeline.FellBack || !strings.Contains(string(final.Value),
		`"sentiment":{"label":"NEGATIVE","score":0.55,"by":"fallback","reason":"budget","model":"sentiment@1","revision":2,"amends":"in/3/41#0"}`) {
		t.Errorf("fallback %s", final.Value)
	}
}

// What stands in the place of a final verdict that no topic takes has that verdict's id, not the provisional result's.
func TestAFinalVerdictThatIsTooLargeIsAPointerWithItsOwnID(t *testing.T) {
	for mode, id := range map[Mode]string{Amend: "in/3/41#2", Defer: "in/3/41#0"} {
		w := newEscalating(t, mode)
		ask := w.result(nil, codec.Flags{})
		q, err := ParseRequest(asRecord(&ask.Messages[len(ask.Messages)-1]))
		if err != nil {
			t.Fatal(err)
		}
		final := Final{By: pipeline.Fallback, Reason: "budget"} // with a copy for the route
		small := func(topic string) func(string) int {
			return func(name string) int {
				if name == topic {
					return 200
				}
				return 0
			}
		}
		refused := w.final(q, final)
		byBroker, ok := w.finals().Refused(q, &refused, []pipeline.Refusal{{Topic: "out",
			Reason: pipeline.RefusedSize}})
		if !ok {
			t.Error("nothing stands in for a final verdict that was refused once")
		}
		for name, o := range map[string]pipeline.Outcome{
			"the broker": byBroker,
			"its topic":  func() pipeline.Outcome { w.p.MaxBytes = small("out"); return w.final(q, final) }(),
			"a route":    func() pipeline.Outcome { w.p.MaxBytes = small("alerts"); return w.final(q, final) }(),
		} {
			m := byTopicName(t, o, "dlq")[0]
			amends := ""
			if mode == Amend {
				amends = "in/3/41#0"
			}
			if words.Header(m, publish.HeaderID) != id || words.Header(m, publish.HeaderAmends) != amends ||
				words.Header(m, publish.HeaderSource) != "in/3/41" ||
				words.Header(m, publish.HeaderErrorReason) != "result-too-large" {
				t.Errorf("%s, refused by %s: %s", mode, name, m.Headers)
			}
		}
	}
}

func TestDeferPublishesOnlyTheFinalVerdict(t *testing.T) {
	w := newEscalating(t, Defer)
	o := w.result(nil, codec.Flags{})
	if o.Disposition != pipeline.Deferred {
		t.Errorf("disposition %s", o.Disposition)
	}
	q, err := ParseRequest(asRecord(byTopicName(t, o, "asks")[0]))
	if err != nil {
		t.Fatal(err)
	}
	final := byTopicName(t, w.final(q, Final{By: pipeline.ByLLM, Label: "NEGATIVE", Score: 0.9, Scored: true,
		Model: "llama"}), "out", "alerts")[0]
	if words.Header(final, publish.HeaderID) != "in/3/41#0" || words.Header(final, publish.HeaderRevision) != "1" ||
		words.Header(final, publish.HeaderAmends) != "" || strings.Contains(string(final.Value), "amends") {
		t.Errorf("final %s %v", final.Value, final.Headers)
	}
}

func TestShadowPublishesTheLocalVerdictAsFinal(t *testing.T) {
	w := newEscalating(t, Shadow)
	ms := byTopicName(t, w.result(nil, codec.Flags{}), "out", "alerts", "asks")
	if strings.Contains(string(ms[0].Value), "provisional") {
		t.Errorf("result %s", ms[0].Value)
	}
	q, err := ParseRequest(asRecord(ms[2]))
	if err != nil {
		t.Fatal(err)
	}
	if o := w.final(q, Final{By: pipeline.ByLLM, Label: "POSITIVE"}); len(o.Messages) != 0 ||
		o.Disposition != pipeline.Compared {
		t.Errorf("outcome %+v", o)
	}
}

func TestARequestThatItsTopicWouldRefuseFallsBackAtOnce(t *testing.T) {
	for _, mode := range []Mode{Amend, Defer} {
		w := newEscalating(t, mode)
		w.p.MaxBytes = func(topic string) int {
			if topic == "asks" {
				return 300
			}
			return 0
		}
		out := byTopicName(t, w.result(nil, codec.Flags{}), "out", "alerts")[0]
		if !strings.Contains(string(out.Value),
			`"score":0.55,"by":"fallback","reason":"request-too-large","model":"sentiment@1","revision":1}`) {
			t.Errorf("%s: %s", mode, out.Value)
		}
	}
}

func TestResultAndRoutedCopyAreSeenTogetherOrNotAtAll(t *testing.T) {
	w := newEscalating(t, Amend)
	w.p.MaxBytes = func(topic string) int {
		if topic == "alerts" {
			return 200
		}
		return 0
	}
	o := w.result(nil, codec.Flags{})
	byTopicName(t, o, "dlq")
	if o.Disposition != pipeline.DeadLetter || o.Fault.Reason != "result-too-large" ||
		!strings.Contains(o.Fault.Error(), "route bad") {
		t.Errorf("outcome %+v", o)
	}
}

func TestForeignRecordsOnTheEscalationTopicArePoison(t *testing.T) {
	w := newEscalating(t, Amend)
	o := w.result(nil, codec.Flags{})
	good := asRecord(&o.Messages[2])
	n := len(good.Headers)
	change := func(i int, value string) *pipeline.Record {
		c := *good
		c.Headers = append([]pipeline.Header(nil), good.Headers...)
		c.Headers[i].Value = []byte(value)
		return &c
	}
	bad := map[string]*pipeline.Record{
		"no headers": {Value: good.Value},
		"headers reordered": {Value: good.Value,
			Headers: append([]pipeline.Header{good.Headers[n-1]}, good.Headers[:n-1]...)},
		"source":          change(n-4, "in/x/41"),
		"negative offset": change(n-4, "in/3/-1"),
		"no JSON":         change(n-1, "{"),
		"version":         change(n-1, `{"version":99}`),
		"mode":            change(n-1, `{"version":1,"mode":"x"}`),
		"verdict":         change(n-1, `{"version":1,"mode":"amend","verdict":"a","verdicts":{"b":{}}}`),
	}
	for name, r := range bad {
		_, err := ParseRequest(r)
		var f *pipeline.Fault
		if !errors.As(err, &f) || f.Kind != pipeline.Poison || f.Reason != "not-a-request" {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// What rules see of a verdict goes through the request unchanged.
func TestRulesSeeTheSameBehindTheEndpoint(t *testing.T) {
	w := newEscalating(t, Defer)
	text := []byte("Ada was here")
	s := &rule.Subject{Record: &judged, Value: w.open(judged.Value), Text: text}
	before := rule.NewEnv(s, twoFacts())
	o := w.result(text, codec.Flags{})
	q, err := ParseRequest(asRecord(&o.Messages[0]))
	if err != nil {
		t.Fatal(err)
	}
	after := q.env(s, Final{By: pipeline.Fallback})
	for _, name := range []string{"sentiment", "my_entities"} {
		want := before[name].(rule.Verdict)
		if name == "sentiment" {
			want.By = "fallback"
		}
		a, _ := json.Marshal(want)
		b, _ := json.Marshal(after[name])
		if string(a) != string(b) {
			t.Errorf("%s: %s before, %s behind", name, a, b)
		}
	}
	v := q.env(s, Final{By: pipeline.ByLLM, Label: "POSITIVE", Score: 0.7})["sentiment"].(rule.Verdict)
	if v.Label != "POSITIVE" || v.Score != 0.7 || v.By != "llm" {
		t.Errorf("after an answer rules see %+v", v)
	}
}

// What must be redacted is found beside members that nobody here expects.
func TestEntitiesAreFoundBesideMembersOfOtherTypes(t *testing.T) {
	w := newEscalating(t, Amend)
	r := asRecord(byTopicName(t, w.result(nil, codec.Flags{}), "out", "alerts", "asks")[2])
	h := &r.Headers[len(r.Headers)-1]
	h.Value = []byte(strings.Replace(string(h.Value), `"my-entities":{"entities":[`,
		`"my-entities":{"score":"high","label":7,"entities":[`, 1))
	q, err := ParseRequest(r)
	if err != nil || len(q.Spans) != 1 || q.Spans[0] != (Span{"PER", 0, 3}) {
		t.Errorf("%v, %v", q, err)
	}
}

// A request of a worker that has not been upgraded yet calls it route.
func TestARequestWithTheOldWordIsRead(t *testing.T) {
	w := newEscalating(t, Amend)
	o := w.result(nil, codec.Flags{})
	r := asRecord(byTopicName(t, o, "out", "alerts", "asks")[2])
	h := &r.Headers[len(r.Headers)-1]
	h.Value = []byte(strings.ReplaceAll(string(h.Value), `"by":"model"`, `"route":"model"`))
	q, err := ParseRequest(r)
	if err != nil {
		t.Fatal(err)
	}
	final := byTopicName(t, w.final(q, Final{By: pipeline.ByLLM, Label: "POSITIVE"}), "out")[0]
	if v := string(final.Value); strings.Contains(v, "route") || strings.Count(v, `"by":"model"`) != 1 {
		t.Errorf("final %s", v)
	}
	s := &rule.Subject{Record: &judged}
	if v := q.env(s, Final{By: pipeline.ByLLM})["my_entities"].(rule.Verdict); v.By != "model" {
		t.Errorf("rules see %+v", v)
	}
}

// A record that was a dead letter is asked about like any other: its request keeps what the dead letter said, its final
// verdict does not. A request that was a dead letter itself is one again.
func TestDeadLettersThatAreProducedAgainAreAskedAbout(t *testing.T) {
	w := newEscalating(t, Amend)
	letter := func(r *pipeline.Record, reason string) *pipeline.Record {
		o := w.p.DeadLetter(r, pipeline.Faultf(pipeline.Poison, "decode", reason, "it failed"), 1)
		again := *r
		again.Headers = o.Messages[0].Headers
		again.Offset += 100
		return &again
	}
	r := letter(&judged, "invalid-json")
	j := &publish.Judged{Record: r, Value: w.open(r.Value), Text: []byte("Ada was  here"),
		Verdicts: codec.Verdicts{Facts: twoFacts()}}
	w.ask.decide(j)
	request := asRecord(&j.Requests[0])
	for name, request := range map[string]*pipeline.Record{"at once": request,
		"the request, too": letter(request, "not-a-request"),
		"twice":            letter(letter(request, "not-a-request"), "not-a-request")} {
		q, err := ParseRequest(request)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		m := &w.final(q, Final{By: pipeline.ByLLM, Label: "POSITIVE", Model: "llama"}).Messages[0]
		var names []string
		for _, h := range m.Headers {
			names = append(names, h.Key)
		}
		if got := strings.Join(names, " "); got != "sluice.id x sluice.source sluice.id sluice.model sluice.revision "+
			"sluice.amends" {
			t.Errorf("%s: headers %s", name, got)
		}
		w.p.MaxBytes = func(topic string) int { return map[string]int{"out": 10}[topic] }
		dead := &w.final(q, Final{By: pipeline.ByLLM, Label: "POSITIVE", Model: "llama"}).Messages[0]
		w.p.MaxBytes = nil
		want := map[string]string{"at once": "2", "the request, too": "3", "twice": "4"}[name]
		if got := words.Header(dead, publish.HeaderErrorAttempts); got != want {
			t.Errorf("%s: the amendment's dead letter counts %s attempts, want %s", name, got, want)
		}
		if got := words.Header(dead, publish.HeaderErrorOffset); got != "41" {
			t.Errorf("%s: it failed first at offset %s", name, got)
		}
	}
}
