package plan

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"sluice/pipeline"
)

// Metrics are the counters of a plan.
type Metrics struct {
	urgent    prometheus.Counter
	retries   *prometheus.CounterVec
	fallbacks *prometheus.CounterVec
	local     prometheus.Observer // seconds from taking records in to the end of their local steps
}

// NewMetrics registers the metrics of a plan with reg; the time of local steps goes to those of its stage.
func NewMetrics(reg prometheus.Registerer, stage *pipeline.StageMetrics) *Metrics {
	f := promauto.With(reg)
	return &Metrics{
		urgent: f.NewCounter(prometheus.CounterOpts{Name: "sluice_urgent_records_total", Help: "Records that went " +
			"first, by the rules of the section urgent. When it is most of sluice_records_total nothing is urgent " +
			"any more: narrow the rules."}),
		retries: f.NewCounterVec(prometheus.CounterOpts{Name: "sluice_step_retries_total", Help: "Steps of records " +
			"that were tried again because what they ask was away, by step. Growing: look at what the step asks; " +
			"records wait for it, and the lag grows."}, []string{"step"}),
		fallbacks: f.NewCounterVec(prometheus.CounterOpts{Name: "sluice_step_fallbacks_total",
			Help: "Steps of records that did not end within their deadline and were replaced by what was declared " +
				"for that, by step. When high, look at what the step asks, or give it more time."}, []string{"step"}),
		local: stage.Duration("tokenize"),
	}
}

func (m *Metrics) retried(step string) { m.retries.WithLabelValues(step).Inc() }

func (m *Metrics) fellBack(step string) { m.fallbacks.WithLabelValues(step).Inc() }
