// Command race measures Sluice and what a user could pick instead, Kafka to Kafka: same machine, broker, texts and
// weights. bench/race/prepare.sh builds what takes part; `make race` does both. It writes bench/results/race.md and
// race.json.
//
//	make race
//	make race RACE_ROUNDS=1 RACE_SECONDS=5
//	go run ./bench/race -only sluice,onnxruntime -rounds 3
//
//	systems.go  who takes part
//	drain       each system works off a backlog, sized so that it takes -seconds (cmd/sluice/load); one at a time
//	stats.go    medians, steady stretch, agreement, order (pure)
//	goals.go    what is wanted, and whether it was met (pure)
//	report.go   the results as Markdown and JSON
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"sluice/bench/trial"
	"sluice/cmd/sluice/load"
	"sluice/model/ort"
)

func main() {
	o := options{}
	only := flag.String("only", "", "names of systems, comma-separated (default: all); -list shows them")
	flag.IntVar(&o.rounds, "rounds", 5, "rounds")
	flag.Float64Var(&o.seconds, "seconds", 15, "about how long one measurement takes")
	flag.IntVar(&o.partitions, "partitions", 6, "partitions of the topics")
	flag.StringVar(&o.mix, "mix", "mixed", "texts: mixed, short or long")
	flag.StringVar(&o.out, "out", "bench/results/race", "results, without .md and .json")
	list := flag.Bool("list", false, "list the systems and whether they can run here")
	flag.Parse()
	all := systems()
	if *list {
		for _, s := range all {
			fmt.Printf("%-18s %s%s\n", s.Name, s.Title, prefixed("; cannot run: ", s.skipped()))
		}
		return
	}
	if *only != "" {
		wanted := strings.Split(*only, ",")
		for _, name := range wanted {
			if !slices.ContainsFunc(all, func(s *system) bool { return s.Name == name }) {
				fmt.Fprintf(os.Stderr, "race: -only %s: there is no such system; see -list\n", name)
				os.Exit(2)
			}
		}
		all = slices.DeleteFunc(all, func(s *system) bool { return !slices.Contains(wanted, s.Name) })
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := race(ctx, all, o); err != nil {
		fmt.Fprintln(os.Stderr, "race:", err)
		os.Exit(1)
	}
}

type options struct {
	rounds, partitions int
	seconds            float64
	mix, out           string
}

func prefixed(prefix, s string) string {
	if s == "" {
		return ""
	}
	return prefix + s
}

// measure is one measurement of one system.
type measure struct {
	Round     int     `json:"round"`
	Messages  float64 `json:"messages_per_s"`
	Tokens    float64 `json:"tokens_per_s"`
	Records   int     `json:"records"`
	Counted   int     `json:"counted"`
	Seconds   float64 `json:"seconds"`
	First     float64 `json:"first_result_s,omitempty"` // after the start of its processes
	CPU       float64 `json:"cpu_seconds_per_1000,omitempty"`
	RSS       float64 `json:"peak_rss_bytes,omitempty"`
	Agreement float64 `json:"agreement,omitempty"`
	Lost      int     `json:"lost"`
	Doubled   int     `json:"doubled"`
	Dead      int     `json:"dead_letters"`
}

// corpus is the texts with what the fp32 reference says about them.
type corpus struct {
	file   string
	digest string
	texts  []string
	labels []string
	tokens []int
}

func race(ctx context.Context, all []*system, o options) error {
	began := time.Now()
	library := os.Getenv("SLUICE_ONNXRUNTIME")
	if library == "" {
		return errors.New(
			`SLUICE_ONNXRUNTIME is not set: run it by "make race", or after eval "$(scripts/native.sh env)"`)
	}
	if err := ort.Init(library); err != nil {
		return err
	}
	c, err := readCorpus(o.mix)
	if err != nil {
		return err
	}
	absent := map[string]string{}
	present := slices.DeleteFunc(slices.Clone(all), func(s *system) bool {
		why := s.skipped()
		if why != "" {
			fmt.Fprintf(os.Stderr, "race: %s does not take part: %s\n", s.Name, why)
			absent[s.Name] = why
		}
		return why != ""
	})
	if len(present) == 0 {
		return errors.New("nobody takes part: run bench/race/prepare.sh first")
	}
	b, err := trial.StartBroker()
	if err != nil {
		return err
	}
	defer b.Stop()

	found := map[string][]measure{}
	expected := map[string]float64{}
	for round := range o.rounds {
		for _, i := range rotated(len(present), round) {
			s := present[i]
			if absent[s.Name] != "" {
				continue // it failed in an earlier round
			}
			rate := s.Guess
			if e := expected[s.Name]; e > 0 {
				rate = e
			}
			m, err := one(ctx, b, s, c, rate, o)
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			if err != nil {
				err = fmt.Errorf("%s, round %d: %w", s.Name, round+1, err)
				if s.Kind == ours {
					return err
				}
				// A peer that fails has no result; the others still have theirs. The report says why.
				fmt.Fprintln(os.Stderr, "race:", err)
				reason, _, _ := strings.Cut(err.Error(), "\n")
				absent[s.Name] = "failed: " + reason
				delete(found, s.Name)
				continue
			}
			m.Round = round + 1
			expected[s.Name] = m.Messages
			found[s.Name] = append(found[s.Name], m)
			fmt.Fprintf(os.Stderr, "race: round %d of %d: %-18s %7.1f msgs/s %8.0f tokens/s  agreement %.4f  lost "+
				"%d, doubled %d  (%.0f s in all)\n", round+1, o.rounds, s.Name, m.Messages, m.Tokens, m.Agreement,
				m.Lost, m.Doubled, time.Since(began).Seconds())
		}
	}
	return report(all, found, absent, c, o, time.Since(began))
}

// readCorpus reads what prepare.sh made.
func readCorpus(mix string) (*corpus, error) {
	c := &corpus{file: filepath.Join(buildDir, "texts", mix+".jsonl")}
	b, err := os.ReadFile(c.file)
	if err != nil {
		return nil, fmt.Errorf("%w; run bench/race/prepare.sh", err)
	}
	for line := range bytes.Lines(b) {
		var record struct{ Text string }
		if err := json.Unmarshal(line, &record); err != nil {
			return nil, fmt.Errorf("%s: %w", c.file, err)
		}
		c.texts = append(c.texts, record.Text)
	}
	reference := filepath.Join(buildDir, "texts", mix+".reference.json")
	if b, err = os.ReadFile(reference); err != nil {
		return nil, fmt.Errorf("%w; run bench/race/prepare.sh", err)
	}
	var r struct {
		Texts  string   `json:"texts_sha256"`
		Labels []string `json:"labels"`
		Tokens []int    `json:"tokens"`
	}
	if err := json.Unmarshal(b, &r); err != nil {
		return nil, fmt.Errorf("%s: %w", reference, err)
	}
	if len(r.Labels) != len(c.texts) || len(r.Tokens) != len(c.texts) {
		return nil, fmt.Errorf("%s is of other texts than %s: delete it and run bench/race/prepare.sh", reference,
			c.file)
	}
	c.labels, c.tokens, c.digest = r.Labels, r.Tokens, r.Texts
	return c, nil
}

// one measures one system once.
func one(ctx context.Context, b *trial.Broker, s *system, c *corpus, rate float64, o options) (measure, error) {
	if s.Command == nil {
		messages, tokens, err := bareRate(ctx, s, c.texts, c.file, o.seconds)
		return measure{Messages: messages, Tokens: tokens, Seconds: o.seconds}, err
	}
	return drain(ctx, b, s, c, max(48, int(rate*o.seconds)), o.partitions)
}

// The stretch of a drain that counts.
const from, to = 0.15, 0.97

// drain lets a system work off a backlog of n records.
func drain(ctx context.Context, b *trial.Broker, s *system, c *corpus, n, partitions int) (m measure, err error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Minute)
	defer cancel()
	run := strconv.FormatInt(time.Now().UnixNano(), 36)
	target := load.Target{Brokers: []string{b.Address}, Input: "in-" + run, Output: "out-" + run, DeadLetter: "dead-" +
		run, Format: load.JSON}
	if err := load.CreateTopics(ctx, target, partitions); err != nil {
		return m, err
	}
	if err := appear(ctx, &target); err != nil {
		return m, err
	}
	defer b.Forget(target.Input, target.Output, target.DeadLetter)
	scratch, err := os.MkdirTemp(b.Dir, s.Name+"-")
	if err != nil {
		return m, err
	}
	e := &environment{brokers: b.Address, input: target.Input, output: target.Output, deadLetter: target.DeadLetter,
		group: "race-" + run, scratch: scratch}
	if e.model, err = filepath.Abs(s.modelDir()); err != nil {
		return m, err
	}

	// The answers, in the order of their arrival. The collector calls on its own goroutine.
	var mu sync.Mutex
	var arrivals []time.Duration
	var arrived []int // record
	got := make([]string, n)
	var wrong error
	var r *running
	var begin time.Time
	observe := func(mark load.Mark, record *kgo.Record) {
		mu.Lock()
		defer mu.Unlock()
		if record.Topic == target.DeadLetter || mark.Seq >= n || got[mark.Seq] != "" {
			return
		}
		label, err := labelOf(record.Value, s.Ner)
		if err != nil && wrong == nil {
			wrong = err
		}
		got[mark.Seq] = label
		arrivals, arrived = append(arrivals, time.Since(begin)), append(arrived, mark.Seq)
	}
	logFile := filepath.Join(scratch, "log")
	d, err := load.Drain(ctx, load.DrainPlan{
		Target: target, Records: n, From: from, Patience: time.Minute, AllowLoss: true, AllowTwice: true,
		Observe: observe,
		Value: func(i int, _ []byte) []byte {
			value, _ := json.Marshal(map[string]any{"id": i, "text": c.texts[i%len(c.texts)]})
			return value
		},
		Begin: func(context.Context) ([]int, error) {
			command, err := s.Command(e)
			if err != nil {
				return nil, err
			}
			begin = time.Now()
			r, err = start(command, logFile)
			return nil, err
		},
	})
	if r != nil {
		died := false
		select {
		case <-r.done:
			died = true
		default:
		}
		r.look()
		r.stop()
		if died && err == nil {
			err = fmt.Errorf("it ended by itself: %v", r.err)
		}
	}
	mu.Lock()
	defer mu.Unlock()
	if err == nil {
		err = wrong
	}
	if err != nil {
		return m, fmt.Errorf("%w\nthe end of its log:\n%s", err, tail(logFile))
	}

	first, last := steady(arrivals, from, to)
	if first == last {
		return m, fmt.Errorf("%d results came at once: give more seconds", len(arrivals))
	}
	length := arrivals[last] - arrivals[first]
	tokens := 0
	for _, i := range arrived[first+1 : last+1] {
		tokens += c.tokens[i%len(c.tokens)]
	}
	m = measure{Records: n, Counted: last - first, Seconds: length.Seconds(), First: d.First, RSS: r.rss(),
		Lost: d.Lost, Doubled: d.Doubled, Dead: d.DeadLetters}
	m.Messages = float64(m.Counted) / m.Seconds
	m.Tokens = float64(tokens) / m.Seconds
	m.CPU = r.cpuBetween(begin.Add(arrivals[first]), begin.Add(arrivals[last])) / float64(m.Counted) * 1000
	if !s.Ner {
		m.Agreement = agreement(got, c.labels)
	}
	return m, nil
}

// appear waits until the broker serves topics that it has just made.
func appear(ctx context.Context, target *load.Target) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	for {
		err := target.Check(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// labelOf finds the label in a result: {"label": ...}, or below the worker's own field.
func labelOf(value []byte, ner bool) (string, error) {
	var v struct {
		Label     string
		Inference struct{ Verdict struct{ Label string } }
	}
	if err := json.Unmarshal(value, &v); err != nil {
		return "", fmt.Errorf("a result is not JSON: %w: %.200s", err, value)
	}
	switch {
	case ner:
		return "-", nil
	case v.Label != "":
		return v.Label, nil
	case v.Inference.Verdict.Label != "":
		return v.Inference.Verdict.Label, nil
	}
	return "", fmt.Errorf("a result names no label: %.200s", value)
}
