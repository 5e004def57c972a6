package standin

import (
	"bytes"
	"crypto/subtle"
	"encoding/json"
	"fmt"
	"io"
	"mime"
	"net/http"
	"slices"
	"strings"
	"unicode/utf8"
)

// This file owns what a request may look like. It is stricter than any real endpoint: whatever some of them refuse, it
// refuses.

type request struct {
	Model             string          `json:"model"`
	Messages          []message       `json:"messages"`
	MaxTokens         *int            `json:"max_tokens"`
	MaxCompletion     *int            `json:"max_completion_tokens"`
	Temperature       *float64        `json:"temperature"`
	Stream            *bool           `json:"stream"`
	ResponseFormat    *responseFormat `json:"response_format"`
	StructuredOutputs *struct {
		Choice []string `json:"choice"`
	} `json:"structured_outputs"`
	GuidedChoice []string `json:"guided_choice"`
}

type message struct {
	Role    string `json:"role"`
	Content string `json:"content"`
}

type responseFormat struct {
	Type       string `json:"type"`
	JSONSchema *struct {
		Name   string          `json:"name"`
		Strict bool            `json:"strict"`
		Schema json.RawMessage `json:"schema"`
	} `json:"json_schema"`
	Schema json.RawMessage `json:"schema"`
}

// mode is how the request asks for the answer's form.
func (r *request) mode() string {
	switch {
	case r.ResponseFormat != nil:
		return r.ResponseFormat.Type
	case r.StructuredOutputs != nil:
		return "structured_outputs"
	case r.GuidedChoice != nil:
		return "guided_choice"
	}
	return "none"
}

// refused is the first parameter of the request that the endpoint does not take; "": it takes all.
func (s *Server) refused(r *request) string {
	for _, p := range []struct {
		name string
		set  bool
	}{{"max_tokens", r.MaxTokens != nil}, {"max_completion_tokens", r.MaxCompletion != nil},
		{"temperature", r.Temperature != nil}, {"stream", r.Stream != nil}} {
		if p.set && s.refuses(p.name) {
			return p.name
		}
	}
	return ""
}

func (s *Server) refuses(parameter string) bool { return slices.Contains(s.o.Refuses, parameter) }

// refuseParameter refuses in the words of OpenAI's newer models.
func (s *Server) refuseParameter(w http.ResponseWriter, name string) {
	code, sentence := "unsupported_parameter", fmt.Sprintf("Unsupported parameter: '%s' is not supported with this "+
		"model.", name)
	switch {
	case name == "temperature":
		code = "unsupported_value"
		sentence = "Unsupported value: 'temperature' does not support 0 with this model. Only the default (1) value " +
			"is supported."
	case name == "max_tokens" && !s.refuses("max_completion_tokens"):
		sentence += " Use 'max_completion_tokens' instead."
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusBadRequest)
	json.NewEncoder(w).Encode(map[string]any{"error": map[string]any{"message": sentence,
		"type": "invalid_request_error", "param": name, "code": code}})
}

// field is the request's field that asks for a mode.
func field(mode string) string {
	if strings.HasPrefix(mode, "json_") {
		return "response_format"
	}
	return mode
}

// tokens counts a token a word, and four a message.
func (r *request) tokens() int {
	n := 0
	for _, m := range r.Messages {
		n += 4 + len(strings.Fields(m.Content))
	}
	return n
}

