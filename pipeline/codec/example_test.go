package codec_test

import (
	"bytes"
	"context"
	"fmt"

	"sluice/pipeline"
	"sluice/pipeline/codec"
)

// pairs is a codec of values such as "name=Ada;text=I love it".
type pairs struct{}

type pairsValue map[string]string

// Text implements codec.Value.
func (v pairsValue) Text() []byte { return []byte(v["text"]) }

// Field implements codec.Value.
func (v pairsValue) Field(path codec.Path) (any, bool) {
	s, found := v[path.String()]
	return s, found
}

// Open implements codec.Codec.
func (pairs) Open(_ context.Context, value []byte) (codec.Value, error) {
	v := pairsValue{}
	for _, pair := range bytes.Split(value, []byte(";")) {
		name, text, ok := bytes.Cut(pair, []byte("="))
		if !ok {
			return nil, pipeline.Faultf(pipeline.Poison, "decode", "not-a-pair", "there is no = in a part of the value")
		}
		v[string(name)] = string(text)
	}
	return v, nil
}

// Seal implements codec.Codec.
func (pairs) Seal(v codec.Value, verdicts *codec.Verdicts) ([]byte, error) {
	b := fmt.Appendf(nil, "text=%s", v.Text())
	for _, f := range verdicts.Facts {
		b = fmt.Appendf(b, ";%s=%v", f.Name, f.Value)
	}
	return b, nil
}

// A codec opens values and seals results; rules read fields through what it has opened.
func Example() {
	var c codec.Codec = pairs{}
	v, err := c.Open(context.Background(), []byte("name=Ada;text=I love it"))
	if err != nil {
		fmt.Println(err)
		return
	}
	name, _ := v.Field(codec.Path{"name"})
	fmt.Println(name)
	out, err := c.Seal(v, &codec.Verdicts{Facts: []pipeline.Fact{{Name: "sentiment", Value: "POSITIVE"}}})
	fmt.Println(string(out), err)
	_, err = c.Open(context.Background(), []byte("I love it"))
	fmt.Println(err)
	// Output:
	// Ada
	// text=I love it;sentiment=POSITIVE <nil>
	// decode: there is no = in a part of the value
}
