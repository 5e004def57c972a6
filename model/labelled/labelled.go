// Package labelled reads labelled texts: JSON lines, each with a text and with what is right about it. It is the only
// reader of such files, for tuning and for calibrating. It is pure: it runs no model.
package labelled

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode/utf8"
)

// Text is one line of a labelled file.
type Text struct {
	Line     int // of the file, from 1
	Text     string
	Label    string   // the one that is right; of entities Canonical of them
	Labels   []string // IndependentLabels: all that are right; nil for other forms
	Entities []Entity // Entities: in the order of the line, not nil; nil for other forms
	LLM      string   // what an endpoint answered for it
	Answered bool     // there is an LLM; it may be an answer of no use
}

// Entity is a span of a text with its group, as token-classification finds it.
type Entity struct {
	Group string `json:"entity_group"`
	Start int    `json:"start"` // characters of the text, half-open
	End   int    `json:"end"`
}

// Canonical is entities as one label: two verdicts are the same where it is, whatever their order.
func Canonical(entities []Entity) string {
	words := make([]string, len(entities))
	for i, e := range slices.SortedFunc(slices.Values(entities), compareEntities) {
		words[i] = fmt.Sprintf("%s %d-%d", e.Group, e.Start, e.End)
	}
	return strings.Join(words, ", ")
}

func compareEntities(a, b Entity) int {
	return cmp.Or(cmp.Compare(a.Start, b.Start), cmp.Compare(a.End, b.End), cmp.Compare(a.Group, b.Group))
}

// Form is what the lines of a file have beside their text.
type Form int

// Forms of labelled files.
const (
	LabelOrEntities   Form = iota // OneLabel or Entities, the same in all lines: the first line decides
	OneLabel                      // "label": "POSITIVE", and perhaps "llm"
	IndependentLabels             // "labels": ["toxic"], any number of them
	Entities                      // "entities": [{"entity_group": "PER", "start": 0, "end": 3}]
)

// Example is a line of the form. label stands in it, where that is not "".
func (f Form) Example(label string) string {
	if label == "" {
		label = "…"
	}
	switch f {
	case Entities:
		return `{"text": "…", "entities": [{"entity_group": "PER", "start": 0, "end": 3}]}`
	case IndependentLabels:
		return fmt.Sprintf(`{"text": "…", "labels": [%q]}`, label)
	default:
		return fmt.Sprintf(`{"text": "…", "label": %q}`, label)
	}
}

// Wanted says which lines a reader expects. The zero value takes a label or entities, whatever they are called.
type Wanted struct {
	Form    Form
	Known   []string // labels, or groups of entities, of the model; nil: not known yet, see CheckLabels
	Suggest Suggest
}

// Suggest is what an error adds about a name that is not among the known ones, as "; did you mean POSITIVE?", or "". A
// nil Suggest has nothing to add.
type Suggest func(name string, known []string) string

const (
	longestLine  = 16 << 20 // bytes
	mostProblems = 10       // that one error names
)

// Read reads JSON lines of the form that is wanted. Other members are ignored, and so are empty lines. The error joins
// the first mistakes, each with its line and what to do.
func Read(r io.Reader, want Wanted) ([]Text, error) {
	var texts []Text
	var errs []error
	lines := bufio.NewScanner(r)
	lines.Buffer(make([]byte, 0, 1<<16), longestLine)
	n := 0
	for lines.Scan() && len(errs) < mostProblems {
		n++
		if len(bytes.TrimSpace(lines.Bytes())) == 0 {
			continue
		}
		t, err := want.parse(lines.Bytes())
		if err != nil {
			errs = append(errs, fmt.Errorf("line %d: %w", n, err))
			continue
		}
		t.Line = n
		if len(texts) > 0 && (t.Entities == nil) != (texts[0].Entities == nil) {
			errs = append(errs, fmt.Errorf(`line %d: line %d has "label" where this has "entities", or the other way `+
				`round; a file is for one model`, n, texts[0].Line))
			continue
		}
		texts = append(texts, t)
	}
	switch err := lines.Err(); {
	case errors.Is(err, bufio.ErrTooLong):
		errs = append(errs, fmt.Errorf("line %d: is longer than %d MiB; write one text a line", n+1, longestLine>>20))
	case err != nil:
		errs = append(errs, fmt.Errorf("line %d: %w", n+1, err))
	case len(errs) == 0 && len(texts) == 0:
		errs = append(errs, fmt.Errorf("there is no text in it; write lines like %s", want.example()))
	}
	return texts, errors.Join(errs...)
}

func (w Wanted) example() string {
	if len(w.Known) == 0 {
		return w.Form.Example("")
	}
	return w.Form.Example(w.Known[0])
}

// members are those of one line, with the example that errors show.
type members struct {
	of      map[string]json.RawMessage
	example string
}

