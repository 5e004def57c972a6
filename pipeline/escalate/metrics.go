package escalate

import (
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"sluice/pipeline"
	"sluice/pipeline/llm"
	"sluice/pipeline/llm/label"
)

// This file names the metrics of questions and answers. Those of the stage itself (records, transactions, lag) are
// pipeline.StageMetrics, with the same prefix sluice_escalation_.

// Metrics are the counters of one worker's questions.
type Metrics struct {
	questions *prometheus.CounterVec
	fallbacks *prometheus.CounterVec
	flags     *prometheus.CounterVec
	agreement *prometheus.CounterVec
	bad       *prometheus.CounterVec
	calls     *prometheus.CounterVec
	callTime  *prometheus.HistogramVec
	tokens    *prometheus.CounterVec
	money     prometheus.Counter
	breaker   *prometheus.GaugeVec
	reg       prometheus.Registerer
}

var breakerStates = map[string]float64{"closed": 0, "half-open": 1, "open": 2}

// StageMetrics are the prefix and the dispositions of the metrics that the escalate stage has as every stage has them.
var StageMetrics = pipeline.StageMetricsOptions{Prefix: "escalation_", Dispositions: pipeline.EscalateDispositions}

// NewMetrics registers all metrics with reg.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	f := promauto.With(reg)
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return f.NewCounterVec(prometheus.CounterOpts{Name: "sluice_escalation_" + name, Help: help}, labels)
	}
	m := &Metrics{
		questions: counter("questions_total", "Requests that were decided, by result: answered (by a call), reused "+
			"(an answer that was there, or that another record's call brought), fallback (no usable answer; see "+
			"sluice_escalation_fallbacks_total).", "result"),
		fallbacks: counter("fallbacks_total", "Requests whose local verdict is final, by reason: max-age and budget "+
			"(not asked), endpoint (no answer in time), refused (endpoints refuse every request: the log has their "+
			"sentence), too-long (for the endpoint's context), declined (by the model or a content filter), answer "+
			"(not usable), severity-floor (it would have lowered the severity), panic (our own code panicked over "+
			"it; the log has the stack), killed-the-worker (workers died while it was asked about: not asked again). "+
			"endpoint grows: look at sluice_escalation_calls_total; refused grows: look at the log's warnings; "+
			"budget grows: raise escalation.budget or narrow "+
			"escalation.when.", "reason"),
		flags: counter("flags_total", "Answers with a flag: disagrees-with-confident (another label than a local "+
			"verdict with a score of at least escalation.confident). When many: the prompt and the model mean "+
			"different things by a label, or texts give the endpoint orders.", "flag"),
		agreement: counter("agreement_total", "Answers compared with local verdicts, by pair (endpoint-model, "+
			"endpoint-student, student-model) and result (agree, disagree). "+
			"Mostly agree: the endpoint changes little, and escalation.when can be narrower.", "pair", "result"),
		bad: counter("answers_unusable_total", "Answers that could not be read, by reason; after the first one the "+
			"question is asked once more. When many: set escalation.endpoint.structured, or use a larger model.",
			"reason"),
		calls: counter("calls_total", "Attempts at an endpoint, by how they ended: answered, or why not. "+
			"rate-limited: lower escalation.endpoint.max_concurrency or escalation.budget.calls_per_second; "+
			"timeout: the endpoint is overloaded; unauthorized, quota, not-found, request-refused: the log says what "+
			"the endpoint does not take.", "endpoint", "reason"),
		callTime: f.NewHistogramVec(prometheus.HistogramOpts{Name: "sluice_escalation_call_duration_seconds",
			Buckets: prometheus.ExponentialBuckets(0.01, 2, 14),
			Help: "Time of an attempt at an endpoint, to the last byte. Near escalation.endpoint.timeout: the " +
				"endpoint is overloaded."}, []string{"endpoint"}),
		tokens: counter("tokens_total", "Tokens of calls, by kind: prompt, completion; estimated where the endpoint "+
			"does not say.", "kind"),
		money: f.NewCounter(prometheus.CounterOpts{Name: "sluice_escalation_money_total", Help: "What calls have " +
			"cost by the prices of escalation.budget, in their currency."}),
		breaker: f.NewGaugeVec(prometheus.GaugeOpts{Name: "sluice_escalation_breaker_state", Help: "Circuit breaker " +
			"of an endpoint: 0 closed, 1 half-open (one call is trying), 2 open (left alone after failures). " +
			"Not 0 for long: the endpoint is down; its questions go to the others, or fall back."},
			[]string{"endpoint"}),
		reg: reg,
	}
	for _, r := range []string{"answered", "reused", "fallback"} {
		m.questions.WithLabelValues(r)
	}
	for _, r := range []string{FallbackAge, FallbackBudget, FallbackEndpoint, FallbackRefused, FallbackTooLong,
		FallbackDeclined, FallbackAnswer, FallbackPanic, FallbackQuarantine, ReasonSeverityFloor} {
		m.fallbacks.WithLabelValues(r)
	}
	m.flags.WithLabelValues(FlagDisagrees)
	return m
}

