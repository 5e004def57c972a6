package textvalue

import (
	"context"
	"testing"

	"sluice/pipeline"
	"sluice/pipeline/codec"
)

func TestAPlainTextBecomesAnObject(t *testing.T) {
	c := New("inference")
	v, err := c.Open(context.Background(), []byte("a <b> & \"c\"\xe2\x82\xff\u2028"))
	if err != nil {
		t.Fatal(err)
	}
	got, err := c.Seal(v, &codec.Verdicts{Facts: []pipeline.Fact{{Name: "m", Tag: "m@0"}}, Reason: codec.ReasonEmpty,
		Flags: codec.Flags{Repaired: true}})
	const want = `{"text":"a <b> & \"c\"` + "\ufffd\ufffd" +
		`\u2028","inference":{"m":null,"reason":"empty","flags":["invalid-utf8"]}}`
	if string(got) != want || err != nil {
		t.Errorf("\n got %s\nwant %s (%v)", got, want, err)
	}
}
