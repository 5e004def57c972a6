// Package tune chooses the thresholds of a cascade from labelled texts: from which score on a student's verdict is
// final, and below which score a verdict is asked of an LLM endpoint. It is pure: whoever calls it has run the models.
package tune

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"unicode/utf8"
)

// This file owns the labelled texts: how they are read and how they are parted.

// Text is one line of a labelled file.
type Text struct {
	Line     int // of the file, from 1
	Text     string
	Label    string // for entities: Canonical of them
	Entities []Entity
	LLM      string // what the endpoint answered for it
	Answered bool   // there is an LLM; it may be an answer of no use
}

// Entity is a span of a text with its group, as token-classification finds it.
type Entity struct {
	Group string `json:"entity_group"`
	Start int    `json:"start"` // characters of the text, half-open
	End   int    `json:"end"`
}

// Canonical is entities as one label: two verdicts are the same where it is, whatever their order.
func Canonical(entities []Entity) string {
	words := make([]string, len(entities))
	for i, e := range slices.SortedFunc(slices.Values(entities), compareEntities) {
		words[i] = fmt.Sprintf("%s %d-%d", e.Group, e.Start, e.End)
	}
	return strings.Join(words, ", ")
}

func compareEntities(a, b Entity) int {
	return cmp.Or(cmp.Compare(a.Start, b.Start), cmp.Compare(a.End, b.End), cmp.Compare(a.Group, b.Group))
}

const (
	longestLine  = 16 << 20 // bytes
	mostProblems = 10       // that one error names
)

// ReadTexts reads JSON lines {"text": …, "label": …, "llm": …}; "llm" may be missing or null. For a model of entities
// it is {"text": …, "entities": [{"entity_group": …, "start": …, "end": …}]} in every line, with characters of the
// text. Other members are ignored, and so are empty lines. The error joins the first mistakes, each with its line and
// what to do.
func ReadTexts(r io.Reader) ([]Text, error) {
	var texts []Text
	var errs []error
	lines := bufio.NewScanner(r)
	lines.Buffer(make([]byte, 0, 1<<16), longestLine)
	n := 0
	for lines.Scan() && len(errs) < mostProblems {
		n++
		if len(bytes.TrimSpace(lines.Bytes())) == 0 {
			continue
		}
		t, err := parseText(lines.Bytes())
		if err != nil {
			errs = append(errs, fmt.Errorf("line %d: %w", n, err))
			continue
		}
		t.Line = n
		if len(texts) > 0 && (t.Entities == nil) != (texts[0].Entities == nil) {
			errs = append(errs,
				fmt.Errorf(
					`line %d: line %d has "label" where this has "entities", or the other way round; a file is for one model`, n, texts[0].Line))
			continue
		}
		texts = append(texts, t)
	}
	switch err := lines.Err(); {
	case errors.Is(err, bufio.ErrTooLong):
		errs = append(errs, fmt.Errorf("line %d: is longer than %d MiB; one text a line", n+1, longestLine>>20))
	case err != nil:
		errs = append(errs, fmt.Errorf("line %d: %w", n+1, err))
	case len(errs) == 0 && len(texts) == 0:
		errs = append(errs, errors.New(`there is no text in it; write lines like {"text": "…", "label": "…"}`))
	}
	return texts, errors.Join(errs...)
}

func parseText(line []byte) (t Text, err error) {
	var members map[string]json.RawMessage
	if err := json.Unmarshal(line, &members); err != nil || members == nil {
		return t, errors.New(`is not a JSON object; write {"text": "…", "label": "…"}`)
	}
	member := func(name string, into *string) error {
		raw, ok := members[name]
		if !ok {
			return fmt.Errorf("has no %q; add it as a string", name)
		}
		if err := json.Unmarshal(raw, into); err != nil || bytes.Equal(raw, []byte("null")) {
			return fmt.Errorf("%q is %.40s, not a string; write it in quotes", name, raw)
		}
		return nil
	}
	if err = member("text", &t.Text); err != nil {
		return t, err
	}
	if strings.TrimSpace(t.Text) == "" {
		return t, errors.New(`"text" is empty; remove the line: a worker asks no model about such a record`)
	}
	if raw, ok := members["entities"]; ok && members["label"] == nil {
		if t.Entities, err = parseEntities(raw, utf8.RuneCountInString(t.Text)); err != nil {
			return t, err
		}
		t.Label = Canonical(t.Entities)
		return t, nil
	}
	if err = member("label", &t.Label); err != nil {
		return t, err
	}
	if raw, ok := members["llm"]; ok && !bytes.Equal(raw, []byte("null")) {
		if err := member("llm", &t.LLM); err != nil {
			return t, err
		}
		t.Answered = true
	}
	return t, nil
}

// parseEntities reads the entities of a text of so many characters. The result is not nil.
func parseEntities(raw json.RawMessage, characters int) ([]Entity, error) {
	entities := []Entity{}
	if err := json.Unmarshal(raw, &entities); err != nil || entities == nil {
		return nil,
			fmt.Errorf(
				`"entities" is %.40s; write [{"entity_group": "PER", "start": 0, "end": 3}], or [] where there are none`,
				raw)
	}
	for i, e := range entities {
		if e.Group == "" {
			return nil, fmt.Errorf(`entities[%d] has no "entity_group"; write for example "PER"`, i)
		}
		if e.Start < 0 || e.End <= e.Start || e.End > characters {
			return nil, fmt.Errorf("entities[%d] is from %d to %d of a text of %d characters; count characters from "+
				"0, the end being the first one behind", i, e.Start, e.End, characters)
		}
	}
	return entities, nil
}

// CheckLabels says which labels, or groups of entities, are none of the model's.
func CheckLabels(texts []Text, known []string) error {
	var errs []error
	for _, t := range texts {
		labels := []string{t.Label}
		if t.Entities != nil {
			labels = nil
			for _, e := range t.Entities {
				labels = append(labels, e.Group)
			}
		}
		for _, label := range labels {
			if !slices.Contains(known, label) && len(errs) < mostProblems {
				errs = append(errs, fmt.Errorf("line %d: %q is none of the model's labels (%s); correct it, or name "+
					"another model", t.Line, label, strings.Join(known, ", ")))
			}
		}
	}
	return errors.Join(errs...)
}

// strata are what a split keeps the proportions of: labels, and of entities whether there are any.
func strata(samples []Sample) []string {
	labels := make([]string, len(samples))
	for i := range samples {
		switch t := &samples[i].Text; {
		case t.Entities == nil:
			labels[i] = t.Label
		case len(t.Entities) > 0:
			labels[i] = "entities"
		}
	}
	return labels
}

// Split parts n samples in two at random, each label in the same proportions. share, between 0 and 1, is that of the
// second part, which is held out. The same labels and seed give the same parts. Both are in ascending order.
func Split(labels []string, share float64, seed uint64) (choose, held []int) {
	byLabel := map[string][]int{}
	for i, l := range labels {
		byLabel[l] = append(byLabel[l], i)
	}
	names := make([]string, 0, len(byLabel))
	for l := range byLabel {
		names = append(names, l)
	}
	slices.Sort(names)
	random := rand.New(rand.NewPCG(seed, 0))
	for _, l := range names {
		of := byLabel[l]
		random.Shuffle(len(of), func(i, j int) { of[i], of[j] = of[j], of[i] })
		n := int(math.Round(share * float64(len(of))))
		held, choose = append(held, of[:n]...), append(choose, of[n:]...)
	}
	slices.Sort(held)
	slices.Sort(choose)
	return choose, held
}
