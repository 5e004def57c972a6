package codec

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// This file owns the grammar of paths, which input.text and the field("path") and number("path") of rules have in
// common.

// Path names a place in a value, from the outside in: each step is the key of an object's member, or, in a list, a
// position (see Position). A step of digits is a key in an object and a position in a list: what the value has there
// decides.
type Path []string

// ParsePath reads a path: steps with dots between them, such as payload.body or comments.0.text. "\." is a dot in a
// key, "\\" a backslash; every other character stands for itself: there are no wildcards, no queries and no brackets.
// The error says what to write.
func ParsePath(s string) (Path, error) {
	if s == "" {
		return nil, errors.New("it is empty; write a key, such as text, or keys with dots between them, review.body")
	}
	var steps Path
	var step strings.Builder
	end := func(at int) error {
		if step.Len() == 0 {
			return fmt.Errorf(`nothing stands before the dot or the end at character %d of %q; keys have one dot `+
				`between them, and a dot within a key is written "\."`, at+1, s)
		}
		steps = append(steps, step.String())
		step.Reset()
		return nil
	}
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '\\' && i+1 < len(s) && (s[i+1] == '.' || s[i+1] == '\\'):
			i++
			step.WriteByte(s[i])
		case c == '\\':
			return nil, fmt.Errorf(`the backslash at character %d of %q escapes nothing: "\." is a dot in a key, "\\" `+
				`a backslash, and every other character stands for itself`, i+1, s)
		case c == '.':
			if err := end(i); err != nil {
				return nil, err
			}
		default:
			step.WriteByte(c)
		}
	}
	if err := end(len(s)); err != nil {
		return nil, err
	}
	return steps, nil
}

// String is what ParsePath reads.
func (p Path) String() string {
	steps := make([]string, len(p))
	for i, k := range p {
		steps[i] = strings.NewReplacer(`\`, `\\`, ".", `\.`).Replace(k)
	}
	return strings.Join(steps, ".")
}

// Position is a step as a position in a list, from 0: digits without a sign and without zeros before them. false: it is
// none, and a list has nothing there.
func Position(step string) (int, bool) {
	if step == "" || step[0] == '0' && len(step) > 1 {
		return 0, false
	}
	for i := range len(step) {
		if step[i] < '0' || step[i] > '9' {
			return 0, false
		}
	}
	n, err := strconv.Atoi(step)
	return n, err == nil
}
