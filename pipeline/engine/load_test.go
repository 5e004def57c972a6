package engine_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"sluice/model"
	"sluice/pipeline"
	"sluice/pipeline/engine"
	"sluice/pipeline/engine/enginetest"
)

// newEngine is an engine on pools of two runners, which gives a token budget of 64 unless o says otherwise.
func newEngine(t testing.TB, o engine.Options) (*engine.Engine, *prometheus.Registry) {
	t.Helper()
	reg := prometheus.NewRegistry()
	o.Metrics = engine.NewMetrics(reg, pipeline.NewStageMetrics(reg, pipeline.StageMetricsOptions{}))
	if o.Watchdog == nil {
		o.Watchdog = pipeline.NewWatchdog(pipeline.WatchdogOptions{Timeout: 30 * time.Second, Grace: 10 * time.Second,
			Wedged: func(err error) { t.Errorf("wedged: %v", err) }})
	}
	if o.Fail == nil {
		o.Fail = func(err error) { t.Errorf("given up: %v", err) }
	}
	if o.Devices == nil {
		o.Devices = []engine.Device{{Name: "cpu", Runners: 2}}
	}
	e := engine.New(o)
	t.Cleanup(e.Close)
	return e, reg
}

// sums answers a row of tokens with their sum and a figure of the model's own.
func sums(own float32) *enginetest.Session {
	return &enginetest.Session{Run: func(rows []engine.Input) ([][]float32, error) {
		out := make([][]float32, len(rows))
		for i, row := range rows {
			out[i] = []float32{0, own}
			for _, id := range row.(engine.Tokens) {
				out[i][0] += float32(id)
			}
		}
		return out, nil
	}}
}

func load(t testing.TB, e *engine.Engine, name string, s *enginetest.Session) *engine.Handle {
	t.Helper()
	h, err := e.Load(t.Context(), engine.Model{Name: name, Digest: name, Session: s, Probe: engine.Tokens{1}})
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// ask waits for one answer.
func ask(h *engine.Handle, inputs ...engine.Input) engine.Answer {
	answer := make(chan engine.Answer, 1)
	h.Submit(engine.Ask{Inputs: inputs, Done: func(a engine.Answer) { answer <- a }})
	return <-answer
}

// traffic asks a model again and again, from several goroutines, until stop is called, which returns how many asks were
// answered. Every answer must be right.
func traffic(t *testing.T, h *engine.Handle, own float32) (stop func() int64) {
	var answered, asked atomic.Int64
	var end atomic.Bool
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			for i := int32(0); !end.Load(); i++ {
				asked.Add(1)
				row := engine.Tokens{i, int32(g)}
				if a := ask(h, row); a.Err != nil || !slices.Equal(a.Logits[0], []float32{float32(i + int32(g)), own}) {
					t.Errorf("the answer to %v is %v", row, a)
				}
				answered.Add(1)
			}
		})
	}
	return func() int64 {
		end.Store(true)
		wg.Wait()
		if answered.Load() != asked.Load() {
			t.Errorf("%d asks, %d answers", asked.Load(), answered.Load())
		}
		return answered.Load()
	}
}

func TestAModelIsLoadedUnderTraffic(t *testing.T) {
	e, _ := newEngine(t, engine.Options{}) // budgets are measured
	first := load(t, e, "first", sums(1))
	stop := traffic(t, first, 1)
	h := load(t, e, "second", sums(2))
	if h.Budget().Curve == nil || h.Budget().Model != "second" {
		t.Errorf("the budget of a model that came later is %+v", h.Budget())
	}
	if a := ask(h, engine.Tokens{3, 4}); a.Err != nil || !slices.Equal(a.Logits[0], []float32{7, 2}) {
		t.Errorf("%v", a)
	}
	stop()
}

