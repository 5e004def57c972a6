package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"sluice/cmd/sluice/config"
	"sluice/cmd/sluice/worker"
	"sluice/pipeline/kafka"
	"sluice/pipeline/pipelinetest"
)

// These tests run the command line as a process of its own: this test binary, which becomes sluice when asSluice is
// set.
const asSluice = "TEST_BINARY_AS_SLUICE"

// minimal is the shortest configuration without mistakes.
const minimal = `kafka:
  brokers: ["localhost:9092"]
  group: reviews
input: {topics: [customer_reviews]}
models:
  - {name: sentiment, path: models/sentiment}
output: {topic: review_analysis}
dead_letter: {topic: review_dlq}
`

var update = flag.Bool("update", false, "write the golden files anew")

func TestMain(m *testing.M) {
	if os.Getenv(asSluice) != "" {
		os.Exit(execute(testProcess(), os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
	}
	code := m.Run()
	pipelinetest.StopKafka()
	os.Exit(code)
}

// hooks are what the environment puts into processes of the command line, of each test that needs one.
var hooks []func(*worker.Hooks)

// testProcess is the process of the command line with the hooks.
func testProcess() *worker.Process {
	p := &worker.Process{Exit: func() { os.Exit(exitFailed) }}
	for _, hook := range hooks {
		hook(&p.Hooks)
	}
	return p
}

// sluice is a process of the command line, with no SLUICE_ variable but the place of ONNX Runtime.
func sluice(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe, args...)
	for _, e := range os.Environ() {
		if !strings.HasPrefix(e, config.EnvPrefix) || strings.HasPrefix(e, envOnnx+"=") {
			cmd.Env = append(cmd.Env, e)
		}
	}
	cmd.Env = append(cmd.Env, asSluice+"=1")
	return cmd
}

// result is what a finished process left.
type result struct {
	code     int
	out, err string
}

func finish(t *testing.T, cmd *exec.Cmd) result {
	t.Helper()
	var out, errw bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errw
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return result{cmd.ProcessState.ExitCode(), out.String(), errw.String()}
}

// missing skips a test loudly, or fails it where the thing should be there.
func missing(t *testing.T, format string, args ...any) {
	t.Helper()
	pipelinetest.Missing(t, format, args...)
}

// needModel is the directory of a bundled model, with ONNX Runtime to run it.
func needModel(t *testing.T, name string) string {
	t.Helper()
	if os.Getenv(envOnnx) == "" {
		missing(t, "ONNX Runtime is not there; run: eval \"$(scripts/native.sh env)\"")
	}
	dir, err := filepath.Abs(filepath.Join("../../models", name))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "model.onnx")); err != nil {
		missing(t, "the bundled model %s is not there: %v", name, err)
	}
	return dir
}

// A file among directories is passed over (models/*), but alone it is a mistake: nothing was verified.
func TestVerifyingAnArchiveIsAMistake(t *testing.T) {
	dir := needModel(t, "sentiment")
	archive := filepath.Join(t.TempDir(), "model.zip")
	if err := os.WriteFile(archive, []byte("PK\x03\x04"), 0o600); err != nil {
		t.Fatal(err)
	}
	if r := finish(t, sluice(t, "models", "verify", archive)); r.code != exitFailed || !strings.Contains(r.err,
		"is an archive") || !strings.Contains(r.err, "unpack it yourself") {
		t.Errorf("alone: exit code %d, %s%s", r.code, r.out, r.err)
	}
	if r := finish(t, sluice(t, "models", "verify", dir, archive)); r.code != 0 || strings.Contains(r.out,
		"model.zip") {
		t.Errorf("beside a directory: exit code %d, %s%s", r.code, r.out, r.err)
	}
}

