package model_test

import (
	"fmt"

	"sluice/model"
	"sluice/tokenize"
)

// From a directory to a verdict: the rows of a text are what a tokenizer makes (tokenize/hf), and their logits what a
// session answers (model/ort), one row of logits a row of tokens.
func Example() {
	m, err := model.Open("../models/sentiment-tiny")
	if err == nil {
		err = m.Verify() // the files are those of the manifest
	}
	if err != nil {
		fmt.Println(err)
		return
	}
	j, err := model.NewJudge(m, nil, model.JudgeOptions{}) // only tokens that become entities ask the tokenizer
	if err != nil {
		fmt.Println(err)
		return
	}
	text := tokenize.Encoded{Windows: []tokenize.Encoding{{IDs: []int32{101, 2307, 102}}}}
	v, err := j.Verdict([]byte("great"), text, [][]float32{{-2, 2}})
	fmt.Println(m.Task, m.Labels, v.Label, v.Score > 0.5, err)
	// Output: text-classification [NEGATIVE POSITIVE] POSITIVE true <nil>
}
