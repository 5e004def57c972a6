package main

import (
	"bufio"
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"golang.org/x/term"
	"golang.org/x/time/rate"

	"sluice/cmd/sluice/settings"
	"sluice/pipeline"
	"sluice/pipeline/publish"
)

// This file shows the main job without a cluster: a broker inside this process, a producer of real sentences, the same
// worker as `run`, and an independent read_committed consumer whose view is what the terminal shows.

//go:embed demo/stream.jsonl
var demoStream string

const (
	demoInput      = "customer_reviews"
	demoOutput     = "review_analysis"
	demoDeadLetter = "review_dlq"
	demoPartitions = 3
	demoAhead      = 500 // most records produced and not yet answered, so that --rate 0 does not fill the memory
	demoRetention  = 10 * time.Minute
)

// demoOptions are the flags of demo.
type demoOptions struct {
	rate     float64
	records  int
	models   string
	port     int
	plain    bool
	escalate bool
}

func demoCommand() *cobra.Command {
	var o demoOptions
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Show the main job on an embedded broker and bundled models",
		Long: `Starts a Kafka broker in this process, produces real sentences into it, and runs the same worker as "sluice run" with the
bundled models. A table shows every verdict as a read_committed consumer sees it; without a terminal it is plain lines. The
broker listens on this machine only, and any Kafka client may connect while the demo runs. Nothing is left behind.

With --escalate, texts that the model is unsure of are also asked about at an endpoint: a stand-in in this process that speaks
the protocol of an OpenAI-compatible API and judges by counting words. Amendments appear as they are committed.`,
		Example: "  sluice demo\n  sluice demo --records 2000 --rate 0\n  sluice demo --escalate",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if o.rate < 0 || o.records < 0 || o.port < 0 || o.port > 65535 {
				return usageErrorf("demo: --rate and --records must not be negative, --port at most 65535")
			}
			return demo(cmd.Context(), cmd.OutOrStdout(), cmd.ErrOrStderr(), o)
		},
	}
	fs := cmd.Flags()
	fs.Float64Var(&o.rate, "rate", 50, "`N` records a second; 0: as fast as they are judged")
	describe(fs, "rate", envDemo+"RATE", "0")
	fs.IntVar(&o.records, "records", 0, "end with a summary after `N` records; 0: go on until Ctrl-C")
	describe(fs, "records", envDemo+"RECORDS", "2000")
	fs.StringVar(&o.models, "models", "", "`DIR` that holds model directories; default: models beside the binary")
	describe(fs, "models", envDemo+"MODELS", "./models")
	fs.IntVar(&o.port, "port", 0, "`PORT` of the broker on 127.0.0.1; 0: any that is free")
	describe(fs, "port", envDemo+"PORT", "9092")
	fs.BoolVar(&o.plain, "plain", false, "lines instead of a table, also on a terminal")
	describe(fs, "plain", envDemo+"PLAIN", "true")
	fs.BoolVar(&o.escalate, "escalate", false, "ask a stand-in of an LLM endpoint about what the model is unsure of")
	describe(fs, "escalate", envDemo+"ESCALATE", "true")
	return cmd
}

