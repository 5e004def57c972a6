//go:build failpoint && clockstep

package failpoint

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
	_ "unsafe" // for go:linkname
)

// This file owns the wall clock of a binary that was built with the overlay of bench/faults/clockstep; only such a one
// has wallStep.

//go:linkname wallStep runtime.wallStep
var wallStep int64

func init() {
	file := os.Getenv(EnvClock)
	if file == "" {
		return
	}
	go func() {
		for last := int64(0); ; time.Sleep(50 * time.Millisecond) {
			b, err := os.ReadFile(file)
			if err != nil {
				continue // not yet
			}
			ms, err := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64)
			if err != nil {
				panic(fmt.Sprintf("%s: %v", EnvClock, err))
			}
			if step := ms * int64(time.Millisecond); step != last {
				atomic.StoreInt64(&wallStep, step)
				last = step
				fmt.Fprintf(os.Stderr, "failpoint clock is %d ms ahead, %s\n", ms,
					time.Now().UTC().Format(time.RFC3339Nano))
			}
		}
	}()
}
