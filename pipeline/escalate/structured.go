// This file owns how the form of an answer is asked for, and what an endpoint is known to understand of it.

package escalate

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"
)

// Modes of structured output, in the order in which they are tried: the first is OpenAI's own (vLLM, llama.cpp's
// server, Ollama and TGI know it too), the next two are vLLM's, from and before version 0.12, json_object with a schema
// beside it is what llama-cpp-python and older llama.cpp servers take. With none, only the prompt says what an answer
// looks like.
const (
	StructuredAuto    = "auto"
	structuredSchema  = "json_schema"
	structuredOutputs = "structured_outputs"
	structuredChoice  = "guided_choice"
	structuredObject  = "json_object"
	structuredNone    = "none"
)

var structuredModes = []string{structuredSchema, structuredOutputs, structuredChoice, structuredObject, structuredNone}

// StructuredModes lists what PoolOptions.Structured may be.
func StructuredModes() []string { return append([]string{StructuredAuto}, structuredModes...) }

// nextMode is the one to try where an endpoint does not understand mode.
func nextMode(mode string) string {
	if i := slices.Index(structuredModes, mode); i >= 0 && i+1 < len(structuredModes) {
		return structuredModes[i+1]
	}
	return structuredNone
}

// chatRequest is the body of a chat completion. The fields stand in an order that keeps what is equal between calls in
// front.
type chatRequest struct {
	Model             string          `json:"model"`
	MaxTokens         int             `json:"max_tokens,omitempty"`
	Temperature       float64         `json:"temperature"`
	Stream            bool            `json:"stream"`
	ResponseFormat    *responseFormat `json:"response_format,omitempty"`
	StructuredOutputs *choiceList     `json:"structured_outputs,omitempty"`
	GuidedChoice      []string        `json:"guided_choice,omitempty"`
	Messages          []chatMessage   `json:"messages"`
}

type chatMessage struct {
	Role    string `json:"role"`
	Content string `json:"content"`
}

type responseFormat struct {
	Type       string          `json:"type"`
	JSONSchema *namedSchema    `json:"json_schema,omitempty"`
	Schema     json.RawMessage `json:"schema,omitempty"`
}

type namedSchema struct {
	Name   string          `json:"name"`
	Strict bool            `json:"strict"`
	Schema json.RawMessage `json:"schema"`
}

type choiceList struct {
	Choice []string `json:"choice"`
}

// usable is mode, or the next that c has what it takes for: a schema, choices.
func usable(mode string, c *Call) string {
	for {
		switch {
		case mode == structuredSchema && len(c.Schema) == 0,
			(mode == structuredOutputs || mode == structuredChoice) && len(c.Choices) == 0,
			mode == structuredObject && len(c.Schema) == 0:
			mode = nextMode(mode)
		default:
			return mode
		}
	}
}

func encodeRequest(model string, maxTokens int, c *Call, mode string) ([]byte, error) {
	r := chatRequest{Model: model, MaxTokens: maxTokens}
	for _, m := range c.Messages {
		r.Messages = append(r.Messages, chatMessage(m))
	}
	switch mode {
	case structuredSchema:
		r.ResponseFormat = &responseFormat{Type: "json_schema", JSONSchema: &namedSchema{Name: "verdict", Strict: true,
			Schema: c.Schema}}
	case structuredObject:
		r.ResponseFormat = &responseFormat{Type: "json_object", Schema: c.Schema}
	case structuredOutputs:
		r.StructuredOutputs = &choiceList{c.Choices}
	case structuredChoice:
		r.GuidedChoice = c.Choices
	}
	return json.Marshal(r)
}

// ignored says that content shows the endpoint to have ignored mode without a word: what an enforced schema or choice
// can never give. (Whether an answer is right is Prompt.Parse's to say.)
func ignored(mode, content string, choices []string) bool {
	content = strings.TrimSpace(content)
	switch mode {
	case structuredSchema, structuredObject:
		return !strings.HasPrefix(content, "{") || !json.Valid([]byte(content))
	case structuredOutputs, structuredChoice:
		return !slices.Contains(choices, content)
	}
	return false
}

// namesStructure says that an endpoint's refusal is about how the answer's form was asked for. body may be anything.
func namesStructure(body []byte) bool {
	return containsAny(body, "response_format", "json_schema", "json schema", "json_object", "guided", "structured",
		"grammar",
		"extra inputs", "extra_forbidden", "extra fields", "unknown field", "unrecognized", "unexpected keyword")
}

// namesLength says that an endpoint's refusal is about the length of the question.
func namesLength(body []byte) bool {
	return containsAny(body, "context length", "context_length", "context window", "context size", "context_size",
		"maximum context",
		"too long", "too many tokens", "n_ctx", "max_model_len", "input length")
}

func containsAny(body []byte, words ...string) bool {
	body = bytes.ToLower(body)
	return slices.ContainsFunc(words, func(w string) bool { return bytes.Contains(body, []byte(w)) })
}
