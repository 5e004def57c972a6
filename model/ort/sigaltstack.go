package ort

/*
#include <signal.h>
*/
import "C"

import "runtime"

// withSignalStack calls f and gives its thread back the signal stack that it had before. OpenVINO's CPU plugin sets one
// of its own on the thread that loads it. What was seen without this: a SIGSEGV at instructions that touch no memory,
// in four runs of ten of a test that opens and closes sessions, as when a signal of Go's runtime finds its stack freed.
func withSignalStack(f func() error) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var before C.stack_t
	if C.sigaltstack(nil, &before) == 0 {
		defer func() { C.sigaltstack(&before, nil) }()
	}
	return f()
}
