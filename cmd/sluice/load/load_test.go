package load

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"github.com/twmb/franz-go/pkg/kgo"

	"sluice/pipeline/pipelinetest"
)

// material is enough words to make texts of.
func material() []string {
	var texts []string
	for i := range 400 {
		texts = append(texts, fmt.Sprintf(`word%d said "yes" to café number %d, %s%c`, i*i, i, strings.Repeat("and on ",
			i%3), 'a'+i%26))
	}
	return texts
}

func profile(t *testing.T, name string) Profile {
	t.Helper()
	p, err := ProfileNamed(name)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// ---- schedules

func TestASchedulesRateIsTheOneAskedFor(t *testing.T) {
	for _, kind := range ArrivalKinds {
		for _, rate := range []float64{7, 400, 9000} {
			due, err := Schedule(kind, rate, 30*time.Second, 1)
			if err != nil {
				t.Fatal(err)
			}
			want := rate * 30
			if off := math.Abs(float64(len(due)) - want); off > 4*math.Sqrt(want)+1 {
				t.Errorf("%s at %g/s for 30 s: %d records, want about %g", kind, rate, len(due), want)
			}
			if !slices.IsSorted(due) || due[0] < 0 || due[len(due)-1] >= 30*time.Second {
				t.Errorf("%s at %g/s: not in order within the step", kind, rate)
			}
		}
	}
}

func TestAScheduleIsFixedByItsSeed(t *testing.T) {
	make := func(seed uint64) []time.Duration {
		due, err := Schedule(Poisson, 100, 10*time.Second, seed)
		if err != nil {
			t.Fatal(err)
		}
		return due
	}
	if !slices.Equal(make(3), make(3)) {
		t.Error("the same seed gives another schedule")
	}
	if slices.Equal(make(3), make(4)) {
		t.Error("another seed gives the same schedule")
	}
}

func TestPoissonGapsVaryAsExponentialOnes(t *testing.T) {
	due, err := Schedule(Poisson, 1000, 60*time.Second, 5)
	if err != nil {
		t.Fatal(err)
	}
	var sum, squares float64
	for i := 1; i < len(due); i++ {
		gap := (due[i] - due[i-1]).Seconds()
		sum += gap
		squares += gap * gap
	}
	n := float64(len(due) - 1)
	mean := sum / n
	if cv := math.Sqrt(squares/n-mean*mean) / mean; cv < 0.97 || cv > 1.03 {
		t.Errorf("coefficient of variation %.3f, that of an exponential distribution is 1", cv)
	}
}

func TestBurstsBringHalfOfTheRecordsAtOnce(t *testing.T) {
	due, err := Schedule(Bursts, 200, 5*time.Second, 1)
	if err != nil {
		t.Fatal(err)
	}
	at := map[time.Duration]int{}
	for _, d := range due {
		at[d]++
	}
	for s := range 5 {
		if n := at[time.Duration(s)*time.Second]; n != 100 {
			t.Errorf("at second %d: %d at once, want 100", s, n)
		}
	}
}

func TestArrivalsThatAreNoneAreRefused(t *testing.T) {
	if _, err := Schedule("uniform", 1, time.Second, 1); err == nil || !strings.Contains(err.Error(),
		"poisson, constant, bursts") {
		t.Errorf("%v", err)
	}
	if _, err := Schedule(Poisson, 0, time.Second, 1); err == nil {
		t.Error("a rate of 0 was taken")
	}
}

// A sender that is held up does not shift what follows: records keep the time at which they were due.
func TestTheScheduleDoesNotWaitForASlowSender(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		var due []time.Duration
		for i := range 100 {
			due = append(due, time.Duration(i)*10*time.Millisecond)
		}
		var intended, sentAt []time.Duration
		wait := func(until time.Time) bool { time.Sleep(time.Until(until)); return true }
		err := pace(begin, due, time.Now, wait, func(i int, at time.Time) error {
			if i == 20 {
				time.Sleep(500 * time.Millisecond) // the client blocks
			}
			intended, sentAt = append(intended, at.Sub(begin)), append(sentAt, time.Since(begin))
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(intended, due) {
			t.Errorf("intended times moved: %v", intended)
		}
		if sentAt[19] != 190*time.Millisecond || sentAt[21] != 700*time.Millisecond ||
			sentAt[60] != 700*time.Millisecond || sentAt[99] != 990*time.Millisecond {
			t.Errorf("record 19 sent at %v, 21 at %v, 60 at %v, 99 at %v", sentAt[19], sentAt[21], sentAt[60],
				sentAt[99])
		}
	})
}

// ---- texts

func TestTextsAreTheSameForASeedAndHardlyEverEqual(t *testing.T) {
	for _, name := range []string{"short", "mixed", "long"} {
		texts, err := NewTexts(profile(t, name), material(), 9)
		if err != nil {
			t.Fatal(err)
		}
		sample := texts.Sample(5000)
		if !slices.Equal(sample, texts.Sample(5000)) {
			t.Errorf("%s: a second sample is another", name)
		}
		seen := map[string]bool{}
		least, most := math.MaxInt, 0
		for _, s := range sample {
			seen[s] = true
			n := len(strings.Fields(s))
			least, most = min(least, n), max(most, n)
		}
		if len(seen) < 4700 { // what little is equal is the material's own repetition
			t.Errorf("%s: %d different texts among 5000", name, len(seen))
		}
		bounds := map[string][2]int{"short": {5, 15}, "mixed": {3, 100}, "long": {95, 106}}[name]
		if least < bounds[0] || most > bounds[1] {
			t.Errorf("%s: %d to %d words, want %v", name, least, most, bounds)
		}
	}
}

func TestDuplicatesComeInTheShareAskedFor(t *testing.T) {
	p := profile(t, "zipf")
	var words []string
	for i := range 30_000 { // all different: equal texts are drawn, not found
		words = append(words, "w"+string(rune('a'+i%26))+strings.Repeat("x", i%11)+string(rune('a'+i/26%26))+string(
			rune('a'+i/676%26))+string(rune('a'+i/17576)))
	}
	texts, err := NewTexts(p, []string{strings.Join(words, " ")}, 1)
	if err != nil {
		t.Fatal(err)
	}
	const n = 40_000
	count := map[string]int{}
	for _, s := range texts.Sample(n) {
		count[s]++
	}
	repeats := float64(n-len(count)) / n
	if repeats < 0.26 || repeats > 0.31 { // the first of each of the 1000 is no repeat
		t.Errorf("%.3f of the texts are repeats, want nearly 0.3", repeats)
	}
	top := slices.Sorted(func(yield func(int) bool) {
		for _, c := range count {
			if !yield(c) {
				return
			}
		}
	})
	if most := top[len(top)-1]; float64(most) < 0.05*0.3*n {
		t.Errorf("the most frequent text comes %d times of %d: that is not Zipf's law", most, n)
	}
}

func TestValuesAreJSONButForPoison(t *testing.T) {
	p := profile(t, "poison")
	p.Poison = 0.25
	texts, err := NewTexts(p, material(), 2)
	if err != nil {
		t.Fatal(err)
	}
	m := newMarker()
	spoilt := 0
	before, behind, _ := (&Target{}).around()
	sample := texts.Sample(2000)
	for i := range 2000 {
		mark := Mark{Step: 3, Seq: i, Intended: time.UnixMicro(1_790_000_000_123_456)}
		value, poison := texts.Value(JSON, m.append(nil, mark), before, behind)
		var v struct{ Bench, Text string }
		err := json.Unmarshal(value, &v)
		if poison != (err != nil) {
			t.Fatalf("poison %v, but %v: %s", poison, err, value)
		}
		if poison {
			spoilt++
		} else if v.Text != sample[i] {
			t.Fatalf("text %d is %q, in the sample %q", i, v.Text, sample[i])
		}
		if k, ok := m.parse(value); !ok || k != mark {
			t.Fatalf("the mark does not survive in %s: %+v", value, k)
		}
	}
	if spoilt < 400 || spoilt > 600 {
		t.Errorf("%d of 2000 are spoilt, want about 500", spoilt)
	}
}

func TestTheTextMayBeDeepInTheValue(t *testing.T) {
	texts, err := NewTexts(profile(t, "short"), material(), 2)
	if err != nil {
		t.Fatal(err)
	}
	before, behind, err := (&Target{TextField: `review.bo"dy\.0.0.text`}).around()
	if err != nil {
		t.Fatal(err)
	}
	value, _ := texts.Value(JSON, []byte("M"), before, behind)
	var v struct {
		Bench  string
		Review map[string]map[string]struct{ Text string }
	}
	if err := json.Unmarshal(value, &v); err != nil || v.Bench != "M" || v.Review[`bo"dy.0`]["0"].Text != texts.Sample(1)[0] {
		t.Errorf("%v: %s", err, value)
	}
	if err := (&Target{Brokers: []string{"x:1"}, Input: "a", Output: "b", TextField: "a..b"}).Check(t.Context()); err ==
		nil || !strings.Contains(err.Error(), "the path of the text field: nothing stands before the dot") {
		t.Errorf("a path with an empty key: %v", err)
	}
}

// Texts of a file are found as a worker finds them, whatever their path has in it.
func TestTextsOfAFileAreReadAsTheWorkerReadsThem(t *testing.T) {
	file := filepath.Join(t.TempDir(), "texts.jsonl")
	if err := os.WriteFile(file, []byte(`{"a":[{"#":"x","#":"\ud83d\u0041da"}],"inference":1}`+"\nplain\n"), 0o600); err !=
		nil {
		t.Fatal(err)
	}
	if got, err := ReadTexts(file, "a.0.#"); err != nil || !slices.Equal(got, []string{"\ufffdAda", "plain"}) {
		t.Errorf("%q, %v", got, err)
	}
	for path, want := range map[string]string{"a.#": `texts.jsonl:1 is no JSON object with a string in "a.#": field "a" is a list, and "#"`,
		"a..#": "the path of the text field: nothing stands before the dot", "": `has no field "text"`} {
		if got, err := ReadTexts(file, path); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %q, %v, want %q", path, got, err, want)
		}
	}
}

