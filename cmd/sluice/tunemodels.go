package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	loadgen "sluice/cmd/sluice/load"
	"sluice/cmd/sluice/load/bare"
	"sluice/model"
	"sluice/model/tune"
	"sluice/pipeline/engine"
	"sluice/tokenize"
)

// This file runs a model and its student over labelled texts, in this process, and measures how fast each is.

// tunedModel finds the model that the labels are for: the named one, or the only one that has all of them.
func tunedModel(settings []ModelSettings, name string, texts []tune.Text) (at int, m *model.Model, err error) {
	at = -1
	var names, fitting []string
	for i, s := range settings {
		names = append(names, s.VerdictField())
		if name != "" && name != s.Name && name != s.VerdictField() {
			continue
		}
		candidate, err := model.Open(s.Path)
		if err != nil {
			return 0, nil, err
		}
		if name != "" || len(settings) == 1 {
			at, m = i, candidate
			break
		}
		if (candidate.Task == model.TokenClassification) == (texts[0].Entities != nil) && tune.CheckLabels(texts,
			labelsOf(candidate)) == nil {
			fitting = append(fitting, s.VerdictField())
			at, m = i, candidate
		}
	}
	switch {
	case name != "" && at < 0:
		return 0, nil, fmt.Errorf("the configuration has no model %q%s; it has %s", name, didYouMean(name, names),
			strings.Join(names, ", "))
	case at < 0:
		return 0, nil, fmt.Errorf("no model of the configuration (%s) has all labels of the file; correct them, or "+
			"name the model with --verdict to see which line is wrong", strings.Join(names, ", "))
	case len(fitting) > 1:
		return 0, nil, fmt.Errorf("the labels are those of several models (%s); name one with --verdict",
			strings.Join(fitting, ", "))
	}
	switch {
	case m.Task == model.TokenClassification && texts[0].Entities == nil:
		err = fmt.Errorf("the model %s finds entities, and the file has labels; write \"entities\" in place of "+
			"\"label\", or name another model with --verdict", names[at])
	case m.Task == model.TextClassification && texts[0].Entities != nil:
		err = fmt.Errorf("the model %s gives labels, and the file has entities; write \"label\" in place of "+
			"\"entities\", or name another model with --verdict", names[at])
	case m.Task == model.TokenClassification && settings[at].Aggregation == string(model.AggregationNone):
		err = fmt.Errorf("the model %s gives single tokens (aggregation: none), which are no entities; set another "+
			"aggregation", names[at])
	case m.Task == model.TokenClassification:
		err = tune.CheckLabels(texts, labelsOf(m))
	case m.Config.ProblemType == model.MultiLabel:
		err = fmt.Errorf("the model %s gives every label a score of its own, so no single score says how sure it is; "+
			"thresholds are tuned for models with one label a text", names[at])
	case m.Config.ProblemType == model.Regression || len(m.Labels) < 2:
		err = fmt.Errorf("the model %s gives a number and no label; thresholds are tuned for models with labels",
			names[at])
	default:
		err = tune.CheckLabels(texts, m.Labels)
	}
	return at, m, err
}

// labelsOf are the labels of a model's verdicts: its own, or the groups of its entities.
func labelsOf(m *model.Model) []string {
	if m.Task != model.TokenClassification {
		return m.Labels
	}
	var groups []string
	for _, l := range m.Labels {
		if _, group, ok := strings.Cut(l, "-"); ok && !slices.Contains(groups, group) && (l[0] == 'B' || l[0] == 'I') {
			groups = append(groups, group)
		}
	}
	return groups
}

// tuneRun is what the models said, and how fast.
type tuneRun struct {
	samples        []tune.Sample
	model, student string // their tags; student "" where there is none
	speed          tune.Speed
	machine, how   string
}

// said is one model's part of a run.
type said struct {
	verdicts []model.Verdict
	rows     [][]engine.Input // of each text
}

func (s *said) tokens(i int) (n int) {
	for _, r := range s.rows[i] {
		n += r.Cost()
	}
	return n
}

// runModels judges every text with the at-th model of the configuration and with its student.
func runModels(ctx context.Context, c *loaded, at int, texts []tune.Text, promptTokens int, length time.Duration,
	st steps) (*tuneRun, error) {
	runners := runnersOf(c.Runners)
	models, err := openModels(ctx, c.Models[at:at+1], runners, c.RunTimeout, st)
	if err != nil {
		return nil, err
	}
	defer closeModels(models)
	all := withStudents(models)
	ctx, broken := context.WithCancelCause(ctx)
	defer broken(nil)
	eng, err := newEngine(ctx, models, engine.Options{
		Devices: devices(runners), BatchTokens: c.BatchTokens, Warm: length > 0, Timeout: c.RunTimeout,
		Watchdog: newWatchdog(c.RunTimeout, sayAnd(broken)), Metrics: toolMetrics(), Fail: broken,
	})
	if err != nil {
		return nil, err
	}
	closed := sync.OnceFunc(eng.Close)
	defer closed()
	answers := make([]*said, len(all))
	for i, m := range all {
		end := st.begin("%d texts through %s", len(texts), m.settings.Path)
		answers[i], err = askAll(ctx, m, texts, int(c.Input.MaxTextBytes))
		end()
		if err != nil {
			return nil, err
		}
	}
	closed()

	run := &tuneRun{samples: make([]tune.Sample, len(texts)), model: all[0].tag()}
	machine := loadgen.DescribeMachine()
	run.machine = fmt.Sprintf("%s, %d cores", machine.CPU, machine.Cores)
	for i := range texts {
		s := tune.Sample{Text: texts[i], Model: verdictOf(&answers[0].verdicts[i]), ModelTokens: answers[0].tokens(i)}
		s.PromptTokens = promptTokens + s.ModelTokens
		if len(all) > 1 {
			s.Student, s.StudentTokens = verdictOf(&answers[1].verdicts[i]), answers[1].tokens(i)
		}
		run.samples[i] = s
	}
	if len(all) > 1 {
		run.student = all[1].tag()
	}
	if length == 0 {
		run.how = "not measured (--seconds 0)"
		return run, nil
	}
	return run, run.measure(ctx, all, answers, texts, runners, length, st)
}

