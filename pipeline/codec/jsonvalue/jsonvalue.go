// Package jsonvalue is the codec of JSON objects: the text is a string in a field, results are the object byte for byte
// with one more member.
package jsonvalue

import (
	"bytes"
	"context"
	"sync"

	"github.com/tidwall/gjson"

	"sluice/model"
	"sluice/pipeline"
	"sluice/pipeline/codec"
)

// Options configure a Codec; what has no default is required.
type Options struct {
	Text codec.Path // of the text
	Pair codec.Path // of a second text; nil: there is none
	// Field is the member that takes the verdicts, which must not be there yet (codec.CheckField); "": nothing is
	// sealed.
	Field    string
	MaxDepth int // of nested arrays and objects
}

// Codec reads and writes JSON objects (RFC 8259).
type Codec struct{ o Options }

var _ codec.Codec = (*Codec)(nil)

// New makes a codec.
func New(o Options) *Codec { return &Codec{o} }

// value is an opened object.
type value struct {
	raw      []byte // the object and white space around it, without a byte order mark
	text     []byte // nil where it has not been found
	unpaired int    // see codec.Surrogates

	pair         []byte // the second text; nil where there is none
	pairUnpaired int
}

var (
	_ codec.Surrogates = (*value)(nil)
	_ codec.Paired     = (*value)(nil)
)

// Text implements codec.Value.
func (v *value) Text() []byte { return v.text }

// Unpaired implements codec.Surrogates.
func (v *value) Unpaired() int { return v.unpaired }

// Pair implements codec.Paired.
func (v *value) Pair() ([]byte, int) { return v.pair, v.pairUnpaired }

// Field implements codec.Value. It finds what the text is found by: keys, the last of repeated ones, and positions in
// lists.
func (v *value) Field(path codec.Path) (any, bool) {
	at := root(v.raw)
	for _, step := range path {
		var found bool
		if at, found = child(at, step); !found {
			return nil, false
		}
	}
	return decoded(at), true
}

// Open implements codec.Codec. The text is unescaped; bytes in it that are not UTF-8 are left as they are. Where a key
// is repeated the last one counts, as in Python, Go and Jackson. A byte order mark before the object is ignored, as RFC
// 8259 (section 8.1) allows, and left out of what Seal makes, as it demands.
func (c *Codec) Open(_ context.Context, raw []byte) (codec.Value, error) {
	raw = bytes.TrimPrefix(raw, byteOrderMark)
	if depth := nesting(raw); depth > c.o.MaxDepth {
		return nil, poison("too-deep", "the JSON is nested %d levels deep, at most %d are read", depth, c.o.MaxDepth)
	}
	if !gjson.ValidBytes(raw) {
		return nil, invalid(raw)
	}
	at := root(raw)
	if at[0] != '{' {
		return nil, poison("not-an-object", "the value is %s, not an object%s", kind(at), twice(at))
	}
	v := &value{raw: raw, unpaired: -1, pairUnpaired: -1}
	return v, c.find(v, at)
}

// find looks for the text of an object, and for the output field beside it.
func (c *Codec) find(v *value, object []byte) error {
	var at []byte
	for members := inside(object); ; {
		key, node, ok := members.next(true)
		if !ok {
			break
		}
		if c.o.Field != "" && isKey(key, c.o.Field) {
			return poison("output-field-present", "the object already has a field %q: the record may have been "+
				"through this worker before, or output.field needs another name", c.o.Field)
		}
		if isKey(key, c.o.Text[0]) {
			at = node
		}
	}
	var err error
	if v.text, v.unpaired, err = textAt(at, c.o.Text, "input.text"); err != nil || c.o.Pair == nil {
		return err
	}
	at, _ = child(object, c.o.Pair[0])
	v.pair, v.pairUnpaired, err = textAt(at, c.o.Pair, "input.text_pair")
	return err
}

