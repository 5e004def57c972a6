package ort

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"sluice/model"
	"sluice/pipeline/engine"
)

// needLibrary loads ONNX Runtime, which `eval "$(scripts/native.sh env)"` makes known.
func needLibrary(t testing.TB) {
	t.Helper()
	if os.Getenv(LibraryEnv) == "" {
		const how = `no ONNX Runtime: run eval "$(scripts/native.sh env)" first`
		if os.Getenv("CI") == "true" {
			t.Fatal(how)
		}
		t.Skip("SKIPPED: " + how)
	}
	if err := Init(""); err != nil {
		t.Fatal(err)
	}
}

// testModel is a model directory made of a file of testdata.
type testModel struct {
	onnx      string // without .onnx
	labels    int
	vocab     int // 0: config.json does not tell
	precision model.Precision
	golden    *model.Golden
}

func toy(name string) testModel {
	return testModel{onnx: name, labels: 3, vocab: 40, precision: model.FP32}
}

// open writes the directory and opens it as a model. Packed graphs and golden texts need a manifest; it is left out
// else.
func (tm testModel) open(t testing.TB) *model.Model {
	t.Helper()
	dir := t.TempDir()
	onnx, err := os.ReadFile(filepath.Join("testdata", tm.onnx+".onnx"))
	if err != nil {
		t.Fatal(err)
	}
	task, architecture := model.TextClassification, "BertForSequenceClassification"
	if strings.Contains(tm.onnx, "_tok") {
		task, architecture = model.TokenClassification, "BertForTokenClassification"
	}
	labels := map[string]string{}
	for i := range tm.labels {
		labels[fmt.Sprint(i)] = fmt.Sprintf("L%d", i)
	}
	config := map[string]any{"model_type": "bert", "architectures": []string{architecture}, "id2label": labels,
		"max_position_embeddings": 48, "pad_token_id": 0}
	if tm.vocab > 0 {
		config["vocab_size"] = tm.vocab
	}
	files := map[string][]byte{
		model.OnnxFile:      onnx,
		model.ConfigFile:    mustJSON(t, config),
		model.TokenizerFile: []byte(`{"model": {"type": "WordPiece", "unk_token": "[UNK]", "vocab": {"[UNK]": 0}}}`),
	}
	if packed := strings.Contains(tm.onnx, "packed"); packed || tm.golden != nil || tm.precision != model.FP32 {
		layout := model.Padded
		if packed {
			layout = model.Packed
		}
		m := model.Manifest{
			FormatVersion: 1, Name: tm.onnx, Task: task, Architecture: architecture, Layout: layout,
			Precision: tm.precision, MaxTokens: 48,
			Files: map[string]model.File{}, Golden: tm.golden,
		}
		for name, body := range files {
			m.Files[name] = model.File{SHA256: fmt.Sprintf("%x", sha256.Sum256(body)), Bytes: int64(len(body))}
		}
		files[model.ManifestFile] = mustJSON(t, m)
	}
	for name, body := range files {
		if err := os.WriteFile(filepath.Join(dir, name), body, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	m, err := model.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func (tm testModel) session(t testing.TB, o engine.RuntimeOptions) *Session {
	t.Helper()
	needLibrary(t)
	s, err := Open(tm.open(t), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func (tm testModel) runner(t testing.TB, o engine.RuntimeOptions) engine.Runner {
	t.Helper()
	return newRunner(t, tm.session(t, o), -1)
}

func newRunner(t testing.TB, s *Session, cpu int) engine.Runner {
	t.Helper()
	r, err := s.NewRunner(cpu)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

// inputs are rows as a runner takes them.
func inputs(rows []engine.Tokens) []engine.Input {
	in := make([]engine.Input, len(rows))
	for i, row := range rows {
		in[i] = row
	}
	return in
}

func run(t testing.TB, r engine.Runner, rows ...engine.Tokens) [][]float32 {
	t.Helper()
	logits, err := r.Run(t.Context(), inputs(rows))
	if err != nil {
		t.Fatal(err)
	}
	if len(logits) != len(rows) {
		t.Fatalf("logits of %d rows for %d", len(logits), len(rows))
	}
	return logits
}

func mustJSON(t testing.TB, v any) []byte {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
