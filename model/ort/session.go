package ort

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"time"

	onnx "github.com/yalue/onnxruntime_go"

	"sluice/model"
	"sluice/pipeline"
	"sluice/pipeline/engine"
	"sluice/tokenize"
)

// Runtime is ONNX Runtime, once Init has loaded it. It implements engine.Runtime.
type Runtime struct{}

var _ engine.Runtime = Runtime{}

// Open implements engine.Runtime.
func (Runtime) Open(m *model.Model, o engine.RuntimeOptions) (engine.Session, error) {
	s, err := Open(m, o)
	if err != nil {
		return nil, err
	}
	return s, nil
}

// Session is one model in ONNX Runtime. It implements engine.Session. Its methods may be called by many goroutines.
type Session struct {
	model    *model.Model
	graph    *graph
	provider string
	runners  int

	mu       sync.RWMutex // held for reading during runs
	session  *onnx.DynamicAdvancedSession
	warnings []string
}

// Open loads a model's ONNX. Init must have been called. It takes as long as reading the file and preparing the
// weights, and returns a *pipeline.Fault of kind Config.
func Open(m *model.Model, o engine.RuntimeOptions) (*Session, error) {
	var s *Session
	err := withSignalStack(func() (err error) {
		s, err = open(m, o)
		return err
	})
	if err != nil {
		giveBackMemory()
		return nil, &pipeline.Fault{Kind: pipeline.Config, Stage: "infer", Reason: "open",
			Err: fmt.Errorf("model %s: %w", m.Dir, err)}
	}
	return s, nil
}

func open(m *model.Model, o engine.RuntimeOptions) (*Session, error) {
	if Version() == "" {
		return nil, errors.New("ONNX Runtime is not loaded: call Init first")
	}
	if v := os.Getenv(loadConfigEnv); v != "" && v != "0" {
		return nil, fmt.Errorf("%s is %q: ONNX Runtime would take threads, optimizations and profiling from the "+
			"model's file: unset it", loadConfigEnv, v)
	}
	// The bytes that were hashed are the bytes that run: the file is read once, and not again by name.
	data, err := m.Load(model.OnnxFile)
	if err != nil {
		return nil, err
	}
	return openBytes(m, data, o)
}

// loadConfigEnv is the variable by which ONNX Runtime lets a model's metadata (ort_config) change the session.
const loadConfigEnv = "ORT_LOAD_CONFIG_FROM_MODEL"

// openBytes opens the model with data as its ONNX, whatever its file says by now. Only weights in other files are read
// by name.
func openBytes(m *model.Model, data []byte, o engine.RuntimeOptions) (*Session, error) {
	if o.Runners <= 0 {
		o.Runners = DefaultRunners()
	}
	s := &Session{model: m, runners: o.Runners, provider: cpuProvider}
	external, domains, err := outside(data)
	if err == nil {
		err = confine(m.Dir, external, listedBy(m.Manifest))
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", model.OnnxFile, err)
	}
	if s.graph, err = inspect(data, m); err != nil {
		return nil, fmt.Errorf("%s: %w", model.OnnxFile, err)
	}

	options, err := onnx.NewSessionOptions()
	if err != nil {
		return nil, err
	}
	defer options.Destroy()
	if err := s.configure(options); err != nil {
		return nil, err
	}
	if err := s.chooseDevice(options, o); err != nil {
		return nil, err
	}
	if len(external) > 0 {
		s.warn("weights are in other files (%s): they were verified before they were loaded, but not as they were "+
			"loaded", strings.Join(external, ", "))
		if err := options.AddSessionConfigEntry("session.model_external_initializers_file_folder_path",
			m.Dir); err != nil {
			return nil, fmt.Errorf("session options: %w", err)
		}
	}
	s.session, err = onnx.NewDynamicAdvancedSessionWithONNXData(data, s.graph.inputNames(), []string{s.graph.output},
		options)
	data = nil
	debug.FreeOSMemory()
	if err != nil && len(domains) > 0 {
		return nil, fmt.Errorf("%s: needs operators that ONNX Runtime %s does not have, of %q: %w: they are in some "+
			"custom-op library, and none is loaded, because nothing vouches for its code: export the model again, "+
			"with ONNX's own operators", model.OnnxFile, Version(), domains, err)
	}
	if err != nil && s.provider == "openvino" {
		return nil, fmt.Errorf("%s: OpenVINO refuses it: %w: export the model with --ops standard, or set device: cpu",
			model.OnnxFile, err)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: ONNX Runtime %s refuses it: %w: export the model again, or load a newer ONNX "+
			"Runtime", model.OnnxFile, Version(), err)
	}
	return s, nil
}

