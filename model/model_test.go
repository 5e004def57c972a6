package model

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const (
	bertConfig   = `{"model_type": "bert", "architectures": ["BertForSequenceClassification"], "id2label": {"1": "POS", "0": "NEG"}, "max_position_embeddings": 512, "pad_token_id": 0, "vocab_size": 30522, "eos_token_id": null}`
	wordPiece    = `{"model": {"type": "WordPiece", "unk_token": "[UNK]", "vocab": {"[UNK]": 0}}}`
	sentimentMan = `{"format_version": 1, "name": "sentiment", "task": "text-classification", "architecture": "BertForSequenceClassification", "layout": "packed", "precision": "int8",
 "max_tokens": 128, "pad_token_id": 0, "files": {}, "source": {"id": "x", "anything": 1}, "license": "Apache-2.0", "exporter": {"name": "export_model.py"}, "quantization": null, "evaluation": {"accuracy": 0.9},
 "golden": {"tolerance": 0.001, "texts": [{"text": "a", "input_ids": [101, 102], "logits": [[1.5, -1.5]]}]}}`
)

// writeModel makes a model directory; a manifest gets the hashes of the other files. change alters it before.
func writeModel(t *testing.T, files map[string]string, change func(manifest map[string]any)) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "folder")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	all := map[string]string{OnnxFile: "onnx", TokenizerFile: wordPiece, ConfigFile: bertConfig}
	for name, body := range files {
		all[name] = body
	}
	if text, ok := all[ManifestFile]; ok && change != nil {
		var m map[string]any
		if err := json.Unmarshal([]byte(text), &m); err != nil {
			t.Fatal(err)
		}
		listed := m["files"].(map[string]any)
		for name, body := range all {
			if name != ManifestFile {
				listed[name] = map[string]any{"sha256": hexSum(body), "bytes": len(body)}
			}
		}
		change(m)
		b, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		all[ManifestFile] = string(b)
	}
	for name, body := range all {
		if body == "" {
			continue
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(body), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func hexSum(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:])
}

func unchanged(map[string]any) {}

func mustOpen(t *testing.T, dir string) *Model {
	t.Helper()
	m, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestOpenWithManifest(t *testing.T) {
	m := mustOpen(t, writeModel(t, map[string]string{ManifestFile: sentimentMan}, unchanged))
	if m.Name != "sentiment" || m.Task != TextClassification || m.Layout != Packed || m.MaxTokens != 128 ||
		!slices.Equal(m.Labels, []string{"NEG", "POS"}) || len(m.Warnings) != 0 || m.unknown != "[UNK]" {
		t.Errorf("%+v", m)
	}
	known := m.Digest
	if err := m.Verify(); err != nil {
		t.Fatal(err)
	}
	want := hexSum(hexSum(bertConfig) + "  config.json\n" + hexSum("onnx") + "  model.onnx\n" + hexSum(wordPiece) +
		"  tokenizer.json\n")
	if m.Digest != want || known != want {
		t.Errorf("digest %s before and %s after Verify, want %s", known, m.Digest, want)
	}
	if tag := m.Tag("mood"); tag != "mood@"+want[:12] {
		t.Errorf("tag %s", tag)
	}
}

func TestOpenWithoutManifest(t *testing.T) {
	for _, c := range []struct {
		name      string
		files     map[string]string
		maxTokens int
		task      Task
		pad       int32
		labels    []string
		unknown   string
		warnings  int
	}{
		{"bert", nil, 512, TextClassification, 0, []string{"NEG", "POS"}, "[UNK]", 1},
		{"roberta has two positions less", map[string]string{
			ConfigFile:              `{"model_type": "roberta", "architectures": ["RobertaForTokenClassification"], "id2label": {"0": "O", "1": "PER"}, "max_position_embeddings": 514, "pad_token_id": 1}`,
			TokenizerFile:           `{"model": {"type": "BPE", "unk_token": null, "vocab": {"<s>": 0, "</s>": 1}}}`,
			"tokenizer_config.json": `{"unk_token": {"__type": "AddedToken", "content": "<unk>"}, "model_max_length": 1000000000000000019884624838656}`,
		}, 512, TokenClassification, 1, []string{"O", "PER"}, "<unk>", 1},
		{"xlm-roberta without pad_token_id, unigram", map[string]string{
			ConfigFile:    `{"model_type": "xlm-roberta", "architectures": ["XLMRobertaForSequenceClassification"], "max_position_embeddings": 514, "pad_token_id": null}`,
			TokenizerFile: `{"model": {"type": "Unigram", "unk_id": 1, "vocab": [["<s>", 0.0], ["<pad>", 0.0], ["</s>", 0.0], ["<unk>", -1.5]]}}`,
		}, 512, TextClassification, 1, []string{"LABEL_0", "LABEL_1"}, "<unk>", 1},
		{"nulls and no labels", map[string]string{
			ConfigFile: `{"model_type": "distilbert", "architectures": ["DistilBertForSequenceClassification"], "id2label": null, "num_labels": 3, "problem_type": null}`,
		}, 512, TextClassification, 0, []string{"LABEL_0", "LABEL_1", "LABEL_2"}, "[UNK]", 1},
		{"tokenizer with a smaller limit, labels that are numbers", map[string]string{
			ConfigFile:              `{"model_type": "bert", "architectures": ["BertForSequenceClassification"], "id2label": {"0": 1, "1": 2}, "num_labels": 5, "max_position_embeddings": 512}`,
			"tokenizer_config.json": `{"model_max_length": 256, "unk_token": "[UNK]"}`,
		}, 256, TextClassification, 0, []string{"1", "2"}, "[UNK]", 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := mustOpen(t, writeModel(t, c.files, nil))
			if m.Name != "folder" || m.Layout != Padded || m.Task != c.task || m.MaxTokens != c.maxTokens ||
				m.Config.PadTokenID != c.pad || !slices.Equal(m.Labels, c.labels) || m.unknown != c.unknown {
				t.Errorf("%+v", m)
			}
			if len(m.Warnings) != c.warnings || !strings.Contains(strings.Join(m.Warnings, "\n"),
				ManifestFile+" is missing") {
				t.Errorf("warnings %q", m.Warnings)
			}
			if m.Tag("x") != "x@unverified" {
				t.Errorf("tag %s before Verify", m.Tag("x"))
			}
			if err := m.Verify(); err != nil || len(m.Digest) != 64 {
				t.Errorf("Verify: %v, digest %q", err, m.Digest)
			}
		})
	}
}

