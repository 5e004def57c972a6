package kafka

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"sluice/pipeline"
	"sluice/pipeline/pipelinetest"
)

// The soak: two workers as processes of their own (Stage, Source and Sink as in the product, a trivial processor),
// killed with SIGKILL at random moments and at every named failpoint, frozen, and run twice under one name; then an
// independent reader's history is checked. The test binary runs itself as the worker.

// Exit codes of the worker, as the product's.
const (
	exitFailed = 1
	exitFenced = 3
)

// slowCopier takes a moment for each record, so that kills find work in flight.
type slowCopier struct{ topic string }

func (c slowCopier) Process(j *pipeline.Job) {
	go func() {
		time.Sleep(time.Duration(rand.IntN(3000)) * time.Microsecond) // the work itself, not a wait for something
		copier(c).Process(j)
	}()
}

// outsideTransactions is the negative control: a sink that publishes before it commits, without a transaction.
type outsideTransactions struct {
	*Client
	producer *kgo.Client
}

func (o *outsideTransactions) Commit(ctx context.Context, c *pipeline.Commit) error {
	for _, m := range c.Messages {
		r := &kgo.Record{Topic: m.Topic, Partition: m.Source.Partition, Key: m.Key, Value: m.Value}
		if err := o.producer.ProduceSync(ctx, r).FirstErr(); err != nil {
			return &pipeline.Fault{Kind: pipeline.Transient, Stage: "commit", Err: err}
		}
	}
	return o.Client.Commit(ctx, &pipeline.Commit{Offsets: c.Offsets})
}

// soakWorker is the main function of a worker process. It tells what happens on stdout, one event a line.
func soakWorker() int {
	env := os.Getenv
	cfg := DefaultConfig()
	var listener pipelinetest.Listener
	if err := json.Unmarshal([]byte(env("SOAK_LISTENER")), &listener); err != nil {
		fmt.Println("failed", err)
		return exitFailed
	}
	if err := secureBy(&cfg, &listener); err != nil {
		fmt.Println("failed", err)
		return exitFailed
	}
	cfg.Topics, cfg.Outputs, cfg.Group, cfg.InstanceID = []string{env("SOAK_IN")}, []string{env("SOAK_OUT")},
		env("SOAK_GROUP"), env("SLUICE_SOAK_WORKER")
	cfg.SessionTimeout, _ = time.ParseDuration(env("SOAK_SESSION"))
	cfg.RebalanceTimeout, cfg.TransactionTimeout, cfg.FetchMaxWait = 8*time.Second, 5*time.Second, 100*time.Millisecond
	cfg.FetchMaxBytes = 32 << 10 // several fetches, several transactions
	cfg.Logger = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelInfo}))
	var out sync.Mutex
	event := func(format string, args ...any) {
		out.Lock()
		defer out.Unlock()
		fmt.Printf(format+"\n", args...)
	}
	cfg.Observer.Rebalance = func(generation int32, partitions int) {
		event("generation %d %d", generation,
			partitions)
	}
	cfg.Observer.transaction = func(result string, _ time.Duration) { event("transaction %s", result) }
	cfg.Observer.Retry = func(step string, code int) { event("retry %s:%d", step, code) }
	point, after := env("SOAK_DIE_AT"), 0
	if at, n, ok := strings.Cut(point, ":"); ok {
		point = at
		after, _ = strconv.Atoi(n)
	}
	var passed atomic.Int64
	cfg.Failpoint = func(name string) {
		if name == point && passed.Add(1) > int64(after) {
			event("died %s", name)
			syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}
	}
	c, err := New(cfg)
	if err != nil {
		event("failed %v", err)
		return exitFailed
	}
	var sink pipeline.Sink = c
	if env("SOAK_BUG") != "" {
		p, err := kgo.NewClient(kgo.SeedBrokers(cfg.Brokers...), kgo.RecordPartitioner(kgo.ManualPartitioner()))
		if err != nil {
			event("failed %v", err)
			return exitFailed
		}
		sink = &outsideTransactions{c, p}
	}
	err = newStage(c, sink, slowCopier{cfg.Outputs[0]}).Run(context.Background(), c)
	event("ended %s %v", pipeline.KindOf(err), err)
	if pipeline.KindOf(err) == pipeline.Fenced {
		return exitFenced
	}
	return exitFailed
}

// soak is one run of workers over one pair of topics.
type soak struct {
	t              testing.TB
	broker         *pipelinetest.Broker
	listener       *pipelinetest.Listener
	in, out, group string
	session        time.Duration
	env            []string

	mu     sync.Mutex
	counts map[string]int
	logs   map[string]*bytes.Buffer
}

