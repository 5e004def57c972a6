package config

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"reflect"
	"strings"

	"github.com/knadh/koanf/v2"
	"github.com/spf13/pflag"
)

// This file puts the layers together: defaults, then the file, then the environment, then flags.

// maxConfigBytes bounds the configuration file; a long one has a few thousand.
const maxConfigBytes = 1 << 20

// Source is where Load reads from.
type Source struct {
	File     string          // name of the YAML file; "" for none
	Environ  []string        // as os.Environ
	Flags    *pflag.FlagSet  // flags made by AddFlags; nil for none
	Hostname string          // what ${HOSTNAME} means where the environment does not say
	Commands map[string]bool // variables under EnvPrefix that are no keys: those of the commands' flags
}

// Loaded is a configuration without mistakes. Its values are where the sections' Values point to.
type Loaded struct {
	File     string    // as the Source named it
	Warnings []Mistake // what works, but should be put right

	schema  *Schema
	origins map[string]Origin
}

// Origin says where the value of a path came from.
func (c *Loaded) Origin(path string) Origin { return c.origins[path] }

// Load reads and checks the configuration, and sets the values of the sections. The error is a *Mistakes that names
// every mistake at once, or says why the file could not be read. A Schema loads once.
func (s *Schema) Load(src Source) (*Loaded, error) {
	if src.File == "" {
		return s.Parse(nil, src)
	}
	text, err := ReadFile(src.File, maxConfigBytes)
	if err != nil {
		if path := (*fs.PathError)(nil); errors.As(err, &path) {
			err = path.Err // the file's name stands before the sentence
		}
		return nil, &Mistakes{[]Mistake{{At: Origin{File: src.File},
			Text: fmt.Sprintf("cannot read the configuration: %v", err)}}}
	}
	return s.Parse(text, src)
}

// Parse is Load for a configuration file whose text is at hand. Its name stands in mistakes, and relative file names
// are relative to it.
func (s *Schema) Parse(text []byte, src Source) (*Loaded, error) {
	l := &loader{schema: s, src: src, env: envOf(src), entries: map[string]int{}, origins: map[string]Origin{},
		sections: map[string]Origin{}, bad: map[string]bool{}}
	if err := l.readYAML(text); err != nil {
		return nil, err
	}
	l.readEnv()
	l.readFlags()
	if err := l.merge(); err != nil {
		return nil, err
	}
	l.check()
	sortMistakes(l.mistakes)
	sortMistakes(l.warnings)
	if len(l.mistakes) > 0 {
		return nil, &Mistakes{l.mistakes}
	}
	return &Loaded{File: src.File, schema: s, origins: l.origins, Warnings: l.warnings}, nil
}

// loader is what is known while a configuration is read.
type loader struct {
	schema   *Schema
	src      Source
	env      map[string]string
	file     layer
	environ  layer
	flags    layer
	given    *koanf.Koanf      // the layers put together
	entries  map[string]int    // how many entries each list has
	origins  map[string]Origin // where each given value came from
	sections map[string]Origin // where each section of the file stands
	bad      map[string]bool   // paths with a mistake: no second complaint about them
	mistakes []Mistake
	warnings []Mistake

	sectionsRead int
}

// layer is what one source says: values by path.
type layer map[string]any

func (l *loader) set(to *layer, path string, value any, at Origin) {
	if *to == nil {
		*to = layer{}
	}
	(*to)[path] = value
	l.origins[path] = at
}

// fail notes a mistake at a place.
func (l *loader) fail(at Origin, path, format string, args ...any) {
	l.bad[path] = true
	l.mistakes = append(l.mistakes, l.mistake(at, path, format, args...))
}

func (l *loader) mistake(at Origin, path, format string, args ...any) Mistake {
	return Mistake{At: at, Path: path, Text: fmt.Sprintf(format, args...), place: l.schema.placeOf(path)}
}

// Read gives koanf the layer.
func (y layer) Read() (map[string]any, error) { return y, nil }

// ReadBytes completes koanf.Provider.
func (y layer) ReadBytes() ([]byte, error) { return nil, errors.New("a layer has values, not bytes") }

// merge sets every value that was given, each as the highest layer has it.
func (l *loader) merge() error {
	l.given = koanf.New("\x00") // paths are whole: no path holds that
	for _, y := range []layer{l.file, l.environ, l.flags} {
		if err := l.given.Load(y, nil); err != nil {
			return fmt.Errorf("configuration: %w", err)
		}
	}
	for i := range l.schema.sections {
		section := &l.schema.sections[i]
		v := reflect.ValueOf(section.Value).Elem()
		n := l.entries[section.Name]
		switch {
		case l.schema.lists[section.Name] == nil:
			l.fill(i, "", v)
		case n > 0: // otherwise it stays as it is by default: nil
			v.Set(reflect.MakeSlice(v.Type(), n, n))
			for e := range n {
				v.Index(e).Set(reflect.ValueOf(section.Entry))
				l.fill(i, fmt.Sprintf("%s[%d].", section.Name, e), v.Index(e))
			}
		}
	}
	return nil
}

// fill sets the keys of a section in one struct. prefix is that of an entry of a list.
func (l *loader) fill(section int, prefix string, v reflect.Value) {
	for _, k := range l.schema.keys {
		if k.place.section != section {
			continue
		}
		path := k.path
		if k.list {
			path = prefix + k.Name
		}
		if l.given.Exists(path) {
			v.FieldByIndex(k.index).Set(reflect.ValueOf(l.given.Get(path)))
		}
	}
}

func envOf(src Source) map[string]string {
	env := map[string]string{}
	for _, e := range src.Environ {
		name, value, _ := strings.Cut(e, "=")
		env[name] = value
	}
	if _, ok := env["HOSTNAME"]; !ok && src.Hostname != "" {
		env["HOSTNAME"] = src.Hostname // a shell keeps it to itself
	}
	return env
}

// ReadFile reads a whole file that must not have more than most bytes.
func ReadFile(name string, most Bytes) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, int64(most)+1))
	if err == nil && len(text) > int(most) {
		err = fmt.Errorf("%s has more than %s: is it the right file?", name, most)
	}
	return text, err
}
