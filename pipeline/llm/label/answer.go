package label

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"unicode/utf8"

	"sluice/pipeline/llm/quote"
)

// This file owns the reading of answers. What an endpoint says is data from a stranger: a label of the closed set, a
// number and a bounded sentence come out of it, or an error, and nothing else of it goes any further.

// Answer is what was taken from an endpoint's reply.
type Answer struct {
	Label  string  // one of the task's labels, as its Options spell it
	Score  float64 // 0..1, what the endpoint says its confidence is: not calibrated
	Scored bool    // there is a Score; a bare label has none
	// at most 300 characters of one line, without links, markup and invisible characters; may be empty
	Explanation string
}

// Reasons why an answer cannot be used: a closed list, fit for the label of a metric.
const (
	AnswerTooLong        = "too-long"        // more bytes than an answer can need
	AnswerNotUTF8        = "not-utf8"        // bytes that are no text
	AnswerEmpty          = "empty"           // nothing, or nothing but reasoning
	AnswerReasoning      = "reasoning"       // a reasoning block that does not end
	AnswerFence          = "fence"           // a code fence that does not end
	AnswerProse          = "prose"           // neither a JSON object nor a label
	AnswerInvalidJSON    = "invalid-json"    // begins as an object but is none
	AnswerTrailing       = "trailing"        // something behind the object
	AnswerUnknownField   = "unknown-field"   // a field that was not asked for
	AnswerDuplicateField = "duplicate-field" // a field twice
	AnswerMissingField   = "missing-field"   // no label or no confidence
	AnswerWrongType      = "wrong-type"      // a field of another type
	AnswerUnknownLabel   = "unknown-label"   // a label outside the set
	AnswerOutOfRange     = "out-of-range"    // a confidence that is not in 0..1
)

// AnswerReasons are all of them.
var AnswerReasons = []string{AnswerTooLong, AnswerNotUTF8, AnswerEmpty, AnswerReasoning, AnswerFence, AnswerProse,
	AnswerInvalidJSON, AnswerTrailing, AnswerUnknownField, AnswerDuplicateField, AnswerMissingField, AnswerWrongType,
	AnswerUnknownLabel, AnswerOutOfRange}

// complaints tell a model what was wrong with its answer, in words that hold nothing of it.
var complaints = map[string]string{
	AnswerTooLong:        "it is far too long",
	AnswerNotUTF8:        "it is not valid UTF-8",
	AnswerEmpty:          "it is empty",
	AnswerReasoning:      "its reasoning does not end",
	AnswerFence:          "its code fence does not end",
	AnswerProse:          "it is not a JSON object",
	AnswerInvalidJSON:    "it is not valid JSON",
	AnswerTrailing:       "something stands behind the JSON object",
	AnswerUnknownField:   "it has a field that was not asked for",
	AnswerDuplicateField: "it has the same field twice",
	AnswerMissingField:   "the label or the confidence is missing",
	AnswerWrongType:      "a field is of the wrong type",
	AnswerUnknownLabel:   "its label is not one of the labels",
	AnswerOutOfRange:     "its confidence is not a number from 0 to 1",
}

// AnswerError says why an answer cannot be used. It never quotes the answer, which may repeat the text (P9).
type AnswerError struct {
	Reason string // of AnswerReasons
	Err    error  // more about it; may be nil
}

