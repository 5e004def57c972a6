package openai

import (
	"bytes"
	"encoding/json"
	"net/http"
	"regexp"
	"slices"
	"strings"

	"sluice/pipeline/llm"
)

// This file owns how servers say what they refuse: where in a body the sentence stands, and by which words it is told
// what it is about. The words are those of OpenAI, Azure, vLLM, llama.cpp's server, llama-cpp-python, Ollama, TGI,
// Mistral, Groq, Gemini, GigaChat, DashScope, DeepSeek and OpenRouter, and of LiteLLM in front of any of them.

// Refusal implements llm.Protocol.
func (Protocol) Refusal(status int, body []byte, sent []string) llm.Refusal {
	said := readRefusal(body)
	if status == http.StatusOK && !said.wrong {
		return llm.Refusal{}
	}
	r := llm.Refusal{Status: said.status, Sentence: strings.Join(said.sentences, " ")}
	if r.Status == status {
		r.Status = 0
	}
	said.words = strings.ToLower(strings.Join(slices.Concat(said.sentences, said.codes), "\n"))
	switch {
	case status != http.StatusNotImplemented && said.about(lengthWords):
		r.About = llm.ComplaintLength
	case said.about(filterWords):
		r.About = llm.ComplaintFilter
	case said.about(quotaWords):
		r.About = llm.ComplaintQuota
	case said.about(modelWords) || noModel.MatchString(said.words):
		r.About = llm.ComplaintModel
	default:
		if r.Parameter, r.Instead = said.parameter(status, sent); r.Parameter != "" {
			r.About, r.Apart = llm.ComplaintParameter, slices.Contains(said.fields, r.Parameter)
		} else if said.form() {
			r.About = llm.ComplaintForm
		}
	}
	return r
}

var (
	lengthWords = []string{"context length", "context_length", "context window", "context size", "context_size",
		"contextwindow", "maximum context", "too long", "too many tokens", "n_ctx", "max_model_len", "input length",
		"input token count", "inputs` tokens", "maximum prompt length"}
	filterWords = []string{"content_filter", "responsibleaipolicy", "content management policy", "content_policy",
		"contentpolicy", "content policy", "data_inspection_failed", "inappropriate content", "prohibited_content",
		"safety system", "input was flagged", "prompt was flagged", "request was flagged", "usage policies"}
	quotaWords = []string{"insufficient_quota", "billing_hard_limit", "billing_not_active", "insufficient balance",
		"insufficient_balance", "insufficient credit", "insufficient_credit", "credit balance is too low",
		"out of credit", "monthly included credits", "requires more credits"}
	modelWords = []string{"model_not_found", "model_not_exist", "deploymentnotfound", "unknown_model", "invalid model:",
		"is not a valid model", "model not exist"}
	noModel = regexp.MustCompile(`model[^\n]{0,120}(?:does not exist|not found)`)

	// words that a server has for what it does not take at all, whatever its value
	unsupportedWords = []string{"unsupported", "not supported", "not support", "n't support", "not permitted",
		"extra_forbidden", "extra inputs", "extra fields", "unknown name", "unknown field", "unknown parameter",
		"unknown_parameter", "unsupported_", "unrecognized", "not recognized", "unexpected keyword", "not allowed",
		"deprecated"}
	// words that are about a value: another one would be taken
	valueWords = []string{"too large", "too small", "at most", "at least", "must be", "less than", "greater than",
		"out of range", "minimum", "maximum value", "integer_above", "integer_below"}
	formWords = []string{"response_format", "response format", "json_schema", "json schema", "json_object", "guided",
		"structured", "grammar"}
	// words for a member that is not known, which may be the one that asks for a form
	unknownWords = []string{"extra inputs", "extra_forbidden", "extra fields", "unknown field", "unrecognized",
		"unexpected keyword"}
)

// refusal is what a body says.
type refusal struct {
	sentences []string
	codes     []string // codes and types, in the server's own spelling
	fields    []string // members of the request that it names in a field of its own
	status    int      // 0: it names none
	wrong     bool     // the body says that there is an error
	words     string   // all of it, in lower case
}

func (r *refusal) about(words []string) bool { return containsAny(r.words, words) }

func containsAny(s string, words []string) bool {
	return slices.ContainsFunc(words, func(w string) bool { return strings.Contains(s, w) })
}

// parameter is the parameter that a refusal names, of those that were sent, and the name that it is to have instead.
func (r *refusal) parameter(status int, sent []string) (name, instead string) {
	at := len(r.words)
	for _, s := range sent {
		if slices.Contains(r.fields, s) {
			name = s
			break
		}
		if i := indexName(r.words, s); i >= 0 && i < at {
			name, at = s, i
		}
	}
	if name == "" || !slices.Contains(r.fields, name) && slices.ContainsFunc(r.fields, isForm) {
		return "", ""
	}
	for _, p := range (Protocol{}).Parameters() {
		if names := append([]string{p.Name}, p.Others...); slices.Contains(names, name) {
			for _, other := range names {
				if other != name && indexName(r.words, other) >= 0 {
					instead = other
				}
			}
		}
	}
	switch {
	case name == temperature && status < 500: // it is always 0: there is no other value to send
	case !r.about(unsupportedWords), r.about(valueWords) && instead == "": // its value is the configuration's to mend
		return "", ""
	}
	return name, instead
}

