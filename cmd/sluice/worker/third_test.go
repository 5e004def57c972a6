package worker_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"sluice/cmd/sluice/config"
	"sluice/cmd/sluice/settings"
	"sluice/cmd/sluice/worker"
	"sluice/pipeline"
	"sluice/pipeline/kafka"
)

// This file is a third kind of stage, with everything that it takes, and the tests that it is everywhere where the two
// others are. It counts the records of a topic, and publishes nothing. All of it stands here, but for its word in the
// list.

var kinds = worker.List{worker.Classify, worker.Escalate, tally}

type tallySettings struct {
	Topic string `key:"topic"`
}

const counted, odd pipeline.Disposition = "counted", "odd" // odd is not declared

var tally = worker.Kind{
	Name: "tally", Help: "records are counted",
	Section: func(*settings.Settings) config.Section {
		return config.Section{Name: "tally", Value: &tallySettings{}, Keys: []config.Key{
			{Name: "topic", Example: "visits", Doc: "topic whose records are counted; empty: none is"}}}
	},
	On:  func(s *settings.Settings) bool { return tallyTopic(s) != "" },
	Off: "tally.topic is not set, so there is nothing to count",
	Kafka: func(s *settings.Settings, base kafka.Config) kafka.Config {
		base.Group += "-tally"
		base.Topics, base.Outputs = []string{tallyTopic(s)}, []string{s.DeadLetter.Topic}
		return base
	},
	Metrics: pipeline.StageMetricsOptions{Prefix: "tally_", Dispositions: []pipeline.DispositionInfo{{Name: counted}}},
	Check: func(_ context.Context, c *settings.Loaded, r worker.Report) {
		r.OK("tally: of " + tallyTopic(&c.Settings))
	},
	Build: func(_ context.Context, e worker.Env) (*worker.Running, error) {
		publisher, err := worker.NewPublisher(e.Settings, e.Client.MaxMessageBytes, nil)
		if err != nil {
			return nil, err
		}
		o := e.Stage
		o.Panicked, o.Quarantine = publisher.Panicked, publisher.Quarantine
		c := new(counter)
		return &worker.Running{Stage: e.NewStage(c, o), Source: e.Client,
			Page: func(p worker.StagePage) []worker.Member {
				return []worker.Member{{Name: "tally", Value: tallyPage{c.records.Load(), p}}}
			}}, nil
	},
}

func tallyTopic(s *settings.Settings) string {
	if t := settings.Section[tallySettings](s, "tally"); t != nil {
		return t.Topic
	}
	return ""
}

type tallyPage struct {
	Records int64            `json:"records"`
	Stage   worker.StagePage `json:"stage"`
}

type counter struct{ records atomic.Int64 }

func (c *counter) Process(j *pipeline.Job) {
	c.records.Add(1)
	o := pipeline.Outcome{Disposition: counted}
	if string(j.Record.Value) == "odd" {
		o.Disposition = odd
	}
	j.Done(o)
}

// load reads a configuration whose models are not there: a stage that runs none does not look for them.
func load(t *testing.T, list worker.List, brokers, more string) (*settings.Loaded, error) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "c.yaml")
	text := fmt.Sprintf(`kafka: {brokers: [%q], group: reviews, instance_id: w-0, commit_interval: 10ms}
input: {topics: [customer_reviews]}
models: [{name: sentiment, path: none}]
output: {topic: review_analysis}
dead_letter: {topic: review_dlq}
server: {listen: "127.0.0.1:0"}
`+more, brokers)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return settings.Load(config.Source{File: file}, list.Sections()...)
}

func TestAThirdKindIsNamedWhereTheOthersAre(t *testing.T) {
	if got := strings.Join(kinds.Stages(), " "); got != "all classify escalate tally" {
		t.Errorf("--stage may say %s", got)
	}
	if got := kinds.Explained(); got != "all, classify (models only), escalate (the endpoint only, no models are "+
		"loaded), or tally (records are counted)" {
		t.Errorf("--stage: %s", got)
	}
	if _, err := load(t, worker.Kinds, "x:1", "tally: {topic: visits}\n"); err == nil ||
		!strings.Contains(err.Error(), "tally") {
		t.Errorf("a section of no kind: %v", err)
	}
	if _, ok := settings.Keys(kinds.Sections()...).Find("tally.topic"); !ok {
		t.Error("there is no flag --tally.topic")
	}
	without, err := load(t, kinds, "x:1", "")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := kinds.Pick(&without.Settings, "tally"); pipeline.KindOf(err) != pipeline.Config ||
		!strings.Contains(err.Error(), tally.Off) {
		t.Errorf("--stage tally without its section: %v", err)
	}
	if _, err := kinds.Pick(&without.Settings, "none"); pipeline.KindOf(err) != pipeline.Config ||
		!strings.Contains(err.Error(), "it is one of all, classify, escalate, tally") {
		t.Errorf("--stage none: %v", err)
	}
	with, err := load(t, kinds, "x:1", "tally: {topic: visits}\n")
	if err != nil {
		t.Fatal(err)
	}
	for stage, want := range map[string]int{"": 2, "all": 2, "classify": 1, "tally": 1} {
		if got, err := kinds.Pick(&with.Settings, stage); err != nil || len(got) != want {
			t.Errorf("--stage %s: %d kinds, %v", stage, len(got), err)
		}
	}
	var asked []string
	for _, a := range kafka.ACLs(kinds.On(&with.Settings).Access(&with.Settings)...) {
		asked = append(asked, a.Operation+" "+a.Resource+" "+a.Name)
	}
	for _, want := range []string{"Read Topic customer_reviews", "Read Topic visits", "Read Group reviews-tally",
		"Write TransactionalId reviews-tally."} {
		if !slices.Contains(asked, want) {
			t.Errorf("sluice acls does not print %s: %q", want, asked)
		}
	}
	if p, err := kinds.Audit(&with.Settings); err != nil || p.Group != "reviews" || len(p.Inputs) != 1 ||
		p.Requests != "" {
		t.Errorf("what sluice verify counts: %+v", p)
	}
}

