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

// This file owns the kinds of values: how each is read, and how it is shown to a person.

// kind is the type of a key's value.
type kind int

// The kinds of values, and the Go types of their fields.
const (
	kindText     kind = iota // string, pipeline.Secret
	kindList                 // []string
	kindNumber               // int
	kindFraction             // float64
	kindSwitch               // bool
	kindDuration             // time.Duration
	kindSize                 // Bytes
	kindMapping              // map[string]string
)

// String is the kind as help shows it.
func (k kind) String() string {
	return [...]string{"text", "list", "number", "fraction", "true|false", "duration", "size", "mapping"}[k]
}

var kinds = map[reflect.Type]kind{
	reflect.TypeFor[string]():            kindText,
	reflect.TypeFor[pipeline.Secret]():   kindText,
	reflect.TypeFor[[]string]():          kindList,
	reflect.TypeFor[int]():               kindNumber,
	reflect.TypeFor[float64]():           kindFraction,
	reflect.TypeFor[bool]():              kindSwitch,
	reflect.TypeFor[time.Duration]():     kindDuration,
	reflect.TypeFor[Bytes]():             kindSize,
	reflect.TypeFor[map[string]string](): kindMapping,
}

func kindOf(t reflect.Type) (kind, bool) {
	k, ok := kinds[t]
	return k, ok
}

// Parse reads one value as the environment and flags give it; a list is separated by commas, a mapping is a list of
// name=value. The error says what to write in its place. Ranges are not looked at: see Within.
func (k Key) Parse(s string) (any, error) {
	switch k.kind {
	case kindList:
		list := []string{}
		for item := range strings.SplitSeq(s, ",") {
			if item = strings.TrimSpace(item); item != "" {
				list = append(list, item)
			}
		}
		return list, nil
	case kindMapping:
		m := map[string]string{}
		for item := range strings.SplitSeq(s, ",") {
			if strings.TrimSpace(item) == "" {
				continue
			}
			name, value, ok := strings.Cut(item, "=")
			if !ok {
				return nil, fmt.Errorf("%q is not name=value; write for example %s", strings.TrimSpace(item), k.Example)
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
	case kindNumber:
		n, err := strconv.Atoi(s)
		if err != nil {
			return nil, fmt.Errorf("%q is not a whole number; write for example %s", s, k.Example)
		}
		return n, nil
	case kindFraction:
		x, err := strconv.ParseFloat(s, 64)
		if err != nil || math.IsNaN(x) || math.IsInf(x, 0) {
			return nil, fmt.Errorf("%q is not a number; write for example %s", s, k.Example)
		}
		return x, nil
	case kindSwitch:
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
		return nil, fmt.Errorf("%q is not a duration; write for example %s", s, k.Example)
	case kindSize:
		return ParseBytes(s)
	}
	if k.OneOf != nil && s != "" && !slices.Contains(k.OneOf, s) {
		return nil, fmt.Errorf("%q is not one of %s%s", s, strings.Join(k.OneOf, ", "), suggest.DidYouMean(s, k.OneOf))
	}
	if k.Secret {
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
		return ShortDuration(v)
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

// ShortDuration is d as a person writes it: 2m, not 2m0s.
func ShortDuration(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// Bytes is a number of bytes, written as 1048576, 1024KiB, 1MiB or 1MB.
type Bytes int64

var byteUnits = []struct {
	suffix string
	size   int64
}{ // longest suffix first
	{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"TiB", 1 << 40},
	{"kB", 1e3}, {"KB", 1e3}, {"MB", 1e6}, {"GB", 1e9}, {"TB", 1e12},
	{"B", 1},
}

// ParseBytes reads a size. The error says how to write one.
func ParseBytes(s string) (Bytes, error) {
	number, unit := strings.TrimSpace(s), int64(1)
	for _, u := range byteUnits {
		if rest, ok := strings.CutSuffix(number, u.suffix); ok {
			number, unit = strings.TrimSpace(rest), u.size
			break
		}
	}
	n, err := strconv.ParseInt(number, 10, 64)
	if err != nil || n < 0 || n > math.MaxInt64/unit {
		return 0, fmt.Errorf("%q is not a size; write for example 65536, 64KiB or 1MiB", s)
	}
	return Bytes(n * unit), nil
}

// String is b in the largest unit that divides it.
func (b Bytes) String() string {
	for _, u := range []int{3, 2, 1, 0} {
		if size := byteUnits[u].size; int64(b) >= size && int64(b)%size == 0 {
			return strconv.FormatInt(int64(b)/size, 10) + byteUnits[u].suffix
		}
	}
	return strconv.FormatInt(int64(b), 10) + "B"
}
