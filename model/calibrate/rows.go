// Package calibrate fits a model's calibration to labelled texts, and measures what its scores are worth. It is pure: a
// judging.Model that is passed in runs the model, and model.Scorer applies what is fitted here.
//
//	texts.go     labelled files, and their texts as rows of raw logits with what is right
//	rows.go      rows, their folds and their outcomes
//	fit.go       the fit, and the choice among maps
//	measure.go   what scores are worth
//	report.go    all of it as a table; plot.go as a picture
package calibrate

import (
	"errors"
	"fmt"
	"math/rand/v2"

	"sluice/model"
)

// Rows are raw logits with what is right. A row is a text, or for token-classification the first token of a word.
type Rows struct {
	Logits      [][]float32 // [rows][labels]
	Truth       [][]bool    // [rows][labels]: exactly one is true, or with Independent any number
	Group       []int       // text of the row, from 0 on: rows of one text are never parted by folds
	Groups      int         // number of texts
	Independent bool        // sigmoid: each label by itself; else softmax
}

// Add appends a row of the newest group.
func (r *Rows) Add(logits []float32, truth []bool) {
	r.Logits, r.Truth, r.Group = append(r.Logits, logits), append(r.Truth, truth), append(r.Group, r.Groups-1)
}

// Next begins a new group.
func (r *Rows) Next() { r.Groups++ }

// Len is the number of rows.
func (r *Rows) Len() int { return len(r.Logits) }

func (r *Rows) labels() int { return len(r.Logits[0]) }

// scorer applies c to rows of this kind.
func (r *Rows) scorer(c *model.Calibration) model.Scorer {
	problem := model.SingleLabel
	if r.Independent {
		problem = model.MultiLabel
	}
	return model.NewScorer(problem, r.labels(), c)
}

// Scores are the scores of all rows under c, which may be nil.
func (r *Rows) Scores(c *model.Calibration) [][]float32 {
	s := r.scorer(c)
	all := make([][]float32, r.Len())
	for i, l := range r.Logits {
		all[i] = s.Scores(l)
	}
	return all
}

// part are the rows whose group is in the fold, and those whose group is not.
func (r *Rows) part(fold []int, n int) (in, out *Rows) {
	in, out = &Rows{Independent: r.Independent, Groups: r.Groups}, &Rows{Independent: r.Independent, Groups: r.Groups}
	for i, g := range r.Group {
		to := out
		if fold[g] == n {
			to = in
		}
		to.Logits, to.Truth, to.Group = append(to.Logits, r.Logits[i]), append(to.Truth, r.Truth[i]),
			append(to.Group, g)
	}
	return in, out
}

// folds deals groups out to k folds of equal size, in an order that the seed decides.
func (r *Rows) folds(k int, seed uint64) []int {
	fold := make([]int, r.Groups)
	for place, g := range rand.New(rand.NewPCG(seed, 0)).Perm(r.Groups) {
		fold[g] = place % k
	}
	return fold
}

// check refuses rows that nothing can be learnt from.
func (r *Rows) check(folds int) error {
	if folds < 2 {
		return fmt.Errorf("%d folds: at least 2 are needed", folds)
	}
	if r.Groups < 10*folds {
		return fmt.Errorf("%d labelled texts are too few for %d folds: give at least %d, better a thousand", r.Groups,
			folds, 10*folds)
	}
	right, wrong := 0, 0
	for i, s := range r.Scores(nil) {
		for _, o := range r.outcomes(i, s) {
			if o.right {
				right++
			} else {
				wrong++
			}
		}
	}
	if wrong == 0 {
		return errors.New("the model is right about every text, so nothing says how sure it may be: give more texts, " +
			"and harder ones")
	}
	if right == 0 {
		return errors.New("the model is wrong about every text: the labels of the file are not what it was trained for")
	}
	return nil
}

// outcome is one probability and whether what it speaks of is so.
type outcome struct {
	p     float64
	right bool
}

// outcomes of the i-th row: the top label is right; or of independent labels, each label is there. The top label is
// that of the logits: a map may make two scores equal.
func (r *Rows) outcomes(i int, scores []float32) []outcome {
	truth := r.Truth[i]
	if r.Independent {
		all := make([]outcome, len(scores))
		for k, s := range scores {
			all[k] = outcome{float64(s), truth[k]}
		}
		return all
	}
	top := argmax(r.Logits[i])
	return []outcome{{float64(scores[top]), truth[top]}}
}

// argmax is the index of the first highest score.
func argmax(x []float32) int {
	top := 0
	for i, v := range x {
		if v > x[top] {
			top = i
		}
	}
	return top
}
