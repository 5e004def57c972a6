package kafka

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/segmentio/kafka-go/protocol/describeconfigs"
)

// This file owns what a worker's topics are set to: which settings keep a promise of docs/guarantees.md from holding,
// or make a broker refuse what a worker writes (refuse.go), as far as they can be seen beforehand.

// topicConfigs are the settings that are asked for.
var topicConfigs = []string{"cleanup.policy", "compression.type", "max.message.bytes", "segment.bytes",
	"message.timestamp.type", "message.timestamp.after.max.ms", "message.timestamp.before.max.ms",
	"message.timestamp.difference.max.ms", // before Kafka 3.6, for both
	"min.insync.replicas", "retention.ms", "retention.bytes", "unclean.leader.election.enable"}

// topicSettings are those of one topic.
type topicSettings struct {
	partitions int
	replicas   int               // of the partition that has the fewest; 0: unknown
	values     map[string]string // by name; nil: they may not be seen
}

// number is a setting that is a number; ok is false where it is not there.
func (t *topicSettings) number(name string) (n int64, ok bool) {
	n, err := strconv.ParseInt(t.values[name], 10, 64)
	return n, err == nil
}

// forever is a limit that is none.
const forever = 1<<63 - 1

// limit is a setting that is a number, or forever where it is negative or not there.
func (t *topicSettings) limit(name string) int64 {
	if n, ok := t.number(name); ok && n >= 0 {
		return n
	}
	return forever
}

// timestamps are how far a message's may be ahead of and behind the broker's clock, in ms.
func (t *topicSettings) timestamps() (ahead, behind int64) {
	both := t.limit("message.timestamp.difference.max.ms")
	return min(both, t.limit("message.timestamp.after.max.ms")), min(both, t.limit("message.timestamp.before.max.ms"))
}

// appends says that the broker gives messages their timestamps.
func (t *topicSettings) appends() bool { return t.values["message.timestamp.type"] == "LogAppendTime" }

func (t *topicSettings) compacted() bool {
	return strings.Contains(t.values["cleanup.policy"], "compact")
}

func (t *topicSettings) deletes() bool { return strings.Contains(t.values["cleanup.policy"], "delete") }

// Settings asks the brokers what the topics are set to, and keeps what Commit needs of it. It returns a sentence for
// each setting that does not fit the others or what Sluice promises: what it leads to, and what to do. unseen are the
// topics whose settings this worker may not see (DESCRIBE_CONFIGS), which is no mistake: then brokers have the last
// word.
func (c *Client) Settings(ctx context.Context) (warnings, unseen []string, err error) {
	req := &describeconfigs.Request{}
	for _, t := range c.allTopics() {
		req.Resources = append(req.Resources, describeconfigs.RequestResource{ResourceType: 2, ResourceName: t,
			ConfigNames: topicConfigs})
	}
	r, err := ask[*describeconfigs.Response](ctx, c, requestTimeout, req)
	if err != nil {
		return nil, nil, err
	}
	topics := map[string]*topicSettings{}
	c.mu.Lock()
	for _, name := range c.allTopics() {
		topics[name] = &topicSettings{partitions: len(c.topics[name].leaders), replicas: c.topics[name].replicas}
	}
	c.mu.Unlock()
	var errs []error
	for _, x := range r.Resources {
		t := topics[x.ResourceName]
		switch {
		case t == nil:
		case x.ErrorCode == errTopicAuth || x.ErrorCode == errClusterAuth:
			unseen = append(unseen, x.ResourceName)
		case x.ErrorCode != 0:
			errs = append(errs, answer(x.ErrorCode, "DescribeConfigs", "topic %s", x.ResourceName))
		default:
			t.values = map[string]string{}
			for _, e := range x.ConfigEntries {
				t.values[e.ConfigName] = e.ConfigValue
			}
		}
	}
	c.mu.Lock()
	for _, name := range c.cfg.Outputs {
		if n, ok := topics[name].number("max.message.bytes"); ok && n > 0 {
			c.limits[name] = sizeLimit{known: int(n), batch: int(min(n, defaultMaxMessage))}
		}
	}
	c.mu.Unlock()
	return compareTopics(&c.cfg, topics), unseen, errors.Join(errs...)
}

