package main

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"sluice/cmd/sluice/demo"
	"sluice/cmd/sluice/worker"
	"sluice/pipeline"
	"sluice/pipeline/escalate"
	"sluice/pipeline/failpoint"
	"sluice/pipeline/llm/standin"
	"sluice/pipeline/pipelinetest"
	"sluice/pipeline/publish"
)

// This file owns the escalation as a user runs it: processes of `sluice run` in all three stages, killed while they
// work, on a real broker with a strict endpoint. Built with -tags failpoint (make test-broker), workers also die at the
// failpoints before and after a call.

// envSoak is the number of records of the soak; the default is short.
const envSoak = "ESCALATION_SOAK_RECORDS"

// cascade is a broker with the topics of one configuration with escalation, and an endpoint.
type cascade struct {
	t                                *testing.T
	client                           *kgo.Client
	admin                            *kadm.Client
	stub                             *standin.Server
	config                           string
	group                            string
	input, output, letters, requests string
	random                           *rand.Rand
}

func newCascade(t *testing.T, name string, partitions int32, stub standin.Options, escalation string) *cascade {
	t.Helper()
	dir := needModel(t, "sentiment-tiny")
	broker, listener := pipelinetest.TestListener(t)
	c := &cascade{t: t, group: name, input: name + "-in", output: name + "-out", letters: name + "-dlq",
		requests: name + "-asks", random: rand.New(rand.NewPCG(7, uint64(len(name))))}
	c.client = broker.Client(t, kgo.ConsumeTopics(c.output, c.letters), kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	c.admin = kadm.NewClient(c.client)
	if _, err := c.admin.CreateTopics(t.Context(), partitions, 1, nil, c.input, c.output, c.letters,
		c.requests); err != nil {
		t.Fatal(err)
	}
	stub.Labels = []string{"NEGATIVE", "POSITIVE"}
	stub.Oracle = func(text string) string { return stub.Labels[len(text)%2] }
	c.stub = standin.New(stub)
	server := httptest.NewServer(c.stub)
	t.Cleanup(server.Close)
	text := fmt.Sprintf(`kafka:
%s  group: %s
  instance_id: w-0
  commit_interval: 20ms
input: {topics: [%s]}
models:
  - {name: sentiment, path: %q}
output: {topic: %s}
dead_letter: {topic: %s}
server: {listen: "127.0.0.1:0"}
runners: 1
batch_tokens: 256
escalation:
  topic: %s
  endpoint: {urls: [%q], model: stub, max_concurrency: 4, timeout: 2s, deadline: 4s, max_attempts: 1, breaker_pause: 100ms}
%s`, listener.Settings(t, t.TempDir()), c.group, c.input, dir, c.output, c.letters, c.requests, server.URL+"/v1", escalation)
	c.config = filepath.Join(t.TempDir(), name+".yaml")
	if err := os.WriteFile(c.config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	grantPrinted(t, broker, listener, c.config)
	return c
}

// start starts a worker that, built so, dies by itself at the n-th pass of a failpoint; "" never does.
func (c *cascade) start(instance, stage, at string) *workerProcess {
	c.t.Helper()
	cmd := sluice(c.t, "run", "-c", c.config, "--kafka.instance_id="+instance, "--stage="+stage)
	if failpoint.On && at != "" {
		cmd.Env = append(cmd.Env, "FAILPOINT="+at)
	}
	return startCommand(c.t, cmd)
}

// produce writes records n..m-1, one text each.
func (c *cascade) produce(texts []string, n, m, partitions int) {
	c.t.Helper()
	var rs []*kgo.Record
	for i := n; i < m; i++ {
		value, err := json.Marshal(map[string]any{"id": i, "text": fmt.Sprintf("%s (%d)", texts[i%len(texts)], i)})
		if err != nil {
			c.t.Fatal(err)
		}
		rs = append(rs, &kgo.Record{Topic: c.input, Partition: int32(i % partitions), Key: []byte(strconv.Itoa(i)),
			Value: value})
	}
	if err := c.client.ProduceSync(c.t.Context(), rs...).FirstErr(); err != nil {
		c.t.Fatal(err)
	}
}

// seen is one message of the output topic.
type seen struct {
	key       string
	partition int32
	offset    int64
	id        string
	amends    string
	dead      string // why it is a dead letter; "": it is a result
	verdict   struct {
		By, Reason, Amends string
		Score              float64
		Revision           int
		Provisional        bool
		Local              struct{ Score float64 }
	}
}

// read takes in what has come; each gets every message.
func (c *cascade) read(ctx context.Context, each func(*seen)) {
	c.t.Helper()
	c.client.PollFetches(ctx).EachRecord(func(r *kgo.Record) {
		s := &seen{key: string(r.Key), partition: r.Partition, offset: r.Offset}
		if r.Topic == c.letters {
			for _, h := range r.Headers {
				if h.Key == publish.HeaderErrorReason {
					s.dead = string(h.Value)
				}
				if h.Key == escalate.HeaderEscalation {
					c.t.Errorf("a request is a dead letter: %s: %v", r.Value, r.Headers)
				}
			}
			each(s)
			return
		}
		for _, h := range r.Headers {
			switch h.Key {
			case publish.HeaderID:
				s.id = string(h.Value)
			case publish.HeaderAmends:
				s.amends = string(h.Value)
			}
		}
		if s.id != "" {
			var v struct {
				Inference struct{ Sentiment json.RawMessage }
			}
			if err := json.Unmarshal(r.Value, &v); err != nil {
				c.t.Fatalf("%s: %v", r.Value, err)
			}
			if err := json.Unmarshal(v.Inference.Sentiment, &s.verdict); err != nil {
				c.t.Fatalf("%s: %v", r.Value, err)
			}
		}
		each(s)
	})
}

// rest reads to the end of the output topic, by a last message in every partition.
func (c *cascade) rest(ctx context.Context, partitions int, each func(*seen)) {
	c.t.Helper()
	for p := range partitions {
		if err := c.client.ProduceSync(ctx, &kgo.Record{Topic: c.output, Partition: int32(p), Key: []byte("end"),
			Value: []byte("{}")}).FirstErr(); err != nil {
			c.t.Fatal(err)
		}
	}
	for ended := 0; ended < partitions; {
		if ctx.Err() != nil {
			c.t.Fatal("the end of the output topic was not reached")
		}
		c.read(ctx, func(s *seen) {
			if s.key == "end" {
				ended++
				return
			}
			each(s)
		})
	}
}

// streamTexts are texts of many kinds; the small model is unsure of a good part of them.
func streamTexts(t *testing.T) []string {
	t.Helper()
	values, err := demo.Texts()
	if err != nil {
		t.Fatal(err)
	}
	var texts []string
	for _, v := range values {
		var line struct{ Text string }
		if err := json.Unmarshal(v, &line); err != nil {
			t.Fatal(err)
		}
		texts = append(texts, line.Text)
	}
	return texts
}

func TestKilledWorkersGiveEveryEscalatedRecordOneFinalVerdictOnARealBroker(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: no real broker")
	}
	records := 800
	if s := os.Getenv(envSoak); s != "" {
		var err error
		if records, err = strconv.Atoi(s); err != nil {
			t.Fatalf("%s: %v", envSoak, err)
		}
	}
	for _, mode := range []escalate.Mode{escalate.Amend, escalate.Defer} {
		t.Run(string(mode), func(t *testing.T) { soakEscalation(t, mode, records) })
	}
}

func soakEscalation(t *testing.T, mode escalate.Mode, records int) {
	const partitions, every, threshold = 3, 100, 0.75
	c := newCascade(t, "soak-"+string(mode), partitions, standin.Options{Latency: standin.Exponential(
		5 * time.Millisecond), FailureShare: 0.05, Seed: 1},
		fmt.Sprintf("  when: sentiment.score < %v\n  mode: %s\n", threshold, mode))
	texts := streamTexts(t)
	produced := 0
	produce := func(n int) {
		n = min(n, records-produced)
		c.produce(texts, produced, produced+n, partitions)
		produced += n
	}
	produce(4 * every)

	crew := []struct{ instance, stage string }{{"all", worker.All}, {"classify", worker.Classify.Name},
		{"escalate", worker.Escalate.Name}}
	starts := 0
	start := func(i int) *workerProcess {
		at := ""
		if crew[i].stage != worker.Classify.Name {
			at = fmt.Sprintf("%s:%d:kill", []string{failpoint.EscalateBeforeCall,
				failpoint.EscalateAfterCall}[starts%2], 5+c.random.IntN(40))
			starts++
		}
		return c.start(crew[i].instance, crew[i].stage, at)
	}
	workers := []*workerProcess{start(0), start(1), start(2)}
	first, final := map[string]*seen{}, map[string]*seen{} // by key: what is there at once, what is there in the end
	escalated, doubled, blamed, kills, own := 0, 0, 0, 0, map[string]int{}
	take := func(s *seen) {
		if s.dead != "" {
			// Records that ran alone when their worker was killed, twice: the worker has to think that they are to
			// blame.
			if s.dead != "killed-the-worker" || first[s.key] != nil || final[s.key] != nil {
				t.Errorf("record %s is a dead letter (%s), beside %+v and %+v", s.key, s.dead, first[s.key],
					final[s.key])
			}
			blamed++
			first[s.key] = s
			return
		}
		v := &s.verdict
		answered := v.By == string(pipeline.ByLLM) || v.By == string(pipeline.Fallback)
		m := first
		if answered {
			m = final
		}
		if m[s.key] != nil {
			doubled++
			t.Errorf("record %s: %+v and %+v", s.key, m[s.key], s)
		}
		m[s.key] = s
		switch {
		case v.By == string(pipeline.Fallback) && v.Reason == "":
			t.Errorf("record %s: a fallback without a reason: %+v", s.key, v)
		case answered && mode == escalate.Amend:
			f := first[s.key]
			if f == nil || v.Revision != 2 || s.amends != f.id || v.Amends != f.id || s.partition != f.partition ||
				s.offset <= f.offset || !f.verdict.Provisional {
				t.Errorf("record %s: %+v amends %+v", s.key, s, f)
			}
		case answered && (v.Revision != 1 || s.amends != "" || first[s.key] != nil):
			t.Errorf("record %s: a deferred verdict %+v", s.key, s)
		case !answered && (v.Revision != 1 || v.Provisional != (mode == escalate.Amend && v.Score < threshold) ||
			mode == escalate.Defer && v.Score < threshold):
			t.Errorf("record %s: %+v", s.key, v)
		}
		if v.Provisional || answered && mode == escalate.Defer {
			escalated++
		}
	}
	done := func() bool {
		if mode == escalate.Defer {
			return len(first)+len(final) >= records
		}
		return len(first) >= records && len(final) >= escalated
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute+time.Duration(records)*20*time.Millisecond)
	defer cancel()
	for !done() {
		if ctx.Err() != nil {
			t.Fatalf("%d of %d records are there, %d of %d escalated ones, after %d kills\n%s\n%s\n%s", len(first),
				records, len(final), escalated, kills, workers[0].logs(), workers[1].logs(), workers[2].logs())
		}
		poll, stop := context.WithTimeout(ctx, 200*time.Millisecond)
		c.read(poll, take)
		stop()
		for i, w := range workers { // those that have died at a failpoint
			select {
			case <-w.done:
				met := ""
				for _, line := range strings.Split(w.logs(), "\n") {
					if name, ok := strings.CutPrefix(line, "failpoint "); ok {
						met = strings.TrimSuffix(name, " kill")
					}
				}
				if met == "" {
					t.Fatalf("worker %s ended by itself\n%s", crew[i].instance, w.logs())
				}
				own[met]++
				workers[i] = start(i)
			default:
			}
		}
		if len(first)+len(final) >= (kills+1)*every && produced < records {
			i := c.random.IntN(len(workers))
			workers[i].cmd.Process.Kill()
			<-workers[i].done
			kills++
			workers[i] = start(i)
			produce(every)
		}
	}
	for _, w := range workers {
		w.cmd.Process.Signal(syscall.SIGTERM)
	}
	for i, w := range workers {
		if err := <-w.done; err != nil && !(failpoint.On && strings.Contains(w.logs(), "\nfailpoint ")) {
			t.Errorf("worker %s after SIGTERM: %v\n%s", crew[i].instance, err, w.logs())
		}
	}
	c.rest(ctx, partitions, take)
	lost, reasons := 0, map[string]int{}
	for i := range records {
		key := strconv.Itoa(i)
		f, l := first[key], final[key]
		if f == nil && l == nil || f != nil && f.verdict.Provisional && l == nil {
			lost++
		}
		if l != nil {
			reasons[l.verdict.By+" "+l.verdict.Reason]++
		}
	}
	if lost > 0 || len(final) != escalated {
		t.Errorf("%d records, %d escalated, %d final verdicts: %d lost", records, escalated, len(final), lost)
	}
	if escalated < records/10 || escalated > records*9/10 {
		t.Errorf("%d of %d records were escalated: the threshold proves little", escalated, records)
	}
	if v := c.stub.Violations(); len(v) > 0 {
		t.Errorf("the endpoint refused requests: %q", v)
	}
	if blamed > records/50 {
		t.Errorf("%d records were blamed for deaths", blamed)
	}
	if kills == 0 {
		t.Error("nobody was killed while there was work")
	}
	if failpoint.On && len(own) < 2 {
		t.Errorf("deaths at failpoints: %v; both were to be met", own)
	}
	t.Logf("%s: %d records, %d escalated, %d calls, final: %v; %d SIGKILLs at random, at failpoints %v; %d lost, %d "+
		"doubled, %d dead letters", mode, records, escalated, c.stub.Stats().Requests, reasons, kills, own, lost,
		doubled, blamed)
}

func TestTheBudgetHoldsAcrossKilledWorkersOnARealBroker(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: no real broker")
	}
	const partitions, records, calls = 6, 600, 150
	// What a killed worker had charged and not committed was called for nothing: at most what it may have in flight
	// (8 rounds of its concurrency, see newEscalateStage), a call each.
	const lostByKill = 8 * 4
	today := time.Now().UTC().YearDay()
	c := newCascade(t, "budget", partitions, standin.Options{Latency: standin.Exponential(10 * time.Millisecond),
		Seed: 2},
		fmt.Sprintf("  when: 'true'\n  mode: amend\n  cache: 0\n  budget: {calls_per_day: %d}\n", calls))
	texts := streamTexts(t)
	c.produce(texts, 0, records, partitions)
	classify := c.start("classify", worker.Classify.Name, "")
	workers := []*workerProcess{c.start("e-0", worker.Escalate.Name, ""), c.start("e-1", worker.Escalate.Name, "")}
	final := map[string]string{}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	until := func(n int) {
		t.Helper()
		for len(final) < n {
			if ctx.Err() != nil {
				t.Fatalf("%d of %d final verdicts after %d calls\n%s", len(final), n, c.stub.Stats().Requests,
					workers[0].logs())
			}
			c.read(ctx, func(s *seen) {
				if s.verdict.Revision == 2 {
					if final[s.key] != "" {
						t.Errorf("record %s has two final verdicts", s.key)
					}
					final[s.key] = s.verdict.By + " " + s.verdict.Reason
				}
			})
		}
	}
	kills := 0
	kill := func(i int) {
		workers[i].cmd.Process.Kill()
		<-workers[i].done
		kills++
		workers[i] = c.start(fmt.Sprintf("e-%d", i), worker.Escalate.Name, "")
	}
	until(20)
	kill(0)
	until(45)
	workers = append(workers, c.start("e-2", worker.Escalate.Name, "")) // partitions move to it
	until(60)
	kill(1)
	until(90)
	kill(2)
	until(records)
	spent := c.stub.Stats().Requests
	count := map[string]int{}
	for _, how := range final {
		count[how]++
	}
	if spent > calls+kills*lostByKill || count["fallback budget"] == 0 ||
		count["llm "]+count["fallback budget"] != records {
		t.Errorf("%d calls for a budget of %d and %d kills (at most %d calls lost by each); final: %v", spent, calls,
			kills, lostByKill, count)
	}
	// Charges that died with a worker may leave up to as many calls unused.
	if spent < calls-kills*lostByKill || count["llm "] < calls/2 {
		t.Errorf("only %d calls of %d; final: %v", spent, calls, count)
	}
	// All of them anew: the budget is still spent.
	for _, w := range workers {
		w.cmd.Process.Signal(syscall.SIGTERM)
	}
	for i, w := range workers {
		if code := w.exit(t); code != exitDone {
			t.Errorf("exit code %d\n%s", code, w.logs())
		}
		workers[i] = c.start(fmt.Sprintf("e-%d", i), worker.Escalate.Name, "")
	}
	c.produce(texts, records, records+60, partitions)
	until(records + 60)
	if time.Now().UTC().YearDay() != today {
		missing(t, "midnight (UTC) has passed in the middle of a test of today's budget; run it again")
	}
	for i := records; i < records+60; i++ {
		if how := final[strconv.Itoa(i)]; how != "fallback budget" {
			t.Errorf("record %d, after the restart: %s", i, how)
		}
	}
	if again := c.stub.Stats().Requests; again != spent {
		t.Errorf("%d calls after the restart", again-spent)
	}
	offsets, err := c.admin.FetchOffsets(ctx, c.group+"-escalation")
	if err != nil {
		t.Fatal(err)
	}
	charged := 0
	for _, o := range slices.Collect(maps.Values(offsets[c.requests])) {
		var wallet struct{ Budget struct{ Calls int } }
		if err := json.Unmarshal([]byte(o.Metadata), &wallet); err != nil {
			t.Errorf("partition %d: %q: %v", o.Partition, o.Metadata, err)
		}
		charged += wallet.Budget.Calls
	}
	if charged != calls {
		t.Errorf("the wallets say that %d of %d calls are spent", charged, calls)
	}
	classify.cmd.Process.Signal(syscall.SIGTERM)
	t.Logf("%d records, budget of %d calls, %d SIGKILLs: %d calls; final %v; wallets %d", records+60, calls, kills,
		spent, count, charged)
}
