package load

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

// This file reads what the system under test uses: CPU time and memory of its process, and its metrics where it has
// any.

// Probe says where to look. Both may be given; then CPU time and memory are the process's.
type Probe struct {
	PIDs    []int  // processes of the system on this machine
	Metrics string // URL of its Prometheus metrics; figures that it lacks are left out
}

// Reading is what a probe saw; figures that were not there are absent.
type Reading map[string]float64

// Names in a Reading. All but the first two are Prometheus names, summed over their labels.
const (
	cpuSeconds    = "process_cpu_seconds_total"
	residentBytes = "process_resident_memory_bytes"
	tokensTotal   = "sluice_tokens_total"
	slotsTotal    = "sluice_batch_slots_total"
	cacheHits     = "sluice_cache_hits_total"
	cacheMisses   = "sluice_cache_misses_total"
)

// On says whether there is anything to look at.
func (p Probe) On() bool { return len(p.PIDs) > 0 || p.Metrics != "" }

// Read takes a reading.
func (p Probe) Read(ctx context.Context) (Reading, error) {
	r := Reading{}
	if p.Metrics != "" {
		if err := scrape(ctx, p.Metrics, r); err != nil {
			return nil, err
		}
	}
	if len(p.PIDs) > 0 {
		r[cpuSeconds], r[residentBytes] = 0, 0
	}
	for _, pid := range p.PIDs {
		cpu, rss, err := processUse(pid)
		if err != nil {
			return nil, err
		}
		r[cpuSeconds] += cpu
		r[residentBytes] += rss
	}
	return r, nil
}

// interval is how often memory may be looked at: the process's own files cost nothing, its metrics a little.
func (p Probe) interval() time.Duration {
	if len(p.PIDs) > 0 {
		return 250 * time.Millisecond
	}
	return 2 * time.Second
}

// resident reads the memory alone.
func (p Probe) resident(ctx context.Context) (float64, error) {
	if len(p.PIDs) > 0 {
		p.Metrics = ""
	}
	r, err := p.Read(ctx)
	return r[residentBytes], err
}

// scrape reads the metrics at url and adds up each over its labels.
func scrape(ctx context.Context, url string, into Reading) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return fmt.Errorf("metrics: %w", err)
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return fmt.Errorf("metrics: %w; is it the address of the worker's server.listen, with /metrics?", err)
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("metrics: %s answers %s", url, answer.Status)
	}
	return into.add(answer.Body)
}

// ReadMetrics reads a page of Prometheus metrics. Each is added up over its labels; of a histogram there are its _sum
// and its _count.
func ReadMetrics(page io.Reader) (Reading, error) {
	r := Reading{}
	return r, r.add(page)
}

// add adds a page of metrics to a reading.
func (r Reading) add(page io.Reader) error {
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(page)
	if err != nil {
		return fmt.Errorf("metrics: %w", err)
	}
	for name, f := range families {
		for _, m := range f.GetMetric() {
			switch f.GetType() {
			case dto.MetricType_HISTOGRAM:
				r[name+"_sum"] += m.GetHistogram().GetSampleSum()
				r[name+"_count"] += float64(m.GetHistogram().GetSampleCount())
			case dto.MetricType_SUMMARY:
				r[name+"_sum"] += m.GetSummary().GetSampleSum()
				r[name+"_count"] += float64(m.GetSummary().GetSampleCount())
			default:
				r[name] += m.GetCounter().GetValue() + m.GetGauge().GetValue() + m.GetUntyped().GetValue()
			}
		}
	}
	return nil
}

// processUse is the user and system time of a process so far, and its resident memory (proc(5): stat).
func processUse(pid int) (cpu, rss float64, err error) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if errors.Is(err, os.ErrNotExist) {
		if _, e := os.Stat("/proc/self/stat"); e == nil {
			return 0, 0, fmt.Errorf("process %d is not there (any more)", pid)
		}
	}
	if err != nil {
		return 0, 0, fmt.Errorf("CPU time of process %d: %w; it is read from /proc, which Linux has", pid, err)
	}
	fields := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	if len(fields) < 22 {
		return 0, 0, fmt.Errorf("CPU time of process %d: /proc/%d/stat has %d fields", pid, pid, len(fields))
	}
	user, err1 := strconv.ParseFloat(fields[11], 64)
	system, err2 := strconv.ParseFloat(fields[12], 64)
	pages, err3 := strconv.ParseFloat(fields[21], 64)
	const userHZ = 100 // what the kernel tells user space, on every Linux there is
	return (user + system) / userHZ, pages * float64(os.Getpagesize()), errors.Join(err1, err2, err3)
}

// Usage is what the system used during a step, from the end of its warm-up to the end of its load.
type Usage struct {
	CPUSeconds     float64  `json:"cpu_seconds"`
	CPUPer1000     float64  `json:"cpu_seconds_per_1000"` // results
	Cores          float64  `json:"cores"`                // CPU seconds a second
	RSSBegin       float64  `json:"rss_begin_bytes"`
	RSSEnd         float64  `json:"rss_end_bytes"`
	RSSMax         float64  `json:"rss_max_bytes"`
	TokensPerS     *float64 `json:"tokens_per_s,omitempty"` // that went through models
	Fill           *float64 `json:"fill,omitempty"`         // real tokens of all token places
	CacheHitShare  *float64 `json:"cache_hit_share,omitempty"`
	CacheHits      *float64 `json:"cache_hits,omitempty"`
	hasCPU, hasRSS bool
}

// usage is what happened between two readings.
func usage(from, to Reading, seconds float64, results int, resident []sample) *Usage {
	if from == nil || to == nil || seconds <= 0 {
		return nil
	}
	grew := func(name string) (float64, bool) {
		a, ok1 := from[name]
		b, ok2 := to[name]
		return b - a, ok1 && ok2
	}
	u := &Usage{RSSBegin: from[residentBytes], RSSEnd: to[residentBytes]}
	u.CPUSeconds, u.hasCPU = grew(cpuSeconds)
	_, u.hasRSS = to[residentBytes]
	u.Cores = u.CPUSeconds / seconds
	if results > 0 {
		u.CPUPer1000 = u.CPUSeconds / float64(results) * 1000
	}
	u.RSSMax = max(u.RSSBegin, u.RSSEnd)
	for _, s := range resident {
		u.RSSMax = max(u.RSSMax, s.bytes)
	}
	if tokens, ok := grew(tokensTotal); ok {
		rate := tokens / seconds
		u.TokensPerS = &rate
		if slots, ok := grew(slotsTotal); ok && slots > 0 {
			fill := tokens / slots
			u.Fill = &fill
		}
	}
	if hits, ok := grew(cacheHits); ok {
		u.CacheHits = &hits
		if misses, ok := grew(cacheMisses); ok && hits+misses > 0 {
			share := hits / (hits + misses)
			u.CacheHitShare = &share
		}
	}
	return u
}

// RSS is the resident memory in a reading, 0 if it was not there.
func (r Reading) RSS() float64 { return r[residentBytes] }

// CPU are the CPU seconds in a reading, 0 if they were not there.
func (r Reading) CPU() float64 { return r[cpuSeconds] }
