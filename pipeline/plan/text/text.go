// Package text has the steps of text models: a text is tokenized once for all models that see the same tokens, a
// student is asked first, and the model itself where the student is not sure enough.
package text

import (
	"context"
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"sluice/model"
	"sluice/pipeline"
	"sluice/pipeline/engine"
	"sluice/pipeline/failpoint"
	"sluice/pipeline/plan"
	"sluice/tokenize"
)

// Model is a text model that makes a fact.
type Model struct {
	Name    string   // of the fact
	Step             // the model itself
	Student *Student // a small model that is asked first; nil: none
}

// Step is a model that makes verdicts.
type Step struct {
	Tag       string // which model it is: "sentiment@3f9c2a1b2c3d"
	Handle    *engine.Handle
	Tokenizer tokenize.Tokenizer
	Judge     *model.Judge
	Options   tokenize.Options // MaxTokens, Windows, Stride; Offsets follows the judge
	Pair      bool             // the model reads both texts of a record
}

// Student is a small model before the full one: a verdict of it with a confidence of at least Threshold is final.
type Student struct {
	Step
	Threshold float64
}

// Metrics are the counters of text models.
type Metrics struct{ student *prometheus.CounterVec }

// NewMetrics registers the metrics with reg.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	return &Metrics{promauto.With(reg).NewCounterVec(prometheus.CounterOpts{Name: "sluice_student_verdicts_total",
		Help: "Records that a student model looked at, by result: final (it was sure), unsure (the full model was " +
			"asked). Mostly unsure: the student costs more than it saves; lower student_threshold or remove it."},
		[]string{"model", "result"})}
}

// Steps are the steps of models: a tokenization for each set of models that see the same tokens, and of every model its
// student's, where it has one, and its own.
func Steps(models []Model, m *Metrics) []plan.Step {
	var tokenizations []*tokenization
	tokens := func(s *Step) *tokenization {
		for _, t := range tokenizations {
			if t.tokenizer.Digest() == s.Tokenizer.Digest() && sameTokens(t.options, s.Options) && t.pair == s.Pair {
				t.options.Offsets = t.options.Offsets || s.Judge.NeedsOffsets()
				return t
			}
		}
		t := &tokenization{name: fmt.Sprintf("tokenize-%d", len(tokenizations)+1), tokenizer: s.Tokenizer,
			options: s.Options, pair: s.Pair}
		t.options.Offsets = t.options.Offsets || s.Judge.NeedsOffsets()
		tokenizations = append(tokenizations, t)
		return t
	}
	var steps []plan.Step
	for i := range models {
		full := &judging{Step: models[i].Step, fact: models[i].Name, tokens: tokens(&models[i].Step)}
		if s := models[i].Student; s != nil {
			full.student = &student{judging: judging{Step: s.Step, fact: models[i].Name, tokens: tokens(&s.Step)},
				threshold: s.Threshold, final: m.student.WithLabelValues(models[i].Name, "final"),
				unsure: m.student.WithLabelValues(models[i].Name, "unsure"), fullTag: models[i].Tag}
			steps = append(steps, full.student)
		}
		steps = append(steps, full)
	}
	for _, t := range tokenizations {
		steps = append(steps, t)
	}
	return steps
}

// Names are the names of the steps that make the facts of models: who needs all verdicts needs these.
func Names(models []Model) []string {
	names := make([]string, len(models))
	for i := range models {
		names[i] = "judge-" + models[i].Name
	}
	return names
}

func sameTokens(a, b tokenize.Options) bool {
	a.Offsets, b.Offsets = false, false
	return a == b
}

// tokenization makes the tokens of a text, for all models that see the same.
type tokenization struct {
	plan.Place
	name      string
	tokenizer tokenize.Tokenizer
	options   tokenize.Options
	pair      bool
}

// Describe implements plan.Step.
func (t *tokenization) Describe() plan.Info {
	return plan.Info{Name: t.name, Stage: "tokenize", Doing: "tokenized"}
}