func TestOpenNamesEveryMistake(t *testing.T) {
	with := func(change func(m map[string]any)) string {
		return writeModel(t, map[string]string{ManifestFile: sentimentMan}, change)
	}
	config := func(body string) string { return writeModel(t, map[string]string{ConfigFile: body}, nil) }
	for _, c := range []struct {
		name, dir string
		says      []string
	}{
		{"no such directory", "/nowhere/model", []string{"no such file"}},
		{"a file", os.Args[0], []string{"is a file"}},
		{"two files missing", writeModel(t, map[string]string{OnnxFile: "", TokenizerFile: ""}, nil),
			[]string{"model.onnx cannot be opened", "export_model.py", "tokenizer.json cannot be opened",
				"save_pretrained"}},
		{"git lfs", writeModel(t, map[string]string{OnnxFile: "version https://git-lfs.github.com/spec/v1\noid " +
			"sha256:00\nsize 1234\n"}, nil), []string{"Git LFS pointer", "git lfs pull"}},
		{"config is no JSON", config("{"), []string{"config.json", "not a JSON object"}},
		{"tokenizer is no JSON", writeModel(t, map[string]string{TokenizerFile: "x"}, nil), []string{"tokenizer.json",
			"not a JSON object", "save the tokenizer again"}},
		{"several at once", writeModel(t, map[string]string{
			ConfigFile:   `{"id2label": {"0": "a", "2": "b"}, "problem_type": "guess", "pad_token_id": -1}`,
			ManifestFile: `{"format_version": 7}`}, nil),
			[]string{"id2label", "0 to 1", "problem_type", `"guess"`, "pad_token_id", "format_version: is 7, this " +
				"build reads 1"}},
		{"one label, softmax", config(`{"id2label": {"0": "a"}, "problem_type": "single_label_classification"}`),
			[]string{"at least two labels"}},
		{"no labels", config(`{"id2label": {}}`), []string{"id2label", "no entries"}},
		{"type of a field", config(`{"max_position_embeddings": "many"}`), []string{"max_position_embeddings",
			`"many"`}},
		{"no architecture", config(`{"model_type": "bert"}`), []string{"architectures: is missing"}},
		{"wrong architecture", config(`{"architectures": ["BertForMaskedLM"]}`), []string{"BertForMaskedLM",
			"neither"}},
		{"manifest of something else", writeModel(t, map[string]string{ManifestFile: `{"manifest_version": 3}`}, nil),
			[]string{"format_version: is missing"}},
		{"unknown key", with(func(m map[string]any) { m["temperature"] = 2 }), []string{"manifest.json",
			`"temperature"`}},
		{"bad values", with(func(m map[string]any) {
			m["task"], m["layout"], m["precision"], m["max_tokens"] = "summarization", "dense", "int4", 0
			m["files"].(map[string]any)["../secret"] = map[string]any{"sha256": "zz", "bytes": 1}
			delete(m["files"].(map[string]any), "config.json")
		}), []string{`"summarization"`, `"dense"`, `"int4"`, "max_tokens: is 0", `"../secret" is not a file`,
			"config.json is not listed", `sha256 "zz"`}},
		{"manifest against config", with(func(m map[string]any) {
			m["task"], m["architecture"], m["max_tokens"], m["pad_token_id"] = "token-classification",
				"RobertaForTokenClassification", 513, 1
		}), []string{"task", "architecture", "max_tokens: is 513", "512 tokens", "pad_token_id: is 1",
			"golden.texts[0].logits: are not 2 rows"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := Open(c.dir)
			if err == nil {
				t.Fatal("it opens")
			}
			for _, says := range append(c.says, c.dir) {
				if !strings.Contains(err.Error(), says) {
					t.Errorf("error does not mention %q: %v", says, err)
				}
			}
		})
	}
}

