package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/cobra"

	"sluice/cmd/sluice/config"
	"sluice/cmd/sluice/settings"
	"sluice/cmd/sluice/suggest"
	"sluice/cmd/sluice/worker"
	"sluice/model/textfile"
	"sluice/pipeline"
	"sluice/pipeline/codec"
	"sluice/pipeline/engine"
	"sluice/pipeline/plan"
	"sluice/pipeline/plan/text"
	"sluice/pipeline/publish"
	"sluice/pipeline/rule"
)

// This file is the worker without Kafka: the same stage, with lines of a file as its source and lines of standard
// output as its sink. The line number is the offset, so that answers come in the order of the lines, each as soon as it
// and those before it are done.

// classifyOptions are the flags of classify.
type classifyOptions struct {
	process  *worker.Process
	models   []string
	format   string
	textPair string
	text     string
	field    string
	skip     []string // rules
	runners  int
	shape    settings.Model // what holds for every model
}

func classifyCommand(p *worker.Process) *cobra.Command {
	o := classifyOptions{process: p, shape: settings.DefaultModel()}
	cmd := &cobra.Command{
		Use:   "classify -m MODEL_DIR [-m MODEL_DIR]... [FILE]",
		Short: "Judge lines of a file or of standard input",
		Long: `Reads one text or one JSON object a line, from FILE or from standard input, and writes one JSON object a
line in the same order: the object as it came plus the field with the verdicts, or {"text": ..., "inference": ...} for a
plain text. Answers appear while the input is still open. A line that cannot be judged gives {"error": ..., "reason":
..., "line": N}, and exit code 1 at the end. A line that --skip leaves out gives nothing.

The input is UTF-8, with or without a byte order mark; UTF-16 is converted, and what is compressed with gzip or
Zstandard is decompressed, whatever its name is. Bytes that are no UTF-8 are judged as U+FFFD, as a worker does.`,
		Example: `  echo "What a lovely day" | sluice classify -m models/sentiment
  sluice classify -m models/sentiment -m entities=models/ner reviews.jsonl > verdicts.jsonl
  tail -f app.log | sluice classify -m models/sentiment --format text`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			in := cmd.InOrStdin()
			if len(args) == 1 && args[0] != "-" {
				f, err := os.Open(args[0])
				if err != nil {
					return usageErrorf("classify: %v", err)
				}
				defer f.Close()
				text := textfile.NewReader(f)
				var wrong *textfile.Error
				if err := text.Check(); errors.As(err, &wrong) {
					return usageErrorf("classify: %s %w", args[0], err)
				} else if err != nil && !errors.Is(err, io.EOF) {
					return usageErrorf("classify: %w", err)
				}
				in = text
			}
			return classify(cmd.Context(), in, cmd.OutOrStdout(), cmd.ErrOrStderr(), o)
		},
	}
	fs := cmd.Flags()
	fs.StringArrayVarP(&o.models, "model", "m", nil, "model `[NAME=]DIR`, may be repeated; NAME is the verdict's "+
		"name in the output, by default the model's own")
	describe(fs, "model", envModels, "models/sentiment")
	fs.StringVar(&o.format, "format", "auto", "what a line is: json, text, or `auto`: JSON where it begins with {")
	describe(fs, "format", envClassify+"FORMAT", "text")
	fs.StringVar(&o.text, "text", "text", "`PATH` of the text field in JSON lines: keys, and "+
		"positions in lists from 0, with dots between them (\\. is a dot in a key)")
	describe(fs, "text", envClassify+"TEXT", "review.body")
	fs.StringVar(&o.textPair, "text-pair", "", "`PATH` of a second text in JSON lines, for models that read two")
	describe(fs, "text-pair", envClassify+"TEXT_PAIR", "hypothesis")
	fs.StringVar(&o.field, "field", "inference", "`FIELD` that is added to the object")
	describe(fs, "field", envClassify+"FIELD", "verdict")
	fs.StringArrayVar(&o.skip, "skip", nil, "`RULE` that leaves lines out, as skip[].when of a configuration; may be "+
		"repeated. Nothing is written for them")
	describe(fs, "skip", envClassify+"SKIP", `'field("payload.op") == "d"'`)
	fs.IntVar(&o.runners, "runners", 0, "`N` threads that run models; 0: as many as CPUs may be used")
	describe(fs, "runners", envClassify+"RUNNERS", "2")
	fs.StringVar(&o.shape.Device, "device", o.shape.Device, "where models run: `cpu|cuda|openvino`")
	describe(fs, "device", envClassify+"DEVICE", "cuda")
	fs.StringVar(&o.shape.Aggregation, "aggregation", o.shape.Aggregation, "how tokens become entities: "+
		"`none|simple|first|average|max`")
	describe(fs, "aggregation", envClassify+"AGGREGATION", "first")
	fs.StringVar(&o.shape.SpecialTokens, "special-tokens", "", "what [SEP] or a marker of the model's own is in a "+
		"text: `text|model`; by default as the manifest says, else text")
	describe(fs, "special-tokens", envClassify+"SPECIAL_TOKENS", "model")
	fs.StringVar(&o.shape.LongText, "long-text", o.shape.LongText, "texts longer than the model: `truncate|window`")
	describe(fs, "long-text", envClassify+"LONG_TEXT", "window")
	fs.IntVar(&o.shape.Stride, "stride", o.shape.Stride, "`TOKENS` that neighbouring windows share")
	describe(fs, "stride", envClassify+"STRIDE", "32")
	fs.StringVar(&o.shape.Scores, "scores", o.shape.Scores, "scores to give: `top|all`")
	describe(fs, "scores", envClassify+"SCORES", "all")
	return cmd
}

