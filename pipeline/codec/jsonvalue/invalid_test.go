package jsonvalue

import (
	"bytes"
	"compress/gzip"
	"compress/zlib"
	"context"
	"errors"
	"strings"
	"testing"
	"unicode/utf16"

	"sluice/pipeline"
	"sluice/pipeline/codec"
)

func openPath(path, value string) (codec.Value, error) {
	p, err := codec.ParsePath(path)
	if err != nil {
		panic(err)
	}
	return New(Options{Text: p, Field: "inference", MaxDepth: 9}).Open(context.Background(), []byte(value))
}

// What a value looks like that is no JSON is named, with what to do.
func TestAValueThatIsNoJSONIsNamed(t *testing.T) {
	const object = `{"text":"fine"}`
	utf16of := func(mark string, big bool) string {
		b := []byte(mark)
		for _, u := range utf16.Encode([]rune(object)) {
			if big {
				b = append(b, byte(u>>8), byte(u))
			} else {
				b = append(b, byte(u), byte(u>>8))
			}
		}
		return string(b)
	}
	utf32 := ""
	for _, c := range object {
		utf32 += "\x00\x00\x00" + string(c)
	}
	var gz, zl bytes.Buffer
	g, z := gzip.NewWriter(&gz), zlib.NewWriter(&zl)
	g.Write([]byte(object))
	z.Write([]byte(object))
	g.Close()
	z.Close()
	for name, c := range map[string]struct{ value, reason, want string }{
		"Confluent's JSON": {"\x00\x00\x01\x86\xa1" + object, reasonSchemaRegistry,
			"Schema Registry: a zero byte, the schema id 100001, and behind these five bytes JSON"},
		"Confluent's Avro": {"\x00\x00\x00\x00\x01\x08fine", reasonSchemaRegistry,
			"schema id 1, and behind these five bytes Avro"},
		"id with a letter's code": {"\x00\x00\x00\x7b\x00\x08fine", reasonSchemaRegistry, "schema id 31488"},
		"AWS Glue": {"\x03\x00" + strings.Repeat("u", 16) + object, "invalid-json",
			"AWS Glue Schema Registry"},
		"Avro's single object": {"\xc3\x01" + strings.Repeat("f", 8) + "\x08fine", "invalid-json",
			"single-object encoding"},
		"an Avro file": {"Obj\x01\x04\x14avro.codec", "invalid-json", "Avro container file"},
		"gzip": {gz.String(), "invalid-json",
			"with gzip; let it write plain JSON and set compression.type"},
		"zlib":                  {zl.String(), "invalid-json", "with zlib"},
		"zstd":                  {"\x28\xb5\x2f\xfd\x04\x00y\x00\x00fine", "invalid-json", "with zstd"},
		"lz4":                   {"\x04\x22\x4d\x18\x64\x40\xa7", "invalid-json", "with lz4"},
		"snappy":                {"\xff\x06\x00\x00sNaPpY\x01", "invalid-json", "with snappy"},
		"xerial's snappy":       {"\x82SNAPPY\x00\x00\x00\x00\x01", "invalid-json", "with snappy (xerial)"},
		"bzip2":                 {"BZh91AY&SY\x00\x00", "invalid-json", "with bzip2"},
		"xz":                    {"\xfd7zXZ\x00\x00\x04", "invalid-json", "with xz"},
		"UTF-16, little":        {utf16of("\xff\xfe", false), "invalid-json", "UTF-16"},
		"UTF-16, big":           {utf16of("\xfe\xff", true), "invalid-json", "UTF-16"},
		"UTF-16 without a mark": {utf16of("", false), "invalid-json", "UTF-16"},
		"UTF-16, big, without":  {utf16of("", true), "invalid-json", "UTF-16"},
		"UTF-32":                {utf32, "invalid-json", "UTF-32"},
		"CBOR":                  {"\xd9\xd9\xf7\xa1dtextdfine", "invalid-json", "CBOR"},
		"Smile":                 {":)\n\x01\xfa\x83textCfine\xfb", "invalid-json", "Smile"},
		"BSON": {"\x14\x00\x00\x00\x02text\x00\x05\x00\x00\x00fine\x00\x00"[:20], "invalid-json",
			"BSON"},
		"Java":        {"\xac\xed\x00\x05t\x00\x04fine", "invalid-json", "serialized Java object"},
		"nothing":     {"", "invalid-json", "the value is empty"},
		"white space": {" \n", "invalid-json", "at byte 2 of 2"},
		"text": {"hello", "invalid-json",
			"invalid character 'h' looking for beginning of value, at byte 1 of 5"},
		"BZh without a number":  {"BZhello", "invalid-json", "invalid character 'B'"},
		"two values":            {object + object, "invalid-json", "at byte 16 of 30"},
		"Python's words":        {`{'text': None}`, "invalid-json", "invalid character '\\''"},
		"NaN":                   {`{"text":"a","n":NaN}`, "invalid-json", "invalid character 'N'"},
		"a raw control":         {"{\"text\":\"a\x01\"}", "invalid-json", "in string literal, at byte 11"},
		"two marks":             {"\xef\xbb\xbf\xef\xbb\xbf" + object, "invalid-json", "at byte 1 of 18"},
		"a mark behind a space": {" \xef\xbb\xbf" + object, "invalid-json", "at byte 2"},
		"a mark alone":          {"\xef\xbb\xbf", "invalid-json", "the value is empty"},
		"encoded twice":         {`"{\"text\":\"fine\"}"`, "not-an-object", "its producer encodes values twice"},
		"a string":              {`"fine"`, "not-an-object", "the value is a string, not an object"},
		"a list":                {"[" + object + "]", "not-an-object", "the value is a list, not an object"},
		"null":                  {"null", "not-an-object", "the value is null, not an object"},
		"a number":              {"-1.5e3", "not-an-object", "the value is a number"},
		"true":                  {"true", "not-an-object", "true or false"},
	} {
		v, err := openPath("text", c.value)
		var f *pipeline.Fault
		if v != nil || !errors.As(err, &f) || f.Reason != c.reason || f.Kind != pipeline.Poison ||
			!strings.Contains(f.Error(), c.want) {
			t.Errorf("%s: %v, %#v, want %s: %q", name, v, err, c.reason, c.want)
		}
	}
}

