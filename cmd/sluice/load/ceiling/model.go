// Package ceiling measures what a model can do on this machine at most: its bare session loop, with lists of runners
// and of token budgets, and how the whole path of one and of more workers compares with that.
package ceiling

import (
	"fmt"
	"os"

	"sluice/cmd/sluice/load"
	"sluice/model"
	"sluice/pipeline/engine"
	"sluice/tokenize"
)

// Describe is a model as reports show it, with the shape that its arithmetic follows from.
func Describe(m *model.Model) (load.Model, error) {
	d := load.Model{Tag: m.Tag(m.Name), Precision: "unknown", Layout: string(m.Layout)}
	if m.Manifest != nil {
		d.Precision = string(m.Manifest.Precision)
	}
	b, err := os.ReadFile(m.Path(model.ConfigFile))
	if err != nil {
		return d, err
	}
	d.Shape, err = load.ReadShape(b)
	return d, err
}

// sampleSize is how many texts of a sequence describe it.
const sampleSize = 4000

// Count tokenizes a sample of a sequence, as rows of token ids, and says how long they are.
func Count(m *model.Model, tok tokenize.Tokenizer, texts *load.Texts) (*load.Tokens, []engine.Input, error) {
	n := sampleSize
	if all := texts.Material(); all > 0 {
		n = min(n, all)
	}
	var sample [][]byte
	for _, t := range texts.Sample(n) {
		sample = append(sample, []byte(t))
	}
	rows := make([]engine.Input, n)
	lengths := make([]int, n)
	for i, e := range tok.Encode(sample, m.TokenizeOptions()) {
		if e.Err != nil {
			return nil, nil, fmt.Errorf("text %d of the sample: %w", i+1, e.Err)
		}
		rows[i] = engine.Tokens(e.Windows[0].IDs)
		lengths[i] = len(e.Windows[0].IDs)
	}
	return load.CountTokens(m.Name, lengths), rows, nil
}