// settings makes the same settings of the flags that `run` has from its file. Every mistake is named.
func (o classifyOptions) settings() (*settings.Settings, error) {
	s := settings.Default()
	s.Input.Text, s.Input.TextPair, s.Output.Field, s.Runners = o.text, o.textPair, o.field, o.runners
	var errs []error
	keys := settings.Keys()
	check := func(flag, path, value string) {
		k, _ := keys.Find(path)
		if _, err := k.Parse(value); err != nil {
			errs = append(errs, fmt.Errorf("--%s: %w", flag, err))
		}
	}
	check("device", "models[].device", o.shape.Device)
	check("aggregation", "models[].aggregation", o.shape.Aggregation)
	check("long-text", "models[].long_text", o.shape.LongText)
	check("scores", "models[].scores", o.shape.Scores)
	if o.shape.SpecialTokens != "" {
		check("special-tokens", "models[].special_tokens", o.shape.SpecialTokens)
	}
	if formats := []string{"auto", "json", "text"}; o.format != "auto" && o.format != "json" && o.format != "text" {
		errs = append(errs, fmt.Errorf("--format: %q is not one of %s%s", o.format, strings.Join(formats, ", "),
			suggest.DidYouMean(o.format, formats)))
	}
	runners, _ := keys.Find("runners")
	if err := runners.Within(o.runners); err != nil {
		errs = append(errs, fmt.Errorf("--runners: %w", err))
	}
	if err := codec.CheckField(o.field); err != nil {
		errs = append(errs, fmt.Errorf("--field: %w", err))
	}
	path := func(flag, value string) {
		if path, err := codec.ParsePath(value); err != nil {
			errs = append(errs, fmt.Errorf("--%s: %w", flag, err))
		} else if path[0] == o.field {
			errs = append(errs, fmt.Errorf("--field: %q is also where the text is (--%s); give the verdicts another "+
				"field", o.field, flag))
		}
	}
	path("text", o.text)
	if o.textPair != "" {
		path("text-pair", o.textPair)
		if o.textPair == o.text {
			errs = append(errs, errors.New("--text-pair: is --text itself; name the field of the second text"))
		}
	}
	if o.textPair != "" && o.format == "text" {
		errs = append(errs, errors.New("--text-pair: a line of --format text is one text; give JSON lines"))
	}
	for i, when := range o.skip {
		if _, err := rule.ParseBeforeText(when); err != nil {
			errs = append(errs, fmt.Errorf("--skip: %w", err))
		}
		s.Skip = append(s.Skip, settings.Skip{Name: strconv.Itoa(i + 1), When: when})
	}
	if len(o.models) == 0 {
		errs = append(errs, errors.New("no model; give a model directory with -m"))
	}
	for _, arg := range o.models {
		m := o.shape
		name, dir, named := strings.Cut(arg, "=")
		if !named {
			name, dir = "", arg
		}
		m.Name, m.Path = name, dir
		s.Models = append(s.Models, m)
	}
	if len(errs) > 0 {
		return nil, &usageError{fmt.Errorf("classify: %w", errors.Join(errs...))}
	}
	return &s, nil
}

