package house

import (
	"fmt"
	"go/scanner"
	"go/token"
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
// cannot be broken and may be longer, and so may the row of a table in Markdown, and data that a Go test holds in a
// string between backquotes.
func Lines(t *Tree) (found []Finding) {
	for _, f := range t.Files {
		base := path.Base(f.Path)
		script := path.Ext(base) == "" && strings.HasPrefix(string(f.Text), "#!")
		if !written[path.Ext(base)] && base != "Makefile" && base != "Dockerfile" && !script || !f.ours() {
			continue
		}
		data := literal(f)
		for i, line := range strings.Split(string(f.Text), "\n") {
			columns := utf8.RuneCountInString(line) + (TabWidth-1)*strings.Count(line, "\t")
			row := path.Ext(base) == ".md" && strings.HasPrefix(strings.TrimSpace(line), "|")
			if columns <= Width || data[i+1] || row {
				continue
			}
			if !strings.ContainsAny(strings.TrimSpace(marker.ReplaceAllString(line, "")), " \t") {
				continue
			}
			found = append(found, Finding{"lines", f.Path, i + 1, fmt.Sprintf("%d columns; break the line at %d (a "+
				"tab "+
				"counts %d)", columns, Width, TabWidth)})
		}
	}
	return found
}

// literal are the lines of a Go test that a string between backquotes touches. Breaking it would change the data.
func literal(f File) map[int]bool {
	if !strings.HasSuffix(f.Path, "_test.go") {
		return nil
	}
	lines := map[int]bool{}
	set := token.NewFileSet()
	file := set.AddFile(f.Path, -1, len(f.Text))
	var s scanner.Scanner
	s.Init(file, f.Text, nil, 0)
	for {
		at, kind, text := s.Scan()
		if kind == token.EOF {
			return lines
		}
		if kind == token.STRING && text[0] == '`' {
			first := file.Line(at)
			for i := range 1 + strings.Count(text, "\n") {
				lines[first+i] = true
			}
		}
	}
}
