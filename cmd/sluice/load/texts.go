package load

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"slices"
	"strings"

	"sluice/model/textfile"
	"sluice/pipeline/codec"
	"sluice/pipeline/codec/jsonvalue"
)

// Profile is what the texts of a run are like.
type Profile struct {
	Name       string   `json:"name"`
	Lengths    Lengths  `json:"lengths"`
	Duplicates float64  `json:"duplicates"` // share of records whose text is drawn, by Zipf's law, from a small set
	Poison     float64  `json:"poison"`     // share of records that are no JSON
	Arrivals   Arrivals `json:"arrivals"`
}

// Lengths says how long texts are.
type Lengths string

const (
	Short Lengths = "short" // 8 to 20 tokens
	Mixed Lengths = "mixed" // 5 to about 128 tokens, mean 20 to 30, many short ones and a long tail
	Long  Lengths = "long"  // about 128 tokens
	AsIs  Lengths = "as-is" // whole texts of a file, in shuffled order
)

// Profiles are the profiles by name.
var Profiles = []Profile{
	{Name: "short", Lengths: Short, Arrivals: Poisson},
	{Name: "mixed", Lengths: Mixed, Arrivals: Poisson},
	{Name: "long", Lengths: Long, Arrivals: Poisson},
	{Name: "zipf", Lengths: Mixed, Arrivals: Poisson, Duplicates: 0.3},
	{Name: "bursts", Lengths: Mixed, Arrivals: Bursts},
	{Name: "poison", Lengths: Mixed, Arrivals: Poisson, Poison: 0.01},
}

// ProfileNamed finds a profile.
func ProfileNamed(name string) (Profile, error) {
	names := make([]string, len(Profiles))
	for i, p := range Profiles {
		if p.Name == name {
			return p, nil
		}
		names[i] = p.Name
	}
	return Profile{}, fmt.Errorf("profile %q is unknown; there are %s", name, list(names))
}

// The set that duplicates are drawn from, and Zipf's exponent.
const (
	hotTexts     = 1000
	zipfExponent = 1.1
)

// Texts is an endless sequence of texts, the same for the same seed. It is not safe for concurrent use.
//
// Except for AsIs, a text is a run of words of the source, which is read as one long text: so every length occurs,
// words are real, and hardly two texts are equal: a repeat would be a gift to every cache.
type Texts struct {
	profile Profile
	seed    uint64
	source  *source

	random *rand.Rand
	used   []uint64 // bit per start and length
	hot    []piece
	zipf   *rand.Zipf
	order  []int32 // AsIs
	next   int
}

// source is the material. Words are kept twice, plain and escaped for JSON, so that a text is a slice of either.
type source struct {
	texts          []string // AsIs
	escapedTexts   []string
	plain, escaped string
	plainAt        []int32 // where words begin, and one more for the end
	escapedAt      []int32
}

// piece is one text: words words from the one at start, perhaps with another word before them; or, AsIs, a whole text.
type piece struct {
	start, words int32
	extra        int32 // -1: none
}

// longestPiece is the longest text in words; 1.27 tokens a word and two special ones make 128 tokens.
const longestPiece = 105

// NewTexts prepares the sequence that profile and seed give with this material.
func NewTexts(profile Profile, material []string, seed uint64) (*Texts, error) {
	if profile.Duplicates < 0 || profile.Duplicates >= 1 || profile.Poison < 0 || profile.Poison >= 1 {
		return nil, fmt.Errorf("shares of duplicates (%g) and poison (%g) must be at least 0 and below 1",
			profile.Duplicates, profile.Poison)
	}
	s := &source{}
	var plain, escaped strings.Builder
	for _, t := range material {
		if t = strings.ToValidUTF8(strings.TrimSpace(t), "\uFFFD"); t == "" {
			continue
		}
		if profile.Lengths == AsIs {
			s.texts, s.escapedTexts = append(s.texts, t), append(s.escapedTexts, escape(t))
			continue
		}
		for _, w := range strings.Fields(t) {
			s.plainAt, s.escapedAt = append(s.plainAt, int32(plain.Len())), append(s.escapedAt, int32(escaped.Len()))
			plain.WriteString(w + " ")
			escaped.WriteString(escape(w) + " ")
		}
	}
	switch {
	case profile.Lengths == AsIs && len(s.texts) == 0, profile.Lengths != AsIs && len(s.plainAt) == 0:
		return nil, errors.New("there is no text to send: every line is blank")
	case profile.Lengths != AsIs && len(s.plainAt) < 2*longestPiece:
		return nil, fmt.Errorf("%d words are too few to make texts of; at least %d are needed", len(s.plainAt),
			2*longestPiece)
	case !slices.Contains([]Lengths{Short, Mixed, Long, AsIs}, profile.Lengths):
		return nil, fmt.Errorf("lengths %q are unknown", profile.Lengths)
	}
	s.plain, s.escaped = plain.String(), escaped.String()
	s.plainAt, s.escapedAt = append(s.plainAt, int32(len(s.plain))), append(s.escapedAt, int32(len(s.escaped)))
	t := &Texts{profile: profile, seed: seed, source: s}
	t.Rewind()
	return t, nil
}

func escape(s string) string {
	b, err := json.Marshal(s)
	if err != nil { // a string always marshals
		panic(err)
	}
	return string(b[1 : len(b)-1])
}

