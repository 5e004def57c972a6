package load

import (
	"bytes"
	"fmt"
	"html/template"
	"image/color"
	"math"
	"regexp"
	"slices"
	"strconv"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/text"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"
)

// This file draws the report's plots, as SVG that stands in the page itself: nothing is loaded from anywhere.

const (
	plotWidth  = 16 * vg.Centimeter
	plotHeight = 8.6 * vg.Centimeter
)

var (
	ink  = color.RGBA{0x1f, 0x29, 0x37, 0xff}
	grey = color.RGBA{0x9c, 0xa3, 0xaf, 0xff}
	thin = color.RGBA{0xe5, 0xe7, 0xeb, 0xff}
	// From calm to alarming: loads and percentiles both have an order.
	ramp = []color.RGBA{{0x1d, 0x4e, 0x89, 0xff}, {0x2a, 0x9d, 0x8f, 0xff}, {0x8a, 0xb1, 0x7d, 0xff}, {0xe9, 0xb4, 0x4c,
		0xff}, {0xf4, 0x8c, 0x4f, 0xff}, {0xc4, 0x2e, 0x4e, 0xff}}
)

// tint is the i-th of n colours.
func tint(i, n int) color.Color {
	if n <= 1 {
		return ramp[0]
	}
	return ramp[int(math.Round(float64(i)*float64(len(ramp)-1)/float64(n-1)))]
}

// figure is one plot of the page.
type figure struct {
	Title   string
	Caption string
	SVG     template.HTML
}

func newPlot(x, y string) *plot.Plot {
	p := plot.New()
	small := text.Style{Color: ink, Font: font.From(plot.DefaultFont, 9), Handler: plot.DefaultTextHandler}
	for _, a := range []*plot.Axis{&p.X, &p.Y} {
		a.Label.TextStyle.Font.Size, a.Label.TextStyle.Color = 9, ink
		a.Tick.Label.Font.Size, a.Tick.Label.Color = 9, ink
		a.LineStyle.Color, a.Tick.LineStyle.Color = grey, grey
		a.Padding = vg.Points(4)
		a.Tick.Marker = plainTicks{with("")}
	}
	p.X.Label.Text, p.Y.Label.Text = x, y
	p.Legend.TextStyle = small
	p.Legend.Top, p.Legend.Left = true, true
	p.Legend.Padding, p.Legend.ThumbnailWidth = vg.Points(2), vg.Points(14)
	grid := plotter.NewGrid()
	grid.Vertical.Color, grid.Horizontal.Color = thin, thin
	p.Add(grid)
	return p
}

func addLine(p *plot.Plot, name string, xy plotter.XYs, c color.Color, points bool) error {
	if len(xy) == 0 {
		return nil
	}
	l, err := plotter.NewLine(xy)
	if err != nil {
		return fmt.Errorf("plot %q: %w", name, err)
	}
	l.Color, l.Width = c, vg.Points(1.6)
	p.Add(l)
	if points {
		s, err := plotter.NewScatter(xy)
		if err != nil {
			return fmt.Errorf("plot %q: %w", name, err)
		}
		s.GlyphStyle = draw.GlyphStyle{Color: c, Radius: vg.Points(2.4), Shape: draw.CircleGlyph{}}
		p.Add(s)
	}
	if name != "" {
		p.Legend.Add(name, l)
	}
	return nil
}

// What vgsvg writes for a file of its own is taken off: within a page the prolog and the namespaces mean nothing, and
// the size comes from the page.
var (
	prolog = regexp.MustCompile(`(?s)^.*?<svg[^>]*?viewBox="([^"]*)"[^>]*>`)
	family = regexp.MustCompile(`font-family:[^;"]*;font-variant:[^;"]*;?`)
	blanks = regexp.MustCompile(`\n\s*`)
)