func TestHelpShowsFlagEnvironmentDefaultAndExample(t *testing.T) {
	for _, name := range []string{"", "run", "demo", "classify", "validate", "acls", "verify", "models",
		"models verify", "calibrate", "tune", "bench", "bench topics", "bench engine", "bench scale", "bench size",
		"health", "version"} {
		t.Run("sluice "+name, func(t *testing.T) {
			r := finish(t, sluice(t, append(strings.Fields(name), "--help")...))
			if r.code != 0 || r.err != "" {
				t.Fatalf("exit code %d, %s", r.code, r.err)
			}
			golden := filepath.Join("testdata", "help", strings.ReplaceAll("sluice "+name, " ", "-")+".txt")
			golden = strings.Replace(golden, "-.txt", ".txt", 1)
			if *update {
				if err := os.WriteFile(golden, []byte(r.out), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(string(want), r.out); d != "" {
				t.Errorf("the help has changed; if it is meant to, run go test -run Help -update ./cmd/sluice\n%s", d)
			}
		})
	}
}

func TestExitCodes(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "c.yaml")
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	write("c.yaml", minimal)
	wrong := write("wrong.yaml", minimal+"rotues: []\n")
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	for _, tc := range []struct {
		name string
		args []string
		code int
		says string // in standard error
	}{
		{"a command that is none", []string{"rnu"}, 2, `unknown command "rnu"`},
		{"a flag that is none", []string{"version", "--jsn"}, 2, "unknown flag: --jsn"},
		{"an argument too many", []string{"version", "now"}, 2, `unknown command "now"`},
		{"no configuration", []string{"run"}, 2, "give -c FILE (or SLUICE_CONFIG)"},
		{"a configuration that is not there", []string{"run", "-c", dir + "/none.yaml"}, 2, "none.yaml: cannot read " +
			"the configuration: no such file or directory"},
		{"a mistake in the configuration", []string{"validate", "-c", wrong}, 2, "wrong.yaml:9: rotues: unknown key; " +
			"did you mean routes?"},
		{"a flag's value", []string{"run", "-c", file, "--runners", "x"}, 2,
			`--runners: runners: "x" is not a whole number`},
		{"an address in use", []string{"run", "-c", file, "--server.listen", taken.Addr().String()}, 2,
			"is in use by another process"},
		{"no model for classify", []string{"classify"}, 2, "give a model directory with -m"},
		{"choices of classify", []string{"classify", "-m", "x", "--scores", "al", "--format", "jsn"}, 2,
			`"al" is not one of top, all; did you mean all?`},
		{"an input that is not there", []string{"classify", "-m", "x", dir + "/none"}, 2, "no such file"},
		{"no directory to verify", []string{"models", "verify"}, 2, "no model directory given"},
		{"a command of models that is none", []string{"models", "verfy"}, 2, "did you mean verify?"},
		{"a rate below zero", []string{"demo", "--rate", "-1"}, 2, "must not be negative"},
		{"no worker to ask", []string{"health", "--address", "127.0.0.1:1"}, 1, "no worker answers"},
		{"a demo without models", []string{"demo", "--models", dir}, 2, "there is no model directory in " + dir},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := finish(t, sluice(t, tc.args...))
			if r.code != tc.code || !strings.Contains(r.err, tc.says) {
				t.Errorf("exit code %d, want %d; standard error:\n%s\nwant in it: %s", r.code, tc.code, r.err, tc.says)
			}
		})
	}
}

func TestAFlagCanComeFromTheEnvironment(t *testing.T) {
	cmd := sluice(t, "run")
	cmd.Env = append(cmd.Env, "SLUICE_CONFIG=/none/of/this.yaml")
	if r := finish(t, cmd); r.code != 2 || !strings.Contains(r.err, "/none/of/this.yaml") {
		t.Errorf("%+v", r)
	}
	cmd = sluice(t, "demo")
	cmd.Env = append(cmd.Env, "SLUICE_DEMO_RATE=fast")
	if r := finish(t, cmd); r.code != 2 || !strings.Contains(r.err, "SLUICE_DEMO_RATE") {
		t.Errorf("%+v", r)
	}
}

func TestEveryFlagHasItsVariableDeclared(t *testing.T) {
	root, _ := newRoot(testProcess())
	declared := map[string]bool{envOnnx: true}
	var visit func(*cobra.Command)
	visit = func(c *cobra.Command) {
		c.Flags().VisitAll(func(f *pflag.Flag) {
			for _, env := range f.Annotations[annotationEnv] {
				if env != config.EnvName("server.listen") { // a configuration key, which health follows
					declared[env] = true
				}
			}
		})
		for _, sub := range c.Commands() {
			visit(sub)
		}
	}
	visit(root)
	if d := cmp.Diff(commandEnv, declared); d != "" {
		t.Error(d)
	}
}

