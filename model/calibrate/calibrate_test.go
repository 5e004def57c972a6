package calibrate

import (
	"encoding/json"
	"math"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"sluice/model"
)

// witness is one case of scripts/make_calibration_goldens.py.
type witness struct {
	Independent   bool
	Logits        [][]float32
	Truth         [][]bool
	Temperature   float64
	Before, After struct {
		ECE      float64
		Adaptive float64 `json:"ece_adaptive"`
		NLL      float64
	}
	Accuracy float64
	Pools    model.Isotonic
}

func readWitness(t *testing.T) []witness {
	t.Helper()
	raw, err := os.ReadFile("testdata/witness.json")
	if err != nil {
		t.Fatal(err)
	}
	var file struct{ Cases []witness }
	if err := json.Unmarshal(raw, &file); err != nil || len(file.Cases) != 2 {
		t.Fatalf("%d cases: %v", len(file.Cases), err)
	}
	return file.Cases
}

func (w *witness) rows() *Rows {
	r := &Rows{Independent: w.Independent}
	for i := range w.Logits {
		r.Next()
		r.Add(w.Logits[i], w.Truth[i])
	}
	return r
}

func within(a, b, tolerance float64) bool { return math.Abs(a-b) <= tolerance }

func TestFitAndMeasuresAreThoseOfSciPyAndScikitLearn(t *testing.T) {
	for _, w := range readWitness(t) {
		r := w.rows()
		temperature, err := r.temperature()
		if err != nil || !within(temperature, w.Temperature, 1e-4) {
			t.Errorf("independent %v: temperature %v (%v), SciPy has %v", w.Independent, temperature, err,
				w.Temperature)
		}
		for _, c := range []struct {
			name        string
			calibration *model.Calibration
			want        struct {
				ECE      float64
				Adaptive float64 `json:"ece_adaptive"`
				NLL      float64
			}
		}{{"before", nil, w.Before}, {"after", &model.Calibration{Method: model.Temperature,
			Temperature: w.Temperature}, w.After}} {
			m := r.Measure(r.Scores(c.calibration))
			if !within(m.ECE, c.want.ECE, 1e-6) || !within(m.ECEAdaptive, c.want.Adaptive, 1e-6) ||
				!within(m.NLL, c.want.NLL, 1e-6) || !within(m.Accuracy, w.Accuracy, 1e-9) {
				t.Errorf("independent %v, %s: %+v, the witness has %+v, accuracy %v", w.Independent, c.name, m, c.want,
					w.Accuracy)
			}
		}
		curve := r.isotonic()
		least := 1 / float64(r.Measure(r.Scores(nil)).Rows+2)
		for i := range w.Pools.Y {
			w.Pools.Y[i] = min(1-least, max(least, w.Pools.Y[i]))
		}
		close := func(a, b float64) bool { return within(a, b, 2e-6) }
		if !slices.EqualFunc(curve.X, w.Pools.X, close) || !slices.EqualFunc(curve.Y, w.Pools.Y, close) {
			t.Errorf("independent %v: the curve is %v, scikit-learn pools %v", w.Independent, *curve, w.Pools)
		}
	}
}

// bent are two-label logits whose true probability is a step that no temperature can make.
func bent(n int) *Rows {
	rnd := rand.New(rand.NewPCG(3, 4))
	r := &Rows{}
	for range n {
		z := 4 * rnd.Float64()
		p := 0.6
		if z > 2 {
			p = 0.97
		}
		right := rnd.Float64() < p
		r.Next()
		r.Add([]float32{0, float32(z)}, []bool{!right, right})
	}
	return r
}