func TestTextsOfAFileAreSentWhole(t *testing.T) {
	lines := []string{"one text", "  another\ttext ", "", "a third"}
	texts, err := NewTexts(Profile{Name: "file", Lengths: AsIs, Arrivals: Poisson}, lines, 1)
	if err != nil {
		t.Fatal(err)
	}
	got := texts.Sample(6)
	want := []string{"a third", "another\ttext", "one text"}
	if first := slices.Sorted(slices.Values(got[:3])); !slices.Equal(first, want) || !slices.Equal(got[:3], got[3:]) ||
		texts.Material() != 3 {
		t.Errorf("%q", got)
	}
	if _, err := NewTexts(Profile{Lengths: AsIs}, []string{" ", ""}, 1); err == nil || !strings.Contains(err.Error(),
		"every line is blank") {
		t.Errorf("blank lines: %v", err)
	}
	if _, err := NewTexts(profile(t, "mixed"), []string{"too few words"}, 1); err == nil ||
		!strings.Contains(err.Error(), "too few") {
		t.Errorf("few words: %v", err)
	}
}

// ---- marks

func TestAMarkIsFoundWhereverItSurvives(t *testing.T) {
	m := newMarker()
	want := Mark{Step: 700, Seq: 0xabcdef12, Intended: time.UnixMicro(1_800_000_000_000_001)}
	mark := m.append(nil, want)
	if len(mark) != markSize {
		t.Fatalf("%d bytes, want %d", len(mark), markSize)
	}
	for name, r := range map[string]*kgo.Record{
		"header": {Headers: []kgo.RecordHeader{{Key: "other", Value: []byte("sb-00000000-")},
			{Key: Header, Value: mark}}, Value: []byte("{}")},
		"key":        {Key: mark},
		"value":      {Value: []byte(`{"label":"POSITIVE","source":{"bench":"` + string(mark) + `"}}`)},
		"within key": {Key: []byte(`"` + string(mark) + `"`)},
	} {
		if k, ok := m.find(r); !ok || k != want {
			t.Errorf("%s: %+v, %v", name, k, ok)
		}
	}
	for name, r := range map[string]*kgo.Record{
		"another run": {Key: newMarker().append(nil, want)},
		"cut off":     {Key: mark[:markSize-1]},
		"nothing":     {},
		"no number":   {Key: append(mark[:markSize-1:markSize-1], 'g')},
	} {
		if k, ok := m.find(r); ok {
			t.Errorf("%s: found %+v", name, k)
		}
	}
}

