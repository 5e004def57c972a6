// Command hugot is a peer of the race: franz-go and hugot's text classification pipeline on its ONNX Runtime backend.
// See README.md. Environment: RACE_BROKERS, RACE_INPUT, RACE_OUTPUT, RACE_GROUP, RACE_MODEL, RACE_CORES, RACE_ORT
// (directory of libonnxruntime.so), and for tuning RACE_WINDOW (records taken at once) and RACE_ROWS (texts a run).
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/knights-analytics/hugot"
	"github.com/knights-analytics/hugot/options"
	"github.com/knights-analytics/hugot/pipelines"
	"github.com/twmb/franz-go/pkg/kgo"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	if err := run(ctx); err != nil && ctx.Err() == nil {
		fmt.Fprintln(os.Stderr, "hugot:", err)
		os.Exit(1)
	}
}

func number(name string, without int) int {
	if n, err := strconv.Atoi(os.Getenv(name)); err == nil {
		return n
	}
	return without
}

func run(ctx context.Context) error {
	session, err := hugot.NewORTSession(ctx, options.WithOnnxLibraryPath(os.Getenv("RACE_ORT")),
		options.WithIntraOpNumThreads(1), options.WithInterOpNumThreads(1))
	if err != nil {
		return err
	}
	defer session.Destroy()
	pipeline, err := hugot.NewPipeline(session, hugot.TextClassificationConfig{ModelPath: os.Getenv("RACE_MODEL"),
		OnnxFilename: "model.onnx", Name: "race"})
	if err != nil {
		return err
	}
	// One consumer a core, all on one session with one thread a run: what hugot's README advises for throughput.
	var wg sync.WaitGroup
	failures := make(chan error, 64)
	for range number("RACE_CORES", 2) {
		wg.Go(func() { failures <- consume(ctx, pipeline) })
	}
	err = <-failures
	wg.Wait()
	return err
}

func consume(ctx context.Context, pipeline *pipelines.TextClassificationPipeline) error {
	window, rows := number("RACE_WINDOW", 256), number("RACE_ROWS", 8)
	client, err := kgo.NewClient(kgo.SeedBrokers(os.Getenv("RACE_BROKERS")), kgo.ConsumerGroup(os.Getenv("RACE_GROUP")),
		kgo.ConsumeTopics(os.Getenv("RACE_INPUT")),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.DisableAutoCommit(), kgo.Balancers(kgo.RangeBalancer()),
		kgo.FetchMaxWait(50*time.Millisecond),
		kgo.DefaultProduceTopic(os.Getenv("RACE_OUTPUT")), kgo.ProducerLinger(5*time.Millisecond))
	if err != nil {
		return err
	}
	defer client.Close()
	for {
		fetches := client.PollRecords(ctx, window)
		if err := fetches.Err0(); err != nil {
			return err
		}
		records := fetches.Records()
		if len(records) == 0 {
			continue
		}
		texts := make([]string, len(records))
		order := make([]int, len(records))
		for i, r := range records {
			var record struct{ Text string }
			if err := json.Unmarshal(r.Value, &record); err != nil {
				return err
			}
			texts[i], order[i] = record.Text, i
		}
		slices.SortFunc(order, func(a, b int) int { return len(texts[a]) - len(texts[b]) })
		out := make([]*kgo.Record, len(records))
		for batch := range slices.Chunk(order, rows) {
			inputs := make([]string, len(batch))
			for k, i := range batch {
				inputs[k] = texts[i]
			}
			result, err := pipeline.RunPipeline(ctx, inputs)
			if err != nil {
				return err
			}
			for k, i := range batch {
				best := result.ClassificationOutputs[k][0]
				value, err := json.Marshal(map[string]any{"label": best.Label, "score": best.Score})
				if err != nil {
					return err
				}
				out[i] = &kgo.Record{Key: records[i].Key, Value: value}
			}
		}
		if err := client.ProduceSync(ctx, out...).FirstErr(); err != nil {
			return err
		}
		if err := client.CommitRecords(ctx, records...); err != nil {
			return err
		}
	}
}
