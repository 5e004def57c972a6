package worker

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"sluice/cmd/sluice/settings"
	"sluice/model"
	"sluice/model/ort"
	"sluice/model/source"
	"sluice/pipeline"
	"sluice/pipeline/engine"
	"sluice/tokenize"
	"sluice/tokenize/hf"
)

// This file owns models of text: from a directory to a handle in an engine, and what there is to say about them.

// Model is a loaded model, ready to be run. Close ends it.
type Model struct {
	Settings  settings.Model
	Model     *model.Model
	Tokenizer tokenize.Tokenizer
	Judge     *model.Judge
	Session   engine.Session
	Handle    *engine.Handle // in the engine; nil before Models.Engine
	Student   *Model         // asked first; nil: none

	pair  bool     // it reads both texts of a record
	notes []string // sentences for a person
}

// Models are the models of a configuration; students stand behind the model that they belong to.
type Models []*Model

// opening is what all models of a configuration are opened with.
type opening struct {
	process    *Process
	runtime    engine.Runtime
	runners    int
	runTimeout time.Duration
	steps      Steps
}

// OpenModels opens every model of a configuration, students included: each is read, verified, loaded for so many
// runners, and self-tested. runTimeout is for each text of a self-test. The error joins those of all models; it is a
// configuration fault.
func (p *Process) OpenModels(ctx context.Context, list []settings.Model, runners int, runTimeout time.Duration,
	st Steps) (Models, error) {
	r, err := p.runtime()
	if err != nil {
		return nil, startFault("onnxruntime", err)
	}
	o := &opening{p, r, runners, runTimeout, st}
	var models Models
	var errs []error
	for _, s := range list {
		if err := ctx.Err(); err != nil {
			errs = append(errs, err)
			break
		}
		m, err := o.open(ctx, s)
		if err != nil {
			errs = append(errs, Unfault(err))
			continue
		}
		models = append(models, m)
		if s.Student == "" {
			continue
		}
		if m.Student, err = o.student(ctx, m); err != nil {
			errs = append(errs, fmt.Errorf("student of model %s: %w", s.Name, Unfault(err)))
		}
	}
	if len(errs) > 0 {
		models.Close()
		return nil, startFault("model", errors.Join(errs...))
	}
	return models, nil
}

// open reads, verifies, loads and self-tests one model.
func (o *opening) open(ctx context.Context, s settings.Model) (_ *Model, err error) {
	m := &Model{Settings: s}
	defer func() {
		if err != nil {
			m.Close()
		}
	}()
	if m.Model, err = source.Open(ctx, s.Path); err != nil {
		return nil, err
	}
	end := o.steps.Begin("verifying %s", s.Path)
	err = m.Model.Verify()
	end()
	if err != nil {
		return nil, err
	}
	if err := m.openTokenizer(); err != nil {
		return nil, err
	}
	end = o.steps.Begin("loading %s", s.Path)
	m.Session, err = o.runtime.Open(m.Model, engine.RuntimeOptions{Device: s.Device, DeviceFallback: s.DeviceFallback,
		Runners: o.runners})
	end()
	if err != nil {
		return nil, err
	}
	end = o.steps.Begin("self-test of %s", s.Path)
	ctx, cancel := context.WithTimeout(ctx, o.runTimeout*time.Duration(m.goldenTexts()))
	note, err := m.Session.SelfTest(ctx, m.Tokenizer)
	m.note(note)
	if err == nil && m.pair {
		err = m.tryPair(ctx)
	}
	cancel()
	end()
	return m, err
}