// classify judges lines until the input ends or ctx does.
func classify(ctx context.Context, in io.Reader, out, errw io.Writer, o classifyOptions) error {
	s, err := o.settings()
	if err != nil {
		return err
	}
	st := stepsTo(errw)
	models, err := o.process.OpenModels(ctx, s.ModelsToOpen(), worker.Runners(s.Runners), s.RunTimeout, st)
	if err != nil {
		return err
	}
	defer models.Close()
	if err := nameModels(models); err != nil {
		return err
	}
	reg := prometheus.NewRegistry()
	metrics := pipeline.NewStageMetrics(reg, pipeline.StageMetricsOptions{Dispositions: pipeline.ClassifyDispositions})
	var stage atomic.Pointer[pipeline.Stage] // set before the engine gets its first row
	fail := func(err error) {
		if st := stage.Load(); st != nil {
			st.Fail(err)
		}
	}
	dog := o.process.Watchdog(s.RunTimeout, sayAnd(fail))
	eng, err := models.Engine(ctx, engine.Options{
		Devices: worker.Devices(worker.Runners(s.Runners)), BatchTokens: engine.DefaultBatchTokens,
		Timeout:  s.RunTimeout,
		Watchdog: dog, Metrics: worker.ToolMetrics(), Fail: fail,
	})
	if err != nil {
		return err
	}
	defer eng.Close()
	s.Output.Topic, s.DeadLetter.Topic = linesOut, linesBad
	po := plan.Options{Metrics: plan.NewMetrics(reg, metrics), Watchdog: dog, Fail: fail}
	textMetrics := text.NewMetrics(reg)
	if o.textPair != "" {
		o.format = "json" // a line of text has no second one
	}
	p := &lineProcessor{format: o.format, bad: publish.Publisher{DeadLetters: linesBad}}
	for _, to := range []struct {
		format string
		plan   *pipeline.Processor
	}{{"json", &p.json}, {"text", &p.text}} {
		s.Input.Format = to.format
		publisher, err := worker.NewPublisher(s, nil, metrics.RuleFailed)
		if err != nil {
			return err
		}
		c, err := o.process.NewPlan(models, s, nil, publisher, po, textMetrics)
		if err != nil {
			return err
		}
		defer c.Close()
		*to.plan = c
	}
	return runLines(ctx, in, out, p, worker.Limits(s.Limits), metrics, errw, &stage)
}

// nameModels gives models without a name their own, and refuses names that meet.
func nameModels(models worker.Models) error {
	seen := map[string]string{}
	for _, m := range models {
		if m.Settings.Name == "" {
			m.Settings.Name = m.Model.Name
		}
		name := m.Settings.Name
		if other, ok := seen[name]; ok {
			return usageErrorf("classify: the models in %s and %s are both called %q; write -m NAME=DIR for one of "+
				"them", other, m.Settings.Path, name)
		}
		seen[name] = m.Settings.Path
		for _, reserved := range codec.ReservedNames {
			if name == reserved {
				return usageErrorf("classify: %q is a member that the output field has itself; write -m NAME=DIR "+
					"with another name for %s", name, m.Settings.Path)
			}
		}
		if err := codec.CheckField(name); err != nil {
			return usageErrorf("classify: the name of the model in %s: %v", m.Settings.Path, err)
		}
	}
	return nil
}

