package hf

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"sluice/tokenize"
)

func encode(t *testing.T, tok *Tokenizer, text string, o tokenize.Options) tokenize.Encoded {
	t.Helper()
	e := tok.Encode([][]byte{[]byte(text)}, o)[0]
	if e.Err != nil {
		t.Fatalf("%q: %v", text, e.Err)
	}
	return e
}

func tokensOf(tok *Tokenizer, e tokenize.Encoding) string {
	var tokens []string
	for _, id := range e.IDs {
		tokens = append(tokens, tok.Token(id))
	}
	return strings.Join(tokens, " ")
}

func TestTextIsNeverControl(t *testing.T) {
	for _, c := range []struct{ name, tokenizer, text, want string }{
		{"special tokens are text", "bert-uncased", "a [SEP] b", "[CLS] a [ sep ] b [SEP]"},
		{"special tokens are text", "unigram", "</s>", "<s> ▁< / s > </s>"},
		{"NUL does not end a text", "bert-uncased", "good\x00 bad", "[CLS] good bad [SEP]"},
		{"NUL is removed, not a space", "bert-uncased", "go\x00od", "[CLS] good [SEP]"},
		{"invalid bytes are removed by BERT", "bert-uncased", "go\xffod", "[CLS] good [SEP]"},
		{"an empty text has its special tokens", "bert-uncased", "", "[CLS] [SEP]"},
		{"a word over 100 characters is unknown", "bert-uncased", strings.Repeat("a", 10_000), "[CLS] [UNK] [SEP]"},
	} {
		t.Run(c.tokenizer+"/"+c.name, func(t *testing.T) {
			tok := open(t, c.tokenizer)
			if got := tokensOf(tok, encode(t, tok, c.text, tokenize.Options{}).Windows[0]); got != c.want {
				t.Errorf("%.40q: %s\nwant %s", c.text, got, c.want)
			}
		})
	}
}

func TestTruncationIsFlaggedAndKeepsTheLastToken(t *testing.T) {
	tok := open(t, "bert-uncased")
	e := encode(t, tok, "one two three four", tokenize.Options{MaxTokens: 5})
	if got := tokensOf(tok, e.Windows[0]); got != "[CLS] one two three [SEP]" || !e.Truncated {
		t.Errorf("%s, truncated %v", got, e.Truncated)
	}
	e = encode(t, tok, "one two three", tokenize.Options{MaxTokens: 5})
	if got := tokensOf(tok, e.Windows[0]); got != "[CLS] one two three [SEP]" || e.Truncated {
		t.Errorf("%s, truncated %v", got, e.Truncated)
	}
}

func TestOffsetsAreThereWhenAskedFor(t *testing.T) {
	tok := open(t, "bert-uncased")
	text := "\xe2\x82 naïve\x00"
	with := encode(t, tok, text, tokenize.Options{Offsets: true}).Windows[0]
	without := encode(t, tok, text, tokenize.Options{}).Windows[0]
	if want := []tokenize.Span{{}, {Start: 3, End: 9}, {}}; !reflect.DeepEqual(with.Offsets, want) {
		t.Errorf("offsets %v, want %v", with.Offsets, want)
	}
	if want := []bool{true, false, true}; !reflect.DeepEqual(with.Special, want) {
		t.Errorf("special %v, want %v", with.Special, want)
	}
	if without.Offsets != nil || without.Special != nil || !slices.Equal(with.IDs, without.IDs) {
		t.Errorf("without offsets: %+v, with: %+v", without, with)
	}
}

// What a text becomes does not depend on its neighbours, on offsets being asked for, or on how calls are split.
func TestBatchesAreTheSumOfTheirTexts(t *testing.T) {
	texts := hardTexts(t)[:1500]
	for _, name := range goldenNames {
		tok := open(t, name)
		o := tokenize.Options{MaxTokens: 32, Windows: true, Stride: 8, Offsets: true}
		alone := make([]tokenize.Encoded, len(texts))
		for i := range texts {
			alone[i] = tok.Encode(texts[i:i+1], o)[0]
		}
		if together := tok.Encode(texts, o); !reflect.DeepEqual(together, alone) {
			t.Errorf("%s: a batch differs from its texts alone", name)
		}
		o.Offsets = false
		for i, e := range tok.Encode(texts, o) {
			for w := range e.Windows {
				if !slices.Equal(e.Windows[w].IDs, alone[i].Windows[w].IDs) {
					t.Errorf("%s: text %d: ids differ when offsets are not asked for", name, i)
				}
			}
		}
	}
}

