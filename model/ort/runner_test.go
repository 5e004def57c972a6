package ort

import (
	"context"
	"errors"
	"math"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sluice/pipeline"
	"sluice/pipeline/engine"
)

// token is what the toys of testdata say to one token.
func token(id int32) []float32 { return []float32{float32(id), float32(id) / 2, -float32(id)} }

func randomRow(rng *rand.Rand, longest int) engine.Tokens {
	row := make(engine.Tokens, 1+rng.IntN(longest))
	for i := range row {
		row[i] = rng.Int32N(38)
	}
	return row
}

func TestEveryInputReachesItsPlace(t *testing.T) {
	sum := func(row engine.Tokens) []float32 {
		out := make([]float32, 3)
		for _, id := range row {
			for i, x := range token(id) {
				out[i] += x
			}
		}
		return out
	}
	tokens := func(row engine.Tokens, positions bool) []float32 {
		var out []float32
		for i, id := range row {
			l := token(id)
			if positions {
				l[1] += float32(i)
			}
			out = append(out, l...)
		}
		return out
	}
	for name, want := range map[string]func(engine.Tokens) []float32{
		"toy_padded_cls":  sum,
		"toy_padded_half": sum,
		"toy_padded_tok":  func(row engine.Tokens) []float32 { return tokens(row, false) },
		"toy_packed_tok":  func(row engine.Tokens) []float32 { return tokens(row, true) },
		"toy_packed_cls": func(row engine.Tokens) []float32 {
			l := token(row[0])
			l[2] += float32(len(row))
			return l
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := toy(name).runner(t, engine.RuntimeOptions{})
			rng := rand.New(rand.NewPCG(1, 2))
			var kept [][]float32
			var keptRows []engine.Tokens
			for batch := range 60 { // sizes go up and down, so that buffers grow and are used in part
				rows := make([]engine.Tokens, 1+rng.IntN(1+batch%9))
				for i := range rows {
					rows[i] = randomRow(rng, 48)
				}
				kept = append(kept, run(t, r, rows...)...)
				keptRows = append(keptRows, rows...)
			}
			for i, row := range keptRows { // after all runs: the logits are the caller's
				if !slices.Equal(kept[i], want(row)) {
					t.Fatalf("row %d, %v:\n got %v\nwant %v", i, row, kept[i], want(row))
				}
			}
		})
	}
}

func TestPackedEqualsPadded(t *testing.T) {
	for _, c := range []struct {
		kind      string
		labels    int
		tolerance float64
	}{{"cls_fp32", 3, 1e-5}, {"tok_fp32", 5, 1e-5}, {"cls_int8", 3, 0.1}, {"tok_int8", 5, 0.1}} {
		t.Run(c.kind, func(t *testing.T) {
			packed := testModel{onnx: "tiny_packed_" + c.kind, labels: c.labels, precision: "int8"}.runner(t,
				engine.RuntimeOptions{})
			padded := testModel{onnx: "tiny_padded_" + c.kind, labels: c.labels, precision: "int8"}.runner(t,
				engine.RuntimeOptions{})
			rng := rand.New(rand.NewPCG(3, 4))
			for range 30 {
				rows := make([]engine.Tokens, 1+rng.IntN(7))
				for i := range rows {
					rows[i] = randomRow(rng, 48)
				}
				a, b := run(t, packed, rows...), run(t, padded, rows...)
				for i := range rows {
					if d := distance(a[i], b[i]); !(d <= c.tolerance) {
						t.Fatalf("row %d of %d, %d tokens: packed and padded differ by %v", i, len(rows), len(rows[i]),
							d)
					}
				}
			}
		})
	}
}

func distance(a, b []float32) float64 {
	if len(a) != len(b) {
		return math.Inf(1)
	}
	d := 0.0
	for i := range a {
		d = max(d, math.Abs(float64(a[i])-float64(b[i])))
	}
	return d
}

