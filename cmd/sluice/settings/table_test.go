package settings_test

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"sluice/cmd/sluice/config"
	"sluice/cmd/sluice/settings"
)

// full is a configuration without mistakes in which every section has an effect.
const full = minimal + `skip: [{name: deletes, when: 'bytes == 0'}]
routes: [{name: urgent, when: 'true', topic: urgent_alerts}]
escalation:
  when: 'true'
  topic: escalations
  endpoint: {urls: ["http://llm/v1"], model: m}
`

// numbered is the path of a key, in the first entry if it is one of a list.
func numbered(k config.Key) string { return strings.Replace(k.Path(), "[]", "[0]", 1) }

// said is what is said about a path.
func said(t *testing.T, err error, path string) []string {
	t.Helper()
	if err == nil {
		return nil
	}
	var found *config.Mistakes
	if !errors.As(err, &found) {
		t.Fatalf("the error is a %T: %v", err, err)
	}
	var texts []string
	for _, m := range found.List {
		if m.Path == path {
			texts = append(texts, m.Text)
		}
	}
	return texts
}

func TestEveryNeededKeyIsMissed(t *testing.T) {
	if _, err := load(t, full, nil); err != nil {
		t.Fatal(err)
	}
	needed := 0
	for _, k := range settings.Keys().Keys() {
		if !k.Need {
			continue
		}
		needed++
		for _, tc := range []struct {
			edit func(section map[string]any, name string)
			says string
		}{
			{func(m map[string]any, name string) { delete(m, name) }, "is missing (" + k.Doc + "); write for example " +
				k.Example},
			{func(m map[string]any, name string) { m[name] = empty(m[name]) }, "must not be empty; write for example " +
				k.Example},
		} {
			_, err := load(t, edited(t, full, k.Path(), tc.edit), nil)
			if got := said(t, err, numbered(k)); len(got) != 1 || got[0] != tc.says {
				t.Errorf("%s: said is %q, want %q", k.Path(), got, tc.says)
			}
		}
	}
	if needed < 12 {
		t.Errorf("only %d keys are needed", needed)
	}
}

func TestKeysOfASectionThatIsOffAreNotMissed(t *testing.T) {
	_, err := load(t, minimal+"escalation: {budget: {calls_per_day: -1}}\n", nil)
	if got := mistakes(t, err); len(got) != 1 || !strings.Contains(got[0], "has no effect without escalation.when") {
		t.Errorf("%q", got)
	}
}

func empty(v any) any {
	if _, list := v.([]any); list {
		return []any{}
	}
	return ""
}

// edited is a configuration in which one key is changed.
func edited(t *testing.T, text, path string, edit func(section map[string]any, name string)) string {
	t.Helper()
	var tree map[string]any
	if err := yaml.Unmarshal([]byte(text), &tree); err != nil {
		t.Fatal(err)
	}
	at, parts := tree, strings.Split(path, ".")
	for _, p := range parts[:len(parts)-1] {
		if name, list := strings.CutSuffix(p, "[]"); list {
			at = at[name].([]any)[0].(map[string]any)
		} else {
			at = at[p].(map[string]any)
		}
	}
	edit(at, parts[len(parts)-1])
	out, err := yaml.Marshal(tree)
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

// Bounds are accepted, values beside them are refused, for every key whose table has a range.
func TestEveryRangeHolds(t *testing.T) {
	ranges := 0
	for _, k := range settings.Keys().Keys() {
		if k.Range == (config.Range{}) {
			continue
		}
		ranges++
		r := k.Range
		for _, tc := range []struct {
			bound   string
			step    int  // towards what is refused
			allowed bool // the bound itself
		}{{r.Least, -1, true}, {r.Above, -1, false}, {r.Most, 1, true}, {r.Below, 1, false}} {
			if tc.bound == "" {
				continue
			}
			bound, err := k.Parse(tc.bound)
			if err != nil {
				t.Fatalf("%s: %v", k.Path(), err)
			}
			inside, outside := bound, beside(bound, tc.step)
			if !tc.allowed {
				inside, outside = beside(bound, -tc.step), bound
			}
			if err := k.Within(inside); err != nil {
				t.Errorf("%s: %v is refused: %v", k.Path(), inside, err)
			}
			if says := tells(t, k, inside); says != "" {
				t.Errorf("%s: %v is refused: %s", k.Path(), inside, says)
			}
			if r.Zero != "" {
				if says := tells(t, k, zero(bound)); says != "" {
					t.Errorf("%s: 0 is refused: %s", k.Path(), says)
				}
			}
			if r.Zero != "" && outside == zero(bound) {
				outside = beside(outside, tc.step)
			}
			if k.Within(outside) == nil || tells(t, k, outside) != k.Within(outside).Error() {
				t.Errorf("%s: %v is not refused, or not by its range: %q", k.Path(), outside, tells(t, k, outside))
			}
		}
	}
	if ranges < 30 {
		t.Errorf("only %d keys have a range", ranges)
	}
}

// tells gives the value to the worker and returns what is said of its range.
func tells(t *testing.T, k config.Key, value any) string {
	t.Helper()
	_, err := load(t, full, []string{config.EnvName(numbered(k)) + "=" + written(value)})
	for _, text := range said(t, err, numbered(k)) {
		if w := k.Within(value); w != nil && text == w.Error() || strings.Contains(text, "out of range") {
			return text
		}
		if strings.Contains(text, "is not a") { // a size cannot even be written with a minus
			return fmt.Sprint(k.Within(value))
		}
	}
	return ""
}

func beside(v any, step int) any {
	switch v := v.(type) {
	case int:
		return v + step
	case float64:
		return math.Nextafter(v, v+float64(step))
	case time.Duration:
		return v + time.Duration(step)
	case config.Bytes:
		return v + config.Bytes(step)
	}
	panic(fmt.Sprintf("a range of %T", v))
}

func zero(v any) any {
	switch v.(type) {
	case int:
		return 0
	case float64:
		return 0.0
	case time.Duration:
		return time.Duration(0)
	}
	return config.Bytes(0)
}

func written(v any) string {
	switch v := v.(type) {
	case float64:
		return strconv.FormatFloat(v, 'g', -1, 64)
	case config.Bytes:
		return strconv.FormatInt(int64(v), 10)
	}
	return fmt.Sprint(v)
}
