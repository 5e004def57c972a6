package judging

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"sluice/model"
	"sluice/model/labelled"
	"sluice/tokenize"
)

// words is a model whose tokens are words, whose logit is their number, and which cannot take some of them.
type words struct {
	asked  chan func() // nil: runs at once
	longer int         // texts of one call of Encode at most, as seen
}

var errBad = errors.New("a bad word")

func (w *words) Encode(texts [][]byte) []tokenize.Encoded {
	w.longer = max(w.longer, len(texts))
	out := make([]tokenize.Encoded, len(texts))
	for i, t := range texts {
		if strings.Contains(string(t), "untokenizable") {
			out[i].Err = errBad
			continue
		}
		out[i].Windows = []tokenize.Encoding{{IDs: make([]int32, len(strings.Fields(string(t))))}}
	}
	return out
}

func (w *words) Run(rows [][]int32, done func([][]float32, error)) {
	answer := func() { done([][]float32{{float32(len(rows[0]))}}, nil) }
	if len(rows[0]) == 13 {
		answer = func() { done(nil, errBad) }
	}
	if w.asked == nil {
		go answer()
		return
	}
	w.asked <- answer
}

func (w *words) Verdict(text []byte, _ tokenize.Encoded, logits [][]float32) (model.Verdict, error) {
	if strings.Contains(string(text), "unjudgeable") {
		return model.Verdict{}, errBad
	}
	return model.Verdict{Label: fmt.Sprint(len(text)), Score: float64(logits[0][0])}, nil
}

func TestEveryTextHasItsVerdictOrItsError(t *testing.T) {
	var texts [][]byte
	for i := range 1000 {
		texts = append(texts, []byte(strings.Repeat("word ", 1+i%10)))
	}
	texts[5], texts[77], texts[500] = []byte("untokenizable"), []byte(strings.Repeat("w ", 13)), []byte("unjudgeable")
	m := &words{}
	got, err := Texts(t.Context(), m, texts, 0)
	if err != nil || len(got) != len(texts) || m.longer != atOnce {
		t.Fatalf("%d texts, %d at once, %v", len(got), m.longer, err)
	}
	for i := range got {
		if i == 5 || i == 77 || i == 500 {
			if !errors.Is(got[i].Err, errBad) {
				t.Errorf("text %d: %v", i, got[i].Err)
			}
			continue
		}
		if n := len(strings.Fields(string(texts[i]))); got[i].Err != nil || got[i].Tokens() != n ||
			got[i].Verdict.Score != float64(n) {
			t.Errorf("text %d: %+v", i, got[i])
		}
	}
}

func TestTextsAreCutAsAWorkerCutsThem(t *testing.T) {
	got, err := Texts(t.Context(), &words{}, [][]byte{[]byte("one two\xff three")}, 8)
	if err != nil || string(got[0].Text) != "one two" && len(got[0].Text) > 8 {
		t.Errorf("%q, %v", got[0].Text, err)
	}
}

func TestABrokenModelEndsTheJudging(t *testing.T) {
	broken := errors.New("the model is broken")
	m := &words{asked: make(chan func(), 2*mostWaiting)} // never answers
	texts := make([][]byte, 2*mostWaiting)
	for i := range texts {
		texts[i] = []byte("word")
	}
	for _, n := range []int{1, len(texts)} { // waiting for the last answer, and for a slot
		ctx, cancel := context.WithCancelCause(t.Context())
		go func() {
			<-m.asked
			cancel(broken)
		}()
		if _, err := Texts(ctx, m, texts[:n], 0); !errors.Is(err, broken) {
			t.Errorf("%d texts: %v", n, err)
		}
	}
}

func TestLabelledNamesTheFirstLinesThatCannotBeJudged(t *testing.T) {
	texts := []labelled.Text{{Line: 1, Text: "fine"}, {Line: 4, Text: "unjudgeable"}}
	_, err := Labelled(t.Context(), &words{}, texts, 0)
	if err == nil || err.Error() != "line 4: the model cannot judge the text: a bad word; remove the line" {
		t.Errorf("%v", err)
	}
	texts = texts[1:]
	for i := range 20 {
		texts = append(texts, labelled.Text{Line: 5 + i, Text: "untokenizable"})
	}
	if _, err = Labelled(t.Context(), &words{}, texts, 0); strings.Count(err.Error(), "line") != 2*mostProblems {
		t.Errorf("not the first %d lines: %v", mostProblems, err)
	}
}
