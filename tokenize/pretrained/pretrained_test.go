package pretrained_test

import (
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"testing"

	"sluice/tokenize/pretrained"
)

// folder reads files that are texts.
func folder(files map[string]string) pretrained.Reader {
	return func(name string) ([]byte, error) {
		text, ok := files[name]
		if !ok {
			return nil, fmt.Errorf("%s: %w", name, fs.ErrNotExist)
		}
		return []byte(text), nil
	}
}

const wordPiece = `{"model": {"type": "WordPiece", "vocab": {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3}}}`

func TestWhatIsWrongIsNamed(t *testing.T) {
	for _, c := range []struct {
		name  string
		kind  string
		files map[string]string
		says  []string
	}{
		{"no vocabulary", "bert", nil, []string{"tokenizer.json is missing", "vocab.txt", "copy them"}},
		{"no merges", "roberta", map[string]string{"vocab.json": "{}"}, []string{"merges.txt", "copy them"}},
		{"merges of one token", "roberta", map[string]string{"vocab.json": "{}", "merges.txt": "a b\nab\n"},
			[]string{"merges.txt: line 2", "two tokens"}},
		{"SentencePiece alone", "xlm-roberta", map[string]string{"sentencepiece.bpe.model": "x"},
			[]string{"sentencepiece.bpe.model", "export_model.py", "save_pretrained"}},
		{"SentencePiece of a model that has vocab.txt", "albert", map[string]string{"spiece.model": "x"},
			[]string{"spiece.model", "export_model.py"}},
		{"a class written in Python", "bert", map[string]string{"tokenizer.json": wordPiece,
			"tokenizer_config.json": `{"tokenizer_class": "BertJapaneseTokenizer"}`},
			[]string{"BertJapaneseTokenizer", "written in Python"}},
		{"a vocabulary of another sort", "xlm-roberta", map[string]string{"tokenizer.json": wordPiece},
			[]string{"XLMRobertaTokenizer", "Unigram", `"WordPiece"`, "tokenizer_class"}},
		{"a token that is missing", "bert", map[string]string{"tokenizer.json": wordPiece,
			"tokenizer_config.json": `{"unk_token": "<unk>"}`}, []string{`unk_token "<unk>" is not in the vocabulary`}},
		{"a length that is no number", "bert", map[string]string{"tokenizer.json": wordPiece,
			"tokenizer_config.json": `{"model_max_length": "512"}`}, []string{"model_max_length", `"512"`, "number"}},
		{"an argument that is no truth", "bert", map[string]string{"tokenizer.json": wordPiece,
			"tokenizer_config.json": `{"do_lower_case": "no"}`}, []string{"do_lower_case", `"no"`, "true or false"}},
		{"a class that is no name", "bert", map[string]string{"tokenizer.json": wordPiece,
			"tokenizer_config.json": `{"tokenizer_class": 7}`}, []string{"tokenizer_class is 7"}},
		{"no object", "bert", map[string]string{"tokenizer.json": wordPiece, "tokenizer_config.json": `[]`},
			[]string{"tokenizer_config.json: not a JSON object"}},
		{"null", "bert", map[string]string{"tokenizer.json": `null`}, []string{"tokenizer.json: not a JSON object"}},
		{"a model that is none", "bert", map[string]string{"tokenizer.json": `{"model": []}`},
			[]string{`no member "model" that is an object`}},
		{"no model", "bert", map[string]string{"tokenizer.json": `{}`}, []string{`no member "model" that is an object`}},
		{"a decoder that is none", "bert", map[string]string{"tokenizer.json": wordPiece,
			"tokenizer_config.json": `{"added_tokens_decoder": {"x": {"content": "a"}}}`},
			[]string{"added_tokens_decoder"}},
		{"added tokens that are none", "bert", map[string]string{"tokenizer.json": wordPiece,
			"added_tokens.json": `["a"]`}, []string{"added_tokens.json", "tokens and their ids"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := pretrained.Read(folder(c.files), c.kind, "")
			if err == nil {
				t.Fatal("no error")
			}
			for _, s := range c.says {
				if !strings.Contains(err.Error(), s) {
					t.Errorf("%v does not say %q", err, s)
				}
			}
		})
	}
}

// A class whose rules are not known here is not guessed at in silence.
func TestAClassWithOtherRulesIsAWarning(t *testing.T) {
	files := map[string]string{"tokenizer.json": wordPiece,
		"tokenizer_config.json": `{"tokenizer_class": "MPNetTokenizer", "do_lower_case": true}`}
	got, err := pretrained.Read(folder(files), "mpnet", "")
	if err != nil || len(got.Warnings) != 1 || !strings.Contains(got.Warnings[0], "MPNetTokenizer") {
		t.Errorf("%+v, %v", got, err)
	}
}

// A model that was trained in upper and lower case, and does not say so where transformers looks.
func TestADefaultThatGoesBeforeTheFileIsAWarning(t *testing.T) {
	cased := strings.TrimSuffix(wordPiece, "}") + `, "normalizer": {"type": "BertNormalizer", "lowercase": false}}`
	for config, want := range map[string]int{`{}`: 1, `{"do_lower_case": true}`: 0, `{"do_lower_case": false}`: 0,
		`{"tokenizer_class": "PreTrainedTokenizerFast"}`: 0} {
		got, err := pretrained.Read(folder(map[string]string{"tokenizer.json": cased, "tokenizer_config.json": config}),
			"bert", "")
		if err != nil || len(got.Warnings) != want || want == 1 && !strings.Contains(got.Warnings[0],
			`write "do_lower_case": false into tokenizer_config.json`) {
			t.Errorf("%s: %+v, %v", config, got, err)
		}
	}
}

func TestSpecialTokensOfTheModelsOwn(t *testing.T) {
	added := `"added_tokens": [{"id": 0, "content": "[PAD]", "special": true},
		{"id": 4, "content": "[unused1]", "special": true}, {"id": 5, "content": "[E1]", "special": true},
		{"id": 6, "content": "@USER", "special": false}]`
	for _, c := range []struct {
		name, definition, config string
		want                     []string
	}{
		{"none", wordPiece, `{}`, nil},
		{"in tokenizer.json", strings.TrimSuffix(wordPiece, "}") + ", " + added + "}", `{}`, []string{"[E1]"}},
		{"in tokenizer_config.json", wordPiece, `{"additional_special_tokens": ["[T]"], "image_token": "<i>"}`,
			[]string{"<i>", "[T]"}},
		{"a usual one by another name", wordPiece, `{"mask_token": "<blank>"}`, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := pretrained.Read(folder(map[string]string{"tokenizer.json": c.definition,
				"tokenizer_config.json": c.config}), "bert", "")
			if err != nil || !slices.Equal(got.Special, c.want) {
				t.Errorf("%q, %v, want %q", got.Special, err, c.want)
			}
		})
	}
}
