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

	"sluice/pipeline"
	"sluice/tokenize"
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
	// Field is what stands at a path: nil, string, bool, a number (see ParseNumber), []any or map[string]any; false
	// where there is nothing. Numbers keep every digit. Of repeated keys the last one counts.
	Field(path Path) (any, bool)
}

// Surrogates is a Value whose form can write half of a character: one code unit of a UTF-16 surrogate pair, as \ud83d
// in JSON.
type Surrogates interface {
	Value
	// Unpaired is where in Text the first U+FFFD stands that is there in place of an unpaired half; -1: there is none.
	Unpaired() int
}

// Paired is a Value with a second text, which models of pairs read beside the first.
type Paired interface {
	Value
	// Pair is the second text as Text is the first, and what Unpaired says of it; nil where its codec was not asked for
	// one.
	Pair() (text []byte, unpaired int)
}

// Flags say what was done to a text before it was judged.
type Flags struct {
	Repaired bool // bytes that are no UTF-8 read as U+FFFD
	Unpaired bool // unpaired halves of UTF-16 surrogate pairs read as U+FFFD
	Cut      bool // longer than the byte limit
}

// Clean is the text of a value as it is judged: at most maxBytes of it (0: all), as tokenize.Clean cuts it, and what
// was done to it.
func Clean(v Value, maxBytes int) ([]byte, Flags) {
	unpaired := -1
	if h, ok := v.(Surrogates); ok {
		unpaired = h.Unpaired()
	}
	return clean(v.Text(), unpaired, maxBytes)
}

// CleanPair is Clean for the second text; nil: there is none.
func CleanPair(v Value, maxBytes int) ([]byte, Flags) {
	p, ok := v.(Paired)
	if !ok {
		return nil, Flags{}
	}
	text, unpaired := p.Pair()
	if text == nil {
		return nil, Flags{}
	}
	return clean(text, unpaired, maxBytes)
}

func clean(text []byte, unpaired, maxBytes int) ([]byte, Flags) {
	clean := tokenize.Clean(text, maxBytes)
	return clean.Bytes, Flags{Repaired: clean.Repaired, Unpaired: unpaired >= 0 && unpaired < len(clean.Bytes),
		Cut: clean.Cut}
}

// Or is what was done to either of two texts.
func (f Flags) Or(g Flags) Flags {
	return Flags{Repaired: f.Repaired || g.Repaired, Unpaired: f.Unpaired || g.Unpaired, Cut: f.Cut || g.Cut}
}

// Names of flags in the output field, see Flags.
const (
	FlagInvalidUTF8 = "invalid-utf8"       // Repaired
	FlagUnpaired    = "unpaired-surrogate" // Unpaired
	FlagCut         = "text-cut"           // Cut
)

// Names are the flags that are set, as the output field has them.
func (f Flags) Names() []string {
	var names []string
	if f.Repaired {
		names = append(names, FlagInvalidUTF8)
	}
	if f.Unpaired {
		names = append(names, FlagUnpaired)
	}
	if f.Cut {
		names = append(names, FlagCut)
	}
	return names
}

// Add sets the flag of a name. Names that nobody here knows are left out.
func (f *Flags) Add(name string) {
	switch name {
	case FlagInvalidUTF8:
		f.Repaired = true
	case FlagUnpaired:
		f.Unpaired = true
	case FlagCut:
		f.Cut = true
	}
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
