// Package config reads, checks and prints a configuration that is made of sections.
//
// It knows layers, kinds of values, and how to say what is wrong. It knows no section: each room hands in its own, with
// the table of its keys, its defaults and its checks.
//
// A value comes from the highest layer that has one: flags win over the environment, the environment over the file, and
// the file over the defaults. Each value keeps its Origin. Load names every mistake at once, in the order of the file,
// then of the environment, then of the flags; mistakes at one place stand in the order of the tables.
package config

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
)

// This file owns sections and the tables of keys that they are made of.

// EnvPrefix begins the names of all environment variables that are ours.
const EnvPrefix = "SLUICE_"

// Section is a part of the configuration that a room hands in.
type Section struct {
	Name string // a word, such as escalation. "": the keys stand at the top level, beside the sections

	// Value is a pointer to a struct, which holds the defaults until Load has filled it in. Its fields are the keys:
	// the tag `key:"session_timeout"` gives the name, a struct within it is a section within the section.
	//
	// A pointer to a slice of structs makes the section a list of mappings, which is empty by default.
	Value any
	Entry any // of a list: a struct with the defaults of one entry

	Keys []Key // one for each field of Value, or of Entry, in its order

	Example string // of a list: how it may look in the file, on one line
	Need    bool   // of a list: it must have an entry

	// On says, once the values are known, whether the section has an effect. While it has none, keys that are needed
	// may be missing, and ranges are not looked at. nil: it always has one.
	On func() bool

	// Idle says that a key has no effect beside the values of others, so that its default is not printed. entry counts
	// the entries of a list. nil: none is.
	Idle func(entry int, name string) bool

	// Check reports what is wrong with the values, alone and together. It is called once, after every section has its
	// values, so it may look at those of other sections too. nil: kinds, needs and ranges are all there is to check.
	Check func(*Check)
}

// Key is what there is to know about one key, beside the type and the default, which are those of its field.
type Key struct {
	Name    string   // within the section, with dots between levels: "tls.cert_file"
	Doc     string   // one line for a person
	Example string   // a value worth copying
	OneOf   []string // the only values there are; nil: any
	Need    bool     // there is no default: it must be given, if its section is on
	Secret  bool     // never printed; it comes from the environment only
	File    File     // whether it names a file
	Range   Range    // of numbers, durations and sizes

	path  string // with the section: "kafka.tls.cert_file"; those of entries of a list are "models[].device"
	kind  kind
	index []int // of the field, in the struct of the section
	value any   // the default
	bound bounds
	place place // in the tables
	list  bool  // a key of the entries of a list
	off   bool  // its section may be off
}

// File says whether the value of a key names a file.
type File int

// Relative names in the configuration file are relative to that file.
const (
	NoFile        File = iota
	FileName           // the name of a file or directory
	FileNameOrURI      // that, or a URI such as hf:OWNER/NAME, which is left as it is
)

// Path is the key's name with that of its section: "kafka.session_timeout". Those of entries of lists have no number:
// "models[].device".
func (k Key) Path() string { return k.path }

// place is where a key stands in the tables: mistakes without a line are told in this order.
type place struct{ section, entry, key int }

// Schema is the sections of a configuration with all their keys.
type Schema struct {
	sections []Section
	lists    map[string]*Section
	keys     []Key
	byPath   map[string]int
}

// New puts sections together, in the order in which help shows them. It panics where a table and its struct differ, or
// where a row of a table contradicts itself: these are mistakes of the program.
func New(sections ...Section) *Schema {
	s := &Schema{sections: sections, lists: map[string]*Section{}, byPath: map[string]int{}}
	for i := range sections {
		if err := s.add(i); err != nil {
			panic(fmt.Sprintf("configuration section %q: %v", sections[i].Name, err))
		}
	}
	return s
}

