package worker

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"sluice/cmd/sluice/settings"
	"sluice/model"
	"sluice/tokenize"
)

// folder is a model directory of another tool, with a marker of its own. No session is made of it.
func folder(t *testing.T, tokenizerConfig string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{
		"model.onnx": "not looked at",
		"config.json": `{"model_type": "bert", "architectures": ["BertForSequenceClassification"],
			"max_position_embeddings": 6}`,
		"tokenizer.json": `{"model": {"type": "WordPiece", "vocab": {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3,
			"[MASK]": 4, "a": 5, "b": 6, "c": 7, "d": 8, "e": 9}},
			"added_tokens": [{"id": 3, "content": "[SEP]", "special": true},
				{"id": 10, "content": "[E1]", "special": true}]}`,
		"tokenizer_config.json": tokenizerConfig,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func opened(t *testing.T, dir, specialTokens string) *Model {
	t.Helper()
	s := settings.DefaultModel()
	s.Path, s.SpecialTokens = dir, specialTokens
	m := &Model{Settings: s}
	var err error
	if m.Model, err = model.Open(dir); err != nil {
		t.Fatal(err)
	}
	if err := m.openTokenizer(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Tokenizer.Close() })
	return m
}

func TestSpecialTokensAreTextUnlessAskedFor(t *testing.T) {
	found := []int32{2, 10, 5, 3, 6, 3} // [CLS] [E1] a [SEP] b [SEP], as transformers reads it
	for _, c := range []struct {
		config, setting string
		found, note     bool
	}{
		{`{}`, "", false, true},
		{`{}`, "text", false, false},
		{`{}`, "model", true, false},
		{`{"split_special_tokens": true}`, "model", false, true},
	} {
		m := opened(t, folder(t, c.config), c.setting)
		e := m.Tokenizer.Encode([][]byte{[]byte("[E1] a [SEP] b")}, tokenize.Options{})[0]
		if e.Err != nil || slices.Equal(e.Windows[0].IDs, found) != c.found {
			t.Errorf("%+v: %v, %v", c, e.Windows, e.Err)
		}
		if said := strings.Contains(strings.Join(m.notes, "\n"), "special"); said != c.note {
			t.Errorf("%+v: notes %q", c, m.notes)
		}
	}
}

func TestTheSideThatIsCutOffIsTheModels(t *testing.T) {
	for config, want := range map[string][]int32{
		`{}`:                          {2, 5, 6, 7, 8, 3},
		`{"truncation_side": "left"}`: {2, 6, 7, 8, 9, 3},
	} {
		m := opened(t, folder(t, config), "")
		e := m.Tokenizer.Encode([][]byte{[]byte("a b c d e")}, m.TokenizeOptions())[0]
		if e.Err != nil || !slices.Equal(e.Windows[0].IDs, want) || !e.Truncated {
			t.Errorf("%s: %v, %v", config, e.Windows, e.Err)
		}
	}
}
