package engine

import "sluice/tokenize"

// This file owns what the engine knows about a row: its cost and its key, and nothing else.

// Input is one row of a model's input. What else a row has, its runner finds out: package model/ort asks for token ids.
// A row is read on other goroutines until its answer is there, so it must not change until then.
type Input interface {
	// Cost is what a run pays for the row, at least 1: the tokens of a text with the model's special tokens, and
	// whatever grows with the time of a run for other models. Token budgets, classes of length and the metrics of
	// tokens count it.
	Cost() int
	// Key is the row's content, as bytes that no other row of its model has. It is the memory of the row itself where
	// that is possible: it is read while the row waits, and not written to.
	Key() []byte
}

// Tokens is a row of token ids, with the model's special tokens: for rows that come from no tokenizer. What a tokenizer
// makes, a *tokenize.Encoding, is an Input itself, and costs no allocation.
type Tokens []int32

// Cost implements Input: the number of tokens.
func (t Tokens) Cost() int { return len(t) }

// Key implements Input: the memory of the ids.
func (t Tokens) Key() []byte { return (&tokenize.Encoding{IDs: t}).Key() }

// TokenIDs are the ids: what runners of text models ask an Input for.
func (t Tokens) TokenIDs() []int32 { return t }

// tokenRow is an Input that has token ids.
type tokenRow interface{ TokenIDs() []int32 }
