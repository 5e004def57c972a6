package kafka

import (
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"

	"sluice/pipeline/pipelinetest"
)

// defaults are the settings of a topic of Kafka 4.3, but for those that Sluice asks for.
func defaults(change ...string) map[string]string {
	m := map[string]string{"cleanup.policy": "delete", "compression.type": "producer", "max.message.bytes": "1048588",
		"segment.bytes": "1073741824", "message.timestamp.type": "CreateTime",
		"message.timestamp.after.max.ms": "3600000", "message.timestamp.before.max.ms": "9223372036854775807",
		"min.insync.replicas": "2", "retention.ms": "604800000", "retention.bytes": "-1",
		"unclean.leader.election.enable": "false"}
	for i := 0; i < len(change); i += 2 {
		m[change[i]] = change[i+1]
	}
	return m
}

func TestSettingsThatDoNotFitAreSaid(t *testing.T) {
	const week, day = "604800000", "86400000"
	for _, c := range []struct {
		name         string
		in, out, dlq []string // changes
		partitions   [3]int   // of in, out, dlq; zeros: 4
		replicas     int      // 0: 3
		say          []string // parts of one warning each; nil: none
	}{
		{name: "as they should be"},
		{name: "the input takes what the output refuses: microseconds", in: []string{"message.timestamp.after.max.ms",
			"9223372036854775807"}, say: []string{
			"topic in takes records with timestamps any time ahead of the broker's clock, topic out only 1h0m0s ahead",
			"topic dlq only 1h0m0s ahead (message.timestamp.after.max.ms), and messages carry the timestamp of their " +
				"record: it refuses those beyond (of dead letters only a pointer"}},
		{name: "as much in all of them", in: []string{"message.timestamp.after.max.ms", "9223372036854775807"},
			out: []string{"message.timestamp.type", "LogAppendTime"}, dlq: []string{"message.timestamp.after.max.ms",
				"9223372036854775807"}},
		{name: "the input has the broker's time", in: []string{"message.timestamp.after.max.ms", "9223372036854775807",
			"message.timestamp.type", "LogAppendTime"}},
		{name: "old records", out: []string{"message.timestamp.before.max.ms", day}, say: []string{
			"topic in may hold records that are 7 d old, topic out takes timestamps of the last 1 d " +
				"(message.timestamp.before.max.ms)"}},
		{name: "old records by the broker's time", in: []string{"message.timestamp.type", "LogAppendTime"},
			out: []string{"message.timestamp.before.max.ms", day},
			say: []string{"records that are 7 d old, topic out"}},
		{name: "old enough", out: []string{"message.timestamp.before.max.ms", week}},
		{name: "the limit's name before Kafka 3.6", out: []string{"message.timestamp.difference.max.ms", day,
			"message.timestamp.after.max.ms", "", "message.timestamp.before.max.ms", ""}, say: []string{
			"topic in may hold records that are 7 d old, topic out takes timestamps of the last 1 d"}},
		{name: "compacted", out: []string{"cleanup.policy", "compact"}, say: []string{
			"topic out is compacted (cleanup.policy=compact): it refuses messages without a key (their records " +
				"become dead letters)"}},
		{name: "compacted, too", dlq: []string{"cleanup.policy", "compact,delete"}, say: []string{
			"topic dlq is compacted (cleanup.policy=compact,delete): it refuses messages without a key (of dead"}},
		{name: "too small", out: []string{"max.message.bytes", "1000"}, dlq: []string{"max.message.bytes", "1000000"},
			say: []string{"topic in takes messages of 1048588 bytes, topic out of 1000 (max.message.bytes)",
				"topic in takes messages of 1048588 bytes, topic dlq of 1000000"}},
		{name: "segments smaller than messages", out: []string{"segment.bytes", "1048576"},
			say: []string{"topic out has segment.bytes=1048576, less than its max.message.bytes=1048588"}},
		{name: "the broker compresses anew", out: []string{"compression.type", "zstd"},
			say: []string{"topic out has compression.type=zstd, the worker sends lz4"}},
		{name: "the same compression", out: []string{"compression.type", "lz4"}},
		{name: "results go before records", out: []string{"retention.ms", day}, say: []string{
			"topic out keeps messages for 1 d, topic in for 7 d (retention.ms): messages carry the timestamp of " +
				"their record, so those of older records are deleted at once"}},
		{name: "an input that keeps everything", in: []string{"retention.ms", "-1"},
			out: []string{"retention.ms", "-1"},
			say: []string{"topic dlq keeps messages for 7 d, topic in for any time"}},
		{name: "a compacted input keeps everything", in: []string{"cleanup.policy", "compact"},
			out: []string{"retention.ms", "-1"},
			say: []string{"topic dlq keeps messages for 7 d, topic in for any time"}},
		{name: "bytes", out: []string{"retention.bytes", "1000"}, say: []string{
			"topic out keeps 1000 bytes a partition, topic in all (retention.bytes)"}},
		{name: "partitions", partitions: [3]int{6, 4, 1}, say: []string{
			"topic in has 6 partitions, topic out 4: messages go to partition (input partition modulo 4)"}},
		{name: "one replica", replicas: 1, in: []string{"min.insync.replicas", "1"},
			out: []string{"min.insync.replicas", "1"}, dlq: []string{"min.insync.replicas", "1"},
			say: []string{"topics dlq, in, out have one replica"}},
		{name: "a leader that is alone", out: []string{"min.insync.replicas", "1"},
			say: []string{"topic out has min.insync.replicas=1"}},
		{name: "no broker may be away", out: []string{"min.insync.replicas", "3"},
			say: []string{"topic out has as many min.insync.replicas as replicas"}},
		{name: "nothing can be written", out: []string{"min.insync.replicas", "4"},
			say: []string{"topic out has 3 replicas and min.insync.replicas=4: nothing can be written to it"}},
		{name: "unclean elections", in: []string{"unclean.leader.election.enable", "true"},
			say: []string{"topic in has unclean.leader.election.enable=true"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg := DefaultConfig()
			cfg.Topics, cfg.Outputs, cfg.DeadLetters = []string{"in"}, []string{"out", "dlq"}, "dlq"
			topics := map[string]*topicSettings{}
			for i, name := range []string{"in", "out", "dlq"} {
				x := &topicSettings{partitions: c.partitions[i], replicas: c.replicas,
					values: defaults([][]string{c.in, c.out, c.dlq}[i]...)}
				if x.partitions == 0 {
					x.partitions = 4
				}
				if x.replicas == 0 {
					x.replicas = 3
				}
				topics[name] = x
			}
			got := compareTopics(&cfg, topics)
			if len(got) != len(c.say) {
				t.Fatalf("%d warnings, want %d: %q", len(got), len(c.say), got)
			}
			for i, s := range c.say {
				if !strings.Contains(got[i], s) {
					t.Errorf("%q does not say %q", got[i], s)
				}
			}
			// What may not be seen is not guessed.
			for name := range topics {
				rest := maps.Clone(topics)
				rest[name] = &topicSettings{partitions: 4}
				for _, w := range compareTopics(&cfg, rest) {
					if strings.Contains(w, "topic "+name+" ") || !slices.Contains(got, w) && c.name != "one replica" {
						t.Errorf("without the settings of %s: %q", name, w)
					}
				}
			}
		})
	}
}

