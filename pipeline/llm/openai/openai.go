// Package openai is the chat completions protocol of OpenAI, as OpenAI itself, vLLM, llama.cpp's server, Ollama, TGI
// and many others speak it.
//
// https://platform.openai.com/docs/api-reference/chat
package openai

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"sluice/pipeline"
	"sluice/pipeline/llm"
)

// This file owns the wire: the request as it goes out, the strict reading of what comes back, and the words by which
// servers say what they refuse.

// Modes of structured output, beside llm.ModeNone. JSONSchema is OpenAI's own (vLLM, llama.cpp's server, Ollama and TGI
// know it too). StructuredOutputs and GuidedChoice are vLLM's, from and before version 0.12. JSONObject with a schema
// beside it is what llama-cpp-python and older llama.cpp servers take.
const (
	JSONSchema        = "json_schema"
	StructuredOutputs = "structured_outputs"
	GuidedChoice      = "guided_choice"
	JSONObject        = "json_object"
)

// Protocol implements llm.Protocol. Its zero value is ready.
type Protocol struct{}

var _ llm.Protocol = Protocol{}

// Name implements llm.Protocol.
func (Protocol) Name() string { return "OpenAI-compatible" }

// Path implements llm.Protocol.
func (Protocol) Path() string { return "/chat/completions" }

// Header implements llm.Protocol.
func (Protocol) Header(h http.Header, key pipeline.Secret) {
	h.Set("Content-Type", "application/json")
	h.Set("Accept", "application/json")
	if !key.IsZero() {
		h.Set("Authorization", "Bearer "+key.Reveal())
	}
}

// Modes implements llm.Protocol.
func (Protocol) Modes() []string {
	return []string{JSONSchema, StructuredOutputs, GuidedChoice, JSONObject, llm.ModeNone}
}

// Takes implements llm.Protocol.
func (Protocol) Takes(mode string, c *llm.Call) bool {
	switch mode {
	case JSONSchema, JSONObject:
		return len(c.Schema) > 0
	case StructuredOutputs, GuidedChoice:
		return len(c.Choices) > 0
	}
	return true
}

// Kept implements llm.Protocol.
func (Protocol) Kept(mode, content string, c *llm.Call) bool {
	content = strings.TrimSpace(content)
	switch mode {
	case JSONSchema, JSONObject:
		return strings.HasPrefix(content, "{") && json.Valid([]byte(content))
	case StructuredOutputs, GuidedChoice:
		return slices.Contains(c.Choices, content)
	}
	return true
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

// schemaName is what a request calls its schema: the API wants a name and does nothing with it.
const schemaName = "verdict"

// Encode implements llm.Protocol.
func (Protocol) Encode(r *llm.Request) ([]byte, error) {
	body := chatRequest{Model: r.Model, MaxTokens: r.MaxTokens}
	for _, m := range r.Messages {
		body.Messages = append(body.Messages, chatMessage(m))
	}
	switch r.Mode {
	case JSONSchema:
		body.ResponseFormat = &responseFormat{Type: "json_schema", JSONSchema: &namedSchema{Name: schemaName,
			Strict: true, Schema: r.Schema}}
	case JSONObject:
		body.ResponseFormat = &responseFormat{Type: "json_object", Schema: r.Schema}
	case StructuredOutputs:
		body.StructuredOutputs = &choiceList{r.Choices}
	case GuidedChoice:
		body.GuidedChoice = r.Choices
	}
	return json.Marshal(body)
}

// Complaint implements llm.Protocol. llama-cpp-python refuses the form of an answer with status 500.
func (Protocol) Complaint(status int, body []byte) llm.Complaint {
	switch {
	case status != http.StatusNotImplemented && namesLength(body):
		return llm.ComplaintLength
	case namesStructure(body):
		return llm.ComplaintForm
	}
	return llm.ComplaintOther
}

// namesStructure says that a refusal is about how the answer's form was asked for.
func namesStructure(body []byte) bool {
	return containsAny(body, "response_format", "json_schema", "json schema", "json_object", "guided", "structured",
		"grammar", "extra inputs", "extra_forbidden", "extra fields", "unknown field", "unrecognized",
		"unexpected keyword")
}

// namesLength says that a refusal is about the length of the question.
func namesLength(body []byte) bool {
	return containsAny(body, "context length", "context_length", "context window", "context size", "context_size",
		"maximum context", "too long", "too many tokens", "n_ctx", "max_model_len", "input length")
}

func containsAny(body []byte, words ...string) bool {
	body = bytes.ToLower(body)
	return slices.ContainsFunc(words, func(w string) bool { return bytes.Contains(body, []byte(w)) })
}

// completion is the part of a chat completion that is read.
type completion struct {
	Choices []struct {
		FinishReason *string `json:"finish_reason"`
		Message      *struct {
			Role      string            `json:"role"`
			Content   *string           `json:"content"`
			Refusal   *string           `json:"refusal"`
			ToolCalls []json.RawMessage `json:"tool_calls"`
		} `json:"message"`
	} `json:"choices"`
	Usage *struct {
		PromptTokens     json.Number `json:"prompt_tokens"`
		CompletionTokens json.Number `json:"completion_tokens"`
	} `json:"usage"`
}

// Decode implements llm.Protocol. An answer is one whole chat completion with one choice.
func (Protocol) Decode(body []byte) (*llm.Answer, error) {
	var c completion
	if err := json.Unmarshal(body, &c); err != nil {
		return nil, errors.New("the answer is not one whole JSON chat completion")
	}
	if len(c.Choices) != 1 || c.Choices[0].Message == nil {
		return nil, fmt.Errorf("the answer has %d choices with a message, not the one that was asked for",
			len(c.Choices))
	}
	message, finish := c.Choices[0].Message, text(c.Choices[0].FinishReason)
	a := &llm.Answer{Content: text(message.Content)}
	if c.Usage != nil {
		a.PromptTokens, a.CompletionTokens = c.Usage.PromptTokens, c.Usage.CompletionTokens
	}
	switch {
	case message.Role != "" && message.Role != "assistant", len(message.ToolCalls) > 0:
		return a, errors.New("the answer is not an assistant's message, or calls a tool where none was offered")
	case text(message.Refusal) != "", finish == "content_filter":
		a.End = llm.EndRefusal
	case finish == "length":
		a.End = llm.EndLength
	case finish == "stop", finish == "eos_token", finish == "stop_sequence": // the last two are TGI's words for stop
		a.End = llm.EndStop
	default:
		return a, errors.New("the answer does not say that it is finished (finish_reason)")
	}
	return a, nil
}

// text is a member that may be missing or null.
func text(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}
