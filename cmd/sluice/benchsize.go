package main

import (
	"context"
	"fmt"
	"io"
	"math"
	"os"
	"sluice/cmd/sluice/settings"
	"time"

	"github.com/spf13/cobra"

	loadgen "sluice/cmd/sluice/load"
	"sluice/cmd/sluice/load/bare"
	"sluice/cmd/sluice/load/size"
	"sluice/cmd/sluice/terminal"
	"sluice/model"
	"sluice/pipeline/engine"
)

// This file sizes a deployment: how many cores a rate needs. The arithmetic is package size's.

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
		Long: `Says how many cores, workers and partitions a stream needs, and how much memory, from a quick
measurement of the model's bare loop on one core of this machine, or from a figure that is given. The answer holds for
cores like this one; every assumption is printed with it.`,
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

func benchSize(ctx context.Context, w io.Writer, o sizeOptions) error {
	from := size.Sources{PerCore: "given by --per-core", InFlight: float64(settings.Default().Limits.Total.Bytes)}
	perCore := o.perCore
	if perCore == 0 {
		r, rss, tag, err := o.measureCore(ctx)
		if err != nil {
			return err
		}
		perCore = r.TokensPerS
		from.PerCore = fmt.Sprintf("%s, bare loop on one core of this machine (%s) for %.0f s, texts of %.0f tokens",
			tag,
			loadgen.DescribeMachine().CPU, r.Seconds, r.MeanTokens)
		from.Memory, from.MemoryBy = rss, "this process with the model loaded"
	} else if o.model != "" {
		m, err := model.Open(o.model)
		if err != nil {
			return usageErrorf("bench size: %v", err)
		}
		st, err := os.Stat(m.Path(model.OnnxFile))
		if err != nil {
			return err
		}
		from.Memory, from.MemoryBy = 2*float64(st.Size())+80<<20, "twice the model's file and 80 MiB"
	}
	stream := size.Stream{Rate: o.rate, Tokens: o.tokens, PerCore: perCore, Efficiency: o.efficiency,
		Utilization: o.utilization, PerWorker: o.perWorker}
	answer, err := size.Of(stream)
	if err != nil {
		return usageErrorf("bench size: %v", err)
	}
	answer.Write(w, stream, from)
	return nil
}

// measureCore runs the bare loop on one core, on rows of the length asked for, and reads this process's memory.
func (o *sizeOptions) measureCore(ctx context.Context) (r bare.Result, rss float64, tag string, err error) {
	o.profile, o.duplicates, o.poison, o.seed, o.rounds = "mixed", -1, -1, 1, 1
	run, err := o.open(terminal.NewProgress(io.Discard))
	if err != nil {
		return r, 0, "", err
	}
	defer run.close()
	// Stretched or cut to the mean asked for, with the spread that they have: tokens cost the same whatever they say.
	factor := o.tokens / run.report.Tokens.Mean
	rows := run.plan.Rows
	for i, row := range rows {
		ids := row.(engine.Tokens)
		n := min(run.counter.model.MaxTokens, max(1, int(math.Round(float64(len(ids))*factor))))
		long := make(engine.Tokens, n)
		for k := range long {
			long[k] = ids[k%len(ids)]
		}
		rows[i] = long
	}
	r, err = bare.Run(ctx, rows, bare.Options{Runners: 1, BatchTokens: 128, Length: 5 * time.Second,
		Open: run.session.NewRunner, Warm: run.session.Warmup})
	if err != nil {
		return r, 0, "", fmt.Errorf("bench size: %w", err)
	}
	reading, err := loadgen.Probe{PIDs: []int{os.Getpid()}}.Read(ctx)
	if err != nil {
		return r, 0, "", err
	}
	return r, reading.RSS(), run.report.Model.Tag, nil
}
