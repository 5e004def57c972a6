package ort

// What an ONNX graph takes and gives, and how rows become its inputs. The contracts are those of
// scripts/export_model.py (packed and padded) and of optimum's exports (padded).

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	onnx "github.com/yalue/onnxruntime_go"

	"sluice/model"
)

// graph is the interface of one ONNX file.
type graph struct {
	packed bool
	tokens bool // one row of logits a token
	labels int
	inputs []input
	output string
	half   bool // the output is fp16
}

// input is one input tensor. Its element type is int64 or int32.
type input struct {
	name   string
	narrow bool // int32
	layout inputLayout
}

// inputLayout is the shape of an input and how a batch fills it.
type inputLayout struct {
	name  string
	shape func(b *batch) onnx.Shape
	fill  func(dst []int64, b *batch) // dst has the shape's size and any content
}

// batch is what one run computes.
type batch struct {
	rows    [][]int32
	types   [][]byte // token types of each row; nil where all are 0
	tokens  int      // T: of all rows
	longest int      // S: of the longest row
	pad     int32
}

func perToken(b *batch) onnx.Shape { return onnx.NewShape(int64(b.tokens)) }
func perRow(b *batch) onnx.Shape   { return onnx.NewShape(int64(len(b.rows))) }
func perSlot(b *batch) onnx.Shape  { return onnx.NewShape(int64(len(b.rows)), int64(b.longest)) }

// paddedInputs and packedInputs are all inputs a graph of that layout may have.
var paddedInputs = []inputLayout{
	{"input_ids", perSlot, func(dst []int64, b *batch) {
		for r, row := range b.rows {
			slots := dst[r*b.longest : (r+1)*b.longest]
			for i, id := range row {
				slots[i] = int64(id)
			}
			for i := len(row); i < b.longest; i++ {
				slots[i] = int64(b.pad)
			}
		}
	}},
	{"attention_mask", perSlot, func(dst []int64, b *batch) {
		for r, row := range b.rows {
			for i := range b.longest {
				dst[r*b.longest+i] = 0
				if i < len(row) {
					dst[r*b.longest+i] = 1
				}
			}
		}
	}},
	{tokenTypes, perSlot, func(dst []int64, b *batch) {
		clear(dst)
		for r, types := range b.types {
			for i, t := range types {
				dst[r*b.longest+i] = int64(t)
			}
		}
	}},
}

// tokenTypes is the input that tells the second text of a pair from the first.
const tokenTypes = "token_type_ids"

var packedInputs = []inputLayout{
	{"input_ids", perToken, func(dst []int64, b *batch) {
		n := 0
		for _, row := range b.rows {
			for _, id := range row {
				dst[n] = int64(id)
				n++
			}
		}
	}},
	{"position_ids", perToken, func(dst []int64, b *batch) {
		n := 0
		for _, row := range b.rows {
			for i := range row {
				dst[n] = int64(i)
				n++
			}
		}
	}},
	{tokenTypes, perToken, func(dst []int64, b *batch) {
		clear(dst)
		n := 0
		for r, row := range b.rows {
			for i, t := range b.types[r] {
				dst[n+i] = int64(t)
			}
			n += len(row)
		}
	}},
	// The row of input_ids that stands in each slot of the padded form; unused slots point to the text's first row.
	{"pad_idx", perSlot, func(dst []int64, b *batch) {
		first := 0
		for r, row := range b.rows {
			for i := range b.longest {
				dst[r*b.longest+i] = int64(first)
				if i < len(row) {
					dst[r*b.longest+i] = int64(first + i)
				}
			}
			first += len(row)
		}
	}},
	// And back: the slot of each row.
	{"unpad_idx", perToken, func(dst []int64, b *batch) {
		n := 0
		for r, row := range b.rows {
			for i := range row {
				dst[n] = int64(r*b.longest + i)
				n++
			}
		}
	}},
	{"cls_idx", perRow, func(dst []int64, b *batch) {
		first := 0
		for r, row := range b.rows {
			dst[r] = int64(first)
			first += len(row)
		}
	}},
	{"lengths", perRow, func(dst []int64, b *batch) {
		for r, row := range b.rows {
			dst[r] = int64(len(row))
		}
	}},
}

// inspect reads the interface of an ONNX file from its bytes and checks it against the model's layout, task and labels.
func inspect(data []byte, m *model.Model) (*graph, error) {
	inputs, outputs, err := readInterface(data)
	if err != nil {
		return nil, err
	}
	return newGraph(inputs, outputs, m)
}