func render(p *plot.Plot) (template.HTML, error) {
	c := vgsvg.New(plotWidth, plotHeight)
	p.BackgroundColor = color.Transparent
	p.Draw(draw.Crop(draw.New(c), 0, -vg.Points(14), 0, 0)) // room for half of the last label
	var b bytes.Buffer
	if _, err := c.WriteTo(&b); err != nil {
		return "", err
	}
	svg := b.String()
	m := prolog.FindStringSubmatchIndex(svg)
	if m == nil {
		return "", fmt.Errorf("the drawing has no svg element: %.200s", svg)
	}
	svg = `<svg viewBox="` + svg[m[2]:m[3]] + `" role="img">` + svg[m[1]:]
	return template.HTML(blanks.ReplaceAllString(family.ReplaceAllString(svg, ""), "\n")), nil
}

// logTicks are 1, 2 and 5 times the powers of ten.
type logTicks struct{ unit func(float64) string }

func (t logTicks) Ticks(low, high float64) []plot.Tick {
	var ticks []plot.Tick
	wide := math.Log10(high/low) > 3
	for d := math.Pow(10, math.Floor(math.Log10(low))); d <= high*1.001; d *= 10 {
		for _, k := range []float64{1, 2, 5} {
			v := d * k
			if v < low*0.999 || v > high*1.001 {
				continue
			}
			tick := plot.Tick{Value: v}
			if k == 1 || !wide {
				tick.Label = t.unit(v)
			}
			ticks = append(ticks, tick)
		}
	}
	return ticks
}

func latencyAxis(p *plot.Plot, low, high float64) {
	p.Y.Scale = plot.LogScale{}
	p.Y.Tick.Marker = logTicks{func(ms float64) string {
		if ms >= 1000 {
			return strconv.FormatFloat(ms/1000, 'g', 3, 64) + " s"
		}
		return strconv.FormatFloat(ms, 'g', 3, 64) + " ms"
	}}
	p.Y.Min, p.Y.Max = math.Max(0.05, low*0.8), high*1.5
}

// plainTicks are about six round numbers.
type plainTicks struct{ unit func(float64) string }

func (t plainTicks) Ticks(low, high float64) []plot.Tick {
	step := math.Pow(10, math.Floor(math.Log10((high-low)/6)))
	for _, k := range []float64{1, 2, 5, 10} {
		if step*k >= (high-low)/7 {
			step *= k
			break
		}
	}
	var ticks []plot.Tick
	for i := math.Ceil(low / step); i*step <= high*1.0001; i++ {
		ticks = append(ticks, plot.Tick{Value: i * step, Label: t.unit(i * step)})
	}
	return ticks
}

// with writes a value of an axis with its unit.
func with(unit string) func(float64) string {
	return func(v float64) string {
		text := strconv.FormatFloat(v, 'g', 4, 64)
		if math.Abs(v) >= 1000 {
			text = number(v)
		}
		return text + unit
	}
}

// figures are the plots of a report, those for which it has figures.
func (r *Report) figures() ([]figure, error) {
	var figures []figure
	for _, make := range []func() (*plot.Plot, figure, error){r.byLoad, r.distribution, r.queue, r.throughput, r.memory,
		r.lengths} {
		p, f, err := make()
		if err != nil {
			return nil, err
		}
		if p == nil {
			continue
		}
		if f.SVG, err = render(p); err != nil {
			return nil, fmt.Errorf("plot %q: %w", f.Title, err)
		}
		figures = append(figures, f)
	}
	return figures, nil
}

func (r *Report) withLatency() []*Step {
	return slices.DeleteFunc(slices.Clone(r.Steps), func(s *Step) bool { return s.Latency.Count == 0 })
}