// lineProcessor sends a line to the classifier for its form.
type lineProcessor struct {
	format     string
	json, text pipeline.Processor
	bad        publish.Publisher
}

// Process implements pipeline.Processor.
func (p *lineProcessor) Process(j *pipeline.Job) {
	if len(j.Record.Value) > longestLine {
		j.Done(p.bad.DeadLetter(j.Record, pipeline.Faultf(pipeline.Poison, "decode", "line-too-long",
			"the line is longer than %s", config.Bytes(longestLine)), 0))
		return
	}
	if why := textfile.Problem(j.Record.Value); why != "" {
		fault := pipeline.Faultf(pipeline.Poison, "decode", "not-text", "the line %s", why)
		j.Done(p.bad.DeadLetter(j.Record, fault, 0))
		return
	}
	asJSON := p.format == "json"
	if p.format == "auto" {
		line := bytes.TrimLeft(bytes.TrimPrefix(j.Record.Value, []byte("\xEF\xBB\xBF")), " \t")
		asJSON = len(line) > 0 && line[0] == '{'
	}
	if asJSON {
		p.json.Process(j)
	} else {
		p.text.Process(j)
	}
}

// The "topics" of lines.
const (
	linesIn  = "line"
	linesOut = "out"
	linesBad = "bad"
)

var lines = pipeline.TopicPartition{Topic: linesIn}

// longestLine bounds the memory for one line; what is longer is not judged.
const longestLine = 16 << 20

// runLines runs a stage from in to out. stage is set before anything runs.
func runLines(ctx context.Context, in io.Reader, out io.Writer, p pipeline.Processor, limits pipeline.Limits,
	m *pipeline.StageMetrics, errw io.Writer, stage *atomic.Pointer[pipeline.Stage]) error {
	src := &lineSource{in: in, written: make(chan int64, 1)}
	sink := &lineSink{out: bufio.NewWriterSize(out, 1<<16), written: src.written}
	st := pipeline.NewStage(p, sink, pipeline.StageOptions{
		Limits: limits, CommitInterval: 20 * time.Millisecond, Metrics: m,
		Logger: slog.New(slog.NewTextHandler(errw, &slog.HandlerOptions{Level: slog.LevelError})),
	})
	stage.Store(st)
	if err := st.Run(ctx, src); err != nil {
		return err
	}
	if src.foreign > 0 {
		fmt.Fprintf(errw, "sluice: %d of %d lines are not UTF-8 (the first is line %d); they were judged with "+
			"U+FFFD for what is none. If the text is Latin-1 or Windows-1252, convert it first: iconv -f "+
			"WINDOWS-1252 -t UTF-8\n", src.foreign, src.next, src.firstForeign)
	}
	var wrong *textfile.Error
	switch {
	case errors.As(src.err, &wrong) && src.next == 0:
		return usageErrorf("classify: the input %w", src.err)
	case errors.As(src.err, &wrong):
		return fmt.Errorf("reading line %d: the input %w", src.next+1, src.err)
	case src.err != nil:
		return fmt.Errorf("reading line %d: %w", src.next+1, src.err)
	}
	if sink.skipped > 0 {
		fmt.Fprintf(errw, "sluice: %d of %d lines were left out by --skip\n", sink.skipped, sink.total)
	}
	if sink.bad > 0 {
		fmt.Fprintf(errw, "sluice: %d of %d lines could not be judged; see \"error\" in the output\n", sink.bad,
			sink.total)
		return &exitError{exitFailed}
	}
	return nil
}

// lineSource delivers lines as records of one partition; the offset is the line number less one.
type lineSource struct {
	in      io.Reader
	written chan int64 // offset behind what the sink has written
	next    int64
	err     error // what ended the reading, if not the end of the input

	foreign, firstForeign int64 // lines that are not UTF-8, and the number of the first
}

