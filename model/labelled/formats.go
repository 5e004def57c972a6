package labelled

import (
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"sluice/model"
)

// This file owns the formats of labelled files, and what a label may be written as.

// format is how rows stand in a file.
type format int

const (
	byContent format = iota
	jsonLines
	tsv
	csvFormat
	iob2
)

// formats are the endings of names, without those of compressed files.
var formats = map[string]format{".jsonl": jsonLines, ".ndjson": jsonLines, ".json": jsonLines, ".tsv": tsv,
	".csv": csvFormat, ".iob2": iob2, ".iob": iob2, ".conll": iob2}

// Names that a text has in Hugging Face's datasets; the first that is there counts.
var textNames = []string{"text", "sentence", "content"}

// formatOf tells the format of a file by its name, or else by its first line that is not empty.
func formatOf(name string, lines []string) format {
	name = strings.ToLower(name)
	for _, packed := range []string{".gz", ".zst"} {
		name = strings.TrimSuffix(name, packed)
	}
	if at := strings.LastIndexByte(name, '.'); at >= 0 && formats[name[at:]] != byContent {
		return formats[name[at:]]
	}
	for _, line := range lines {
		line = strings.TrimSpace(line)
		if line == "" {
			continue
		}
		for _, f := range []format{tsv, csvFormat} {
			header := names(strings.Split(line, separators[f]))
			if len(header) > 1 && has(header, textNames) && has(header, []string{"label", "labels"}) {
				return f
			}
		}
		break
	}
	return jsonLines
}

var separators = map[format]string{tsv: "\t", csvFormat: ","}

func has(header, wanted []string) bool {
	return slices.ContainsFunc(wanted, func(name string) bool { return slices.Contains(header, name) })
}

// names are those of a header's cells.
func names(cells []string) []string {
	header := make([]string, len(cells))
	for i, cell := range cells {
		header[i] = strings.ToLower(strings.Trim(strings.TrimSpace(cell), `"`))
	}
	return header
}

// rows reads what a file holds and gives it to row, until that has enough. The error is about the file as a whole.
func (w Wanted) rows(lines []string, row func(line int, t Text, err error) bool) error {
	switch formatOf(w.Name, lines) {
	case tsv:
		return w.table(func(yield func(line int, cells []string, err error) bool) {
			for i, line := range lines {
				if strings.TrimSpace(line) != "" && !yield(i+1, strings.Split(line, "\t"), nil) {
					return
				}
			}
		}, "tabs", row)
	case csvFormat:
		return w.table(csvRows(lines), "commas", row)
	case iob2:
		return w.sentences(lines, row)
	}
	for i, line := range lines {
		if strings.TrimSpace(line) == "" {
			continue
		}
		t, err := w.parse(strings.TrimLeft(line, " \t"))
		if !row(i+1, t, err) {
			return nil
		}
	}
	return nil
}

// csvRows reads CSV as RFC 4180 has it: a field with a comma, a quote or a line end stands in quotes, its quotes twice.
func csvRows(lines []string) func(yield func(line int, cells []string, err error) bool) {
	return func(yield func(line int, cells []string, err error) bool) {
		r := csv.NewReader(strings.NewReader(strings.Join(lines, "\n")))
		r.FieldsPerRecord = -1
		for {
			cells, err := r.Read()
			var wrong *csv.ParseError
			switch {
			case err == io.EOF:
				return
			case errors.As(err, &wrong) && errors.Is(err, csv.ErrQuote):
				yield(wrong.StartLine, nil, errors.New("a quoted field does not end where a comma or the line's end "+
					"follows; write quotes within a field twice, and close it with one"))
				return
			case err != nil:
				yield(wrong.StartLine, nil, errors.New("a field that does not begin with a quote has one in it; put "+
					"the whole field in quotes, and write those within it twice"))
				return
			}
			line, _ := r.FieldPos(0)
			if !yield(line, cells, nil) {
				return
			}
		}
	}
}

// table reads rows under a header.
func (w Wanted) table(rows func(yield func(line int, cells []string, err error) bool), separated string,
	row func(line int, t Text, err error) bool) error {
	if w.Form == Entities {
		return fmt.Errorf("a table has one label a text, and the model finds entities; write lines like %s, or IOB2 "+
			"in a file whose name ends in .iob2", w.example())
	}
	var header []string
	var failed error
	text, label, llm := -1, -1, -1
	rows(func(line int, cells []string, err error) bool {
		if header == nil && err == nil {
			header = names(cells)
			labels := []string{"label", "labels"}
			if w.Form == IndependentLabels {
				slices.Reverse(labels)
			}
			text, label, llm = first(header, textNames...), first(header, labels...), first(header, "llm")
			missing := "text"
			if text >= 0 {
				missing = "label"
			}
			if text < 0 || label < 0 {
				failed = fmt.Errorf("line %d: no column %s; the first line must be a header with text and label, "+
					"separated by %s (it has: %s)", line, missing, separated, listed(header))
			}
			return failed == nil
		}
		var t Text
		switch {
		case err != nil:
		case len(cells) != len(header):
			err = fmt.Errorf("has %d columns where the header has %d; they are separated by %s", len(cells),
				len(header), separated)
		default:
			t.Text = cells[text]
			if w.Form == IndependentLabels {
				t.Labels = w.several(cells[label])
				break
			}
			t.Label = strings.TrimSpace(cells[label])
			if llm >= 0 && strings.TrimSpace(cells[llm]) != "" {
				t.LLM, t.Answered = strings.TrimSpace(cells[llm]), true
			}
		}
		return row(line, t, err)
	})
	return failed
}

