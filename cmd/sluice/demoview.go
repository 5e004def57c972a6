package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"sort"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode"

	"github.com/mattn/go-runewidth"

	"sluice/cmd/sluice/settings"
)

// This file is what the demo shows: a state that producer, consumer and worker write to, and a view of it, as a table
// that is drawn again ten times a second or as plain lines.

// demoState is what has happened so far.
type demoState struct {
	began    time.Time
	broker   string
	settings *settings.Settings
	problems *problemLog

	mu        sync.Mutex
	worker    *runningWorker
	attached  chan struct{}
	sent      int
	results   int
	dead      int
	repeated  int             // results that came a second time
	open      map[string]bool // records, by source, whose result is provisional
	amended   int             // final verdicts by the endpoint
	changed   int             // of them: with another label
	fellBack  int             // final verdicts that are the local one
	waits     []time.Duration // from produced to final, a ring
	waitRing  int
	last      map[string]int64 // newest source offset by topic and source partition
	labels    map[string]int   // verdicts by label
	entities  map[string]int   // entities by group
	first     time.Duration    // from the start to the first verdict
	firstAt   time.Time
	lastAt    time.Time
	latencies []time.Duration // of the latest results, a ring
	arrivals  []time.Time     // of the latest results, a ring
	ring      int
	rows      []demoRow // the latest, newest last
	answer    chan struct{}
}

const (
	demoRing = 4096
	demoRows = 200
)

func newDemoState(began time.Time, broker string, s *settings.Settings) *demoState {
	return &demoState{began: began, broker: broker, settings: s, attached: make(chan struct{}),
		last:   map[string]int64{},
		labels: map[string]int{}, entities: map[string]int{}, open: map[string]bool{}, answer: make(chan struct{}, 1)}
}

// attach makes the worker's status visible.
func (d *demoState) attach(w *runningWorker) {
	d.mu.Lock()
	d.worker = w
	d.mu.Unlock()
	close(d.attached)
}

