package tune

import (
	"fmt"
	"image/color"
	"io"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"
)

// This file owns the plot: the student's curve on the left, the escalation's on the right, as one SVG.

const (
	plotWidth  = 15 * vg.Centimeter // of one curve
	plotHeight = 9 * vg.Centimeter
)

var (
	choosingColor = color.RGBA{0x9c, 0xa3, 0xaf, 0xff}
	heldColor     = color.RGBA{0x1d, 0x4e, 0x89, 0xff}
	bandColor     = color.RGBA{0xdb, 0xe7, 0xf3, 0xff}
	chosenColor   = color.RGBA{0xc4, 0x2e, 0x4e, 0xff}
)

// Plot draws the curves as SVG: difference of accuracy to the full model over the share that the student decides, and
// accuracy over the share of calls where the endpoint's answers are known. The band is the 95 % interval of the
// held-out texts, the dot what was chosen.
func (r *Report) Plot(w io.Writer) error {
	type panel struct {
		x, y, title string
		legendLeft  bool
		steps       []Step
		at          func(Point) (x, y float64, in Interval, ok bool)
		chosen      func(Point) bool
	}
	panels := []panel{{
		"decided by the student, % of texts", "points against the full model", "Student", true, r.Students,
		func(p Point) (float64, float64, Interval, bool) {
			return 100 * p.ByStudent, 100 * p.Difference, Interval{100 * p.DifferenceIn.Low, 100 * p.DifferenceIn.High},
				true
		},
		func(p Point) bool { return p.Student == r.Choice.Student },
	}, {
		"asked of the endpoint, % of texts", "accuracy, %", "Escalation", false, r.Escalations,
		func(p Point) (float64, float64, Interval, bool) {
			return 100 * p.Escalated, 100 * p.Accuracy, Interval{100 * p.AccuracyIn.Low, 100 * p.AccuracyIn.High},
				p.Known
		},
		func(p Point) bool { return p.Escalate == r.Choice.Escalate },
	}}
	var plots []*plot.Plot
	for _, panel := range panels {
		var choosing, held, upper, lower, chosen plotter.XYs
		for _, s := range panel.steps {
			if x, y, _, ok := panel.at(s.Choosing); ok {
				choosing = append(choosing, plotter.XY{X: x, Y: y})
				if r.HeldOut == 0 && panel.chosen(s.Choosing) {
					chosen = plotter.XYs{{X: x, Y: y}}
				}
			}
			if x, y, in, ok := panel.at(s.HeldOut); ok && r.HeldOut > 0 {
				held = append(held, plotter.XY{X: x, Y: y})
				upper, lower = append(upper, plotter.XY{X: x, Y: in.High}), append(lower, plotter.XY{X: x, Y: in.Low})
				if panel.chosen(s.Choosing) {
					chosen = plotter.XYs{{X: x, Y: y}}
				}
			}
		}
		if len(choosing) < 2 {
			continue // no student, or nothing known about the endpoint
		}
		p := plot.New()
		p.Title.Text, p.X.Label.Text, p.Y.Label.Text = panel.title, panel.x, panel.y
		p.Legend.Left, p.Legend.Padding = panel.legendLeft, vg.Points(2) // at the bottom, where the curve is not
		if len(upper) > 1 {
			for i := len(lower) - 1; i >= 0; i-- {
				upper = append(upper, lower[i])
			}
			band, err := plotter.NewPolygon(upper)
			if err != nil {
				return fmt.Errorf("plot: %w", err)
			}
			band.Color, band.LineStyle.Width = bandColor, 0
			p.Add(band)
			p.Legend.Add("95 % interval, held out", band)
		}
		p.Add(plotter.NewGrid())
		for _, curve := range []struct {
			name  string
			xy    plotter.XYs
			color color.Color
		}{{"texts that choose", choosing, choosingColor}, {"texts held out", held, heldColor}} {
			if len(curve.xy) == 0 {
				continue
			}
			l, err := plotter.NewLine(curve.xy)
			if err != nil {
				return fmt.Errorf("plot: %w", err)
			}
			l.Color, l.Width = curve.color, vg.Points(1.6)
			p.Add(l)
			p.Legend.Add(curve.name, l)
		}
		if len(chosen) > 0 {
			dot, err := plotter.NewScatter(chosen)
			if err != nil {
				return fmt.Errorf("plot: %w", err)
			}
			dot.GlyphStyle = draw.GlyphStyle{Color: chosenColor, Radius: vg.Points(4), Shape: draw.CircleGlyph{}}
			p.Add(dot)
			p.Legend.Add("chosen", dot)
		}
		plots = append(plots, p)
	}
	if len(plots) == 0 {
		return fmt.Errorf("plot: there is no student, and what the endpoint says is unknown: nothing to draw")
	}
	canvas := vgsvg.New(plotWidth*vg.Length(len(plots)), plotHeight)
	d := draw.New(canvas)
	for i, p := range plots {
		left := plotWidth * vg.Length(i)
		p.Draw(draw.Crop(d, left, left+plotWidth-plotWidth*vg.Length(len(plots)), 0, -vg.Points(4)))
	}
	_, err := canvas.WriteTo(w)
	return err
}
