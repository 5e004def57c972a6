package ort

import (
	"sync"
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

// pins are the threads that are bound: by how many runners, and where they could run before.
var pins = struct {
	sync.Mutex
	threads map[int]*pinnedThread
}{threads: map[int]*pinnedThread{}}

type pinnedThread struct {
	by     int
	before unix.CPUSet
}

// pin binds the calling OS thread to one core and returns what undoes it, from any thread, to be called once. A thread
// stays bound until that has been called for each pin: models of one thread come and go in any order.
func pin(cpu int) (release func(), err error) {
	tid := unix.Gettid()
	pins.Lock()
	defer pins.Unlock()
	t := pins.threads[tid]
	if t == nil {
		t = &pinnedThread{}
		if err := unix.SchedGetaffinity(tid, &t.before); err != nil {
			return nil, err
		}
	}
	var set unix.CPUSet
	set.Set(cpu)
	if err := unix.SchedSetaffinity(tid, &set); err != nil {
		return nil, err
	}
	t.by++
	pins.threads[tid] = t
	return func() {
		pins.Lock()
		defer pins.Unlock()
		if t.by--; t.by == 0 {
			delete(pins.threads, tid)
			// a failure means that the thread is gone, and its binding with it
			_ = unix.SchedSetaffinity(tid, &t.before)
		}
	}, nil
}