// indexName is where a name stands as a word of its own; -1: nowhere.
func indexName(s, name string) int {
	name = strings.ToLower(name)
	for from := 0; ; {
		i := strings.Index(s[from:], name)
		if i < 0 {
			return -1
		}
		i += from
		end := i + len(name)
		if (i == 0 || !inName(s[i-1])) && (end == len(s) || !inName(s[end])) {
			return i
		}
		from = end
	}
}

func inName(c byte) bool {
	return c == '_' || c >= 'a' && c <= 'z' || c >= '0' && c <= '9'
}

func isForm(field string) bool {
	return containsAny(strings.ToLower(field), formWords)
}

// form says that a refusal is about how the answer's form was asked for.
func (r *refusal) form() bool {
	return r.about(formWords) || slices.ContainsFunc(r.fields, isForm) || len(r.fields) == 0 && r.about(unknownWords)
}

// located is how Python prints where a validation has failed: servers put such lists into a string.
var located = regexp.MustCompile(`'loc': \('body', '([^']+)'`)

// readRefusal reads a body: JSON of any of the shapes that servers have, or plain text.
func readRefusal(body []byte) *refusal {
	r := &refusal{}
	text := strings.TrimSpace(string(bytes.ToValidUTF8(body, []byte("\uFFFD"))))
	r.text(text, 0)
	for _, s := range r.sentences {
		for _, m := range located.FindAllStringSubmatch(s, -1) {
			r.fields = append(r.fields, m[1])
		}
	}
	return r
}

const (
	deepest      = 8  // a body nests no deeper where it says anything
	mostSayings  = 20 // sentences, codes and fields that are kept of each
	longestWords = 8 << 10
)

// text takes a string: JSON within it, or a sentence.
func (r *refusal) text(s string, depth int) {
	if s = strings.TrimSpace(s); s == "" {
		return
	}
	if s[0] == '{' || s[0] == '[' {
		d := json.NewDecoder(strings.NewReader(s))
		d.UseNumber()
		var v any
		if d.Decode(&v) == nil {
			r.value(v, depth+1)
			return
		}
	}
	r.sentence(s)
}

func (r *refusal) sentence(s string) {
	if len(s) > longestWords {
		s = strings.ToValidUTF8(s[:longestWords], "")
	}
	if len(r.sentences) < mostSayings && !slices.Contains(r.sentences, s) {
		r.sentences = append(r.sentences, s)
	}
}

// The members that say something, the ones that say it best first.
var (
	sayings = []string{"message", "Message", "msg", "raw", "error_message", "error_msg", "errorMessage",
		"error_description", "description"}
	holders = []string{"error", "errors", "detail", "details", "innererror", "inner_error", "fieldViolations",
		"metadata"}
	codings = []string{"code", "type", "error_type", "status", "status_code", "@type"}
	namings = []string{"param", "field"}
)

// value takes what stands in a member that holds an error.
func (r *refusal) value(v any, depth int) {
	if depth > deepest {
		return
	}
	switch v := v.(type) {
	case string:
		r.text(v, depth)
	case []any:
		for _, item := range v[:min(len(v), mostSayings)] {
			r.value(item, depth+1)
		}
	case map[string]any:
		r.object(v, depth)
	}
}

func (r *refusal) object(o map[string]any, depth int) {
	if o["error"] != nil || o["errors"] != nil || o["object"] == "error" || o["detail"] != nil {
		r.wrong = true
	}
	where := r.location(o["loc"])
	for _, name := range codings {
		switch v := o[name].(type) {
		case string:
			if len(r.codes) < mostSayings {
				r.codes = append(r.codes, v)
			}
			r.number(json.Number(v))
		case json.Number:
			r.number(v)
		}
	}
	for _, name := range namings {
		if s, ok := o[name].(string); ok && s != "" && len(r.fields) < mostSayings {
			r.fields = append(r.fields, s)
		}
	}
	for _, name := range sayings {
		if s, ok := o[name].(string); ok && where != "" {
			r.sentence(where + ": " + s)
		} else {
			r.value(o[name], depth+1)
		}
	}
	for _, name := range holders {
		r.value(o[name], depth+1)
	}
}

// number takes a number that may be an HTTP status.
func (r *refusal) number(n json.Number) {
	if code, err := n.Int64(); err == nil && code >= 400 && code < 600 && r.status == 0 {
		r.status = int(code)
	}
}

// location is the member of the request that a validation has failed at (FastAPI: ["body", "max_tokens"]).
func (r *refusal) location(loc any) string {
	path, ok := loc.([]any)
	if !ok {
		return ""
	}
	for _, step := range path {
		if s, ok := step.(string); ok && s != "body" {
			if len(r.fields) < mostSayings {
				r.fields = append(r.fields, s)
			}
			return s
		}
	}
	return ""
}