// verdictOf is what decides about a route: the label, or the entities, and how sure the model is.
func verdictOf(v *model.Verdict) tune.Verdict {
	if v.Entities == nil {
		return tune.Verdict{Label: v.Label, Score: v.Confidence}
	}
	entities := make([]tune.Entity, len(v.Entities))
	for i, e := range v.Entities {
		entities[i] = tune.Entity{Group: e.Group, Start: e.Start, End: e.End}
	}
	return tune.Verdict{Label: tune.Canonical(entities), Entities: entities, Score: v.Confidence}
}

// askAll judges every text with one model, as the classifier does. A text that cannot be judged is an error with its
// line.
func askAll(ctx context.Context, m *loadedModel, texts []tune.Text, maxBytes int) (*said, error) {
	clean := make([][]byte, len(texts))
	for i := range texts {
		clean[i] = tokenize.Clean([]byte(texts[i].Text), maxBytes).Bytes
	}
	options := m.tokenizeOptions()
	options.Offsets = m.judge.NeedsOffsets()
	encoded := m.tokenizer.Encode(clean, options)
	s := &said{verdicts: make([]model.Verdict, len(texts)), rows: make([][]engine.Input, len(texts))}
	errs := make([]error, len(texts))
	done := make(chan struct{})
	var left atomic.Int64
	left.Store(int64(len(texts)))
	finish := func() {
		if left.Add(-1) == 0 {
			close(done)
		}
	}
	for i := range texts {
		if errs[i] = encoded[i].Err; errs[i] != nil {
			finish()
			continue
		}
		s.rows[i] = inputsOf(encoded[i].Windows)
		m.handle.Submit(engine.Ask{Inputs: s.rows[i], Done: func(a engine.Answer) {
			defer finish()
			if errs[i] = a.Err; a.Err == nil {
				s.verdicts[i], errs[i] = m.judge.Verdict(clean[i], encoded[i], a.Logits)
			}
		}})
	}
	select {
	case <-done:
	case <-ctx.Done():
		return nil, fmt.Errorf("tune: %w", context.Cause(ctx))
	}
	var named []error
	for i, err := range errs {
		if err != nil && len(named) < 10 {
			named = append(named, fmt.Errorf("line %d: %s cannot judge the text: %w; remove the line", texts[i].Line,
				m.settings.Path, unfault(err)))
		}
	}
	if named != nil {
		return nil, fmt.Errorf("tune: %w", errors.Join(named...))
	}
	return s, nil
}

// measure times tokenizers and models, each alone. all[0] is the full model.
func (run *tuneRun) measure(ctx context.Context, all []*loadedModel, answers []*said,
	texts []tune.Text, runners int, length time.Duration, st steps) error {
	for i, m := range all {
		end := st.begin("measuring %s for %v", m.settings.Path, length)
		r, err := bare.Run(ctx, slices.Concat(answers[i].rows...), bare.Options{
			Runners: runners, BatchTokens: m.handle.Budget().Tokens, Length: length, Open: m.session.NewRunner,
			Warm: m.session.Warmup,
		})
		end()
		if err != nil {
			return fmt.Errorf("tune: measuring %s: %w", m.settings.Path, err)
		}
		if i == 0 {
			run.speed.Model = r.TokensPerS
		} else {
			run.speed.Student = r.TokensPerS
		}
	}
	perText := 0.0
	for i, m := range all {
		if i > 0 && m.tokenizer.Digest() == all[0].tokenizer.Digest() &&
			m.tokenizeOptions() == all[0].tokenizeOptions() {
			continue // tokenized once for both
		}
		perText += 1 / tokenizeRate(m, texts, runners, length/4)
	}
	run.speed.Tokenize = 1 / perText
	s := run.speed
	run.how = fmt.Sprintf("composed of tokenizing (%.0f texts/s), %smodel (%.0f tokens/s), each measured alone with "+
		"%d runners on these texts, their times added up; Kafka and JSON come on top", s.Tokenize, studentSpeed(s),
		s.Model, runners)
	return nil
}

func studentSpeed(s tune.Speed) string {
	if s.Student == 0 {
		return ""
	}
	return fmt.Sprintf("student (%.0f tokens/s) and ", s.Student)
}

// tokenizeRate is how many texts a second n goroutines tokenize.
func tokenizeRate(m *loadedModel, texts []tune.Text, n int, length time.Duration) float64 {
	const atOnce = 16 // as the classifier does
	var chunks [][][]byte
	for part := range slices.Chunk(texts, atOnce) {
		var chunk [][]byte
		for i := range part {
			chunk = append(chunk, []byte(part[i].Text))
		}
		chunks = append(chunks, chunk)
	}
	var next, count atomic.Int64
	var wg sync.WaitGroup
	began := time.Now()
	for range n {
		wg.Go(func() {
			for {
				chunk := chunks[int(next.Add(1)-1)%len(chunks)]
				m.tokenizer.Encode(chunk, m.tokenizeOptions())
				count.Add(int64(len(chunk)))
				if time.Since(began) >= length {
					return
				}
			}
		})
	}
	wg.Wait()
	return float64(count.Load()) / time.Since(began).Seconds()
}
