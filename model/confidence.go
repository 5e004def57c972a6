package model

// How sure a verdict is, for rules and for students that decide whether to ask further: margin, entropy, confidence.
// All are computed from the scores that the verdict is made of, calibrated where the model is.

import "math"

// measure fills in Margin, Entropy and Confidence of a classification. scores are those of all labels.
func (v *Verdict) measure(scores []float32, kind scoreKind, top int) {
	v.Confidence = v.Score
	switch kind {
	case rawScores:
	case independentScores:
		v.Margin, v.Entropy = margin(scores, top), binaryEntropy(scores)
	default:
		v.Margin, v.Entropy = margin(scores, top), entropy(scores)
	}
}

// margin is the top score less the second; of a single probability p it is |2p - 1|, the distance to its complement.
func margin(scores []float32, top int) float64 {
	if len(scores) == 1 {
		return math.Abs(2*float64(scores[0]) - 1)
	}
	second := math.Inf(-1)
	for i, s := range scores {
		if i != top {
			second = max(second, float64(s))
		}
	}
	return float64(scores[top]) - second
}

// entropy is Shannon's, of scores made to add up to 1, divided by ln n: 0 is certain, 1 is a guess among n labels.
func entropy(scores []float32) float64 {
	if len(scores) < 2 {
		return 0
	}
	var sum, h float64
	for _, s := range scores {
		if p := float64(s); p > 0 {
			sum += p
			h -= p * math.Log(p)
		}
	}
	if sum <= 0 {
		return 1
	}
	// -sum (p/S) ln (p/S) = (-sum p ln p)/S + ln S
	return min(1, max(0, (h/sum+math.Log(sum))/math.Log(float64(len(scores)))))
}

// binaryEntropy is the mean over labels of the entropy of "has it" and "has it not", in bits.
func binaryEntropy(scores []float32) float64 {
	var sum float64
	for _, s := range scores {
		if p := float64(s); p > 0 && p < 1 {
			sum -= p*math.Log2(p) + (1-p)*math.Log2(1-p)
		}
	}
	return min(1, sum/float64(len(scores)))
}