func TestLargeBatchesAreSplit(t *testing.T) {
	tok := open(t, "bert-uncased")
	long := bytes.Repeat([]byte("x"), batchBytes/3)
	texts := [][]byte{long, []byte("one"), long, long, []byte("two"), long, nil}
	for i, e := range tok.Encode(texts, tokenize.Options{MaxTokens: 8}) {
		want := "[CLS] [UNK] [SEP]"
		if len(texts[i]) < 10 {
			want = strings.Join(strings.Fields("[CLS] "+string(texts[i])+" [SEP]"), " ")
		}
		if e.Err != nil || tokensOf(tok, e.Windows[0]) != want {
			t.Errorf("text %d: %v, error %v, want %s", i, e.Windows, e.Err, want)
		}
	}
}

func TestNoTextsAreNoEncodings(t *testing.T) {
	if got := open(t, "bert-uncased").Encode(nil, tokenize.Options{}); len(got) != 0 {
		t.Errorf("%v", got)
	}
}

func TestImpossibleOptionsAreOptionsErrors(t *testing.T) {
	tok := open(t, "bert-uncased")
	for _, o := range []tokenize.Options{
		{MaxTokens: 1}, {MaxTokens: 2}, {MaxTokens: -1}, {MaxTokens: 10, Windows: true, Stride: 8},
		{MaxTokens: 10, Windows: true, Stride: -1},
	} {
		for _, e := range tok.Encode([][]byte{[]byte("a"), nil}, o) {
			var want *tokenize.OptionsError
			if !errors.As(e.Err, &want) || e.Windows != nil {
				t.Errorf("%+v: error %v, windows %v", o, e.Err, e.Windows)
			}
		}
	}
	encode(t, tok, "a long enough text of many words", tokenize.Options{MaxTokens: 10, Windows: true, Stride: 7})
}

// words is a tokenizer without special tokens and without [UNK]: it fails at words it does not know.
const words = `{"version":"1.0","added_tokens":[],"normalizer":null,"pre_tokenizer":{"type":"Whitespace"},"post_processor":null,
	"decoder":null,"model":{"type":"WordLevel","vocab":{"a":0,"b":1},"unk_token":"?"}}`

func TestATextThatFailsHarmsNoOther(t *testing.T) {
	tok, err := New([]byte(words))
	if err != nil {
		t.Fatal(err)
	}
	defer tok.Close()
	texts := [][]byte{[]byte("a b"), []byte("secret"), []byte("b"), []byte(" "), []byte("b a")}
	got := tok.Encode(texts, tokenize.Options{})
	for i, want := range [][]int32{{0, 1}, nil, {1}, nil, {1, 0}} {
		if want != nil {
			if got[i].Err != nil || !slices.Equal(got[i].Windows[0].IDs, want) {
				t.Errorf("%q: %+v, want %v", texts[i], got[i], want)
			}
			continue
		}
		var textErr *tokenize.TextError
		if !errors.As(got[i].Err, &textErr) || textErr.Bytes != len(texts[i]) || got[i].Windows != nil {
			t.Errorf("%q: %+v, want a TextError", texts[i], got[i])
		}
		if strings.Contains(got[i].Err.Error(), "secret") {
			t.Errorf("the error quotes the text: %v", got[i].Err)
		}
	}
	if got := tok.Join([]string{"a", "b"}); got != "a b" {
		t.Errorf("without a decoder the tokens join to %q, want them separated by spaces", got)
	}
}

func TestABrokenTokenizerSaysWhatIsWrong(t *testing.T) {
	dir := t.TempDir()
	for _, c := range []struct{ name, content, want string }{
		{"missing", "", "does not exist"},
		{"empty", " ", "not a tokenizer.json"},
		{"not JSON", "version https://git-lfs.github.com/spec/v1", "not a tokenizer.json"},
		{"another file", `{"id2label": {}}`, `no member "model"`},
		{"cut off", words[:len(words)-5], "not a tokenizer.json"},
		{"an unknown model", strings.Replace(words, "WordLevel", "Wordy", 1), "tokenizers library"},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := filepath.Join(dir, c.name, "tokenizer.json")
			if c.content != "" {
				if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(path, []byte(c.content), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			tok, err := Open(path)
			if err == nil {
				tok.Close()
				t.Fatal("no error")
			}
			if !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), path) {
				t.Errorf("%v: want it to name %s and say %q", err, path, c.want)
			}
		})
	}
}

