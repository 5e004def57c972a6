package model

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"path/filepath"
	"regexp"
	"slices"
)

// FormatVersion is the manifest format that this build reads.
const FormatVersion = 1

// Manifest is manifest.json: what scripts/export_model.py made, from what, and how to tell that it still is that.
type Manifest struct {
	FormatVersion int       `json:"format_version"`
	Name          string    `json:"name"`
	Task          Task      `json:"task"`
	Architecture  string    `json:"architecture"`
	Layout        Layout    `json:"layout"`
	Precision     Precision `json:"precision"`
	MaxTokens     int       `json:"max_tokens"`
	PadTokenID    *int32    `json:"pad_token_id"`
	// What tokenizer.json cannot say of the tokenizer. TruncationSide is the side that is cut off a text too long;
	// UnknownToken is the token for what is not in the vocabulary where it is not the vocabulary's own.
	TruncationSide TruncationSide `json:"truncation_side"`
	SpecialTokens  SpecialTokens  `json:"special_tokens"`
	UnknownToken   *string        `json:"unknown_token"`
	// special tokens that were added for the model, so that texts may hold them
	OwnSpecialTokens []string        `json:"own_special_tokens"`
	Files            map[string]File `json:"files"`
	Source           json.RawMessage `json:"source"`
	License          string          `json:"license"`
	Exporter         json.RawMessage `json:"exporter"`
	Quantization     json.RawMessage `json:"quantization"`
	Evaluation       json.RawMessage `json:"evaluation"`
	Calibration      *Calibration    `json:"calibration"`
	Golden           *Golden         `json:"golden"`
}

// Precision is the arithmetic of the graph's large matrix products.
type Precision string

// The precisions that the exporter writes.
const (
	FP32 Precision = "fp32"
	FP16 Precision = "fp16"
	Int8 Precision = "int8"
)

// TruncationSide is the side that is cut off a text too long.
type TruncationSide string

// The sides; none is the right one.
const (
	SideLeft  TruncationSide = "left"
	SideRight TruncationSide = "right"
)

// SpecialTokens says what special tokens in a text are.
type SpecialTokens string

// What they are: text (none said), or the model's tokens.
const (
	SpecialText  SpecialTokens = "text"
	SpecialModel SpecialTokens = "model"
)

// digestLines are what digests say of the tokenizer beside its file; "" where all is as usual.
func (m *Manifest) digestLines() string {
	var lines string
	if m.TruncationSide == SideLeft {
		lines += "truncation_side left\n"
	}
	if m.SpecialTokens == SpecialModel {
		lines += "special_tokens model\n"
	}
	if m.UnknownToken != nil {
		lines += fmt.Sprintf("unknown_token %q\n", *m.UnknownToken)
	}
	return lines
}

// File is one file of the model directory as it was exported.
type File struct {
	SHA256 string `json:"sha256"` // 64 hex digits
	Bytes  int64  `json:"bytes"`
}

// Golden are texts with the ids and logits that the exporting machine computed; the worker's self-test repeats them.
type Golden struct {
	Tolerance float64      `json:"tolerance"` // largest absolute difference of a logit
	Texts     []GoldenText `json:"texts"`
}

// GoldenText is one golden text. Logits has one row for text-classification and one a token for token-classification.
type GoldenText struct {
	Text         string      `json:"text"`
	TextPair     *string     `json:"text_pair"` // the second text of a model that reads two
	InputIDs     []int32     `json:"input_ids"`
	TokenTypeIDs []int       `json:"token_type_ids"` // of a pair
	Logits       [][]float32 `json:"logits"`
}

var hexDigest = regexp.MustCompile(`^[0-9a-f]{64}$`)

// readManifest returns fs.ErrNotExist where there is none.
func readManifest(path string) (*Manifest, error) {
	raw, err := readFile(path, sizeLimits[ManifestFile])
	if err != nil {
		return nil, err
	}
	m, err := parseManifest(raw)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", ManifestFile, err)
	}
	return m, nil
}