// demo runs until its records are judged, ctx ends, or something fails.
func demo(ctx context.Context, out, errw io.Writer, o demoOptions) error {
	began := time.Now()
	models, err := demoModels(o.models)
	if err != nil {
		return err
	}
	texts, err := demoTexts()
	if err != nil {
		return err
	}
	ports := kfake.Ports(o.port)
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), ports)
	if err != nil {
		return pipeline.Faultf(pipeline.Config, "start", "broker", "demo: the embedded broker cannot listen on "+
			"127.0.0.1:%d (%w); give another --port, or 0", o.port, err)
	}
	defer cluster.Close()
	for _, topic := range []string{demoInput, demoOutput, demoDeadLetter, demoEscalations} {
		if err := cluster.CreateTopic(topic, demoPartitions, map[string]string{"retention.ms": strconv.FormatInt(
			demoRetention.Milliseconds(), 10)}); err != nil {
			return fmt.Errorf("demo: creating topic %s: %w", topic, err)
		}
	}
	broker := cluster.ListenAddrs()[0]
	s := demoSettings(broker, models)
	if o.escalate {
		end, err := demoEscalate(s)
		if err != nil {
			return err
		}
		defer end()
	}

	live := newDemoState(began, broker, s)
	view := newDemoView(out, live, o.plain)
	log, problems := newLogger(view.logWriter(errw), settings.Log{Level: "warn", Format: "text"})
	live.problems = problems
	view.say("broker     %s (this process; connect with any Kafka client while the demo runs)", broker)
	view.say("topics     %s -> %s, %s", demoInput, demoOutput, demoDeadLetter)
	if o.escalate {
		view.say("endpoint   %s (a stand-in in this process that counts words), asked where %s",
			s.Escalation.Endpoint.URLs[0], s.Escalation.When)
	}

	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	// The consumer outlives the worker, to see what it commits while it stops.
	consuming, stopConsumer := context.WithCancel(context.WithoutCancel(ctx))
	defer stopConsumer()
	var wg sync.WaitGroup
	errs := make(chan error, 3)
	start := func(what string, f func() error) {
		wg.Go(func() {
			if err := f(); err != nil && ctx.Err() == nil {
				errs <- err
				stop(fmt.Errorf("%s failed", what))
			}
		})
	}
	start("the worker", func() error {
		defer stopConsumer()
		err := runWorker(ctx, s, workerOptions{
			grace: 10 * time.Second, log: log, problems: problems, steps: steps{view.say},
			started: func(w *runningWorker) {
				live.attach(w)
				for _, m := range w.models {
					view.say("model      %s: %s, %s, %s, on %s", m.Name, m.Model, m.Task, m.Precision, m.Provider)
				}
				if a := w.server.address(); a != "" {
					view.say("status     http://%s/status and /metrics", a)
				}
				view.say("ready      after %.1f s; the first verdicts follow", time.Since(began).Seconds())
				view.begin()
			},
		})
		if err == nil && ctx.Err() == nil {
			err = errors.New("the worker ended before the demo")
		}
		return err
	})
	start("the producer", func() error { return demoProduce(ctx, broker, texts, o, live) })
	start("the consumer", func() error {
		return demoConsume(consuming, broker, live, view, o.records,
			func() { stop(nil) })
	})
	start("retention", func() error {
		for tick := time.NewTicker(time.Minute); ; {
			select {
			case <-tick.C:
				cluster.ApplyRetention()
			case <-ctx.Done():
				tick.Stop()
				return nil
			}
		}
	})
	wg.Wait()
	view.end()
	live.summary(out, o.records)
	select {
	case err := <-errs:
		return err
	default:
	}
	if missing := live.missing(o.records); missing != "" && context.Cause(ctx) == context.Canceled {
		return errors.New(missing)
	}
	return nil
}

// demoModels finds the models of the demo: sentiment and ner, or whatever the directory holds.
func demoModels(dir string) ([]settings.Model, error) {
	if dir == "" {
		exe, err := executableDir()
		if err != nil {
			return nil, err
		}
		dir = filepath.Join(exe, "models")
	}
	var list []settings.Model
	add := func(name, field string) {
		m := settings.DefaultModel()
		m.Name, m.Path, m.Field, m.Aggregation = name, filepath.Join(dir, name), field, "first" // whole words
		list = append(list, m)
	}
	has := func(name string) bool {
		_, err := os.Stat(filepath.Join(dir, name, "config.json"))
		return err == nil
	}
	if has("sentiment") {
		add("sentiment", "")
	}
	if has("ner") {
		add("ner", "entities")
	}
	if list == nil {
		entries, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, pipeline.Faultf(pipeline.Config, "start", "models", "demo: %w", err)
		}
		for _, e := range entries {
			if has(e.Name()) && settings.ModelName.MatchString(e.Name()) {
				add(e.Name(), "")
			}
		}
	}
	if list == nil {
		return nil, pipeline.Faultf(pipeline.Config, "start", "models", "demo: there is no model directory in %s; "+
			"give the directory that holds them with --models", dir)
	}
	return list, nil
}

