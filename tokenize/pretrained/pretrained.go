// Package pretrained makes of the tokenizer files of a model folder the one definition that Hugging Face transformers
// builds of them. There tokenizer.json is not the last word: the class that tokenizer_config.json names, its arguments
// and their defaults decide about case, accents, prefix spaces, offsets, special tokens and the side that is cut off.
//
// The rules are those of AutoTokenizer.from_pretrained of transformers 5.24 (models/auto/tokenization_auto.py,
// tokenization_utils_tokenizers.py, models/{bert,roberta,xlm_roberta,camembert}/tokenization_*.py); classes.json is
// read out of it by scripts/make_pretrained_goldens.py, which also makes what the tests compare with.
//
// Pure Go: the definition is a tokenizer.json, which tokenize/hf loads.
package pretrained

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"sync"
)

// Names of the files that a tokenizer is made of.
const (
	TokenizerFile   = "tokenizer.json"
	ConfigFile      = "tokenizer_config.json"
	SpecialMapFile  = "special_tokens_map.json"
	AddedTokensFile = "added_tokens.json"
	WordPieceFile   = "vocab.txt"
	BPEVocabFile    = "vocab.json"
	BPEMergesFile   = "merges.txt"
)

// Files are all names that Read may ask for, besides config.json.
var Files = []string{TokenizerFile, ConfigFile, SpecialMapFile, AddedTokensFile, WordPieceFile, BPEVocabFile,
	BPEMergesFile}

// SentencePieceFiles are vocabularies that only Python's sentencepiece reads.
var SentencePieceFiles = []string{"sentencepiece.bpe.model", "spiece.model", "spm.model", "tokenizer.model"}

// Tokenizer is what transformers makes of a folder.
type Tokenizer struct {
	Definition []byte // tokenizer.json; truncation and padding are null
	Class      string // transformers' class, such as "BertTokenizer"
	CutLeft    bool   // truncation_side is left: of a text too long its end is kept
	MaxTokens  int    // model_max_length; 0: no limit
	Unknown    string // unk_token; "" if there is none
	Split      bool   // split_special_tokens: special tokens are text for transformers, too
	Types      bool   // models are given token types (model_input_names), which tell the second text of a pair
	Find       bool   // special tokens in a text are to be found; Read never says so
	// Special are the special tokens that a text may hold for this model beside those that every model has: markers
	// such as [E1] that were added for it. They are text unless they are asked for.
	Special  []string
	Warnings []string // one sentence each
}

// Reader reads a file of the folder; fs.ErrNotExist (wrapped) says that there is none.
type Reader func(name string) ([]byte, error)

// Read makes the tokenizer of a folder. modelType and class are model_type and tokenizer_class of config.json; "" where
// it has none. Its errors name file and key, and say what to do.
func Read(read Reader, modelType, class string) (*Tokenizer, error) {
	f, err := open(read)
	if err != nil {
		return nil, err
	}
	name, family, err := choose(f.config, modelType, class)
	if err != nil {
		return nil, err
	}
	b := builder{files: f, out: Tokenizer{Class: name}}
	if f.spec == nil {
		if err := b.vocabulary(read, family); err != nil {
			return nil, err
		}
	}
	if family == "other" {
		b.out.Warnings = append(b.out.Warnings, fmt.Sprintf("%s: the arguments of tokenizer_class %s are not applied, "+
			"%s is taken as it is; scripts/export_model.py applies them", ConfigFile, name, TokenizerFile))
	}
	other := family == "other"
	if other {
		family = "backend"
	}
	if err := b.build(family); err != nil {
		return nil, err
	}
	if other && b.out.Unknown == "" { // the class may have one by default
		if b.out.Unknown, err = b.modelUnknown(); err != nil {
			return nil, err
		}
	}
	return &b.out, nil
}

// Whole describes a tokenizer.json that needs nothing beside it, such as the exporter writes. Which of its special
// tokens are the model's own it cannot say.
func Whole(definition []byte) (*Tokenizer, error) {
	spec, err := parse(TokenizerFile, definition)
	if err != nil {
		return nil, err
	}
	b := builder{files: &files{spec: spec, config: map[string]json.RawMessage{}}}
	b.out.Definition = definition
	if b.out.Unknown, err = b.modelUnknown(); err != nil {
		return nil, err
	}
	return &b.out, nil
}

//go:embed classes.json
var classesJSON []byte

type classTable struct {
	Types     map[string]string `json:"types"`     // model type: class that transformers has for it
	Unknown   []string          `json:"unknown"`   // of these, the model types that it has no configuration for
	Classes   map[string]string `json:"classes"`   // class: how it builds its tokenizer
	Untrusted []string          `json:"untrusted"` // model types whose folders are known to name a wrong class
}

var classes = sync.OnceValue(func() classTable {
	var t classTable
	if err := json.Unmarshal(classesJSON, &t); err != nil {
		panic(err) // embedded
	}
	return t
})

const backend = "TokenizersBackend" // what reads tokenizer.json and applies nothing

