package tune

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
)

// This file owns how a tuning is shown: as a table for a person and as JSON.

// Report is everything that a tuning found.
type Report struct {
	Date        string  `json:"date"`
	Machine     string  `json:"machine"`
	File        string  `json:"labelled"`
	Name        string  `json:"verdict"`
	Model       string  `json:"model"`
	Student     string  `json:"student,omitempty"`
	Choosing    int     `json:"texts_that_choose"`
	HeldOut     int     `json:"texts_held_out"`
	Seed        uint64  `json:"seed"`
	Confidence  float64 `json:"confidence"`
	LLM         string  `json:"llm"` // where the endpoint's answers come from
	LLMAccuracy float64 `json:"llm_accuracy,omitempty"`
	Speed       Speed   `json:"speed"`
	SpeedHow    string  `json:"speed_how"`
	Prices      Prices  `json:"prices"`
	Choice      Choice  `json:"choice"`
	Now         Setting `json:"configured"`
	Students    []Step  `json:"student_curve"`
	Escalations []Step  `json:"escalation_curve"`
	// accuracy is the share of texts whose entities are all right, and none is too many
	Entities bool     `json:"entities"`
	Result   []Result `json:"result"`
	Again    *Again   `json:"other_splits,omitempty"`
}

// Again is the same choice on other splits of the same texts: how much of it is chance.
type Again struct {
	Splits      int      `json:"splits"`
	Chose       int      `json:"chose_a_student_threshold"`
	Thresholds  Interval `json:"thresholds"`      // lowest and highest that was chosen
	Mean        float64  `json:"mean_difference"` // of the held-out texts' accuracy to the full model's
	Differences Interval `json:"differences_90"`  // without the lowest and highest 5 % of splits
	// share of splits whose held-out part is not as Aim says, chance of that part included
	Missed float64 `json:"missed"`
	Aim    string  `json:"aim"`
}

// Repeat chooses the student's threshold on n other splits, with seeds after r's own, and measures each on its held-out
// part, without the endpoint. Nothing is done without a student or a held-out part.
func (r *Report) Repeat(c *Cascade, samples []Sample, n int, holdout float64, g Goal) {
	if n == 0 || !c.HasStudent || holdout == 0 {
		return
	}
	labels := strata(samples)
	a := Again{Splits: n, Thresholds: Interval{Never, 0}, Aim: fmt.Sprintf("at most %.2f points lost", 100*g.allowed())}
	met := func(p Point) bool { return p.Difference >= -g.allowed() }
	if c.alone(samples, g) {
		a.Aim = fmt.Sprintf("an accuracy of %.2f %%", 100*g.Accuracy)
		met = func(p Point) bool { return p.Accuracy >= g.Accuracy }
	}
	var differences []float64
	for k := range n {
		choosing, held := Split(labels, holdout, r.Seed+1+uint64(k))
		student, _ := c.chooseStudent(pick(samples, choosing), g)
		p := c.At(pick(samples, held), Setting{Student: student})
		differences = append(differences, p.Difference)
		a.Mean += p.Difference / float64(n)
		if !met(p) {
			a.Missed += 1 / float64(n)
		}
		if student != Never {
			a.Chose++
			a.Thresholds = Interval{min(a.Thresholds.Low, student), max(a.Thresholds.High, student)}
		}
	}
	slices.Sort(differences)
	cut := n / 20
	a.Differences = Interval{differences[cut], differences[n-1-cut]}
	if a.Chose == 0 {
		a.Thresholds = Interval{}
	}
	r.Again = &a
}

func pick(samples []Sample, of []int) []Sample {
	picked := make([]Sample, len(of))
	for i, k := range of {
		picked[i] = samples[k]
	}
	return picked
}

// Step is a setting on both parts of the texts.
type Step struct {
	Choosing Point `json:"choosing"`
	HeldOut  Point `json:"held_out"`
}

// Result is a setting that matters, on the texts that were held out, or, without those, on all.
type Result struct {
	Name  string  `json:"name"`
	Point Point   `json:"point"`
	Speed float64 `json:"times_full_model"` // msgs/s against the full model alone
}

