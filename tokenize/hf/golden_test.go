package hf

import (
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"sluice/tokenize"
)

// The files in testdata are made by scripts/make_tokenizer_goldens.py, where their fields are explained.

type goldenFile struct {
	Tokenizers       string         `json:"tokenizers"`
	Texts            int            `json:"texts"`
	VocabSize        int            `json:"vocab_size"`
	ContinuingPrefix string         `json:"continuing_prefix"`
	Vocab            map[int]string `json:"vocab"`
	Joined           []struct {
		Tokens []string `json:"tokens"`
		Text   string   `json:"text"`
	} `json:"joined"`
	Modes []goldenMode `json:"modes"`
}

type goldenMode struct {
	Name      string   `json:"name"`
	MaxTokens int      `json:"max_tokens"`
	Windows   bool     `json:"windows"`
	Stride    int      `json:"stride"`
	Digests   []string `json:"digests"`
	// rows of tokens: id, special, byte start and end, character start and end
	Sample map[int][][][6]int `json:"sample"`
}

func (m goldenMode) options() tokenize.Options {
	return tokenize.Options{MaxTokens: m.MaxTokens, Windows: m.Windows, Stride: m.Stride, Offsets: true}
}

var goldenNames = []string{"bert-uncased", "byte-bpe", "unigram"}

func readGzip(t testing.TB, name string, into any) {
	t.Helper()
	f, err := os.Open(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	if err := json.NewDecoder(z).Decode(into); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
}

func hardTexts(t testing.TB) [][]byte {
	var texts [][]byte // base64 in JSON
	readGzip(t, "texts.json.gz", &texts)
	if len(texts) < 5000 {
		t.Fatalf("%d texts, want 5,000 at least", len(texts))
	}
	return texts
}

func open(t testing.TB, name string) *Tokenizer {
	t.Helper()
	tok, err := Open(filepath.Join("testdata", name+".json"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tok.Close() })
	return tok
}

// rowsOf are the rows of an encoded text in the form of the sample.
func rowsOf(text []byte, e tokenize.Encoded) [][][6]int {
	rows := make([][][6]int, 0, len(e.Windows))
	for _, w := range e.Windows {
		runes := tokenize.NewRunes(text)
		row := make([][6]int, len(w.IDs))
		for i, id := range w.IDs {
			special, span := 0, w.Offsets[i]
			if w.Special[i] {
				special = 1
			}
			chars := runes.Span(span)
			row[i] = [6]int{int(id), special, span.Start, span.End, chars.Start, chars.End}
		}
		rows = append(rows, row)
	}
	return rows
}

func digestOf(rows [][][6]int, truncated bool) string {
	var b []byte
	for _, row := range rows {
		for _, token := range row {
			for i, n := range token {
				if i > 0 {
					b = append(b, ' ')
				}
				b = strconv.AppendInt(b, int64(n), 10)
			}
			b = append(b, ',')
		}
		b = append(b, ';')
	}
	if truncated {
		b = append(b, "truncated"...)
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:8])
}

func TestEncodingsEqualHuggingFaces(t *testing.T) {
	texts := hardTexts(t)
	for _, name := range goldenNames {
		var golden goldenFile
		readGzip(t, name+".golden.json.gz", &golden)
		if golden.Texts != len(texts) {
			t.Fatalf("%s: goldens of %d texts, but there are %d: run scripts/make_tokenizer_goldens.py", name,
				golden.Texts, len(texts))
		}
		tok := open(t, name)
		for _, mode := range golden.Modes {
			t.Run(name+"/"+mode.Name, func(t *testing.T) {
				wrong, rows := 0, 0
				const batch = 100
				for start := 0; start < len(texts); start += batch {
					group := texts[start:min(start+batch, len(texts))]
					for j, e := range tok.Encode(group, mode.options()) {
						i := start + j
						if e.Err != nil {
							t.Fatalf("text %d, %.200q: %v", i, texts[i], e.Err)
						}
						got := rowsOf(texts[i], e)
						rows += len(got)
						if digestOf(got, e.Truncated) == mode.Digests[i] {
							continue
						}
						if wrong++; wrong <= 5 {
							t.Errorf("text %d, %.200q\n got %v\nwant %v (if not shown: "+
								"scripts/make_tokenizer_goldens.py --show %s %d %s)",
								i, texts[i], got, mode.Sample[i], name, i, mode.Name)
						}
					}
				}
				if wrong > 0 {
					t.Errorf("%d of %d texts differ from tokenizers %s", wrong, len(texts), golden.Tokenizers)
				}
				t.Logf("%d of %d texts equal, %d rows", len(texts)-wrong, len(texts), rows)
			})
		}
	}
}

// The digests say nothing to a reader; the samples do, and they show that a digest is of what it should be.
func TestSamplesAgreeWithTheirDigests(t *testing.T) {
	for _, name := range goldenNames {
		var golden goldenFile
		readGzip(t, name+".golden.json.gz", &golden)
		for _, mode := range golden.Modes {
			if len(mode.Sample) < 100 {
				t.Errorf("%s %s: only %d samples", name, mode.Name, len(mode.Sample))
			}
			for i, rows := range mode.Sample {
				if d := mode.Digests[i]; digestOf(rows, false) != d && digestOf(rows, true) != d {
					t.Errorf("%s %s: text %d: the digest is not of the sample", name, mode.Name, i)
				}
			}
		}
	}
}

func TestVocabularyEqualsHuggingFaces(t *testing.T) {
	for _, name := range goldenNames {
		t.Run(name, func(t *testing.T) {
			var golden goldenFile
			readGzip(t, name+".golden.json.gz", &golden)
			tok := open(t, name)
			if got := int(tok.tok.VocabSize()); got != golden.VocabSize {
				t.Errorf("vocabulary of %d, want %d", got, golden.VocabSize)
			}
			if got := tok.ContinuingPrefix(); got != golden.ContinuingPrefix {
				t.Errorf("continuing prefix %q, want %q", got, golden.ContinuingPrefix)
			}
			for id, want := range golden.Vocab {
				if got := tok.Token(int32(id)); got != want {
					t.Errorf("token %d is %q, want %q", id, got, want)
				}
			}
			for _, id := range []int32{-1, int32(golden.VocabSize), 1 << 30} {
				if got := tok.Token(id); got != "" {
					t.Errorf("token %d is %q, want none", id, got)
				}
			}
			for _, c := range golden.Joined {
				if got := tok.Join(c.Tokens); got != c.Text {
					t.Errorf("%q join to %q, want %q", strings.Join(c.Tokens, "|"), got, c.Text)
				}
			}
		})
	}
}