// While a thread prepares a model it runs what waits for others, between two pieces of that work.
func TestRowsOfOthersGoOnWhileAModelIsMeasured(t *testing.T) {
	e, _ := newEngine(t, engine.Options{Devices: []engine.Device{{Name: "cpu", Runners: 1}}})
	first := load(t, e, "first", sums(1))
	second := sums(2)
	run := second.Run
	var asked, late atomic.Int64
	var waiting atomic.Pointer[chan struct{}]
	second.Run = func(rows []engine.Input) ([][]float32, error) {
		if w := waiting.Load(); w != nil {
			select {
			case <-*w:
			default:
				late.Add(1) // the row that waited during the last run of this model has not been run since
			}
		}
		done := make(chan struct{})
		waiting.Store(&done)
		first.Submit(engine.Ask{Inputs: []engine.Input{engine.Tokens{int32(asked.Add(1))}},
			Done: func(engine.Answer) { close(done) }})
		return run(rows)
	}
	if _, err := e.Load(t.Context(), engine.Model{Name: "second", Session: second,
		Probe: engine.Tokens{1}}); err != nil {
		t.Fatal(err)
	}
	if late.Load() > 0 || asked.Load() < 12 {
		t.Errorf("of %d rows %d waited for more than one run of the model that was being measured", asked.Load(),
			late.Load())
	}
}

func TestAModelIsReleasedUnderTraffic(t *testing.T) {
	e, reg := newEngine(t, engine.Options{BatchTokens: 64, CacheBytes: 1 << 16})
	stays := load(t, e, "stays", sums(1))
	stop := traffic(t, stays, 1)
	for round := range 20 {
		s := sums(2)
		h := load(t, e, "goes", s)
		var answered, refused, doubled, asked atomic.Int64
		var released atomic.Bool
		var wg sync.WaitGroup
		for g := range 4 {
			wg.Go(func() {
				for i := int32(0); ; i++ {
					over := released.Load()
					asked.Add(1)
					var once atomic.Bool
					done := make(chan engine.Answer, 2)
					h.Submit(engine.Ask{Inputs: []engine.Input{engine.Tokens{i, int32(g), int32(round)}},
						Done: func(a engine.Answer) {
							if once.Swap(true) {
								doubled.Add(1)
							}
							done <- a
						}})
					var f *pipeline.Fault
					switch a := <-done; {
					case a.Err == nil && a.Logits[0][1] == 2:
						answered.Add(1)
					case errors.As(a.Err, &f) && f.Reason == "released" && f.Kind == pipeline.Internal:
						refused.Add(1)
					default:
						t.Errorf("%v", a)
					}
					if over {
						return
					}
				}
			})
		}
		h.Release()
		if n := s.Runners(); n != 0 {
			t.Errorf("released, and %d runners are open", n)
		}
		if err := s.Close(); err != nil { // from now on a run is an error, and that a fault
			t.Error(err)
		}
		released.Store(true)
		wg.Wait()
		if answered.Load()+refused.Load() != asked.Load() || doubled.Load() > 0 || refused.Load() < 4 {
			t.Errorf("%d asks: %d answered, %d refused, %d answered twice", asked.Load(), answered.Load(),
				refused.Load(), doubled.Load())
		}
	}
	if stop() == 0 {
		t.Error("nothing of the model that stays was answered")
	}
	if n, err := testutil.GatherAndCount(reg, "sluice_model_info"); n != 1 || err != nil {
		t.Errorf("%d models are said to be loaded (%v), want the one that stays", n, err)
	}
}

// What was asked before the release is answered after it, and only then the runners go.
func TestReleaseWaitsForTheLastAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, _ := newEngine(t, engine.Options{BatchTokens: 1})
		leave := make(chan struct{})
		s := &enginetest.Session{Run: func(rows []engine.Input) ([][]float32, error) {
			<-leave
			return [][]float32{{1}}, nil
		}}
		h, err := e.Load(t.Context(), engine.Model{Name: "m", Session: s})
		if err != nil {
			t.Fatal(err)
		}
		answers, released := make(chan engine.Answer, 10), make(chan struct{})
		for i := range int32(10) {
			h.Submit(engine.Ask{Inputs: []engine.Input{engine.Tokens{i}}, Done: func(a engine.Answer) { answers <- a }})
		}
		go func() { h.Release(); close(released) }()
		for range 10 {
			synctest.Wait()
			if a := ask(h, engine.Tokens{1}); a.Err == nil {
				t.Error("an ask after Release is answered")
			}
			select {
			case <-released:
				t.Fatalf("released after %d of 10 answers", len(answers))
			default:
			}
			leave <- struct{}{}
		}
		<-released
		for range 10 {
			if a := <-answers; a.Err != nil {
				t.Error(a.Err)
			}
		}
		h.Release() // again: nothing more happens
		if s.Runners() != 0 {
			t.Errorf("%d runners are open", s.Runners())
		}
	})
}

