// Package config reads, checks and prints the configuration of a worker: defaults, file, environment and flags.
package config

// This file puts the configuration together: defaults, then the file, then the environment, then flags. It alone knows
// koanf. What the keys are stands in settings.go; whether their values make sense together is decided in check.go.

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"sort"
	"strconv"
	"strings"

	"github.com/go-viper/mapstructure/v2"
	"github.com/knadh/koanf/providers/structs"
	"github.com/knadh/koanf/v2"
	"github.com/spf13/pflag"
	"go.yaml.in/yaml/v3"

	"sluice/cmd/sluice/suggest"
)

// EnvPrefix begins the names of all environment variables that are ours.
const EnvPrefix = "SLUICE_"

// maxSections bounds the sections of a configuration, repeated ones of aliases included.
const maxSections = 2000

// maxConfigBytes bounds the configuration file; a long one has a few thousand.
const maxConfigBytes = 1 << 20

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

// Origin says where a value came from.
type Origin struct {
	File string // name of the configuration file as given, with line
	Line int
	Env  string // name of the environment variable
	Flag string // name of the flag
}

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

func (o Origin) isDefault() bool { return o == Origin{} }

// Mistake is one mistake in the configuration.
type Mistake struct {
	At   Origin
	Path string
	Text string // what is wrong and what to do
}

func (p Mistake) String() string {
	s := p.Text
	if p.Path != "" {
		s = p.Path + ": " + s
	}
	if !p.At.isDefault() {
		s = p.At.String() + ": " + s
	}
	return s
}

// Mistakes is every mistake found, in the order of the file, then of the environment, then of flags.
type Mistakes struct{ List []Mistake }

func (e *Mistakes) Error() string {
	lines := make([]string, len(e.List))
	for i, p := range e.List {
		lines[i] = p.String()
	}
	return strings.Join(lines, "\n")
}

// Source is where Load reads from.
type Source struct {
	File     string          // name of the YAML file; "" for none
	Environ  []string        // as os.Environ
	Flags    *pflag.FlagSet  // flags made by AddFlags; nil for none
	Hostname string          // what ${HOSTNAME} means where the environment does not say
	Commands map[string]bool // variables under SLUICE_ that are no keys: those of the commands' flags
}

// Loaded is a configuration without mistakes.
type Loaded struct {
	Settings
	File     string
	origins  map[string]Origin
	Warnings []Mistake
}

// Load reads and checks the configuration. The error is a *Mistakes that names every mistake at once, or says
// why the file could not be read.
func Load(src Source) (*Loaded, error) {
	l := newLoader(src)
	if src.File != "" {
		text, err := l.readFile()
		if err == nil {
			err = l.readYAML(text)
		}
		if err != nil {
			return nil, err
		}
	}
	return l.load()
}

func newLoader(src Source) *loader {
	l := &loader{src: src, env: map[string]string{}, entries: map[string]int{}, origins: map[string]Origin{},
		sections: map[string]Origin{}, bad: map[string]bool{}}
	for _, e := range src.Environ {
		name, value, _ := strings.Cut(e, "=")
		l.env[name] = value
	}
	if _, ok := l.env["HOSTNAME"]; !ok && src.Hostname != "" {
		l.env["HOSTNAME"] = src.Hostname // a shell keeps it to itself
	}
	return l
}

// load puts the layers together, the file's having been read.
func (l *loader) load() (*Loaded, error) {
	l.readEnv()
	l.readFlags()
	settings, err := l.merge()
	if err != nil {
		return nil, err
	}
	l.check(settings)
	if len(l.problems) > 0 {
		sort.SliceStable(l.problems, func(i, j int) bool { return l.problems[i].At.before(l.problems[j].At) })
		return nil, &Mistakes{l.problems}
	}
	settings.Kafka.TLS.Enabled = settings.Kafka.TLS.On()
	return &Loaded{Settings: *settings, File: l.src.File, origins: l.origins, Warnings: l.warnings}, nil
}

