package config

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"sluice/pipeline"
)

// Settings is the whole configuration of a worker. The struct tags are its documentation and its schema: the file
// reader, the environment, the flags, the help text and `validate --print` are all made from them (see keys.go).
//
//	doc      one line for a person
//	example  a value worth copying
//	oneof    the only values there are
//	need     "yes": there is no default, it must be given
//	secret   "yes": never printed; comes from the environment only
//	path     "yes": a file name; relative names in the configuration file are relative to that file
type Settings struct {
	Kafka       KafkaSettings      `koanf:"kafka"`
	Input       InputSettings      `koanf:"input"`
	Models      []ModelSettings    `koanf:"models"`
	Output      OutputSettings     `koanf:"output"`
	Routes      []RouteSettings    `koanf:"routes"`
	DeadLetter  DeadLetterSettings `koanf:"dead_letter"`
	Limits      LimitSettings      `koanf:"limits"`
	Runners     int                `koanf:"runners" doc:"threads that run models, each on its own core; 0: as many as the container has CPUs" example:"4"`
	BatchTokens int                `koanf:"batch_tokens" doc:"most tokens in one batch; 0: each model's is measured at the start. A runner takes what waits, it never waits for a batch to fill" example:"128"`
	RunTimeout  time.Duration      `koanf:"run_timeout" doc:"longest a model may compute on one batch; then the batch is stopped and halved. What does not end 10 s later, a tokenizer's work included, ends the worker" example:"30s"`
	Deadline    time.Duration      `koanf:"deadline" doc:"how soon after its timestamp a record should be judged: the one with the least time left goes first; 0: in order of arrival" example:"500ms"`
	Urgent      UrgentSettings     `koanf:"urgent"`
	Cache       CacheSettings      `koanf:"cache"`
	Escalation  EscalationSettings `koanf:"escalation"`
	Server      ServerSettings     `koanf:"server"`
	Log         LogSettings        `koanf:"log"`
}

// KafkaSettings say where the cluster is and how the worker takes part in its group.
type KafkaSettings struct {
	Brokers            []string      `koanf:"brokers" need:"yes" doc:"addresses (host:port) of brokers to ask first" example:"kafka-1:9092,kafka-2:9092"`
	Group              string        `koanf:"group" need:"yes" doc:"consumer group; workers of one group share the partitions" example:"reviews"`
	InstanceID         string        `koanf:"instance_id" doc:"name of this worker (static membership): unique in the group, the same after a restart" example:"reviews-0"`
	SessionTimeout     time.Duration `koanf:"session_timeout" doc:"how long a dead worker keeps its partitions; a restart within it causes no rebalance" example:"2m"`
	RebalanceTimeout   time.Duration `koanf:"rebalance_timeout" doc:"how long a rebalance waits for members that do not answer" example:"25s"`
	TransactionTimeout time.Duration `koanf:"transaction_timeout" doc:"how long the broker keeps an open transaction of a dead worker" example:"1m"`
	Guarantee          string        `koanf:"guarantee" oneof:"exactly-once,at-least-once" doc:"exactly-once: results and offsets in one transaction; at-least-once: repeats after a crash carry the same id" example:"at-least-once"`
	CommitInterval     time.Duration `koanf:"commit_interval" doc:"longest a finished result waits for its commit" example:"100ms"`
	Compression        string        `koanf:"compression" oneof:"none,gzip,snappy,lz4,zstd" doc:"compression of what is written" example:"zstd"`
	Fetch              FetchSettings `koanf:"fetch"`
	TLS                TLSSettings   `koanf:"tls"`
	SASL               SASLSettings  `koanf:"sasl"`
}

// FetchSettings shape the long-poll requests that read the input.
type FetchSettings struct {
	MaxBytes Bytes         `koanf:"max_bytes" doc:"most bytes in the answer to one fetch" example:"16MiB"`
	MaxWait  time.Duration `koanf:"max_wait" doc:"longest the broker waits for records" example:"500ms"`
}

