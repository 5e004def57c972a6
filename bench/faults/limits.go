package main

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// This file owns the scenarios in which the operating system gives a worker no more of something.

// command starts a worker as another program's last act: before, then the worker's own command line, then more flags.
func (r *run) command(name string, flags []string, before ...string) (*worker, error) {
	args, err := r.writeConfig(name)
	if err != nil {
		return nil, err
	}
	line := slices.Concat(before, []string{r.o.sluice}, args, flags)
	w := supervise(line[0], name, line[1:])
	r.workers = append(r.workers, w)
	return w, nil
}

// fullDiskScript is a shell script that mounts a small disk which nobody else sees, fills it, and runs the rest of its
// arguments in it. $1: the mount point, which is working, home and temporary directory; $2: where the log goes; $3:
// "none" allows no file to be written anywhere (RLIMIT_FSIZE 0: the kernel kills who tries).
const fullDiskScript = `set -eu
at=$1 log=$2 files=$3 sluice=$(realpath "$4"); shift 4
mount -t tmpfs -o size=64k tmpfs "$at"
cd "$at"
: >worker.log
cat /dev/zero >filler 2>/dev/null || true
if printf x 2>/dev/null >probe && [ -s probe ]; then echo "the disk is not full" >&2; exit 97; fi
export HOME="$at" TMPDIR="$at"
[ "$files" = any ] || ulimit -f 0
exec "$sluice" "$@" >"$log" 2>&1`

// diskless runs two workers on a full disk: one whose log is a device that is full and that may write no file at all,
// and one whose log is a file on the full disk.
func diskless(r *run) error {
	for i := range 2 {
		dir, err := os.MkdirTemp(r.dir, "full-")
		if err != nil {
			return err
		}
		free, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return err
		}
		at := free.Addr().String()
		if err := free.Close(); err != nil {
			return err
		}
		log, files := "/dev/full", "none"
		if i == 1 {
			log, files = dir+"/worker.log", "any"
		}
		w, err := r.command(fmt.Sprintf("w-%d", i), []string{"--server.listen=" + at}, "unshare", "--mount", "sh", "-c",
			fullDiskScript, "sh", dir, log, files)
		if err != nil {
			return err
		}
		fmt.Fprintf(&w.log, "address=%s\n", at) // its own log tells nobody
	}
	return nil
}

// starved leaves both workers without a file descriptor and resets their connections: they can open nothing, not even
// accept.
func starved(r *run) error {
	sleep(r.ctx, 2*time.Second)
	before := make([]unix.Rlimit, len(r.workers))
	limit := func(w *worker, new, old *unix.Rlimit) error {
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.process == nil {
			return fmt.Errorf("%s does not run", w.name)
		}
		return unix.Prlimit(w.process.Pid, unix.RLIMIT_NOFILE, new, old)
	}
	for i, w := range r.workers {
		if err := limit(w, nil, &before[i]); err != nil {
			return err
		}
		if err := limit(w, &unix.Rlimit{Cur: 3, Max: before[i].Max}, nil); err != nil {
			return err
		}
	}
	cut := r.c.proxy.ResetAll(0)
	sleep(r.ctx, pick(r, 6*time.Second, 30*time.Second))
	for i, w := range r.workers {
		if err := limit(w, &before[i], nil); err != nil {
			return err
		}
	}
	if r.note("%d connections reset", cut); cut == 0 {
		r.fail("no connection was reset: nothing had to be opened")
	}
	for _, w := range r.workers {
		if _, exits := w.counts(); len(exits) != 0 {
			r.fail("%s ended for want of file descriptors, with %v; it should wait", w.name, exits)
		}
		if !strings.Contains(w.log.String(), "too many open files") {
			r.fail("%s does not say in its log that it has too many open files", w.name)
		}
		if err := w.await(r.ctx); err != nil {
			return err
		}
	}
	return nil
}

// cage is a control group of the kernel for one worker, whose memory can be limited.
type cage struct{ dir, limit, none, usage, events string }

// newCage makes a group below this process's own, or where version 2 allows none there, below the next above it.
func newCage(name string) (*cage, error) {
	groups, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return nil, err
	}
	const root = "/sys/fs/cgroup"
	c := &cage{limit: "memory.max", none: "max", usage: "memory.current", events: "memory.events"}
	at, controller := root, ":"
	if _, err := os.Stat(root + "/cgroup.controllers"); err != nil { // version 1
		*c = cage{limit: "memory.limit_in_bytes", none: "-1", usage: "memory.usage_in_bytes",
			events: "memory.oom_control"}
		at, controller = root+"/memory", ":memory:"
	}
	for line := range strings.Lines(string(groups)) {
		if _, path, ok := strings.Cut(line, controller); ok && (controller != ":" || strings.HasPrefix(line, "0::")) {
			at = filepath.Join(at, strings.TrimPrefix(strings.TrimSpace(path), ":"))
			break
		}
	}
	for controller == ":" && at != root {
		if b, err := os.ReadFile(at + "/cgroup.subtree_control"); err == nil &&
			slices.Contains(strings.Fields(string(b)), "memory") {
			break
		}
		at = filepath.Dir(at)
	}
	c.dir = filepath.Join(at, fmt.Sprintf("sluice-faults-%d-%s", os.Getpid(), name))
	if err := os.Mkdir(c.dir, 0o700); err != nil {
		return nil, fmt.Errorf("a control group of one's own, which needs root: %w", err)
	}
	if _, err := c.used(); err != nil {
		return nil, errors.Join(fmt.Errorf("the kernel limits no memory here: %w", err), c.remove())
	}
	return c, nil
}

