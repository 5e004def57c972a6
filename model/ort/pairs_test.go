package ort

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"sluice/model"
	"sluice/pipeline"
	"sluice/pipeline/engine"
	"sluice/tokenize"
)

func row(types []byte, ids ...int32) engine.Input {
	return &tokenize.Encoding{IDs: ids, TypeIDs: types}
}

// The toy's third logit is the sum of the token types.
func TestTokenTypesReachTheModel(t *testing.T) {
	r := newRunner(t, testModel{onnx: "toy_padded_cls", labels: 3, precision: model.FP32}.session(t,
		engine.RuntimeOptions{}), -1)
	plain, err := r.Run(t.Context(), []engine.Input{row(nil, 1, 2), row(nil, 3)})
	if err != nil {
		t.Fatal(err)
	}
	typed, err := r.Run(t.Context(), []engine.Input{row([]byte{0, 1}, 1, 2), row(nil, 3)})
	if err != nil {
		t.Fatal(err)
	}
	if typed[0][2] != plain[0][2]+1 || !slices.Equal(typed[0][:2], plain[0][:2]) || !slices.Equal(typed[1], plain[1]) {
		t.Errorf("%v with token types, %v without", typed, plain)
	}
	_, err = r.Run(t.Context(), []engine.Input{row([]byte{0, 2}, 1, 2)})
	if err == nil || !strings.Contains(err.Error(), "is of type 2") {
		t.Errorf("a type that the model does not have: %v", err)
	}
}

// Such a model would read the second text as if it were the first, and nobody would see it.
func TestAModelThatIsNotGivenTheTypesThatItKnowsIsRefused(t *testing.T) {
	r := newRunner(t, testModel{onnx: "toy_packed_cls", labels: 3, precision: model.FP32}.session(t,
		engine.RuntimeOptions{}), -1)
	_, err := r.Run(t.Context(), []engine.Input{row([]byte{0, 1}, 1, 2)})
	var f *pipeline.Fault
	if !errors.As(err, &f) || f.Kind != pipeline.Config || f.Reason != "no-token-types" ||
		!strings.Contains(err.Error(), "--pairs") {
		t.Errorf("%v", err)
	}
	if _, err := r.Run(t.Context(), []engine.Input{row([]byte{0, 0}, 1, 2)}); err != nil {
		t.Errorf("one type: %v", err)
	}
}

// testdata/pairs is the exporter's; the ids and token types of its golden rows are transformers' own.
func TestAModelOfPairs(t *testing.T) {
	s := serve(t, "testdata/pairs")
	if note, err := s.session.SelfTest(t.Context(), s.tok); err != nil || note != "" {
		t.Fatalf("%q, %v", note, err)
	}
	if !s.Manifest.Pairs() || !s.PairTypes {
		t.Errorf("%+v", s.Model)
	}
	pair := [][2][]byte{{[]byte("the two words"), []byte("london")}}
	e := s.tok.EncodePairs(pair, s.TokenizeOptions())[0]
	if want := []byte{0, 0, 0, 0, 0, 1, 1}; e.Err != nil || !slices.Equal(e.Windows[0].TypeIDs, want) {
		t.Fatalf("token types %v, %v", e.Windows, e.Err)
	}
	both, err := s.runner.Run(t.Context(), []engine.Input{&e.Windows[0], engine.Tokens(e.Windows[0].IDs)})
	if err != nil {
		t.Fatal(err)
	}
	if slices.Equal(both[0], both[1]) {
		t.Errorf("token types change nothing: %v", both)
	}
	s.Manifest.Golden.Texts[0].TokenTypeIDs[0] ^= 1
	if _, err := s.session.SelfTest(t.Context(), s.tok); err == nil || !strings.Contains(err.Error(), "token types") {
		t.Errorf("a golden row with other token types: %v", err)
	}
}
