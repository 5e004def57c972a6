package model

import (
	"bytes"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func curve(t *rapid.T) *Isotonic {
	n := rapid.IntRange(1, 6).Draw(t, "points")
	x := rapid.SliceOfNDistinct(rapid.IntRange(0, 1000), n, n, rapid.ID).Draw(t, "x")
	y := rapid.SliceOfN(rapid.IntRange(0, 1000), n, n).Draw(t, "y")
	slices.Sort(x)
	slices.Sort(y)
	c := &Isotonic{}
	for i := range x {
		c.X, c.Y = append(c.X, float64(x[i])/1000), append(c.Y, float64(y[i])/1000)
	}
	if err := c.check(); err != nil {
		t.Fatal(err)
	}
	return c
}

// Whatever the calibration: the top label stays, no order is turned round, and a softmax adds up to 1.
func TestACalibrationTurnsNoOrderRound(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		logits := rapid.SliceOfN(rapid.Float32Range(-200, 200), 2, 5).Draw(t, "logits")
		problem := rapid.SampledFrom([]string{SingleLabel, MultiLabel}).Draw(t, "problem")
		c := &Calibration{Method: Temperature, Temperature: rapid.Float64Range(LowestTemperature,
			HighestTemperature).Draw(t, "temperature")}
		if rapid.Bool().Draw(t, "isotonic") {
			c = &Calibration{Method: IsotonicRegression, Isotonic: curve(t)}
		}
		raw, scores := NewScorer(problem, len(logits), nil).Scores(logits), NewScorer(problem, len(logits),
			c).Scores(logits)
		var sum float64
		for i := range scores {
			sum += float64(scores[i])
			if !(scores[i] >= 0 && scores[i] <= 1) {
				t.Fatalf("score %v", scores)
			}
			if c.Method == Temperature {
				continue // float32 may round two scores of one temperature to 1, and not those of another
			}
			for k := range scores {
				if raw[i] > raw[k] && scores[i] < scores[k] {
					t.Fatalf("%v became %v", raw, scores)
				}
			}
		}
		top := argmax(raw)
		tied := slices.Contains(raw[top+1:], raw[top]) // in float32; what is calibrated may tell them apart
		if !tied && scores[top] < slices.Max(scores)-1e-6 {
			t.Fatalf("top label %d has %v of %v", top, scores[top], scores)
		}
		if problem == SingleLabel && math.Abs(sum-1) > 1e-5 {
			t.Fatalf("%v adds up to %v", scores, sum)
		}
	})
}

func TestJudgeAppliesTheCalibration(t *testing.T) {
	isotonic := &Calibration{Method: IsotonicRegression, Isotonic: &Isotonic{X: []float64{0.5, 0.75, 1},
		Y: []float64{0.5, 0.625, 0.9}}}
	log3 := float32(math.Log(3))
	for _, c := range []struct {
		name        string
		problem     string
		calibration *Calibration
		logits      []float32
		scores      []float64 // of a, b
	}{
		{"none", "", nil, []float32{log3, 0}, []float64{0.75, 0.25}},
		{"temperature", "", &Calibration{Method: Temperature, Temperature: 2}, []float32{2 * log3, 0},
			[]float64{0.75, 0.25}},
		{"temperature of independent labels", MultiLabel, &Calibration{Method: Temperature, Temperature: 0.5},
			[]float32{log3 / 2, -log3 / 2}, []float64{0.75, 0.25}},
		{"isotonic", "", isotonic, []float32{log3, 0}, []float64{0.625, 0.375}},
		{"isotonic, certain", "", isotonic, []float32{500, 0}, []float64{0.9, 0.1}},
		{"isotonic of independent labels", MultiLabel, isotonic, []float32{log3, log3}, []float64{0.625, 0.625}},
		{"isotonic below a guess", "", &Calibration{Method: IsotonicRegression, Isotonic: &Isotonic{X: []float64{0.5},
			Y: []float64{0.2}}}, []float32{log3, 0}, []float64{0.5, 0.5}},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := &Model{Name: "m", Task: TextClassification, Labels: []string{"a", "b"},
				Config: Config{ProblemType: c.problem}, Manifest: &Manifest{Calibration: c.calibration}}
			j, err := NewJudge(m, nil, JudgeOptions{AllScores: true})
			if err != nil {
				t.Fatal(err)
			}
			v, err := j.Verdict(nil, windows(1), [][]float32{c.logits})
			if err != nil {
				t.Fatal(err)
			}
			if v.Label != "a" || v.Score != v.Scores[0].Score || v.Scores[0].Label != "a" || !near(v.Scores[0].Score,
				c.scores[0]) || !near(v.Scores[1].Score, c.scores[1]) || !near(v.Margin, c.scores[0]-c.scores[1]) {
				t.Errorf("%+v, want %v", v, c.scores)
			}
		})
	}
}

