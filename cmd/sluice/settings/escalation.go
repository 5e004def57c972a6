package settings

import (
	"net/url"
	"slices"
	"strings"
	"time"

	"sluice/cmd/sluice/config"
	"sluice/cmd/sluice/suggest"
	"sluice/pipeline"
	"sluice/pipeline/escalate"
	"sluice/pipeline/llm"
	"sluice/pipeline/llm/openai"
)

// This file owns the section escalation.

// Escalation says what is asked at an external endpoint, and how its answers are used.
type Escalation struct {
	When          string        `key:"when"`
	Verdict       string        `key:"verdict"`
	Topic         string        `key:"topic"`
	Group         string        `key:"group"`
	Mode          string        `key:"mode"`
	MaxAge        time.Duration `key:"max_age"`
	Severity      []string      `key:"severity"`
	SeverityFloor float64       `key:"severity_floor"`
	Confident     float64       `key:"confident"`
	Redact        []string      `key:"redact"`
	Cache         config.Bytes  `key:"cache"`
	Endpoint      Endpoint      `key:"endpoint"`
	Prompt        Prompt        `key:"prompt"`
	Budget        Budget        `key:"budget"`
}

// Endpoint says where an OpenAI-compatible chat API is, and how much is asked of it.
type Endpoint struct {
	URLs           []string        `key:"urls"`
	Model          string          `key:"model"`
	APIKeyFile     string          `key:"api_key_file"`
	APIKey         pipeline.Secret `key:"api_key"`
	Timeout        time.Duration   `key:"timeout"`
	Deadline       time.Duration   `key:"deadline"`
	MaxConcurrency int             `key:"max_concurrency"`
	MaxAttempts    int             `key:"max_attempts"`
	Structured     string          `key:"structured"`
	MaxTokens      int             `key:"max_tokens"`
	// Parameters are those that go out under another name, or not at all (llm.Omit).
	Parameters       map[string]string `key:"parameters"`
	MaxResponseBytes config.Bytes      `key:"max_response_bytes"`
	CAFile           string            `key:"ca_file"`
	Proxy            string            `key:"proxy"`
	BreakerFailures  int               `key:"breaker_failures"`
	BreakerPause     time.Duration     `key:"breaker_pause"`
}

// Prompt says what is asked. The labels are those of the model whose verdict is in question.
type Prompt struct {
	Instruction string            `key:"instruction"`
	Labels      map[string]string `key:"labels"`
	Aliases     map[string]string `key:"aliases"`
	Explain     bool              `key:"explain"`
}

// Budget bounds what escalation may cost, over all workers together. A day is a day of UTC.
type Budget struct {
	CallsPerSecond        float64 `key:"calls_per_second"`
	CallsPerDay           int     `key:"calls_per_day"`
	TokensPerDay          int     `key:"tokens_per_day"`
	MoneyPerDay           float64 `key:"money_per_day"`
	PriceInputPerMillion  float64 `key:"price_input_per_million"`
	PriceOutputPerMillion float64 `key:"price_output_per_million"`
}

// On says whether anything is escalated.
func (e *Escalation) On() bool { return e.When != "" }

