package load

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Report is what a run gives. Its JSON is meant to be kept and compared.
type Report struct {
	Title    string    `json:"title"`
	Date     time.Time `json:"date"`
	Command  string    `json:"command,omitempty"`
	Machine  Machine   `json:"machine"`
	Target   Described `json:"target"`
	System   string    `json:"system,omitempty"` // what was measured, in words
	Profile  Profile   `json:"profile"`
	Material string    `json:"material"` // where the texts come from
	Seed     uint64    `json:"seed"`
	Warmup   float64   `json:"warmup_share"` // of each step, dropped from latency and throughput
	Tokens   *Tokens   `json:"tokens,omitempty"`
	Model    *Model    `json:"model,omitempty"`
	Maximum  float64   `json:"maximum_per_s,omitempty"` // highest rate that was sustained
	Trials   []Trial   `json:"trials,omitempty"`
	Steps    []*Step   `json:"steps"`
	Total    Total     `json:"total"`
	Strange  int       `json:"records_of_others"` // in the output topics, without a mark of this run
	Notes    []string  `json:"notes,omitempty"`
}

// Total counts over all steps, the warm-up and the search included.
type Total struct {
	Records     int `json:"records"`
	DeadLetters int `json:"dead_letters"`
	Lost        int `json:"lost"`
	Doubled     int `json:"doubled"`
}

// Described is a Target in words.
type Described struct {
	Input            string `json:"input"`
	Output           string `json:"output"`
	DeadLetter       string `json:"dead_letter,omitempty"`
	InputPartitions  int    `json:"input_partitions"`
	OutputPartitions int    `json:"output_partitions"`
	Broker           string `json:"broker,omitempty"`
	Format           Format `json:"format"`
}

func (t *Target) describe() Described {
	return Described{t.Input, t.Output, t.DeadLetter, t.Found.Input, t.Found.Output, t.Found.Broker, t.Format}
}

// Machine is where it ran.
type Machine struct {
	CPU       string   `json:"cpu"`
	Cores     int      `json:"cores"` // that this process may use
	Features  []string `json:"features"`
	MemoryGiB float64  `json:"memory_gib"`
	Kernel    string   `json:"kernel"`
	Go        string   `json:"go"`
	Sluice    string   `json:"sluice"`
	Runtime   string   `json:"onnxruntime,omitempty"`
	Peak      *Peak    `json:"int8_peak,omitempty"`
}

// Peak is the int8 arithmetic that one core was seen to do.
type Peak struct {
	GMACs float64 `json:"gmac_per_s_per_core"`
	How   string  `json:"how"`
}

// DescribeMachine reads what the system says about itself.
func DescribeMachine() Machine {
	m := Machine{CPU: "unknown CPU", Go: runtime.Version() + " " + runtime.GOOS + "/" + runtime.GOARCH}
	if cores, err := Cores(); err == nil {
		m.Cores = len(cores)
	}
	scan("/proc/cpuinfo", func(k, v string) bool {
		if k == "model name" {
			m.CPU = v
		}
		return k != "model name"
	})
	scan("/proc/meminfo", func(k, v string) bool {
		if k == "MemTotal" {
			kib, _ := strconv.ParseFloat(strings.TrimSuffix(v, " kB"), 64) // 0 where the line is of another kind
			m.MemoryGiB = kib / (1 << 20)
		}
		return k != "MemTotal"
	})
	if b, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil {
		m.Kernel = strings.TrimSpace(string(b))
	}
	return m
}

// String is the processor and how many cores of it there are.
func (m Machine) String() string { return fmt.Sprintf("%s, %d cores", m.CPU, m.Cores) }

func scan(file string, line func(key, value string) bool) {
	f, err := os.Open(file)
	if err != nil {
		return // another system: what it would have said stays unknown
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		if k, v, ok := strings.Cut(s.Text(), ":"); ok && !line(strings.TrimSpace(k), strings.TrimSpace(v)) {
			return
		}
	}
}

// Tokens is how long the texts are, special tokens included, for one tokenizer.
type Tokens struct {
	Tokenizer  string  `json:"tokenizer"`
	Sample     int     `json:"sample"` // texts
	Mean       float64 `json:"mean"`
	P50        int     `json:"p50"`
	P99        int     `json:"p99"`
	Max        int     `json:"max"`
	MeanSquare float64 `json:"mean_square"` // what attention costs
	Histogram  []Bin   `json:"histogram"`
}

// Bin is a bar of a histogram: lengths from From to To, both included.
type Bin struct {
	From  int     `json:"from"`
	To    int     `json:"to"`
	Share float64 `json:"share"`
}

// CountTokens describes lengths.
func CountTokens(tokenizer string, lengths []int) *Tokens {
	if len(lengths) == 0 {
		return nil
	}
	v := slices.Sorted(slices.Values(lengths))
	t := &Tokens{Tokenizer: tokenizer, Sample: len(v), Max: v[len(v)-1]}
	at := func(q float64) int { return v[min(len(v)-1, int(q*float64(len(v))))] }
	t.P50, t.P99 = at(0.5), at(0.99)
	for _, n := range v {
		t.Mean += float64(n)
		t.MeanSquare += float64(n) * float64(n)
	}
	t.Mean /= float64(len(v))
	t.MeanSquare /= float64(len(v))
	width := 1
	for (t.Max-v[0])/width >= 32 {
		width *= 2
	}
	for from := v[0] / width * width; from <= t.Max; from += width {
		lo, _ := slices.BinarySearch(v, from)
		hi, _ := slices.BinarySearch(v, from+width)
		t.Histogram = append(t.Histogram, Bin{from, from + width - 1, float64(hi-lo) / float64(len(v))})
	}
	return t
}