// Promise P5: the same text has the same bytes, whatever else is in the batch, on whatever runner.
func TestTextsDoNotDependOnTheirNeighbours(t *testing.T) {
	for _, tm := range []testModel{
		{onnx: "tiny_packed_cls_int8", labels: 3, precision: "int8"}, {onnx: "tiny_packed_tok_int8", labels: 5,
			precision: "int8"},
		{onnx: "tiny_packed_cls_fp32", labels: 3, precision: "fp32"},
	} {
		t.Run(tm.onnx, func(t *testing.T) { neighbours(t, tm.session(t, engine.RuntimeOptions{}), 39, 48, 200) })
	}
}

// neighbours computes random rows alone and in random batches, by two runners, and compares bits. Lengths are the least
// and the most, those around the steps of vector code, and random ones; half of the batches hold rows of like length.
func neighbours(t *testing.T, s *Session, vocab int32, longest, texts int) {
	t.Helper()
	runners := []engine.Runner{newRunner(t, s, 0), newRunner(t, s, 1)}
	rng := rand.New(rand.NewPCG(5, 6))
	rows := make([]engine.Tokens, texts)
	alone := make([][]float32, texts)
	edges := []int{1, 2, 3, 4, 5, 7, 8, 11, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 255, 257, longest - 1, longest}
	for i := range rows {
		n := 2 + int(float64(longest-1)*math.Pow(rng.Float64(), 4)) // short ones are the most
		if i < len(edges) {
			n = edges[i]
		}
		rows[i] = make(engine.Tokens, min(n, longest))
		for k := range rows[i] {
			rows[i][k] = rng.Int32N(vocab)
		}
		alone[i] = run(t, runners[0], rows[i])[0]
	}
	for round := range 4 {
		order := rng.Perm(texts)
		if round%2 == 1 {
			slices.SortFunc(order, func(a, b int) int { return len(rows[a]) - len(rows[b]) })
		}
		for len(order) > 0 {
			n := min(len(order), 1+rng.IntN(16))
			batch := make([]engine.Tokens, n)
			for i, text := range order[:n] {
				batch[i] = rows[text]
			}
			for i, l := range run(t, runners[rng.IntN(len(runners))], batch...) {
				if !slices.EqualFunc(l, alone[order[i]], func(a, b float32) bool {
					return math.Float32bits(
						a) == math.Float32bits(b)
				}) {
					t.Fatalf("text %d of %d tokens: %v alone, %v as row %d of %d", order[i], len(batch[i]),
						alone[order[i]], l, i, n)
				}
			}
			order = order[n:]
		}
	}
}

func TestDeadlineEndsTheRunAndTheRunnerGoesOn(t *testing.T) {
	for _, c := range []struct {
		name, reason string
		context      func(ctx context.Context) (context.Context, context.CancelFunc)
	}{
		{"deadline of the context", "deadline", func(ctx context.Context) (context.Context,
			context.CancelFunc) {
			return context.WithTimeout(ctx, 30*time.Millisecond)
		}},
		{"cancelled", "canceled", func(ctx context.Context) (context.Context, context.CancelFunc) {
			ctx, cancel := context.WithCancel(ctx)
			time.AfterFunc(30*time.Millisecond, cancel)
			return ctx, cancel
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := toy("toy_padded_loop").runner(t, engine.RuntimeOptions{})
			for range 3 {
				ctx, cancel := c.context(t.Context())
				_, err := r.Run(ctx, inputs([]engine.Tokens{{38, 1}, {2}}))
				cancel()
				var f *pipeline.Fault
				if !errors.As(err, &f) || f.Reason != c.reason || f.Stage != "infer" {
					t.Fatalf("error %v is not a fault of the infer stage for reason %q", err, c.reason)
				}
				if got := run(t, r, engine.Tokens{3, 4})[0]; !slices.Equal(got, token(7)) {
					t.Fatalf("after an ended run the logits are %v instead of %v", got, token(7))
				}
			}
		})
	}
	t.Run("over before it began", func(t *testing.T) {
		r := toy("toy_padded_cls").runner(t, engine.RuntimeOptions{})
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := r.Run(ctx, inputs([]engine.Tokens{{1}})); pipeline.KindOf(err) != pipeline.Transient {
			t.Errorf("error %v of a cancelled run is not transient", err)
		}
	})
}