func (o Origin) before(other Origin) bool {
	rank := func(o Origin) int {
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
	if a, b := rank(o), rank(other); a != b {
		return a < b
	}
	return o.Line < other.Line
}

type loader struct {
	src      Source
	env      map[string]string
	file     layer
	environ  layer
	flags    layer
	entries  map[string]int    // how many entries each list has
	origins  map[string]Origin // where each given value came from
	sections map[string]Origin // where each section of the file stands
	bad      map[string]bool   // paths with a mistake: no second complaint about them
	problems []Mistake
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
	l.problems = append(l.problems, Mistake{at, path, fmt.Sprintf(format, args...)})
}

// ---- the file

func (l *loader) at(n *yaml.Node) Origin { return Origin{File: l.src.File, Line: n.Line} }

var yamlLine = regexp.MustCompile(`^(?:yaml: )?(?:line (\d+): )?(.*)$`)

func (l *loader) readFile() ([]byte, error) {
	text, err := ReadFile(l.src.File, maxConfigBytes)
	if err != nil {
		if path := (*fs.PathError)(nil); errors.As(err, &path) {
			err = path.Err // the file's name stands before the sentence
		}
		return nil, &Mistakes{[]Mistake{{At: Origin{File: l.src.File},
			Text: fmt.Sprintf("cannot read the configuration: %v", err)}}}
	}
	return text, nil
}

func (l *loader) readYAML(text []byte) error {
	dec := yaml.NewDecoder(bytes.NewReader(text))
	var doc yaml.Node
	switch err := dec.Decode(&doc); {
	case errors.Is(err, io.EOF):
		return nil
	case err != nil:
		m := yamlLine.FindStringSubmatch(err.Error())
		at := Origin{File: l.src.File}
		at.Line, _ = strconv.Atoi(m[1])
		return &Mistakes{[]Mistake{{At: at, Text: "not valid YAML: " + m[2]}}}
	}
	var second yaml.Node
	if err := dec.Decode(&second); !errors.Is(err, io.EOF) {
		l.fail(l.at(&second), "", "the file holds more than one YAML document; keep one")
	}
	if root := doc.Content[0]; root.Kind == yaml.MappingNode {
		l.mapping(root, "")
	} else if root.Tag != "!!null" {
		l.fail(l.at(root), "", "the configuration must be a mapping (kafka: ..., input: ...), not %s", nodeWord(root))
	}
	return nil
}

// mapping reads a section; prefix is its path with a dot behind it, or "".
func (l *loader) mapping(n *yaml.Node, prefix string) {
	// Anchors can make a section contain itself, or a few lines stand for millions.
	if l.sectionsRead++; l.sectionsRead > maxSections {
		if l.sectionsRead == maxSections+1 {
			l.fail(l.at(n), strings.TrimSuffix(prefix, "."), "anchors and aliases make more than %d sections of this "+
				"file, or one that contains itself; write them out", maxSections)
		}
		return
	}
	seen := map[string]int{}
	for i := 0; i+1 < len(n.Content); i += 2 { // merged sections first: own keys override theirs
		if n.Content[i].Tag != "!!merge" {
			continue
		}
		merged := []*yaml.Node{n.Content[i+1]}
		if merged[0].Kind == yaml.SequenceNode {
			merged = merged[0].Content
		}
		for _, m := range slices.Backward(merged) {
			if m = resolve(m); m.Kind == yaml.MappingNode {
				l.mapping(m, prefix)
			}
		}
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		name, value := n.Content[i], resolve(n.Content[i+1])
		if name.Tag == "!!merge" {
			continue
		}
		path := prefix + name.Value
		if first, ok := seen[name.Value]; ok {
			l.fail(l.at(name), path, "given twice; line %d has it already, keep one", first)
			continue
		}
		seen[name.Value] = name.Line
		l.entry(name, value, path)
	}
}

func (l *loader) entry(name, value *yaml.Node, path string) {
	at := l.at(name)
	switch k, isKey := Find(path); {
	case isKey:
		if value.Tag != "!!null" { // "group:" with nothing behind it says nothing
			l.leaf(k, value, path)
		} else {
			l.sections[path] = at
		}
	case lists[path].entry != nil:
		l.sections[path] = at
		l.list(path, value)
	case isSection(path):
		l.sections[path] = at
		switch {
		case value.Kind == yaml.MappingNode:
			l.mapping(value, path+".")
		case value.Tag != "!!null":
			l.fail(at, path, "must hold keys (%s), not %s", strings.Join(childrenOf(path), ", "), nodeWord(value))
		}
	default:
		l.fail(at, path, "unknown key%s", suggestKey(path))
	}
}

func (l *loader) list(name string, n *yaml.Node) {
	if n.Tag == "!!null" {
		return
	}
	if n.Kind != yaml.SequenceNode {
		l.fail(l.at(n), name, "must be a list (%s), not %s", lists[name].example, nodeWord(n))
		return
	}
	l.entries[name] = len(n.Content)
	for i, item := range n.Content {
		path := fmt.Sprintf("%s[%d]", name, i)
		l.sections[path] = l.at(item)
		if item = resolve(item); item.Kind == yaml.MappingNode {
			l.mapping(item, path+".")
		} else {
			l.fail(l.at(item), path, "must be a mapping (%s: ...), not %s", strings.Join(childrenOf(path), ": ..., "),
				nodeWord(item))
		}
	}
}

func (l *loader) leaf(k Key, n *yaml.Node, path string) {
	at := l.at(n)
	if k.kind == kindStrings {
		if n.Kind != yaml.SequenceNode {
			l.fail(at, path, "must be a list; write [%s]", strconv.Quote(n.Value))
			return
		}
		list := make([]string, 0, len(n.Content))
		for _, item := range n.Content {
			if item = resolve(item); item.Kind != yaml.ScalarNode {
				l.fail(l.at(item), path, "must be a list of texts, not of %s", nodeWord(item))
				return
			}
			s, ok := l.expand(item, path)
			if !ok {
				return
			}
			list = append(list, s)
		}
		l.set(&l.file, path, list, at)
		return
	}
	if k.kind == kindMap {
		l.leafMap(n, path, k)
		return
	}
	if n.Kind != yaml.ScalarNode {
		l.fail(at, path, "must be one value (%s), not %s; write for example %s", k.kind, nodeWord(n), k.example)
		return
	}
	if k.secret && !strings.Contains(n.Value, "${") {
		l.fail(at, path, "a secret does not belong in the configuration file; use %s_file, or the environment "+
			"variable %s", path, EnvName(path))
		return
	}
	s, ok := l.expand(n, path)
	if !ok {
		return
	}
	v, err := k.parseScalar(s)
	if err != nil {
		l.fail(at, path, "%v", err)
		return
	}
	if s, isText := v.(string); isText && k.file && s != "" && !filepath.IsAbs(s) {
		v = filepath.Join(filepath.Dir(l.src.File), s)
	}
	l.set(&l.file, path, v, at)
}

// leafMap reads a mapping of names to texts.
func (l *loader) leafMap(n *yaml.Node, path string, k Key) {
	if n.Kind != yaml.MappingNode {
		l.fail(l.at(n), path, "must be a mapping, not %s; write for example {%s}", nodeWord(n),
			strings.ReplaceAll(k.example, "=", ": "))
		return
	}
	m := map[string]string{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		name, value := n.Content[i], resolve(n.Content[i+1])
		if value.Kind != yaml.ScalarNode {
			l.fail(l.at(value), path, "%q must be a text, not %s", name.Value, nodeWord(value))
			return
		}
		s, ok := l.expand(value, path)
		if !ok {
			return
		}
		m[name.Value] = s
	}
	l.set(&l.file, path, m, l.at(n))
}

var reference = regexp.MustCompile(`\$?\$\{[^}]*\}?`)
var referenceName = regexp.MustCompile(`^\$\{([A-Za-z_][A-Za-z0-9_]*)(:-([^}]*))?\}$`)

// expand replaces ${NAME} by the environment variable, ${NAME:-text} by text where it is not set, and $${ by ${.
func (l *loader) expand(n *yaml.Node, path string) (string, bool) {
	ok := true
	s := reference.ReplaceAllStringFunc(n.Value, func(ref string) string {
		if strings.HasPrefix(ref, "$$") {
			return ref[1:]
		}
		m := referenceName.FindStringSubmatch(ref)
		if m == nil {
			l.fail(l.at(n), path, "%s is not a reference to an environment variable; write ${NAME} or "+
				"${NAME:-default}, or $${ for a plain ${", ref)
			ok = false
			return ""
		}
		value, isSet := l.env[m[1]]
		switch {
		case isSet:
			return value
		case m[2] != "":
			return m[3]
		}
		l.fail(l.at(n), path, "the environment variable %s is not set; set it, or write ${%s:-default}", m[1], m[1])
		ok = false
		return ""
	})
	return s, ok
}

func resolve(n *yaml.Node) *yaml.Node {
	for n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	return n
}

func nodeWord(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a mapping"
	case yaml.SequenceNode:
		return "a list"
	}
	if n.Tag == "!!null" {
		return "nothing"
	}
	return "the value " + strconv.Quote(n.Value)
}