func TestVersionNamesWhatAReportNeeds(t *testing.T) {
	needModel(t, "sentiment-tiny") // and with it ONNX Runtime
	r := finish(t, sluice(t, "version", "--json"))
	var p versionPage
	if err := json.Unmarshal([]byte(r.out), &p); err != nil {
		t.Fatalf("%v: %s", err, r.out)
	}
	if p.Sluice == "" || !strings.HasPrefix(p.Go, "go1.") || !regexp.MustCompile(`^1\.\d+\.\d+$`).MatchString(
		p.OnnxRuntime.Version) || len(p.OnnxRuntime.Providers) == 0 || p.CPU.Int8 == "" || p.CPUs < 1 {
		t.Errorf("%s", r.out)
	}
	if r := finish(t, sluice(t, "version")); !strings.Contains(r.out, "onnxruntime   "+p.OnnxRuntime.Version) {
		t.Errorf("%s", r.out)
	}
	cmd := sluice(t, "version")
	cmd.Env = append(cmd.Env, envOnnx+"=/no/such/library.so")
	if r := finish(t, cmd); r.code != 0 || !strings.Contains(r.out, "not usable") || !strings.Contains(r.out,
		"/no/such/library.so") {
		t.Errorf("%+v", r)
	}
}

func TestModelsVerifyTellsAChangedFile(t *testing.T) {
	dir := needModel(t, "sentiment-tiny")
	r := finish(t, sluice(t, "models", "verify", dir))
	if r.code != 0 || !regexp.MustCompile(`sentiment-tiny@[0-9a-f]{12} .* ok`).MatchString(r.out) {
		t.Fatalf("%+v", r)
	}
	changed := filepath.Join(t.TempDir(), "changed")
	if err := os.CopyFS(changed, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(filepath.Join(changed, "model.onnx"), os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte{0xff}, 5000); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	r = finish(t, sluice(t, "models", "verify", dir, changed))
	if r.code != 1 || !strings.Contains(r.out, "FAILED") || !strings.Contains(r.out, " ok") || !strings.Contains(r.err,
		"the file was changed") {
		t.Errorf("%+v", r)
	}
}

// ---- classify

func TestClassifyAnswersEveryLineInOrder(t *testing.T) {
	dir := needModel(t, "sentiment-tiny")
	cmd := sluice(t, "classify", "-m", dir, "-m", "other="+dir)
	cmd.Stdin = strings.NewReader("What a lovely day\n" + `{"n": 1.50, "text": "I hate this", "z": null}` +
		"\n{bad\n\n" + `{"text": 5}` + "\r\nthe last line has no end")
	r := finish(t, cmd)
	if r.code != 1 || !strings.Contains(r.err, "2 of 6 lines could not be judged") {
		t.Errorf("exit code %d, %s", r.code, r.err)
	}
	score := regexp.MustCompile(`"score":0\.\d+`)
	tag := regexp.MustCompile(`@[0-9a-f]{12}`)
	got := tag.ReplaceAllString(score.ReplaceAllString(r.out, `"score":S`), "@D")
	verdict := func(label string) string {
		return `"inference":{"sentiment-tiny":{"label":"` + label +
			`","score":S,"by":"model","model":"sentiment-tiny@D","revision":1},` +
			`"other":{"label":"` + label + `","score":S,"by":"model","model":"other@D","revision":1}}}`
	}
	lines := strings.Split(strings.TrimSuffix(got, "\n"), "\n")
	want := []string{
		`{"text":"What a lovely day",` + verdict("POSITIVE"),
		`{"n": 1.50, "text": "I hate this", "z": null,` + verdict("NEGATIVE"),
		`{"error":"the value is not valid JSON: invalid character 'b' looking for beginning of object key string, ` +
			`at byte 2 of 4","reason":"invalid-json","line":3}`,
		`{"text":"","inference":{"sentiment-tiny":null,"other":null,"reason":"empty"}}`,
		`{"error":"field \"text\" is a number, not a string","reason":"text-not-a-string","line":5}`,
	}
	if d := cmp.Diff(want, lines[:min(5, len(lines))]); d != "" {
		t.Error(d)
	}
	if len(lines) != 6 || !strings.HasPrefix(lines[5], `{"text":"the last line has no end",`) {
		t.Errorf("the last line: %q", lines[len(lines)-1])
	}
}

func TestClassifyAnswersWhileItsInputIsOpen(t *testing.T) {
	dir := needModel(t, "sentiment-tiny")
	cmd := sluice(t, "classify", "-m", dir)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	answers := bufio.NewScanner(out)
	for i := range 3 {
		fmt.Fprintf(in, "line %d\n", i)
		if !answers.Scan() || !strings.HasPrefix(answers.Text(), fmt.Sprintf(`{"text":"line %d",`, i)) {
			t.Fatalf("answer %d: %q", i, answers.Text())
		}
	}
	in.Close()
	if answers.Scan() {
		t.Errorf("one answer too many: %s", answers.Text())
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}

func TestClassifyKeepsTheOrderOfManyLines(t *testing.T) {
	dir := needModel(t, "sentiment-tiny")
	var in strings.Builder
	const n = 3000
	for i := range n {
		fmt.Fprintf(&in, `{"id":%d,"text":"%s"}`+"\n", i, strings.Repeat("word ", 1+i*7%40))
	}
	cmd := sluice(t, "classify", "-m", dir)
	cmd.Stdin = strings.NewReader(in.String())
	r := finish(t, cmd)
	lines := strings.Split(strings.TrimSuffix(r.out, "\n"), "\n")
	if r.code != 0 || len(lines) != n {
		t.Fatalf("exit code %d, %d answers, %s", r.code, len(lines), r.err)
	}
	for i, line := range lines {
		if !strings.HasPrefix(line, fmt.Sprintf(`{"id":%d,`, i)) || !strings.Contains(line,
			`"inference":{"sentiment-tiny":{"label"`) {
			t.Fatalf("answer %d: %.120s", i, line)
		}
	}
}

// ---- run

// cluster is a broker in this process with the topics of the minimal configuration.
func cluster(t *testing.T, topics ...string) (address string, c *kfake.Cluster) {
	t.Helper()
	c, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(3, topics...))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c.ListenAddrs()[0], c
}

func produce(t *testing.T, address string, values ...string) {
	t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(address), kgo.DefaultProduceTopic("customer_reviews"))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	for i, v := range values {
		r := &kgo.Record{Key: []byte(fmt.Sprint(i)), Value: []byte(v)}
		if err := client.ProduceSync(t.Context(), r).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
}

// consume waits for n committed records of topics.
func consume(t *testing.T, address string, n int, topics ...string) []*kgo.Record {
	t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(address), kgo.ConsumeTopics(topics...),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	var records []*kgo.Record
	for len(records) < n {
		f := client.PollFetches(ctx)
		if ctx.Err() != nil {
			t.Fatalf("%d of %d records after a minute", len(records), n)
		}
		f.EachRecord(func(r *kgo.Record) { records = append(records, r) })
	}
	return records
}

// runConfig is a configuration for a worker on a broker with one model.
func runConfig(t *testing.T, address, dir string) string {
	t.Helper()
	text := strings.NewReplacer("localhost:9092", address, "models/sentiment", dir, "group: reviews",
		"group: reviews\n  instance_id: w-0").Replace(minimal)
	file := filepath.Join(t.TempDir(), "reviews.yaml")
	if err := os.WriteFile(file, []byte(text+"server: {listen: \"127.0.0.1:0\"}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// runConfigBy is runConfig for a real broker, by one of its listeners, with parts replaced. The listener's principal is
// granted what `sluice acls` prints.
func runConfigBy(t *testing.T, b *pipelinetest.Broker, l *pipelinetest.Listener, dir string, replace ...string) string {
	t.Helper()
	config := runConfig(t, "localhost:9092", dir)
	editConfig(t, config, append(replace, "  brokers: [\"localhost:9092\"]\n", l.Settings(t, filepath.Dir(config)))...)
	grantPrinted(t, b, l, config)
	return config
}

// grantPrinted grants a listener's principal exactly what `sluice acls` prints for a configuration.
func grantPrinted(t *testing.T, b *pipelinetest.Broker, l *pipelinetest.Listener, config string) {
	t.Helper()
	if l.Principal == "" {
		return
	}
	r := finish(t, sluice(t, "acls", "-c", config, "--json"))
	var acls []kafka.ACL
	if err := json.Unmarshal([]byte(r.out), &acls); err != nil || len(acls) == 0 {
		t.Fatalf("acls: %+v: %v", r, err)
	}
	b.Grant(t, l.Principal, permissions(acls)...)
}

// grantVerify grants what `sluice verify` needs beyond that: it reads what a worker only writes, and how long that is
// kept.
func grantVerify(t *testing.T, b *pipelinetest.Broker, l *pipelinetest.Listener, outputs ...string) {
	t.Helper()
	if l.Principal == "" {
		return
	}
	for _, topic := range outputs {
		for _, operation := range []string{"Read", "DescribeConfigs"} {
			b.Grant(t, l.Principal, pipelinetest.Permission{Operation: operation, Resource: "Topic", Name: topic,
				Pattern: "literal"})
		}
	}
}

// status is what tests read of /status.
type status struct {
	Ready       bool
	Guarantee   string
	OnnxRuntime string
	Models      []worker.ModelPage
	Stage       *worker.StagePage
}

// workerProcess is a running `sluice run`.
type workerProcess struct {
	cmd  *exec.Cmd
	http string
	mu   sync.Mutex
	log  bytes.Buffer
	done chan error
}

func startWorker(t *testing.T, args ...string) *workerProcess {
	t.Helper()
	return startWorkerWith(t, nil, args...)
}

// startWorkerWith starts a worker with more of an environment.
func startWorkerWith(t *testing.T, env []string, args ...string) *workerProcess {
	t.Helper()
	cmd := sluice(t, append([]string{"run"}, args...)...)
	cmd.Env = append(cmd.Env, env...)
	return startCommand(t, cmd)
}

// startCommand starts a worker by its command line and waits for its address.
func startCommand(t *testing.T, cmd *exec.Cmd) *workerProcess {
	t.Helper()
	w := &workerProcess{cmd: cmd, done: make(chan error, 1)}
	stderr, err := w.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := w.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.cmd.Process.Kill() })
	address := make(chan string, 1)
	go func() {
		serving := regexp.MustCompile(`serving .*address(?:=|":\s*")([0-9.:]+)`)
		for sc := bufio.NewScanner(stderr); sc.Scan(); {
			w.mu.Lock()
			w.log.WriteString(sc.Text() + "\n")
			w.mu.Unlock()
			if m := serving.FindStringSubmatch(sc.Text()); m != nil {
				address <- m[1]
			}
		}
		w.done <- w.cmd.Wait()
	}()
	select {
	case a := <-address:
		w.http = "http://" + a
	case err := <-w.done:
		t.Fatalf("the worker ended: %v\n%s", err, w.logs())
	case <-time.After(30 * time.Second):
		t.Fatalf("no address after 30 s\n%s", w.logs())
	}
	return w
}

func (w *workerProcess) logs() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.log.String()
}

func (w *workerProcess) get(t *testing.T, path string) (int, string) {
	t.Helper()
	r, err := http.Get(w.http + path)
	if err != nil {
		t.Fatalf("%v\n%s", err, w.logs())
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return r.StatusCode, string(b)
}

// waitReady waits until /readyz says so.
func (w *workerProcess) waitReady(t *testing.T) {
	t.Helper()
	why := ""
	for deadline := time.Now().Add(60 * time.Second); time.Now().Before(deadline); {
		var code int
		if code, why = w.get(t, "/readyz"); code == http.StatusOK {
			return
		}
		select {
		case err := <-w.done:
			t.Fatalf("the worker ended: %v\n%s", err, w.logs())
		case <-time.After(20 * time.Millisecond):
		}
	}
	t.Fatalf("not ready after a minute: %s\n%s", why, w.logs())
}

// exit is the exit code, waited for.
func (w *workerProcess) exit(t *testing.T) int {
	t.Helper()
	select {
	case <-w.done:
		return w.cmd.ProcessState.ExitCode()
	case <-time.After(60 * time.Second):
		t.Fatalf("still there after a minute\n%s", w.logs())
		return -1
	}
}

func TestRunFromTopicToTopic(t *testing.T) {
	dir := needModel(t, "sentiment-tiny")
	address, _ := cluster(t, "customer_reviews", "review_analysis", "review_dlq")
	file := runConfig(t, address, dir)

	r := finish(t, sluice(t, "validate", "-c", file))
	if r.code != 0 || !strings.Contains(r.out, "topics and permissions of group reviews") {
		t.Fatalf("validate: %+v", r)
	}
	produce(t, address, `{"id":1,"text":"What a lovely day"}`, `{"id":2}`,
		`{"id":3,"text":"secret-payload is terrible"}`, "not json")
	w := startWorker(t, "-c", file, "--log.format=json", "--log.level=debug")
	w.waitReady(t)
	results := consume(t, address, 2, "review_analysis")
	dead := consume(t, address, 2, "review_dlq")
	for _, r := range results {
		if !strings.Contains(string(r.Value), `"inference":{"sentiment":{"label":`) {
			t.Errorf("result: %s", r.Value)
		}
	}
	for _, r := range dead {
		if !strings.Contains(fmt.Sprint(r.Headers), "sluice.error.reason") {
			t.Errorf("dead letter: %v", r.Headers)
		}
	}

	if code, body := w.get(t, "/healthz"); code != 200 || body != "ok\n" {
		t.Errorf("/healthz: %d %s", code, body)
	}
	if r := finish(t, sluice(t, "health", "--address", strings.TrimPrefix(w.http, "http://"))); r.code != 0 ||
		r.out != "ready\n" {
		t.Errorf("health: %+v", r)
	}
	_, body := w.get(t, "/metrics")
	for _, want := range []string{`sluice_records_total{outcome="result"} 2`,
		`sluice_records_total{outcome="dead_letter"} 2`, "sluice_model_info{", "go_goroutines",
		"process_resident_memory_bytes"} {
		if !strings.Contains(body, want) {
			t.Errorf("/metrics lacks %s", want)
		}
	}
	_, body = w.get(t, "/status")
	var page status
	if err := json.Unmarshal([]byte(body), &page); err != nil {
		t.Fatal(err)
	}
	if !page.Ready || page.Stage == nil || len(page.Stage.Partitions) != 3 || len(page.Models) != 1 ||
		len(page.Stage.Rates.Outcomes) != 2 ||
		len(page.Models[0].Digest) != 64 || page.Models[0].Provider != "cpu" || page.Guarantee != "exactly-once" {
		t.Errorf("/status: %s", body)
	}

	w.cmd.Process.Signal(syscall.SIGTERM)
	if code := w.exit(t); code != 0 {
		t.Errorf("exit code %d after SIGTERM\n%s", code, w.logs())
	}
	if strings.Contains(w.logs(), "secret-payload") {
		t.Errorf("a payload in the log:\n%s", w.logs())
	}
	if !strings.Contains(w.logs(), "stopped") {
		t.Errorf("nothing about the stop in the log:\n%s", w.logs())
	}
}

func TestASecondSignalEndsAtOnce(t *testing.T) {
	dir := needModel(t, "sentiment-tiny")
	address, c := cluster(t, "customer_reviews", "review_analysis", "review_dlq")
	w := startWorker(t, "-c", runConfig(t, address, dir), "--grace=10m")
	w.waitReady(t)
	held := make(chan struct{}, 1)
	c.ControlKey(int16(kmsg.EndTxn), func(kmsg.Request) (kmsg.Response, error, bool) { // a commit that never ends
		c.KeepControl()
		select {
		case held <- struct{}{}:
		default:
		}
		r := kmsg.NewPtrEndTxnResponse()
		r.ErrorCode = 51 // CONCURRENT_TRANSACTIONS
		return r, nil, true
	})
	produce(t, address, `{"id":1,"text":"What a lovely day"}`)
	<-held
	w.cmd.Process.Signal(syscall.SIGTERM)
	for deadline := time.Now().Add(30 * time.Second); ; {
		if code, why := w.get(t, "/readyz"); code == http.StatusServiceUnavailable && strings.Contains(why,
			"stopping") {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("not stopping\n%s", w.logs())
		}
		select {
		case err := <-w.done:
			t.Fatalf("ended at the first signal: %v\n%s", err, w.logs())
		case <-time.After(10 * time.Millisecond):
		}
	}
	// Within half a second of the first it is the same wish, delivered twice: go on asking.
	stop := make(chan struct{})
	defer close(stop)
	go func() {
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				w.cmd.Process.Signal(syscall.SIGTERM)
			case <-stop:
				return
			}
		}
	}()
	if code := w.exit(t); code != 1 || !strings.Contains(w.logs(), "second signal") {
		t.Errorf("exit code %d\n%s", code, w.logs())
	}
}

