package config

import (
	"fmt"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/pflag"

	"sluice/cmd/sluice/suggest"
)

// This file owns the environment and the flags.

// serviceEnv are variables under our prefix that are not meant for us: Kubernetes puts SLUICE_SERVICE_HOST, SLUICE_PORT
// and the like into every pod beside a service named sluice.
var serviceEnv = regexp.MustCompile(`^SLUICE_(SERVICE_(HOST|PORT.*)|PORT(_\d+_.*)?)$`)

// IsKeyEnv says whether an environment variable is read as a configuration key; those of commands are not.
func IsKeyEnv(name string, commands map[string]bool) bool {
	return strings.HasPrefix(name, EnvPrefix) && !commands[name] && !serviceEnv.MatchString(name)
}

// AnyKeyGiven says whether the environment or the flags give any configuration key.
func (src Source) AnyKeyGiven() bool {
	given := slices.ContainsFunc(src.Environ, func(e string) bool {
		name, _, _ := strings.Cut(e, "=")
		return IsKeyEnv(name, src.Commands)
	})
	src.Flags.Visit(func(f *pflag.Flag) {
		_, isKey := f.Value.(*keyFlag)
		given = given || isKey
	})
	return given
}

func (l *loader) readEnv() {
	names := make([]string, 0, len(l.env))
	for name := range l.env {
		if IsKeyEnv(name, l.src.Commands) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	for _, name := range names {
		at := Origin{Env: name}
		path, list, i := l.schema.pathOf(name)
		if n := l.entries[list]; list != "" && i > n {
			l.fail(at, path, "there are %d %s; the next has the number %d", n, list, n)
			continue
		}
		k, isKey := l.schema.Find(path)
		if !isKey {
			l.fail(at, path, "unknown key%s (every %s* variable is read as configuration)", l.suggestEnv(name),
				EnvPrefix)
			continue
		}
		if list != "" {
			l.entries[list] = max(l.entries[list], i+1)
		}
		l.text(&l.environ, k, path, l.env[name], at)
	}
}

var entryNumber = regexp.MustCompile(`^([^.]+)\.(\d+)\.(.+)$`)

// pathOf is the path that a variable stands for. Of an entry of a list it says which: SLUICE_MODELS__0__PATH is
// models[0].path.
func (s *Schema) pathOf(env string) (path, list string, entry int) {
	path = strings.ToLower(strings.ReplaceAll(strings.TrimPrefix(env, EnvPrefix), "__", "."))
	m := entryNumber.FindStringSubmatch(path)
	if m == nil || s.lists[m[1]] == nil {
		return path, "", 0
	}
	entry, err := strconv.Atoi(m[2])
	if err != nil {
		return m[1] + "[" + m[2] + "]." + m[3], m[1], math.MaxInt // more digits than any number has
	}
	return fmt.Sprintf("%s[%d].%s", m[1], entry, m[3]), m[1], entry // without zeros before the number
}

func (l *loader) text(to *layer, k Key, path, s string, at Origin) {
	v, err := k.Parse(s)
	if err != nil {
		l.fail(at, path, "%v", err)
		return
	}
	delete(l.bad, path) // what the file said about it does not count any more, but stays reported
	l.set(to, path, v, at)
}

// keyFlag is a flag that stands for a configuration key; its value is read together with the rest of the configuration.
type keyFlag struct {
	key   Key
	value string
}

func (f *keyFlag) String() string     { return f.value }
func (f *keyFlag) Set(s string) error { f.value = s; return nil }
func (f *keyFlag) Type() string       { return f.key.kind.String() }

// IsKeyFlag says whether a flag stands for a configuration key.
func IsKeyFlag(f *pflag.Flag) bool {
	_, is := f.Value.(*keyFlag)
	return is
}

// AddFlags gives a command one flag for every key outside lists, named as the key. Secrets have none: arguments are
// seen by every user of the machine.
func (s *Schema) AddFlags(fs *pflag.FlagSet) {
	for _, k := range s.keys {
		if k.list || k.Secret {
			continue
		}
		f := fs.VarPF(&keyFlag{key: k}, k.path, "", k.Doc)
		if k.kind == kindSwitch {
			f.NoOptDefVal = "true"
		}
	}
}

func (l *loader) readFlags() {
	if l.src.Flags == nil {
		return
	}
	l.src.Flags.Visit(func(f *pflag.Flag) {
		if kf, ok := f.Value.(*keyFlag); ok {
			l.text(&l.flags, kf.key, kf.key.path, kf.value, Origin{Flag: f.Name})
		}
	})
}

func (l *loader) suggestEnv(name string) string {
	var names []string
	for _, k := range l.schema.keys {
		names = append(names, EnvName(k.path))
	}
	for n := range l.src.Commands {
		names = append(names, n)
	}
	slices.Sort(names)
	// One underscore where two belong is the slip that everybody makes.
	flat := strings.ReplaceAll(name, "_", "")
	for _, n := range names {
		if strings.ReplaceAll(n, "_", "") == flat {
			return "; did you mean " + n + "?"
		}
	}
	return suggest.DidYouMean(name, names)
}