// TLSSettings encrypt the connections to the brokers. Any of the files, or server_name, switches TLS on.
type TLSSettings struct {
	Enabled    bool   `koanf:"enabled" doc:"encrypt with the system's certificate authorities; the other keys of kafka.tls imply it" example:"true"`
	CAFile     string `koanf:"ca_file" path:"yes" doc:"PEM file of the certificate authorities to trust, in place of the system's" example:"/etc/kafka/ca.pem"`
	CertFile   string `koanf:"cert_file" path:"yes" doc:"PEM file of the client certificate (with key_file)" example:"/etc/kafka/client.pem"`
	KeyFile    string `koanf:"key_file" path:"yes" doc:"PEM file of the client certificate's key" example:"/etc/kafka/client.key"`
	ServerName string `koanf:"server_name" doc:"name to expect in the broker's certificate, where it is not the address" example:"kafka.internal"`
}

// On says whether connections are encrypted.
func (t TLSSettings) On() bool {
	return t.Enabled || t.CAFile != "" || t.CertFile != "" || t.KeyFile != "" || t.ServerName != ""
}

// SASLSettings log in to the brokers. Passwords and tokens come from files, from the environment or from an identity
// provider.
type SASLSettings struct {
	Mechanism    string          `koanf:"mechanism" oneof:"PLAIN,SCRAM-SHA-256,SCRAM-SHA-512,OAUTHBEARER" doc:"how to log in; empty: no login" example:"SCRAM-SHA-512"`
	Username     string          `koanf:"username" doc:"user to log in as (PLAIN, SCRAM)" example:"sluice"`
	PasswordFile string          `koanf:"password_file" path:"yes" doc:"file that holds the password (a newline at its end is ignored); read at every login" example:"/run/secrets/kafka-password"`
	Password     pipeline.Secret `koanf:"password" secret:"yes" doc:"the password itself; from the environment only" example:"(from a secret store)"`
	TokenFile    string          `koanf:"token_file" path:"yes" doc:"file that holds the token (OAUTHBEARER), kept fresh by somebody else; read at every login" example:"/var/run/secrets/tokens/kafka"`
	OIDC         OIDCSettings    `koanf:"oidc"`
}

// OIDCSettings fetch tokens (OAUTHBEARER) from an OpenID Connect provider by the client credentials grant.
type OIDCSettings struct {
	TokenURL         string          `koanf:"token_url" doc:"token endpoint of the identity provider (OAUTHBEARER); redirects are not followed" example:"https://login.example/oauth2/token"`
	ClientID         string          `koanf:"client_id" doc:"client id at the identity provider" example:"sluice"`
	ClientSecretFile string          `koanf:"client_secret_file" path:"yes" doc:"file that holds the client secret; read for every token" example:"/run/secrets/kafka-client"`
	ClientSecret     pipeline.Secret `koanf:"client_secret" secret:"yes" doc:"the client secret itself; from the environment only" example:"(from a secret store)"`
	Scope            string          `koanf:"scope" doc:"scopes to ask for, separated by blanks; empty: the provider's default" example:"kafka"`
	CAFile           string          `koanf:"ca_file" path:"yes" doc:"PEM file of the certificate authorities to trust for token_url, in place of the system's" example:"/etc/kafka/idp-ca.pem"`
}

// On says whether tokens come from a provider.
func (o OIDCSettings) On() bool { return o.TokenURL != "" }

// InputSettings say what is read and where in a record the text is.
type InputSettings struct {
	Topics       []string `koanf:"topics" need:"yes" doc:"topics to read" example:"customer_reviews"`
	Format       string   `koanf:"format" oneof:"json,text" doc:"json: each value is an object with a text field; text: the whole value is the text" example:"text"`
	Text         string   `koanf:"text" doc:"path of the text field in a JSON value, with dots between levels (\\. is a dot in a name)" example:"review.body"`
	Start        string   `koanf:"start" oneof:"earliest,latest,error" doc:"where to begin when the group has no offset yet" example:"latest"`
	MaxTextBytes Bytes    `koanf:"max_text_bytes" doc:"longer texts are cut before tokenizing, and flagged" example:"256KiB"`
	MaxDepth     int      `koanf:"max_depth" doc:"JSON values nested deeper go to the dead letter topic" example:"512"`
}

