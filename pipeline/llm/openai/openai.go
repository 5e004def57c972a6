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

// This file owns the wire: the request as it goes out, and the strict reading of what comes back.

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

// Parameters implements llm.Protocol. OpenAI's models since o1 want max_completion_tokens, and no temperature but 1;
// many other servers know only max_tokens.
func (Protocol) Parameters() []llm.Parameter {
	return []llm.Parameter{
		{Name: maxTokens, Others: []string{"max_completion_tokens"}, Bounds: true,
			Without: "only the endpoint bounds an answer; budgets charge max_tokens until it has said what it took"},
		{Name: temperature, Without: "the endpoint may answer equal questions differently"},
		{Name: stream, Without: "the endpoint decides whether it answers in one piece, as it must"},
	}
}

const (
	maxTokens   = "max_tokens"
	temperature = "temperature"
	stream      = "stream"
)

// member is one member of a request's JSON object.
type member struct {
	name  string
	value any
}

type chatMessage struct {
	Role    string `json:"role"`
	Content string `json:"content"`
}

type format struct {
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

const responseFormat = "response_format"

// schemaName is what a request calls its schema: the API wants a name and does nothing with it.
const schemaName = "verdict"

// Encode implements llm.Protocol. The members stand in an order that keeps what is equal between calls in front.
func (Protocol) Encode(r *llm.Request) ([]byte, error) {
	messages := make([]chatMessage, len(r.Messages))
	for i, m := range r.Messages {
		messages[i] = chatMessage(m)
	}
	members := []member{{"model", r.Model}, {r.Names.Of(maxTokens), r.MaxTokens}, {r.Names.Of(temperature), 0},
		{r.Names.Of(stream), false}}
	switch r.Mode {
	case JSONSchema:
		members = append(members, member{responseFormat, format{Type: "json_schema", JSONSchema: &namedSchema{
			Name: schemaName, Strict: true, Schema: r.Schema}}})
	case JSONObject:
		members = append(members, member{responseFormat, format{Type: "json_object", Schema: r.Schema}})
	case StructuredOutputs:
		members = append(members, member{StructuredOutputs, choiceList{r.Choices}})
	case GuidedChoice:
		members = append(members, member{GuidedChoice, r.Choices})
	}
	return encode(append(members, member{"messages", messages}))
}

// encode writes an object. A member without a name is left out.
func encode(members []member) ([]byte, error) {
	var b bytes.Buffer
	seen := map[string]bool{}
	for _, m := range members {
		if m.name == "" {
			continue
		}
		if seen[m.name] {
			return nil, fmt.Errorf("the request would have %s twice", m.name)
		}
		seen[m.name] = true
		value, err := json.Marshal(m.value)
		if err != nil {
			return nil, err
		}
		if b.Len() > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, "%q:%s", m.name, value)
	}
	return append(append([]byte{'{'}, b.Bytes()...), '}'), nil
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