// ---- what became of the records

// feed is a system that answers record i after service, but not while it stalls.
func feed(t *tally, from, to time.Duration, service time.Duration) {
	for i, d := range t.due {
		t.sending(i, false, t.begin.Add(d))
		done := d + service
		if done >= from && done < to {
			done = to
		}
		t.seen(i, t.begin.Add(d), t.begin.Add(done), false)
	}
}

// A stall of one second in ten, at a constant rate: one record in ten waits for up to a second. A generator that
// measured from the actual send, or that waited for answers, would see one slow record.
func TestAStallIsChargedToEveryRecordThatWasDue(t *testing.T) {
	due, err := Schedule(Constant, 100, 10*time.Second, 0)
	if err != nil {
		t.Fatal(err)
	}
	tl := newTally(0, time.Unix(1000, 0), due, 10*time.Second, 0)
	feed(tl, 5*time.Second, 6*time.Second, 5*time.Millisecond)
	q := quantiles(tl.latency, true)
	near := func(name string, got, want float64) {
		if math.Abs(got-want) > 0.02*want+0.5 {
			t.Errorf("%s %.2f ms, want %.2f", name, got, want)
		}
	}
	near("p50", q.P50, 5)
	near("p99", q.P99, 905) // of 1000 records, the 100 that were due in the stall wait 5 to 1005 ms
	near("max", q.Max, 1005)
	near("mean", q.Mean, 5+100*500.0/1000)
	if q.Count != 1000 || tl.open() != 0 {
		t.Errorf("%d counted, %d open", q.Count, tl.open())
	}
}

