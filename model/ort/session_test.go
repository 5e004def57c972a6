package ort

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	onnx "github.com/yalue/onnxruntime_go"

	"sluice/model"
	"sluice/pipeline"
	"sluice/pipeline/engine"
	"sluice/tokenize"
)

func TestOpenSaysWhatIsWrong(t *testing.T) {
	needLibrary(t)
	cut := func(tm testModel, size int64) *model.Model {
		m := tm.open(t)
		if err := os.Truncate(m.Path(model.OnnxFile), size); err != nil {
			t.Fatal(err)
		}
		return m
	}
	as := func(tm testModel, change func(*model.Model)) *model.Model {
		m := tm.open(t)
		change(m)
		return m
	}
	two := toy("toy_padded_cls")
	two.labels = 2
	for _, c := range []struct {
		name    string
		model   *model.Model
		options engine.RuntimeOptions
		says    []string
	}{
		{"input of another kind of model", toy("toy_odd_input").open(t), engine.RuntimeOptions{},
			[]string{"pixel_values",
				"input_ids, attention_mask, token_type_ids"}},
		{"fixed shape", toy("toy_fixed_shape").open(t), engine.RuntimeOptions{},
			[]string{"input_ids has the fixed shape",
				"dynamic axes"}},
		{"no logits", toy("toy_two_outputs").open(t), engine.RuntimeOptions{},
			[]string{"last_hidden_state, pooler_output"}},
		{"other number of labels", two.open(t), engine.RuntimeOptions{}, []string{"3 logits", "2 labels"}},
		{"padded taken for packed", as(toy("toy_padded_cls"), func(m *model.Model) { m.Layout = model.Packed }),
			engine.RuntimeOptions{}, []string{"the graph looks padded", "pad_idx is missing"}},
		{"packed taken for padded", as(toy("toy_packed_cls"), func(m *model.Model) { m.Layout = model.Padded }),
			engine.RuntimeOptions{}, []string{"the graph looks packed"}},
		{"other task", as(toy("toy_padded_cls"), func(m *model.Model) { m.Task = model.TokenClassification }),
			engine.RuntimeOptions{}, []string{"2 dimensions instead of 3"}},
		{"half a file", cut(toy("toy_padded_cls"), 600), engine.RuntimeOptions{}, []string{"cannot load it",
			"export the model again"}},
		{"file gone", as(toy("toy_padded_cls"), func(m *model.Model) { m.Dir = t.TempDir() }), engine.RuntimeOptions{},
			[]string{"model.onnx", "no such file"}},
		{"unknown device", toy("toy_padded_cls").open(t), engine.RuntimeOptions{Device: "tpu"},
			[]string{`device: "tpu"`,
				`"cpu", "cuda" or "openvino"`}},
		{"unknown policy", toy("toy_padded_cls").open(t), engine.RuntimeOptions{DeviceFallback: "maybe"},
			[]string{`device_fallback: "maybe"`}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, err := Open(c.model, c.options)
			if err == nil {
				s.Close()
				t.Fatal("it opens")
			}
			if pipeline.KindOf(err) != pipeline.Config {
				t.Errorf("the error is of kind %s: %v", pipeline.KindOf(err), err)
			}
			for _, says := range append(c.says, c.model.Dir) {
				if !strings.Contains(err.Error(), says) {
					t.Errorf("error does not mention %q: %v", says, err)
				}
			}
		})
	}
}

func TestMissingCUDAFollowsThePolicy(t *testing.T) {
	needLibrary(t)
	if slices.Contains(Providers(), "cuda") {
		t.Skip("SKIPPED: CUDA works here")
	}
	_, err := Open(toy("toy_padded_cls").open(t), engine.RuntimeOptions{Device: "cuda"})
	if pipeline.KindOf(err) != pipeline.Config || !strings.Contains(err.Error(), "onnxruntime-gpu") ||
		!strings.Contains(err.Error(), LibraryEnv) {
		t.Errorf("without CUDA, policy fail: %v", err)
	}
	s := toy("toy_padded_cls").session(t, engine.RuntimeOptions{Device: "cuda", DeviceFallback: "cpu"})
	if w := s.Warnings(); s.Provider() != "cpu" || len(w) != 1 || !strings.Contains(w[0], "running on the CPU") {
		t.Errorf("policy cpu: provider %s, warnings %q", s.Provider(), w)
	}
	run(t, newRunner(t, s, -1), engine.Tokens{1})
}