// ready waits until the worker has loaded its models.
func (d *demoState) ready(ctx context.Context) error {
	select {
	case <-d.attached:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (d *demoState) produced() {
	d.mu.Lock()
	d.sent++
	d.mu.Unlock()
}

// waitForAnswers waits while more than ahead records have no answer yet.
func (d *demoState) waitForAnswers(ctx context.Context, ahead int) error {
	for {
		d.mu.Lock()
		open := d.sent - d.results - d.dead
		d.mu.Unlock()
		if open < ahead {
			return nil
		}
		select {
		case <-d.answer:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// answered takes note of a result or dead letter.
func (d *demoState) answered(row demoRow) demoRow {
	now := time.Now()
	d.mu.Lock()
	defer d.mu.Unlock()
	if row.amends {
		d.amend(&row)
		return row
	}
	partition, offset, _ := strings.Cut(row.source, "/")
	key := row.topic + "/" + partition
	if n, err := strconv.ParseInt(offset, 10, 64); err == nil {
		if last, ok := d.last[key]; ok && n <= last {
			d.repeated++
			return row
		}
		d.last[key] = n
	}
	if row.topic == demoDeadLetter {
		d.dead++
	} else {
		d.results++
		if row.provisional {
			d.open[row.source] = true
		}
		if d.results == 1 {
			d.first, d.firstAt = now.Sub(d.began), now
		}
		d.lastAt = now
		for _, v := range row.verdicts {
			d.labels[v.label]++
		}
		for _, e := range row.entities {
			d.entities[e.group]++
		}
		if len(d.latencies) < demoRing {
			d.latencies, d.arrivals = append(d.latencies, row.latency), append(d.arrivals, now)
		} else {
			d.latencies[d.ring], d.arrivals[d.ring] = row.latency, now
			d.ring = (d.ring + 1) % demoRing
		}
	}
	d.list(row)
	select {
	case d.answer <- struct{}{}:
	default:
	}
	return row
}

// list adds a row to the table. d.mu is held.
func (d *demoState) list(row demoRow) {
	if d.rows = append(d.rows, row); len(d.rows) > 2*demoRows {
		d.rows = slices.Clone(d.rows[len(d.rows)-demoRows:])
	}
}

// amend takes note of a final verdict. d.mu is held.
func (d *demoState) amend(row *demoRow) {
	if !d.open[row.source] {
		d.repeated++
		return
	}
	delete(d.open, row.source)
	if row.was == "" {
		d.fellBack++
	} else {
		d.amended++
		if row.was != row.verdicts[0].label {
			d.changed++
		}
	}
	if len(d.waits) < demoRing {
		d.waits = append(d.waits, row.latency)
	} else {
		d.waits[d.waitRing] = row.latency
		d.waitRing = (d.waitRing + 1) % demoRing
	}
	d.list(*row)
}

// complete says that so many records have an answer, and that no answer is provisional.
func (d *demoState) complete(records int) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.results+d.dead >= records && len(d.open) == 0
}

// count is the number of records that have an answer.
func (d *demoState) count() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.results + d.dead
}

// missing says what is wrong with the count of answers to all records, or "".
func (d *demoState) missing(records int) string {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case records > 0 && d.results+d.dead != records:
		return fmt.Sprintf("demo: %d records were to be judged, %d have an answer", records, d.results+d.dead)
	case d.repeated > 0:
		return fmt.Sprintf("demo: %d results came twice", d.repeated)
	case records > 0 && len(d.open) > 0:
		return fmt.Sprintf("demo: %d provisional results have no final verdict", len(d.open))
	}
	return ""
}

// demoFigures are the numbers above the table.
type demoFigures struct {
	sent, results, dead int
	rate                float64 // verdicts a second over the last 5 s
	p50, p99            time.Duration
	lag                 int64
	inFlight            int
	asked               bool // there are amendments to speak of
	amended, fellBack   int
	changed, open       int
	wait                time.Duration // p50 from produced to final
}

func (d *demoState) figures(now time.Time) demoFigures {
	d.mu.Lock()
	f := demoFigures{sent: d.sent, results: d.results, dead: d.dead, asked: d.settings.Escalation.On(),
		amended: d.amended, fellBack: d.fellBack, changed: d.changed, open: len(d.open)}
	f.wait, _ = percentiles(d.waits)
	const window = 5 * time.Second
	recent := 0
	for _, t := range d.arrivals {
		if now.Sub(t) < window {
			recent++
		}
	}
	if span := min(window, now.Sub(d.firstAt)); recent > 0 && span > 0 {
		f.rate = float64(recent) / max(span, time.Second).Seconds()
		if len(d.arrivals) == demoRing && recent == demoRing { // more than the ring holds
			oldest := d.arrivals[d.ring]
			f.rate = demoRing / max(now.Sub(oldest), time.Millisecond).Seconds()
		}
	}
	f.p50, f.p99 = percentiles(d.latencies)
	worker := d.worker
	d.mu.Unlock()
	if worker != nil {
		for _, p := range worker.stage.Status().Partitions {
			f.lag += max(0, p.Lag)
			f.inFlight += p.InFlight
		}
	}
	return f
}

func percentiles(list []time.Duration) (p50, p99 time.Duration) {
	if len(list) == 0 {
		return 0, 0
	}
	sorted := slices.Clone(list)
	slices.Sort(sorted)
	return sorted[len(sorted)/2], sorted[min(len(sorted)-1, len(sorted)*99/100)]
}

// summary is printed at the end.
func (d *demoState) summary(w io.Writer, records int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.results+d.dead == 0 {
		return
	}
	took := d.lastAt.Sub(d.firstAt)
	p50, p99 := percentiles(d.latencies)
	fmt.Fprintf(w, "\n%d records in, %d results and %d dead letters out, %d of them twice\n", d.sent, d.results, d.dead,
		d.repeated)
	if took > 0 && d.results > 1 {
		fmt.Fprintf(w, "%.1f verdicts/s over %.1f s; latency from produced to read committed: p50 %s, p99 %s\n",
			float64(d.results-1)/took.Seconds(), took.Seconds(), milliseconds(p50), milliseconds(p99))
	}
	fmt.Fprintf(w, "first verdict %.1f s after the start\n", d.first.Seconds())
	if len(d.labels) > 0 {
		fmt.Fprintf(w, "labels    %s\n", tally(d.labels))
	}
	if len(d.entities) > 0 {
		fmt.Fprintf(w, "entities  %s\n", tally(d.entities))
	}
	if d.settings.Escalation.On() {
		wait, most := percentiles(d.waits)
		fmt.Fprintf(w, "endpoint  %d of %d records were asked about: %d amended (%d with another label), %d fell "+
			"back, %d open; p50 %s, p99 %s from produced to final\n",
			d.amended+d.fellBack+len(d.open), d.results, d.amended, d.changed, d.fellBack, len(d.open),
			milliseconds(wait), milliseconds(most))
	}
	if records > 0 && d.results+d.dead == records && d.repeated == 0 && len(d.open) == 0 {
		fmt.Fprintln(w, "every record has exactly one answer")
	}
}

// tally is "POSITIVE 12, NEGATIVE 3", the most frequent first.
func tally(counts map[string]int) string {
	names := make([]string, 0, len(counts))
	for n := range counts {
		names = append(names, n)
	}
	sort.Slice(names, func(i, j int) bool {
		if a, b := counts[names[i]], counts[names[j]]; a != b {
			return a > b
		}
		return names[i] < names[j]
	})
	for i, n := range names {
		names[i] = fmt.Sprintf("%s %d", printable(n), counts[n])
	}
	return strings.Join(names, ", ")
}

func milliseconds(d time.Duration) string {
	if d < 10*time.Second {
		return fmt.Sprintf("%d ms", d.Milliseconds())
	}
	return fmt.Sprintf("%.1f s", d.Seconds())
}

// demoView writes the state to a terminal or to a pipe.
type demoView struct {
	out   io.Writer
	state *demoState
	table bool

	mu   sync.Mutex
	on   bool // the table has the screen
	stop chan struct{}
	done chan struct{}
	said time.Time // when the last line of figures was printed (plain)
}

func newDemoView(out io.Writer, state *demoState, plain bool) *demoView {
	_, _, terminal := isTerminal(out)
	return &demoView{out: out, state: state, table: terminal && !plain, stop: make(chan struct{}),
		done: make(chan struct{})}
}

// say prints a line, unless the table has the screen.
func (v *demoView) say(format string, args ...any) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if !v.on {
		fmt.Fprintf(v.out, format+"\n", args...)
	}
}

// logWriter keeps log lines off the table, which shows the latest problem itself.
func (v *demoView) logWriter(w io.Writer) io.Writer { return &logGate{v, w} }

type logGate struct {
	v *demoView
	w io.Writer
}

func (g *logGate) Write(b []byte) (int, error) {
	g.v.mu.Lock()
	defer g.v.mu.Unlock()
	if g.v.on {
		return len(b), nil
	}
	return g.w.Write(b)
}

// Sequences of a terminal: the alternate screen without cursor and without wrapping, and back.
const (
	screenOn  = "\x1b[?1049h\x1b[?25l\x1b[?7l"
	screenOff = "\x1b[?7h\x1b[?25h\x1b[?1049l"
)

// begin gives the screen to the table. Plain lines need no beginning.
func (v *demoView) begin() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.said = time.Now()
	if !v.table {
		close(v.done)
		return
	}
	v.on = true
	io.WriteString(v.out, screenOn)
	go func() {
		defer close(v.done)
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for {
			v.draw()
			select {
			case <-tick.C:
			case <-v.stop:
				return
			}
		}
	}()
}

