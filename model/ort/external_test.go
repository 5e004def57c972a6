package ort

import (
	"encoding/binary"
	"errors"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	onnx "github.com/yalue/onnxruntime_go"
	"google.golang.org/protobuf/encoding/protowire"

	"sluice/model"
	"sluice/pipeline/engine"
)

// withExternal is an ONNX file with one more weight, which it says is in another file.
func withExternal(t testing.TB, name, location string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	text := func(number protowire.Number, s []byte) []byte {
		return protowire.AppendBytes(protowire.AppendTag(nil, number, protowire.BytesType), s)
	}
	pair := func(k, v string) []byte { return text(13, append(text(1, []byte(k)), text(2, []byte(v))...)) }
	tensor := protowire.AppendVarint(protowire.AppendTag(nil, 1, protowire.VarintType), 4)    // dims: 4
	tensor = protowire.AppendVarint(protowire.AppendTag(tensor, 2, protowire.VarintType), 1)  // data_type: float
	tensor = append(tensor, text(8, []byte("stowaway"))...)                                   // name
	tensor = append(append(tensor, pair("location", location)...), pair("length", "16")...)   // external_data
	tensor = protowire.AppendVarint(protowire.AppendTag(tensor, 14, protowire.VarintType), 1) // data_location: external
	// A node that uses it, so that nobody throws it away: y = Identity(stowaway).
	node := append(append(text(1, []byte("stowaway")), text(2, []byte("stowaway-copy"))...),
		text(4, []byte("Identity"))...)
	// fields of a second graph join the first
	return append(data, text(7, append(text(1, node), text(5, tensor)...))...)
}

// directory is a model directory around an ONNX file.
func directory(t testing.TB, onnxFile []byte) *model.Model {
	t.Helper()
	m := toy("toy_padded_cls").open(t)
	if err := os.Remove(m.Path(model.OnnxFile)); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(m.Path(model.OnnxFile), onnxFile, 0o600); err != nil {
		t.Fatal(err)
	}
	return m
}

