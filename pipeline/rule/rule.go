// Package rule is the language of the configuration's rules: yes-or-no expressions over a record and the facts about
// it, compiled and type-checked before anything runs. The language is that of expr-lang/expr.
package rule

import (
	"fmt"
	"strings"

	"sluice/pipeline"
	"sluice/pipeline/codec"
)

// This file owns rules over records, and what every rule sees of a record.

// Rule is an expression over a record. Safe for concurrent use.
type Rule struct{ compiled }

// Parse compiles a rule. The error says where in it the mistake is and what it may use.
func Parse(source string) (*Rule, error) {
	c, err := compile(source, declared())
	if err != nil {
		return nil, ruleError(err, "a rule may use "+recordWords)
	}
	return &Rule{c}, nil
}

// ParseBeforeText compiles a rule for records whose text has not been looked for, so that it cannot name it.
func ParseBeforeText(source string) (*Rule, error) {
	env := declared()
	delete(env, "text")
	c, err := compile(source, env)
	if err != nil {
		return nil, ruleError(err, "the rule is evaluated before the text is looked for, and may use "+
			strings.Replace(recordWords, " text,", "", 1))
	}
	return &Rule{c}, nil
}

// ReadsFields says whether the rule looks at fields of the record's value, so that it says nothing of a record that has
// none.
func (r *Rule) ReadsFields() bool { return r.fields }

const recordWords = "topic, partition, key, headers[\"name\"], text, bytes, field(\"path\") and number(\"path\"), " +
	"and must be true or false"

// recordNames are the names of the record in a rule.
var recordNames = []string{"topic", "partition", "key", "headers", "text", "bytes", "field", "number"}

// Subject is what a rule is evaluated for.
type Subject struct {
	Record *pipeline.Record
	Value  codec.Value // of the record; nil: it has no fields
	Text   []byte      // as it was judged
}

// Env is everything that a rule sees.
type Env map[string]any

// declared is the types of what rules see of a record, as mistakes are found by them.
func declared() Env {
	return Env{"topic": "", "partition": 0, "key": "", "headers": map[string]string{}, "text": "", "bytes": 0,
		"field":  func(path string) any { return nil },
		"number": func(path string) float64 { return 0 }}
}

// recordEnv is what a rule that runs sees of a record.
func recordEnv(s *Subject) Env {
	rec := s.Record
	headers := make(map[string]string, len(rec.Headers)) // the last of repeated ones
	for _, h := range rec.Headers {
		headers[h.Key] = string(h.Value)
	}
	return Env{
		"topic": rec.Topic, "partition": int(rec.Partition), "key": string(rec.Key), "headers": headers,
		"text":   string(s.Text),
		"bytes":  len(rec.Value), // of the value
		"field":  s.field,        // by path; nil where there is none
		"number": s.number,       // the same as a number, 0 where it is none
	}
}

// field takes a codec.Path or, where the rule makes it up as it runs, a string.
func (s *Subject) field(p ...any) any {
	path, ok := p[0].(codec.Path)
	if !ok {
		var err error
		if path, err = codec.ParsePath(p[0].(string)); err != nil {
			panic(fmt.Errorf("the path of a field: %w", err)) // an error of the rule
		}
	}
	if s.Value == nil {
		return nil
	}
	v, _ := s.Value.Field(path)
	return v
}

func (s *Subject) number(p ...any) any {
	switch v := s.field(p...).(type) {
	case bool:
		if v {
			return int64(1)
		}
	case string:
		if n, ok := codec.ParseNumber(v); ok {
			return n
		}
	default:
		if isNumber(v) {
			return v
		}
	}
	return int64(0)
}

// Holds evaluates the rule.
func (r *Rule) Holds(s *Subject) (bool, error) { return r.run(recordEnv(s)) }
