package publish_test

import (
	"bytes"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"sluice/pipeline"
	"sluice/pipeline/pipelinetest/words"
	"sluice/pipeline/plan"
	"sluice/pipeline/publish"
)

// names are the headers' names, in order.
func names(headers []pipeline.Header) []string {
	var n []string
	for _, h := range headers {
		n = append(n, h.Key)
	}
	return n
}

// letterSet are the headers that a dead letter adds, in order.
var letterSet = []string{"sluice.source", "sluice.id", "sluice.error.stage", "sluice.error.kind", "sluice.error.reason",
	"sluice.error.message", "sluice.error.topic", "sluice.error.partition", "sluice.error.offset",
	"sluice.error.attempts"}

// again is a dead letter as somebody produces it to the input topic: repaired, or as it is.
func again(m *pipeline.Message, offset int64, value string) *pipeline.Record {
	return &pipeline.Record{Topic: "in", Partition: 1, Offset: offset, Key: m.Key, Value: []byte(value),
		Headers: slices.Clone(m.Headers)}
}

var foreign = []pipeline.Header{{Key: "traceparent", Value: []byte("00-1")}, {Key: "empty"}, {Key: "sluice.source",
	Value: []byte("upstream/0/7")}, {Key: "sluice.id", Value: []byte("upstream/0/7#0")}, {Key: "traceparent",
	Value: []byte("00-2")}, {Key: "error.class", Value: []byte("theirs")}}

func publisher() *publish.Publisher {
	return &publish.Publisher{Output: "out", DeadLetters: "dlq"} // dead letters need no codec
}

func fault(reason string) *pipeline.Fault {
	return pipeline.Faultf(pipeline.Poison, "decode", reason, "because of %s", reason)
}

func TestADeadLetterThatIsProducedAgainAndFailsKeepsOneSet(t *testing.T) {
	p := publisher()
	r := &pipeline.Record{Topic: "in", Partition: 1, Offset: 10, Key: []byte("k"), Value: []byte("x"),
		Headers: slices.Clone(foreign)}
	for i, c := range []struct {
		attempts, all int // of this failure, of all
	}{{0, 1}, {1, 2}, {0, 3}, {4, 7}, {1, 8}} {
		m := &p.DeadLetter(r, fault(fmt.Sprint("reason-", i)), c.attempts).Messages[0]
		if want := slices.Concat(names(foreign), letterSet); !slices.Equal(names(m.Headers), want) {
			t.Fatalf("failure %d: headers %q, want %q", i, names(m.Headers), want)
		}
		for k, h := range foreign {
			if m.Headers[k].Key != h.Key || !bytes.Equal(m.Headers[k].Value, h.Value) {
				t.Errorf("failure %d: header %s is %q, it came as %q", i, h.Key, m.Headers[k].Value, h.Value)
			}
		}
		for name, want := range map[string]string{
			publish.HeaderSource:      fmt.Sprintf("in/1/%d", r.Offset),
			publish.HeaderID:          fmt.Sprintf("in/1/%d#0", r.Offset),
			publish.HeaderErrorReason: fmt.Sprint("reason-", i), publish.HeaderErrorTopic: "in",
			publish.HeaderErrorPartition: "1", publish.HeaderErrorOffset: "10",
			publish.HeaderErrorAttempts: strconv.Itoa(c.all),
		} {
			if got := words.Header(m, name); got != want {
				t.Errorf("failure %d: %s is %q, want %q", i, name, got, want)
			}
		}
		r = again(m, r.Offset+7, "x")
	}
}

func TestAPointerGoesOnCounting(t *testing.T) {
	p := publisher()
	first := p.DeadLetter(&pipeline.Record{Topic: "in", Partition: 1, Offset: 10, Value: []byte("x")},
		fault("invalid-json"), 1)
	r := again(&first.Messages[0], 20, strings.Repeat("x", 500))
	p.MaxBytes = func(string) int { return 400 }
	m := &p.DeadLetter(r, fault("invalid-json"), 1).Messages[0]
	if !slices.Equal(names(m.Headers), letterSet) || words.Header(m, publish.HeaderErrorAttempts) != "2" ||
		words.Header(m, publish.HeaderErrorOffset) != "10" || !strings.Contains(string(m.Value), `"offset":20`) {
		t.Errorf("%s %v", m.Value, m.Headers)
	}
}