// Two handles of the same bytes share the cache, and nothing else: one goes, the other stays.
func TestTwoHandlesOfOneDigest(t *testing.T) {
	e, reg := newEngine(t, engine.Options{BatchTokens: 64, CacheBytes: 1 << 16})
	one, two := sums(1), sums(1)
	var handles []*engine.Handle
	for _, s := range []*enginetest.Session{one, two} {
		h, err := e.Load(t.Context(), engine.Model{Name: "m", Digest: "d", Tag: "m@d", Session: s,
			Probe: engine.Tokens{1}})
		if err != nil {
			t.Fatal(err)
		}
		handles = append(handles, h)
	}
	if a := ask(handles[0], engine.Tokens{5}); a.Err != nil || a.Cached {
		t.Errorf("%v", a)
	}
	if a := ask(handles[1], engine.Tokens{5}); a.Err != nil || !a.Cached {
		t.Errorf("the other handle does not know what the first has said: %v", a)
	}
	handles[0].Release()
	if one.Runners() != 0 || two.Runners() != 2 {
		t.Errorf("%d and %d runners are open", one.Runners(), two.Runners())
	}
	if n, err := testutil.GatherAndCount(reg, "sluice_model_info"); n != 1 || err != nil {
		t.Errorf("one of two is left, and %d models are said to be loaded (%v)", n, err)
	}
	if a := ask(handles[1], engine.Tokens{6}); a.Err != nil || a.Logits[0][0] != 6 {
		t.Errorf("%v", a)
	}
}

// failing is a model of which one step of loading fails, on the second thread only.
func failing(step string) *enginetest.Session {
	s := sums(3)
	s.Runner = func(n int) (engine.Runner, error) {
		if n == 1 && step == "open" {
			return nil, errors.New("no memory to open it")
		}
		return &failingRunner{step: step, bad: n == 1}, nil
	}
	return s
}

type failingRunner struct {
	step string
	bad  bool
}

func (r *failingRunner) Bind() error {
	if r.bad && r.step == "bind" {
		return errors.New("no core to bind it")
	}
	return nil
}
func (r *failingRunner) Close() error { return nil }
func (r *failingRunner) Run(_ context.Context, rows []engine.Input) ([][]float32, error) {
	if r.bad && (r.step == "probe" || r.step == "measure" && rows[0].Cost() > 1) {
		return nil, errors.New("no kernel to run it")
	}
	return make([][]float32, len(rows)), nil
}

func TestALoadThatFailsLeavesNothing(t *testing.T) {
	for _, step := range []string{"open", "bind", "probe", "measure"} {
		t.Run(step, func(t *testing.T) {
			e, reg := newEngine(t, engine.Options{})
			stop := traffic(t, load(t, e, "first", sums(1)), 1)
			good, bad := sums(2), failing(step)
			_, err := e.LoadAll(t.Context(), []engine.Model{
				{Name: "good", Session: good, Probe: engine.Tokens{1}}, {Name: "bad", Session: bad,
					Probe: engine.Tokens{1}},
			})
			if err == nil || !strings.Contains(err.Error(), "model bad: no ") || strings.Contains(err.Error(), "good") {
				t.Errorf("error: %v", err)
			}
			if good.Runners() != 0 || bad.Runners() != 0 {
				t.Errorf("runners are open: %d of the good model, %d of the bad one", good.Runners(), bad.Runners())
			}
			if n, err := testutil.GatherAndCount(reg, "sluice_model_info"); n != 1 || err != nil {
				t.Errorf("%d models are said to be loaded (%v)", n, err)
			}
			if h := load(t, e, "again", good); ask(h, engine.Tokens{2}).Err != nil {
				t.Error("the good model cannot be loaded again")
			}
			stop()
		})
	}
	t.Run("no such device", func(t *testing.T) {
		e, _ := newEngine(t, engine.Options{})
		s := sums(1)
		s.On = "tpu"
		if _, err := e.Load(t.Context(), engine.Model{Name: "m", Session: s}); pipeline.KindOf(
			err) != pipeline.Config ||
			!strings.Contains(err.Error(), "tpu") {
			t.Errorf("error: %v", err)
		}
	})
	t.Run("the caller has gone", func(t *testing.T) {
		e, _ := newEngine(t, engine.Options{})
		ctx, cancel := context.WithCancel(t.Context())
		s := sums(1)
		run := s.Run
		s.Run = func(rows []engine.Input) ([][]float32, error) { cancel(); return run(rows) }
		if _, err := e.Load(ctx, engine.Model{Name: "m", Session: s, Probe: engine.Tokens{1}}); !errors.Is(err,
			context.Canceled) {
			t.Errorf("error: %v", err)
		}
		if s.Runners() != 0 {
			t.Errorf("%d runners are open", s.Runners())
		}
	})
	t.Run("the engine is closed", func(t *testing.T) {
		e, _ := newEngine(t, engine.Options{})
		h := load(t, e, "first", sums(1))
		e.Close()
		var f *pipeline.Fault
		if _, err := e.Load(t.Context(), engine.Model{Name: "m", Session: sums(1)}); !errors.As(err, &f) ||
			f.Reason != "closed" {
			t.Errorf("error: %v", err)
		}
		if a := ask(h, engine.Tokens{1}); !errors.As(a.Err, &f) || f.Reason != "closed" {
			t.Errorf("%v", a)
		}
		h.Release() // does not wait for ever
	})
}

