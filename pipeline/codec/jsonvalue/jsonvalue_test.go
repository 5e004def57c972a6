package jsonvalue

import (
	"bytes"
	"context"
	"encoding/json"
	"math"
	"reflect"
	"strings"
	"testing"
	"unicode/utf8"

	"sluice/pipeline"
	"sluice/pipeline/codec"
)

func open(t *testing.T, value string) codec.Value {
	t.Helper()
	v, err := New(Options{Text: codec.Path{"text"}, Field: "inference", MaxDepth: 9}).Open(context.Background(),
		[]byte(value))
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func pathOf(t *testing.T, s string) codec.Path {
	t.Helper()
	p, err := codec.ParsePath(s)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// Rules, routes and the text see the same record: the last of repeated keys, whole numbers with all their digits, one
// meaning of a path.
func TestFieldsAreThoseThatTheTextIsReadFrom(t *testing.T) {
	v := open(t, `{"text":"first","id":9007199254740993,"big":18446744073709551615,"huge":123456789012345678901234567890,
		"x":1.5,"t":true,"z":null,"a.b":1,"o":{"k":1,"k":2},"l":[{"n":"zero"},{"n":"one"}],"text":"last"}`)
	if string(v.Text()) != "last" {
		t.Errorf("the text is %q", v.Text())
	}
	for path, want := range map[string]any{
		"text": "last", "id": int64(9007199254740993), "big": uint64(math.MaxUint64),
		"huge": json.Number("123456789012345678901234567890"),
		"x":    1.5, "t": true, "z": nil, `a\.b`: int64(1), "o.k": int64(2), "o": map[string]any{"k": int64(2)},
		"l.1.n": "one", "l": []any{map[string]any{"n": "zero"}, map[string]any{"n": "one"}},
	} {
		if got, found := v.Field(pathOf(t, path)); !found || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %#v, %v, want %#v", path, got, found, want)
		}
	}
	for _, path := range []string{"none", "a.b", "l.2", "l.-1", "l.#", "l.-0", "l.+1", "l.01", "l.1_0",
		"l.١", "text.x", "o.*", "l.1.n|@this", "l.1.@this",
		"*", "?d", "o.!k", "l.#(n==one).n", "l.@reverse.0.n", "t.0", "l[0]", "$.id"} {
		if got, found := v.Field(pathOf(t, path)); found {
			t.Errorf("%s: there is %#v", path, got)
		}
	}
}

// A field that rules keep must not be a part of the record's memory that somebody reuses.
func TestAFieldIsACopy(t *testing.T) {
	raw := []byte(`{"text":"a","s":"kept"}`)
	v, err := New(Options{Text: codec.Path{"text"}, Field: "inference", MaxDepth: 9}).Open(context.Background(), raw)
	if err != nil {
		t.Fatal(err)
	}
	got, _ := v.Field(codec.Path{"s"})
	copy(raw, strings.Repeat("#", len(raw)))
	if got != "kept" {
		t.Errorf("the field became %q", got)
	}
}

func FuzzOpenAndInsert(f *testing.F) {
	for _, s := range []string{`{"text":"a"}`, `{}`, `{"a":{"text":"\ud800"}}`, "{\"text\":\"\xff\"}", `[[[]]]`,
		`{"text":"a"}}`, `{"text":"a"} `, "\xef\xbb\xbf{\"text\":\"a\"}", `{"text":"\ud83d\u0041\ude00"}`,
		"{\"text\":\"\u2028\"}"} {
		f.Add([]byte(s))
	}
	c := New(Options{Text: codec.Path{"text"}, Field: "inference", MaxDepth: 512})
	f.Fuzz(func(t *testing.T, value []byte) {
		v, err := c.Open(context.Background(), value)
		if err != nil {
			if pipeline.KindOf(err) != pipeline.Poison {
				t.Fatalf("%q: %v is no poison fault", value, err)
			}
			return
		}
		value = bytes.TrimPrefix(value, byteOrderMark)
		var source map[string]json.RawMessage
		if err := json.Unmarshal(value, &source); err != nil {
			t.Fatalf("%q was accepted, encoding/json says %v", value, err)
		}
		if utf8.Valid(value) {
			var want string
			if err := json.Unmarshal(source["text"], &want); err != nil || want != string(v.Text()) {
				t.Fatalf("%q: text %q, encoding/json has %q (%v)", value, v.Text(), want, err)
			}
		}
		out := insert(value, []byte(`"inference":{"m":1}`))
		var result map[string]json.RawMessage
		if err := json.Unmarshal(out, &result); err != nil {
			t.Fatalf("%q became %q: %v", value, out, err)
		}
		if string(result["inference"]) != `{"m":1}` || len(result) != len(source)+1 {
			t.Fatalf("%q became %q", value, out)
		}
		end := bytes.LastIndexByte(value, '}')
		if !bytes.HasPrefix(out, value[:end]) || !bytes.HasSuffix(out, value[end:]) {
			t.Fatalf("%q became %q: source bytes changed", value, out)
		}
	})
}