// end gives the screen back.
func (v *demoView) end() {
	close(v.stop)
	v.mu.Lock()
	on := v.on
	v.mu.Unlock()
	if !on {
		return
	}
	<-v.done
	v.mu.Lock()
	v.on = false
	io.WriteString(v.out, screenOff)
	v.mu.Unlock()
}

// draw paints one frame in one write, line over line, so that nothing flickers.
func (v *demoView) draw() {
	width, height, _ := isTerminal(v.out)
	var b strings.Builder
	b.WriteString("\x1b[H")
	for i, line := range v.state.frame(width, height, time.Now()) {
		if i > 0 {
			b.WriteString("\r\n")
		}
		b.WriteString(line)
		b.WriteString("\x1b[0m\x1b[K")
	}
	b.WriteString("\x1b[J")
	io.WriteString(v.out, b.String())
}

// show prints a row, where there is no table.
func (v *demoView) show(row demoRow) {
	if v.table {
		return
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	fmt.Fprintln(v.out, row.plain())
	if now := time.Now(); now.Sub(v.said) > 5*time.Second {
		v.said = now
		fmt.Fprintln(v.out, "-- "+v.state.figures(now).String())
	}
}

func (f demoFigures) String() string {
	s := fmt.Sprintf("%d in, %d verdicts, %.0f/s, %d dead letters | latency p50 %s, p99 %s | lag %d, in flight %d",
		f.sent, f.results, f.rate, f.dead, milliseconds(f.p50), milliseconds(f.p99), f.lag, f.inFlight)
	if f.asked {
		s += fmt.Sprintf(" | endpoint: %d amended (%d changed), %d fell back, %d open, p50 %s", f.amended, f.changed,
			f.fellBack, f.open, milliseconds(f.wait))
	}
	return s
}

// plain is a row as one line: offset, verdicts, entities, route, text.
func (r demoRow) plain() string {
	return strings.Join([]string{r.source, r.verdict(), r.entityList(), r.by, printable(r.text)}, "  ")
}

func (r demoRow) verdict() string {
	if r.topic == demoDeadLetter {
		return "DEAD LETTER " + printable(r.failure)
	}
	parts := make([]string, len(r.verdicts))
	for i, v := range r.verdicts {
		parts[i] = fmt.Sprintf("%s %.4f", printable(v.label), v.score)
	}
	switch {
	case r.was != "":
		parts = append(parts, "(amended, was "+printable(r.was)+")")
	case r.amends:
		parts = append(parts, "(final: "+printable(r.reason)+")")
	case r.provisional:
		parts = append(parts, "(asking)")
	}
	if len(parts) == 0 {
		return "-"
	}
	return strings.Join(parts, " ")
}

func (r demoRow) entityList() string {
	if len(r.entities) == 0 {
		return "-"
	}
	parts := make([]string, len(r.entities))
	for i, e := range r.entities {
		parts[i] = printable(e.group) + ":" + printable(e.word)
	}
	return strings.Join(parts, ", ")
}

// frame is the screen: lines of at most width cells, at most height of them.
func (d *demoState) frame(width, height int, now time.Time) []string {
	f := d.figures(now)
	d.mu.Lock()
	defer d.mu.Unlock()
	fit := func(s string) string { return runewidth.Truncate(s, width, "…") }
	var tags []string
	status := ""
	if d.worker != nil {
		for _, m := range d.worker.models {
			tags = append(tags, m.Model)
		}
		if a := d.worker.server.address(); a != "" {
			status = "   http://" + a + "/status"
		}
	}
	lines := []string{
		bold(fit(fmt.Sprintf("sluice demo   broker %s   %s -> %s%s", d.broker, demoInput, demoOutput, status))),
		fit(fmt.Sprintf("models  %s   %s", strings.Join(tags, " "), d.settings.Kafka.Guarantee)),
		fit(f.String()),
	}
	if d.problems != nil {
		if p := d.problems.last(); p != nil {
			lines = append(lines, red(fit(p.Time.Format(time.TimeOnly)+" "+printable(p.Message))))
		}
	}
	lines = append(lines, "")
	columns := demoColumns(width)
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

// demoColumn is one column of the table.
type demoColumn struct {
	title string
	width int
	last  bool // takes the rest; no space behind it
	value func(demoRow) string
	paint func(demoRow, string) string
}

// demoColumns are the columns that fit, the text always last: right-to-left texts and emoji of uncertain width then
// disturb nothing.
func demoColumns(width int) []demoColumn {
	source := demoColumn{title: "OFFSET", width: 9, value: func(r demoRow) string { return r.source }}
	verdict := demoColumn{title: "VERDICT", width: 10, value: func(r demoRow) string {
		if r.topic == demoDeadLetter {
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
	}, paint: func(r demoRow, s string) string {
		switch {
		case r.topic == demoDeadLetter:
			return red(s)
		case len(r.verdicts) > 0 && strings.EqualFold(r.verdicts[0].label, "negative"):
			return yellow(s)
		case len(r.verdicts) > 0 && strings.EqualFold(r.verdicts[0].label, "positive"):
			return green(s)
		}
		return s
	}}
	score := demoColumn{title: "SCORE", width: 6, value: func(r demoRow) string {
		if len(r.verdicts) == 0 {
			return ""
		}
		return fmt.Sprintf("%.4f", r.verdicts[0].score)
	}}
	entities := demoColumn{title: "ENTITIES", width: 0, value: demoRow.entityList}
	by := demoColumn{title: "BY", width: 8, value: func(r demoRow) string { return r.by }}
	text := demoColumn{title: "TEXT", last: true, value: func(r demoRow) string {
		if r.failure != "" {
			return printable(r.failure)
		}
		return printable(r.text)
	}}
	columns := []demoColumn{source, verdict, score, entities, by, text}
	switch {
	case width >= 90:
		columns[3].width = min(40, 18+(width-90)/3)
	case width >= 60:
		columns = []demoColumn{source, verdict, score, by, text}
	case width >= 24:
		columns = []demoColumn{verdict, text}
	default:
		columns = []demoColumn{text}
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
