package rule

import (
	"encoding/json"
	"errors"
	"math"
	"math/bits"
	"reflect"
	"strconv"

	"github.com/expr-lang/expr"
	"github.com/expr-lang/expr/vm/runtime"

	"sluice/pipeline/codec"
)

// This file owns the operators of rules on what may be a number of the record: comparisons are by digits
// (codec.CompareNumbers), whole numbers are added, subtracted and multiplied as such where the result has 64 bits, and
// everything else is computed in float64. On what is no number they are the language's own.

// binary are the operators with two sides.
var binary = map[string]func(a, b any) any{
	"==": func(a, b any) any { return equal(a, b) },
	"!=": func(a, b any) any { return !equal(a, b) },
	"<":  func(a, b any) any { return ordered(a, b, func(n int) bool { return n < 0 }, runtime.Less) },
	"<=": func(a, b any) any { return ordered(a, b, func(n int) bool { return n <= 0 }, runtime.LessOrEqual) },
	">":  func(a, b any) any { return ordered(a, b, func(n int) bool { return n > 0 }, runtime.More) },
	">=": func(a, b any) any { return ordered(a, b, func(n int) bool { return n >= 0 }, runtime.MoreOrEqual) },
	"in": func(a, b any) any { return in(a, b) },
	"+":  func(a, b any) any { return computed(a, b, sum, runtime.Add) },
	"-":  func(a, b any) any { return computed(a, b, difference, runtime.Subtract) },
	"*":  func(a, b any) any { return computed(a, b, product, runtime.Multiply) },
	"/":  func(a, b any) any { return runtime.Divide(plain(a), plain(b)) },
	"%":  func(a, b any) any { return remainder(a, b) },
	"**": func(a, b any) any { return runtime.Exponent(plain(a), plain(b)) },
	"^":  func(a, b any) any { return runtime.Exponent(plain(a), plain(b)) },
}

// counting are the functions of the language that take numbers, as it knows them.
var counting = []string{"abs", "ceil", "floor", "round", "int", "float", "max", "min", "sum", "mean", "median", "sort",
	"sortBy", "bitand", "bitor", "bitxor", "bitnand", "bitnot", "bitshl", "bitshr", "bitushr"}

// operators are all of them as functions of the language. What they panic with is an error of the rule.
var operators = func() []expr.Option {
	var options []expr.Option
	for name, of := range binary {
		options = append(options, expr.Function(functionName(name, 2), func(p ...any) (any, error) {
			return of(p[0], p[1]), nil
		}))
	}
	for name, of := range map[string]func(any) any{"-": negated, "plain": plain} {
		options = append(options, expr.Function(functionName(name, 1), func(p ...any) (any, error) {
			return of(p[0]), nil
		}))
	}
	return options
}()

// isNumber says whether v is a number of any type.
func isNumber(v any) bool {
	switch v.(type) {
	case float64, float32, json.Number, uint64, uint:
		return true
	}
	_, ok := codec.Whole(v)
	return ok
}

func equal(a, b any) bool {
	if isNumber(a) && isNumber(b) {
		order, ok := codec.CompareNumbers(a, b)
		return ok && order == 0
	}
	x, y := reflect.ValueOf(a), reflect.ValueOf(b)
	if x.Kind() == reflect.Slice && y.Kind() == reflect.Slice {
		same := x.Len() == y.Len()
		for i := 0; same && i < x.Len(); i++ {
			same = equal(x.Index(i).Interface(), y.Index(i).Interface())
		}
		return same
	}
	m, ok := a.(map[string]any)
	n, both := b.(map[string]any)
	if !ok || !both {
		return runtime.Equal(a, b)
	}
	for k, v := range m {
		w, there := n[k]
		if !there || !equal(v, w) {
			return false
		}
	}
	return len(m) == len(n)
}

func ordered(a, b any, numbers func(order int) bool, others func(a, b any) bool) bool {
	if isNumber(a) && isNumber(b) {
		order, ok := codec.CompareNumbers(a, b)
		return ok && numbers(order)
	}
	return others(a, b)
}

// in says whether a list has an element, or an object a key.
func in(a, b any) bool {
	list := reflect.ValueOf(b)
	if list.Kind() != reflect.Slice && list.Kind() != reflect.Array {
		return runtime.In(a, b)
	}
	for i := range list.Len() {
		if equal(a, list.Index(i).Interface()) {
			return true
		}
	}
	return false
}

// computed is the result on two whole numbers where it fits into 64 bits, else that of the language.
func computed(a, b any, whole func(x, y int64) (int64, bool), others func(a, b any) any) any {
	x, xok := codec.Whole(a)
	y, yok := codec.Whole(b)
	if xok && yok {
		if n, fits := whole(x, y); fits {
			return n
		}
		return others(float64(x), float64(y))
	}
	return others(plain(a), plain(b))
}

func sum(x, y int64) (int64, bool) {
	n := x + y
	return n, (n > x) == (y > 0)
}

func difference(x, y int64) (int64, bool) {
	n := x - y
	return n, (n < x) == (y > 0)
}

func product(x, y int64) (int64, bool) {
	high, low := bits.Mul64(magnitude(x), magnitude(y))
	if negative := (x < 0) != (y < 0); negative {
		return -int64(low), high == 0 && low <= 1<<63
	}
	return int64(low), high == 0 && low <= math.MaxInt64
}

func magnitude(x int64) uint64 {
	if x < 0 {
		return -uint64(x)
	}
	return uint64(x)
}

// remainder is of whole numbers only.
func remainder(a, b any) any {
	x, xok := codec.Whole(a)
	y, yok := codec.Whole(b)
	switch {
	case !xok || !yok:
		panic(errors.New("% wants two whole numbers of 64 bits"))
	case y == 0:
		panic(errors.New("% by zero"))
	case y == -1:
		return int64(0)
	}
	return x % y
}

// negated is -v.
func negated(v any) any {
	switch n := v.(type) {
	case json.Number:
		if n[0] == '-' {
			return n[1:]
		}
		return "-" + n
	case uint64:
		return json.Number("-" + strconv.FormatUint(n, 10))
	}
	if n, ok := codec.Whole(v); ok {
		if n == math.MinInt64 {
			return uint64(1 << 63)
		}
		return -n
	}
	return runtime.Negate(v)
}

// plain is a value whose numbers are of types that the language computes with: what is none of them is the nearest
// float64.
func plain(v any) any {
	switch n := v.(type) {
	case json.Number:
		f, _ := strconv.ParseFloat(string(n), 64) // beyond the largest it is an infinity
		return f
	case uint64:
		if n > math.MaxInt64 {
			return float64(n)
		}
		return int64(n)
	case []any:
		list := make([]any, len(n))
		for i := range n {
			list[i] = plain(n[i])
		}
		return list
	}
	return v
}
