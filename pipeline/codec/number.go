package codec

import (
	"bytes"
	"cmp"
	"encoding/json"
	"math"
	"strconv"
	"strings"
)

// This file owns what a number in a record is, and how two of them compare: by the digits that were written, whatever
// type holds them.

// ParseNumber reads a decimal number: a sign or none, digits, a fraction or none, an exponent or none. It is what it
// says to its last digit: an int64 or a uint64 where it is a whole number that fits, a float64 where that is written
// with the same digits, else a json.Number. false: s is no such number.
func ParseNumber(s string) (any, bool) {
	d, ok := parseDecimal(s)
	if !ok {
		return nil, false
	}
	if !strings.ContainsAny(s, ".eE") {
		if n, err := strconv.ParseInt(s, 10, 64); err == nil {
			return n, true
		}
		if n, err := strconv.ParseUint(strings.TrimPrefix(s, "+"), 10, 64); err == nil {
			return n, true
		}
		return json.Number(s), true
	}
	f, err := strconv.ParseFloat(s, 64)
	if err == nil && (d.surelyFloat() || d.compare(ofFloat(f)) == 0) {
		return f, true
	}
	return json.Number(s), true
}

// CompareNumbers is -1, 0 or +1 where a is less than, equal to or greater than b. Both are numbers as ParseNumber makes
// them, or of another of Go's types of whole numbers and floats; false: one is none, or NaN, which has no order. A
// float64 counts as the shortest digits that mean it, as it would be written: 0.1 is a tenth.
func CompareNumbers(a, b any) (order int, ok bool) {
	x, xok := Whole(a)
	y, yok := Whole(b)
	if xok && yok {
		return cmp.Compare(x, y), true
	}
	f, fok := a.(float64)
	g, gok := b.(float64)
	if fok && gok { // shortest digits have the order of the floats
		return cmp.Compare(f, g), !math.IsNaN(f) && !math.IsNaN(g)
	}
	if fok && math.IsInf(f, 0) || gok && math.IsInf(g, 0) {
		_, known := ofNumber(a)
		_, other := ofNumber(b)
		return cmp.Compare(f, g), (known || fok) && (other || gok) && !math.IsNaN(f) && !math.IsNaN(g)
	}
	d, ok := ofNumber(a)
	if !ok {
		return 0, false
	}
	e, ok := ofNumber(b)
	if !ok {
		return 0, false
	}
	return d.compare(e), true
}

// Whole is a number of a type of whole numbers as an int64; false: it is none, or does not fit.
func Whole(v any) (int64, bool) {
	switch n := v.(type) {
	case int64:
		return n, true
	case int:
		return int64(n), true
	case uint64:
		return int64(n), n <= math.MaxInt64
	case int32:
		return int64(n), true
	case int16:
		return int64(n), true
	case int8:
		return int64(n), true
	case uint:
		return int64(n), n <= math.MaxInt64
	case uint32:
		return int64(n), true
	case uint16:
		return int64(n), true
	case uint8:
		return int64(n), true
	}
	return 0, false
}

// decimal is (-1)^negative × 0.digits × 10^exponent. digits has no zeros before or behind it; that of 0 is empty.
type decimal struct {
	negative bool
	digits   []byte
	exponent int64
}

// largestExponent bounds exponents, so that sums of them fit: those beyond it are equal to each other.
const largestExponent = 1 << 61

// parseDecimal reads what ParseNumber does.
func parseDecimal(s string) (d decimal, ok bool) {
	i := 0
	if i < len(s) && (s[i] == '-' || s[i] == '+') {
		d.negative = s[i] == '-'
		i++
	}
	d.digits = make([]byte, 0, 24) // on the stack, mostly
	seen, point := false, false
	for ; i < len(s); i++ {
		switch c := s[i]; {
		case c >= '0' && c <= '9':
			seen = true
			if len(d.digits) > 0 || c != '0' {
				d.digits = append(d.digits, c)
				if !point {
					d.exponent++
				}
			} else if point {
				d.exponent--
			}
			continue
		case c == '.' && !point:
			point = true
			continue
		}
		break
	}
	if !seen {
		return d, false
	}
	if i < len(s) {
		if s[i] != 'e' && s[i] != 'E' {
			return d, false
		}
		e, ok := parseExponent(s[i+1:])
		if !ok {
			return d, false
		}
		d.exponent += e
	}
	d.digits = bytes.TrimRight(d.digits, "0")
	if len(d.digits) == 0 {
		d.negative, d.exponent = false, 0
	}
	return d, true
}

func parseExponent(s string) (n int64, ok bool) {
	digits := strings.TrimLeft(s, "+-")
	if len(s)-len(digits) > 1 || digits == "" {
		return 0, false
	}
	for i := range len(digits) {
		if digits[i] < '0' || digits[i] > '9' {
			return 0, false
		}
		n = min(10*n+int64(digits[i]-'0'), largestExponent/16)
	}
	if s[0] == '-' {
		n = -n
	}
	return n, true
}

// surelyFloat: every decimal of at most 15 digits within the range of float64 is written with the same digits again
// (DBL_DIG of C).
func (d decimal) surelyFloat() bool {
	return len(d.digits) <= 15 && d.exponent > -300 && d.exponent < 300
}

func (d decimal) compare(e decimal) int {
	switch {
	case len(d.digits) == 0 && len(e.digits) == 0:
		return 0
	case len(d.digits) == 0:
		return e.signOf(-1)
	case len(e.digits) == 0:
		return d.signOf(1)
	case d.negative != e.negative:
		return d.signOf(1)
	}
	return d.signOf(cmp.Or(cmp.Compare(d.exponent, e.exponent), bytes.Compare(d.digits, e.digits)))
}

// signOf is n, or -n for a negative number.
func (d decimal) signOf(n int) int {
	if d.negative {
		return -n
	}
	return n
}

// ofFloat is the shortest decimal that means f, which is finite.
func ofFloat(f float64) decimal {
	d, _ := parseDecimal(string(strconv.AppendFloat(make([]byte, 0, 32), f, 'e', -1, 64)))
	return d
}

// ofNumber is a number of any type; false: it is none, or not finite.
func ofNumber(v any) (decimal, bool) {
	if n, ok := Whole(v); ok {
		return parseDecimal(strconv.FormatInt(n, 10))
	}
	switch n := v.(type) {
	case uint64:
		return parseDecimal(strconv.FormatUint(n, 10))
	case uint:
		return parseDecimal(strconv.FormatUint(uint64(n), 10))
	case float32:
		return ofNumber(float64(n))
	case float64:
		if math.IsNaN(n) || math.IsInf(n, 0) {
			return decimal{}, false
		}
		return ofFloat(n), true
	case json.Number:
		return parseDecimal(string(n))
	}
	return decimal{}, false
}
