package pipeline

import (
	"errors"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// This file names every metric of the worker. Prefix sluice_, base units, and a help text that says what to do when the
// figure is high. Values that live in the ledger are read when they are scraped (Stage.Collect), not written per record.

// Metrics are the counters of one worker.
type Metrics struct {
	records      *prometheus.CounterVec
	deadLetters  *prometheus.CounterVec
	batches      *prometheus.CounterVec
	tokens       *prometheus.CounterVec
	rows         *prometheus.CounterVec
	slots        *prometheus.CounterVec
	batchTokens  *prometheus.HistogramVec
	stage        *prometheus.HistogramVec
	endToEnd     prometheus.Histogram
	transactions *prometheus.CounterVec
	commitTime   prometheus.Histogram
	rebalances   prometheus.Counter
	retries      *prometheus.CounterVec
	member       prometheus.Gauge
	unstable     prometheus.Gauge
	modelInfo    *prometheus.GaugeVec
	failed       *prometheus.CounterVec
	duplicates   *prometheus.CounterVec
	cacheHits    *prometheus.CounterVec
	cacheMisses  *prometheus.CounterVec
	student      *prometheus.CounterVec
	urgent       prometheus.Counter
	ruleErrors   *prometheus.CounterVec
	reg          promauto.Factory // for what is there only with some options

	// children resolved once: the hot path adds to a counter, it does not look one up
	dispositions                            map[Disposition]prometheus.Counter
	queueTime, tokenizeTime, inferTime, all prometheus.Observer
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
		records: counter("records_total", "Input records whose outcome is durable, by outcome: result, empty (blank text), tombstone (null value), dead_letter. "+
			"When dead_letter grows, look at sluice_dead_letters_total and at the headers in the dead letter topic.", "outcome"),
		deadLetters: counter("dead_letters_total", "Records sent to the dead letter topic, by the stage and reason that also stand in their headers. "+
			"When high, read one with a console consumer: the sluice.error.* headers say what is wrong with it.", "stage", "reason"),
		batches: counter("batches_total", "Model runs by what closed the batch: budget (token budget reached), drained (nothing more was waiting), shared (left the rest to idle runners), length (the rest is much longer or shorter), "+
			"split (a failed batch being halved). Mostly budget means the worker is saturated: add workers.", "model", "reason"),
		tokens: counter("tokens_total", "Real tokens run through a model, special tokens included, padding excluded.", "model"),
		rows:   counter("rows_total", "Texts, or windows of long texts, run through a model.", "model"),
		slots: counter("batch_slots_total", "Token places of all batches (rows times the longest row). sluice_tokens_total / sluice_batch_slots_total is the fill factor; "+
			"when it is below about 0.6, texts of very unlike length meet in one batch.", "model"),
		batchTokens: f.NewHistogramVec(prometheus.HistogramOpts{Name: "sluice_batch_tokens", Help: "Real tokens of a model run.",
			Buckets: prometheus.ExponentialBuckets(8, 2, 11)}, []string{"model"}),
		stage: f.NewHistogramVec(prometheus.HistogramOpts{Name: "sluice_stage_duration_seconds", Buckets: seconds,
			Help: "Time a record (queue: from fetch to the start of its first model run; total: from fetch to durable) or a batch (tokenize, infer) spends in a stage. " +
				"queue high and infer low: too few workers; infer high: long texts or too few cores."}, []string{"stage"}),
		endToEnd: f.NewHistogram(prometheus.HistogramOpts{Name: "sluice_end_to_end_duration_seconds", Buckets: prometheus.ExponentialBuckets(0.001, 2, 20),
			Help: "From the timestamp of an input record to its result being durable. High with low sluice_stage_duration_seconds{stage=\"total\"}: the record was old when it was fetched (lag)."}),
		transactions: counter("transactions_total", "Commits by result: committed, retried (aborted, repeated from the ledger), rebalanced (given up to a new owner), split (a message too large), failed.", "result"),
		commitTime: f.NewHistogram(prometheus.HistogramOpts{Name: "sluice_transaction_duration_seconds", Buckets: seconds,
			Help: "Time from the beginning to the end of a commit. Above about 0.1 s: look at the brokers (replication, disk, coordinator moves)."}),
		rebalances: f.NewCounter(prometheus.CounterOpts{Name: "sluice_rebalances_total", Help: "Times the group was joined again. Growing without deployments: a worker dies or is too slow to send heartbeats."}),
		retries:    counter("kafka_retries_total", "Kafka requests repeated, by request and error code. A few around restarts are normal.", "request", "code"),
		member:     f.NewGauge(prometheus.GaugeOpts{Name: "sluice_group_joined", Help: "1 while this worker is a member of its consumer group with an assignment."}),
		unstable: f.NewGauge(prometheus.GaugeOpts{Name: "sluice_unstable_offsets_seconds", Help: "How long the group's offsets have been held up by an open transaction of another worker; 0 when they are not. " +
			"Above transaction_timeout: a transaction hangs; start the worker with that instance id, or end it with kafka-transactions abort."}),
		modelInfo: f.NewGaugeVec(prometheus.GaugeOpts{Name: "sluice_model_info", Help: "1 for every loaded model; the labels say which bytes run on which provider."},
			[]string{"name", "model", "digest", "provider", "precision", "layout"}),
		duplicates: counter("duplicate_rows_total", "Rows answered by the run of an equal row that was waiting or running at the time. A large share of sluice_rows_total: the cache (cache.max_bytes) would pay.", "model"),
		cacheHits:  counter("cache_hits_total", "Rows whose logits were found in the cache. sluice_cache_hits_total / (hits + misses) is the hit rate.", "model"),
		cacheMisses: counter("cache_misses_total", "Rows that were not found in the cache. When nearly all are misses the cache costs memory and gains nothing: set cache.max_bytes to 0; "+
			"when sluice_cache_bytes is at its limit, raise it.", "model"),
		student: counter("student_verdicts_total", "Records that a student model looked at, by result: final (it was sure), unsure (the full model was asked). Mostly unsure: the student costs more than it saves; lower student_threshold or remove it.", "model", "result"),
		urgent:  f.NewCounter(prometheus.CounterOpts{Name: "sluice_urgent_records_total", Help: "Records that went first, by the rules of the section urgent. When it is most of sluice_records_total nothing is urgent any more: narrow the rules."}),
		ruleErrors: counter("rule_errors_total", "Records on which a rule of the configuration could not be evaluated; it then does not hold. "+
			"When it grows, a field that the rule compares is missing or of another type.", "rule"),
		reg:    f,
		failed: counter("runs_failed_total", "Model runs that failed and were halved, or failed alone, by reason: run-failed, not-finite, deadline, bad-row.", "model", "reason"),
	}
	m.dispositions = map[Disposition]prometheus.Counter{}
	for _, d := range []Disposition{Scored, Empty, Tombstone, DeadLetter} {
		m.dispositions[d] = m.records.WithLabelValues(string(d))
	}
	for _, r := range []string{"committed", "retried", "rebalanced", "split", "failed"} {
		m.transactions.WithLabelValues(r)
	}
	m.queueTime = m.stage.WithLabelValues("queue")
	m.tokenizeTime = m.stage.WithLabelValues("tokenize")
	m.inferTime = m.stage.WithLabelValues("infer")
	m.all = m.stage.WithLabelValues("total")
	return m
}

