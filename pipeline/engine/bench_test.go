package engine

import (
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"sluice/pipeline"
	"sluice/tokenize"
)

// BenchmarkAsk is what the engine itself does for a record of one window: queue, batch, run on a runner that costs
// nothing, settle. allocs/op are per record; a row that a tokenizer made adds none.
func BenchmarkAsk(b *testing.B) {
	reg := prometheus.NewRegistry()
	e := New(Options{Devices: []Device{{"cpu", 1}}, BatchTokens: 256, Fail: func(err error) { b.Error(err) },
		Metrics:  NewMetrics(reg, pipeline.NewStageMetrics(reg, pipeline.StageMetricsOptions{})),
		Watchdog: watchdog(pipeline.WatchdogOptions{Wedged: func(err error) { b.Error(err) }})})
	defer e.Close()
	h, err := e.Load(b.Context(), Model{Name: "m", Session: each(gateRunner{})})
	if err != nil {
		b.Fatal(err)
	}
	const many = 500
	windows := make([]tokenize.Encoding, many)
	for i := range windows {
		windows[i].IDs = []int32{int32(i), int32(i), 3, 4, 5, 6, 7, 8}
	}
	done := make(chan struct{}, many)
	b.ReportAllocs()
	for n := 0; n < b.N; n += many {
		for i := range windows {
			h.Submit(Ask{Inputs: []Input{&windows[i]}, Done: func(Answer) { done <- struct{}{} }})
		}
		for range windows {
			<-done
		}
	}
}