// ---- environment and flags

// serviceEnv are variables under our prefix that are not meant for us: Kubernetes puts SLUICE_SERVICE_HOST, SLUICE_PORT
// and the like into every pod beside a service named sluice.
var serviceEnv = regexp.MustCompile(`^SLUICE_(SERVICE_(HOST|PORT.*)|PORT(_\d+_.*)?)$`)

var entryEnv = regexp.MustCompile(`^(MODELS|ROUTES)__(\d+)__(.+)$`)

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
	sort.Strings(names)
	for _, name := range names {
		rest := strings.TrimPrefix(name, EnvPrefix)
		path := strings.ToLower(strings.ReplaceAll(rest, "__", "."))
		if m := entryEnv.FindStringSubmatch(rest); m != nil {
			section := strings.ToLower(m[1])
			path = section + "[" + m[2] + "]." + strings.ToLower(m[3])
			i, err := strconv.Atoi(m[2])
			if n := l.entries[section]; err != nil || i > n {
				l.fail(Origin{Env: name}, path, "there are %d %s; the next has the number %d", n, section, n)
				continue
			}
			if _, isKey := Find(path); isKey {
				l.entries[section] = max(l.entries[section], i+1)
			}
		}
		k, isKey := Find(path)
		at := Origin{Env: name}
		switch {
		case isKey:
			l.text(&l.environ, k, path, l.env[name], at)
		default:
			l.fail(at, path, "unknown key%s (every %s* variable is read as configuration)", l.suggestEnv(name), EnvPrefix)
		}
	}
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

