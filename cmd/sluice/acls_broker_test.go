package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"sluice/cmd/sluice/worker"
	"sluice/pipeline/kafka"
	"sluice/pipeline/llm/standin"
	"sluice/pipeline/pipelinetest"
)

// This file owns the permissions as an administrator grants them: the commands that `sluice acls` prints, run by a
// shell with Kafka's own tool, on a real broker whose authorizer denies by default.

// guarded is a broker with an authorizer, and the topics of a configuration with escalation.
type guarded struct {
	t      *testing.T
	broker *pipelinetest.Broker
	client *kgo.Client // super user
	dir    string      // with kafka-acls.sh
	login  string      // file with the administrator's login for Kafka's tools
	config string
	topics struct{ input, output, letters, requests string }
}

func newGuarded(t *testing.T, name string) *guarded {
	t.Helper()
	dir := needModel(t, "sentiment-tiny")
	g := &guarded{t: t, broker: pipelinetest.Kafka(t, "--acl"), dir: t.TempDir()}
	g.topics.input, g.topics.output, g.topics.letters, g.topics.requests = name+"-in", name+"-out", name+"-dlq",
		name+"-asks"
	g.client = g.broker.Client(t, kgo.ConsumeTopics(g.topics.output), kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.RecordPartitioner(kgo.StickyKeyPartitioner(nil)))
	if _, err := kadm.NewClient(g.client).CreateTopics(t.Context(), 2, 1, nil, g.topics.input, g.topics.output,
		g.topics.letters, g.topics.requests); err != nil {
		t.Fatal(err)
	}
	stub := standin.Options{Labels: []string{"NEGATIVE", "POSITIVE"}}
	stub.Oracle = func(text string) string { return stub.Labels[len(text)%2] }
	server := httptest.NewServer(standin.New(stub))
	t.Cleanup(server.Close)

	ca := g.broker.Env["KAFKA_CA"]
	g.config = g.file("worker.yaml", 0o600, `kafka:
  brokers: [%q]
  group: %s
  instance_id: w-0
  commit_interval: 20ms
  tls: {ca_file: %q}
  sasl: {mechanism: SCRAM-SHA-512, username: worker}
input: {topics: [%s]}
models:
  - {name: sentiment, path: %q}
output: {topic: %s}
dead_letter: {topic: %s}
server: {listen: "127.0.0.1:0"}
runners: 1
escalation:
  when: sentiment.score < 0.75
  topic: %s
  endpoint: {urls: [%q], model: stub}
`, g.broker.Env["KAFKA_BOOTSTRAP_SASL_SSL"], name, ca, g.topics.input, dir, g.topics.output, g.topics.letters, g.topics.requests, server.URL+"/v1")
	g.login, _ = g.broker.JavaClient(t)
	local, err := filepath.Abs("../../scripts/kafka-local")
	if err != nil {
		t.Fatal(err)
	}
	// as Kafka's script of this name does
	g.file("kafka-acls.sh", 0o700, "#!/bin/sh\nexec '%s' tool org.apache.kafka.tools.AclCommand \"$@\"\n", local)
	return g
}

func (g *guarded) file(name string, mode os.FileMode, format string, args ...any) string {
	g.t.Helper()
	path := filepath.Join(g.dir, name)
	if err := os.WriteFile(path, fmt.Appendf(nil, format, args...), mode); err != nil {
		g.t.Fatal(err)
	}
	return path
}

// grant has a shell run what `sluice acls` prints for a stage.
func (g *guarded) grant(principal, stage string) {
	g.t.Helper()
	r := g.acls("--principal", "User:"+principal, "--stage", stage, "--command-config", g.login)
	sh := exec.Command("sh", "-e")
	sh.Stdin = strings.NewReader(r.out)
	sh.Env = append(os.Environ(), "PATH="+g.dir+":"+os.Getenv("PATH"), "KAFKA_LOCAL_DIR="+filepath.Join(g.dir, "java"))
	if said, err := sh.CombinedOutput(); err != nil {
		g.t.Fatalf("%v\n%s\n%s", err, r.out, said)
	}
	list := permissions(g.list(stage))
	g.broker.AwaitPermissions(g.t, len(list), "User:"+principal, list...)
}

func (g *guarded) acls(args ...string) result {
	g.t.Helper()
	cmd := sluice(g.t, append([]string{"acls", "-c", g.config}, args...)...)
	cmd.Env = append(cmd.Env, "SLUICE_KAFKA__SASL__PASSWORD=not asked for")
	r := finish(g.t, cmd)
	if r.code != 0 {
		g.t.Fatalf("acls: %+v", r)
	}
	return r
}

// list is what a stage needs, as `sluice acls --json` has it.
func (g *guarded) list(stage string) []kafka.ACL {
	g.t.Helper()
	r := g.acls("--stage", stage, "--json")
	var acls []kafka.ACL
	if err := json.Unmarshal([]byte(r.out), &acls); err != nil || len(acls) == 0 {
		g.t.Fatalf("acls: %+v: %v", r, err)
	}
	return acls
}

// permissions are those of ACLs.
func permissions(acls []kafka.ACL) []pipelinetest.Permission {
	var ps []pipelinetest.Permission
	for _, a := range acls {
		ps = append(ps, pipelinetest.Permission(a))
	}
	return ps
}

