package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"pgregory.net/rapid"

	"sluice/pipeline"
)

// gateRunner answers a row with its sum and its length. It tells of every run and waits for leave, if it has a gate.
type gateRunner struct {
	began chan []Input
	leave chan struct{}
}

func (r gateRunner) Bind() error  { return nil }
func (r gateRunner) Close() error { return nil }
func (r gateRunner) Run(_ context.Context, rows []Input) ([][]float32, error) {
	if r.began != nil {
		r.began <- slices.Clone(rows)
		<-r.leave
	}
	out := make([][]float32, len(rows))
	for i, row := range rows {
		for _, id := range row.(tokenRow).TokenIDs() {
			if id < 0 {
				return nil, pipeline.Faultf(pipeline.Internal, "infer", "run-failed", "a negative id")
			}
			if len(out[i]) == 0 {
				out[i] = []float32{0, float32(row.Cost())}
			}
			out[i][0] += float32(id)
		}
	}
	return out, nil
}

// testSession opens a runner for every thread. What else a session does, it does not.
type testSession struct {
	Session
	open func(n int) (Runner, error)
}

func (s testSession) NewRunner(n int) (Runner, error) { return s.open(n) }
func (s testSession) Device() string                  { return "cpu" }
func (s testSession) Provider() string                { return "cpu" }
func (s testSession) Clock() func() time.Duration     { return nil }

// each is a session of which every thread has the same runner.
func each(r Runner) Session { return testSession{open: func(int) (Runner, error) { return r, nil }} }

// testEngine is an engine with its models.
type testEngine struct {
	*Engine
	models []*Handle
}

func testMetrics() *Metrics {
	reg := prometheus.NewRegistry()
	return NewMetrics(reg, pipeline.NewStageMetrics(reg, pipeline.StageMetricsOptions{}))
}

func watchdog(o pipeline.WatchdogOptions) *pipeline.Watchdog {
	if o.Timeout == 0 {
		o.Timeout, o.Grace = 30*time.Second, 10*time.Second
	}
	return pipeline.NewWatchdog(o)
}

func newTestEngine(t *testing.T, r gateRunner, models, runners int, o Options) *testEngine {
	t.Helper()
	o.Metrics, o.Watchdog = testMetrics(), watchdog(pipeline.WatchdogOptions{Wedged: func(err error) { t.Error(err) }})
	o.Devices = []Device{{"cpu", runners}}
	if o.BatchTokens == 0 {
		o.BatchTokens = 64
	}
	o.Fail = func(err error) { t.Errorf("the engine gives up: %v", err) }
	list := make([]Model, models)
	for i := range list {
		list[i] = Model{Name: fmt.Sprintf("m%d", i), Digest: fmt.Sprintf("digest%d", i), Session: each(r)}
	}
	e := New(o)
	t.Cleanup(e.Close)
	handles, err := e.LoadAll(t.Context(), list)
	if err != nil {
		t.Fatal(err)
	}
	return &testEngine{e, handles}
}

// answers collects the answers of asks.
type answers struct {
	sync.WaitGroup
	mu  sync.Mutex
	got map[int]Answer
}

func (a *answers) submit(e *testEngine, id, model int, rows ...Tokens) {
	a.Add(1)
	inputs := make([]Input, len(rows))
	for i, row := range rows {
		inputs[i] = row
	}
	e.models[model].Submit(Ask{Inputs: inputs, Done: func(answer Answer) {
		a.mu.Lock()
		defer a.mu.Unlock()
		if a.got == nil {
			a.got = map[int]Answer{}
		}
		a.got[id] = answer
		a.Done()
	}})
}