func TestTheWarmupIsDroppedFromLatencyAndThroughput(t *testing.T) {
	due, err := Schedule(Constant, 100, 10*time.Second, 0)
	if err != nil {
		t.Fatal(err)
	}
	tl := newTally(0, time.Unix(1000, 0), due, 10*time.Second, 2*time.Second)
	feed(tl, 0, 1500*time.Millisecond, time.Millisecond) // slow at first only
	if q := quantiles(tl.latency, false); q.Max > 1.1 || q.Count != 800 {
		t.Errorf("%+v", q)
	}
	if tl.inWindow < 799 || tl.inWindow > 801 {
		t.Errorf("%d results in the window, want 800", tl.inWindow)
	}
}

func TestLostDoubledAndMisdirectedAreCounted(t *testing.T) {
	begin := time.Unix(1000, 0)
	tl := newTally(0, begin, make([]time.Duration, 10), time.Second, 0)
	for i := range 10 {
		tl.sending(i, i == 3 || i == 4, begin)
	}
	at := begin.Add(10 * time.Millisecond)
	for _, i := range []int{0, 1, 1, 1, 2, 2, 5, 6, 99} { // 7, 8, 9 never; 99 was never sent
		tl.seen(i, begin, at, false)
	}
	tl.seen(3, begin, at, true)  // as it should be
	tl.seen(4, begin, at, false) // a spoilt record with a result
	tl.seen(7, begin, at, true)  // a good record as a dead letter
	st := &Step{tally: tl}
	st.count()
	if st.Records != 10 || st.Lost != 2 || st.Doubled != 2 || st.DeadLetters != 2 || st.Poison != 2 ||
		st.Misdirected != 2 || st.Results != 6 {
		t.Errorf("%+v", st)
	}
	tl.seen(8, begin, at.Add(time.Hour), false) // late, but there
	if st.count(); st.Lost != 1 {
		t.Errorf("%d lost", st.Lost)
	}
}

func TestQuantilesOfKnownValues(t *testing.T) {
	h := hdrhistogram.New(shortest, longest, digits)
	for ms := 1; ms <= 10_000; ms++ {
		note(h, time.Duration(ms)*time.Millisecond)
	}
	q := quantiles(h, true)
	for _, c := range []struct{ got, want float64 }{{q.P50, 5000}, {q.P90, 9000}, {q.P99, 9900}, {q.P999, 9990},
		{q.Max, 10_000}, {q.Mean, 5000.5}} {
		if math.Abs(c.got-c.want) > 0.002*c.want {
			t.Errorf("%g, want %g", c.got, c.want)
		}
	}
	if last := q.Curve[len(q.Curve)-1]; last.Percentile != 99.99 {
		t.Errorf("of 10,000 values the curve ends at %g %%", last.Percentile)
	}
	note(h, 3*time.Hour) // is not lost
	if q = quantiles(h, false); q.Max < 3_590_000 {
		t.Errorf("the longest is %g ms", q.Max)
	}
}