func TestMissingOpenVINOFollowsThePolicy(t *testing.T) {
	needLibrary(t)
	if slices.Contains(Providers(), "openvino") {
		t.Skip("SKIPPED: OpenVINO works here")
	}
	_, err := Open(toy("toy_padded_cls").open(t), engine.RuntimeOptions{Device: "openvino"})
	if pipeline.KindOf(err) != pipeline.Config || !strings.Contains(err.Error(), "native.sh openvino") ||
		!strings.Contains(err.Error(), LibraryEnv) {
		t.Errorf("without OpenVINO, policy fail: %v", err)
	}
	s := toy("toy_padded_cls").session(t, engine.RuntimeOptions{Device: "openvino", DeviceFallback: "cpu"})
	if w := s.Warnings(); s.Provider() != "cpu" || len(w) != 1 || !strings.Contains(w[0], "running on the CPU") {
		t.Errorf("policy cpu: provider %s, warnings %q", s.Provider(), w)
	}
	run(t, newRunner(t, s, -1), engine.Tokens{1})
}

// With the library of scripts/native.sh openvino in SLUICE_ONNXRUNTIME: rows of many shapes, by two runners at once,
// have the logits of ONNX Runtime's own provider.
func TestOpenVINOComputesWhatTheCPUProviderDoes(t *testing.T) {
	needLibrary(t)
	if !slices.Contains(Providers(), "openvino") {
		t.Skip("SKIPPED: needs SLUICE_ONNXRUNTIME=$(scripts/native.sh openvino)")
	}
	for _, c := range []struct {
		testModel
		within float64
	}{
		{testModel{onnx: "tiny_standard_cls_fp32", labels: 3, precision: model.FP32}, 1e-4},
		{testModel{onnx: "tiny_standard_cls_int8", labels: 3, precision: model.Int8}, 5e-2},
		{testModel{onnx: "tiny_standard_tok_fp32", labels: 5, precision: model.FP32}, 1e-4},
		{testModel{onnx: "tiny_standard_tok_int8", labels: 5, precision: model.Int8}, 5e-2},
	} {
		t.Run(c.onnx, func(t *testing.T) {
			if openVINOInBF16() {
				c.within = max(c.within, 5e-2)
			}
			s := c.session(t, engine.RuntimeOptions{Device: "openvino", Runners: 2})
			if s.Provider() != "openvino" {
				t.Fatalf("provider %s", s.Provider())
			}
			want, got := c.runner(t, engine.RuntimeOptions{}), []engine.Runner{newRunner(t, s, 0), newRunner(t, s, 1)}
			rng := rand.New(rand.NewPCG(3, 4))
			batches := make([][]engine.Tokens, 30)
			for i := range batches {
				for range 1 + rng.IntN(6) {
					batches[i] = append(batches[i], randomRow(rng, 48))
				}
			}
			var wg sync.WaitGroup
			results := make([][][]float32, len(batches))
			for r := range got {
				wg.Go(func() {
					for i := r; i < len(batches); i += len(got) {
						var err error
						if results[i], err = got[r].Run(t.Context(), inputs(batches[i])); err != nil {
							t.Error(err)
						}
					}
				})
			}
			wg.Wait()
			for i, rows := range batches {
				for k, w := range run(t, want, rows...) {
					if d := distance(results[i][k], w); d > c.within {
						t.Fatalf("row %d of batch %d: off by %.2g", k, i, d)
					}
				}
			}
		})
	}
	// A graph with operators that only ONNX Runtime has is refused, not run in pieces.
	_, err := Open(testModel{onnx: "tiny_padded_cls_fp32", labels: 3, precision: model.FP32}.open(t),
		engine.RuntimeOptions{Device: "openvino"})
	if err == nil || !strings.Contains(err.Error(), "--ops standard") {
		t.Errorf("a contrib graph: %v", err)
	}
}

