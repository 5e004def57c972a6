package hf

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"testing"

	"github.com/daulet/tokenizers"

	"sluice/tokenize"
)

// plain is a second implementation of Encode: one call of daulet's package for each text, special tokens and windows
// added here in Go. It exists because a bug in the library's windows was shared by all who used them.
type plain struct {
	tok         *tokenizers.Tokenizer
	first, last int32
}

func newPlain(t *testing.T, name string, first, last int32) *plain {
	definition, err := os.ReadFile(filepath.Join("testdata", name+".json"))
	if err != nil {
		t.Fatal(err)
	}
	tok, err := tokenizers.FromBytes(definition, tokenizers.WithEncodeSpecialTokens())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tok.Close() })
	return &plain{tok: tok, first: first, last: last}
}

func (p *plain) encode(text []byte, o tokenize.Options) (windows []tokenize.Encoding, truncated bool) {
	e := p.tok.EncodeWithOptions(string(text), false, tokenizers.WithReturnOffsets())
	body := tokenize.Encoding{}
	for i, id := range e.IDs {
		body.IDs = append(body.IDs, int32(id))
		body.Offsets = append(body.Offsets, tokenize.Span{Start: int(e.Offsets[i][0]), End: int(e.Offsets[i][1])})
	}
	n := len(body.IDs)
	room := n
	if o.MaxTokens > 0 {
		room = o.MaxTokens - 2
	}
	for start := 0; ; start += room - o.Stride {
		end := min(start+room, n)
		windows = append(windows, tokenize.Encoding{
			IDs:     slices.Concat([]int32{p.first}, body.IDs[start:end], []int32{p.last}),
			Offsets: slices.Concat([]tokenize.Span{{}}, body.Offsets[start:end], []tokenize.Span{{}}),
			Special: slices.Concat([]bool{true}, make([]bool, end-start), []bool{true}),
		})
		if end == n {
			return windows, false
		}
		if !o.Windows {
			return windows, true
		}
	}
}

func TestWindowsEqualASecondImplementation(t *testing.T) {
	texts := slices.DeleteFunc(hardTexts(t), func(text []byte) bool {
		return bytes.IndexByte(text, 0) >= 0 || bytes.Contains(text, []byte{0xC0, 0x80}) // C strings
	})
	for _, c := range []struct {
		name        string
		first, last int32
		// byte-bpe's post-processor moves offsets, so it has no plain form
	}{{"bert-uncased", 101, 102}, {"unigram", 0, 2}} {
		tok, plain := open(t, c.name), newPlain(t, c.name, c.first, c.last)
		for _, o := range []tokenize.Options{
			{Offsets: true},
			{Offsets: true, MaxTokens: 3},
			{Offsets: true, MaxTokens: 17},
			{Offsets: true, MaxTokens: 3, Windows: true},
			{Offsets: true, MaxTokens: 8, Windows: true, Stride: 5},
			{Offsets: true, MaxTokens: 64, Windows: true, Stride: 16},
			{Offsets: true, MaxTokens: 128, Windows: true},
		} {
			t.Run(fmt.Sprintf("%s/max %d windows %v stride %d", c.name, o.MaxTokens, o.Windows, o.Stride),
				func(t *testing.T) {
					rows := 0
					texts := texts
					if o.Windows && o.MaxTokens < 16 { // a row for every few tokens: leave out the long texts
						texts = slices.DeleteFunc(slices.Clone(texts),
							func(text []byte) bool { return len(text) > 1000 })
					}
					for i, e := range tok.Encode(texts, o) {
						windows, truncated := plain.encode(texts[i], o)
						rows += len(windows)
						if e.Err != nil || e.Truncated != truncated || !reflect.DeepEqual(e.Windows, windows) {
							t.Fatalf("%.200q:\n got %v truncated %v error %v\nwant %v truncated %v", texts[i],
								e.Windows,
								e.Truncated, e.Err, windows, truncated)
						}
					}
					t.Logf("%d texts, %d rows", len(texts), rows)
				})
		}
	}
}

// Every token of a text is in some window, in order, and neighbours share exactly the stride.
func TestWindowsCoverTheText(t *testing.T) {
	texts := hardTexts(t)
	for _, name := range goldenNames {
		tok := open(t, name)
		whole := tok.Encode(texts, tokenize.Options{})
		for i, e := range tok.Encode(texts, tokenize.Options{MaxTokens: 20, Windows: true, Stride: 4}) {
			var joined []int32
			for w, window := range e.Windows {
				body := window.IDs[1 : len(window.IDs)-1]
				if w > 0 {
					shared := joined[len(joined)-4:]
					if !slices.Equal(shared, body[:4]) {
						t.Fatalf("%s: text %d: window %d begins with %v, the one before ends with %v", name, i, w,
							body[:4], shared)
					}
					body = body[4:]
				}
				joined = append(joined, body...)
			}
			all := whole[i].Windows[0].IDs
			if !slices.Equal(joined, all[1:len(all)-1]) {
				t.Fatalf("%s: text %d: the windows hold %d tokens, the text has %d", name, i, len(joined), len(all)-2)
			}
		}
	}
}
