package load

import (
	"fmt"
	"io"
	"strings"
	"time"

	"sluice/cmd/sluice/terminal"
)

// This file shows figures on a terminal or in a log.

// load names a step.
func (st *Step) load() string {
	if st.Share == 0 {
		return number(st.Rate) + "/s"
	}
	return percent(st.Share)
}

// line is a step in one line, when it is over.
func (st *Step) line() string {
	var b strings.Builder
	fmt.Fprintf(&b, "load %-6s %s msg/s offered, %s achieved; p50 %s, p99 %s, max %s", st.load(), number(st.Rate),
		number(st.Achieved), millis(st.Latency.P50), millis(st.Latency.P99), millis(st.Latency.Max))
	if !st.Sustained {
		fmt.Fprintf(&b, "; the queue grew by %.1f s of load, empty after %.1f s", st.Growth, st.Drained)
	}
	if st.Lost > 0 || st.Doubled > 0 {
		fmt.Fprintf(&b, "; %d LOST, %d DOUBLED", st.Lost, st.Doubled)
	}
	return b.String()
}

// Line is the state of a step that is under way.
func (p Progress) Line() string {
	what := p.Phase
	if p.Steps > 0 {
		what = fmt.Sprintf("%s %d/%d", p.Phase, p.Step, p.Steps)
	} else if p.Step > 0 {
		what = fmt.Sprintf("%s %d", p.Phase, p.Step)
	}
	if p.Share > 0 {
		what += " at " + percent(p.Share)
	}
	when := fmt.Sprintf("%.0f of %.0f s", max(0, p.At).Seconds(), p.Length.Seconds())
	switch {
	case p.Length < time.Second:
		when = fmt.Sprintf("%.1f s", max(0, p.At).Seconds())
	case p.Drained:
		when = "emptying the queue"
	}
	line := fmt.Sprintf("%-18s %s  sent %d  seen %d  open %d", what, when, p.Sent, p.Seen, p.Sent-p.Seen)
	if p.P99 > 0 {
		line += fmt.Sprintf("  p50 %s  p99 %s", millis(p.P50), millis(p.P99))
	}
	return line
}

