package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
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

// engineRow is one line: the median of all rounds, with its range.
type engineRow struct {
	bare.Result
	Least       float64 `json:"least_rows_per_s"`
	Most        float64 `json:"most_rows_per_s"`
	GMACs       float64 `json:"gmac_per_s"`
	ShareOfPeak float64 `json:"share_of_peak,omitempty"` // of the cores that ran
	Efficiency  float64 `json:"efficiency,omitempty"`    // of a runner, against one alone
}

// engineReport is what bench engine and bench scale give.
type engineReport struct {
	Date     time.Time       `json:"date"`
	Machine  loadgen.Machine `json:"machine"`
	Model    loadgen.Model   `json:"model"`
	Provider string          `json:"provider"`
	Material string          `json:"material"`
	Tokens   *loadgen.Tokens `json:"tokens"`
	Rounds   int             `json:"rounds"`
	Rows     []engineRow     `json:"bare_loop"`
	Workers  []workersLine   `json:"workers,omitempty"`
}

// workersLine is the whole path with a number of workers, each of one runner on its own core.
type workersLine struct {
	Workers    int             `json:"workers"`
	Drained    loadgen.Drained `json:"drained"`
	Efficiency float64         `json:"efficiency"` // of a worker, against one alone
	OfBare     float64         `json:"of_bare_loop"`
}

