// Command profile shows where a worker's processor time and its allocations go: it lets `sluice run` work off a backlog
// on a real broker, takes Go's CPU and allocation profiles from its HTTP server, and groups them. Go sees a call into a
// C library (ONNX Runtime, the tokenizer) as one function, so each is one line.
//
//	make bench-profile
package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"sluice/cmd/sluice/load"
)

func main() {
	c := load.NewCommand("bench/profile", "bench/results/profile.md")
	seconds := flag.Int("seconds", 20, "length of the CPU profile")
	records := flag.Int("records", 30000, "records of the backlog; they must last for warm-up and profile")
	c.Main(func(ctx context.Context) error { return run(ctx, c, *seconds, *records) })
}

// groups sort functions of a CPU profile, by the packages and calls on their stacks; the first that matches counts.
var groups = []struct{ name, focus string }{
	{"inference (ONNX Runtime)", `onnxruntime_go\.\(\*DynamicAdvancedSession\)`},
	{"inference: inputs, outputs, batching", `sluice/model/ort\.\(\*runner\)|sluice/pipeline\.\(\*batcher\)`},
	{"tokenizing", `sluice/tokenize`},
	{"Kafka: fetch, produce, commit, compression", `sluice/pipeline/kafka|segmentio/kafka-go|pierrec/lz4`},
	{"JSON, judging, writing, hashing, ledger", `sluice/pipeline|sluice/model`},
	{"Go's garbage collector", `runtime\.gcBgMarkWorker|runtime\.gcStart|runtime\.bgsweep`},
	{"the rest (scheduler, timers, metrics)", `.`},
}

// strayed are samples of the process-wide timer that landed on a thread which Go did not make, most of them asleep: not
// time that was used. What all threads together used is read from /proc beside the profile.
const strayed = `runtime\._ExternalCode`

func run(ctx context.Context, c *load.Command, seconds, records int) error {
	texts, err := c.Generated("mixed")
	if err != nil {
		return err
	}
	broker, err := load.StartBroker()
	if err != nil {
		return err
	}
	defer broker.Stop()
	target := load.Target{Brokers: []string{broker.Address}, Input: "in", Output: "out", DeadLetter: "dlq",
		Format: load.JSON}
	if err := load.CreateTopics(ctx, target, c.Partitions); err != nil {
		return err
	}
	cpuFile, allocFile := filepath.Join(broker.Dir, "cpu.pb.gz"), filepath.Join(broker.Dir, "allocs.pb.gz")
	var worker *load.Worker
	took := make(chan error, 1)
	var before, after map[string]float64
	var threadsBefore, threadsAfter map[string]float64
	d, err := load.Drain(ctx, load.DrainPlan{Target: target, Records: records, Texts: texts,
		Begin: func(ctx context.Context) ([]int, error) {
			worker, err = load.StartWorker(ctx, load.WorkerPlan{Binary: c.Binary, Model: c.Model, Dir: broker.Dir,
				Target: target, Group: "profile", Name: "profile-0", Serve: true,
				Args: []string{"--server.pprof=true"}})
			if err != nil {
				return nil, err
			}
			go func() {
				time.Sleep(3 * time.Second) // warm
				var err1, err2 error
				before, err1 = scrape(worker.HTTP + "/metrics")
				threadsBefore = threadTimes(worker.PID)
				cpu := fetch(fmt.Sprintf("%s/debug/pprof/profile?seconds=%d", worker.HTTP, seconds), cpuFile)
				threadsAfter = threadTimes(worker.PID)
				after, err2 = scrape(worker.HTTP + "/metrics")
				took <- errors.Join(err1, err2, cpu, fetch(worker.HTTP+"/debug/pprof/allocs", allocFile))
			}()
			return []int{worker.PID}, nil
		}})
	if worker != nil {
		err = errors.Join(err, <-took, worker.Stop())
	}
	if err != nil {
		return err
	}
	done := after[results] - before[results]
	if done <= 0 {
		return errors.New("the backlog was worked off before the profile began: give more -records")
	}

	var page bytes.Buffer
	m := load.DescribeMachine()
	fmt.Fprintf(&page, "# Where a worker's time goes\n\n`sluice run` with model `%s`, exactly-once, under full load "+
		"(%.0f results a second), profiled for %d s. Made by `make bench-profile`. Machine: %v; %s.\n\n## Processor "+
		"time\n\n| part | share |\n|---|---|\n",
		filepath.Base(c.Model), d.Rate, seconds, m, time.Now().UTC().Format(time.DateOnly))
	ignore := strayed
	rest := 0.0
	for _, g := range groups {
		share, err := shareOf(c.Binary, cpuFile, g.focus, ignore)
		if err != nil {
			return err
		}
		fmt.Fprintf(&page, "| %s | %.2f %% |\n", g.name, share)
		if !strings.HasPrefix(g.name, "inference") {
			rest += share
		}
		ignore = strings.TrimPrefix(ignore+"|"+g.focus, "|")
	}
	busiest, all := busyThreads(threadsBefore, threadsAfter, m.Cores)
	fmt.Fprintf(&page, "\nAll that is not inference: **%.2f %%** of the samples. As a check, from /proc: of the "+
		"process's %.1f CPU seconds its %d runner threads used %.2f %%, all other threads (fetch, decode, tokenize, "+
		"commit, Go's runtime) %.2f %%.\n", rest, all, m.Cores, 100*busiest/all, 100*(all-busiest)/all)
	fmt.Fprintf(&page, "\n## Allocations of Go\n\n%.0f objects and %.0f bytes a record, everything in the process "+
		"counted, over %.0f records. Where they are made:\n\n```\n",
		(after["go_memstats_mallocs_total"]-before["go_memstats_mallocs_total"])/done,
		(after["go_memstats_alloc_bytes_total"]-before["go_memstats_alloc_bytes_total"])/done, done)
	top, err := exec.Command("go", "tool", "pprof", "-sample_index=alloc_space", "-top", "-nodecount=25", c.Binary,
		allocFile).Output()
	if err != nil {
		return fmt.Errorf("go tool pprof: %w", err)
	}
	page.Write(frames(top))
	page.WriteString("```\n\n## Processor time by function\n\n```\n")
	if top, err = exec.Command("go", "tool", "pprof", "-top", "-nodecount=30", "-ignore="+strayed, c.Binary,
		cpuFile).Output(); err != nil {
		return fmt.Errorf("go tool pprof: %w", err)
	}
	page.Write(frames(top))
	page.WriteString("```\n")
	return c.Publish(page.Bytes())
}