// saySettings looks at the settings and logs what is to be said of them.
func (c *Client) saySettings(ctx context.Context) {
	warnings, unseen, err := c.Settings(ctx)
	for _, w := range warnings {
		c.log.Warn("settings of topics", "warning", w)
	}
	if len(unseen) > 0 {
		c.log.Info(Unseen(unseen))
	}
	if err != nil {
		c.log.Warn("settings of topics cannot be seen; max.message.bytes is taken for Kafka's default of 1 MiB",
			"error", err)
	}
}

// Unseen is the sentence about topics whose settings may not be seen.
func Unseen(topics []string) string {
	return fmt.Sprintf("the settings of %s were not looked at: this worker may not see them (DescribeConfigs on the "+
		"topic, which it does not need; sluice acls prints the command); max.message.bytes is taken for Kafka's "+
		"default of 1 MiB", strings.Join(topics, ", "))
}

// compareTopics is what Settings says. Topics whose settings are unknown are left out.
func compareTopics(cfg *Config, topics map[string]*topicSettings) []string {
	var all []string
	warn := func(format string, args ...any) { all = append(all, fmt.Sprintf(format, args...)) }
	known := func(names []string) (seen []string) {
		for _, n := range names {
			if topics[n] != nil && topics[n].values != nil {
				seen = append(seen, n)
			}
		}
		return seen
	}
	inputs, outputs := known(cfg.Topics), known(cfg.Outputs)
	letters := cfg.DeadLetters
	becomes := func(out string) string { // of what an output refuses
		if out == letters {
			return "of dead letters only a pointer to the record is left"
		}
		return "their records become dead letters"
	}
	for _, out := range outputs {
		o := topics[out]
		if o.compacted() {
			warn("topic %s is compacted (cleanup.policy=%s): it refuses messages without a key (%s), and of messages "+
				"with the same key it deletes the older ones: set cleanup.policy=delete, or give every input record a "+
				"key of its own", out, o.values["cleanup.policy"], becomes(out))
		}
		if size, most := o.limit("segment.bytes"), o.limit("max.message.bytes"); size < most {
			warn("topic %s has segment.bytes=%d, less than its max.message.bytes=%d: it refuses batches that are "+
				"larger than a segment: raise segment.bytes", out, size, most)
		}
		if codec := o.values["compression.type"]; codec != "" && codec != "producer" && codec != cfg.Compression &&
			(codec != "uncompressed" || cfg.Compression != "none") {
			warn("topic %s has compression.type=%s, the worker sends %s: the broker compresses everything anew: set "+
				"compression.type=producer, or kafka.compression to the same", out, codec, cfg.Compression)
		}
		for _, in := range inputs {
			all = append(all, compareWith(in, topics[in], out, o, out == letters, becomes(out))...)
		}
	}
	return append(all, compareReplicas(topics, known(slices.Sorted(maps.Keys(topics))))...)
}

