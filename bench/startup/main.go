// Command startup compares builds of the worker: how long one takes from its start until it is ready to join its group,
// and how much memory it has then. No broker is needed: the worker is ended before it finds one.
//
//	go run ./bench/startup -model models/sentiment dist/sluice ../other/dist/sluice
package main

import (
	"bufio"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// configuration is that of a worker whose broker is not there.
const configuration = `kafka: {brokers: ["127.0.0.1:1"], group: startup, instance_id: startup-0}
input: {topics: [in]}
models: [{name: m, path: %q}]
output: {topic: out}
dead_letter: {topic: dead}
server: {listen: "off"}
batch_tokens: 128
`

// start is one start of a worker.
type start struct {
	took time.Duration
	rss  float64 // MiB
}

func main() {
	model := flag.String("model", "models/sentiment", "model `DIRECTORY`")
	rounds := flag.Int("rounds", 7, "starts of each binary, in turns")
	flag.Parse()
	if err := run(*model, *rounds, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "startup:", err)
		os.Exit(1)
	}
}

func run(model string, rounds int, binaries []string) error {
	dir, err := filepath.Abs(model)
	if err != nil {
		return err
	}
	file, err := os.CreateTemp("", "startup-*.yaml")
	if err != nil {
		return err
	}
	defer os.Remove(file.Name())
	if _, err := fmt.Fprintf(file, configuration, dir); err != nil {
		return err
	}
	if err := file.Close(); err != nil {
		return err
	}
	starts := make([][]start, len(binaries))
	for range rounds {
		for i, b := range binaries {
			s, err := once(b, file.Name())
			if err != nil {
				return fmt.Errorf("%s: %w", b, err)
			}
			starts[i] = append(starts[i], s)
		}
	}
	fmt.Print("| binary | ready after | memory then |\n|---|---|---|\n")
	for i, b := range binaries {
		var took, rss []float64
		for _, s := range starts[i] {
			took, rss = append(took, s.took.Seconds()), append(rss, s.rss)
		}
		fmt.Printf("| %s | %s s | %s MiB |\n", b, spread(took, 3), spread(rss, 1))
	}
	return nil
}

// spread is the median with the range.
func spread(xs []float64, digits int) string {
	slices.Sort(xs)
	return fmt.Sprintf("%.*f (%.*f–%.*f)", digits, xs[len(xs)/2], digits, xs[0], digits, xs[len(xs)-1])
}

// once starts a worker and ends it when it is ready.
func once(binary, config string) (s start, err error) {
	cmd := exec.Command(binary, "run", "-c", config)
	log, err := cmd.StderrPipe()
	if err != nil {
		return s, err
	}
	began := time.Now()
	if err := cmd.Start(); err != nil {
		return s, err
	}
	defer func() {
		cmd.Process.Kill()
		cmd.Wait()
	}()
	var last string
	for lines := bufio.NewScanner(log); lines.Scan(); {
		if last = lines.Text(); strings.Contains(last, "ready to join the group") {
			s.took = time.Since(began)
			s.rss, err = resident(cmd.Process.Pid)
			return s, err
		}
	}
	return s, errors.New("it ended before it was ready: " + last)
}

// resident is the memory of a process in MiB.
func resident(pid int) (float64, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kib, err := strconv.ParseFloat(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 64)
			return kib / 1024, err
		}
	}
	return 0, errors.New("no VmRSS in /proc/self/status")
}