// several are the labels of a cell: one that is called as the whole cell, or those between its commas.
func (w Wanted) several(cell string) []string {
	labels := []string{}
	if name := strings.TrimSpace(cell); nameOf(name, w.Known) >= 0 {
		return append(labels, name)
	}
	for name := range strings.SplitSeq(cell, ",") {
		if name = strings.TrimSpace(name); name != "" {
			labels = append(labels, name)
		}
	}
	return labels
}

func first(header []string, wanted ...string) int {
	for _, name := range wanted {
		if at := slices.Index(header, name); at >= 0 {
			return at
		}
	}
	return -1
}

var tag = regexp.MustCompile(`^(O|[BI]-.+)$`)

// sentences reads IOB2: a word and its tag a line, an empty line between sentences. Where there are tabs, they
// separate; else blanks do. A text is its words with a blank between them.
func (w Wanted) sentences(lines []string, row func(line int, t Text, err error) bool) error {
	if w.Form == OneLabel || w.Form == IndependentLabels {
		return fmt.Errorf("IOB2 has a tag for every word, and the model gives labels of whole texts; write lines "+
			"like %s", w.example())
	}
	var t Text
	var words []string
	begun, open := 0, false
	at := 0 // characters of the text so far
	for i, line := range append(slices.Clone(lines), "") {
		if strings.TrimSpace(line) == "" {
			if t.Text = strings.Join(words, " "); words != nil && t.Text != "-DOCSTART-" {
				if t.Entities == nil {
					t.Entities = []Entity{}
				}
				t.Label = Canonical(t.Entities)
				if !row(begun, t, nil) {
					return nil
				}
			}
			t, words, open, at = Text{}, nil, false, 0
			continue
		}
		cells := strings.Split(line, "\t")
		if len(cells) < 2 {
			if cells = strings.Fields(line); len(cells) > 1 && !tag.MatchString(cells[len(cells)-1]) {
				cells = nil
			}
		}
		if len(cells) < 2 {
			return fmt.Errorf("line %d: is not a word and its tag (IOB2); write them with a tab between, and an empty "+
				"line between sentences", i+1)
		}
		if words == nil {
			begun = i + 1
		}
		word, label := cells[0], strings.TrimSpace(cells[len(cells)-1])
		words = append(words, word)
		end := at + utf8.RuneCountInString(word)
		position, group := model.SplitLabel(label)
		last := len(t.Entities) - 1
		switch {
		case label == "O":
			open = false
		case open && position == "I" && t.Entities[last].Group == group:
			t.Entities[last].End = end
		default:
			t.Entities, open = append(t.Entities, Entity{group, at, end}), true
		}
		at = end + 1
	}
	return nil
}

// nameOf is the place of a name among the known ones: as it is written, or else in another case of ASCII, where only
// one is so called. -1: it is none of them.
func nameOf(name string, known []string) int {
	if at := slices.Index(known, name); at >= 0 {
		return at
	}
	found := -1
	for i, k := range known {
		if lower(k) == lower(name) {
			if found >= 0 {
				return -1
			}
			found = i
		}
	}
	return found
}

func lower(s string) string {
	return strings.Map(func(r rune) rune {
		if r >= 'A' && r <= 'Z' {
			r += 'a' - 'A'
		}
		return r
	}, s)
}

var wholeNumber = regexp.MustCompile(`^\s*([+-]?[0-9]+)(\.0*)?\s*$`)

// idOf is the place of a label that is written as its name or as its number: 1, "1" and 1.0. A name counts first.
func idOf(label string, known []string) int {
	if at := nameOf(label, known); at >= 0 {
		return at
	}
	m := wholeNumber.FindStringSubmatch(label)
	if m == nil {
		return -1
	}
	n, err := strconv.Atoi(m[1])
	if err != nil {
		return -1
	}
	if at := nameOf(strconv.Itoa(n), known); at >= 0 {
		return at
	}
	if n < 0 || n >= len(known) {
		return -1
	}
	return n
}

// numberName is a number of JSON as a label: a whole one without the point that pandas gives it.
func numberName(number string) string {
	if x, err := strconv.ParseFloat(number, 64); err == nil && x == math.Trunc(x) && math.Abs(x) < 1<<53 {
		return strconv.FormatInt(int64(x), 10)
	}
	return number
}
