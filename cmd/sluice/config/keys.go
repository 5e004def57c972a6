package config

import (
	"fmt"
	"maps"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"sluice/cmd/sluice/suggest"
	"sluice/pipeline"
)

// key is one leaf of the configuration, read from the struct tags of Settings.
type Key struct {
	path    string // "kafka.session_timeout"; those of entries of a list are "models[].device"
	kind    kind
	doc     string
	example string
	choices []string // nil: any value
	need    bool
	secret  bool
	file    bool // a file name
	value   any  // the default
}

// kind is the type of a key's value.
type kind int

const (
	kindString kind = iota
	kindStrings
	kindInt
	kindFloat
	kindBool
	kindDuration
	kindBytes
	kindMap
)

func (k kind) String() string {
	return [...]string{"text", "list", "number", "fraction", "true|false", "duration", "size", "mapping"}[k]
}

// list is a section that holds a list of mappings.
type list struct {
	entry   any    // the defaults of one entry
	example string // of the whole list
}

var lists = map[string]list{
	"models": {DefaultModel(), "[{name: sentiment, path: models/sentiment}]"},
	"routes": {RouteSettings{}, "[{name: urgent, when: 'sentiment.score > 0.95', topic: urgent_alerts}]"},
}

// inList says whether a key belongs to the entries of a list.
func (k Key) inList() bool { return strings.Contains(k.path, "[].") }

// allKeys are the keys of Settings in the order of the struct.
var allKeys = func() []Key {
	var keys []Key
	collectKeys(&keys, "", reflect.ValueOf(DefaultSettings()))
	return keys
}()

func collectKeys(keys *[]Key, prefix string, v reflect.Value) {
	for i := range v.NumField() {
		f := v.Type().Field(i)
		path := prefix + f.Tag.Get("koanf")
		switch {
		case f.Type.Kind() == reflect.Slice && f.Type.Elem().Kind() == reflect.Struct:
			collectKeys(keys, path+"[].", reflect.ValueOf(lists[path].entry))
			continue
		case f.Type.Kind() == reflect.Struct:
			collectKeys(keys, path+".", v.Field(i))
			continue
		}
		k := Key{
			path: path, kind: kindOf(f.Type), doc: f.Tag.Get("doc"), example: f.Tag.Get("example"),
			need: f.Tag.Get("need") != "", secret: f.Tag.Get("secret") != "", file: f.Tag.Get("path") != "",
			value: v.Field(i).Interface(),
		}
		if c := f.Tag.Get("oneof"); c != "" {
			k.choices = strings.Split(c, ",")
		}
		*keys = append(*keys, k)
	}
}

func kindOf(t reflect.Type) kind {
	switch t {
	case reflect.TypeFor[string](), reflect.TypeFor[pipeline.Secret]():
		return kindString
	case reflect.TypeFor[[]string]():
		return kindStrings
	case reflect.TypeFor[int]():
		return kindInt
	case reflect.TypeFor[float64]():
		return kindFloat
	case reflect.TypeFor[bool]():
		return kindBool
	case reflect.TypeFor[time.Duration]():
		return kindDuration
	case reflect.TypeFor[Bytes]():
		return kindBytes
	case reflect.TypeFor[map[string]string]():
		return kindMap
	}
	panic("settings: no kind for " + t.String())
}

// Find finds the key of a path, in which entries of a list may be numbered: "models[2].device".
func Find(path string) (Key, bool) {
	generic := genericPath(path)
	for _, k := range allKeys {
		if k.path == generic {
			return k, true
		}
	}
	return Key{}, false
}

// genericPath is path without the numbers of list entries.
func genericPath(path string) string {
	open := strings.IndexByte(path, '[')
	end := strings.IndexByte(path, ']')
	if open < 0 || end < open {
		return path
	}
	return path[:open+1] + path[end:]
}

