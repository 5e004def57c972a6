package main

import (
	"fmt"
	"math"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"
)

func ms(values ...int) []time.Duration {
	out := make([]time.Duration, len(values))
	for i, v := range values {
		out[i] = time.Duration(v) * time.Millisecond
	}
	return out
}

func TestSpreadIsTheMedianWithTheRange(t *testing.T) {
	if s := spreadOf([]float64{5, 1, 3}); s != (spread{3, 1, 5, 3}) {
		t.Errorf("odd: %+v", s)
	}
	if s := spreadOf([]float64{4, 1, 3, 2}); s.Median != 2.5 {
		t.Errorf("even: %+v", s)
	}
	if got := (spread{2, 1, 3, 3}).text("%.0f"); got != "2 (1–3)" {
		t.Error(got)
	}
	if got := (spread{2, 2, 2, 1}).text("%.1f"); got != "2.0" {
		t.Error(got)
	}
	if got := (spread{}).text("%.1f"); got != "-" {
		t.Error(got)
	}
}

func TestSteadyCountsFromBurstToBurst(t *testing.T) {
	// ten bursts of four, 100 ms apart; a start-up before the first
	var arrivals []time.Duration
	for burst := range 10 {
		for range 4 {
			arrivals = append(arrivals, time.Duration(5000+100*burst)*time.Millisecond)
		}
	}
	first, last := steady(arrivals, 0.15, 0.97)
	if n, length := last-first, arrivals[last]-arrivals[first]; n != 28 || length != 700*time.Millisecond {
		t.Errorf("%d results in %v; 28 in 700ms have the true rate of 40 a second", n, length)
	}
	if first, last := steady(ms(5, 5, 5, 5), 0.15, 0.97); first != last {
		t.Errorf("one burst is no stretch: %d to %d", first, last)
	}
	if first, last := steady(nil, 0.15, 0.97); first != last {
		t.Error("nothing is no stretch")
	}
}

func TestAgreementCountsEqualLabels(t *testing.T) {
	if got := agreement([]string{"A", "B", "B", ""}, []string{"A", "B"}); got != 0.5 {
		t.Errorf("%v; the reference repeats, and an answer that is missing does not agree", got)
	}
	if !math.IsNaN(agreement(nil, []string{"A"})) {
		t.Error("no answers agree to no share")
	}
}

func TestEveryRoundHasEverySystemInAnotherOrder(t *testing.T) {
	seen := map[string]bool{}
	followers := map[[2]int]int{}
	for round := range 5 {
		order := rotated(5, round)
		if sorted := slices.Sorted(slices.Values(order)); !slices.Equal(sorted, []int{0, 1, 2, 3, 4}) {
			t.Errorf("round %d: %v", round, order)
		}
		key := fmt.Sprint(order[:2])
		seen[key] = true
		for i := 1; i < len(order); i++ {
			followers[[2]int{order[i-1], order[i]}]++
		}
	}
	if len(seen) != 5 {
		t.Errorf("rounds begin alike: %v", seen)
	}
	for pair, n := range followers {
		if n == 5 {
			t.Errorf("%v stand in this order in every round", pair)
		}
	}
}

func TestRatiosAreOfTheSameRound(t *testing.T) {
	got := ratios(map[int]float64{1: 10, 2: 30, 3: 5}, map[int]float64{1: 5, 2: 10, 4: 1})
	if !slices.Equal(got, []float64{2, 3}) {
		t.Error(got)
	}
}

func TestASystemBelowTheLeastAgreementIsShownWithoutRank(t *testing.T) {
	all := []*system{{Name: "fast", Kind: peer}, {Name: "sluice", Kind: ours}, {Name: "slow", Kind: peer}}
	found := map[string][]measure{
		"fast":   {{Round: 1, Messages: 900, Agreement: 0.98}},
		"sluice": {{Round: 1, Messages: 600, Agreement: 0.995}},
		"slow":   {{Round: 1, Messages: 100, Agreement: 0.99}},
	}
	rows, _, _ := summarize(all, found, nil)
	var names []string
	for _, r := range rows {
		names = append(names, r.Name)
	}
	if !slices.Equal(names, []string{"sluice", "slow", "fast"}) || rows[2].Ranked || !rows[1].Ranked {
		t.Errorf("%v, ranked %v %v %v", names, rows[0].Ranked, rows[1].Ranked, rows[2].Ranked)
	}
	if rows[1].Behind == nil || rows[1].Behind.Median != 6 {
		t.Errorf("Sluice is 6 times as fast as slow: %+v", rows[1].Behind)
	}
}

