package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"runtime/debug"
	"sluice/cmd/sluice/config"
	"sluice/cmd/sluice/settings"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"sluice/cmd/sluice/demo"
	loadgen "sluice/cmd/sluice/load"
	"sluice/cmd/sluice/load/ceiling"
	"sluice/cmd/sluice/terminal"
	"sluice/cmd/sluice/witness"
	"sluice/cmd/sluice/worker"
	"sluice/model"
	"sluice/model/ort"
	"sluice/tokenize"
	"sluice/tokenize/hf"
)

// This file measures a worker, or any other system between two topics, under load. The measuring is done by package
// load; here are the flags, the tokenizer that counts tokens, and the worker of a first look.

// benchOptions are the flags of bench and its subcommands; each shows those that it knows.
type benchOptions struct {
	model   string
	texts   string
	profile string

	duplicates, poison float64 // below zero: the profile's
	arrivals           string
	seed               uint64

	rate, start         float64
	find                bool
	steps               []int
	length, trial       time.Duration
	warmup              float64
	patience            time.Duration
	json, html, system  string
	partitions          int
	guarantee           string
	workerArgs          []string
	config              string
	brokers             []string
	input, output, dead string
	format, textField   string
	pids                []int
	metrics             string
}

func benchCommand() *cobra.Command {
	o := benchOptions{system: "sluice run"}
	cmd := &cobra.Command{
		Use:   "bench [-m MODEL_DIR]",
		Short: "Measure throughput and latency under load",
		Long: `Measures a worker under load: an embedded broker, "sluice run" as a process of its own, and an open-loop
generator whose arrivals are fixed in advance. It finds the highest rate at which the queue does not grow, then reports
30 to 120 % of it: latency from the intended send time until a read_committed consumer sees the result (p50 to max),
CPU time, memory, lost and doubled records. Broker and generator share this machine with the worker. For a real broker,
or any other system, see "bench topics"; for the model alone, "bench engine".`,
		Example: `  sluice bench
  sluice bench -m models/ner --seconds 10 --html report.html
  sluice bench --rate 200 --profile bursts`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := o.check(); err != nil {
				return err
			}
			return benchFirstLook(cmd.Context(), cmd.OutOrStdout(), cmd.ErrOrStderr(), o)
		},
	}
	fs := cmd.Flags()
	modelFlag(fs, &o.model, "default: models/sentiment beside the binary")
	o.loadFlags(fs)
	fs.IntVar(&o.partitions, "partitions", 6, "`N` partitions of the topics")
	describe(fs, "partitions", envBench+"PARTITIONS", "12")
	fs.StringVar(&o.guarantee, "guarantee", "exactly-once", "of the worker: `exactly-once|at-least-once`")
	describe(fs, "guarantee", envBench+"GUARANTEE", "at-least-once")
	workerArgsFlag(fs, &o.workerArgs)
	cmd.AddCommand(benchTopicsCommand(), benchEngineCommand(), benchScaleCommand(), benchSizeCommand())
	return cmd
}

// secondsValue is a flag for a length of time: a number is seconds, and 90s or 1m30s will do too.
type secondsValue time.Duration

func secondsFlag(fs *pflag.FlagSet, into *time.Duration, name string, value time.Duration, doc string) {
	*into = value
	fs.Var((*secondsValue)(into), name, doc)
}

func (v *secondsValue) Set(s string) error {
	d, err := time.ParseDuration(s)
	if n, e := strconv.ParseFloat(s, 64); e == nil && math.Abs(n) < 1e9 {
		d, err = time.Duration(n*float64(time.Second)), nil
	}
	if err != nil {
		return fmt.Errorf("%q is not a number of seconds", s)
	}
	*v = secondsValue(d)
	return nil
}

func (v *secondsValue) String() string {
	return strconv.FormatFloat(time.Duration(*v).Seconds(), 'f', -1, 64)
}
func (v *secondsValue) Type() string { return "seconds" }

func modelFlag(fs *pflag.FlagSet, into *string, what string) {
	fs.StringVarP(into, "model", "m", "", "model `DIR`; "+what)
	describe(fs, "model", envModels, "models/sentiment")
}

