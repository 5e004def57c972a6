package ort

// What an ONNX file could make ONNX Runtime do beside computing: load code, change the session, read what no check has
// seen.

import (
	"encoding/binary"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	onnx "github.com/yalue/onnxruntime_go"
	"google.golang.org/protobuf/encoding/protowire"

	"sluice/model"
	"sluice/pipeline"
)

// bytesField is a field of a protobuf message that has a length.
func bytesField(number protowire.Number, value ...byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(nil, number, protowire.BytesType), value)
}

func textOf(number protowire.Number, value string) []byte {
	return bytesField(number, []byte(value)...)
}

// toyWith is an ONNX file that works, with more fields of a model behind its own; protobuf joins them.
func toyWith(t testing.TB, fields ...[]byte) []byte {
	t.Helper()
	data, err := os.ReadFile("testdata/toy_padded_cls.onnx")
	if err != nil {
		t.Fatal(err)
	}
	return append(data, slices.Concat(fields...)...)
}

// node is a NodeProto whose output nobody uses.
func node(domain, op string, attributes ...[]byte) []byte {
	return slices.Concat(textOf(2, "of-"+op), textOf(4, op), textOf(7, domain), slices.Concat(attributes...))
}

func opset(domain string, version uint64) []byte { return bytesField(8, opsetID(domain, version)...) }

func opsetID(domain string, version uint64) []byte {
	return protowire.AppendVarint(protowire.AppendTag(textOf(1, domain), 2, protowire.VarintType), version)
}

// metadata is an entry of a model's metadata_props.
func metadata(key, value string) []byte {
	return bytesField(14, append(textOf(1, key), textOf(2, value)...)...)
}

// refused opens a directory around the ONNX file and wants an error of kind Config that has all of says.
func refused(t *testing.T, data []byte, says ...string) {
	t.Helper()
	m := directory(t, data)
	m.Manifest = nil
	s, err := Open(m, Options{Runners: 1})
	if err == nil {
		s.Close()
		t.Fatal("it was opened")
	}
	if pipeline.KindOf(err) != pipeline.Config {
		t.Errorf("the error is of kind %s", pipeline.KindOf(err))
	}
	for _, w := range append(says, m.Dir, model.OnnxFile) {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("error does not mention %q: %v", w, err)
		}
	}
}

