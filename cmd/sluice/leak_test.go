package main

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"sluice/pipeline/pipelinetest/leak"
)

// residentBytes is the resident memory of this process.
func residentBytes(t *testing.T) float64 {
	b, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		t.Fatal(err)
	}
	pages, err := strconv.ParseFloat(strings.Fields(string(b))[1], 64)
	if err != nil {
		t.Fatal(err)
	}
	return pages * float64(os.Getpagesize())
}

// The whole way of a text through this process (decode, tokenize, batch, run, judge, write), many times: memory and
// goroutines stay what they are. make soak-leak runs it with 1,000,000 short and 10,000 long texts, and writes
// bench/results/leak.md; here it is 40,000 and 400.
func TestNothingLeaksPerText(t *testing.T) {
	if testing.Short() {
		t.Skip("-short")
	}
	dir := needModel(t, "sentiment-tiny")
	short, long := 40_000, 400
	report := os.Getenv("SOAK_LEAK_REPORT")
	if report != "" {
		short, long = 1_000_000, 10_000
	}
	total := short + long
	in, feed := io.Pipe()
	go func() {
		w := bufio.NewWriterSize(feed, 1<<16)
		for _, text := range leak.Texts(short, long) {
			fmt.Fprintln(w, text)
		}
		w.Flush()
		feed.Close()
	}()
	answers, out := io.Pipe()
	var errs bytes.Buffer
	code := make(chan int, 1)
	began := time.Now()
	go func() {
		c := execute(testProcess(), []string{"classify", "-m", dir}, in, out, &errs)
		out.Close()
		code <- c
	}()
	var samples []leak.Sample
	n := 0
	for sc := bufio.NewScanner(answers); sc.Scan(); {
		if n++; n%(total/200) != 0 {
			continue
		}
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		samples = append(samples, leak.Sample{Texts: n, At: time.Since(began), Resident: residentBytes(t),
			Heap: float64(m.HeapAlloc), Goroutines: runtime.NumGoroutine()})
	}
	if c := <-code; c != exitDone || n != total {
		t.Fatalf("exit code %d, %d of %d answers\n%s", c, n, total, errs.String())
	}
	v, err := leak.Judge(samples)
	t.Logf("%d texts in %s: %v", n, time.Since(began).Round(time.Second), v)
	if err != nil {
		t.Error(err)
	}
	if report != "" {
		writeLeakReport(t, report, short, long, samples, v)
	}
}

func writeLeakReport(t *testing.T, file string, short, long int, samples []leak.Sample, v leak.Verdict) {
	t.Helper()
	var b strings.Builder
	m := benchMachine()
	fmt.Fprintf(&b, "# Nothing leaks per text\n\n`make soak-leak`, %s, %s (%d cores), ONNX Runtime %s. "+
		"`models/sentiment-tiny`, %d short texts (4 to 28 words, no two equal) and %d long ones (1,500 to 2,500 "+
		"words) "+
		"through decoding, tokenizer, batcher, runners, post-processing and writer in one process, in %s.\n\n",
		time.Now().UTC().Format(time.DateOnly), m.CPU, m.Cores, m.Runtime, short, long,
		samples[len(samples)-1].At.Round(time.Second))
	fmt.Fprintf(&b, "Resident memory after the first quarter: slope %+.0f bytes per 1,000 texts; median %.1f MiB in "+
		"the first fifth of what counts, %.1f MiB in the last. Goroutines: %d to %d.\n\n",
		v.PerThousand, v.First/(1<<20), v.Last/(1<<20), v.Least, v.Most)
	b.WriteString("| texts | seconds | RSS, MiB | Go heap, MiB | goroutines |\n| ---: | ---: | ---: | ---: | ---: |\n")
	for i := 9; i < len(samples); i += 10 {
		s := samples[i]
		fmt.Fprintf(&b, "| %d | %.0f | %.1f | %.1f | %d |\n", s.Texts, s.At.Seconds(), s.Resident/(1<<20),
			s.Heap/(1<<20), s.Goroutines)
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(b.String()), 0o644); err != nil {
		t.Fatal(err)
	}
}