func workerArgsFlag(fs *pflag.FlagSet, into *[]string) {
	fs.StringArrayVar(into, "worker-arg", nil, "further `FLAG` of sluice run, may be repeated")
	describe(fs, "worker-arg", envBench+"WORKER_ARGS", "--batch_tokens=128")
}

// textFlags say what is sent.
func (o *benchOptions) textFlags(fs *pflag.FlagSet) {
	fs.StringVar(&o.profile, "profile", "mixed", "texts and arrivals: `short|mixed|long|zipf|bursts|poison`")
	describe(fs, "profile", envBench+"PROFILE", "zipf")
	fs.StringVar(&o.texts, "texts", "", "`FILE` of texts, or of JSON objects with a text field, one a line, sent "+
		"whole; default: words of the bundled stream, in the profile's lengths")
	describe(fs, "texts", envBench+"TEXTS", "reviews.jsonl")
	fs.Uint64Var(&o.seed, "seed", 1, "`N` that fixes texts and arrivals")
	describe(fs, "seed", envBench+"SEED", "7")
}

// loadFlags are those of a run under load.
func (o *benchOptions) loadFlags(fs *pflag.FlagSet) {
	o.textFlags(fs)
	fs.Float64Var(&o.duplicates, "duplicates", -1, "`SHARE` of records that repeat one of 1,000 texts, by Zipf's "+
		"law; below 0: the profile's")
	describe(fs, "duplicates", envBench+"DUPLICATES", "0.3")
	fs.Float64Var(&o.poison, "poison", -1, "`SHARE` of records that are no JSON; below 0: the profile's")
	describe(fs, "poison", envBench+"POISON", "0.01")
	fs.StringVar(&o.arrivals, "arrivals", "", "how records are spread: `poisson|constant|bursts`; default: the "+
		"profile's")
	describe(fs, "arrivals", envBench+"ARRIVALS", "constant")
	fs.Float64Var(&o.rate, "rate", 0, "offer this one rate, `N` records a second; 0: find the maximum and offer "+
		"shares of it")
	describe(fs, "rate", envBench+"RATE", "250")
	fs.Float64Var(&o.start, "start", 0, "where the search begins, `N` records a second; 0: what a burst shows")
	describe(fs, "start", envBench+"START", "300")
	fs.IntSliceVar(&o.steps, "steps", []int{30, 50, 70, 80, 90, 120}, "loads to report, in `PERCENT` of the maximum")
	describe(fs, "steps", envBench+"STEPS", "50,80")
	secondsFlag(fs, &o.length, "seconds", 20*time.Second, "`SECONDS` of each load step; a minute or more for figures "+
		"to publish")
	describe(fs, "seconds", envBench+"SECONDS", "60")
	secondsFlag(fs, &o.trial, "search-seconds", 0, "`SECONDS` of each step of the search; 0: half of --seconds")
	describe(fs, "search-seconds", envBench+"SEARCH_SECONDS", "10")
	fs.Float64Var(&o.warmup, "warmup", 0.2, "`SHARE` of each step, at its beginning, that is dropped from latency "+
		"and throughput")
	describe(fs, "warmup", envBench+"WARMUP", "0.3")
	secondsFlag(fs, &o.patience, "patience", 30*time.Second, "`SECONDS` without any result after which records that "+
		"wait are taken for lost")
	describe(fs, "patience", envBench+"PATIENCE", "120")
	fs.StringVar(&o.system, "system", o.system, "`WORDS` that name what is measured in the report")
	describe(fs, "system", envBench+"SYSTEM", "'consumer of team A'")
	fs.StringVar(&o.json, "json", "", "write the figures to `FILE`; -: to standard output, in place of the table")
	describe(fs, "json", envBench+"JSON", "report.json")
	fs.StringVar(&o.html, "html", "", "write a page with plots to `FILE`; it needs no network")
	describe(fs, "html", envBench+"HTML", "report.html")
}

