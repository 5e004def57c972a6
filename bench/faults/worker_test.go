package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"sluice/pipeline/pipelinetest"
)

// An end is a worker's own unless a signal of the harness or a failpoint was to bring it about.
func TestWhoEndedAWorkerIsTold(t *testing.T) {
	for _, c := range []struct {
		name, script string
		send         syscall.Signal // once it says that it serves; 0: none
		want         string         // "": the harness ended it
	}{
		{"an exit code and the last error", `echo address=127.0.0.1:1; echo 'sluice: no way'; echo bye; exit 2`, 0,
			"exit 2: sluice: no way"},
		{"an error of before is not the last one", `echo level=ERROR first; echo level=ERROR second; exit 1`, 0,
			"exit 1: level=ERROR second"},
		{"without an error, the last line", `echo one; echo two; exit 0`, 0, "exit 0: two"},
		{"a signal that nobody sent", `echo working; kill -9 $$`, 0, "SIGKILL: working"},
		{"a failpoint that kills", `echo 'failpoint after-produce kill'; kill -9 $$`, 0, ""},
		{"a failpoint that kills, and yet it ended otherwise", `echo 'failpoint after-produce kill'; exit 1`, 0,
			"exit 1: failpoint after-produce kill"},
		{"SIGKILL of the harness", `echo address=127.0.0.1:1; while :; do sleep 0.01; done`, syscall.SIGKILL, ""},
		{"SIGTERM of the harness", `trap 'exit 0' TERM; echo address=127.0.0.1:1; while :; do sleep 0.01; done`,
			syscall.SIGTERM, ""},
		{"an error over SIGTERM of the harness",
			`trap 'echo sluice: stuck; exit 1' TERM; echo address=127.0.0.1:1; while :; do sleep 0.01; done`,
			syscall.SIGTERM, "exit 1: sluice: stuck"},
	} {
		t.Run(c.name, func(t *testing.T) {
			bash, err := exec.LookPath("bash")
			if err != nil {
				pipelinetest.Missing(t, "no bash: %v", err)
			}
			w := &worker{name: "w-0", binary: bash, args: []string{"-c", "exec >&2; " + c.script}}
			ended := make(chan struct{})
			go func() {
				defer close(ended)
				w.live(func() {})
			}()
			if c.send != 0 {
				if err := await(t.Context(), 10*time.Second, "the process to serve", func() error {
					if w.log.address() == "" {
						return fmt.Errorf("log: %q", w.log.String())
					}
					return nil
				}); err != nil {
					t.Fatal(err)
				}
				w.signal(c.send)
			}
			<-ended
			got := ""
			for _, e := range w.endings() {
				got += e.how + ": " + e.said
			}
			if got != c.want {
				t.Errorf("it ended by itself: %q, want %q", got, c.want)
			}
		})
	}
}

func TestEndsAndRestartsInWords(t *testing.T) {
	for _, c := range []struct {
		restarts int
		own      map[string]int
		want     string
	}{
		{0, nil, ""},
		{3, nil, "3 restarts by supervisors"},
		{2, map[string]int{"exit 1": 2}, "2 restarts by supervisors: exit 1 ×2"},
		{4, map[string]int{"SIGKILL": 1, "exit 1": 2}, "4 restarts by supervisors: SIGKILL ×1, exit 1 ×2, by the " +
			"harness ×1"},
		// the last end is not followed by a start
		{3, map[string]int{"exit 2": 4}, "3 restarts by supervisors: exit 2 ×4"},
		{0, map[string]int{"exit 2": 1}, "ended by themselves: exit 2 ×1"},
	} {
		if got := tally(c.restarts, c.own); got != c.want {
			t.Errorf("%d restarts, %v: %q, want %q", c.restarts, c.own, got, c.want)
		}
	}
}

func TestLogsStayAfterAnEndThatNobodyPlanned(t *testing.T) {
	for _, c := range []struct {
		how  string
		kept int
	}{{"exit 2", 0}, {"exit 1", 2}} {
		build := t.TempDir()
		r := &run{s: &scenario{name: "x", ends: []string{"exit 2"}}, o: &options{sluice: filepath.Join(build,
			"sluice")}, group: "x-1"}
		for i := range 2 { // under one name, as where a worker is stopped for good and another one started
			w := &worker{name: "w-0", starts: 1}
			fmt.Fprintln(&w.log, "log", i)
			r.workers = append(r.workers, w)
		}
		r.workers[1].own = []ending{{c.how, "sluice: no way"}}
		r.count()
		r.keepLogs()
		files, err := filepath.Glob(filepath.Join(build, "logs", "x-1", "*.log"))
		if err != nil || len(files) != c.kept {
			t.Fatalf("after %s %q are kept, error %v; want %d", c.how, files, err, c.kept)
		}
		for i, file := range files {
			if b, err := os.ReadFile(file); err != nil || string(b) != fmt.Sprintln("log", i) {
				t.Errorf("%s holds %q, error %v", file, b, err)
			}
		}
	}
}
