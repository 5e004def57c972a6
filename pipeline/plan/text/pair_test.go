package text_test

import (
	"fmt"
	"strings"
	"sync"
	"testing"

	"sluice/pipeline"
	"sluice/pipeline/codec"
	"sluice/pipeline/codec/jsonvalue"
	"sluice/pipeline/pipelinetest/words"
	"sluice/tokenize"
)

// seenTokenizer keeps what it is given.
type seenTokenizer struct {
	tokenize.Tokenizer
	seen *sync.Map
}

func (s seenTokenizer) Encode(texts [][]byte, o tokenize.Options) []tokenize.Encoded {
	for _, text := range texts {
		s.seen.Store(string(text), true)
	}
	return s.Tokenizer.Encode(texts, o)
}

func (s seenTokenizer) EncodePairs(pairs [][2][]byte, o tokenize.Options) []tokenize.Encoded {
	for _, pair := range pairs {
		s.seen.Store(fmt.Sprintf("%s + %s", pair[0], pair[1]), true)
	}
	return s.Tokenizer.EncodePairs(pairs, o)
}

// A model of pairs reads both texts of a record, its neighbour the first alone.
func TestModelsOfPairsReadBothTexts(t *testing.T) {
	var seen sync.Map
	b := words.New(t, words.Options{Models: 2, Change: func(b *words.Bench) {
		b.Publisher.Codec = jsonvalue.New(jsonvalue.Options{Text: codec.Path{"text"}, Pair: codec.Path{"other"},
			Field: "inference", MaxDepth: 9})
		b.Models[0].Pair = true
		for i := range b.Models {
			b.Models[i].Tokenizer = seenTokenizer{b.Models[i].Tokenizer, &seen}
		}
	}})
	long := strings.Repeat("e ", 40)
	outcomes := b.Outcomes(
		`{"text":"sixsix","other":"a b"}`,
		`{"text":"sixsix","other":"`+long+`"}`,
		`{"text":"sixsix","other":" "}`,
		`{"text":"sixsix"}`)
	for _, want := range []string{"sixsix", "sixsix + a b", "sixsix + " + long[:60]} {
		if _, ok := seen.Load(want); !ok {
			t.Errorf("nobody saw %q", want)
		}
	}
	for i, want := range []struct {
		disposition pipeline.Disposition
		says        string
	}{
		{pipeline.Scored, `"m0":{"label":"POSITIVE"`},
		{pipeline.Scored, `"flags":["text-cut"]`}, // of the second text
		{pipeline.Empty, `"reason":"empty"`},
		{pipeline.DeadLetter, ""},
	} {
		o := outcomes[i]
		if o.Disposition != want.disposition || !strings.Contains(string(o.Messages[0].Value), want.says) {
			t.Errorf("record %d: %v, %s", i, o.Disposition, o.Messages[0].Value)
		}
	}
}