// listedBy is nil without a manifest.
func listedBy(man *model.Manifest) func(string) bool {
	if man == nil {
		return nil
	}
	return func(name string) bool { _, ok := man.Files[name]; return ok }
}

// configure sets what holds for every model. scripts/sluice_export makes its sessions alike, so that golden logits are
// equal to the last bits. ONNX Runtime accepts a misspelt config entry in silence: TestSessionOptionsTakeEffect tells.
func (s *Session) configure(o *onnx.SessionOptions) error {
	set := []error{
		// One thread a run: the runner's own. Parallel runs on one session scale better than threads within a run, and
		// do not collapse when another process takes a core.
		o.SetIntraOpNumThreads(1),
		o.SetInterOpNumThreads(1),
		o.AddSessionConfigEntry("session.intra_op.allow_spinning", "0"),
		o.AddSessionConfigEntry("session.inter_op.allow_spinning", "0"),
		// Extended is the lowest level at which session.x64quantprecision acts. On our exporter's packed graphs basic,
		// extended and all were equally fast (bundled sentiment and ner, alone and in batches, ONNX Runtime 1.32, AVX2:
		// 3.3k to 5.1k tokens/s each, the spread of one setting being as large); graphs of other tools gain by its
		// fusions, but for one: the kernel of SkipLayerNormalization is slower than Add and LayerNormalization.
		o.SetGraphOptimizationLevel(onnx.GraphOptimizationLevelEnableExtended),
		o.AddSessionConfigEntry("optimization.disable_specified_optimizers", "SkipLayerNormFusion"),
		// A memory pattern is kept for every shape, and hardly two batches have the same: no faster in the same runs.
		o.SetCpuMemArena(true),
		o.SetMemPattern(false),
		o.SetLogSeverityLevel(onnx.LoggingLevelFatal),
	}
	if err := errors.Join(set...); err != nil {
		return fmt.Errorf("session options: %w", err)
	}
	precision := model.Precision("")
	if s.model.Manifest != nil {
		precision = s.model.Manifest.Precision
	}
	// Without VNNI, sums of u8 x s8 products overflow and the answers are off; this converts the weights to u8, which
	// is exact and slower. Whether a graph without a manifest is quantized is unknown: for others the entry changes
	// nothing.
	if saturatesInt8() && (precision == model.Int8 || precision == "") {
		if err := o.AddSessionConfigEntry("session.x64quantprecision", "1"); err != nil {
			return fmt.Errorf("session options: %w", err)
		}
		if precision == model.Int8 {
			s.warn("this CPU has no VNNI instructions: int8 is computed exactly, but slower than on a CPU that has " +
				"them")
		}
	}
	return nil
}