// TestRealSettings are read from a broker, by a worker that may see some of them, and none.
func TestRealSettings(t *testing.T) {
	b, l := pipelinetest.TestListener(t)
	in, out, group := topicNames(t)
	lax, compact, size := "9223372036854775807", "compact", "50000"
	createTopics(t, b.Addrs(), 2, map[string]*string{"message.timestamp.after.max.ms": &lax}, in)
	createTopics(t, b.Addrs(), 2, map[string]*string{"cleanup.policy": &compact, "max.message.bytes": &size}, out)
	cfg := realConfig(t, b, l, ExactlyOnce, in, out, group)
	c := newClient(t, cfg)
	if _, err := c.awaitTopics(t.Context(), "check", time.Time{}, c.allTopics()); err != nil { // just made
		t.Fatal(err)
	}
	if l.Principal != "" { // exactly what a worker needs: it sees nothing, and that is no error
		warnings, unseen, err := c.Settings(t.Context())
		if err != nil || len(warnings) > 0 || !slices.Equal(unseen, []string{in, out}) {
			t.Errorf("%q, unseen %q, %v", warnings, unseen, err)
		}
		if c.MaxMessageBytes(out) != defaultMaxMessage-framing {
			t.Errorf("MaxMessageBytes %d of a topic whose settings may not be seen", c.MaxMessageBytes(out))
		}
		for _, a := range LooksAt(cfg.Access()) {
			b.Grant(t, l.Principal, pipelinetest.Permission(a))
		}
	}
	warnings, unseen, err := c.Settings(t.Context())
	if err != nil || len(unseen) > 0 {
		t.Fatal(unseen, err)
	}
	all := strings.Join(warnings, "\n")
	for _, s := range []string{"topic " + out + " is compacted", "topic " + out + " only 1h0m0s ahead",
		"topic " + out + " of 50000", "have one replica"} {
		if strings.Count(all, s) != 1 {
			t.Errorf("%q is not said once:\n%s", s, all)
		}
	}
	if c.MaxMessageBytes(out) != 50000-framing {
		t.Errorf("MaxMessageBytes %d", c.MaxMessageBytes(out))
	}
	configs, err := kadm.NewClient(franz(t, b.Addrs())).DescribeTopicConfigs(t.Context(), in)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range topicConfigs { // a name that the broker does not have is never compared
		there := slices.ContainsFunc(configs[0].Configs, func(x kadm.Config) bool { return x.Key == name })
		if !there && name != "message.timestamp.difference.max.ms" {
			t.Errorf("Kafka has no setting %s", name)
		}
	}
}
