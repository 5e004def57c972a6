package pipeline

import (
	"errors"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// This file names the metrics that every stage has: those of a kind of stage begin with its prefix. Values that live in
// the ledger are read when they are scraped (Stage.Collect), not written per record.

// seconds are the buckets of every latency: 0.5 ms to about a minute.
var seconds = prometheus.ExponentialBuckets(0.0005, 2, 18)

// StageMetrics are the counters of one stage of a worker.
type StageMetrics struct {
	records      *prometheus.CounterVec
	deadLetters  *prometheus.CounterVec
	skipped      *prometheus.CounterVec // nil: nothing can be
	stage        *prometheus.HistogramVec
	endToEnd     prometheus.Histogram
	refused      *prometheus.CounterVec
	transactions *prometheus.CounterVec
	commitTime   prometheus.Histogram
	rebalances   prometheus.Counter
	retries      *prometheus.CounterVec
	member       prometheus.Gauge
	reachable    prometheus.Gauge
	unreachable  atomic.Bool
	unstable     prometheus.Gauge
	ruleErrors   *prometheus.CounterVec

	inFlightRecords, inFlightBytes, inFlightTokens, lagRecords, lagSeconds, ledgerAge *prometheus.Desc

	// children of declared dispositions, resolved once: the hot path adds to a counter, it does not look one up
	dispositions map[Disposition]prometheus.Counter
	all          prometheus.Observer
}

// StageMetricsOptions is what a kind of stage brings to its metrics.
type StageMetricsOptions struct {
	Prefix string // behind sluice_ in all names: "" (the classify stage's), or "escalation_"
	// Dispositions are what can become of a record. They are there from the start, at 0; one that is not among them is
	// counted all the same, once it occurs.
	Dispositions []DispositionInfo
}

// NewStageMetrics registers the metrics of a stage with reg.
func NewStageMetrics(reg prometheus.Registerer, o StageMetricsOptions) *StageMetrics {
	f := promauto.With(reg)
	prefix := "sluice_" + o.Prefix
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return f.NewCounterVec(prometheus.CounterOpts{Name: prefix + name, Help: help}, labels)
	}
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc(prefix+name, help, labels, nil)
	}
	outcomes := make([]string, len(o.Dispositions))
	for i, d := range o.Dispositions {
		outcomes[i] = string(d.Name)
		if d.Help != "" {
			outcomes[i] += " (" + d.Help + ")"
		}
	}
	m := &StageMetrics{
		records: counter("records_total", "Input records whose outcome is durable, by outcome: "+
			strings.Join(outcomes, ", ")+". "+
			"When dead_letter grows, look at sluice_dead_letters_total and at the headers in the dead letter topic.",
			"outcome"),
		deadLetters: counter("dead_letters_total", "Records sent to the dead letter topic, by the stage and reason "+
			"that also stand in their headers. "+
			"When high, read one with a console consumer: the sluice.error.* headers say what is wrong with it.",
			"stage", "reason"),
		stage: f.NewHistogramVec(prometheus.HistogramOpts{Name: prefix + "stage_duration_seconds", Buckets: seconds,
			Help: "Time a record (queue: from fetch to the start of its first model run; total: from fetch to " +
				"durable) or a batch (tokenize, infer) spends in a stage. " +
				"queue high and infer low: too few workers; infer high: long texts or too few cores."},
			[]string{"stage"}),
		endToEnd: f.NewHistogram(prometheus.HistogramOpts{Name: prefix + "end_to_end_duration_seconds",
			Buckets: prometheus.ExponentialBuckets(0.001, 2, 20),
			Help: "From the timestamp of an input record to its result being durable. High with low " +
				"sluice_stage_duration_seconds{stage=\"total\"}: the record was old when it was fetched (lag)."}),
		refused: counter("refused_messages_total", "Messages that brokers refused for what they are, by topic and "+
			"reason: result-too-large, refused-timestamp, refused-record, refused-policy, refused-format, "+
			"refused-corrupt, refused-request. Their records become dead letters; the log has the brokers' words. "+
			"When it grows, compare the topic's settings with its records (sluice validate).", "topic", "reason"),
		transactions: counter("transactions_total", "Commits by result: committed, retried (aborted, repeated from "+
			"the ledger), rebalanced (given up to a new owner), refused (a message that its topic does not take; the "+
			"record becomes a dead letter), failed.", "result"),
		commitTime: f.NewHistogram(prometheus.HistogramOpts{Name: prefix + "transaction_duration_seconds",
			Buckets: seconds,
			Help: "Time from the beginning to the end of a commit. Above about 0.1 s: look at the brokers " +
				"(replication, disk, coordinator moves)."}),
		rebalances: f.NewCounter(prometheus.CounterOpts{Name: prefix + "rebalances_total", Help: "Times the group " +
			"was joined again. Growing without deployments: a worker dies or is too slow to send heartbeats."}),
		retries: counter("kafka_retries_total", "Kafka requests repeated, by request and error code. A few around "+
			"restarts are normal.", "request", "code"),
		member: f.NewGauge(prometheus.GaugeOpts{Name: prefix + "group_joined", Help: "1 while this worker is a " +
			"member of its consumer group with an assignment."}),
		reachable: f.NewGauge(prometheus.GaugeOpts{Name: prefix + "kafka_reachable", Help: "0 while no heartbeat has " +
			"got through to the group's coordinator for a quarter of session_timeout; the worker is not ready then, " +
			"keeps what it has, and goes on by itself. " +
			"0 for longer than session_timeout: look at brokers and network."}),
		unstable: f.NewGauge(prometheus.GaugeOpts{Name: prefix + "unstable_offsets_seconds",
			Help: "How long the group's offsets have been held up by an open transaction of another worker; 0 when " +
				"they are not. Above transaction_timeout: a transaction hangs; start the worker with that instance " +
				"id, or end it with kafka-transactions abort."}),
		ruleErrors: counter("rule_errors_total", "Records on which a rule of the configuration could not be "+
			"evaluated; it then does not hold. "+
			"When it grows, a field that the rule compares is missing or of another type.", "rule"),
		inFlightRecords: desc("in_flight_records", "Records fetched and not yet committed. At its limit the "+
			"partition is paused: the worker is slower than its input.", "topic", "partition"),
		inFlightBytes: desc("in_flight_bytes", "Bytes of records fetched and not yet committed.", "topic",
			"partition"),
		inFlightTokens: desc("in_flight_tokens", "Tokens of records tokenized and not yet committed.", "topic",
			"partition"),
		lagRecords: desc("lag_records", "Offsets between the committed position and the high watermark, as of "+
			"the last fetch. Growing: add workers (up to the number of partitions).", "topic", "partition"),
		lagSeconds: desc("lag_seconds", "Age of the oldest record in flight by its own timestamp; 0 when "+
			"nothing is in flight.", "topic", "partition"),
		ledgerAge: desc("ledger_age_seconds", "How long the oldest uncommitted record has been in flight. "+
			"Above a few seconds: a commit or a model run hangs; see /status and the log."),
	}
	m.dispositions = map[Disposition]prometheus.Counter{}
	for _, d := range o.Dispositions {
		if d.Name == Skipped {
			m.skipped = counter("skipped_records_total", "Records that a rule of skip has left out, for which "+
				"nothing was published, by the rule's name. When it grows faster than expected, look at the rule: a "+
				"field that is missing is nil.", "rule")
		}
		m.dispositions[d.Name] = m.records.WithLabelValues(string(d.Name))
	}
	for _, r := range []string{"committed", "retried", "rebalanced", "refused", "failed"} {
		m.transactions.WithLabelValues(r)
	}
	m.all = m.stage.WithLabelValues("total")
	return m
}

