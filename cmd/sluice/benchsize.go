package main

import (
	"context"
	"fmt"
	"io"
	"math"
	"os"
	"time"

	"github.com/spf13/cobra"

	loadgen "sluice/cmd/sluice/load"
	"sluice/cmd/sluice/load/bare"
	"sluice/model"
	"sluice/pipeline/engine"
)

// This file sizes a deployment: how many cores a rate needs. The arithmetic is in sizeFor, which is pure.

// sizeOptions are the flags of bench size.
type sizeOptions struct {
	engineOptions
	tokens      float64
	perCore     float64
	efficiency  float64
	utilization float64
	perWorker   int
}

func benchSizeCommand() *cobra.Command {
	o := sizeOptions{}
	cmd := &cobra.Command{
		Use:   "size --rate R --tokens T",
		Short: "Say how many cores and workers a rate needs",
		Long: `Says how many cores, workers and partitions a stream needs, and how much memory, from a quick measurement of the model's
bare loop on one core of this machine, or from a figure that is given. The answer holds for cores like this one; every
assumption is printed with it.`,
		Example: `  sluice bench size --rate 5000 --tokens 25 -m models/sentiment
  sluice bench size --rate 5000 --tokens 25 --per-core 3300 --cores-per-worker 4`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if o.rate <= 0 || o.tokens < 1 || math.IsInf(o.rate, 0) || math.IsInf(o.tokens, 0) {
				return usageErrorf("bench size: give --rate (texts a second) and --tokens (mean length of a text, " +
					"special tokens included)")
			}
			if o.perCore < 0 || o.perWorker < 1 || o.efficiency <= 0 || o.efficiency > 1 || o.utilization <= 0 ||
				o.utilization > 1 {
				return usageErrorf("bench size: --per-core must not be negative, --cores-per-worker at least 1, " +
					"--efficiency and --utilization above 0 and at most 1")
			}
			return benchSize(cmd.Context(), cmd.OutOrStdout(), o)
		},
	}
	fs := cmd.Flags()
	fs.Float64Var(&o.rate, "rate", 0, "`N` texts a second at the busiest time")
	describe(fs, "rate", envBench+"RATE", "5000")
	fs.Float64Var(&o.tokens, "tokens", 0, "`N` tokens of a text on average, special tokens included")
	describe(fs, "tokens", envBench+"TOKENS", "25")
	modelFlag(fs, &o.model, "measured for a few seconds on one core; default: models/sentiment beside the binary")
	fs.Float64Var(&o.perCore, "per-core", 0, "`N` tokens a second of one core, from bench engine on the machine that "+
		"counts; 0: measure here")
	describe(fs, "per-core", envBench+"PER_CORE", "3300")
	fs.Float64Var(&o.efficiency, "efficiency", 0.9, "`SHARE` of the bare loop that a worker reaches on the whole path")
	describe(fs, "efficiency", envBench+"EFFICIENCY", "0.85")
	fs.Float64Var(&o.utilization, "utilization", 0.7, "`SHARE` of the maximum to plan for: what is left is for "+
		"peaks, for a worker that restarts, and for latency")
	describe(fs, "utilization", envBench+"UTILIZATION", "0.6")
	fs.IntVar(&o.perWorker, "cores-per-worker", 2, "`N` cores of one worker")
	describe(fs, "cores-per-worker", envBench+"CORES_PER_WORKER", "4")
	return cmd
}

// size is the answer.
type size struct {
	TokensPerS float64 // that the stream brings
	PerCore    float64 // tokens a second of a core at the planned utilization, on the whole path
	Cores      int
	Workers    int
	Partitions int
}

// sizeFor is the arithmetic: cores for the tokens, whole workers for the cores, and at least twice as many partitions
// as workers, so that the group can be doubled and shares stay even.
func sizeFor(rate, tokens, perCore, efficiency, utilization float64, perWorker int) (size, error) {
	s := size{TokensPerS: rate * tokens, PerCore: perCore * efficiency * utilization}
	cores := math.Ceil(s.TokensPerS/s.PerCore - 1e-9)
	if !(s.PerCore > 0) || cores > 1e6 {
		return s, fmt.Errorf("%.3g tokens a second are more than a million cores of %.3g tokens a second could do",
			s.TokensPerS, s.PerCore)
	}
	s.Workers = max(1, int(math.Ceil(cores/float64(perWorker))))
	s.Cores = s.Workers * perWorker
	s.Partitions = 2 * s.Workers
	return s, nil
}