func newSoak(t testing.TB, partitions int, session time.Duration, env ...string) *soak {
	b, l := pipelinetest.TestListener(t)
	s := &soak{t: t, broker: b, listener: l, session: session, env: env, counts: map[string]int{},
		logs: map[string]*bytes.Buffer{}}
	s.in, s.out, s.group = topicNames(t)
	createTopics(t, s.broker.Addrs(), partitions, nil, s.in, s.out)
	realConfig(t, b, l, ExactlyOnce, s.in, s.out, s.group) // for its permissions
	t.Cleanup(func() {
		if t.Failed() || os.Getenv("SOAK_LOGS") != "" {
			s.mu.Lock()
			defer s.mu.Unlock()
			for name, b := range s.logs {
				tail := b.Bytes()
				t.Logf("log of %s (last 6 kB):\n%s", name, tail[max(0, len(tail)-6000):])
			}
		}
	})
	return s
}

// worker is a worker process.
type worker struct {
	cmd         *exec.Cmd
	done        chan struct{} // closed when it has ended
	generations chan int      // of every join
}

// start starts a worker. dieAt is a failpoint, or "failpoint:n" to pass it n times first.
func (s *soak) start(instance, dieAt string) *worker {
	cmd := exec.Command(os.Args[0])
	listener, err := json.Marshal(s.listener)
	if err != nil {
		s.t.Fatal(err)
	}
	cmd.Env = append(os.Environ(), "SLUICE_SOAK_WORKER="+instance, "SOAK_DIE_AT="+dieAt,
		"SOAK_LISTENER="+string(listener),
		"SOAK_IN="+s.in, "SOAK_OUT="+s.out, "SOAK_GROUP="+s.group, "SOAK_SESSION="+s.session.String())
	cmd.Env = append(cmd.Env, s.env...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		s.t.Fatal(err)
	}
	s.mu.Lock()
	if s.logs[instance] == nil {
		s.logs[instance] = &bytes.Buffer{}
	}
	cmd.Stderr = &lockedWriter{&s.mu, s.logs[instance]}
	s.mu.Unlock()
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	w := &worker{cmd: cmd, done: make(chan struct{}), generations: make(chan int, 1000)}
	go func() {
		defer close(w.done)
		for sc := bufio.NewScanner(out); sc.Scan(); {
			line := sc.Text()
			word, rest, _ := strings.Cut(line, " ")
			if word == "generation" {
				g, _, _ := strings.Cut(rest, " ")
				n, _ := strconv.Atoi(g)
				w.generations <- n
				line = word
			}
			if word == "ended" {
				kind, _, _ := strings.Cut(rest, " ")
				line = "ended " + kind
			}
			s.mu.Lock()
			s.counts[line]++
			s.mu.Unlock()
		}
		cmd.Wait()
	}()
	s.t.Cleanup(func() { w.kill() })
	return w
}

type lockedWriter struct {
	mu *sync.Mutex
	b  *bytes.Buffer
}

func (w *lockedWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.b.Write(p)
}

func (w *worker) kill() {
	w.cmd.Process.Signal(syscall.SIGKILL)
	<-w.done
}

func (s *soak) count(event string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.counts[event]
}

// sum adds up the counts of all events that begin with prefix.
func (s *soak) sum(prefix string) (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for e, k := range s.counts {
		if strings.HasPrefix(e, prefix) {
			n += k
		}
	}
	return n
}

// events lists what happened, most telling first.
func (s *soak) events() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []string
	for e, n := range s.counts {
		all = append(all, fmt.Sprintf("%s=%d", strings.ReplaceAll(e, " ", "-"), n))
	}
	slices.Sort(all)
	return strings.Join(all, " ")
}

// feed writes records 0..n-1 over about the given time, in the background, and closes the channel at the end.
func (s *soak) feed(partitions, n int, over time.Duration) <-chan struct{} {
	done := make(chan struct{})
	c := franz(s.t, s.broker.Addrs(), kgo.ProducerBatchMaxBytes(4000), kgo.ProducerLinger(2*time.Millisecond))
	pad := strings.Repeat("x", 200)
	go func() {
		defer close(done)
		tick := time.NewTicker(over / time.Duration(max(1, n/50)))
		defer tick.Stop()
		for i := range n {
			c.Produce(context.Background(), &kgo.Record{Topic: s.in, Partition: int32(i % partitions),
				Value: fmt.Appendf(nil, "%d %s", i, pad)}, func(_ *kgo.Record, err error) {
				if err != nil {
					s.t.Error(err)
				}
			})
			if i%50 == 49 {
				<-tick.C
			}
		}
		c.Flush(context.Background())
	}()
	return done
}