// editConfig replaces parts of a configuration file.
func editConfig(t *testing.T, file string, replace ...string) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	edited := strings.NewReplacer(replace...).Replace(string(text))
	if edited == string(text) {
		t.Fatalf("nothing to replace in\n%s", text)
	}
	if err := os.WriteFile(file, []byte(edited), 0o600); err != nil {
		t.Fatal(err)
	}
}

// The engine's options together, as a user sees them: a sure student decides, the full model the rest, the cache
// repeats, and what is urgent is counted.
func TestStudentCacheAndUrgentRecords(t *testing.T) {
	dir := needModel(t, "sentiment")
	address, _ := cluster(t, "customer_reviews", "review_analysis", "review_dlq")
	file := runConfig(t, address, dir)
	editConfig(t, file, "name: sentiment,", "name: sentiment, student: "+needModel(t,
		"sentiment-tiny")+", student_threshold: 0.9,",
		"server:", "cache: {max_bytes: 1MiB}\nurgent: {when: 'field(\"vip\") == true'}\nserver:")
	if r := finish(t, sluice(t, "validate", "-c", file)); r.code != 0 || !strings.Contains(r.out,
		"ok       model sentiment-student: sentiment-student@") {
		t.Fatalf("validate: %+v", r)
	}
	w := startWorker(t, "-c", file)
	w.waitReady(t)
	routes := func(want int) map[string]string { // by id
		out := map[string]string{}
		for _, r := range consume(t, address, want, "review_analysis") {
			var v struct {
				ID        int
				Inference struct {
					Sentiment struct{ Label, By, Model string }
				}
			}
			if err := json.Unmarshal(r.Value, &v); err != nil {
				t.Fatalf("%s: %v", r.Value, err)
			}
			tag, _, _ := strings.Cut(v.Inference.Sentiment.Model, "@")
			out[strconv.Itoa(v.ID)] = v.Inference.Sentiment.Label + " " + v.Inference.Sentiment.By + " " + tag
		}
		return out
	}
	produce(t, address, `{"id":1,"text":"What a wonderful, charming and moving film!","vip":true}`,
		`{"id":2,"text":"The film is a film, more or less, somewhat not."}`)
	first := routes(2)
	if first["1"] != "POSITIVE student sentiment-student" || !strings.HasSuffix(first["2"], " model sentiment") {
		t.Fatalf("a clear and an unclear text went %v", first)
	}
	produce(t, address, `{"id":3,"text":"What a wonderful, charming and moving film!"}`,
		`{"id":4,"text":"The film is a film, more or less, somewhat not."}`)
	second := routes(4)
	if second["3"] != "POSITIVE cache sentiment-student" || second["4"] != strings.Replace(first["2"], "model ",
		"cache ", 1) {
		t.Errorf("the same texts again went %v", second)
	}
	_, metrics := w.get(t, "/metrics")
	for _, want := range []string{
		`sluice_student_verdicts_total{model="sentiment",result="final"} 2`,
		`sluice_student_verdicts_total{model="sentiment",result="unsure"} 2`,
		`sluice_cache_hits_total{model="sentiment"} 1`, `sluice_cache_hits_total{model="sentiment-student"} 2`,
		"sluice_urgent_records_total 1", "sluice_cache_bytes ",
	} {
		if !strings.Contains(metrics, want) {
			t.Errorf("/metrics does not have %s", want)
		}
	}
	_, body := w.get(t, "/status")
	var page status
	if err := json.Unmarshal([]byte(body), &page); err != nil {
		t.Fatal(err)
	}
	for _, m := range page.Models {
		if m.BatchTokens < 32 || len(m.BatchMeasured) < 5 {
			t.Errorf("/status: model %s has a token budget of %d, measured %v", m.Name, m.BatchTokens, m.BatchMeasured)
		}
	}
}