// text reads a member that must be a string.
func (m members) text(name string, into *string) error {
	raw, ok := m.of[name]
	if !ok {
		return fmt.Errorf("has no %q; add it as a string, as in %s", name, m.example)
	}
	if err := json.Unmarshal(raw, into); err != nil || bytes.Equal(raw, []byte("null")) {
		return fmt.Errorf("%q is %.40s, not a string; write it in quotes", name, raw)
	}
	return nil
}

func (w Wanted) parse(line []byte) (t Text, err error) {
	m := members{example: w.example()}
	if err := json.Unmarshal(line, &m.of); err != nil || m.of == nil {
		var syntax *json.SyntaxError
		if errors.As(err, &syntax) {
			return t, fmt.Errorf("is not a JSON object (%w); write %s", err, m.example)
		}
		return t, fmt.Errorf("is not a JSON object; write %s", m.example)
	}
	if err = m.text("text", &t.Text); err != nil {
		return t, err
	}
	if strings.TrimSpace(t.Text) == "" {
		return t, errors.New(`"text" is empty; remove the line: a worker asks no model about such a record`)
	}
	form := w.Form
	if form == LabelOrEntities {
		if form = OneLabel; m.of["entities"] != nil && m.of["label"] == nil {
			form = Entities
		}
	}
	switch form {
	case Entities:
		err = m.readEntities(&t)
	case IndependentLabels:
		err = m.readLabels(&t)
	default:
		err = m.readLabel(&t)
	}
	if err == nil && w.Known != nil {
		err = t.check(w.Known, w.Suggest)
	}
	return t, err
}

func (m members) readLabel(t *Text) error {
	if err := m.text("label", &t.Label); err != nil {
		return err
	}
	if raw, ok := m.of["llm"]; ok && !bytes.Equal(raw, []byte("null")) {
		t.Answered = true
		return m.text("llm", &t.LLM)
	}
	return nil
}

func (m members) readLabels(t *Text) error {
	raw, ok := m.of["labels"]
	if !ok {
		return fmt.Errorf(`has no "labels"; write %s, or [] where there are none`, m.example)
	}
	if err := json.Unmarshal(raw, &t.Labels); err != nil || t.Labels == nil {
		return fmt.Errorf(`"labels" is %.40s; write %s, or [] where there are none`, raw, m.example)
	}
	return nil
}

func (m members) readEntities(t *Text) error {
	raw, ok := m.of["entities"]
	if !ok {
		return fmt.Errorf(`has no "entities"; write %s, or [] where there are none`, Entities.Example(""))
	}
	var found []struct {
		Group string `json:"entity_group"`
		Start *int   `json:"start"`
		End   *int   `json:"end"`
	}
	if err := json.Unmarshal(raw, &found); err != nil || found == nil {
		return fmt.Errorf(
			`"entities" is %.40s; write [{"entity_group": "PER", "start": 0, "end": 3}], or [] where there are none`,
			raw)
	}
	characters := utf8.RuneCountInString(t.Text)
	t.Entities = make([]Entity, len(found))
	for i, e := range found {
		switch {
		case e.Group == "":
			return fmt.Errorf(`entities[%d] has no "entity_group"; write for example "PER"`, i)
		case e.Start == nil || e.End == nil:
			return fmt.Errorf(`entities[%d] has no "start" or no "end"; write both, in characters of the text`, i)
		case *e.Start < 0 || *e.End <= *e.Start || *e.End > characters:
			return fmt.Errorf("entities[%d] is from %d to %d of a text of %d characters; count characters, not bytes, "+
				"from 0, the end being the first one behind", i, *e.Start, *e.End, characters)
		}
		t.Entities[i] = Entity{e.Group, *e.Start, *e.End}
	}
	t.Label = Canonical(t.Entities)
	return nil
}

// names are the labels of a text, or the groups of its entities.
func (t *Text) names() []string {
	switch {
	case t.Entities != nil:
		groups := make([]string, len(t.Entities))
		for i, e := range t.Entities {
			groups[i] = e.Group
		}
		return groups
	case t.Labels != nil:
		return t.Labels
	default:
		return []string{t.Label}
	}
}

// check says which name of a text is none of the known ones.
func (t *Text) check(known []string, suggest Suggest) error {
	for _, name := range t.names() {
		if slices.Contains(known, name) {
			continue
		}
		what := "; correct it, or name another model"
		if suggest != nil {
			if near := suggest(name, known); near != "" {
				what = near
			}
		}
		return fmt.Errorf("%q is none of the model's labels (%s)%s", name, strings.Join(known, ", "), what)
	}
	return nil
}

// CheckLabels says which labels, or groups of entities, are none of the model's. The error joins the first mistakes,
// one a line.
func CheckLabels(texts []Text, known []string, suggest Suggest) error {
	var errs []error
	for i := range texts {
		if err := texts[i].check(known, suggest); err != nil && len(errs) < mostProblems {
			errs = append(errs, fmt.Errorf("line %d: %w", texts[i].Line, err))
		}
	}
	return errors.Join(errs...)
}
