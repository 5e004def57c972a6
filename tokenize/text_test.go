package tokenize

import (
	"bytes"
	"math/rand/v2"
	"strings"
	"testing"
	"unicode/utf8"
)

// beginsRune says whether b, of at most three bytes, is the beginning of the encoding of some rune, found by trying.
func beginsRune(b []byte) bool {
	ends := []byte{0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF}
	var try func(b []byte) bool
	try = func(b []byte) bool {
		if utf8.Valid(b) && utf8.RuneCount(b) == 1 {
			return true
		}
		if len(b) == utf8.UTFMax {
			return false
		}
		for _, end := range ends {
			if try(append(b[:len(b):len(b)], end)) {
				return true
			}
		}
		return false
	}
	return try(b)
}

// characters is the plain meaning of charLen: the byte offset of every character, and the length of b.
func characters(b []byte) []int {
	var starts []int
	for at := 0; at < len(b); {
		starts = append(starts, at)
		if _, n := utf8.DecodeRune(b[at:]); n > 1 || b[at] < utf8.RuneSelf {
			at += n
			continue
		}
		n := 1
		for at+n < len(b) && n < 3 && beginsRune(b[at:at+n+1]) {
			n++
		}
		at += n
	}
	return append(starts, len(b))
}

var wild = []string{
	"", "plain", "a\x00b", "é", "日本語", "😀👍🏽", "\xff", "\xc0\x80", "\xe2\x82", "\xe2\x82\xac", "\xf0\x9f\x98",
	"\xf0\x9f\x98\x80",
	"\xed\xa0\x80", "\xed\x9f\xbf", "\xf4\x90\x80\x80", "\xf4\x8f\xbf\xbf", "\xe0\x80\xaf", "\xe0\xa0\x80", "\xf5\x80",
	"\xc3(", "\xf1\x80\x80(",
	"a\xe2\x82b\xed\xa0\x80c\xff", "\x80\x80\x80", strings.Repeat("ab", 50) + "\xf0\x9f" + strings.Repeat("ü", 20),
	"\ufffd",
}

// mixed strings of pieces that are likely to meet badly.
func mixed(rnd *rand.Rand) []byte {
	var b []byte
	for range rnd.IntN(12) {
		if rnd.IntN(3) == 0 {
			b = append(b, byte(rnd.Uint32()))
		} else {
			b = append(b, wild[rnd.IntN(len(wild))]...)
		}
	}
	return b
}

func checkText(t *testing.T, b []byte) {
	t.Helper()
	starts := characters(b)
	for i, at := range starts[:len(starts)-1] {
		if got, want := charLen(b[at:]), starts[i+1]-at; got != want {
			t.Fatalf("%q at %d: a character of %d bytes, want %d", b, at, got, want)
		}
	}

	repaired := Repair(b)
	if !utf8.Valid(repaired) || utf8.RuneCount(repaired) != len(starts)-1 || utf8.Valid(b) && !bytes.Equal(repaired,
		b) {
		t.Fatalf("%q repaired is %q; it has %d characters", b, repaired, len(starts)-1)
	}

	before := make([]int, len(b)+1) // characters that begin before an offset
	for _, at := range starts[:len(starts)-1] {
		for i := at + 1; i <= len(b); i++ {
			before[i]++
		}
	}
	ascending, r := NewRunes(b), NewRunes(b)
	for i := 0; i <= len(b); i++ {
		if got := ascending.Offset(i); got != before[i] {
			t.Fatalf("%q: offset %d ascending: character %d, want %d", b, i, got, before[i])
		}
		j := (i*7 + 3) % (len(b) + 1)
		if got := r.Offset(j); got != before[j] {
			t.Fatalf("%q: offset %d: character %d, want %d", b, j, got, before[j])
		}
	}

	for limit := 1; limit <= len(b)+1; limit++ {
		text := Clean(b, limit)
		want := 0
		for _, at := range starts {
			if at <= limit {
				want = at
			}
		}
		if len(text.Bytes) != want || !bytes.HasPrefix(b, text.Bytes) {
			t.Fatalf("%q cut at %d: %d bytes, want %d", b, limit, len(text.Bytes), want)
		}
		if text.Cut != (want < len(b)) || text.Repaired != !utf8.Valid(b[:want]) {
			t.Fatalf("%q cut at %d: %+v", b, limit, text)
		}
	}
}

func TestCharactersOfWildTexts(t *testing.T) {
	for _, s := range wild {
		checkText(t, []byte(s))
	}
	rnd := rand.New(rand.NewPCG(1, 2))
	for range 3000 {
		checkText(t, mixed(rnd))
	}
}

func FuzzText(f *testing.F) {
	for _, s := range wild {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		checkText(t, b[:min(len(b), 200)])
	})
}

func TestCleanLeavesTheBytesAlone(t *testing.T) {
	for _, c := range []struct {
		name          string
		in            string
		limit         int
		want          string
		repaired, cut bool
	}{
		{"no limit", "a\x00é", 0, "a\x00é", false, false},
		{"exactly the limit", "né", 3, "né", false, false},
		{"cut before a character", "né", 2, "n", false, true},
		{"invalid bytes stay", "a\xffb", 0, "a\xffb", true, false},
		{"a bad part that is cut off needs no repair", "ab\xff", 2, "ab", false, true},
		{"a limit within the first character", "😀", 3, "", false, true},
		{"null", "", 5, "", false, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := Clean([]byte(c.in), c.limit)
			if string(got.Bytes) != c.want || got.Repaired != c.repaired || got.Cut != c.cut {
				t.Errorf("Clean(%q, %d) = %q repaired %v cut %v", c.in, c.limit, got.Bytes, got.Repaired, got.Cut)
			}
		})
	}
}

func TestRunesCountsAsPython(t *testing.T) {
	// "a\xe2\x82b\xed\xa0\x80c".decode("utf-8", "replace") is a, U+FFFD, b, three U+FFFD, c.
	r := NewRunes([]byte("a\xe2\x82b\xed\xa0\x80c"))
	if got := r.Span(Span{3, 8}); got != (Span{2, 7}) {
		t.Errorf("span %v, want {2 7}", got)
	}
	if got := r.Span(Span{0, 1}); got != (Span{0, 1}) {
		t.Errorf("going back: span %v, want {0 1}", got)
	}
	if got := r.Offset(1000); got != 7 {
		t.Errorf("beyond the end: %d, want 7", got)
	}
}

func BenchmarkRunesAscending(b *testing.B) {
	text := []byte(strings.Repeat("größer 日本 ", 4000))
	b.SetBytes(int64(len(text)))
	for b.Loop() {
		r := NewRunes(text)
		for i := 0; i < len(text); i += 6 {
			r.Offset(i)
		}
	}
}
