package ort

import (
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// Models come and go: a thread stays on its core while any runner has it bound, in whatever order they are closed.
func TestAThreadStaysPinnedWhileAnyRunnerHasIt(t *testing.T) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cores := func() int {
		var set unix.CPUSet
		if err := unix.SchedGetaffinity(0, &set); err != nil {
			t.Fatal(err)
		}
		return set.Count()
	}
	before := cores()
	if before < 2 {
		t.Skip("SKIPPED: this process may use one core only")
	}
	core := processCPUs[0]
	var release [3]func()
	for i := range 2 {
		var err error
		if release[i], err = pin(core); err != nil {
			t.Fatal(err)
		}
	}
	release[0]()
	if n := cores(); n != 1 {
		t.Errorf("the first of two models has gone, and the thread may use %d cores", n)
	}
	var err error
	if release[2], err = pin(core); err != nil {
		t.Fatal(err)
	}
	release[1]()
	release[2]()
	if n := cores(); n != before {
		t.Errorf("all models have gone, and the thread may use %d cores of %d", n, before)
	}
}

// A thread that waits for a GPU has no core of its own.
func TestOnlyRunnersOnTheCPUArePinned(t *testing.T) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	for provider, pinned := range map[string]bool{"cpu": true, "openvino": true, "cuda": false} {
		r := &runner{session: &Session{provider: provider, runners: 1}}
		if err := r.Bind(); err != nil {
			t.Fatal(err)
		}
		if (r.release != nil) != pinned {
			t.Errorf("%s: pinned: %v", provider, r.release != nil)
		}
		if r.release != nil {
			r.release()
		}
	}
}