// bundledManifest is that of the smallest bundled model.
func bundledManifest(t *testing.T) []byte {
	t.Helper()
	raw, err := os.ReadFile("../models/sentiment-tiny/manifest.json")
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func TestWithCalibrationLeavesEveryOtherByte(t *testing.T) {
	bundled := bundledManifest(t)
	bare, err := WithCalibration(bundled, nil)
	if err != nil || bytes.Contains(bare, []byte(`"calibration": {`)) {
		t.Fatalf("the calibration was not taken out: %v", err)
	}
	c := &Calibration{Method: Temperature, Temperature: 1.5}
	with, err := WithCalibration(bare, c)
	if err != nil {
		t.Fatal(err)
	}
	// In the place of another, and taken out again.
	other, err := WithCalibration(bundled, c)
	if err != nil || !bytes.Equal(other, with) {
		t.Errorf("replaced and added calibrations differ: %v", err)
	}
	if without, err := WithCalibration(with, nil); err != nil || !bytes.Equal(without, bare) {
		t.Errorf("taking it out leaves something: %v", err)
	}
	added := len(with) - len(bare)
	at := bytes.Index(with, []byte("\"calibration\": {\n    \"method\": \"temperature\",\n    \"temperature\": 1.5,"))
	if at < 0 || !bytes.Equal(append(bytes.Clone(with[:at]), with[at+added:]...), bare) {
		t.Errorf("other bytes were changed:\n%s", with)
	}
	for name, manifest := range map[string]string{
		"only member behind": `{"format_version": 1}`,
		"not JSON":           `[1]`,
		"empty":              `{}`,
	} {
		if _, err := WithCalibration([]byte(manifest), c); err == nil || !strings.HasPrefix(err.Error(),
			"manifest.json: ") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A calibration changes verdicts, so it changes the tag; what it was fitted on does not.
func TestTheDigestCoversTheCalibration(t *testing.T) {
	tag := func(c *Calibration) string {
		t.Helper()
		dir := t.TempDir()
		for _, name := range []string{ConfigFile, TokenizerFile, OnnxFile} {
			abs, err := filepath.Abs("../models/sentiment-tiny/" + name)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.Symlink(abs, filepath.Join(dir, name)); err != nil {
				t.Fatal(err)
			}
		}
		raw, err := WithCalibration(bundledManifest(t), c)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, ManifestFile), raw, 0o600); err != nil {
			t.Fatal(err)
		}
		m, err := Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		declared := m.Tag("m")
		if err := m.Verify(); err != nil || m.Tag("m") != declared {
			t.Fatalf("verified it is %s, the manifest says %s: %v", m.Tag("m"), declared, err)
		}
		return declared
	}
	if got := tag(nil); got != "m@2745b00b929a" {
		t.Errorf("without a calibration the tag is %s: digests of before have changed", got)
	}
	temperature := tag(&Calibration{Method: Temperature, Temperature: 1.5})
	if again := tag(&Calibration{Method: Temperature, Temperature: 1.5, FittedOn: CalibrationSource{Name: "other",
		Rows: 7}}); again != temperature {
		t.Errorf("the same temperature gives %s and %s", temperature, again)
	}
	curve := &Calibration{Method: IsotonicRegression, Isotonic: &Isotonic{X: []float64{0.5}, Y: []float64{0.6}}}
	seen := []string{tag(nil), temperature, tag(&Calibration{Method: Temperature, Temperature: 1.6}), tag(curve)}
	slices.Sort(seen)
	if len(slices.Compact(seen)) != 4 {
		t.Errorf("four kinds of scores have the tags %v", seen)
	}
}

func TestManifestRefusesACalibrationThatCannotBe(t *testing.T) {
	for _, c := range []struct {
		task        Task
		calibration Calibration
		says        string
	}{
		{TextClassification, Calibration{Method: "platt"},
			`calibration.method: is "platt", not one of "temperature", "isotonic"`},
		{TextClassification, Calibration{Method: Temperature}, "calibration.temperature: is 0"},
		{TextClassification, Calibration{Method: Temperature, Temperature: math.NaN()}, "calibration.temperature: is " +
			"NaN"},
		{TextClassification, Calibration{Method: Temperature, Temperature: 1, Isotonic: &Isotonic{}},
			"calibration.isotonic: does not go"},
		{TextClassification, Calibration{Method: IsotonicRegression}, "calibration.isotonic: is missing"},
		{TextClassification, Calibration{Method: IsotonicRegression, Temperature: 1}, "calibration.temperature: does " +
			"not go"},
		{TokenClassification, Calibration{Method: IsotonicRegression, Isotonic: &Isotonic{X: []float64{1},
			Y: []float64{1}}}, "is not for token-classification"},
		{TextClassification, Calibration{Method: IsotonicRegression, Isotonic: &Isotonic{X: []float64{0, 1},
			Y: []float64{1}}}, "2 values x and 1 values y"},
		{TextClassification, Calibration{Method: IsotonicRegression, Isotonic: &Isotonic{X: []float64{0, 0},
			Y: []float64{0, 1}}}, "x must rise"},
		{TextClassification, Calibration{Method: IsotonicRegression, Isotonic: &Isotonic{X: []float64{0, 1},
			Y: []float64{1, 0}}}, "y never fall"},
		{TextClassification, Calibration{Method: IsotonicRegression, Isotonic: &Isotonic{X: []float64{0},
			Y: []float64{1.5}}}, "not within 0 and 1"},
	} {
		if err := c.calibration.check(c.task); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%+v: error %v does not say %q", c.calibration, err, c.says)
		}
	}
}