// ModelSettings are one model directory and how its verdicts are made.
type ModelSettings struct {
	Name             string  `koanf:"name" need:"yes" doc:"name of the model in verdicts, metrics and /status" example:"sentiment"`
	Path             string  `koanf:"path" need:"yes" path:"yes" doc:"model directory" example:"models/sentiment"`
	Field            string  `koanf:"field" doc:"member of the output field that takes the verdict; empty: the name" example:"entities"`
	Device           string  `koanf:"device" oneof:"cpu,cuda,openvino" doc:"where the model runs" example:"cuda"`
	DeviceFallback   string  `koanf:"device_fallback" oneof:"fail,cpu" doc:"what to do where the device is missing: refuse to start, or run on the CPU and say so" example:"cpu"`
	Aggregation      string  `koanf:"aggregation" oneof:"none,simple,first,average,max" doc:"how tokens become entities (token-classification), as Hugging Face's aggregation_strategy" example:"first"`
	LongText         string  `koanf:"long_text" oneof:"truncate,window" doc:"texts longer than the model: cut off and flag, or read in overlapping windows" example:"window"`
	Stride           int     `koanf:"stride" doc:"tokens that neighbouring windows share" example:"64"`
	WindowMerge      string  `koanf:"window_merge" oneof:"mean,max" doc:"how the scores of windows become one (text-classification)" example:"max"`
	Student          string  `koanf:"student" path:"yes" doc:"directory of a smaller model with the same labels that is asked first (text-classification)" example:"models/sentiment-tiny"`
	StudentThreshold float64 `koanf:"student_threshold" doc:"score (of entities: the least sure token) from which the student's verdict is final; below, the full model decides" example:"0.96"`
	Scores           string  `koanf:"scores" oneof:"top,all" doc:"top: the best label; all: every label with its score" example:"all"`
}

// VerdictField is the member of the output field that takes this model's verdict.
func (m ModelSettings) VerdictField() string {
	if m.Field != "" {
		return m.Field
	}
	return m.Name
}

// OutputSettings say where results go.
type OutputSettings struct {
	Topic string `koanf:"topic" need:"yes" doc:"topic for results" example:"review_analysis"`
	Field string `koanf:"field" doc:"field that is added to the source object" example:"inference"`
}

// RouteSettings copy results to another topic, in the same transaction.
type RouteSettings struct {
	Name  string `koanf:"name" need:"yes" doc:"name of the route in headers and errors" example:"urgent"`
	When  string `koanf:"when" need:"yes" doc:"rule over the verdicts and the record: results for which it holds are copied" example:"sentiment.label == \"NEGATIVE\" && sentiment.score > 0.95"`
	Topic string `koanf:"topic" need:"yes" doc:"topic for the copies" example:"urgent_alerts"`
}

// EscalationSettings say what is asked at an external endpoint, and how its answers are used.
type EscalationSettings struct {
	When          string           `koanf:"when" doc:"rule over the verdicts and the record: records for which it holds are asked about; empty: no escalation" example:"sentiment.score < 0.80"`
	Verdict       string           `koanf:"verdict" doc:"verdict that is in question; empty: that of the only text-classification model" example:"sentiment"`
	Topic         string           `koanf:"topic" doc:"topic for requests, written and read by the workers themselves" example:"review_escalations"`
	Group         string           `koanf:"group" doc:"consumer group that reads the requests; empty: kafka.group with -escalation behind it" example:"reviews-llm"`
	Mode          string           `koanf:"mode" oneof:"amend,defer,shadow" doc:"amend: provisional result at once, revision 2 with the answer; defer: only the final result; shadow: answers are only compared and counted" example:"defer"`
	MaxAge        time.Duration    `koanf:"max_age" doc:"records older than this, by their timestamp, are not asked about any more: their local verdict is final; 0: no limit" example:"1h"`
	Severity      []string         `koanf:"severity" doc:"labels from harmless to severe; with severity_floor" example:"POSITIVE,NEGATIVE"`
	SeverityFloor float64          `koanf:"severity_floor" doc:"local score from which the endpoint may not lower the severity" example:"0.7"`
	Confident     float64          `koanf:"confident" doc:"local score from which another answer is flagged disagrees-with-confident" example:"0.9"`
	Redact        []string         `koanf:"redact" doc:"what is replaced by placeholders before a text leaves the worker: email, phone, number, and entity groups of a local model" example:"PER,LOC,email,phone,number"`
	Cache         Bytes            `koanf:"cache" doc:"memory for answers to questions asked before; 0: every question is asked" example:"16MiB"`
	Endpoint      EndpointSettings `koanf:"endpoint"`
	Prompt        PromptSettings   `koanf:"prompt"`
	Budget        BudgetSettings   `koanf:"budget"`
}