// Of entities the least sure token decides. A model may be its own student, so that only the routes differ.
func TestAStudentOfEntitiesIsAskedFirst(t *testing.T) {
	dir := needModel(t, "ner")
	address, _ := cluster(t, "customer_reviews", "review_analysis", "review_dlq")
	file := runConfig(t, address, dir)
	small := filepath.Join(t.TempDir(), "small")
	if err := os.Symlink(dir, small); err != nil {
		t.Fatal(err)
	}
	editConfig(t, file, "name: sentiment,", "name: sentiment, student: "+small+", student_threshold: 0.9,")
	w := startWorker(t, "-c", file)
	w.waitReady(t)
	produce(t, address, `{"id":1,"text":"The committee will meet again."}`,
		`{"id":2,"text":"Fischler Bonn EU Fischer Hendrix Rare"}`)
	got := map[int]string{}
	for _, r := range consume(t, address, 2, "review_analysis") {
		var v struct {
			ID        int
			Inference struct {
				Sentiment struct {
					By, Model string
					Entities  []struct{ Word string }
				}
			}
		}
		if err := json.Unmarshal(r.Value, &v); err != nil {
			t.Fatalf("%s: %v", r.Value, err)
		}
		tag, _, _ := strings.Cut(v.Inference.Sentiment.Model, "@")
		got[v.ID] = v.Inference.Sentiment.By + " " + tag
		if (len(v.Inference.Sentiment.Entities) > 0) != (v.ID == 2) {
			t.Errorf("record %d has the entities %v", v.ID, v.Inference.Sentiment.Entities)
		}
	}
	if got[1] != "student sentiment-student" || got[2] != "model sentiment" {
		t.Errorf("a clear and an unclear text went %v", got)
	}
	if _, metrics := w.get(t, "/metrics"); !strings.Contains(metrics,
		`sluice_student_verdicts_total{model="sentiment",result="unsure"} 1`) {
		t.Error("/metrics does not count the unsure text")
	}
}

