package load

import (
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
	"sync"
	"syscall"
	"time"
)

// This file starts `sluice run` as a process of its own, so that its CPU time and memory are its own too.

// WorkerPlan is a worker to start.
type WorkerPlan struct {
	Binary string // of sluice
	Dir    string // for its configuration file
	Target Target
	Model  string   // directory
	Group  string   // a new one for every measurement
	Name   string   // instance id, unique within the group
	Serve  bool     // /metrics and /readyz, on a free port
	Cores  []int    // to be bound to; empty: any (Linux only)
	Args   []string // further flags of `sluice run`, such as --runners=1
	Env    []string // nil: that of this process
}

// Worker is a running `sluice run`.
type Worker struct {
	PID  int
	HTTP string // http://127.0.0.1:PORT, if it serves

	cmd  *exec.Cmd
	log  *tail
	done chan struct{}
	err  error
}

// tail keeps the end of what a process logs.
type tail struct {
	mu sync.Mutex
	b  []byte
}

const tailSize = 8 << 10

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.b = append(t.b, p...); len(t.b) > 2*tailSize {
		t.b = append(t.b[:0], t.b[len(t.b)-tailSize:]...)
	}
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(bytes.TrimSpace(t.b))
}

var servesAt = regexp.MustCompile(`address=(127\.0\.0\.1:\d+)`)

// ServesAt finds where a worker serves in what it logs: host:port of its HTTP server on this machine, "" where the log
// does not say.
func ServesAt(log []byte) string {
	m := servesAt.FindSubmatch(log)
	if m == nil {
		return ""
	}
	return string(m[1])
}

// StartWorker starts a worker. It is stopped by Stop, or killed when ctx ends.
func StartWorker(ctx context.Context, p WorkerPlan) (*Worker, error) {
	model, err := filepath.Abs(p.Model)
	if err != nil {
		return nil, err
	}
	listen := "off"
	if p.Serve {
		listen = "127.0.0.1:0"
	}
	format := p.Target.Format
	if format == "" {
		format = JSON
	}
	yaml := fmt.Sprintf("kafka: {brokers: [%q], group: %q, instance_id: %q}\ninput: {topics: [%q], format: %s}\n"+
		"models:\n  - {name: verdict, path: %q}\noutput: {topic: %q}\ndead_letter: {topic: %q}\nserver: {listen: %q}\n",
		p.Target.Brokers[0], p.Group, p.Name, p.Target.Input, format, model, p.Target.Output, p.Target.DeadLetter,
		listen)
	file := filepath.Join(p.Dir, p.Name+"-"+p.Group+".yaml")
	if err := os.WriteFile(file, []byte(yaml), 0o600); err != nil {
		return nil, err
	}
	w := &Worker{cmd: exec.CommandContext(ctx, p.Binary, append([]string{"run", "-c", file}, p.Args...)...),
		log: &tail{}, done: make(chan struct{})}
	w.cmd.Env = p.Env
	w.cmd.Stderr = w.log
	started := make(chan error)
	go func() {
		// The thread that forks lives as long as the worker: the kernel ends the child with it, and the child inherits
		// its cores.
		runtime.LockOSThread()
		defer close(w.done)
		err := bindThread(p.Cores)
		if err == nil {
			dieWithParent(w.cmd)
			err = w.cmd.Start()
		}
		started <- err
		if err == nil {
			w.err = w.cmd.Wait()
		}
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("starting %s run: %w", p.Binary, err)
	}
	w.PID = w.cmd.Process.Pid
	if p.Serve {
		if err := w.ready(ctx); err != nil {
			return nil, errors.Join(err, w.Stop())
		}
	}
	return w, nil
}

// ready waits until the worker has its partitions.
func (w *Worker) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	why := "it has not said where it serves"
	for {
		if at := ServesAt([]byte(w.log.String())); w.HTTP == "" && at != "" {
			w.HTTP = "http://" + at
		}
		if w.HTTP != "" {
			request, err := http.NewRequestWithContext(ctx, http.MethodGet, w.HTTP+"/readyz", nil)
			if err != nil {
				return err
			}
			if answer, err := http.DefaultClient.Do(request); err == nil {
				b, _ := io.ReadAll(io.LimitReader(answer.Body, 1000)) // what it says is for the error message only
				answer.Body.Close()
				if answer.StatusCode == http.StatusOK {
					return nil
				}
				why = string(bytes.TrimSpace(b))
			}
		}
		select {
		case <-w.done:
			return errors.New("the worker ended while it started")
		case <-ctx.Done():
			return fmt.Errorf("the worker is not ready: %s", why)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// Pause holds the worker where it is, and Resume lets it go on: so that several can join their group and then begin at
// one moment. For less than a session timeout nobody notices.
func (w *Worker) Pause() error { return w.cmd.Process.Signal(syscall.SIGSTOP) }

// Resume lets a paused worker go on.
func (w *Worker) Resume() error { return w.cmd.Process.Signal(syscall.SIGCONT) }

// Stop ends the worker as a supervisor would, and returns why it ended otherwise, with the end of its log.
func (w *Worker) Stop() error {
	select {
	case <-w.done:
		return fmt.Errorf("the worker ended by itself: %w\n%s", errOr(w.err, "exit code 0"), w.log.String())
	default:
	}
	w.cmd.Process.Signal(syscall.SIGTERM)
	w.cmd.Process.Signal(syscall.SIGCONT) // a paused process would not hear it
	select {
	case <-w.done:
	case <-time.After(time.Minute):
		w.cmd.Process.Kill()
		<-w.done
		return fmt.Errorf("the worker did not stop within a minute\n%s", w.log.String())
	}
	if w.err != nil {
		return fmt.Errorf("the worker: %w\n%s", w.err, w.log.String())
	}
	return nil
}

func errOr(err error, text string) error {
	if err != nil {
		return err
	}
	return errors.New(text)
}