// A config entry with a wrong name changes nothing and is no error, so its effect is what is tested.
func TestSessionOptionsTakeEffect(t *testing.T) {
	needLibrary(t)
	if !saturatesInt8() {
		t.Skip("SKIPPED: this CPU computes u8 x s8 exactly by itself")
	}
	tm := testModel{onnx: "tiny_packed_cls_int8", labels: 3, precision: model.Int8}
	s := tm.session(t, engine.RuntimeOptions{})
	if w := s.Warnings(); len(w) != 1 || !strings.Contains(w[0], "VNNI") {
		t.Errorf("warnings %q", w)
	}
	plain, err := onnx.NewDynamicAdvancedSession(s.model.Path(model.OnnxFile), s.graph.inputNames(), []string{"logits"},
		nil)
	if err != nil {
		t.Fatal(err)
	}
	saturating := &Session{model: s.model, graph: s.graph, session: plain}
	defer saturating.Close()
	fp32 := testModel{onnx: "tiny_packed_cls_fp32", labels: 3, precision: model.FP32}.runner(t, engine.RuntimeOptions{})
	exact, off := newRunner(t, s, -1), newRunner(t, saturating, -1)
	rng := rand.New(rand.NewPCG(9, 10))
	var exactError, saturatedError float64
	for range 200 {
		row := randomRow(rng, 48)
		want := run(t, fp32, row)[0]
		exactError += distance(run(t, exact, row)[0], want)
		saturatedError += distance(run(t, off, row)[0], want)
	}
	if exactError >= saturatedError {
		t.Errorf("int8 logits are off by %.4f in the mean, by %.4f without session.x64quantprecision: the entry has "+
			"no effect", exactError/200, saturatedError/200)
	}
}

// wordTokenizer reads a text as numbers, one a token.
type wordTokenizer struct {
	tokenize.Tokenizer
	shift int32
}

func (w wordTokenizer) Encode(texts [][]byte, _ tokenize.Options) []tokenize.Encoded {
	out := make([]tokenize.Encoded, len(texts))
	for i, text := range texts {
		var e tokenize.Encoding
		for f := range strings.FieldsSeq(string(text)) {
			n, err := strconv.Atoi(f)
			out[i].Err = errors.Join(out[i].Err, err)
			e.IDs = append(e.IDs, int32(n)+w.shift)
		}
		out[i].Windows = []tokenize.Encoding{e}
	}
	return out
}

func TestSelfTest(t *testing.T) {
	golden := func(logits ...float32) *model.Golden {
		return &model.Golden{Tolerance: 1e-3, Texts: []model.GoldenText{
			{Text: "1 2", InputIDs: []int32{1, 2}, Logits: [][]float32{token(3)}},
			{Text: "5 6 7", InputIDs: []int32{5, 6, 7}, Logits: [][]float32{logits}},
		}}
	}
	for _, c := range []struct {
		name   string
		golden *model.Golden
		shift  int32
		says   []string // nothing: it passes
	}{
		{"passes", golden(token(18)...), 0, nil},
		{"within the tolerance", golden(18.0005, 9, -18), 0, nil},
		{"other logits", golden(18, 9.25, -18), 0, []string{"golden text 1", `"5 6 7"`, "logit 1", "off by 0.25",
			"0.001"}},
		{"other ids", golden(token(18)...), 1, []string{"golden text 0", `"1 2"`, "tokenizer.json"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			tm := toy("toy_padded_cls")
			tm.golden = c.golden
			note, err := tm.session(t, engine.RuntimeOptions{}).SelfTest(t.Context(), wordTokenizer{shift: c.shift})
			if note != "" {
				t.Errorf("note %q", note)
			}
			if (err != nil) != (c.says != nil) {
				t.Fatalf("error %v", err)
			}
			for _, says := range c.says {
				if !strings.Contains(err.Error(), says) || pipeline.KindOf(err) != pipeline.Config {
					t.Errorf("error of kind %s does not mention %q: %v", pipeline.KindOf(err), says, err)
				}
			}
		})
	}
	note, err := toy("toy_padded_cls").session(t, engine.RuntimeOptions{}).SelfTest(t.Context(), wordTokenizer{})
	if err != nil || !strings.Contains(note, "not tested") {
		t.Errorf("without golden texts: %q, %v", note, err)
	}
}

