package main

import (
	"os"
	"testing"
)

func TestBusyThreadsAreTheOnesThatUsedMost(t *testing.T) {
	busiest, all := busyThreads(map[string]float64{"a": 10, "b": 1}, map[string]float64{"a": 12, "b": 4, "new": 1}, 2)
	if busiest != 5 || all != 6 {
		t.Errorf("%v of %v", busiest, all)
	}
}

func TestThreadTimesSeeThisProcess(t *testing.T) {
	if _, err := os.Stat("/proc/self/task"); err != nil {
		t.Skip("no /proc here")
	}
	for began := threadTimes(os.Getpid()); ; { // computes until a clock tick has passed
		x := 1.0
		for range 1 << 22 {
			x *= 1.0000001
		}
		if _, all := busyThreads(began, threadTimes(os.Getpid()), 1); all > 0 && x > 1 {
			return
		}
	}
}
