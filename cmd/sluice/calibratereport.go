package main

import (
	"bytes"
	"fmt"
	"image/color"
	"io"
	"math"
	"os"
	"strings"
	"text/tabwriter"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"

	"sluice/model"
	"sluice/model/calibrate"
)

// This file says what sluice calibrate found: a table, reliability in text, and as an SVG.

// calibrationReport is everything that is printed and drawn.
type calibrationReport struct {
	model  *loadedModel
	fitted *labelledFile
	rows   *calibrate.Rows
	result *calibrate.Result
	folds  int
	seed   uint64

	other                   *labelledFile // --evaluate
	otherBefore, otherAfter calibrate.Measures
	before, after           []calibrate.Bin // of other, else of the fitted file's held-out folds

	sentence                      *labelledFile // token-classification: where sentences were looked at
	sentenceBefore, sentenceAfter []calibrate.Bin
	sentenceECE                   [2]float64
	sentenceRight                 float64
}

func (r *calibrationReport) evaluateOn(f *labelledFile) error {
	rows, err := f.rows(r.model)
	if err != nil {
		return err
	}
	before, after := rows.Scores(nil), rows.Scores(r.result.Calibration)
	r.other, r.otherBefore, r.otherAfter = f, rows.Measure(before), rows.Measure(after)
	r.before, r.after = rows.Reliability(before), rows.Reliability(after)
	return nil
}

// sentences measures the sentence-level confidence of token-classification.
func (r *calibrationReport) sentences(f *labelledFile) error {
	r.sentence = f
	p, right, err := f.sentenceConfidence(r.model, nil)
	if err != nil {
		return err
	}
	r.sentenceBefore, r.sentenceECE[0] = calibrate.Reliability(p, right)
	if p, right, err = f.sentenceConfidence(r.model, r.result.Calibration); err != nil {
		return err
	}
	r.sentenceAfter, r.sentenceECE[1] = calibrate.Reliability(p, right)
	for _, ok := range right {
		if ok {
			r.sentenceRight += 1 / float64(len(right))
		}
	}
	return nil
}

// unit is what a probability is about.
func (r *calibrationReport) unit() string {
	switch {
	case r.model.model.Task == model.TokenClassification:
		return "words"
	case r.rows.Independent:
		return "labels"
	default:
		return "texts"
	}
}

func (r *calibrationReport) print(out io.Writer) {
	m := r.model.model
	fmt.Fprintf(out, "%s, %s: %d texts of %s, %d %s; %d folds, seed %d; ECE with %d bins\n", m.Name, m.Task,
		len(r.fitted.texts), r.fitted.name, r.result.Before.Rows, r.unit(), r.folds, r.seed, calibrate.Bins)
	if m.Manifest != nil && m.Manifest.Calibration != nil {
		fmt.Fprintf(out, "The manifest has a calibration (%s), which is replaced: all figures start from the raw "+
			"logits.\n", m.Manifest.Calibration.Method)
	}
	for _, f := range []*labelledFile{r.fitted, r.other} {
		if f != nil && f.truncated > 0 {
			fmt.Fprintf(out, "%d texts of %s are longer than %d tokens and were judged by their beginning.\n",
				f.truncated, f.name, m.MaxTokens)
		}
	}
	fmt.Fprintln(out)
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	line := func(what string, m calibrate.Measures) {
		fmt.Fprintf(table, "%s\t%.4f\t%.4f\t%.4f\t%.2f %%\t\n", what, m.ECE, m.ECEAdaptive, m.NLL, 100*m.Accuracy)
	}
	fmt.Fprintln(table, "\tECE\tECE, equal bins\tNLL\taccuracy\t")
	line("as the model is", r.result.Before)
	for _, c := range r.result.Held {
		line(string(c.Method)+", held out", c.Measures)
	}
	if r.other != nil {
		line(r.other.name+", as the model is", r.otherBefore)
		line(r.other.name+", calibrated", r.otherAfter)
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
			"against that: ECE %.4f as the model is", r.sentence.name, 100*r.sentenceRight, r.sentenceECE[0])
		if r.result.Calibration != nil {
			fmt.Fprintf(out, ", %.4f calibrated", r.sentenceECE[1])
		}
		fmt.Fprintln(out, ".")
		printReliability(out, "Confidence of whole texts", "texts", r.sentenceAfter)
	}
}