// Libraries that lie beside a model under names that something may look for are not loaded, and a model that needs the
// operators of one is refused with a sentence about it.
func TestNoCustomOperatorLibraryIsLoaded(t *testing.T) {
	needLibrary(t)
	source := filepath.Join(t.TempDir(), "lib.c")
	code := `#include <fcntl.h>
#include <stdlib.h>
__attribute__((constructor)) static void loaded(void) { const char *at = getenv("SLUICE_TEST_LOADED"); if (at) open(at, O_CREAT, 0600); }
void *RegisterCustomOps(void *options, const void *api) { loaded(); return 0; }
`
	if err := os.WriteFile(source, []byte(code), 0o600); err != nil {
		t.Fatal(err)
	}
	lib := filepath.Join(t.TempDir(), "lib.so")
	if out, err := exec.Command("cc", "-shared", "-fPIC", "-o", lib, source).CombinedOutput(); err != nil {
		t.Fatalf("cc: %v: %s", err, out) // cgo needs it too
	}
	mark := filepath.Join(t.TempDir(), "loaded")
	t.Setenv("SLUICE_TEST_LOADED", mark)
	// That it would tell.
	control := exec.Command("true")
	control.Env = append(os.Environ(), "LD_PRELOAD="+lib)
	if err := control.Run(); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(mark); err != nil {
		t.Fatalf("the library does not tell that it was loaded: %v", err)
	}
	code2, err := os.ReadFile(lib)
	if err != nil {
		t.Fatal(err)
	}

	paths := metadata("ort_config",
		`{"session_options": {"custom_op_library": "./libcustom_ops.so", "session.custom_ops": "./libcustom_ops.so"}, "custom_ops": ["libcustom_ops.so"]}`)
	for name, c := range map[string]struct {
		data []byte
		says []string
	}{
		"a domain of its own": {toyWith(t, opset("evil", 1),
			bytesField(7, bytesField(1, node("evil", "Op")...)...)), []string{`"evil"`, "custom-op library",
			"export the model again"}},
		"a domain without a version": {toyWith(t, bytesField(7, bytesField(1, node("evil", "Op")...)...)),
			[]string{`"evil"`, "custom-op library", "export the model again"}},
		"onnxruntime-extensions": {toyWith(t, opset("ai.onnx.contrib", 1),
			bytesField(7, bytesField(1, node("ai.onnx.contrib", "BertTokenizer")...)...)), []string{`"ai.onnx.contrib"`,
			"custom-op library"}},
		"Python": {toyWith(t, opset("com.microsoft", 1),
			bytesField(7, bytesField(1, node("com.microsoft", "PyOp", bytesField(5, append(textOf(1, "module"),
				textOf(4, "os")...)...))...)...)), []string{"PyOp", "refuses it"}},
		"a library in the metadata": {toyWith(t, opset("evil", 1), paths,
			bytesField(7, bytesField(1, node("evil", "Op")...)...)), []string{`"evil"`, "custom-op library"}},
		"an accelerator's compiled graph": {toyWith(t, opset("com.microsoft", 1),
			bytesField(7, bytesField(1, node("com.microsoft", "EPContext")...)...)), []string{"EPContext",
			"export the model again"}},
		"the same in another domain": {toyWith(t, opset("evil", 1),
			bytesField(7, bytesField(1, node("evil", "EPContext")...)...)), []string{"EPContext"}},
		"the same in a function": {toyWith(t, bytesField(25, append(textOf(1, "F"),
			bytesField(7, node("com.microsoft", "EPContext")...)...)...)), []string{"EPContext"}},
		"the same in a branch of a branch": {toyWith(t, bytesField(7,
			bytesField(1, node("", "If", bytesField(5, bytesField(6,
				bytesField(1, node("", "If", bytesField(5, bytesField(11,
					bytesField(1, node("com.microsoft", "EPContext")...)...)...))...)...)...))...)...)),
			[]string{"EPContext"}},
		"the same in graphs for training": {toyWith(t, bytesField(20,
			bytesField(2, bytesField(1, node("com.microsoft", "EPContext")...)...)...)), []string{"EPContext"}},
		"nothing but a library beside it":   {toyWith(t), nil},
		"nothing but a library in metadata": {toyWith(t, paths), nil},
	} {
		t.Run(name, func(t *testing.T) {
			m := directory(t, c.data)
			m.Manifest = nil
			for _, name := range []string{"libcustom_ops.so", "libcustom_op_library.so", "libortextensions.so",
				"libonnxruntime_extensions.so", "libonnxruntime_providers_shared.so",
				"libonnxruntime_providers_cuda.so", "libonnxruntime_providers_openvino.so", "custom_ops.so", "model.so",
				"evil.so", "model.onnx.so"} {
				if err := os.WriteFile(m.Path(name), code2, 0o700); err != nil {
					t.Fatal(err)
				}
			}
			t.Chdir(m.Dir)
			s, err := Open(m, Options{Runners: 1})
			if err == nil {
				s.Close()
			}
			if c.says == nil && err != nil || c.says != nil && (err == nil || pipeline.KindOf(err) != pipeline.Config) {
				t.Fatalf("opened: %v", err)
			}
			for _, w := range c.says {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("error does not mention %q: %v", w, err)
				}
			}
			if _, err := os.Stat(mark); err == nil {
				t.Error("a library from the model's directory was loaded")
			}
			maps, err := os.ReadFile("/proc/self/maps")
			if err != nil {
				t.Fatal(err)
			}
			if strings.Contains(string(maps), m.Dir) {
				t.Error("a file of the model's directory is mapped as code or data")
			}
		})
	}
}

// A model's own functions are no custom operators.
func TestFunctionsOfTheModelMayHaveTheirOwnDomain(t *testing.T) {
	needLibrary(t)
	function := slices.Concat(textOf(1, "Same"), textOf(4, "x"), textOf(5, "y"),
		bytesField(7, slices.Concat(textOf(1, "x"), textOf(2, "y"), textOf(4, "Identity"))...),
		bytesField(9, opsetID("", 17)...), textOf(10, "mine"))
	m := directory(t, toyWith(t, opset("mine", 1), bytesField(25, function...),
		bytesField(7, bytesField(1, append(textOf(1, "input_ids"), node("mine", "Same")...)...)...)))
	m.Manifest = nil
	s, err := Open(m, Options{Runners: 1})
	if err != nil {
		t.Fatal(err)
	}
	s.Close()
}

