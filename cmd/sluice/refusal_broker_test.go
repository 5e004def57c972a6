package main

import (
	"context"
	"encoding/json"
	"fmt"
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

	"sluice/pipeline/llm/standin"
	"sluice/pipeline/pipelinetest"
	"sluice/pipeline/publish"
)

// This file owns records that a real broker refuses, as a user meets them: `sluice run` on topics whose settings
// differ.

// refusing is a broker with the topics of one configuration.
type refusing struct {
	t                          *testing.T
	client                     *kgo.Client
	admin                      *kadm.Client
	config, group              string
	in, out, dlq, alerts, asks string
}

// topics maps in, out, dlq, alerts and asks to settings, as pairs.
func newRefusing(t *testing.T, name, more string, topics map[string][]string) *refusing {
	t.Helper()
	dir := needModel(t, "sentiment-tiny")
	broker := pipelinetest.Kafka(t)
	f := &refusing{t: t, group: name, in: name + "-in", out: name + "-out", dlq: name + "-dlq",
		alerts: name + "-alerts", asks: name + "-asks"}
	f.client = broker.Client(t, kgo.RecordPartitioner(kgo.ManualPartitioner()))
	f.admin = kadm.NewClient(f.client)
	for short, topic := range map[string]string{"in": f.in, "out": f.out, "dlq": f.dlq, "alerts": f.alerts,
		"asks": f.asks} {
		settings := map[string]*string{}
		for i := 0; i+1 < len(topics[short]); i += 2 {
			settings[topics[short][i]] = &topics[short][i+1]
		}
		r, err := f.admin.CreateTopic(t.Context(), 1, 1, settings, topic)
		if err != nil || r.Err != nil {
			t.Fatal(err, r.Err)
		}
	}
	f.config = filepath.Join(t.TempDir(), name+".yaml")
	text := fmt.Sprintf(`kafka:
  brokers: [%q]
  group: %s
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
%s`, broker.Env["KAFKA_BOOTSTRAP"], name, f.in, dir, f.out, f.dlq, more)
	if err := os.WriteFile(f.config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return f
}

// send writes ten records; change makes something of the sixth.
func (f *refusing) send(change func(*kgo.Record)) {
	f.t.Helper()
	var rs []*kgo.Record
	for i := range 10 {
		r := &kgo.Record{Topic: f.in, Key: []byte(strconv.Itoa(i)), Timestamp: time.Now(),
			Value: fmt.Appendf(nil, `{"id":%d,"text":"I love this"}`, i)}
		if i == 5 {
			change(r)
		}
		rs = append(rs, r)
	}
	if err := f.client.ProduceSync(f.t.Context(), rs...).FirstErr(); err != nil {
		f.t.Fatal(err)
	}
}

// settle waits until a group stands at an offset.
func (f *refusing) settle(w *workerProcess, group, topic string, at int64) {
	f.t.Helper()
	w.until(f.t, fmt.Sprintf("offset %d of group %s", at, group), func() bool {
		o, err := f.admin.FetchOffsets(kadm.RequireStable(f.t.Context()), group)
		if err != nil {
			return false
		}
		x, ok := o.Lookup(topic, 0)
		return ok && x.At == at
	})
}

// read is what a read_committed client sees of a topic.
func (f *refusing) read(topic string) (all []*kgo.Record) {
	f.t.Helper()
	ends, err := f.admin.ListCommittedOffsets(f.t.Context(), topic)
	if err != nil {
		f.t.Fatal(err)
	}
	end, _ := ends.Lookup(topic, 0)
	if end.Offset == 0 {
		return nil
	}
	c := pipelinetest.Kafka(f.t).Client(f.t, kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: {
		0: kgo.NewOffset().AtStart()}}), kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.KeepControlRecords())
	ctx, cancel := context.WithTimeout(f.t.Context(), 30*time.Second)
	defer cancel()
	for done := false; !done; {
		fetches := c.PollFetches(ctx)
		if ctx.Err() != nil {
			f.t.Fatalf("reading %s: not at its end", topic)
		}
		fetches.EachRecord(func(r *kgo.Record) {
			if !r.Attrs.IsControl() {
				all = append(all, r)
			}
			done = r.Offset+1 >= end.Offset
		})
	}
	return all
}

