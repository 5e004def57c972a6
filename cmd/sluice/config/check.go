package config

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
)

// This file checks what the tables say of needs and ranges, and asks the sections for the rest.

// Check is what a section's check is handed. Paths are whole: "kafka.brokers", "models[0].path".
type Check struct{ l *loader }

// Mistake notes what is wrong with the value of a key, unless a mistake of the key is known already.
func (c *Check) Mistake(path, format string, args ...any) { c.l.about(path, format, args...) }

// Between notes that values which are fine alone cannot go together. It stands at the first of the paths that was given
// by somebody, and is left out where one of them has a mistake of its own.
func (c *Check) Between(paths []string, format string, args ...any) {
	at := paths[0]
	for _, p := range slices.Backward(paths) {
		if c.l.bad[p] {
			return
		}
		if c.Given(p) {
			at = p
		}
	}
	c.l.mistakes = append(c.l.mistakes, c.l.mistake(c.l.where(at), at, format, args...))
}

// Warn notes what works, but should be put right.
func (c *Check) Warn(path, format string, args ...any) {
	c.l.warnings = append(c.l.warnings, c.l.mistake(c.l.where(path), path, format, args...))
}

// Given says whether somebody has given the value of a key: it is not the default.
func (c *Check) Given(path string) bool { return !c.l.origins[path].IsDefault() }

// Env is an environment variable of the Source, or "". HOSTNAME is always there, where the machine has a name.
func (c *Check) Env(name string) string { return c.l.env[name] }

// about notes a mistake in the value of a key, unless the key has one already.
func (l *loader) about(path, format string, args ...any) {
	if !l.bad[path] {
		l.fail(l.where(path), path, format, args...)
	}
}

// where is the origin of a path, or that of the section it belongs to.
func (l *loader) where(path string) Origin {
	if o, ok := l.origins[path]; ok {
		return o
	}
	for p := path; ; {
		if o, ok := l.sections[p]; ok {
			return o
		}
		i := strings.LastIndexByte(p, '.')
		if i < 0 {
			break
		}
		p = p[:i]
	}
	return Origin{File: l.src.File}
}

func (l *loader) check() {
	for i := range l.schema.sections {
		section := &l.schema.sections[i]
		if section.On != nil && !section.On() {
			continue
		}
		v := reflect.ValueOf(section.Value).Elem()
		if l.schema.lists[section.Name] == nil {
			l.checkKeys(i, "", v)
			continue
		}
		if v.Len() == 0 && section.Need {
			l.about(section.Name, "is missing; write for example %s", section.Example)
		}
		for e := range v.Len() {
			l.checkKeys(i, fmt.Sprintf("%s[%d].", section.Name, e), v.Index(e))
		}
	}
	for i := range l.schema.sections {
		if check := l.schema.sections[i].Check; check != nil {
			check(&Check{l})
		}
	}
}

// checkKeys looks at the needs and ranges of a section's keys in one struct. prefix is that of an entry of a list.
func (l *loader) checkKeys(section int, prefix string, v reflect.Value) {
	for _, k := range l.schema.keys {
		if k.place.section != section {
			continue
		}
		path, value := k.path, v.FieldByIndex(k.index)
		if k.list {
			path = prefix + k.Name
		}
		switch given := !l.origins[path].IsDefault(); {
		case k.Need && given && isEmpty(value):
			l.about(path, "must not be empty; write for example %s", k.Example)
		case k.Need && !given && isEmpty(value):
			l.about(path, "is missing (%s); write for example %s", k.Doc, k.Example)
		default:
			if err := k.Within(value.Interface()); err != nil {
				l.about(path, "%v", err)
			}
		}
	}
}

func isEmpty(v reflect.Value) bool {
	switch v.Kind() {
	case reflect.Slice, reflect.Map, reflect.String:
		return v.Len() == 0
	}
	return v.IsZero()
}
