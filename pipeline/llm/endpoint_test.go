package llm_test

import (
	"strings"
	"testing"

	"sluice/pipeline/llm"
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
	p, err := llm.NewPool(filled(llm.Options{URLs: []string{"http://a/v1"}, Model: "m"}))
	if err != nil {
		f.Fatal(err)
	}
	defer p.Close()
	c := llm.Call{Messages: []llm.Message{{Role: "system", Content: "s"}, {Role: "user", Content: "u"}}}
	most, mostCompleted := p.Ceiling(&c)
	f.Fuzz(func(t *testing.T, body []byte) {
		r, fail := p.Read(body, &c)
		if fail == nil && strings.TrimSpace(r.Content) == "" {
			t.Fatalf("an answer without text: %+v", r)
		}
		if fail != nil && (fail.Reason == "" || fail.Err == nil || fail.Retry == fail.Form && fail.Retry) {
			t.Fatalf("a failure without a reason: %+v", fail)
		}
		if r.PromptTokens < 0 || r.PromptTokens > most || r.CompletionTokens < 0 || r.CompletionTokens > mostCompleted {
			t.Fatalf("impossible usage: %+v", r)
		}
	})
}