// figures is a row that is no text.
type figures []float32

func (f figures) Cost() int   { return 1 }
func (f figures) Key() []byte { return nil }

func TestRowsThatNoModelTakes(t *testing.T) {
	r := toy("toy_padded_cls").runner(t, engine.RuntimeOptions{})
	for _, c := range []struct {
		name string
		row  engine.Input
		says string
	}{
		{"no text", figures{1, 2}, "no row of tokens"},
		{"empty", engine.Tokens{}, "no tokens"},
		{"longer than the model", make(engine.Tokens, 49), "49 tokens, the model takes 48"},
		{"negative id", engine.Tokens{1, -1}, "token 1 has id -1"},
		{"id beyond the vocabulary", engine.Tokens{40}, "id 40"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := r.Run(t.Context(), []engine.Input{engine.Tokens{1}, c.row})
			var f *pipeline.Fault
			if !errors.As(err, &f) || f.Reason != "bad-row" || !strings.Contains(err.Error(), c.says) ||
				!strings.Contains(err.Error(), "row 2 of 2") {
				t.Errorf("error %v does not say that %q", err, c.says)
			}
		})
	}
	if logits, err := r.Run(t.Context(), nil); len(logits) != 0 || err != nil {
		t.Errorf("an empty batch gives %v, %v", logits, err)
	}
}

func TestNotANumberIsReturnedForItsRowOnly(t *testing.T) {
	l := run(t, toy("toy_padded_cls").runner(t, engine.RuntimeOptions{}), engine.Tokens{1}, engine.Tokens{39},
		engine.Tokens{2})
	if !slices.Equal(l[0], token(1)) || !math.IsNaN(float64(l[1][0])) || !slices.Equal(l[2], token(2)) {
		t.Errorf("logits %v", l)
	}
}

func TestFailedRunSaysWhyAndIsQuiet(t *testing.T) {
	tm := toy("toy_padded_cls")
	tm.vocab = 0 // so that only ONNX Runtime knows the id to be wrong
	r := tm.runner(t, engine.RuntimeOptions{})
	var err error
	printed := captureStderr(t, func() { _, err = r.Run(t.Context(), inputs([]engine.Tokens{{4000}})) })
	var f *pipeline.Fault
	if !errors.As(err, &f) || f.Kind != pipeline.Internal || f.Reason != "run-failed" || !strings.Contains(err.Error(),
		"4000") {
		t.Errorf("error %v is not a run-failed fault that names the id", err)
	}
	if printed != "" {
		t.Errorf("ONNX Runtime printed on stderr: %s", printed)
	}
}