// Fill parts the samples, chooses, and fills in choice, curves and results. The caller has set Seed and Now.
func (r *Report) Fill(c *Cascade, samples []Sample, holdout float64, g Goal) error {
	labels := strata(samples)
	a, b := Split(labels, holdout, r.Seed)
	if len(a) == 0 || holdout > 0 && len(b) == 0 {
		return fmt.Errorf("%d texts are too few to hold out a share of %v; give more texts, or hold none out",
			len(samples), holdout)
	}
	choosing, held := pick(samples, a), pick(samples, b)
	r.Confidence, r.Entities = g.Confidence, c.Entities
	r.Choice = c.Choose(choosing, g)
	r.Speed, r.Prices, r.LLMAccuracy = c.Speed, c.Prices, c.LLMAccuracy
	r.Choosing, r.HeldOut = len(choosing), len(held)
	step := func(s Setting) Step { return Step{c.At(choosing, s), c.At(held, s)} }
	for _, t := range c.StudentSteps(choosing) {
		r.Students = append(r.Students, step(Setting{Student: t}))
	}
	for _, t := range c.EscalateSteps(choosing, r.Choice.Student) {
		r.Escalations = append(r.Escalations, step(Setting{r.Choice.Student, t}))
	}
	judged := held
	if len(held) == 0 {
		judged = choosing
	}
	full := c.At(judged, Setting{Student: Never})
	add := func(name string, s Setting) {
		p := c.At(judged, s)
		r.Result = append(r.Result, Result{name, p, ratio(p.PerSecond, full.PerSecond)})
	}
	add("full model alone", Setting{Student: Never})
	if c.HasStudent {
		add("student alone", Setting{Student: 0})
	}
	if now := (Setting{Student: Never}); r.Now != now {
		add("as configured now", r.Now)
	}
	add("chosen", r.Choice.Setting)
	return nil
}

func ratio(a, b float64) float64 {
	if b == 0 {
		return 0
	}
	return a / b
}

// JSON writes the report as one object.
func (r *Report) JSON(w io.Writer) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", " ")
	return enc.Encode(r)
}

// Write writes the report for a person, as Markdown: a terminal shows it well enough, and it can be kept as it is.
func (r *Report) Write(w io.Writer) {
	models := r.Model
	if r.Student != "" {
		models = r.Student + " before " + r.Model
	}
	fmt.Fprintf(w, "- Verdict %s: %s; %s; %s.\n", r.Name, models, r.Machine, r.Date)
	fmt.Fprintf(w, "- Labelled texts of %s: %d choose, %d are held out (seed %d).\n", r.File, r.Choosing, r.HeldOut,
		r.Seed)
	fmt.Fprintf(w, "- msgs/s: %s.\n", r.SpeedHow)
	if r.LLM != "" {
		fmt.Fprintf(w, "- Endpoint: %s.\n", r.LLM)
	}

	if len(r.Students) > 1 {
		fmt.Fprintf(w, "\n## Student\n\nDifferences are to the full model alone, in points of accuracy; brackets are "+
			"95 %% intervals.\n\n")
		t := table{{"threshold", "student", "model", "lost, gained", "difference, choosing", "accuracy, held out",
			"difference, held out", "msgs/s"}}
		for i, s := range r.Students {
			if i%5 != 0 && s.Choosing.Setting.Student != r.Choice.Student && i != len(r.Students)-1 {
				continue
			}
			p, h := s.Choosing, s.HeldOut
			t = append(t, []string{mark(threshold(p.Student), p.Student == r.Choice.Student), percent(p.ByStudent),
				percent(p.ByModel),
				number(p.Loss) + ", " + number(p.Gain), points(p), accuracy(h), points(h), rate(p.PerSecond)})
		}
		t.write(w)
	}
	if len(r.Escalations) > 1 {
		fmt.Fprintf(w, "\n## Escalation\n\nWith the student's threshold at %s. Calls and cost are for a million "+
			"messages; a question is taken as %d tokens and those of the text, an answer as %d.\n\n",
			threshold(r.Choice.Student), r.Prices.PromptTokens, r.Prices.AnswerTokens)
		t := table{{"below", "asked", "asked, held out", "accuracy, choosing", "accuracy, held out",
			"difference, held out", "LLM calls", "cost"}}
		for _, s := range r.Escalations {
			p, h := s.Choosing, s.HeldOut
			t = append(t, []string{mark(below(p.Escalate), r.Choice.Escalates && p.Escalate == r.Choice.Escalate),
				percent(p.Escalated), part(h, percent(h.Escalated)),
				answered(p, accuracy(p)), answered(h, accuracy(h)), answered(h, points(h)), fmt.Sprintf("%.0f",
					p.Calls), r.cost(p)})
		}
		t.write(w)
	}
	on := "texts that were held out"
	if r.HeldOut == 0 {
		on = "the texts that chose, so too good to be true: hold some out"
	}
	fmt.Fprintf(w, "\n## Result, on %s\n\n", on)
	t := table{{"setting", "student from", "student", "model", "accuracy", "difference", "msgs/s", "times"}}
	if r.Entities {
		t[0] = append(t[0], "F1")
	} else {
		t[0] = append(t[0], "asked below", "asked", "LLM calls", "cost")
	}
	for _, res := range r.Result {
		p := res.Point
		row := []string{res.Name, threshold(p.Student), percent(p.ByStudent), percent(p.ByModel),
			answered(p, accuracy(p)), answered(p, points(p)), rate(p.PerSecond), rate2(res.Speed)}
		if r.Entities {
			row = append(row, fmt.Sprintf("%.2f %%", 100*p.F1))
		} else {
			row = append(row, below(p.Escalate), percent(p.Escalated), fmt.Sprintf("%.0f", p.Calls), r.cost(p))
		}
		t = append(t, row)
	}
	t.write(w)
	if r.Entities {
		fmt.Fprintln(w, "\nAccuracy is the share of texts whose entities are all found, with their groups and ends, "+
			"and no others. F1 counts entities.")
	}
	fmt.Fprintln(w)
	for _, reason := range []struct{ what, why string }{{"student", r.Choice.StudentReason},
		{"escalation", r.Choice.EscalateReason}} {
		if reason.why != "" {
			fmt.Fprintf(w, "- %s: %s.\n", reason.what, reason.why)
		}
	}
	if a := r.Again; a != nil && a.Chose > 0 {
		fmt.Fprintf(w, "- other splits: on %d of %d a threshold was chosen, from %s to %s; difference on the "+
			"held-out part %+.2f points in the mean, 90 %% of splits between %+.2f and %+.2f; not %s there: %s of "+
			"splits.\n",
			a.Chose, a.Splits, Threshold(a.Thresholds.Low), Threshold(a.Thresholds.High), 100*a.Mean,
			100*a.Differences.Low, 100*a.Differences.High, a.Aim, percent(a.Missed))
	} else if a != nil {
		fmt.Fprintf(w, "- other splits: on none of %d a threshold was chosen.\n", a.Splits)
	}
	if !r.Choice.Reached {
		fmt.Fprintln(w, "\nThe goal is not reached.")
	}
}