// check names every flag that is wrong.
func (o *benchOptions) check() error {
	var errs []string
	bad := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Sprintf(format, args...))
		}
	}
	bad(o.rate >= 0 && o.start >= 0 && !math.IsInf(o.rate, 0) && !math.IsInf(o.start, 0), "--rate and --start must "+
		"not be negative")
	bad(!(o.rate > 0 && o.find), "--rate and --find exclude each other")
	bad(o.length >= time.Second, "--seconds must be at least 1")
	bad(o.trial == 0 || o.trial >= time.Second, "--search-seconds must be at least 1")
	bad(o.warmup > 0 && o.warmup < 0.9, "--warmup must be above 0 and below 0.9")
	bad(o.patience >= time.Second, "--patience must be at least 1")
	bad(o.duplicates < 1 && o.poison < 1, "--duplicates and --poison must be below 1")
	for _, s := range o.steps {
		bad(s >= 1 && s <= 1000, "--steps: %d is not between 1 and 1000 percent", s)
	}
	bad(len(o.steps) > 0, "--steps must name a load")
	bad(o.partitions >= 0, "--partitions must not be negative")
	if _, err := o.resolve(); err != nil {
		errs = append(errs, err.Error())
	}
	if errs != nil {
		return usageErrorf("bench: %s", strings.Join(errs, "; "))
	}
	return nil
}

// resolve is the profile with what the flags change.
func (o *benchOptions) resolve() (loadgen.Profile, error) {
	p, err := loadgen.ProfileNamed(o.profile)
	if err != nil {
		return p, fmt.Errorf("--profile: %w", err)
	}
	if o.duplicates >= 0 {
		p.Duplicates = o.duplicates
	}
	if o.poison >= 0 {
		p.Poison = o.poison
	}
	if o.arrivals != "" {
		p.Arrivals = loadgen.Arrivals(o.arrivals)
		if _, err := loadgen.Schedule(p.Arrivals, 1, time.Second, 1); err != nil {
			return p, fmt.Errorf("--arrivals: %w", err)
		}
	}
	if o.texts != "" {
		p.Lengths = loadgen.AsIs
	}
	return p, nil
}

// openTexts prepares what is sent. material says where it comes from.
func (o *benchOptions) openTexts() (texts *loadgen.Texts, material string, err error) {
	p, err := o.resolve()
	if err != nil {
		return nil, "", usageErrorf("bench: %v", err)
	}
	var lines []string
	if o.texts == "" {
		values, err := demo.Texts()
		if err != nil {
			return nil, "", err
		}
		for _, v := range values {
			var line struct{ Text string }
			if err := json.Unmarshal(v, &line); err != nil {
				return nil, "", err
			}
			lines = append(lines, line.Text)
		}
		material = "words of the bundled stream"
	} else {
		if lines, err = loadgen.ReadTexts(o.texts, o.textField); err != nil {
			return nil, "", usageErrorf("bench: --texts: %v", err)
		}
		material = fmt.Sprintf("%d texts of %s, shuffled, over and over", len(lines), filepath.Base(o.texts))
	}
	texts, err = loadgen.NewTexts(p, lines, o.seed)
	if err != nil {
		return nil, "", usageErrorf("bench: %v", err)
	}
	return texts, material, nil
}

// tokenCounter is a model's tokenizer and shape, without its session.
type tokenCounter struct {
	model     *model.Model
	tokenizer tokenize.Tokenizer
	described loadgen.Model
}

func openTokenCounter(dir string) (*tokenCounter, error) {
	m, err := model.Open(dir)
	if err != nil {
		return nil, usageErrorf("bench: %v", err)
	}
	c := &tokenCounter{model: m}
	if c.described, err = ceiling.Describe(m); err != nil {
		return nil, fmt.Errorf("model %s: %w", dir, err)
	}
	if c.tokenizer, err = hf.Of(m); err != nil {
		return nil, fmt.Errorf("model %s: %w", dir, err)
	}
	return c, nil
}

// benchMachine describes where this runs, with the measured peak of one core. Measure it before there is load.
func benchMachine() loadgen.Machine {
	m := loadgen.DescribeMachine()
	m.Features, m.Sluice, m.Cores = ort.CPUFeatures(), ownVersion(), ort.DefaultRunners()
	if _, err := worker.Runtime(); err == nil {
		m.Runtime = ort.Version()
	}
	for range 5 { // the best of several: other work only ever makes it look slower
		if g, how := ort.PeakInt8(); g > 0 && (m.Peak == nil || g > m.Peak.GMACs) {
			m.Peak = &loadgen.Peak{GMACs: g, How: how}
		}
	}
	return m
}