func (s *Session) chooseDevice(options *onnx.SessionOptions, o engine.RuntimeOptions) error {
	if !slices.Contains([]string{"", "fail", "cpu"}, o.DeviceFallback) {
		return fmt.Errorf("device_fallback: %q is unknown; it is \"fail\" or \"cpu\"", o.DeviceFallback)
	}
	var add func(*onnx.SessionOptions) error
	var probed func() error
	var name, remedy string
	switch o.Device {
	case "", "cpu":
		return nil
	case "cuda":
		name, probed, add = "CUDA", probeCUDA, appendCUDA
		remedy = "take libonnxruntime.so.1, libonnxruntime_providers_shared.so and libonnxruntime_providers_cuda.so " +
			"of one onnxruntime-gpu release, side by side, with the CUDA and cuDNN libraries it was built for"
	case "openvino":
		name, probed, add = "OpenVINO", probeOpenVINO, func(so *onnx.SessionOptions) error { return s.useOpenVINO(so) }
		remedy = "run scripts/native.sh openvino, which fetches an ONNX Runtime with it"
	default:
		return fmt.Errorf("device: %q is unknown; it is \"cpu\", \"cuda\" or \"openvino\"", o.Device)
	}
	err := probed()
	if err == nil {
		err = add(options)
	}
	if err == nil {
		s.provider = o.Device
		return nil
	}
	why := fmt.Errorf("device: %s: ONNX Runtime %s (%s) cannot use %s: %w", o.Device, Version(), library.path, name,
		err)
	if o.DeviceFallback == "cpu" {
		s.warn("%v; running on the CPU, as device_fallback says", why)
		return nil
	}
	return fmt.Errorf("%w: %s, and point %s at it; or set device: cpu, or device_fallback: cpu", why, remedy,
		LibraryEnv)
}

// useOpenVINO gives the whole graph to OpenVINO. Operators of ONNX Runtime's own it does not know: a graph that was cut
// into pieces for them would be slower than without it, so such a graph is refused when the session opens.
func (s *Session) useOpenVINO(o *onnx.SessionOptions) error {
	err := errors.Join(
		// OpenVINO has its own, and fusions would bring such operators
		o.SetGraphOptimizationLevel(onnx.GraphOptimizationLevelDisableAll),
		o.AddSessionConfigEntry("session.disable_cpu_ep_fallback", "1"),
		appendOpenVINO(o, s.runners),
	)
	if err == nil && openVINOInBF16() && (s.model.Manifest == nil || s.model.Manifest.Precision == model.FP32) {
		s.warn("OpenVINO multiplies in bf16 on this CPU (AMX): logits differ from fp32 in the third digit")
	}
	return err
}

// cpuProvider is ONNX Runtime's own.
const cpuProvider = "cpu"

// Device is "cuda" for a model on a GPU, and else "cpu": OpenVINO computes on the same cores.
func (s *Session) Device() string {
	if s.provider == "cuda" {
		return s.provider
	}
	return "cpu"
}

// Provider is the execution provider that runs the model: "cpu", "cuda" or "openvino".
func (s *Session) Provider() string { return s.provider }

// Clock is the time that a run takes as far as it is the runner's own doing: its thread's processor time on the CPU,
// nil (the wall clock's) on another device or where the system does not tell.
func (s *Session) Clock() func() time.Duration {
	if s.provider != cpuProvider {
		return nil
	}
	return threadTime
}

// Warnings are sentences about what works, but not as one would wish. Runners may add to them when they are bound.
func (s *Session) Warnings() []string {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return slices.Clone(s.warnings)
}

func (s *Session) warn(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if w := fmt.Sprintf("model %s: ", s.model.Name) + fmt.Sprintf(format, args...); !slices.Contains(s.warnings, w) {
		s.warnings = append(s.warnings, w)
	}
}

// Close waits for runs in progress and frees the session; runners of it then answer with an error.
func (s *Session) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.session == nil {
		return nil
	}
	err := withSignalStack(s.session.Destroy)
	s.session = nil
	giveBackMemory()
	return err
}