const results = `sluice_records_total{outcome="result"}`

// frames leaves out the head of pprof's output, which names files of this machine.
func frames(top []byte) []byte {
	if at := bytes.Index(top, []byte("      flat")); at >= 0 {
		return top[at:]
	}
	return top
}

var accounting = regexp.MustCompile(`Showing nodes accounting for [^,]+, ([0-9.]+)%|Active filters`)

// shareOf is the percentage of samples with focus on their stack and nothing of ignore.
func shareOf(binary, file, focus, ignore string) (float64, error) {
	args := []string{"tool", "pprof", "-top", "-nodecount=100000", "-nodefraction=0", "-edgefraction=0", "-focus=" +
		focus}
	if ignore != "" {
		args = append(args, "-ignore="+ignore)
	}
	var problems bytes.Buffer
	c := exec.Command("go", append(args, binary, file)...)
	c.Stderr = &problems
	b, err := c.Output()
	if strings.Contains(problems.String(), "matched no samples") {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("go tool pprof: %w\n%s", err, problems.String())
	}
	for _, found := range accounting.FindAllSubmatch(b, -1) {
		if len(found[1]) > 0 {
			return strconv.ParseFloat(string(found[1]), 64)
		}
	}
	return 0, nil
}

// threadTimes is the CPU seconds of every thread of a process so far (proc(5), stat); nil where there is no /proc.
func threadTimes(pid int) map[string]float64 {
	stats, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
	if err != nil {
		return nil
	}
	times := map[string]float64{}
	for _, file := range stats {
		b, err := os.ReadFile(file)
		if err != nil {
			continue // the thread has ended
		}
		fields := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
		user, err1 := strconv.ParseFloat(fields[11], 64)
		system, err2 := strconv.ParseFloat(fields[12], 64)
		if err1 == nil && err2 == nil {
			times[file] = (user + system) / 100 // USER_HZ
		}
	}
	return times
}

// busyThreads is what the n busiest threads used between two readings, and what all did.
func busyThreads(before, after map[string]float64, n int) (busiest, all float64) {
	var used []float64
	for file, t := range after {
		used = append(used, t-before[file])
		all += t - before[file]
	}
	slices.SortFunc(used, func(a, b float64) int { return cmp.Compare(b, a) })
	for _, u := range used[:min(n, len(used))] {
		busiest += u
	}
	return busiest, all
}

func fetch(url, file string) error {
	r, err := http.Get(url)
	if err != nil {
		return err
	}
	defer r.Body.Close()
	if r.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", url, r.Status)
	}
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, r.Body)
	return errors.Join(err, f.Close())
}

// scrape reads metrics of one value a line.
func scrape(url string) (map[string]float64, error) {
	r, err := http.Get(url)
	if err != nil {
		return nil, err
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	out := map[string]float64{}
	for line := range strings.SplitSeq(string(b), "\n") {
		if name, value, ok := strings.Cut(line, " "); ok && !strings.HasPrefix(line, "#") {
			if v, err := strconv.ParseFloat(value, 64); err == nil {
				out[name] = v
			}
		}
	}
	return out, nil
}