func TestWarmupRunsTheLongestRow(t *testing.T) {
	s := toy("toy_packed_tok").session(t, engine.RuntimeOptions{})
	r := newRunner(t, s, -1)
	if err := s.Warmup(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Warmup(ctx, r); err == nil {
		t.Error("a cancelled warm-up is no error")
	}
}

func TestOpeningAndClosingDoesNotLeak(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("SKIPPED: resident memory is read from /proc")
	}
	tm := testModel{onnx: "tiny_packed_cls_fp32", labels: 3, precision: model.FP32}
	m := tm.open(t)
	needLibrary(t)
	cycle := func() {
		s, err := Open(m, engine.RuntimeOptions{})
		if err != nil {
			t.Fatal(err)
		}
		r, err := s.NewRunner(-1)
		if err != nil {
			t.Fatal(err)
		}
		run(t, r, make(engine.Tokens, 48), make(engine.Tokens, 5))
		if err := errors.Join(r.Close(), s.Close()); err != nil {
			t.Fatal(err)
		}
	}
	for range 5 {
		cycle()
	}
	before := resident(t)
	const cycles = 60
	for range cycles {
		cycle()
	}
	if grown := resident(t) - before; grown > cycles*32<<10 {
		t.Errorf("%d cycles grew resident memory by %d KiB", cycles, grown>>10)
	}
}

// resident is the process' resident memory in bytes.
func resident(t testing.TB) int64 {
	t.Helper()
	runtime.GC()
	giveBackMemory()
	b, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		t.Fatal(err)
	}
	var size, pages int64
	if _, err := fmt.Sscan(string(b), &size, &pages); err != nil {
		t.Fatal(err)
	}
	return pages * int64(os.Getpagesize())
}

func TestVersionAndProviders(t *testing.T) {
	needLibrary(t)
	if v := Version(); !strings.HasPrefix(v, "1.") {
		t.Errorf("version %q", v)
	}
	if p := Providers(); len(p) == 0 || p[0] != "cpu" {
		t.Errorf("providers %q", p)
	}
	if n := DefaultRunners(); n < 1 || n > runtime.NumCPU() {
		t.Errorf("%d runners on %d cores", n, runtime.NumCPU())
	}
	if err := Init(os.Getenv(LibraryEnv)); err != nil {
		t.Errorf("the same library once more: %v", err)
	}
	if err := Init("/elsewhere/libonnxruntime.so"); err == nil || !strings.Contains(err.Error(), "already") {
		t.Errorf("another library: %v", err)
	}
}

// TestInitSaysWhatIsWrong loads in processes of its own: a process can load one library only.
func TestInitSaysWhatIsWrong(t *testing.T) {
	const child = "SLUICE_TEST_INIT"
	if path, ok := os.LookupEnv(child); ok {
		err := Init(path)
		fmt.Println("INIT", err, Version() == "")
		return
	}
	dir := t.TempDir()
	text := filepath.Join(dir, "text.so")
	if err := os.WriteFile(text, []byte("not a library"), 0o600); err != nil {
		t.Fatal(err)
	}
	old := filepath.Join(dir, "old.so")
	source := filepath.Join(dir, "old.c")
	const body = `struct base { const void *(*get)(unsigned); const char *(*version)(void); };
static const void *get(unsigned v) { return 0; }
static const char *version(void) { return "1.16.0"; }
static struct base b = {get, version};
const struct base *OrtGetApiBase(void) { return &b; }`
	if err := os.WriteFile(source, []byte(body), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("cc", "-shared", "-fPIC", "-o", old, source).CombinedOutput(); err != nil {
		t.Fatalf("cgo's C compiler: %v: %s", err, out)
	}
	for _, c := range []struct {
		name, argument, env string
		says                []string
	}{
		{"path does not exist", "/nowhere/lib.so", "", []string{"not found", "/nowhere/lib.so", "scripts/native.sh"}},
		{"variable names no file", "", "/nowhere/env.so", []string{"/nowhere/env.so ($SLUICE_ONNXRUNTIME)",
			"not found"}},
		{"nothing beside the executable", "", "", []string{"$SLUICE_ONNXRUNTIME (not set)", "lib/libonnxruntime.so.1"}},
		{"not a library", text, "", []string{text, "cannot be loaded"}},
		{"too old", old, "", []string{old, "too old", "1.24"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			cmd := exec.Command(os.Args[0], "-test.run=^TestInitSaysWhatIsWrong$", "-test.v")
			cmd.Env = append(os.Environ(), child+"="+c.argument, LibraryEnv+"="+c.env)
			out, err := cmd.CombinedOutput()
			if err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			for _, says := range append(c.says, "INIT", "true") {
				if !strings.Contains(string(out), says) {
					t.Errorf("it does not say %q: %s", says, out)
				}
			}
		})
	}
}
