package main

import (
	"fmt"
)

// goal is one row of the table that the race answers.
type goal struct {
	What     string  `json:"what"`
	Wanted   string  `json:"wanted"`
	Measured string  `json:"measured"`
	Ratio    *spread `json:"ratio,omitempty"`
	Met      string  `json:"met"` // yes, no, or why there is no answer
}

// A goal about the worker against another system: the median of the ratios of equal rounds must reach `least`.
type against struct {
	what  string
	ours  string
	other string
	least float64
}

var raceGoals = []against{
	{"exactly-once against our own bare session loop", "sluice", "bare-sluice", 0.90},
	{"exactly-once against the best peer of the same precision: Python, confluent-kafka + onnxruntime, int8", "sluice",
		"onnxruntime", 2.5},
	{"the same, where that Python runs the graph of our exporter", "sluice", "onnxruntime-same", 2.5},
	{"exactly-once against Kafka Streams, exactly_once_v2", "sluice", "kafka-streams-eos", 4},
	{"exactly-once against Kafka Streams, at_least_once", "sluice", "kafka-streams", 4},
	{"exactly-once against hugot", "sluice", "hugot", 4},
	{"exactly-once against Bento", "sluice", "bento", 4},
	{"exactly-once against transformers", "sluice", "transformers", 20},
	{"BERT-base NER, exactly-once, against its bare session loop", "sluice-ner", "bare-ner", 0.90},
}

// elsewhere are the goals that need an open loop, duplicates or a student: `sluice bench` answers them.
var elsewhere = [][2]string{
	{"p99 from intended send, at-least-once, 30 % / 80 % of own maximum", "25 ms / 60 ms on a 3.4 GHz AVX512-VNNI " +
		"core"},
	{"p99 exactly-once at 80 %, commit interval 100 ms", "250 ms"},
	{"at 120 % load", "at least 95 % of maximum, lag grows, nothing lost, memory flat"},
	{"with 30 % duplicates, cache on", "at least 1.35 times"},
	{"with the student, accuracy within 0.3 points of the full model", "at least 2 times"},
}

// evaluate answers the goals from the rates of each system, round by round. absent says why a system has none.
func evaluate(rates map[string]map[int]float64, absent map[string]string, amx bool) []goal {
	var out []goal
	for _, g := range raceGoals {
		row := goal{What: g.what, Wanted: fmt.Sprintf("at least %g times", g.least)}
		if g.least < 1 {
			row.Wanted = fmt.Sprintf("at least %.0f %%", 100*g.least)
		}
		if missing := g.ours; len(rates[g.ours]) == 0 || len(rates[g.other]) == 0 {
			if len(rates[g.ours]) > 0 {
				missing = g.other
			}
			row.Measured = "-"
			row.Met = missing + " did not run"
			if why := absent[missing]; why != "" {
				row.Met += ": " + why
			}
			out = append(out, row)
			continue
		}
		s := spreadOf(ratios(rates[g.ours], rates[g.other]))
		row.Ratio = &s
		row.Met = "no"
		if s.Median >= g.least {
			row.Met = "yes"
		}
		if g.least < 1 {
			row.Measured = spread{100 * s.Median, 100 * s.Low, 100 * s.High, s.Rounds}.text("%.0f") + " %"
		} else {
			row.Measured = s.text("%.2f") + " times"
		}
		out = append(out, row)
	}
	row := goal{What: "share of the best that any runtime reaches on the same weights (OpenVINO bf16 and int8, bare " +
		"loop)", Wanted: "at least 100 % on AMX machines", Measured: "-", Met: "this machine has no AMX"}
	if amx {
		row.Met = "not measured by the race: see docs/performance.md"
	}
	out = append(out, row)
	for _, e := range elsewhere {
		out = append(out, goal{What: e[0], Wanted: e[1], Measured: "-", Met: "not part of the race: `sluice bench`"})
	}
	return out
}
