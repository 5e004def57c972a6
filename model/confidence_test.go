package model

import (
	"math"
	"testing"

	"sluice/tokenize"
)

func near(a, b float64) bool { return math.Abs(a-b) < 1e-6 }

func TestHowSureAClassificationIs(t *testing.T) {
	log := func(p float64) float32 { return float32(math.Log(p)) }
	logit := func(p float64) float32 { return float32(math.Log(p / (1 - p))) }
	three := []string{"a", "b", "c"}
	for _, c := range []struct {
		name                        string
		problem                     string
		labels                      []string
		windows                     LongText
		logits                      [][]float32
		confidence, margin, entropy float64
	}{
		{"softmax", "", three, "", [][]float32{{log(0.5), log(0.25), log(0.25)}}, 0.5, 0.25,
			1.5 * math.Ln2 / math.Log(3)},
		{"softmax, a guess", "", three, "", [][]float32{{1, 1, 1}}, 1. / 3, 0, 1},
		{"softmax, certain", "", three, "", [][]float32{{0, 500, 0}}, 1, 1, 0},
		{"softmax, the largest over windows, adding up to 1.5", "", three, LongTextMax,
			[][]float32{{log(0.75), log(0.125), log(0.125)}, {log(0.125), log(0.625), log(0.25)}}, 0.75, 0.125,
			(math.Log(1.625) - (0.75*math.Log(0.75)+0.625*math.Log(0.625)+0.25*math.Log(0.25))/1.625) / math.Log(3)},
		{"sigmoid", MultiLabel, three, "", [][]float32{{logit(0.5), logit(0.25), -500}}, 0.5, 0.25,
			(1 + 0.8112781244591328) / 3},
		{"sigmoid, none of them and sure of it", MultiLabel, three, "", [][]float32{{-500, -500, -500}}, 0, 0, 0},
		{"one output", "", three[:1], "", [][]float32{{logit(0.25)}}, 0.25, 0.5, 0.8112781244591328},
		{"regression", Regression, three[:1], "", [][]float32{{7}}, 7, 0, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			j, err := NewJudge(&Model{Name: "m", Task: TextClassification, Labels: c.labels,
				Config: Config{ProblemType: c.problem}}, nil, JudgeOptions{LongText: c.windows})
			if err != nil {
				t.Fatal(err)
			}
			v, err := j.Verdict(nil, windows(len(c.logits)), c.logits)
			if err != nil {
				t.Fatal(err)
			}
			if v.Confidence != v.Score || !near(v.Confidence, c.confidence) || !near(v.Margin, c.margin) ||
				!near(v.Entropy, c.entropy) {
				t.Errorf("confidence %v, margin %v, entropy %v; want %v, %v, %v", v.Confidence, v.Margin, v.Entropy,
					c.confidence, c.margin, c.entropy)
			}
		})
	}
}

func TestHowSureEntitiesAreIsThatOfTheLeastSureToken(t *testing.T) {
	m := &Model{Name: "m", Task: TokenClassification, Labels: []string{"O", "I-X"}}
	log := func(p float64) float32 { return float32(math.Log(p)) }
	row := func(special ...bool) tokenize.Encoding {
		e := tokenize.Encoding{IDs: make([]int32, len(special)), Offsets: make([]tokenize.Span, len(special)),
			Special: special}
		for i := range e.IDs {
			e.IDs[i], e.Offsets[i] = 'x', tokenize.Span{Start: i, End: i + 1}
		}
		return e
	}
	for strategy := range map[Aggregation]bool{AggregationSimple: true, AggregationAverage: true,
		AggregationNone: true} {
		j, err := NewJudge(m, charTokenizer{}, JudgeOptions{Aggregation: strategy})
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range []struct {
			name                        string
			windows                     []tokenize.Encoding
			logits                      [][]float32
			confidence, margin, entropy float64
		}{
			{"special tokens do not count", []tokenize.Encoding{row(true, false, false)},
				[][]float32{{0, 0, 0, 9, log(0.75), log(0.25)}}, 0.75, 0.5, 0.8112781244591328},
			{"the second window has it", []tokenize.Encoding{row(false), row(false, false)}, [][]float32{{0, 9},
				{0, 9, 0, 0}}, 0.5, 0, 1},
			{"nothing but special tokens", []tokenize.Encoding{row(true)}, [][]float32{{0, 0}}, 1, 1, 0},
		} {
			v, err := j.Verdict([]byte("xxx"), tokenize.Encoded{Windows: c.windows}, c.logits)
			if err != nil {
				t.Fatal(err)
			}
			if !near(v.Confidence, c.confidence) || !near(v.Margin, c.margin) || !near(v.Entropy, c.entropy) {
				t.Errorf("%s, %s: confidence %v, margin %v, entropy %v; want %v, %v, %v", strategy, c.name,
					v.Confidence, v.Margin, v.Entropy, c.confidence, c.margin, c.entropy)
			}
		}
	}
}

// Of a word only that counts which decides its label.
func TestHowSureAWordIsFollowsTheAggregation(t *testing.T) {
	log := func(p float64) float32 { return float32(math.Log(p)) }
	// "b" goes on
	enc := tokenize.Encoding{IDs: []int32{'a', 'b'}, Offsets: []tokenize.Span{{Start: 0, End: 1}, {Start: 1, End: 3}},
		Special: make([]bool, 2)}
	logits := [][]float32{{log(0.75), log(0.25), log(0.4), log(0.6)}}
	for strategy, want := range map[Aggregation]float64{AggregationNone: 0.6, AggregationSimple: 0.6,
		AggregationFirst: 0.75, AggregationMax: 0.75, AggregationAverage: 0.575} {
		j, err := NewJudge(&Model{Name: "m", Task: TokenClassification, Labels: []string{"O", "I-X"}}, charTokenizer{},
			JudgeOptions{Aggregation: strategy})
		if err != nil {
			t.Fatal(err)
		}
		v, err := j.Verdict([]byte("abb"), tokenize.Encoded{Windows: []tokenize.Encoding{enc}}, logits)
		if err != nil || !near(v.Confidence, want) || !near(v.Margin, 2*want-1) {
			t.Errorf("%s: confidence %v, margin %v (%v), want %v", strategy, v.Confidence, v.Margin, err, want)
		}
	}
}
