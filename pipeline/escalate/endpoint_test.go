package escalate

import (
	"strings"
	"testing"

	"sluice/pipeline"
)

// FuzzRead: whatever an endpoint sends, reading it ends, with an answer or a reason, and with usage within what is
// possible.
func FuzzRead(f *testing.F) {
	for _, s := range []string{
		`{"choices":[{"index":0,"finish_reason":"stop","message":{"role":"assistant","content":"{\"label\":\"POSITIVE\"}"}}],"usage":{"prompt_tokens":10,"completion_tokens":5}}`,
		`{"choices":[{"message":{"content":null,"refusal":"no"}}]}`, `{"choices":[{"message":null}]}`, `{"choices":[]}`,
		`{"choices":{}}`, `[]`, `null`, ``, `{"usage":{"prompt_tokens":1e99}}`,
		`{"choices":[{"finish_reason":"length","message":{"content":"x"}}],"usage":{"prompt_tokens":-1,"completion_tokens":99999999999999999999}}`,
		`{"Choices":[{"finish_reason":"stop","message":{"content":"a"}}],"choices":[]}`,
		"{\"choices\":[{\"finish_reason\":\"stop\",\"message\":{\"content\":\"\xff\"}}]}", strings.Repeat("[",
			20000),
	} {
		f.Add([]byte(s))
	}
	p, err := NewPool(PoolOptions{URLs: []string{"http://a/v1"}, Model: "m"})
	if err != nil {
		f.Fatal(err)
	}
	defer p.Close()
	c := Call{Messages: []Message{{"system", "s"}, {"user", "u"}}}
	most, mostCompleted := p.Ceiling(&c)
	f.Fuzz(func(t *testing.T, body []byte) {
		r, fail := p.read(body, &c)
		if fail == nil && strings.TrimSpace(r.Content) == "" {
			t.Fatalf("an answer without text: %+v", r)
		}
		if fail != nil && (fail.reason == "" || fail.err == nil || fail.retry == fail.form && fail.retry) {
			t.Fatalf("a failure without a reason: %+v", fail)
		}
		if r.PromptTokens < 0 || r.PromptTokens > most || r.CompletionTokens < 0 || r.CompletionTokens > mostCompleted {
			t.Fatalf("impossible usage: %+v", r)
		}
	})
}

// FuzzWallet: whatever stands beside an offset, no budget grows by it, and what is written back can be read.
func FuzzWallet(f *testing.F) {
	for _, s := range []string{"", "{", `{"sluice_budget":1,"day":"2026-03-01","calls":5,"tokens":6,"money":7}`,
		`{"sluice_budget":1,"day":"9999-12-31","calls":9223372036854775807}`,
		`{"sluice_budget":1,"day":"0001-01-01"}`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		b := NewBudget(Limits{CallsPerDay: 10, TokensPerDay: 1000, MoneyPerDay: 1, InputPerMillion: 1,
			OutputPerMillion: 1}, noonClock)
		own(b, 1, map[pipeline.TopicPartition]string{tp(0): s})
		l := b.Left()
		if l.Calls < 0 || l.Calls > 10 || l.Tokens < 0 || l.Tokens > 1000 || l.Money < 0 || l.Money > 1 {
			t.Fatalf("%q: left %+v", s, l)
		}
		m := beside(b)
		if len(m[tp(0)]) > 200 {
			t.Fatalf("%q becomes %d bytes", s, len(m[tp(0)]))
		}
		again := NewBudget(Limits{CallsPerDay: 10, TokensPerDay: 1000, MoneyPerDay: 1, InputPerMillion: 1,
			OutputPerMillion: 1}, noonClock)
		own(again, 1, m)
		if got := again.Left(); got != l {
			t.Fatalf("%q: left %+v, after a restart %+v", s, l, got)
		}
	})
}
