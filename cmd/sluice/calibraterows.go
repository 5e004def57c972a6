package main

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"sluice/model"
	"sluice/model/calibrate"
	"sluice/pipeline/engine"
	"sluice/tokenize"
)

// This file turns labelled texts into rows of logits with what is right.

// judgedText is one text as the model saw it.
type judgedText struct {
	text    []byte // cleaned as a worker does
	encoded tokenize.Encoded
	logits  [][]float32 // one slice a window; raw
}

// mostWaiting bounds the texts whose rows wait for a runner.
const mostWaiting = 256

func (f *labelledFile) judge(ctx context.Context, m *loadedModel, failed <-chan error) error {
	options := m.tokenizeOptions()
	options.Offsets = m.judge.NeedsOffsets()
	f.judged = make([]judgedText, len(f.texts))
	var (
		mu    sync.Mutex
		first error
		slots = make(chan struct{}, mostWaiting)
		done  sync.WaitGroup
	)
	for i := range f.texts {
		t, line := &f.judged[i], f.texts[i].line
		t.text = tokenize.Clean([]byte(f.texts[i].text), 0).Bytes
		t.encoded = m.tokenizer.Encode([][]byte{t.text}, options)[0]
		if t.encoded.Err != nil {
			return fmt.Errorf("%s, line %d: %w", f.name, line, t.encoded.Err)
		}
		if t.encoded.Truncated {
			f.truncated++
		}
		select {
		case slots <- struct{}{}:
		case err := <-failed:
			return err
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		done.Add(1)
		m.handle.Submit(engine.Ask{Inputs: inputsOf(t.encoded.Windows), Done: func(a engine.Answer) {
			t.logits = a.Logits
			if a.Err != nil {
				mu.Lock()
				if first == nil {
					first = fmt.Errorf("%s, line %d: %w", f.name, line, a.Err)
				}
				mu.Unlock()
			}
			<-slots
			done.Done()
		}})
	}
	finished := make(chan struct{})
	go func() { done.Wait(); close(finished) }()
	select {
	case <-finished:
		return first
	case err := <-failed:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// rows of a judged file. An error names the line.
func (f *labelledFile) rows(m *loadedModel) (*calibrate.Rows, error) {
	r := &calibrate.Rows{Independent: independent(m.model)}
	n := len(m.model.Labels)
	for i := range f.judged {
		t := &f.judged[i]
		r.Next()
		if m.model.Task == model.TextClassification {
			r.Add(t.logits[0], f.texts[i].labels)
			continue
		}
		words, err := m.judge.WordStarts(t.text, t.encoded.Windows[0])
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", f.texts[i].line, err)
		}
		labels, err := wordLabels(m.model, words, f.texts[i].entities)
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", f.texts[i].line, err)
		}
		for k, w := range words {
			truth := make([]bool, n)
			truth[labels[k]] = true
			r.Add(t.logits[0][w.Index*n:(w.Index+1)*n], truth)
		}
	}
	return r, nil
}

// sentenceConfidence is how sure a model is of each text's entities, and whether they are just those that were
// labelled.
func (f *labelledFile) sentenceConfidence(m *loadedModel, c *model.Calibration) (p []float64, right []bool, err error) {
	described := *m.model
	described.Manifest = &model.Manifest{Calibration: c}
	judge, err := model.NewJudge(&described, m.tokenizer, model.JudgeOptions{Aggregation: model.Aggregation(
		m.settings.Aggregation)})
	if err != nil {
		return nil, nil, err
	}
	for i := range f.judged {
		t := &f.judged[i]
		v, err := judge.Verdict(t.text, t.encoded, t.logits)
		if err != nil {
			return nil, nil, fmt.Errorf("%s, line %d: %w", f.name, f.texts[i].line, err)
		}
		p = append(p, v.Confidence)
		right = append(right, slices.EqualFunc(v.Entities, f.texts[i].entities, func(a model.Entity,
			b labelledGroup) bool {
			return a.Group == b.Group && a.Start == *b.Start && a.End == *b.End
		}))
	}
	return p, right, nil
}