// transaction counts a commit by its result.
func (m *Metrics) transaction(err error, took time.Duration) {
	result := "failed"
	var tooLarge *TooLargeError
	switch {
	case err == nil:
		result = "committed"
		m.commitTime.Observe(took.Seconds())
	case errors.As(err, &tooLarge):
		result = "split"
	case KindOf(err) == Transient:
		result = "retried"
	case KindOf(err) == Rebalance:
		result = "rebalanced"
	}
	m.transactions.WithLabelValues(result).Inc()
}

// durable counts a record whose outcome has been committed.
func (m *Metrics) durable(r *Record, o *Outcome, arrived, now time.Time) {
	m.dispositions[o.Disposition].Inc()
	if o.Disposition == DeadLetter && o.Fault != nil {
		m.deadLetters.WithLabelValues(o.Fault.Stage, o.Fault.Reason).Inc()
	}
	m.all.Observe(now.Sub(arrived).Seconds())
	if !r.Timestamp.IsZero() {
		m.endToEnd.Observe(max(0, now.Sub(r.Timestamp).Seconds()))
	}
}

// watchCache reads the size of the cache when it is scraped.
func (m *Metrics) watchCache(c *resultCache) {
	m.reg.NewGaugeFunc(prometheus.GaugeOpts{Name: "sluice_cache_bytes", Help: "About how many bytes the cache holds. At its limit (cache.max_bytes) with a low hit rate: raise it, or switch it off."},
		func() float64 { return float64(c.bytes()) })
}

// Rebalanced counts a join of the group. For the Kafka client's observer.
func (m *Metrics) Rebalanced() { m.rebalances.Inc() }

// Retried counts a repeated Kafka request. For the Kafka client's observer.
func (m *Metrics) Retried(request string, code int) {
	m.retries.WithLabelValues(request, strconv.Itoa(code)).Inc()
}