// TestSoakExactlyOnce is the proof of P1 and P2: at least 30 SIGKILLs of two workers, at random moments and at each
// failpoint; nothing lost, nothing doubled, order kept.
func TestSoakExactlyOnce(t *testing.T) {
	if testing.Short() {
		t.Skip("SKIPPED, NOT TESTED: the soak takes two minutes; run without -short")
	}
	const partitions, records, kills = 6, 12000, 44
	s := newSoak(t, partitions, 6*time.Second)
	fed := s.feed(partitions, records, 60*time.Second)
	report := s.chaos(partitions, records, chaosPlan(kills), fed)
	t.Log(s.events())
	if !report.Clean() {
		t.Errorf("read_committed: %v", report)
	}
	if n := s.sum("died ") + s.count("killed"); n < 30 { // a worker that a twin has fenced ends by itself
		t.Errorf("only %d kills", n)
	}
	for _, f := range Failpoints {
		if s.count("died "+f) == 0 {
			t.Errorf("no worker died at failpoint %s", f)
		}
	}
	// Copies that were written and aborted prove that kills hit inside transactions.
	all := readAll(t, s.broker.Addrs(), s.out, kgo.ReadUncommitted())
	t.Logf("read_uncommitted sees %d messages for %d records", len(all), records)
	if len(all) <= records {
		t.Error("no aborted message was ever written: the kills proved nothing")
	}
	// Once more through Java's own reader.
	client, bootstrap := s.broker.JavaClient(t)
	java := s.broker.Do(t, "tool", "org.apache.kafka.tools.consumer.ConsoleConsumer", "--bootstrap-server", bootstrap,
		"--command-config", client, "--topic", s.out,
		"--from-beginning", "--isolation-level", "read_committed", "--timeout-ms", "6000")
	lines := map[string]bool{}
	n := 0
	for line := range strings.Lines(java) {
		if id, _, ok := strings.Cut(line, " "); ok {
			n++
			lines[id] = true
		}
	}
	t.Logf("Java's ConsoleConsumer sees %d messages, %d of them distinct", n, len(lines))
	if n != records || len(lines) != records {
		t.Errorf("Java's ConsoleConsumer sees %d messages, %d distinct; want %d", n, len(lines), records)
	}
}

// TestSoakSeesDuplicates is the negative control: with a sink that publishes outside the transaction the same chaos and
// the same checker must find duplicates.
func TestSoakSeesDuplicates(t *testing.T) {
	if testing.Short() {
		t.Skip("SKIPPED, NOT TESTED: run without -short")
	}
	if os.Getenv(pipelinetest.ListenerVariable) != "" {
		t.Skip("the sink that must double records is a plaintext client of its own: it tests the checker, not a worker")
	}
	const partitions, records = 2, 1500
	s := newSoak(t, partitions, 6*time.Second, "SOAK_BUG=1")
	fed := s.feed(partitions, records, 5*time.Second)
	// Between the messages and the offsets, with some commits before: the one moment at which such a sink must double.
	var plan []string
	for i := range 6 {
		plan = append(plan, fmt.Sprintf("before-commit:%d", 2+i%3))
	}
	report := s.chaos(partitions, records, plan, fed)
	t.Log(s.events(), report)
	if report.Doubled == 0 || report.Lost != 0 {
		t.Errorf("the checker finds %v; a sink without transactions must double records and lose none", report)
	}
}

// chaosPlan is where workers die: every failpoint comes round, on both workers; in between deaths at a random moment
// ("").
func chaosPlan(kills int) []string {
	var plan []string
	for i := range kills {
		switch {
		case i%3 == 2:
			plan = append(plan, "")
		default:
			f := Failpoints[(i-i/3)%len(Failpoints)]
			if strings.HasPrefix(f, "after-init") || f == "after-scrub" || f == "while-joining" || f == "after-join" {
				plan = append(plan, f)
			} else {
				plan = append(plan, fmt.Sprintf("%s:%d", f, rand.IntN(4)))
			}
		}
	}
	return plan
}

