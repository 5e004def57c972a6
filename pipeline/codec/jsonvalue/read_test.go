package jsonvalue

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"reflect"
	"strconv"
	"testing"
	"unicode/utf8"

	"sluice/pipeline/codec"
)

// Python is the witness (testdata/make_strings.py): half of a character is one U+FFFD wherever a string is read, in
// texts, in keys and in fields, and takes none of its neighbours with it.
func TestStringsAreThosePythonReads(t *testing.T) {
	b, err := os.ReadFile("testdata/strings.json")
	if err != nil {
		t.Fatal(err)
	}
	var cases [][3]any
	if err := json.Unmarshal(b, &cases); err != nil || len(cases) < 1000 {
		t.Fatalf("%d cases, %v", len(cases), err)
	}
	for _, c := range cases {
		source, want, half := c[0].(string), c[1].(string), int(c[2].(float64))
		v := open(t, `{"text":`+source+`,"o":{`+source+`:[`+source+`]},"after":1}`)
		if got := string(v.Text()); got != want || v.(codec.Surrogates).Unpaired() != half {
			t.Errorf("%s: %q with a half at %d, want %q, %d", source, got, v.(codec.Surrogates).Unpaired(), want, half)
		}
		if got, found := v.Field(codec.Path{"o", want, "0"}); got != want || !found {
			t.Errorf("%s: by its key it is %q, %v", source, got, found)
		}
		if got, _ := v.Field(codec.Path{"o"}); !reflect.DeepEqual(got, map[string]any{want: []any{want}}) {
			t.Errorf("%s: in an object it is %q", source, got)
		}
	}
}

// Flags tell of a half only where it is in what is judged.
func TestAHalfIsFlagged(t *testing.T) {
	v := open(t, `{"text":"a\ud83d\u0041bc"}`)
	for limit, want := range map[int]codec.Flags{0: {Unpaired: true}, 4: {Unpaired: true, Cut: true}, 1: {Cut: true}} {
		text, flags := codec.Clean(v, limit)
		if flags != want || limit == 0 && string(text) != "a\ufffdAbc" {
			t.Errorf("at most %d bytes: %q with flags %v", limit, text, flags.Names())
		}
	}
	if _, flags := codec.Clean(open(t, "{\"text\":\"\\ufffd \ufffd \\ud83d\\ude00\"}"), 0); flags != (codec.Flags{}) {
		t.Errorf("U+FFFD itself and a pair have flags %v", flags.Names())
	}
}

// The witness is encoding/json, in every position of every valid value.
func FuzzReadAsEncodingJSON(f *testing.F) {
	for _, s := range []string{`{"a":[1,{"b":"\ud83d\u0041"}],"a":{"c":null}}`, ` { "" : [ ] , "x" : { } } `,
		`{"\\":"\"","\u005c":"\\\\"}`, `{"a":{"a":1,"a":[true,false,null,-0,1e5,"\/"]}}`, "{\"\xff\":\"\xff\"}",
		`{"n":[9007199254740993,0.1000000000000000055,1e400,18446744073709551616]}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		if !utf8.Valid(raw) || nesting(raw) > 100 {
			return
		}
		c := New(Options{Text: codec.Path{"text"}, Field: "\x00 none", MaxDepth: 100})
		v, _ := c.Open(context.Background(), raw)
		raw = bytes.TrimPrefix(raw, byteOrderMark)
		d := json.NewDecoder(bytes.NewReader(raw))
		d.UseNumber()
		var want map[string]any
		err := d.Decode(&want)
		if (v == nil) != (err != nil || want == nil || !json.Valid(raw)) {
			t.Fatalf("%q: read %v, encoding/json says %v (%v)", raw, v != nil, err, want)
		}
		if v == nil {
			return
		}
		same(t, raw, v, nil, want)
	})
}

// same compares what a value has at a path, and everywhere below it.
func same(t *testing.T, raw []byte, v codec.Value, path codec.Path, want any) {
	got, found := v.Field(path)
	if !found || !equal(got, want) {
		t.Fatalf("%q: at %q there is %#v (%v), want %#v", raw, path, got, found, want)
	}
	switch w := want.(type) {
	case map[string]any:
		for key, value := range w {
			same(t, raw, v, append(path[:len(path):len(path)], key), value)
		}
	case []any:
		for i, value := range w {
			same(t, raw, v, append(path[:len(path):len(path)], strconv.Itoa(i)), value)
		}
	}
}

// equal: numbers of encoding/json are their digits.
func equal(got, want any) bool {
	switch w := want.(type) {
	case json.Number:
		order, ok := codec.CompareNumbers(got, w)
		return ok && order == 0
	case map[string]any:
		g, ok := got.(map[string]any)
		for k := range w {
			ok = ok && equal(g[k], w[k])
		}
		return ok && len(g) == len(w)
	case []any:
		g, ok := got.([]any)
		ok = ok && len(g) == len(w)
		for i := range w {
			ok = ok && equal(g[i], w[i])
		}
		return ok
	}
	return reflect.DeepEqual(got, want)
}