// Joined tells whether the worker is in its group. For the Kafka client's observer.
func (m *Metrics) Joined(in bool) {
	if in {
		m.member.Set(1)
	} else {
		m.member.Set(0)
	}
}

// OffsetsUnstable tells for how long the group's offsets have been held up. For the Kafka client's observer.
func (m *Metrics) OffsetsUnstable(d time.Duration) { m.unstable.Set(d.Seconds()) }

// ModelLoaded publishes which model runs under a configured name.
func (m *Metrics) ModelLoaded(name, model, digest, provider, precision, layout string) {
	m.modelInfo.WithLabelValues(name, model, digest, provider, precision, layout).Set(1)
}

var (
	inFlightRecords = desc("in_flight_records", "Records fetched and not yet committed. At its limit the partition is paused: the worker is slower than its input.", "topic", "partition")
	inFlightBytes   = desc("in_flight_bytes", "Bytes of records fetched and not yet committed.", "topic", "partition")
	inFlightTokens  = desc("in_flight_tokens", "Tokens of records tokenized and not yet committed.", "topic", "partition")
	lagRecords      = desc("lag_records", "Offsets between the committed position and the high watermark, as of the last fetch. Growing: add workers (up to the number of partitions).", "topic", "partition")
	lagSeconds      = desc("lag_seconds", "Age of the oldest record in flight by its own timestamp; 0 when nothing is in flight.", "topic", "partition")
	ledgerAge       = desc("ledger_age_seconds", "How long the oldest uncommitted record has been in flight. Above a few seconds: a commit or a model run hangs; see /status and the log.")
)

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("sluice_"+name, help, labels, nil)
}

// Describe implements prometheus.Collector.
func (s *Stage) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{inFlightRecords, inFlightBytes, inFlightTokens, lagRecords, lagSeconds, ledgerAge} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (s *Stage) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	st := s.Status()
	for _, p := range st.Partitions {
		topic, partition := p.Topic, strconv.Itoa(int(p.Partition))
		gauge(inFlightRecords, float64(p.InFlight), topic, partition)
		gauge(inFlightBytes, float64(p.InFlightBytes), topic, partition)
		gauge(inFlightTokens, float64(p.InFlightTokens), topic, partition)
		if p.Lag >= 0 {
			gauge(lagRecords, float64(p.Lag), topic, partition)
		}
		gauge(lagSeconds, p.LagSeconds, topic, partition)
	}
	gauge(ledgerAge, st.LedgerAge)
}

// Status is what a stage holds now, for /status.
type Status struct {
	Assigned   bool              `json:"assigned"`   // in the group, with commits allowed
	Stopping   bool              `json:"stopping"`   // finishing what is in flight
	LedgerAge  float64           `json:"ledger_age"` // seconds the oldest record has been in flight
	Partitions []PartitionStatus `json:"partitions"`
}

// PartitionStatus is one owned partition.
type PartitionStatus struct {
	Topic          string  `json:"topic"`
	Partition      int32   `json:"partition"`
	Committed      int64   `json:"committed"` // the group's offset; -1 before this worker's first commit
	Position       int64   `json:"position"`  // the next offset to fetch
	Lag            int64   `json:"lag"`       // records behind the high watermark; -1 before the first fetch
	LagSeconds     float64 `json:"lag_seconds"`
	InFlight       int     `json:"in_flight"`
	InFlightBytes  int     `json:"in_flight_bytes"`
	InFlightTokens int     `json:"in_flight_tokens"`
}

// Status reads the stage's state.
func (s *Stage) Status() Status {
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	st := Status{Assigned: !s.quiet, Stopping: s.draining, Partitions: []PartitionStatus{}}
	if t := s.ledger.oldest(); !t.IsZero() {
		st.LedgerAge = now.Sub(t).Seconds()
	}
	for _, ln := range s.ledger.order {
		p := PartitionStatus{Topic: ln.tp.Topic, Partition: ln.tp.Partition, Committed: ln.committed, Position: ln.next, Lag: -1,
			InFlight: ln.usage.records, InFlightBytes: ln.usage.bytes, InFlightTokens: ln.usage.tokens}
		if ln.high >= 0 {
			p.Lag = max(0, ln.high-max(ln.committed, ln.start))
		}
		if len(ln.entries) > 0 && !ln.entries[0].record.Timestamp.IsZero() {
			p.LagSeconds = max(0, now.Sub(ln.entries[0].record.Timestamp).Seconds())
		}
		st.Partitions = append(st.Partitions, p)
	}
	return st
}
