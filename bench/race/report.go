package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"sluice/model/ort"
)

// summary is what a system did over all rounds.
type summary struct {
	Name      string    `json:"name"`
	Title     string    `json:"title"`
	Kind      kind      `json:"kind"`
	Guarantee string    `json:"guarantee,omitempty"`
	Precision string    `json:"precision"`
	Settings  string    `json:"settings"`
	Versions  string    `json:"versions"`
	Absent    string    `json:"absent,omitempty"` // why it did not run
	Ranked    bool      `json:"ranked"`
	Messages  spread    `json:"messages_per_s"`
	Tokens    spread    `json:"tokens_per_s"`
	CPU       spread    `json:"cpu_seconds_per_1000"`
	RSS       spread    `json:"peak_rss_mib"`
	First     spread    `json:"first_result_s"`
	Agreement spread    `json:"agreement"`
	Lost      int       `json:"lost"`
	Doubled   int       `json:"doubled"`
	Behind    *spread   `json:"sluice_by_this,omitempty"` // our exactly-once rate by this one's, round by round
	Rounds    []measure `json:"measures"`
}

type document struct {
	Machine   map[string]string `json:"machine"`
	Texts     map[string]any    `json:"texts"`
	Rounds    int               `json:"rounds"`
	Seconds   float64           `json:"seconds_a_measurement"`
	Took      float64           `json:"took_minutes"`
	Systems   []*summary        `json:"systems"`
	Ceilings  []*summary        `json:"ceilings"`
	NER       []*summary        `json:"ner"`
	Goals     []goal            `json:"goals"`
	Reference string            `json:"reference"`
}

// summarize turns measurements into rows: (Kafka to Kafka, ranked; bare loops; NER).
func summarize(all []*system, found map[string][]measure, absent map[string]string) (kafka, ceilings, ner []*summary) {
	for _, s := range all {
		row := &summary{Name: s.Name, Title: s.Title, Kind: s.Kind, Guarantee: s.Guarantee, Precision: s.Precision,
			Settings: s.Settings, Absent: absent[s.Name], Rounds: found[s.Name]}
		if s.Versions != nil {
			row.Versions = s.Versions()
		}
		of := func(f func(measure) float64) spread {
			var v []float64
			for _, m := range row.Rounds {
				v = append(v, f(m))
			}
			return spreadOf(v)
		}
		row.Messages = of(func(m measure) float64 { return m.Messages })
		row.Tokens = of(func(m measure) float64 { return m.Tokens })
		row.CPU = of(func(m measure) float64 { return m.CPU })
		row.RSS = of(func(m measure) float64 { return m.RSS / (1 << 20) })
		row.First = of(func(m measure) float64 { return m.First })
		row.Agreement = of(func(m measure) float64 { return m.Agreement })
		for _, m := range row.Rounds {
			row.Lost, row.Doubled = row.Lost+m.Lost, row.Doubled+m.Doubled
		}
		row.Ranked = len(row.Rounds) > 0 && row.Agreement.Median >= leastAgreement
		if r := ratios(byRound(found["sluice"]), byRound(row.Rounds)); len(r) > 0 && s.Name != "sluice" && !s.Ner {
			sp := spreadOf(r)
			row.Behind = &sp
		}
		switch {
		case s.Ner:
			ner = append(ner, row)
		case s.Kind == ceiling:
			ceilings = append(ceilings, row)
		default:
			kafka = append(kafka, row)
		}
	}
	rank(kafka)
	return kafka, ceilings, ner
}

func byRound(ms []measure) map[int]float64 {
	out := map[int]float64{}
	for _, m := range ms {
		out[m.Round] = m.Messages
	}
	return out
}

