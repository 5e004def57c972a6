package main

import (
	"bytes"
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
