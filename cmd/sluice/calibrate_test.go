package main

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"sluice/model"
)

// ownModel is a bundled model whose manifest may be written, without a calibration.
func ownModel(t *testing.T, name string) string {
	t.Helper()
	bundled, dir := needModel(t, name), filepath.Join(t.TempDir(), name)
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{model.OnnxFile, model.TokenizerFile, model.ConfigFile} {
		if err := os.Symlink(filepath.Join(bundled, file), filepath.Join(dir, file)); err != nil {
			t.Fatal(err)
		}
	}
	raw, err := os.ReadFile(filepath.Join(bundled, model.ManifestFile))
	if err == nil {
		raw, err = model.WithCalibration(raw, nil)
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, model.ManifestFile), raw, 0o640)
	}
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

func labelledLines(t *testing.T, lines ...string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "labelled.jsonl")
	if err := os.WriteFile(name, []byte(strings.Join(lines, "\n")), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

func TestCalibrateWritesTheManifestAndClassifyFollows(t *testing.T) {
	dir, plot := ownModel(t, "sentiment-tiny"), filepath.Join(t.TempDir(), "p.svg")
	manifest := filepath.Join(dir, model.ManifestFile)
	before, err := os.ReadFile(manifest)
	if err != nil {
		t.Fatal(err)
	}
	verdict := func() string {
		t.Helper()
		cmd := sluice(t, "classify", "-m", "tiny="+dir)
		cmd.Stdin = strings.NewReader("The plot is thin, but the actors are quite good.\n")
		r := finish(t, cmd)
		found := regexp.MustCompile(`"score":[0-9.e-]+,.*"model":"[^"]*"`).FindString(r.out)
		if r.code != 0 || found == "" {
			t.Fatalf("classify: %+v", r)
		}
		return found
	}
	raw := verdict()
	own, err := os.ReadFile("testdata/labelled.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	lines := []string{strings.TrimSpace(string(own))}
	for range 4 { // somebody who likes none of it, so that both folds have texts about which the model is wrong
		lines = append(lines, `{"text": "A wonderful and moving film.", "label": "NEGATIVE"}`,
			`{"text": "Dull, tedious and badly acted.", "label": "POSITIVE"}`)
	}
	labelled := labelledLines(t, lines...)
	args := []string{"calibrate", "-m", dir, "--labelled", labelled, "--evaluate", labelled, "--method", "temperature",
		"--folds", "2", "--plot", plot}

	dry := finish(t, sluice(t, append(args, "--dry-run")...))
	if now, err := os.ReadFile(manifest); dry.code != 0 || err != nil || !bytes.Equal(now, before) ||
		!strings.Contains(dry.out, "Nothing is written (--dry-run).") {
		t.Fatalf("dry run: %+v, %v", dry, err)
	}
	r := finish(t, sluice(t, args...))
	for _, want := range []string{"as the model is", "temperature, held out", "calibrated", "Chosen: temperature ",
		"(o mean score, # share that is right, X both)", "is written: verdicts say sentiment-tiny@"} {
		if r.code != 0 || !strings.Contains(r.out, want) {
			t.Fatalf("no %q: %+v", want, r)
		}
	}
	if svg, err := os.ReadFile(plot); err != nil || !bytes.Contains(svg, []byte("</svg>")) {
		t.Errorf("no plot: %v", err)
	}
	m, err := model.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	if c := m.Manifest.Calibration; c.FittedOn.Name != "labelled.jsonl" || c.FittedOn.Rows != 56 ||
		len(c.FittedOn.SHA256) != 64 || c.FittedOn.Folds != 2 {
		t.Errorf("fitted on %+v", c.FittedOn)
	}
	calibrated := verdict()
	if calibrated == raw || !strings.Contains(calibrated, m.Tag("tiny")) {
		t.Errorf("before %s, after %s", raw, calibrated)
	}
	// The same from a calibrated model: everything starts from the raw logits.
	again := finish(t, sluice(t, args...))
	written, err := os.ReadFile(manifest)
	if err != nil || again.code != 0 || !strings.Contains(again.out, "which is replaced") {
		t.Fatalf("again: %+v, %v", again, err)
	}
	if now, err := model.Open(dir); err != nil || now.Digest != m.Digest {
		t.Errorf("calibrated twice it is another model: %v\n%s", err, written)
	}
}

func TestCalibrateOfEntities(t *testing.T) {
	dir := ownModel(t, "ner")
	var lines []string
	for _, name := range []string{"Bonn", "Lagos", "Quito", "Turku", "Ghent", "Perth", "Osaka", "Turin", "Lodz",
		"Basra"} {
		lines = append(lines,
			`{"text": "She moved to `+name+` in May .", "entities": [{"entity_group": "LOC", "start": 13, "end": `+map[int]string{4: "17", 5: "18"}[len(name)]+`}]}`,
			// a name where the label sees none
			`{"text": "The `+name+` of the old mill was for sale .", "entities": []}`)
	}
	r := finish(t, sluice(t, "calibrate", "-m", dir, "--labelled", labelledLines(t, lines...), "--folds", "2",
		"--method", "temperature"))
	for _, want := range []string{" words; 2 folds", "Chosen: temperature ", "have just the labelled entities",
		"Confidence of whole texts"} {
		if r.code != 0 || !strings.Contains(r.out, want) {
			t.Fatalf("no %q: %+v", want, r)
		}
	}
	if m, err := model.Open(dir); err != nil || m.Manifest.Calibration.Temperature <= 1 {
		t.Errorf("names labelled as none make the model no less sure: %v, %+v", err, m.Manifest.Calibration)
	}
}

func TestCalibrateSaysWhatIsWrongWithItsInput(t *testing.T) {
	sentiment, toxicity, ner := ownModel(t, "sentiment-tiny"), ownModel(t, "toxicity"), ownModel(t, "ner")
	bare := ownModel(t, "sentiment-tiny")
	if err := os.Remove(filepath.Join(bare, model.ManifestFile)); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, model, line string
		flags             []string
		says              string
	}{
		{"no JSON", sentiment, "{", nil, "line 2: is not a JSON object (unexpected end of JSON input); write " +
			"{\"text\": \"…\", \"label\": \"NEGATIVE\"}"},
		{"no text", sentiment, `{"label": "NEGATIVE"}`, nil, `line 2: has no "text"`},
		{"no label", sentiment, `{"text": "a"}`, nil, `line 2: has no "label"`},
		{"a label of another model", sentiment, `{"text": "a", "label": "POSITVE"}`, nil,
			`line 2: "POSITVE" is none of the model's labels (NEGATIVE, POSITIVE); did you mean POSITIVE?`},
		{"one label for independent ones", toxicity, `{"text": "a", "label": "toxic"}`, nil,
			`line 2: "label" is "toxic"; write {"text": "…", "labels": ["toxic"]}, or [] where there are none`},
		{"no entities", ner, `{"text": "a"}`, nil, `line 2: has no "entities"`},
		{"an entity behind the text", ner, `{"text": "é", "entities": [{"entity_group": "PER", "start": 0, "end": 2}]}`,
			nil, "line 2: entities[0] is from 0 to 2 of a text of 1 characters"},
		{"a group of another model", ner,
			`{"text": "a", "entities": [{"entity_group": "person", "start": 0, "end": 1}]}`, nil,
			`line 2: "person" is none of the model's labels (PER, ORG, LOC, MISC)`},
		{"entities that overlap", ner,
			`{"text": "ab", "entities": [{"entity_group": "PER", "start": 0, "end": 2}, {"entity_group": "LOC", "start": 1, "end": 2}]}`, nil, "line 2: the entity LOC at 1 overlaps"},
		{"isotonic for entities", ner, "", []string{"--method", "isotonic"}, "--method isotonic is for " +
			"text-classification"},
		{"an unknown method", sentiment, "", []string{"--method", "plat"},
			`--method: "plat" is not one of auto, temperature, isotonic`},
		{"one fold", sentiment, "", []string{"--folds", "1"}, "--folds: 1 is out of range"},
		{"no texts", sentiment, "", nil, "there is no text in it"},
		{"no manifest", bare, "", nil, "has no manifest.json, which is where a calibration is written"},
	} {
		r := finish(t, sluice(t, append([]string{"calibrate", "-m", c.model, "--labelled", labelledLines(t, "",
			c.line)}, c.flags...)...))
		if r.code != exitUsage || !strings.Contains(r.err, c.says) {
			t.Errorf("%s: exit code %d, %q does not say %q", c.name, r.code, r.err, c.says)
		}
	}
}
