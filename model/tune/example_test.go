package tune_test

import (
	"fmt"
	"math"

	"sluice/model/labelled"
	"sluice/model/tune"
)

// A student is right wherever it is sure. Which of its verdicts may be final, where it may cost one point of accuracy?
func ExampleCascade_Choose() {
	var samples []tune.Sample
	for i := range 1000 {
		s := tune.Sample{Text: labelled.Text{Text: "…", Label: "GOOD"}}
		s.Model = tune.Verdict{Label: "GOOD", Score: 0.99}
		s.Student = tune.Verdict{Label: "GOOD", Score: 0.5 + float64(i)/2000}
		if s.Student.Score < 0.6 {
			s.Student.Label = "BAD"
		}
		samples = append(samples, s)
	}
	c := tune.Cascade{HasStudent: true, Labels: []string{"BAD", "GOOD"}}
	choice := c.Choose(samples, tune.Goal{Within: math.NaN(), MostCalls: math.NaN(), StudentLoss: 0.01,
		Confidence: 0.95})
	p := c.At(samples, choice.Setting)
	fmt.Printf("student_threshold: %s\n", tune.Threshold(choice.Student))
	fmt.Printf("the student decides %.0f %% of the texts, accuracy %.1f %%\n", 100*p.ByStudent, 100*p.Accuracy)
	// Output:
	// student_threshold: 0.6
	// the student decides 80 % of the texts, accuracy 100.0 %
}
