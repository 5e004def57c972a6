package main

import (
	"os"
	"testing"
	"time"

	"sluice/pipeline/pipelinetest"
)

func TestBusyThreadsAreTheOnesThatUsedMost(t *testing.T) {
	busiest, all := busyThreads(map[string]float64{"a": 10, "b": 1}, map[string]float64{"a": 12, "b": 4, "new": 1}, 2)
	if busiest != 5 || all != 6 {
		t.Errorf("%v of %v", busiest, all)
	}
}

func TestThreadTimesSeeThisProcess(t *testing.T) {
	if _, err := os.Stat("/proc/self/task"); err != nil {
		pipelinetest.Missing(t, "CPU time of threads is read from /proc: %v", err)
	}
	began, x := threadTimes(os.Getpid()), 1.0
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); {
		for range 1 << 22 { // a few milliseconds; a clock tick has ten
			x *= 1.0000001
		}
		if _, all := busyThreads(began, threadTimes(os.Getpid()), 1); all > 0 {
			return
		}
	}
	t.Errorf("no thread of this process has used any time in 10 s of work (%g)", x)
}
