package config

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// This file owns where values come from, and the mistakes that are found in them.

// Origin says where a value came from; the zero Origin is a default.
type Origin struct {
	File string // name of the configuration file as given, with line
	Line int    // 0: the whole file
	Env  string // name of the environment variable
	Flag string // name of the flag

	column int
}

// String is the place as a person looks for it: a file with its line, a variable or a flag.
func (o Origin) String() string {
	switch {
	case o.Flag != "":
		return "--" + o.Flag
	case o.Env != "":
		return o.Env
	case o.Line > 0:
		return fmt.Sprintf("%s:%d", o.File, o.Line)
	case o.File != "":
		return o.File
	}
	return "default"
}

// IsDefault says that nobody gave the value.
func (o Origin) IsDefault() bool { return o == Origin{} }

// layer is the number of the layer that the value came from.
func (o Origin) layer() int {
	switch {
	case o.Flag != "":
		return 3
	case o.Env != "":
		return 2
	case o.File != "":
		return 1
	}
	return 0
}

// compare is the order in which mistakes are told.
func (o Origin) compare(other Origin) int {
	return cmp.Or(cmp.Compare(o.layer(), other.layer()), cmp.Compare(o.Line, other.Line),
		cmp.Compare(o.column, other.column), cmp.Compare(o.Env, other.Env), cmp.Compare(o.Flag, other.Flag))
}

// Mistake is one mistake in the configuration.
type Mistake struct {
	At   Origin
	Path string // of the key or section; "": the whole
	Text string // what is wrong and what to do

	place place
}

// String is the mistake in one line: place, key, what is wrong and what to do.
func (m Mistake) String() string {
	s := m.Text
	if m.Path != "" {
		s = m.Path + ": " + s
	}
	if !m.At.IsDefault() {
		s = m.At.String() + ": " + s
	}
	return s
}

// Mistakes are all that were found: in the order of the file, then of the environment, then of flags. Those at one
// place stand in the order of the tables.
type Mistakes struct{ List []Mistake }

// Error has a line for each mistake.
func (e *Mistakes) Error() string {
	lines := make([]string, len(e.List))
	for i, m := range e.List {
		lines[i] = m.String()
	}
	return strings.Join(lines, "\n")
}

// sortMistakes puts mistakes into the order in which they are told. Those that are alike in all of it stay as they are:
// they were found in the order of the file, or by one check after the other.
func sortMistakes(list []Mistake) {
	slices.SortStableFunc(list, func(a, b Mistake) int {
		return cmp.Or(a.At.compare(b.At), cmp.Compare(a.place.section, b.place.section),
			cmp.Compare(a.place.entry, b.place.entry), cmp.Compare(a.place.key, b.place.key))
	})
}

// placeOf is where a path stands in the tables. What is in none of them stands behind all.
func (s *Schema) placeOf(path string) place {
	entry := 0
	if open := strings.IndexByte(path, '['); open >= 0 {
		fmt.Sscanf(path[open:], "[%d]", &entry)
	}
	if k, ok := s.Find(path); ok {
		k.place.entry = entry
		return k.place
	}
	name, _, _ := strings.Cut(path, ".")
	name, _, _ = strings.Cut(name, "[")
	for i := range s.sections {
		if name == s.sections[i].Name && name != "" {
			return place{section: i, entry: entry, key: len(s.sections[i].Keys)}
		}
	}
	return place{section: len(s.sections)}
}
