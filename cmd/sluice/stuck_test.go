package main

import (
	"bytes"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"sluice/cmd/sluice/worker"
	"sluice/tokenize"
)

// stuckText in a record is a text that the tokenizer never comes back from, as one with a loop without an end would.
// Only in processes with stuckEnv set, which do not wait long.
const (
	stuckText = "this text has no end"
	stuckEnv  = "TEST_STUCK_TEXTS"
)

type stuck struct{ tokenize.Tokenizer }

func (s stuck) Encode(texts [][]byte, o tokenize.Options) []tokenize.Encoded {
	for _, text := range texts {
		if bytes.Contains(text, []byte(stuckText)) {
			select {}
		}
	}
	return s.Tokenizer.Encode(texts, o)
}

func init() {
	if os.Getenv(stuckEnv) != "" {
		hooks = append(hooks, func(h *worker.Hooks) {
			h.Tokenizer = func(t tokenize.Tokenizer) tokenize.Tokenizer { return stuck{t} }
			h.WedgedGrace, h.WedgedExit = 300*time.Millisecond, 300*time.Millisecond
		})
	}
}

// A tokenizer that hangs is left with its process, which says why; a supervisor that starts the worker again is all
// that is needed to find the record.
func TestATextThatTheTokenizerHangsOnIsQuarantinedAcrossRestarts(t *testing.T) {
	dir := needModel(t, "sentiment-tiny")
	address, _ := cluster(t, "customer_reviews", "review_analysis", "review_dlq")
	config := runConfig(t, address, dir)
	t.Setenv(stuckEnv, "1")
	var values []string
	for i := range 61 {
		text := "What a lovely day"
		if i == 30 {
			text = stuckText
		}
		values = append(values, fmt.Sprintf(`{"id":%d,"text":%q}`, i, text))
	}
	produce(t, address, values...)
	var got []*kgo.Record
	done := follow(t, address, len(values), &got, "review_analysis", "review_dlq")
	deaths := 0
	var last *workerProcess
	for finished := false; !finished; {
		last = startWorker(t, "-c", config, "--run_timeout=3s", "--kafka.commit_interval=20ms")
		select {
		case <-last.done:
			if deaths++; deaths > 6 {
				t.Fatalf("%d deaths\n%s", deaths, last.logs())
			}
			log := last.logs()
			if code := last.cmd.ProcessState.ExitCode(); code != exitFailed ||
				!strings.Contains(log, "been tokenized for") || !strings.Contains(log, "will be processed again "+
				"after a restart") {
				t.Errorf("exit code %d; the log does not say why:\n%s", code, log)
			}
		case <-done:
			finished = true
		}
	}
	if len(got) != len(values) {
		t.Fatalf("%d of %d records, %d deaths\n%s", len(got), len(values), deaths, last.logs())
	}
	for _, r := range got {
		if (r.Topic == "review_dlq") != bytes.Contains(r.Value, []byte(stuckText)) || r.Topic == "review_dlq" &&
			!strings.Contains(fmt.Sprintf("%s", r.Headers), "killed-the-worker") {
			t.Errorf("%s is in %s: %s", r.Value, r.Topic, r.Headers)
		}
	}
	if deaths < 2 || deaths > 5 {
		t.Errorf("%d deaths; two in company and two alone were due", deaths)
	}
	last.cmd.Process.Signal(syscall.SIGTERM)
	if code := last.exit(t); code != exitDone {
		t.Errorf("exit code %d after SIGTERM\n%s", code, last.logs())
	}
}
