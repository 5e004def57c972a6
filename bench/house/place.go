package house

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
)

// top is what may lie at the top of the tree, besides names that begin with a dot.
var top = []string{"cmd", "model", "tokenize", "pipeline", "scripts", "models", "bench", "docs", "examples", "deploy",
	"Dockerfile", "Makefile", "go.mod", "go.sum", "README.md", "CHANGELOG.md", "VERSION", "CONTRIBUTING.md",
	"SECURITY.md"}

// Top finds names at the top of the tree that do not belong there.
func Top(t *Tree) (found []Finding) {
	seen := map[string]bool{}
	for _, f := range t.Files {
		name, _, _ := strings.Cut(f.Path, "/")
		if seen[name] || strings.HasPrefix(name, ".") || slices.Contains(top, name) {
			continue
		}
		seen[name] = true
		found = append(found, Finding{"top", name, 0, "the top level is fixed; put it into one of its folders"})
	}
	return found
}

// binaries are files above which a blob must be a part of the product: no benchmark's model, no build's output.
const binaries = 1 << 20

// Large finds files of more than 1 MiB outside models, the bundled ones.
func Large(t *Tree) (found []Finding) {
	for _, f := range t.Files {
		if len(f.Text) > binaries && !strings.HasPrefix(f.Path, "models/") {
			found = append(found, Finding{"large", f.Path, 0, fmt.Sprintf("%d MiB; make it of what is here, or fetch "+
				"it and "+
				"keep its SHA-256, as bench/race/prepare.sh does", len(f.Text)>>20)})
		}
	}
	return found
}

// hosts are the registries' addresses, in two halves, so that this file is clean. Clients know them, and a machine's
// configuration may name a mirror, which a written address would go past.
var hosts = [][2]string{{"pypi.", "org"}, {"pythonhosted.", "org"}, {"crates.", "io/api"}, {"static.crates.", "io"},
	{"index.crates.", "io"}, {"registry.npmjs.", "org"}, {"repo1.maven.", "org"}, {"repo.maven.apache.", "org"},
	{"proxy.golang.", "org"}, {"registry-1.docker.", "io"}}

// Hosts finds addresses of package registries, in any file but locks, which package managers write.
func Hosts(t *Tree) (found []Finding) {
	for _, f := range t.Files {
		if strings.HasSuffix(f.Path, ".lock") {
			continue
		}
		for _, h := range hosts {
			host := h[0] + h[1]
			if i := bytes.Index(f.Text, []byte(host)); i >= 0 {
				found = append(found, Finding{"hosts", f.Path, 1 + bytes.Count(f.Text[:i], []byte("\n")), host +
					" is a " +
					"registry's address; leave it to the client, whose configuration may name a mirror"})
			}
		}
	}
	return found
}