func (r *Report) byLoad() (*plot.Plot, figure, error) {
	steps := r.withLatency()
	if len(steps) < 2 {
		return nil, figure{}, nil
	}
	p := newPlot("offered, records a second", "")
	low, high := math.Inf(1), 0.0
	lines := []struct {
		name string
		of   func(Quantiles) float64
	}{
		{"max", func(q Quantiles) float64 { return q.Max }}, {"p99.9", func(q Quantiles) float64 { return q.P999 }},
		{"p99", func(q Quantiles) float64 { return q.P99 }}, {"p90", func(q Quantiles) float64 { return q.P90 }},
		{"p50", func(q Quantiles) float64 { return q.P50 }},
	}
	for i, l := range lines {
		var xy plotter.XYs
		for _, s := range steps {
			v := math.Max(0.05, l.of(s.Latency))
			xy = append(xy, plotter.XY{X: s.Rate, Y: v})
			low, high = math.Min(low, v), math.Max(high, v)
		}
		if err := addLine(p, l.name, xy, tint(len(lines)-1-i, len(lines)), true); err != nil {
			return nil, figure{}, err
		}
	}
	latencyAxis(p, low, high)
	p.X.Min = 0
	caption := "From the intended send time until a read_committed consumer sees the result."
	if r.Maximum > 0 {
		mark, err := plotter.NewLine(plotter.XYs{{X: r.Maximum, Y: p.Y.Min}, {X: r.Maximum, Y: p.Y.Max}})
		if err != nil {
			return nil, figure{}, err
		}
		mark.Color, mark.Dashes = grey, []vg.Length{vg.Points(3), vg.Points(3)}
		p.Add(mark)
		p.Legend.Add("maximum", mark)
		caption += " The dashed line is the highest rate that was sustained; to its right the queue grows for as " +
			"long as the load lasts."
	}
	return p, figure{Title: "Latency by load", Caption: caption}, nil
}

// nines is the axis of distributions: how many nines a percentile has.
func nines(percentile float64) float64 { return -math.Log10(1 - percentile/100) }

func (r *Report) distribution() (*plot.Plot, figure, error) {
	steps := r.withLatency()
	if len(steps) == 0 {
		return nil, figure{}, nil
	}
	p := newPlot("percentile", "")
	p.Legend.Top, p.Legend.Left = false, false // there is nothing below the lines on the right
	low, high, far := math.Inf(1), 0.0, 2.0
	for i, s := range steps {
		var xy plotter.XYs
		for _, c := range s.Latency.Curve {
			v := math.Max(0.05, c.Value)
			xy = append(xy, plotter.XY{X: nines(c.Percentile), Y: v})
			low, high, far = math.Min(low, v), math.Max(high, v), math.Max(far, nines(c.Percentile))
		}
		if err := addLine(p, s.load(), xy, tint(i, len(steps)), false); err != nil {
			return nil, figure{}, err
		}
	}
	latencyAxis(p, low, high)
	var ticks []plot.Tick
	for _, v := range []float64{0, 50, 90, 99, 99.9, 99.99, 99.999} {
		if nines(v) <= far+0.01 {
			ticks = append(ticks, plot.Tick{Value: nines(v), Label: strconv.FormatFloat(v, 'g', -1, 64) + " %"})
		}
	}
	p.X.Tick.Marker = plot.ConstantTicks(ticks)
	p.X.Min, p.X.Max = 0, far
	return p, figure{Title: "Distribution of latency", Caption: "One line for each load. What lies to the right of " +
		"99 % is one record in a hundred."}, nil
}

func (r *Report) queue() (*plot.Plot, figure, error) {
	if len(r.Steps) == 0 {
		return nil, figure{}, nil
	}
	p := newPlot("seconds since the step began", "waiting, seconds of load")
	p.Y.Tick.Marker = plainTicks{with(" s")}
	for i, s := range r.Steps {
		var xy plotter.XYs
		for _, t := range s.Timeline {
			xy = append(xy, plotter.XY{X: t.At, Y: math.Max(0, float64(t.Backlog)/s.Rate)})
		}
		if err := addLine(p, s.load(), xy, tint(i, len(r.Steps)), false); err != nil {
			return nil, figure{}, err
		}
	}
	p.Y.Min = 0
	p.Y.Max = math.Max(p.Y.Max, 0.5)
	return p, figure{Title: "The queue", Caption: "Records that were due and had no result yet, divided by the rate. " +
		"A load that is sustained stays near the ground; above the maximum the queue grows until the load ends, then " +
		"it must empty."}, nil
}