// loadRun is a run under load.
type loadRun struct {
	o       *benchOptions
	target  loadgen.Target
	probe   loadgen.Probe
	machine loadgen.Machine
	counter *tokenCounter // nil: tokens are not counted
	broker  string        // in words; "": what the brokers say
	view    *terminal.Progress
}

// run puts load on the target and prints the report, also the part of it that there is when the run fails.
func (l *loadRun) run(ctx context.Context, out, errw io.Writer) error {
	o := l.o
	texts, material, err := o.openTexts()
	if err != nil {
		return err
	}
	var tokens *loadgen.Tokens
	var described *loadgen.Model
	if c := l.counter; c != nil {
		if tokens, _, err = ceiling.Count(c.model, c.tokenizer, texts); err != nil {
			return err
		}
		described = &c.described
	}
	session, err := loadgen.Open(ctx, l.target, loadgen.Options{Texts: texts, Seed: o.seed, Warmup: o.warmup,
		Patience: o.patience, Probe: l.probe, Progress: func(p loadgen.Progress) { l.view.Tick(p.Line) }})
	if err != nil {
		return fmt.Errorf("bench: %w", err)
	}
	defer session.Close()
	rep, err := session.Run(ctx, o.plan(), l.view.Say)
	l.view.Clear()
	name, _, _ := strings.Cut(o.system, ",")
	rep.Title, rep.Date, rep.Command = "Load on "+name, time.Now().UTC(), "sluice "+strings.Join(os.Args[1:], " ")
	if l.broker != "" {
		rep.Target.Broker = l.broker
	}
	rep.Machine, rep.System, rep.Material, rep.Tokens, rep.Model = l.machine, o.system, material, tokens, described
	if err != nil {
		if len(rep.Steps) > 0 {
			rep.WriteText(errw)
		}
		return fmt.Errorf("bench: %w", err)
	}
	err = showReport(rep, out, o.json)
	if o.html != "" {
		err = errors.Join(err, writeFile(o.html, rep.WriteHTML))
	}
	if err != nil {
		return fmt.Errorf("bench: the report: %w", err)
	}
	if !rep.Clean() {
		return errors.New("bench: records were lost, doubled or misdirected; see the report")
	}
	return nil
}

// plan is what the flags say about the steps.
func (o *benchOptions) plan() loadgen.Plan {
	p := loadgen.Plan{Rate: o.rate, Start: o.start, Length: o.length, Trial: o.trial}
	for _, s := range o.steps {
		p.Shares = append(p.Shares, float64(s)/100)
	}
	if p.Trial == 0 {
		p.Trial = max(time.Second, o.length/2)
	}
	return p
}

// showReport prints a report, or its JSON where that is to go to standard output (-), and writes its JSON to a file.
func showReport(r interface {
	WriteText(io.Writer)
	WriteJSON(io.Writer) error
}, out io.Writer, file string) error {
	if file == "-" {
		return r.WriteJSON(out)
	}
	r.WriteText(out)
	if file == "" {
		return nil
	}
	return writeFile(file, r.WriteJSON)
}

func writeFile(name string, write func(io.Writer) error) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	return errors.Join(write(f), f.Close())
}

// workerEnv is this process's environment without configuration keys: a worker that is measured has only the settings
// that the report names.
func workerEnv() []string {
	var env []string
	for _, e := range os.Environ() {
		if name, _, _ := strings.Cut(e, "="); !config.IsKeyEnv(name, commandEnv) {
			env = append(env, e)
		}
	}
	return env
}

