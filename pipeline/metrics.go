package pipeline

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// This file names the metrics of what is done to a record around the models. Those that every stage has are in
// stagemetrics.go, those of models in package engine. Prefix sluice_, base units, and a help text that says what to do
// when the figure is high.

// Metrics are the counters of the classify stage.
type Metrics struct {
	*StageMetrics
	student *prometheus.CounterVec
	urgent  prometheus.Counter

	// resolved once: the hot path adds to a counter, it does not look one up
	tokenizeTime prometheus.Observer
}

// seconds are the buckets of every latency: 0.5 ms to about a minute.
var seconds = prometheus.ExponentialBuckets(0.0005, 2, 18)

// NewMetrics registers the metrics with reg.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	f := promauto.With(reg)
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return f.NewCounterVec(prometheus.CounterOpts{Name: "sluice_" + name, Help: help}, labels)
	}
	m := &Metrics{
		StageMetrics: NewStageMetrics(reg, ""),
		student: counter("student_verdicts_total", "Records that a student model looked at, by result: final (it was "+
			"sure), unsure (the full model was asked). Mostly unsure: the student costs more than it saves; lower "+
			"student_threshold or remove it.", "model", "result"),
		urgent: f.NewCounter(prometheus.CounterOpts{Name: "sluice_urgent_records_total", Help: "Records that went " +
			"first, by the rules of the section urgent. When it is most of sluice_records_total nothing is urgent " +
			"any more: narrow the rules."}),
	}
	m.tokenizeTime = m.Duration("tokenize")
	return m
}
