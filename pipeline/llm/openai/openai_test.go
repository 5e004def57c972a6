package openai

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"sluice/pipeline"
	"sluice/pipeline/llm"
)

func TestRequestsOnTheWire(t *testing.T) {
	c := &llm.Call{Messages: []llm.Message{{Role: "system", Content: "s"}, {Role: "user", Content: "<u>"}},
		Schema: json.RawMessage(`{"type":"object"}`), Choices: []string{"NO", "YES"}}
	const before = `{"model":"m","max_tokens":9,"temperature":0,"stream":false`
	const behind = `,"messages":[{"role":"system","content":"s"},{"role":"user","content":"\u003cu\u003e"}]}`
	for mode, want := range map[string]string{
		JSONSchema: `,"response_format":{"type":"json_schema","json_schema":{"name":"verdict","strict":true,` +
			`"schema":{"type":"object"}}}`,
		JSONObject:        `,"response_format":{"type":"json_object","schema":{"type":"object"}}`,
		StructuredOutputs: `,"structured_outputs":{"choice":["NO","YES"]}`,
		GuidedChoice:      `,"guided_choice":["NO","YES"]`,
		llm.ModeNone:      ``,
	} {
		got, err := Protocol{}.Encode(&llm.Request{Model: "m", MaxTokens: 9, Mode: mode, Call: c})
		if err != nil || string(got) != before+want+behind {
			t.Errorf("%s: %s, %v", mode, got, err)
		}
	}
	h := http.Header{}
	Protocol{}.Header(h, pipeline.NewSecret("k"))
	if h.Get("Authorization") != "Bearer k" || h.Get("Content-Type") != "application/json" {
		t.Errorf("%v", h)
	}
	h = http.Header{}
	Protocol{}.Header(h, nil)
	if _, ok := h["Authorization"]; ok {
		t.Errorf("a header for no key: %v", h)
	}
}

// Half of a character in an answer is U+FFFD and takes nothing with it, which could be the quote that ends a label.
func TestHalvesOfCharactersInAnAnswer(t *testing.T) {
	for written, want := range map[string]string{`\ud83d\u0022label\u0022`: "\ufffd\"label\"", `\ude00\ud83d`: "\ufffd\ufffd",
		`\ud83d\n{`: "\ufffd\n{", `\ud83d\ude00`: "😀", `\ud83d\ud83d\ude00`: "\ufffd😀"} {
		a, err := Protocol{}.Decode([]byte(completionWith(`"stop"`, `{"role":"assistant","content":"`+written+`"}`)))
		if err != nil || a.Content != want {
			t.Errorf("%s: %+v, %v, want %q", written, a, err, want)
		}
	}
}

// completionWith is a chat completion whose one choice ends so, with this message.
func completionWith(finish, message string) string {
	return `{"choices":[{"finish_reason":` + finish + `,"message":` + message +
		`}],"usage":{"prompt_tokens":7,"completion_tokens":3}}`
}

func TestAnswersOnTheWire(t *testing.T) {
	const good = `{"role":"assistant","content":"yes"}`
	for _, c := range []struct {
		name, body string
		end        llm.End
		wrong      string // in the error
		counted    bool   // usage is read
	}{
		{"good", completionWith(`"stop"`, good), llm.EndStop, "", true},
		{"TGI's words", completionWith(`"eos_token"`, good), llm.EndStop, "", true},
		{"cut off", completionWith(`"length"`, good), llm.EndLength, "", true},
		{"filtered", completionWith(`"content_filter"`, good), llm.EndRefusal, "", true},
		{"refused", completionWith(`"length"`, `{"content":null,"refusal":"no"}`), llm.EndRefusal, "", true},
		{"a tool call", completionWith(`"stop"`, `{"content":"","tool_calls":[{}]}`), 0, "calls a tool", true},
		{"somebody else's", completionWith(`"stop"`, `{"role":"user","content":"x"}`), 0, "not an assistant's", true},
		{"unfinished", completionWith(`null`, good), 0, "finish_reason", true},
		{"no message", completionWith(`"stop"`, `null`), 0, "choices", false},
		{"no choice", `{"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":3}}`, 0, "0 choices", false},
		{"no JSON", `<html>`, 0, "not one whole", false},
	} {
		a, err := Protocol{}.Decode([]byte(c.body))
		if (err == nil) != (c.wrong == "") || err != nil && !strings.Contains(err.Error(), c.wrong) {
			t.Errorf("%s: error %v, want %q", c.name, err, c.wrong)
		}
		if (a != nil) != c.counted || a != nil && (a.PromptTokens != "7" || a.CompletionTokens != "3") {
			t.Errorf("%s: %+v", c.name, a)
		}
		if err == nil && a.End != c.end {
			t.Errorf("%s: end %v, want %v", c.name, a.End, c.end)
		}
	}
}
