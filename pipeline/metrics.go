package pipeline

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// This file names every metric of the worker. Prefix sluice_, base units, and a help text that says what to do when the
// figure is high. Those that every stage has are in stagemetrics.go.

// Metrics are the counters of one worker.
type Metrics struct {
	*StageMetrics // of the classify stage
	batches       *prometheus.CounterVec
	tokens        *prometheus.CounterVec
	rows          *prometheus.CounterVec
	slots         *prometheus.CounterVec
	batchTokens   *prometheus.HistogramVec
	modelInfo     *prometheus.GaugeVec
	failed        *prometheus.CounterVec
	duplicates    *prometheus.CounterVec
	cacheHits     *prometheus.CounterVec
	cacheMisses   *prometheus.CounterVec
	reg           promauto.Factory // for what is there only with some options

	// children resolved once: the hot path adds to a counter, it does not look one up
	queueTime, inferTime prometheus.Observer
}

// seconds are the buckets of every latency: 0.5 ms to about a minute.
var seconds = prometheus.ExponentialBuckets(0.0005, 2, 18)

// NewMetrics registers all metrics with reg.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	f := promauto.With(reg)
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return f.NewCounterVec(prometheus.CounterOpts{Name: "sluice_" + name, Help: help}, labels)
	}
	m := &Metrics{
		StageMetrics: NewStageMetrics(reg, StageMetricsOptions{Dispositions: ClassifyDispositions}),
		batches: counter("batches_total", "Model runs by what closed the batch: budget (token budget reached), "+
			"drained (nothing more was waiting), shared (left the rest to idle runners), length (the rest is much "+
			"longer or shorter), "+
			"split (a failed batch being halved). Mostly budget means the worker is saturated: add workers.", "model",
			"reason"),
		tokens: counter("tokens_total", "Real tokens run through a model, special tokens included, padding excluded.",
			"model"),
		rows: counter("rows_total", "Texts, or windows of long texts, run through a model.", "model"),
		slots: counter("batch_slots_total", "Token places of all batches (rows times the longest row). "+
			"sluice_tokens_total / sluice_batch_slots_total is the fill factor; "+
			"when it is below about 0.6, texts of very unlike length meet in one batch.", "model"),
		batchTokens: f.NewHistogramVec(prometheus.HistogramOpts{Name: "sluice_batch_tokens", Help: "Real tokens of a " +
			"model run.",
			Buckets: prometheus.ExponentialBuckets(8, 2, 11)}, []string{"model"}),
		modelInfo: f.NewGaugeVec(prometheus.GaugeOpts{Name: "sluice_model_info", Help: "1 for every loaded model; " +
			"the labels say which bytes run on which provider."},
			[]string{"name", "model", "digest", "provider", "precision", "layout"}),
		duplicates: counter("duplicate_rows_total", "Rows answered by the run of an equal row that was waiting or "+
			"running at the time. A large share of sluice_rows_total: the cache (cache.max_bytes) would pay.", "model"),
		cacheHits: counter("cache_hits_total", "Rows whose logits were found in the cache. sluice_cache_hits_total "+
			"/ (hits + misses) is the hit rate.", "model"),
		cacheMisses: counter("cache_misses_total", "Rows that were not found in the cache. When nearly all are "+
			"misses the cache costs memory and gains nothing: set cache.max_bytes to 0; "+
			"when sluice_cache_bytes is at its limit, raise it.", "model"),
		reg: f,
		failed: counter("runs_failed_total", "Model runs that failed and were halved, or failed alone, by reason: "+
			"run-failed, not-finite, deadline, bad-row.", "model", "reason"),
	}
	m.queueTime = m.stage.WithLabelValues("queue")
	m.inferTime = m.stage.WithLabelValues("infer")
	return m
}

// watchCache reads the size of the cache when it is scraped.
func (m *Metrics) watchCache(c *resultCache) {
	m.reg.NewGaugeFunc(prometheus.GaugeOpts{Name: "sluice_cache_bytes", Help: "About how many bytes the cache holds. " +
		"At its limit (cache.max_bytes) with a low hit rate: raise it, or switch it off."},
		func() float64 { return float64(c.bytes()) })
}

// ModelLoaded publishes which model runs under a configured name.
func (m *Metrics) ModelLoaded(name, model, digest, provider, precision, layout string) {
	m.modelInfo.WithLabelValues(name, model, digest, provider, precision, layout).Set(1)
}
