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

func (c *Loaded) Print(w io.Writer) {
	var lines []printLine
	printSection(&lines, c, "", "", reflect.ValueOf(c.Settings))
	width := 0
	for _, l := range lines {
		if l.origin != "" {
			width = max(width, min(60, runewidth.StringWidth(l.text)))
		}
	}
	for _, l := range lines {
		if l.origin == "" {
			fmt.Fprintln(w, l.text)
			continue
		}
		fmt.Fprintf(w, "%s  # %s\n", l.text+strings.Repeat(" ", max(0, width-runewidth.StringWidth(l.text))), l.origin)
	}
}

type printLine struct{ text, origin string }

func printSection(lines *[]printLine, c *Loaded, indent, prefix string, v reflect.Value) {
	for i := range v.NumField() {
		name := v.Type().Field(i).Tag.Get("koanf")
		path, field := prefix+name, v.Field(i)
		if _, isList := lists[path]; isList {
			if field.Len() == 0 {
				continue
			}
			*lines = append(*lines, printLine{indent + name + ":", ""})
			for m := range field.Len() {
				at := len(*lines)
				printSection(lines, c, indent+"    ", fmt.Sprintf("%s[%d].", path, m), field.Index(m))
				first := &(*lines)[at].text
				*first = indent + "  - " + strings.TrimPrefix(*first, indent+"    ")
			}
			continue
		}
		if field.Kind() == reflect.Struct {
			before := len(*lines)
			*lines = append(*lines, printLine{indent + name + ":", ""})
			if printSection(lines, c, indent+"  ", path+".", field); len(*lines) == before+1 {
				*lines = (*lines)[:before] // nothing of it was given, and nothing holds by default
			}
			continue
		}
		k, _ := Find(path)
		if c.origins[path].isDefault() && field.IsZero() && (k.kind == kindString || k.kind == kindStrings ||
			k.kind == kindMap) {
			continue // not given, and nothing by default
		}
		if c.origins[path].isDefault() && c.idle(path) {
			continue
		}
		value := field.Interface()
		if k.file && field.String() != "" { // so that it means the same in whatever file it stands
			if abs, err := filepath.Abs(field.String()); err == nil {
				value = abs
			}
		}
		*lines = append(*lines, printLine{fmt.Sprintf("%s%s: %s", indent, name, k.show(value)),
			c.origins[path].String()})
	}
}

// idle says that a key has no effect beside the values of others, and would be a mistake if it were given.
func (c *Loaded) idle(path string) bool {
	if path == "input.text" {
		return c.Input.Format == "text"
	}
	if strings.HasPrefix(path, "escalation.") {
		return !c.Escalation.On()
	}
	var i int
	var name string
	if _, err := fmt.Sscanf(path, "models[%d].%s", &i, &name); err != nil {
		return false
	}
	switch m := c.Models[i]; name {
	case "stride", "window_merge":
		return m.LongText == "truncate"
	case "student_threshold":
		return m.Student == ""
	case "device_fallback":
		return m.Device == "cpu"
	}
	return false
}
