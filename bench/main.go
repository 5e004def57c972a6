// Command bench measures the worker against its own ceiling: messages and real tokens per second of the whole path (a
// real Kafka broker, sluice run, exactly-once) against the bare session loop (the same model and texts, tokenized
// beforehand, no Kafka), in turns within one run, on the same cores. It prints a table in Markdown and writes it under
// bench/results with the machine described.
//
//	make bench
//	go run ./bench -models models/sentiment -seconds 10 -rounds 3
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"

	"sluice/bench/trial"
	"sluice/cmd/sluice/load"
	"sluice/cmd/sluice/load/bare"
	"sluice/model"
	"sluice/model/ort"
	"sluice/pipeline/engine"
	"sluice/tokenize/hf"
)

func main() {
	b := &bench{Command: trial.NewCommand("bench", "bench/results/whole-path.md")}
	b.Model, b.Rounds = "", 3 // it has several models
	models := flag.String("models", "models/sentiment,models/sentiment-tiny,models/ner",
		"model directories, comma-separated")
	flag.Float64Var(&b.seconds, "seconds", 15, "about how long one measurement takes; sets the number of records")
	b.Main(func(ctx context.Context) error { return b.run(ctx, strings.Split(*models, ",")) })
}

// bench is what holds for all models.
type bench struct {
	*trial.Command
	seconds float64 // of one measurement, about
	broker  *trial.Broker
}

// result is one measurement.
type result struct {
	messages, tokens float64 // per second
	cpu              float64 // CPU seconds per 1,000 messages
}

func (b *bench) run(ctx context.Context, dirs []string) error {
	lib := os.Getenv("SLUICE_ONNXRUNTIME")
	if lib == "" {
		return errors.New(
			`SLUICE_ONNXRUNTIME is not set: run it by "make bench", or after eval "$(scripts/native.sh env)"`)
	}
	if err := ort.Init(lib); err != nil {
		return err
	}
	fmt.Fprintln(os.Stderr, "bench: starting a Kafka broker")
	var err error
	if b.broker, err = trial.StartBroker(); err != nil {
		return err
	}
	defer b.broker.Stop()
	page := b.head()
	for _, dir := range dirs {
		row, err := b.measure(ctx, dir)
		if err != nil {
			return fmt.Errorf("%s: %w", dir, err)
		}
		page.WriteString(row)
	}
	return b.Publish(page.Bytes())
}

// head is the page before its rows.
func (b *bench) head() *bytes.Buffer {
	page := &bytes.Buffer{}
	fmt.Fprintf(page, "# The whole path against the bare session loop\n\n"+
		"Whole path: Apache Kafka broker -> `sluice run` (exactly-once, default settings) -> broker, records waiting "+
		"in %d partitions beforehand; counted by an independent read_committed consumer from 10 %% of the "+
		"results to the last one.\n"+
		"The broker and the counting consumer share the cores with the worker. Bare loop: the same texts tokenized "+
		"beforehand, sorted by length in windows of 512, batches of at most 64, 128, 256 or 512 tokens, "+
		"whichever is fastest, %d threads pinned, no Kafka, no tokenizing, no JSON.\n"+
		"The bare loop runs for a fixed time, the whole path on as many records as that should take. Made by `make "+
		"bench`; medians of %d rounds in alternation, with the range.\n\n%s\n\n",
		b.Partitions, ort.DefaultRunners(), b.Rounds, machine())
	columns := []string{"model", "bare loop msgs/s", "bare loop tokens/s", "whole path msgs/s", "whole path tokens/s",
		"whole path / bare loop", "CPU s per 1,000 msgs, bare loop", "CPU s per 1,000 msgs, worker"}
	fmt.Fprintf(page, "| %s |\n|%s\n", strings.Join(columns, " | "), strings.Repeat("---|", len(columns)))
	return page
}

// budgets are the token budgets among which the bare loop takes its best: a ceiling has no other purpose than to be
// high.
var budgets = []int{64, 128, 256, 512}

// bareLoop says how rows are run through the session: on one pinned thread a core.
func bareLoop(session *ort.Session, budget int, seconds float64) bare.Options {
	return bare.Options{Runners: ort.DefaultRunners(), BatchTokens: budget,
		Length: time.Duration(seconds * float64(time.Second)), Open: session.NewRunner, Warm: session.Warmup}
}

// material is a model's tokenized texts.
type material struct {
	texts  *load.Texts
	rows   []engine.Input
	tokens float64 // of a row, in the mean
}

func (b *bench) material(m *model.Model) (c material, err error) {
	tok, err := hf.Of(m)
	if err != nil {
		return c, err
	}
	defer tok.Close()
	if c.texts, err = b.Generated("mixed"); err != nil {
		return c, err
	}
	var texts [][]byte
	for _, text := range c.texts.Sample(4000) {
		texts = append(texts, []byte(text))
	}
	tokens := 0
	for _, e := range tok.Encode(texts, m.TokenizeOptions()) {
		c.rows = append(c.rows, &e.Windows[0])
		tokens += len(e.Windows[0].IDs)
	}
	c.tokens = float64(tokens) / float64(len(c.rows))
	return c, nil
}