func TestAStudentMustDecideTheSameQuestion(t *testing.T) {
	address, _ := cluster(t, "customer_reviews", "review_analysis", "review_dlq")
	for _, c := range []struct{ model, student, want string }{
		{"sentiment", "toxicity", "a student must have the same"},
		{"ner", "sentiment-tiny", "a student must have the same"},
		{"sentiment", "ner", "a student must have the same"},
		{"toxicity", "sentiment-tiny", "no single score says how sure a student is"},
	} {
		file := runConfig(t, address, needModel(t, c.model))
		editConfig(t, file, "name: sentiment,", "name: sentiment, student: "+needModel(t, c.student)+",")
		for _, command := range []string{"validate", "run"} {
			if r := finish(t, sluice(t, command, "-c", file)); r.code != 2 || !strings.Contains(r.out+r.err, c.want) {
				t.Errorf("%s of %s before %s: %+v", command, c.student, c.model, r)
			}
		}
	}
}

// On a real broker: the fake one lets the elder take back an epoch that is gone.
func TestATwinIsFencedWithCode3(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: no real broker")
	}
	dir := needModel(t, "sentiment-tiny")
	b := pipelinetest.Kafka(t)
	topics := []string{"twin_reviews", "twin_analysis", "twin_dlq"}
	if _, err := kadm.NewClient(b.Client(t)).CreateTopics(t.Context(), 3, 1, nil, topics...); err != nil {
		t.Fatal(err)
	}
	file := runConfig(t, b.Addrs()[0], dir)
	editConfig(t, file, "customer_reviews", topics[0], "review_analysis", topics[1], "review_dlq", topics[2],
		"group: reviews", "group: twin")
	first := startWorker(t, "-c", file)
	first.waitReady(t)
	second := startWorker(t, "-c", file)
	if code := first.exit(t); code != 3 {
		t.Errorf("exit code %d of the elder twin\n%s", code, first.logs())
	}
	second.waitReady(t)
	second.cmd.Process.Signal(syscall.SIGINT)
	if code := second.exit(t); code != 0 {
		t.Errorf("exit code %d of the younger twin\n%s", code, second.logs())
	}
}