// With the variable, a model could have ONNX Runtime write profiles into the working directory; without it, what the
// model says of sessions counts for nothing.
func TestAModelCannotChangeItsSession(t *testing.T) {
	needLibrary(t)
	asks := toyWith(t, metadata("ort_config",
		`{"session_options": {"enable_profiling": 1, "intra_op_num_threads": 64, "execution_mode": 1, "graph_optimization_level": 0}}`))
	for _, c := range []struct {
		value string
		says  []string
	}{
		{"", nil}, {"0", nil},
		{"1", []string{loadConfigEnv, `"1"`, "unset it"}},
		{"yes", []string{loadConfigEnv, `"yes"`, "unset it"}},
	} {
		m := directory(t, asks)
		m.Manifest = nil
		t.Run("variable "+c.value, func(t *testing.T) {
			t.Chdir(t.TempDir())
			t.Setenv(loadConfigEnv, c.value)
			s, err := Open(m, Options{Runners: 1})
			if err == nil {
				r, err := s.NewRunner(-1)
				if err != nil {
					t.Fatal(err)
				}
				if _, err := r.Run(t.Context(), []pipeline.Row{{5, 6}}); err != nil {
					t.Error(err)
				}
				r.Close()
				s.Close()
			}
			if (err == nil) != (c.says == nil) {
				t.Errorf("opened: %v", err)
			}
			for _, w := range c.says {
				if err != nil && !strings.Contains(err.Error(), w) {
					t.Errorf("error does not mention %q: %v", w, err)
				}
			}
			if left, err := os.ReadDir("."); err != nil || len(left) > 0 {
				t.Errorf("it wrote %v, %v", left, err)
			}
		})
	}
}

// ONNX Runtime tells its own format by four letters, and then nothing else counts: a file may be that, and to us an
// ONNX file with another graph.
func TestONNXRuntimesOwnFormatIsRefused(t *testing.T) {
	needLibrary(t)
	own := ownFormat(t)
	refused(t, own, ".ort", "give the ONNX file that it was made from")

	// The first four bytes are where the root of the format is, and two fields of ONNX: a number, and four bytes,
	// "ORTM".
	both := []byte{0x18, 0x01, 0x7A, 0x04}
	root, was := int(binary.LittleEndian.Uint32(both)), int(binary.LittleEndian.Uint32(own))
	both = append(both, own[4:8]...)
	both = protowire.AppendTag(both, 15, protowire.BytesType)
	end := root - was + len(own)
	both = protowire.AppendVarint(both, uint64(end-len(both)-4)) // four bytes for the length
	both = append(both, make([]byte, end-len(both))...)
	copy(both[root-was+8:], own[8:])
	other, err := os.ReadFile("testdata/toy_odd_input.onnx")
	if err != nil {
		t.Fatal(err)
	}
	both = append(both, other...)
	if in, _, err := readInterface(both); err != nil || in[len(in)-1].Name != "pixel_values" {
		t.Fatalf("to us it is not the other graph: %v, %v", in, err)
	}
	s, err := onnx.NewDynamicAdvancedSessionWithONNXData(both, []string{"input_ids"}, []string{"logits"}, nil)
	if err != nil {
		t.Fatalf("to ONNX Runtime it is not the first graph: %v", err)
	}
	s.Destroy()
	refused(t, both, ".ort", "give the ONNX file that it was made from")
}

// ownFormat is the toy model as ONNX Runtime saves it in its own format.
func ownFormat(t *testing.T) []byte {
	t.Helper()
	o, err := onnx.NewSessionOptions()
	if err != nil {
		t.Fatal(err)
	}
	defer o.Destroy()
	at := filepath.Join(t.TempDir(), "toy.ort")
	if err := errors.Join(o.SetOptimizedModelFilePath(at), o.AddSessionConfigEntry("session.save_model_format",
		"ORT")); err != nil {
		t.Fatal(err)
	}
	s, err := onnx.NewDynamicAdvancedSessionWithONNXData(toyWith(t), []string{"input_ids"}, []string{"logits"}, o)
	if err != nil {
		t.Fatal(err)
	}
	s.Destroy()
	b, err := os.ReadFile(at)
	if err != nil || string(b[4:8]) != "ORTM" {
		t.Fatal(err)
	}
	return b
}