func report(all []*system, found map[string][]measure, absent map[string]string, c *corpus, o options,
	took time.Duration) error {
	doc := document{Machine: machine(), Rounds: o.rounds, Seconds: o.seconds, Took: math.Round(took.Minutes()*10) / 10,
		Texts:     describe(c, o.mix),
		Reference: "the labels of the fp32 model (ONNX Runtime), equal to transformers' to 1e-4"}
	doc.Systems, doc.Ceilings, doc.NER = summarize(all, found, absent)
	rates := map[string]map[int]float64{}
	for name, ms := range found {
		rates[name] = byRound(ms)
	}
	doc.Goals = evaluate(rates, absent, strings.Contains(doc.Machine["features"], "amx"))

	var md bytes.Buffer
	doc.markdown(&md, o)
	os.Stdout.Write(md.Bytes())
	encoded, err := json.MarshalIndent(doc, "", " ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(o.out), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(o.out+".json", append(encoded, '\n'), 0o644); err != nil {
		return err
	}
	return os.WriteFile(o.out+".md", md.Bytes(), 0o644)
}

func (d document) markdown(w *bytes.Buffer, o options) {
	m := d.Machine
	fmt.Fprintf(w, "# The race\n\nKafka to Kafka on one machine, in turns: the same broker, topics of %d partitions, "+
		"texts and weights (DistilBERT-base's shape: 6 x 768, real answers). Each system works off a backlog of "+
		"about %g s; "+
		"counted from %.0f to %.0f %% of the results by an independent read_committed consumer, so start-up and tail "+
		"do not count. Broker and consumer share the cores with the system. Cache and student are off.\n\n",
		o.partitions, d.Seconds, 100*from, 100*to)
	fmt.Fprintf(w, "Machine: %s, %s cores, %s; features %s; ONNX Runtime %s; %s; Kafka %s; %s. Texts: %v distinct, "+
		"%v (tokens: mean %v, p50 %v, p90 %v, p99 %v, max %v; sha256 %v). "+
		"Rounds: %d, medians with the range; the order changes from round to round. Took %.0f min. Made by `make "+
		"race`.\n\n",
		m["cpu"], m["cores"], m["memory"], m["features"], m["onnxruntime"], m["go"], m["kafka"], m["date"],
		d.Texts["count"], d.Texts["mix"], d.Texts["mean"], d.Texts["p50"], d.Texts["p90"], d.Texts["p99"],
		d.Texts["max"], d.Texts["sha256"], d.Rounds, d.Took)
	fmt.Fprintf(w, "Agreement: equal labels with the fp32 reference. Below %.0f %% a system is shown but has no "+
		"rank. \"Sluice / it\": our exactly-once rate by its rate, of the same round.\n\n", 100*leastAgreement)
	fmt.Fprintf(w, "| rank | system | guarantee | precision | msgs/s | tokens/s | Sluice / it | CPU s per 1,000 msgs "+
		"| peak RSS MiB | agreement | lost, doubled |\n|---|---|---|---|---|---|---|---|---|---|---|\n")
	place := 0
	for _, s := range d.Systems {
		if s.Absent != "" {
			continue
		}
		at := "-"
		if s.Ranked {
			place++
			at = fmt.Sprint(place)
		}
		behind := "-"
		if s.Behind != nil {
			behind = s.Behind.text("%.2f")
		}
		fmt.Fprintf(w, "| %s | %s | %s | %s | %s | %s | %s | %s | %s | %.2f %% | %d, %d |\n", at, s.Title, s.Guarantee,
			s.Precision, s.Messages.text("%.0f"), s.Tokens.text("%.0f"), behind,
			s.CPU.text("%.2f"), s.RSS.text("%.0f"), 100*s.Agreement.Median, s.Lost, s.Doubled)
	}
	fmt.Fprintf(w, "\n## Ceilings\n\nThe model alone on the same texts: no Kafka, no JSON, tokenized beforehand, one "+
		"pinned thread a core.\n\n| loop | precision | msgs/s | tokens/s |\n|---|---|---|---|\n")
	for _, s := range d.Ceilings {
		if s.Absent == "" {
			fmt.Fprintf(w, "| %s | %s | %s | %s |\n", s.Title, s.Precision, s.Messages.text("%.0f"),
				s.Tokens.text("%.0f"))
		}
	}
	fmt.Fprintf(w, "\n## BERT-base NER shape\n\n12 x 768 with a token head, the same layers repeated: the answers "+
		"have no meaning, only the cost has.\n\n| system | msgs/s | tokens/s | CPU s per 1,000 msgs "+
		"|\n|---|---|---|---|\n")
	for _, s := range d.NER {
		if s.Absent == "" {
			fmt.Fprintf(w, "| %s | %s | %s | %s |\n", s.Title, s.Messages.text("%.0f"), s.Tokens.text("%.0f"),
				s.CPU.text("%.2f"))
		}
	}
	fmt.Fprintf(w, "\n## Goals\n\n| goal | wanted | measured | met |\n|---|---|---|---|\n")
	for _, g := range d.Goals {
		fmt.Fprintf(w, "| %s | %s | %s | %s |\n", g.What, g.Wanted, g.Measured, g.Met)
	}
	fmt.Fprintf(w, "\n## Versions and settings\n\nMore, and what else was tried: the READMEs in bench/peers.\n\n| "+
		"system | versions | settings | first result after |\n|---|---|---|---|\n")
	for _, s := range slices.Concat(d.Systems, d.Ceilings, d.NER) {
		if s.Absent != "" {
			fmt.Fprintf(w, "| %s | - | did not run: %s | - |\n", s.Title, strings.ReplaceAll(s.Absent, "\n", " "))
			continue
		}
		first := "-"
		if s.First.Median > 0 {
			first = s.First.text("%.1f") + " s"
		}
		fmt.Fprintf(w, "| %s | %s | %s | %s |\n", s.Title, s.Versions, s.Settings, first)
	}
}

