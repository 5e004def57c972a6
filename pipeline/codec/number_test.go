package codec

import (
	"encoding/json"
	"fmt"
	"math"
	"math/big"
	"strconv"
	"testing"

	"pgregory.net/rapid"
)

func TestANumberIsWhatItSays(t *testing.T) {
	for s, want := range map[string]any{
		"0": int64(0), "-0": int64(0), "7": int64(7), "-7": int64(-7), "+7": int64(7),
		"9007199254740993":       int64(9007199254740993),
		"9223372036854775807":    int64(math.MaxInt64),
		"-9223372036854775808":   int64(math.MinInt64),
		"9223372036854775808":    uint64(1 << 63),
		"18446744073709551615":   uint64(math.MaxUint64),
		"18446744073709551616":   json.Number("18446744073709551616"),
		"-9223372036854775809":   json.Number("-9223372036854775809"),
		"1.5":                    1.5,
		"1.50":                   1.5,
		"1e2":                    100.0,
		"1E+2":                   100.0,
		"0.1":                    0.1,
		"-0.0":                   math.Copysign(0, -1),
		"19.99":                  19.99,
		"5e-324":                 5e-324,
		"1.7976931348623157e308": math.MaxFloat64,
		"0.1000000000000000055":  json.Number("0.1000000000000000055"), // the float64 0.1, not a tenth
		"9007199254740993.0":     json.Number("9007199254740993.0"),
		"1e400":                  json.Number("1e400"),
		"-1e400":                 json.Number("-1e400"),
		"1e-400":                 json.Number("1e-400"),
		"123.456e-789":           json.Number("123.456e-789"),
		"1e99999999999999999999": json.Number("1e99999999999999999999"),
	} {
		if got, ok := ParseNumber(s); !ok || got != want {
			t.Errorf("%s is %#v, want %#v", s, got, want)
		}
	}
	for _, s := range []string{"", "-", "+", ".", "e1", "1e", "1e+", "1e+-1", "1.2.3", "0x10", "1_000", "inf", "-Inf",
		"NaN", " 1", "1 ", "1a", "--1", "１"} {
		if got, ok := ParseNumber(s); ok {
			t.Errorf("%q is %#v", s, got)
		}
	}
}

// The witness is math/big, which has every digit.
func TestNumbersCompareByTheirDigits(t *testing.T) {
	number := rapid.Custom(func(t *rapid.T) string {
		s := rapid.SampledFrom([]string{"", "-"}).Draw(t, "sign") + rapid.OneOf(
			rapid.StringMatching(`(0|[1-9][0-9]{0,24})`),
			rapid.SampledFrom([]string{"9007199254740992", "9007199254740993", "9223372036854775807",
				"9223372036854775808", "18446744073709551615", "18446744073709551616", "0", "1",
				"10"})).Draw(t, "whole")
		s += rapid.OneOf(rapid.Just(""), rapid.StringMatching(`\.[0-9]{1,20}`), rapid.Just(".0")).Draw(t, "fraction")
		return s + rapid.OneOf(rapid.Just(""), rapid.StringMatching(`[eE][+-]?[0-9]{1,2}`)).Draw(t, "exponent")
	})
	rapid.Check(t, func(t *rapid.T) {
		s := number.Draw(t, "a")
		o := rapid.OneOf(number, rapid.Just(s)).Draw(t, "b")
		a, aok := ParseNumber(s)
		b, bok := ParseNumber(o)
		if !aok || !bok || !json.Valid([]byte(s)) {
			t.Fatalf("%s, %s: %v, %v", s, o, aok, bok)
		}
		x, _ := new(big.Rat).SetString(s)
		y, _ := new(big.Rat).SetString(o)
		if got, ok := CompareNumbers(a, b); !ok || got != x.Cmp(y) {
			t.Fatalf("%s (%#v) and %s (%#v): %d, want %d", s, a, o, b, got, x.Cmp(y))
		}
	})
}

func TestNumbersOfAllTypesCompare(t *testing.T) {
	inf := math.Inf(1)
	ascending := []any{-inf, json.Number("-1e400"), -math.MaxFloat64, int64(math.MinInt64), -1.5, int8(-1), 0, 0.5,
		uint(1), float32(1.5), uint8(2), 9007199254740992.0, int64(9007199254740993), json.Number("9007199254740993.5"),
		int64(math.MaxInt64), uint64(1 << 63), uint64(math.MaxUint64), json.Number("18446744073709551616"),
		math.MaxFloat64, json.Number("1e400"), json.Number("2e400"), inf}
	for i, a := range ascending {
		for j, b := range ascending {
			want := 0
			if i != j {
				want = 1 - 2*b2i(i < j)
			}
			if got, ok := CompareNumbers(a, b); !ok || got != want {
				t.Errorf("%v and %v: %d, %v, want %d", a, b, got, ok, want)
			}
		}
	}
	for _, pair := range [][2]any{{1, "1"}, {nil, 1}, {true, 1}, {inf, "x"}, {"x", -inf}, {math.NaN(), 1},
		{math.NaN(), math.NaN()}, {inf, math.NaN()}, {json.Number("x"), 1}, {[]any{}, 1}} {
		if got, ok := CompareNumbers(pair[0], pair[1]); ok {
			t.Errorf("%v and %v: %d", pair[0], pair[1], got)
		}
	}
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}

func FuzzParseNumber(f *testing.F) {
	for _, s := range []string{"0", "-0.0", "1e400", "0.1000000000000000055", "9007199254740993", "00.10e-0", "."} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		n, ok := ParseNumber(s)
		if !ok {
			if json.Valid([]byte(s)) && s[0] != '"' && s[0] != '{' && s[0] != '[' && len(s) < 5 {
				if _, err := strconv.ParseFloat(s, 64); err == nil {
					t.Fatalf("%q is no number", s)
				}
			}
			return
		}
		if order, ok := CompareNumbers(n, json.Number(s)); !ok || order != 0 {
			t.Fatalf("%q became %#v, which is another number", s, n)
		}
		if again, ok := ParseNumber(fmt.Sprint(n)); !ok {
			t.Fatalf("%q became %#v, which is written as no number", s, n)
		} else if order, _ := CompareNumbers(n, again); order != 0 {
			t.Fatalf("%q became %#v, and then %#v", s, n, again)
		}
	})
}