func headerOf(r *kgo.Record, name string) string {
	for _, h := range r.Headers {
		if h.Key == name {
			return string(h.Value)
		}
	}
	return ""
}

// idsOf are the members id of results.
func idsOf(t *testing.T, rs []*kgo.Record) (ids []int) {
	t.Helper()
	for _, r := range rs {
		var v struct{ ID int }
		if err := json.Unmarshal(r.Value, &v); err != nil {
			t.Fatalf("%s: %v", r.Value, err)
		}
		ids = append(ids, v.ID)
	}
	return ids
}

// TestARecordThatTheBrokerRefusesBecomesADeadLetter: nine results come out, the tenth record is a dead letter that says
// why, whole where the dead letter topic takes it, and as a pointer where that refuses it, too.
func TestARecordThatTheBrokerRefusesBecomesADeadLetter(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: no real broker")
	}
	const lax, day = "9223372036854775807", "86400000"
	micros := func(r *kgo.Record) { r.Timestamp = time.UnixMilli(time.Now().UnixMicro()) }
	old := func(r *kgo.Record) { r.Timestamp = time.Now().Add(-72 * time.Hour) }
	keyless := func(r *kgo.Record) { r.Key = nil }
	broken := func(change func(*kgo.Record)) func(*kgo.Record) {
		return func(r *kgo.Record) {
			change(r)
			r.Value = []byte("no JSON")
		}
	}
	for _, c := range []struct {
		name     string
		topics   map[string][]string
		change   func(*kgo.Record)
		more     string
		reason   string
		says     string // of the broker, in the dead letter
		whole    bool   // the dead letter is the record
		key      string // of the dead letter
		validate []string
		log      []string
	}{
		{name: "microseconds", change: micros, topics: map[string][]string{
			"in": {"message.timestamp.after.max.ms", lax}, "dlq": {"message.timestamp.after.max.ms", lax}},
			reason: "refused-timestamp", says: "is out of range. The timestamp should be within", whole: true, key: "5",
			validate: []string{"topic microseconds-out only 1h0m0s ahead (message.timestamp.after.max.ms)"},
			log: []string{"topic=microseconds-in partition=0 offset=5", "refused_by=microseconds-out",
				"reason=refused-timestamp", "should be within", "LogAppendTime"}},
		{name: "microseconds-everywhere", change: micros, topics: map[string][]string{
			"in": {"message.timestamp.after.max.ms", lax}}, reason: "refused-timestamp", says: "is out of range",
			key: "5", validate: []string{"topic microseconds-everywhere-dlq only 1h0m0s ahead",
				"of dead letters only a pointer"}, log: []string{"refused_by=microseconds-everywhere-dlq", "times=2"}},
		{name: "replay", change: old, topics: map[string][]string{"out": {"message.timestamp.before.max.ms", day}},
			reason: "refused-timestamp", says: "is out of range", whole: true, key: "5",
			validate: []string{"topic replay-in may hold records that are 7 d old, topic replay-out takes timestamps " +
				"of the last 1 d"}},
		{name: "keyless", change: keyless, topics: map[string][]string{"out": {"cleanup.policy", "compact"}},
			reason: "refused-record", says: "Compacted topic cannot accept message without key", whole: true,
			validate: []string{"topic keyless-out is compacted"},
			log:      []string{"topic=keyless-in partition=0 offset=5", "cleanup.policy=delete"}},
		{name: "keyless-everywhere", change: keyless, topics: map[string][]string{"out": {"cleanup.policy", "compact"},
			"dlq": {"cleanup.policy", "compact,delete"}}, reason: "refused-record", says: "without key",
			key:      "keyless-everywhere-in/0/5",
			validate: []string{"topic keyless-everywhere-dlq is compacted (cleanup.policy=compact,delete)"}},
		{name: "both", change: func(r *kgo.Record) { keyless(r); micros(r) }, topics: map[string][]string{
			"in": {"message.timestamp.after.max.ms", lax}, "dlq": {"cleanup.policy", "compact"}},
			reason: "refused-timestamp", says: "is out of range", key: "both-in/0/5"},
		{name: "dead-letter", change: broken(micros), topics: map[string][]string{
			"in": {"message.timestamp.after.max.ms", lax}}, reason: "invalid-json", key: "5",
			log: []string{"refused_by=dead-letter-dlq", "times=1"}},
		{name: "keyless-dead-letter", change: broken(keyless), topics: map[string][]string{
			"dlq": {"cleanup.policy", "compact"}}, reason: "invalid-json", key: "keyless-dead-letter-in/0/5"},
		{name: "alerts", change: keyless, topics: map[string][]string{"alerts": {"cleanup.policy", "compact"}},
			more:   "routes: [{name: all, when: 'true', topic: alerts-alerts}]",
			reason: "refused-record", says: "without key", whole: true,
			log: []string{"refused_by=alerts-alerts"}},
		{name: "at-least-once", change: micros, topics: map[string][]string{
			"in": {"message.timestamp.after.max.ms", lax}}, more: "", reason: "refused-timestamp",
			says: "is out of range", key: "5"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newRefusing(t, c.name, c.more, c.topics)
			var flags []string
			if c.name == "at-least-once" {
				flags = []string{"--kafka.guarantee=at-least-once"}
			}
			r := finish(t, sluice(t, append([]string{"validate", "-c", f.config}, flags...)...))
			for _, s := range c.validate {
				if r.code != exitDone || !strings.Contains(r.out, s) {
					t.Errorf("validate ends with %d and does not say %q:\n%s", r.code, s, r.out)
				}
			}
			f.send(c.change)
			w := startWorker(t, append([]string{"-c", f.config}, flags...)...)
			f.settle(w, f.group, f.in, 10)
			_, metrics := w.get(t, "/metrics")
			w.cmd.Process.Signal(syscall.SIGTERM)
			if code := w.exit(t); code != exitDone {
				t.Errorf("exit code %d\n%s", code, w.logs())
			}
			want := []int{0, 1, 2, 3, 4, 6, 7, 8, 9}
			ids := idsOf(t, f.read(f.out))
			if c.name == "at-least-once" { // may repeat
				slices.Sort(ids)
				ids = slices.Compact(ids)
			}
			if !slices.Equal(ids, want) {
				t.Errorf("results of %v, want %v", ids, want)
			}
			if c.name == "alerts" {
				if ids := idsOf(t, f.read(f.alerts)); !slices.Equal(ids, want) {
					t.Errorf("alerts of %v, want %v", ids, want)
				}
			}
			letters := f.read(f.dlq)
			if len(letters) != 1 {
				t.Fatalf("%d dead letters\n%s", len(letters), w.logs())
			}
			m := letters[0]
			if headerOf(m, publish.HeaderErrorReason) != c.reason || string(m.Key) != c.key ||
				headerOf(m, publish.HeaderSource) != f.in+"/0/5" ||
				!strings.Contains(headerOf(m, publish.HeaderErrorMessage), c.says) {
				t.Errorf("the dead letter: key %q, headers %v", m.Key, m.Headers)
			}
			if whole := strings.HasPrefix(string(m.Value), `{"id":5,`); whole != c.whole {
				t.Errorf("the dead letter is %s", m.Value)
			}
			if !c.whole {
				var at struct {
					Topic   string
					Offset  int64
					Refused string `json:"refused_by"`
				}
				if err := json.Unmarshal(m.Value, &at); err != nil || at.Topic != f.in || at.Offset != 5 ||
					at.Refused != f.dlq {
					t.Errorf("the pointer %s: %v", m.Value, err)
				}
				if age := time.Since(m.Timestamp); age < 0 || age > time.Hour {
					t.Errorf("the pointer's timestamp is %v", m.Timestamp)
				}
			}
			for _, s := range c.log {
				if !strings.Contains(w.logs(), s) {
					t.Errorf("the log does not say %q:\n%s", s, w.logs())
				}
			}
			if !strings.Contains(metrics, `reason="`+c.reason+`"`) ||
				!strings.Contains(metrics, "sluice_refused_messages_total{") {
				t.Errorf("the metrics do not count it by reason:\n%s", metrics)
			}
		})
	}
}

