package terminal

import (
	"bytes"
	"strings"
	"testing"
)

func TestProgressWithoutATerminalIsPlainLines(t *testing.T) {
	var b bytes.Buffer
	p := NewProgress(&b)
	p.Status("changes %d", 1)
	p.Tick(func() string { t.Error("asked for a line that nobody sees"); return "" })
	p.Say("stays %d", 2)
	p.Clear()
	if b.String() != "stays 2\n" {
		t.Errorf("%q", b.String())
	}
	if Asks(strings.NewReader("yes")) {
		t.Error("a reader can be asked")
	}
}

func TestProgressOnATerminalChangesOneLine(t *testing.T) {
	var b bytes.Buffer
	p := &Progress{w: &b, tty: true, width: 6}
	p.Status("ünïcode")
	p.Say("done")
	p.Tick(func() string { return "a" })
	p.Tick(func() string { return "b" }) // too soon
	p.Clear()
	if want := "\rünïco\x1b[K\r\x1b[Kdone\n\ra\x1b[K\r\x1b[K"; b.String() != want {
		t.Errorf("%q, want %q", b.String(), want)
	}
}

func TestColumnsAreAligned(t *testing.T) {
	var b bytes.Buffer
	WriteTable(&b, [][]string{{"name", "n", ""}, {"é", "100", "x"}})
	if want := "name    n\né     100  x\n"; b.String() != want {
		t.Errorf("%q, want %q", b.String(), want)
	}
}