func newGraph(inputs, outputs []onnx.InputOutputInfo, m *model.Model) (*graph, error) {
	g := &graph{packed: m.Layout == model.Packed, tokens: m.Task == model.TokenClassification, labels: len(m.Labels)}
	known, required := paddedInputs, []string{"input_ids", "attention_mask"}
	if g.packed {
		known, required = packedInputs, []string{"input_ids", "position_ids", "pad_idx", "unpad_idx", "lengths"}
		if !g.tokens {
			required = append(required, "cls_idx")
		}
	}
	var errs []error
	for _, in := range inputs {
		i := slices.IndexFunc(known, func(l inputLayout) bool { return l.name == in.Name })
		if i < 0 {
			errs = append(errs, fmt.Errorf("input %s is not one of the %s layout, which has %s: %s", in.Name, m.Layout,
				names(known), otherLayout(in.Name, g.packed)))
			continue
		}
		t := input{name: in.Name, layout: known[i], narrow: in.DataType == onnx.TensorElementDataTypeInt32}
		if !t.narrow && in.DataType != onnx.TensorElementDataTypeInt64 {
			errs = append(errs, fmt.Errorf("input %s has elements of type %s: int64 or int32 is needed", in.Name,
				in.DataType))
		}
		if want := len(known[i].shape(&batch{})); in.Dimensions != nil && len(in.Dimensions) != want {
			errs = append(errs, fmt.Errorf("input %s has %d dimensions instead of %d: export the model again", in.Name,
				len(in.Dimensions), want))
		} else if slices.ContainsFunc(in.Dimensions, func(d int64) bool { return d > 0 }) {
			errs = append(errs, fmt.Errorf("input %s has the fixed shape %s: export with dynamic axes, so that texts "+
				"of any number and length fit", in.Name, in.Dimensions))
		}
		g.inputs = append(g.inputs, t)
	}
	for _, name := range required {
		if !slices.ContainsFunc(inputs, func(in onnx.InputOutputInfo) bool { return in.Name == name }) {
			errs = append(errs, fmt.Errorf("input %s is missing, which the %s layout needs: export the model again",
				name, m.Layout))
		}
	}
	if err := g.readOutput(outputs); err != nil {
		errs = append(errs, err)
	}
	return g, errors.Join(errs...)
}

func (g *graph) readOutput(outputs []onnx.InputOutputInfo) error {
	i := slices.IndexFunc(outputs, func(out onnx.InputOutputInfo) bool { return out.Name == "logits" })
	if i < 0 && len(outputs) == 1 {
		i = 0
	}
	if i < 0 {
		var have []string
		for _, out := range outputs {
			have = append(have, out.Name)
		}
		return fmt.Errorf("there is no output logits among %s: export the model with its classification head",
			strings.Join(have, ", "))
	}
	out := outputs[i]
	g.output, g.half = out.Name, out.DataType == onnx.TensorElementDataTypeFloat16
	if !g.half && out.DataType != onnx.TensorElementDataTypeFloat {
		return fmt.Errorf("output %s has elements of type %s: float or float16 is needed", out.Name, out.DataType)
	}
	if out.Dimensions == nil {
		return nil // not declared: the first run tells
	}
	want := len(g.outputShape(&batch{}))
	if len(out.Dimensions) != want {
		return fmt.Errorf("output %s has %d dimensions instead of %d: the model's task or layout is not what "+
			"config.json or manifest.json says", out.Name, len(out.Dimensions), want)
	}
	if n := out.Dimensions[want-1]; n > 0 && n != int64(g.labels) {
		return fmt.Errorf("output %s has %d logits, but config.json names %d labels in id2label: one for each is "+
			"needed", out.Name, n, g.labels)
	}
	return nil
}

// outputShape is [B,L] for classification, [B,S,L] for padded and [T,L] for packed token classification.
func (g *graph) outputShape(b *batch) onnx.Shape {
	switch {
	case !g.tokens:
		return append(perRow(b), int64(g.labels))
	case g.packed:
		return append(perToken(b), int64(g.labels))
	default:
		return append(perSlot(b), int64(g.labels))
	}
}

// split copies the output into one slice a row of the batch.
func (g *graph) split(out []float32, b *batch) [][]float32 {
	size := len(b.rows) * g.labels
	if g.tokens {
		size = b.tokens * g.labels
	}
	all := make([]float32, 0, size)
	logits := make([][]float32, len(b.rows))
	next := 0 // in out
	for r, row := range b.rows {
		n, step := g.labels, g.labels
		if g.tokens {
			n, step = len(row)*g.labels, len(row)*g.labels
			if !g.packed {
				step = b.longest * g.labels
			}
		}
		from := len(all)
		all = append(all, out[next:next+n]...)
		logits[r] = all[from:len(all):len(all)]
		next += step
	}
	return logits
}

// takesTypes says whether the graph has an input for token types.
func (g *graph) takesTypes() bool {
	return slices.ContainsFunc(g.inputs, func(i input) bool { return i.name == tokenTypes })
}

func (g *graph) inputNames() []string {
	out := make([]string, len(g.inputs))
	for i, in := range g.inputs {
		out[i] = in.name
	}
	return out
}

func names(layouts []inputLayout) string {
	out := make([]string, len(layouts))
	for i, l := range layouts {
		out[i] = l.name
	}
	return strings.Join(out, ", ")
}

// otherLayout is the advice for an input that this layout does not have.
func otherLayout(name string, packed bool) string {
	other, called := packedInputs, model.Packed
	if packed {
		other, called = paddedInputs, model.Padded
	}
	if slices.ContainsFunc(other, func(l inputLayout) bool { return l.name == name }) {
		return fmt.Sprintf("the graph looks %s: correct layout in manifest.json by exporting again", called)
	}
	return "export the model for its classification task, without further inputs"
}
