package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"sluice/cmd/sluice/config"
	"sluice/cmd/sluice/suggest"
	"sluice/model"
)

// This file reads the labelled texts of sluice calibrate.

// labelledText is one line of a labelled file: {"text", "label"}, {"text", "labels"} or {"text", "entities"}.
type labelledText struct {
	line     int
	text     string
	labels   []bool          // text-classification: by index of the model's labels
	entities []labelledGroup // token-classification
}

// labelledGroup is an entity, with characters of the text.
type labelledGroup struct {
	Group string `json:"entity_group"`
	Start *int   `json:"start"`
	End   *int   `json:"end"`
}

// mostMistakes bounds how many lines one error names.
const mostMistakes = 10

// readLabelled reads JSON lines for a model. The error joins the first mistakes, each with its line and what to do.
func readLabelled(r io.Reader, m *model.Model) ([]labelledText, error) {
	var texts []labelledText
	var errs []error
	lines := bufio.NewScanner(r)
	lines.Buffer(make([]byte, 0, 1<<16), longestLine)
	n := 0
	for lines.Scan() && len(errs) < mostMistakes {
		n++
		if len(bytes.TrimSpace(lines.Bytes())) == 0 {
			continue
		}
		t, err := parseLabelled(lines.Bytes(), m)
		if err != nil {
			errs = append(errs, fmt.Errorf("line %d: %w", n, err))
			continue
		}
		t.line = n
		texts = append(texts, t)
	}
	switch err := lines.Err(); {
	case errors.Is(err, bufio.ErrTooLong):
		errs = append(errs, fmt.Errorf("line %d: is longer than %s; write one text a line", n+1,
			config.Bytes(longestLine)))
	case err != nil:
		errs = append(errs, fmt.Errorf("line %d: %w", n+1, err))
	case len(errs) == 0 && len(texts) == 0:
		errs = append(errs, fmt.Errorf("holds no text; write lines like %s", labelledExample(m)))
	}
	return texts, errors.Join(errs...)
}

// labelledExample is a line as the model's task wants it.
func labelledExample(m *model.Model) string {
	switch {
	case m.Task == model.TokenClassification:
		return `{"text": "…", "entities": [{"entity_group": "PER", "start": 0, "end": 3}]}`
	case independent(m):
		return fmt.Sprintf(`{"text": "…", "labels": [%q]}`, m.Labels[0])
	default:
		return fmt.Sprintf(`{"text": "…", "label": %q}`, m.Labels[0])
	}
}

// independent says that a classification's labels each have a probability of their own.
func independent(m *model.Model) bool {
	return m.Task == model.TextClassification && model.NewScorer(m.Config.ProblemType, len(m.Labels), nil).Independent()
}

func parseLabelled(line []byte, m *model.Model) (labelledText, error) {
	var fields struct {
		Text     *string         `json:"text"`
		Label    *string         `json:"label"`
		Labels   []string        `json:"labels"`
		Entities json.RawMessage `json:"entities"`
	}
	t := labelledText{}
	if err := json.Unmarshal(line, &fields); err != nil {
		return t, fmt.Errorf("%w; write %s", err, labelledExample(m))
	}
	if fields.Text == nil || strings.TrimSpace(*fields.Text) == "" {
		return t, errors.New(`"text" is missing or empty; take the line out: no model is asked about such a record`)
	}
	t.text = *fields.Text
	if m.Task == model.TokenClassification {
		if fields.Entities == nil {
			return t, fmt.Errorf(`"entities" is missing; write %s, or [] where there are none`, labelledExample(m))
		}
		if err := json.Unmarshal(fields.Entities, &t.entities); err != nil {
			return t, fmt.Errorf(`"entities": %w; write %s`, err, labelledExample(m))
		}
		return t, checkEntities(t, m)
	}
	named := fields.Labels
	switch {
	case independent(m) && fields.Labels == nil:
		return t, fmt.Errorf(`"labels" is missing; write %s, or [] where there are none`, labelledExample(m))
	case !independent(m) && fields.Label == nil:
		return t, fmt.Errorf(`"label" is missing; write %s`, labelledExample(m))
	case !independent(m):
		named = []string{*fields.Label}
	}
	t.labels = make([]bool, len(m.Labels))
	for _, name := range named {
		at := slices.Index(m.Labels, name)
		if at < 0 {
			return t, fmt.Errorf("label %q is not one of the model's: %s%s", name, strings.Join(m.Labels, ", "),
				suggest.DidYouMean(name, m.Labels))
		}
		t.labels[at] = true
	}
	return t, nil
}

func checkEntities(t labelledText, m *model.Model) error {
	chars := len([]rune(t.text))
	groups := entityGroups(m)
	behind := 0
	slices.SortStableFunc(t.entities, func(a, b labelledGroup) int {
		if a.Start == nil || b.Start == nil {
			return 0
		}
		return *a.Start - *b.Start
	})
	for _, e := range t.entities {
		switch {
		case !slices.Contains(groups, e.Group):
			return fmt.Errorf("entity_group %q is not one of the model's: %s%s", e.Group, strings.Join(groups, ", "),
				suggest.DidYouMean(e.Group, groups))
		case e.Start == nil || e.End == nil || *e.Start < 0 || *e.End <= *e.Start || *e.End > chars:
			return fmt.Errorf("an entity %s has no start and end within the %d characters of the text; count "+
				"characters, not bytes, end exclusive", e.Group, chars)
		case *e.Start < behind:
			return fmt.Errorf("the entity %s at %d overlaps the one before it; a token has one label", e.Group,
				*e.Start)
		}
		behind = *e.End
	}
	return nil
}

// entityGroups are the groups of a model's labels, in their order, without the outside one.
func entityGroups(m *model.Model) []string {
	var groups []string
	for _, label := range m.Labels {
		if _, group := model.SplitLabel(label); label != "O" && !slices.Contains(groups, group) {
			groups = append(groups, group)
		}
	}
	return groups
}

// wordLabels are the labels that words should have, by index, one a word: the first that an entity touches begins it. A
// scheme without B- or without prefixes is the model's own affair.
func wordLabels(m *model.Model, words []model.TokenSpan, entities []labelledGroup) ([]int, error) {
	find := func(names ...string) int {
		for _, name := range names {
			if i := slices.Index(m.Labels, name); i >= 0 {
				return i
			}
		}
		return -1
	}
	out := make([]int, len(words))
	begun, at := -1, 0
	for i, w := range words {
		for at < len(entities) && *entities[at].End <= w.Start {
			at++
		}
		if at == len(entities) || *entities[at].Start >= w.End {
			out[i] = find("O")
		} else if group := entities[at].Group; begun == at {
			out[i] = find("I-"+group, group)
		} else {
			out[i] = find("B-"+group, "I-"+group, group)
			begun = at
		}
		if out[i] < 0 {
			return nil, fmt.Errorf("the model has no label for a word at %d: its labels are %s", w.Start,
				strings.Join(m.Labels, ", "))
		}
	}
	return out, nil
}
