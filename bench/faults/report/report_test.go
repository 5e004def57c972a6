package report

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func TestAPageIsReadBackAsItWasWritten(t *testing.T) {
	cell := rapid.Map(rapid.StringMatching(`[a-z |\\0-9]{0,12}`), strings.TrimSpace)
	row := rapid.Custom(func(t *rapid.T) Row {
		return Row{cell.Draw(t, "name"), cell.Draw(t, "length"), cell.Draw(t, "fault"), cell.Draw(t, "injected"),
			cell.Draw(t, "promises"),
			cell.Draw(t, "result"), cell.Draw(t, "counts"), cell.Draw(t, "seed"), cell.Draw(t, "date")}
	})
	rapid.Check(t, func(t *rapid.T) {
		rows := rapid.SliceOf(row).Draw(t, "rows")
		got, err := Parse(Render(rows))
		if err != nil || len(got) != len(rows) || len(rows) > 0 && !cmp.Equal(got, rows) {
			t.Fatalf("%v\n%s", err, cmp.Diff(rows, got))
		}
	})
}

func TestAShortRunKeepsTheRowsOfTheLongOne(t *testing.T) {
	old := []Row{{Name: "kill", Length: "short", Seed: "1"}, {Name: "kill", Length: "long", Seed: "2"},
		{Name: "gone", Length: "long", Seed: "3"}, {Name: "pause", Length: "long", Seed: "4"}}
	made := []Row{{Name: "cut", Length: "short", Seed: "5"}, {Name: "kill", Length: "short", Seed: "6"}}
	want := []Row{{Name: "cut", Length: "short", Seed: "5"}, {Name: "kill", Length: "short", Seed: "6"},
		{Name: "kill", Length: "long", Seed: "2"}, {Name: "pause", Length: "long", Seed: "4"}}
	if got := Merge([]string{"cut", "kill", "pause"}, old, made); !cmp.Equal(got, want) {
		t.Error(cmp.Diff(want, got))
	}
}

func TestAPageOfSomebodyElseIsNotOverwritten(t *testing.T) {
	if _, err := Parse("# My own page\n"); err == nil {
		t.Error("Parse takes a page without the table")
	}
	if rows, err := Parse(""); err != nil || rows != nil {
		t.Errorf("an empty page: %v, %v", rows, err)
	}
	if _, err := Parse(Render(nil) + "| a | b |\n"); err == nil {
		t.Error("Parse takes a row of two cells")
	}
}
