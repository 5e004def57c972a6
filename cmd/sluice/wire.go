package main

// This file joins the rooms: the only place that knows the tokenizer, the model runtime, the Kafka client and the
// pipeline at once.

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"sluice/model"
	"sluice/model/ort"
	"sluice/pipeline"
	"sluice/pipeline/kafka"
	"sluice/tokenize"
	"sluice/tokenize/hf"
)

// ---- ONNX Runtime

// initOnnxRuntime loads ONNX Runtime: the file that SLUICE_ONNXRUNTIME names, else lib/libonnxruntime.so.1 beside the
// binary.
func initOnnxRuntime() error { return ort.Init("") }

// executableDir is the directory of the binary, links resolved.
func executableDir() (string, error) {
	exe, err := os.Executable()
	if err == nil {
		exe, err = filepath.EvalSymlinks(exe)
	}
	if err != nil {
		return "", fmt.Errorf("where this program is: %w", err)
	}
	return filepath.Dir(exe), nil
}

// ---- models

// loadedModel is one model, ready to be run.
type loadedModel struct {
	settings  ModelSettings
	model     *model.Model
	tokenizer tokenize.Tokenizer
	judge     *model.Judge
	session   *ort.Session
	student   *loadedModel // asked first; nil: none
	note      string       // of the self-test, where there was nothing to test
}

// openModel reads, verifies, loads and self-tests one model.
func openModel(ctx context.Context, s ModelSettings, o ort.Options, st steps) (_ *loadedModel, err error) {
	l := &loadedModel{settings: s}
	defer func() {
		if err != nil {
			l.close()
		}
	}()
	if l.model, err = model.Open(s.Path); err != nil {
		return nil, err
	}
	end := st.begin("verifying %s", s.Path)
	err = l.model.Verify()
	end()
	if err != nil {
		return nil, err
	}
	definition, err := l.model.Load(model.TokenizerFile)
	if err != nil {
		return nil, fmt.Errorf("model %s: %w", s.Path, err)
	}
	if l.tokenizer, err = hf.New(definition); err != nil {
		return nil, fmt.Errorf("model %s: %w", s.Path, err)
	}
	l.judge, err = model.NewJudge(l.model, l.tokenizer, model.JudgeOptions{
		Aggregation: model.Aggregation(s.Aggregation), LongText: model.LongText(s.WindowMerge),
		AllScores: s.Scores == "all",
	})
	if err != nil {
		return nil, err
	}
	if s.LongText == "window" {
		if probe := l.tokenizer.Encode([][]byte{[]byte("a")}, l.tokenizeOptions())[0]; probe.Err != nil {
			return nil, fmt.Errorf("model %s: stride %d with %d tokens: %w", s.Path, s.Stride, l.model.MaxTokens,
				probe.Err)
		}
	}
	end = st.begin("loading %s", s.Path)
	l.session, err = ort.Open(l.model, o)
	end()
	if err != nil {
		return nil, err
	}
	end = st.begin("self-test of %s", s.Path)
	l.note, err = l.session.SelfTest(ctx, l.tokenizer)
	end()
	return l, err
}

func (l *loadedModel) close() {
	if l.student != nil {
		l.student.close()
	}
	if l.session != nil {
		l.session.Close()
	}
	if l.tokenizer != nil {
		l.tokenizer.Close()
	}
}

func (l *loadedModel) tokenizeOptions() tokenize.Options {
	return tokenize.Options{MaxTokens: l.model.MaxTokens, Windows: l.settings.LongText == "window",
		Stride: l.settings.Stride}
}

// tag names the model in verdicts.
func (l *loadedModel) tag() string { return l.model.Tag(l.settings.Name) }

func (l *loadedModel) page() modelPage {
	precision := "unknown"
	if l.model.Manifest != nil {
		precision = string(l.model.Manifest.Precision)
	}
	return modelPage{
		Name: l.settings.Name, Field: l.settings.VerdictField(), Model: l.tag(), Digest: l.model.Digest,
		Task:   string(l.model.Task),
		Labels: l.model.Labels, MaxTokens: l.model.MaxTokens, Layout: string(l.model.Layout), Precision: precision,
		Provider: l.session.Provider(), Directory: l.settings.Path, Warnings: l.warnings(),
	}
}

func (l *loadedModel) warnings() []string {
	w := slices.Concat(l.model.Warnings, l.judge.Warnings(), l.session.Warnings())
	if l.note != "" {
		w = append(w, l.note)
	}
	for i := range w {
		w[i] = strings.TrimPrefix(w[i], "model "+l.model.Name+": ")
	}
	return w
}

// probe is a row that is known to work: the first golden text, or one letter where the model has none.
func (l *loadedModel) probe() pipeline.Row {
	if m := l.model.Manifest; m != nil && m.Golden != nil && len(m.Golden.Texts) > 0 {
		return m.Golden.Texts[0].InputIDs
	}
	return l.tokenizer.Encode([][]byte{[]byte("a")}, tokenize.Options{MaxTokens: l.model.MaxTokens})[0].Windows[0].IDs
}

