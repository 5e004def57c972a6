// Package house holds the rules of this repository that no compiler knows: how wide a line may be, which names have a
// doc comment, who may import whom, what is linked into the binary, and what lies at the top. `make lint` and
// scripts/pre-commit run its tests; CONTRIBUTING.md lists the rules for people.
//
// A rule is a function from a Tree to findings. It reads, and never writes.
package house

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// A Finding is one place that breaks a rule.
type Finding struct {
	Rule string // the rule's name, as Exceptions use it
	Path string // of the file, or of the package for an import; from the root, with slashes
	Line int    // from 1; 0 where the whole file or package is meant
	What string // what is wrong, and what to do
}

// String is a Finding as compilers print theirs: place, what, what to do.
func (f Finding) String() string {
	if f.Line == 0 {
		return fmt.Sprintf("%s: %s (rule %s)", f.Path, f.What, f.Rule)
	}
	return fmt.Sprintf("%s:%d: %s (rule %s)", f.Path, f.Line, f.What, f.Rule)
}

// A File is one file of the tree.
type File struct {
	Path string // from the root, with slashes
	Text []byte
}

// A Tree is the files that a commit of the work tree would hold: those that git knows, and new ones that it does not
// ignore. Files are in the order of their paths.
type Tree struct {
	Root  string
	Files []File
}

// Read reads the tree around a folder of it.
func Read(folder string) (*Tree, error) {
	out, err := git(folder, "rev-parse", "--show-toplevel")
	if err != nil {
		return nil, err
	}
	t := &Tree{Root: strings.TrimSpace(string(out))}
	out, err = git(t.Root, "ls-files", "-z", "--cached", "--others", "--exclude-standard")
	if err != nil {
		return nil, err
	}
	names := strings.Split(strings.Trim(string(out), "\x00"), "\x00")
	slices.Sort(names)
	for _, name := range slices.Compact(names) {
		full := filepath.Join(t.Root, filepath.FromSlash(name))
		info, err := os.Lstat(full)
		if os.IsNotExist(err) { // removed, and not yet committed
			continue
		}
		if err != nil {
			return nil, err
		}
		if !info.Mode().IsRegular() {
			continue
		}
		text, err := os.ReadFile(full)
		if err != nil {
			return nil, err
		}
		t.Files = append(t.Files, File{Path: name, Text: text})
	}
	return t, nil
}

func git(folder string, arguments ...string) ([]byte, error) {
	c := exec.Command("git", append([]string{"-C", folder}, arguments...)...)
	var said bytes.Buffer
	c.Stderr = &said
	out, err := c.Output()
	if err != nil {
		return nil, fmt.Errorf("git %s: %w: %s; the rules read a git checkout", strings.Join(arguments, " "), err,
			strings.TrimSpace(said.String()))
	}
	return out, nil
}

// ours tells whether somebody writes the file by hand. Data of tests, golden files, printed results and what a program
// wrote follow other rules than those for readers.
func (f File) ours() bool {
	if f.under("testdata") || strings.HasPrefix(f.Path, "bench/results/") {
		return false
	}
	switch path.Ext(f.Path) {
	case ".golden", ".lock", ".sum":
		return false
	}
	return !bytes.Contains(f.Text[:min(len(f.Text), 1<<20)], []byte{0}) && !f.generated()
}

// under tells whether a folder of this name is on the file's path.
func (f File) under(folder string) bool {
	return slices.Contains(strings.Split(path.Dir(f.Path), "/"), folder)
}

// generated tells whether one of the first ten lines says so: in Go's words, or, in a report, in ours.
func (f File) generated() bool {
	for i, line := range strings.Split(string(f.Text), "\n") {
		if i == 10 {
			break
		}
		if strings.HasPrefix(line, "// Code generated ") && strings.HasSuffix(line, " DO NOT EDIT.") {
			return true
		}
		if path.Ext(f.Path) == ".md" && strings.HasPrefix(line, "<!-- Written by `make ") {
			return true
		}
	}
	return false
}

// A source is a parsed Go file of this module.
type source struct {
	File
	room string // the folder, which is the package's path in the module
	test bool
	set  *token.FileSet
	tree *ast.File
}

// sources parses the Go files of this module, whatever their build tags. Folders that are modules of their own, and
// testdata, are left out.
func (t *Tree) sources() ([]source, error) {
	var others []string
	for _, f := range t.Files {
		if path.Base(f.Path) == "go.mod" && f.Path != "go.mod" {
			others = append(others, path.Dir(f.Path)+"/")
		}
	}
	var all []source
	for _, f := range t.Files {
		if path.Ext(f.Path) != ".go" || f.under("testdata") ||
			slices.ContainsFunc(others, func(o string) bool { return strings.HasPrefix(f.Path, o) }) {
			continue
		}
		set := token.NewFileSet()
		tree, err := parser.ParseFile(set, f.Path, f.Text, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return nil, err
		}
		all = append(all, source{File: f, room: path.Dir(f.Path), test: strings.HasSuffix(f.Path, "_test.go"), set: set,
			tree: tree})
	}
	return all, nil
}