var escalationKeys = []config.Key{
	{Name: "when", Example: "sentiment.score < 0.80",
		Doc: "rule over the verdicts and the record: records for which it holds are asked about; empty: no " +
			"escalation"},
	{Name: "verdict", Example: "sentiment",
		Doc: "verdict that is in question; empty: that of the only text-classification model"},
	{Name: "topic", Need: true, Example: "review_escalations",
		Doc: "topic for requests, written and read by the workers themselves"},
	{Name: "group", Example: "reviews-llm",
		Doc: "consumer group that reads the requests; empty: kafka.group with -escalation behind it"},
	{Name: "mode", Example: "defer",
		OneOf: []string{"amend", "defer", "shadow"},
		Doc: "amend: provisional result at once, revision 2 with the answer; defer: only the final result; " +
			"shadow: answers are only compared and counted"},
	{Name: "max_age", Range: config.Range{Least: "0", Says: "{value} is too short"}, Example: "1h",
		Doc: "records older than this, by their timestamp, are not asked about any more: their local verdict is " +
			"final; 0: no limit"},
	{Name: "severity", Example: "POSITIVE,NEGATIVE", Doc: "labels from harmless to severe; with severity_floor"},
	{Name: "severity_floor", Example: "0.7",
		Range: config.Range{Least: "0", Most: "1"},
		Doc:   "local score from which the endpoint may not lower the severity"},
	{Name: "confident", Range: config.Range{Least: "0", Most: "1"}, Example: "0.9",
		Doc: "local score from which another answer is flagged disagrees-with-confident"},
	{Name: "redact", Example: "PER,LOC,email,phone,number",
		Doc: "what is replaced by placeholders before a text leaves the worker: email, phone, number, and " +
			"entity groups of a local model"},
	{Name: "cache", Example: "16MiB",
		Doc: "memory for answers to questions asked before; 0: every question is asked"},
	{Name: "endpoint.urls", Need: true, Example: "http://llama-0:8000/v1,http://llama-1:8000/v1",
		Doc: "base URLs of OpenAI-compatible chat APIs, all with the same model (llama.cpp, vLLM, Ollama, TGI)"},
	{Name: "endpoint.model", Need: true, Example: "llama-3.1-8b-instruct", Doc: "model to ask, as the API names it"},
	{Name: "endpoint.api_key_file", File: config.FileName, Example: "/run/secrets/llm-key",
		Doc: "file that holds the API key, read again when it changes"},
	{Name: "endpoint.api_key", Secret: true, Example: "(from a secret store)",
		Doc: "the API key itself; from the environment only"},
	{Name: "endpoint.timeout", Example: "10s",
		Range: config.Range{Least: "1ms", Says: "{value} is too short"},
		Doc:   "longest one call may take"},
	{Name: "endpoint.deadline", Range: config.Range{Least: "1ms", Says: "{value} is too short"}, Example: "30s",
		Doc: "longest a question may take, all its calls and pauses together; then the local verdict is final"},
	{Name: "endpoint.max_concurrency", Range: config.Range{Least: "1"}, Example: "16",
		Doc: "most calls in progress at one URL; the worker finds out how many it bears"},
	{Name: "endpoint.max_attempts", Example: "4",
		Range: config.Range{Least: "1"},
		Doc:   "most calls for one question, those at other URLs included"},
	{Name: "endpoint.structured", Example: "json_schema",
		OneOf: []string{"auto", "json_schema", "guided_choice", "json_object", "none"},
		Doc:   "how the form of the answer is enforced; auto: the best that the endpoint offers"},
	{Name: "endpoint.max_tokens", Example: "200", Doc: "most tokens of an answer",
		Range: config.Range{Least: "1", Says: "must be at least 1: budgets charge it before each call; to ask " +
			"without it, write endpoint.parameters: {max_tokens: omit}"}},
	{Name: "endpoint.parameters", Example: "max_tokens=max_completion_tokens,temperature=omit",
		Doc: "parameters that the endpoint takes under another name, or not at all (omit): max_tokens, temperature, " +
			"stream; what it refuses by name is also found out by itself"},
	{Name: "endpoint.max_response_bytes", Example: "256KiB",
		Range: config.Range{Least: "1KiB"},
		Doc:   "larger answers are refused"},
	{Name: "endpoint.ca_file", File: config.FileName, Example: "/etc/llm/ca.pem",
		Doc: "PEM file of the certificate authorities to trust, in place of the system's"},
	{Name: "endpoint.proxy", Example: "http://proxy:3128",
		Doc: "HTTP proxy for these calls; the environment's proxies are not used"},
	{Name: "endpoint.breaker_failures", Range: config.Range{Least: "1"}, Example: "10",
		Doc: "failures in a row after which a URL is left alone for breaker_pause"},
	{Name: "endpoint.breaker_pause", Range: config.Range{Least: "1ms", Says: "{value} is too short"}, Example: "30s",
		Doc: "how long a URL is left alone before one call tries it again"},
	{Name: "prompt.instruction", Example: "Decide how the customer feels about our product.",
		Doc: "what is to be decided, in a sentence; empty: which label fits the text"},
	{Name: "prompt.labels", Example: "NEGATIVE=a complaint,POSITIVE=everything else", Doc: "what each label means"},
	{Name: "prompt.aliases", Example: "bad=NEGATIVE,good=POSITIVE",
		Doc: "what an answer may say in place of a label"},
	{Name: "prompt.explain", Example: "true", Doc: "ask for a short explanation too, which stands in the verdict"},
	{Name: "budget.calls_per_second", Example: "20",
		Range: config.Range{Least: "0"},
		Doc:   "most calls a second; 0: no limit"},
	{Name: "budget.calls_per_day", Example: "50000",
		Range: config.Range{Least: "0", Says: "must be at least 0"},
		Doc:   "most calls a day; 0: no limit"},
	{Name: "budget.tokens_per_day", Range: config.Range{Least: "0", Says: "must be at least 0"}, Example: "20000000",
		Doc: "most tokens of questions and answers a day; 0: no limit"},
	{Name: "budget.money_per_day", Range: config.Range{Least: "0"}, Example: "25",
		Doc: "most money a day, in the currency of the prices; 0: no limit"},
	{Name: "budget.price_input_per_million", Example: "0.20",
		Range: config.Range{Least: "0"},
		Doc:   "price of a million tokens of questions"},
	{Name: "budget.price_output_per_million", Example: "0.60",
		Range: config.Range{Least: "0"},
		Doc:   "price of a million tokens of answers"},
}