// Model is the model whose tokens and arithmetic are counted.
type Model struct {
	Tag       string `json:"tag"`
	Precision string `json:"precision"`
	Layout    string `json:"layout"`
	Shape     Shape  `json:"shape"`
}

// Shape is what the arithmetic of an encoder depends on.
type Shape struct {
	Layers       int `json:"layers"`
	Hidden       int `json:"hidden"`
	Intermediate int `json:"intermediate"`
}

// ReadShape reads Hugging Face's config.json. The keys differ between families.
func ReadShape(config []byte) (Shape, error) {
	var c struct {
		Hidden       int  `json:"hidden_size"`
		Dim          int  `json:"dim"` // DistilBERT
		Layers       int  `json:"num_hidden_layers"`
		NLayers      int  `json:"n_layers"`
		Intermediate *int `json:"intermediate_size"`
		HiddenDim    *int `json:"hidden_dim"`
	}
	if err := json.Unmarshal(config, &c); err != nil {
		return Shape{}, fmt.Errorf("config.json: %w", err)
	}
	s := Shape{Layers: max(c.Layers, c.NLayers), Hidden: max(c.Hidden, c.Dim)}
	switch {
	case c.Intermediate != nil:
		s.Intermediate = *c.Intermediate
	case c.HiddenDim != nil:
		s.Intermediate = *c.HiddenDim
	default:
		s.Intermediate = 4 * s.Hidden
	}
	if s.Layers == 0 || s.Hidden == 0 || s.Intermediate == 0 {
		return Shape{}, fmt.Errorf("config.json names no layers (%d), hidden size (%d) or intermediate size (%d): "+
			"the arithmetic of a token is unknown", s.Layers, s.Hidden, s.Intermediate)
	}
	return s, nil
}

// MACs are the multiplications with addition of one text of n tokens, in all layers of the encoder: per token 4 h h for
// attention's projections, 2 h i for the feed-forward layers (12 h h in all where i is 4 h) and 2 n h for attention
// itself. A graph that leaves some of it out, as that of a classifier may in its last layer, is credited with the full
// sum.
func (s Shape) MACs(n, nSquared float64) float64 {
	h, i := float64(s.Hidden), float64(s.Intermediate)
	return float64(s.Layers) * (n*(4*h*h+2*h*i) + 2*nSquared*h)
}

// GMACs is the arithmetic of texts a second, in thousand millions a second; 0 where model or texts are unknown.
func (r *Report) GMACs(textsPerS float64) float64 {
	if r.Model == nil || r.Tokens == nil {
		return 0
	}
	return r.Model.Shape.MACs(r.Tokens.Mean, r.Tokens.MeanSquare) * textsPerS / 1e9
}

// ShareOfPeak is GMACs of what all cores were seen to do; 0 where that is unknown.
func (r *Report) ShareOfPeak(textsPerS float64) float64 {
	if r.Machine.Peak == nil || r.Machine.Peak.GMACs <= 0 || r.Machine.Cores == 0 {
		return 0
	}
	return r.GMACs(textsPerS) / (r.Machine.Peak.GMACs * float64(r.Machine.Cores))
}

// Clean says whether nothing was lost, doubled or misdirected.
func (r *Report) Clean() bool {
	for _, s := range r.Steps {
		if s.Misdirected > 0 {
			return false
		}
	}
	return r.Total.Lost == 0 && r.Total.Doubled == 0
}

// WriteJSON writes the report for machines.
func (r *Report) WriteJSON(w io.Writer) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", " ")
	return enc.Encode(r)
}

// ---- figures for people

// number has three digits that count, and commas from a thousand on.
func number(v float64) string {
	a := math.Abs(v)
	switch {
	case math.IsNaN(v):
		return "-"
	case a >= 1000:
		s := strconv.FormatFloat(v, 'f', 0, 64)
		for i := len(s) - 3; i > 0 && s[i-1] != '-'; i -= 3 {
			s = s[:i] + "," + s[i:]
		}
		return s
	case a >= 100:
		return strconv.FormatFloat(v, 'f', 0, 64)
	case a >= 10:
		return strconv.FormatFloat(v, 'f', 1, 64)
	case v == 0:
		return "0"
	}
	return strconv.FormatFloat(v, 'f', 2, 64)
}

// millis is a latency.
func millis(ms float64) string {
	switch {
	case ms >= 10_000:
		return strconv.FormatFloat(ms/1000, 'f', 1, 64) + " s"
	case ms >= 1000:
		return strconv.FormatFloat(ms/1000, 'f', 2, 64) + " s"
	case ms >= 100:
		return strconv.FormatFloat(ms, 'f', 0, 64) + " ms"
	}
	return strconv.FormatFloat(ms, 'f', 1, 64) + " ms"
}

func mebi(bytes float64) string { return strconv.FormatFloat(bytes/(1<<20), 'f', 0, 64) + " MiB" }

func percent(share float64) string {
	if share < 0.1 {
		return strconv.FormatFloat(100*share, 'f', 1, 64) + " %"
	}
	return strconv.FormatFloat(100*share, 'f', 0, 64) + " %"
}