// demoTexts are the values of the stream, one JSON object each.
func demoTexts() ([][]byte, error) {
	var texts [][]byte
	for sc := bufio.NewScanner(strings.NewReader(demoStream)); sc.Scan(); {
		if line := sc.Bytes(); len(line) > 0 {
			texts = append(texts, append([]byte(nil), line...))
		}
	}
	if len(texts) == 0 {
		return nil, errors.New("demo: the embedded stream is empty")
	}
	return texts, nil
}

// demoSettings is what a configuration file for the demo would say.
func demoSettings(broker string, models []settings.Model) *settings.Settings {
	s := settings.Default()
	s.Kafka.Brokers, s.Kafka.Group, s.Kafka.InstanceID = []string{broker}, "sluice-demo", "demo-0"
	s.Kafka.CommitInterval = 50 * time.Millisecond
	s.Input.Topics = []string{demoInput}
	s.Output.Topic, s.DeadLetter.Topic = demoOutput, demoDeadLetter
	s.Models = models
	s.Server.Listen = "127.0.0.1:0"
	return &s
}

// demoProduce writes the stream, over and over, at the rate that was asked for.
func demoProduce(ctx context.Context, broker string, texts [][]byte, o demoOptions, live *demoState) error {
	client, err := kgo.NewClient(kgo.SeedBrokers(broker), kgo.DefaultProduceTopic(demoInput), kgo.ProducerLinger(0))
	if err != nil {
		return fmt.Errorf("demo producer: %w", err)
	}
	defer client.Close()
	if err := live.ready(ctx); err != nil { // so that latency is the worker's, not that of loading models
		return nil
	}
	limit := rate.NewLimiter(rate.Inf, 1)
	if o.rate > 0 {
		limit = rate.NewLimiter(rate.Limit(o.rate), 1)
	}
	failed := make(chan error, 1)
	for n := 0; o.records == 0 || n < o.records; n++ {
		if limit.Wait(ctx) != nil || live.waitForAnswers(ctx, demoAhead) != nil {
			return nil
		}
		value := texts[n%len(texts)]
		r := &kgo.Record{Key: strconv.AppendInt(nil, int64(n), 10), Value: value, Timestamp: time.Now()}
		live.produced()
		client.Produce(ctx, r, func(_ *kgo.Record, err error) {
			if err != nil {
				select {
				case failed <- err:
				default:
				}
			}
		})
		select {
		case err := <-failed:
			return fmt.Errorf("demo producer: %w", err)
		default:
		}
	}
	if err := client.Flush(ctx); err != nil && ctx.Err() == nil {
		return fmt.Errorf("demo producer: %w", err)
	}
	<-ctx.Done()
	return nil
}

// demoConsume reads what is committed, as any downstream service would, and shows it, until ctx ends. done is called
// when all records have an answer.
func demoConsume(ctx context.Context, broker string, live *demoState, view *demoView, records int, done func()) error {
	client, err := kgo.NewClient(kgo.SeedBrokers(broker), kgo.ConsumeTopics(demoOutput, demoDeadLetter),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.FetchMaxWait(250*time.Millisecond))
	if err != nil {
		return fmt.Errorf("demo consumer: %w", err)
	}
	defer client.Close()
	take := func(fetches kgo.Fetches) error {
		if errs := fetches.Errors(); len(errs) > 0 {
			return fmt.Errorf("demo consumer: %s: %w", errs[0].Topic, errs[0].Err)
		}
		now := time.Now()
		fetches.EachRecord(func(r *kgo.Record) { view.show(live.answered(newDemoRow(r, now))) })
		return nil
	}
	for records == 0 || !live.complete(records) {
		fetches := client.PollFetches(ctx)
		if ctx.Err() != nil {
			break
		}
		if err := take(fetches); err != nil {
			return err
		}
	}
	done()
	<-ctx.Done()
	for { // what the worker committed last, and whatever should not be there
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 300*time.Millisecond)
		fetches := client.PollFetches(last)
		cancel()
		if fetches.NumRecords() == 0 {
			return nil
		}
		if err := take(fetches); err != nil {
			return err
		}
	}
}

