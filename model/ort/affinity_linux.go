package ort

import (
	"time"

	"golang.org/x/sys/unix"
)

// threadTime is the processor time that the calling thread has used so far.
var threadTime = func() time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &t); err != nil {
		return 0 // the clock exists since Linux 2.6.12
	}
	return time.Duration(t.Nano())
}

func allowedCPUs() []int {
	var set unix.CPUSet
	if err := unix.SchedGetaffinity(0, &set); err != nil {
		return nil
	}
	var cpus []int
	for i := range len(set) * 64 {
		if set.IsSet(i) {
			cpus = append(cpus, i)
		}
	}
	return cpus
}

// pin binds the calling OS thread to one core and returns what undoes it, from any thread.
func pin(cpu int) (release func(), err error) {
	tid := unix.Gettid()
	var before, set unix.CPUSet
	if err := unix.SchedGetaffinity(tid, &before); err != nil {
		return nil, err
	}
	set.Set(cpu)
	if err := unix.SchedSetaffinity(tid, &set); err != nil {
		return nil, err
	}
	// A failure means that the thread is gone, and its binding with it.
	return func() { _ = unix.SchedSetaffinity(tid, &before) }, nil
}
