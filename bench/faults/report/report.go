// Package report writes docs/reliability.md: one row for every fault and length of run, with the seed and the day on
// which it was last injected. A run replaces the rows that it made again and keeps the others.
package report

import (
	"fmt"
	"slices"
	"strings"
)

// Row is what one scenario brought.
type Row struct {
	Name     string // of the scenario: -only NAME runs it again
	Length   string // short or long
	Fault    string
	Injected string // how
	Promises string // that were checked, such as "P1 P2 P4 P8"
	Result   string // pass, FAIL, or not injected
	Counts   string // what was counted, or why there is nothing to count
	Seed     string
	Date     string // 2006-01-02
}

// Results.
const (
	Pass        = "pass"
	Fail        = "FAIL"
	NotInjected = "not injected"
)

const head = `# Faults survived

What happens to Sluice when what is around it fails, as it was last tried on real Apache Kafka brokers.
` + "`make faults`" + ` makes the short rows anew, ` + "`LONG=1 make faults`" + ` the long ones,
` + "`go run ./bench/faults -only NAME -seed SEED`" + ` one of them again with the same schedule. Up to three
scenarios run at the same time, each on brokers of its own. Every row: workers are processes of ` + "`sluice run`" + `
with the bundled model sentiment-tiny, a proxy stands between them and the brokers, records keep coming while the fault
lasts, supervisors start ended workers again, and nobody else does anything. Afterwards an independent client (franz-go)
reads every topic, and a checker compares.

| promise | what the checker demands |
| --- | --- |
| P1 | each input record has exactly one result or dead letter for a read_committed reader; a provisional ` +
	`result has exactly one final verdict behind it, from the endpoint or with a reason |
| P2 | outputs of one input partition keep its order |
| P3 | an alert is visible if and only if the result is that it copies |
| P4 | committed offsets never go back, never pass the end of the log, and no output is ` +
	`visible whose record is not committed |
| P5 | equal texts have the same verdict, byte for byte |
| P6 | source fields come out byte for byte |
| P7 | memory and work in flight stay within the bound that the row names |
| P8 | after the fault the lag goes to zero by itself |
| P10 | a restart within the session timeout causes no rebalance |

`

const columns = "| scenario | run | fault | how it was injected | promises | result | counted | seed | date |"
const rule = "| --- | --- | --- | --- | --- | --- | --- | --- | --- |"

func (r Row) cells() []string {
	return []string{r.Name, r.Length, r.Fault, r.Injected, r.Promises, r.Result, r.Counts, r.Seed, r.Date}
}

// Render is the whole page.
func Render(rows []Row) string {
	var b strings.Builder
	b.WriteString(head + columns + "\n" + rule + "\n")
	for _, r := range rows {
		b.WriteString("|")
		for _, c := range r.cells() {
			b.WriteString(" " + escape(c) + " |")
		}
		b.WriteString("\n")
	}
	return b.String()
}

// Parse reads the rows of a page that Render made. A page without the table has none.
func Parse(page string) ([]Row, error) {
	_, table, found := strings.Cut(page, columns+"\n"+rule+"\n")
	if !found {
		if strings.TrimSpace(page) == "" {
			return nil, nil
		}
		return nil, fmt.Errorf("the page holds no table %q: it was not made by this program, or by another version "+
			"of it", columns)
	}
	var rows []Row
	for i, line := range strings.Split(strings.TrimRight(table, "\n"), "\n") {
		if line == "" {
			continue
		}
		c := split(line)
		if len(c) != 9 {
			return nil, fmt.Errorf("row %d of the table has %d cells, not 9: %s", i+1, len(c), line)
		}
		rows = append(rows, Row{c[0], c[1], c[2], c[3], c[4], c[5], c[6], c[7], c[8]})
	}
	return rows, nil
}

// Merge puts new rows in place of old ones of the same scenario and length. The order is that of names, the scenarios
// in the order in which they are defined; rows of others are dropped, for what is not defined any more is not tested.
func Merge(names []string, old, made []Row) []Row {
	type id struct{ name, length string }
	byID := map[id]Row{}
	for _, r := range append(slices.Clone(old), made...) {
		byID[id{r.Name, r.Length}] = r
	}
	var all []Row
	for _, n := range names {
		for _, length := range []string{"short", "long"} {
			if r, ok := byID[id{n, length}]; ok {
				all = append(all, r)
			}
		}
	}
	return all
}

var escaper = strings.NewReplacer("\\", "\\\\", "|", "\\|", "\n", " ", "\r", " ")

func escape(s string) string { return strings.TrimSpace(escaper.Replace(s)) }

// split is the cells of a table row, escapes undone.
func split(line string) []string {
	var cells []string
	var cell strings.Builder
	line = strings.TrimSpace(line)
	for i := 1; i < len(line); i++ {
		switch {
		case line[i] == '\\' && i+1 < len(line):
			i++
			cell.WriteByte(line[i])
		case line[i] == '|':
			cells = append(cells, strings.TrimSpace(cell.String()))
			cell.Reset()
		default:
			cell.WriteByte(line[i])
		}
	}
	return cells
}
