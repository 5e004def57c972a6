package llm

import "encoding/json"

// This file owns what a question is made of, whatever is asked and wherever.

// Task is what is asked about a text, and how its answer is read. V is what an answer is read as: label.Answer for the
// choice of a label, a string for a translation or a summary. A Task never changes and may be used concurrently.
//
// Question and answer are both a stranger's: Messages quotes the text (package quote), and Parse takes nothing of an
// answer that was not asked for.
type Task[V any] interface {
	// Version names everything that shapes the question and the reading of its answer. Answers to questions of
	// different versions are never taken for each other.
	Version() string

	// Messages is the question about a text. What stands before the text should be the same for all texts, for the
	// sake of an endpoint's prefix cache.
	Messages(text string) []Message

	// Schema is the JSON schema of an answer; nil: an answer is free text.
	Schema() json.RawMessage

	// Choices are the only possible answers, for endpoints that can choose but take no schema; nil: there are others.
	Choices() []string

	// Parse reads an answer. The error says why it cannot be used, and quotes nothing of it.
	Parse(content string) (V, error)

	// Repair is the one follow-up to an answer that Parse refused: the question, the answer, and what was wrong with
	// it. cause is what Parse returned. nil: this task has no follow-up.
	Repair(question []Message, content string, cause error) []Message
}

// Message is one message of a chat.
type Message struct {
	Role    string `json:"role"` // system, user or assistant
	Content string `json:"content"`
}