// check reads a request. A sentence that is not empty says what is wrong with it.
func (s *Server) check(r *http.Request, body []byte) (req *request, status int, code, sentence string) {
	bad := func(format string, args ...any) (*request, int, string, string) {
		return nil, http.StatusBadRequest, "invalid_request_error", fmt.Sprintf(format, args...)
	}
	if r.Method != http.MethodPost {
		return nil, http.StatusMethodNotAllowed, "method_not_allowed", "chat completions are a POST"
	}
	if s.o.APIKey != "" && subtle.ConstantTimeCompare([]byte(r.Header.Get("Authorization")),
		[]byte("Bearer "+s.o.APIKey)) == 0 {
		return nil, http.StatusUnauthorized, "invalid_api_key", "the key is missing or wrong"
	}
	if t, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || t != "application/json" {
		return bad("the request is not application/json")
	}
	if !utf8.Valid(body) {
		return bad("the request is not UTF-8")
	}
	d := json.NewDecoder(bytes.NewReader(body))
	d.DisallowUnknownFields()
	req = &request{}
	if err := d.Decode(req); err != nil {
		return bad("the request is not a chat completion's: %v", err)
	}
	if _, err := d.Token(); err != io.EOF {
		return bad("there is something behind the request's JSON object")
	}
	if req.Model != s.o.Model {
		return nil, http.StatusNotFound, "model_not_found", fmt.Sprintf("there is no model %q", req.Model)
	}
	if len(req.Messages) < 2 || req.Messages[0].Role != "system" {
		return bad("a system message and then a user message are needed")
	}
	for i, m := range req.Messages[1:] {
		if want := []string{"user", "assistant"}[i%2]; m.Role != want {
			return bad("message %d is of %q, not of %q: user and assistant take turns", i+1, m.Role, want)
		}
	}
	if last := req.Messages[len(req.Messages)-1]; last.Role != "user" {
		return bad("the last message is of %q", last.Role)
	}
	for i, m := range req.Messages {
		if strings.TrimSpace(m.Content) == "" {
			return bad("message %d is empty", i)
		}
	}
	most := req.MaxTokens
	if most == nil {
		most = req.MaxCompletion
	}
	switch {
	case req.MaxTokens != nil && req.MaxCompletion != nil:
		return bad("max_tokens and max_completion_tokens exclude each other")
	case most == nil && !(s.refuses("max_tokens") && s.refuses("max_completion_tokens")) && !s.o.Unbounded,
		most != nil && *most < 1:
		return bad("max_tokens must be at least 1: an answer needs a bound")
	case req.Temperature == nil && !s.refuses("temperature") || req.Temperature != nil && *req.Temperature != 0:
		return bad("temperature must be 0: the same question should have the same answer")
	case req.Stream != nil && *req.Stream:
		return bad("stream is not supported")
	}
	forms := 0
	for _, set := range []bool{req.ResponseFormat != nil, req.StructuredOutputs != nil, req.GuidedChoice != nil} {
		if set {
			forms++
		}
	}
	if forms > 1 {
		return bad("response_format, structured_outputs and guided_choice exclude each other")
	}
	if f := req.ResponseFormat; f != nil {
		switch f.Type {
		case "json_schema":
			if f.JSONSchema == nil || f.JSONSchema.Name == "" || !f.JSONSchema.Strict || f.Schema != nil {
				return bad("response_format json_schema needs json_schema with name, strict and schema, and nothing " +
					"else")
			}
			if err := checkSchema(f.JSONSchema.Schema); err != nil {
				return bad("response_format: %v", err)
			}
		case "json_object":
			if f.JSONSchema != nil {
				return bad("response_format json_object takes no json_schema")
			}
			if f.Schema != nil {
				if err := checkSchema(f.Schema); err != nil {
					return bad("response_format: %v", err)
				}
			}
		default:
			return bad("response_format: unknown type %q", f.Type)
		}
	}
	if o := req.StructuredOutputs; o != nil && len(o.Choice) == 0 || req.GuidedChoice != nil &&
		len(req.GuidedChoice) == 0 {
		return bad("there is no choice to choose from")
	}
	return req, 0, "", ""
}

// checkSchema holds a schema to what strict modes demand: a closed object, all of whose properties are required and of
// a known type.
func checkSchema(raw json.RawMessage) error {
	var schema struct {
		Type       string                     `json:"type"`
		Properties map[string]json.RawMessage `json:"properties"`
		Required   []string                   `json:"required"`
		Additional *bool                      `json:"additionalProperties"`
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	if err := d.Decode(&schema); err != nil {
		return fmt.Errorf("the schema is not one of a plain object: %w", err)
	}
	if schema.Type != "object" || schema.Additional == nil || *schema.Additional || len(schema.Properties) == 0 {
		return fmt.Errorf("the schema must be of a closed object (additionalProperties: false) with properties")
	}
	required := map[string]bool{}
	for _, name := range schema.Required {
		required[name] = true
	}
	for name, raw := range schema.Properties {
		var p struct {
			Type string `json:"type"`
		}
		if err := json.Unmarshal(raw, &p); err != nil || (p.Type != "string" && p.Type != "number") {
			return fmt.Errorf("property %q must be a string or a number", name)
		}
		if !required[name] {
			return fmt.Errorf("property %q is not required", name)
		}
		delete(required, name)
	}
	for name := range required {
		return fmt.Errorf("%q is required but not a property", name)
	}
	return nil
}

// Text is the text that a user message asks about: the longest JSON string that is a line of it; the whole message if
// none is.
func Text(user string) string {
	text, found := "", false
	for line := range strings.SplitSeq(user, "\n") {
		line = strings.TrimSpace(line)
		var s string
		if strings.HasPrefix(line, `"`) && json.Unmarshal([]byte(line), &s) == nil && (!found || len(s) > len(text)) {
			text, found = s, true
		}
	}
	if !found {
		return user
	}
	return text
}
