package settings

import (
	"slices"
	"strconv"
	"strings"
	"time"

	"sluice/cmd/sluice/config"
	"sluice/cmd/sluice/suggest"
	"sluice/pipeline/rule"
)

// This file owns how work is done: the keys at the top level, and the sections limits, urgent and cache.

// Work says how models are run.
type Work struct {
	Runners     int           `key:"runners"`
	BatchTokens int           `key:"batch_tokens"`
	RunTimeout  time.Duration `key:"run_timeout"`
	Deadline    time.Duration `key:"deadline"`
}

var workKeys = []config.Key{
	{Name: "runners", Range: config.Range{Least: "1", Most: "1024", Zero: "for the number of CPUs"}, Example: "4",
		Doc: "threads that run models, each on its own core; 0: as many as the container has CPUs"},
	{Name: "batch_tokens", Range: config.Range{Least: "1", Zero: "to have it measured"}, Example: "128",
		Doc: "most tokens in one batch; 0: each model's is measured at the start. A runner takes what waits, it " +
			"never waits for a batch to fill"},
	{Name: "run_timeout", Example: "30s",
		Range: config.Range{Least: "10ms", Says: "{value} is too short for a batch; write for example 30s"},
		Doc: "longest a model may compute on one batch; then the batch is stopped and halved. What does not end " +
			"10 s later, a tokenizer's work included, ends the worker"},
	{Name: "deadline", Range: config.Range{Least: "0"}, Example: "500ms",
		Doc: "how soon after its timestamp a record should be judged: the one with the least time left goes " +
			"first; 0: in order of arrival"},
}

// Limits bounds the memory of work in flight. A partition at its limit is not fetched until there is room.
type Limits struct {
	Partition Limit `key:"partition"`
	Total     Limit `key:"total"`
}

// Limit is one bound on work in flight, in three units; the first that is reached counts.
type Limit struct {
	Records int          `key:"records"`
	Bytes   config.Bytes `key:"bytes"`
	Tokens  int          `key:"tokens"`
}

var limitKeys = []config.Key{
	{Name: "partition.records", Range: config.Range{Least: "1"}, Example: "2000", Doc: "most records in flight"},
	{Name: "partition.bytes", Example: "16MiB",
		Range: config.Range{Least: "1"},
		Doc:   "most bytes of records in flight"},
	{Name: "partition.tokens", Range: config.Range{Least: "1"}, Example: "200000", Doc: "most tokens in flight"},
	{Name: "total.records", Range: config.Range{Least: "1"}, Example: "2000", Doc: "most records in flight"},
	{Name: "total.bytes", Range: config.Range{Least: "1"}, Example: "16MiB", Doc: "most bytes of records in flight"},
	{Name: "total.tokens", Range: config.Range{Least: "1"}, Example: "200000", Doc: "most tokens in flight"},
}

// Urgent says which records go before others. Of four batches in a row at least one is for the others.
type Urgent struct {
	Topics []string `key:"topics"`
	Header string   `key:"header"`
	When   string   `key:"when"`
}

var urgentKeys = []config.Key{
	{Name: "topics", Example: "incidents",
		Doc: "input topics whose records go first; a backlog of other topics does not hold up their fetching"},
	{Name: "header", Example: "priority=high", Doc: "header that makes a record urgent: name, or name=value"},
	{Name: "when", Example: `number("priority") > 7`,
		Doc: `rule that makes a record urgent, over topic, key, headers, text, bytes, field("path"), number("path")`},
}

// Cache is the cache of results.
type Cache struct {
	MaxBytes config.Bytes `key:"max_bytes"`
}

var cacheKeys = []config.Key{
	{Name: "max_bytes", Range: config.Range{Least: "64KiB", Most: "1TiB", Zero: "for no cache"}, Example: "64MiB",
		Doc: "memory for results of texts seen before, by model and tokens; 0: no cache. An answer from it has " +
			"by: cache"},
}

// checkLimits: one partition may not have more than all of them, nor a batch more than there can be.
func checkLimits(c *config.Check, s *Settings) {
	p, t := s.Limits.Partition, s.Limits.Total
	for _, u := range []struct {
		name             string
		partition, total int64
		show             func(int64) string
	}{
		{"records", int64(p.Records), int64(t.Records), func(n int64) string { return strconv.FormatInt(n, 10) }},
		{"bytes", int64(p.Bytes), int64(t.Bytes), func(n int64) string { return config.Bytes(n).String() }},
		{"tokens", int64(p.Tokens), int64(t.Tokens), func(n int64) string { return strconv.FormatInt(n, 10) }},
	} {
		pp, tp := "limits.partition."+u.name, "limits.total."+u.name
		if u.partition > u.total {
			c.Between([]string{pp, tp}, "one partition may have %s in flight, all together (%s) only %s; lower %s, "+
				"or raise %s", u.show(u.partition), tp, u.show(u.total), pp, tp)
		}
	}
	if s.BatchTokens > t.Tokens {
		c.Between([]string{"batch_tokens", "limits.total.tokens"}, "%d is more than limits.total.tokens (%d), so no "+
			"batch would ever be full; lower batch_tokens, or raise the limit", s.BatchTokens, t.Tokens)
	}
}

func checkUrgent(c *config.Check, s *Settings) {
	for _, t := range s.Urgent.Topics {
		if len(s.Input.Topics) > 0 && !slices.Contains(s.Input.Topics, t) {
			c.Between([]string{"urgent.topics", "input.topics"}, "%q is not among input.topics, so nothing of it is "+
				"read%s", t, suggest.DidYouMean(t, s.Input.Topics))
		}
	}
	if strings.HasPrefix(s.Urgent.Header, "=") {
		c.Mistake("urgent.header", "%q names no header; write for example priority=high", s.Urgent.Header)
	}
	if s.Urgent.When != "" {
		if _, err := rule.Parse(s.Urgent.When); err != nil {
			c.Mistake("urgent.when", "%v", err)
		}
	}
}
