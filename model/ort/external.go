package ort

// What an ONNX file refers to outside itself. ONNX Runtime follows such references, so they are looked at before it
// sees them.

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"google.golang.org/protobuf/encoding/protowire"

	"sluice/model"
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
	graph, node, attribute, function, training := &message{name: "graph"}, &message{name: "node"},
		&message{name: "attribute"}, &message{name: "function"}, &message{name: "training"}
	graph.sub = fields{1: node, 5: tensor, 15: sparse}
	node.sub = fields{5: attribute}
	attribute.sub = fields{5: tensor, 6: graph, 10: tensor, 11: graph, 22: sparse, 23: sparse}
	function.sub = fields{7: node, 11: attribute}
	training.sub = fields{1: graph, 2: graph}
	return &message{name: "model", sub: fields{7: graph, 20: training, 25: function}}
}()

// outside says what an ONNX model needs that is not in its own bytes: the names of other files that hold weights, as it
// writes them, and the domains of operators that are neither ONNX Runtime's nor functions of the model. It is an error
// where a node wants to load something itself (EPContext, a compiled graph of some accelerator), or where data is no
// ONNX file.
func outside(data []byte) (files, domains []string, err error) {
	// ONNX Runtime takes what has these letters for its own format, whatever else it is, and would run what was not
	// looked at.
	if len(data) >= 8 && string(data[4:8]) == "ORTM" {
		return nil, nil, errors.New("is in ONNX Runtime's own format (.ort), which can not be checked as an ONNX " +
			"file can: give the ONNX file that it was made from")
	}
	w := &walker{}
	err = w.walk(onnxModel, data, 0)
	domains = slices.DeleteFunc(w.domains, func(d string) bool { return slices.Contains(w.functions, d) || builtIn(d) })
	return w.files, domains, err
}

// builtIn says whether a domain is one of those whose operators ONNX Runtime brings.
func builtIn(domain string) bool {
	for _, d := range []string{"ai.onnx", "com.microsoft", "com.ms.internal", "org.pytorch.aten"} {
		if domain == "" || domain == d || strings.HasPrefix(domain, d+".") && domain != "ai.onnx.contrib" {
			return true
		}
	}
	return false
}

type walker struct{ files, domains, functions []string }

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
				return errors.New("holds a graph compiled for some accelerator (EPContext), which may load files of " +
					"its own: export the model again, as a plain graph")
			case m.name == "node" && number == 7 && !slices.Contains(w.domains, string(value)):
				w.domains = append(w.domains, string(value))
			case m.name == "function" && number == 10 && !slices.Contains(w.functions, string(value)):
				w.functions = append(w.functions, string(value))
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

// memoryTag begins what ONNX Runtime writes in place of a file's name where weights are in memory already; the offset
// is then an address.
const memoryTag = "*/_ORT_"

// confine says which of the files are not regular files within dir, links followed, or not among those that the
// manifest lists (nil: there is no manifest).
func confine(dir string, files []string, listed func(string) bool) error {
	root, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return err
	}
	var errs []error
	for _, f := range files {
		if strings.HasPrefix(f, memoryTag) {
			errs = append(errs, fmt.Errorf("wants weights from an address in this process's memory (%q): export the "+
				"model again", f))
			continue
		}
		if !filepath.IsLocal(f) {
			errs = append(errs, fmt.Errorf("wants weights from %q, outside the model directory: export the model "+
				"again, with its weights beside it", f))
			continue
		}
		at, err := filepath.EvalSymlinks(filepath.Join(root, f))
		if err != nil {
			errs = append(errs, fmt.Errorf("wants weights from %q: %w: copy the whole directory", f, err))
			continue
		}
		if rel, err := filepath.Rel(root, at); err != nil || !filepath.IsLocal(rel) {
			errs = append(errs, fmt.Errorf("wants weights from %q, which is a link out of the model directory: put "+
				"the file itself there", f))
			continue
		}
		switch st, err := os.Stat(at); { // a pipe would block for ever
		case err != nil:
			errs = append(errs, fmt.Errorf("wants weights from %q: %w: copy the whole directory", f, err))
		case !st.Mode().IsRegular():
			errs = append(errs, fmt.Errorf("wants weights from %q, which is not a file: copy the whole directory", f))
		case st.Size() > model.MaxBytes:
			errs = append(errs, fmt.Errorf("wants weights from %q, which has %d bytes, more than any such file has "+
				"(%d): is it the right one?", f, st.Size(), model.MaxBytes))
		}
		if listed != nil && !listed(filepath.ToSlash(filepath.Clean(f))) {
			errs = append(errs, fmt.Errorf("wants weights from %q, which the manifest does not list, so nothing "+
				"vouches for them: export the model again", f))
		}
	}
	return errors.Join(errs...)
}