// AddFlags gives a command one flag for every key outside lists, named as the key. Secrets have none:
// arguments are seen by every user of the machine.
func AddFlags(fs *pflag.FlagSet) {
	for _, k := range allKeys {
		if k.inList() || k.secret {
			continue
		}
		f := fs.VarPF(&keyFlag{key: k}, k.path, "", k.doc)
		if k.kind == kindBool {
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

// ---- all together

// Read gives koanf the layer as a tree, without lists.
func (y layer) Read() (map[string]any, error) {
	tree := map[string]any{}
	for path, v := range y {
		if strings.Contains(path, "[") {
			continue
		}
		parts := strings.Split(path, ".")
		m := tree
		for _, p := range parts[:len(parts)-1] {
			child, ok := m[p].(map[string]any)
			if !ok {
				child = map[string]any{}
				m[p] = child
			}
			m = child
		}
		m[parts[len(parts)-1]] = v
	}
	return tree, nil
}

// ReadBytes completes koanf.Provider.
func (y layer) ReadBytes() ([]byte, error) { return nil, errors.New("a layer is a tree, not bytes") }

// listTree is a list of all layers, each entry over the defaults of an entry.
func (l *loader) listTree(section string) []any {
	list := make([]any, l.entries[section])
	for i := range list {
		entry := map[string]any{}
		for _, k := range allKeys {
			name, ok := strings.CutPrefix(k.path, section+"[].")
			if !ok {
				continue
			}
			entry[name] = k.value
			for _, y := range []layer{l.file, l.environ} {
				if v, ok := y[fmt.Sprintf("%s[%d].%s", section, i, name)]; ok {
					entry[name] = v
				}
			}
		}
		list[i] = entry
	}
	return list
}

func (l *loader) merge() (*Settings, error) {
	k := koanf.New(".")
	if err := k.Load(structs.Provider(DefaultSettings(), "koanf"), nil); err != nil {
		return nil, fmt.Errorf("configuration defaults: %w", err)
	}
	for _, y := range []layer{l.file, l.environ, l.flags} {
		if err := k.Load(y, nil); err != nil {
			return nil, fmt.Errorf("configuration: %w", err)
		}
	}
	for section := range lists {
		if err := k.Set(section, l.listTree(section)); err != nil {
			return nil, fmt.Errorf("configuration: %s: %w", section, err)
		}
	}
	var s Settings
	// Every value has its type by now, so there are no hooks and no weak typing: a mismatch is a bug in settings.go.
	err := k.UnmarshalWithConf("", &s, koanf.UnmarshalConf{Tag: "koanf", DecoderConfig: &mapstructure.DecoderConfig{
		ErrorUnused: true, Result: &s, TagName: "koanf"}})
	if err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	if len(s.Routes) == 0 {
		s.Routes = nil // as by default, whatever the decoder makes of an empty list
	}
	if s.Kafka.InstanceID == "${HOSTNAME}" {
		s.Kafka.InstanceID = l.env["HOSTNAME"]
	}
	return &s, nil
}

// isSection says whether path is the beginning of keys.
func isSection(path string) bool { return len(childrenOf(path)) > 0 }

// childrenOf are the names under a section, in the order of the settings; "" is the root.
func childrenOf(section string) []string {
	if section != "" {
		section = genericPath(section) + "."
	}
	var names []string
	for _, k := range allKeys {
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

// suggestKey looks for the key a person may have meant: a slip in the name, or the right name in another section.
func suggestKey(path string) string {
	section, name := "", path
	if i := strings.LastIndexByte(path, '.'); i >= 0 {
		section, name = path[:i], path[i+1:]
	}
	siblings := childrenOf(section)
	known := slices.Clone(siblings)
	if n := suggest.Nearest(name, known); n != "" {
		if section != "" {
			n = section + "." + n
		}
		return "; did you mean " + n + "?"
	}
	var same []string
	for _, k := range allKeys {
		if strings.HasSuffix(k.path, "."+name) {
			same = append(same, k.path)
		}
	}
	if len(same) > 0 && len(same) <= 3 {
		return "; did you mean " + strings.Join(same, " or ") + "?"
	}
	return "; known here: " + strings.Join(siblings, ", ")
}

func (l *loader) suggestEnv(name string) string {
	var names []string
	for _, k := range allKeys {
		names = append(names, EnvName(k.path))
	}
	for n := range l.src.Commands {
		names = append(names, n)
	}
	sort.Strings(names)
	// One underscore where two belong is the slip that everybody makes.
	flat := strings.ReplaceAll(name, "_", "")
	for _, n := range names {
		if strings.ReplaceAll(n, "_", "") == flat {
			return "; did you mean " + n + "?"
		}
	}
	return suggest.DidYouMean(name, names)
}

// Origin says where the value of a path came from.
func (c *Loaded) Origin(path string) Origin { return c.origins[path] }
