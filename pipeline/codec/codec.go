// Package codec is the seam between a record's value and the rest of the worker: how a text and other fields are found
// in it, and how verdicts are added to it. Everybody who reads fields of a record (rules, urgency, routes) reads them
// through a Value, so that all of them see the same record.
//
// Codecs are rooms below this one (jsonvalue, textvalue). A new one is a package that implements Codec, and a line in
// the worker's list.
package codec

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"sluice/pipeline"
)

// Codec knows one form of values. Safe for concurrent use.
type Codec interface {
	// Open reads a value, which is not null. It does not wait: what a codec has to fetch from elsewhere (a schema) it
	// fetches beside, and says Transient meanwhile; the record is opened again after a pause. Another error is a
	// *pipeline.Fault, too: Poison, whose Reason stands in the dead letter, or Config, which stops the worker.
	Open(ctx context.Context, value []byte) (Value, error)
	// Seal is the value of a result: what Open read, its fields byte for byte where the form allows it, with the
	// verdicts added. v is a value of this codec. An error is a Poison fault.
	Seal(v Value, verdicts *Verdicts) ([]byte, error)
}

// Value is a record's value, opened. Safe for concurrent use; nobody writes to it.
type Value interface {
	// Text is the text to be judged, as bytes that need not be UTF-8.
	Text() []byte
	// Field is what stands at a path: nil, string, bool, int64, uint64, float64, []any or map[string]any; false where
	// there is nothing. Whole numbers keep 64 bits. Of repeated keys the last one counts.
	Field(path Path) (any, bool)
}

// Path names a place in a value: keys of objects, and positions in lists from 0, from the outside in.
type Path []string

// ParsePath splits "payload.body" into keys; "\." is a dot in a key, "\\" a backslash.
func ParsePath(s string) Path {
	var keys Path
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

// String is what ParsePath reads.
func (p Path) String() string {
	keys := make([]string, len(p))
	for i, k := range p {
		keys[i] = strings.NewReplacer(`\`, `\\`, ".", `\.`).Replace(k)
	}
	return strings.Join(keys, ".")
}

// Flags say what was done to a text before it was judged.
type Flags struct {
	Repaired bool // bytes that are no UTF-8 read as U+FFFD
	Cut      bool // longer than the byte limit
}

// Verdicts is what is added to a value: facts, in the order of the models, and what concerns all of them.
type Verdicts struct {
	Facts  []pipeline.Fact
	Reason string // why no fact has a value: ReasonEmpty; "": they have
	Flags  Flags
}

// ReasonEmpty is the reason of verdicts on a text that has nothing but white space.
const ReasonEmpty = "empty"

// ReservedNames may not be names of facts: the output field uses them itself.
var ReservedNames = []string{"reason", "flags"}

// CheckField says why a name cannot be the output field or a fact's name in it.
func CheckField(name string) error {
	if name == "" {
		return errors.New("it must not be empty")
	}
	for _, r := range name {
		if r < 0x20 || r == '"' || r == '\\' || r == 0xFFFD {
			return fmt.Errorf("%q holds a character that would have to be escaped in JSON", name)
		}
	}
	return nil
}
