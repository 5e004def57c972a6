package rule

import (
	"fmt"
	"math/big"
	"strings"
	"testing"

	"github.com/expr-lang/expr"
	"pgregory.net/rapid"

	"sluice/pipeline"
	"sluice/pipeline/codec"
	"sluice/pipeline/codec/jsonvalue"
)

// A number is what the record says to its last digit, in every operator and wherever in a rule it comes to stand.
func TestNumbersOfTheRecordAreExact(t *testing.T) {
	s := subjectOf(t, pipeline.Record{Value: []byte(`{"text":"a","id":9007199254740993,"s":"9007199254740993",
		"max":9223372036854775807,"min":-9223372036854775808,"u":18446744073709551615,"huge":18446744073709551616,
		"f":9007199254740993.0,"d":0.1000000000000000055,"price":19.990,"tenth":0.1,"inf":1e400,"inf2":2e400,"tiny":1e-400,
		"minus":-0.0,"ids":[1,9007199254740993,18446744073709551616],"items":[{"p":1.5},{"p":9007199254740993}],
		"hex":"0x10","nan":"NaN","infinity":"-inf","digits":"1_000","plus":"+7","yes":true,"three":3}`)}, "a")
	for source, want := range map[string]bool{
		`field("id") == 9007199254740993`:                                                          true,
		`field("id") == 9007199254740992`:                                                          false,
		`field("id") != 9007199254740992`:                                                          true,
		`field("id") == 9007199254740992.0`:                                                        false,
		`field("id") == 9007199254740993.0`:                                                        true,
		`9007199254740992 < field("id") && field("id") < 9007199254740994`:                         true,
		`field("id") > 9007199254740992.5 && field("id") >= 9007199254740993.0`:                    true,
		`field("id") <= 9007199254740992 || field("id") in [9007199254740992, 9007199254740994.0]`: false,
		`field("id") in [9007199254740992, 9007199254740993.0]`:                                    true,
		`9007199254740992 in field("ids")`:                                                         false,
		`9007199254740993 in field("ids") && 18446744073709551616.0 in field("ids")`:               true,
		`number("id") == 9007199254740993 && number("id") != 9007199254740992`:                     true,
		`number("s") == 9007199254740993 && number("s") > 9007199254740992`:                        true,
		`field("s") == "9007199254740993" && field("s") != field("id")`:                            true,
		`field("f") == field("id") && field("f") != 9007199254740992`:                              true,
		`field("u") == -1 || field("u") < 0 || field("u") <= field("max")`:                         false,
		`field("u") == 18446744073709551615.0 && field("u") > field("max")`:                        true,
		`field("huge") > field("u") && field("huge") == 18_446_744_073_709_551_616.0`:              true,
		`field("huge") == 18446744073709551617.0 || field("huge") == field("u")`:                   false,
		`field("min") == -9223372036854775808.0 && -field("min") > field("max")`:                   true,
		`field("d") == 0.1 || field("d") == 0.1000000000000000054`:                                 false,
		`field("d") == 0.1000000000000000055 && field("d") > 0.1 && -field("d") < -0.1`:            true,
		`field("d") == -(-0.1000000000000000055)`:                                                  true,
		`field("price") == 19.99 && number("price") == 19.99 && field("tenth") == 0.1`:             true,
		`field("inf") > 1e308 && field("inf") < field("inf2")`:                                     true,
		`field("inf") == field("inf2") || field("tiny") == 0`:                                      false,
		`field("tiny") > 0 && field("minus") == 0`:                                                 true,
		// sums of whole numbers stay whole, and none wraps around
		`field("id") + 2 == 9007199254740995 && field("id") - 1 == 9007199254740992`:  true,
		`field("three") * 3002399751580331 == 9007199254740993`:                       true,
		`field("max") + 1 > field("max") && field("min") - 1 < 0`:                     true,
		`field("max") * field("max") > 1e37 && field("min") * -1 > 0`:                 true,
		`field("max") + field("min") == -1 && field("max") % 10 == 7`:                 true,
		`field("min") % -1 == 0 && field("three") / 2 == 1.5`:                         true,
		`field("price") * 2 > 39.9 && field("huge") * 2 > 3e19 && field("u") + 1 > 0`: true,
		`field("three") ** 2 == 9 && number("three") ^ 2 == 9`:                        true,
		// within the language's own constructs
		`any(field("items"), .p == 9007199254740992)`:                                              false,
		`all(field("ids"), # > 0) && count(field("items"), .p > 9007199254740992) == 1`:            true,
		`filter(field("ids"), # == 9007199254740993) == [9007199254740993]`:                        true,
		`let id = field("id"); id == 9007199254740992`:                                             false,
		`(field("yes") ? number("id") : 0) == 9007199254740992`:                                    false,
		`(number("none") == 0 ? field("id") : 0) == 9007199254740993`:                              true,
		`(field("none") ?? field("id")) == 9007199254740993`:                                       true,
		`field("ids") == [1, 9007199254740993, 18446744073709551616.0]`:                            true,
		`field("ids") == [1, 9007199254740993]`:                                                    false,
		`field("items")[1] == {"p": 9007199254740993} && field("items")[0].p == 1.5`:               true,
		`field("items")[1] == {"p": 9007199254740992}`:                                             false,
		`[field("id")] == [9007199254740992]`:                                                      false,
		`abs(field("min")) > 0 || true`:                                                            true,
		`abs(-field("three")) == 3 && max(field("three"), 2) == 3 && min(number("three"), 2) == 2`: true,
		`round(field("price")) == 20 && int(field("price")) == 19 && float(field("huge")) > 1e19`:  true,
		`max(field("ids")) > 1e19 && sum(field("ids")) > 1e19 && sum(field("items"), .p) > 1e15`:   true,
		`field("three") in 1..5 && field("three") not in [1, 2]`:                                   true,
		`string(field("huge")) == "18446744073709551616"`:                                          true,
		// what is no number is compared as the language does it
		`field("yes") == true && field("none") == nil && field("id") != nil && field("id") != "x"`: true,
		`field("s") < "a" && field("s") + "x" == "9007199254740993x"`:                              true,
		`field("s") in ["9007199254740993"] && "p" in field("items")[0]`:                           true,
		// numbers in strings are decimal
		`number("hex") == 0 && number("nan") == 0 && number("infinity") == 0 && number("digits") == 0`: true,
		`number("plus") == 7 && number("yes") == 1 && number("none") == 0 && number("items") == 0`:     true,
	} {
		r, err := Parse(source)
		if err != nil {
			t.Errorf("%s: %v", source, err)
			continue
		}
		if got, err := r.Holds(s); got != want || err != nil {
			t.Errorf("%s: %v (%v), want %v", source, got, err, want)
		}
		v, err := ParseVerdicts(source, Declare("sentiment"))
		if err != nil {
			t.Errorf("%s over verdicts: %v", source, err)
		} else if got, err := v.Holds(NewEnv(s, facts())); got != want || err != nil {
			t.Errorf("%s over verdicts: %v (%v), want %v", source, got, err, want)
		}
	}
	for _, source := range []string{`field("none") < 3`, `field("s") > 3`, `field("yes") + 1 > 0`, `field("id") % 0 == 0`,
		`field("price") % 2 == 0`, `field(field("s") + "..") == nil`, `field("three")`, `-field("s") == 1`,
		`field("ids") < 3`} {
		r, err := Parse(source)
		if err != nil {
			t.Errorf("%s: %v", source, err)
		} else if got, err := r.Holds(s); got || err == nil {
			t.Errorf("%s holds: %v (%v), where it cannot be evaluated", source, got, err)
		}
	}
}