// Run implements pipeline.Source. It returns when everything read is written, or ctx ends.
func (s *lineSource) Run(ctx context.Context, flow pipeline.Flow) error {
	flow.Assign(map[pipeline.TopicPartition]pipeline.Committed{lines: {}})
	read := make(chan pipeline.Record, 256)
	end := make(chan error, 1)
	go func() { // left behind when ctx ends while the input is silent: nothing can interrupt a read
		end <- readLines(ctx, s.in, read)
		close(read)
	}()
	for open := true; open; {
		var batch []pipeline.Record
		select {
		case r, ok := <-read:
			if !ok {
				open = false
				continue
			}
			batch = append(batch, r)
		case <-ctx.Done():
			return nil
		}
		for more := true; more && len(batch) < cap(read); {
			select {
			case r, ok := <-read:
				if more = ok; ok {
					batch = append(batch, r)
				}
			default:
				more = false
			}
		}
		if !s.room(ctx, flow) {
			return nil
		}
		from := s.next
		for i := range batch {
			if line := batch[i].Value; len(line) <= longestLine && !utf8.Valid(line) {
				if s.foreign++; s.foreign == 1 {
					s.firstForeign = batch[i].Offset + 1
				}
			}
		}
		s.next += int64(len(batch))
		flow.Deliver(lines, from, batch, s.next)
		if ctx.Err() != nil {
			return nil
		}
	}
	s.err = <-end
	var written int64
	for written < s.next {
		select {
		case written = <-s.written:
		case <-ctx.Done():
			return nil
		}
	}
	return nil
}

// room waits until the flow takes more.
func (s *lineSource) room(ctx context.Context, flow pipeline.Flow) bool {
	for flow.Room(lines) <= 0 {
		select {
		case <-time.After(time.Millisecond): // the flow does not tell when there is room again
		case <-ctx.Done():
			return false
		}
	}
	return true
}

// readLines sends lines, without their ends, until the input ends (nil), fails, or ctx ends.
func readLines(ctx context.Context, in io.Reader, to chan<- pipeline.Record) error {
	lines := textfile.NewLines(textfile.NewReader(in), longestLine)
	for offset := int64(0); ; offset++ {
		line, err := lines.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		select {
		case to <- pipeline.Record{Topic: linesIn, Offset: offset, Value: bytes.Clone(line)}:
		case <-ctx.Done():
			return nil
		}
	}
}

// lineSink writes results and errors as lines.
type lineSink struct {
	out     *bufio.Writer
	written chan int64

	total, bad, skipped int
}

// Commit implements pipeline.Sink.
func (s *lineSink) Commit(_ context.Context, c *pipeline.Commit) error {
	if c.Outcomes != nil {
		for _, o := range c.Outcomes {
			s.total++
			if o.Disposition == pipeline.Skipped {
				s.skipped++
			}
		}
	}
	for i := range c.Messages {
		m := &c.Messages[i]
		line := m.Value
		if m.Topic == linesBad {
			s.bad++
			line = badLine(m)
		}
		s.out.Write(line) // errors stay with the writer until Flush
		s.out.WriteByte('\n')
	}
	if err := s.out.Flush(); err != nil {
		return pipeline.Faultf(pipeline.Internal, "commit", "write", "writing the output: %w", err)
	}
	select { // the newest offset replaces one that nobody has read
	case <-s.written:
	default:
	}
	s.written <- c.Offsets[lines]
	return nil
}

// MaxMessageBytes implements pipeline.Sink.
func (s *lineSink) MaxMessageBytes(string) int { return 0 }

// badLine is the answer to a line that cannot be judged.
func badLine(m *pipeline.Message) []byte {
	var answer struct {
		Error  string `json:"error"`
		Reason string `json:"reason"`
		Line   int64  `json:"line"`
	}
	for _, h := range m.Headers {
		switch h.Key {
		case publish.HeaderErrorMessage:
			answer.Error = string(h.Value)
		case publish.HeaderErrorReason:
			answer.Reason = string(h.Value)
		case publish.HeaderErrorOffset:
			fmt.Sscan(string(h.Value), &answer.Line)
			answer.Line++
		}
	}
	b, err := json.Marshal(answer)
	if err != nil { // strings and a number always marshal
		panic(err)
	}
	return b
}
