package config_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"

	"sluice/cmd/sluice/config"
)

// Window is the configuration of a kind of stage that package config knows nothing of: labels counted over time.
type Window struct {
	Topic  string        `key:"topic"`
	Length time.Duration `key:"length"`
	Late   Late          `key:"late"`
}

type Late struct {
	Most   int    `key:"most"`
	Policy string `key:"policy"`
	Report string `key:"report"`
}

var windowKeys = []config.Key{
	{Name: "topic", Example: "label_counts", Need: true, Doc: "topic for the counts"},
	{Name: "length", Example: "1m", Range: config.Range{Least: "1s", Most: "24h"}, Doc: "how long a window is"},
	{Name: "late.most", Example: "100", Range: config.Range{Least: "0"}, Doc: "most late records in a window"},
	{Name: "late.policy", Example: "drop", OneOf: []string{"drop", "count"}, Doc: "what becomes of late records"},
	{Name: "late.report", Example: "late.txt", File: config.FileNameOrURI, Doc: "where late records are listed"},
}

// Group is an entry of a list that the stage brings too.
type Group struct {
	Name   string   `key:"name"`
	Labels []string `key:"labels"`
}

var groupKeys = []config.Key{
	{Name: "name", Example: "bad", Need: true, Doc: "name of the group"},
	{Name: "labels", Example: "NEGATIVE,ANGRY", Doc: "labels that are counted together"},
}

// toy is the settings of the stage, with its sections.
type toy struct {
	window Window
	groups []Group
}

func (s *toy) sections() []config.Section {
	s.window = Window{Length: time.Minute, Late: Late{Policy: "drop"}}
	return []config.Section{
		{Name: "window", Value: &s.window, Keys: windowKeys, Check: func(c *config.Check) {
			if s.window.Topic != "" && s.window.Topic == s.window.Late.Report {
				c.Between([]string{"window.late.report", "window.topic"}, "%q is also the topic", s.window.Topic)
			}
			if strings.Contains(s.window.Topic, " ") {
				c.Mistake("window.topic", "%q has a blank in it", s.window.Topic)
			}
		}},
		{Name: "groups", Value: &s.groups, Entry: Group{}, Keys: groupKeys, Example: "[{name: bad}]"},
	}
}

func (s *toy) parse(t *testing.T, yaml string, environ []string, args ...string) (*config.Loaded, error) {
	t.Helper()
	schema := config.New(s.sections()...)
	fs := pflag.NewFlagSet("test", pflag.ContinueOnError)
	schema.AddFlags(fs)
	if err := fs.Parse(args); err != nil {
		t.Fatal(err)
	}
	return schema.Parse([]byte(yaml), config.Source{File: "/etc/sluice/c.yaml", Environ: environ, Flags: fs,
		Hostname: "pod-0"})
}

func TestASectionOfAnotherRoomIsReadFromEveryLayer(t *testing.T) {
	var s toy
	c, err := s.parse(t, "window: {topic: counts, length: 2m, late: {report: late.txt}}\ngroups: [{name: a}]\n",
		[]string{"SLUICE_WINDOW__LATE__MOST=7", "SLUICE_WINDOW__LENGTH=3m", "SLUICE_GROUPS__0__LABELS=X, Y",
			"SLUICE_GROUPS__01__NAME=b"}, "--window.length=4m")
	if err != nil {
		t.Fatal(err)
	}
	want := toy{Window{"counts", 4 * time.Minute, Late{7, "drop", "/etc/sluice/late.txt"}},
		[]Group{{"a", []string{"X", "Y"}}, {Name: "b"}}}
	if d := cmp.Diff(want, s, cmp.AllowUnexported(toy{})); d != "" {
		t.Error(d)
	}
	for path, want := range map[string]string{
		"window.topic": "/etc/sluice/c.yaml:1", "window.length": "--window.length",
		"window.late.most": "SLUICE_WINDOW__LATE__MOST", "window.late.policy": "default",
		"groups[0].name": "/etc/sluice/c.yaml:2", "groups[1].name": "SLUICE_GROUPS__01__NAME",
	} {
		if got := c.Origin(path).String(); got != want {
			t.Errorf("origin of %s: %s, want %s", path, got, want)
		}
	}
	var out strings.Builder
	c.Print(&out)
	if d := cmp.Diff(`window:
  topic: counts                   # /etc/sluice/c.yaml:1
  length: 4m                      # --window.length
  late:
    most: 7                       # SLUICE_WINDOW__LATE__MOST
    policy: drop                  # default
    report: /etc/sluice/late.txt  # /etc/sluice/c.yaml:1
groups:
  - name: a                       # /etc/sluice/c.yaml:2
    labels: ["X", "Y"]            # SLUICE_GROUPS__0__LABELS
  - name: b                       # SLUICE_GROUPS__01__NAME
`, out.String()); d != "" {
		t.Error(d)
	}
}

