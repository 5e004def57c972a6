package tune

import (
	"math"
	"slices"

	"sluice/model/labelled"
)

// This file owns the curve: what a cascade does at a setting of its two thresholds, by the verdicts that its models
// gave.

// Verdict is what one model said about a text.
type Verdict struct {
	Label    string // for entities: labelled.Canonical of them
	Entities []labelled.Entity
	Score    float64 // how sure it is, 0 to 1
}

// Sample is a labelled text with what was said about it.
type Sample struct {
	labelled.Text
	Student       Verdict // meaningless without a student
	Model         Verdict
	StudentTokens int // of its rows
	ModelTokens   int
	PromptTokens  int // of one call of the endpoint
}

const (
	Never      = 2.0    // as Setting.Student: the student is not asked
	everything = 1.0001 // as Setting.Escalate: no score is above 1
)

// Setting is a pair of thresholds.
type Setting struct {
	Student  float64 `json:"student_threshold"` // the student's verdict is final from this score on; Never
	Escalate float64 `json:"escalate_below"`    // a verdict with a lower score is asked of the endpoint; 0: none
}

// Speed is what was measured on this machine, each part alone with all cores.
type Speed struct {
	Tokenize float64 `json:"tokenized_texts_per_s"` // by all tokenizers that a text needs
	Student  float64 `json:"student_tokens_per_s"`  // 0: no student
	Model    float64 `json:"model_tokens_per_s"`
}

// Prices are of the endpoint, in whatever money.
type Prices struct {
	InputPerMillion  float64 `json:"input_per_million_tokens"`
	OutputPerMillion float64 `json:"output_per_million_tokens"`
	PromptTokens     int     `json:"prompt_tokens"` // of one question beside the text
	AnswerTokens     int     `json:"answer_tokens"` // of one answer
}

// Cascade is what is the same for every setting.
type Cascade struct {
	HasStudent  bool
	Entities    bool     // of token-classification; the endpoint is never asked about them
	Labels      []string // an answer of the endpoint that is none of them leaves the local verdict
	LLMAccuracy float64  // of answers that the labelled texts do not have; 0: unknown
	Speed       Speed
	Prices      Prices
}

// Point is one step of the curve, on some of the samples. Shares are of all texts.
type Point struct {
	Setting
	Texts     int     `json:"texts"`
	ByStudent float64 `json:"student"`   // share that the student decided
	ByModel   float64 `json:"model"`     // share that the model decided
	Escalated float64 `json:"escalated"` // share of either that is asked of the endpoint
	// false: what the endpoint says is unknown, so that accuracy and difference are those without it
	Known        bool     `json:"known"`
	Accuracy     float64  `json:"accuracy"`
	AccuracyIn   Interval `json:"accuracy_95"`
	Difference   float64  `json:"difference"` // of Accuracy to the full model's alone
	DifferenceIn Interval `json:"difference_95"`
	Gain         float64  `json:"gain"`         // texts that only the cascade has right
	Loss         float64  `json:"loss"`         // texts that only the full model has right
	F1           float64  `json:"f1,omitempty"` // of entities
	PerSecond    float64  `json:"msgs_per_s"`
	Calls        float64  `json:"llm_calls_per_million"`
	Cost         float64  `json:"cost_per_million"`

	right float64
}

const shown = 0.95 // confidence of the intervals that are shown

// local is the last verdict before the endpoint, and whether the student gave it.
func (s *Sample) local(c *Cascade, threshold float64) (v Verdict, student bool) {
	if c.HasStudent && s.Student.Score >= threshold {
		return s.Student, true
	}
	return s.Model, false
}

