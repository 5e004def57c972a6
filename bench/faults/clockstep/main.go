// Command clockstep writes an overlay for `go build -overlay` with which the wall clock of a program can be stepped
// from outside while its monotonic clock goes on: what a correction by NTP or the resumption of a virtual machine does
// to a process. libfaketime cannot do it, as Go programs read the clock past the C library.
//
//	go run ./bench/faults/clockstep -o DIR && go build -overlay DIR/overlay.json -tags failpoint,clockstep ...
//
// Two files of the Go toolchain are replaced by copies in which runtime.time_now adds runtime.wallStep (ns) to what the
// clock says. Package failpoint sets that variable. For linux/amd64, where the clock is read in assembly.
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

func main() {
	dir := flag.String("o", "build/faults/_clockstep", "directory to write to; an underscore keeps ./... out of it")
	flag.Parse()
	if err := write(*dir); err != nil {
		fmt.Fprintln(os.Stderr, "clockstep:", err)
		os.Exit(1)
	}
}

// A change replaces a text that must stand once in a file of the toolchain.
type change struct{ file, old, new string }

var changes = []change{
	{"time_linux_amd64.s", "TEXT time·now<ABIInternal>(SB)", "TEXT ·readClocks<ABIInternal>(SB)"},
	{"timeasm.go", "//go:linkname time_now time.now\nfunc time_now() (sec int64, nsec int32, mono int64)\n",
		`func readClocks() (sec int64, nsec int32, mono int64)

// wallStep is added to the wall clock, in ns.
//
//go:linkname wallStep
var wallStep int64

//go:linkname time_now time.now
func time_now() (sec int64, nsec int32, mono int64) {
	sec, nsec, mono = readClocks()
	t := sec*1e9 + int64(nsec) + wallStep
	return t / 1e9, int32(t % 1e9), mono
}
`},
}

func write(dir string) error {
	root, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		return fmt.Errorf("go env GOROOT: %w", err)
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	replace := map[string]string{}
	for _, c := range changes {
		from := filepath.Join(strings.TrimSpace(string(root)), "src", "runtime", c.file)
		text, err := os.ReadFile(from)
		if err != nil {
			return err
		}
		if n := strings.Count(string(text), c.old); n != 1 {
			return fmt.Errorf("%s holds %q %d times, want once: this version of Go reads its clock in another way; "+
				"adapt the overlay", from, c.old, n)
		}
		replace[from] = filepath.Join(dir, c.file)
		if err := os.WriteFile(replace[from], []byte(strings.Replace(string(text), c.old, c.new, 1)),
			0o644); err != nil {
			return err
		}
	}
	b, err := json.Marshal(map[string]any{"Replace": replace})
	return errors.Join(err, os.WriteFile(filepath.Join(dir, "overlay.json"), b, 0o644))
}
