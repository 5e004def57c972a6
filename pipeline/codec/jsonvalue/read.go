package jsonvalue

import (
	"bytes"
	"unicode/utf16"
	"unicode/utf8"

	"sluice/pipeline/codec"
)

// This file owns how a valid JSON value is walked and how its strings are read. Nothing else in the worker unescapes a
// record's strings. A node is the bytes of one value, without white space around it.

// cursor goes over the members of an object, or the elements of a list, in their order.
type cursor struct {
	b  []byte
	at int
}

// inside is a cursor before the first member or element of an object or list.
func inside(node []byte) cursor { return cursor{node, 1} }

// next is the next value, and in an object its key, quotes included. ok is false behind the last.
func (c *cursor) next(object bool) (key, node []byte, ok bool) {
	c.skip()
	if c.b[c.at] == '}' || c.b[c.at] == ']' {
		return nil, nil, false
	}
	if object {
		key = c.value()
		c.skip()
	}
	return key, c.value(), true
}

// skip passes white space, commas and colons.
func (c *cursor) skip() {
	for {
		switch c.b[c.at] {
		case ' ', '\t', '\r', '\n', ',', ':':
			c.at++
		default:
			return
		}
	}
}

// value passes one value and returns it.
func (c *cursor) value() []byte {
	from := c.at
	switch c.b[from] {
	case '"':
		c.at = stringEnd(c.b, from)
	case '{', '[':
		c.at = nestedEnd(c.b, from)
	default: // a number or a word goes on until something else comes
		for c.at++; c.at < len(c.b); c.at++ {
			if b := c.b[c.at]; b <= ' ' || b == ',' || b == '}' || b == ']' {
				break
			}
		}
	}
	return c.b[from:c.at]
}

// nestedEnd is the offset behind the object or list that begins at b[at].
func nestedEnd(b []byte, at int) int {
	for depth := 0; ; {
		switch b[at] {
		case '"':
			at = stringEnd(b, at)
			continue
		case '{', '[':
			depth++
		case '}', ']':
			depth--
		}
		if at++; depth == 0 {
			return at
		}
	}
}

// stringEnd is the offset behind the string that begins at b[at].
func stringEnd(b []byte, at int) int {
	for i := at + 1; ; i++ {
		i += bytes.IndexByte(b[i:], '"')
		slashes := 0
		for b[i-1-slashes] == '\\' {
			slashes++
		}
		if slashes%2 == 0 { // each pair is a backslash of the string
			return i + 1
		}
	}
}

// root is the value of a valid text.
func root(raw []byte) []byte { return bytes.Trim(raw, " \t\r\n") }

// child is the member of an object, the last of repeated ones, or the element of a list at a position.
func child(node []byte, step string) (found []byte, ok bool) {
	c := inside(node)
	switch node[0] {
	case '{':
		for {
			key, v, more := c.next(true)
			if !more {
				return found, found != nil
			}
			if isKey(key, step) {
				found = v
			}
		}
	case '[':
		n, ok := codec.Position(step)
		if !ok {
			return nil, false
		}
		for ; ; n-- {
			_, v, more := c.next(false)
			if !more || n == 0 {
				return v, more
			}
		}
	}
	return nil, false
}

// isKey says whether a key, as it is written, is name.
func isKey(key []byte, name string) bool {
	if bytes.IndexByte(key, '\\') < 0 {
		return string(key[1:len(key)-1]) == name
	}
	s, _ := text(key)
	return string(s) == name
}

// decoded is a value as codec.Value gives it. Nothing of it is a part of node.
func decoded(node []byte) any {
	switch node[0] {
	case '"':
		s, _ := text(node)
		return string(s)
	case '{':
		m := map[string]any{}
		for c := inside(node); ; {
			key, v, ok := c.next(true)
			if !ok {
				return m
			}
			s, _ := text(key)
			m[string(s)] = decoded(v)
		}
	case '[':
		list := []any{}
		for c := inside(node); ; {
			_, v, ok := c.next(false)
			if !ok {
				return list
			}
			list = append(list, decoded(v))
		}
	case 't':
		return true
	case 'f':
		return false
	case 'n':
		return nil
	}
	n, _ := codec.ParseNumber(string(node))
	return n
}

// text is what a string says, which is a part of quoted where nothing in it is escaped. Bytes that are no UTF-8 stay as
// they are. An escape of one half of a UTF-16 surrogate pair (RFC 8259, section 7) whose other half does not stand
// beside it is U+FFFD, and takes nothing of its neighbours with it, as encoding/json reads it, and Python after
// decode("utf-16", "replace"); half is where in s the first of them is, -1: there is none.
func text(quoted []byte) (s []byte, half int) {
	in := quoted[1 : len(quoted)-1]
	at := bytes.IndexByte(in, '\\')
	if at < 0 {
		return in, -1
	}
	s, half = make([]byte, 0, len(in)), -1
	for at >= 0 {
		s = append(s, in[:at]...)
		in = in[at+1:]
		switch c := in[0]; c {
		case 'u':
			r := unit(in[1:])
			in = in[5:]
			if utf16.IsSurrogate(r) {
				pair := rune(utf8.RuneError)
				if len(in) > 1 && in[0] == '\\' && in[1] == 'u' {
					pair = utf16.DecodeRune(r, unit(in[2:]))
				}
				if pair != utf8.RuneError {
					in = in[6:]
				} else if half < 0 {
					half = len(s)
				}
				r = pair
			}
			s = utf8.AppendRune(s, r)
		default:
			s = append(s, plain[c])
			in = in[1:]
		}
		at = bytes.IndexByte(in, '\\')
	}
	return append(s, in...), half
}

// plain is what a letter behind a backslash stands for.
var plain = [256]byte{'"': '"', '\\': '\\', '/': '/', 'b': '\b', 'f': '\f', 'n': '\n', 'r': '\r', 't': '\t'}

// unit is the UTF-16 code unit that four hexadecimal digits are.
func unit(hex []byte) rune {
	var r rune
	for _, c := range hex[:4] {
		r <<= 4
		switch {
		case c <= '9':
			r |= rune(c - '0')
		default:
			r |= rune(c|0x20-'a') + 10
		}
	}
	return r
}