func TestEqualRowsInFlightAreRunOnce(t *testing.T) {
	r := gateRunner{began: make(chan []Input), leave: make(chan struct{})}
	e := newTestEngine(t, r, 2, 1, Options{})
	var a answers
	a.submit(e, 0, 0, Tokens{9}) // keeps the runner busy
	<-r.began
	a.submit(e, 1, 0, Tokens{1, 2})
	a.submit(e, 2, 0, Tokens{1, 2}, Tokens{5, 5}) // one of its windows is a duplicate
	a.submit(e, 3, 0, Tokens{9})                  // equal to the one that is running
	a.submit(e, 4, 1, Tokens{1, 2})               // another model's
	var runs [][]Input
	go func() {
		for rows := range r.began {
			runs = append(runs, rows)
			r.leave <- struct{}{}
		}
	}()
	r.leave <- struct{}{}
	a.Wait()
	close(r.began)
	rows := 0
	for _, run := range runs {
		rows += len(run)
	}
	if rows != 3 {
		t.Errorf("after the first, %d rows were run: %v; want {1 2} and {5 5} for one model and {1 2} for the other",
			rows, runs)
	}
	for id, want := range map[int][]float32{0: {9, 1}, 1: {3, 2}, 2: {3, 2}, 3: {9, 1}, 4: {3, 2}} {
		if got := a.got[id]; got.Err != nil || got.Cached || !slices.Equal(got.Logits[0], want) {
			t.Errorf("answer %d is %v, want %v", id, got, want)
		}
	}
	if got := testutil.ToFloat64(e.o.Metrics.duplicates.WithLabelValues("m0")); got != 2 {
		t.Errorf("%v duplicates counted, want 2", got)
	}
}

func TestADuplicateOfABadRowFailsWithIt(t *testing.T) {
	r := gateRunner{began: make(chan []Input), leave: make(chan struct{})}
	e := newTestEngine(t, r, 1, 1, Options{})
	var a answers
	a.submit(e, 0, 0, Tokens{9})
	<-r.began
	a.submit(e, 1, 0, Tokens{-1})
	a.submit(e, 2, 0, Tokens{-1})
	a.submit(e, 3, 0, Tokens{7})
	go func() {
		for range r.began {
			r.leave <- struct{}{}
		}
	}()
	r.leave <- struct{}{}
	a.Wait()
	close(r.began)
	for _, id := range []int{1, 2} {
		if pipeline.KindOf(a.got[id].Err) != pipeline.Poison {
			t.Errorf("answer %d: %v", id, a.got[id].Err)
		}
	}
	if a.got[3].Err != nil {
		t.Errorf("the neighbour fails too: %v", a.got[3].Err)
	}
}

// Whatever is asked in whatever order: with the cache every answer is what the runner would say, and rows of one model
// never answer for another.
func TestTheCacheAnswersWhatTheModelWould(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		e := newTestEngine(t, gateRunner{}, 2, 2, Options{CacheBytes: rapid.SampledFrom([]int{600, 5000,
			1 << 20}).Draw(rt, "bytes")})
		defer e.Close()
		for range rapid.IntRange(1, 60).Draw(rt, "asks") {
			row := Tokens(rapid.SliceOfN(rapid.Int32Range(0, 3), 1, 3).Draw(rt, "row"))
			var a answers
			a.submit(e, 0, rapid.IntRange(0, 1).Draw(rt, "model"), row)
			a.Wait()
			want := []float32{0, float32(len(row))}
			for _, id := range row {
				want[0] += float32(id)
			}
			if got := a.got[0]; got.Err != nil || !slices.Equal(got.Logits[0], want) {
				rt.Fatalf("row %v: %v, want %v", row, got, want)
			}
		}
	})
}

func TestACachedAnswerNeedsNoRunAndStaysWithItsModel(t *testing.T) {
	e := newTestEngine(t, gateRunner{}, 2, 1, Options{CacheBytes: 1 << 20})
	for i, c := range []struct {
		model  int
		rows   []Tokens
		cached bool
	}{
		{0, []Tokens{{1, 2}}, false},
		{0, []Tokens{{1, 2}}, true},
		{1, []Tokens{{1, 2}}, false},
		{0, []Tokens{{1, 2}, {3}}, false}, // one of two windows
		{0, []Tokens{{1, 2}, {3}}, true},
	} {
		var a answers
		a.submit(e, 0, c.model, c.rows...)
		a.Wait()
		if got := a.got[0]; got.Cached != c.cached || len(got.Logits) != len(c.rows) || got.Logits[0][0] != 3 {
			t.Errorf("ask %d: %+v, want cached %v", i, got, c.cached)
		}
	}
	hits, misses := testutil.ToFloat64(e.o.Metrics.cacheHits.WithLabelValues("m0")),
		testutil.ToFloat64(e.o.Metrics.cacheMisses.WithLabelValues("m0"))
	if hits != 4 || misses != 2 {
		t.Errorf("model m0 has %v hits and %v misses, want 4 and 2", hits, misses)
	}
}

