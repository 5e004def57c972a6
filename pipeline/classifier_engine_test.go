package pipeline_test

import (
	"testing"
	"time"

	"sluice/pipeline"
	"sluice/pipeline/engine"
	"sluice/pipeline/engine/enginetest"
	"sluice/tokenize"

	"github.com/prometheus/client_golang/prometheus"
)

func init() {
	pipeline.StartEngine(func(t testing.TB, names []string, cacheBytes int, run func([][]int32) ([][]float32, error),
		m *pipeline.StageMetrics, dog *pipeline.Watchdog, fail func(error)) ([]pipeline.Asker, func()) {
		e := engine.New(engine.Options{Devices: []engine.Device{{Name: "cpu", Runners: 2}}, BatchTokens: 256,
			CacheBytes: cacheBytes, Metrics: engine.NewMetrics(prometheus.NewRegistry(), m), Watchdog: dog, Fail: fail})
		var askers []pipeline.Asker
		for _, name := range names {
			h, err := e.Load(t.Context(), engine.Model{Name: name, Digest: name, Probe: engine.Tokens{1},
				Session: &enginetest.Session{Run: func(rows []engine.Input) ([][]float32, error) {
					ids := make([][]int32, len(rows))
					for i := range rows {
						ids[i] = rows[i].(interface{ TokenIDs() []int32 }).TokenIDs()
					}
					return run(ids)
				}}})
			if err != nil {
				t.Fatal(err)
			}
			askers = append(askers, ask(h))
		}
		return askers, e.Close
	})
}

func ask(h *engine.Handle) pipeline.Asker {
	return func(windows []tokenize.Encoding, urgent bool, since time.Time, done func([][]float32, bool, error)) {
		inputs := make([]engine.Input, len(windows))
		for k := range windows {
			inputs[k] = &windows[k]
		}
		h.Submit(engine.Ask{Inputs: inputs, Urgent: urgent, Since: since, Done: func(a engine.Answer) {
			done(a.Logits, a.Cached, a.Err)
		}})
	}
}