func TestValidateNamesWhatIsMissing(t *testing.T) {
	dir := needModel(t, "sentiment-tiny")
	address, _ := cluster(t, "customer_reviews", "review_analysis")
	file := runConfig(t, address, dir)
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	more := strings.Replace(string(text), "}\noutput", "}\n  - {name: gone, path: /no/such/model}\noutput", 1)
	if err := os.WriteFile(file, []byte(more), 0o600); err != nil {
		t.Fatal(err)
	}
	r := finish(t, sluice(t, "validate", "-c", file))
	for _, want := range []string{"ok       model sentiment", file + ":8: models[1] (gone)", "/no/such/model",
		"review_dlq"} {
		if !strings.Contains(r.out, want) {
			t.Errorf("validate does not say %q:\n%s%s", want, r.out, r.err)
		}
	}
	if r.code != 2 {
		t.Errorf("exit code %d", r.code)
	}
	r = finish(t, sluice(t, "run", "-c", file))
	if r.code != 2 || !strings.Contains(r.err, "/no/such/model") {
		t.Errorf("run: %+v", r)
	}
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	r = finish(t, sluice(t, "run", "-c", file))
	if r.code != 2 || !strings.Contains(r.err, "review_dlq") {
		t.Errorf("run without the dead letter topic: %+v", r)
	}
}

func TestDemoJudgesEveryRecordOnce(t *testing.T) {
	models := t.TempDir()
	if err := os.Symlink(needModel(t, "sentiment-tiny"), filepath.Join(models, "sentiment")); err != nil {
		t.Fatal(err)
	}
	r := finish(t, sluice(t, "demo", "--models", models, "--records", "200", "--rate", "0"))
	if r.code != 0 || !strings.Contains(r.out, "200 records in, 200 results and 0 dead letters out, 0 of them twice") ||
		!strings.Contains(r.out, "every record has exactly one answer") {
		t.Fatalf("%+v", r)
	}
	rows := regexp.MustCompile(`(?m)^[0-2]/\d+  (POSITIVE|NEGATIVE) [01]\.\d{4}  -  model  .+$`).FindAllString(r.out,
		-1)
	if len(rows) != 200 {
		t.Errorf("%d rows:\n%s", len(rows), r.out)
	}
}
