package load

import (
	_ "embed"
	"fmt"
	"html/template"
	"io"
	"strings"
	"time"
)

// This file writes the report as one page that needs nothing beside itself: no script, no network.

//go:embed report.html.tmpl
var reportPage string

var page = template.Must(template.New("report").Funcs(template.FuncMap{
	"number": number, "millis": millis, "mebi": mebi, "percent": percent, "join": strings.Join,
	"fixed": func(digits int, v float64) string { return fmt.Sprintf("%.*f", digits, v) },
	"ptr": func(p *float64) float64 {
		if p == nil {
			return 0
		}
		return *p
	},
	"date": func(t time.Time) string { return t.UTC().Format("2006-01-02 15:04 UTC") },
}).Parse(reportPage))

// WriteHTML writes the report for people, with plots.
func (r *Report) WriteHTML(w io.Writer) error {
	figures, err := r.figures()
	if err != nil {
		return err
	}
	type row struct {
		*Step
		Load string
		Peak float64
	}
	var rows []row
	for _, s := range r.Steps {
		rows = append(rows, row{s, s.load(), r.ShareOfPeak(s.Achieved)})
	}
	return page.Execute(w, struct {
		*Report
		Rows    []row
		Figures []figure
		Texts   string
		Work    string
		Verdict string
		OK      bool
	}{r, rows, figures, r.textsLine(), r.work(r.Maximum), r.verdict(), r.Clean()})
}