// ---- does the queue grow?

// simulate is a queue with a capacity, fed by Poisson arrivals.
func simulate(rate, capacity float64, length time.Duration, seed uint64) *tally {
	due, err := Schedule(Poisson, rate, length, seed)
	if err != nil {
		panic(err)
	}
	tl := newTally(0, time.Unix(1000, 0), due, length, length/5)
	random := rand.New(rand.NewPCG(seed, 7))
	free := time.Duration(0)
	for i, d := range due {
		tl.sending(i, false, tl.begin.Add(d))
		free = max(free, d) + time.Duration(random.ExpFloat64()/capacity*float64(time.Second))
		// results appear with their transaction
		shown := free.Truncate(100*time.Millisecond) + 100*time.Millisecond
		tl.seen(i, tl.begin.Add(d), tl.begin.Add(shown), false)
	}
	return tl
}

func trial(rate, capacity float64, length time.Duration, seed uint64) Trial {
	tl := simulate(rate, capacity, length, seed)
	from, to := tl.warm.Seconds(), tl.length.Seconds()
	grown, ok := sustained(tl.timeline(), from, to, rate)
	return Trial{Rate: rate, Achieved: float64(tl.inWindow) / (to - from), Growth: grown, Sustained: ok}
}

func TestAQueueThatGrowsIsTold(t *testing.T) {
	for seed := range uint64(20) {
		if g := trial(80*4, 100*4, 10*time.Second, seed); !g.Sustained {
			t.Errorf("seed %d: 80 %% load is taken for overload: %+v", seed, g)
		}
		if g := trial(108*4, 100*4, 10*time.Second, seed); g.Sustained {
			t.Errorf("seed %d: 108 %% load is taken for sustained: %+v", seed, g)
		}
	}
	if _, ok := sustained(nil, 0, 1, 10); ok {
		t.Error("sustained, without a single figure")
	}
}

func TestFindComesCloseToTheCapacity(t *testing.T) {
	for _, capacity := range []float64{60, 450, 11_000} {
		for _, guess := range []float64{0.2, 0.8, 1, 1.6, 5} {
			seed := uint64(capacity)
			maximum, trials, err := Find(guess*capacity, FindOptions{}, func(rate float64) (Trial, error) {
				seed++
				return trial(rate, capacity, 20*time.Second, seed), nil
			})
			if err != nil {
				t.Fatal(err)
			}
			if share := maximum / capacity; share < 0.85 || share > 1.06 {
				t.Errorf("capacity %g, begun at %g of it: %.3f of it found in %d trials: %+v", capacity, guess, share,
					len(trials), trials)
			}
			for _, tr := range trials {
				if tr.Sustained && tr.Rate > maximum {
					t.Errorf("%g was sustained, but %g is the answer", tr.Rate, maximum)
				}
			}
		}
	}
}