// openModels opens every model of a configuration, students included, which stand behind the model that they belong to.
// The error joins those of all models; it is a configuration fault.
func openModels(ctx context.Context, settings []ModelSettings, runners int, runTimeout time.Duration,
	st steps) ([]*loadedModel, error) {
	if err := initOnnxRuntime(); err != nil {
		return nil, &pipeline.Fault{Kind: pipeline.Config, Stage: "start", Reason: "onnxruntime", Err: err}
	}
	var models []*loadedModel
	var errs []error
	for _, s := range settings {
		if err := ctx.Err(); err != nil {
			errs = append(errs, err)
			break
		}
		o := ort.Options{Device: s.Device, DeviceFallback: s.DeviceFallback, Runners: runners, RunTimeout: runTimeout}
		m, err := openModel(ctx, s, o, st)
		if err != nil {
			errs = append(errs, unfault(err))
			continue
		}
		models = append(models, m)
		if s.Student == "" {
			continue
		}
		if m.student, err = openStudent(ctx, m, o, st); err != nil {
			errs = append(errs, fmt.Errorf("student of model %s: %w", s.Name, unfault(err)))
		}
	}
	if len(errs) > 0 {
		closeModels(models)
		return nil, &pipeline.Fault{Kind: pipeline.Config, Stage: "start", Reason: "model", Err: errors.Join(errs...)}
	}
	return models, nil
}

// openStudent opens the smaller model that is asked before m. It must decide the same question.
func openStudent(ctx context.Context, m *loadedModel, o ort.Options, st steps) (*loadedModel, error) {
	s := m.settings
	s.Name, s.Path, s.Student = s.Name+"-student", s.Student, ""
	student, err := openModel(ctx, s, o, st)
	if err != nil {
		return nil, err
	}
	switch {
	case m.model.Config.ProblemType == model.MultiLabel:
		err = fmt.Errorf("%s: %s gives every label a score of its own, so no single score says how sure a student "+
			"is; remove student", s.Path, m.settings.Path)
	case student.model.Task != m.model.Task || !slices.Equal(slices.Sorted(slices.Values(student.model.Labels)),
		slices.Sorted(slices.Values(m.model.Labels))):
		err = fmt.Errorf("%s: its labels are %s, those of %s are %s; a student must have the same", s.Path,
			strings.Join(student.model.Labels, ", "), m.settings.Path, strings.Join(m.model.Labels, ", "))
	}
	if err != nil {
		student.close()
		return nil, err
	}
	return student, nil
}

// withStudents is models with every student behind its model: the order of models in the engine.
func withStudents(models []*loadedModel) []*loadedModel {
	var all []*loadedModel
	for _, m := range models {
		all = append(all, m)
		if m.student != nil {
			all = append(all, m.student)
		}
	}
	return all
}

func closeModels(models []*loadedModel) {
	for _, m := range models {
		m.close()
	}
}

// ---- the processor

// newEngine starts runners for models. warm runs the longest row on each of them first, so that buffers have their full
// size before the first record.
func newEngine(models []*loadedModel, warm bool, o pipeline.EngineOptions) (*pipeline.Engine, error) {
	var list []pipeline.EngineModel
	for _, m := range withStudents(models) {
		e := pipeline.EngineModel{Name: m.settings.Name, Digest: m.model.Digest, Open: func(n int) (pipeline.Runner,
			error) {
			r, err := m.session.NewRunner(n)
			if err != nil {
				return nil, err
			}
			return wrapRunner(r), nil
		}, Probe: m.probe(), Clock: m.session.Clock()}
		if warm {
			e.Warm = m.session.Warmup
		}
		list = append(list, e)
		page := m.page()
		o.Metrics.ModelLoaded(page.Name, page.Model, page.Digest, page.Provider, page.Precision, page.Layout)
	}
	o.Grace = wedgedGrace
	o.Wedged = leaving(o.Wedged)
	return pipeline.NewEngine(list, o)
}

// newWatchdog makes a stage's watchdog: where something done to a record does not end, the stage fails, and the process
// is left.
func newWatchdog(s *Settings, stage func() *pipeline.Stage, log *slog.Logger) *pipeline.Watchdog {
	leave := leaving(sayWedged(log))
	return pipeline.NewWatchdog(pipeline.WatchdogOptions{Timeout: s.RunTimeout, Grace: wedgedGrace,
		Wedged: func(err error) {
			stage().Fail(err)
			leave(err)
		}})
}

func sayWedged(log *slog.Logger) func(error) {
	return func(err error) {
		log.Error("ending the process: something hangs that cannot be ended", "error", err)
	}
}

// leaving tells of what hangs, on stderr where say is nil, and ends the process.
func leaving(say func(error)) func(error) {
	return func(err error) {
		if say != nil {
			say(err)
		} else {
			fmt.Fprintf(os.Stderr, "sluice: %v\n", err)
		}
		// What can be ended in order ends until then; the thread that hangs cannot, and nothing that it uses may be
		// freed.
		time.AfterFunc(wedgedExit, func() { os.Exit(exitFailed) })
	}
}