// measure makes the row of one model.
func (b *bench) measure(ctx context.Context, dir string) (row string, err error) {
	m, err := model.Open(dir)
	if err != nil {
		return "", err
	}
	c, err := b.material(m)
	if err != nil {
		return "", err
	}
	session, err := ort.Open(m, engine.RuntimeOptions{Device: "cpu", Runners: ort.DefaultRunners()})
	if err != nil {
		return "", err
	}
	defer session.Close()
	budget, err := bare.Best(ctx, c.rows, budgets, bareLoop(session, 0, 2))
	if err != nil {
		return "", err
	}
	warm, err := bare.Run(ctx, c.rows, bareLoop(session, budget, 2))
	if err != nil {
		return "", err
	}
	n := int(warm.RowsPerS * b.seconds)
	var loops, paths []result
	for round := range b.Rounds {
		fmt.Fprintf(os.Stderr, "bench: %s round %d of %d: bare loop\n", m.Name, round+1, b.Rounds)
		loop, err := bare.Run(ctx, c.rows, bareLoop(session, budget, b.seconds))
		if err != nil {
			return "", err
		}
		loops = append(loops, result{messages: loop.RowsPerS, tokens: loop.TokensPerS, cpu: loop.CPUPer1000})
		fmt.Fprintf(os.Stderr, "bench: %s round %d of %d: whole path, %d records\n", m.Name, round+1, b.Rounds, n)
		path, err := b.wholePath(ctx, dir, c.texts, n)
		if err != nil {
			return "", err
		}
		path.tokens = path.messages * c.tokens
		paths = append(paths, path)
	}
	name := fmt.Sprintf("%s (%s, %s, mean %.1f tokens)", m.Name, m.Manifest.Precision, m.Layout, c.tokens)
	return "| " + strings.Join(append([]string{name}, cells(loops, paths)...), " | ") + " |\n", nil
}

// cells are the figures of equal rounds of the bare loop and of the whole path, each a median with its range.
func cells(loops, paths []result) []string {
	spread := func(format string, of func(i int) float64) string {
		v := make([]float64, len(loops))
		for i := range v {
			v[i] = of(i)
		}
		return trial.Spread(v, format)
	}
	return []string{
		spread("%.0f", func(i int) float64 { return loops[i].messages }),
		spread("%.0f", func(i int) float64 { return loops[i].tokens }),
		spread("%.0f", func(i int) float64 { return paths[i].messages }),
		spread("%.0f", func(i int) float64 { return paths[i].tokens }),
		spread("%.2f", func(i int) float64 { return paths[i].messages / loops[i].messages }),
		spread("%.2f", func(i int) float64 { return loops[i].cpu }),
		spread("%.2f", func(i int) float64 { return paths[i].cpu }),
	}
}

// wholePath fills a new input topic, starts a worker on it and counts its results.
func (b *bench) wholePath(ctx context.Context, dir string, texts *load.Texts, n int) (r result, err error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Minute)
	defer cancel()
	run := strconv.FormatInt(time.Now().UnixNano(), 36)
	target := load.Target{Brokers: []string{b.broker.Address}, Input: "in-" + run, Output: "out-" + run,
		DeadLetter: "dlq-" + run, Format: load.JSON}
	if err := load.CreateTopics(ctx, target, b.Partitions); err != nil {
		return r, err
	}
	texts.Rewind()
	var worker *load.Worker
	defer func() {
		if worker != nil {
			err = errors.Join(err, worker.Stop())
		}
	}()
	d, err := load.Drain(ctx, load.DrainPlan{Target: target, Records: n, Texts: texts,
		Begin: func(ctx context.Context) ([]int, error) {
			worker, err = load.StartWorker(ctx, load.WorkerPlan{Binary: b.Binary, Dir: b.broker.Dir, Target: target,
				Model: dir, Group: "bench-" + run, Name: "bench-0"})
			if err != nil {
				return nil, err
			}
			return []int{worker.PID}, nil
		}})
	if err != nil {
		return r, err
	}
	if d.DeadLetters > 0 {
		return r, fmt.Errorf("%d records in the dead letter topic", d.DeadLetters)
	}
	return result{messages: d.Rate, cpu: d.CPUPer1000}, nil
}

// machine describes where it ran.
func machine() string {
	m := load.DescribeMachine()
	return fmt.Sprintf("Machine: %s, %d cores, features %s; ONNX Runtime %s; %s; %s.", m.CPU, m.Cores,
		strings.Join(ort.CPUFeatures(), " "), ort.Version(), runtime.Version(), time.Now().UTC().Format(time.DateOnly))
}