// A machine that was busy with something else for one trial does not spoil the search, where there is proof of more.
func TestFindLooksAgainWhereMoreWasDoneBefore(t *testing.T) {
	n := 0
	maximum, trials, err := Find(100, FindOptions{}, func(rate float64) (Trial, error) {
		n++
		if n == 2 {
			return Trial{Achieved: 70}, nil // disturbed
		}
		return Trial{Achieved: math.Min(rate, 99), Sustained: rate <= 99}, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if maximum < 94 || trials[1].Rate != trials[2].Rate || !trials[2].Sustained {
		t.Errorf("%g, %+v", maximum, trials)
	}
}

func TestFindLooksAgainWhereLessWasDoneThanBefore(t *testing.T) {
	n := 0
	maximum, _, err := Find(100, FindOptions{}, func(rate float64) (Trial, error) {
		n++
		if n == 2 {
			return Trial{Achieved: 40}, nil // disturbed, at a rate that holds otherwise
		}
		return Trial{Achieved: math.Min(rate, 300), Sustained: rate <= 300}, nil
	})
	if err != nil || maximum < 285 {
		t.Errorf("%g, %v", maximum, err)
	}
}

func TestFindEndsWhenNothingHolds(t *testing.T) {
	n := 0
	_, trials, err := Find(100, FindOptions{Trials: 6}, func(rate float64) (Trial, error) { n++; return Trial{}, nil })
	if err == nil || n != 6 || len(trials) != 6 || !strings.Contains(err.Error(), "no rate was sustained") {
		t.Errorf("%d trials, %v", n, err)
	}
	broken := errors.New("the system has died")
	if _, _, err := Find(100, FindOptions{}, func(float64) (Trial, error) { return Trial{}, broken }); !errors.Is(err,
		broken) {
		t.Errorf("%v", err)
	}
	if _, _, err := Find(math.NaN(), FindOptions{}, nil); err == nil {
		t.Error("a search from NaN")
	}
}

// ---- the system's own figures

func TestMetricsAreAddedUpOverTheirLabels(t *testing.T) {
	text := `# HELP sluice_tokens_total Tokens.
# TYPE sluice_tokens_total counter
sluice_tokens_total{model="a"} 1500
sluice_tokens_total{model="b"} 500
# TYPE sluice_batch_slots_total counter
sluice_batch_slots_total{model="a"} 4000
# TYPE process_cpu_seconds_total counter
process_cpu_seconds_total 12.5
# TYPE sluice_batch_tokens histogram
sluice_batch_tokens_bucket{le="+Inf"} 3
sluice_batch_tokens_sum 9
sluice_batch_tokens_count 3
`
	before := Reading{tokensTotal: 0, slotsTotal: 0, cpuSeconds: 2.5, residentBytes: 100}
	after, err := ReadMetrics(strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	if after["sluice_batch_tokens_sum"] != 9 || after["sluice_batch_tokens_count"] != 3 {
		t.Errorf("a histogram: %v", after)
	}
	after[residentBytes] = 120
	u := usage(before, after, 5, 4000, []sample{{time.Second, 130}})
	if u.CPUSeconds != 10 || u.CPUPer1000 != 2.5 || u.Cores != 2 || *u.TokensPerS != 400 || *u.Fill != 0.5 ||
		u.RSSMax != 130 || u.CacheHits != nil || u.CacheHitShare != nil {
		t.Errorf("%+v", u)
	}
	before[cacheHits], before[cacheMisses], after[cacheHits], after[cacheMisses] = 10, 0, 40, 70
	if u = usage(before, after, 5, 4000, nil); *u.CacheHits != 30 || *u.CacheHitShare != 0.3 {
		t.Errorf("cache: %+v", u)
	}
	if _, err := ReadMetrics(strings.NewReader("<html>")); err == nil {
		t.Error("a web page was taken for metrics")
	}
}

func TestTheUseOfAProcessIsRead(t *testing.T) {
	if _, err := os.Stat("/proc/self/stat"); err != nil {
		pipelinetest.Missing(t, "this system has no /proc")
	}
	cpu, rss, err := processUse(os.Getpid())
	if err != nil || rss < 1<<20 {
		t.Fatalf("%g s, %g bytes, %v", cpu, rss, err)
	}
	x := 0
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); x++ {
		if again, _, err := processUse(os.Getpid()); err != nil || again > cpu+0.02 {
			return // it moves
		}
	}
	t.Errorf("CPU time stayed at %g s for 10 s of work", cpu)
}

func TestAProcessThatIsNotThereIsNamed(t *testing.T) {
	if _, err := os.Stat("/proc/self/stat"); err != nil {
		pipelinetest.Missing(t, "this system has no /proc")
	}
	if _, _, err := processUse(1 << 30); err == nil || !strings.Contains(err.Error(), "is not there") {
		t.Errorf("%v", err)
	}
}

// ---- arithmetic

func TestTheArithmeticOfATokenIsKnown(t *testing.T) {
	bert := `{"hidden_size":768,"num_hidden_layers":12,"intermediate_size":3072}`
	distil := `{"dim":768,"n_layers":6,"hidden_dim":3072}`
	b, err := ReadShape([]byte(bert))
	if err != nil {
		t.Fatal(err)
	}
	d, err := ReadShape([]byte(distil))
	if err != nil {
		t.Fatal(err)
	}
	// 12 h h for each of the layers, and 2 n h for attention
	if got, want := b.MACs(1, 1), 12*(12*768.0*768+2*768); got != want {
		t.Errorf("BERT-base: %g, want %g", got, want)
	}
	if got := d.MACs(32, 32*32); got != 6*(32*12*768.0*768+2*32*32*768) {
		t.Errorf("DistilBERT, 32 tokens: %g", got)
	}
	if _, err := ReadShape([]byte(`{"vocab_size": 5}`)); err == nil {
		t.Error("a config without a shape was taken")
	}
	r := &Report{Machine: Machine{Cores: 2, Peak: &Peak{GMACs: 100}}, Model: &Model{Shape: d}, Tokens: &Tokens{Mean: 20,
		MeanSquare: 600}}
	if share := r.ShareOfPeak(100); math.Abs(share-100*d.MACs(20, 600)/1e9/200) > 1e-12 {
		t.Errorf("share of the peak: %g", share)
	}
}

func TestTheBundledModelsHaveAShape(t *testing.T) {
	files, err := filepath.Glob("../../../models/*/config.json")
	if err != nil || len(files) < 4 {
		t.Fatalf("%d models, %v", len(files), err)
	}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		if s, err := ReadShape(b); err != nil || s.Hidden < 64 {
			t.Errorf("%s: %+v, %v", f, s, err)
		}
	}
}

func TestLengthsAreDescribed(t *testing.T) {
	var lengths []int
	for i := range 100 {
		lengths = append(lengths, 5+i)
	}
	c := CountTokens("x", lengths)
	if c.Mean != 54.5 || c.P50 != 55 || c.P99 != 104 || c.Max != 104 || c.Sample != 100 {
		t.Errorf("%+v", c)
	}
	sum := 0.0
	for _, b := range c.Histogram {
		sum += b.Share
	}
	if math.Abs(sum-1) > 1e-9 {
		t.Errorf("the bars add up to %g", sum)
	}
}

// ---- the report

// example is a report with every part filled in.
func example(t *testing.T) *Report {
	t.Helper()
	fill, share := 0.93, 0.31
	r := &Report{
		Title: "Sluice under load", Date: time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC), Command: "sluice bench <x>",
		System: "sentiment@0123, sluice run, exactly-once",
		Machine: Machine{CPU: "A CPU", Cores: 2, Features: []string{"avx2", "avx512vnni"}, MemoryGiB: 8, Kernel: "6.1",
			Go: "go1.26", Sluice: "0.4", Runtime: "1.32.0", Peak: &Peak{200, "measured"}},
		Target: Described{Input: "in", Output: "out", DeadLetter: "dlq", InputPartitions: 6, OutputPartitions: 6,
			Broker: "v4.1", Format: JSON},
		Profile: profile(t, "zipf"), Material: "the bundled stream", Seed: 1, Warmup: 0.2,
		Model: &Model{Tag: "sentiment@0123", Precision: "int8", Layout: "packed", Shape: Shape{6, 384, 1536}},
	}
	var lengths []int
	for i := range 3000 {
		lengths = append(lengths, 5+i*i%97)
	}
	r.Tokens = CountTokens("sentiment", lengths)
	r.Trials = []Trial{{Rate: 350, Achieved: 350, Sustained: true, Seconds: 8}, {Rate: 437, Achieved: 401, Growth: 0.9,
		Seconds: 8}, {Rate: 393, Achieved: 393, Sustained: true, Seconds: 8}}
	r.Maximum = 393
	for i, s := range DefaultShares {
		rate := s * r.Maximum
		tl := simulate(rate, 410, 20*time.Second, uint64(i))
		for at := time.Duration(0); at < 24*time.Second; at += time.Second {
			tl.resident = append(tl.resident, sample{at, 240e6 + 1e6*float64(at/time.Second%4)})
		}
		st := &Step{Share: s, Rate: rate, Seconds: 20, Warmup: 4, tally: tl, Timeline: tl.timeline(),
			Achieved: float64(tl.inWindow) / 16, Drained: 4.2,
			Worker: &Usage{CPUPer1000: 4.1, RSSBegin: 240e6, RSSEnd: 243e6, RSSMax: 244e6, Fill: &fill,
				CacheHitShare: &share}}
		st.Growth, st.Sustained = sustained(st.Timeline, 4, 20, rate)
		st.count()
		r.Total.Records += st.Records
		r.Steps = append(r.Steps, st)
	}
	return r
}

