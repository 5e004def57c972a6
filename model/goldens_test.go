package model

// What transformers' own pipelines say, with real models, to the texts of scripts/make_model_goldens.py: from its
// logits to its verdicts.

import (
	"compress/gzip"
	"encoding/json"
	"math"
	"os"
	"strings"
	"testing"

	"sluice/tokenize"
)

// readGolden decodes a gzipped JSON file of testdata.
func readGolden(t testing.TB, name string, into any) {
	t.Helper()
	f, err := os.Open("testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.NewDecoder(z).Decode(into); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
}

type goldenModel struct {
	ID2Label    map[string]string `json:"id2label"`
	ProblemType *string           `json:"problem_type"`
}

func (g goldenModel) labels(t testing.TB) []string {
	labels, err := labelsOf(g.ID2Label, nil)
	if err != nil {
		t.Fatal(err)
	}
	return labels
}

type goldenEntity struct {
	Entity      string
	EntityGroup string `json:"entity_group"`
	Score       float64
	Word        string
	Start, End  int
	Index       int
}

// goldenTokenizer has the tokens of one text, by position, and joins as the decoder of its kind: WordPiece's, or that
// of byte-level BPE.
type goldenTokenizer struct {
	tokenize.Tokenizer
	tokens    []string
	wordPiece bool
}

func (g *goldenTokenizer) Token(id int32) string { return g.tokens[id] }

func (g *goldenTokenizer) ContinuingPrefix() string {
	if g.wordPiece {
		return "##"
	}
	return ""
}

// cleanUp is the WordPiece decoder's cleanup.
var cleanUp = strings.NewReplacer(" .", ".", " ?", "?", " !", "!", " ,", ",", " ' ", "'", " n't", "n't", " 'm", "'m",
	" do not", " don't", " 's", "'s", " 've", "'ve", " 're", "'re")

func (g *goldenTokenizer) Join(tokens []string) string {
	var b strings.Builder
	for i, t := range tokens {
		if !g.wordPiece {
			b.WriteString(byteLevelText(t))
			continue
		}
		if rest, ok := strings.CutPrefix(t, "##"); ok && i > 0 {
			t = rest
		} else if i > 0 {
			t = " " + t
		}
		b.WriteString(cleanUp.Replace(t)) // piece by piece, as the library does
	}
	return decode([]byte(b.String()))
}

// byteLevelText undoes GPT-2's mapping of bytes to visible characters; a token with any other character stays as it is.
func byteLevelText(token string) string {
	var out []byte
	next := rune(256)
	bytes := map[rune]byte{}
	for b := range 256 {
		r := rune(b)
		if visible := b >= '!' && b <= '~' || b >= 0xA1 && b <= 0xAC || b >= 0xAE; !visible {
			r = next
			next++
		}
		bytes[r] = byte(b)
	}
	for _, r := range token {
		b, ok := bytes[r]
		if !ok {
			return token
		}
		out = append(out, b)
	}
	return string(out)
}

func TestNERPipelineOfRealModels(t *testing.T) {
	for _, c := range []struct {
		file, unknown string
		wordPiece     bool
		least         int
	}{{"ner_golden.json.gz", "[UNK]", true, 3000}, {"roberta_ner_golden.json.gz", "<unk>", false, 1000}} {
		t.Run(c.file, func(t *testing.T) {
			var golden struct {
				Models map[string]goldenModel
				Texts  []struct {
					Text     string
					Tokens   []string
					Offsets  [][2]int
					Special  []int
					Logits   [][]float32
					Pipeline map[Aggregation][]goldenEntity
				}
			}
			readGolden(t, c.file, &golden)
			var labels []string
			for _, m := range golden.Models {
				labels = m.labels(t)
			}
			m := &Model{Name: "ner", Task: TokenClassification, Labels: labels, unknown: c.unknown}
			compared := 0
			for _, text := range golden.Texts {
				var at []int // byte of each character
				for i := range text.Text {
					at = append(at, i)
				}
				at = append(at, len(text.Text))
				tok := &goldenTokenizer{tokens: text.Tokens, wordPiece: c.wordPiece}
				var enc tokenize.Encoding
				var logits []float32
				for i, l := range text.Logits {
					enc.IDs = append(enc.IDs, int32(i))
					enc.Offsets = append(enc.Offsets, tokenize.Span{Start: at[text.Offsets[i][0]],
						End: at[text.Offsets[i][1]]})
					enc.Special = append(enc.Special, text.Special[i] == 1)
					logits = append(logits, l...)
				}
				for strategy, want := range text.Pipeline {
					j, err := NewJudge(m, tok, JudgeOptions{Aggregation: strategy})
					if err != nil {
						t.Fatal(err)
					}
					v, err := j.Verdict([]byte(text.Text), tokenize.Encoded{Windows: []tokenize.Encoding{enc}},
						[][]float32{logits})
					if err != nil {
						t.Fatal(err)
					}
					if len(v.Entities) != len(want) {
						t.Errorf("%s, %q: %d entities, transformers has %d:\n got %+v\nwant %+v", strategy, text.Text,
							len(v.Entities), len(want), v.Entities, want)
						continue
					}
					for i, w := range want {
						got := v.Entities[i]
						if got.Group != w.Entity+w.EntityGroup || got.Word != w.Word || got.Start != w.Start ||
							got.End != w.End || got.Index != w.Index || math.Abs(got.Score-w.Score) > 1e-6 {
							t.Errorf("%s, %q, entity %d:\n got %+v\nwant %+v", strategy, text.Text, i, got, w)
						}
						compared++
					}
				}
			}
			if compared < c.least {
				t.Errorf("only %d entities compared", compared)
			}
		})
	}
}

func TestClassificationPipelineOfRealModels(t *testing.T) {
	var golden struct {
		Models map[string]goldenModel
		Texts  []struct {
			Text   string
			Models map[string]struct {
				Logits  []float32
				Default LabelScore
				All     []LabelScore
			}
		}
	}
	readGolden(t, "cls_golden.json.gz", &golden)
	compared := 0
	for name, g := range golden.Models {
		m := &Model{Name: name, Task: TextClassification, Labels: g.labels(t)}
		if g.ProblemType != nil {
			m.Config.ProblemType = *g.ProblemType
		}
		j, err := NewJudge(m, nil, JudgeOptions{AllScores: true})
		if err != nil {
			t.Fatal(err)
		}
		for _, text := range golden.Texts {
			want := text.Models[name]
			v, err := j.Verdict([]byte(text.Text), tokenize.Encoded{Windows: make([]tokenize.Encoding, 1)},
				[][]float32{want.Logits})
			if err != nil {
				t.Fatal(err)
			}
			if len(v.Scores) != len(want.All) || v.Label != want.Default.Label ||
				math.Abs(v.Score-want.Default.Score) > 1e-6 {
				t.Errorf("%s, %q: %+v instead of %+v", name, text.Text, v, want)
				continue
			}
			for i, w := range want.All {
				if v.Scores[i].Label != w.Label || math.Abs(v.Scores[i].Score-w.Score) > 1e-6 {
					t.Errorf("%s, %q: score %d is %+v instead of %+v", name, text.Text, i, v.Scores[i], w)
				}
			}
			compared++
		}
	}
	if compared < 600 {
		t.Errorf("only %d verdicts compared", compared)
	}
}
