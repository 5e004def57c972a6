package model

// What a model's scores are worth: the calibration of the manifest, and how a judge applies it. Fitting is
// model/calibrate's.

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
)

// CalibrationMethod says which map makes probabilities of scores.
type CalibrationMethod string

const (
	// Temperature divides logits by one number (Guo et al. 2017, arXiv 1706.04599). No label changes, nor the order of
	// texts of a model with two labels or with independent ones.
	Temperature CalibrationMethod = "temperature"
	// IsotonicRegression maps scores by a curve that never falls (Zadrozny and Elkan 2002). Of a softmax it maps the
	// top score; the others share what is left as they did, and the top label stays the top. Independent labels have
	// one curve for all. Not for token-classification.
	IsotonicRegression CalibrationMethod = "isotonic"
)

// Calibration is manifest.json's "calibration". Golden logits, and those that the engine caches, are never calibrated.
type Calibration struct {
	Method      CalibrationMethod   `json:"method"`
	Temperature float64             `json:"temperature,omitempty"` // of Temperature
	Isotonic    *Isotonic           `json:"isotonic,omitempty"`    // of IsotonicRegression
	FittedOn    CalibrationSource   `json:"fitted_on"`
	Held        CalibrationMeasured `json:"held_out"` // on folds that the map was not fitted on
}

// CalibrationSource says which labelled texts a calibration comes from.
type CalibrationSource struct {
	Name   string `json:"name"`   // of the file
	SHA256 string `json:"sha256"` // of the file
	Rows   int    `json:"rows"`   // texts
	Folds  int    `json:"folds"`
	Seed   uint64 `json:"seed"` // of the folds
}

// CalibrationMeasured are a model's numbers before and after. ECE is the expected calibration error with 15 bins of
// equal width, NLL the mean negative log-likelihood in nats.
type CalibrationMeasured struct {
	ECEBefore float64 `json:"ece_before"`
	ECEAfter  float64 `json:"ece_after"`
	NLLBefore float64 `json:"nll_before"`
	NLLAfter  float64 `json:"nll_after"`
}

// Isotonic is a curve through points, straight between them and level outside.
type Isotonic struct {
	X []float64 `json:"x"` // scores, rising
	Y []float64 `json:"y"` // probabilities, never falling
}

// At is the curve's value at x.
func (c *Isotonic) At(x float64) float64 {
	i, exact := slices.BinarySearch(c.X, x)
	switch {
	case exact:
		return c.Y[i]
	case i == 0:
		return c.Y[0]
	case i == len(c.X):
		return c.Y[i-1]
	}
	return c.Y[i-1] + (c.Y[i]-c.Y[i-1])*(x-c.X[i-1])/(c.X[i]-c.X[i-1])
}

// A temperature outside these has no data behind it: at them a difference of logits of 10 says 10^86, or 0.525, to one.
const (
	LowestTemperature  = 0.05
	HighestTemperature = 100
)

// check says what is wrong with a calibration of a model with that task.
func (c *Calibration) check(task Task) error {
	switch c.Method {
	case Temperature:
		if !(c.Temperature >= LowestTemperature && c.Temperature <= HighestTemperature) {
			return fmt.Errorf("calibration.temperature: is %v, not between %v and %v", c.Temperature, LowestTemperature,
				HighestTemperature)
		}
		if c.Isotonic != nil {
			return errors.New(`calibration.isotonic: does not go with method "temperature"`)
		}
		return nil
	case IsotonicRegression:
		switch {
		case task == TokenClassification:
			return fmt.Errorf(`calibration.method: "isotonic" is not for %s`, task)
		case c.Temperature != 0:
			return errors.New(`calibration.temperature: does not go with method "isotonic"`)
		case c.Isotonic == nil:
			return errors.New("calibration.isotonic: is missing")
		}
		return c.Isotonic.check()
	default:
		return fmt.Errorf("calibration.method: is %q, not one of %s", c.Method, quoted(Temperature, IsotonicRegression))
	}
}

