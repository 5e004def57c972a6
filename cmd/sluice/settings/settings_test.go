package settings_test

import (
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"

	"sluice/cmd/sluice/config"
	"sluice/cmd/sluice/settings"
)

// minimal is the shortest configuration without mistakes.
const minimal = `kafka:
  brokers: ["localhost:9092"]
  group: reviews
input: {topics: [customer_reviews]}
models:
  - {name: sentiment, path: models/sentiment}
output: {topic: review_analysis}
dead_letter: {topic: review_dlq}
`

func load(t *testing.T, yaml string, environ []string, args ...string) (*settings.Loaded, error) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "c.yaml")
	if err := os.WriteFile(file, []byte(yaml), 0o600); err != nil {
		t.Fatal(err)
	}
	fs := pflag.NewFlagSet("test", pflag.ContinueOnError)
	settings.Keys().AddFlags(fs)
	if err := fs.Parse(args); err != nil {
		t.Fatal(err)
	}
	return settings.Load(config.Source{File: file, Environ: environ, Flags: fs, Hostname: "pod-0",
		Commands: map[string]bool{"SLUICE_ONNXRUNTIME": true}})
}

// mistakes are the lines of the error, without the directory of the file.
func mistakes(t *testing.T, err error) []string {
	t.Helper()
	var ce *config.Mistakes
	if !errors.As(err, &ce) {
		t.Fatalf("the error is not a *config.Mistakes but %T: %v", err, err)
	}
	lines := strings.Split(err.Error(), "\n")
	for i := range lines {
		lines[i] = regexp.MustCompile(`^/\S*/(c\.yaml)`).ReplaceAllString(lines[i], "$1")
	}
	return lines
}

func TestTheShortestConfigurationGetsTheDefaults(t *testing.T) {
	c, err := load(t, minimal, nil)
	if err != nil {
		t.Fatal(err)
	}
	want := settings.Default()
	want.Kafka.Brokers, want.Kafka.Group, want.Kafka.InstanceID = []string{"localhost:9092"}, "reviews", "pod-0"
	want.Input.Topics = []string{"customer_reviews"}
	m := settings.DefaultModel()
	m.Name, m.Path = "sentiment", filepath.Join(filepath.Dir(c.File), "models/sentiment")
	want.Models = []settings.Model{m}
	want.Output.Topic, want.DeadLetter.Topic = "review_analysis", "review_dlq"
	if d := cmp.Diff(want, c.Settings); d != "" {
		t.Error(d)
	}
}

// ruleWords end every complaint about a rule over verdicts.
const ruleWords = `; a rule may use sentiment, each with .label, .score, .margin, .entropy, .confidence, .scores["label"], .groups, .entities, .truncated, .windows, .by, .student_label, .student_score and .disagrees;` +
	` and topic, partition, key, headers["name"], text, bytes, field("path") and number("path"), and must be true or false`

