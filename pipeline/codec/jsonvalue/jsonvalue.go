// Package jsonvalue is the codec of JSON objects: the text is a string in a field, results are the object byte for byte
// with one more member.
package jsonvalue

import (
	"bytes"
	"context"
	"strconv"
	"sync"
	"unsafe"

	"github.com/tidwall/gjson"

	"sluice/model"
	"sluice/pipeline"
	"sluice/pipeline/codec"
)

// Options configure a Codec; all are required.
type Options struct {
	Text     codec.Path // of the text
	Field    string     // the member that takes the verdicts, which must not be there yet; see codec.CheckField
	MaxDepth int        // of nested arrays and objects
}

// Codec reads and writes JSON objects (RFC 8259).
type Codec struct{ o Options }

var _ codec.Codec = (*Codec)(nil)

// New makes a codec.
func New(o Options) *Codec { return &Codec{o} }

// value is an opened object. Where text is nil it has not been looked for.
type value struct{ raw, text []byte }

func (v *value) Text() []byte { return v.text }

// Field implements codec.Value.
func (v *value) Field(path codec.Path) (any, bool) {
	at := parse(v.raw)
	for _, key := range path {
		var found bool
		if at, found = child(at, key); !found {
			return nil, false
		}
	}
	return decoded(at), true
}

// parse reads a valid value without copying it; nobody writes to a record's value.
func parse(raw []byte) gjson.Result {
	return gjson.Parse(unsafe.String(unsafe.SliceData(raw), len(raw)))
}

// child is the member of an object, the last of repeated ones, or the element of a list at a position.
func child(at gjson.Result, key string) (next gjson.Result, found bool) {
	switch {
	case at.IsObject():
		at.ForEach(func(k, v gjson.Result) bool {
			if k.Str == key {
				next, found = v, true
			}
			return true
		})
	case at.IsArray():
		n, err := strconv.Atoi(key)
		if err != nil || n < 0 {
			return next, false
		}
		at.ForEach(func(_, v gjson.Result) bool {
			if n--; n < 0 {
				next, found = v, true
			}
			return !found
		})
	}
	return next, found
}

// decoded is a value as codec.Value gives it. Strings are copied.
func decoded(v gjson.Result) any {
	switch {
	case v.Type == gjson.String:
		return string(append([]byte(nil), v.Str...))
	case v.Type == gjson.Number:
		if n, err := strconv.ParseInt(v.Raw, 10, 64); err == nil {
			return n
		}
		if n, err := strconv.ParseUint(v.Raw, 10, 64); err == nil {
			return n
		}
		return v.Num
	case v.IsObject():
		m := map[string]any{}
		v.ForEach(func(k, v gjson.Result) bool {
			m[string(append([]byte(nil), k.Str...))] = decoded(v)
			return true
		})
		return m
	case v.IsArray():
		list := []any{}
		v.ForEach(func(_, v gjson.Result) bool {
			list = append(list, decoded(v))
			return true
		})
		return list
	case v.Type == gjson.True, v.Type == gjson.False:
		return v.Bool()
	}
	return nil
}

// Open implements codec.Codec. The text is unescaped; bytes in it that are not UTF-8 are left as they are. Where a key
// is repeated the last one counts, as in Python, Go and Jackson.
func (c *Codec) Open(_ context.Context, raw []byte) (codec.Value, error) {
	if depth := nesting(raw); depth > c.o.MaxDepth {
		return nil, poison("too-deep", "the JSON is nested %d levels deep, at most %d are read", depth, c.o.MaxDepth)
	}
	if !gjson.ValidBytes(raw) {
		return nil, poison("invalid-json", "the value is not valid JSON")
	}
	at := parse(raw)
	if !at.IsObject() {
		return nil, poison("not-an-object", "the value is JSON but not an object")
	}
	for i, key := range c.o.Text {
		var next gjson.Result
		found, taken := false, false
		if i > 0 && !at.IsObject() {
			next, found = child(at, key)
		} else {
			at.ForEach(func(k, v gjson.Result) bool {
				if k.Str == key {
					next, found = v, true
				}
				if i == 0 && k.Str == c.o.Field {
					taken = true
				}
				return true
			})
		}
		switch so := c.o.Text[:i+1]; {
		case taken:
			return nil, poison("output-field-present", "the object already has a field %q: the record may have been "+
				"through this worker before, or output.field needs another name", c.o.Field)
		case !found:
			return nil, poison("missing-text", "the object has no field %q (input.text is %q)", so, c.o.Text)
		case i < len(c.o.Text)-1 && !next.IsObject() && !next.IsArray():
			return nil, poison("missing-text", "field %q is not an object (input.text is %q)", so, c.o.Text)
		}
		at = next
	}
	if at.Type != gjson.String {
		return nil, poison("text-not-a-string", "field %q is not a string", c.o.Text)
	}
	// a part of raw where nothing is escaped
	return &value{raw, unsafe.Slice(unsafe.StringData(at.Str), len(at.Str))}, nil
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