// Closing while models come and go ends everything, whatever is under way.
func TestCloseWhileModelsComeAndGo(t *testing.T) {
	for range 20 {
		e, _ := newEngine(t, engine.Options{BatchTokens: 64})
		var all []*enginetest.Session
		var mu sync.Mutex
		var wg sync.WaitGroup
		ready := make(chan struct{}, 4)
		for g := range 4 {
			wg.Go(func() {
				for i := 0; ; i++ {
					s := sums(1)
					mu.Lock()
					all = append(all, s)
					mu.Unlock()
					h, err := e.Load(context.Background(), engine.Model{Name: fmt.Sprint(g), Session: s,
						Probe: engine.Tokens{1}})
					if err != nil {
						return
					}
					h.Submit(engine.Ask{Inputs: []engine.Input{engine.Tokens{1}}, Done: func(engine.Answer) {}})
					h.Release()
					if i == 3 {
						ready <- struct{}{}
					}
				}
			})
		}
		<-ready
		e.Close()
		wg.Wait()
		for _, s := range all {
			if s.Runners() != 0 {
				t.Fatalf("closed, and %d runners are open", s.Runners())
			}
		}
	}
}

// A device has runners of its own: what hangs on one is nothing to the other.
func TestDevicesHavePoolsOfTheirOwn(t *testing.T) {
	e, _ := newEngine(t, engine.Options{BatchTokens: 64, Devices: []engine.Device{{Name: "cpu", Runners: 3},
		{Name: "cuda", Runners: 1}}})
	began, leave := make(chan struct{}), make(chan struct{})
	slow := &enginetest.Session{On: "cuda", Run: func(rows []engine.Input) ([][]float32, error) {
		began <- struct{}{}
		<-leave
		return make([][]float32, len(rows)), nil
	}}
	gpu, err := e.Load(t.Context(), engine.Model{Name: "gpu", Session: slow})
	if err != nil {
		t.Fatal(err)
	}
	fast := sums(1)
	cpu := load(t, e, "cpu", fast)
	if slow.Runners() != 1 || fast.Runners() != 3 {
		t.Errorf("%d runners on the GPU, %d on the CPU, want 1 and 3", slow.Runners(), fast.Runners())
	}
	answer := make(chan engine.Answer, 1)
	gpu.Submit(engine.Ask{Inputs: []engine.Input{engine.Tokens{1}}, Done: func(a engine.Answer) { answer <- a }})
	<-began
	for i := range int32(100) {
		if a := ask(cpu, engine.Tokens{i}); a.Err != nil {
			t.Fatal(a.Err)
		}
	}
	close(leave)
	if a := <-answer; a.Err != nil {
		t.Error(a.Err)
	}
}

// ---- other inputs than one row of tokens

// features is a row of figures; each costs the same.
type features struct {
	values []float32
	key    []byte
}

func (f *features) Cost() int   { return 1 }
func (f *features) Key() []byte { return f.key }

// pair is two texts for one verdict: cost and key are those of both.
type pair struct{ query, passage engine.Tokens }

func (p *pair) Cost() int { return len(p.query) + len(p.passage) }
func (p *pair) Key() []byte {
	return slices.Concat(p.query.Key(), []byte{255, 255, 255, 255}, p.passage.Key()) // no token is -1
}

