package settings_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// Many mistakes, several of them on one line, in every layer: they are told in the order of the file, then of the
// environment, then of the flags, and in the same order every time.
func TestMistakesAreToldInTheOrderOfTheFile(t *testing.T) {
	const yaml = `escalation:
  when: "true"
  budget: {price_output_per_million: -1, money_per_day: -2, calls_per_second: -3, price_input_per_million: -4}
runners: -1
kafka: {fetch: {max_wait: 1h, max_bytes: 1}, brokers: [x], colour: red}
input: {topics: [same]}
models: [{stride: -1, student_threshold: 2}]
output: {topic: same}
routes: [{name: "r 1", when: "1", topic: same}]
dead_letter: {topic: same}
`
	environ := []string{"SLUICE_SERVER__LISTEN=x", "SLUICE_LOG__LEVEL=loud", "SLUICE_CACHE__MAX_BYTES=1"}
	flags := []string{"--run_timeout=1us", "--deadline=-1s", "--batch_tokens=-1"}
	want := []string{
		"c.yaml:1: escalation.topic:", "c.yaml:1: escalation.endpoint.urls:", "c.yaml:1: escalation.endpoint.model:",
		"c.yaml:3: escalation.budget.price_output_per_million: must not be negative",
		"c.yaml:3: escalation.budget.money_per_day: must not be negative",
		"c.yaml:3: escalation.budget.calls_per_second: must not be negative",
		"c.yaml:3: escalation.budget.price_input_per_million: must not be negative",
		"c.yaml:4: runners:",
		"c.yaml:5: kafka.group: is missing", "c.yaml:5: kafka.fetch.max_wait:", "c.yaml:5: kafka.fetch.max_bytes:",
		"c.yaml:5: kafka.brokers:", "c.yaml:5: kafka.colour: unknown key",
		"c.yaml:7: models[0].name: is missing", "c.yaml:7: models[0].path: is missing", "c.yaml:7: models[0].stride:",
		"c.yaml:7: models[0].student_threshold:",
		`c.yaml:8: output.topic: "same" is also an input topic`,
		"c.yaml:9: routes[0].name:", "c.yaml:9: routes[0].when:",
		`c.yaml:9: routes[0].topic: "same" is also an input topic`,
		`c.yaml:9: routes[0].topic: "same" is also output.topic`,
		`c.yaml:9: routes[0].topic: "same" is also dead_letter.topic`,
		`c.yaml:10: dead_letter.topic: "same" is also an input topic`,
		`c.yaml:10: dead_letter.topic: "same" is also output.topic`,
		"SLUICE_CACHE__MAX_BYTES: cache.max_bytes:", "SLUICE_LOG__LEVEL: log.level:",
		"SLUICE_SERVER__LISTEN: server.listen:",
		"--batch_tokens: batch_tokens:", "--deadline: deadline:", "--run_timeout: run_timeout:",
	}
	var first []string
	for range 50 {
		_, err := load(t, yaml, environ, flags...)
		if err == nil {
			t.Fatal("accepted")
		}
		got := mistakes(t, err)
		if first == nil {
			first = got
			for i, m := range got {
				if i >= len(want) || !strings.HasPrefix(m, want[i]) {
					t.Fatalf("mistake %d is %s\nall:\n%s", i, m, strings.Join(got, "\n"))
				}
			}
			if len(got) != len(want) {
				t.Fatalf("%d mistakes, want %d", len(got), len(want))
			}
		}
		if d := cmp.Diff(first, got); d != "" {
			t.Fatal("another order:", d)
		}
	}
}
