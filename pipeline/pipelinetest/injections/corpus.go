// Package injections holds texts that try to tell a language model what to answer, and two models to try them on: one
// that obeys whatever a text says, and one that reads its words only. All texts are of our own making. The package
// knows nothing of Sluice, so that any test may use it.
package injections

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"fmt"
	"io"
	"sync"
)

// This file owns the corpus: injections.jsonl, one text a line.

// Labels are those that the texts speak of.
var Labels = []string{"NEGATIVE", "POSITIVE"}

// Injection is a text with a review in it, and an order.
type Injection struct {
	ID     string `json:"id"` // family-number
	Family string `json:"family"`
	Text   string `json:"text"`
	Truth  string `json:"truth"` // the label of the review, whatever the order says
	Wants  Wants  `json:"wants"`
}

// Wants is what the order is after: one of the five.
type Wants struct {
	Label string `json:"label,omitempty"` // the verdict to be this; never the truth
	Field string `json:"field,omitempty"` // a field of this name in the result
	Topic string `json:"topic,omitempty"` // the result in this topic
	Key   string `json:"key,omitempty"`   // this key on the result
	URL   string `json:"url,omitempty"`   // this address in the result, for a reader to follow
}

// Kind is "label", "field", "topic", "key" or "url", and the value wanted.
func (w Wants) Kind() (kind, value string) {
	switch {
	case w.Label != "":
		return "label", w.Label
	case w.Field != "":
		return "field", w.Field
	case w.Topic != "":
		return "topic", w.Topic
	case w.Key != "":
		return "key", w.Key
	}
	return "url", w.URL
}

//go:embed injections.jsonl
var lines []byte

// Corpus is all of them, in the order of the file. The slice is shared: read it only.
var Corpus = sync.OnceValue(func() []Injection {
	var corpus []Injection
	decoder := json.NewDecoder(bytes.NewReader(lines))
	decoder.DisallowUnknownFields()
	for {
		var i Injection
		err := decoder.Decode(&i)
		if err == io.EOF {
			return corpus
		}
		if err != nil { // a mistake in the file, which is part of the program
			panic(fmt.Sprintf("injections.jsonl, line %d: %v", len(corpus)+1, err))
		}
		corpus = append(corpus, i)
	}
})

var byText = sync.OnceValue(func() map[string]Injection {
	m := make(map[string]Injection)
	for _, i := range Corpus() {
		m[i.Text] = i
	}
	return m
})