func TestDueFollowsTheTimestampWithinABound(t *testing.T) {
	now := time.Unix(1000, 0)
	e := &Engine{epoch: now, o: Options{Deadline: time.Second}}
	h := &Handle{engine: e, queue: queue{budget: Budget{Tokens: 64, Curve: []BudgetPoint{{64, 1000}}}}}
	at := func(since time.Time, tokens int) time.Duration { return time.Duration(h.due(now, since, tokens)) }
	for _, c := range []struct {
		name  string
		since time.Time
		want  time.Duration
	}{
		{"a record of now has all its time", now, time.Second},
		{"an older one has less", now.Add(-300 * time.Millisecond), 700 * time.Millisecond},
		{"one that is late is as late as one that missed its deadline just now", now.Add(-time.Hour), 0},
		{"one from the future has no more than one of now", now.Add(time.Hour), time.Second},
		{"one without a timestamp counts from its arrival", time.Time{}, time.Second},
	} {
		if got := at(c.since, 0); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
	if short, long := at(now, 10), at(now, 110); short-long != 100*time.Millisecond {
		t.Errorf("a row of 100 tokens more, at 1,000 tokens a second, has to begin %s earlier, want 100ms", short-long)
	}
	e.o.Deadline = 0
	if at(now.Add(-time.Hour), 5) != 0 || at(now, 500) != 0 {
		t.Error("without a deadline the order is that of arrival")
	}
}

func TestBudgetIsTheSmallestThatIsNearlyTheFastest(t *testing.T) {
	curve := func(rates ...float64) (c []BudgetPoint) {
		for i, r := range rates {
			c = append(c, BudgetPoint{probeRow << i, r})
		}
		return c
	}
	for _, c := range []struct {
		name   string
		curves [][]BudgetPoint
		want   int
	}{
		{"batching gains nothing", [][]BudgetPoint{curve(100, 101, 99, 100)}, 32},
		{"batching pays up to 128", [][]BudgetPoint{curve(100, 130, 160, 180, 181, 175)}, 128},
		{"large batches leave the cache", [][]BudgetPoint{curve(100, 150, 200, 150, 120)}, 64},
		{"the mean of the runners counts", [][]BudgetPoint{curve(100, 100, 100, 190), curve(100, 100, 160, 100)}, 128},
		{"runners that stopped early", [][]BudgetPoint{curve(100, 200, 200), curve(100, 200, 200, 300)}, 32},
		{"a device too small for more", [][]BudgetPoint{curve(100)}, 32},
	} {
		if got := chooseBudget("m", c.curves).Tokens; got != c.want {
			t.Errorf("%s: %d, want %d", c.name, got, c.want)
		}
	}
}

func goOn() error { return nil }

// The larger a batch of this model is, the more time a token takes, but for a fixed price of 100 ms a run.
func TestBudgetsAreMeasuredOnTheClockThatIsGiven(t *testing.T) {
	var now time.Duration
	curve, err := measureBudgets(Tokens{1}, func() time.Duration { return now }, goOn, func(rows []Input) error {
		n := time.Duration(len(rows) * probeRow)
		now += 100*time.Millisecond + n*time.Millisecond + n*n*time.Millisecond/400
		return nil
	})
	if err != nil || len(curve) < 6 {
		t.Fatalf("%v, %v", curve, err)
	}
	if b := chooseBudget("m", [][]BudgetPoint{curve}); b.Tokens != 128 ||
		b.perToken().Round(100*time.Microsecond) != 2100*time.Microsecond {
		t.Errorf("budget %d at %s a token, want 128 at 2.1ms: %v", b.Tokens, b.perToken(), curve)
	}
}

func TestBudgetsAreMeasuredUpToWhatTheDeviceTakes(t *testing.T) {
	began := time.Now()
	wall := func() time.Duration { return time.Since(began) }
	curve, err := measureBudgets(Tokens{1, 2, 3}, wall, goOn, func(rows []Input) error {
		if len(rows)*probeRow > 64 {
			return errors.New("out of memory")
		}
		return nil
	})
	if err != nil || len(curve) == 0 || curve[len(curve)-1].Tokens > 64 {
		t.Errorf("%v, %v", curve, err)
	}
	if _, err := measureBudgets(Tokens{1}, wall, goOn, func([]Input) error {
		return errors.New(
			"broken")
	}); err == nil {
		t.Error("a model that fails at once gets a budget")
	}
	if _, err := measureBudgets(nil, wall, goOn, func([]Input) error { return nil }); err == nil {
		t.Error("there is nothing to measure with")
	}
}
