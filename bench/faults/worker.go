package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"sluice/cmd/sluice/load"
	"sluice/pipeline"
)

// This file owns workers: processes of `sluice run`, each with a supervisor that starts it again when it ends, as
// Kubernetes would. Nothing else ever helps a worker.

// pauseAfter is how long a supervisor waits before it starts an ended worker again; after a twin took over (exit code
// 3) much longer, as docs/OPERATIONS.md asks.
const (
	pauseAfter       = 200 * time.Millisecond
	pauseAfterFenced = 5 * time.Second
	exitFenced       = 3
)

type worker struct {
	name string
	args []string

	binary string
	ended  chan struct{} // closed when the supervisor is done
	log    journal

	mu      sync.Mutex
	points  string // FAILPOINT of the next start
	process *os.Process
	done    chan struct{} // of the process
	stopped bool
	sent    []syscall.Signal // by the harness, to the present process
	exits   []int            // codes of ended processes, -1 after a signal
	own     []ending
	starts  int
}

// ending is the end of a process that the harness did not bring about: neither a signal of its own nor a failpoint was
// to end it.
type ending struct {
	how  string // exit 1, or the signal that ended it
	said string // the last error in the process's log
}

// how tells in the words of the table how a process ended.
func how(s syscall.WaitStatus) string {
	if s.Signaled() {
		return unix.SignalName(s.Signal())
	}
	return fmt.Sprint("exit ", s.ExitStatus())
}

// asked says whether a process ended as the harness's signals ask for: by that signal, or with exit code 0 after
// SIGTERM.
func asked(s syscall.WaitStatus, sent []syscall.Signal) bool {
	if s.Signaled() {
		return slices.Contains(sent, s.Signal())
	}
	return s.ExitStatus() == 0 && slices.Contains(sent, syscall.SIGTERM)
}

// supervise starts a worker.
func supervise(binary, name string, args []string) *worker {
	w := &worker{name: name, args: args, binary: binary, ended: make(chan struct{})}
	first := make(chan struct{})
	go func() {
		// The kernel ends the child with the thread that forked it, so that no worker outlives the harness.
		runtime.LockOSThread()
		defer close(w.ended)
		for i := 0; ; i++ {
			code, again := w.live(func() {
				if i == 0 {
					close(first)
				}
			})
			if !again {
				return
			}
			pause := pauseAfter
			if code == exitFenced {
				pause = pauseAfterFenced
			}
			time.Sleep(pause)
		}
	}()
	<-first
	return w
}

// live is one process from start to end.
func (w *worker) live(started func()) (code int, again bool) {
	cmd := exec.Command(w.binary, w.args...)
	cmd.Stderr = &w.log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	w.mu.Lock()
	if w.stopped {
		w.mu.Unlock()
		started()
		return 0, false
	}
	w.log.begin()
	cmd.Env = append(os.Environ(), "FAILPOINT="+w.points)
	err := cmd.Start()
	if err == nil {
		w.process, w.done, w.sent = cmd.Process, make(chan struct{}), nil
		w.starts++
	}
	done := w.done
	w.mu.Unlock()
	started()
	if err != nil {
		fmt.Fprintf(&w.log, "starting: %v\n", err)
		return -1, true
	}
	err = cmd.Wait()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		code = exit.ExitCode()
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.process = nil
	w.exits = append(w.exits, code)
	said, deadly := w.log.last()
	if s := cmd.ProcessState.Sys().(syscall.WaitStatus); !asked(s, w.sent) && !(deadly && s.Signaled() &&
		s.Signal() == syscall.SIGKILL) {
		w.own = append(w.own, ending{how(s), said})
	}
	close(done)
	return code, !w.stopped
}

// signal sends a signal to the present process. false: there is none.
func (w *worker) signal(s syscall.Signal) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.process == nil {
		return false
	}
	w.sent = append(w.sent, s)
	return w.process.Signal(s) == nil
}

// arm says what the next start does at failpoints.
func (w *worker) arm(points string) {
	w.mu.Lock()
	w.points = points
	w.mu.Unlock()
}

// endsWithin is how long a worker may take to end after SIGTERM: twice what Kubernetes grants. One that takes longer is
// killed, and its exit code shows it.
const endsWithin = time.Minute

// end sends a signal and waits until the process has ended.
func (w *worker) end(s syscall.Signal) {
	w.mu.Lock()
	done, alive := w.done, w.process != nil
	w.mu.Unlock()
	if !alive {
		return
	}
	w.signal(s)
	select {
	case <-done:
	case <-time.After(endsWithin):
		w.signal(syscall.SIGKILL)
		<-done
	}
}

// stop ends the worker for good.
func (w *worker) stop(s syscall.Signal) {
	w.mu.Lock()
	w.stopped = true
	w.mu.Unlock()
	w.signal(syscall.SIGCONT)
	w.signal(s)
	<-w.ended
}

func (w *worker) counts() (starts int, exits []int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.starts, slices.Clone(w.exits)
}

// endings are the ends that the harness did not bring about.
func (w *worker) endings() []ending {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.own)
}