func TestMistakesInASectionOfAnotherRoomAreNamed(t *testing.T) {
	var s toy
	_, err := s.parse(t, `window:
  topic: "a b"
  lenght: 1m
  length: 1ms
  late: {report: mlflow:x, most: -1}
groups: [{labels: [x]}]
`, []string{"SLUICE_GROUPS__2__NAME=c", "SLUICE_WINDOW_TOPIC=x"}, "--window.late.policy=keep")
	var found *config.Mistakes
	if !errors.As(err, &found) {
		t.Fatalf("the error is a %T: %v", err, err)
	}
	if d := cmp.Diff(`/etc/sluice/c.yaml:2: window.topic: "a b" has a blank in it
/etc/sluice/c.yaml:3: window.lenght: unknown key; did you mean window.length?
/etc/sluice/c.yaml:4: window.length: 1ms is out of range; between 1s and 24h
/etc/sluice/c.yaml:5: window.late.most: must not be negative
/etc/sluice/c.yaml:6: groups[0].name: is missing (name of the group); write for example bad
SLUICE_GROUPS__2__NAME: groups[2].name: there are 1 groups; the next has the number 1
SLUICE_WINDOW_TOPIC: window_topic: unknown key; did you mean SLUICE_WINDOW__TOPIC? (every SLUICE_* variable is read as configuration)
--window.late.policy: window.late.policy: "keep" is not one of drop, count`, err.Error()); d != "" {
		t.Error(d)
	}
}

func TestAListIsNoConfiguration(t *testing.T) {
	var empty struct{}
	for want, sections := range map[string][]config.Section{
		"(window: ..., groups: ...)": new(toy).sections(), "(window: ...)": new(toy).sections()[:1],
		"(: ...)": {{Value: &empty}},
	} {
		_, err := config.New(sections...).Parse([]byte("- x\n"), config.Source{File: "c.yaml"})
		if err == nil || !strings.HasSuffix(err.Error(), "c.yaml:1: the configuration must be a mapping "+want+
			", not a list") {
			t.Errorf("%s: %v", want, err)
		}
	}
}

func TestHelpNamesTheKeysOfASectionOfAnotherRoom(t *testing.T) {
	var s toy
	var out strings.Builder
	config.New(s.sections()...).WriteKeys(&out)
	for _, want := range []string{"\nwindow\n  --window.topic text\n      topic for the counts\n" +
		"      env SLUICE_WINDOW__TOPIC | default none, it must be given | example label_counts\n",
		"  --window.late.policy drop|count\n", "| default 1m | example 1m\n",
		"\ngroups\n  groups[].name text\n      name of the group\n      env SLUICE_GROUPS__0__NAME | default none, "} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is missing in\n%s", want, out.String())
		}
	}
}

// A relative name of a file is relative to the configuration file; a URI is no name of a file.
func TestURIsAreNotJoinedToTheFolderOfTheFile(t *testing.T) {
	for given, want := range map[string]string{
		"late.txt": "/etc/sluice/late.txt", "../late": "/etc/late", "/late": "/late", "C:/late": "/etc/sluice/C:/late",
		"mlflow:NAME@ALIAS": "mlflow:NAME@ALIAS", "mlflow://x/y": "mlflow://x/y", "hf:OWNER/NAME": "hf:OWNER/NAME",
		"file:./x": "file:./x", "s3+https://x": "s3+https://x", "./hf:x": "/etc/sluice/hf:x",
		"a/b:c": "/etc/sluice/a/b:c",
	} {
		var s toy
		c, err := s.parse(t, fmt.Sprintf("window: {topic: counts, late: {report: %q}}\n", given), nil)
		if err != nil {
			t.Errorf("%s: %v", given, err)
			continue
		}
		if s.window.Late.Report != want {
			t.Errorf("%s is read as %s, want %s", given, s.window.Late.Report, want)
		}
		var again toy
		var out strings.Builder
		c.Print(&out)
		if _, err := again.parse(t, out.String(), nil); err != nil || again.window != s.window {
			t.Errorf("%s is printed as %s: %v", given, again.window.Late.Report, err)
		}
	}
}