func TestGoalsCompareEqualRounds(t *testing.T) {
	rates := map[string]map[int]float64{
		"sluice": {1: 500, 2: 520, 3: 510}, "bare-sluice": {1: 540, 2: 600, 3: 560},
		"onnxruntime": {1: 200, 2: 210, 3: 190}, "onnxruntime-same": {1: 250, 2: 250, 3: 250}, "hugot": {1: 100, 2: 100,
			3: 100},
	}
	goals := evaluate(rates, map[string]string{"bento": "no compiler"}, false)
	find := func(part string) goal {
		for _, g := range goals {
			if strings.Contains(g.What, part) {
				return g
			}
		}
		t.Fatalf("no goal about %s", part)
		return goal{}
	}
	if g := find("bare session loop"); g.Met != "yes" || !strings.HasPrefix(g.Measured, "91") {
		t.Errorf("%+v", g)
	}
	if g := find("best peer"); g.Met != "yes" || !strings.HasPrefix(g.Measured, "2.50") {
		t.Errorf("%+v", g)
	}
	if g := find("graph of our exporter"); g.Met != "no" || !strings.HasPrefix(g.Measured, "2.04") {
		t.Errorf("%+v", g)
	}
	if g := find("hugot"); g.Met != "yes" || g.Ratio.Median != 5.1 {
		t.Errorf("%+v", g)
	}
	if g := find("Bento"); g.Met != "bento did not run: no compiler" {
		t.Errorf("%+v", g)
	}
	if g := find("any runtime"); g.Met != "this machine has no AMX" {
		t.Errorf("%+v", g)
	}
}

func TestLabelsAreFoundInEveryResult(t *testing.T) {
	for value, want := range map[string]string{
		`{"label":"POSITIVE","score":0.9}`:                                             "POSITIVE",
		`{"id":1,"text":"x","inference":{"verdict":{"label":"NEGATIVE","score":0.5}}}`: "NEGATIVE",
	} {
		if got, err := labelOf([]byte(value), false); err != nil || got != want {
			t.Errorf("%s: %q, %v", value, got, err)
		}
	}
	for _, value := range []string{`{"score":1}`, `no`} {
		if _, err := labelOf([]byte(value), false); err == nil {
			t.Errorf("%s has no label", value)
		}
	}
}

func TestCPUTimeIsThatOfTheWholeGroup(t *testing.T) {
	// A shell whose child works: the child's time must count, and the child must be gone after the stop.
	r, err := start(exec.Command("sh", "-c", "(while :; do :; done) & wait"), t.TempDir()+"/log")
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	for deadline := began.Add(20 * time.Second); ; {
		if r.look(); r.cpuBetween(began, time.Now()) > 0.2 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("a busy child used no CPU time")
		}
	}
	group := r.command.Process.Pid
	r.stop()
	stats, err := os.ReadDir("/proc")
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range stats {
		b, err := os.ReadFile("/proc/" + entry.Name() + "/stat")
		if err != nil {
			continue
		}
		if pid, of, _, _, err := parseStat(b); err == nil && of == group && !strings.Contains(string(b), ") Z ") {
			t.Errorf("process %d of the group is still there", pid)
		}
	}
	if r.rss() <= 0 {
		t.Error("no memory was seen")
	}
}

func TestCPUTimeBetweenSamplesIsInterpolated(t *testing.T) {
	base := time.Unix(100, 0)
	uses := []use{{base, 1}, {base.Add(time.Second), 3}}
	for at, want := range map[time.Duration]float64{-time.Second: 1, 500 * time.Millisecond: 2, 2 * time.Second: 3} {
		if got := interpolate(uses, base.Add(at)); got != want {
			t.Errorf("%v: %v, want %v", at, got, want)
		}
	}
}

func TestVersionsComeFromTheFilesThatPinThem(t *testing.T) {
	t.Chdir("../..")
	for _, s := range systems() {
		if s.Kind == peer && s.Versions() == "" {
			t.Errorf("%s: no versions found", s.Name)
		}
	}
}