// The witness of comparisons is math/big.
func TestComparisonsInRulesAreThoseOfTheDigits(t *testing.T) {
	number := rapid.OneOf(rapid.StringMatching(`-?(0|[1-9][0-9]{0,20})\.[0-9]{1,20}`),
		rapid.StringMatching(`-?(0|[1-9][0-9]{0,17})`), rapid.SampledFrom([]string{"9007199254740993",
			"9007199254740992.0", "9223372036854775807", "18446744073709551615.0", "0.1", "0.10"}))
	rapid.Check(t, func(rt *rapid.T) {
		a, b := number.Draw(rt, "a"), number.Draw(rt, "b")
		x, _ := new(big.Rat).SetString(a)
		y, _ := new(big.Rat).SetString(b)
		s := subjectOf(t, pipeline.Record{Value: fmt.Appendf(nil, `{"text":"a","a":%s,"b":%s}`, a, b)}, "a")
		for op, want := range map[string]bool{"==": x.Cmp(y) == 0, "!=": x.Cmp(y) != 0, "<": x.Cmp(y) < 0,
			"<=": x.Cmp(y) <= 0, ">": x.Cmp(y) > 0, ">=": x.Cmp(y) >= 0} {
			for _, source := range []string{`field("a") ` + op + ` field("b")`, `number("a") ` + op + ` ` + b,
				a + ` ` + op + ` field("b")`} {
				r, err := Parse(source)
				if err != nil {
					rt.Fatal(err)
				}
				if got, err := r.Holds(s); got != want || err != nil {
					rt.Fatalf("%s with a %s and b %s: %v (%v), want %v", source, a, b, got, err, want)
				}
			}
		}
	})
}

