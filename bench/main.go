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
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"sluice/cmd/sluice/load"
	"sluice/cmd/sluice/load/bare"
	"sluice/model"
	"sluice/model/ort"
	"sluice/pipeline/engine"
	"sluice/tokenize"
	"sluice/tokenize/hf"
)

func main() {
	models := flag.String("models", "models/sentiment,models/sentiment-tiny,models/ner",
		"model directories, comma-separated")
	texts := flag.String("texts", "cmd/sluice/demo/stream.jsonl", "JSON lines with a text field: the words of the "+
		"texts")
	seconds := flag.Float64("seconds", 15, "about how long one measurement takes; sets the number of records")
	rounds := flag.Int("rounds", 3, "rounds; bare loop and whole path alternate within each")
	partitions := flag.Int("partitions", 6, "partitions of the topics")
	binary := flag.String("sluice", "dist/sluice", "the worker")
	out := flag.String("out", "bench/results/whole-path.md", "where the table goes")
	flag.Parse()
	if err := run(strings.Split(*models, ","), *texts, *seconds, *rounds, *partitions, *binary, *out); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// result is one measurement.
type result struct {
	messages, tokens float64 // per second
	cpu              float64 // CPU seconds per 1,000 messages
}

func run(dirs []string, textFile string, seconds float64, rounds, partitions int, binary, out string) error {
	lib := os.Getenv("SLUICE_ONNXRUNTIME")
	if lib == "" {
		return errors.New(
			`SLUICE_ONNXRUNTIME is not set: run it by "make bench", or after eval "$(scripts/native.sh env)"`)
	}
	if err := ort.Init(lib); err != nil {
		return err
	}
	words, err := load.ReadTexts(textFile, "text")
	if err != nil {
		return err
	}
	fmt.Fprintln(os.Stderr, "bench: starting a Kafka broker")
	broker, err := load.StartBroker()
	if err != nil {
		return err
	}
	defer broker.Stop()

	var table bytes.Buffer
	fmt.Fprintf(&table, "# The whole path against the bare session loop\n\n"+
		"Whole path: Apache Kafka broker -> `sluice run` (exactly-once, default settings) -> broker, records waiting "+
		"in %d partitions beforehand; counted by an independent read_committed consumer from 10 %% of the "+
		"results to the last one.\n"+
		"The broker and the counting consumer share the cores with the worker. Bare loop: the same texts tokenized "+
		"beforehand, sorted by length in windows of 512, batches of at most 64, 128, 256 or 512 tokens, "+
		"whichever is fastest, %d threads pinned, no Kafka, no tokenizing, no JSON.\n"+
		"The bare loop runs for a fixed time, the whole path on as many records as that should take. Made by `make "+
		"bench`; medians of %d rounds in alternation, with the range.\n\n%s\n\n"+
		"| model | bare loop msgs/s | bare loop tokens/s | whole path msgs/s | whole path tokens/s | whole path / "+
		"bare loop | CPU s per 1,000 msgs, bare loop | CPU s per 1,000 msgs, worker "+
		"|\n|---|---|---|---|---|---|---|---|\n",
		partitions, ort.DefaultRunners(), rounds, machine())
	for _, dir := range dirs {
		row, err := measure(dir, words, seconds, rounds, partitions, binary, broker)
		if err != nil {
			return fmt.Errorf("%s: %w", dir, err)
		}
		table.WriteString(row)
	}
	fmt.Print(table.String())
	if err := os.MkdirAll(filepath.Dir(out), 0o755); err != nil {
		return err
	}
	return os.WriteFile(out, table.Bytes(), 0o644)
}

// budgets are the token budgets among which the bare loop takes its best: a ceiling has no other purpose than to be
// high.
var budgets = []int{64, 128, 256, 512}

// bareLoop says how rows are run through the session: on one pinned thread a core.
func bareLoop(session *ort.Session, budget int, seconds float64) bare.Options {
	return bare.Options{Runners: ort.DefaultRunners(), BatchTokens: budget,
		Length: time.Duration(seconds * float64(time.Second)), Open: session.NewRunner, Warm: session.Warmup}
}

func measure(dir string, words []string, seconds float64, rounds, partitions int, binary string, b *load.Broker) (
	string, error) {
	ctx := context.Background()
	m, err := model.Open(dir)
	if err != nil {
		return "", err
	}
	tok, err := hf.Open(m.Path(model.TokenizerFile))
	if err != nil {
		return "", err
	}
	defer tok.Close()
	profile, err := load.ProfileNamed("mixed")
	if err != nil {
		return "", err
	}
	sequence, err := load.NewTexts(profile, words, 1)
	if err != nil {
		return "", err
	}
	var texts [][]byte
	for _, text := range sequence.Sample(4000) {
		texts = append(texts, []byte(text))
	}
	var rows []engine.Input
	tokens := 0
	for _, e := range tok.Encode(texts, tokenize.Options{MaxTokens: m.MaxTokens}) {
		rows = append(rows, &e.Windows[0])
		tokens += len(e.Windows[0].IDs)
	}
	perMessage := float64(tokens) / float64(len(rows))

	session, err := ort.Open(m, engine.RuntimeOptions{Device: "cpu", Runners: ort.DefaultRunners()})
	if err != nil {
		return "", err
	}
	defer session.Close()
	budget, err := bare.Best(ctx, rows, budgets, bareLoop(session, 0, 2))
	if err != nil {
		return "", err
	}
	warm, err := bare.Run(ctx, rows, bareLoop(session, budget, 2))
	if err != nil {
		return "", err
	}
	n := int(warm.RowsPerS * seconds)
	var loops, paths []result
	for round := range rounds {
		fmt.Fprintf(os.Stderr, "bench: %s round %d of %d: bare loop\n", m.Name, round+1, rounds)
		loop, err := bare.Run(ctx, rows, bareLoop(session, budget, seconds))
		if err != nil {
			return "", err
		}
		loops = append(loops, result{messages: loop.RowsPerS, tokens: loop.TokensPerS, cpu: loop.CPUPer1000})
		fmt.Fprintf(os.Stderr, "bench: %s round %d of %d: whole path, %d records\n", m.Name, round+1, rounds, n)
		r, err := wholePath(dir, sequence, n, partitions, binary, b)
		if err != nil {
			return "", err
		}
		r.tokens = r.messages * perMessage
		paths = append(paths, r)
	}
	msgs := func(r result) float64 { return r.messages }
	toks := func(r result) float64 { return r.tokens }
	ratios := make([]result, rounds)
	for i := range ratios {
		ratios[i].messages = paths[i].messages / loops[i].messages
	}
	cpus := func(r result) float64 { return r.cpu }
	return fmt.Sprintf("| %s (%s, %s, mean %.1f tokens) | %s | %s | %s | %s | %s | %s | %s |\n", m.Name,
		m.Manifest.Precision, m.Layout, perMessage,
		spread(loops, msgs, "%.0f"), spread(loops, toks, "%.0f"), spread(paths, msgs, "%.0f"), spread(paths, toks,
			"%.0f"),
		spread(ratios, msgs, "%.2f"), spread(loops, cpus, "%.2f"), spread(paths, cpus, "%.2f")), nil
}

// spread is the median with the range.
func spread(rs []result, of func(result) float64, format string) string {
	v := make([]float64, len(rs))
	for i, r := range rs {
		v[i] = of(r)
	}
	slices.Sort(v)
	return fmt.Sprintf(format+" ("+format+"–"+format+")", v[len(v)/2], v[0], v[len(v)-1])
}

// wholePath fills a new input topic, starts a worker on it and counts its results.
func wholePath(dir string, sequence *load.Texts, n, partitions int, binary string, b *load.Broker) (r result,
	err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	run := strconv.FormatInt(time.Now().UnixNano(), 36)
	target := load.Target{Brokers: []string{b.Address}, Input: "in-" + run, Output: "out-" + run, DeadLetter: "dlq-" +
		run, Format: load.JSON}
	if err := load.CreateTopics(ctx, target, partitions); err != nil {
		return r, err
	}
	sequence.Rewind()
	var worker *load.Worker
	defer func() {
		if worker != nil {
			err = errors.Join(err, worker.Stop())
		}
	}()
	d, err := load.Drain(ctx, load.DrainPlan{Target: target, Records: n, Texts: sequence,
		Begin: func(ctx context.Context) ([]int, error) {
			worker, err = load.StartWorker(ctx, load.WorkerPlan{Binary: binary, Dir: b.Dir, Target: target, Model: dir,
				Group: "bench-" + run, Name: "bench-0"})
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