// TestRequestsAndAmendmentsThatTheBrokerRefuses: what the escalation writes is refused as what the models do. The
// record has one answer: a dead letter for the result with its request, or one for the amendment.
func TestRequestsAndAmendmentsThatTheBrokerRefuses(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: no real broker")
	}
	stub := standin.Options{Labels: []string{"NEGATIVE", "POSITIVE"}, Oracle: func(string) string { return "POSITIVE" }}
	server := httptest.NewServer(standin.New(stub))
	t.Cleanup(server.Close)
	escalation := func(name string) string {
		return fmt.Sprintf(`escalation:
  when: sentiment.score < 2
  topic: %s-asks
  endpoint: {urls: [%q], model: stub}
`, name, server.URL+"/v1")
	}
	t.Run("the request", func(t *testing.T) {
		f := newRefusing(t, "asking", escalation("asking"), map[string][]string{"asks": {"cleanup.policy", "compact"}})
		f.send(func(r *kgo.Record) { r.Key = nil })
		w := startWorker(t, "-c", f.config)
		f.settle(w, f.group, f.in, 10)
		w.until(t, "all amendments", func() bool { return len(f.read(f.out)) == 18 })
		if n := len(f.read(f.asks)); n != 9 {
			t.Errorf("%d requests", n)
		}
		letters := f.read(f.dlq)
		if len(letters) != 1 || headerOf(letters[0], publish.HeaderID) != f.in+"/0/5#0" ||
			headerOf(letters[0], publish.HeaderErrorReason) != "refused-record" {
			t.Errorf("%d dead letters: %v", len(letters), letters)
		}
	})
	t.Run("the amendment", func(t *testing.T) {
		f := newRefusing(t, "amending", escalation("amending"), nil)
		f.send(func(r *kgo.Record) { r.Key = nil })
		classify := startWorker(t, "-c", f.config, "--stage=classify")
		f.settle(classify, f.group, f.in, 10)
		compact := "compact"
		if _, err := f.admin.AlterTopicConfigs(t.Context(), []kadm.AlterConfig{{Op: kadm.SetConfig,
			Name: "cleanup.policy", Value: &compact}}, f.out); err != nil {
			t.Fatal(err)
		}
		escalate := startWorker(t, "-c", f.config, "--stage=escalate")
		w := escalate
		w.until(t, "a dead letter", func() bool { return len(f.read(f.dlq)) > 0 })
		w.until(t, "all amendments", func() bool { return len(f.read(f.out)) == 19 })
		letters := f.read(f.dlq)
		if len(letters) != 1 || headerOf(letters[0], publish.HeaderID) != f.in+"/0/5#2" ||
			headerOf(letters[0], publish.HeaderAmends) != f.in+"/0/5#0" ||
			headerOf(letters[0], publish.HeaderSource) != f.in+"/0/5" ||
			!strings.Contains(headerOf(letters[0], publish.HeaderErrorMessage), "without key") {
			t.Errorf("%d dead letters: %v", len(letters), letters)
		}
	})
}
