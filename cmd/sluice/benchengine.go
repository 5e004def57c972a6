package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	loadgen "sluice/cmd/sluice/load"
	"sluice/cmd/sluice/load/bare"
	"sluice/cmd/sluice/load/ceiling"
	"sluice/cmd/sluice/terminal"
	"sluice/cmd/sluice/worker"
	"sluice/model/ort"
	"sluice/pipeline/engine"
)

// This file measures the model alone, the ceiling for every worker, and how throughput grows with cores and workers.

// engineOptions are the flags of bench engine and bench scale.
type engineOptions struct {
	benchOptions
	runners []int
	budgets []int
	window  int
	rounds  int
	workers int
	scaling bool // bench scale
}

func benchEngineCommand() *cobra.Command {
	o := engineOptions{}
	cmd := &cobra.Command{
		Use:   "engine -m MODEL_DIR",
		Short: "Measure a model's bare session loop: the ceiling",
		Long: `Runs a model in a loop: texts tokenized beforehand, sorted by length window by window, cut into batches,
on threads that are pinned one to a core. No Kafka, no tokenizing, no JSON. It prints texts and tokens a second, the
arithmetic that is, and its share of the int8 arithmetic that the cores were measured to do. A list of runners or of
token budgets gives one line each.`,
		Example: `  sluice bench engine -m models/sentiment
  sluice bench engine -m models/ner --batch-tokens 16,32,64,128,256 --runners 1`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := o.checkEngine(); err != nil {
				return err
			}
			return benchEngine(cmd.Context(), cmd.OutOrStdout(), cmd.ErrOrStderr(), o)
		},
	}
	fs := cmd.Flags()
	modelFlag(fs, &o.model, "default: models/sentiment beside the binary")
	o.engineFlags(fs)
	fs.IntSliceVar(&o.budgets, "batch-tokens", []int{64, 128, 256}, "most `TOKENS` of a batch")
	describe(fs, "batch-tokens", envBench+"BATCH_TOKENS", "32,64,128")
	fs.IntSliceVar(&o.runners, "runners", nil, "`N` threads; default: as many as CPUs may be used")
	describe(fs, "runners", envBench+"RUNNERS", "1,2")
	return cmd
}

func (o *engineOptions) engineFlags(fs *pflag.FlagSet) {
	o.textFlags(fs)
	o.duplicates, o.poison = -1, -1
	fs.IntVar(&o.window, "window", 512, "`N` texts that are sorted by length together; 1: as they come")
	describe(fs, "window", envBench+"WINDOW", "64")
	secondsFlag(fs, &o.length, "seconds", 5*time.Second, "`SECONDS` of one measurement")
	describe(fs, "seconds", envBench+"SECONDS", "15")
	fs.IntVar(&o.rounds, "rounds", 3, "`N` rounds; in each, every line is measured once; medians are shown, with the "+
		"range")
	describe(fs, "rounds", envBench+"ROUNDS", "5")
	fs.StringVar(&o.json, "json", "", "write the figures to `FILE`; -: to standard output, in place of the table")
	describe(fs, "json", envBench+"JSON", "engine.json")
}

func (o *engineOptions) checkEngine() error {
	var errs []string
	if _, err := o.resolve(); err != nil {
		errs = append(errs, err.Error())
	}
	if len(o.budgets) == 0 || slices.Min(o.budgets) < 1 {
		errs = append(errs, "--batch-tokens must be at least 1")
	}
	if o.scaling && len(o.budgets) > 1 {
		errs = append(errs, "--batch-tokens: bench scale takes one budget")
	}
	if len(o.runners) > 0 && (slices.Min(o.runners) < 1 || slices.Max(o.runners) > 1024) {
		errs = append(errs, "--runners must be between 1 and 1024")
	}
	if o.window < 1 || o.rounds < 1 || o.workers < 0 {
		errs = append(errs, "--window and --rounds must be at least 1, --workers not negative")
	}
	if o.length < 10*time.Millisecond {
		errs = append(errs, "--seconds must be at least 0.01")
	}
	if errs != nil {
		return usageErrorf("bench: %s", strings.Join(errs, "; "))
	}
	return nil
}

// engineRun is a model whose bare loop is measured, with the report so far.
type engineRun struct {
	session engine.Session
	counter *tokenCounter
	plan    ceiling.Plan
	report  *ceiling.Report
}

func (r *engineRun) close() {
	r.session.Close()
	r.counter.tokenizer.Close()
}

