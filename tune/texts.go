// Package tune chooses the thresholds of a cascade from labelled texts: from which score on a student's verdict is final,
// and below which score a verdict is asked of an LLM endpoint. It is pure: whoever calls it has run the models.
package tune

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
)

// This file owns the labelled texts: how they are read and how they are parted.

// Text is one line of a labelled file.
type Text struct {
	Line     int // of the file, from 1
	Text     string
	Label    string
	LLM      string // what the endpoint answered for it
	Answered bool   // there is an LLM; it may be an answer of no use
}

const (
	longestLine  = 16 << 20 // bytes
	mostProblems = 10       // that one error names
)

// ReadTexts reads JSON lines {"text": …, "label": …, "llm": …}; "llm" may be missing or null, other members are ignored,
// and so are empty lines. The error joins the first mistakes, each with its line and what to do.
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
	if _, ok := members["entities"]; ok && members["label"] == nil {
		return t, errors.New(`has "entities" in place of a "label"; thresholds are tuned for text-classification only, entities are not compared in this version`)
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
	if err = errors.Join(member("text", &t.Text), member("label", &t.Label)); err != nil {
		return t, err
	}
	if strings.TrimSpace(t.Text) == "" {
		return t, errors.New(`"text" is empty; remove the line: a worker asks no model about such a record`)
	}
	if raw, ok := members["llm"]; ok && !bytes.Equal(raw, []byte("null")) {
		if err := member("llm", &t.LLM); err != nil {
			return t, err
		}
		t.Answered = true
	}
	return t, nil
}

// CheckLabels says which labels are none of the model's.
func CheckLabels(texts []Text, known []string) error {
	var errs []error
	for _, t := range texts {
		if !slices.Contains(known, t.Label) {
			if errs = append(errs, fmt.Errorf("line %d: the label %q is none of the model's (%s); correct it, or name another model", t.Line, t.Label, strings.Join(known, ", "))); len(errs) == mostProblems {
				break
			}
		}
	}
	return errors.Join(errs...)
}

// Split parts n samples in two at random, each label in the same proportions. share, between 0 and 1, is that of the second
// part, which is held out. The same labels and seed give the same parts. Both are in ascending order.
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