func (r *Report) cost(p Point) string {
	if r.Prices.InputPerMillion == 0 && r.Prices.OutputPerMillion == 0 {
		return "-"
	}
	return fmt.Sprintf("%.2f", p.Cost)
}

func threshold(t float64) string {
	if t == Never {
		return "never"
	}
	return Threshold(t)
}

// Threshold is a threshold as it is written into a configuration.
func Threshold(t float64) string { return strconv.FormatFloat(t, 'f', -1, 64) }

func below(t float64) string {
	switch {
	case t == 0:
		return "never"
	case t > 1:
		return "always"
	}
	return Threshold(t)
}

func mark(s string, chosen bool) string {
	if chosen {
		return "**" + s + "**"
	}
	return s
}

func percent(x float64) string { return fmt.Sprintf("%.1f %%", 100*x) }

func accuracy(p Point) string {
	return part(p, fmt.Sprintf("%.2f %% [%.2f, %.2f]", 100*p.Accuracy, 100*p.AccuracyIn.Low, 100*p.AccuracyIn.High))
}

func points(p Point) string {
	return part(p, fmt.Sprintf("%+.2f [%+.2f, %+.2f]", 100*p.Difference, 100*p.DifferenceIn.Low,
		100*p.DifferenceIn.High))
}

// part is s, or a dash where the part of the texts is empty.
func part(p Point, s string) string {
	if p.Texts == 0 {
		return "-"
	}
	return s
}

// answered is s, or a word where the endpoint's answers are not known.
func answered(p Point, s string) string {
	if !p.Known {
		return "unknown"
	}
	return s
}

// number is a count, whole where it is one.
func number(x float64) string { return strconv.FormatFloat(float64(int64(x*10+0.5))/10, 'f', -1, 64) }

func rate(x float64) string {
	if x == 0 {
		return "-"
	}
	return fmt.Sprintf("%.0f", x)
}

func rate2(x float64) string {
	if x == 0 {
		return "-"
	}
	return fmt.Sprintf("%.2f", x)
}

// table is rows of cells, the first of them the heading.
type table [][]string

func (t table) write(w io.Writer) {
	widths := make([]int, len(t[0]))
	for _, row := range t {
		for i, cell := range row {
			widths[i] = max(widths[i], len(cell))
		}
	}
	line := func(row []string) {
		for i, cell := range row {
			fmt.Fprintf(w, "| %-*s ", widths[i], cell)
		}
		fmt.Fprintln(w, "|")
	}
	rule := slices.Clone(t[0])
	for i := range rule {
		rule[i] = strings.Repeat("-", widths[i])
	}
	line(t[0])
	line(rule)
	for _, row := range t[1:] {
		line(row)
	}
}
