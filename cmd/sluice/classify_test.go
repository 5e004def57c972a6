package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"sluice/pipeline"
	"sluice/pipeline/publish"
)

// echo answers jobs in any order: with the line itself, or with a dead letter for a line that begins with "bad".
type echo struct {
	writer publish.Publisher
	wg     sync.WaitGroup
}

func (e *echo) Process(j *pipeline.Job) {
	e.wg.Go(func() {
		for range rand.N(20) { // let others overtake
			time.Sleep(0)
		}
		if bytes.HasPrefix(j.Record.Value, []byte("bad")) {
			j.Done(e.writer.DeadLetter(j.Record, pipeline.Faultf(pipeline.Poison, "decode", "is-bad", "it says so"), 0))
			return
		}
		m := pipeline.Message{Topic: linesOut, Source: lines, Value: j.Record.Value}
		j.Done(pipeline.Outcome{Messages: []pipeline.Message{m}, Disposition: pipeline.Scored})
	})
}

func runEcho(ctx context.Context, in io.Reader, out io.Writer, limits pipeline.Limits) (string, error) {
	var errw bytes.Buffer
	var stage atomic.Pointer[pipeline.Stage]
	p := &echo{writer: publish.Publisher{DeadLetters: linesBad}}
	err := runLines(ctx, in, out, p, limits, pipeline.NewStageMetrics(prometheus.NewRegistry(),
		pipeline.StageMetricsOptions{}), &errw, &stage)
	p.wg.Wait()
	return errw.String(), err
}

func TestLinesComeOutInOrderUnderAnyLimit(t *testing.T) {
	var in strings.Builder
	for i := range 5000 {
		fmt.Fprintf(&in, "line %d\n", i)
	}
	small := pipeline.Limits{PartitionRecords: 7, PartitionBytes: 100, PartitionTokens: 10, TotalRecords: 9,
		TotalBytes: 200, TotalTokens: 20}
	for name, limits := range map[string]pipeline.Limits{"default": pipeline.DefaultLimits, "small": small} {
		var out bytes.Buffer
		if _, err := runEcho(t.Context(), strings.NewReader(in.String()), &out, limits); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if out.String() != in.String() {
			t.Errorf("%s limits: the lines came out otherwise than they went in", name)
		}
	}
}

func TestBadLinesAreAnsweredAndCounted(t *testing.T) {
	var out bytes.Buffer
	said, err := runEcho(t.Context(), strings.NewReader("a\nbad\r\n\nb"), &out, pipeline.DefaultLimits)
	if exitCode(err) != exitFailed || !strings.Contains(said, "1 of 4 lines could not be judged") {
		t.Errorf("%v, %s", err, said)
	}
	if want := "a\n" + `{"error":"it says so","reason":"is-bad","line":2}` + "\n\nb\n"; out.String() != want {
		t.Errorf("%q, want %q", out.String(), want)
	}
}

// failing fails after its text.
type failing struct{ text io.Reader }

func (f *failing) Read(b []byte) (int, error) {
	if n, err := f.text.Read(b); err == nil {
		return n, nil
	}
	return 0, errors.New("the disk is gone")
}

func TestAnInputThatFailsIsNamedWithItsLine(t *testing.T) {
	var out bytes.Buffer
	_, err := runEcho(t.Context(), &failing{strings.NewReader("a\nb\n")}, &out, pipeline.DefaultLimits)
	if err == nil || err.Error() != "reading line 3: the disk is gone" || out.String() != "a\nb\n" {
		t.Errorf("%v, %q", err, out.String())
	}
}

type closed struct{}

func (closed) Write([]byte) (int, error) { return 0, errors.New("broken pipe") }

func TestAnOutputThatFailsEndsTheRun(t *testing.T) {
	_, err := runEcho(t.Context(), strings.NewReader("a\nb\n"), closed{}, pipeline.DefaultLimits)
	if err == nil || !strings.Contains(err.Error(), "writing the output: broken pipe") || exitCode(err) != exitFailed {
		t.Errorf("%v", err)
	}
}

func TestASignalFinishesTheLinesThatWereRead(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	in, feed := io.Pipe()
	defer feed.Close()
	out, answers := io.Pipe()
	done := make(chan error, 1)
	go func() {
		_, err := runEcho(ctx, in, answers, pipeline.DefaultLimits)
		done <- err
	}()
	go io.WriteString(feed, "a\n")
	got := make([]byte, 2)
	if _, err := io.ReadFull(out, got); err != nil || string(got) != "a\n" {
		t.Fatalf("%q, %v", got, err)
	}
	cancel() // the input is still open
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(30 * time.Second):
		t.Error("the run goes on after the signal")
	}
}