// transaction counts a commit by its result.
func (m *StageMetrics) transaction(err error, took time.Duration) {
	result := "failed"
	switch {
	case err == nil:
		result = "committed"
		m.commitTime.Observe(took.Seconds())
	case errors.As(err, new(*RefusedError)):
		result = "refused"
	case KindOf(err) == Transient:
		result = "retried"
	case KindOf(err) == Rebalance:
		result = "rebalanced"
	}
	m.transactions.WithLabelValues(result).Inc()
}

// durable counts a record whose outcome has been committed.
func (m *StageMetrics) durable(r *Record, o *Outcome, arrived, now time.Time) {
	c := m.dispositions[o.Disposition]
	if c == nil { // not declared: counted, looked up each time. A label of other bytes than UTF-8 would panic
		c = m.records.WithLabelValues(strings.ToValidUTF8(string(o.Disposition), "\uFFFD"))
	}
	c.Inc()
	if o.Disposition == DeadLetter && o.Fault != nil {
		m.deadLetters.WithLabelValues(o.Fault.Stage, o.Fault.Reason).Inc()
	}
	if o.Disposition == Skipped && m.skipped != nil {
		m.skipped.WithLabelValues(o.SkippedBy).Inc()
	}
	m.all.Observe(now.Sub(arrived).Seconds())
	if !r.Timestamp.IsZero() {
		m.endToEnd.Observe(max(0, now.Sub(r.Timestamp).Seconds()))
	}
}