// Do implements plan.Local.
func (t *tokenization) Do(items []*plan.Item) {
	texts := make([][]byte, len(items))
	for i, it := range items {
		texts[i] = it.Text
	}
	failpoint.Texts(texts)
	var encoded []tokenize.Encoded
	if t.pair {
		pairs := make([][2][]byte, len(items))
		for i, it := range items {
			pairs[i] = [2][]byte{it.Text, it.Pair}
		}
		encoded = t.tokenizer.EncodePairs(pairs, t.options)
	} else {
		encoded = t.tokenizer.Encode(texts, t.options)
	}
	failpoint.Hit(failpoint.AfterTokenize)
	for i, it := range items {
		e := &encoded[i]
		if e.Err != nil {
			f := pipeline.AsFault("tokenize", e.Err)
			if f.Reason == "failed" {
				f.Reason = "tokenizer-failed"
			}
			it.Fail(f)
			continue
		}
		tokens := 0
		for k := range e.Windows {
			tokens += len(e.Windows[k].IDs)
		}
		it.Weigh(tokens)
		it.Keep(&t.Place, e)
	}
}

// judging asks a model for its verdict on a text.
type judging struct {
	plan.Place
	Step
	fact    string
	tokens  *tokenization
	student *student // asked first; nil: none
}

// Describe implements plan.Step.
func (j *judging) Describe() plan.Info {
	info := plan.Info{Name: "judge-" + j.fact, Stage: "judge", Needs: []string{j.tokens.name}, Goal: true, Fact: j.fact,
		Tag: j.Tag}
	if j.student != nil {
		info.After = []string{j.student.Describe().Name}
	}
	return info
}

// Wanted implements plan.Conditional: what the student is sure of is final.
func (j *judging) Wanted(it *plan.Item) bool { return j.student == nil || it.FactOf(&j.Place).By == "" }

// Start implements plan.Waiting.
func (j *judging) Start(_ context.Context, it *plan.Item, end plan.End) {
	j.ask(it, func(a engine.Answer) {
		v, err := j.verdict(it, a)
		if err != nil {
			end.Fail(err)
			return
		}
		f := pipeline.Fact{Tag: j.Tag, By: by(a, pipeline.ByModel), Value: v}
		if j.student != nil {
			f.Unsure = it.Kept(&j.student.Place)
		}
		end.Fact(f)
	})
}

// student asks the small model. One that fails on a text is not sure of it.
type student struct {
	judging
	threshold     float64
	fullTag       string
	final, unsure prometheus.Counter
}

// Describe implements plan.Step.
func (s *student) Describe() plan.Info {
	info := s.judging.Describe()
	info.Name, info.Tag = "student-"+s.fact, s.fullTag
	return info
}

// Start implements plan.Waiting.
func (s *student) Start(_ context.Context, it *plan.Item, end plan.End) {
	s.ask(it, func(a engine.Answer) {
		v, err := s.verdict(it, a)
		switch {
		case err != nil:
			s.unsure.Inc()
			end.Keep(nil)
		case v.Confidence < s.threshold:
			s.unsure.Inc()
			end.Keep(v)
		default:
			s.final.Inc()
			end.Fact(pipeline.Fact{Tag: s.Tag, By: by(a, pipeline.ByStudent), Value: v})
		}
	})
}

func by(a engine.Answer, otherwise pipeline.By) pipeline.By {
	if a.Cached {
		return pipeline.ByCache
	}
	return otherwise
}

func (j *judging) encoded(it *plan.Item) *tokenize.Encoded {
	return it.Kept(&j.tokens.Place).(*tokenize.Encoded)
}

func (j *judging) ask(it *plan.Item, done func(engine.Answer)) {
	e := j.encoded(it)
	rows := make([]engine.Input, len(e.Windows))
	for k := range rows {
		rows[k] = &e.Windows[k]
	}
	j.Handle.Submit(engine.Ask{Inputs: rows, Urgent: it.Urgent, Since: it.Record.Timestamp, Done: done})
}

// verdict makes sense of logits. A panic over one text is that text's fault, not the worker's.
func (j *judging) verdict(it *plan.Item, a engine.Answer) (v *model.Verdict, err error) {
	if a.Err != nil {
		return nil, a.Err
	}
	defer func() {
		if p := recover(); p != nil {
			err = pipeline.Panicked("judge", fmt.Sprintf("model %s: %v", j.fact, p))
		}
	}()
	made, err := j.Judge.Verdict(it.Text, *j.encoded(it), a.Logits)
	if err != nil {
		return nil, pipeline.Faultf(pipeline.Poison, "judge", "no-verdict", "model %s: %w", j.fact, err)
	}
	return &made, nil
}
