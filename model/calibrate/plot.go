package calibrate

import (
	"fmt"
	"image/color"
	"io"
	"math"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"
)

// This file owns the reliability diagram.

var (
	beforeColor = color.RGBA{0x9c, 0xa3, 0xaf, 0xff}
	afterColor  = color.RGBA{0x1d, 0x4e, 0x89, 0xff}
)

const (
	reliabilitySide = 10 * vg.Centimeter
	largestDot      = 6 // points of radius: all of the texts in one bin
)

// Plot draws the reliability diagram as SVG: the share that is right over the mean score of each bin, a dot's area its
// texts.
func (r *Report) Plot(w io.Writer) error {
	before, after, where := r.bins()
	kind := r.unit()
	if r.sentence != nil { // words are nearly all right; what thresholds are set on is whole texts
		before, after, where, kind = r.sentenceBefore, r.sentenceAfter, r.sentence.Name, "whole texts"
	}
	p := plot.New()
	p.Title.Text = fmt.Sprintf("%s: %s of %s", r.subject.Model.Name, kind, where)
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
		bins []Bin
		c    color.RGBA
	}{{"as the model is", before, beforeColor}, {"calibrated", after, afterColor}}
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
	_, err = c.WriteTo(w)
	return err
}
