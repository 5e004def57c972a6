package ceiling

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"sluice/cmd/sluice/load"
	"sluice/cmd/sluice/load/bare"
	"sluice/cmd/sluice/terminal"
)

// This file owns what the ceiling is shown as.

// Report is what was measured. Its JSON is meant to be kept and compared.
type Report struct {
	Date     time.Time    `json:"date"`
	Machine  load.Machine `json:"machine"`
	Model    load.Model   `json:"model"`
	Provider string       `json:"provider"`
	Material string       `json:"material"` // where the texts come from
	Tokens   *load.Tokens `json:"tokens"`
	Rounds   int          `json:"rounds"`
	Rows     []Row        `json:"bare_loop"`
	Workers  []Workers    `json:"workers,omitempty"`
}

// Row is one line of the bare loop: the median of all rounds, with its range.
type Row struct {
	bare.Result
	Least       float64 `json:"least_rows_per_s"`
	Most        float64 `json:"most_rows_per_s"`
	GMACs       float64 `json:"gmac_per_s"`
	ShareOfPeak float64 `json:"share_of_peak,omitempty"` // of the cores that ran
	Efficiency  float64 `json:"efficiency,omitempty"`    // of a runner, against one alone
}

// Workers is the whole path with a number of workers, each of one runner on its own core.
type Workers struct {
	Workers    int          `json:"workers"`
	Drained    load.Drained `json:"drained"`
	Efficiency float64      `json:"efficiency"` // of a worker, against one alone
	OfBare     float64      `json:"of_bare_loop"`
}

// WriteJSON writes the report for machines.
func (r *Report) WriteJSON(w io.Writer) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", " ")
	return enc.Encode(r)
}

// WriteText writes the report for people.
func (r *Report) WriteText(w io.Writer) {
	r.writeHead(w)
	r.writeRows(w)
	least := 1.0
	for _, e := range r.Rows {
		if e.Runners <= r.Machine.Cores {
			least = min(least, e.CPUShare)
		}
	}
	if least < 0.93 {
		fmt.Fprintf(w, "note: runners got only %.0f %% of their cores' time: other work was running, or the host "+
			"gave it to others. CPU s/1000 is the figure to trust.\n", 100*least)
	}
	if len(r.Workers) > 0 {
		r.writeWorkers(w)
	}
}

func (r *Report) writeHead(w io.Writer) {
	line := func(name, format string, args ...any) {
		fmt.Fprintf(w, "%-10s %s\n", name, fmt.Sprintf(format, args...))
	}
	m, t := r.Machine, r.Tokens
	line("machine", "%s, %d cores (%s); ONNX Runtime %s; %s", m.CPU, m.Cores, strings.Join(m.Features, " "), m.Runtime,
		r.Date.Format(time.DateOnly))
	line("model", "%s, %s, %s, %d layers of %d, on %s", r.Model.Tag, r.Model.Precision, r.Model.Layout,
		r.Model.Shape.Layers, r.Model.Shape.Hidden, r.Provider)
	line("texts", "%d of %s; tokens: mean %.1f, p50 %d, p99 %d, most %d", t.Sample, r.Material, t.Mean, t.P50, t.P99,
		t.Max)
	if m.Peak != nil {
		line("int8 peak", "%.0f GMAC/s a core: %s", m.Peak.GMACs, m.Peak.How)
	}
	fmt.Fprintln(w)
}

func (r *Report) writeRows(w io.Writer) {
	efficiency := slices.ContainsFunc(r.Rows, func(e Row) bool { return e.Efficiency > 0 })
	head := []string{"runners", "budget", "texts/s", "range", "tokens/s", "GMAC/s", "of peak", "fill", "texts/batch",
		"CPU s/1000"}
	if efficiency {
		head = append(head, "efficiency")
	}
	table := [][]string{head}
	for _, e := range r.Rows {
		line := []string{strconv.Itoa(e.Runners), strconv.Itoa(e.BatchTokens), fmt.Sprintf("%.0f", e.RowsPerS),
			fmt.Sprintf("%.0f-%.0f", e.Least, e.Most), fmt.Sprintf("%.0f", e.TokensPerS),
			fmt.Sprintf("%.0f", e.GMACs), share(e.ShareOfPeak), fmt.Sprintf("%.2f", e.Fill), fmt.Sprintf("%.1f",
				e.RowsOfBatch), fmt.Sprintf("%.3f", e.CPUPer1000)}
		if efficiency {
			line = append(line, share(e.Efficiency))
		}
		table = append(table, line)
	}
	terminal.WriteTable(w, table)
}

func (r *Report) writeWorkers(w io.Writer) {
	fmt.Fprintln(w)
	table := [][]string{{"workers", "texts/s", "efficiency", "of bare loop", "CPU s/1000", "RSS", "lost", "doubled"}}
	for _, l := range r.Workers {
		d := l.Drained
		table = append(table, []string{strconv.Itoa(l.Workers), fmt.Sprintf("%.0f", d.Rate), share(l.Efficiency),
			share(l.OfBare), fmt.Sprintf("%.3f", d.CPUPer1000),
			fmt.Sprintf("%.0f MiB", d.RSS/(1<<20)), strconv.Itoa(d.Lost), strconv.Itoa(d.Doubled)})
	}
	terminal.WriteTable(w, table)
}

func share(v float64) string {
	if v <= 0 {
		return "-"
	}
	return fmt.Sprintf("%.0f %%", 100*v)
}