// benchFirstLook measures a worker of its own on a broker of its own.
func benchFirstLook(ctx context.Context, out, errw io.Writer, o benchOptions) (err error) {
	guarantee, _ := settings.Keys().Find("kafka.guarantee")
	if _, err := guarantee.Parse(o.guarantee); err != nil {
		return usageErrorf("bench: --guarantee: %v", err)
	}
	if o.partitions == 0 {
		return usageErrorf("bench: --partitions must be at least 1")
	}
	dir, err := besideBinary(o.model, "models", "sentiment")
	if err != nil {
		return err
	}
	counter, err := openTokenCounter(dir)
	if err != nil {
		return err
	}
	defer counter.tokenizer.Close()
	if _, err := worker.Runtime(); err != nil {
		return fmt.Errorf("bench: %w", err)
	}
	defer debug.SetGCPercent(debug.SetGCPercent(400)) // broker and generator share the cores with the worker
	run := loadRun{o: &o, view: terminal.NewProgress(errw), machine: benchMachine(), counter: counter,
		broker: "kfake, in the generator's process"}
	run.target = loadgen.Target{Input: "bench_texts", Output: "bench_verdicts", DeadLetter: "bench_dlq",
		Format: loadgen.JSON}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	broker, err := loadgen.StartEmbedded(ctx)
	if err == nil {
		run.target.Brokers = broker.Brokers()
		err = broker.CreateTopics(run.target, o.partitions)
	}
	if err != nil {
		return fmt.Errorf("bench: %w", err)
	}
	temp, err := os.MkdirTemp("", "sluice-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(temp)
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	run.view.Say("broker     %s, in this process", run.target.Brokers[0])
	worker, err := loadgen.StartWorker(context.WithoutCancel(ctx), loadgen.WorkerPlan{
		Binary: exe, Dir: temp, Target: run.target, Model: dir, Group: "bench", Name: "bench-0", Serve: true,
		Env:  workerEnv(),
		Args: append([]string{"--kafka.guarantee=" + o.guarantee}, o.workerArgs...),
	})
	if err != nil {
		return fmt.Errorf("bench: %w", err)
	}
	defer func() { err = errors.Join(err, worker.Stop()) }()
	run.view.Say("worker     process %d, %s; %s/metrics", worker.PID, counter.described.Tag, worker.HTTP)
	run.probe = loadgen.Probe{PIDs: []int{worker.PID}, Metrics: worker.HTTP + "/metrics"}
	o.system = fmt.Sprintf("%s, %s, %s%s", o.system, counter.described.Tag, o.guarantee, prefixed(o.workerArgs))
	return run.run(ctx, out, errw)
}

func prefixed(args []string) string {
	if len(args) == 0 {
		return ""
	}
	return ", " + strings.Join(args, " ")
}

// ---- any pair of topics

func benchTopicsCommand() *cobra.Command {
	var o benchOptions
	cmd := &cobra.Command{
		Use:   "topics --brokers HOSTS --input TOPIC --output TOPIC",
		Short: "Measure whatever runs between two topics",
		Long: `Writes texts to one topic and reads another, between which any system may run: a worker, several of
them, or something else altogether. Records are recognised by a mark in their key, in the header "sluice.bench" and in
the field "bench" of the value; the system must pass on one of the three. Results are read as read_committed. With
--pid or --metrics its CPU time and memory are reported too. With -c the brokers, topics, login and text field are
those of a worker's configuration.`,
		Example: "  sluice bench topics -c reviews.yaml --find --metrics http://localhost:9464/metrics " +
			"--html report.html\n" +
			"  sluice bench topics --brokers kafka-1:9092 --input customer_reviews --output review_analysis " +
			"--rate 250 --seconds 60",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := o.check(); err != nil {
				return err
			}
			return benchTopics(cmd, o)
		},
	}
	fs := cmd.Flags()
	fs.StringVarP(&o.config, "config", "c", "", "configuration `FILE` of the worker that is measured: brokers, "+
		"topics, login and text field")
	describe(fs, "config", envConfig, "reviews.yaml")
	fs.StringSliceVar(&o.brokers, "brokers", nil, "`HOSTS` (host:port) of brokers to ask first")
	describe(fs, "brokers", envBench+"BROKERS", "kafka-1:9092,kafka-2:9092")
	fs.StringVar(&o.input, "input", "", "`TOPIC` to write to")
	describe(fs, "input", envBench+"INPUT", "customer_reviews")
	fs.StringVar(&o.output, "output", "", "`TOPIC` that results appear in")
	describe(fs, "output", envBench+"OUTPUT", "review_analysis")
	fs.StringVar(&o.dead, "dead-letter", "", "`TOPIC` that records appear in that cannot be judged")
	describe(fs, "dead-letter", envBench+"DEAD_LETTER", "review_dlq")
	fs.StringVar(&o.format, "format", "json", "of the values: `json|text`")
	describe(fs, "format", envBench+"FORMAT", "text")
	fs.StringVar(&o.textField, "text-field", "", "`PATH` of the text in JSON values, as input.text has it; default: "+
		"that of the configuration, else text")
	describe(fs, "text-field", envBench+"TEXT_FIELD", "review.body")
	fs.BoolVar(&o.find, "find", false, "find the maximum and offer shares of it; that is what happens without --rate")
	describe(fs, "find", envBench+"FIND", "true")
	fs.IntSliceVar(&o.pids, "pid", nil, "`PID` of the system's processes on this machine, for CPU time and memory")
	describe(fs, "pid", envBench+"PID", "4711,4712")
	fs.StringVar(&o.metrics, "metrics", "", "`URL` of the system's Prometheus metrics: fill, cache hits, and CPU "+
		"time and memory without --pid")
	describe(fs, "metrics", envBench+"METRICS", "http://localhost:9464/metrics")
	modelFlag(fs, &o.model, "its tokenizer counts tokens, its shape their arithmetic; default: neither is reported")
	o.loadFlags(fs)
	return cmd
}