func TestATableThatDiffersFromItsStructIsRefused(t *testing.T) {
	type one struct {
		A string `key:"a"`
		B int    `key:"b"`
	}
	a, b := config.Key{Name: "a", Doc: "d", Example: "x"}, config.Key{Name: "b", Doc: "d", Example: "1"}
	bounded := func(k config.Key, r config.Range) config.Key { k.Range = r; return k }
	for _, tc := range []struct {
		says    string
		section config.Section
	}{
		{`the field with the tag "b" has no row`, config.Section{Name: "s", Value: &one{}, Keys: []config.Key{a}}},
		{`the row "c" has no field`, config.Section{Name: "s", Value: &one{},
			Keys: []config.Key{a, b, {Name: "c", Doc: "d", Example: "x"}}}},
		{"another order", config.Section{Name: "s", Value: &one{}, Keys: []config.Key{b, a}}},
		{"a Doc and an Example", config.Section{Name: "s", Value: &one{}, Keys: []config.Key{{Name: "a"}, b}}},
		{"the example is no value", config.Section{Name: "s", Value: &one{},
			Keys: []config.Key{a, {Name: "b", Doc: "d", Example: "x"}}}},
		{"one lower and one upper", config.Section{Name: "s", Value: &one{},
			Keys: []config.Key{a, bounded(b, config.Range{Least: "1", Above: "0"})}}},
		{"bound: ", config.Section{Name: "s", Value: &one{},
			Keys: []config.Key{a, bounded(b, config.Range{Least: "many"})}}},
		{"a text has no range", config.Section{Name: "s", Value: &one{},
			Keys: []config.Key{bounded(a, config.Range{Least: "1"}), b}}},
		{"one word", config.Section{Name: "s.t", Value: &one{}, Keys: []config.Key{a, b}}},
		{"a list has an Example", config.Section{Name: "s", Value: &[]one{}, Keys: []config.Key{a, b}}},
		{"no kind for int8", config.Section{Name: "s", Value: &struct {
			N int8 `key:"a"`
		}{}, Keys: []config.Key{a}}},
	} {
		func() {
			defer func() {
				if got := fmt.Sprint(recover()); !strings.Contains(got, tc.says) {
					t.Errorf("want %q, got %q", tc.says, got)
				}
			}()
			config.New(tc.section)
		}()
	}
	defer func() {
		if got := fmt.Sprint(recover()); !strings.Contains(got, "s.a is there already") {
			t.Errorf("two sections of one name: %q", got)
		}
	}()
	config.New(config.Section{Name: "s", Value: &one{}, Keys: []config.Key{a, b}},
		config.Section{Name: "s", Value: &one{}, Keys: []config.Key{a, b}})
}

func TestSizes(t *testing.T) {
	for s, want := range map[string]config.Bytes{"0": 0, "65536": 65536, "64KiB": 65536, "1MiB": 1 << 20,
		"2 GiB": 2 << 30, "1TiB": 1 << 40, "2TB": 2e12,
		"1kB": 1000, "3MB": 3e6, "7B": 7} {
		if got, err := config.ParseBytes(s); err != nil || got != want {
			t.Errorf("%q: %d, %v", s, got, err)
		}
	}
	for _, s := range []string{"", "-1", "1.5MiB", "MiB", "9223372036854775807KiB"} {
		if _, err := config.ParseBytes(s); err == nil {
			t.Errorf("%q is taken for a size", s)
		}
	}
}

func TestAConfigurationHasASizeLimit(t *testing.T) {
	const most, text = 1 << 20, "window: {topic: counts}\n"
	file := filepath.Join(t.TempDir(), "c.yaml")
	read := func(size int64) error {
		if err := errors.Join(os.WriteFile(file, []byte(text+"#"), 0o600), os.Truncate(file, size)); err != nil {
			t.Fatal(err)
		}
		if size <= most { // a comment to the end
			if err := os.WriteFile(file, []byte(text+"#"+strings.Repeat("x", int(size)-len(text)-1)),
				0o600); err != nil {
				t.Fatal(err)
			}
		}
		var s toy
		_, err := config.New(s.sections()...).Load(config.Source{File: file})
		return err
	}
	if err := read(most); err != nil {
		t.Errorf("at the limit: %v", err)
	}
	for _, size := range []int64{most + 1, 1 << 40} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		err := read(size)
		runtime.ReadMemStats(&after)
		if err == nil || !strings.Contains(err.Error(), file+" has more than 1MiB: is it the right file?") {
			t.Errorf("%d bytes: %v", size, err)
		}
		if n := after.TotalAlloc - before.TotalAlloc; n > 16<<20 {
			t.Errorf("%d bytes were allocated for a file of %d", n, size)
		}
	}
}