// compareWith compares an output with an input.
func compareWith(in string, i *topicSettings, out string, o *topicSettings, letters bool, becomes string) (
	all []string) {
	warn := func(format string, args ...any) { all = append(all, fmt.Sprintf(format, args...)) }
	if !o.appends() {
		ahead, behind := o.timestamps()
		inAhead, inBehind := i.timestamps()
		kept := int64(forever)
		if i.deletes() {
			kept = i.limit("retention.ms")
		}
		if i.appends() { // records are as old as they have waited here
			inAhead, inBehind = 0, kept
		}
		const way = "set both alike, or message.timestamp.type=LogAppendTime on"
		if ahead < inAhead {
			warn("topic %s takes records with timestamps %s ahead of the broker's clock, topic %s only %s ahead "+
				"(message.timestamp.after.max.ms), and messages carry the timestamp of their record: it refuses "+
				"those beyond (%s): %s %s", in, span(inAhead), out, span(ahead), becomes, way, out)
		}
		if old := min(inBehind, kept); behind < old {
			warn("topic %s may hold records that are %s old, topic %s takes timestamps of the last %s "+
				"(message.timestamp.before.max.ms), and messages carry the timestamp of their record: it refuses "+
				"older ones (%s): %s %s", in, span(old), out, span(behind), becomes, way, out)
		}
	}
	if most, size := o.limit("max.message.bytes"), i.limit("max.message.bytes"); most < size {
		warn("topic %s takes messages of %d bytes, topic %s of %d (max.message.bytes): of records that are too large "+
			"for it, only a pointer to the record is published, as a dead letter: set it at least as high", in, size,
			out, most)
	}
	if o.deletes() {
		inKept := int64(forever)
		if i.deletes() {
			inKept = i.limit("retention.ms")
		}
		if kept := o.limit("retention.ms"); kept < inKept {
			warn("topic %s keeps messages for %s, topic %s for %s (retention.ms): messages carry the timestamp of "+
				"their record, so those of older records are deleted at once, and sluice verify cannot tell whether "+
				"they were there: set retention.ms of %s at least as high", out, span(kept), in, span(inKept), out)
		}
		if kept, size := o.limit("retention.bytes"), i.limit("retention.bytes"); kept < size && kept < forever {
			warn("topic %s keeps %d bytes a partition, topic %s %s (retention.bytes): messages may be deleted before "+
				"their records: raise it", out, kept, in, bytesOf(size))
		}
	}
	if i.partitions != o.partitions && !letters {
		warn("topic %s has %d partitions, topic %s %d: messages go to partition (input partition modulo %d), so "+
			"what joins both by partition does not find them together: give both as many", in, i.partitions, out,
			o.partitions, o.partitions)
	}
	return all
}

// compareReplicas looks at how many brokers have each topic.
func compareReplicas(topics map[string]*topicSettings, names []string) (all []string) {
	var lone, alone, brittle, unclean []string
	for _, n := range names {
		t := topics[n]
		insync, ok := t.number("min.insync.replicas")
		if t.values["unclean.leader.election.enable"] == "true" {
			unclean = append(unclean, n)
		}
		switch {
		case t.replicas == 0 || !ok:
		case int64(t.replicas) < insync:
			all = append(all, fmt.Sprintf("topic %s has %d replicas and min.insync.replicas=%d: nothing can be "+
				"written to it: add replicas, or lower min.insync.replicas", n, t.replicas, insync))
		case t.replicas == 1:
			lone = append(lone, n)
		case insync == 1:
			alone = append(alone, n)
		case int64(t.replicas) == insync:
			brittle = append(brittle, n)
		}
	}
	for _, x := range []struct {
		names   []string
		because string
	}{
		{lone, "one replica: with its broker's disk, what is in it is lost: replication factor 3 and " +
			"min.insync.replicas=2 keep it"},
		{alone, "min.insync.replicas=1: a leader that is alone acknowledges what only it has, and that is lost with " +
			"it: set 2"},
		{brittle, "as many min.insync.replicas as replicas: nothing can be written while one broker is away: have " +
			"one replica more, or one in-sync replica fewer"},
		{unclean, "unclean.leader.election.enable=true: a replica that lacks acknowledged records may become leader, " +
			"and no client can notice: set false"},
	} {
		if len(x.names) > 0 {
			noun, verb := "topic", "has"
			if len(x.names) > 1 {
				noun, verb = "topics", "have"
			}
			all = append(all, fmt.Sprintf("%s %s %s %s", noun, strings.Join(x.names, ", "), verb, x.because))
		}
	}
	return all
}

// span is a number of milliseconds as a person would say it.
func span(ms int64) string {
	if ms > forever/int64(time.Millisecond) {
		return "any time"
	}
	d := time.Duration(ms) * time.Millisecond
	if day := 24 * time.Hour; d >= day && d%day == 0 {
		return fmt.Sprintf("%d d", d/day)
	}
	return d.String()
}

func bytesOf(n int64) string {
	if n == forever {
		return "all"
	}
	return strconv.FormatInt(n, 10)
}