// textAt is the text at a path, unescaped, and its first unpaired half (see codec.Surrogates). at is what the path's
// first step is in the object, nil if that has none; key is the setting that the path is from.
func textAt(at []byte, path codec.Path, key string) ([]byte, int, error) {
	if at == nil {
		return nil, -1, poison("missing-text", "the object has no field %q (%s is %q)", path[:1], key, path)
	}
	for i, step := range path[1:] {
		next, found := child(at, step)
		if !found {
			return nil, -1, missing(at, path, i+1, key)
		}
		at = next
	}
	if at[0] != '"' {
		return nil, -1, poison("text-not-a-string", "field %q is %s, not a string%s", path, kind(at), ofNull(at))
	}
	s, unpaired := text(at)
	return s, unpaired, nil
}

// missing says why a value has nothing at the step of a text's path that follows the first n.
func missing(at []byte, path codec.Path, n int, key string) error {
	switch at[0] {
	case '{':
		return poison("missing-text", "the object has no field %q (%s is %q)", path[:n+1], key, path)
	case '[':
		if _, ok := codec.Position(path[n]); ok {
			return poison("missing-text", "the list %q has no element %s (%s is %q)", path[:n], path[n], key, path)
		}
		return poison("missing-text", "field %q is a list, and %q is no position in one (%s is %q): positions "+
			"are whole numbers from 0, such as %s.0", path[:n], path[n], key, path, path[:n])
	}
	return poison("missing-text", "field %q is %s, not an object (%s is %q)%s", path[:n], kind(at), key, path,
		ofNull(at))
}

// kind is what a value is, with its article.
func kind(node []byte) string {
	switch node[0] {
	case '{':
		return "an object"
	case '[':
		return "a list"
	case '"':
		return "a string"
	case 't', 'f':
		return "true or false"
	case 'n':
		return "null"
	}
	return "a number"
}

// ofNull is what to do about a null in the text's place, as the deletes of change data have it.
func ofNull(node []byte) string {
	if node[0] == 'n' {
		return "; where such records are meant to have no text, a rule of skip leaves them out"
	}
	return ""
}

// twice names a string that holds an object.
func twice(node []byte) string {
	if node[0] != '"' {
		return ""
	}
	if s, _ := text(node); gjson.ValidBytes(s) && root(s)[0] == '{' {
		return "; it holds a JSON object as text: its producer encodes values twice"
	}
	return ""
}

func poison(reason, format string, args ...any) error {
	return pipeline.Faultf(pipeline.Poison, "decode", reason, format, args...)
}

// scratches are buffers for the output field, which Seal copies into the value.
var scratches = sync.Pool{New: func() any { return new([]byte) }}

// Seal implements codec.Codec.
func (c *Codec) Seal(v codec.Value, verdicts *codec.Verdicts) ([]byte, error) {
	scratch := scratches.Get().(*[]byte)
	defer scratches.Put(scratch)
	b := append(model.AppendString((*scratch)[:0], c.o.Field), ':', '{')
	b = append(codec.AppendVerdicts(b, verdicts), '}')
	*scratch = b
	return insert(v.(*value).raw, b), nil
}

// nesting is the depth of brackets outside strings. It needs no valid JSON and no recursion, so it may look at
// anything.
func nesting(b []byte) int {
	depth, deepest := 0, 0
	for i := 0; i < len(b); i++ {
		switch b[i] {
		case '"':
			for i++; i < len(b) && b[i] != '"'; i++ {
				if b[i] == '\\' {
					i++
				}
			}
		case '{', '[':
			depth++
			deepest = max(deepest, depth)
		case '}', ']':
			depth--
		}
	}
	return deepest
}

// insert returns object, byte for byte, with one more member (`"name":value`) before its closing brace. object is a
// valid JSON object.
func insert(object, member []byte) []byte {
	end := bytes.LastIndexByte(object, '}')
	out := make([]byte, 0, len(object)+len(member)+1)
	out = append(out, object[:end]...)
	if body := bytes.TrimRight(object[:end], " \t\r\n"); body[len(body)-1] != '{' {
		out = append(out, ',')
	}
	out = append(out, member...)
	return append(out, object[end:]...)
}
