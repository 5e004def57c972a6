// Package judging has models judge texts outside a stream: texts in, verdicts out, with no Kafka between. It is what
// tuning and calibrating have in common. It knows a model only as what it asks of it, so it is pure.
package judging

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"sluice/model"
	"sluice/model/labelled"
	"sluice/tokenize"
)

// Model is a model that is ready to run. Texts calls Encode and Run on its own goroutine, Verdict on any, several at a
// time.
type Model interface {
	// Encode tokenizes texts, one result each, with all that Verdict needs.
	Encode(texts [][]byte) []tokenize.Encoded
	// Run runs the rows of one text. done is called once, on any goroutine and perhaps before Run returns, with the raw
	// logits of each row, which must not be written to, or with an error about this text. When the model is broken for
	// all texts done may never be called: whoever made the model then ends the context of Texts with the cause.
	Run(rows [][]int32, done func(logits [][]float32, err error))
	// Verdict judges a text by its logits.
	Verdict(text []byte, enc tokenize.Encoded, logits [][]float32) (model.Verdict, error)
}

// Judged is one text with what the model makes of it.
type Judged struct {
	Text    []byte // cleaned, as a worker cleans it; what Encoded and Verdict count is of this
	Encoded tokenize.Encoded
	Logits  [][]float32 // one slice a window of Encoded; raw: no calibration is in them
	Verdict model.Verdict
	Err     error // why the text has no verdict; then Logits and Verdict mean nothing
}

// Tokens is how many tokens went through the model for the text, special ones included.
func (j *Judged) Tokens() (n int) {
	for i := range j.Encoded.Windows {
		n += len(j.Encoded.Windows[i].IDs)
	}
	return n
}

const (
	atOnce      = 16  // texts of one call of the tokenizer
	mostWaiting = 256 // texts whose rows may wait for a runner
)

// Texts judges every text with one model. Texts longer than maxBytes are cut, as a worker cuts them; 0: there is no
// limit. A text that cannot be judged says so in its Err. The error is the cause of ctx's end, and nothing else; texts
// that were under way then still call Verdict until the model is closed.
func Texts(ctx context.Context, m Model, texts [][]byte, maxBytes int) ([]Judged, error) {
	all := make([]Judged, len(texts))
	slots := make(chan struct{}, mostWaiting)
	var under sync.WaitGroup
	at := 0
	for part := range slices.Chunk(texts, atOnce) {
		clean := make([][]byte, len(part))
		for i, text := range part {
			clean[i] = tokenize.Clean(text, maxBytes).Bytes
		}
		encoded := m.Encode(clean)
		for i := range part {
			j := &all[at+i]
			j.Text, j.Encoded, j.Err = clean[i], encoded[i], encoded[i].Err
			if j.Err != nil {
				continue
			}
			select {
			case slots <- struct{}{}:
			case <-ctx.Done():
				return nil, context.Cause(ctx)
			}
			under.Add(1)
			m.Run(j.rows(), func(logits [][]float32, err error) {
				if j.Logits, j.Err = logits, err; err == nil {
					j.Verdict, j.Err = m.Verdict(j.Text, j.Encoded, logits)
				}
				<-slots
				under.Done()
			})
		}
		at += len(part)
	}
	done := make(chan struct{})
	go func() { under.Wait(); close(done) }()
	select {
	case <-done:
		return all, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

func (j *Judged) rows() [][]int32 {
	rows := make([][]int32, len(j.Encoded.Windows))
	for i := range rows {
		rows[i] = j.Encoded.Windows[i].IDs
	}
	return rows
}

// mostProblems bounds how many lines one error names.
const mostProblems = 10

// Labelled judges labelled texts, as Texts does. Here every text must be judged: the error joins the first that cannot
// be, each with its line and what to do.
func Labelled(ctx context.Context, m Model, texts []labelled.Text, maxBytes int) ([]Judged, error) {
	raw := make([][]byte, len(texts))
	for i := range texts {
		raw[i] = []byte(texts[i].Text)
	}
	all, err := Texts(ctx, m, raw, maxBytes)
	if err != nil {
		return nil, err
	}
	var errs []error
	for i := range all {
		if all[i].Err != nil && len(errs) < mostProblems {
			errs = append(errs, fmt.Errorf("line %d: the model cannot judge the text: %w; remove the line",
				texts[i].Line, all[i].Err))
		}
	}
	return all, errors.Join(errs...)
}