// WriteText writes the report for people.
func (r *Report) WriteText(w io.Writer) {
	row := func(name, format string, args ...any) {
		fmt.Fprintf(w, "%-10s %s\n", name, fmt.Sprintf(format, args...))
	}
	m := r.Machine
	fmt.Fprintln(w)
	row("machine", "%s, %d cores (%s), %.0f GiB, Linux %s", m.CPU, m.Cores, strings.Join(m.Features, " "), m.MemoryGiB,
		m.Kernel)
	row("versions", "sluice %s, ONNX Runtime %s, %s, broker %s; %s", m.Sluice, orDash(m.Runtime), m.Go,
		orDash(r.Target.Broker), r.Date.Format(time.DateOnly))
	if r.System != "" {
		row("system", "%s", r.System)
	}
	row("topics", "%s (%d partitions) -> %s (%d)", r.Target.Input, r.Target.InputPartitions, r.Target.Output,
		r.Target.OutputPartitions)
	row("texts", "%s", r.textsLine())
	if t := r.Tokens; t != nil {
		row("tokens", "mean %.1f, p50 %d, p99 %d, most %d (%s; %s texts of the same sequence)", t.Mean, t.P50, t.P99,
			t.Max, t.Tokenizer, number(float64(t.Sample)))
	}
	if r.Maximum > 0 {
		row("maximum", "%s msg/s%s, the highest rate at which the queue did not grow", number(r.Maximum),
			r.work(r.Maximum))
	}
	row("latency", "from the intended send time to a read_committed consumer; the first %s of each step is dropped",
		percent(r.Warmup))
	if m.Peak != nil {
		row("int8 peak", "%.0f GMAC/s a core: %s", m.Peak.GMACs, m.Peak.How)
	}
	fmt.Fprintln(w)
	table := [][]string{{"load", "offered/s", "achieved/s", "p50", "p90", "p99", "p99.9", "max", "CPU s/1000", "RSS",
		"fill", "cache", "peak", "lost", "doubled"}}
	for _, s := range r.Steps {
		q := s.Latency
		line := []string{s.load(), number(s.Rate), number(s.Achieved), millis(q.P50), millis(q.P90), millis(q.P99),
			millis(q.P999), millis(q.Max), "-", "-", "-", "-", "-",
			fmt.Sprint(s.Lost), fmt.Sprint(s.Doubled)}
		if u := s.Worker; u != nil {
			line[8], line[9] = fmt.Sprintf("%.3f", u.CPUPer1000), mebi(u.RSSMax)
			if u.Fill != nil {
				line[10] = fmt.Sprintf("%.2f", *u.Fill)
			}
			if u.CacheHitShare != nil {
				line[11] = percent(*u.CacheHitShare)
			}
		}
		if p := r.ShareOfPeak(s.Achieved); p > 0 {
			line[12] = percent(p)
		}
		table = append(table, line)
	}
	terminal.WriteTable(w, table)
	fmt.Fprintln(w)
	for _, s := range r.Steps {
		if s.Sustained {
			continue
		}
		text := fmt.Sprintf("at %s load the queue grew by %.1f s of load", s.load(), s.Growth)
		if r.Maximum > 0 {
			text += fmt.Sprintf("; throughput %s of the maximum", percent(s.Achieved/r.Maximum))
		}
		if u := s.Worker; u != nil && u.RSSMax > 0 {
			text += fmt.Sprintf("; memory %s at its end, %s at its beginning", mebi(u.RSSEnd), mebi(u.RSSBegin))
		}
		fmt.Fprintf(w, "%s; %d lost; empty again after %.1f s\n", text, s.Lost, s.Drained)
	}
	fmt.Fprintf(w, "%s\n", r.verdict())
	for _, n := range r.Notes {
		fmt.Fprintf(w, "note: %s\n", n)
	}
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// work is what a rate means in tokens and of the machine's peak.
func (r *Report) work(rate float64) string {
	if r.Tokens == nil {
		return ""
	}
	s := fmt.Sprintf(" (%s tokens/s", number(rate*r.Tokens.Mean))
	if g := r.GMACs(rate); g > 0 {
		s += fmt.Sprintf(", %s GMAC/s", number(g))
	}
	if p := r.ShareOfPeak(rate); p > 0 {
		s += fmt.Sprintf(", %s of the int8 peak", percent(p))
	}
	return s + ")"
}

func (r *Report) textsLine() string {
	s := fmt.Sprintf("%s: %s lengths, %s arrivals, from %s, seed %d", r.Profile.Name, r.Profile.Lengths,
		r.Profile.Arrivals, r.Material, r.Seed)
	if r.Profile.Duplicates > 0 {
		s += fmt.Sprintf("; %s of them drawn by Zipf's law from %d texts", percent(r.Profile.Duplicates), hotTexts)
	}
	if r.Profile.Poison > 0 {
		s += fmt.Sprintf("; %s are no JSON", percent(r.Profile.Poison))
	}
	return s
}

// verdict says whether every record has one answer.
func (r *Report) verdict() string {
	t := r.Total
	poison, misdirected := 0, 0
	for _, s := range r.Steps {
		poison += s.Poison
		misdirected += s.Misdirected
	}
	s := fmt.Sprintf("%s records sent in all: %d lost, %d doubled, %d dead letters", number(float64(t.Records)), t.Lost,
		t.Doubled, t.DeadLetters)
	if misdirected > 0 {
		s += fmt.Sprintf("; %d good records became dead letters, or spoilt ones results", misdirected)
	}
	if r.Strange > 0 {
		s += fmt.Sprintf("; %d records of others in the output topics", r.Strange)
	}
	return s
}