// Duration is where the time goes, in seconds, that a batch or a record spends in a stage: queue, tokenize, infer.
func (m *StageMetrics) Duration(stage string) prometheus.Observer {
	return m.stage.WithLabelValues(stage)
}

// Rebalanced counts a join of the group. For the Kafka client's observer.
func (m *StageMetrics) Rebalanced() { m.rebalances.Inc() }

// refuse counts a message that a broker refused.
func (m *StageMetrics) refuse(x *Refusal) { m.refused.WithLabelValues(x.Topic, x.Reason).Inc() }

// Retried counts a repeated Kafka request. For the Kafka client's observer.
func (m *StageMetrics) Retried(request string, code int) {
	m.retries.WithLabelValues(request, strconv.Itoa(code)).Inc()
}

// RuleFailed counts a record on which a rule could not be evaluated. For Writer.RuleFailed.
func (m *StageMetrics) RuleFailed(rule string) { m.ruleErrors.WithLabelValues(rule).Inc() }

// Joined tells whether the worker is in its group. For the Kafka client's observer.
func (m *StageMetrics) Joined(in bool) {
	if in {
		m.member.Set(1)
	} else {
		m.member.Set(0)
	}
}

// Reached tells whether heartbeats get through. For the Kafka client's observer.
func (m *StageMetrics) Reached(there bool) {
	m.unreachable.Store(!there)
	if there {
		m.reachable.Set(1)
	} else {
		m.reachable.Set(0)
	}
}

// OffsetsUnstable tells for how long the group's offsets have been held up. For the Kafka client's observer.
func (m *StageMetrics) OffsetsUnstable(d time.Duration) { m.unstable.Set(d.Seconds()) }

// Describe implements prometheus.Collector.
func (s *Stage) Describe(ch chan<- *prometheus.Desc) {
	m := s.o.Metrics
	for _, d := range []*prometheus.Desc{m.inFlightRecords, m.inFlightBytes, m.inFlightTokens, m.lagRecords,
		m.lagSeconds, m.ledgerAge} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (s *Stage) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	m, st := s.o.Metrics, s.Status()
	for _, p := range st.Partitions {
		topic, partition := p.Topic, strconv.Itoa(int(p.Partition))
		gauge(m.inFlightRecords, float64(p.InFlight), topic, partition)
		gauge(m.inFlightBytes, float64(p.InFlightBytes), topic, partition)
		gauge(m.inFlightTokens, float64(p.InFlightTokens), topic, partition)
		if p.Lag >= 0 {
			gauge(m.lagRecords, float64(p.Lag), topic, partition)
		}
		gauge(m.lagSeconds, p.LagSeconds, topic, partition)
	}
	gauge(m.ledgerAge, st.LedgerAge)
}

// Status is what a stage holds now, for /status.
type Status struct {
	Assigned   bool              `json:"assigned"`   // in the group, with commits allowed
	Reachable  bool              `json:"reachable"`  // heartbeats get through, as far as this worker knows
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
	st := Status{Assigned: !s.quiet, Reachable: !s.o.Metrics.unreachable.Load(), Stopping: s.draining,
		Partitions: []PartitionStatus{}}
	if t := s.ledger.oldest(); !t.IsZero() {
		st.LedgerAge = now.Sub(t).Seconds()
	}
	for _, ln := range s.ledger.order {
		p := PartitionStatus{Topic: ln.tp.Topic, Partition: ln.tp.Partition, Committed: ln.committed, Position: ln.next,
			Lag:      -1,
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
