package model

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"

	"sluice/tokenize"
)

// Aggregation says how tokens become entities: transformers' aggregation_strategy.
type Aggregation string

const (
	AggregationNone    Aggregation = "none"    // every token by itself, with its B-/I- label
	AggregationSimple  Aggregation = "simple"  // neighbours with the same label are one entity
	AggregationFirst   Aggregation = "first"   // as simple, a word has the label of its first token
	AggregationAverage Aggregation = "average" // as simple, a word has the label with the highest mean
	AggregationMax     Aggregation = "max"     // as simple, a word has the label of its surest token
)

// LongText says how the probabilities of several windows of one text become one classification.
type LongText string

const (
	LongTextMean LongText = "mean" // of each label over the windows
	LongTextMax  LongText = "max"  // of each label over the windows; the scores of a softmax then no longer add up to 1
)

// JudgeOptions are the choices a user has. The zero value is Hugging Face's pipeline with aggregation_strategy
// "simple".
type JudgeOptions struct {
	Aggregation Aggregation // token-classification; "" is simple
	LongText    LongText    // text-classification of more than one window; "" is mean
	AllScores   bool        // text-classification: Scores also for single-label models (top_k=None)
}

// ErrNotFinite is the cause of an error about NaN or infinite logits.
var ErrNotFinite = errors.New("the model's logits are not finite")

// Judge turns logits into verdicts. Safe for concurrent use.
type Judge struct {
	task     Task
	labels   []string
	scorer   Scorer // text-classification
	all      bool   // Scores are wanted
	longText LongText
	entities *aggregator // token-classification
	warnings []string
}

// NewJudge checks the options against the model. The tokenizer must be the model's; its Close may come any time after
// the last Verdict.
func NewJudge(m *Model, tok tokenize.Tokenizer, o JudgeOptions) (*Judge, error) {
	j := &Judge{task: m.Task, labels: m.Labels, longText: o.LongText}
	if j.longText == "" {
		j.longText = LongTextMean
	}
	if o.Aggregation == "" {
		o.Aggregation = AggregationSimple
	}
	if known := []LongText{LongTextMean, LongTextMax}; !slices.Contains(known, j.longText) {
		return nil, fmt.Errorf("model %s: long text: %q is unknown; it is one of %s", m.Name, o.LongText,
			quoted(known...))
	}
	known := []Aggregation{AggregationNone, AggregationSimple, AggregationFirst, AggregationAverage, AggregationMax}
	if !slices.Contains(known, o.Aggregation) {
		return nil, fmt.Errorf("model %s: aggregation: %q is unknown; it is one of %s", m.Name, o.Aggregation,
			quoted(known...))
	}
	switch m.Task {
	case TextClassification:
		j.scorer = NewScorer(m.Config.ProblemType, len(m.Labels), m.calibration())
		j.all = o.AllScores || m.Config.ProblemType == MultiLabel
	case TokenClassification:
		j.entities = &aggregator{strategy: o.Aggregation, labels: m.Labels, tok: tok, unknown: m.unknown,
			marksSubwords: tok.ContinuingPrefix() != "", temperature: 1}
		if c := m.calibration(); c != nil {
			j.entities.temperature = c.Temperature
		}
		if !j.entities.marksSubwords && o.Aggregation != AggregationNone && o.Aggregation != AggregationSimple {
			j.warnings = append(j.warnings, fmt.Sprintf("model %s: its tokenizer does not mark subwords, so "+
				"aggregation %q takes what stands between spaces for words, as transformers does", m.Name,
				o.Aggregation))
		}
	default:
		return nil, fmt.Errorf("model %s: task %q is not one of %s", m.Name, m.Task, quoted(TextClassification,
			TokenClassification))
	}
	return j, nil
}

// NeedsOffsets says whether Verdict needs Encoding.Offsets and Special.
func (j *Judge) NeedsOffsets() bool { return j.task == TokenClassification }

// Warnings are sentences about options that work but may surprise.
func (j *Judge) Warnings() []string { return j.warnings }

// Verdict judges one text. text is what was tokenized into enc; logits has one slice a window of enc: [labels] for
// text-classification, [tokens*labels] (row-major, special tokens included) for token-classification. An error is about
// this text alone; NaN or infinite logits are ErrNotFinite.
func (j *Judge) Verdict(text []byte, enc tokenize.Encoded, logits [][]float32) (Verdict, error) {
	if enc.Err != nil {
		return Verdict{}, fmt.Errorf("the text was not tokenized: %w", enc.Err)
	}
	if len(logits) == 0 || len(logits) != len(enc.Windows) {
		return Verdict{}, fmt.Errorf("%d windows, but logits for %d", len(enc.Windows), len(logits))
	}
	for w, l := range logits {
		want := len(j.labels)
		if j.task == TokenClassification {
			want *= len(enc.Windows[w].IDs)
		}
		if len(l) != want {
			return Verdict{}, fmt.Errorf("window %d of %d tokens has %d logits instead of %d", w,
				len(enc.Windows[w].IDs), len(l), want)
		}
		for i, x := range l {
			if math.IsNaN(float64(x)) || math.IsInf(float64(x), 0) {
				return Verdict{}, fmt.Errorf("window %d, logit %d is %v: %w", w, i, x, ErrNotFinite)
			}
		}
	}
	v := Verdict{Truncated: enc.Truncated, Windows: len(logits)}
	if j.task == TokenClassification {
		entities, least, err := j.entities.entities(text, enc.Windows, logits)
		if err != nil {
			return Verdict{}, err
		}
		v.Entities, v.tokens = entities, j.entities.strategy == AggregationNone
		least.measure(&v)
		return v, nil
	}
	j.classify(&v, logits)
	return v, nil
}

