package house

import (
	"fmt"
	"go/ast"
	"go/token"
	"slices"
	"strings"
)

// known are methods whose meaning their interface fixes: of error, fmt.Stringer, errors.Is and As, sort.Interface,
// http.Handler, and the encodings.
var known = []string{"Error", "String", "GoString", "Unwrap", "Is", "As", "Len", "Less", "Swap", "Push", "Pop",
	"ServeHTTP", "MarshalJSON", "UnmarshalJSON", "MarshalText", "UnmarshalText", "MarshalYAML", "UnmarshalYAML"}

// Comments finds exported names outside package main and tests that have no doc comment, or one that begins neither
// with the name nor with an article, and packages without a package comment. In a group of constants or variables the
// group's comment counts for all, and a comment behind a name for that name. Fields are not looked at.
func Comments(t *Tree) ([]Finding, error) {
	all, err := t.sources()
	if err != nil {
		return nil, err
	}
	var found []Finding
	packages := map[string]bool{} // room -> has a package comment
	for _, s := range all {
		if s.test || s.generated() {
			continue
		}
		packages[s.room] = packages[s.room] || s.tree.Doc != nil
		if s.tree.Name.Name == "main" {
			continue
		}
		for _, d := range s.tree.Decls {
			found = append(found, undocumented(s, d)...)
		}
	}
	for room, has := range packages {
		if !has {
			found = append(found, Finding{"comments", room, 0, "no package comment; say in one file, above " +
				"`package`, what " +
				"the package owns"})
		}
	}
	return found, nil
}

func undocumented(s source, declaration ast.Decl) (found []Finding) {
	check := func(name *ast.Ident, exact bool, docs ...*ast.CommentGroup) {
		text := ""
		for _, d := range docs {
			if text == "" && d != nil {
				text = strings.TrimSpace(d.Text())
			}
		}
		line := s.set.Position(name.Pos()).Line
		switch {
		case text == "":
			found = append(found, Finding{"comments", s.Path, line, fmt.Sprintf("exported %s has no doc comment; "+
				"begin it "+
				"with %q", name.Name, name.Name)})
		case exact && !begins(text, name.Name):
			found = append(found, Finding{"comments", s.Path, line, fmt.Sprintf("the doc comment of %s must begin "+
				"with %q "+
				"or an article", name.Name, name.Name)})
		}
	}
	switch d := declaration.(type) {
	case *ast.FuncDecl:
		if d.Name.IsExported() && (d.Recv == nil || receiver(d).IsExported() && !slices.Contains(known, d.Name.Name)) {
			check(d.Name, true, d.Doc)
		}
	case *ast.GenDecl:
		for _, spec := range d.Specs {
			switch spec := spec.(type) {
			case *ast.TypeSpec:
				if spec.Name.IsExported() {
					docs := []*ast.CommentGroup{spec.Doc, d.Doc}
					if d.Lparen != token.NoPos { // the group's comment is of none of its types
						docs = []*ast.CommentGroup{spec.Doc, spec.Comment}
					}
					check(spec.Name, true, docs...)
				}
			case *ast.ValueSpec:
				for _, name := range spec.Names {
					if name.IsExported() {
						check(name, d.Lparen == token.NoPos && len(spec.Names) == 1, spec.Doc, spec.Comment, d.Doc)
						break
					}
				}
			}
		}
	}
	return found
}

// begins tells whether a comment begins as `go doc` shows it best.
func begins(text, name string) bool {
	first, _, _ := strings.Cut(strings.ReplaceAll(text, "\n", " "), " ")
	first = strings.TrimRight(first, ",.:;")
	return first == "A" || first == "An" || first == "The" || first == "Deprecated" ||
		strings.TrimSuffix(first, "'s") == name
}

// receiver is the name of a method's type.
func receiver(d *ast.FuncDecl) *ast.Ident {
	expr := d.Recv.List[0].Type
	for {
		switch e := expr.(type) {
		case *ast.StarExpr:
			expr = e.X
		case *ast.IndexExpr:
			expr = e.X
		case *ast.IndexListExpr:
			expr = e.X
		case *ast.ParenExpr:
			expr = e.X
		case *ast.Ident:
			return e
		default:
			return ast.NewIdent("_")
		}
	}
}
