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

	"github.com/prometheus/client_golang/prometheus"
	"sluice/cmd/sluice/settings"

	"sluice/model"
	"sluice/model/ort"
	"sluice/pipeline"
	"sluice/pipeline/engine"
	"sluice/pipeline/kafka"
	"sluice/pipeline/plan"
	"sluice/pipeline/plan/text"
	"sluice/pipeline/publish"
	"sluice/pipeline/rule"
	"sluice/tokenize"
	"sluice/tokenize/hf"
)

// ---- ONNX Runtime

// initOnnxRuntime loads ONNX Runtime: the file that SLUICE_ONNXRUNTIME names, else lib/libonnxruntime.so.1 beside the
// binary.
func initOnnxRuntime() error { return ort.Init("") }

// modelRuntime is what runs models, once initOnnxRuntime has been called. Tests put another one around it.
var modelRuntime engine.Runtime = ort.Runtime{}

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
	settings  settings.Model
	model     *model.Model
	tokenizer tokenize.Tokenizer
	judge     *model.Judge
	session   engine.Session
	handle    *engine.Handle // in the engine; nil before newEngine
	student   *loadedModel   // asked first; nil: none
	note      string         // of the self-test, where there was nothing to test
}

// openModel reads, verifies, loads and self-tests one model. runTimeout is for each text of the self-test.
func openModel(ctx context.Context, s settings.Model, o engine.RuntimeOptions, runTimeout time.Duration, st steps) (
	_ *loadedModel, err error) {
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
	l.session, err = modelRuntime.Open(l.model, o)
	end()
	if err != nil {
		return nil, err
	}
	end = st.begin("self-test of %s", s.Path)
	ctx, cancel := context.WithTimeout(ctx, runTimeout*time.Duration(l.goldenTexts()))
	l.note, err = l.session.SelfTest(ctx, l.tokenizer)
	cancel()
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

// goldenTexts is how many texts the self-test runs; 1 where there are none.
func (l *loadedModel) goldenTexts() int {
	if m := l.model.Manifest; m != nil && m.Golden != nil {
		return max(1, len(m.Golden.Texts))
	}
	return 1
}

// probe is a row that is known to work: the first golden text, or one letter where the model has none.
func (l *loadedModel) probe() engine.Input {
	if m := l.model.Manifest; m != nil && m.Golden != nil && len(m.Golden.Texts) > 0 {
		return engine.Tokens(m.Golden.Texts[0].InputIDs)
	}
	return &l.tokenizer.Encode([][]byte{[]byte("a")}, tokenize.Options{MaxTokens: l.model.MaxTokens})[0].Windows[0]
}

// openModels opens every model of a configuration, students included, which stand behind the model that they belong to.
// The error joins those of all models; it is a configuration fault.
func openModels(ctx context.Context, settings []settings.Model, runners int, runTimeout time.Duration,
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
		o := engine.RuntimeOptions{Device: s.Device, DeviceFallback: s.DeviceFallback, Runners: runners}
		m, err := openModel(ctx, s, o, runTimeout, st)
		if err != nil {
			errs = append(errs, unfault(err))
			continue
		}
		models = append(models, m)
		if s.Student == "" {
			continue
		}
		if m.student, err = openStudent(ctx, m, o, runTimeout, st); err != nil {
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
func openStudent(ctx context.Context, m *loadedModel, o engine.RuntimeOptions, runTimeout time.Duration, st steps) (
	*loadedModel, error) {
	s := m.settings
	s.Name, s.Path, s.Student = s.Name+"-student", s.Student, ""
	student, err := openModel(ctx, s, o, runTimeout, st)
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

// withStudents is models with every student behind its model.
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

// newEngine makes an engine and loads models into it, each with its student.
func newEngine(ctx context.Context, models []*loadedModel, o engine.Options) (*engine.Engine, error) {
	all := withStudents(models)
	list := make([]engine.Model, len(all))
	for i, m := range all {
		page := m.page()
		list[i] = engine.Model{Name: page.Name, Digest: page.Digest, Session: m.session, Probe: m.probe(),
			Tag: page.Model, Precision: model.Precision(page.Precision), Layout: m.model.Layout}
	}
	e := engine.New(o)
	handles, err := e.LoadAll(ctx, list)
	if err != nil {
		e.Close()
		return nil, err
	}
	for i, m := range all {
		m.handle = handles[i]
	}
	return e, nil
}

// devices are all that a model may run on: each with as many runners as the configuration has.
func devices(runners int) []engine.Device {
	return []engine.Device{{Name: "cpu", Runners: runners}, {Name: "cuda", Runners: runners}}
}

// toolMetrics are for models that run outside a worker: nobody reads them.
func toolMetrics() *engine.Metrics {
	reg := prometheus.NewRegistry()
	return engine.NewMetrics(reg, pipeline.NewStageMetrics(reg, pipeline.StageMetricsOptions{}))
}

// newWatchdog makes the process's watchdog. fail is told when something hangs, and must see to it that what can be
// ended in order is; then the process ends, because the thread that hangs cannot, and nothing that it uses may be
// freed.
func newWatchdog(runTimeout time.Duration, fail func(error)) *pipeline.Watchdog {
	return pipeline.NewWatchdog(pipeline.WatchdogOptions{Timeout: runTimeout, Grace: wedgedGrace,
		Wedged: func(err error) {
			fail(err)
			time.AfterFunc(wedgedExit, func() { os.Exit(exitFailed) })
		}})
}

// failAndSay ends a stage and tells its log why.
func failAndSay(fail func(error), log *slog.Logger) func(error) {
	return func(err error) {
		fail(err)
		log.Error("ending the process: something hangs that cannot be ended", "error", err)
	}
}

// sayAnd says on standard error what went wrong, for tools without a log, and hands it on.
func sayAnd(then func(error)) func(error) {
	return func(err error) {
		then(err)
		fmt.Fprintf(os.Stderr, "sluice: %v\n", err)
	}
}

// wedgedExit is how long after something was found to hang the process ends, and wedgedGrace how much longer than
// run_timeout it may take until then; tests are in more of a hurry.
var (
	wedgedExit  = 3 * time.Second
	wedgedGrace = 10 * time.Second
)

// wrapTokenizer is for tests that need a text which never ends.
var wrapTokenizer = func(t tokenize.Tokenizer) tokenize.Tokenizer { return t }

// planOf starts the processor that runs all models on every record. escalation is nil without one.
func planOf(models []*loadedModel, s *settings.Settings, escalation *escalationPlan, p *publish.Publisher, o plan.Options,
	m *text.Metrics) (*plan.Plan, error) {
	var err error
	if o.Urgent, err = urgentOf(s.Urgent); err != nil {
		return nil, err
	}
	step := func(m *loadedModel) text.Step {
		return text.Step{Handle: m.handle, Tag: m.tag(), Tokenizer: wrapTokenizer(m.tokenizer),
			Judge: m.judge, Options: m.tokenizeOptions()}
	}
	list := make([]text.Model, len(models))
	for i, m := range models {
		list[i] = text.Model{Name: m.settings.VerdictField(), Step: step(m)}
		if m.student != nil {
			list[i].Student = &text.Student{Step: step(m.student), Threshold: m.settings.StudentThreshold}
		}
	}
	steps := text.Steps(list, m)
	if escalation != nil {
		ask, err := askStep(s, escalation, p, text.Names(list))
		if err != nil {
			return nil, err
		}
		steps = append(steps, ask)
	}
	o.Codec, o.Publisher, o.MaxTextBytes = p.Codec, p, int(s.Input.MaxTextBytes)
	return plan.New(steps, o)
}

// urgentOf is nil where nothing is urgent.
func urgentOf(s settings.Urgent) (*plan.Urgent, error) {
	if len(s.Topics) == 0 && s.Header == "" && s.When == "" {
		return nil, nil
	}
	u := &plan.Urgent{Topics: s.Topics}
	u.HeaderName, u.HeaderValue, _ = strings.Cut(s.Header, "=")
	if s.When != "" {
		var err error
		if u.When, err = rule.Parse(s.When); err != nil {
			return nil, pipeline.Faultf(pipeline.Config, "start", "urgent", "urgent.when: %w", err)
		}
	}
	return u, nil
}

func limitsOf(l settings.Limits) pipeline.Limits {
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
func kafkaConfig(s *settings.Settings) (kafka.Config, error) {
	c := kafkaPlan(s)
	if err := kafkaSecurity(&c, &s.Kafka); err != nil {
		return c, &pipeline.Fault{Kind: pipeline.Config, Stage: "start", Reason: "kafka", Err: err}
	}
	return c, nil
}

// kafkaPlan is the client's configuration without its certificates and its login.
func kafkaPlan(s *settings.Settings) kafka.Config {
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