// demoRow is one result or dead letter.
type demoRow struct {
	source   string // partition/offset of the input record
	topic    string
	latency  time.Duration
	text     string
	verdicts []demoVerdict
	entities []demoEntity
	by       string
	failure  string // why it is a dead letter

	provisional bool   // an amendment follows
	amends      bool   // it is one
	was         string // an amendment by the endpoint: the local label
	reason      string // of a fallback
}

type demoVerdict struct {
	name, label string
	score       float64
}

type demoEntity struct{ group, word string }

// newDemoRow reads a result as its consumers do.
func newDemoRow(r *kgo.Record, now time.Time) demoRow {
	row := demoRow{topic: r.Topic, latency: max(0, now.Sub(r.Timestamp))}
	for _, h := range r.Headers {
		switch h.Key {
		case publish.HeaderSource:
			_, row.source, _ = strings.Cut(string(h.Value), "/")
		case publish.HeaderErrorMessage:
			row.failure = string(h.Value)
		}
	}
	var value struct {
		Text      string          `json:"text"`
		Inference json.RawMessage `json:"inference"`
	}
	if err := json.Unmarshal(r.Value, &value); err != nil {
		row.text = string(r.Value)
		return row
	}
	row.text = value.Text
	dec := json.NewDecoder(strings.NewReader(string(value.Inference)))
	if t, err := dec.Token(); err != nil || t != json.Delim('{') {
		return row
	}
	for dec.More() { // a map would lose the order of the models
		name, err := dec.Token()
		var raw json.RawMessage
		if err != nil || dec.Decode(&raw) != nil {
			return row
		}
		var v struct {
			Label       string  `json:"label"`
			Score       float64 `json:"score"`
			By          string  `json:"by"`
			Reason      string  `json:"reason"`
			Amends      string  `json:"amends"`
			Provisional bool    `json:"provisional"`
			Local       struct {
				Label string `json:"label"`
			} `json:"local"`
			Entities []struct {
				Group string `json:"entity_group"`
				Start int    `json:"start"`
				End   int    `json:"end"`
			} `json:"entities"`
		}
		if json.Unmarshal(raw, &v) != nil {
			continue // "reason", "flags"
		}
		// where verdicts differ, the route of the one that was in question
		if row.by == "" || v.Provisional || v.Amends != "" {
			row.by = v.By
		}
		if v.Provisional {
			row.provisional = true
		}
		if v.Amends != "" {
			row.amends, row.was, row.reason = true, v.Local.Label, v.Reason
		}
		characters := []rune(row.text)
		if v.Label != "" {
			row.verdicts = append(row.verdicts, demoVerdict{fmt.Sprint(name), v.Label, v.Score})
		}
		for _, e := range v.Entities {
			if 0 <= e.Start && e.Start <= e.End && e.End <= len(characters) { // the text's own spelling
				row.entities = append(row.entities, demoEntity{e.Group, string(characters[e.Start:e.End])})
			}
		}
	}
	return row
}

// isTerminal says whether w is a terminal, and its size.
func isTerminal(w io.Writer) (width, height int, ok bool) {
	f, isFile := w.(*os.File)
	if !isFile || !term.IsTerminal(int(f.Fd())) || os.Getenv("TERM") == "dumb" {
		return 0, 0, false
	}
	width, height, err := term.GetSize(int(f.Fd()))
	if err != nil || width <= 0 || height <= 0 {
		return 80, 24, true
	}
	return width, height, true
}