// At is the cascade at a setting on the samples. With an assumed accuracy of the endpoint counts are expected values.
func (c *Cascade) At(samples []Sample, set Setting) Point {
	p := Point{Setting: set, Texts: len(samples), Known: true}
	if len(samples) == 0 {
		return p
	}
	var student, escalated, cost, seconds float64
	var found, said, there int // entities: right ones, those said, those that are there
	asked := c.HasStudent && set.Student != Never
	for i := range samples {
		s := &samples[i]
		v, byStudent := s.local(c, set.Student)
		seconds += per(1, c.Speed.Tokenize)
		if asked {
			seconds += per(s.StudentTokens, c.Speed.Student)
		}
		if byStudent {
			student++
		} else {
			seconds += per(s.ModelTokens, c.Speed.Model)
		}
		right := truth(v.Label == s.Label)
		if v.Score < set.Escalate {
			escalated++
			cost += (float64(s.PromptTokens)*c.Prices.InputPerMillion +
				float64(c.Prices.AnswerTokens)*c.Prices.OutputPerMillion) / 1e6
			switch {
			case s.Answered && slices.Contains(c.Labels, s.LLM):
				right = truth(s.LLM == s.Label)
			case s.Answered: // of no use: a fallback
			case c.LLMAccuracy > 0:
				right = c.LLMAccuracy
			default:
				p.Known = false
			}
		}
		said, there = said+len(v.Entities), there+len(s.Entities)
		for _, e := range v.Entities {
			found += int(truth(slices.Contains(s.Entities, e)))
		}
		full := truth(s.Model.Label == s.Label)
		p.right += right
		p.Gain += right * (1 - full)
		p.Loss += (1 - right) * full
	}
	n := float64(len(samples))
	p.ByStudent, p.ByModel, p.Escalated = student/n, 1-student/n, escalated/n
	p.Accuracy, p.AccuracyIn = p.right/n, Wilson(p.right, len(samples), shown)
	p.Difference, p.DifferenceIn = (p.Gain-p.Loss)/n, Paired(p.Gain, p.Loss, len(samples), shown)
	if seconds > 0 && c.Speed.Model > 0 {
		p.PerSecond = n / seconds
	}
	if said+there > 0 {
		p.F1 = 2 * float64(found) / float64(said+there)
	}
	p.Calls, p.Cost = 1e6*p.Escalated, 1e6*cost/n
	return p
}

func truth(yes bool) float64 {
	if yes {
		return 1
	}
	return 0
}

// per is how many seconds n take at a rate; 0 where the rate is unknown.
func per(n int, rate float64) float64 {
	if rate <= 0 {
		return 0
	}
	return float64(n) / rate
}

// StudentSteps are thresholds of the student, from the strictest on: the first is Never, and each further one lets it
// decide about one more of a hundred texts. They depend on scores only, not on labels.
func (c *Cascade) StudentSteps(samples []Sample) []float64 {
	steps := []float64{Never}
	if !c.HasStudent {
		return steps
	}
	scores := make([]float64, len(samples))
	for i := range samples {
		scores[i] = samples[i].Student.Score
	}
	slices.Sort(scores)
	last := math.Inf(1)
	for percent := 1; percent <= 100; percent++ {
		k := len(scores) - len(scores)*percent/100
		if k == len(scores) || scores[k] >= last {
			continue
		}
		last = scores[k]
		if t := shortest(under(scores, last), last); t > 0 && t <= 1 {
			steps = append(steps, t)
		}
	}
	return steps
}

// under is the highest of ascending scores that is below s; 0 where there is none.
func under(scores []float64, s float64) float64 {
	if i, _ := slices.BinarySearch(scores, s); i > 0 {
		return scores[i-1]
	}
	return 0
}

// shortest is the decimal number with the fewest digits, two or more, that is above low and at most high.
func shortest(low, high float64) float64 {
	for scale := 1e2; scale <= 1e15; scale *= 10 {
		if t := math.Floor(high*scale) / scale; t > low && t <= high {
			return t
		}
	}
	return high
}

// escalatePercents are the shares of texts that steps of the escalation ask about.
var escalatePercents = []float64{0.5, 1, 1.5, 2, 2.5, 3, 3.5, 4, 4.5, 5, 6, 7, 8, 9, 10, 12, 14, 16, 18, 20, 25, 30, 40,
	50, 75, 100}

// EscalateSteps are thresholds below which a verdict is asked of the endpoint, in ascending order and beginning with 0
// (none), with the student at a threshold. Of entities there is only the first.
func (c *Cascade) EscalateSteps(samples []Sample, student float64) []float64 {
	scores := make([]float64, len(samples))
	for i := range samples {
		v, _ := samples[i].local(c, student)
		scores[i] = v.Score
	}
	slices.Sort(scores)
	steps := []float64{0}
	if c.Entities {
		return steps
	}
	for _, percent := range escalatePercents {
		k := int(float64(len(scores)) * percent / 100)
		if k == 0 {
			continue
		}
		t := everything
		if k < len(scores) {
			t = shortest(under(scores, scores[k]), scores[k])
		}
		if t > steps[len(steps)-1] {
			steps = append(steps, t)
		}
	}
	return steps
}
