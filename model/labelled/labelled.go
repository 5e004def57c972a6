// Package labelled reads labelled texts: rows of JSON lines, TSV, CSV or IOB2, each with a text and with what is right
// about it. It is the only reader of such files, for tuning and for calibrating. It is pure: it runs no model.
//
// docs/files.md says what it reads. The exporter reads the same (scripts/sluice_export/labelled.py); testdata has files
// for both.
package labelled

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode/utf8"

	"sluice/model/textfile"
)

// Text is one row of a labelled file.
type Text struct {
	Line     int // of the file, from 1; where the row begins
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
	Name    string   // of the file: its ending says which format it has; without one that is known its beginning does
	Known   []string // labels, or groups of entities, of the model; nil: not known yet, see Resolve
	Suggest Suggest
}

// Suggest is what an error adds about a name that is not among the known ones, as "; did you mean POSITIVE?", or "". A
// nil Suggest has nothing to add.
type Suggest func(name string, known []string) string

const (
	longestLine  = 16 << 20 // bytes
	mostProblems = 10       // that one error names
)

// Read reads the rows of a file that are of the form that is wanted. Other members and columns are ignored, and so are
// empty lines. The error joins the first mistakes, each with its line and what to do.
func Read(r io.Reader, want Wanted) ([]Text, error) {
	lines, err := textfile.ReadLines(r, longestLine)
	if err != nil {
		return nil, err
	}
	var texts []Text
	var errs []error
	fail := func(line int, err error) bool {
		errs = append(errs, fmt.Errorf("line %d: %w", line, err))
		return len(errs) < mostProblems
	}
	err = want.rows(lines, func(line int, t Text, err error) bool {
		t.Line = line
		switch {
		case err != nil:
			return fail(line, err)
		case strings.TrimSpace(t.Text) == "":
			return fail(line, errors.New("its text is empty; remove the line: a worker asks no model about such a "+
				"record"))
		case len(texts) > 0 && (t.Entities == nil) != (texts[0].Entities == nil):
			return fail(line, fmt.Errorf(`line %d has "label" where this has "entities", or the other way round; a `+
				`file is for one model`, texts[0].Line))
		}
		if want.Known != nil {
			if err := t.resolve(want.Known, want.Suggest); err != nil {
				return fail(line, err)
			}
		}
		texts = append(texts, t)
		return true
	})
	if err != nil {
		return nil, err
	}
	if len(errs) == 0 && len(texts) == 0 {
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

// find is the first of some names that a line has. The error names what it has.
func (m members) find(names ...string) (name string, raw json.RawMessage, err error) {
	for _, name := range names {
		if raw, ok := m.of[name]; ok {
			return name, raw, nil
		}
	}
	has := slices.Sorted(func(yield func(string) bool) {
		for name := range m.of {
			if !yield(name) {
				return
			}
		}
	})
	return "", nil, fmt.Errorf("has no %q (it has: %s); write %s", names[0], listed(has), m.example)
}

// listed is a few names for an error.
func listed(names []string) string {
	const most = 8
	if len(names) > most {
		names = append(slices.Clone(names[:most]), "…")
	}
	text := strings.Join(names, ", ")
	if len(text) > 200 {
		text = strings.ToValidUTF8(text[:200], "") + "…"
	}
	return text
}

func (w Wanted) parse(line string) (t Text, err error) {
	m := members{example: w.example()}
	if err := json.Unmarshal([]byte(line), &m.of); err != nil || m.of == nil {
		if line[0] == '[' {
			return t, fmt.Errorf("is a list; write each object on a line of its own, as jq -c '.[]' FILE does, such "+
				"as %s", m.example)
		}
		var syntax *json.SyntaxError
		if errors.As(err, &syntax) {
			return t, fmt.Errorf("is not a JSON object (%w); write %s", err, m.example)
		}
		return t, fmt.Errorf("is not a JSON object; write %s", m.example)
	}
	name, raw, err := m.find(textNames...)
	if err != nil {
		return t, err
	}
	if json.Unmarshal(raw, &t.Text) != nil || string(raw) == "null" {
		return t, fmt.Errorf("%q is %.40s, not a string; write it in quotes", name, raw)
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
	return t, err
}

// label reads a label's name or its number. What is no label is named in the error.
func (m members) label(raw json.RawMessage) (string, error) {
	var value any
	numbers := json.NewDecoder(bytes.NewReader(raw))
	numbers.UseNumber()
	if err := numbers.Decode(&value); err != nil {
		return "", err
	}
	switch v := value.(type) {
	case string:
		return v, nil
	case json.Number:
		return numberName(string(v)), nil
	case bool:
		return strings.ToUpper(string(raw[:1])) + string(raw[1:]), nil // as Python writes it
	default:
		return "", fmt.Errorf("is %.40s; write a label's name, or its number", raw)
	}
}

func (m members) readLabel(t *Text) error {
	name, raw, err := m.find("label", "labels")
	if err != nil {
		return err
	}
	if t.Label, err = m.label(raw); err != nil {
		return fmt.Errorf("%q %w", name, err)
	}
	if raw, ok := m.of["llm"]; ok && string(raw) != "null" {
		t.Answered = true
		if t.LLM, err = m.label(raw); err != nil {
			return fmt.Errorf(`"llm" %w`, err)
		}
	}
	return nil
}

func (m members) readLabels(t *Text) error {
	name, raw, err := m.find("labels", "label")
	if err != nil {
		return fmt.Errorf("%w, or [] where there are none", err)
	}
	var list []json.RawMessage
	if err := json.Unmarshal(raw, &list); err != nil || list == nil {
		return fmt.Errorf("%q is %.40s; write %s, or [] where there are none", name, raw, m.example)
	}
	t.Labels = make([]string, len(list))
	for i, raw := range list {
		if t.Labels[i], err = m.label(raw); err != nil {
			return fmt.Errorf("%s[%d] %w", name, i, err)
		}
	}
	return nil
}

func (m members) readEntities(t *Text) error {
	_, raw, err := m.find("entities")
	if err != nil {
		return fmt.Errorf("%w, or [] where there are none", err)
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

// resolve gives labels, or groups of entities, the names that a model has for them. The error says which is none.
func (t *Text) resolve(known []string, suggest Suggest) error {
	switch {
	case t.Entities != nil:
		entities := slices.Clone(t.Entities)
		for i := range entities {
			at := nameOf(entities[i].Group, known)
			if at < 0 {
				return unknown(entities[i].Group, known, suggest)
			}
			entities[i].Group = known[at]
		}
		t.Entities, t.Label = entities, Canonical(entities)
	case t.Labels != nil:
		labels := make([]string, len(t.Labels))
		for i, name := range t.Labels {
			at := idOf(name, known)
			if at < 0 {
				return unknown(name, known, suggest)
			}
			if labels[i] = known[at]; slices.Contains(labels[:i], known[at]) {
				return fmt.Errorf("has the label %s twice; name each label that is right once (a list of zeros and "+
					"ones, a number for each label, is not read)", known[at])
			}
		}
		t.Labels = labels
	default:
		at := idOf(t.Label, known)
		if at < 0 {
			return unknown(t.Label, known, suggest)
		}
		t.Label = known[at]
		if at := idOf(t.LLM, known); at >= 0 {
			t.LLM = known[at]
		}
	}
	return nil
}

// unknown says that a name is none of the known ones.
func unknown(name string, known []string, suggest Suggest) error {
	switch {
	case name == "":
		return fmt.Errorf("has no label; write one of the model's (%s), or remove the line", strings.Join(known, ", "))
	case numberName(strings.TrimSpace(name)) == "-1":
		return errors.New("has the label -1, as datasets mark a text that has none; remove the line")
	}
	what := "; correct it, or name another model"
	if suggest != nil {
		if near := suggest(name, known); near != "" {
			what = near
		}
	}
	return fmt.Errorf("%q is none of the model's labels (%s)%s", name, strings.Join(known, ", "), what)
}

// Resolve gives the labels, or groups of entities, of texts that were read before their model was known the names that
// the model has for them: a label may be its name, in whatever case of ASCII, or its number. texts stay as they are.
// The error joins the first that are none of the model's, one a line.
func Resolve(texts []Text, known []string, suggest Suggest) ([]Text, error) {
	resolved := slices.Clone(texts)
	var errs []error
	for i := range resolved {
		if err := resolved[i].resolve(known, suggest); err != nil && len(errs) < mostProblems {
			errs = append(errs, fmt.Errorf("line %d: %w", texts[i].Line, err))
		}
	}
	return resolved, errors.Join(errs...)
}
