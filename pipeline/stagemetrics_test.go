package pipeline

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

// oddProcessor ends every job with an outcome that no stage declares.
type oddProcessor struct{}

func (oddProcessor) Process(j *Job) {
	d := Disposition("windowed")
	if j.Record.Offset == 3 {
		d = "\xff"
	}
	j.Done(Outcome{Disposition: d})
}

func TestADispositionThatWasNotDeclaredIsCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newFakeGroup(1, 10)
		reg := prometheus.NewRegistry()
		s := NewStage(oddProcessor{}, g, StageOptions{Metrics: NewStageMetrics(reg, StageMetricsOptions{
			Prefix: "odd_", Dispositions: []DispositionInfo{{"row", "one of a table"}, {DeadLetter, ""}}})})
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- s.Run(ctx, &fakeSource{group: g, rebalance: make(chan struct{})}) }()
		g.until(t)
		stop()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		const want = `
# HELP sluice_odd_records_total Input records whose outcome is durable, by outcome: row (one of a table), dead_letter. When dead_letter grows, look at sluice_dead_letters_total and at the headers in the dead letter topic.
# TYPE sluice_odd_records_total counter
sluice_odd_records_total{outcome="dead_letter"} 0
sluice_odd_records_total{outcome="row"} 0
sluice_odd_records_total{outcome="windowed"} 9
sluice_odd_records_total{outcome="` + "\uFFFD" + `"} 1
`
		if err := testutil.GatherAndCompare(reg, strings.NewReader(want), "sluice_odd_records_total"); err != nil {
			t.Error(err)
		}
	})
}

func TestHelpNamesTheDispositionsOfBothStages(t *testing.T) {
	for prefix, want := range map[string]struct {
		list []DispositionInfo
		help string
	}{
		"": {ClassifyDispositions, "result, empty (blank text), tombstone (null value), skipped (left out by a rule " +
			"of skip), deferred (an escalation request only), dead_letter. "},
		"escalation_": {EscalateDispositions, "amended (the endpoint's answer is the verdict), fallback (the local " +
			"verdict is final), compared (shadow), dead_letter. "},
	} {
		reg := prometheus.NewRegistry()
		NewStageMetrics(reg, StageMetricsOptions{Prefix: prefix, Dispositions: want.list})
		families, err := reg.Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range families {
			if f.GetName() == "sluice_"+prefix+"records_total" &&
				(!strings.Contains(f.GetHelp(), "by outcome: "+want.help) || len(f.GetMetric()) != len(want.list)) {
				t.Errorf("%s: %s, %d from the start", f.GetName(), f.GetHelp(), len(f.GetMetric()))
			}
		}
	}
}