func TestThePageNeedsNothingBesideItself(t *testing.T) {
	r := example(t)
	var b bytes.Buffer
	if err := r.WriteHTML(&b); err != nil {
		t.Fatal(err)
	}
	page := b.String()
	for _, bad := range []string{"http://", "https://", "<script", "<link", "src=", "@import", "url("} {
		if strings.Contains(page, bad) {
			at := strings.Index(page, bad)
			t.Errorf("the page has %q: %s", bad, page[max(0, at-80):min(len(page), at+80)])
		}
	}
	for _, want := range []string{"393 msg/s", "Latency by load", "Distribution of latency", "The queue",
		"Offered and achieved", "Memory", "Length of the texts", "0 lost, 0 doubled", "sluice bench &lt;x&gt;",
		"exactly-once"} {
		if !strings.Contains(page, want) {
			t.Errorf("the page lacks %q", want)
		}
	}
	if n := strings.Count(page, "<svg"); n != 6 {
		t.Errorf("%d plots, want 6", n)
	}
	if file := os.Getenv("BENCH_REPORT"); file != "" {
		if err := os.WriteFile(file, b.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func TestAReportOfOneStepWithoutFiguresOfTheSystemIsShown(t *testing.T) {
	r := example(t)
	r.Maximum, r.Trials, r.Tokens, r.Model, r.Machine.Peak = 0, nil, nil, nil, nil
	r.Steps = r.Steps[:1]
	r.Steps[0].Share, r.Steps[0].Worker = 0, nil
	for i := range r.Steps[0].Timeline {
		r.Steps[0].Timeline[i].RSS = 0
	}
	var b, text bytes.Buffer
	if err := r.WriteHTML(&b); err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(b.String(), "<svg"); n != 2 {
		t.Errorf("%d plots, want the distribution and the queue", n)
	}
	r.WriteText(&text)
	if !strings.Contains(text.String(), "118/s") || strings.Contains(text.String(), "NaN") {
		t.Error(text.String())
	}
}

func TestTheTableNamesWhatAReaderAsksFor(t *testing.T) {
	r := example(t)
	r.Total.Lost, r.Steps[2].Misdirected = 3, 1
	var b bytes.Buffer
	r.WriteText(&b)
	for _, want := range []string{"p99.9", "CPU s/1000", "120 %", "0.93", "31 %", "throughput", "of the maximum",
		"memory", "3 lost", "1 good records became dead letters", "A CPU, 2 cores (avx2 avx512vnni)",
		"30 % of them drawn by Zipf's law"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("the table lacks %q:\n%s", want, b.String())
		}
	}
	if r.Clean() {
		t.Error("a run that lost records is called clean")
	}
}

func TestTheReportSurvivesItsJSON(t *testing.T) {
	r := example(t)
	var b bytes.Buffer
	if err := r.WriteJSON(&b); err != nil {
		t.Fatal(err)
	}
	var again Report
	if err := json.Unmarshal(b.Bytes(), &again); err != nil {
		t.Fatal(err)
	}
	if again.Maximum != r.Maximum || len(again.Steps) != 6 || again.Steps[5].Latency.P99 != r.Steps[5].Latency.P99 ||
		*again.Steps[0].Worker.Fill != 0.93 || len(again.Steps[0].Timeline) < 50 {
		t.Errorf("%+v", again)
	}
}

func TestFiguresHaveThreeDigits(t *testing.T) {
	for v, want := range map[float64]string{0: "0", 0.123: "0.12", 9.994: "9.99", 12.34: "12.3", 437.4: "437",
		1234.5: "1,234", 1234567: "1,234,567", -1234: "-1,234"} {
		if got := number(v); got != want {
			t.Errorf("number(%g) is %q, want %q", v, got, want)
		}
	}
	for v, want := range map[float64]string{0.44: "0.4 ms", 12.36: "12.4 ms", 123.4: "123 ms", 1234: "1.23 s",
		12345: "12.3 s"} {
		if got := millis(v); got != want {
			t.Errorf("millis(%g) is %q, want %q", v, got, want)
		}
	}
}
