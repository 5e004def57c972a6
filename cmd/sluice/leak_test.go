package main

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// leakSample is what the process holds after so many answers.
type leakSample struct {
	answers    int
	at         time.Duration
	resident   float64 // bytes
	goroutines int
	heap       float64 // bytes, live after the last collection
}

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

// slope is the least-squares slope of y over x.
func slope(x, y []float64) float64 {
	var mx, my, sxy, sxx float64
	for i := range x {
		mx += x[i] / float64(len(x))
		my += y[i] / float64(len(y))
	}
	for i := range x {
		sxy += (x[i] - mx) * (y[i] - my)
		sxx += (x[i] - mx) * (x[i] - mx)
	}
	return sxy / sxx
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
	words := strings.Fields("the hotel was lovely and quiet but the food took hours awful service friendly staff we will come back never again a view over the sea")
	in, feed := io.Pipe()
	go func() {
		rnd := rand.New(rand.NewPCG(1, 7))
		w := bufio.NewWriterSize(feed, 1<<16)
		every := total / long
		for i := range total {
			n := 3 + rnd.IntN(25)
			if i%every == every/2 && i/every < long {
				n = 1500 + rnd.IntN(1000)
			}
			for k := range n {
				if k > 0 {
					w.WriteByte(' ')
				}
				w.WriteString(words[rnd.IntN(len(words))])
			}
			fmt.Fprintf(w, " %d\n", i) // no two texts are equal
		}
		w.Flush()
		feed.Close()
	}()
	answers, out := io.Pipe()
	var errs bytes.Buffer
	code := make(chan int, 1)
	began := time.Now()
	go func() {
		c := execute([]string{"classify", "-m", dir}, in, out, &errs)
		out.Close()
		code <- c
	}()
	var samples []leakSample
	n := 0
	for sc := bufio.NewScanner(answers); sc.Scan(); {
		if n++; n%(total/200) != 0 {
			continue
		}
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		samples = append(samples, leakSample{n, time.Since(began), residentBytes(t), runtime.NumGoroutine(), float64(m.HeapAlloc)})
	}
	if c := <-code; c != exitDone || n != total {
		t.Fatalf("exit code %d, %d of %d answers\n%s", c, n, total, errs.String())
	}
	// The first quarter fills buffers, caches of allocators and the like.
	settled := samples[len(samples)/4:]
	var x, rss, running []float64
	least, most := settled[0].goroutines, settled[0].goroutines
	for _, s := range settled {
		x, rss, running = append(x, float64(s.answers)), append(rss, s.resident), append(running, float64(s.goroutines))
		least, most = min(least, s.goroutines), max(most, s.goroutines)
	}
	perThousand := slope(x, rss) * 1000
	grown := slope(x, rss) * (x[len(x)-1] - x[0])
	first, last := median(rss[:len(rss)/5]), median(rss[len(rss)*4/5:])
	t.Logf("%d texts in %s: RSS %.1f MiB at the beginning of what counts, %.1f MiB at the end, slope %+.0f bytes per 1,000 texts; goroutines %d to %d",
		n, time.Since(began).Round(time.Second), first/(1<<20), last/(1<<20), perThousand, least, most)
	// Timers of runs come and go, and towards the end the command winds down while its last answers are read.
	if before, after := median(running[:len(running)/5]), median(running[len(running)*4/5:]); after > before+3 || float64(most) > before+10 {
		t.Errorf("goroutines go from %.0f to %.0f, between %d and %d", before, after, least, most)
	}
	if grown > max(0.1*first, 24<<20) || last > first*1.15+(24<<20) {
		t.Errorf("resident memory grows by %.1f MiB over %d texts, from %.1f to %.1f MiB", grown/(1<<20), int(x[len(x)-1]-x[0]), first/(1<<20), last/(1<<20))
	}
	if report != "" {
		writeLeakReport(t, report, short, long, samples, perThousand, first, last, least, most)
	}
}

func median(v []float64) float64 {
	v = slices.Clone(v)
	slices.Sort(v)
	return v[len(v)/2]
}

func writeLeakReport(t *testing.T, file string, short, long int, samples []leakSample, perThousand, first, last float64, least, most int) {
	t.Helper()
	var b strings.Builder
	m := benchMachine()
	fmt.Fprintf(&b, "# Nothing leaks per text\n\n`make soak-leak`, %s, %s (%d cores), ONNX Runtime %s. `models/sentiment-tiny`, %d short texts (4 to 28 words, no two equal) and %d long ones (1,500 to 2,500 words) "+
		"through decoding, tokenizer, batcher, runners, post-processing and writer in one process, in %s.\n\n",
		time.Now().UTC().Format(time.DateOnly), m.CPU, m.Cores, m.Runtime, short, long, samples[len(samples)-1].at.Round(time.Second))
	fmt.Fprintf(&b, "Resident memory after the first quarter: slope %+.0f bytes per 1,000 texts; median %.1f MiB in the first fifth of what counts, %.1f MiB in the last. Goroutines: %d to %d.\n\n",
		perThousand, first/(1<<20), last/(1<<20), least, most)
	b.WriteString("| texts | seconds | RSS, MiB | Go heap, MiB | goroutines |\n| ---: | ---: | ---: | ---: | ---: |\n")
	for i := 9; i < len(samples); i += 10 {
		s := samples[i]
		fmt.Fprintf(&b, "| %d | %.0f | %.1f | %.1f | %d |\n", s.answers, s.at.Seconds(), s.resident/(1<<20), s.heap/(1<<20), s.goroutines)
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(b.String()), 0o644); err != nil {
		t.Fatal(err)
	}
}