func (c *Isotonic) check() error {
	if len(c.X) == 0 || len(c.X) != len(c.Y) {
		return fmt.Errorf("calibration.isotonic: has %d values x and %d values y", len(c.X), len(c.Y))
	}
	for i := range c.X {
		if !(c.X[i] >= 0 && c.X[i] <= 1 && c.Y[i] >= 0 && c.Y[i] <= 1) {
			return fmt.Errorf("calibration.isotonic: point %d is (%v, %v), not within 0 and 1", i, c.X[i], c.Y[i])
		}
		if i > 0 && (c.X[i] <= c.X[i-1] || c.Y[i] < c.Y[i-1]) {
			return fmt.Errorf("calibration.isotonic: point %d is (%v, %v) behind (%v, %v): x must rise and y never "+
				"fall", i, c.X[i], c.Y[i], c.X[i-1], c.Y[i-1])
		}
	}
	return nil
}

// digestLine is the calibration's line of the model's digest: what it is fitted on does not change a verdict and is not
// in it.
func (c *Calibration) digestLine() string {
	b := append([]byte(c.Method), '\n')
	number := func(x float64) { b = append(strconv.AppendFloat(b, x, 'g', -1, 64), '\n') }
	if c.Method == Temperature {
		number(c.Temperature)
	} else {
		for i := range c.Isotonic.X {
			number(c.Isotonic.X[i])
			number(c.Isotonic.Y[i])
		}
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:]) + "  calibration\n"
}

// Scorer turns the logits of a text-classification model into scores, calibrated where it has a calibration.
type Scorer struct {
	kind        scoreKind
	temperature float64 // 1 changes nothing, to the last bit
	isotonic    *Isotonic
}

// NewScorer is the scorer of a model with that problem type and number of labels; c may be nil. A regression has no
// probabilities and nothing to calibrate.
func NewScorer(problemType string, labels int, c *Calibration) Scorer {
	s := Scorer{kind: scoreKindOf(problemType, labels), temperature: 1}
	if c != nil && c.Method == Temperature {
		s.temperature = c.Temperature
	}
	if c != nil && c.Method == IsotonicRegression {
		s.isotonic = c.Isotonic
	}
	return s
}

// Independent says that every label has a probability of its own (sigmoid).
func (s Scorer) Independent() bool { return s.kind == independentScores }

// Scores are the scores of one row of logits, in a slice of its own.
func (s Scorer) Scores(logits []float32) []float32 {
	p := s.window(logits)
	s.bend(p, argmax(p))
	return p
}

// window are the scores of one window, before the isotonic curve: that is for the scores of a text.
func (s Scorer) window(logits []float32) []float32 {
	switch s.kind {
	case rawScores:
		return slices.Clone(logits)
	case independentScores:
		return sigmoid(logits, s.temperature)
	default:
		return softmax(logits, s.temperature)
	}
}

// bend applies the isotonic curve in place. top is the index of the highest score, and of a highest score afterwards.
func (s Scorer) bend(scores []float32, top int) {
	if s.isotonic == nil {
		return
	}
	if s.kind == independentScores {
		for i, p := range scores {
			scores[i] = float32(s.isotonic.At(float64(p)))
		}
		return
	}
	var rest, second float64
	for i, p := range scores {
		if i != top {
			rest += float64(p)
			second = max(second, float64(p))
		}
	}
	p, others := s.isotonic.At(float64(scores[top])), float64(len(scores)-1)
	if rest <= 0 { // a score of exactly 1: nothing says which of the others is next
		p = max(p, 1/(others+1))
		for i := range scores {
			scores[i] = float32((1 - p) / others)
		}
	} else {
		// The second may not pass the top: second (1-p)/rest <= p.
		share := second / rest
		p = max(p, share/(1+share))
		for i := range scores {
			scores[i] = min(float32(float64(scores[i])*(1-p)/rest), float32(p))
		}
	}
	scores[top] = float32(p)
}

// softmax is exp((x - max) / temperature) / sum, each step rounded to float32 as numpy's is.
func softmax(logits []float32, temperature float64) []float32 {
	p := make([]float32, len(logits))
	top := slices.Max(logits)
	var sum float32
	for i, x := range logits {
		p[i] = float32(math.Exp(float64(x-top) / temperature))
		sum += p[i]
	}
	for i := range p {
		p[i] /= sum
	}
	return p
}

func sigmoid(logits []float32, temperature float64) []float32 {
	p := make([]float32, len(logits))
	for i, x := range logits {
		p[i] = float32(1 / (1 + math.Exp(-float64(x)/temperature)))
	}
	return p
}