// openTokenizer makes the tokenizer and the judge, which need no runtime.
func (m *Model) openTokenizer() error {
	s := m.Settings
	definition, err := m.Model.Tokenizer()
	if err != nil {
		return fmt.Errorf("model %s: %w", s.Path, err)
	}
	var opts []hf.Option
	switch find, said := m.findSpecial(); {
	case find && definition.Split:
		m.note("its tokenizer_config.json says split_special_tokens: special tokens in a text are text for " +
			"transformers, too, whatever special_tokens says")
	case find:
		opts = append(opts, hf.FindSpecial)
	case !said && len(m.Model.OwnSpecial) > 0:
		m.note(fmt.Sprintf("its tokenizer has special tokens of its own (%s) that a text cannot hold: set "+
			"special_tokens: model where the model was trained with them in its texts, or special_tokens: text",
			some(m.Model.OwnSpecial)))
	}
	if m.Tokenizer, err = hf.New(definition.Definition, opts...); err != nil {
		return fmt.Errorf("model %s: %w", s.Path, err)
	}
	m.Judge, err = model.NewJudge(m.Model, m.Tokenizer, model.JudgeOptions{
		Aggregation: model.Aggregation(s.Aggregation), LongText: model.LongText(s.WindowMerge),
		AllScores: s.Scores == "all",
	})
	if err != nil {
		return err
	}
	pair, must := s.ReadsPairs()
	switch m.pair = pair && m.Model.Task == model.TextClassification; {
	case pair && must && !m.pair:
		return fmt.Errorf("model %s: reads: pair: it is for %s, and only text-classification reads two texts: write "+
			"reads: text", s.Path, m.Model.Task)
	case m.pair && m.encodePair().Err != nil:
		return fmt.Errorf("model %s: %w: it is too short for pairs of texts: write reads: text", s.Path,
			m.encodePair().Err)
	case m.pair && s.LongText == "window":
		return fmt.Errorf("model %s: long_text: window: pairs of texts are cut, not read in windows: write long_text: "+
			"truncate, or reads: text", s.Path)
	}
	if !m.pair && m.Model.Manifest.Pairs() {
		m.note("it was exported for pairs of texts, and reads one here: name the second one in input.text_pair")
	}
	if s.LongText == "window" {
		if probe := m.Tokenizer.Encode([][]byte{[]byte("a")}, m.TokenizeOptions())[0]; probe.Err != nil {
			return fmt.Errorf("model %s: stride %d with %d tokens: %w", s.Path, s.Stride, m.Model.MaxTokens, probe.Err)
		}
	}
	return nil
}

// tryPair runs the model on a pair, which it may not be able to tell from one text.
func (m *Model) tryPair(ctx context.Context) error {
	r, err := m.Session.NewRunner(-1)
	if err != nil {
		return err
	}
	defer r.Close()
	_, err = r.Run(ctx, []engine.Input{m.probe()})
	return err
}

// student opens the smaller model that is asked before m. It must decide the same question.
func (o *opening) student(ctx context.Context, m *Model) (*Model, error) {
	s := m.Settings
	s.Name, s.Path, s.Student = s.Name+"-student", s.Student, ""
	student, err := o.open(ctx, s)
	if err != nil {
		return nil, err
	}
	switch {
	case m.Model.Config.ProblemType == model.MultiLabel:
		err = fmt.Errorf("%s: %s gives every label a score of its own, so no single score says how sure a student "+
			"is; remove student", s.Path, m.Settings.Path)
	case student.Model.Task != m.Model.Task || !slices.Equal(slices.Sorted(slices.Values(student.Model.Labels)),
		slices.Sorted(slices.Values(m.Model.Labels))):
		err = fmt.Errorf("%s: its labels are %s, those of %s are %s; a student must have the same", s.Path,
			strings.Join(student.Model.Labels, ", "), m.Settings.Path, strings.Join(m.Model.Labels, ", "))
	}
	if err != nil {
		student.Close()
		return nil, err
	}
	return student, nil
}

// Close ends the model and its student. Nothing may run on it any more.
func (m *Model) Close() {
	if m.Student != nil {
		m.Student.Close()
	}
	if m.Session != nil {
		m.Session.Close()
	}
	if m.Tokenizer != nil {
		m.Tokenizer.Close()
	}
}

// findSpecial says whether special tokens in a text are the model's tokens, and whether somebody decided it.
func (m *Model) findSpecial() (find, said bool) {
	if s := m.Settings.SpecialTokens; s != "" {
		return s == string(model.SpecialModel), true
	}
	f := m.Model.Manifest
	if f == nil {
		return false, false
	}
	return f.SpecialTokens == model.SpecialModel, f.SpecialTokens != ""
}

// note keeps a sentence for a person; "" is none.
func (m *Model) note(sentence string) {
	if sentence != "" {
		m.notes = append(m.notes, sentence)
	}
}

// some is the beginning of a list.
func some(list []string) string {
	if len(list) > 5 {
		return fmt.Sprintf("%s and %d more", strings.Join(list[:5], ", "), len(list)-5)
	}
	return strings.Join(list, ", ")
}

// TokenizeOptions are how texts become rows of the model.
func (m *Model) TokenizeOptions() tokenize.Options {
	o := m.Model.TokenizeOptions()
	o.Windows, o.Stride = m.Settings.LongText == "window", m.Settings.Stride
	return o
}

// Tag names the model in verdicts.
func (m *Model) Tag() string { return m.Model.Tag(m.Settings.Name) }

// goldenTexts is how many texts the self-test runs; 1 where there are none.
func (m *Model) goldenTexts() int {
	if f := m.Model.Manifest; f != nil && f.Golden != nil {
		return max(1, len(f.Golden.Texts))
	}
	return 1
}

