package settings_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"sluice/cmd/sluice/config"
	"sluice/cmd/sluice/settings"
)

// root is the folder of the project.
const root = "../../.."

// documentVariables are set while configurations of the documentation are read; they may refer to any that is not here
// only with a default.
var documentVariables = []string{"HOSTNAME=pod-0", "POD_NAME=pod-0"}

func TestEveryExampleIsAConfiguration(t *testing.T) {
	files, err := filepath.Glob(root + "/examples/*.yaml")
	if err != nil || len(files) < 3 {
		t.Fatalf("%d examples, %v", len(files), err)
	}
	for _, file := range files {
		c, err := settings.Load(config.Source{File: file, Environ: documentVariables})
		if err != nil {
			t.Error(err)
			continue
		}
		for _, w := range c.Warnings {
			t.Errorf("a reader would be warned: %s", w)
		}
	}
}

// Whoever copies a block of YAML from the documentation gets a configuration, or a part of one. A block that is none
// begins with ```yaml other.
func TestEveryBlockOfTheDocumentationIsAConfiguration(t *testing.T) {
	files := []string{root + "/README.md", root + "/examples/README.md", root + "/models/MODELS.md"}
	err := filepath.WalkDir(root+"/docs", func(path string, _ fs.DirEntry, err error) error {
		if filepath.Ext(path) == ".md" {
			files = append(files, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	read := 0
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, block := range configurations(t, file, string(text)) {
			read++
			s := settings.Default()
			src := config.Source{File: file, Environ: slices.Concat(documentVariables, completed(block))}
			if _, err := s.Schema().Parse([]byte(block), src); err != nil {
				t.Error(err)
			}
		}
	}
	if read < 4 {
		t.Errorf("only %d blocks were found", read)
	}
}

func TestABlockWithAMistakeIsNamedWithTheLineOfTheDocument(t *testing.T) {
	text := "# Title\n\n  ```yaml\n  kafka: {gruop: x}\n  ```\n\n```\nrunners: many\n```\n" +
		"```yaml other\nimage: x\n```\n" +
		"```sh\nkafka: x\n```\n```\nimage: x\n```\n"
	var got []string
	for _, block := range configurations(t, "D.md", text) {
		s := settings.Default()
		_, err := s.Schema().Parse([]byte(block), config.Source{File: "D.md", Environ: append(completed(block),
			documentVariables...)})
		got = append(got, mistakes(t, err)...)
	}
	want := []string{"D.md:4: kafka.gruop: unknown key; did you mean kafka.group?",
		`D.md:8: runners: "many" is not a whole number; write for example 4`}
	if !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

var fence = regexp.MustCompile("^( *)```+ *([^`]*?) *$")

// configurations are the blocks of a document that a reader takes for a configuration: those of YAML, and those without
// a language in which a section stands. Lines are as in the document.
func configurations(t *testing.T, file, text string) []string {
	t.Helper()
	var blocks []string
	var lines []string // of the block, blank ones before it
	open, language, indent := false, "", ""
	for i, line := range strings.Split(text, "\n") {
		m := fence.FindStringSubmatch(line)
		switch {
		case m != nil && !open:
			open, indent, language, lines = true, m[1], m[2], make([]string, i+1)
		case m != nil:
			open = false
			block := strings.Join(lines, "\n")
			if language == "yaml" || language == "yml" || language == "" && hasSection(block) {
				blocks = append(blocks, block)
			}
		case open:
			lines = append(lines, strings.TrimPrefix(line, indent))
		}
	}
	if open {
		t.Errorf("%s: the last block has no end", file)
	}
	return blocks
}

func hasSection(block string) bool {
	var tree map[string]any
	if yaml.Unmarshal([]byte(block), &tree) != nil {
		return false
	}
	for _, k := range settings.Keys().Keys() {
		name, _, _ := strings.Cut(k.Path(), ".")
		if _, ok := tree[strings.TrimSuffix(name, "[]")]; ok {
			return true
		}
	}
	return false
}

// completed are variables that give what a part of a configuration lacks: the keys of minimal that it does not have.
func completed(block string) []string {
	var part, whole map[string]any
	if yaml.Unmarshal([]byte(block), &part) != nil || yaml.Unmarshal([]byte(minimal), &whole) != nil {
		return nil // the mistake is named when it is read
	}
	var environ []string
	for section, keys := range whole {
		if section == "models" {
			if part[section] == nil {
				environ = append(environ, "SLUICE_MODELS__0__NAME=sentiment", "SLUICE_MODELS__0__PATH=models/sentiment")
			}
			continue
		}
		given, _ := part[section].(map[string]any)
		for name, value := range keys.(map[string]any) {
			if given[name] != nil {
				continue
			}
			if list, is := value.([]any); is {
				value = list[0]
			}
			environ = append(environ, config.EnvName(section+"."+name)+"="+value.(string))
		}
	}
	return environ
}
