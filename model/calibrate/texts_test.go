package calibrate

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"sluice/model"
	"sluice/model/labelled"
	"sluice/tokenize"
)

// A word that an entity touches first begins it; neighbours of one group are two entities.
func TestWordLabels(t *testing.T) {
	labels := []string{"O", "B-PER", "I-PER", "B-LOC", "I-LOC"}
	words := []model.TokenSpan{{Start: 0, End: 2}, {Start: 3, End: 5}, {Start: 6, End: 8}, {Start: 9, End: 11},
		{Start: 12, End: 14}}
	entities := []labelled.Entity{{Group: "PER", Start: 0, End: 5}, {Group: "PER", Start: 6, End: 8},
		{Group: "LOC", Start: 13, End: 14}}
	got, err := wordLabels(labels, words, entities)
	if want := []int{1, 2, 1, 0, 3}; err != nil || !slices.Equal(got, want) {
		t.Errorf("labels %v, want %v: %v", got, want, err)
	}
	_, err = wordLabels([]string{"I-PER", "I-LOC"}, words, entities)
	if err == nil || !strings.Contains(err.Error(), "no label for a word at 9") {
		t.Errorf("a model without an outside label: %v", err)
	}
}

func file(t *testing.T, lines ...string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "dev.jsonl")
	if err := os.WriteFile(name, []byte(strings.Join(lines, "\n")), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

func TestOpenChecksEntitiesForTheModel(t *testing.T) {
	m := &model.Model{Task: model.TokenClassification, Labels: []string{"O", "B-PER", "I-PER", "LOC"}}
	f, err := Open(file(t, `{"text": "Ada in Rome", "entities": [{"entity_group": "LOC", "start": 7, "end": 11}, `+
		`{"entity_group": "PER", "start": 0, "end": 3}]}`), m, nil)
	if err != nil || len(f.Texts) != 1 || f.Texts[0].Entities[0].Group != "PER" || len(f.SHA256) != 64 {
		t.Errorf("%+v, %v", f, err)
	}
	for says, line := range map[string]string{
		"line 1: the entity LOC at 1 overlaps": `{"text": "ab", "entities": [{"entity_group": "PER", ` +
			`"start": 0, "end": 2}, {"entity_group": "LOC", "start": 1, "end": 2}]}`,
		`line 1: "ORG" is none of the model's labels`: `{"text": "ab", "entities": [{"entity_group": "ORG", ` +
			`"start": 0, "end": 2}]}`,
		`line 1: has no "entities"`: `{"text": "ab", "label": "PER"}`,
	} {
		if _, err := Open(file(t, line), m, nil); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%v, want %s", err, says)
		}
	}
}

// overconfident is a model for labels that is very sure, and wrong about every fifth text.
type overconfident struct{ judge *model.Judge }

func (o overconfident) Encode(texts [][]byte) []tokenize.Encoded {
	out := make([]tokenize.Encoded, len(texts))
	for i, text := range texts {
		id := int32(0)
		if bytes.HasSuffix(text, []byte("1")) {
			id = 1
		}
		out[i].Windows = []tokenize.Encoding{{IDs: []int32{id}}}
	}
	return out
}

func (overconfident) Run(rows [][]int32, done func([][]float32, error)) {
	logits := []float32{-4, 4}
	if rows[0][0] == 1 {
		logits = []float32{4, -4}
	}
	done([][]float32{logits}, nil)
}

func (o overconfident) Verdict(text []byte, e tokenize.Encoded, logits [][]float32) (model.Verdict, error) {
	return o.judge.Verdict(text, e, logits)
}

func TestALabelledFileBecomesAReport(t *testing.T) {
	m := &model.Model{Name: "over", Task: model.TextClassification, Labels: []string{"BAD", "GOOD"},
		Config: model.Config{ProblemType: model.SingleLabel}}
	var lines []string
	for i := range 200 {
		label := "GOOD"
		if i%10 == 1 != (i%5 == 0) {
			label = "BAD"
		}
		lines = append(lines, fmt.Sprintf(`{"text": "text %d", "label": %q}`, i%10, label))
	}
	f, err := Open(file(t, lines...), m, nil)
	if err != nil {
		t.Fatal(err)
	}
	s := Subject{Model: m}
	judge, err := s.judge(nil)
	if err == nil {
		err = f.Judge(t.Context(), overconfident{judge})
	}
	if err != nil {
		t.Fatal(err)
	}
	rows, err := f.Rows(&s)
	if err != nil || rows.Len() != 200 {
		t.Fatalf("%d rows, %v", rows.Len(), err)
	}
	o := Options{Method: model.Temperature, Folds: 5, Seed: 1}
	result, err := Fit(rows, []model.CalibrationMethod{model.Temperature}, o)
	if err != nil {
		t.Fatal(err)
	}
	if c := result.Calibration; c == nil || c.Temperature < 2 {
		t.Errorf("a model that is wrong about a fifth is made no less sure: %+v", c)
	}
	r := NewReport(s, f, rows, result, o)
	if err := r.Evaluate(f); err != nil {
		t.Fatal(err)
	}
	var page, svg bytes.Buffer
	r.Write(&page)
	for _, want := range []string{"over, text-classification: 200 texts of " + f.Name, "5 folds, seed 1",
		"temperature, held out", f.Name + ", calibrated", "80.00 %", "Chosen: temperature "} {
		if !strings.Contains(page.String(), want) {
			t.Errorf("no %q in\n%s", want, page.String())
		}
	}
	if err := r.Plot(&svg); err != nil || !strings.Contains(svg.String(), "</svg>") {
		t.Errorf("%d bytes of plot, %v", svg.Len(), err)
	}
}

// What a program of Windows and gzip make of a file is read as the file is; its digest is that of what lies there.
func TestOpenReadsFilesOfOtherPrograms(t *testing.T) {
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	for _, r := range "\ufefflabel,text\r\n1,\"größer, schöner\"\r\nnegative,klein\r\n" {
		z.Write([]byte{byte(r), byte(r >> 8)})
	}
	z.Close()
	name := filepath.Join(t.TempDir(), "dev.csv.gz")
	if err := os.WriteFile(name, packed.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	m := &model.Model{Task: model.TextClassification, Labels: []string{"NEGATIVE", "POSITIVE"}}
	f, err := Open(name, m, nil)
	want := []labelled.Text{{Line: 2, Text: "größer, schöner", Label: "POSITIVE"}, {Line: 3, Text: "klein",
		Label: "NEGATIVE"}}
	if err != nil || !slices.EqualFunc(f.Texts, want, func(a, b labelled.Text) bool {
		return a.Line == b.Line && a.Text == b.Text && a.Label == b.Label
	}) {
		t.Fatalf("%+v, %v", f, err)
	}
	if sum := sha256.Sum256(packed.Bytes()); f.SHA256 != hex.EncodeToString(sum[:]) {
		t.Errorf("digest %s", f.SHA256)
	}
}
