package engine

import (
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"sluice/pipeline"
)

// This file names the metrics of models.

// Metrics are the counters of the models of one worker.
type Metrics struct {
	batches     *prometheus.CounterVec
	tokens      *prometheus.CounterVec
	rows        *prometheus.CounterVec
	slots       *prometheus.CounterVec
	batchTokens *prometheus.HistogramVec
	modelInfo   *prometheus.GaugeVec
	failed      *prometheus.CounterVec
	duplicates  *prometheus.CounterVec
	cacheHits   *prometheus.CounterVec
	cacheMisses *prometheus.CounterVec
	reg         promauto.Factory // for what is there only with some options

	// of the stage, resolved once: the hot path adds to a counter, it does not look one up
	queueTime, inferTime prometheus.Observer

	mu     sync.Mutex
	loaded map[[6]string]int // handles, by the labels of sluice_model_info
}

// NewMetrics registers the metrics of models with reg. How long rows wait and how long runs take is observed among the
// durations of the stage whose records they are.
func NewMetrics(reg prometheus.Registerer, stage *pipeline.StageMetrics) *Metrics {
	f := promauto.With(reg)
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return f.NewCounterVec(prometheus.CounterOpts{Name: "sluice_" + name, Help: help}, labels)
	}
	return &Metrics{
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
		failed: counter("runs_failed_total", "Model runs that failed and were halved, or failed alone, by reason: "+
			"run-failed, not-finite, deadline, bad-row.", "model", "reason"),
		reg:       f,
		queueTime: stage.Duration("queue"), inferTime: stage.Duration("infer"),
		loaded: map[[6]string]int{},
	}
}

// watchCache reads the size of the cache when it is scraped.
func (m *Metrics) watchCache(c *resultCache) {
	m.reg.NewGaugeFunc(prometheus.GaugeOpts{Name: "sluice_cache_bytes", Help: "About how many bytes the cache holds. " +
		"At its limit (cache.max_bytes) with a low hit rate: raise it, or switch it off."},
		func() float64 { return float64(c.bytes()) })
}

// here publishes that a model is loaded; gone, that it is no more. Two handles may have the same labels.
func (m *Metrics) here(labels [6]string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.loaded[labels]++
	m.modelInfo.WithLabelValues(labels[:]...).Set(1)
}

func (m *Metrics) gone(labels [6]string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.loaded[labels]--; m.loaded[labels] == 0 {
		delete(m.loaded, labels)
		m.modelInfo.DeleteLabelValues(labels[:]...)
	}
}

// modelCounters are a model's metrics, resolved once.
type modelCounters struct {
	rows, tokens, slots, duplicates, hits, misses prometheus.Counter
	batchTokens                                   prometheus.Observer
	reasons                                       map[BatchReason]prometheus.Counter
}

// of are the counters of the models that are called name.
func (m *Metrics) of(name string) modelCounters {
	c := modelCounters{
		rows: m.rows.WithLabelValues(name), tokens: m.tokens.WithLabelValues(name),
		slots: m.slots.WithLabelValues(name), duplicates: m.duplicates.WithLabelValues(name),
		hits: m.cacheHits.WithLabelValues(name), misses: m.cacheMisses.WithLabelValues(name),
		batchTokens: m.batchTokens.WithLabelValues(name), reasons: map[BatchReason]prometheus.Counter{},
	}
	for _, r := range []BatchReason{ByBudget, ByDrained, ByShare, ByLength, BySplit} {
		c.reasons[r] = m.batches.WithLabelValues(name, string(r))
	}
	return c
}