func benchTopics(cmd *cobra.Command, o benchOptions) error {
	ctx := cmd.Context()
	target := loadgen.Target{Brokers: o.brokers, Input: o.input, Output: o.output, DeadLetter: o.dead,
		TextField: o.textField, Format: loadgen.Format(o.format)}
	if o.config != "" {
		if err := o.fromConfig(cmd, &target); err != nil {
			return err
		}
		o.textField = target.TextField
	}
	if target.Format != loadgen.JSON && target.Format != loadgen.Text {
		return usageErrorf("bench: --format: %q is not one of json, text", o.format)
	}
	if len(target.Brokers) == 0 || target.Input == "" || target.Output == "" {
		return usageErrorf("bench: give --brokers, --input and --output, or the worker's configuration with -c")
	}
	if o.system == "" {
		o.system = target.Input + " to " + target.Output
	}
	var counter *tokenCounter
	if o.model != "" {
		var err error
		if counter, err = openTokenCounter(o.model); err != nil {
			return err
		}
		defer counter.tokenizer.Close()
	}
	probe := loadgen.Probe{PIDs: o.pids, Metrics: o.metrics}
	if _, err := probe.Read(ctx); err != nil {
		return usageErrorf("bench: %v", err)
	}
	defer debug.SetGCPercent(debug.SetGCPercent(400)) // it may share its cores with the system
	run := loadRun{o: &o, target: target, probe: probe, machine: benchMachine(), counter: counter,
		view: terminal.NewProgress(cmd.ErrOrStderr())}
	return run.run(ctx, cmd.OutOrStdout(), cmd.ErrOrStderr())
}

// fromConfig fills in what the flags leave open.
func (o *benchOptions) fromConfig(cmd *cobra.Command, t *loadgen.Target) error {
	c, err := commandConfig(cmd, o.config)
	if err != nil {
		return err
	}
	set := func(into *string, value string) {
		if *into == "" {
			*into = value
		}
	}
	if len(c.Input.Topics) > 1 && o.input == "" {
		return usageErrorf("bench: %s reads %s; say with --input which of them to write to", o.config,
			strings.Join(c.Input.Topics, ", "))
	}
	set(&t.Input, c.Input.Topics[0])
	set(&t.Output, c.Output.Topic)
	set(&t.DeadLetter, c.DeadLetter.Topic)
	set(&t.TextField, c.Input.Text)
	if len(t.Brokers) == 0 {
		t.Brokers = c.Kafka.Brokers
	}
	if !cmd.Flags().Changed("format") {
		t.Format = loadgen.Format(c.Input.Format)
	}
	k, err := worker.KafkaConfig(&c.Settings)
	if err != nil {
		return err
	}
	login, err := witness.Options(k)
	if err != nil {
		return err
	}
	t.Client = append(t.Client, login...)
	return nil
}