// Observer is what a Pool must tell these metrics.
func (m *Metrics) Observer() llm.Observer {
	return llm.Observer{
		Attempt: func(endpoint string, reason llm.Reason, took time.Duration) {
			m.calls.WithLabelValues(endpoint, string(reason)).Inc()
			m.callTime.WithLabelValues(endpoint).Observe(took.Seconds())
		},
		Breaker: func(endpoint, state string) { m.breaker.WithLabelValues(endpoint).Set(breakerStates[state]) },
	}
}

// watch reads what the budget and the pool have when they are scraped.
func (m *Metrics) watch(b *Budget, p *llm.Pool) {
	f := promauto.With(m.reg)
	left := func(resource string, of func(Left) float64) {
		f.NewGaugeFunc(prometheus.GaugeOpts{Name: "sluice_escalation_budget_left", ConstLabels: prometheus.Labels{
			"resource": resource},
			Help: "What this worker may still spend today (UTC) of its part of escalation.budget; -1: no limit. At 0 " +
				"verdicts fall back with reason budget."},
			func() float64 { return of(b.Left()) })
	}
	left("calls", func(l Left) float64 { return float64(l.Calls) })
	left("tokens", func(l Left) float64 { return float64(l.Tokens) })
	left("money", func(l Left) float64 { return l.Money })
	for i, e := range p.Status() {
		m.breaker.WithLabelValues(e.URL).Set(breakerStates[e.Breaker])
		labels := prometheus.Labels{"endpoint": e.URL}
		f.NewGaugeFunc(prometheus.GaugeOpts{Name: "sluice_escalation_calls_in_flight", ConstLabels: labels,
			Help: "Calls in progress at an endpoint. At sluice_escalation_concurrency_limit for long: the endpoint " +
				"is the bottleneck; add one."},
			func() float64 { return float64(p.Status()[i].InFlight) })
		f.NewGaugeFunc(prometheus.GaugeOpts{Name: "sluice_escalation_concurrency_limit", ConstLabels: labels,
			Help: "Calls at once that the endpoint seems to bear (additive increase, multiplicative decrease on 429 " +
				"and slowness)."},
			func() float64 { return float64(p.Status()[i].Limit) })
	}
}

// took counts what a call has cost.
func (m *Metrics) took(u llm.Usage, b *Budget) {
	m.tokens.WithLabelValues("prompt").Add(float64(u.PromptTokens))
	m.tokens.WithLabelValues("completion").Add(float64(u.CompletionTokens))
	m.money.Add(b.Price(u))
}

// unusable counts an answer that the task refused.
func (m *Metrics) unusable(err error) {
	reason := "unknown"
	var ae *label.AnswerError
	if errors.As(err, &ae) {
		reason = ae.Reason
	}
	m.bad.WithLabelValues(reason).Inc()
}

// decided counts a final verdict.
func (m *Metrics) decided(q *Request, d decided) {
	switch {
	case d.By == pipeline.Fallback:
		m.questions.WithLabelValues("fallback").Inc()
		m.fallbacks.WithLabelValues(d.Reason).Inc()
	case d.reused:
		m.questions.WithLabelValues("reused").Inc()
	default:
		m.questions.WithLabelValues("answered").Inc()
	}
	for _, f := range d.Flags {
		m.flags.WithLabelValues(f).Inc()
	}
	agree := func(pair, a, b string) {
		if a == "" || b == "" {
			return
		}
		result := "disagree"
		if a == b {
			result = "agree"
		}
		m.agreement.WithLabelValues(pair, result).Inc()
	}
	agree("endpoint-model", d.answer, q.Label)
	agree("endpoint-student", d.answer, q.StudentLabel)
	agree("student-model", q.StudentLabel, q.Label)
}