// bins are the reliability tables to show, and whose they are.
func (r *calibrationReport) bins() (before, after []calibrate.Bin, where string) {
	if r.other != nil {
		return r.before, r.after, r.other.name
	}
	return r.rows.Reliability(r.rows.Scores(nil)), r.rows.Reliability(r.result.Scores), "held-out folds"
}

// reliabilityWidth is how many columns stand for scores from 0 to 1.
const reliabilityWidth = 50

// printReliability draws a bin as a line: o is the mean score, # the share that is right, X both.
func printReliability(out io.Writer, title, unit string, bins []calibrate.Bin) {
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

var (
	calibrationBefore = color.RGBA{0x9c, 0xa3, 0xaf, 0xff}
	calibrationAfter  = color.RGBA{0x1d, 0x4e, 0x89, 0xff}
)

const (
	reliabilitySide = 10 * vg.Centimeter
	largestDot      = 6 // points of radius: all of the texts in one bin
)

// plot writes the reliability diagram: the share that is right over the mean score of each bin, a dot's area its texts.
func (r *calibrationReport) plot(path string) error {
	before, after, where := r.bins()
	kind := r.unit()
	if r.sentence != nil { // words are nearly all right; what thresholds are set on is whole texts
		before, after, where, kind = r.sentenceBefore, r.sentenceAfter, r.sentence.name, "whole texts"
	}
	p := plot.New()
	p.Title.Text = fmt.Sprintf("%s: %s of %s", r.model.model.Name, kind, where)
	p.X.Label.Text, p.Y.Label.Text = "mean score", "share that is right"
	p.X.Min, p.X.Max, p.Y.Min, p.Y.Max = 0, 1, 0, 1
	p.Legend.Top, p.Legend.Left, p.Legend.Padding = true, true, vg.Points(2)
	diagonal, err := plotter.NewLine(plotter.XYs{{X: 0, Y: 0}, {X: 1, Y: 1}})
	if err != nil {
		return err
	}
	diagonal.Color, diagonal.Dashes = color.Black, []vg.Length{vg.Points(3), vg.Points(3)}
	p.Add(plotter.NewGrid(), diagonal)
	p.Legend.Add("as good as said", diagonal)
	draws := []struct {
		name string
		bins []calibrate.Bin
		c    color.RGBA
	}{{"as the model is", before, calibrationBefore}, {"calibrated", after, calibrationAfter}}
	if r.result.Calibration == nil {
		draws = draws[:1]
	}
	for _, d := range draws {
		var xy plotter.XYs
		total := 0
		for _, b := range d.bins {
			xy = append(xy, plotter.XY{X: b.Confidence, Y: b.Accuracy})
			total += b.Count
		}
		line, err := plotter.NewLine(xy)
		if err != nil {
			return err
		}
		line.Color, line.Width = d.c, vg.Points(1.4)
		dots, err := plotter.NewScatter(xy)
		if err != nil {
			return err
		}
		dots.GlyphStyleFunc = func(i int) draw.GlyphStyle {
			radius := max(1.2, largestDot*math.Sqrt(float64(d.bins[i].Count)/float64(total)))
			return draw.GlyphStyle{Color: d.c, Radius: vg.Points(radius), Shape: draw.CircleGlyph{}}
		}
		p.Add(line, dots)
		p.Legend.Add(d.name, line)
	}
	c := vgsvg.New(reliabilitySide, reliabilitySide)
	p.Draw(draw.Crop(draw.New(c), 0, -vg.Points(10), 0, 0)) // room for half of the last label
	var b bytes.Buffer
	if _, err := c.WriteTo(&b); err != nil {
		return err
	}
	return os.WriteFile(path, b.Bytes(), 0o644)
}