// parseManifest is strict: a key that this build does not know may change what the numbers mean.
func parseManifest(raw []byte) (*Manifest, error) {
	var version struct {
		FormatVersion *int `json:"format_version"`
	}
	if err := json.Unmarshal(raw, &version); err != nil {
		return nil, fmt.Errorf("cannot be read: %w: export the model again", err)
	}
	if version.FormatVersion == nil {
		return nil, errors.New("format_version: is missing: this is not a manifest of export_model.py; remove the " +
			"file to use the directory without one")
	}
	if v := *version.FormatVersion; v != FormatVersion {
		return nil, fmt.Errorf("format_version: is %d, this build reads %d: export the model again with the "+
			"export_model.py of this build, or use a matching build", v, FormatVersion)
	}
	m := new(Manifest)
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	if err := d.Decode(m); err != nil {
		return nil, fmt.Errorf("%w: export the model again", err)
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, errors.New("has something behind its JSON object: export the model again")
	}
	if err := m.check(); err != nil {
		return nil, err
	}
	return m, nil
}

func (m *Manifest) check() error {
	var errs []error
	bad := func(field, format string, args ...any) {
		errs = append(errs, fmt.Errorf("%s: %s: export the model again", field, fmt.Sprintf(format, args...)))
	}
	if !slices.Contains([]Task{TextClassification, TokenClassification}, m.Task) {
		bad("task", "is %q, not one of %s", m.Task, quoted(TextClassification, TokenClassification))
	}
	if !slices.Contains([]Layout{Padded, Packed}, m.Layout) {
		bad("layout", "is %q, not one of %s", m.Layout, quoted(Padded, Packed))
	}
	if !slices.Contains([]Precision{FP32, FP16, Int8}, m.Precision) {
		bad("precision", "is %q, not one of %s", m.Precision, quoted(FP32, FP16, Int8))
	}
	if m.MaxTokens < 1 {
		bad("max_tokens", "is %d", m.MaxTokens)
	}
	if m.PadTokenID != nil && *m.PadTokenID < 0 {
		bad("pad_token_id", "is %d", *m.PadTokenID)
	}
	if !slices.Contains([]TruncationSide{"", SideLeft, SideRight}, m.TruncationSide) {
		bad("truncation_side", "is %q, not one of %s", m.TruncationSide, quoted(SideLeft, SideRight))
	}
	if !slices.Contains([]SpecialTokens{"", SpecialText, SpecialModel}, m.SpecialTokens) {
		bad("special_tokens", "is %q, not one of %s", m.SpecialTokens, quoted(SpecialText, SpecialModel))
	}
	for _, name := range digestFiles {
		if _, ok := m.Files[name]; !ok {
			bad("files", "%s is not listed", name)
		}
	}
	for _, name := range m.fileNames() {
		if f := m.Files[name]; !hexDigest.MatchString(f.SHA256) || f.Bytes < 1 {
			bad("files", "%s has sha256 %q and %d bytes", name, f.SHA256, f.Bytes)
		}
		if !filepath.IsLocal(name) {
			bad("files", "%q is not a file of the model directory", name)
		}
	}
	if m.Calibration != nil {
		if err := m.Calibration.check(m.Task); err != nil {
			errs = append(errs, fmt.Errorf("%w: run sluice calibrate again, or take the calibration out of the "+
				"manifest", err))
		}
	}
	if m.Golden != nil && m.Golden.Tolerance <= 0 {
		bad("golden.tolerance", "is %v", m.Golden.Tolerance)
	}
	for i, g := range m.goldenTexts() {
		if len(g.InputIDs) == 0 || len(g.Logits) == 0 {
			bad(fmt.Sprintf("golden.texts[%d]", i), "has %d ids and %d rows of logits", len(g.InputIDs), len(g.Logits))
		}
	}
	return errors.Join(errs...)
}

func (m *Manifest) fileNames() []string { return slices.Sorted(maps.Keys(m.Files)) }

// Pairs says whether the model was exported for pairs of texts. A nil manifest says nothing.
func (m *Manifest) Pairs() bool {
	return slices.ContainsFunc(m.goldenTexts(), func(g GoldenText) bool { return g.TextPair != nil })
}

// pairTypes says whether the second text of a golden pair has a token type of its own.
func (m *Manifest) pairTypes() bool {
	return slices.ContainsFunc(m.goldenTexts(), func(g GoldenText) bool {
		return slices.ContainsFunc(g.TokenTypeIDs, func(t int) bool { return t != 0 })
	})
}

func (m *Manifest) goldenTexts() []GoldenText {
	if m == nil || m.Golden == nil {
		return nil
	}
	return m.Golden.Texts
}