func TestADeadLetterThatIsRepairedLosesItsHeaders(t *testing.T) {
	b := words.New(t, words.Options{})
	result := func(headers []pipeline.Header) *pipeline.Message {
		t.Helper()
		r := &pipeline.Record{Topic: "in", Partition: 3, Offset: 200, Value: []byte(`{"text":"sixsix"}`),
			Headers: headers}
		done := make(chan pipeline.Outcome, 1)
		b.Plan().Submit(r, func(_ *plan.Item, o pipeline.Outcome) { done <- o })
		o := <-done
		if o.Disposition != pipeline.Scored {
			t.Fatalf("it became %s (%v)", o.Disposition, o.Fault)
		}
		return &o.Messages[0]
	}
	letter := publisher().DeadLetter(&pipeline.Record{Topic: "in", Partition: 3, Offset: 100, Headers: foreign},
		fault("invalid-json"), 0).Messages[0].Headers
	twice := slices.Concat(letter, letter[len(foreign):]) // as an older build left it
	sorted := slices.Clone(twice)
	slices.SortStableFunc(sorted, func(a, b pipeline.Header) int { return strings.Compare(a.Key, b.Key) })
	stripped := slices.DeleteFunc(slices.Clone(letter), func(h pipeline.Header) bool {
		return h.Key == publish.HeaderErrorReason || h.Key == publish.HeaderErrorAttempts
	})
	ours := []string{"sluice.source", "sluice.id", "sluice.model", "sluice.revision"}
	for name, c := range map[string]struct {
		headers []pipeline.Header
		want    []string
	}{
		"once":                     {letter, names(foreign)},
		"twice, by an older build": {twice, names(foreign)},
		"half of its set":          {stripped, names(foreign)},
		"a name of a later build": {append(slices.Clone(letter), pipeline.Header{Key: "sluice.error.trace"}),
			names(foreign)},
		"sorted by a program on the way": {sorted, []string{"empty", "error.class", "sluice.id", "sluice.source",
			"traceparent", "traceparent"}},
		"with headers behind":     {append(slices.Clone(letter), foreign[0]), append(names(foreign), "traceparent")},
		"never a dead letter":     {foreign, names(foreign)},
		"another Sluice's result": {[]pipeline.Header{foreign[2], foreign[3]}, []string{"sluice.source", "sluice.id"}},
	} {
		m := result(c.headers)
		if got := names(m.Headers); !slices.Equal(got, append(c.want, ours...)) {
			t.Errorf("%s: headers %q, want %q and ours", name, got, c.want)
		}
		if words.Header(m, publish.HeaderSource) != "in/3/200" {
			t.Errorf("%s: source %q", name, words.Header(m, publish.HeaderSource))
		}
		for _, h := range m.Headers {
			if h.Key == "sluice.source" && string(h.Value) != "in/3/200" && string(h.Value) != "upstream/0/7" {
				t.Errorf("%s: %s is %q", name, h.Key, h.Value)
			}
		}
	}
}

// Anybody may write headers: what is no count and no place counts for nothing.
func TestHeadersOfDeadLettersAreNotTrusted(t *testing.T) {
	for _, c := range []struct{ topic, partition, offset, attempts, wantOffset, wantAttempts string }{
		{"in", "3", "5", "2", "5", "3"}, {"in", "3", "-5", "2", "9", "3"}, {"in", "3", "5 ", "2", "9", "3"},
		{"", "3", "5", "2", "9", "3"}, {"a/b", "3", "5", "2", "9", "3"}, {"in", "99999999999", "5", "2", "9", "3"},
		{"in", "3", "5", "many", "5", "2"}, {"in", "3", "5", "-7", "5", "2"},
		{"in", "3", "5", "99999999999999999999", "5", "2"}, {"in", "3", "5", "2147483647", "5", "2147483647"},
		{"in", "3", "5", "", "5", "2"},
	} {
		r := &pipeline.Record{Topic: "in", Partition: 3, Offset: 9, Headers: []pipeline.Header{
			{Key: "sluice.error.reason"}, {Key: "sluice.error.topic", Value: []byte(c.topic)},
			{Key: "sluice.error.partition", Value: []byte(c.partition)},
			{Key: "sluice.error.offset", Value: []byte(c.offset)},
			{Key: "sluice.error.attempts", Value: []byte(c.attempts)}}}
		m := &publisher().DeadLetter(r, fault("invalid-json"), 1).Messages[0]
		if offset, attempts := words.Header(m, publish.HeaderErrorOffset), words.Header(m,
			publish.HeaderErrorAttempts); offset != c.wantOffset || attempts != c.wantAttempts {
			t.Errorf("%+v: offset %s, attempts %s", c, offset, attempts)
		}
	}
}

// Whatever headers a record has, making its dead letter over and over keeps those of others, and one set of ours.
func TestForeignHeadersStay(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		theirs := rapid.SliceOf(rapid.Custom(func(t *rapid.T) pipeline.Header {
			return pipeline.Header{Key: rapid.SampledFrom([]string{"a", "sluice.source", "sluice.id", "sluice.amends",
				"sluice.model", "sluice.errors", "x"}).Draw(t, "key"), Value: []byte(rapid.String().Draw(t, "value"))}
		})).Draw(t, "headers")
		r := &pipeline.Record{Topic: "in", Offset: 1, Headers: theirs}
		for n := range rapid.IntRange(1, 4).Draw(t, "failures") {
			m := &publisher().DeadLetter(r, fault("x"), 1).Messages[0]
			if got := m.Headers[:len(theirs)]; fmt.Sprint(got) != fmt.Sprint(theirs) {
				t.Fatalf("%v became %v", theirs, got)
			}
			if got := names(m.Headers[len(theirs):]); !slices.Equal(got, letterSet) {
				t.Fatalf("behind them stand %q", got)
			}
			if got := words.Header(m, publish.HeaderErrorAttempts); got != strconv.Itoa(n+1) {
				t.Fatalf("attempts %s after %d failures", got, n+1)
			}
			r = again(m, r.Offset+1, "x")
		}
		if got := publish.Foreign(r.Headers); len(got) != len(theirs) || len(got) > 0 && fmt.Sprint(got) !=
			fmt.Sprint(theirs) {
			t.Fatalf("%v came back as %v", theirs, got)
		}
	})
}
