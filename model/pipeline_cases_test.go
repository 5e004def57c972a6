package model

import (
	"compress/gzip"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"strings"
	"testing"

	"sluice/tokenize"
)

// scriptedTokenizer knows the tokens of one case by position and answers Join as transformers answered it.
type scriptedTokenizer struct {
	tokenize.Tokenizer
	tokens []string
	joined map[string]string
	prefix string
	t      testing.TB
}

func (s *scriptedTokenizer) Token(id int32) string    { return s.tokens[id] }
func (s *scriptedTokenizer) ContinuingPrefix() string { return s.prefix }
func (s *scriptedTokenizer) Join(tokens []string) string {
	text, ok := s.joined[strings.Join(tokens, "\x00")]
	if !ok {
		s.t.Errorf("Join(%q): transformers never joined these tokens", tokens)
	}
	return text
}

type pipelineCases struct {
	Entities []entityCase
	Classes  []struct {
		ProblemType string `json:"problem_type"`
		Labels      []string
		Logits      []float32
		Top         LabelScore
		All         []LabelScore
	}
}

type entityCase struct {
	Text    string
	Labels  []string
	Unknown string
	Prefix  string
	Windows []struct {
		Tokens  []string
		Offsets [][2]int
		Special []int
		Logits  []float32
	}
	Joined map[string]string
	Want   map[Aggregation][]struct {
		Entity string
		Group  *string `json:"entity_group"`
		Score  float64
		Word   string
		Start  int
		End    int
		Index  int
	}
}

func readCases(t *testing.T) pipelineCases {
	t.Helper()
	f, err := os.Open("testdata/pipeline_cases.json.gz")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	var cases pipelineCases
	if err := json.NewDecoder(z).Decode(&cases); err != nil {
		t.Fatal(err)
	}
	return cases
}

// encoded are the windows of the case, with ids that index tokens.
func (c *entityCase) encoded(t testing.TB) (tok *scriptedTokenizer, enc tokenize.Encoded, logits [][]float32) {
	tok = &scriptedTokenizer{joined: c.Joined, prefix: c.Prefix, t: t}
	for _, w := range c.Windows {
		var e tokenize.Encoding
		for i, token := range w.Tokens {
			e.IDs = append(e.IDs, int32(len(tok.tokens)))
			tok.tokens = append(tok.tokens, token)
			e.Offsets = append(e.Offsets, tokenize.Span{Start: w.Offsets[i][0], End: w.Offsets[i][1]})
			e.Special = append(e.Special, w.Special[i] == 1)
		}
		enc.Windows = append(enc.Windows, e)
		logits = append(logits, w.Logits)
	}
	return tok, enc, logits
}

func TestEntitiesEqualTransformers(t *testing.T) {
	compared := 0
	for i, c := range readCases(t).Entities {
		tok, enc, logits := c.encoded(t)
		m := &Model{Name: "case", Task: TokenClassification, Labels: c.Labels, unknown: c.Unknown}
		for strategy, want := range c.Want {
			name := fmt.Sprintf("case %d, %s, text %q", i, strategy, c.Text)
			j, err := NewJudge(m, tok, JudgeOptions{Aggregation: strategy})
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			v, err := j.Verdict([]byte(c.Text), enc, logits)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if v.Entities == nil || len(v.Entities) != len(want) {
				t.Errorf("%s: %d entities, transformers has %d:\n got %v\nwant %v", name, len(v.Entities), len(want),
					v.Entities, want)
				continue
			}
			for k, w := range want {
				group := w.Entity
				if w.Group != nil {
					group = *w.Group
				}
				e := v.Entities[k]
				if e.Group != group || e.Word != w.Word || e.Start != w.Start || e.End != w.End || e.Index != w.Index ||
					math.Abs(e.Score-w.Score) > 1e-6 {
					t.Errorf("%s: entity %d:\n got %+v\nwant %s %+v", name, k, e, group, w)
				}
				compared++
			}
		}
	}
	if compared < 3000 {
		t.Errorf("only %d entities compared", compared)
	}
}

func TestClassificationEqualsTransformers(t *testing.T) {
	for i, c := range readCases(t).Classes {
		m := &Model{Name: "case", Task: TextClassification, Labels: c.Labels,
			Config: Config{ProblemType: c.ProblemType}}
		j, err := NewJudge(m, nil, JudgeOptions{AllScores: true})
		if err != nil {
			t.Fatal(err)
		}
		v, err := j.Verdict([]byte("x"), tokenize.Encoded{Windows: make([]tokenize.Encoding, 1)}, [][]float32{c.Logits})
		if err != nil {
			t.Fatal(err)
		}
		got := append([]LabelScore{{v.Label, v.Score}}, v.Scores...)
		want := append([]LabelScore{c.Top}, c.All...)
		if len(got) != len(want) {
			t.Fatalf("case %d: %d scores, transformers has %d", i, len(got), len(want))
		}
		for k := range want {
			if got[k].Label != want[k].Label || math.Abs(got[k].Score-want[k].Score) > 1e-6 {
				t.Errorf("case %d (%q, %d labels): score %d is %v, transformers has %v", i, c.ProblemType,
					len(c.Labels), k, got[k], want[k])
			}
		}
	}
}