// defaultEscalation is what holds where nothing is said.
func defaultEscalation() Escalation {
	e := llm.DefaultOptions()
	return Escalation{
		Mode: "amend", SeverityFloor: 0.7, Confident: 0.9, Cache: 8 << 20,
		Endpoint: Endpoint{Timeout: e.Timeout, Deadline: 30 * time.Second, MaxConcurrency: e.MaxConcurrency,
			MaxAttempts: e.MaxAttempts, Structured: e.Structured, MaxTokens: e.MaxTokens,
			MaxResponseBytes: config.Bytes(e.MaxResponseBytes), BreakerFailures: e.BreakerFailures,
			BreakerPause: e.BreakerPause},
	}
}

func checkEscalation(c *config.Check, s *Settings) {
	e := &s.Escalation
	if !e.On() {
		for _, k := range escalationKeys {
			if path := "escalation." + k.Name; c.Given(path) {
				c.Mistake(path, "has no effect without escalation.when, the rule that says which records are asked "+
					"about; write for example escalation: {when: 'sentiment.score < 0.80'}, or remove the section")
				return
			}
		}
		return
	}
	checkRule(c, s, "escalation.when", e.When)
	if s.Input.TextPair != "" {
		c.Between([]string{"escalation.when", "input.text_pair"}, "a request holds one text, and records have two "+
			"(input.text_pair): remove the section, or read one text")
	}
	checkEndpoint(c, &e.Endpoint)
	if names := s.VerdictNames(); e.Verdict != "" && len(names) > 0 && !slices.Contains(names, e.Verdict) {
		c.Between([]string{"escalation.verdict", "models"}, "there is no verdict %q%s; known here: %s", e.Verdict,
			suggest.DidYouMean(e.Verdict, names), strings.Join(names, ", "))
	}
	if e.Verdict == "" && len(s.Models) > 1 {
		c.Mistake("escalation.verdict", "is missing, and there are several models; write one of %s",
			strings.Join(s.VerdictNames(), ", "))
	}
	if e.Group != "" && e.Group == s.Kafka.Group {
		c.Between([]string{"escalation.group", "kafka.group"}, "is also kafka.group; the requests need a group of "+
			"their own")
	}
	if len(e.Severity) == 0 && c.Given("escalation.severity_floor") {
		c.Between([]string{"escalation.severity_floor", "escalation.severity"}, "has no effect without "+
			"escalation.severity, the labels from harmless to severe")
	}
	if len(e.Severity) == 1 {
		c.Mistake("escalation.severity", "one label has no order; name the labels from harmless to severe")
	}
	if _, err := escalate.NewRedactor(e.Redact); err != nil {
		c.Mistake("escalation.redact", "%v", err)
	}
	b := &e.Budget
	if b.MoneyPerDay > 0 && b.PriceInputPerMillion == 0 && b.PriceOutputPerMillion == 0 {
		c.Between([]string{"escalation.budget.money_per_day", "escalation.budget.price_input_per_million"},
			"needs prices: give price_input_per_million and price_output_per_million")
	}
}

func checkEndpoint(c *config.Check, e *Endpoint) {
	for i, raw := range e.URLs {
		checkURL(c, "escalation.endpoint.urls", raw)
		if slices.Contains(e.URLs[:i], raw) {
			c.Mistake("escalation.endpoint.urls", "%q is there twice; keep one", raw)
		}
	}
	if e.Proxy != "" {
		checkURL(c, "escalation.endpoint.proxy", e.Proxy)
	}
	if err := llm.Names(e.Parameters).Check(openai.Protocol{}); err != nil {
		c.Mistake("escalation.endpoint.parameters", "%v", err)
	}
	if e.Deadline < e.Timeout {
		c.Between([]string{"escalation.endpoint.deadline", "escalation.endpoint.timeout"}, "%s is shorter than the "+
			"timeout of one call (%s)", config.ShortDuration(e.Deadline), config.ShortDuration(e.Timeout))
	}
	if !e.APIKey.IsZero() && e.APIKeyFile != "" {
		c.Between([]string{"escalation.endpoint.api_key_file", "escalation.endpoint.api_key"},
			"there is a key in the environment too; keep the file, or the variable")
	}
}

// checkURL notes what is not an HTTP address without credentials.
func checkURL(c *config.Check, path, raw string) {
	u, err := url.Parse(raw)
	switch {
	case err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "":
		if strings.ContainsAny(raw, "@?") { // there may be a password in it
			raw = pipeline.Redacted
		}
		c.Mistake(path, "%q is not an address; write for example http://llama:8000/v1", raw)
	case u.User != nil:
		c.Mistake(path, "the address of %s has a user or password in it; give the key by "+
			"escalation.endpoint.api_key_file", u.Host)
	case u.RawQuery != "" || u.Fragment != "":
		c.Mistake(path, "the address of %s has a query or fragment; give the base address, such as "+
			"http://llama:8000/v1", u.Host)
	}
}
