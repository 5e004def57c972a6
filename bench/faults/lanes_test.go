package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"sluice/bench/faults/report"
)

func TestLanesAreSharedOut(t *testing.T) {
	for _, c := range []struct {
		three, one, lanes int
		want              []int
	}{
		{12, 28, 1, []int{3}}, // and then the others, one after the other
		{12, 28, 2, []int{3, 1}},
		{12, 28, 3, []int{3, 1, 1}},
		{30, 10, 3, []int{3, 1, 3}},
		{0, 28, 3, []int{1, 1, 1}},
		{0, 2, 3, []int{1, 1}}, // no more than there is to do
		{1, 1, 5, []int{3, 1}},
		{0, 0, 3, nil},
	} {
		if got := share(map[int]int{3: c.three, 1: c.one}, c.lanes); !slices.Equal(got, c.want) {
			t.Errorf("%d scenarios of 3 brokers, %d of 1, %d lanes: %v, want %v", c.three, c.one, c.lanes, got, c.want)
		}
	}
}

func TestScenariosThatWereNotRunAreNoPass(t *testing.T) {
	p := &plan{rows: []report.Row{{Name: "a", Result: report.Pass}, {Name: "b", Result: report.Fail}}}
	err := p.verdict([]*scenario{{name: "a"}, {name: "b"}, {name: "c"}})
	if err == nil || !strings.Contains(err.Error(), "1 of 2 scenarios failed: b") || !strings.Contains(err.Error(),
		"1 scenarios were not run: c") {
		t.Errorf("verdict: %v", err)
	}
	if err := p.verdict([]*scenario{{name: "b"}}); err == nil {
		t.Error("a failed scenario passes")
	}
	p.rows = p.rows[:1]
	if err := p.verdict([]*scenario{{name: "a"}}); err != nil {
		t.Error(err)
	}
	p.broken(errors.New("no cluster"))
	if err := p.verdict([]*scenario{{name: "a"}}); err == nil {
		t.Error("an error of the harness passes")
	}
}

// Every scenario has a name of its own, and one of the two sizes of cluster: else no lane takes it.
func TestTheListOfScenarios(t *testing.T) {
	names := map[string]bool{}
	for _, s := range scenarios() {
		if names[s.name] || s.name == "" {
			t.Errorf("%q is there twice", s.name)
		}
		names[s.name] = true
		if s.brokers != 1 && s.brokers != 3 {
			t.Errorf("%s: %d brokers", s.name, s.brokers)
		}
		if s.do == nil && s.cannot == "" {
			t.Errorf("%s: has to be injected, or to say why it cannot", s.name)
		}
		if s.disk && s.brokers != 3 {
			t.Errorf("%s: a small disk has the last of three brokers only", s.name)
		}
	}
}

func TestLanesHoldTheLockTogether(t *testing.T) {
	file := filepath.Join(t.TempDir(), "lock")
	l := &sharedLock{path: file}
	other, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	free := func() bool {
		if syscall.Flock(int(other.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) != nil {
			return false
		}
		syscall.Flock(int(other.Fd()), syscall.LOCK_UN)
		return true
	}
	ctx := t.Context()
	first, err := l.take(ctx)
	if err != nil {
		t.Fatal(err)
	}
	second, err := l.take(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := first(); err != nil || free() {
		t.Errorf("the lock is free while a lane still runs: %v", err)
	}
	l.since = time.Now().Add(-2 * lockedAtMost)
	if got, err := l.try(); got || err != nil {
		t.Errorf("a lane began after %v: %v", 2*lockedAtMost, err)
	}
	if err := second(); err != nil || !free() {
		t.Errorf("the lock is not free after the last lane: %v", err)
	}
	if err := syscall.Flock(int(other.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	ended, cancel := context.WithCancelCause(ctx)
	cancel(fmt.Errorf("end"))
	if _, err := l.take(ended); !errors.Is(err, context.Canceled) {
		t.Errorf("took what another holds: %v", err)
	}
	if err := syscall.Flock(int(other.Fd()), syscall.LOCK_UN); err != nil {
		t.Fatal(err)
	}
	third, err := l.take(ctx)
	if err != nil || free() {
		t.Fatalf("did not get a lock that is free: %v", err)
	}
	if err := third(); err != nil || !free() {
		t.Errorf("the lock is not free in the end: %v", err)
	}
}
