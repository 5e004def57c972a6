// Package formats is the list of codecs: what input.format may say, and what it means. A new codec is a line here.
package formats

import (
	"fmt"

	"sluice/pipeline/codec"
	"sluice/pipeline/codec/jsonvalue"
	"sluice/pipeline/codec/textvalue"
)

// Options are what codecs are made of; each takes what it needs.
type Options struct {
	Text     codec.Path // of the text, where a value has fields
	Pair     codec.Path // of the second text; nil: records have one
	Field    string     // member of results that takes the verdicts; see codec.CheckField
	MaxDepth int        // of nested lists and objects
}

// Format is a form of values that has a name.
type Format struct {
	Name string // as input.format says it
	New  func(Options) codec.Codec
	// Fields: values have fields, so the text is one of them (input.text).
	Fields bool
	Sample string // a value of this form whose text is "fine"; where it has fields, the text is the field "text"
}

// All are the formats, the default first.
var All = []Format{
	{Name: "json", Fields: true, Sample: `{"text":"fine"}`, New: func(o Options) codec.Codec {
		return jsonvalue.New(jsonvalue.Options{Text: o.Text, Pair: o.Pair, Field: o.Field,
			MaxDepth: o.MaxDepth})
	}},
	{Name: "text", Sample: "fine", New: func(o Options) codec.Codec { return textvalue.New(o.Field) }},
}

// Names are those of All, in their order.
func Names() []string {
	names := make([]string, len(All))
	for i := range All {
		names[i] = All[i].Name
	}
	return names
}

// Named is the format of a name; nil: there is none.
func Named(name string) *Format {
	for i := range All {
		if All[i].Name == name {
			return &All[i]
		}
	}
	return nil
}

// New makes the codec of a format. The error says that there is none of that name.
func New(name string, o Options) (codec.Codec, error) {
	if f := Named(name); f != nil {
		return f.New(o), nil
	}
	return nil, fmt.Errorf("there is no format %q; known are %v", name, Names())
}