// Error implements error.
func (e *AnswerError) Error() string {
	s := "label: the endpoint's answer cannot be used: " + complaints[e.Reason]
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

// Unwrap is Err.
func (e *AnswerError) Unwrap() error { return e.Err }

const (
	maxAnswer      = 256 << 10 // bytes, reasoning included
	maxExplanation = 300       // characters
	fence          = "```"
	thinkStart     = "<think>"
	thinkEnd       = "</think>"
)

// Parse reads an answer strictly: one JSON object with "label" and "confidence", and "explanation" where the
// task asks for it, or a bare label. Tolerated are white space around it, one code fence around it and one <think>
// block before it. The label may be an alias and in any case. Everything else is an *AnswerError.
func (t *Task) Parse(content string) (Answer, error) {
	body, reason := unwrap(content)
	if reason != "" {
		return Answer{}, &AnswerError{Reason: reason}
	}
	if !strings.HasPrefix(body, "{") {
		label, ok := t.label(body)
		if !ok {
			return Answer{}, &AnswerError{Reason: AnswerProse}
		}
		return Answer{Label: label}, nil
	}
	return t.object(body)
}

// unwrap takes away what may stand around an answer. reason is "" or why nothing is left.
func unwrap(content string) (body, reason string) {
	switch {
	case len(content) > maxAnswer:
		return "", AnswerTooLong
	case !utf8.ValidString(content):
		return "", AnswerNotUTF8
	}
	body = strings.TrimSpace(content)
	if after, ok := strings.CutPrefix(body, thinkStart); ok {
		if _, body, ok = strings.Cut(after, thinkEnd); !ok {
			return "", AnswerReasoning
		}
		body = strings.TrimSpace(body)
	}
	if after, ok := strings.CutPrefix(body, fence); ok {
		if body, ok = strings.CutSuffix(after, fence); !ok {
			return "", AnswerFence
		}
		if language, code, ok := strings.Cut(body, "\n"); ok && isWord(strings.TrimSpace(language)) {
			body = code
		}
		body = strings.TrimSpace(body)
	}
	if body == "" {
		return "", AnswerEmpty
	}
	return body, ""
}

// isWord says whether s is empty or ASCII letters, as the language of a code fence is.
func isWord(s string) bool {
	return strings.Trim(strings.ToLower(s), "abcdefghijklmnopqrstuvwxyz") == ""
}

func (t *Task) label(name string) (string, bool) {
	if len(name) > 8*maxLabel {
		return "", false
	}
	label, ok := t.byName[fold(name)]
	return label, ok
}

// object reads the object token by token, so that nothing nested and nothing repeated is ever taken.
func (t *Task) object(body string) (Answer, error) {
	decoder := json.NewDecoder(strings.NewReader(body))
	decoder.UseNumber()
	invalid := func(err error) (Answer, error) {
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			err = errors.New("it ends too early")
		} else {
			err = fmt.Errorf("at byte %d", decoder.InputOffset())
		}
		return Answer{}, &AnswerError{AnswerInvalidJSON, err}
	}
	if _, err := decoder.Token(); err != nil { // the brace
		return invalid(err)
	}
	var a Answer
	seen := make(map[string]bool, 3)
	for decoder.More() {
		key, err := decoder.Token()
		if err != nil {
			return invalid(err)
		}
		name := key.(string) // the decoder takes no other keys
		switch {
		case name != "label" && name != "confidence" && !(name == "explanation" && t.explain):
			return Answer{}, &AnswerError{Reason: AnswerUnknownField}
		case seen[name]:
			return Answer{}, &AnswerError{AnswerDuplicateField, errors.New(name)}
		}
		seen[name] = true
		value, err := decoder.Token()
		if err != nil {
			return invalid(err)
		}
		if reason := t.take(&a, name, value); reason != "" {
			return Answer{}, &AnswerError{reason, errors.New(name)}
		}
	}
	if _, err := decoder.Token(); err != nil { // the closing brace
		return invalid(err)
	}
	switch {
	case strings.TrimSpace(body[decoder.InputOffset():]) != "":
		return Answer{}, &AnswerError{Reason: AnswerTrailing}
	case !seen["label"]:
		return Answer{}, &AnswerError{AnswerMissingField, errors.New("label")}
	case !seen["confidence"]:
		return Answer{}, &AnswerError{AnswerMissingField, errors.New("confidence")}
	}
	return a, nil
}

// take sets one field of the answer. It returns "" or why it cannot.
func (t *Task) take(a *Answer, name string, value json.Token) (reason string) {
	if name == "confidence" {
		number, ok := value.(json.Number)
		if !ok {
			return AnswerWrongType
		}
		score, err := strconv.ParseFloat(string(number), 64)
		if err != nil || math.IsNaN(score) || score < 0 || score > 1 {
			return AnswerOutOfRange
		}
		a.Score, a.Scored = math.Abs(score), true // -0 is 0
		return ""
	}
	s, ok := value.(string)
	if !ok {
		return AnswerWrongType
	}
	if name == "explanation" {
		a.Explanation = quote.Plain(s, maxExplanation)
		return ""
	}
	if a.Label, ok = t.label(s); !ok {
		return AnswerUnknownLabel
	}
	return ""
}