// choose is AutoTokenizer's choice of a class, and how that builds: bert, roberta, xlm-roberta, camembert, backend
// (tokenizer.json holds), other (a class with rules of its own).
func choose(config map[string]json.RawMessage, modelType, configClass string) (name, family string, err error) {
	var told *string // an empty name is a class that is not found
	if raw := config["tokenizer_class"]; raw != nil {
		if err := json.Unmarshal(raw, &told); err != nil {
			return "", "", fmt.Errorf("%s: tokenizer_class is %s, not the name of a class: take it out or save the "+
				"tokenizer again with AutoTokenizer", ConfigFile, brief(raw))
		}
	}
	table := classes()
	find := func(name string) (string, bool) {
		if table.Classes[name] == "" && !strings.HasSuffix(name, "Fast") {
			name += "Fast"
		}
		return strings.TrimSuffix(name, "Fast"), table.Classes[name] != ""
	}
	base := func(name string) bool {
		return slices.Contains([]string{backend, "PythonBackend", "PreTrainedTokenizer", "PreTrainedTokenizerFast"},
			name)
	}
	hub := configClass
	if told != nil {
		hub = *told
	}
	registered := strings.TrimSuffix(table.Types[modelType], "Fast")
	switch {
	case (told != nil || hub != "") && registered != "" && registered != strings.TrimSuffix(hub, "Fast"):
		name = backend
		if base(registered) || registered == "MistralCommonBackend" {
			break
		}
		wanted := hub
		if slices.Contains(table.Untrusted, modelType) {
			wanted = registered
		}
		if found, ok := find(wanted); ok && !base(wanted) {
			name = found
		}
	case told != nil:
		name = backend
		if found, ok := find(*told); ok && !base(*told) {
			name = found
		}
	case configClass != "":
		found, ok := find(configClass)
		if !ok {
			return "", "", fmt.Errorf("config.json: tokenizer_class %q is no class of transformers: take it out or "+
				"save the tokenizer again with AutoTokenizer", configClass)
		}
		name = found
		if name == "PreTrainedTokenizerFast" || configClass == "PreTrainedTokenizerFast" {
			name = backend
		}
	case registered != "" && !slices.Contains(table.Unknown, modelType):
		name = registered
	default:
		name = backend
	}
	if family = table.Classes[name]; family == "" {
		family = table.Classes[name+"Fast"]
	}
	if family == "slow" {
		return "", "", fmt.Errorf("transformers takes the class %s for this folder (by tokenizer_class, or for "+
			"model_type %q), which is written in Python and has no fast tokenizer: where %s holds the whole "+
			"tokenizer, write \"tokenizer_class\": \"PreTrainedTokenizerFast\" into %s", name, modelType,
			TokenizerFile, ConfigFile)
	}
	return name, family, nil
}

// files are the parsed files of a folder.
type files struct {
	spec       map[string]json.RawMessage // tokenizer.json; nil: there is none
	config     map[string]json.RawMessage // tokenizer_config.json; empty if there is none
	order      []string                   // its keys, as they stand in the file, and then those of specialMap
	specialMap map[string]json.RawMessage // special_tokens_map.json
	added      map[string]int             // added_tokens.json
}

func open(read Reader) (*files, error) {
	f := &files{config: map[string]json.RawMessage{}}
	object := func(name string, into *map[string]json.RawMessage) error {
		raw, err := read(name)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		if *into, err = parse(name, raw); err == nil && name != TokenizerFile {
			f.order = append(f.order, order(raw)...)
		}
		return err
	}
	if err := object(TokenizerFile, &f.spec); err != nil {
		return nil, err
	}
	if err := object(ConfigFile, &f.config); err != nil {
		return nil, err
	}
	if _, ok := f.config["added_tokens_decoder"]; ok {
		return f, nil // transformers looks at no further file
	}
	if err := object(SpecialMapFile, &f.specialMap); err != nil {
		return nil, err
	}
	raw, err := read(AddedTokensFile)
	if errors.Is(err, fs.ErrNotExist) {
		return f, nil
	}
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(raw, &f.added); err != nil {
		return nil, fmt.Errorf("%s: not an object of tokens and their ids: save the tokenizer again with "+
			"AutoTokenizer", AddedTokensFile)
	}
	return f, nil
}

// order is the keys of a JSON object as they stand there.
func order(raw []byte) []string {
	d := json.NewDecoder(bytes.NewReader(raw))
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return nil
	}
	var list []string
	for d.More() {
		key, err := d.Token()
		var skipped json.RawMessage
		if err != nil || d.Decode(&skipped) != nil {
			return list
		}
		list = append(list, key.(string))
	}
	return list
}

// parse reads a JSON object.
func parse(name string, raw []byte) (map[string]json.RawMessage, error) {
	var v map[string]json.RawMessage
	err := json.Unmarshal(raw, &v)
	if err == nil && v == nil {
		err = errors.New("it holds null")
	}
	if err != nil {
		return nil, fmt.Errorf("%s: not a JSON object: %w: save the tokenizer again with AutoTokenizer", name, err)
	}
	return v, nil
}

func brief(raw json.RawMessage) string {
	if len(raw) > 60 {
		return string(raw[:60]) + "…"
	}
	return string(raw)
}

// keys sorts, so that messages and definitions are the same every time.
func keys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
