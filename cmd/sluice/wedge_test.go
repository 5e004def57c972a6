package main

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"sluice/cmd/sluice/worker"
	"sluice/model"
	"sluice/pipeline/engine"
)

// wedgeEnv names a file: while it is there, model runs never end.
const wedgeEnv = "TEST_WEDGE_FILE"

type wedging struct {
	engine.Runner
	file string
}

// wedgingRuntime opens models whose runners are wedging.
type wedgingRuntime struct {
	engine.Runtime
	file string
}

func (w wedgingRuntime) Open(m *model.Model, o engine.RuntimeOptions) (engine.Session, error) {
	s, err := w.Runtime.Open(m, o)
	if err != nil {
		return nil, err
	}
	return wedgingSession{s, w.file}, nil
}

type wedgingSession struct {
	engine.Session
	file string
}

func (w wedgingSession) NewRunner(n int) (engine.Runner, error) {
	r, err := w.Session.NewRunner(n)
	if err != nil {
		return nil, err
	}
	return wedging{r, w.file}, nil
}

func (w wedging) Run(ctx context.Context, rows []engine.Input) ([][]float32, error) {
	if _, err := os.Stat(w.file); err == nil {
		select {} // as native code that does not look at what it is told
	}
	return w.Runner.Run(ctx, rows)
}

func init() {
	if file := os.Getenv(wedgeEnv); file != "" {
		hooks = append(hooks, func(h *worker.Hooks) {
			h.Runtime = func(r engine.Runtime) engine.Runtime { return wedgingRuntime{r, file} }
		})
	}
}

func TestAWorkerWithAHangingRunSaysSoAndEnds(t *testing.T) {
	dir := needModel(t, "sentiment-tiny")
	address, _ := cluster(t, "customer_reviews", "review_analysis", "review_dlq")
	config := runConfig(t, address, dir)
	file := filepath.Join(t.TempDir(), "wedged")
	t.Setenv(wedgeEnv, file)
	w := startWorker(t, "-c", config, "--run_timeout=2s", "--runners=1")
	w.waitReady(t)
	produce(t, address, `{"id":1,"text":"What a lovely day"}`)
	consume(t, address, 1, "review_analysis")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	produce(t, address, `{"id":2,"text":"What another lovely day"}`)
	if code := w.exit(t); code != exitFailed {
		t.Errorf("exit code %d", code)
	}
	if log := w.logs(); !strings.Contains(log, "does not end, although its time was over") ||
		!strings.Contains(log, "will be processed again after a restart") {
		t.Errorf("the log does not say why:\n%s", log)
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	startWorker(t, "-c", config)
	if got := consume(t, address, 2, "review_analysis"); !strings.Contains(string(got[0].Value)+string(got[1].Value),
		`"id":2`) {
		t.Errorf("results: %s, %s", got[0].Value, got[1].Value)
	}
}