func (c *cage) remove() error { return os.Remove(c.dir) }

func (c *cage) set(limit string) error {
	return os.WriteFile(filepath.Join(c.dir, c.limit), []byte(limit), 0)
}

// used is how many bytes the group holds.
func (c *cage) used() (int64, error) {
	b, err := os.ReadFile(filepath.Join(c.dir, c.usage))
	if err != nil {
		return 0, err
	}
	return strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64)
}

// kills is how many processes of the group the kernel has ended because there was no memory.
func (c *cage) kills() (int, error) {
	b, err := os.ReadFile(filepath.Join(c.dir, c.events))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		if n, ok := strings.CutPrefix(line, "oom_kill "); ok {
			return strconv.Atoi(strings.TrimSpace(n))
		}
	}
	return 0, fmt.Errorf("%s/%s has no line oom_kill", c.dir, c.events)
}

// caged starts two workers, each in a control group of its own.
func caged(cages *[]*cage) func(*run) error {
	return func(r *run) error {
		*cages = nil
		for i := range 2 {
			name := fmt.Sprintf("w-%d", i)
			c, err := newCage(fmt.Sprintf("%x-%s", r.seed, name))
			if err != nil {
				return err
			}
			*cages = append(*cages, c)
			r.undo = append(r.undo, c.remove)
			if _, err := r.command(name, nil, "sh", "-c", `echo $$ >"$1"; shift; exec "$@"`, "sh",
				c.dir+"/cgroup.procs"); err != nil {
				return err
			}
		}
		return nil
	}
}

// choke lowers a worker's limit to what it holds, and follows it down, until it needs a page more and the kernel ends
// it; then there is no limit any more.
func choke(cages *[]*cage) func(*run) error {
	return func(r *run) error {
		for range pick(r, 1, 6) {
			sleep(r.ctx, r.between(time.Second, 2*time.Second))
			i := r.rng.IntN(2)
			w, c := r.workers[i], (*cages)[i]
			before, err := c.kills()
			if err != nil {
				return err
			}
			held, err := c.used()
			if err != nil {
				return err
			}
			err = await(r.ctx, time.Minute, "the kernel to end "+w.name, func() error {
				n, err := c.kills()
				if err != nil || n > before {
					return err
				}
				used, err := c.used()
				if err != nil {
					return err
				}
				c.set(strconv.FormatInt(used-used%4096, 10)) // refused where it holds more by now
				return fmt.Errorf("it lives, and holds %d bytes", used)
			})
			if err := errors.Join(err, c.set(c.none)); err != nil {
				return err
			}
			if err := w.await(r.ctx); err != nil {
				return err
			}
			after, err := c.kills()
			if err != nil {
				return err
			}
			r.note("%s held %.0f MiB, ended by the kernel ×%d", w.name, float64(held)/(1<<20), after-before)
		}
		return nil
	}
}

// ownMounts is nil where a process may mount a disk that nobody else sees.
var ownMounts = sync.OnceValue(func() error {
	out, err := exec.Command("unshare", "--mount", "sh", "-c", `mount -t tmpfs -o size=64k tmpfs "$1"`, "sh",
		os.TempDir()).CombinedOutput()
	if err != nil {
		return fmt.Errorf("mounting a disk of one's own, which needs root: %w: %s", err, bytes.TrimSpace(out))
	}
	return nil
})

// ownGroups is nil where a process may make control groups that limit memory.
var ownGroups = sync.OnceValue(func() error {
	c, err := newCage("probe")
	if err != nil {
		return err
	}
	return c.remove()
})

func limitScenarios() []scenario {
	s := []scenario{
		{name: "worker-disk-full", fault: "a worker's disk is full", brokers: 1, before: diskless, do: quiet,
			after: unharmed,
			injected: "working directory, HOME and TMPDIR on a full tmpfs; one worker logs to /dev/full and may " +
				"write no file (RLIMIT_FSIZE 0), the other logs to a file on the full disk; no exit"},
		{name: "worker-descriptors", fault: "a worker has no file descriptor left", brokers: 1, workers: 2, do: starved,
			injected: "RLIMIT_NOFILE 3 of both running workers and their connections reset, for 6 s (long: 30 s); no " +
				"exit, the log says it"},
	}
	if err := ownMounts(); err != nil {
		s[0].cannot = err.Error()
	}
	cages := new([]*cage)
	s = append(s, scenario{name: "worker-memory", fault: "the kernel ends a worker for want of memory", brokers: 1,
		before: caged(cages), do: choke(cages), ends: []string{"SIGKILL"},
		injected: "each worker in a control group; the limit of one is lowered to what it holds until the kernel " +
			"kills it under load (long: 6 times), and lifted; no record is blamed",
		after: func(r *run) error { return r.condemned("no such text", "killed-the-worker", 0) }})
	if err := ownGroups(); err != nil {
		s[len(s)-1].cannot = err.Error()
	}
	return s
}

// unharmed demands that no worker has ended.
func unharmed(r *run) error {
	for _, w := range r.workers {
		if starts, exits := w.counts(); starts != 1 || len(exits) != 0 {
			r.fail("%s was started %d times and ended with %v; it should have gone on", w.name, starts, exits)
		}
	}
	return nil
}
