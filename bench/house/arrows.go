package house

import (
	"fmt"
	"path"
	"slices"
	"strings"
)

// module is the path that imports of our own begin with.
const module = "sluice/"

// A Room is a package, with those below it that have no row of their own, and what it may import of ours. "x/..." is x
// and all below it.
type Room struct {
	Path string
	May  []string
}

// Rooms are the arrows of docs/DESIGN.md, whose table is made of them (go test ./bench/house -update). The row with the
// longest path counts for a package. A row says what a package may import, not what it does.
var Rooms = []Room{
	{"cmd/sluice", []string{"cmd/sluice/...", "pipeline/...", "model/...", "tokenize/..."}},
	{"cmd/sluice/worker", []string{"cmd/sluice/audit", "cmd/sluice/config", "cmd/sluice/settings", "cmd/sluice/suggest",
		"cmd/sluice/worker/...", "pipeline/...", "model/...", "tokenize/..."}},
	{"cmd/sluice/config", []string{"cmd/sluice/suggest", "pipeline"}},
	{"cmd/sluice/settings", []string{"cmd/sluice/config", "cmd/sluice/suggest", "pipeline/..."}},
	{"cmd/sluice/suggest", nil},
	{"cmd/sluice/terminal", nil},
	{"cmd/sluice/witness", []string{"pipeline", "pipeline/kafka"}},
	{"cmd/sluice/demo", []string{"cmd/sluice/terminal", "pipeline", "pipeline/llm/standin", "pipeline/publish"}},
	{"cmd/sluice/audit", []string{"cmd/sluice/terminal", "pipeline", "pipeline/escalate", "pipeline/publish"}},
	{"cmd/sluice/load", []string{"cmd/sluice/load/...", "cmd/sluice/terminal", "pipeline", "pipeline/codec",
		"pipeline/codec/jsonvalue", "pipeline/engine", "model", "model/textfile", "tokenize"}},
	{"pipeline/kafka", []string{"pipeline"}},
	{"pipeline/escalate", []string{"pipeline", "pipeline/codec", "pipeline/failpoint", "pipeline/llm/...",
		"pipeline/plan", "pipeline/publish", "pipeline/rule", "model", "tokenize"}},
	{"pipeline/plan", []string{"pipeline", "pipeline/codec", "pipeline/failpoint", "pipeline/plan", "pipeline/publish",
		"pipeline/rule", "tokenize"}},
	{"pipeline/plan/text", []string{"pipeline", "pipeline/codec", "pipeline/engine", "pipeline/failpoint",
		"pipeline/plan", "pipeline/publish", "pipeline/rule", "model", "tokenize"}},
	{"pipeline/publish", []string{"pipeline", "pipeline/codec", "pipeline/rule"}},
	{"pipeline/engine", []string{"pipeline", "pipeline/failpoint", "model", "tokenize"}},
	{"pipeline/llm", []string{"pipeline", "pipeline/failpoint", "pipeline/llm/..."}},
	{"pipeline/rule", []string{"pipeline", "pipeline/codec", "model"}},
	{"pipeline/codec", []string{"pipeline", "pipeline/codec", "model", "tokenize"}},
	{"pipeline/codec/formats", []string{"pipeline/codec/..."}},
	{"pipeline/store", []string{"pipeline", "pipeline/store"}},
	{"pipeline/tap", []string{"pipeline", "pipeline/tap"}},
	{"pipeline", []string{"pipeline/failpoint"}},
	{"pipeline/failpoint", nil},
	{"model", []string{"tokenize", "tokenize/pretrained"}},
	{"model/textfile", nil},
	{"model/source", []string{"model", "model/source"}},
	{"model/labelled", []string{"model", "model/textfile", "tokenize"}},
	{"model/judging", []string{"model", "model/labelled", "tokenize"}},
	{"model/rewrite", nil},
	{"model/calibrate", []string{"model", "model/judging", "model/labelled", "model/rewrite", "tokenize"}},
	{"model/tune", []string{"model", "model/judging", "model/labelled", "model/rewrite", "tokenize"}},
	{"model/ort", []string{"pipeline", "pipeline/engine", "model", "tokenize"}},
	{"tokenize", nil},
	{"tokenize/hf", []string{"tokenize", "tokenize/pretrained"}},
	{"tokenize/pretrained", nil},
	{"bench", []string{"bench/...", "cmd/sluice/...", "pipeline/...", "model/...", "tokenize/..."}},
}

// An Owner is a dependency that only some rooms import, by the beginning of its path. Rooms are written as in Room.May.
type Owner struct {
	Dependency string
	Rooms      []string
}

// Owners are the dependencies whose words stay in one place. "tests" are the packages of tests.
var Owners = []Owner{
	{"github.com/segmentio/kafka-go", []string{"pipeline/kafka"}},
	{"github.com/yalue/onnxruntime_go", []string{"model/ort"}},
	{"github.com/daulet/tokenizers", []string{"tokenize/hf"}},
	{"github.com/knadh/koanf", []string{"cmd/sluice/config"}},
	{"github.com/expr-lang/expr", []string{"pipeline/rule"}},
	{"github.com/twmb/franz-go", []string{"cmd/sluice", "cmd/sluice/audit", "cmd/sluice/demo", "cmd/sluice/load/...",
		"cmd/sluice/witness", "bench/...", "tests"}},
}

