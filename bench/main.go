// Command bench measures the worker against its own ceiling: messages and real tokens per second of the whole path (a
// real Kafka broker, sluice run, exactly-once) against the bare session loop (the same model and texts, tokenized
// beforehand, no Kafka), in turns within one run, on the same cores. It prints a table in Markdown and writes it under
// bench/results with the machine described.
//
//	make bench
//	go run ./bench -models models/sentiment -records 4000 -rounds 3
package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"sluice/model"
	"sluice/model/ort"
	"sluice/pipeline"
	"sluice/tokenize"
	"sluice/tokenize/hf"
)

func main() {
	models := flag.String("models", "models/sentiment,models/sentiment-tiny,models/ner", "model directories, comma-separated")
	texts := flag.String("texts", "cmd/sluice/demo/stream.jsonl", "JSON lines with a text field; repeated as often as needed")
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
	cpu              float64 // CPU seconds of the worker per 1,000 messages; 0 for the bare loop
}

func run(dirs []string, textFile string, seconds float64, rounds, partitions int, binary, out string) error {
	lib := os.Getenv("SLUICE_ONNXRUNTIME")
	if lib == "" {
		return errors.New(`SLUICE_ONNXRUNTIME is not set: run it by "make bench", or after eval "$(scripts/native.sh env)"`)
	}
	if err := ort.Init(lib); err != nil {
		return err
	}
	values, err := readLines(textFile)
	if err != nil {
		return err
	}
	broker, err := startBroker()
	if err != nil {
		return err
	}
	defer broker.stop()

	var table bytes.Buffer
	fmt.Fprintf(&table, "# The whole path against the bare session loop\n\n"+
		"Whole path: Apache Kafka broker -> `sluice run` (exactly-once, default settings) -> broker, records waiting in %d partitions beforehand; counted by an independent read_committed consumer from 10 %% of the results to the last one.\n"+
		"The broker and the counting consumer share the cores with the worker. Bare loop: the same texts tokenized beforehand, sorted by length in windows of 512, batches of at most %d tokens, %d threads pinned, no Kafka, no tokenizing, no JSON.\n"+
		"Made by `make bench`; medians of %d rounds in alternation, with the range.\n\n%s\n\n"+
		"| model | bare loop msgs/s | bare loop tokens/s | whole path msgs/s | whole path tokens/s | whole path / bare loop | worker CPU s per 1,000 msgs |\n|---|---|---|---|---|---|---|\n",
		partitions, pipeline.DefaultBatchTokens, runtime.GOMAXPROCS(0), rounds, machine())
	for _, dir := range dirs {
		row, err := measure(dir, values, seconds, rounds, partitions, binary, broker)
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

func readLines(file string) ([][]byte, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	lines := bytes.Split(bytes.TrimSpace(b), []byte("\n"))
	return lines, nil
}

func measure(dir string, values [][]byte, seconds float64, rounds, partitions int, binary string, b *broker) (string, error) {
	m, err := model.Open(dir)
	if err != nil {
		return "", err
	}
	tok, err := hf.Open(m.Path(model.TokenizerFile))
	if err != nil {
		return "", err
	}
	defer tok.Close()
	texts := make([][]byte, len(values))
	for i, v := range values {
		var record struct{ Text string }
		if err := json.Unmarshal(v, &record); err != nil {
			return "", err
		}
		texts[i] = []byte(record.Text)
	}
	var rows []pipeline.Row
	tokens := 0
	for _, e := range tok.Encode(texts, tokenize.Options{MaxTokens: m.MaxTokens}) {
		rows = append(rows, e.Windows[0].IDs)
		tokens += len(e.Windows[0].IDs)
	}
	perMessage := float64(tokens) / float64(len(rows))

	session, err := ort.Open(m, ort.Options{Device: "cpu", Runners: runtime.GOMAXPROCS(0)})
	if err != nil {
		return "", err
	}
	defer session.Close()
	warm, err := bare(session, rows, len(rows))
	if err != nil {
		return "", err
	}
	n := max(len(rows), int(warm*seconds))
	var loops, paths []result
	for round := range rounds {
		fmt.Fprintf(os.Stderr, "bench: %s round %d of %d: bare loop, %d texts\n", m.Name, round+1, rounds, n)
		rate, err := bare(session, rows, n)
		if err != nil {
			return "", err
		}
		loops = append(loops, result{messages: rate, tokens: rate * perMessage})
		fmt.Fprintf(os.Stderr, "bench: %s round %d of %d: whole path, %d records\n", m.Name, round+1, rounds, n)
		r, err := wholePath(dir, values, n, partitions, binary, b)
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
	return fmt.Sprintf("| %s (%s, %s, mean %.1f tokens) | %s | %s | %s | %s | %s | %s |\n", m.Name, m.Manifest.Precision, m.Layout, perMessage,
		spread(loops, msgs, "%.0f"), spread(loops, toks, "%.0f"), spread(paths, msgs, "%.0f"), spread(paths, toks, "%.0f"),
		spread(ratios, msgs, "%.2f"), spread(paths, func(r result) float64 { return r.cpu }, "%.2f")), nil
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

// bare runs n rows through the session on one pinned thread a core and returns rows per second.
func bare(session *ort.Session, rows []pipeline.Row, n int) (float64, error) {
	many := make([]pipeline.Row, 0, n)
	for len(many) < n {
		many = append(many, rows[:min(len(rows), n-len(many))]...)
	}
	var batches [][]pipeline.Row
	for window := range slices.Chunk(many, 512) {
		slices.SortFunc(window, func(a, b pipeline.Row) int { return len(a) - len(b) })
		begin, tokens := 0, 0
		for i, row := range window {
			if i > begin && tokens+len(row) > pipeline.DefaultBatchTokens {
				batches = append(batches, window[begin:i])
				begin, tokens = i, 0
			}
			tokens += len(row)
		}
		batches = append(batches, window[begin:])
	}
	var next atomic.Int64
	var wg sync.WaitGroup
	var failure atomic.Value
	ready := make(chan struct{})
	var warm sync.WaitGroup
	for i := range runtime.GOMAXPROCS(0) {
		warm.Add(1)
		wg.Go(func() {
			runtime.LockOSThread()
			r, err := session.NewRunner(i)
			if err == nil {
				defer r.Close()
				if err = r.Bind(); err == nil {
					_, err = r.Run(context.Background(), batches[0])
				}
			}
			warm.Done()
			<-ready
			for err == nil {
				k := int(next.Add(1)) - 1
				if k >= len(batches) {
					return
				}
				_, err = r.Run(context.Background(), batches[k])
			}
			failure.Store(err)
		})
	}
	warm.Wait()
	began := time.Now()
	close(ready)
	wg.Wait()
	if err, ok := failure.Load().(error); ok {
		return 0, err
	}
	return float64(n) / time.Since(began).Seconds(), nil
}

// wholePath fills a new input topic, starts a worker on it and counts its results.
func wholePath(dir string, values [][]byte, n, partitions int, binary string, b *broker) (r result, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	run := strconv.FormatInt(time.Now().UnixNano(), 36)
	in, out, dlq := "in-"+run, "out-"+run, "dlq-"+run
	client, err := kgo.NewClient(kgo.SeedBrokers(b.address), kgo.RecordPartitioner(kgo.RoundRobinPartitioner()))
	if err != nil {
		return r, err
	}
	defer client.Close()
	if _, err := kadm.NewClient(client).CreateTopics(ctx, int32(partitions), 1, nil, in, out, dlq); err != nil {
		return r, err
	}
	records := make([]*kgo.Record, n)
	for i := range records {
		records[i] = &kgo.Record{Topic: in, Value: values[i%len(values)]}
	}
	if err := client.ProduceSync(ctx, records...).FirstErr(); err != nil {
		return r, err
	}

	dir, err = filepath.Abs(dir)
	if err != nil {
		return r, err
	}
	config := filepath.Join(b.dir, "bench-"+run+".yaml")
	yaml := fmt.Sprintf("kafka: {brokers: [%q], group: bench-%s, instance_id: bench-0}\ninput: {topics: [%s]}\nmodels:\n  - {name: verdict, path: %q}\noutput: {topic: %s}\ndead_letter: {topic: %s}\nserver: {listen: \"off\"}\nlog: {level: warn}\n",
		b.address, run, in, dir, out, dlq)
	if err := os.WriteFile(config, []byte(yaml), 0o644); err != nil {
		return r, err
	}
	consumer, err := kgo.NewClient(kgo.SeedBrokers(b.address), kgo.ConsumeTopics(out, dlq), kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	if err != nil {
		return r, err
	}
	defer consumer.Close()
	var log bytes.Buffer
	worker := exec.CommandContext(ctx, binary, "run", "-c", config)
	worker.Stderr = &log
	worker.Cancel = func() error { return worker.Process.Signal(syscall.SIGKILL) }
	if err := worker.Start(); err != nil {
		return r, err
	}
	defer func() {
		worker.Process.Signal(syscall.SIGTERM)
		if e := worker.Wait(); e != nil && err == nil {
			err = fmt.Errorf("worker: %w\n%s", e, log.String())
		}
	}()

	seen, first := 0, 0
	var began, ended time.Time
	var cpuBegan float64
	for seen < n {
		f := consumer.PollFetches(ctx)
		if e := f.Err(); e != nil {
			return r, fmt.Errorf("%d of %d results: %w\n%s", seen, n, e, log.String())
		}
		bad := 0
		f.EachRecord(func(rec *kgo.Record) {
			if rec.Topic == dlq {
				bad++
			}
		})
		if bad > 0 {
			return r, fmt.Errorf("%d records in the dead letter topic", bad)
		}
		seen += f.NumRecords()
		ended = time.Now()
		if began.IsZero() && seen >= n/10 {
			began, first, cpuBegan = ended, seen, cpuSeconds(worker.Process.Pid)
		}
	}
	counted := float64(n - first)
	r.messages = counted / ended.Sub(began).Seconds()
	r.cpu = (cpuSeconds(worker.Process.Pid) - cpuBegan) / counted * 1000
	if seen != n {
		return r, fmt.Errorf("%d results for %d records", seen, n)
	}
	return r, nil
}

// cpuSeconds is the user and system time of a process so far (proc(5), stat).
func cpuSeconds(pid int) float64 {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return math.NaN()
	}
	fields := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	user, _ := strconv.ParseFloat(fields[11], 64)
	system, _ := strconv.ParseFloat(fields[12], 64)
	return (user + system) / 100 // USER_HZ
}

// broker is a real Kafka broker, started by scripts/kafka-local.
type broker struct{ dir, address string }

func startBroker() (*broker, error) {
	dir, err := os.MkdirTemp("", "sluice-bench-")
	if err != nil {
		return nil, err
	}
	b := &broker{dir: dir}
	fmt.Fprintln(os.Stderr, "bench: starting a Kafka broker")
	if _, err := b.kafkaLocal("start", "1"); err != nil {
		return nil, err
	}
	env, err := b.kafkaLocal("env")
	if err != nil {
		return nil, err
	}
	at := regexp.MustCompile(`(127\.0\.0\.1:\d+)`).FindString(env)
	if at == "" {
		return nil, fmt.Errorf("kafka-local env names no address:\n%s", env)
	}
	b.address = at
	return b, nil
}

func (b *broker) kafkaLocal(args ...string) (string, error) {
	c := exec.Command("scripts/kafka-local", args...)
	c.Env = append(os.Environ(), "KAFKA_LOCAL_DIR="+filepath.Join(b.dir, "kafka"))
	var stdout, stderr bytes.Buffer
	c.Stdout, c.Stderr = &stdout, &stderr
	if err := c.Run(); err != nil {
		return "", fmt.Errorf("kafka-local %s: %w\n%s", strings.Join(args, " "), err, stderr.String())
	}
	return stdout.String(), nil
}

func (b *broker) stop() {
	b.kafkaLocal("stop")
	os.RemoveAll(b.dir)
}

// machine describes where it ran.
func machine() string {
	name := "unknown CPU"
	if f, err := os.Open("/proc/cpuinfo"); err == nil {
		defer f.Close()
		for s := bufio.NewScanner(f); s.Scan(); {
			if k, v, ok := strings.Cut(s.Text(), ":"); ok && strings.TrimSpace(k) == "model name" {
				name = strings.TrimSpace(v)
				break
			}
		}
	}
	return fmt.Sprintf("Machine: %s, %d cores, features %s; ONNX Runtime %s; %s; %s.", name, runtime.NumCPU(), strings.Join(ort.CPUFeatures(), " "), ort.Version(), runtime.Version(), time.Now().UTC().Format("2006-01-02"))
}
