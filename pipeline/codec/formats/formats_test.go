package formats

import (
	"context"
	"strings"
	"testing"

	"sluice/pipeline"
	"sluice/pipeline/codec"
)

// Every format opens a value and seals it with verdicts; those with fields refuse what is none of theirs by name.
func TestEveryFormatOpensAndSeals(t *testing.T) {
	for _, f := range All {
		c, err := New(f.Name, Options{Text: codec.Path{"text"}, Field: "inference", MaxDepth: 9})
		if err != nil {
			t.Fatal(err)
		}
		v, err := c.Open(context.Background(), []byte(f.Sample))
		if err != nil {
			t.Fatalf("%s: %v", f.Name, err)
		}
		if string(v.Text()) != "fine" {
			t.Errorf("%s: the text is %q", f.Name, v.Text())
		}
		if _, found := v.Field(codec.Path{"text"}); found != f.Fields {
			t.Errorf("%s: there is a field: %v", f.Name, found)
		}
		sealed, err := c.Seal(v, &codec.Verdicts{Facts: []pipeline.Fact{{Name: "m"}}, Reason: codec.ReasonEmpty})
		if err != nil || !strings.Contains(string(sealed), `"m":null,"reason":"empty"`) {
			t.Errorf("%s: %s, %v", f.Name, sealed, err)
		}
	}
	if _, err := New("jsom", Options{}); err == nil || !strings.Contains(err.Error(), "json") {
		t.Errorf("an unknown format: %v", err)
	}
	if Names()[0] != "json" {
		t.Errorf("the default is %s; it has been json from the beginning", Names()[0])
	}
}