// ForTests tells whether a room is there for tests: one of its folders is called ...test. Such a room may import
// anything, and only tests, others of its kind and bench may import it.
func ForTests(room string) bool {
	return slices.ContainsFunc(strings.Split(room, "/"), func(s string) bool { return strings.HasSuffix(s, "test") })
}

// Imports finds imports in files other than tests that no arrow allows, and packages that are in no room.
func Imports(t *Tree) ([]Finding, error) {
	all, err := t.sources()
	if err != nil {
		return nil, err
	}
	var found []Finding
	for _, s := range all {
		if s.test {
			continue
		}
		room := roomOf(s.room)
		if room == nil && !ForTests(s.room) {
			found = append(found, Finding{"imports", s.Path, 0, "package " + s.room + " is in no room; give it a row " +
				"in " +
				"Rooms of bench/house/arrows.go"})
			continue
		}
		for _, i := range s.tree.Imports {
			name := strings.Trim(i.Path.Value, `"`)
			if what := refused(s.room, room, name); what != "" {
				found = append(found, Finding{"imports", s.Path, s.set.Position(i.Pos()).Line, what})
			}
		}
	}
	return found, nil
}

// refused says why a package must not import a name, or nothing.
func refused(from string, room *Room, name string) string {
	for _, o := range Owners {
		if name != o.Dependency && !strings.HasPrefix(name, o.Dependency+"/") {
			continue
		}
		if !allowed(o.Rooms, from) && !(slices.Contains(o.Rooms, "tests") && ForTests(from)) {
			return fmt.Sprintf("%s imports %s, which only {%s} may; go by way of that room", from, name,
				strings.Join(o.Rooms, ", "))
		}
	}
	to, own := strings.CutPrefix(name, module)
	if !own || ForTests(from) {
		return ""
	}
	if ForTests(to) && !strings.HasPrefix(from, "bench") {
		return fmt.Sprintf("%s imports %s, which is for tests only", from, to)
	}
	if from == to || allowed(room.May, to) || ForTests(to) {
		return ""
	}
	return fmt.Sprintf("%s imports %s: no arrow of docs/DESIGN.md goes from %s there; move the code, or give %[3]s a "+
		"reason and an arrow in bench/house/arrows.go", from, to, room.Path)
}

// roomOf is the row of a package: that with the longest path.
func roomOf(p string) *Room {
	var best *Room
	for i, r := range Rooms {
		if (p == r.Path || strings.HasPrefix(p, r.Path+"/")) && (best == nil || len(r.Path) > len(best.Path)) {
			best = &Rooms[i]
		}
	}
	return best
}

// allowed tells whether patterns hold a package. "x/..." is x and all below it.
func allowed(patterns []string, p string) bool {
	return slices.ContainsFunc(patterns, func(pattern string) bool {
		root, below := strings.CutSuffix(pattern, "/...")
		return p == root || below && strings.HasPrefix(p, root+"/")
	})
}

// Marks around the arrows in docs/DESIGN.md.
const (
	arrowsBegin = "<!-- The arrows of bench/house: go test ./bench/house -update -->\n"
	arrowsEnd   = "<!-- End of the arrows -->\n"
)

// Arrows are Rooms and Owners as docs/DESIGN.md shows them.
func Arrows() string {
	var b strings.Builder
	b.WriteString("```text\n")
	for _, r := range Rooms {
		may := "nothing of ours"
		if len(r.May) > 0 {
			may = strings.Join(r.May, ", ")
		}
		row(&b, r.Path, may)
	}
	b.WriteString("```\n\nDependencies that only these rooms import:\n\n```text\n")
	for _, o := range Owners {
		row(&b, path.Base(o.Dependency), strings.Join(o.Rooms, ", "))
	}
	b.WriteString("```\n")
	return b.String()
}

// row writes "path  -> names", broken at Width.
func row(b *strings.Builder, from, to string) {
	const indent = 22
	line := fmt.Sprintf("%-*s -> ", indent-4, from)
	for i, word := range strings.Split(to, ", ") {
		if i > 0 {
			line += ","
			if len(line)+len(word)+2 > Width {
				b.WriteString(line + "\n")
				line = strings.Repeat(" ", indent-1)
			}
			line += " "
		}
		line += word
	}
	b.WriteString(strings.TrimRight(line, " ") + "\n")
}

// Drawn compares the arrows of a page with Arrows, and returns the page as it should be.
func Drawn(page string) (updated string, found []Finding) {
	before, rest, begins := strings.Cut(page, arrowsBegin)
	_, after, ends := strings.Cut(rest, arrowsEnd)
	if !begins || !ends {
		return page, []Finding{{"imports", design, 0, "the marks around the arrows are gone; they are " +
			strings.TrimSpace(arrowsBegin) + " and " + strings.TrimSpace(arrowsEnd)}}
	}
	updated = before + arrowsBegin + Arrows() + arrowsEnd + after
	if updated != page {
		return updated, []Finding{{"imports", design, 1 + strings.Count(before, "\n"), "the arrows are not those of " +
			"bench/house/arrows.go; run go test ./bench/house -update"}}
	}
	return updated, nil
}

// design is the page that draws the arrows.
const design = "docs/DESIGN.md"
