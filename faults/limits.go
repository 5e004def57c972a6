package main

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"slices"
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

// fullDiskScript is a shell script that mounts a small disk which nobody else sees, fills it, and runs the rest of its arguments in
// it. $1: the mount point, which is working, home and temporary directory; $2: where the log goes; $3: "none" allows no file
// to be written anywhere (RLIMIT_FSIZE 0: the kernel kills who tries).
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

// diskless runs two workers on a full disk: one whose log is a device that is full and that may write no file at all, and one
// whose log is a file on the full disk.
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
		w, err := r.command(fmt.Sprintf("w-%d", i), []string{"--server.listen=" + at}, "unshare", "--mount", "sh", "-c", fullDiskScript, "sh", dir, log, files)
		if err != nil {
			return err
		}
		fmt.Fprintf(&w.log, "address=%s\n", at) // its own log tells nobody
	}
	return nil
}

// starved leaves both workers without a file descriptor and resets their connections: they can open nothing, not even accept.
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

// ownMounts is nil where a process may mount a disk that nobody else sees.
var ownMounts = sync.OnceValue(func() error {
	out, err := exec.Command("unshare", "--mount", "sh", "-c", `mount -t tmpfs -o size=64k tmpfs "$1"`, "sh", os.TempDir()).CombinedOutput()
	if err != nil {
		return fmt.Errorf("mounting a disk of one's own, which needs root: %w: %s", err, bytes.TrimSpace(out))
	}
	return nil
})

func limitScenarios() []scenario {
	s := []scenario{
		{name: "worker-disk-full", fault: "a worker's disk is full", brokers: 1, before: diskless, do: quiet, after: unharmed,
			injected: "working directory, HOME and TMPDIR on a full tmpfs; one worker logs to /dev/full and may write no file (RLIMIT_FSIZE 0), the other logs to a file on the full disk; no exit"},
		{name: "worker-descriptors", fault: "a worker has no file descriptor left", brokers: 1, workers: 2, do: starved,
			injected: "RLIMIT_NOFILE 3 of both running workers and their connections reset, for 6 s (long: 30 s); no exit, the log says it"},
	}
	if err := ownMounts(); err != nil {
		s[0].cannot = err.Error()
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