func TestAThirdKindIsCheckedRunAndShown(t *testing.T) {
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(3, "visits", "review_dlq"))
	if err != nil {
		t.Fatal(err)
	}
	defer cluster.Close()
	c, err := load(t, kinds, cluster.ListenAddrs()[0], "tally: {topic: visits}\n")
	if err != nil {
		t.Fatal(err)
	}
	log, problems := worker.NewLogger(io.Discard, c.Log)
	quiet := worker.Steps{Tell: func(string, ...any) {}}
	process := &worker.Process{Exit: func() { t.Error("the process was ended") }}
	checkTally(t, c, process)

	client, err := kgo.NewClient(kgo.SeedBrokers(cluster.ListenAddrs()...), kgo.DefaultProduceTopic("visits"))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	for _, value := range []string{"one", "two", "odd", "three", "odd"} {
		if err := client.ProduceSync(t.Context(), kgo.StringRecord(value)).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	started, ended := make(chan *worker.Worker, 1), make(chan error, 1)
	go func() {
		ended <- kinds.Run(ctx, &c.Settings, worker.Options{Stage: "tally", Grace: time.Second, Log: log,
			Problems: problems, Steps: quiet, Process: process, Started: func(w *worker.Worker) { started <- w }})
	}()
	var w *worker.Worker
	select {
	case w = <-started:
	case err := <-ended:
		t.Fatal(err)
	}
	// What nobody has declared is counted like the rest, by its own name.
	for deadline := time.Now().Add(30 * time.Second); ; {
		page := get(t, w.Address, "/metrics")
		if strings.Contains(page, `sluice_tally_records_total{outcome="counted"} 3`) &&
			strings.Contains(page, `sluice_tally_records_total{outcome="odd"} 2`) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("the records were not counted:\n%s", page)
		}
	}
	var page struct {
		Ready  bool
		Models []worker.ModelPage
		Stage  *worker.StagePage
		Tally  tallyPage
	}
	if err := json.Unmarshal([]byte(get(t, w.Address, "/status")), &page); err != nil {
		t.Fatal(err)
	}
	if !page.Ready || page.Stage != nil || page.Models == nil || page.Tally.Records != 5 ||
		len(page.Tally.Stage.Partitions) != 3 || len(page.Tally.Stage.Rates.Outcomes) != 2 {
		t.Errorf("/status: %+v", page)
	}
	if w.Stage("tally") == nil || w.Stage("classify") != nil {
		t.Errorf("stages: %+v", w.Stages)
	}
	stop()
	if err := <-ended; err != nil {
		t.Errorf("the worker ended with %v", err)
	}
}

// checkTally is what sluice validate does.
func checkTally(t *testing.T, c *settings.Loaded, process *worker.Process) {
	t.Helper()
	var said []string
	report := worker.Report{OK: func(what string) { said = append(said, what) },
		Wrong: func(err error) { t.Errorf("validate: %v", err) }, Process: process,
		Warn: func(string, ...any) {}, Unseen: func(what string) { t.Errorf("validate has not looked at %s", what) }}
	only := worker.List{tally}
	only.Check(t.Context(), c, report)
	base, err := worker.KafkaConfig(&c.Settings)
	if err != nil {
		t.Fatal(err)
	}
	only.CheckBrokers(t.Context(), &c.Settings, base, report)
	if len(said) != 2 || said[0] != "tally: of visits" || !strings.Contains(said[1], "of group reviews-tally") {
		t.Errorf("validate says %q", said)
	}
}

func get(t *testing.T, address, path string) string {
	t.Helper()
	r, err := http.Get("http://" + address + path)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	text, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// The order of the list is that of builds; nothing that names a kind to the outside may be there twice.
func TestKindsDifferInEverythingThatNamesThem(t *testing.T) {
	names := map[string]bool{worker.All: true}
	for _, k := range worker.Kinds {
		for _, name := range []string{k.Name, "prefix " + k.Metrics.Prefix} {
			if names[name] {
				t.Errorf("%s is there twice", name)
			}
			names[name] = true
		}
		if k.Help == "" || k.On == nil || k.Kafka == nil || k.Build == nil {
			t.Errorf("%s lacks what every kind has", k.Name)
		}
	}
}