// chaos runs two workers until everything is committed, killing them as planned, and returns what a read_committed
// reader sees.
func (s *soak) chaos(partitions, records int, plan []string, fed <-chan struct{}) pipelinetest.Report {
	t := s.t
	deadline := time.Now().Add(4 * time.Minute)
	var mu sync.Mutex
	next := func() (string, bool) {
		mu.Lock()
		defer mu.Unlock()
		if len(plan) == 0 {
			return "", false
		}
		p := plan[0]
		plan = plan[1:]
		return p, true
	}
	var wg sync.WaitGroup
	var random, frozen, twins atomic.Int64
	last := make([]*worker, 2)
	for i := range last {
		wg.Go(func() {
			instance := fmt.Sprintf("pod-%d", i)
			for round := 0; ; round++ {
				die, more := next()
				w := s.start(instance, die)
				if !more {
					last[i] = w
					return
				}
				limit := 6 * time.Second // a failpoint that is not reached: the other worker has all the work
				if die == "" {
					limit = time.Duration(300+rand.IntN(1200)) * time.Millisecond
					switch rand.IntN(4) {
					case 0: // frozen, for longer than the transaction and the session live; then a zombie for a moment
						frozen.Add(1)
						asleep := s.session + time.Duration(rand.IntN(2000))*time.Millisecond
						time.AfterFunc(limit, func() { w.cmd.Process.Signal(syscall.SIGSTOP) })
						time.AfterFunc(limit+asleep, func() { w.cmd.Process.Signal(syscall.SIGCONT) })
						limit += asleep + 700*time.Millisecond
					case 1: // a twin under the same name
						twins.Add(1)
						twin := s.start(instance, "")
						time.AfterFunc(limit, func() { twin.cmd.Process.Signal(syscall.SIGKILL) })
					}
				}
				select {
				case <-w.done:
				case <-time.After(limit):
					random.Add(1)
					w.kill()
				}
				if round%6 == 5 {
					// away for longer than the session: the other takes over
					time.Sleep(s.session + 500*time.Millisecond)
				}
			}
		})
	}
	wg.Wait()
	<-fed
	awaitCommitted(t, s.broker.Addrs(), s.group, int64(records))
	if time.Now().After(deadline) {
		t.Errorf("the soak took longer than planned")
	}
	for _, w := range last {
		w.kill()
	}
	t.Logf("deaths at failpoints: %d, at random: %d, frozen: %d, twins: %d", s.sum("died "), random.Load(),
		frozen.Load(), twins.Load())
	s.mu.Lock()
	s.counts["killed"] = int(random.Load())
	s.mu.Unlock()
	return history(readAll(t, s.broker.Addrs(), s.out, kgo.ReadCommitted()), partitions).Check(records)
}

var errNoExit = errors.New("the process does not end")

// exit waits for the end of a worker and returns its exit code, -1 after a signal.
func (w *worker) exit(d time.Duration) (int, error) {
	select {
	case <-w.done:
		return w.cmd.ProcessState.ExitCode(), nil
	case <-time.After(d):
		return 0, errNoExit
	}
}

// generation waits for the next join of a worker.
func (w *worker) generation(t testing.TB) int {
	t.Helper()
	select {
	case g := <-w.generations:
		return g
	case <-w.done:
		t.Fatal("the worker has ended")
	case <-time.After(30 * time.Second):
		t.Fatal("the worker does not join")
	}
	return 0
}

// TestRestartCausesNoRebalance is the proof of P10.
func TestRestartCausesNoRebalance(t *testing.T) {
	s := newSoak(t, 4, 20*time.Second)
	a := s.start("pod-a", "")
	a.generation(t)
	b := s.start("pod-b", "")
	settled := b.generation(t)
	if g := a.generation(t); g != settled {
		t.Fatalf("generations %d and %d", g, settled)
	}
	for i, name := range []string{"pod-a", "pod-b"} { // the leader, then the follower
		w := []*worker{a, b}[i]
		w.kill()
		w = s.start(name, "")
		if g := w.generation(t); g != settled {
			t.Errorf("%s is back in generation %d, was in %d", name, g, settled)
		}
		if i == 0 {
			a = w
		} else {
			b = w
		}
	}
	<-s.feed(4, 400, 100*time.Millisecond)
	awaitCommitted(t, s.broker.Addrs(), s.group, 400)
	for _, w := range []*worker{a, b} {
		select {
		case g := <-w.generations:
			t.Errorf("a worker joined generation %d: a restart within the session timeout caused a rebalance", g)
		default:
		}
	}
	if n := s.count("generation"); n != 5 {
		t.Errorf("%d joins; want 3 at the start and 2 for the restarts", n)
	}
}

// TestTwinIsFenced: two processes with one instance id; the older one must end, with its own exit code.
func TestTwinIsFenced(t *testing.T) {
	s := newSoak(t, 2, 10*time.Second)
	old := s.start("pod-0", "")
	old.generation(t)
	young := s.start("pod-0", "")
	young.generation(t)
	<-s.feed(2, 200, 50*time.Millisecond)
	code, err := old.exit(30 * time.Second)
	if err != nil || code != exitFenced {
		t.Errorf("the older process: exit code %d, %v; want %d", code, err, exitFenced)
	}
	awaitCommitted(t, s.broker.Addrs(), s.group, 200)
	select {
	case <-young.done:
		t.Error("the younger process has ended, too")
	default:
	}
	if r := history(readAll(t, s.broker.Addrs(), s.out, kgo.ReadCommitted()), 2).Check(200); !r.Clean() {
		t.Error(r)
	}
}
