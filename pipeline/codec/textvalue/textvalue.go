// Package textvalue is the codec of plain texts: the whole value is the text, and a result is a JSON object of the text
// and the verdicts.
package textvalue

import (
	"context"

	"sluice/model"
	"sluice/pipeline/codec"
	"sluice/tokenize"
)

// Codec reads plain texts.
type Codec struct{ field string }

var _ codec.Codec = (*Codec)(nil)

// New makes a codec; field is the member of results that takes the verdicts (codec.CheckField).
func New(field string) *Codec { return &Codec{field} }

type value []byte

func (v value) Text() []byte                 { return v }
func (v value) Field(codec.Path) (any, bool) { return nil, false }

// Open implements codec.Codec. Every value is a text.
func (c *Codec) Open(_ context.Context, raw []byte) (codec.Value, error) { return value(raw), nil }

// Seal implements codec.Codec. Bytes of the text that are no UTF-8 are U+FFFD in the object.
func (c *Codec) Seal(v codec.Value, verdicts *codec.Verdicts) ([]byte, error) {
	text := v.(value)
	b := append(make([]byte, 0, len(text)+256), `{"text":`...)
	b = append(model.AppendString(b, string(tokenize.Repair(text))), ',')
	b = append(model.AppendString(b, c.field), ':', '{')
	return append(codec.AppendVerdicts(b, verdicts), '}', '}'), nil
}
