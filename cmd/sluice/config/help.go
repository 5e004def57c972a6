package config

import (
	"fmt"
	"io"
	"strings"
)

// This file writes the help on keys.

const keysPreface = `
Configuration keys. A flag wins over the environment, the environment over the file, the file over the default. Lists
are separated by commas in flags and in the environment. In the file, ${NAME} stands for an environment variable,
${NAME:-text} for text where it is not set, and relative file names are relative to the file.
`

// WriteKeys writes what every key is: its flag, kind, meaning, environment variable, default and an example.
func (s *Schema) WriteKeys(w io.Writer) {
	fmt.Fprint(w, keysPreface)
	section := ""
	for _, k := range s.keys {
		if first, _, _ := strings.Cut(k.path, "."); first != section {
			section = first
			fmt.Fprintf(w, "\n%s\n", strings.TrimSuffix(section, "[]"))
		}
		writeKey(w, k)
	}
}

func writeKey(w io.Writer, k Key) {
	kind := k.kind.String()
	if k.OneOf != nil {
		kind = strings.Join(k.OneOf, "|")
	}
	name := "--" + k.path
	if k.Secret || k.list {
		name = k.path // no flag
	}
	value := k.show(k.value)
	switch {
	case k.Need && !k.off:
		value = "none, it must be given"
	case value == `""` || value == "[]":
		value = "none"
	}
	facts := []string{"env " + EnvName(k.path), "default " + value}
	if !k.Secret {
		facts = append(facts, "example "+k.Example)
	}
	fmt.Fprintf(w, "  %s %s\n      %s\n      %s\n", name, kind, k.Doc, strings.Join(facts, " | "))
}
