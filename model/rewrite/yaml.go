// Package rewrite changes files that people wrote: single values of a YAML file, with everything else left as it is,
// and whole files, which are never half of each.
package rewrite

import (
	"bytes"
	"errors"
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

// This file owns the way back into the configuration file: the bytes of a value are replaced, or a line is put in, and
// nothing else changes. Afterwards both files are read and compared; where anything but the value differs, nothing is
// given.

// ErrByHand says that the file is of a form that is not changed automatically: a person has to.
var ErrByHand = errors.New("is not a form that can be changed automatically")

// Change is one value to write.
type Change struct {
	Section []any  // path of the mapping: names (string) and places in lists (int)
	Key     string // of the mapping
	After   string // key behind which Key is put where it is missing; it must be there
	Value   string // YAML of the new value, where Rule is false
	Rule    bool   // the value is "NAME.score < X" and only X is replaced by Value
	Model   string // NAME
}

// String is the path of the value, as models[0].student_threshold.
func (c *Change) String() string {
	var b strings.Builder
	for _, s := range c.Section {
		switch s := s.(type) {
		case int:
			fmt.Fprintf(&b, "[%d]", s)
		default:
			if b.Len() > 0 {
				b.WriteByte('.')
			}
			fmt.Fprint(&b, s)
		}
	}
	return b.String() + "." + c.Key
}

// Written is the new value as YAML.
func (c *Change) Written() string {
	if c.Rule {
		return fmt.Sprintf("'%s.score < %s'", c.Model, c.Value)
	}
	return c.Value
}

// edit is bytes of the file from..to that become text.
type edit struct {
	from, to int
	text     string
}

// Rewrite makes the changes in a YAML file. The error names the value that it cannot change and is ErrByHand then.
func Rewrite(file []byte, changes []Change) ([]byte, error) {
	var doc yaml.Node
	if err := yaml.Unmarshal(file, &doc); err != nil {
		return nil, fmt.Errorf("the configuration is not valid YAML: %w", err)
	}
	if doc.Kind != yaml.DocumentNode {
		return nil, fmt.Errorf("the configuration is empty: %w", ErrByHand)
	}
	var want any
	if err := doc.Decode(&want); err != nil {
		return nil, fmt.Errorf("the configuration cannot be read: %w", err)
	}
	var edits []edit
	for i := range changes {
		c := &changes[i]
		e, value, err := c.edit(file, &doc)
		if err == nil {
			err = c.apply(want, value)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", c, err)
		}
		edits = append(edits, e)
	}
	slices.SortFunc(edits, func(a, b edit) int { return b.from - a.from }) // from the end, so that places stay true
	out := slices.Clone(file)
	for _, e := range edits {
		out = slices.Replace(out, e.from, e.to, []byte(e.text)...)
	}
	var got any
	if err := yaml.Unmarshal(out, &got); err != nil || !reflect.DeepEqual(got, want) {
		return nil, fmt.Errorf("the file %w: changing it would change something else", ErrByHand)
	}
	return out, nil
}

// edit is what changes in the file, and the value as YAML that is read there afterwards.
func (c *Change) edit(file []byte, doc *yaml.Node) (edit, string, error) {
	n := doc.Content[0]
	for _, s := range c.Section {
		switch s := s.(type) {
		case string:
			_, n = member(n, s)
		case int:
			if n.Kind != yaml.SequenceNode || s >= len(n.Content) {
				n = nil
			} else {
				n = n.Content[s]
			}
		}
		if n == nil || n.Kind == yaml.AliasNode {
			return edit{}, "", fmt.Errorf("its section is not in the file itself, which %w", ErrByHand)
		}
	}
	if _, value := member(n, c.Key); value != nil {
		from, to, err := span(file, value)
		if err != nil {
			return edit{}, "", err
		}
		if !c.Rule {
			return edit{from, to, c.Value}, c.Value, nil
		}
		return c.editRule(file, value, from, to)
	}
	if c.Rule {
		return edit{}, "", fmt.Errorf("is missing, which %w", ErrByHand)
	}
	key, after := member(n, c.After)
	if after == nil {
		return edit{}, "", fmt.Errorf("there is no %s to put it behind: %w", c.After, ErrByHand)
	}
	_, end, err := span(file, after)
	if err != nil {
		return edit{}, "", err
	}
	text := c.Key + ": " + c.Value
	if n.Style&yaml.FlowStyle != 0 {
		return edit{end, end, ", " + text}, c.Value, nil
	}
	if line := bytes.IndexByte(file[end:], '\n'); line >= 0 {
		end += line + 1
		return edit{end, end, strings.Repeat(" ", key.Column-1) + text + ending(file, end)}, c.Value, nil
	}
	return edit{len(file), len(file), "\n" + strings.Repeat(" ", key.Column-1) + text}, c.Value, nil
}

// ending is the line ending that is used before at.
func ending(file []byte, at int) string {
	if at >= 2 && file[at-2] == '\r' {
		return "\r\n"
	}
	return "\n"
}

var simpleRule = regexp.MustCompile(`^\s*([A-Za-z_][A-Za-z0-9_]*)\.score\s*<\s*([0-9.]+(?:[eE][+-]?[0-9]+)?)\s*$`)

// RuleThreshold is X of a rule of the form "NAME.score < X"; false: it has another form.
func RuleThreshold(rule, model string) (float64, bool) {
	m := simpleRule.FindStringSubmatch(rule)
	if m == nil || m[1] != model {
		return 0, false
	}
	x, err := strconv.ParseFloat(m[2], 64)
	return x, err == nil
}

func (c *Change) editRule(file []byte, value *yaml.Node, from, to int) (edit, string, error) {
	m := simpleRule.FindStringSubmatchIndex(value.Value)
	if m == nil || value.Value[m[2]:m[3]] != c.Model {
		return edit{}, "", fmt.Errorf("is %q, not of the form %s.score < X, which %w", value.Value, c.Model, ErrByHand)
	}
	number := value.Value[m[4]:m[5]]
	at := bytes.LastIndex(file[from:to], []byte(number))
	if at < 0 {
		return edit{}, "", fmt.Errorf("its number cannot be found in the file, which %w", ErrByHand)
	}
	rule := value.Value[:m[4]] + c.Value + value.Value[m[5]:]
	return edit{from + at, from + at + len(number), c.Value}, strconv.Quote(rule), nil
}

// apply sets the value in the decoded file.
func (c *Change) apply(root any, value string) error {
	var v any
	if err := yaml.Unmarshal([]byte(value), &v); err != nil {
		return fmt.Errorf("the value %s is not YAML: %w", value, err)
	}
	for _, s := range c.Section {
		switch s := s.(type) {
		case string:
			m, _ := root.(map[string]any)
			root = m[s]
		case int:
			l, _ := root.([]any)
			if s >= len(l) {
				return fmt.Errorf("there is no entry %d: %w", s, ErrByHand)
			}
			root = l[s]
		}
	}
	m, ok := root.(map[string]any)
	if !ok {
		return fmt.Errorf("its section is not a mapping, which %w", ErrByHand)
	}
	m[c.Key] = v
	return nil
}

// member finds the key and value of a mapping; nil where it is not in it.
func member(n *yaml.Node, name string) (key, value *yaml.Node) {
	if n == nil || n.Kind != yaml.MappingNode {
		return nil, nil
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == name && n.Content[i].Tag != "!!merge" {
			return n.Content[i], n.Content[i+1]
		}
	}
	return nil, nil
}

// span is where a scalar stands in the file, its quotes included.
func span(file []byte, n *yaml.Node) (from, to int, err error) {
	const notPlain = yaml.LiteralStyle | yaml.FoldedStyle | yaml.TaggedStyle
	if n.Kind != yaml.ScalarNode || n.Anchor != "" || n.Style&notPlain != 0 || strings.Contains(n.Value, "${") {
		return 0, 0, fmt.Errorf("is not a plain value (line %d), which %w", n.Line, ErrByHand)
	}
	from = offset(file, n.Line, n.Column)
	rest := file[from:]
	switch {
	case n.Style&yaml.DoubleQuotedStyle != 0 && bytes.HasPrefix(rest, []byte{'"'}):
		for i := 1; i < len(rest); i++ {
			switch rest[i] {
			case '\\':
				i++
			case '"':
				return from, from + i + 1, nil
			}
		}
	case n.Style&yaml.SingleQuotedStyle != 0 && bytes.HasPrefix(rest, []byte{'\''}):
		for i := 1; i < len(rest); i++ {
			if rest[i] != '\'' {
				continue
			}
			if i+1 == len(rest) || rest[i+1] != '\'' {
				return from, from + i + 1, nil
			}
			i++
		}
	case n.Value != "" && bytes.HasPrefix(rest, []byte(n.Value)):
		return from, from + len(n.Value), nil
	}
	return 0, 0, fmt.Errorf("stands over several lines (line %d), which %w", n.Line, ErrByHand)
}

// offset is the place in bytes of a line and a column, which counts characters; both from 1.
func offset(file []byte, line, column int) int {
	at := 0
	for ; line > 1; line-- {
		at += bytes.IndexByte(file[at:], '\n') + 1
	}
	if at == 0 && bytes.HasPrefix(file, []byte("\ufeff")) {
		at = len("\ufeff")
	}
	for ; column > 1 && at < len(file); column-- {
		_, size := utf8.DecodeRune(file[at:])
		at += size
	}
	return at
}

const around = 3 // lines of context in a diff

// Diff is a unified diff of two versions of a file; "" where they are equal. It looks for the lines at which they part
// and meet again one change at a time, which is all that Rewrite makes: lines replaced or put in.
func Diff(name string, before, after []byte) string {
	if bytes.Equal(before, after) {
		return ""
	}
	a, b := split(before), split(after)
	type line struct {
		sign byte
		text string
	}
	var lines []line
	for i, j := 0, 0; i < len(a) || j < len(b); {
		switch {
		case i < len(a) && j < len(b) && a[i] == b[j]:
			lines = append(lines, line{' ', a[i]})
			i, j = i+1, j+1
		case j+1 < len(b) && i < len(a) && a[i] == b[j+1] || i == len(a):
			lines = append(lines, line{'+', b[j]})
			j++
		case j == len(b):
			lines = append(lines, line{'-', a[i]})
			i++
		default:
			lines = append(lines, line{'-', a[i]}, line{'+', b[j]})
			i, j = i+1, j+1
		}
	}
	var out strings.Builder
	fmt.Fprintf(&out, "--- %s\n+++ %s\n", name, name)
	changed := func(i int) bool { return lines[i].sign != ' ' }
	oldLine, newLine := 1, 1
	for i := 0; i < len(lines); {
		end := i // of the unchanged lines before the next change
		for end < len(lines) && !changed(end) {
			end++
		}
		if end == len(lines) {
			break
		}
		begin := max(i, end-around)
		oldLine, newLine = oldLine+begin-i, newLine+begin-i
		stop, quiet := end, 0
		for stop < len(lines) && quiet <= 2*around {
			if quiet++; changed(stop) {
				quiet = 0
			}
			stop++
		}
		stop -= max(0, quiet-around)
		var body strings.Builder
		olds, news := 0, 0
		for _, l := range lines[begin:stop] {
			if l.sign != '+' {
				olds++
			}
			if l.sign != '-' {
				news++
			}
			fmt.Fprintf(&body, "%c%s\n", l.sign, l.text)
		}
		fmt.Fprintf(&out, "@@ -%d,%d +%d,%d @@\n%s", oldLine, olds, newLine, news, body.String())
		oldLine, newLine = oldLine+olds, newLine+news
		i = stop
	}
	return out.String()
}

func split(file []byte) []string {
	text := strings.TrimSuffix(string(file), "\n")
	if text == "" {
		return nil
	}
	return strings.Split(text, "\n")
}
