package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"sluice/cmd/sluice/worker"
	"sluice/pipeline"
	"sluice/pipeline/pipelinetest"
)

// deadlyText in a record ends the process that begins to process it, as a crash in native code or the kernel's OOM
// killer would. Only processes with deadlyEnv set.
const (
	deadlyText = "this text ends the process"
	deadlyEnv  = "TEST_DEADLY_TEXTS"
)

type deadly struct{ pipeline.Processor }

func (d deadly) Process(j *pipeline.Job) {
	if bytes.Contains(j.Record.Value, []byte(deadlyText)) {
		syscall.Kill(os.Getpid(), syscall.SIGKILL)
	}
	d.Processor.Process(j)
}

func init() {
	if os.Getenv(deadlyEnv) != "" {
		hooks = append(hooks, func(h *worker.Hooks) {
			h.Processor = func(p pipeline.Processor) pipeline.Processor { return deadly{p} }
		})
	}
}

// A supervisor that starts the worker again is all that is needed: after four deaths the record is in the dead letters,
// all others have their results, and nothing tells of it on a disk.
func TestARecordThatKillsTheProcessIsQuarantinedAcrossRestarts(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: no real broker")
	}
	dir := needModel(t, "sentiment-tiny")
	broker, listener := pipelinetest.TestListener(t)
	topics := []string{"deadly_reviews", "deadly_analysis", "deadly_dlq"}
	client := broker.Client(t)
	admin := kadm.NewClient(client)
	if _, err := admin.CreateTopics(t.Context(), 3, 1, nil, topics...); err != nil {
		t.Fatal(err)
	}
	const records = 900
	var input []*kgo.Record
	for i := range records {
		value := fmt.Sprintf(`{"id":%d,"text":"Review number %d of a hotel by the sea."}`, i, i)
		if i == 400 {
			value = fmt.Sprintf(`{"id":%d,"text":"%s"}`, i, deadlyText)
		}
		input = append(input, &kgo.Record{Topic: topics[0], Partition: int32(i % 3), Value: []byte(value)})
	}
	if err := client.ProduceSync(t.Context(), input...).FirstErr(); err != nil {
		t.Fatal(err)
	}
	config := runConfigBy(t, broker, listener, dir, "customer_reviews", topics[0], "review_analysis", topics[1],
		"review_dlq", topics[2], "group: reviews", "group: deadly")

	t.Setenv(deadlyEnv, "1")
	var got []*kgo.Record
	done := follow(t, broker.Addrs()[0], records, &got, topics[1:]...)
	deaths := 0
	var last *workerProcess
	for finished := false; !finished; {
		last = startWorker(t, "-c", config, "--kafka.commit_interval=20ms")
		select {
		case <-last.done:
			if deaths++; deaths > 6 {
				t.Fatalf("%d deaths\n%s", deaths, last.logs())
			}
		case <-done:
			finished = true
		}
	}
	if len(got) != records {
		t.Fatalf("%d of %d records, %d deaths\n%s", len(got), records, deaths, last.logs())
	}
	for _, r := range got {
		if (r.Topic == topics[2]) != bytes.Contains(r.Value, []byte(deadlyText)) || r.Topic == topics[2] &&
			!strings.Contains(fmt.Sprintf("%s", r.Headers), "killed-the-worker") {
			t.Errorf("%s is in %s: %s", r.Value, r.Topic, r.Headers)
		}
	}
	last.cmd.Process.Signal(syscall.SIGTERM)
	if code := last.exit(t); code != exitDone {
		t.Errorf("exit code %d after SIGTERM\n%s", code, last.logs())
	}
	if deaths != 4 {
		t.Errorf("%d deaths; four were due: in company, among few, and two alone", deaths)
	}
	if !strings.Contains(last.logs(), "has killed the worker again and again") {
		t.Errorf("nothing in the log:\n%s", last.logs())
	}
	t.Logf("%d deaths", deaths)
	offsets, err := admin.FetchOffsets(t.Context(), "deadly")
	if err != nil {
		t.Fatal(err)
	}
	offsets.Each(func(o kadm.OffsetResponse) {
		if strings.Contains(o.Metadata, "open") || strings.Contains(o.Metadata, "alone") {
			t.Errorf("%s-%d: %s is left after a clean stop", o.Topic, o.Partition, o.Metadata)
		}
	})
	grantVerify(t, broker, listener, topics[1:]...)
	if r := finish(t, sluice(t, "verify", "-c", config)); r.code != exitDone {
		t.Errorf("verify: %d\n%s%s", r.code, r.out, r.err)
	}
}

// follow appends what is visible in topics to got until there are n records. What it returns is closed then, or after
// two minutes.
func follow(t *testing.T, address string, n int, got *[]*kgo.Record, topics ...string) <-chan struct{} {
	t.Helper()
	reader, err := kgo.NewClient(append(pipelinetest.Administrator([]string{address}), kgo.ConsumeTopics(topics...),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))...)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for len(*got) < n && ctx.Err() == nil {
			reader.PollFetches(ctx).EachRecord(func(r *kgo.Record) { *got = append(*got, r) })
		}
	}()
	t.Cleanup(func() {
		cancel()
		<-done
		reader.Close()
	})
	return done
}