func TestFitChoosesByHeldOutFolds(t *testing.T) {
	both := []model.CalibrationMethod{model.Temperature, model.IsotonicRegression}
	sharp := readWitness(t)[0]
	honest := sharp.rows()
	for i, l := range honest.Logits {
		scaled := make([]float32, len(l))
		for k := range l {
			scaled[k] = l[k] / float32(sharp.Temperature)
		}
		honest.Logits[i] = scaled
	}
	for _, c := range []struct {
		name string
		rows *Rows
		want model.CalibrationMethod
	}{
		{"too sharp logits are for a temperature", sharp.rows(), model.Temperature},
		{"a step is for a curve", bent(2000), model.IsotonicRegression},
		{"honest logits are left alone", honest, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			a, err := Fit(c.rows, both, Options{Folds: 5, Seed: 1})
			if err != nil {
				t.Fatal(err)
			}
			if c.want == "" {
				if a.Calibration != nil {
					t.Fatalf("chosen: %+v: %s", a.Calibration, a.Why)
				}
				return
			}
			if a.Calibration == nil || a.Calibration.Method != c.want {
				t.Fatalf("chosen: %+v: %s", a.Calibration, a.Why)
			}
			h := a.Calibration.Held
			if h.ECEAfter >= h.ECEBefore || h.NLLAfter >= h.NLLBefore {
				t.Errorf("on held-out folds it makes things worse: %+v", h)
			}
			b, err := Fit(c.rows, both, Options{Folds: 5, Seed: 1})
			x, _ := json.Marshal(a.Calibration)
			y, _ := json.Marshal(b.Calibration)
			if err != nil || string(x) != string(y) {
				t.Errorf("the same texts and seed give\n%s\n%s (%v)", x, y, err)
			}
			asked, err := Fit(c.rows, both, Options{Method: model.Temperature, Folds: 5, Seed: 1})
			if err != nil || asked.Calibration.Method != model.Temperature {
				t.Errorf("a temperature was asked for: %+v, %v", asked, err)
			}
		})
	}
}

func TestFitRefusesWhatNothingCanBeLearntFrom(t *testing.T) {
	all := func(n int, right bool) *Rows {
		r := &Rows{}
		for range n {
			r.Next()
			r.Add([]float32{0, 1}, []bool{!right, right})
		}
		return r
	}
	for _, c := range []struct {
		name  string
		rows  *Rows
		folds int
		says  string
	}{
		{"too few texts", all(49, true), 5, "49 labelled texts are too few for 5 folds: give at least 50"},
		{"all right", all(50, true), 5, "right about every text"},
		{"all wrong", all(50, false), 5, "wrong about every text"},
		{"one fold", all(50, true), 1, "at least 2"},
	} {
		if _, err := Fit(c.rows, []model.CalibrationMethod{model.Temperature}, Options{Folds: c.folds}); err == nil ||
			!strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: error %v does not say %q", c.name, err, c.says)
		}
	}
	upside := bent(200)
	for i := range upside.Logits {
		upside.Logits[i][1] *= -1
	}
	if _, err := Fit(upside, []model.CalibrationMethod{model.Temperature}, Options{Folds: 5}); err == nil ||
		!strings.Contains(err.Error(), "check that the file is for this model") {
		t.Errorf("logits that say the opposite: %v", err)
	}
}

// Rows of one text stay together, and every fold has its share.
func TestFoldsKeepTextsWhole(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := &Rows{}
		for range rapid.IntRange(1, 60).Draw(t, "texts") {
			r.Next()
			for range rapid.IntRange(0, 3).Draw(t, "rows") {
				r.Add([]float32{0, 1}, []bool{true, false})
			}
		}
		k := rapid.IntRange(2, 6).Draw(t, "folds")
		fold := r.folds(k, rapid.Uint64().Draw(t, "seed"))
		sizes := make([]int, k)
		for _, f := range fold {
			sizes[f]++
		}
		if slices.Max(sizes)-slices.Min(sizes) > 1 {
			t.Fatalf("folds of %v texts", sizes)
		}
		seen := 0
		for n := range k {
			in, out := r.part(fold, n)
			seen += in.Len()
			for _, g := range in.Group {
				if slices.Contains(out.Group, g) {
					t.Fatalf("text %d is in and out of fold %d", g, n)
				}
			}
		}
		if seen != r.Len() {
			t.Fatalf("%d of %d rows are in a fold", seen, r.Len())
		}
	})
}
