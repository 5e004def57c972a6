// Package pretrainedtest has model folders and what transformers' AutoTokenizer makes of their tokenizers, for tests.
// scripts/make_pretrained_goldens.py makes them.
package pretrainedtest

import (
	"bytes"
	"compress/gzip"
	_ "embed"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"testing"
)

//go:embed goldens.json.gz
var packed []byte

// Goldens are all cases. Every case has a row for each of Texts.
type Goldens struct {
	Texts []string                   `json:"texts"`
	Pairs [][2]string                `json:"pairs"`
	Bases map[string]json.RawMessage `json:"bases"` // tokenizer.json of a family, for its vocabulary
	Cases []Case                     `json:"cases"`
}

// Case is a model folder and what transformers makes of its tokenizer.
type Case struct {
	Name   string                     `json:"name"`
	Folder map[string]json.RawMessage `json:"folder"`
	Made   Made                       `json:"made"`
}

// Made is a tokenizer of transformers.
type Made struct {
	Error      string          `json:"error"` // it refuses the folder
	Class      string          `json:"class"`
	Side       string          `json:"side"`    // truncation_side
	Longest    int             `json:"longest"` // model_max_length; 0: no limit
	Types      bool            `json:"types"`   // models are given token types
	Unknown    string          `json:"unknown"`
	Split      bool            `json:"split_special_tokens"`
	Rows       [][][3]int      `json:"rows"`    // a text, a token: id, and its bytes from and to
	Cut        []int32         `json:"cut"`     // ids of the last text cut to 5 tokens
	Windows    [][]int32       `json:"windows"` // of the last text: 7 tokens, 2 shared; from the side that is kept
	Pairs      [][2][2][]int32 `json:"pairs"`   // a pair: whole and cut to 9 tokens: ids and token types
	Definition map[string]any  `json:"definition"`
}

// Load reads the goldens.
func Load(t testing.TB) *Goldens {
	r, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		t.Fatal(err)
	}
	raw, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	g := new(Goldens)
	if err := json.Unmarshal(raw, g); err != nil {
		t.Fatal(err)
	}
	vocabularies := map[string]json.RawMessage{}
	for family, definition := range g.Bases {
		var base struct {
			Model struct {
				Vocab json.RawMessage `json:"vocab"`
			} `json:"model"`
		}
		if err := json.Unmarshal(definition, &base); err != nil {
			t.Fatal(err)
		}
		vocabularies[family] = base.Model.Vocab
	}
	for _, c := range g.Cases {
		if c.Folder["tokenizer.json"] == nil {
			continue
		}
		var spec map[string]any
		if err := json.Unmarshal(c.Folder["tokenizer.json"], &spec); err != nil {
			t.Fatal(err)
		}
		m := spec["model"].(map[string]any)
		m["vocab"] = vocabularies[m["vocab"].(string)]
		if c.Folder["tokenizer.json"], err = json.Marshal(spec); err != nil {
			t.Fatal(err)
		}
	}
	return g
}

// Read reads a file of the folder.
func (c *Case) Read(name string) ([]byte, error) {
	raw, ok := c.Folder[name]
	if !ok {
		return nil, fmt.Errorf("%s: %w", name, fs.ErrNotExist)
	}
	var text string
	if json.Unmarshal(raw, &text) == nil {
		return []byte(text), nil
	}
	return raw, nil
}

// ModelType is model_type of config.json.
func (c *Case) ModelType() string { return c.config().ModelType }

// Class is tokenizer_class of config.json.
func (c *Case) Class() string { return c.config().Class }

func (c *Case) config() (config struct {
	ModelType string `json:"model_type"`
	Class     string `json:"tokenizer_class"`
}) {
	_ = json.Unmarshal(c.Folder["config.json"], &config) // the cases have none that is no object
	return config
}