func TestWeightsOutsideTheDirectoryAreRefused(t *testing.T) {
	needLibrary(t)
	secret := filepath.Join(t.TempDir(), "secret.bin")
	if err := os.WriteFile(secret, weights(), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct{ location, says string }{
		"up and away":          {"../../../../../../etc/passwd", "outside the model directory"},
		"absolute":             {secret, "outside the model directory"},
		"in and out again":     {"sub/../../secret.bin", "outside the model directory"},
		"a link out":           {"link.bin", "a link out of the model directory"},
		"through a linked dir": {"linked/secret.bin", "a link out of the model directory"},
		"not there":            {"none.bin", "no such file"},
		"nothing":              {"", "outside the model directory"},
		"only up":              {"..", "outside the model directory"},
		"NUL in the name":      {"weights.bin\x00/../../secret.bin", "outside the model directory"},
		"NUL behind the name":  {"weights.bin\x00", "invalid argument"},
		"backslashes":          {`..\..\secret.bin`, "no such file"}, // one name here
		"a drive":              {`C:\secret.bin`, "no such file"},
		"a link to a link":     {"twice.bin", "a link out of the model directory"},
		"a URL":                {"file://" + secret, "no such file"},
		"the directory itself": {".", "not a file"},
		"a pipe":               {"pipe", "not a file"},
		"far too large":        {"sparse.bin", "more than any such file has"},
		"an address":           {"*/_ORT_MEM_ADDR_/*", "an address in this process's memory"},
	} {
		t.Run(name, func(t *testing.T) {
			m := directory(t, withExternal(t, "toy_padded_cls.onnx", tc.location))
			m.Manifest = nil
			for link, target := range map[string]string{"link.bin": secret, "linked": filepath.Dir(secret),
				"twice.bin": "link.bin"} {
				if err := os.Symlink(target, m.Path(link)); err != nil {
					t.Fatal(err)
				}
			}
			// The file that ONNX Runtime's name for an address in memory would be, if it were one.
			memory := m.Path("*/_ORT_MEM_ADDR_/*")
			if err := errors.Join(os.MkdirAll(filepath.Dir(memory), 0o700), os.WriteFile(memory, weights(), 0o600),
				os.WriteFile(m.Path("weights.bin"), weights(), 0o600),
				os.WriteFile(m.Path("sparse.bin"), nil, 0o600), os.Truncate(m.Path("sparse.bin"), model.MaxBytes+1),
				syscall.Mkfifo(m.Path("pipe"), 0o600)); err != nil {
				t.Fatal(err)
			}
			s, err := Open(m, engine.RuntimeOptions{})
			if err == nil {
				s.Close()
				t.Fatal("it was opened")
			}
			if !strings.Contains(err.Error(), tc.says) {
				t.Error(err)
			}
		})
	}
}

func TestWeightsBesideTheModelAreLoadedIfTheManifestListsThem(t *testing.T) {
	needLibrary(t)
	m := directory(t, withExternal(t, "toy_padded_cls.onnx", "weights.bin"))
	man := m.Manifest
	m.Manifest = nil
	if err := os.WriteFile(m.Path("weights.bin"), weights(), 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := Open(m, engine.RuntimeOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if w := strings.Join(s.Warnings(), "\n"); !strings.Contains(w, "weights.bin") {
		t.Errorf("no warning: %s", w)
	}
	s.Close()
	if man == nil {
		man = &model.Manifest{}
	}
	err = confine(m.Dir, []string{"weights.bin"}, listedBy(man))
	if err == nil || !strings.Contains(err.Error(), "the manifest does not list") {
		t.Errorf("not listed: %v", err)
	}
	man.Files = map[string]model.File{"weights.bin": {}}
	if err := confine(m.Dir, []string{"weights.bin"}, listedBy(man)); err != nil {
		t.Errorf("listed: %v", err)
	}
}

func TestNoCompiledGraphsAndNoNonsense(t *testing.T) {
	text := func(number protowire.Number, s []byte) []byte {
		return protowire.AppendBytes(protowire.AppendTag(nil, number, protowire.BytesType), s)
	}
	if _, _, err := outside(text(7, text(1, text(4, []byte("EPContext"))))); err == nil ||
		!strings.Contains(err.Error(), "EPContext") {
		t.Errorf("EPContext: %v", err)
	}
	deep := text(5, []byte{})
	for range 200 { // graph in attribute in node in graph
		deep = text(1, text(5, text(6, deep)))
	}
	if _, _, err := outside(text(7, deep)); err == nil || !strings.Contains(err.Error(), "graphs in graphs") {
		t.Errorf("200 graphs in one another: %v", err)
	}
	if _, _, err := outside([]byte("this is no protobuf")); err == nil {
		t.Error("nonsense is an ONNX file")
	}
}

// What was verified is what is loaded, whoever writes to the directory in the meantime.
func TestAFileThatChangesAfterItsVerificationIsNotLoaded(t *testing.T) {
	needLibrary(t)
	m := toy("toy_padded_cls").open(t)
	if err := m.Verify(); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile("testdata/toy_packed_cls.onnx")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(m.Path(model.OnnxFile)); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(m.Path(model.OnnxFile), data, 0o600); err != nil {
		t.Fatal(err)
	}
	if s, err := Open(m, engine.RuntimeOptions{}); err == nil || !strings.Contains(err.Error(),
		"the file was changed") {
		if err == nil {
			s.Close()
		}
		t.Errorf("%v", err)
	}
}

// Inputs, outputs and weights come from the bytes that were hashed: nothing asks the file again, although it is another
// by now.
func TestAFileThatIsSwappedAfterItsHashIsNotAskedAgain(t *testing.T) {
	needLibrary(t)
	m := toy("toy_padded_cls").open(t)
	if err := m.Verify(); err != nil {
		t.Fatal(err)
	}
	verified, err := m.Load(model.OnnxFile)
	if err != nil {
		t.Fatal(err)
	}
	other, err := os.ReadFile("testdata/toy_odd_input.onnx")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(m.Path(model.OnnxFile), other, 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := openBytes(m, verified, engine.RuntimeOptions{Runners: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	r, err := s.NewRunner(-1)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	logits, err := r.Run(t.Context(), inputs([]engine.Tokens{{5, 6}}))
	want := []float32{11, 5.5, -11}
	if err != nil || !slices.Equal(logits[0], want) {
		t.Errorf("%v, %v; want %v", logits, err, want)
	}
}

// The same with weights in another file: only those are opened by name.
func TestAFileWithWeightsBesideItIsNotAskedAgain(t *testing.T) {
	needLibrary(t)
	m := directory(t, withExternal(t, "toy_padded_cls.onnx", "weights.bin"))
	m.Manifest = nil
	secret := filepath.Join(t.TempDir(), "secret.bin")
	if err := errors.Join(os.WriteFile(m.Path("weights.bin"), weights(), 0o600), os.WriteFile(secret, weights(), 0o600),
		m.Verify()); err != nil {
		t.Fatal(err)
	}
	verified, err := m.Load(model.OnnxFile)
	if err != nil {
		t.Fatal(err)
	}
	for name, other := range map[string][]byte{
		"a file that names one elsewhere": withExternal(t, "toy_padded_cls.onnx", secret),
		"another graph":                   withExternal(t, "toy_odd_input.onnx", "weights.bin"),
		"no ONNX file":                    []byte("x"),
	} {
		if err := os.WriteFile(m.Path(model.OnnxFile), other, 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := openBytes(m, verified, engine.RuntimeOptions{Runners: 1})
		if err != nil {
			t.Errorf("swapped for %s: %v", name, err)
			continue
		}
		r, err := s.NewRunner(-1)
		if err != nil {
			t.Fatal(err)
		}
		if logits, err := r.Run(t.Context(), inputs([]engine.Tokens{{5, 6}})); err != nil || !slices.Equal(logits[0],
			[]float32{11, 5.5, -11}) {
			t.Errorf("swapped for %s: %v, %v", name, logits, err)
		}
		r.Close()
		s.Close()
	}
}

// The reader of interfaces says what ONNX Runtime says, of every kind of file at hand.
func TestInterfacesAreWhatONNXRuntimeSees(t *testing.T) {
	needLibrary(t)
	files, err := filepath.Glob("testdata/*.onnx")
	if err != nil {
		t.Fatal(err)
	}
	bundled, err := filepath.Glob("../../models/*/model.onnx")
	if err != nil || len(files) < 5 || len(bundled) < 4 {
		t.Fatal(files, bundled, err)
	}
	for _, name := range append(files, bundled...) {
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		wantIn, wantOut, err := onnx.GetInputOutputInfoWithONNXData(data)
		if err != nil {
			t.Fatal(name, err)
		}
		in, out, err := readInterface(data)
		if d := cmp.Diff([][]onnx.InputOutputInfo{wantIn, wantOut}, [][]onnx.InputOutputInfo{in, out}); d != "" ||
			err != nil {
			t.Errorf("%s: %v (-ONNX Runtime +read)\n%s", name, err, d)
		}
	}
	// Weights among the inputs, as files before IR version 4 list them, and a graph in two pieces, which protobuf
	// joins.
	field := func(number protowire.Number, b ...byte) []byte {
		return protowire.AppendBytes(protowire.AppendTag(nil, number, protowire.BytesType), b)
	}
	weight := field(5, field(8, 'w')...)
	piece := append(append(field(11, field(1, 'w')...), field(11, field(1, 'x')...)...), field(12, field(1, 'y')...)...)
	in, out, err := readInterface(append(field(7, piece...), field(7, weight...)...))
	if err != nil || len(in) != 1 || in[0].Name != "x" || in[0].Dimensions != nil || len(out) != 1 ||
		out[0].Name != "y" {
		t.Errorf("%v, %v, %v", in, out, err)
	}
}

func weights() []byte {
	var b []byte
	for i := range 4 {
		b = binary.LittleEndian.AppendUint32(b, math.Float32bits(float32(i)))
	}
	return b
}

func FuzzExternalFiles(f *testing.F) {
	files, err := filepath.Glob("testdata/toy_*.onnx")
	if err != nil || len(files) == 0 {
		f.Fatal("no ONNX files", err)
	}
	for _, name := range files {
		f.Add(withExternal(f, filepath.Base(name), "x"))
	}
	f.Fuzz(func(_ *testing.T, data []byte) {
		outside(data)
		readInterface(data)
	})
}
