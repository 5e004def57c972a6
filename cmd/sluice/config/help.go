package config

import (
	"fmt"
	"io"
	"strings"
)

// This file writes the help on keys.

const keysPreface = `
Configuration keys. A flag wins over the environment, the environment over the file, the file over the default. Lists are
separated by commas in flags and in the environment. In the file, ${NAME} stands for an environment variable,
${NAME:-text} for text where it is not set, and relative file names are relative to the file.
`

// WriteKeys writes what every key is: its flag, kind, meaning, environment variable, default and an example.
func WriteKeys(w io.Writer) {
	fmt.Fprint(w, keysPreface)
	section := ""
	for _, k := range allKeys {
		if s, _, _ := strings.Cut(k.path, "."); s != section {
			section = s
			fmt.Fprintf(w, "\n%s\n", strings.TrimSuffix(section, "[]"))
		}
		writeKey(w, k)
	}
}

func writeKey(w io.Writer, k Key) {
	kind := k.kind.String()
	if k.choices != nil {
		kind = strings.Join(k.choices, "|")
	}
	name := "--" + k.path
	if k.secret || k.inList() {
		name = k.path // no flag
	}
	value := k.show(k.value)
	switch {
	case k.need:
		value = "none, it must be given"
	case value == `""` || value == "[]":
		value = "none"
	}
	facts := []string{"env " + EnvName(k.path), "default " + value}
	if !k.secret {
		facts = append(facts, "example "+k.example)
	}
	fmt.Fprintf(w, "  %s %s\n      %s\n      %s\n", name, kind, k.doc, strings.Join(facts, " | "))
}