func TestVerifyNamesEveryChangedFile(t *testing.T) {
	m := mustOpen(t, writeModel(t, map[string]string{ManifestFile: sentimentMan}, unchanged))
	for name, body := range map[string]string{OnnxFile: "onnX", TokenizerFile: wordPiece + " "} {
		if err := os.WriteFile(m.Path(name), []byte(body), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	err := m.Verify()
	if err == nil {
		t.Fatal("changed files pass")
	}
	for _, says := range []string{"model.onnx has SHA-256 " + hexSum("onnX"), "tokenizer.json has",
		"bytes, the manifest says"} {
		if !strings.Contains(err.Error(), says) {
			t.Errorf("error does not mention %q: %v", says, err)
		}
	}
	if err := os.Remove(m.Path(ConfigFile)); err != nil {
		t.Fatal(err)
	}
	if err := m.Verify(); err == nil || !strings.Contains(err.Error(), "config.json cannot be verified") {
		t.Errorf("without config.json: %v", err)
	}
}

// What Open read is what is verified: a file that was another one for a moment is found although it is right again.
func TestAFileThatWasAnotherWhenItWasReadIsNamed(t *testing.T) {
	for name, files := range map[string]map[string]string{
		"with a manifest":    {ManifestFile: sentimentMan},
		"without a manifest": {},
	} {
		dir := writeModel(t, files, unchanged)
		path := filepath.Join(dir, ConfigFile)
		right, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		swapped := strings.Replace(string(right), `"1": "POS", "0": "NEG"`, `"1": "NEG", "0": "POS"`, 1)
		if swapped == string(right) {
			t.Fatalf("the labels of the test are others: %s", right)
		}
		if err := os.WriteFile(path, []byte(swapped), 0o600); err != nil {
			t.Fatal(err)
		}
		m := mustOpen(t, dir)
		if err := os.WriteFile(path, right, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := m.Verify(); err == nil || !strings.Contains(err.Error(), "config.json had SHA-256") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestBundledModelsVerify(t *testing.T) {
	dirs, err := filepath.Glob("../models/*/manifest.json")
	if err != nil {
		t.Fatal(err)
	}
	dirs = append(dirs, "testdata/roberta-tiny/manifest.json")
	for _, path := range dirs {
		m := mustOpen(t, filepath.Dir(path))
		if err := m.Verify(); err != nil {
			t.Error(err)
		}
		if len(m.Warnings) > 0 || m.Manifest.Golden == nil || len(m.Manifest.Golden.Texts) == 0 {
			t.Errorf("%s: warnings %q, golden %v", path, m.Warnings, m.Manifest.Golden)
		}
	}
}

func FuzzParseConfig(f *testing.F) {
	f.Add([]byte(bertConfig))
	f.Add([]byte(`{"id2label": {"0": null}, "num_labels": -1, "max_position_embeddings": 1e3, "model_type": "mpnet"}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		c, err := parseConfig(raw)
		if err == nil && (len(c.Labels) == 0 || c.MaxPositions < 0 || c.PadTokenID < 0) {
			t.Errorf("accepted %q as %+v", raw, c)
		}
	})
}

func FuzzParseManifest(f *testing.F) {
	f.Add([]byte(sentimentMan))
	f.Add([]byte(`{"format_version": 1, "files": {"a": null}} {}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		m, err := parseManifest(raw)
		if err != nil {
			return
		}
		b, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		again, err := parseManifest(b)
		if err != nil {
			t.Fatalf("written again it is refused: %v: %s", err, b)
		}
		if c, err := json.Marshal(again); err != nil || !bytes.Equal(b, c) {
			t.Errorf("%s\nis not\n%s (%v)", b, c, err)
		}
	})
}

func ExampleModel_Tag() {
	m := &Model{Digest: fmt.Sprintf("%x", sha256.Sum256([]byte("x")))}
	fmt.Println(m.Tag("sentiment"))
	// Output: sentiment@2d711642b726
}

func TestOpenSaysThatOnlyDirectoriesAreRead(t *testing.T) {
	for _, uri := range []string{"mlflow:sentiment@champion", "hf:distilbert/base", "file:/models/sentiment"} {
		scheme, _, _ := strings.Cut(uri, ":")
		_, err := Open(uri)
		want := "models are read from directories only, not from " + scheme + " URIs: fetch the model"
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", uri, err)
		}
	}
}
