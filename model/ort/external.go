package ort

// What an ONNX file refers to outside itself. ONNX Runtime follows such references, so they are looked at before it sees them.

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"

	"google.golang.org/protobuf/encoding/protowire"
)

// maxGraphDepth bounds graphs within graphs (bodies of loops and branches).
const maxGraphDepth = 32

var errNotProtobuf = errors.New("cannot load it: this is no whole ONNX file: export the model again")

// field numbers of onnx.proto that lead to tensors.
type fields map[protowire.Number]*message

type message struct {
	name string
	sub  fields
}

var onnxModel = func() *message {
	tensor := &message{name: "tensor"}
	sparse := &message{name: "sparse", sub: fields{1: tensor, 2: tensor}}
	graph, node, attribute, function, training := &message{name: "graph"}, &message{name: "node"}, &message{name: "attribute"}, &message{name: "function"}, &message{name: "training"}
	graph.sub = fields{1: node, 5: tensor, 15: sparse}
	node.sub = fields{5: attribute}
	attribute.sub = fields{5: tensor, 6: graph, 10: tensor, 11: graph, 22: sparse, 23: sparse}
	function.sub = fields{7: node, 11: attribute}
	training.sub = fields{1: graph, 2: graph}
	return &message{name: "model", sub: fields{7: graph, 20: training, 25: function}}
}()

// externalFiles are the names of other files that hold weights of an ONNX model, as it writes them. It is an error where a
// node wants to load something itself (EPContext, a compiled graph of some accelerator), or where data is no ONNX file.
func externalFiles(data []byte) ([]string, error) {
	w := &walker{}
	err := w.walk(onnxModel, data, 0)
	return w.files, err
}

type walker struct{ files []string }

func (w *walker) walk(m *message, b []byte, depth int) error {
	if depth > 4*maxGraphDepth {
		return fmt.Errorf("has graphs in graphs, %d deep: export the model again", maxGraphDepth)
	}
	for len(b) > 0 {
		number, kind, n := protowire.ConsumeTag(b)
		if n < 0 {
			return errNotProtobuf
		}
		b = b[n:]
		if n = protowire.ConsumeFieldValue(number, kind, b); n < 0 {
			return errNotProtobuf
		}
		if kind == protowire.BytesType {
			value, _ := protowire.ConsumeBytes(b)
			switch sub := m.sub[number]; {
			case sub != nil:
				if err := w.walk(sub, value, depth+1); err != nil {
					return err
				}
			case m.name == "tensor" && number == 13:
				if err := w.entry(value); err != nil {
					return err
				}
			case m.name == "node" && number == 4 && string(value) == "EPContext":
				return errors.New("holds a graph compiled for some accelerator (EPContext), which may load files of its own: export the model again, as a plain graph")
			}
		}
		b = b[n:]
	}
	return nil
}

// entry is one key and value of a tensor's external_data.
func (w *walker) entry(b []byte) error {
	var key, value string
	for len(b) > 0 {
		number, kind, n := protowire.ConsumeTag(b)
		if n < 0 || kind != protowire.BytesType {
			return errNotProtobuf
		}
		v, k := protowire.ConsumeBytes(b[n:])
		if k < 0 {
			return errNotProtobuf
		}
		switch number {
		case 1:
			key = string(v)
		case 2:
			value = string(v)
		}
		b = b[n+k:]
	}
	if key == "location" && !slices.Contains(w.files, value) {
		w.files = append(w.files, value)
	}
	return nil
}

// confine says which of the files are not regular files within dir, links followed, or not among those that the manifest
// lists (nil: there is no manifest).
func confine(dir string, files []string, listed func(string) bool) error {
	root, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return err
	}
	var errs []error
	for _, f := range files {
		if !filepath.IsLocal(f) {
			errs = append(errs, fmt.Errorf("wants weights from %q, outside the model directory: export the model again, with its weights beside it", f))
			continue
		}
		at, err := filepath.EvalSymlinks(filepath.Join(root, f))
		if err != nil {
			errs = append(errs, fmt.Errorf("wants weights from %q: %w: copy the whole directory", f, err))
			continue
		}
		if rel, err := filepath.Rel(root, at); err != nil || !filepath.IsLocal(rel) {
			errs = append(errs, fmt.Errorf("wants weights from %q, which is a link out of the model directory: put the file itself there", f))
			continue
		}
		if listed != nil && !listed(filepath.ToSlash(filepath.Clean(f))) {
			errs = append(errs, fmt.Errorf("wants weights from %q, which the manifest does not list, so nothing vouches for them: export the model again", f))
		}
	}
	return errors.Join(errs...)
}