// RFC 8259, section 8.1: a reader may ignore a byte order mark, a writer must not begin with one. The source's fields
// come out byte for byte either way.
func TestAByteOrderMarkIsIgnoredAndNotPassedOn(t *testing.T) {
	c := New(Options{Text: codec.Path{"text"}, Field: "inference", MaxDepth: 9})
	v, err := c.Open(context.Background(), []byte("\xef\xbb\xbf {\"id\": 1, \"text\":\"a\ufeff\"} \r\n"))
	if err != nil {
		t.Fatal(err)
	}
	if id, _ := v.Field(codec.Path{"id"}); id != int64(1) || string(v.Text()) != "a\ufeff" {
		t.Errorf("the id is %v, the text %q", id, v.Text())
	}
	got, err := c.Seal(v, &codec.Verdicts{Facts: []pipeline.Fact{{Name: "m"}}})
	if want := " {\"id\": 1, \"text\":\"a\ufeff\",\"inference\":{\"m\":null}} \r\n"; string(got) != want || err != nil {
		t.Errorf("the result is %q (%v), want %q", got, err, want)
	}
}

// A text may stand in a list. What a path does not find is said step by step.
func TestTextsAreFoundThroughLists(t *testing.T) {
	for path, want := range map[string]string{"comments.0.text": "one", "comments.1.text": "two", "m.1.0": "b",
		"o.0": "by its key", "o.00": "another key", "comments.2": "three", `a\.b`: "dot", "#": "hash", "*.?": "star"} {
		v, err := openPath(path, `{"comments":0,"comments":[{"text":"one"},{"text":"x","text":"two"},"three"],
			"m":[["a"],["b"]],"o":{"0":"by its key","00":"another key"},"a.b":"dot","#":"hash","*":{"?":"star"}}`)
		if err != nil || string(v.Text()) != want {
			t.Errorf("%s: %v, %v, want %q", path, v, err, want)
			continue
		}
		if got, found := v.Field(pathOf(t, path)); got != want || !found {
			t.Errorf("%s as a field: %v, %v", path, got, found)
		}
	}
	for _, c := range []struct{ path, value, reason, want string }{
		{"a.0.text", `{"a":[]}`, "missing-text", `the list "a" has no element 0 (input.text is "a.0.text")`},
		{"a.1", `{"a":["x"]}`, "missing-text", `the list "a" has no element 1`},
		{"a.text", `{"a":[{"text":"x"}]}`, "missing-text", `field "a" is a list, and "text" is no position in one`},
		{"a.-1", `{"a":["x"]}`, "missing-text", `"-1" is no position`},
		{"a.#.text", `{"a":[{"text":"x"}]}`, "missing-text", `"#" is no position`},
		{"a.0.text", `{"a":[{"t":"x"}]}`, "missing-text", `the object has no field "a.0.text"`},
		{"a.0", `{"a":[["x"]]}`, "text-not-a-string", `field "a.0" is a list, not a string`},
		{"a.b", `{"a":"x"}`, "missing-text", `field "a" is a string, not an object`},
		{"a.b.c", `{"a":{"b":null}}`, "missing-text", `field "a.b" is null, not an object (input.text is "a.b.c"); ` +
			`where such records are meant to have no text, a rule of skip leaves them out`},
		{"a", `{"a":null}`, "text-not-a-string", `field "a" is null, not a string; where such records`},
		{"a", `{"a":{"b":1},"a":7}`, "text-not-a-string", `field "a" is a number`},
		{"a.b", `{"a":{"b":"x"},"a":7}`, "missing-text", `field "a" is a number, not an object`},
		{"a", `{"b":1}`, "missing-text", `the object has no field "a" (input.text is "a")`},
		{"a", `{"a":"x","inferenc\u0065":1}`, "output-field-present", `already has a field "inference"`},
	} {
		v, err := openPath(c.path, c.value)
		var f *pipeline.Fault
		if !errors.As(err, &f) || f.Reason != c.reason || !strings.Contains(f.Error(), c.want) {
			t.Errorf("%s in %s: %v, want %s: %s", c.path, c.value, err, c.reason, c.want)
		}
		if v == nil || v.Text() != nil {
			t.Errorf("%s in %s: the value is %v; its fields can be read, it has no text", c.path, c.value, v)
		} else if _, found := v.Field(codec.Path{"none"}); found {
			t.Errorf("%s: there is a field", c.value)
		}
	}
}
