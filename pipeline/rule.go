package pipeline

import (
	"errors"
	"fmt"
	"strings"

	"github.com/expr-lang/expr"
	"github.com/expr-lang/expr/file"
	"github.com/expr-lang/expr/vm"
	"github.com/tidwall/gjson"
)

// This file owns rules over records: expressions of the configuration, compiled and type-checked before anything runs.

// Rule is a yes-or-no expression over a record, in the language of expr-lang/expr. Safe for concurrent use.
type Rule struct {
	program *vm.Program
}

// ParseRule compiles a rule. The error says where in it the mistake is and what it may use.
func ParseRule(source string) (*Rule, error) {
	p, err := expr.Compile(source, expr.Env(map[string]any(recordEnv(&Record{}, nil))), expr.AsBool())
	if err != nil {
		return nil, ruleError(err, "a rule may use "+recordWords)
	}
	return &Rule{p}, nil
}

const recordWords = "topic, partition, key, headers[\"name\"], text, bytes, field(\"path\") and number(\"path\"), " +
	"and must be true or false"

// ruleError says where the mistake is and what would be right.
func ruleError(err error, known string) error {
	var at *file.Error
	if errors.As(err, &at) {
		return fmt.Errorf("column %d: %s; %s", at.Column+1, strings.ReplaceAll(strings.TrimSpace(at.Message),
			"type pipeline.RuleVerdict has no field ", "a verdict has no "), known)
	}
	return fmt.Errorf("%v; %s", err, known)
}

// recordEnv is what rules see of a record.
func recordEnv(rec *Record, text []byte) ruleEnv {
	headers := make(map[string]string, len(rec.Headers)) // the last of repeated ones
	for _, h := range rec.Headers {
		headers[h.Key] = string(h.Value)
	}
	return ruleEnv{
		"topic": rec.Topic, "partition": int(rec.Partition), "key": string(rec.Key), "headers": headers,
		"text":  string(text),
		"bytes": len(rec.Value), // of the value
		// of a JSON value, by path with dots; nil where there is none
		"field": func(path string) any { return gjson.GetBytes(rec.Value, path).Value() },
		// the same as a number, 0 where it is none
		"number": func(path string) float64 { return gjson.GetBytes(rec.Value, path).Float() },
	}
}

// Holds evaluates the rule for a record and its text.
func (r *Rule) Holds(rec *Record, text []byte) (bool, error) {
	v, err := expr.Run(r.program, map[string]any(recordEnv(rec, text)))
	if err != nil {
		return false, err
	}
	return v.(bool), nil // AsBool
}

// Urgent says which records go first. A nil Urgent is none.
type Urgent struct {
	Topics      []string
	HeaderName  string // a header that makes a record urgent; "": none
	HeaderValue string // the value it must have; "": any
	When        *Rule  // nil: none
}

// early is whether a record is urgent by what is known before it is decoded.
func (u *Urgent) early(r *Record) bool {
	if u == nil {
		return false
	}
	for _, t := range u.Topics {
		if t == r.Topic {
			return true
		}
	}
	if u.HeaderName != "" {
		for _, h := range r.Headers {
			if h.Key == u.HeaderName && (u.HeaderValue == "" || u.HeaderValue == string(h.Value)) {
				return true
			}
		}
	}
	return false
}

// is whether a record is urgent. A rule that cannot be evaluated for it does not hold.
func (u *Urgent) is(r *Record, text []byte, m *Metrics) bool {
	if u == nil {
		return false
	}
	yes := u.early(r)
	if !yes && u.When != nil {
		var err error
		if yes, err = u.When.Holds(r, text); err != nil {
			m.ruleErrors.WithLabelValues("urgent.when").Inc()
		}
	}
	if yes {
		m.urgent.Inc()
	}
	return yes
}