func (s *Schema) add(at int) error {
	section := &s.sections[at]
	if strings.ContainsAny(section.Name, ".[]") {
		return fmt.Errorf("the name of a section is one word")
	}
	v, prefix := reflect.ValueOf(section.Value).Elem(), ""
	list := v.Kind() == reflect.Slice
	switch {
	case list:
		if section.Example == "" || reflect.TypeOf(section.Entry) != v.Type().Elem() {
			return fmt.Errorf("a list has an Example, and an Entry of its own type")
		}
		v, prefix = reflect.ValueOf(section.Entry), section.Name+"[]."
		s.lists[section.Name] = section
	case section.Name != "":
		prefix = section.Name + "."
	}
	fields := fieldsOf(v)
	if err := sameNames(fields, section.Keys); err != nil {
		return err
	}
	for i, k := range section.Keys {
		f := fields[i]
		k.path, k.index, k.value, k.list, k.off = prefix+k.Name, f.index, f.value, list, section.On != nil
		k.place = place{section: at, key: i}
		var ok bool
		if k.kind, ok = kindOf(reflect.TypeOf(f.value)); !ok {
			return fmt.Errorf("%s: there is no kind for %T", k.Name, f.value)
		}
		if err := k.resolve(); err != nil {
			return fmt.Errorf("%s: %w", k.Name, err)
		}
		if _, twice := s.byPath[k.path]; twice {
			return fmt.Errorf("%s is there already", k.path)
		}
		s.byPath[k.path] = len(s.keys)
		s.keys = append(s.keys, k)
	}
	return nil
}

// resolve checks a row and reads its bounds.
func (k *Key) resolve() (err error) {
	if k.Doc == "" || k.Example == "" {
		return fmt.Errorf("a key has a Doc and an Example")
	}
	if _, err := k.Parse(k.Example); err != nil {
		return fmt.Errorf("the example is no value: %w", err)
	}
	k.bound, err = k.Range.resolve(k)
	return err
}

// field is one field of a section's struct.
type field struct {
	name  string
	index []int
	value any
}

// fieldsOf are the fields that are keys, those of structs within included, in their order.
func fieldsOf(v reflect.Value) []field {
	var fields []field
	for i := range v.NumField() {
		name := v.Type().Field(i).Tag.Get("key")
		if v.Field(i).Kind() != reflect.Struct {
			fields = append(fields, field{name, []int{i}, v.Field(i).Interface()})
			continue
		}
		for _, f := range fieldsOf(v.Field(i)) {
			fields = append(fields, field{name + "." + f.name, append([]int{i}, f.index...), f.value})
		}
	}
	return fields
}

// sameNames compares the fields of a struct with the rows of its table.
func sameNames(fields []field, keys []Key) error {
	var have, want []string
	for _, k := range keys {
		have = append(have, k.Name)
	}
	for _, f := range fields {
		want = append(want, f.name)
	}
	if slices.Equal(have, want) {
		return nil
	}
	for _, name := range want {
		if !slices.Contains(have, name) {
			return fmt.Errorf("the field with the tag %q has no row in the table", name)
		}
	}
	for _, name := range have {
		if !slices.Contains(want, name) {
			return fmt.Errorf("the row %q has no field", name)
		}
	}
	return fmt.Errorf("the table has another order than the struct")
}

// Find finds the key of a path, in which entries of a list may be numbered: "models[2].device".
func (s *Schema) Find(path string) (Key, bool) {
	i, ok := s.byPath[genericPath(path)]
	if !ok {
		return Key{}, false
	}
	return s.keys[i], true
}

// Keys are the keys of all sections, in the order of the tables.
func (s *Schema) Keys() []Key { return slices.Clone(s.keys) }

// genericPath is path without the numbers of list entries.
func genericPath(path string) string {
	open := strings.IndexByte(path, '[')
	end := strings.IndexByte(path, ']')
	if open < 0 || end < open {
		return path
	}
	return path[:open+1] + path[end:]
}

// isSection says whether path is the beginning of keys.
func (s *Schema) isSection(path string) bool { return len(s.childrenOf(path)) > 0 }

// childrenOf are the names under a section, in the order of the tables; "" is the root.
func (s *Schema) childrenOf(section string) []string {
	if section != "" {
		section = genericPath(section) + "."
	}
	var names []string
	for _, k := range s.keys {
		if rest, ok := strings.CutPrefix(k.path, section); ok {
			name, _, _ := strings.Cut(rest, ".")
			name = strings.TrimSuffix(name, "[]")
			if !slices.Contains(names, name) {
				names = append(names, name)
			}
		}
	}
	return names
}

// EnvName is the environment variable of a key: SLUICE_KAFKA__SESSION_TIMEOUT, SLUICE_MODELS__0__DEVICE.
func EnvName(path string) string {
	r := strings.NewReplacer("[].", "__0__", "[", "__", "].", "__", ".", "__")
	return EnvPrefix + strings.ToUpper(r.Replace(path))
}
