package calibrate

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"sluice/model"
)

// This file owns what a calibration is shown as: a table, and reliability in text.

// Report is a calibration that was fitted, with all that was measured of it. NewReport makes one; Evaluate and
// Sentences add to it; Write and Plot show it.
type Report struct {
	subject Subject
	fitted  *File
	rows    *Rows
	result  *Result
	options Options

	other                   *File // of Evaluate
	otherBefore, otherAfter Measures
	before, after           []Bin // of other, else of the fitted file's held-out folds

	sentence                      *File // of Sentences
	sentenceBefore, sentenceAfter []Bin
	sentenceECE                   [2]float64
	sentenceRight                 float64
}

// NewReport is a report on what Fit gave for the rows of a file.
func NewReport(s Subject, fitted *File, rows *Rows, result *Result, o Options) *Report {
	return &Report{subject: s, fitted: fitted, rows: rows, result: result, options: o}
}

// Evaluate measures the calibration on a judged file that it was not fitted on. An error names the line.
func (r *Report) Evaluate(f *File) error {
	rows, err := f.Rows(&r.subject)
	if err != nil {
		return err
	}
	before, after := rows.Scores(nil), rows.Scores(r.result.Calibration)
	r.other, r.otherBefore, r.otherAfter = f, rows.Measure(before), rows.Measure(after)
	r.before, r.after = rows.Reliability(before), rows.Reliability(after)
	return nil
}

// Sentences measures the confidence of whole texts, which is what thresholds of token-classification are set on.
func (r *Report) Sentences(f *File) error {
	r.sentence = f
	p, right, err := f.confidences(&r.subject, nil)
	if err != nil {
		return err
	}
	r.sentenceBefore, r.sentenceECE[0] = Reliability(p, right)
	if p, right, err = f.confidences(&r.subject, r.result.Calibration); err != nil {
		return err
	}
	r.sentenceAfter, r.sentenceECE[1] = Reliability(p, right)
	for _, ok := range right {
		if ok {
			r.sentenceRight += 1 / float64(len(right))
		}
	}
	return nil
}

// unit is what a probability is about.
func (r *Report) unit() string {
	switch {
	case r.subject.Model.Task == model.TokenClassification:
		return "words"
	case r.rows.Independent:
		return "labels"
	default:
		return "texts"
	}
}

// Write writes the report for a person.
func (r *Report) Write(out io.Writer) {
	m := r.subject.Model
	fmt.Fprintf(out, "%s, %s: %d texts of %s, %d %s; %d folds, seed %d; ECE with %d bins\n", m.Name, m.Task,
		len(r.fitted.Texts), r.fitted.Name, r.result.Before.Rows, r.unit(), r.options.Folds, r.options.Seed, Bins)
	if m.Manifest != nil && m.Manifest.Calibration != nil {
		fmt.Fprintf(out, "The manifest has a calibration (%s), which is replaced: all figures start from the raw "+
			"logits.\n", m.Manifest.Calibration.Method)
	}
	for _, f := range []*File{r.fitted, r.other} {
		if f != nil && f.truncated > 0 {
			fmt.Fprintf(out, "%d texts of %s are longer than %d tokens and were judged by their beginning.\n",
				f.truncated, f.Name, m.MaxTokens)
		}
	}
	fmt.Fprintln(out)
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	line := func(what string, m Measures) {
		fmt.Fprintf(table, "%s\t%.4f\t%.4f\t%.4f\t%.2f %%\t\n", what, m.ECE, m.ECEAdaptive, m.NLL, 100*m.Accuracy)
	}
	fmt.Fprintln(table, "\tECE\tECE, equal bins\tNLL\taccuracy\t")
	line("as the model is", r.result.Before)
	for _, c := range r.result.Held {
		line(string(c.Method)+", held out", c.Measures)
	}
	if r.other != nil {
		line(r.other.Name+", as the model is", r.otherBefore)
		line(r.other.Name+", calibrated", r.otherAfter)
	}
	table.Flush() // what writes to out reports nothing before the end either
	fmt.Fprintf(out, "\n%s.\n", strings.ToUpper(r.result.Why[:1])+r.result.Why[1:])
	switch c := r.result.Calibration; {
	case c == nil:
	case c.Method == model.Temperature:
		fmt.Fprintf(out, "Chosen: temperature %v.\n", c.Temperature)
	default:
		fmt.Fprintf(out, "Chosen: isotonic, a curve of %d points.\n", len(c.Isotonic.X))
	}
	before, after, where := r.bins()
	printReliability(out, fmt.Sprintf("Reliability of %s, as the model is", where), r.unit(), before)
	if r.result.Calibration != nil {
		printReliability(out, fmt.Sprintf("Reliability of %s, calibrated", where), r.unit(), after)
	}
	if r.sentence != nil {
		fmt.Fprintf(out, "\nWhole texts of %s: %.2f %% have just the labelled entities. Confidence of the verdict "+
			"against that: ECE %.4f as the model is", r.sentence.Name, 100*r.sentenceRight, r.sentenceECE[0])
		if r.result.Calibration != nil {
			fmt.Fprintf(out, ", %.4f calibrated", r.sentenceECE[1])
		}
		fmt.Fprintln(out, ".")
		printReliability(out, "Confidence of whole texts", "texts", r.sentenceAfter)
	}
}

// bins are the reliability tables to show, and whose they are.
func (r *Report) bins() (before, after []Bin, where string) {
	if r.other != nil {
		return r.before, r.after, r.other.Name
	}
	return r.rows.Reliability(r.rows.Scores(nil)), r.rows.Reliability(r.result.Scores), "held-out folds"
}

// reliabilityWidth is how many columns stand for scores from 0 to 1.
const reliabilityWidth = 50

// printReliability draws a bin as a line: o is the mean score, # the share that is right, X both.
func printReliability(out io.Writer, title, unit string, bins []Bin) {
	fmt.Fprintf(out, "\n%s (o mean score, # share that is right, X both)\n", title)
	fmt.Fprintf(out, "  %-11s %7s  score  right  0%s1\n", "scores", unit, strings.Repeat(" ", reliabilityWidth-2))
	for _, b := range bins {
		axis := []byte(strings.Repeat(".", reliabilityWidth))
		at := func(x float64) int { return min(reliabilityWidth-1, int(x*reliabilityWidth)) }
		axis[at(b.Confidence)] = 'o'
		if axis[at(b.Accuracy)] == 'o' {
			axis[at(b.Accuracy)] = 'X'
		} else {
			axis[at(b.Accuracy)] = '#'
		}
		fmt.Fprintf(out, "  %.3f-%.3f %7d  %.3f  %.3f  %s\n", b.From, b.To, b.Count, b.Confidence, b.Accuracy, axis)
	}
}
