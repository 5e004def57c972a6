package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"sluice/cmd/sluice/suggest"
)

// This file owns the configuration file: YAML, whose nodes say where a mistake stands, and references to variables.

// maxSections bounds the sections of a configuration, repeated ones of aliases included.
const maxSections = 2000

func (l *loader) at(n *yaml.Node) Origin {
	return Origin{File: l.src.File, Line: n.Line, column: n.Column}
}

var yamlLine = regexp.MustCompile(`^(?:yaml: )?(?:line (\d+): )?(.*)$`)

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
		some := l.schema.childrenOf("")
		l.fail(l.at(root), "", "the configuration must be a mapping (%s: ...), not %s",
			strings.Join(some[:min(2, len(some))], ": ..., "), nodeWord(root))
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
	switch k, isKey := l.schema.Find(path); {
	case isKey:
		if value.Tag != "!!null" { // "group:" with nothing behind it says nothing
			l.leaf(k, value, path)
		} else {
			l.sections[path] = at
		}
	case l.schema.lists[path] != nil:
		l.sections[path] = at
		l.list(path, value)
	case l.schema.isSection(path):
		l.sections[path] = at
		switch {
		case value.Kind == yaml.MappingNode:
			l.mapping(value, path+".")
		case value.Tag != "!!null":
			l.fail(at, path, "must hold keys (%s), not %s", strings.Join(l.schema.childrenOf(path), ", "),
				nodeWord(value))
		}
	default:
		l.fail(at, path, "unknown key%s", l.suggestKey(path))
	}
}

func (l *loader) list(name string, n *yaml.Node) {
	if n.Tag == "!!null" {
		return
	}
	if n.Kind != yaml.SequenceNode {
		l.fail(l.at(n), name, "must be a list (%s), not %s", l.schema.lists[name].Example, nodeWord(n))
		return
	}
	l.entries[name] = len(n.Content)
	for i, item := range n.Content {
		path := fmt.Sprintf("%s[%d]", name, i)
		l.sections[path] = l.at(item)
		if item = resolve(item); item.Kind == yaml.MappingNode {
			l.mapping(item, path+".")
		} else {
			l.fail(l.at(item), path, "must be a mapping (%s: ...), not %s",
				strings.Join(l.schema.childrenOf(path), ": ..., "), nodeWord(item))
		}
	}
}

func (l *loader) leaf(k Key, n *yaml.Node, path string) {
	at := l.at(n)
	if k.kind == kindList {
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
	if k.kind == kindMapping {
		l.leafMap(n, path, k)
		return
	}
	if n.Kind != yaml.ScalarNode {
		l.fail(at, path, "must be one value (%s), not %s; write for example %s", k.kind, nodeWord(n), k.Example)
		return
	}
	if k.Secret && !strings.Contains(n.Value, "${") {
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
	if s, isText := v.(string); isText && k.isFileName(s) && !filepath.IsAbs(s) {
		v = filepath.Join(filepath.Dir(l.src.File), s)
	}
	l.set(&l.file, path, v, at)
}

// leafMap reads a mapping of names to texts.
func (l *loader) leafMap(n *yaml.Node, path string, k Key) {
	if n.Kind != yaml.MappingNode {
		l.fail(l.at(n), path, "must be a mapping, not %s; write for example {%s}", nodeWord(n),
			strings.ReplaceAll(k.Example, "=", ": "))
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

// uriScheme begins a URI. One letter alone would be a drive.
var uriScheme = regexp.MustCompile(`^[a-z][a-z0-9+.-]+:`)

// isFileName says whether a value of the key names a file, and no source of another kind.
func (k Key) isFileName(s string) bool {
	switch k.File {
	case FileName:
		return s != ""
	case FileNameOrURI:
		return s != "" && !uriScheme.MatchString(s)
	}
	return false
}

// suggestKey looks for the key a person may have meant: a slip in the name, or the right name in another section.
func (l *loader) suggestKey(path string) string {
	section, name := "", path
	if i := strings.LastIndexByte(path, '.'); i >= 0 {
		section, name = path[:i], path[i+1:]
	}
	siblings := l.schema.childrenOf(section)
	known := slices.Clone(siblings)
	if n := suggest.Nearest(name, known); n != "" {
		if section != "" {
			n = section + "." + n
		}
		return "; did you mean " + n + "?"
	}
	var same []string
	for _, k := range l.schema.keys {
		if strings.HasSuffix(k.path, "."+name) {
			same = append(same, k.path)
		}
	}
	if len(same) > 0 && len(same) <= 3 {
		return "; did you mean " + strings.Join(same, " or ") + "?"
	}
	return "; known here: " + strings.Join(siblings, ", ")
}