// Whatever a rule says and a record holds, compiling and evaluating end with an answer or an error, and no rule that
// the language takes is refused for more than its paths.
func FuzzRule(f *testing.F) {
	for _, source := range []string{`field("n") == 9007199254740993`, `-field("n") > 0.1000000000000000055`,
		`number("n") in [1, 1_0.0, -1e400]`, `sum(field("l"), # * 2) % 3 == 1`, `"é😀" != "x" && 0.30000000000000004 == field("n")`,

		`let x = field("l"); x[0] + x[1] >= 1.5`, `any(field("l"), {# == -1.0})`, `field("a" + "..") == nil`,
		`number("n") ?? 1 == 2`, `field("o").k ** 2 < max(field("n"), 3)`} {
		f.Add(source, `{"text":"a","n":18446744073709551616,"l":[1,2.5,1e999],"o":{"k":-0.0}}`)
	}
	c := jsonvalue.New(jsonvalue.Options{Text: codec.Path{"text"}, Field: "inference", MaxDepth: 99})
	f.Fuzz(func(t *testing.T, source, value string) {
		r, err := Parse(source)
		if err != nil {
			if _, plain := expr.Compile(source, expr.Env(map[string]any(declared())), expr.AsBool()); plain == nil &&
				!strings.Contains(err.Error(), "the path of ") {
				t.Fatalf("%s is refused: %v", source, err)
			}
			return
		}
		rec := &pipeline.Record{Value: []byte(value)}
		v, _ := c.Open(t.Context(), rec.Value)
		if yes, err := r.Holds(&Subject{Record: rec, Value: v}); yes && err != nil {
			t.Fatalf("%s holds for %s, and cannot be evaluated: %v", source, value, err)
		}
	})
}

// Paths of rules are those of input.text. A wrong one is found before anything runs.
func TestPathsOfRules(t *testing.T) {
	s := subjectOf(t, pipeline.Record{Topic: "in", Value: []byte(`{"text":"a","a.b":1,"#":2,"*":{"?":3},"l":[[4],{"n":5}],
		"in":6,"o":{"0":7,"@this":8},"\ud83d\u0041":"\ud83d\u0042","p":{"k":0,"k":1},"p":{"k":9,"k":10}}`)}, "a")
	for source, want := range map[string]bool{
		`field("a\\.b") == 1 && field("a.b") == nil`:                                  true,
		`field("#") == 2 && field("*.?") == 3 && field("*") != nil`:                   true,
		`field("l.0.0") == 4 && field("l.1.n") == 5 && field("o.0") == 7`:             true,
		`field("l.#") == nil && field("l.2") == nil && field("l.-1") == nil`:          true,
		`field("l|@this") == nil && field("o.@this") == 8 && field("!l") == nil`:      true,
		`field("l.00") == nil && field("l.+1") == nil && field("l.01") == nil`:        true,
		`field(topic) == 6 && number("o." + "0") == 7`:                                true,
		`field("\ufffdA") == "\ufffdB"`:                                               true,
		`field("p.k") == 10 && field("p").k == 10 && field("p") == {"k": 10}`:         true,
		`field("p.k.x") == nil && field("text.x") == nil && field("none.0.x") == nil`: true,
	} {
		r, err := Parse(source)
		if err != nil {
			t.Errorf("%s: %v", source, err)
		} else if got, err := r.Holds(s); got != want || err != nil {
			t.Errorf("%s: %v (%v), want %v", source, got, err, want)
		}
	}
	for source, want := range map[string]string{
		`field("") == 1`:                      `column 7: the path of field: it is empty`,
		`true && number("a..b") > 1`:          `column 16: the path of number: nothing stands before the dot or the end at character 3`,
		`field("a.") == 1`:                    `column 7: the path of field: nothing stands before`,
		`field("a\\#b") == 1`:                 `column 7: the path of field: the backslash at character 2`,
		"true &&\n field(\"a\\\\\") == 1":     `column 8: the path of field: the backslash at character 2`,
		`field("id") == 18446744073709551615`: `is no whole number of 64 bits with a sign; write 18446744073709551615.0`,
		`number("a") > "7"`:                   `column 13: invalid operation: > (mismatched types float64 and string)`,
		`field(7) == 1`:                       `cannot use int as argument (type string)`,
		`field("a", "b") == 1`:                `too many arguments`,
	} {
		if _, err := Parse(source); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", source, err, want)
		}
	}
}

// A rule for records whose text has not been looked for has no text, and says whether it looks at fields.
func TestRulesBeforeTheText(t *testing.T) {
	for source, fields := range map[string]bool{`topic == "a" && bytes == 0`: false, `field("op") == "d"`: true,
		`headers["op"] == "d" || number("n") > 1`: true, `let f = key; f == "field"`: false,
		`$env.field("op") == "d"`: true} {
		r, err := ParseBeforeText(source)
		if err != nil || r.ReadsFields() != fields {
			t.Errorf("%s: %v, reads fields: %v", source, err, !fields)
		}
	}
	_, err := ParseBeforeText(`text == ""`)
	if err == nil || !strings.Contains(err.Error(), "column 1: unknown name text; the rule is evaluated before the "+
		"text") {
		t.Errorf("text: %v", err)
	}
	if strings.Contains(fmt.Sprint(err), "text, bytes") {
		t.Errorf("it may use the text: %v", err)
	}
}