// run is the command line of a worker with a user's login.
func (g *guarded) run(user, stage string) *exec.Cmd {
	cmd := sluice(g.t, "run", "-c", g.config, "--stage="+stage, "--kafka.sasl.username="+user)
	cmd.Env = append(cmd.Env, "SLUICE_KAFKA__SASL__PASSWORD="+user+"-secret")
	return cmd
}

// deliver sends n records from key first on and reads until each has its verdict, and each escalated one its final one.
func (g *guarded) deliver(first, n int, workers ...*workerProcess) {
	g.t.Helper()
	texts := streamTexts(g.t)
	var records []*kgo.Record
	for i := first; i < first+n; i++ {
		value, err := json.Marshal(map[string]any{"id": i, "text": texts[i%len(texts)]})
		if err != nil {
			g.t.Fatal(err)
		}
		records = append(records, &kgo.Record{Topic: g.topics.input, Key: fmt.Append(nil, i), Value: value})
	}
	if err := g.client.ProduceSync(g.t.Context(), records...).FirstErr(); err != nil {
		g.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(g.t.Context(), time.Minute)
	defer cancel()
	verdicts, asked, answered := 0, 0, 0
	for verdicts < n || answered < asked {
		fetches := g.client.PollFetches(ctx)
		if ctx.Err() != nil {
			for _, w := range workers {
				g.t.Log(w.logs())
			}
			g.t.Fatalf("%d of %d verdicts, %d of %d escalated ones after a minute", verdicts, n, answered, asked)
		}
		fetches.EachRecord(func(r *kgo.Record) {
			var v struct {
				Inference struct {
					Sentiment struct {
						By          string
						Provisional bool
					}
				}
			}
			if err := json.Unmarshal(r.Value, &v); err != nil {
				g.t.Fatalf("%s: %v", r.Value, err)
			}
			switch s := v.Inference.Sentiment; {
			case s.By == "llm":
				answered++
			case s.Provisional:
				asked++
				verdicts++
			default:
				verdicts++
			}
		})
	}
	if asked == 0 {
		g.t.Fatal("no record was escalated: the test shows nothing")
	}
}

func (g *guarded) stop(workers ...*workerProcess) {
	g.t.Helper()
	for _, w := range workers {
		if err := w.cmd.Process.Signal(os.Interrupt); err != nil {
			g.t.Fatal(err)
		}
		if code := w.exit(g.t); code != 0 {
			g.t.Errorf("exit code %d\n%s", code, w.logs())
		}
	}
}

func TestThePrintedPermissionsAreEnoughAndEachIsNeeded(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: no real broker")
	}
	g := newGuarded(t, "acls")
	if r := finish(t, g.run("worker", worker.All)); r.code == 0 || !strings.Contains(r.err, "permission") {
		t.Fatalf("a worker without any permission: %+v", r)
	}

	// Each stage in a process of its own, with a principal of its own.
	g.grant("worker", worker.Classify.Name)
	g.grant("other", worker.Escalate.Name)
	workers := []*workerProcess{startCommand(t, g.run("worker", worker.Classify.Name)),
		startCommand(t, g.run("other", worker.Escalate.Name))}
	g.deliver(0, 60, workers...)
	g.stop(workers...)
	escalate := g.list(worker.Escalate.Name)
	if len(escalate) != 5 {
		t.Errorf("the escalate stage needs %v", escalate)
	}
	for _, a := range escalate {
		g.refused(a, "other", worker.Escalate.Name)
	}

	// Both stages in one process, with one principal.
	g.grant("worker", worker.All)
	both := startCommand(t, g.run("worker", worker.All))
	g.deliver(60, 60, both)
	g.stop(both)
	all := g.list(worker.All)
	if len(all) != 9 {
		t.Errorf("a worker needs %v", all)
	}
	for _, a := range all {
		g.refused(a, "worker", worker.All)
	}
	if !slices.ContainsFunc(all, func(a kafka.ACL) bool {
		return a.Name == "acls-escalation" ||
			a.Name == "acls-escalation."
	}) {
		t.Errorf("no permission of the escalation's own: %v", all)
	}
}

// refused runs a worker that lacks one permission: it ends, and names it.
func (g *guarded) refused(a kafka.ACL, user, stage string) {
	g.t.Helper()
	g.broker.Revoke(g.t, "User:"+user, pipelinetest.Permission(a))
	defer g.broker.Grant(g.t, "User:"+user, pipelinetest.Permission(a))
	want := map[string]string{"Topic": "on topic " + a.Name, "Group": "on group " + a.Name,
		"TransactionalId": "on transactional id " + a.Name}[a.Resource]
	want = "permission " + strings.ToUpper(a.Operation) + " " + want
	cmd := g.run(user, stage)
	ended := make(chan result, 1)
	go func() { ended <- finish(g.t, cmd) }()
	select {
	case r := <-ended:
		if r.code != exitUsage || !strings.Contains(r.err, want) {
			g.t.Errorf("stage %s without %+v: exit code %d; want %q in\n%s", stage, a, r.code, want, r.err)
		}
	case <-time.After(time.Minute):
		cmd.Process.Kill()
		g.t.Errorf("stage %s without %+v: it runs on", stage, a)
	}
}