func TestTheDigestIsOfWhatMatters(t *testing.T) {
	digest := func(definition string) string {
		tok, err := New([]byte(definition))
		if err != nil {
			t.Fatal(err)
		}
		defer tok.Close()
		return tok.Digest()
	}
	base := digest(words)
	if len(base) != 64 {
		t.Errorf("digest %q, want 64 hex digits", base)
	}
	var spaced bytes.Buffer
	if err := json.Indent(&spaced, []byte(words), "", "  "); err != nil {
		t.Fatal(err)
	}
	if digest(spaced.String()) != base {
		t.Error("white space changes the digest")
	}
	truncating := strings.Replace(words, `"added_tokens"`,
		`"truncation":{"direction":"Right","max_length":1,"strategy":"LongestFirst","stride":0},"added_tokens"`, 1)
	if digest(truncating) != base {
		t.Error("truncation, which is ignored, changes the digest")
	}
	if digest(strings.Replace(words, `"b":1`, `"c":1`, 1)) == base {
		t.Error("another vocabulary has the same digest")
	}
}

func TestTruncationAndPaddingOfTheFileAreIgnored(t *testing.T) {
	definition := strings.Replace(words, `"added_tokens"`, `"truncation":{"direction":"Left","max_length":1,"strategy":"LongestFirst","stride":0},
		"padding":{"strategy":{"Fixed":9},"direction":"Right","pad_to_multiple_of":null,"pad_id":0,"pad_type_id":0,"pad_token":"a"},"added_tokens"`, 1)
	tok, err := New([]byte(definition))
	if err != nil {
		t.Fatal(err)
	}
	defer tok.Close()
	if got := encode(t, tok, "a b a", tokenize.Options{}).Windows[0].IDs; !slices.Equal(got, []int32{0, 1, 0}) {
		t.Errorf("%v", got)
	}
}

func TestAClosedTokenizerSaysSo(t *testing.T) {
	tok, err := New([]byte(words))
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := tok.Close(); err != nil {
			t.Fatal(err)
		}
	}
	for _, e := range tok.Encode([][]byte{[]byte("a"), nil}, tokenize.Options{}) {
		if !errors.Is(e.Err, tokenize.ErrClosed) {
			t.Errorf("error %v, want ErrClosed", e.Err)
		}
	}
	if tok.Token(0) != "" || tok.Join([]string{"a"}) != "" {
		t.Error("a closed tokenizer knows tokens")
	}
}

// Close waits for the calls in progress; later calls get ErrClosed. Run with -race.
func TestCloseWhileOthersEncode(t *testing.T) {
	texts := hardTexts(t)[100:200]
	for round := range 20 {
		tok, err := Open("testdata/byte-bpe.json")
		if err != nil {
			t.Fatal(err)
		}
		started := make(chan struct{}, 4)
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				for first := true; ; first = false {
					for _, e := range tok.Encode(texts, tokenize.Options{MaxTokens: 32, Offsets: true}) {
						if errors.Is(e.Err, tokenize.ErrClosed) {
							return
						}
						if e.Err != nil {
							t.Errorf("round %d: %v", round, e.Err)
							return
						}
						tok.Token(e.Windows[0].IDs[0])
					}
					if first {
						started <- struct{}{}
					}
				}
			})
		}
		<-started
		if err := tok.Close(); err != nil {
			t.Error(err)
		}
		wg.Wait()
	}
}

func TestConcurrentCallsAgree(t *testing.T) {
	texts := hardTexts(t)[:600]
	for _, name := range goldenNames {
		tok := open(t, name)
		o := tokenize.Options{MaxTokens: 64, Offsets: true}
		want := tok.Encode(texts, o)
		var wg sync.WaitGroup
		for g := range 4 {
			wg.Go(func() {
				rnd := rand.New(rand.NewPCG(uint64(g), 0))
				for range 20 {
					lo := rnd.IntN(len(texts) - 50)
					if got := tok.Encode(texts[lo:lo+50], o); !reflect.DeepEqual(got, want[lo:lo+50]) {
						t.Errorf("%s: texts %d to %d differ when goroutines share the tokenizer", name, lo, lo+50)
					}
				}
			})
		}
		wg.Wait()
	}
}