// On says whether anything is escalated.
func (e *EscalationSettings) On() bool { return e.When != "" }

// EndpointSettings say where an OpenAI-compatible chat API is, and how much is asked of it.
type EndpointSettings struct {
	URLs             []string        `koanf:"urls" doc:"base URLs of OpenAI-compatible chat APIs, all with the same model (llama.cpp, vLLM, Ollama, TGI)" example:"http://llama-0:8000/v1,http://llama-1:8000/v1"`
	Model            string          `koanf:"model" doc:"model to ask, as the API names it" example:"llama-3.1-8b-instruct"`
	APIKeyFile       string          `koanf:"api_key_file" path:"yes" doc:"file that holds the API key, read again when it changes" example:"/run/secrets/llm-key"`
	APIKey           pipeline.Secret `koanf:"api_key" secret:"yes" doc:"the API key itself; from the environment only" example:"(from a secret store)"`
	Timeout          time.Duration   `koanf:"timeout" doc:"longest one call may take" example:"10s"`
	Deadline         time.Duration   `koanf:"deadline" doc:"longest a question may take, all its calls and pauses together; then the local verdict is final" example:"30s"`
	MaxConcurrency   int             `koanf:"max_concurrency" doc:"most calls in progress at one URL; the worker finds out how many it bears" example:"16"`
	MaxAttempts      int             `koanf:"max_attempts" doc:"most calls for one question, those at other URLs included" example:"4"`
	Structured       string          `koanf:"structured" oneof:"auto,json_schema,guided_choice,json_object,none" doc:"how the form of the answer is enforced; auto: the best that the endpoint offers" example:"json_schema"`
	MaxTokens        int             `koanf:"max_tokens" doc:"most tokens of an answer" example:"200"`
	MaxResponseBytes Bytes           `koanf:"max_response_bytes" doc:"larger answers are refused" example:"256KiB"`
	CAFile           string          `koanf:"ca_file" path:"yes" doc:"PEM file of the certificate authorities to trust, in place of the system's" example:"/etc/llm/ca.pem"`
	Proxy            string          `koanf:"proxy" doc:"HTTP proxy for these calls; the environment's proxies are not used" example:"http://proxy:3128"`
	BreakerFailures  int             `koanf:"breaker_failures" doc:"failures in a row after which a URL is left alone for breaker_pause" example:"10"`
	BreakerPause     time.Duration   `koanf:"breaker_pause" doc:"how long a URL is left alone before one call tries it again" example:"30s"`
}

// PromptSettings say what is asked. The labels are those of the model whose verdict is in question.
type PromptSettings struct {
	Instruction string            `koanf:"instruction" doc:"what is to be decided, in a sentence; empty: which label fits the text" example:"Decide how the customer feels about our product."`
	Labels      map[string]string `koanf:"labels" doc:"what each label means" example:"NEGATIVE=a complaint,POSITIVE=everything else"`
	Aliases     map[string]string `koanf:"aliases" doc:"what an answer may say in place of a label" example:"bad=NEGATIVE,good=POSITIVE"`
	Explain     bool              `koanf:"explain" doc:"ask for a short explanation too, which stands in the verdict" example:"true"`
}

