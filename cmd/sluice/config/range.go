package config

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"time"
)

// This file owns ranges: what a number, a duration or a size may be, and the sentence that refuses others.

// Range is what a value may be. Bounds are written as the value itself: "500ms", "64KiB", "0.5". The zero Range allows
// everything.
type Range struct {
	Least, Above string // the smallest value; or the value that it must be above
	Most, Below  string // the largest value; or the value that it must be below

	Zero    string // what 0 means, where it is allowed although it is out of the range: "for no cache"
	TooMuch string // why there cannot be more
	Says    string // the sentence in place of the usual one; {value} stands for the value
}

// bounds are the texts of a Range as numbers; an open end is infinite.
type bounds struct{ least, above, below, most float64 }

func (r Range) resolve(k *Key) (b bounds, err error) {
	if (r.Least != "" && r.Above != "") || (r.Most != "" && r.Below != "") {
		return b, errors.New("a range has one lower and one upper bound")
	}
	if r == (Range{}) {
		return b, nil
	}
	read := func(s string, open float64) float64 {
		if s == "" {
			return open
		}
		v, parseErr := k.Parse(s)
		if parseErr != nil {
			err = fmt.Errorf("bound: %w", parseErr)
			return 0
		}
		x, ok := amount(v)
		if !ok {
			err = fmt.Errorf("a %s has no range", k.kind)
		}
		return x
	}
	return bounds{read(r.Least, math.Inf(-1)), read(r.Above, math.Inf(-1)), read(r.Below, math.Inf(1)),
		read(r.Most, math.Inf(1))}, err
}

// amount is a value as a number: bounds are far below the numbers that float64 does not hold exactly.
func amount(v any) (float64, bool) {
	switch v := v.(type) {
	case int:
		return float64(v), true
	case float64:
		return v, true
	case time.Duration:
		return float64(v), true
	case Bytes:
		return float64(v), true
	}
	return 0, false
}

// Within says whether a value that Parse has read is in the range of the key. The error says what the range is.
func (k Key) Within(v any) error {
	x, ok := amount(v)
	r, b := k.Range, k.bound
	if r == (Range{}) || !ok || r.Zero != "" && x == 0 {
		return nil
	}
	over := x > b.most || x >= b.below
	if !over && x >= b.least && x > b.above {
		return nil
	}
	says := r.sentence()
	if r.Zero != "" {
		says += ", or 0 " + r.Zero
	}
	if over && r.TooMuch != "" {
		says += " (" + r.TooMuch + ")"
	}
	return errors.New(strings.ReplaceAll(says, "{value}", k.show(v)))
}

func (r Range) sentence() string {
	switch {
	case r.Says != "":
		return r.Says
	case r.Least != "" && r.Most != "":
		return "{value} is out of range; between " + r.Least + " and " + r.Most
	case r.Least != "" && r.Below != "":
		return "{value} is out of range; at least " + r.Least + " and less than " + r.Below
	case r.Above != "" && r.Most != "":
		return "{value} is out of range; above " + r.Above + ", at most " + r.Most
	case r.Above != "" && r.Below != "":
		return "{value} is out of range; above " + r.Above + ", below " + r.Below
	case r.Least == "0":
		return "must not be negative"
	case r.Least != "":
		return "must be at least " + r.Least
	case r.Above != "":
		return "must be above " + r.Above
	case r.Most != "":
		return "must be at most " + r.Most
	}
	return "must be below " + r.Below
}