func TestALineOfAnyLengthIsReadOrRefused(t *testing.T) {
	long := strings.Repeat("x", 200_000)
	records := make(chan pipeline.Record, 10)
	err := readLines(t.Context(), strings.NewReader("a\n"+long+"\n"+strings.Repeat("y", longestLine+100_000)+"\nb\n"),
		records)
	close(records)
	var sizes []int
	for r := range records {
		sizes = append(sizes, len(r.Value))
	}
	if err != nil || len(sizes) != 4 || sizes[0] != 1 || sizes[1] != len(long) || sizes[2] <= longestLine ||
		sizes[2] > longestLine+1<<17 || sizes[3] != 1 {
		t.Errorf("%v, %v", sizes, err)
	}
}

// Files of other programs: what is no plain UTF-8 comes in as the same lines.
func TestFilesOfOtherProgramsAreReadAsTheSameLines(t *testing.T) {
	plain := "{\"text\":\"größer\"}\nzwei\n"
	var packed, twice bytes.Buffer
	z := gzip.NewWriter(&packed)
	io.WriteString(z, plain)
	z.Close()
	z = gzip.NewWriter(&twice)
	z.Write(packed.Bytes())
	z.Close()
	utf16 := "\xff\xfe"
	for _, r := range plain {
		utf16 += string([]byte{byte(r), byte(r >> 8)})
	}
	for name, in := range map[string]string{"plain": plain, "byte order mark": "\ufeff" + plain, "UTF-16": utf16,
		"gzip": packed.String(), "CR LF": strings.ReplaceAll(plain, "\n", "\r\n"),
		"CR": strings.ReplaceAll(plain, "\n", "\r"), "no end": plain[:len(plain)-1]} {
		var out bytes.Buffer
		said, err := runEcho(t.Context(), strings.NewReader(in), &out, pipeline.DefaultLimits)
		if err != nil || out.String() != plain || said != "" {
			t.Errorf("%s: %q, %v, %s", name, out.String(), err, said)
		}
	}
	for in, want := range map[string]string{"PAR1\x15\x04": "classify: the input is a Parquet file; write its rows",
		twice.String(): "classify: the input is compressed twice",
		"\xff\xfea":    "the input is UTF-16 and ends in the middle"} {
		var out bytes.Buffer
		_, err := runEcho(t.Context(), strings.NewReader(in), &out, pipeline.DefaultLimits)
		if exitCode(err) != exitUsage || !strings.Contains(err.Error(), want) || out.Len() > 0 {
			t.Errorf("%q: %v, %q", in, err, out.String())
		}
	}
	large := strings.Repeat("a line\n", 200_000)
	packed.Reset()
	z = gzip.NewWriter(&packed)
	io.WriteString(z, large)
	z.Close()
	var out bytes.Buffer
	_, err := runEcho(t.Context(), strings.NewReader(packed.String()[:packed.Len()-20]), &out, pipeline.DefaultLimits)
	if exitCode(err) != exitFailed || !strings.Contains(err.Error(),
		": the input is compressed (gzip) and ends too early") {
		t.Errorf("%v", err)
	}
	if !strings.HasPrefix(out.String(), "a line\na line\n") {
		t.Error("what came before the damage has no answer")
	}
}

func TestLinesThatAreNotUTF8AreToldOf(t *testing.T) {
	var out bytes.Buffer
	said, err := runEcho(t.Context(), strings.NewReader("gut\ngr\xf6\xdfer\nsch\xf6n\n"), &out, pipeline.DefaultLimits)
	if err != nil || !strings.Contains(said, "2 of 3 lines are not UTF-8 (the first is line 2)") ||
		!strings.Contains(said, "iconv -f WINDOWS-1252 -t UTF-8") {
		t.Errorf("%v, %s", err, said)
	}
}

func TestALineWithANULByteIsRefused(t *testing.T) {
	never := processor(func(*pipeline.Job) { t.Error("it was judged") })
	p := &lineProcessor{format: "auto", json: never, text: never, bad: publish.Publisher{DeadLetters: linesBad}}
	var out, errw bytes.Buffer
	var stage atomic.Pointer[pipeline.Stage]
	err := runLines(t.Context(), strings.NewReader("a\x00b\n"), &out, p, pipeline.DefaultLimits,
		pipeline.NewStageMetrics(prometheus.NewRegistry(), pipeline.StageMetricsOptions{}), &errw, &stage)
	if exitCode(err) != exitFailed || !strings.Contains(out.String(), `"reason":"not-text","line":1`) ||
		!strings.Contains(out.String(), "the line holds a NUL byte, which no text has; if the file is UTF-16") {
		t.Errorf("%v, %s", err, out.String())
	}
}

// processor is one function.
type processor func(*pipeline.Job)

func (p processor) Process(j *pipeline.Job) { p(j) }