func benchEngineCommand() *cobra.Command {
	o := engineOptions{}
	cmd := &cobra.Command{
		Use:   "engine -m MODEL_DIR",
		Short: "Measure a model's bare session loop: the ceiling",
		Long: `Runs a model in a loop: texts tokenized beforehand, sorted by length window by window, cut into batches, on threads that are
pinned one to a core. No Kafka, no tokenizing, no JSON. It prints texts and tokens a second, the arithmetic that is, and its
share of the int8 arithmetic that the cores were measured to do. A list of runners or of token budgets gives one line each.`,
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

// openEngine loads the model and its rows.
func (o *engineOptions) openEngine() (session engine.Session, counter *tokenCounter, rows []engine.Input,
	rep *engineReport, err error) {
	dir, err := defaultBenchModel(o.model)
	if err != nil {
		return nil, nil, nil, nil, err
	}
	if counter, err = openTokenCounter(dir); err != nil {
		return nil, nil, nil, nil, err
	}
	texts, material, err := o.openTexts()
	if err == nil {
		err = initOnnxRuntime()
	}
	var tokens *loadgen.Tokens
	var ids [][]int32
	if err == nil {
		tokens, ids, err = counter.count(texts)
	}
	if err == nil {
		session, err = modelRuntime.Open(counter.model, engine.RuntimeOptions{Device: "cpu"})
	}
	if err != nil {
		counter.tokenizer.Close()
		return nil, nil, nil, nil, err
	}
	for _, r := range ids {
		rows = append(rows, engine.Tokens(r))
	}
	rep = &engineReport{Date: time.Now().UTC(), Machine: benchMachine(), Model: counter.described,
		Provider: session.Provider(), Material: material, Tokens: tokens, Rounds: o.rounds}
	return session, counter, rows, rep, nil
}

// line is one measurement of the bare loop.
func (o *engineOptions) line(ctx context.Context, session engine.Session, rows []engine.Input, runners, budget int) (
	bare.Result, error) {
	return bare.Run(ctx, rows, bare.Options{Runners: runners, BatchTokens: budget, Window: o.window, Length: o.length,
		Open: session.NewRunner, Warm: session.Warmup})
}

// add makes one line of all rounds of a measurement.
func (r *engineReport) add(rs []bare.Result) {
	slices.SortFunc(rs, func(a, b bare.Result) int { return cmp.Compare(a.RowsPerS, b.RowsPerS) })
	row := engineRow{Result: rs[len(rs)/2], Least: rs[0].RowsPerS, Most: rs[len(rs)-1].RowsPerS}
	row.GMACs = r.Model.Shape.MACs(row.MeanTokens, row.MeanSquare) * row.RowsPerS / 1e9
	if p := r.Machine.Peak; p != nil {
		row.ShareOfPeak = row.GMACs / (p.GMACs * float64(min(row.Runners, r.Machine.Cores)))
	}
	r.Rows = append(r.Rows, row)
}

func benchEngine(ctx context.Context, out, errw io.Writer, o engineOptions) error {
	session, counter, rows, rep, err := o.openEngine()
	if err != nil {
		return err
	}
	defer counter.tokenizer.Close()
	defer session.Close()
	runners := o.runners
	if len(runners) == 0 {
		runners = []int{ort.DefaultRunners()}
	}
	results := make([][]bare.Result, len(runners)*len(o.budgets))
	view := newBenchView(errw)
	defer view.clear()
	for round := range o.rounds {
		for i := range results {
			n, budget := runners[i/len(o.budgets)], o.budgets[i%len(o.budgets)]
			view.status("round %d of %d: %d runners, batches of %d tokens", round+1, o.rounds, n, budget)
			r, err := o.line(ctx, session, rows, n, budget)
			if err != nil {
				return fmt.Errorf("bench engine: %w", err)
			}
			results[i] = append(results[i], r)
		}
	}
	view.clear()
	for _, rs := range results {
		rep.add(rs)
	}
	return rep.show(out, o.json)
}

func (r *engineReport) show(out io.Writer, file string) error {
	encode := func(w io.Writer) error {
		enc := json.NewEncoder(w)
		enc.SetIndent("", " ")
		return enc.Encode(r)
	}
	if file == "-" {
		return encode(out)
	}
	r.write(out)
	if file != "" {
		return writeFile(file, encode)
	}
	return nil
}

func (r *engineReport) write(w io.Writer) {
	row := func(name, format string, args ...any) {
		fmt.Fprintf(w, "%-10s %s\n", name, fmt.Sprintf(format, args...))
	}
	m, t := r.Machine, r.Tokens
	row("machine", "%s, %d cores (%s); ONNX Runtime %s; %s", m.CPU, m.Cores, strings.Join(m.Features, " "), m.Runtime,
		r.Date.Format(time.DateOnly))
	row("model", "%s, %s, %s, %d layers of %d, on %s", r.Model.Tag, r.Model.Precision, r.Model.Layout,
		r.Model.Shape.Layers, r.Model.Shape.Hidden, r.Provider)
	row("texts", "%d of %s; tokens: mean %.1f, p50 %d, p99 %d, most %d", t.Sample, r.Material, t.Mean, t.P50, t.P99,
		t.Max)
	if m.Peak != nil {
		row("int8 peak", "%.0f GMAC/s a core: %s", m.Peak.GMACs, m.Peak.How)
	}
	fmt.Fprintln(w)
	efficiency := slices.ContainsFunc(r.Rows, func(e engineRow) bool { return e.Efficiency > 0 })
	head := []string{"runners", "budget", "texts/s", "range", "tokens/s", "GMAC/s", "of peak", "fill", "texts/batch",
		"CPU s/1000"}
	if efficiency {
		head = append(head, "efficiency")
	}
	table := [][]string{head}
	for _, e := range r.Rows {
		line := []string{strconv.Itoa(e.Runners), strconv.Itoa(e.BatchTokens), fmt.Sprintf("%.0f", e.RowsPerS),
			fmt.Sprintf("%.0f-%.0f", e.Least, e.Most), fmt.Sprintf("%.0f", e.TokensPerS),
			fmt.Sprintf("%.0f", e.GMACs), share(e.ShareOfPeak), fmt.Sprintf("%.2f", e.Fill), fmt.Sprintf("%.1f",
				e.RowsOfBatch), fmt.Sprintf("%.3f", e.CPUPer1000)}
		if efficiency {
			line = append(line, share(e.Efficiency))
		}
		table = append(table, line)
	}
	loadgen.WriteTable(w, table)
	least := 1.0
	for _, e := range r.Rows {
		if e.Runners <= m.Cores {
			least = min(least, e.CPUShare)
		}
	}
	if least < 0.93 {
		fmt.Fprintf(w, "note: runners got only %.0f %% of their cores' time: other work was running, or the host "+
			"gave it to others. CPU s/1000 is the figure to trust.\n", 100*least)
	}
	if len(r.Workers) == 0 {
		return
	}
	fmt.Fprintln(w)
	table = [][]string{{"workers", "texts/s", "efficiency", "of bare loop", "CPU s/1000", "RSS", "lost", "doubled"}}
	for _, l := range r.Workers {
		d := l.Drained
		table = append(table, []string{strconv.Itoa(l.Workers), fmt.Sprintf("%.0f", d.Rate), share(l.Efficiency),
			share(l.OfBare), fmt.Sprintf("%.3f", d.CPUPer1000),
			fmt.Sprintf("%.0f MiB", d.RSS/(1<<20)), strconv.Itoa(d.Lost), strconv.Itoa(d.Doubled)})
	}
	loadgen.WriteTable(w, table)
}

func share(v float64) string {
	if v <= 0 {
		return "-"
	}
	return fmt.Sprintf("%.0f %%", 100*v)
}

// ---- scale

func benchScaleCommand() *cobra.Command {
	o := engineOptions{scaling: true}
	cmd := &cobra.Command{
		Use:   "scale -m MODEL_DIR",
		Short: "Measure what more cores and more workers bring",
		Long: `Measures the bare session loop with 1 to N runners, then the whole path with 1 to N workers: processes of "sluice run" with
one runner each, bound to a core of their own, that work off a backlog, exactly-once. Efficiency is throughput for each
runner or worker against one alone. The broker is in this process unless --brokers names one; it and the reader share the
cores with the workers, which the last workers pay for.`,
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
	session, counter, rows, rep, err := o.openEngine()
	if err != nil {
		return err
	}
	defer counter.tokenizer.Close()
	defer session.Close()
	var counts []int
	for n := 1; n < most; n *= 2 {
		counts = append(counts, n)
	}
	counts = append(counts, most)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if len(o.brokers) == 0 {
		cluster, err := embeddedBroker(ctx)
		if err != nil {
			return err
		}
		o.brokers = cluster.ListenAddrs()
	}
	temp, err := os.MkdirTemp("", "sluice-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(temp)
	view := newBenchView(errw)
	defer view.clear()
	loops, drains := make([][]bare.Result, len(counts)), make([][]loadgen.Drained, len(counts))
	for round := range o.rounds {
		for i, n := range counts { // in alternation, so that both see the same machine
			view.status("round %d of %d: bare loop with %d runners", round+1, o.rounds, n)
			r, err := o.line(ctx, session, rows, n, o.budgets[0])
			if err != nil {
				return fmt.Errorf("bench scale: %w", err)
			}
			loops[i] = append(loops[i], r)
			view.status("round %d of %d: whole path with %d workers", round+1, o.rounds, n)
			d, err := o.drainWith(ctx, temp, counter.model.Dir, cores[:n], 2*most, r.RowsPerS, round)
			if err != nil {
				return fmt.Errorf("bench scale: %d workers: %w", n, err)
			}
			drains[i] = append(drains[i], d)
		}
	}
	view.clear()
	for i, n := range counts {
		ratios := make([]float64, o.rounds)
		for k := range ratios {
			ratios[k] = drains[i][k].Rate / loops[i][k].RowsPerS
		}
		slices.Sort(ratios)
		slices.SortFunc(drains[i], func(a, b loadgen.Drained) int { return cmp.Compare(a.Rate, b.Rate) })
		rep.add(loops[i])
		rep.Rows[i].Efficiency = rep.Rows[i].RowsPerS / float64(n) / rep.Rows[0].RowsPerS
		line := workersLine{Workers: n, Drained: drains[i][o.rounds/2], OfBare: ratios[o.rounds/2]}
		line.Efficiency = line.Drained.Rate / float64(n)
		if i > 0 {
			line.Efficiency /= rep.Workers[0].Drained.Rate
		} else {
			line.Efficiency = 1
		}
		rep.Workers = append(rep.Workers, line)
	}
	return rep.show(out, o.json)
}

// drainWith lets one worker a core work off a backlog of about o.length at rate.
func (o *engineOptions) drainWith(ctx context.Context, temp, model string, cores []int, partitions int, rate float64,
	round int) (d loadgen.Drained, err error) {
	name := fmt.Sprintf("bench-%d-%d-%d", os.Getpid(), len(cores), round)
	target := loadgen.Target{Brokers: o.brokers, Input: name + "-in", Output: name + "-out", DeadLetter: name + "-dlq",
		Format: loadgen.JSON}
	if err := loadgen.CreateTopics(ctx, target, partitions); err != nil {
		return d, err
	}
	texts, _, err := o.openTexts()
	if err != nil {
		return d, err
	}
	exe, err := os.Executable()
	if err != nil {
		return d, err
	}
	var workers []*loadgen.Worker
	defer func() {
		for _, w := range workers {
			err = errors.Join(err, w.Stop())
		}
	}()
	// Workers join before there is work, else the first would take all of it while the others load their models; and
	// they are held while the backlog is written, else they would have done half of it by then.
	var pids []int
	for i, c := range cores {
		w, err := loadgen.StartWorker(context.WithoutCancel(ctx), loadgen.WorkerPlan{
			Binary: exe, Dir: temp, Target: target, Model: model, Group: name, Name: fmt.Sprintf("w-%d", i),
			Serve: true, Cores: []int{c}, Env: workerEnv(),
			Args: append([]string{"--runners=1", "--batch_tokens=" + strconv.Itoa(o.budgets[0])}, o.workerArgs...),
		})
		if err != nil {
			return d, err
		}
		workers = append(workers, w)
		pids = append(pids, w.PID)
	}
	for _, w := range workers {
		if err := w.Pause(); err != nil {
			return d, err
		}
	}
	return loadgen.Drain(ctx, loadgen.DrainPlan{Target: target, Records: max(500, int(rate*o.length.Seconds())),
		Texts: texts, Begin: func(context.Context) (_ []int, err error) {
			for _, w := range workers {
				err = errors.Join(err, w.Resume())
			}
			return pids, err
		}})
}