// captureStderr is what f writes to file descriptor 2, C code included.
func captureStderr(t *testing.T, f func()) string {
	t.Helper()
	file, err := os.CreateTemp(t.TempDir(), "stderr")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	saved, err := unix.Dup(2)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Dup3(int(file.Fd()), 2, 0); err != nil {
		t.Fatal(err)
	}
	f()
	if err := errors.Join(unix.Dup3(saved, 2, 0), unix.Close(saved)); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(file.Name())
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestRunnersShareASession(t *testing.T) {
	s := testModel{onnx: "tiny_packed_tok_int8", labels: 5, precision: "int8"}.session(t,
		engine.RuntimeOptions{Runners: 4})
	rng := rand.New(rand.NewPCG(7, 8))
	rows := make([]engine.Tokens, 40)
	for i := range rows {
		rows[i] = randomRow(rng, 48)
	}
	want := run(t, newRunner(t, s, -1), rows...)
	var wg sync.WaitGroup
	for n := range 4 {
		r := newRunner(t, s, n)
		wg.Go(func() {
			for i := range 50 {
				at := (n*7 + i) % (len(rows) - 3)
				got, err := r.Run(t.Context(), inputs(rows[at:at+3]))
				if err != nil {
					t.Error(err)
					return
				}
				for k, l := range got {
					if !slices.Equal(l, want[at+k]) {
						t.Errorf("runner %d, row %d: %v instead of %v", n, at+k, l, want[at+k])
						return
					}
				}
			}
		})
	}
	wg.Wait()
}

func TestCloseWaitsForRunsAndEndsRunners(t *testing.T) {
	s := toy("toy_padded_loop").session(t, engine.RuntimeOptions{})
	r := newRunner(t, s, -1)
	run(t, r, engine.Tokens{1})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() {
		_, err := r.Run(ctx, inputs([]engine.Tokens{{38}}))
		done <- err
	}()
	closed := make(chan error)
	go func() { closed <- s.Close() }()
	cancel()
	<-done // whichever came first: the end of the run, or a closed session
	if err := <-closed; err != nil {
		t.Fatal(err)
	}
	_, err := r.Run(t.Context(), inputs([]engine.Tokens{{1}}))
	var f *pipeline.Fault
	if !errors.As(err, &f) || f.Reason != "closed" {
		t.Errorf("a run after Close says %v", err)
	}
	if err := errors.Join(r.Close(), r.Close(), s.Close()); err != nil {
		t.Errorf("closing twice: %v", err)
	}
}

func TestBindPinsTheThreadToItsCore(t *testing.T) {
	if len(processCPUs) < 2 {
		t.Skip("SKIPPED: this process may use one core only")
	}
	mask := func() []int {
		var set unix.CPUSet
		if err := unix.SchedGetaffinity(0, &set); err != nil {
			t.Fatal(err)
		}
		var cpus []int
		for i := range 1024 {
			if set.IsSet(i) {
				cpus = append(cpus, i)
			}
		}
		return cpus
	}
	bound := func(t *testing.T, s *Session, cpu int) (during, after []int) {
		t.Helper()
		r := newRunner(t, s, cpu)
		done := make(chan struct{})
		go func() {
			defer close(done)
			runtime.LockOSThread() // and never unlocked, as the engine does
			if err := r.Bind(); err != nil {
				t.Error(err)
			}
			during = mask()
			if err := r.Close(); err != nil {
				t.Error(err)
			}
			after = mask()
		}()
		<-done
		return during, after
	}
	s := toy("toy_padded_cls").session(t, engine.RuntimeOptions{Runners: 2})
	for i := range 2 {
		during, after := bound(t, s, i)
		if !slices.Equal(during, processCPUs[i:i+1]) || !slices.Equal(after, processCPUs) {
			t.Errorf("runner %d ran on cores %v and left %v; want %v and %v", i, during, after, processCPUs[i:i+1],
				processCPUs)
		}
	}
	if during, _ := bound(t, s, -1); !slices.Equal(during, processCPUs) {
		t.Errorf("a runner without a core is bound to %v", during)
	}
	crowd := toy("toy_padded_cls").session(t, engine.RuntimeOptions{Runners: len(processCPUs) + 1})
	if during, _ := bound(t, crowd, 0); !slices.Equal(during, processCPUs) {
		t.Errorf("with more runners than cores a runner is bound to %v", during)
	}
	if w := slices.Concat(s.Warnings(), crowd.Warnings()); len(w) > 0 {
		t.Errorf("warnings %q", w)
	}
}

func TestHalfFloats(t *testing.T) {
	for h, want := range map[uint16]float32{
		0: 0, 0x3C00: 1, 0xC000: -2, 0x3555: 0.33325195, 0x7BFF: 65504, 0x0001: 5.9604645e-8, 0x03FF: 6.0975552e-5,
		0x0400: 6.1035156e-5,
		0x7C00: float32(math.Inf(1)), 0xFC00: float32(math.Inf(-1)),
	} {
		if got := fromHalf(h); got != want {
			t.Errorf("%#04x is %v instead of %v", h, got, want)
		}
	}
	if got := fromHalf(0x7E00); got == got {
		t.Errorf("NaN is %v", got)
	}
	if got := fromHalf(0x8000); got != 0 || !math.Signbit(float64(got)) {
		t.Errorf("-0 is %v", got)
	}
}