// BudgetSettings bound what escalation may cost, over all workers together. A day is a day of UTC.
type BudgetSettings struct {
	CallsPerSecond        float64 `koanf:"calls_per_second" doc:"most calls a second; 0: no limit" example:"20"`
	CallsPerDay           int     `koanf:"calls_per_day" doc:"most calls a day; 0: no limit" example:"50000"`
	TokensPerDay          int     `koanf:"tokens_per_day" doc:"most tokens of questions and answers a day; 0: no limit" example:"20000000"`
	MoneyPerDay           float64 `koanf:"money_per_day" doc:"most money a day, in the currency of the prices; 0: no limit" example:"25"`
	PriceInputPerMillion  float64 `koanf:"price_input_per_million" doc:"price of a million tokens of questions" example:"0.20"`
	PriceOutputPerMillion float64 `koanf:"price_output_per_million" doc:"price of a million tokens of answers" example:"0.60"`
}

// DeadLetterSettings say where records go that cannot be judged.
type DeadLetterSettings struct {
	Topic string `koanf:"topic" need:"yes" doc:"topic for records that cannot be judged, unchanged, with the reason in their headers" example:"review_dlq"`
}

// LimitSettings bound the memory of work in flight. A partition at its limit is not fetched until there is room.
type LimitSettings struct {
	Partition Limit `koanf:"partition"`
	Total     Limit `koanf:"total"`
}

// Limit is one bound on work in flight, in three units; the first that is reached counts.
type Limit struct {
	Records int   `koanf:"records" doc:"most records in flight" example:"2000"`
	Bytes   Bytes `koanf:"bytes" doc:"most bytes of records in flight" example:"16MiB"`
	Tokens  int   `koanf:"tokens" doc:"most tokens in flight" example:"200000"`
}

// UrgentSettings say which records go before others. Of four batches in a row at least one is for the others.
type UrgentSettings struct {
	Topics []string `koanf:"topics" doc:"input topics whose records go first; a backlog of other topics does not hold up their fetching" example:"incidents"`
	Header string   `koanf:"header" doc:"header that makes a record urgent: name, or name=value" example:"priority=high"`
	When   string   `koanf:"when" doc:"rule that makes a record urgent, over topic, key, headers, text, bytes, field(\"path\"), number(\"path\")" example:"number(\"priority\") > 7"`
}

// CacheSettings are the cache of results.
type CacheSettings struct {
	MaxBytes Bytes `koanf:"max_bytes" doc:"memory for results of texts seen before, by model and tokens; 0: no cache. An answer from it has route: cache" example:"64MiB"`
}

// ServerSettings are the HTTP endpoints /metrics, /healthz, /readyz and /status.
type ServerSettings struct {
	Listen    string            `koanf:"listen" doc:"address of /metrics, /healthz, /readyz and /status; \"off\": no server" example:"0.0.0.0:9464"`
	TLS       ServerTLSSettings `koanf:"tls"`
	TokenFile string            `koanf:"token_file" path:"yes" doc:"file that holds the token which /metrics, /status and /debug/pprof/ want (Authorization: Bearer ...); read at every request" example:"/run/secrets/sluice-token"`
	Insecure  bool              `koanf:"insecure" doc:"allow listen on other than loopback addresses without TLS and a token: whoever reaches the port reads /metrics and /status" example:"true"`
	Pprof     bool              `koanf:"pprof" doc:"serve Go's profiles under /debug/pprof/ too; for whoever may see what the process does" example:"true"`
}

// ServerTLSSettings encrypt the HTTP endpoints.
type ServerTLSSettings struct {
	CertFile     string `koanf:"cert_file" path:"yes" doc:"PEM file of the certificate to serve with, intermediates behind it (with key_file); a renewed one is taken up" example:"/etc/sluice/tls.crt"`
	KeyFile      string `koanf:"key_file" path:"yes" doc:"PEM file of the certificate's key" example:"/etc/sluice/tls.key"`
	ClientCAFile string `koanf:"client_ca_file" path:"yes" doc:"PEM file of the certificate authorities whose client certificates /metrics, /status and /debug/pprof/ want" example:"/etc/sluice/clients.pem"`
}

