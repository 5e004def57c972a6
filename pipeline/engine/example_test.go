package engine_test

import (
	"context"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"sluice/pipeline"
	"sluice/pipeline/engine"
	"sluice/pipeline/engine/enginetest"
)

// A model is loaded, asked and released. Here it is a function; a worker opens one with ort.Runtime.
func Example() {
	reg := prometheus.NewRegistry()
	fail := func(err error) { fmt.Println("the worker must stop:", err) }
	e := engine.New(engine.Options{
		Devices: []engine.Device{{Name: "cpu", Runners: 2}},
		Metrics: engine.NewMetrics(reg, pipeline.NewStageMetrics(reg, pipeline.StageMetricsOptions{})),
		Watchdog: pipeline.NewWatchdog(pipeline.WatchdogOptions{Timeout: 30 * time.Second, Grace: 10 * time.Second,
			Wedged: fail}),
		Fail: fail,
	})
	defer e.Close()

	length := &enginetest.Session{Run: func(rows []engine.Input) ([][]float32, error) {
		logits := make([][]float32, len(rows))
		for i, row := range rows {
			logits[i] = []float32{float32(row.Cost())}
		}
		return logits, nil
	}}
	defer length.Close()
	h, err := e.Load(context.Background(), engine.Model{Name: "length", Session: length, Probe: engine.Tokens{101,
		102}})
	if err != nil {
		fmt.Println(err)
		return
	}
	done := make(chan struct{})
	h.Submit(engine.Ask{Inputs: []engine.Input{engine.Tokens{101, 7592, 102}}, Done: func(a engine.Answer) {
		fmt.Println(a.Logits, a.Err)
		close(done)
	}})
	<-done
	h.Release() // from now on length may be closed

	// Output: [[3]] <nil>
}
