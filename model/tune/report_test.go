package tune

import (
	"bytes"
	"encoding/json"
	"math"
	"math/rand/v2"
	"strings"
	"testing"
)

func filled(t *testing.T, c *Cascade, n int, holdout float64) *Report {
	t.Helper()
	r := &Report{Date: "2026-11-24", Machine: "here", File: "l.jsonl", Name: "sentiment", Model: "m@1", Student: "s@1",
		Seed: 1, Now: Setting{Student: 0.9}}
	samples := population(rand.New(rand.NewPCG(7, 7)), n)
	if err := r.Fill(c, samples, holdout, goal()); err != nil {
		t.Fatal(err)
	}
	r.Repeat(c, samples, 40, holdout, goal())
	return r
}

func TestReportIsATableAndJSON(t *testing.T) {
	c := &Cascade{HasStudent: true, Labels: []string{"A", "B"}, LLMAccuracy: 0.95, Speed: Speed{Tokenize: 1e4,
		Student: 1e5, Model: 1e4}}
	r := filled(t, c, 4000, 0.5)
	if len(r.Result) != 4 || r.Result[0].Speed != 0 && r.Result[0].Speed != 1 || r.Choosing != 2000 ||
		r.HeldOut != 2000 {
		t.Errorf("%+v", r.Result)
	}
	if a := r.Again; a == nil || a.Chose != 40 || a.Missed > 0.25 || a.Thresholds.Low > a.Thresholds.High ||
		a.Differences.Low > a.Differences.High {
		t.Errorf("%+v", r.Again)
	}
	var page, object bytes.Buffer
	r.Write(&page)
	for _, want := range []string{"2000 choose, 2000 are held out", "## Student", "## Escalation",
		"## Result, on texts that were held out", "as configured now", "**" + Threshold(r.Choice.Student) + "**",
		"on 40 of 40 a threshold was chosen"} {
		if !strings.Contains(page.String(), want) {
			t.Errorf("no %q in\n%s", want, page.String())
		}
	}
	if err := r.JSON(&object); err != nil {
		t.Fatal(err)
	}
	var back Report
	if err := json.Unmarshal(object.Bytes(), &back); err != nil || back.Choice != r.Choice ||
		len(back.Students) != len(r.Students) {
		t.Errorf("%v", err)
	}
}

func TestReportOnTheTextsThatChoseSaysSo(t *testing.T) {
	r := filled(t, &Cascade{HasStudent: true, Labels: []string{"A", "B"}}, 2000, 0)
	var page bytes.Buffer
	r.Write(&page)
	if !strings.Contains(page.String(), "too good to be true") || strings.Contains(page.String(), "NaN") ||
		r.Again != nil {
		t.Error(page.String())
	}
	if !strings.Contains(page.String(), "unknown") {
		t.Error("the endpoint's accuracy is unknown, and the table does not say so")
	}
}

func TestFillRefusesTooFewTexts(t *testing.T) {
	r := &Report{}
	if err := r.Fill(&Cascade{}, population(rand.New(rand.NewPCG(1, 1)), 1), 0.2, goal()); err == nil ||
		!strings.Contains(err.Error(), "too few") {
		t.Error(err)
	}
}

func TestPlotIsOneSVGWithBothCurves(t *testing.T) {
	c := &Cascade{HasStudent: true, Labels: []string{"A", "B"}, LLMAccuracy: 0.95}
	for _, holdout := range []float64{0.5, 0} {
		var b bytes.Buffer
		if err := filled(t, c, 4000, holdout).Plot(&b); err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{"<svg", "Student", "Escalation", "chosen", "</svg>"} {
			if !strings.Contains(b.String(), want) {
				t.Errorf("holdout %g: no %q", holdout, want)
			}
		}
	}
	r := &Report{}
	g := goal()
	g.Within = math.NaN()
	if err := r.Fill(&Cascade{Labels: []string{"A", "B"}}, population(rand.New(rand.NewPCG(1, 1)), 100), 0.5,
		g); err != nil {
		t.Fatal(err)
	}
	if err := r.Plot(&bytes.Buffer{}); err == nil || !strings.Contains(err.Error(), "nothing to draw") {
		t.Error(err)
	}
}