// ready asks /readyz; the error says why not.
func (w *worker) ready() error {
	_, err := w.get("/readyz")
	return err
}

var httpClient = &http.Client{Timeout: 3 * time.Second}

func (w *worker) get(path string) ([]byte, error) {
	at := w.log.address()
	if at == "" {
		return nil, fmt.Errorf("%s does not serve yet", w.name)
	}
	r, err := httpClient.Get("http://" + at + path)
	if err != nil {
		return nil, err
	}
	defer r.Body.Close()
	b, err := io.ReadAll(io.LimitReader(r.Body, 4<<20))
	if err == nil && r.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s: %s", w.name, r.Status, bytes.TrimSpace(b))
	}
	return b, err
}

// metrics are the worker's figures, each summed over its labels.
func (w *worker) metrics() (load.Reading, error) {
	page, err := w.get("/metrics")
	if err != nil {
		return nil, err
	}
	return load.ReadMetrics(bytes.NewReader(page))
}

// await waits until the worker is ready.
func (w *worker) await(ctx context.Context) error {
	before, _ := w.counts()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	return await(ctx, 90*time.Second, w.name+" to be ready", func() error {
		if n, exits := w.counts(); n > before+20 {
			cancel()
			return fmt.Errorf("it ended %d times, with %v", n-before, exits[len(exits)-3:])
		}
		return w.ready()
	})
}

// journal is what a worker logs: the end of it, where it serves, which failpoints it met, and what its present process
// complained of.
type journal struct {
	mu     sync.Mutex
	tail   []byte
	part   []byte // of a line
	at     string
	points map[string]int
	line   string // the last of the process
	fault  string // the last line of the process that tells of an error
	deadly bool   // the process met a failpoint that ends it
}

const journalBytes = 128 << 10

var (
	failpointLine = regexp.MustCompile(`^failpoint (\S+) (kill|pause|panic|hang)$`)
	faultLine     = regexp.MustCompile(`^(?:sluice|panic|fatal error): |^terminate called|level=ERROR`)
)

func (j *journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.tail = append(j.tail, p...); len(j.tail) > 2*journalBytes {
		j.tail = append(j.tail[:0], j.tail[len(j.tail)-journalBytes:]...)
	}
	j.part = append(j.part, p...)
	for {
		n, line, err := bufio.ScanLines(j.part, false)
		if n == 0 || err != nil {
			return len(p), nil
		}
		if j.at == "" {
			j.at = load.ServesAt(line)
		}
		if m := failpointLine.FindSubmatch(line); m != nil {
			if j.points == nil {
				j.points = map[string]int{}
			}
			j.points[string(m[1])]++
			j.deadly = j.deadly || string(m[2]) == "kill"
		}
		if j.line = string(line); faultLine.Match(line) {
			j.fault = j.line
		}
		j.part = j.part[n:]
	}
}

// begin is the start of a new process.
func (j *journal) begin() {
	j.mu.Lock()
	j.at, j.part, j.line, j.fault, j.deadly = "", nil, "", "", false
	j.mu.Unlock()
}

// last is the last error that the present process logged, or its last line if there is none, and whether a failpoint
// was to end it.
func (j *journal) last() (said string, deadly bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.fault != "" {
		return j.fault, j.deadly
	}
	return j.line, j.deadly
}

func (j *journal) address() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.at
}

func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return string(j.tail)
}

func (j *journal) met() map[string]int {
	j.mu.Lock()
	defer j.mu.Unlock()
	all := map[string]int{}
	for name, n := range j.points {
		all[name] = n
	}
	return all
}

// writeConfig writes a worker's configuration and returns the arguments to run it with.
func (r *run) writeConfig(name string) ([]string, error) {
	model, err := filepath.Abs(r.o.model)
	if err != nil {
		return nil, err
	}
	quoted := make([]string, r.c.size)
	for i, a := range r.c.proxy.Addresses() {
		quoted[i] = strconv.Quote(a)
	}
	yaml := fmt.Sprintf("kafka: {brokers: [%s], group: %q, instance_id: %q}\ninput: {topics: [%q]}\nmodels:\n  - "+
		"{name: sentiment, path: %q}\n"+
		"output: {topic: %q}\ndead_letter: {topic: %q}\nserver: {listen: \"127.0.0.1:0\"}\n",
		strings.Join(quoted, ", "), r.group, name, r.in, model, r.out, r.dlq) + r.furtherConfig()
	file := filepath.Join(r.dir, name+".yaml")
	if err := os.WriteFile(file, []byte(yaml), 0o600); err != nil {
		return nil, err
	}
	return append([]string{"run", "-c", file, "--runners=1", "--batch_tokens=256", "--kafka.session_timeout=10s",
		"--kafka.rebalance_timeout=6s",
		"--kafka.transaction_timeout=10s", "--kafka.commit_interval=50ms", "--kafka.fetch.max_wait=200ms"},
		r.s.args...), nil
}

// inFlightBound is how many records a worker holds at most, by default: its limit, and what the fetch brings that
// reaches it.
var inFlightBound = pipeline.DefaultLimits.TotalRecords + pipeline.DefaultLimits.PartitionRecords