// Rewind begins the sequence again.
func (t *Texts) Rewind() {
	t.random = rand.New(rand.NewPCG(t.seed, 0x7e875))
	t.next = 0
	if t.profile.Lengths == AsIs {
		t.order = make([]int32, len(t.source.texts))
		for i := range t.order {
			t.order[i] = int32(i)
		}
		t.random.Shuffle(len(t.order), func(i, j int) { t.order[i], t.order[j] = t.order[j], t.order[i] })
	} else {
		t.used = make([]uint64, (len(t.source.plainAt)*(longestPiece+1)+63)/64)
	}
	t.hot, t.zipf = nil, nil
	if t.profile.Duplicates > 0 {
		for range hotTexts {
			t.hot = append(t.hot, t.fresh())
		}
		t.zipf = rand.NewZipf(t.random, zipfExponent, 1, hotTexts-1)
	}
}

// Material is how many different texts there are, 0 where there is no end of them.
func (t *Texts) Material() int { return len(t.source.texts) }

// Profile is what the texts are like.
func (t *Texts) Profile() Profile { return t.profile }

// draw is the next text, and whether it is to be spoilt.
func (t *Texts) draw() (p piece, poison bool) {
	poison = t.profile.Poison > 0 && t.random.Float64() < t.profile.Poison
	if t.zipf != nil && t.random.Float64() < t.profile.Duplicates {
		return t.hot[t.zipf.Uint64()], poison
	}
	return t.fresh(), poison
}

// fresh is a text that has not been drawn before.
func (t *Texts) fresh() piece {
	if t.order != nil {
		i := t.order[t.next%len(t.order)]
		t.next++
		return piece{start: i, extra: -1}
	}
	all := len(t.source.plainAt) - 1
	for try := 0; ; try++ {
		n := t.words()
		start := t.random.IntN(all - n + 1)
		p := piece{start: int32(start), words: int32(n), extra: -1}
		bit := start*(longestPiece+1) + n
		if t.used[bit/64]>>(bit%64)&1 == 0 {
			t.used[bit/64] |= 1 << (bit % 64)
			return p
		}
		if try == 4 { // short texts run out: another word before it makes a text that has not been
			p.extra = int32(t.random.IntN(all))
			return p
		}
	}
}

// words draws a length. A word of the bundled stream has 1.27 tokens on average, and two special tokens are added.
func (t *Texts) words() int {
	switch t.profile.Lengths {
	case Short:
		return 5 + t.random.IntN(10)
	case Long:
		return 95 + t.random.IntN(longestPiece-95+1)
	}
	return max(3, min(85, int(13*math.Exp(0.75*t.random.NormFloat64()))))
}

// plain is the text of a piece.
func (s *source) plainText(p piece) string {
	if s.texts != nil {
		return s.texts[p.start]
	}
	return cut(s.plain, s.plainAt, p)
}

func (s *source) appendEscaped(b []byte, p piece) []byte {
	if s.texts != nil {
		return append(b, s.escapedTexts[p.start]...)
	}
	if p.extra >= 0 {
		b = append(b, s.escaped[s.escapedAt[p.extra]:s.escapedAt[p.extra+1]]...)
	}
	return append(b, s.escaped[s.escapedAt[p.start]:s.escapedAt[p.start+p.words]-1]...)
}

func cut(words string, at []int32, p piece) string {
	text := words[at[p.start] : at[p.start+p.words]-1]
	if p.extra >= 0 {
		text = words[at[p.extra]:at[p.extra+1]] + text
	}
	return text
}

// Value makes the value of the next record. mark is put into JSON values; before and behind enclose the text there, as
// in `"text":"` and `"}`.
func (t *Texts) Value(format Format, mark []byte, before, behind string) (value []byte, poison bool) {
	p, poison := t.draw()
	if format == Text {
		return []byte(t.source.plainText(p)), false
	}
	b := make([]byte, 0, 32+len(mark)+len(before)+len(behind)+8*int(p.words))
	b = append(append(append(b, `{"`+Field+`":"`...), mark...), `",`...)
	b = t.source.appendEscaped(append(b, before...), p)
	if poison {
		return b, true // the string never ends
	}
	return append(b, behind...), false
}

// Sample is n texts as the sequence has them, from its beginning. The sequence itself does not move.
func (t *Texts) Sample(n int) []string {
	again := &Texts{profile: t.profile, seed: t.seed, source: t.source}
	again.Rewind()
	texts := make([]string, n)
	for i := range texts {
		p, _ := again.draw()
		texts[i] = again.source.plainText(p)
	}
	return texts
}

// longestText bounds the memory for one line of a file of texts, in bytes.
const longestText = 16 << 20

// ReadTexts reads a file of texts, encoded and compressed as package textfile reads them: a line that begins with { is
// an object with the text in a field.
func ReadTexts(file, field string) ([]string, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	lines, err := textfile.ReadLines(f, longestText)
	var wrong *textfile.Error
	if errors.As(err, &wrong) {
		return nil, fmt.Errorf("%s %w", file, err)
	} else if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	if field == "" {
		field = "text"
	}
	path, err := codec.ParsePath(field)
	if err != nil {
		return nil, fmt.Errorf("the path of the text field: %w", err)
	}
	values := jsonvalue.New(jsonvalue.Options{Text: path, MaxDepth: 512})
	var texts []string
	for i, line := range lines {
		line := bytes.TrimSpace([]byte(line))
		switch {
		case len(line) == 0:
			continue
		case line[0] == '{':
			v, err := values.Open(context.Background(), line)
			if err != nil {
				return nil, fmt.Errorf("%s:%d is no JSON object with a string in %q: %w", file, i+1, field,
					errors.Unwrap(err)) // without its stage
			}
			texts = append(texts, string(v.Text()))
		default:
			texts = append(texts, string(line))
		}
	}
	if len(texts) == 0 {
		return nil, fmt.Errorf("%s holds no text", file)
	}
	return texts, nil
}
