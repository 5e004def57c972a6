package model

import (
	"os"
	"strings"
	"testing"

	"sluice/tokenize/pretrained"
)

// Without a manifest every file that makes the tokenizer is part of what the model is.
func TestFilesBesideTheTokenizerAreInTheDigest(t *testing.T) {
	digestOf := func(files map[string]string) string {
		m := mustOpen(t, writeModel(t, files, nil))
		if err := m.Verify(); err != nil {
			t.Fatal(err)
		}
		return m.Digest
	}
	seen := map[string]string{}
	for name, files := range map[string]map[string]string{
		"none":               nil,
		"config":             {pretrained.ConfigFile: `{"do_lower_case": false}`},
		"another config":     {pretrained.ConfigFile: `{"do_lower_case": true}`},
		"special tokens map": {pretrained.SpecialMapFile: `{"mask_token": "[M]"}`},
		"added tokens":       {pretrained.AddedTokensFile: `{"@USER": 4}`},
		"vocabulary":         {TokenizerFile: "", pretrained.WordPieceFile: "[PAD]\n[UNK]\n[CLS]\n[SEP]\n"},
	} {
		d := digestOf(files)
		if other, ok := seen[d]; ok {
			t.Errorf("%s has the digest of %s", name, other)
		}
		seen[d] = name
	}
}

func TestTokenizerFilesAreVerifiedWhenTheyAreRead(t *testing.T) {
	dir := writeModel(t, map[string]string{pretrained.ConfigFile: `{"do_lower_case": false}`}, nil)
	m := mustOpen(t, dir)
	if err := m.Verify(); err != nil {
		t.Fatal(err)
	}
	if tok, err := m.Tokenizer(); err != nil || !strings.Contains(string(tok.Definition), `"lowercase":false`) {
		t.Fatalf("%+v, %v", tok, err)
	}
	if err := os.WriteFile(m.Path(pretrained.ConfigFile), []byte(`{"do_lower_case": true}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Tokenizer(); err == nil || !strings.Contains(err.Error(), pretrained.ConfigFile) ||
		!strings.Contains(err.Error(), "was changed") {
		t.Errorf("a file that was changed: %v", err)
	}
	if err := m.Verify(); err == nil || !strings.Contains(err.Error(), pretrained.ConfigFile) {
		t.Errorf("Verify of a file that was changed: %v", err)
	}
}

// What the exporter found out about the tokenizer stands in the manifest, is part of the digest, and is checked.
func TestManifestSaysWhatTheTokenizerFileCannot(t *testing.T) {
	open := func(change func(m map[string]any)) *Model {
		return mustOpen(t, writeModel(t, map[string]string{ManifestFile: sentimentMan}, func(m map[string]any) {
			if change != nil {
				change(m)
			}
		}))
	}
	plain := open(nil)
	if plain.CutLeft || plain.TokenizeOptions().CutLeft || plain.unknown != "[UNK]" {
		t.Errorf("%+v", plain)
	}
	left := open(func(m map[string]any) { m["truncation_side"] = "left" })
	if !left.CutLeft || !left.TokenizeOptions().CutLeft || left.Digest == plain.Digest {
		t.Errorf("left: %+v", left)
	}
	found := open(func(m map[string]any) { m["special_tokens"] = "model" })
	if tok, err := found.Tokenizer(); err != nil || !tok.Find || found.Digest == plain.Digest {
		t.Errorf("special tokens: %+v, %v", tok, err)
	}
	unknown := open(func(m map[string]any) { m["unknown_token"] = "" })
	if unknown.unknown != "" || unknown.Digest == plain.Digest {
		t.Errorf("unknown token: %+v", unknown)
	}
	right := open(func(m map[string]any) { m["truncation_side"], m["special_tokens"] = "right", "text" })
	if right.CutLeft || right.Digest != plain.Digest {
		t.Errorf("right: %+v", right)
	}
	for key, says := range map[string]string{"truncation_side": "left", "special_tokens": "model"} {
		_, err := Open(writeModel(t, map[string]string{ManifestFile: sentimentMan}, func(m map[string]any) {
			m[key] = "up"
		}))
		if err == nil || !strings.Contains(err.Error(), key) || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v", key, err)
		}
	}
}
