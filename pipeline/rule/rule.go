// Package rule is the language of the configuration's rules: yes-or-no expressions over a record and the facts about
// it, compiled and type-checked before anything runs. The language is that of expr-lang/expr.
package rule

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/expr-lang/expr"
	"github.com/expr-lang/expr/file"
	"github.com/expr-lang/expr/vm"

	"sluice/pipeline"
	"sluice/pipeline/codec"
)

// This file owns rules over records, and what every rule sees of a record.

// Rule is an expression over a record. Safe for concurrent use.
type Rule struct {
	program *vm.Program
}

// Parse compiles a rule. The error says where in it the mistake is and what it may use.
func Parse(source string) (*Rule, error) {
	p, err := expr.Compile(source, expr.Env(map[string]any(recordEnv(&Subject{Record: &pipeline.Record{}}))),
		expr.AsBool())
	if err != nil {
		return nil, ruleError(err, "a rule may use "+recordWords)
	}
	return &Rule{p}, nil
}

const recordWords = "topic, partition, key, headers[\"name\"], text, bytes, field(\"path\") and number(\"path\"), " +
	"and must be true or false"

// recordNames are the names of the record in a rule.
var recordNames = []string{"topic", "partition", "key", "headers", "text", "bytes", "field", "number"}

// ruleError says where the mistake is and what would be right.
func ruleError(err error, known string) error {
	var at *file.Error
	if errors.As(err, &at) {
		what := strings.ReplaceAll(strings.TrimSpace(at.Message), "type rule.Verdict has no field ",
			"a verdict has no ")
		if strings.HasPrefix(what, "a verdict has no route") {
			what += " (it is called by)"
		}
		return fmt.Errorf("column %d: %s; %s", at.Column+1, what, known)
	}
	return fmt.Errorf("%v; %s", err, known)
}

// Subject is what a rule is evaluated for.
type Subject struct {
	Record *pipeline.Record
	Value  codec.Value // of the record; nil: it has no fields
	Text   []byte      // as it was judged
}

// Env is everything that a rule sees.
type Env map[string]any

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
		"field":  s.field,        // by path with dots; nil where there is none
		"number": s.number,       // the same as a number, 0 where it is none
	}
}

func (s *Subject) field(path string) any {
	if s.Value == nil {
		return nil
	}
	v, _ := s.Value.Field(codec.ParsePath(path))
	return v
}

func (s *Subject) number(path string) float64 {
	switch v := s.field(path).(type) {
	case int64:
		return float64(v)
	case uint64:
		return float64(v)
	case float64:
		return v
	case bool:
		if v {
			return 1
		}
	case string:
		if n, err := strconv.ParseFloat(v, 64); err == nil {
			return n
		}
	}
	return 0
}

// Holds evaluates the rule.
func (r *Rule) Holds(s *Subject) (bool, error) { return run(r.program, recordEnv(s)) }

func run(p *vm.Program, env Env) (bool, error) {
	v, err := expr.Run(p, map[string]any(env))
	if err != nil {
		return false, err
	}
	return v.(bool), nil // AsBool
}
