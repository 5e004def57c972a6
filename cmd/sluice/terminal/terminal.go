// Package terminal is what commands know about where their output goes: whether a person sits there, how large the
// screen is, and how to show what changes and what stands in columns.
package terminal

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/term"
)

// Size says whether w is a terminal, and how many columns and lines it has.
func Size(w io.Writer) (width, height int, ok bool) {
	f, isFile := w.(*os.File)
	if !isFile || !term.IsTerminal(int(f.Fd())) || os.Getenv("TERM") == "dumb" {
		return 0, 0, false
	}
	width, height, err := term.GetSize(int(f.Fd()))
	if err != nil || width <= 0 || height <= 0 {
		return 80, 24, true
	}
	return width, height, true
}

// Asks says whether somebody can answer a question at r.
func Asks(r io.Reader) bool {
	f, ok := r.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// Progress shows work while it goes on: lines that stay, and on a terminal one line that changes.
type Progress struct {
	w     io.Writer
	tty   bool
	width int
	shown bool
	last  time.Time
}

// NewProgress shows progress on w.
func NewProgress(w io.Writer) *Progress {
	width, _, tty := Size(w)
	return &Progress{w: w, tty: tty, width: width}
}

// Say prints a line that stays.
func (p *Progress) Say(format string, args ...any) {
	p.Clear()
	fmt.Fprintf(p.w, format+"\n", args...)
}

// Clear takes the line that changes away.
func (p *Progress) Clear() {
	if p.shown {
		fmt.Fprint(p.w, "\r\x1b[K")
		p.shown = false
	}
}

// Status shows a line that the next one replaces; nothing where there is no terminal.
func (p *Progress) Status(format string, args ...any) {
	if !p.tty {
		return
	}
	p.shown = true
	line := []rune(fmt.Sprintf(format, args...))
	if len(line) > p.width-1 {
		line = line[:max(0, p.width-1)]
	}
	fmt.Fprint(p.w, "\r"+string(line)+"\x1b[K")
}

// often is how long a line stays before Tick replaces it.
const often = 200 * time.Millisecond

// Tick is Status for what comes more often than anybody reads it: line is asked for only when it is shown.
func (p *Progress) Tick(line func() string) {
	if now := time.Now(); p.tty && now.Sub(p.last) >= often {
		p.last = now
		p.Status("%s", line())
	}
}

// WriteTable writes rows as columns that are aligned to the right, but for the first. All rows have as many cells.
func WriteTable(w io.Writer, rows [][]string) {
	width := make([]int, len(rows[0]))
	for _, r := range rows {
		for i, c := range r {
			width[i] = max(width[i], len([]rune(c)))
		}
	}
	for _, r := range rows {
		var b strings.Builder
		for i, c := range r {
			pad := strings.Repeat(" ", width[i]-len([]rune(c)))
			if i == 0 {
				b.WriteString(c + pad)
			} else {
				b.WriteString("  " + pad + c)
			}
		}
		fmt.Fprintln(w, strings.TrimRight(b.String(), " "))
	}
}