func TestRowsOfFeaturesAndPairsOfTextsFit(t *testing.T) {
	e, _ := newEngine(t, engine.Options{CacheBytes: 1 << 16}) // budgets are measured
	var runs atomic.Int64
	tabular, err := e.Load(t.Context(), engine.Model{Name: "tabular", Digest: "t", Probe: &features{[]float32{1},
		[]byte{1}},
		Session: &enginetest.Session{Run: func(rows []engine.Input) ([][]float32, error) {
			out := make([][]float32, len(rows))
			for i, row := range rows {
				runs.Add(1)
				out[i] = []float32{row.(*features).values[0] * 2}
			}
			return out, nil
		}}})
	if err != nil {
		t.Fatal(err)
	}
	reranker, err := e.Load(t.Context(), engine.Model{Name: "reranker", Digest: "r",
		Probe: &pair{make(engine.Tokens, 5), make(engine.Tokens, 16)},
		Session: &enginetest.Session{Run: func(rows []engine.Input) ([][]float32, error) {
			out := make([][]float32, len(rows))
			for i, row := range rows {
				p := row.(*pair)
				out[i] = []float32{float32(len(p.query)), float32(len(p.passage))}
			}
			return out, nil
		}}})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range reranker.Budget().Curve {
		if p.Tokens%21 != 0 {
			t.Errorf("rows of cost 21 were measured in a batch of cost %d", p.Tokens)
		}
	}
	runs.Store(0)
	for i, cached := range []bool{false, true} {
		a := ask(tabular, &features{[]float32{21}, []byte{21}})
		if a.Err != nil || a.Logits[0][0] != 42 || a.Cached != cached {
			t.Errorf("ask %d: %v", i, a)
		}
		a = ask(reranker, &pair{engine.Tokens{1, 2}, engine.Tokens{3}})
		if a.Err != nil || !slices.Equal(a.Logits[0], []float32{2, 1}) || a.Cached != cached {
			t.Errorf("ask %d: %v", i, a)
		}
		a = ask(reranker, &pair{engine.Tokens{1}, engine.Tokens{2, 3}}) // the same tokens, cut otherwise
		if a.Err != nil || !slices.Equal(a.Logits[0], []float32{1, 2}) || a.Cached != cached {
			t.Errorf("ask %d: %v", i, a)
		}
	}
	if runs.Load() != 1 {
		t.Errorf("one row of features was run %d times", runs.Load())
	}
}

// The runtime of tests is one: open, test, load.
func TestARuntimeOpensModelsForTheEngine(t *testing.T) {
	var r engine.Runtime = enginetest.Runtime{Run: func(m *model.Model, rows []engine.Input) ([][]float32, error) {
		return [][]float32{{float32(len(m.Name))}}, nil
	}}
	s, err := r.Open(&model.Model{Name: "four"}, engine.RuntimeOptions{Device: "cuda"})
	if err != nil || s.Device() != "cuda" {
		t.Fatal(s, err)
	}
	e, _ := newEngine(t, engine.Options{BatchTokens: 1, Warm: true, Devices: []engine.Device{{Name: "cuda",
		Runners: 1}}})
	h, err := e.Load(t.Context(), engine.Model{Name: "four", Session: s})
	if err != nil {
		t.Fatal(err)
	}
	if a := ask(h, engine.Tokens{1}); a.Err != nil || a.Logits[0][0] != 4 {
		t.Errorf("%v", a)
	}
	h.Release()
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

func TestMetricsAreWellFormed(t *testing.T) {
	e, reg := newEngine(t, engine.Options{BatchTokens: 64, CacheBytes: 1 << 16})
	h, err := e.Load(t.Context(), engine.Model{Name: "sentiment", Digest: "0", Tag: "sentiment@0", Session: sums(1),
		Precision: model.Int8, Layout: model.Packed})
	if err != nil {
		t.Fatal(err)
	}
	ask(h, engine.Tokens{1, 2}, engine.Tokens{1, 2, 3})
	problems, err := testutil.GatherAndLint(reg)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
	const want = `
# HELP sluice_model_info 1 for every loaded model; the labels say which bytes run on which provider.
# TYPE sluice_model_info gauge
sluice_model_info{digest="0",layout="packed",model="sentiment@0",name="sentiment",precision="int8",provider="cpu"} 1
# HELP sluice_tokens_total Real tokens run through a model, special tokens included, padding excluded.
# TYPE sluice_tokens_total counter
sluice_tokens_total{model="sentiment"} 5
`
	if err := testutil.GatherAndCompare(reg, strings.NewReader(want), "sluice_model_info",
		"sluice_tokens_total"); err != nil {
		t.Error(err)
	}
}
