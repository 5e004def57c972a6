package hf

import (
	"slices"
	"strings"
	"testing"

	"sluice/tokenize"
	"sluice/tokenize/pretrained"
	"sluice/tokenize/pretrained/pretrainedtest"
)

// TestRowsAreThoseOfTransformers compares what the definitions of tokenize/pretrained make of texts and pairs with what
// AutoTokenizer makes of them for the same folder.
func TestRowsAreThoseOfTransformers(t *testing.T) {
	goldens := pretrainedtest.Load(t)
	for _, c := range goldens.Cases {
		if c.Made.Error != "" {
			continue // tokenize/pretrained tests that it refuses these
		}
		t.Run(c.Name, func(t *testing.T) {
			made, err := pretrained.Read(c.Read, c.ModelType(), c.Class())
			if err != nil {
				t.Fatal(err)
			}
			opts := []Option{FindSpecial}
			other := func(string) bool { return false }
			if made.Split {
				opts = nil
				if strings.HasPrefix(c.Name, "xlm") || strings.HasPrefix(c.Name, "camembert") {
					// Unigram finds the special tokens of its vocabulary in a text all the same; here it does not.
					other = func(text string) bool { return strings.Contains(text, "</s>") }
				}
			}
			tok, err := New(made.Definition, opts...)
			if err != nil {
				t.Fatal(err)
			}
			defer tok.Close()

			texts := make([][]byte, len(goldens.Texts))
			for i, s := range goldens.Texts {
				texts[i] = []byte(s)
			}
			for i, e := range tok.Encode(texts, tokenize.Options{Offsets: true}) {
				if got := rowOf(e); !other(goldens.Texts[i]) && !slices.Equal(got, c.Made.Rows[i]) {
					t.Errorf("%q: %v, of transformers %v", texts[i], got, c.Made.Rows[i])
				}
			}

			last := texts[len(texts)-1:]
			cut := tokenize.Options{MaxTokens: 5, CutLeft: made.CutLeft}
			if e := tok.Encode(last, cut)[0]; e.Err != nil || !slices.Equal(e.Windows[0].IDs, c.Made.Cut) {
				t.Errorf("cut: %v, %v, of transformers %v", e.Windows, e.Err, c.Made.Cut)
			}
			windows := tokenize.Options{MaxTokens: 7, Windows: true, Stride: 2, CutLeft: made.CutLeft}
			want := slices.Clone(c.Made.Windows)
			if made.CutLeft {
				slices.Reverse(want)
			}
			e := tok.Encode(last, windows)[0]
			if !slices.EqualFunc(e.Windows, want, func(a tokenize.Encoding, b []int32) bool {
				return slices.Equal(a.IDs, b)
			}) {
				t.Errorf("windows: %v, %v, of transformers %v", e.Windows, e.Err, want)
			}

			pairs := make([][2][]byte, len(goldens.Pairs))
			for i, p := range goldens.Pairs {
				pairs[i] = [2][]byte{[]byte(p[0]), []byte(p[1])}
			}
			for k, o := range []tokenize.Options{{CutLeft: made.CutLeft, Types: true},
				{MaxTokens: 9, CutLeft: made.CutLeft, Types: true}} {
				for i, e := range tok.EncodePairs(pairs, o) {
					if other(goldens.Pairs[i][1]) {
						continue
					}
					want := c.Made.Pairs[i][k]
					if e.Err != nil || !slices.Equal(e.Windows[0].IDs, want[0]) ||
						!slices.EqualFunc(e.Windows[0].TypeIDs, want[1], func(a byte, b int32) bool {
							return int32(a) == b
						}) {
						t.Errorf("pair %q, %+v: %v, %v, of transformers %v", pairs[i], o, e.Windows, e.Err, want)
					}
				}
			}
		})
	}
}

// rowOf is a row of a golden: id, and its bytes from and to.
func rowOf(e tokenize.Encoded) [][3]int {
	if e.Err != nil {
		return nil
	}
	w := e.Windows[0]
	row := make([][3]int, len(w.IDs))
	for i, id := range w.IDs {
		row[i] = [3]int{int(id), w.Offsets[i].Start, w.Offsets[i].End}
	}
	return row
}
