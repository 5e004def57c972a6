package main

import (
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The right labels and scores are of numpy's arithmetic in float64 over the ids and token types that transformers'
// AutoTokenizer gives for the checkpoint that the model was exported from (scripts/make_test_models.py).
func TestClassifyPairs(t *testing.T) {
	cmd := sluice(t, "classify", "-m", "nli=../../model/ort/testdata/pairs", "--text", "premise", "--text-pair",
		"o.hypothesis")
	cmd.Stdin = strings.NewReader(`{"premise":"the two words","o":{"hypothesis":"london"}}
{"premise":"the two words","o":{"hypothesis":"the fox"}}
{"premise":"Zoë two","o":{"hypothesis":"a\ud83d"}}
{"premise":"the two words"}
{"premise":"the two words","o":{"hypothesis":""}}
`)
	r := finish(t, cmd)
	lines := strings.Split(strings.TrimSpace(r.out), "\n")
	if r.code != exitFailed || len(lines) != 5 {
		t.Fatalf("%+v", r)
	}
	for i, want := range []float64{0.8075561, 0.8925319, 0.6878989} {
		var got struct {
			Inference struct {
				NLI struct {
					Label string
					Score float64
				}
				Flags []string
			}
		}
		if err := json.Unmarshal([]byte(lines[i]), &got); err != nil || got.Inference.NLI.Label != "gamma" ||
			math.Abs(got.Inference.NLI.Score-want) > 2e-6 || (len(got.Inference.Flags) == 1) != (i == 2) {
			t.Errorf("%s, want gamma %v (%v)", lines[i], want, err)
		}
	}
	if !strings.Contains(lines[3], "missing-text") || !strings.Contains(lines[3], `input.text_pair is`) {
		t.Errorf("no second text: %s", lines[3])
	}
	if !strings.Contains(lines[4], `"reason":"empty"`) {
		t.Errorf("an empty second text: %s", lines[4])
	}
}

// A model that would not see which text is the second is refused before it judges anything.
func TestModelsThatCannotReadPairsAreRefused(t *testing.T) {
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ name, config, says string }{
		{"entities", `{name: m, path: ROOT/models/ner, reads: pair}`, "only text-classification reads two texts"},
		{"windows", `{name: m, path: ROOT/model/ort/testdata/pairs, long_text: window}`, "not read in windows"},
	} {
		t.Run(c.name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "pairs.yaml")
			text := "kafka: {brokers: [\"localhost:9\"], group: g}\ninput: {topics: [in], text_pair: other}\n" +
				"output: {topic: out}\ndead_letter: {topic: dlq}\nmodels: [" +
				strings.Replace(c.config, "ROOT", root, 1) + "]\n"
			if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			r := finish(t, sluice(t, "validate", "-c", file, "--offline"))
			if r.code != exitUsage || !strings.Contains(r.out+r.err, c.says) {
				t.Errorf("%+v does not say %q", r, c.says)
			}
		})
	}
}