// describe is what the texts are.
func describe(c *corpus, mix string) map[string]any {
	t := slices.Sorted(slices.Values(c.tokens))
	sum := 0
	histogram := map[string]int{}
	for _, n := range t {
		sum += n
		low := (n - 1) / 8 * 8
		histogram[fmt.Sprintf("%03d-%03d", low+1, low+8)]++
	}
	at := func(q float64) int { return t[min(len(t)-1, int(q*float64(len(t))))] }
	return map[string]any{"mix": mix, "count": len(t), "mean": fmt.Sprintf("%.1f", float64(sum)/float64(len(t))),
		"p50": at(.5), "p90": at(.9), "p99": at(.99), "max": t[len(t)-1],
		"sha256": c.digest[:16], "histogram": histogram}
}

// machine describes where it ran.
func machine() map[string]string {
	field := func(file, key string) string {
		f, err := os.Open(file)
		if err != nil {
			return "unknown"
		}
		defer f.Close()
		for s := bufio.NewScanner(f); s.Scan(); {
			if k, v, ok := strings.Cut(s.Text(), ":"); ok && strings.TrimSpace(k) == key {
				return strings.TrimSpace(v)
			}
		}
		return "unknown"
	}
	return map[string]string{
		"cpu": fmt.Sprintf("%s (family %s, model %s)", field("/proc/cpuinfo", "model name"), field("/proc/cpuinfo",
			"cpu family"), field("/proc/cpuinfo", "model")),
		"cores":    fmt.Sprint(runtime.NumCPU()),
		"memory":   field("/proc/meminfo", "MemTotal"),
		"features": strings.Join(features(field("/proc/cpuinfo", "flags")), " "), "onnxruntime": ort.Version(),
		"go":    runtime.Version(),
		"kafka": strings.TrimPrefix(pins("scripts/kafka-local.pom.xml", `<(kafka)\.version>([^<]+)`), "kafka "),
		"date":  time.Now().UTC().Format("2006-01-02"),
	}
}

// features are the CPU's flags that matter to int8 and bf16 products.
func features(flags string) []string {
	var out []string
	for _, f := range strings.Fields(flags) {
		switch f {
		case "avx2", "avx512f", "avx_vnni", "avx512_vnni", "avx512_bf16", "amx_tile", "amx_int8", "amx_bf16":
			out = append(out, f)
		}
	}
	return out
}