// residentMB is the memory that the process holds, in MiB, Go's garbage given back first.
func residentMB(t *testing.T) int {
	t.Helper()
	runtime.GC()
	debug.FreeOSMemory()
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("the memory of the library cannot be measured: %v", err)
		}
		t.Skipf("SKIPPED: the memory of the library cannot be measured on %s: %v", runtime.GOOS, err)
	}
	for line := range strings.Lines(string(status)) {
		if f := strings.Fields(line); f[0] == "VmRSS:" {
			kb, err := strconv.Atoi(f[1])
			if err != nil {
				t.Fatal(err)
			}
			return kb >> 10
		}
	}
	t.Fatal("no VmRSS in /proc/self/status")
	return 0
}

// What C and Rust allocate, Go's tests do not see: a leak shows as resident memory that grows with the number of calls.
func TestMemoryStaysBounded(t *testing.T) {
	if testing.Short() {
		t.Skip("SKIPPED with -short: the leak test")
	}
	texts := hardTexts(t)[1000:3000]
	size := 0
	for _, text := range texts {
		size += len(text)
	}
	tok := open(t, "bert-uncased")
	failing, err := New([]byte(words))
	if err != nil {
		t.Fatal(err)
	}
	defer failing.Close()
	// A forgotten free, of batches or of strings, is 50 MiB and more, of tokenizers 400.
	encodeAll := func() {
		for _, o := range []tokenize.Options{{Offsets: true}, {MaxTokens: 64, Windows: true, Stride: 16},
			{MaxTokens: 16}} {
			for start := 0; start < len(texts); start += 64 {
				tok.Encode(texts[start:min(start+64, len(texts))], o)
			}
		}
		failing.Encode(texts, tokenize.Options{})
		for id := range int32(60_000) { // half of them unknown
			tok.Join([]string{tok.Token(id), "##ing"})
		}
	}
	openClose := func() {
		tok, err := Open("testdata/bert-uncased.json")
		if err != nil {
			t.Fatal(err)
		}
		if err := tok.Close(); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		name   string
		warm   int
		rounds int
		f      func()
	}{
		{fmt.Sprintf("encoding %d KiB", size>>10), 3, 25, encodeAll},
		{"opening and closing", 30, 40, openClose},
	} {
		for range c.warm {
			c.f()
		}
		before := residentMB(t)
		for range c.rounds {
			c.f()
		}
		after := residentMB(t)
		t.Logf("%s, %d times: resident %d MiB before, %d MiB after", c.name, c.rounds, before, after)
		if after > before+32 {
			t.Errorf("%s, %d times: resident memory grew from %d to %d MiB", c.name, c.rounds, before, after)
		}
	}
}

func BenchmarkEncode(b *testing.B) {
	sentence := []byte("The parcel came two days late and the box was crushed, but the lamp inside still works fine.")
	for _, name := range goldenNames {
		tok := open(b, name)
		for _, n := range []int{1, 32, 256} {
			for _, offsets := range []bool{false, true} {
				b.Run(fmt.Sprintf("%s/texts=%d/offsets=%v", name, n, offsets), func(b *testing.B) {
					texts := slices.Repeat([][]byte{sentence}, n)
					o := tokenize.Options{MaxTokens: 128, Offsets: offsets}
					b.ReportAllocs()
					for b.Loop() {
						tok.Encode(texts, o)
					}
					b.ReportMetric(float64(b.N*n)/b.Elapsed().Seconds(), "texts/s")
				})
			}
		}
	}
}

// The linked crate is the one that Cargo.toml pins.
func TestVersionIsTheOnePinned(t *testing.T) {
	manifest, err := os.ReadFile("native/Cargo.toml")
	if err != nil {
		t.Fatal(err)
	}
	if pin := `version = "=` + Version() + `"`; !strings.Contains(string(manifest), pin) {
		t.Errorf("linked: tokenizers %s; native/Cargo.toml pins another", Version())
	}
}