// wedgedExit is how long after something was found to hang the process ends, and wedgedGrace WatchdogOptions.Grace;
// tests are in more of a hurry.
var (
	wedgedExit  = 3 * time.Second
	wedgedGrace = time.Duration(0) // the default
)

// wrapRunner and wrapTokenizer are for tests that need a run, or a text, which never ends.
var (
	wrapRunner    = func(r pipeline.Runner) pipeline.Runner { return r }
	wrapTokenizer = func(t tokenize.Tokenizer) tokenize.Tokenizer { return t }
)

// newClassifier starts the processor that runs all models on every record.
func newClassifier(models []*loadedModel, engine *pipeline.Engine, s *Settings, w *pipeline.Writer,
	m *pipeline.Metrics) (*pipeline.Classifier, error) {
	urgent, err := urgentOf(s.Urgent)
	if err != nil {
		return nil, err
	}
	all := withStudents(models)
	step := func(m *loadedModel) pipeline.Step {
		return pipeline.Step{Engine: slices.Index(all, m), Tag: m.tag(), Tokenizer: wrapTokenizer(m.tokenizer),
			Judge: m.judge, Options: m.tokenizeOptions()}
	}
	list := make([]pipeline.ClassifierModel, len(models))
	for i, m := range models {
		list[i] = pipeline.ClassifierModel{Name: m.settings.VerdictField(), Step: step(m)}
		if m.student != nil {
			list[i].Student = &pipeline.Student{Step: step(m.student), Threshold: m.settings.StudentThreshold}
		}
	}
	return pipeline.NewClassifier(list, engine, pipeline.ClassifierOptions{
		Decoder:      decoderOf(s),
		Writer:       *w,
		MaxTextBytes: int(s.Input.MaxTextBytes),
		Urgent:       urgent,
		Metrics:      m,
	}), nil
}

// urgentOf is nil where nothing is urgent.
func urgentOf(s UrgentSettings) (*pipeline.Urgent, error) {
	if len(s.Topics) == 0 && s.Header == "" && s.When == "" {
		return nil, nil
	}
	u := &pipeline.Urgent{Topics: s.Topics}
	u.HeaderName, u.HeaderValue, _ = strings.Cut(s.Header, "=")
	if s.When != "" {
		var err error
		if u.When, err = pipeline.ParseRule(s.When); err != nil {
			return nil, pipeline.Faultf(pipeline.Config, "start", "urgent", "urgent.when: %w", err)
		}
	}
	return u, nil
}

func limitsOf(l LimitSettings) pipeline.Limits {
	return pipeline.Limits{
		PartitionRecords: l.Partition.Records, PartitionBytes: int(l.Partition.Bytes),
		PartitionTokens: l.Partition.Tokens,
		TotalRecords:    l.Total.Records, TotalBytes: int(l.Total.Bytes), TotalTokens: l.Total.Tokens,
	}
}

// runnersOf is how many runners a setting means.
func runnersOf(setting int) int {
	if setting > 0 {
		return setting
	}
	return ort.DefaultRunners()
}

// ---- Kafka

// kafkaConfig turns the settings into the client's, reading the files of certificates and secrets once. The error joins
// all mistakes.
func kafkaConfig(s *Settings) (kafka.Config, error) {
	c := kafkaPlan(s)
	if err := kafkaSecurity(&c, &s.Kafka); err != nil {
		return c, &pipeline.Fault{Kind: pipeline.Config, Stage: "start", Reason: "kafka", Err: err}
	}
	return c, nil
}

// kafkaPlan is the client's configuration without its certificates and its login.
func kafkaPlan(s *Settings) kafka.Config {
	c := kafka.DefaultConfig()
	k := &s.Kafka
	c.Brokers, c.Group, c.InstanceID = k.Brokers, k.Group, k.InstanceID
	c.ClientID = "sluice-" + k.InstanceID
	c.SessionTimeout, c.RebalanceTimeout, c.TransactionTimeout = k.SessionTimeout, k.RebalanceTimeout,
		k.TransactionTimeout
	c.Guarantee, c.Start = kafka.Guarantee(k.Guarantee), kafka.Start(s.Input.Start)
	c.Topics, c.Outputs = s.Input.Topics, resultTopics(s)
	if s.Escalation.On() {
		c.Outputs = append(c.Outputs, s.Escalation.Topic)
	}
	c.Compression, c.FetchMaxBytes, c.FetchMaxWait = k.Compression, int(k.Fetch.MaxBytes), k.Fetch.MaxWait
	return c
}

// observe connects the Kafka client's events to metrics.
func observe(m *pipeline.StageMetrics) kafka.Observer {
	return kafka.Observer{
		Rebalance: func(int32, int) { m.Rebalanced() },
		Retry:     m.Retried,
		InGroup:   m.Joined,
		Contact:   m.Reached,

		UnstableOffsets: m.OffsetsUnstable,
	}
}