func (j *Judge) classify(v *Verdict, logits [][]float32) {
	scores := j.scorer.window(logits[0])
	if len(logits) > 1 {
		sums := make([]float64, len(scores)) // or maxima
		for w, l := range logits {
			for i, p := range j.scorer.window(l) {
				if j.longText == LongTextMax && w > 0 {
					sums[i] = max(sums[i], float64(p))
				} else {
					sums[i] += float64(p)
				}
			}
		}
		if j.longText == LongTextMean {
			for i := range sums {
				sums[i] /= float64(len(logits))
			}
		}
		for i, s := range sums {
			scores[i] = float32(s)
		}
	}
	top := argmax(scores)
	var order []int // of the labels, before a level piece of the isotonic curve makes scores equal
	if j.all {
		order = make([]int, len(scores))
		for i := range order {
			order[i] = i
		}
		slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(scores[b], scores[a]) })
	}
	j.scorer.bend(scores, top)
	v.Label, v.Score = j.labels[top], float64(scores[top])
	v.measure(scores, j.scorer.kind, top)
	if !j.all {
		return
	}
	v.Scores = make([]LabelScore, len(scores))
	for i, label := range order {
		v.Scores[i] = LabelScore{Label: j.labels[label], Score: float64(scores[label])}
	}
}

// scoreKind says what the scores of a row are.
type scoreKind int

const (
	exclusiveScores   scoreKind = iota // softmax: one label is right
	independentScores                  // sigmoid: each label by itself
	rawScores                          // the logits themselves: a regression
)

// scoreKindOf is the choice of TextClassificationPipeline.postprocess where function_to_apply is not given.
func scoreKindOf(problemType string, labels int) scoreKind {
	switch {
	case problemType == Regression:
		return rawScores
	case problemType == MultiLabel || labels == 1:
		return independentScores
	default:
		return exclusiveScores
	}
}

// argmax is the index of the first largest element, as numpy's.
func argmax(x []float32) int {
	top := 0
	for i, v := range x {
		if v > x[top] {
			top = i
		}
	}
	return top
}

// Verdict is what a model says about one text.
type Verdict struct {
	Label     string       // text-classification: the top label
	Score     float64      // of Label: a probability, or the raw value of a regression
	Scores    []LabelScore // multi-label or AllScores: every label, highest first
	Entities  []Entity     // token-classification: never nil, in the order of the text
	Truncated bool         // the text was longer than the model and its end was not read
	Windows   int          // rows the text was cut into

	// How sure the verdict is, for rules; the result does not have them. Of a regression Margin and Entropy are 0.
	//
	// text-classification: Confidence is Score. Margin is the top score less the second, or |2p-1| of a single
	// probability. Entropy is that of all scores by ln n (softmax), or the mean binary entropy in bits (independent
	// labels): 0 is certain, 1 a guess.
	//
	// token-classification: all three are of the least sure token of the text, special ones left out, or with the
	// aggregations of words (first, average, max) of its least sure word: Confidence is the probability of its top
	// label. A text without tokens has Confidence 1, Margin 1 and Entropy 0.
	Margin, Entropy, Confidence float64

	tokens bool // Entities are single tokens (AggregationNone)
}

// LabelScore is the score of one label.
type LabelScore struct {
	Label string
	Score float64
}

// Entity is a span of the text with one label.
type Entity struct {
	Group      string // "PER"; with AggregationNone the token's own label, "B-PER"
	Score      float64
	Word       string // the tokens as text; for a slice of the original use Start and End
	Start, End int    // characters (code points) of the text, half-open
	Index      int    // AggregationNone: position in the row, special tokens counted
}

// SplitLabel parts a label into "B" or "I" and the group, as get_tag: what has neither prefix continues ("I").
func SplitLabel(label string) (position, group string) {
	if group, ok := strings.CutPrefix(label, "B-"); ok {
		return "B", group
	}
	if group, ok := strings.CutPrefix(label, "I-"); ok {
		return "I", group
	}
	return "I", label
}

// Groups are the groups of entities that a model for token-classification can find, in the order of its labels: "PER"
// of "B-PER", "I-PER" or "PER" alone. The label of what is no entity ("O") has none; neither has a model for another
// task.
func (m *Model) Groups() []string {
	if m.Task != TokenClassification {
		return nil
	}
	var groups []string
	for _, label := range m.Labels {
		if _, group := SplitLabel(label); label != outside && group != "" && !slices.Contains(groups, group) {
			groups = append(groups, group)
		}
	}
	return groups
}