// open loads the model and its rows. What is under way is shown on view.
func (o *engineOptions) open(view *terminal.Progress) (r *engineRun, err error) {
	dir, err := besideBinary(o.model, "models", "sentiment")
	if err != nil {
		return nil, err
	}
	r = &engineRun{}
	if r.counter, err = openTokenCounter(dir); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			r.counter.tokenizer.Close()
		}
	}()
	texts, material, err := o.openTexts()
	if err != nil {
		return nil, err
	}
	models, err := worker.Runtime()
	if err != nil {
		return nil, err
	}
	m := r.counter.model
	tokens, rows, err := ceiling.Count(m, r.counter.tokenizer, texts)
	if err != nil {
		return nil, err
	}
	if r.session, err = models.Open(m, engine.RuntimeOptions{Device: "cpu"}); err != nil {
		return nil, err
	}
	r.plan = ceiling.Plan{Rows: rows, Rounds: o.rounds, Status: view.Status, Loop: bare.Options{Window: o.window,
		Length: o.length, Open: r.session.NewRunner, Warm: r.session.Warmup}}
	r.report = &ceiling.Report{Date: time.Now().UTC(), Machine: benchMachine(), Model: r.counter.described,
		Provider: r.session.Provider(), Material: material, Tokens: tokens}
	return r, nil
}

func benchEngine(ctx context.Context, out, errw io.Writer, o engineOptions) error {
	view := terminal.NewProgress(errw)
	defer view.Clear()
	r, err := o.open(view)
	if err != nil {
		return err
	}
	defer r.close()
	runners := o.runners
	if len(runners) == 0 {
		runners = []int{ort.DefaultRunners()}
	}
	if err := r.report.Measure(ctx, r.plan, runners, o.budgets); err != nil {
		return fmt.Errorf("bench engine: %w", err)
	}
	view.Clear()
	return showReport(r.report, out, o.json)
}

// ---- scale

func benchScaleCommand() *cobra.Command {
	o := engineOptions{scaling: true}
	cmd := &cobra.Command{
		Use:   "scale -m MODEL_DIR",
		Short: "Measure what more cores and more workers bring",
		Long: `Measures the bare session loop with 1 to N runners, then the whole path with 1 to N workers: processes
of "sluice run" with one runner each, bound to a core of their own, that work off a backlog, exactly-once. Efficiency
is throughput for each runner or worker against one alone. The broker is in this process unless --brokers names one; it
and the reader share the cores with the workers, which the last workers pay for.`,
		Example: `  sluice bench scale -m models/sentiment
  sluice bench scale -m models/ner --brokers localhost:9092 --workers 8`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := o.checkEngine(); err != nil {
				return err
			}
			return benchScale(cmd.Context(), cmd.OutOrStdout(), cmd.ErrOrStderr(), o)
		},
	}
	fs := cmd.Flags()
	modelFlag(fs, &o.model, "default: models/sentiment beside the binary")
	o.engineFlags(fs)
	fs.IntSliceVar(&o.budgets, "batch-tokens", []int{128}, "most `TOKENS` of a batch, in the bare loop and in the "+
		"workers")
	describe(fs, "batch-tokens", envBench+"BATCH_TOKENS", "256")
	fs.IntVar(&o.workers, "workers", 0, "most `N` runners and workers; 0: as many as CPUs may be used")
	describe(fs, "workers", envBench+"WORKERS", "4")
	fs.StringSliceVar(&o.brokers, "brokers", nil, "`HOSTS` (host:port) of a broker to use; topics are made there and "+
		"left there")
	describe(fs, "brokers", envBench+"BROKERS", "localhost:9092")
	workerArgsFlag(fs, &o.workerArgs)
	return cmd
}

func benchScale(ctx context.Context, out, errw io.Writer, o engineOptions) error {
	cores, err := loadgen.Cores()
	if err != nil {
		return err
	}
	most := o.workers
	if most == 0 {
		most = ort.DefaultRunners()
	}
	if most > len(cores) {
		return usageErrorf("bench: --workers: there are %d cores for %d workers", len(cores), most)
	}
	view := terminal.NewProgress(errw)
	defer view.Clear()
	r, err := o.open(view)
	if err != nil {
		return err
	}
	defer r.close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if len(o.brokers) == 0 {
		broker, err := loadgen.StartEmbedded(ctx)
		if err != nil {
			return fmt.Errorf("bench: %w", err)
		}
		o.brokers = broker.Brokers()
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
	crew := loadgen.Crew{Brokers: o.brokers, Partitions: 2 * most, Worker: loadgen.WorkerPlan{
		Binary: exe, Dir: temp, Model: r.counter.model.Dir, Env: workerEnv(),
		Args: append([]string{"--runners=1", "--batch_tokens=" + strconv.Itoa(o.budgets[0])}, o.workerArgs...),
	}, Texts: func() (*loadgen.Texts, error) {
		texts, _, err := o.openTexts()
		return texts, err
	}}
	var counts []int
	for n := 1; n < most; n *= 2 {
		counts = append(counts, n)
	}
	counts = append(counts, most)
	err = r.report.Scale(ctx, r.plan, counts, o.budgets[0], func(ctx context.Context, n int, perS float64) (
		loadgen.Drained, error) {
		return crew.Drain(ctx, cores[:n], max(500, int(perS*o.length.Seconds())))
	})
	if err != nil {
		return fmt.Errorf("bench scale: %w", err)
	}
	view.Clear()
	return showReport(r.report, out, o.json)
}