func (r *Report) throughput() (*plot.Plot, figure, error) {
	if len(r.Steps)+len(r.Trials) < 3 {
		return nil, figure{}, nil
	}
	p := newPlot("offered, records a second", "achieved, results a second")
	most := 0.0
	var good, bad plotter.XYs
	add := func(rate, achieved float64, sustained bool) {
		most = math.Max(most, math.Max(rate, achieved))
		if xy := (plotter.XY{X: rate, Y: achieved}); sustained {
			good = append(good, xy)
		} else {
			bad = append(bad, xy)
		}
	}
	for _, t := range r.Trials {
		add(t.Rate, t.Achieved, t.Sustained)
	}
	for _, s := range r.Steps {
		add(s.Rate, s.Achieved, s.Sustained)
	}
	ideal, err := plotter.NewLine(plotter.XYs{{X: 0, Y: 0}, {X: most, Y: most}})
	if err != nil {
		return nil, figure{}, err
	}
	ideal.Color, ideal.Dashes = grey, []vg.Length{vg.Points(3), vg.Points(3)}
	p.Add(ideal)
	p.Legend.Add("all that is offered", ideal)
	for _, g := range []struct {
		name string
		xy   plotter.XYs
		c    color.Color
	}{{"sustained", good, ramp[1]}, {"the queue grew", bad, ramp[5]}} {
		if len(g.xy) == 0 {
			continue
		}
		s, err := plotter.NewScatter(g.xy)
		if err != nil {
			return nil, figure{}, err
		}
		s.GlyphStyle = draw.GlyphStyle{Color: g.c, Radius: vg.Points(3), Shape: draw.CircleGlyph{}}
		p.Add(s)
		p.Legend.Add(g.name, s)
	}
	p.X.Min, p.Y.Min = 0, 0
	return p, figure{Title: "Offered and achieved", Caption: "Every rate that was tried, those of the search " +
		"included."}, nil
}

func (r *Report) memory() (*plot.Plot, figure, error) {
	p := newPlot("seconds since the step began", "")
	p.Y.Tick.Marker = plainTicks{with(" MiB")}
	any, most := false, 0.0
	for i, s := range r.Steps {
		var xy plotter.XYs
		for _, t := range s.Timeline {
			if t.RSS > 0 {
				xy = append(xy, plotter.XY{X: t.At, Y: t.RSS / (1 << 20)})
				most = math.Max(most, t.RSS/(1<<20))
			}
		}
		any = any || len(xy) > 0
		if err := addLine(p, s.load(), xy, tint(i, len(r.Steps)), false); err != nil {
			return nil, figure{}, err
		}
	}
	if !any {
		return nil, figure{}, nil
	}
	p.Y.Min, p.Y.Max = 0, most*1.5
	return p, figure{Title: "Memory", Caption: "Resident memory of the system under test, step by step, until its " +
		"queue is empty."}, nil
}

func (r *Report) lengths() (*plot.Plot, figure, error) {
	if r.Tokens == nil {
		return nil, figure{}, nil
	}
	p := newPlot("tokens", "share of the texts")
	p.Y.Tick.Marker = plainTicks{func(v float64) string { return with(" %")(100 * v) }}
	for _, b := range r.Tokens.Histogram {
		x0, x1 := float64(b.From), float64(b.To+1)
		gap := (x1 - x0) * 0.08
		bar, err := plotter.NewPolygon(plotter.XYs{{X: x0 + gap, Y: 0}, {X: x1 - gap, Y: 0}, {X: x1 - gap, Y: b.Share},
			{X: x0 + gap, Y: b.Share}})
		if err != nil {
			return nil, figure{}, err
		}
		bar.Color, bar.LineStyle.Width = ramp[0], 0
		p.Add(bar)
	}
	p.Y.Min = 0
	caption := fmt.Sprintf("Mean %.1f, median %d, 99th percentile %d, special tokens included (%s).", r.Tokens.Mean,
		r.Tokens.P50, r.Tokens.P99, r.Tokens.Tokenizer)
	return p, figure{Title: "Length of the texts", Caption: caption}, nil
}