func benchSize(ctx context.Context, w io.Writer, o sizeOptions) error {
	row := func(name, format string, args ...any) {
		fmt.Fprintf(w, "%-12s %s\n", name, fmt.Sprintf(format, args...))
	}
	perCore, source, memory, memorySource := o.perCore, "given by --per-core", 0.0, ""
	if perCore == 0 {
		r, rss, tag, err := o.measureCore(ctx)
		if err != nil {
			return err
		}
		perCore = r.TokensPerS
		source = fmt.Sprintf("%s, bare loop on one core of this machine (%s) for %.0f s, texts of %.0f tokens", tag,
			loadgen.DescribeMachine().CPU, r.Seconds, r.MeanTokens)
		memory, memorySource = rss, "this process with the model loaded"
	} else if o.model != "" {
		m, err := model.Open(o.model)
		if err != nil {
			return usageErrorf("bench size: %v", err)
		}
		st, err := os.Stat(m.Path(model.OnnxFile))
		if err != nil {
			return err
		}
		memory, memorySource = 2*float64(st.Size())+80<<20, "twice the model's file and 80 MiB"
	}
	s, err := sizeFor(o.rate, o.tokens, perCore, o.efficiency, o.utilization, o.perWorker)
	if err != nil {
		return usageErrorf("bench size: %v", err)
	}
	row("stream", "%g texts/s of %g tokens: %.0f tokens/s", o.rate, o.tokens, s.TokensPerS)
	row("one core", "%.0f tokens/s (%s)", perCore, source)
	row("planned", "%.0f tokens/s a core: %.0f %% of that on the whole path, planned for %.0f %% of the maximum",
		s.PerCore, 100*o.efficiency, 100*o.utilization)
	row("cores", "%d", s.Cores)
	row("workers", "%d of %d cores", s.Workers, o.perWorker)
	row("partitions", "%d or more: a worker needs one at least, and twice the workers leaves room to grow",
		s.Partitions)
	if memory > 0 {
		limit := float64(defaultSettings().Limits.Total.Bytes)
		row("memory", "%.0f MiB a worker: %.0f MiB (%s), and up to %.0f MiB of records in flight "+
			"(limits.total.bytes, held twice: record and result)",
			(memory+2*limit)/(1<<20), memory/(1<<20), memorySource, 2*limit/(1<<20))
	}
	missing := "One worker alone has nobody to take over while it restarts."
	if s.Workers > 1 {
		left := s.TokensPerS / (s.PerCore / o.utilization * float64((s.Workers-1)*o.perWorker))
		missing = fmt.Sprintf("With one worker missing the load is %.0f %% of the maximum.", 100*left)
	}
	fmt.Fprintf(w, `
assumed: cores like the one that was measured, not shared with the broker or other work (two hyper-threads are about 1.2
cores, not two); the mean length of the texts, not their number, decides; no cache, no duplicates, one model. With several
models in one worker add up the cores of each. %s
`, missing)
	return nil
}

// measureCore runs the bare loop on one core, on rows of the length asked for, and reads this process's memory.
func (o *sizeOptions) measureCore(ctx context.Context) (r bare.Result, rss float64, tag string, err error) {
	o.profile, o.duplicates, o.poison, o.seed, o.rounds = "mixed", -1, -1, 1, 1
	session, counter, rows, rep, err := o.openEngine()
	if err != nil {
		return r, 0, "", err
	}
	defer counter.tokenizer.Close()
	defer session.Close()
	// Stretched or cut to the mean asked for, with the spread that they have: tokens cost the same whatever they say.
	factor := o.tokens / rep.Tokens.Mean
	for i, row := range rows {
		ids := row.(engine.Tokens)
		n := min(counter.model.MaxTokens, max(1, int(math.Round(float64(len(ids))*factor))))
		long := make(engine.Tokens, n)
		for k := range long {
			long[k] = ids[k%len(ids)]
		}
		rows[i] = long
	}
	r, err = bare.Run(ctx, rows, bare.Options{Runners: 1, BatchTokens: 128, Length: 5 * time.Second,
		Open: session.NewRunner, Warm: session.Warmup})
	if err != nil {
		return r, 0, "", fmt.Errorf("bench size: %w", err)
	}
	reading, err := loadgen.Probe{PIDs: []int{os.Getpid()}}.Read(ctx)
	if err != nil {
		return r, 0, "", err
	}
	return r, reading.RSS(), rep.Model.Tag, nil
}
