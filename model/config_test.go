package model

import (
	"encoding/json"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// What transformers' configuration classes make of a config.json (scripts/make_config_defaults.py).
type configCase struct {
	Key, How, Config string
	Reads            *configReading // nil: transformers refuses it
}

type configReading struct {
	Labels       []string
	ProblemType  string `json:"problem_type"`
	PadTokenID   *int   `json:"pad_token_id"`
	MaxPositions int    `json:"max_position_embeddings"`
	VocabSize    int    `json:"vocab_size"`
}

var goWords = regexp.MustCompile(`unmarshal|Go (value|struct)|json:|strconv|map\[`)

// Every key that is read, written in every odd way: it is read as transformers reads it, or it is one sentence.
func TestConfigIsReadAsTransformersReadsIt(t *testing.T) {
	raw, err := os.ReadFile("testdata/config_cases.json")
	if err != nil {
		t.Fatal(err)
	}
	var cases []configCase
	if err := json.Unmarshal(raw, &cases); err != nil || len(cases) < 500 {
		t.Fatalf("%d cases, %v", len(cases), err)
	}
	offset := map[string]bool{"roberta": true, "xlm-roberta": true, "camembert": true, "data2vec-text": true}
	for _, c := range cases {
		var as struct {
			ModelType string `json:"model_type"`
		}
		json.Unmarshal([]byte(c.Config), &as)
		name := c.Key + " is " + c.How + ", " + as.ModelType
		got, err := parseConfig([]byte(c.Config))
		if err != nil {
			if goWords.MatchString(err.Error()) || !strings.Contains(err.Error(), c.Key) &&
				!strings.Contains(err.Error(), "id2label") {
				t.Errorf("%s: %v", name, err)
			}
			if c.Key != "architectures" && (c.How == "missing" || c.How == "null") {
				t.Errorf("%s is refused: %v", name, err)
			}
			continue
		}
		if c.Reads == nil {
			if c.How != "null" { // which is as if it were missing
				t.Errorf("%s: transformers refuses it, and here it is %+v", name, got)
			}
			continue
		}
		want := *c.Reads
		if offset[got.ModelType] && want.PadTokenID != nil {
			want.MaxPositions -= *want.PadTokenID + 1
		}
		if want.PadTokenID == nil || c.Key == "pad_token_id" && c.How == "null" {
			// the default is taken; transformers' RoBERTa has no answer
			want.PadTokenID, got.MaxPositions = nil, want.MaxPositions
		} else if int(got.PadTokenID) != *want.PadTokenID {
			t.Errorf("%s: pad_token_id %d, want %d", name, got.PadTokenID, *want.PadTokenID)
		}
		if got.VocabSize == 0 {
			got.VocabSize = want.VocabSize // not known: the graph tells
		}
		if d := cmp.Diff(want, configReading{got.Labels, got.ProblemType, want.PadTokenID, got.MaxPositions,
			got.VocabSize}); d != "" {
			t.Errorf("%s:\n%s", name, d)
		}
	}
}

func TestConfigDefaultsByModelType(t *testing.T) {
	for config, want := range map[string]Config{
		`{"model_type": "roberta", "architectures": ["RobertaForTokenClassification"]}`: {PadTokenID: 1, MaxPositions: 510},
		`{"architectures": ["CamembertForTokenClassification"]}`:                        {PadTokenID: 1, MaxPositions: 510},
		`{"model_type": "bert"}`:                              {PadTokenID: 0, MaxPositions: 512},
		`{"model_type": "modernbert", "pad_token_id": null}`:  {PadTokenID: 50283, MaxPositions: 8192},
		`{"model_type": "mpnet"}`:                             {PadTokenID: 1, MaxPositions: 510},
		`{"model_type": "xlnet"}`:                             {PadTokenID: 5},
		`{"model_type": "of somebody"}`:                       {},
		`{}`:                                                  {},
		"\ufeff" + `{"model_type": "bert"}`:                   {PadTokenID: 0, MaxPositions: 512},
		`{"model_type": "bert", "theta": NaN, "x": Infinity}`: {PadTokenID: 0, MaxPositions: 512},
	} {
		got, err := parseConfig([]byte(config))
		if err != nil || got.PadTokenID != want.PadTokenID || got.MaxPositions != want.MaxPositions {
			t.Errorf("%s: %+v, %v", config, got, err)
		}
	}
}

func TestConfigThatIsNoObjectIsNamedInOurWords(t *testing.T) {
	for config, want := range map[string]string{
		`[1]`: "is [1], not a JSON object", `"x"`: `is "x", not a JSON object`, `null`: "is null, not a JSON object",
		"": "not a JSON object: unexpected end of JSON input", "{": "not a JSON object",
		`{"vocab_size": NaN}`:                       `vocab_size: is "NaN": it must be a whole number from 1`,
		`{"a": "a NaN", "pad_token_id": -Infinity}`: `pad_token_id: is "-Infinity": it must be a whole number from 0`,
	} {
		_, err := parseConfig([]byte(config))
		if err == nil || !strings.Contains(err.Error(), want) || goWords.MatchString(err.Error()) {
			t.Errorf("%s: %v, want %q", config, err, want)
		}
	}
}

// A manifest says what the exporter saw in the weights; a default of config.json does not contradict it.
func TestADefaultIsNoContradictionToTheManifest(t *testing.T) {
	files := map[string]string{ManifestFile: sentimentMan,
		ConfigFile: `{"model_type": "bert", "architectures": ["BertForSequenceClassification"]}`}
	m := mustOpen(t, writeModel(t, files, func(manifest map[string]any) {
		manifest["max_tokens"], manifest["pad_token_id"] = 1024, 3
	}))
	if m.MaxTokens != 1024 || m.Config.PadTokenID != 3 {
		t.Errorf("%d tokens, padding %d", m.MaxTokens, m.Config.PadTokenID)
	}
}