// Parse reads one value as the environment and flags give it; a list is separated by commas, a mapping is a list of
// name=value.
func (k Key) Parse(s string) (any, error) {
	if k.kind == kindStrings {
		list := []string{}
		for item := range strings.SplitSeq(s, ",") {
			if item = strings.TrimSpace(item); item != "" {
				list = append(list, item)
			}
		}
		return list, nil
	}
	if k.kind == kindMap {
		m := map[string]string{}
		for item := range strings.SplitSeq(s, ",") {
			if strings.TrimSpace(item) == "" {
				continue
			}
			name, value, ok := strings.Cut(item, "=")
			if !ok {
				return nil, fmt.Errorf("%q is not name=value; write for example %s", strings.TrimSpace(item), k.example)
			}
			m[strings.TrimSpace(name)] = strings.TrimSpace(value)
		}
		return m, nil
	}
	return k.parseScalar(s)
}

// parseScalar reads one value. The error says what to write in its place.
func (k Key) parseScalar(s string) (any, error) {
	switch k.kind {
	case kindInt:
		n, err := strconv.Atoi(s)
		if err != nil {
			return nil, fmt.Errorf("%q is not a whole number; write for example %s", s, k.example)
		}
		return n, nil
	case kindFloat:
		x, err := strconv.ParseFloat(s, 64)
		if err != nil || math.IsNaN(x) || math.IsInf(x, 0) {
			return nil, fmt.Errorf("%q is not a number; write for example %s", s, k.example)
		}
		return x, nil
	case kindBool:
		switch s {
		case "true":
			return true, nil
		case "false":
			return false, nil
		}
		return nil, fmt.Errorf("%q is neither true nor false", s)
	case kindDuration:
		d, err := time.ParseDuration(s)
		if err == nil {
			return d, nil
		}
		if _, numErr := strconv.ParseFloat(s, 64); numErr == nil {
			return nil, fmt.Errorf("%s has no unit; write for example %ss or %sms", s, s, s)
		}
		return nil, fmt.Errorf("%q is not a duration; write for example %s", s, k.example)
	case kindBytes:
		return parseBytes(s)
	}
	if k.choices != nil && s != "" && !slices.Contains(k.choices, s) {
		return nil, fmt.Errorf("%q is not one of %s%s", s, strings.Join(k.choices, ", "), suggest.DidYouMean(s, k.choices))
	}
	if k.secret {
		return pipeline.NewSecret(s), nil
	}
	return s, nil
}

// show writes a value of the key for a person; a secret is never shown.
func (k Key) show(v any) string {
	switch v := v.(type) {
	case pipeline.Secret:
		return strconv.Quote(v.String())
	case string:
		return yamlScalar(v)
	case []string:
		quoted := make([]string, len(v))
		for i, s := range v {
			quoted[i] = strconv.Quote(s)
		}
		return "[" + strings.Join(quoted, ", ") + "]"
	case map[string]string:
		pairs := make([]string, 0, len(v))
		for _, name := range slices.Sorted(maps.Keys(v)) {
			pairs = append(pairs, yamlScalar(name)+": "+strconv.Quote(v[name]))
		}
		return "{" + strings.Join(pairs, ", ") + "}"
	case time.Duration:
		return shortDuration(v)
	}
	return fmt.Sprint(v)
}

// yamlScalar quotes s where YAML would read something else than the text s.
func yamlScalar(s string) string {
	plain := s != ""
	for i, r := range s {
		ok := r == '_' || r == '/' || r == '.' || r == '-' && i > 0 || r >= '0' && r <= '9' && i > 0 || r >= 'a' &&
			r <= 'z' || r >= 'A' && r <= 'Z'
		plain = plain && ok
	}
	switch strings.ToLower(s) {
	case "true", "false", "null", "yes", "no", "on", "off", "y", "n", ".", ".inf", ".nan":
		plain = false
	}
	if plain {
		return s
	}
	return strconv.Quote(s)
}

// shortDuration is d as a person writes it: 2m, not 2m0s.
func shortDuration(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// EnvName is the environment variable of a key: SLUICE_KAFKA__SESSION_TIMEOUT, SLUICE_MODELS__0__DEVICE.
func EnvName(path string) string {
	r := strings.NewReplacer("[].", "__0__", "[", "__", "].", "__", ".", "__")
	return EnvPrefix + strings.ToUpper(r.Replace(path))
}