// LogSettings say what is logged, to standard error. Payloads and secrets never are.
type LogSettings struct {
	Level  string `koanf:"level" oneof:"debug,info,warn,error" doc:"least severe message to log" example:"debug"`
	Format string `koanf:"format" oneof:"text,json" doc:"form of log lines" example:"json"`
}

// DefaultSettings is what holds where nothing is said.
func DefaultSettings() Settings {
	lim := pipeline.DefaultLimits
	return Settings{
		Kafka: KafkaSettings{
			InstanceID:         "${HOSTNAME}",
			SessionTimeout:     120 * time.Second,
			RebalanceTimeout:   25 * time.Second,
			TransactionTimeout: 60 * time.Second,
			Guarantee:          "exactly-once",
			CommitInterval:     100 * time.Millisecond,
			Compression:        "lz4",
			Fetch:              FetchSettings{MaxBytes: 8 << 20, MaxWait: 500 * time.Millisecond},
		},
		Input:  InputSettings{Format: "json", Text: "text", Start: "earliest", MaxTextBytes: 256 << 10, MaxDepth: 512},
		Output: OutputSettings{Field: "inference"},
		Limits: LimitSettings{
			Partition: Limit{Records: lim.PartitionRecords, Bytes: Bytes(lim.PartitionBytes),
				Tokens: lim.PartitionTokens},
			Total: Limit{Records: lim.TotalRecords, Bytes: Bytes(lim.TotalBytes), Tokens: lim.TotalTokens},
		},
		RunTimeout: 30 * time.Second,
		Escalation: EscalationSettings{
			Mode: "amend", SeverityFloor: 0.7, Confident: 0.9, Cache: 8 << 20,
			Endpoint: EndpointSettings{Timeout: 10 * time.Second, Deadline: 30 * time.Second, MaxConcurrency: 16,
				MaxAttempts: 4, Structured: "auto",
				MaxTokens: 200, MaxResponseBytes: 256 << 10, BreakerFailures: 10, BreakerPause: 15 * time.Second},
		},
		Server: ServerSettings{Listen: "127.0.0.1:9464"},
		Log:    LogSettings{Level: "info", Format: "text"},
	}
}

// DefaultModel is what holds for every entry of models.
func DefaultModel() ModelSettings {
	return ModelSettings{
		Device: "cpu", DeviceFallback: "fail", Aggregation: "simple", LongText: "truncate", Stride: 64,
		WindowMerge: "mean", Scores: "top", StudentThreshold: 0.95,
	}
}

// Bytes is a number of bytes, written as 1048576, 1024KiB, 1MiB or 1MB.
type Bytes int64

var byteUnits = []struct {
	suffix string
	size   int64
}{ // longest suffix first
	{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"kB", 1000}, {"KB", 1000}, {"MB", 1e6}, {"GB", 1e9},
	{"B", 1},
}

// parseBytes reads a size. The error says how to write one.
func parseBytes(s string) (Bytes, error) {
	number, unit := strings.TrimSpace(s), int64(1)
	for _, u := range byteUnits {
		if rest, ok := strings.CutSuffix(number, u.suffix); ok {
			number, unit = strings.TrimSpace(rest), u.size
			break
		}
	}
	n, err := strconv.ParseInt(number, 10, 64)
	if err != nil || n < 0 || n > math.MaxInt64/unit {
		return 0, fmt.Errorf("%q is not a size; write for example 65536, 64KiB or 1MiB", s)
	}
	return Bytes(n * unit), nil
}

func (b Bytes) String() string {
	for _, u := range []int{2, 1, 0} {
		if size := byteUnits[u].size; int64(b) >= size && int64(b)%size == 0 {
			return strconv.FormatInt(int64(b)/size, 10) + byteUnits[u].suffix
		}
	}
	return strconv.FormatInt(int64(b), 10) + "B"
}
