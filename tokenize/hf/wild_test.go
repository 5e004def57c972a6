package hf

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"sluice/tokenize"
)

// wild is a tokenizer.json with the given members in place of harmless ones.
func wild(members string) []byte {
	if !strings.Contains(members, `"model"`) {
		members += `, "model": {"type": "WordLevel", "unk_token": "[UNK]", "vocab": {"[UNK]": 0, "a": 1}}`
	}
	return fmt.Appendf(nil, `{"version": "1.0", %s}`, members)
}

// Patterns that would take for ever by backtracking give up after a bounded number of steps, and a text beside is
// unharmed.
func TestPatternsThatExplodeEnd(t *testing.T) {
	for _, pattern := range []string{`(a+)+$`, `(a|a)*b`, `(a*)*\1b`, `(?:a|aa)+(?!a)b`, `(?=(a+))\1b`, `(a+)+\1$(?!x)`,
		`(?<=a*)b`} {
		tok,
			err := New(
			wild(
				fmt.Sprintf(
					`"pre_tokenizer": {"type": "Split", "pattern": {"Regex": %q}, "behavior": "Isolated", "invert": false}`,
					pattern)))
		if err != nil {
			t.Fatalf("%s: %v", pattern, err)
		}
		began := time.Now()
		both := tok.Encode([][]byte{[]byte(strings.Repeat("a", 2000)), []byte("a")}, tokenize.Options{MaxTokens: 128})
		// less than one; without a bound it is more than the age of the world
		if took := time.Since(began); took > 30*time.Second {
			t.Errorf("%s: it took %v", pattern, took)
		}
		if len(both) != 2 || both[1].Err != nil || !slices.Equal(both[1].Windows[0].IDs, []int32{1}) {
			t.Errorf("%s: the text beside it is %+v", pattern, both[1:])
		}
		tok.Close()
	}
}

func TestWildDefinitionsAreRefused(t *testing.T) {
	for name, c := range map[string]struct{ members, says string }{
		"a pattern too large": {
			`"pre_tokenizer": {"type": "Split", "pattern": {"Regex": "(((a{1,1000}){1,1000}){1,1000})"}, "behavior": "Isolated", "invert": false}`, "regex"},
		"no pattern": {
			`"pre_tokenizer": {"type": "Split", "pattern": {"Regex": "(("}, "behavior": "Isolated", "invert": false}`,
			"opening parenthesis"},
		"deep nesting": {`"normalizer": ` + strings.Repeat(`{"type": "Sequence", "normalizers": [`, 4000) +
			strings.Repeat(`]}`, 4000), "recursion limit"},
		"deeper nesting": {`"normalizer": ` + strings.Repeat(`[`, 1_000_000), "exceeded max depth"},
		"an id too large": {`"model": {"type": "WordLevel", "unk_token": "a", "vocab": {"a": 4294967296}}`,
			"expected u32"},
		"an id below zero": {
			`"model": {"type": "WordPiece", "unk_token": "a", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100, "vocab": {"a": -1}}`, "expected u32"},
		"an unknown token gone": {`"model": {"type": "Unigram", "unk_id": 4294967295, "vocab": [["a", -1.0]]}`,
			"UnkIdNotInVocabulary"},
	} {
		tok, err := New(wild(c.members))
		if err == nil {
			tok.Close()
		}
		if err == nil || !strings.Contains(strings.ToLower(err.Error()), strings.ToLower(c.says)) {
			t.Errorf("%s: %.300v", name, err)
		}
	}
}

// The largest id makes no table as long as that. It is negative as an id of a row, which no model takes.
func TestHugeIdsTakeNoMemory(t *testing.T) {
	resident := func() (pages int) {
		b, err := os.ReadFile("/proc/self/statm")
		if err == nil {
			_, err = fmt.Sscan(string(b), new(int), &pages)
		}
		if err != nil {
			t.Fatal(err)
		}
		return pages
	}
	before := resident()
	for name, members := range map[string]string{
		"WordLevel": `"model": {"type": "WordLevel", "unk_token": "a", "vocab": {"a": 4294967295}}`,
		"WordPiece": `"model": {"type": "WordPiece", "unk_token": "a", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100, "vocab": {"a": 4294967295}}`,
		"BPE":       `"model": {"type": "BPE", "unk_token": "a", "vocab": {"a": 4294967295, "b": 1, "ab": 4294967294}, "merges": [["a", "b"]]}`,
	} {
		tok, err := New(wild(members))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if got := tok.Encode([][]byte{[]byte("a")}, tokenize.Options{MaxTokens: 8})[0]; got.Err != nil ||
			!slices.Equal(got.Windows[0].IDs, []int32{-1}) {
			t.Errorf("%s: %+v", name, got)
		}
		tok.Close()
	}
	if grown := (resident() - before) * os.Getpagesize(); grown > 64<<20 {
		t.Errorf("memory grew by %d bytes", grown)
	}
}
