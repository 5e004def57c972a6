package tune

import (
	"fmt"

	"sluice/model"
	"sluice/model/judging"
	"sluice/model/labelled"
)

// This file owns the way from what models said to samples.

// Samples are labelled texts with what the model, and its student, said about each; student is nil where there is none.
// promptTokens are those of a question beside the text.
func Samples(texts []labelled.Text, full, student []judging.Judged, promptTokens int) []Sample {
	samples := make([]Sample, len(texts))
	for i := range texts {
		s := &samples[i]
		s.Text, s.Model, s.ModelTokens = texts[i], verdictOf(&full[i].Verdict), full[i].Tokens()
		s.PromptTokens = promptTokens + s.ModelTokens
		if student != nil {
			s.Student, s.StudentTokens = verdictOf(&student[i].Verdict), student[i].Tokens()
		}
	}
	return samples
}

// verdictOf is what decides who judges a text: the label, or the entities, and how sure the model is.
func verdictOf(v *model.Verdict) Verdict {
	if v.Entities == nil {
		return Verdict{Label: v.Label, Score: v.Confidence}
	}
	entities := make([]labelled.Entity, len(v.Entities))
	for i, e := range v.Entities {
		entities[i] = labelled.Entity{Group: e.Group, Start: e.Start, End: e.End}
	}
	return Verdict{Label: labelled.Canonical(entities), Entities: entities, Score: v.Confidence}
}

// Answers says in words where the endpoint's part of a curve comes from. assumed is its assumed share of right answers;
// 0: none is assumed.
func Answers(texts []labelled.Text, assumed float64) string {
	answered := 0
	for i := range texts {
		if texts[i].Answered {
			answered++
		}
	}
	switch {
	case answered == len(texts):
		return "its answers are in the labelled file"
	case answered > 0 && assumed > 0:
		return fmt.Sprintf("its answers to %d of %d texts are in the labelled file; for the others %.4g %% right "+
			"answers are assumed, whatever the text", answered, len(texts), 100*assumed)
	case answered > 0:
		return fmt.Sprintf("its answers to %d of %d texts are in the labelled file; steps that ask about others show "+
			"shares and cost only", answered, len(texts))
	case assumed > 0:
		return fmt.Sprintf("%.4g %% right answers are assumed, whatever the text", 100*assumed)
	}
	return `what it answers is unknown, so its steps show shares and cost only; give "llm" in the labelled file, or ` +
		`--llm-accuracy`
}

// Tokenizers is how many texts a second are tokenized by several tokenizers one after the other, each at a rate.
func Tokenizers(rates ...float64) float64 {
	perText := 0.0
	for _, r := range rates {
		perText += 1 / r
	}
	return 1 / perText
}

// How says in words what a speed was made of, on so many runners.
func (s Speed) How(runners int) string {
	if s.Model == 0 {
		return "not measured (--seconds 0)"
	}
	student := ""
	if s.Student > 0 {
		student = fmt.Sprintf("student (%.0f tokens/s) and ", s.Student)
	}
	return fmt.Sprintf("composed of tokenizing (%.0f texts/s), %smodel (%.0f tokens/s), each measured alone with %d "+
		"runners on these texts, their times added up; Kafka and JSON come on top", s.Tokenize, student, s.Model,
		runners)
}
