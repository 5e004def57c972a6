package rule

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	"github.com/expr-lang/expr"
	"github.com/expr-lang/expr/ast"
	"github.com/expr-lang/expr/file"
	"github.com/expr-lang/expr/vm"

	"sluice/pipeline/codec"
)

// This file owns how a rule is compiled. It is compiled twice: as it stands, which finds its mistakes, and again with
// what concerns fields of the record replaced. There paths are parsed once, and operators that may meet a number of the
// record are those of exact.go, because the language's own compare whole numbers with floats as floats, wrap around at
// 64 bits, and know no number beyond.

// compiled is a rule that can run, and what it looks at.
type compiled struct {
	program *vm.Program
	fields  bool // it has field or number in it
}

// compile makes a program of a rule. env is an example of what it will see. An error is a *file.Error where it is about
// a place in the rule.
func compile(source string, env Env) (compiled, error) {
	if _, err := expr.Compile(source, expr.Env(map[string]any(env)), expr.AsBool()); err != nil {
		return compiled{}, err
	}
	p := &patch{source: []rune(source)}
	run := maps.Clone(map[string]any(env))
	for _, name := range fieldNames {
		run[name] = func(...any) any { return nil } // its result may be of any type of number
	}
	options := append([]expr.Option{expr.Env(run), expr.AsBool(), expr.Patch(p)}, operators...)
	program, err := expr.Compile(source, options...)
	if p.err != nil {
		err = p.err.Bind(file.NewSource(source))
	}
	return compiled{program, p.fields}, err
}

// run evaluates the rule.
func (c *compiled) run(env Env) (bool, error) {
	v, err := expr.Run(c.program, map[string]any(env))
	if err != nil {
		return false, err
	}
	return v.(bool), nil // AsBool
}

// fieldNames are the functions of a rule that read fields of the record's value.
var fieldNames = []string{"field", "number"}

// patch replaces what compile says. Its nodes are visited from the inside out.
type patch struct {
	source []rune
	fields bool
	err    *file.Error // the first mistake in a path
}

var _ ast.Visitor = (*patch)(nil)

// Visit implements ast.Visitor.
func (p *patch) Visit(node *ast.Node) {
	switch n := (*node).(type) {
	case *ast.IdentifierNode:
		p.fields = p.fields || slices.Contains(fieldNames, n.Value) || n.Value == "$env" // which has them, too
	case *ast.CallNode:
		p.path(n)
	case *ast.UnaryNode:
		if n.Operator == "-" && unknown(n.Node) {
			ast.Patch(node, call("-", p.exact(n.Node)))
		}
	case *ast.BinaryNode:
		if _, ok := binary[n.Operator]; ok && (unknown(n.Left) || unknown(n.Right)) {
			ast.Patch(node, call(n.Operator, p.exact(n.Left), p.exact(n.Right)))
		}
	case *ast.BuiltinNode:
		if slices.Contains(counting, n.Name) {
			for i, arg := range n.Arguments {
				if body, ok := arg.(*ast.PredicateNode); ok {
					body.Node = plainly(body.Node)
				} else {
					n.Arguments[i] = plainly(arg)
				}
			}
		}
	}
}

// path parses the path of a call of field or number, where it is written as a string.
func (p *patch) path(n *ast.CallNode) {
	name, ok := n.Callee.(*ast.IdentifierNode)
	if !ok || !slices.Contains(fieldNames, name.Value) || len(n.Arguments) != 1 {
		return
	}
	s, ok := n.Arguments[0].(*ast.StringNode)
	if !ok {
		return
	}
	path, err := codec.ParsePath(s.Value)
	if err != nil {
		if p.err == nil {
			p.err = &file.Error{Location: s.Location(), Message: fmt.Sprintf("the path of %s: %v", name.Value, err)}
		}
		return
	}
	ast.Patch(&n.Arguments[0], &ast.ConstantNode{Value: path})
}

// unknown says that a node's type is only known when the rule runs, so that it may be any number.
func unknown(n ast.Node) bool {
	if _, ok := n.(*ast.NilNode); ok {
		return false
	}
	return n.Nature().Type == nil || n.Type().Kind() == reflect.Interface
}

// call is a call of an operator of exact.go.
func call(name string, arguments ...ast.Node) ast.Node {
	return &ast.CallNode{Callee: &ast.IdentifierNode{Value: functionName(name, len(arguments))}, Arguments: arguments}
}

// functionName cannot be written in a rule.
func functionName(operator string, arguments int) string {
	return fmt.Sprintf("%d %s", arguments, operator)
}

// plainly wraps an argument of a function of the language that knows its own types of numbers only.
func plainly(n ast.Node) ast.Node {
	if !unknown(n) {
		return n
	}
	wrapped := n
	ast.Patch(&wrapped, call("plain", n))
	return wrapped
}

// exact is a node whose number, where it is one that a float64 does not hold, has all its digits.
func (p *patch) exact(n ast.Node) ast.Node {
	switch n := n.(type) {
	case *ast.FloatNode:
		at := n.Location()
		if at.From < 0 || at.To > len(p.source) || at.From >= at.To {
			return n
		}
		literal := strings.ReplaceAll(string(p.source[at.From:at.To]), "_", "")
		if v, ok := codec.ParseNumber(literal); ok {
			if digits, ok := v.(json.Number); ok {
				var c ast.Node = n
				ast.Patch(&c, &ast.ConstantNode{Value: digits})
				return c
			}
		}
	case *ast.ArrayNode:
		for i := range n.Nodes {
			n.Nodes[i] = p.exact(n.Nodes[i])
		}
	case *ast.UnaryNode:
		if c, ok := p.exact(n.Node).(*ast.ConstantNode); ok && n.Operator == "-" {
			c.Value = negated(c.Value)
			return c
		}
	}
	return n
}

// ruleError says where the mistake is and what would be right.
func ruleError(err error, known string) error {
	var at *file.Error
	if !errors.As(err, &at) {
		return fmt.Errorf("%v; %s", err, known)
	}
	what := strings.ReplaceAll(strings.TrimSpace(at.Message), "type rule.Verdict has no field ", "a verdict has no ")
	if strings.HasPrefix(what, "a verdict has no route") {
		what += " (it is called by)"
	}
	if digits, ok := strings.CutPrefix(what, `invalid integer literal: strconv.ParseInt: parsing "`); ok {
		if digits, ok = strings.CutSuffix(digits, `": value out of range`); ok {
			return fmt.Errorf("column %d: %s is no whole number of 64 bits with a sign; write %[2]s.0, which is "+
				"compared digit for digit", at.Column+1, digits)
		}
	}
	return fmt.Errorf("column %d: %s; %s", at.Column+1, what, known)
}
