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

// ruleRecord is what a rule sees; the tags are its names there.
type ruleRecord struct {
	Topic     string               `expr:"topic"`
	Partition int                  `expr:"partition"`
	Key       string               `expr:"key"`
	Headers   map[string]string    `expr:"headers"` // the last of repeated ones
	Text      string               `expr:"text"`
	Bytes     int                  `expr:"bytes"`  // of the value
	Field     func(string) any     `expr:"field"`  // of a JSON value, by path with dots; nil where there is none
	Number    func(string) float64 `expr:"number"` // the same as a number, 0 where it is none
}

// ParseRule compiles a rule. The error says where in it the mistake is and what it may use.
func ParseRule(source string) (*Rule, error) {
	p, err := expr.Compile(source, expr.Env(ruleRecord{}), expr.AsBool())
	if err == nil {
		return &Rule{p}, nil
	}
	const known = "a rule may use topic, partition, key, headers[\"name\"], text, bytes, field(\"path\") and number(\"path\"), and must be true or false"
	var at *file.Error
	if errors.As(err, &at) {
		return nil, fmt.Errorf("column %d: %s; %s", at.Column+1, strings.TrimSpace(at.Message), known)
	}
	return nil, fmt.Errorf("%v; %s", err, known)
}

// Holds evaluates the rule for a record and its text.
func (r *Rule) Holds(rec *Record, text []byte) (bool, error) {
	env := ruleRecord{
		Topic: rec.Topic, Partition: int(rec.Partition), Key: string(rec.Key), Text: string(text), Bytes: len(rec.Value),
		Headers: make(map[string]string, len(rec.Headers)),
		Field:   func(path string) any { return gjson.GetBytes(rec.Value, path).Value() },
		Number:  func(path string) float64 { return gjson.GetBytes(rec.Value, path).Float() },
	}
	for _, h := range rec.Headers {
		env.Headers[h.Key] = string(h.Value)
	}
	v, err := expr.Run(r.program, env)
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
