package config

import (
	"fmt"
	"io"
	"path/filepath"
	"reflect"
	"strings"

	"github.com/mattn/go-runewidth"
)

// This file prints the configuration that holds, and where each value came from. What it prints is a configuration file
// again, secrets apart.

// Print writes the values as a configuration file, each with its origin.
func (c *Loaded) Print(w io.Writer) {
	p := &printer{c: c}
	for i := range c.schema.sections {
		section := &c.schema.sections[i]
		v := reflect.ValueOf(section.Value).Elem()
		if c.schema.lists[section.Name] == nil {
			p.keys(i, 0, v)
			continue
		}
		for e := range v.Len() {
			if e == 0 {
				p.lines = append(p.lines, printLine{section.Name + ":", ""})
			}
			p.entry(i, e, v.Index(e))
		}
	}
	width := 0
	for _, l := range p.lines {
		if l.origin != "" {
			width = max(width, min(60, runewidth.StringWidth(l.text)))
		}
	}
	for _, l := range p.lines {
		if l.origin == "" {
			fmt.Fprintln(w, l.text)
			continue
		}
		fmt.Fprintf(w, "%s  # %s\n", l.text+strings.Repeat(" ", max(0, width-runewidth.StringWidth(l.text))), l.origin)
	}
}

type printer struct {
	c     *Loaded
	lines []printLine
}

type printLine struct{ text, origin string }

// entry prints one entry of a list.
func (p *printer) entry(section, entry int, v reflect.Value) {
	at := len(p.lines)
	if p.keys(section, entry, v); at == len(p.lines) {
		p.lines = append(p.lines, printLine{"  - {}", ""})
		return
	}
	first := &p.lines[at].text
	*first = "  - " + strings.TrimPrefix(*first, "    ")
}

// keys prints the keys of a section that somebody has given or that have an effect. The name of a section stands before
// the first of its keys.
func (p *printer) keys(section, entry int, v reflect.Value) {
	name := p.c.schema.sections[section].Name
	open := []string{} // the sections around the last key
	for _, k := range p.c.schema.keys {
		if k.place.section != section {
			continue
		}
		path, parts, indent := k.path, strings.Split(k.path, "."), ""
		if k.list {
			path, parts, indent = fmt.Sprintf("%s[%d].%s", name, entry, k.Name), strings.Split(k.Name, "."), "    "
		}
		value, origin := v.FieldByIndex(k.index), p.c.origins[path]
		if origin.IsDefault() && p.isLeftOut(k, entry, value) {
			continue
		}
		outer := parts[:len(parts)-1]
		for i, part := range outer {
			if i >= len(open) || open[i] != part {
				p.lines = append(p.lines, printLine{indent + strings.Repeat("  ", i) + part + ":", ""})
				open = open[:min(i, len(open))]
			}
		}
		open = outer
		text := k.show(p.absolute(k, value.Interface()))
		p.lines = append(p.lines, printLine{fmt.Sprintf("%s%s%s: %s", indent, strings.Repeat("  ", len(outer)),
			parts[len(parts)-1], text), origin.String()})
	}
}

// isLeftOut says that a default is not worth a line: it is empty, or has no effect.
func (p *printer) isLeftOut(k Key, entry int, v reflect.Value) bool {
	section := &p.c.schema.sections[k.place.section]
	switch {
	case v.IsZero() && (k.kind == kindText || k.kind == kindList || k.kind == kindMapping):
		return true
	case section.On != nil && !section.On():
		return true
	}
	return section.Idle != nil && section.Idle(entry, k.Name)
}

// absolute is a value whose file name, if it is one, means the same in whatever file it stands.
func (p *printer) absolute(k Key, v any) any {
	if s, isText := v.(string); isText && k.isFileName(s) {
		if abs, err := filepath.Abs(s); err == nil {
			return abs
		}
	}
	return v
}
