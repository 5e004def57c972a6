package demo

import (
	"fmt"
	"strings"
	"time"
	"unicode"

	"github.com/mattn/go-runewidth"
)

// This file owns the table: what stands in which cell of a screen of any size.

// frame is the screen: lines of at most width cells, at most height of them.
func (d *state) frame(width, height int, now time.Time) []string {
	f := d.figures(now)
	d.mu.Lock()
	defer d.mu.Unlock()
	fit := func(s string) string { return runewidth.Truncate(s, width, "…") }
	var tags []string
	status, guarantee := "", ""
	if d.worker != nil {
		tags, guarantee = d.worker.Models, d.worker.Guarantee
		if a := d.worker.Address; a != "" {
			status = "   http://" + a + "/status"
		}
	}
	lines := []string{
		bold(fit(fmt.Sprintf("sluice demo   broker %s   %s -> %s%s", d.plan.Broker, inputTopic, outputTopic, status))),
		fit(fmt.Sprintf("models  %s   %s", strings.Join(tags, " "), guarantee)),
		fit(f.String()),
	}
	if d.worker != nil {
		if p := d.worker.Problem(); p != "" {
			lines = append(lines, red(fit(printable(p))))
		}
	}
	lines = append(lines, "")
	columns := columnsOf(width)
	header := ""
	for _, c := range columns {
		header += cell(c.title, c.width, c.last)
	}
	lines = append(lines, bold(fit(header)))
	room := height - len(lines) - 1
	rows := d.rows[max(0, len(d.rows)-max(0, room)):]
	for _, r := range rows {
		line := ""
		for _, c := range columns {
			text := cell(c.value(r), c.width, c.last)
			if c.paint != nil {
				text = c.paint(r, text)
			}
			line += text
		}
		lines = append(lines, line)
	}
	for len(lines) < height-1 {
		lines = append(lines, "")
	}
	lines = append(lines, dim(fit("Ctrl-C ends the demo and finishes what is in flight")))
	return lines[:min(len(lines), max(1, height))]
}

// column is one column of the table.
type column struct {
	title string
	width int
	last  bool // takes the rest; no space behind it
	value func(row) string
	paint func(row, string) string
}

// columnsOf are the columns that fit, the text always last: right-to-left texts and emoji of uncertain width then
// disturb nothing.
func columnsOf(width int) []column {
	source := column{title: "OFFSET", width: 9, value: func(r row) string { return r.source }}
	verdict := column{title: "VERDICT", width: 10, value: func(r row) string {
		if r.topic == deadLetterTopic {
			return "DEAD"
		}
		if len(r.verdicts) == 0 {
			return "-"
		}
		label := printable(r.verdicts[0].label)
		switch {
		case r.was != "" && r.was != r.verdicts[0].label:
			return "≠ " + label
		case r.was != "":
			return "= " + label
		case r.provisional:
			return label + "?"
		}
		return label
	}, paint: func(r row, s string) string {
		switch {
		case r.topic == deadLetterTopic:
			return red(s)
		case len(r.verdicts) > 0 && strings.EqualFold(r.verdicts[0].label, "negative"):
			return yellow(s)
		case len(r.verdicts) > 0 && strings.EqualFold(r.verdicts[0].label, "positive"):
			return green(s)
		}
		return s
	}}
	score := column{title: "SCORE", width: 6, value: func(r row) string {
		if len(r.verdicts) == 0 {
			return ""
		}
		return fmt.Sprintf("%.4f", r.verdicts[0].score)
	}}
	entities := column{title: "ENTITIES", width: 0, value: row.entityList}
	by := column{title: "BY", width: 8, value: func(r row) string { return r.by }}
	text := column{title: "TEXT", last: true, value: func(r row) string {
		if r.failure != "" {
			return printable(r.failure)
		}
		return printable(r.text)
	}}
	columns := []column{source, verdict, score, entities, by, text}
	switch {
	case width >= 90:
		columns[3].width = min(40, 18+(width-90)/3)
	case width >= 60:
		columns = []column{source, verdict, score, by, text}
	case width >= 24:
		columns = []column{verdict, text}
	default:
		columns = []column{text}
	}
	used := 0
	for _, c := range columns[:len(columns)-1] {
		used += c.width + 1
	}
	columns[len(columns)-1].width = max(1, width-used)
	return columns
}

// cell is text in exactly width cells and a space behind it; the last column is not filled up.
func cell(text string, width int, last bool) string {
	text = runewidth.Truncate(text, width, "…")
	if last {
		return text
	}
	return runewidth.FillRight(text, width) + " "
}

// printable makes a text safe for a terminal and keeps it on one line: no control character, no change of direction and
// no invalid byte gets through.
func printable(s string) string {
	var b strings.Builder
	for _, r := range s {
		switch {
		case r == '\t' || r == '\n' || r == '\r' || r == '\u2028' || r == '\u2029':
			b.WriteByte(' ')
		case unicode.IsControl(r):
			b.WriteRune('·')
		case r == '\u200d' || r == '\ufe0f': // joins and colours emoji
			b.WriteRune(r)
		case unicode.Is(unicode.Cf, r): // direction marks, byte order mark, tags
		default:
			b.WriteRune(r)
		}
	}
	return b.String()
}

func bold(s string) string   { return "\x1b[1m" + s + "\x1b[0m" }
func dim(s string) string    { return "\x1b[2m" + s + "\x1b[0m" }
func red(s string) string    { return "\x1b[31m" + s + "\x1b[0m" }
func green(s string) string  { return "\x1b[32m" + s + "\x1b[0m" }
func yellow(s string) string { return "\x1b[33m" + s + "\x1b[0m" }