func TestEveryMistakeIsNamedWithItsLine(t *testing.T) {
	for _, tc := range []struct {
		name, yaml string
		want       []string
	}{
		{"misspelt keys at every level", strings.Replace(minimal, "group: reviews", "gruop: reviews", 1) +
			"modles: []\n", []string{
			`c.yaml:1: kafka.group: is missing (consumer group; workers of one group share the partitions); write for example reviews`,
			`c.yaml:3: kafka.gruop: unknown key; did you mean kafka.group?`,
			`c.yaml:9: modles: unknown key; did you mean models?`,
		}},
		{"a key in the wrong section", minimal + "guarantee: exactly-once\n", []string{
			`c.yaml:9: guarantee: unknown key; did you mean kafka.guarantee?`,
		}},
		{"a misspelt key of a model", strings.Replace(minimal, "path: models/sentiment", "path: m, devise: cpu", 1),
			[]string{
				`c.yaml:6: models[0].devise: unknown key; did you mean models[0].device?`,
			}},
		{"wrong kinds of values", minimal + "runners: many\nrun_timeout: 30\nlog: {level: loud, format: " +
			"[json]}\nserver: 9464\nlimits: {total: {bytes: 3 apples}}\n", []string{
			`c.yaml:9: runners: "many" is not a whole number; write for example 4`,
			`c.yaml:10: run_timeout: 30 has no unit; write for example 30s or 30ms`,
			`c.yaml:11: log.level: "loud" is not one of debug, info, warn, error`,
			`c.yaml:11: log.format: must be one value (text), not a list; write for example json`,
			`c.yaml:12: server: must hold keys (listen, tls, token_file, insecure, pprof), not the value "9464"`,
			`c.yaml:13: limits.total.bytes: "3 apples" is not a size; write for example 65536, 64KiB or 1MiB`,
		}},
		{"a choice with a slip", strings.Replace(minimal, "group: reviews", "group: reviews\n  guarantee: exactly_once",
			1), []string{
			`c.yaml:4: kafka.guarantee: "exactly_once" is not one of exactly-once, at-least-once; did you mean exactly-once?`,
		}},
		{"one value where a list belongs", strings.Replace(minimal, `["localhost:9092"]`, "localhost:9092", 1),
			[]string{
				`c.yaml:2: kafka.brokers: must be a list; write ["localhost:9092"]`,
			}},
		{"an empty file", "", []string{
			`c.yaml: kafka.brokers: is missing (addresses (host:port) of brokers to ask first); write for example kafka-1:9092,kafka-2:9092`,
			`c.yaml: kafka.group: is missing (consumer group; workers of one group share the partitions); write for example reviews`,
			`c.yaml: input.topics: is missing (topics to read); write for example customer_reviews`,
			`c.yaml: models: is missing; write for example [{name: sentiment, path: models/sentiment}]`,
			`c.yaml: output.topic: is missing (topic for results); write for example review_analysis`,
			`c.yaml: dead_letter.topic: is missing (topic for records that cannot be judged, unchanged, with the reason in their headers); write for example review_dlq`,
		}},
		{"a model without path", strings.Replace(minimal, ", path: models/sentiment", "", 1), []string{
			`c.yaml:6: models[0].path: is missing (model directory); write for example models/sentiment`,
		}},
		{"models that are no list", strings.Replace(minimal, "  - {name: sentiment, path: models/sentiment}",
			"  sentiment: models/sentiment", 1), []string{
			`c.yaml:6: models: must be a list ([{name: sentiment, path: models/sentiment}]), not a mapping`,
		}},
		{"routes", minimal + "routes:\n  - {name: urgent, when: 'sentiment.scre > 0.5', topic: alerts}\n  - {name: " +
			"urgent, when: 'true', topic: review_analysis}\n  - {name: in, when: 'true', topic: customer_reviews}\n  " +
			"- {topic: x}\n", []string{
			"c.yaml:10: routes[0].when: column 11: a verdict has no scre" + ruleWords,
			`c.yaml:11: routes[1].name: "urgent" is also the name of routes[0]; names must differ`,
			`c.yaml:11: routes[1].topic: "review_analysis" is also output.topic; give the copies a topic of their own`,
			`c.yaml:12: routes[2].topic: "customer_reviews" is also an input topic, so the worker would read what it writes, for ever; write to another topic, or remove it from input.topics`,
			`c.yaml:13: routes[3].name: is missing (name of the route in headers and errors); write for example urgent`,
			"c.yaml:13: routes[3].when: is missing (rule over the verdicts and the record: results for which it " +
				"holds are copied); write for example sentiment.label == \"NEGATIVE\" && sentiment.score > 0.95",
		}},
		{"an escalation without anything", minimal + "escalation: {when: 'sentiment.score < 0.8'}\n", []string{
			`c.yaml:9: escalation.topic: is missing (topic for requests, written and read by the workers themselves); write for example review_escalations`,
			`c.yaml:9: escalation.endpoint.urls: is missing (base URLs of OpenAI-compatible chat APIs, all with the same model (llama.cpp, vLLM, Ollama, TGI)); write for example http://llama-0:8000/v1,http://llama-1:8000/v1`,
			`c.yaml:9: escalation.endpoint.model: is missing (model to ask, as the API names it); write for example llama-3.1-8b-instruct`,
		}},
		{"parameters of an endpoint that no request has", minimal + `escalation:
  when: 'true'
  topic: escalations
  endpoint: {urls: ["http://llm/v1"], model: m, max_tokens: 0, parameters: {top_k: omit}}
`, []string{
			`c.yaml:12: escalation.endpoint.max_tokens: must be at least 1: budgets charge it before each call; to ask without it, write endpoint.parameters: {max_tokens: omit}`,
			`c.yaml:12: escalation.endpoint.parameters: "top_k" is no parameter that a request has; known are max_tokens, temperature, stream`,
		}},
		{"a parameter under a name that is taken", minimal + `escalation:
  when: 'true'
  topic: escalations
  endpoint: {urls: ["http://llm/v1"], model: m, parameters: {max_tokens: temperature}}
`, []string{
			`c.yaml:12: escalation.endpoint.parameters: the request would have temperature twice`,
		}},
		{"an escalation that never happens", minimal + "escalation: {topic: x}\n", []string{
			`c.yaml:9: escalation.topic: has no effect without escalation.when, the rule that says which records are asked about; write for example escalation: {when: 'sentiment.score < 0.80'}, or remove the section`,
		}},
		{"an escalation with mistakes", minimal + `escalation:
  when: 'sentiment.score < "a lot"'
  topic: review_dlq
  verdict: sentimnt
  severity: [POSITIVE]
  severity_floor: 7
  redact: [e-mail]
  endpoint: {urls: ["ftp://x/v1", "http://me:secret@llama/v1"], model: m, timeout: 10s, deadline: 5s, max_concurrency: 0}
  budget: {money_per_day: 3, calls_per_day: -1}
`, []string{
			"c.yaml:10: escalation.when: column 17: invalid operation: < (mismatched types float64 and string)" +
				ruleWords,
			`c.yaml:11: escalation.topic: "review_dlq" is also dead_letter.topic, whose readers do not expect requests; give the requests a topic of their own`,
			`c.yaml:12: escalation.verdict: there is no verdict "sentimnt"; did you mean sentiment?; known here: sentiment`,
			`c.yaml:13: escalation.severity: one label has no order; name the labels from harmless to severe`,
			`c.yaml:14: escalation.severity_floor: 7 is out of range; between 0 and 1`,
			`c.yaml:16: escalation.endpoint.urls: "ftp://x/v1" is not an address; write for example http://llama:8000/v1`,
			`c.yaml:16: escalation.endpoint.deadline: 5s is shorter than the timeout of one call (10s)`,
			`c.yaml:16: escalation.endpoint.max_concurrency: must be at least 1`,
			`c.yaml:17: escalation.budget.money_per_day: needs prices: give price_input_per_million and price_output_per_million`,
			`c.yaml:17: escalation.budget.calls_per_day: must be at least 0`,
		}},
		{"a key given twice", minimal + "runners: 1\nrunners: 2\n", []string{
			`c.yaml:10: runners: given twice; line 9 has it already, keep one`,
		}},
		{"references to variables", strings.Replace(minimal, "group: reviews", "group: ${NO_SUCH}\n  instance_id: "+
			"\"${not a name}\"", 1), []string{
			`c.yaml:3: kafka.group: the environment variable NO_SUCH is not set; set it, or write ${NO_SUCH:-default}`,
			"c.yaml:4: kafka.instance_id: ${not a name} is not a reference to an environment variable; write ${NAME} " +
				"or ${NAME:-default}, or $${ for a plain ${",
		}},
		{"syntax", "kafka:\n  group: [\n", []string{`c.yaml:2: not valid YAML: did not find expected node content`}},
		{"a secret in the file", strings.Replace(minimal, "group: reviews", "group: reviews\n  sasl: {mechanism: "+
			"PLAIN, username: u, password: hunter2}\n  tls: {enabled: true}", 1), []string{
			`c.yaml:4: kafka.sasl.password: a secret does not belong in the configuration file; use kafka.sasl.password_file, or the environment variable SLUICE_KAFKA__SASL__PASSWORD`,
		}},
		{"an output that is an input", strings.Replace(minimal, "review_analysis", "customer_reviews", 1), []string{
			`c.yaml:7: output.topic: "customer_reviews" is also an input topic, so the worker would read what it writes, for ever; write to another topic, or remove it from input.topics`,
		}},
		{"dead letters among the results", strings.Replace(minimal, "review_dlq", "review_analysis", 1), []string{
			`c.yaml:8: dead_letter.topic: "review_analysis" is also output.topic, whose readers expect results; give dead letters a topic of their own, or send results to another`,
		}},
		{"commits slower than transactions", strings.Replace(minimal, "group: reviews",
			"group: reviews\n  commit_interval: 1m", 1), []string{
			`c.yaml:4: kafka.commit_interval: 1m leaves no time to finish a transaction within kafka.transaction_timeout (1m); lower commit_interval, or raise transaction_timeout to more than twice as much`,
		}},
		{"one partition allowed more than all", minimal + "limits: {total: {records: 10}}\n", []string{
			`c.yaml:9: limits.total.records: one partition may have 2000 in flight, all together (limits.total.records) only 10; lower limits.partition.records, or raise limits.total.records`,
		}},
		{"a batch that can never be full", minimal + "batch_tokens: 2000000\n", []string{
			`c.yaml:9: batch_tokens: 2000000 is more than limits.total.tokens (1000000), so no batch would ever be full; lower batch_tokens, or raise the limit`,
		}},
		{"options without effect", strings.Replace(minimal, "path: models/sentiment",
			"path: m, stride: 3, device_fallback: cpu", 1), []string{
			`c.yaml:6: models[0].stride: has no effect with long_text: truncate; set long_text: window, or remove stride`,
			`c.yaml:6: models[0].device_fallback: has no effect with device: cpu; set device: cuda or openvino, or remove device_fallback`,
		}},
		{"an urgent topic that is not read", minimal + "urgent: {topics: [customer_review], header: \"=high\"}\n",
			[]string{
				`c.yaml:9: urgent.topics: "customer_review" is not among input.topics, so nothing of it is read; did you mean customer_reviews?`,
				`c.yaml:9: urgent.header: "=high" names no header; write for example priority=high`,
			}},
		{"a rule with a slip", minimal + "urgent: {when: 'txt contains \"outage\"'}\n", []string{
			`c.yaml:9: urgent.when: column 1: unknown name txt; a rule may use topic, partition, key, headers["name"], text, bytes, field("path") and number("path"), and must be true or false`,
		}},
		{"a threshold without a student", strings.Replace(minimal, "path: models/sentiment",
			"path: m, student_threshold: 0.9", 1), []string{
			`c.yaml:6: models[0].student_threshold: has no effect without a student; give student, the directory of a smaller model, or remove it`,
		}},
		{"a threshold that is no score", strings.Replace(minimal, "path: models/sentiment",
			"path: m, student: s, student_threshold: 97", 1), []string{
			`c.yaml:6: models[0].student_threshold: 97 is out of range; above 0, at most 1`,
		}},
		{"a cache too small to hold anything", minimal + "cache: {max_bytes: 100}\n", []string{
			`c.yaml:9: cache.max_bytes: 100B is out of range; between 64KiB and 1TiB, or 0 for no cache`,
		}},
		{"two models of one name", strings.Replace(minimal, "}\noutput", "}\n  - {name: sentiment, path: "+
			"other}\noutput", 1), []string{
			`c.yaml:7: models[1].name: "sentiment" is also the name of models[0]; names must differ`,
		}},
		{"two models in one field", strings.Replace(minimal, "}\noutput", "}\n  - {name: b, path: other, field: "+
			"sentiment}\noutput", 1), []string{
			`c.yaml:7: models[1].field: "sentiment" is also the verdict field of models[0]; give one of them another field, or another name`,
		}},
		{"a model named like a member of the verdict", strings.Replace(minimal, "name: sentiment", "name: flags", 1),
			[]string{
				`c.yaml:6: models[0].name: "flags" is a member that the output field has itself; give the model another field, or another name`,
			}},
		{"a text field in plain text", strings.Replace(minimal, "{topics: [customer_reviews]}",
			"{topics: [customer_reviews], format: text, text: body}", 1), []string{
			`c.yaml:4: input.text: has no meaning with input.format: text, where the whole value is the text; remove it, or set format: json`,
		}},
		{"a text within the verdicts' field", strings.Replace(minimal, "{topics: [customer_reviews]}",
			"{topics: [customer_reviews], text: inference.body}", 1), []string{
			`c.yaml:4: input.text: "inference" is also where the text is (input.text), and a record that has the output field already is refused; give the verdicts another field, or read another text field`,
		}},
		{"rules of skip", minimal + "skip:\n  - {name: a b, when: 'text == \"\"'}\n" +
			"  - {name: d, when: 'field(\"op\") == \"d\"'}\n  - {name: d, when: 'field(\"a..b\") == nil'}\n", []string{
			`c.yaml:10: skip[0].name: "a b" cannot be the name of a rule: letters, digits, dot, dash and underscore`,
			`c.yaml:10: skip[0].when: column 1: unknown name text; the rule is evaluated before the text is looked for, and may use topic, partition, key, headers["name"], bytes, field("path") and number("path"), and must be true or false`,
			`c.yaml:12: skip[2].name: "d" is also the name of skip[1]; names must differ`,
			`c.yaml:12: skip[2].when: column 7: the path of field: nothing stands before the dot or the end at character 3 of "a..b"; keys have one dot between them, and a dot within a key is written "\."; the rule is evaluated before the text is looked for, and may use topic, partition, key, headers["name"], bytes, field("path") and number("path"), and must be true or false`,
		}},
		{"a rule over fields of plain text", strings.Replace(minimal, "{topics: [customer_reviews]}",
			"{topics: [customer_reviews], format: text}", 1) +
			"skip: [{name: d, when: 'field(\"op\") == \"d\"'}, {name: e, when: 'key == \"\"'}]\n", []string{
			`c.yaml:9: skip[0].when: values of input.format: text have no fields, so field and number find nothing; write a rule over topic, key, headers or bytes, or set format: json`,
		}},
		{"a path with an empty key", strings.Replace(minimal, "{topics: [customer_reviews]}",
			"{topics: [customer_reviews], text: review..body}", 1), []string{
			`c.yaml:4: input.text: nothing stands before the dot or the end at character 8 of "review..body"; keys have one dot between them, and a dot within a key is written "\."`,
		}},
		{"a backslash that escapes nothing", strings.Replace(minimal, "{topics: [customer_reviews]}",
			`{topics: [customer_reviews], text: 'reviews.\#.body'}`, 1), []string{
			`c.yaml:4: input.text: the backslash at character 9 of "reviews.\\#.body" escapes nothing: "\." is a dot in a key, "\\" a backslash, and every other character stands for itself`,
		}},
		{"verdicts over the text", strings.Replace(minimal, "{topic: review_analysis}", "{topic: review_analysis, "+
			"field: text}", 1), []string{
			`c.yaml:7: output.field: "text" is also where the text is (input.text), and a record that has the output field already is refused; give the verdicts another field, or read another text field`,
		}},
		{"bad addresses", strings.Replace(minimal, `["localhost:9092"]`, `["localhost", "a:b"]`, 1) +
			"server: {listen: somewhere}\n", []string{
			`c.yaml:2: kafka.brokers: "localhost" is not host:port; write for example localhost:9092`,
			`c.yaml:9: server.listen: "somewhere" is not host:port; write for example 127.0.0.1:9464, or off`,
		}},
		{"half a client certificate", strings.Replace(minimal, "group: reviews", "group: reviews\n  tls: {enabled: "+
			"false, cert_file: c.pem}", 1), []string{
			`c.yaml:4: kafka.tls.enabled: false contradicts the other keys of kafka.tls; set it to true, or remove them`,
			`c.yaml:4: kafka.tls.cert_file: a client certificate needs its key; give kafka.tls.key_file too, or remove cert_file`,
		}},
		{"a login without its parts", strings.Replace(minimal, "group: reviews", "group: reviews\n  tls: {enabled: "+
			"true}\n  sasl: {mechanism: SCRAM-SHA-512}", 1), []string{
			`c.yaml:5: kafka.sasl.username: is missing; SCRAM-SHA-512 needs one`,
			`c.yaml:5: kafka.sasl.mechanism: SCRAM-SHA-512 needs a password; give kafka.sasl.password_file, or set the environment variable SLUICE_KAFKA__SASL__PASSWORD`,
		}},
		{"numbers out of range", minimal + "runners: -1\nrun_timeout: 1us\n", []string{
			`c.yaml:9: runners: -1 is out of range; between 1 and 1024, or 0 for the number of CPUs`,
			`c.yaml:10: run_timeout: 1µs is too short for a batch; write for example 30s`,
		}},
		{"timeouts that brokers refuse", strings.Replace(minimal, "group: reviews",
			"group: reviews\n  session_timeout: 1h\n  transaction_timeout: 16m", 1), []string{
			`c.yaml:4: kafka.session_timeout: 1h is out of range; between 500ms and 30m (brokers allow no more: group.max.session.timeout.ms)`,
			`c.yaml:5: kafka.transaction_timeout: 16m is out of range; between 1s and 15m (brokers allow no more: transaction.max.timeout.ms)`,
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := load(t, tc.yaml, nil)
			if err == nil {
				t.Fatal("accepted")
			}
			got := mistakes(t, err)
			if d := cmp.Diff(tc.want, got); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestMistakesInTheEnvironmentAreNamedToo(t *testing.T) {
	_, err := load(t, strings.Replace(minimal, "group: reviews", "group:", 1), []string{
		"SLUICE_KAFKA_GROUP=reviews", "SLUICE_RUN_TIMEOUT=soon", "SLUICE_ROUTES=x", "SLUICE_MODELS__4__PATH=x",
		"SLUICE_PORT_9464_TCP=tcp://10.0.0.1:9464", "SLUICE_SERVICE_HOST=10.0.0.1", "SLUICE_ONNXRUNTIME=/x",
	})
	got := mistakes(t, err)
	want := []string{
		`c.yaml:3: kafka.group: is missing (consumer group; workers of one group share the partitions); write for example reviews`,
		`SLUICE_KAFKA_GROUP: kafka_group: unknown key; did you mean SLUICE_KAFKA__GROUP? (every SLUICE_* variable is read as configuration)`,
		`SLUICE_MODELS__4__PATH: models[4].path: there are 1 models; the next has the number 1`,
		`SLUICE_ROUTES: routes: unknown key; did you mean SLUICE_ROUTES__0__NAME? (every SLUICE_* variable is read as configuration)`,
		`SLUICE_RUN_TIMEOUT: run_timeout: "soon" is not a duration; write for example 30s`,
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

func TestFlagsWinOverEnvironmentOverFileOverDefaults(t *testing.T) {
	yaml := strings.Replace(minimal, "group: reviews", "group: reviews\n  commit_interval: 1s\n  compression: zstd",
		1) + "runners: 3\n"
	environ := []string{"SLUICE_KAFKA__COMMIT_INTERVAL=2s", "SLUICE_RUNNERS=4", "SLUICE_KAFKA__BROKERS=a:1, b:2",
		"SLUICE_MODELS__0__DEVICE=cuda", "SLUICE_MODELS__1__NAME=ner", "SLUICE_MODELS__1__PATH=/ner"}
	c, err := load(t, yaml, environ, "--runners=5", "--input.topics=x,y")
	if err != nil {
		t.Fatal(err)
	}
	if c.Runners != 5 || c.Kafka.CommitInterval != 2*time.Second || c.Kafka.Compression != "zstd" ||
		c.Kafka.Guarantee != "exactly-once" {
		t.Errorf("precedence: %+v", c.Settings)
	}
	if d := cmp.Diff([]string{"a:1", "b:2"}, c.Kafka.Brokers); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff([]string{"x", "y"}, c.Input.Topics); d != "" {
		t.Error(d)
	}
	if len(c.Models) != 2 || c.Models[0].Device != "cuda" || c.Models[0].Name != "sentiment" ||
		c.Models[1].Path != "/ner" || c.Models[1].Device != "cpu" {
		t.Errorf("models: %+v", c.Models)
	}
	for path, want := range map[string]string{
		"runners": "--runners", "kafka.commit_interval": "SLUICE_KAFKA__COMMIT_INTERVAL", "kafka.compression": c.File +
			":5",
		"kafka.guarantee": "default", "models[0].device": "SLUICE_MODELS__0__DEVICE", "models[0].name": c.File + ":8",
	} {
		if got := c.Origin(path).String(); got != want {
			t.Errorf("origin of %s: %s, want %s", path, got, want)
		}
	}
}

func TestReferencesAreExpanded(t *testing.T) {
	c, err := load(t, strings.Replace(minimal, "group: reviews",
		`group: "${TEAM}-reviews-${STAGE:-dev}"`+"\n  instance_id: \"$${x}-${HOSTNAME}\"", 1), []string{"TEAM=blue"})
	if err != nil {
		t.Fatal(err)
	}
	if c.Kafka.Group != "blue-reviews-dev" || c.Kafka.InstanceID != "${x}-pod-0" {
		t.Errorf("group %q, instance %q", c.Kafka.Group, c.Kafka.InstanceID)
	}
}

func TestAnchorsAndMergesAreFollowed(t *testing.T) {
	c, err := load(t, strings.Replace(minimal, "  - {name: sentiment, path: models/sentiment}",
		"  - &m {name: sentiment, path: /m, scores: all}\n  - {<<: *m, name: other}", 1), nil)
	if err != nil {
		t.Fatal(err)
	}
	if m := c.Models[1]; m.Name != "other" || m.Path != "/m" || m.Scores != "all" {
		t.Errorf("%+v", m)
	}
}

func TestModelsMayBeNamedByURIs(t *testing.T) {
	c, err := load(t, strings.Replace(minimal, "path: models/sentiment", `path: "mlflow:sentiment@champion", student: `+
		`"hf:OWNER/NAME"`, 1), nil)
	if err != nil {
		t.Fatal(err)
	}
	if m := c.Models[0]; m.Path != "mlflow:sentiment@champion" || m.Student != "hf:OWNER/NAME" {
		t.Errorf("path %q, student %q", m.Path, m.Student)
	}
}

// A third kind of stage brings its own section, which knows the worker's.
func TestAnotherRoomBringsItsSection(t *testing.T) {
	type window struct {
		Topic string `key:"topic"`
	}
	w := &window{}
	room := func(s *settings.Settings) config.Section {
		keys := []config.Key{{Name: "topic", Need: true, Doc: "topic for counts", Example: "counts"}}
		return config.Section{Name: "window", Value: w, Keys: keys, Check: func(c *config.Check) {
			if w.Topic == s.Output.Topic {
				c.Between([]string{"window.topic", "output.topic"}, "%q is also output.topic", w.Topic)
			}
		}}
	}
	file := filepath.Join(t.TempDir(), "c.yaml")
	for text, want := range map[string]string{
		minimal + "window: {topic: counts}\n":          "",
		minimal + "window: {topic: review_analysis}\n": ":9: window.topic: \"review_analysis\" is also output.topic",
		minimal: ": window.topic: is missing (topic for counts); write for example counts",
	} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		*w = window{}
		_, err := settings.Load(config.Source{File: file, Hostname: "pod-0"}, room)
		if want == "" && err != nil || want != "" && (err == nil || err.Error() != file+want) {
			t.Errorf("%q: %v", want, err)
		}
	}
	fs := pflag.NewFlagSet("test", pflag.ContinueOnError)
	if settings.Keys(room).AddFlags(fs); fs.Lookup("window.topic") == nil || fs.Lookup("kafka.group") == nil {
		t.Error("there is no flag")
	}
}

func TestASecretIsNeverPrinted(t *testing.T) {
	yaml := strings.Replace(minimal, "group: reviews", "group: reviews\n  tls: {enabled: true}\n  sasl: {mechanism: "+
		"PLAIN, username: u}", 1)
	c, err := load(t, yaml, []string{"SLUICE_KAFKA__SASL__PASSWORD=hunter2"})
	if err != nil {
		t.Fatal(err)
	}
	if c.Kafka.SASL.Password.Reveal() != "hunter2" {
		t.Fatal("the password did not arrive")
	}
	var out strings.Builder
	c.Print(&out)
	if strings.Contains(out.String(), "hunter2") {
		t.Errorf("the password is printed:\n%s", out.String())
	}
	if !regexp.MustCompile(`(?m)^    password: "\*\*\*"\s+# SLUICE_KAFKA__SASL__PASSWORD$`).MatchString(out.String()) {
		t.Errorf("the password's origin is not printed:\n%s", out.String())
	}
}

func TestWhatIsPrintedLoadsAgain(t *testing.T) {
	yaml := strings.Replace(minimal, "group: reviews", "group: reviews\n  instance_id: \"a: #b\"\n  session_timeout: "+
		"90s", 1)
	first, err := load(t, yaml, nil)
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	first.Print(&out)
	second, err := load(t, out.String(), nil)
	if err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
	if d := cmp.Diff(first.Settings, second.Settings); d != "" {
		t.Errorf("%s\n%s", d, out.String())
	}
}

func TestListeningElsewhereWantsProof(t *testing.T) {
	proof := "tls: {cert_file: c.pem, key_file: k.pem}"
	for _, tc := range []struct{ server, says string }{
		{`listen: "0.0.0.0:9464"`, "can be reached from other machines; give server.tls"},
		{`listen: ":9464"`, "can be reached from other machines"},
		{`listen: "[::]:9464"`, "can be reached from other machines"},
		{`listen: "worker.example:9464"`, "can be reached from other machines"},
		{`listen: "10.0.0.1:9464", token_file: t`, "can be reached from other machines"},
		{`listen: "10.0.0.1:9464", ` + proof, "can be reached from other machines"},
		{`listen: "10.0.0.1:9464", token_file: t, ` + proof, ""},
		{`listen: "10.0.0.1:9464", tls: {cert_file: c, key_file: k, client_ca_file: a}`, ""},
		{`listen: "10.0.0.1:9464", insecure: true`, ""},
		{`listen: "10.0.0.1:9464", insecure: true, pprof: true`, "server.pprof: profiles show what the process does"},
		{`listen: "10.0.0.1:9464", insecure: true, pprof: true, token_file: t`, ""},
		{`listen: "127.0.0.1:9464", pprof: true`, ""},
		{`listen: "localhost:9464"`, ""},
		{`listen: "[::1]:9464"`, ""},
		{`listen: "off"`, ""},
		{`listen: "off", token_file: t`, "has no effect with server.listen: off"},
		{`tls: {cert_file: c}`, "a certificate needs its key"},
		{`tls: {key_file: c}`, "a key needs its certificate"},
		{`tls: {client_ca_file: c}`, "client certificates are asked for over TLS only"},
	} {
		_, err := load(t, minimal+"server: {"+tc.server+"}\n", nil)
		if tc.says == "" && err != nil || tc.says != "" && (err == nil || len(mistakes(t, err)) != 1 ||
			!strings.Contains(err.Error(), tc.says)) {
			t.Errorf("%s: %v", tc.server, err)
		}
	}
}

func TestSectionsThatContainThemselvesAreNamed(t *testing.T) {
	for name, yaml := range map[string]string{
		"in itself": "kafka: &k {<<: *k}\n",
		"ever more": "a: &a {group: x}\nb: &b {<<: [*a, *a, *a, *a, *a, *a, *a, *a, *a]}\nc: &c {<<: [*b, *b, *b, " +
			"*b, *b, *b, *b, *b, *b]}\nd: &d {<<: [*c, *c, *c, *c, *c, *c, *c, *c]}\n" +
			"kafka: {<<: [*d, *d, *d, *d, *d, *d, *d, *d, *d]}\n",
	} {
		_, err := load(t, yaml, nil)
		if err == nil || !strings.Contains(err.Error(), "anchors and aliases make more than") {
			t.Errorf("%s: %.300v", name, err)
		}
	}
}

func TestNestingOfAConfigurationIsBounded(t *testing.T) {
	for name, yaml := range map[string]string{
		"lists":    "kafka: " + strings.Repeat("[", 500_000),
		"sections": "kafka: " + strings.Repeat("{a: ", 200_000),
		"dashes":   "kafka:\n  " + strings.Repeat("- ", 400_000),
		"closed":   "kafka: " + strings.Repeat("[", 400_000) + strings.Repeat("]", 400_000),
	} {
		began := time.Now()
		_, err := load(t, yaml, nil)
		var ce *config.Mistakes
		if !errors.As(err, &ce) || !strings.Contains(err.Error(), "exceeded max depth") {
			t.Errorf("%s: %.300v", name, err)
		}
		if took := time.Since(began); took > 20*time.Second {
			t.Errorf("%s: it took %v", name, took)
		}
	}
}

func FuzzConfig(f *testing.F) {
	f.Add([]byte(minimal), "SLUICE_LOG__LEVEL=debug")
	f.Add([]byte("kafka: &k {group: ${G:-x}, <<: *k}\nmodels: [{name: a, path: b}, *k]\n"), "SLUICE_MODELS__0__PATH=x")
	f.Add([]byte("routes: [{name: r, when: 'true', topic: t}]\nescalation: {when: 'true', budget: {calls_per_day: "+
		"9223372036854775808}}\n"), "SLUICE_KAFKA__SASL__PASSWORD=x")
	examples, err := filepath.Glob("../../../examples/*.yaml")
	if err != nil || len(examples) == 0 {
		f.Fatal("no examples", err)
	}
	for _, e := range examples {
		text, err := os.ReadFile(e)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text, "")
	}
	f.Fuzz(func(t *testing.T, text []byte, env string) {
		s := settings.Default()
		c, err := s.Schema().Parse(text, config.Source{File: "c.yaml", Environ: []string{env}, Hostname: "h"})
		var ce *config.Mistakes
		switch {
		case err != nil && (!errors.As(err, &ce) || err.Error() == ""):
			t.Fatalf("the error is a %T: %v", err, err)
		case err == nil:
			var out strings.Builder
			c.Print(&out) // and what is printed is a configuration again
			s := settings.Default()
			_, err := s.Schema().Parse([]byte(out.String()), config.Source{File: "c.yaml", Hostname: "h"})
			if err != nil && strings.Contains(err.Error(), "not valid YAML") {
				t.Fatalf("%v in what was printed:\n%s", err, out.String())
			}
		}
	})
}
