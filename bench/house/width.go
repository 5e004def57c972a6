package house

import (
	"fmt"
	"path"
	"regexp"
	"strings"
	"unicode/utf8"
)

// Width is how many columns a line may have; a tab counts TabWidth.
const (
	Width    = 120
	TabWidth = 4
)

// written are the extensions of files that people read line by line.
var written = map[string]bool{".go": true, ".py": true, ".rs": true, ".sh": true, ".java": true, ".c": true, ".h": true,
	".toml": true, ".yaml": true, ".yml": true, ".xml": true, ".md": true}

// marker is what may stand before the first word of a line: a comment's sign, a list's, a quotation's.
var marker = regexp.MustCompile(`^\s*(//[/!]?|#+|\*|-|>|\d+\.)?\s*`)

// Lines finds lines wider than Width in code, comments, configuration and Markdown that people write: the extensions
// above, Makefile, Dockerfile, and scripts that begin with #!. A line that is one word, such as an address or a hash,
// cannot be broken and may be longer, and so may the row of a table in Markdown.
func Lines(t *Tree) (found []Finding) {
	for _, f := range t.Files {
		base := path.Base(f.Path)
		script := path.Ext(base) == "" && strings.HasPrefix(string(f.Text), "#!")
		if !written[path.Ext(base)] && base != "Makefile" && base != "Dockerfile" && !script || !f.ours() {
			continue
		}
		for i, line := range strings.Split(string(f.Text), "\n") {
			columns := utf8.RuneCountInString(line) + (TabWidth-1)*strings.Count(line, "\t")
			if columns <= Width || path.Ext(base) == ".md" && strings.HasPrefix(strings.TrimSpace(line), "|") {
				continue
			}
			if !strings.ContainsAny(strings.TrimSpace(marker.ReplaceAllString(line, "")), " \t") {
				continue
			}
			found = append(found, Finding{"lines", f.Path, i + 1, fmt.Sprintf("%d columns; break the line at %d (a tab "+
				"counts %d)", columns, Width, TabWidth)})
		}
	}
	return found
}
