package ceiling

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"sluice/cmd/sluice/load"
	"sluice/cmd/sluice/load/bare"
	"sluice/model"
	"sluice/pipeline/engine"
)

// free is a runner whose rows cost nothing.
type free struct{}

func (free) Bind() error  { return nil }
func (free) Close() error { return nil }
func (free) Run(_ context.Context, rows []engine.Input) ([][]float32, error) {
	return make([][]float32, len(rows)), nil
}

func plan() Plan {
	return Plan{Rows: []engine.Input{make(engine.Tokens, 10), make(engine.Tokens, 30)}, Rounds: 3,
		Loop: bare.Options{Length: 5 * time.Millisecond, Open: func(int) (engine.Runner, error) {
			return free{}, nil
		}},
		Status: func(string, ...any) {}}
}

func report() *Report {
	return &Report{Machine: load.Machine{Cores: 2, Peak: &load.Peak{GMACs: 100, How: "by hand"}},
		Model:  load.Model{Tag: "m@1", Shape: load.Shape{Layers: 1, Hidden: 2, Intermediate: 8}},
		Tokens: &load.Tokens{Sample: 2, Mean: 20}}
}

func TestEveryPairOfRunnersAndBudgetsHasARow(t *testing.T) {
	r := report()
	if err := r.Measure(t.Context(), plan(), []int{1, 2}, []int{16, 64, 128}); err != nil {
		t.Fatal(err)
	}
	if len(r.Rows) != 6 || r.Rows[0].Runners != 1 || r.Rows[5].Runners != 2 || r.Rows[4].BatchTokens != 64 ||
		r.Rounds != 3 {
		t.Errorf("%+v", r.Rows)
	}
	for _, row := range r.Rows {
		if row.Least > row.RowsPerS || row.Most < row.RowsPerS || row.GMACs <= 0 || row.ShareOfPeak <= 0 {
			t.Errorf("%+v", row)
		}
	}
	var page, object bytes.Buffer
	r.WriteText(&page)
	if !strings.Contains(page.String(), "texts/batch") || strings.Contains(page.String(), "efficiency") ||
		!strings.Contains(page.String(), "100 GMAC/s a core: by hand") {
		t.Error(page.String())
	}
	var back Report
	if err := r.WriteJSON(&object); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(object.Bytes(), &back); err != nil || len(back.Rows) != 6 {
		t.Errorf("%v", err)
	}
}

func TestScaleComparesWithOneAlone(t *testing.T) {
	r := report()
	asked := map[int]int{}
	err := r.Scale(t.Context(), plan(), []int{1, 2}, 64, func(_ context.Context, n int, perS float64) (load.Drained,
		error) {
		asked[n]++
		return load.Drained{Rate: 100 * float64(n+2)}, nil
	})
	if err != nil || asked[1] != 3 || asked[2] != 3 || len(r.Workers) != 2 || len(r.Rows) != 2 {
		t.Fatalf("%v, %v, %+v", err, asked, r)
	}
	if one, two := r.Workers[0], r.Workers[1]; one.Efficiency != 1 || two.Efficiency != 400.0/2/300 ||
		two.Workers != 2 || two.OfBare <= 0 || r.Rows[0].Efficiency != 1 {
		t.Errorf("%+v\n%+v", one, two)
	}
	var page bytes.Buffer
	r.WriteText(&page)
	if !strings.Contains(page.String(), "of bare loop") || !strings.Contains(page.String(), "67 %") {
		t.Error(page.String())
	}
	broken := errors.New("broken")
	err = r.Scale(t.Context(), plan(), []int{1}, 64, func(context.Context, int, float64) (load.Drained, error) {
		return load.Drained{}, broken
	})
	if !errors.Is(err, broken) || err.Error() != "1 workers: broken" {
		t.Errorf("%v", err)
	}
}

func TestABundledModelIsDescribed(t *testing.T) {
	m, err := model.Open("../../../../models/sentiment-tiny")
	if err != nil {
		t.Fatal(err)
	}
	d, err := Describe(m)
	if err != nil || !strings.HasPrefix(d.Tag, "sentiment-tiny@") || d.Shape.Layers == 0 || d.Precision == "unknown" {
		t.Errorf("%+v, %v", d, err)
	}
}
