package calibrate

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"sluice/model"
	"sluice/model/judging"
	"sluice/model/labelled"
	"sluice/tokenize"
)

// This file owns what becomes of labelled texts: rows of logits with what is right, and how sure a model is of a whole
// text.

// Subject is the model that is to be calibrated.
type Subject struct {
	Model       *model.Model
	Tokenizer   tokenize.Tokenizer // of Model
	Aggregation model.Aggregation  // of token-classification
}

// judge is the subject's with another calibration; nil: none.
func (s *Subject) judge(c *model.Calibration) (*model.Judge, error) {
	described := *s.Model
	described.Manifest = &model.Manifest{Calibration: c}
	return model.NewJudge(&described, s.Tokenizer, model.JudgeOptions{Aggregation: s.Aggregation})
}

// independent says that a classification's labels each have a probability of their own.
func independent(m *model.Model) bool {
	return m.Task == model.TextClassification && model.NewScorer(m.Config.ProblemType, len(m.Labels), nil).Independent()
}

// File is a file of labelled texts, and after Judge what a model makes of them.
type File struct {
	Name   string
	SHA256 string
	Texts  []labelled.Text

	judged    []judging.Judged
	truncated int // texts that are longer than the model
}

// Open reads and checks a file of labelled texts for a model, which need not be loaded for it. The error joins the
// first mistakes, each with its line and what to do.
func Open(name string, m *model.Model, suggest labelled.Suggest) (*File, error) {
	raw, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	want := labelled.Wanted{Form: labelled.OneLabel, Name: name, Known: m.Labels, Suggest: suggest}
	switch {
	case m.Task == model.TokenClassification:
		want.Form, want.Known = labelled.Entities, m.Groups()
	case independent(m):
		want.Form = labelled.IndependentLabels
	}
	texts, err := labelled.Read(bytes.NewReader(raw), want)
	if err != nil {
		return nil, err
	}
	if err := apart(texts); err != nil {
		return nil, err
	}
	sum := sha256.Sum256(raw)
	return &File{Name: name, SHA256: hex.EncodeToString(sum[:]), Texts: texts}, nil
}

// apart sorts the entities of texts by where they begin. The error names those that overlap.
func apart(texts []labelled.Text) error {
	var errs []error
	for i := range texts {
		entities := texts[i].Entities
		slices.SortStableFunc(entities, func(a, b labelled.Entity) int { return cmp.Compare(a.Start, b.Start) })
		behind := 0
		for _, e := range entities {
			if e.Start < behind {
				errs = append(errs, fmt.Errorf("line %d: the entity %s at %d overlaps the one before it; a token has "+
					"one label", texts[i].Line, e.Group, e.Start))
				break
			}
			behind = e.End
		}
		if len(errs) == mostProblems {
			break
		}
	}
	return errors.Join(errs...)
}

// mostProblems bounds how many lines one error names.
const mostProblems = 10

// Judge has the model judge every text. An error names the lines that it cannot judge, or is the cause of ctx's end.
func (f *File) Judge(ctx context.Context, m judging.Model) error {
	judged, err := judging.Labelled(ctx, m, f.Texts, 0)
	if err != nil {
		return err
	}
	f.judged, f.truncated = judged, 0
	for i := range judged {
		if judged[i].Encoded.Truncated {
			f.truncated++
		}
	}
	return nil
}

// Rows are the raw logits of a judged file with what is right: a row a text, or a word for token-classification. An
// error names the line.
func (f *File) Rows(s *Subject) (*Rows, error) {
	r := &Rows{Independent: independent(s.Model)}
	judge, err := s.judge(nil)
	if err != nil {
		return nil, err
	}
	for i := range f.judged {
		r.Next()
		if s.Model.Task == model.TextClassification {
			r.Add(f.judged[i].Logits[0], truth(s.Model.Labels, &f.Texts[i]))
			continue
		}
		if err := r.addWords(s.Model, judge, &f.judged[i], f.Texts[i].Entities); err != nil {
			return nil, fmt.Errorf("line %d: %w", f.Texts[i].Line, err)
		}
	}
	return r, nil
}

// truth says of each label whether it is right.
func truth(labels []string, t *labelled.Text) []bool {
	right := make([]bool, len(labels))
	for i, l := range labels {
		right[i] = l == t.Label && t.Labels == nil || slices.Contains(t.Labels, l)
	}
	return right
}

// addWords adds a row for every word of a text.
func (r *Rows) addWords(m *model.Model, judge *model.Judge, j *judging.Judged, entities []labelled.Entity) error {
	words, err := judge.WordStarts(j.Text, j.Encoded.Windows[0])
	if err != nil {
		return err
	}
	labels, err := wordLabels(m.Labels, words, entities)
	if err != nil {
		return err
	}
	n := len(m.Labels)
	for i, w := range words {
		right := make([]bool, n)
		right[labels[i]] = true
		r.Add(j.Logits[0][w.Index*n:(w.Index+1)*n], right)
	}
	return nil
}

// wordLabels are the labels that words should have, by index, one a word: the first that an entity touches begins it.
// Entities are in the order of the text. A scheme without B- or without prefixes is the model's own affair.
func wordLabels(labels []string, words []model.TokenSpan, entities []labelled.Entity) ([]int, error) {
	find := func(names ...string) int {
		for _, name := range names {
			if i := slices.Index(labels, name); i >= 0 {
				return i
			}
		}
		return -1
	}
	out := make([]int, len(words))
	begun, at := -1, 0
	for i, w := range words {
		for at < len(entities) && entities[at].End <= w.Start {
			at++
		}
		if at == len(entities) || entities[at].Start >= w.End {
			out[i] = find("O")
		} else if group := entities[at].Group; begun == at {
			out[i] = find("I-"+group, group)
		} else {
			out[i] = find("B-"+group, "I-"+group, group)
			begun = at
		}
		if out[i] < 0 {
			return nil, fmt.Errorf("the model has no label for a word at %d: its labels are %s", w.Start,
				strings.Join(labels, ", "))
		}
	}
	return out, nil
}

// confidences are how sure a model is of each text's entities, and whether they are just those that were labelled.
func (f *File) confidences(s *Subject, c *model.Calibration) (p []float64, right []bool, err error) {
	judge, err := s.judge(c)
	if err != nil {
		return nil, nil, err
	}
	for i := range f.judged {
		j := &f.judged[i]
		v, err := judge.Verdict(j.Text, j.Encoded, j.Logits)
		if err != nil {
			return nil, nil, fmt.Errorf("%s, line %d: %w", f.Name, f.Texts[i].Line, err)
		}
		p = append(p, v.Confidence)
		right = append(right, slices.EqualFunc(v.Entities, f.Texts[i].Entities, func(a model.Entity,
			b labelled.Entity) bool {
			return a.Group == b.Group && a.Start == b.Start && a.End == b.End
		}))
	}
	return p, right, nil
}
