package jsonvalue

import (
	"context"
	"strings"
	"testing"

	"sluice/pipeline"
	"sluice/pipeline/codec"
)

func TestTwoTexts(t *testing.T) {
	c := New(Options{Text: codec.Path{"premise"}, Pair: codec.Path{"o", "hypothesis"}, Field: "inference", MaxDepth: 9})
	for _, k := range []struct {
		value, text, pair string
		half              int
		says              []string // of the fault; nil: there is none
	}{
		{`{"premise":"a b","o":{"hypothesis":"c"}}`, "a b", "c", -1, nil},
		{`{"o":{"hypothesis":"x"},"premise":"a","o":{"hypothesis":"\u0063\ud83d"}}`, "a", "c\uFFFD", 1, nil},
		{`{"premise":"","o":{"hypothesis":""}}`, "", "", -1, nil},
		{`{"premise":"a"}`, "", "", 0, []string{"missing-text", `no field "o"`, `input.text_pair is "o.hypothesis"`}},
		{`{"premise":"a","o":{}}`, "", "", 0, []string{"missing-text", `no field "o.hypothesis"`, "input.text_pair"}},
		{`{"premise":"a","o":[]}`, "", "", 0, []string{"missing-text", `"hypothesis" is no position`,
			"input.text_pair"}},
		{`{"premise":"a","o":{"hypothesis":null}}`, "", "", 0, []string{"text-not-a-string", "null", "skip"}},
		{`{"o":{"hypothesis":"c"}}`, "", "", 0, []string{"missing-text", `input.text is "premise"`}},
	} {
		v, err := c.Open(context.Background(), []byte(k.value))
		if k.says != nil {
			f := pipeline.AsFault("decode", err)
			if err == nil || f.Reason != k.says[0] {
				t.Errorf("%s: %v, want %s", k.value, err, k.says[0])
				continue
			}
			for _, s := range k.says[1:] {
				if !strings.Contains(err.Error(), s) {
					t.Errorf("%s: %v does not say %q", k.value, err, s)
				}
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", k.value, err)
			continue
		}
		pair, half := v.(codec.Paired).Pair()
		if string(v.Text()) != k.text || string(pair) != k.pair || pair == nil || half != k.half {
			t.Errorf("%s: %q and %q, half at %d", k.value, v.Text(), pair, half)
		}
	}
	if pair, _ := open(t, `{"text":"a"}`).(codec.Paired).Pair(); pair != nil {
		t.Errorf("nobody asked for a second text, and there is %q", pair)
	}
}
