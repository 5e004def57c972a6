package pipeline

import (
	"bytes"
	"strings"
	"unsafe"

	"github.com/tidwall/gjson"
)

// This file owns the way in: where the text stands in a record, and every way in which a record can be unfit.

// Format says how a record's value holds its text.
type Format string

const (
	JSON Format = "json" // a JSON object with the text in a field
	Text Format = "text" // the value is the text
)

// Decoder finds the text in a record's value.
type Decoder struct {
	Format   Format
	Path     []string // of the text field, one object key each
	Field    string   // the output field, which must not be there yet
	MaxDepth int      // of nested arrays and objects
}

// ParsePath splits "payload.body" into keys; "\." is a dot in a key.
func ParsePath(s string) []string {
	var keys []string
	var key strings.Builder
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] == '\\' && i+1 < len(s):
			i++
			key.WriteByte(s[i])
		case s[i] == '.':
			keys = append(keys, key.String())
			key.Reset()
		default:
			key.WriteByte(s[i])
		}
	}
	return append(keys, key.String())
}

// Decode returns the text of a value, unescaped; bytes that are not UTF-8 are left as they are. The error is a Poison
// fault. Where a key is repeated the last one counts, as in Python, Go and Jackson.
func (d *Decoder) Decode(value []byte) ([]byte, error) {
	if d.Format == Text {
		return value, nil
	}
	if depth := nesting(value); depth > d.MaxDepth {
		return nil, Faultf(Poison, "decode", "too-deep", "the JSON is nested %d levels deep, at most %d are read",
			depth, d.MaxDepth)
	}
	if !gjson.ValidBytes(value) {
		return nil, Faultf(Poison, "decode", "invalid-json", "the value is not valid JSON")
	}
	at := gjson.Parse(unsafe.String(unsafe.SliceData(value), len(value))) // nobody writes to a record's value
	if !at.IsObject() {
		return nil, Faultf(Poison, "decode", "not-an-object", "the value is JSON but not an object")
	}
	for i, key := range d.Path {
		var next gjson.Result
		found, taken := false, false
		at.ForEach(func(k, v gjson.Result) bool {
			if k.Str == key {
				next, found = v, true
			}
			if i == 0 && k.Str == d.Field {
				taken = true
			}
			return true
		})
		switch {
		case taken:
			return nil, Faultf(Poison, "decode", "output-field-present", "the object already has a field %q: the "+
				"record may have been through this worker before, or output.field needs another name", d.Field)
		case !found:
			return nil, Faultf(Poison, "decode", "missing-text", "the object has no field %q (input.text is %q)",
				strings.Join(d.Path[:i+1], "."), strings.Join(d.Path, "."))
		case i < len(d.Path)-1 && !next.IsObject():
			return nil, Faultf(Poison, "decode", "missing-text", "field %q is not an object (input.text is %q)",
				strings.Join(d.Path[:i+1], "."), strings.Join(d.Path, "."))
		}
		at = next
	}
	if at.Type != gjson.String {
		return nil, Faultf(Poison, "decode", "text-not-a-string", "field %q is not a string", strings.Join(d.Path, "."))
	}
	return []byte(at.Str), nil
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

// Insert returns object, byte for byte, with one more member (`"name":value`) before its closing brace. object is a
// valid JSON object.
func Insert(object, member []byte) []byte {
	end := bytes.LastIndexByte(object, '}')
	out := make([]byte, 0, len(object)+len(member)+1)
	out = append(out, object[:end]...)
	if body := bytes.TrimRight(object[:end], " \t\r\n"); body[len(body)-1] != '{' {
		out = append(out, ',')
	}
	out = append(out, member...)
	return append(out, object[end:]...)
}