// SelfTest computes the manifest's golden texts: the tokenizer must give their ids, and the model their logits within
// the manifest's tolerance. note is a sentence for a person where there is nothing to test. An error is a
// *pipeline.Fault of kind Config that names the text and how far off it is.
func (s *Session) SelfTest(ctx context.Context, tok tokenize.Tokenizer) (note string, err error) {
	man := s.model.Manifest
	if man == nil || man.Golden == nil || len(man.Golden.Texts) == 0 {
		return fmt.Sprintf("model %s has no golden texts in a manifest: it was not tested", s.model.Name), nil
	}
	r, err := s.NewRunner(-1)
	if err != nil {
		return "", err
	}
	defer r.Close()
	tolerance := man.Golden.Tolerance
	if s.provider == "openvino" && openVINOInBF16() {
		// As the exporter allows fp16: bf16 has fewer digits, but the golden texts are those that rounding moves least.
		for _, g := range man.Golden.Texts {
			for _, x := range slices.Concat(g.Logits...) {
				tolerance = max(tolerance, 2e-2*math.Abs(float64(x)))
			}
		}
	}
	for i, g := range man.Golden.Texts {
		if err := s.testGolden(ctx, tok, r, &g, tolerance); err != nil {
			return "", pipeline.Faultf(pipeline.Config, "infer", "self-test", "model %s: golden text %d (%.60q): %w",
				s.model.Dir, i, g.Text, err)
		}
	}
	return "", nil
}

func (s *Session) testGolden(ctx context.Context, tok tokenize.Tokenizer, r engine.Runner, g *model.GoldenText,
	tolerance float64) error {
	var enc tokenize.Encoded
	if g.TextPair != nil {
		enc = tok.EncodePairs([][2][]byte{{[]byte(g.Text), []byte(*g.TextPair)}}, s.model.TokenizeOptions())[0]
	} else {
		enc = tok.Encode([][]byte{[]byte(g.Text)}, s.model.TokenizeOptions())[0]
	}
	if enc.Err != nil {
		return fmt.Errorf("%w: tokenizer.json is not the one that the model was exported with", enc.Err)
	}
	if len(enc.Windows) != 1 || !slices.Equal(enc.Windows[0].IDs, g.InputIDs) {
		return errors.New("it has other token ids than when the model was exported: tokenizer.json is not the same")
	}
	if g.TextPair != nil && !slices.EqualFunc(enc.Windows[0].TypeIDs, g.TokenTypeIDs, func(a byte, b int) bool {
		return int(a) == b
	}) {
		return errors.New("it has other token types than when the model was exported: tokenizer.json is not the same")
	}
	logits, err := r.Run(ctx, []engine.Input{&enc.Windows[0]})
	if err != nil {
		return err
	}
	want := slices.Concat(g.Logits...)
	if len(logits[0]) != len(want) {
		return fmt.Errorf("%d logits instead of %d: export the model again", len(logits[0]), len(want))
	}
	furthest, at := 0.0, 0
	for k, x := range logits[0] {
		off := math.Abs(float64(x) - float64(want[k]))
		if math.IsNaN(off) {
			off = math.Inf(1)
		}
		if off > furthest {
			furthest, at = off, k
		}
	}
	if furthest > tolerance {
		return fmt.Errorf("logit %d is %v instead of %v, off by %.3g where %.3g is allowed: the model or ONNX "+
			"Runtime %s does not compute what it did when the model was exported; run sluice models verify, or "+
			"export it again", at, logits[0][at], want[at], furthest, tolerance, Version())
	}
	return nil
}

// Warmup runs the longest row once, so that the runner's buffers and the session's arena have their full size before
// the first record.
func (s *Session) Warmup(ctx context.Context, r engine.Runner) error {
	ids := []int32{0}
	if man := s.model.Manifest; man != nil && man.Golden != nil && len(man.Golden.Texts) > 0 {
		ids = man.Golden.Texts[0].InputIDs
	}
	row := make(engine.Tokens, s.model.MaxTokens)
	for i := range row {
		row[i] = ids[i%len(ids)]
	}
	_, err := r.Run(ctx, []engine.Input{row})
	return err
}