// encodePair is a short pair as the model reads it.
func (m *Model) encodePair() *tokenize.Encoded {
	a := []byte("a")
	return &m.Tokenizer.EncodePairs([][2][]byte{{a, a}}, m.Model.TokenizeOptions())[0]
}

// probe is a row that is known to work: the first golden text, or one letter where the model has none.
func (m *Model) probe() engine.Input {
	if m.pair {
		return &m.encodePair().Windows[0]
	}
	if f := m.Model.Manifest; f != nil && f.Golden != nil && len(f.Golden.Texts) > 0 {
		return engine.Tokens(f.Golden.Texts[0].InputIDs)
	}
	return &m.Tokenizer.Encode([][]byte{[]byte("a")}, m.Model.TokenizeOptions())[0].Windows[0]
}

// ModelPage is one loaded model in /status.
type ModelPage struct {
	Name          string               `json:"name"`
	Field         string               `json:"field"`
	Model         string               `json:"model"` // as verdicts name it
	Digest        string               `json:"digest"`
	Task          string               `json:"task"`
	Labels        []string             `json:"labels"`
	MaxTokens     int                  `json:"max_tokens"`
	Layout        string               `json:"layout"`
	Precision     string               `json:"precision"`
	Provider      string               `json:"provider"`
	BatchTokens   int                  `json:"batch_tokens"`                    // token budget of one run
	BatchMeasured []engine.BudgetPoint `json:"batch_tokens_measured,omitempty"` // what it was chosen from
	Directory     string               `json:"directory"`
	Warnings      []string             `json:"warnings,omitempty"`
}

// Page is the model in /status. Its budget is there when it is in an engine.
func (m *Model) Page() ModelPage {
	p := ModelPage{
		Name: m.Settings.Name, Field: m.Settings.VerdictField(), Model: m.Tag(), Digest: m.Model.Digest,
		Task: string(m.Model.Task), Labels: m.Model.Labels, MaxTokens: m.Model.MaxTokens,
		Layout: string(m.Model.Layout), Precision: "unknown", Provider: m.Session.Provider(),
		Directory: m.Settings.Path, Warnings: m.warnings(),
	}
	if m.Model.Manifest != nil {
		p.Precision = string(m.Model.Manifest.Precision)
	}
	if m.Handle != nil {
		b := m.Handle.Budget()
		p.BatchTokens, p.BatchMeasured = b.Tokens, b.Curve
	}
	return p
}

func (m *Model) warnings() []string {
	w := slices.Concat(m.Model.Warnings, m.Judge.Warnings(), m.Session.Warnings())
	w = append(w, m.notes...)
	for i := range w {
		w[i] = strings.TrimPrefix(w[i], "model "+m.Model.Name+": ")
	}
	return w
}

// WithStudents is the models with every student behind its model.
func (ms Models) WithStudents() Models {
	var all Models
	for _, m := range ms {
		all = append(all, m)
		if m.Student != nil {
			all = append(all, m.Student)
		}
	}
	return all
}

// Close ends the models, students included.
func (ms Models) Close() {
	for _, m := range ms {
		m.Close()
	}
}

// Engine makes an engine and loads the models into it, each with its student. The caller closes it before the models.
func (ms Models) Engine(ctx context.Context, o engine.Options) (*engine.Engine, error) {
	all := ms.WithStudents()
	list := make([]engine.Model, len(all))
	for i, m := range all {
		page := m.Page()
		list[i] = engine.Model{Name: page.Name, Digest: page.Digest, Session: m.Session, Probe: m.probe(),
			Tag: page.Model, Precision: model.Precision(page.Precision), Layout: m.Model.Layout}
	}
	e := engine.New(o)
	handles, err := e.LoadAll(ctx, list)
	if err != nil {
		e.Close()
		return nil, err
	}
	for i, m := range all {
		m.Handle = handles[i]
	}
	return e, nil
}

// Devices are all that a model may run on: each with as many runners as the configuration has.
func Devices(runners int) []engine.Device {
	return []engine.Device{{Name: "cpu", Runners: runners}, {Name: "cuda", Runners: runners}}
}

// Runners is how many runners the key runners means; 0 stands for as many as there are CPUs to use.
func Runners(setting int) int {
	if setting > 0 {
		return setting
	}
	return ort.DefaultRunners()
}

// ToolMetrics are for models that run outside a worker: nobody reads them.
func ToolMetrics() *engine.Metrics {
	reg := prometheus.NewRegistry()
	return engine.NewMetrics(reg, pipeline.NewStageMetrics(reg, pipeline.StageMetricsOptions{}))
}
