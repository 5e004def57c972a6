package model

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"sluice/tokenize"
)

func classifier(t testing.TB, problemType string, o JudgeOptions) *Judge {
	t.Helper()
	j, err := NewJudge(&Model{Name: "m", Task: TextClassification, Labels: []string{"a", "b"},
		Config: Config{ProblemType: problemType}}, nil, o)
	if err != nil {
		t.Fatal(err)
	}
	return j
}

func windows(n int) tokenize.Encoded { return tokenize.Encoded{Windows: make([]tokenize.Encoding, n)} }

func TestWindowsOfAClassification(t *testing.T) {
	logits := [][]float32{{0, 2}, {3, 0}, {0, 1}}
	p := func(x float64) float64 { return 1 / (1 + math.Exp(-x)) } // softmax of two
	for _, c := range []struct {
		name    string
		problem string
		how     LongText
		label   string
		score   float64
	}{
		{"mean of probabilities, the default", "", "", "b", (p(2) + p(-3) + p(1)) / 3},
		{"max of probabilities", "", LongTextMax, "a", p(3)},
		{"sigmoid", MultiLabel, LongTextMax, "a", p(3)},
		{"raw values", Regression, LongTextMean, "a", 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			j := classifier(t, c.problem, JudgeOptions{LongText: c.how})
			v, err := j.Verdict(nil, windows(3), logits)
			if err != nil {
				t.Fatal(err)
			}
			if v.Label != c.label || math.Abs(v.Score-c.score) > 1e-6 || v.Windows != 3 ||
				(v.Scores != nil) != (c.problem == MultiLabel) {
				t.Errorf("%+v, want %s %v", v, c.label, c.score)
			}
			if one, err := j.Verdict(nil, windows(1), logits[:1]); err != nil || one.Label != "b" {
				t.Errorf("one window: %+v, %v", one, err)
			}
		})
	}
}

func TestVerdictRefusesWhatItCannotJudge(t *testing.T) {
	nan, inf := float32(math.NaN()), float32(math.Inf(-1))
	tokens, err := NewJudge(&Model{Name: "m", Task: TokenClassification, Labels: []string{"O", "X"}},
		&scriptedTokenizer{t: t}, JudgeOptions{})
	if err != nil {
		t.Fatal(err)
	}
	row := tokenize.Encoding{IDs: []int32{0, 0}, Offsets: []tokenize.Span{{}, {Start: 0, End: 9}}, Special: []bool{true,
		false}}
	bare := tokenize.Encoding{IDs: []int32{0, 0}}
	broken := errors.New("broken text")
	for _, c := range []struct {
		name   string
		judge  *Judge
		enc    tokenize.Encoded
		logits [][]float32
		says   string
		is     error
	}{
		{"NaN", classifier(t, "", JudgeOptions{}), windows(1), [][]float32{{1, nan}}, "logit 1", ErrNotFinite},
		{"infinite, in the second window", classifier(t, "", JudgeOptions{}), windows(2), [][]float32{{1, 2}, {inf, 1}},
			"window 1, logit 0", ErrNotFinite},
		{"too few logits", classifier(t, "", JudgeOptions{}), windows(1), [][]float32{{1}}, "1 logits instead of 2",
			nil},
		{"a window without logits", classifier(t, "", JudgeOptions{}), windows(2), [][]float32{{1, 2}},
			"2 windows, but logits for 1", nil},
		{"no windows", classifier(t, "", JudgeOptions{}), windows(0), nil, "0 windows", nil},
		{"not tokenized", classifier(t, "", JudgeOptions{}), tokenize.Encoded{Err: broken}, nil, "not tokenized",
			broken},
		{"tokens without offsets", tokens, tokenize.Encoded{Windows: []tokenize.Encoding{bare}},
			[][]float32{make([]float32, 4)}, "Options.Offsets", nil},
		{"offsets of another text", tokens, tokenize.Encoded{Windows: []tokenize.Encoding{row}},
			[][]float32{make([]float32, 4)}, "bytes 0 to 9 of a text of 3", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := c.judge.Verdict([]byte("abc"), c.enc, c.logits)
			if err == nil || !strings.Contains(err.Error(), c.says) || c.is != nil && !errors.Is(err, c.is) {
				t.Errorf("error %v does not say %q", err, c.says)
			}
		})
	}
}

func TestNewJudgeChecksItsOptions(t *testing.T) {
	m := &Model{Name: "m", Task: TokenClassification, Labels: []string{"O", "X"}}
	for _, c := range []struct {
		options JudgeOptions
		says    string
	}{
		{JudgeOptions{Aggregation: "best"},
			`aggregation: "best" is unknown; it is one of "none", "simple", "first", "average", "max"`},
		{JudgeOptions{LongText: "median"}, `long text: "median" is unknown; it is one of "mean", "max"`},
	} {
		if _, err := NewJudge(m, &scriptedTokenizer{t: t}, c.options); err == nil || !strings.Contains(err.Error(),
			c.says) {
			t.Errorf("%+v: %v", c.options, err)
		}
	}
	for strategy, warnings := range map[Aggregation]int{"": 0, AggregationNone: 0, AggregationFirst: 1} {
		j, err := NewJudge(m, &scriptedTokenizer{t: t}, JudgeOptions{Aggregation: strategy})
		if err != nil || len(j.Warnings()) != warnings || !j.NeedsOffsets() {
			t.Errorf("%q without subword marks: %v, warnings %q", strategy, err, j.Warnings())
		}
	}
	if classifier(t, "", JudgeOptions{}).NeedsOffsets() {
		t.Error("a classification needs offsets")
	}
}

// charTokenizer has one token a character; joined, they are the text.
type charTokenizer struct{ tokenize.Tokenizer }

func (charTokenizer) Token(id int32) string       { return string(rune(id)) }
func (charTokenizer) ContinuingPrefix() string    { return "##" }
func (charTokenizer) Join(tokens []string) string { return strings.Join(tokens, "") }

func TestEntitiesOfOverlappingWindows(t *testing.T) {
	// Two windows share "cde". Each sees a piece of the entity that spans them; the longer piece stays.
	text := []byte("ab😀defg")
	var all tokenize.Encoding
	for i, r := range string(text) {
		all.IDs = append(all.IDs, r)
		all.Offsets = append(all.Offsets, tokenize.Span{Start: i, End: i + utf8.RuneLen(r)})
		all.Special = append(all.Special, false)
	}
	cut := func(from, to int) tokenize.Encoding {
		return tokenize.Encoding{IDs: all.IDs[from:to], Offsets: all.Offsets[from:to], Special: all.Special[from:to]}
	}
	logits := func(labels string, sure float32) []float32 {
		var l []float32
		for _, c := range labels {
			if c == 'X' {
				l = append(l, 0, sure)
			} else {
				l = append(l, sure, 0)
			}
		}
		return l
	}
	m := &Model{Name: "m", Task: TokenClassification, Labels: []string{"O", "I-X"}}
	for strategy, want := range map[Aggregation]string{
		AggregationSimple: "X 0-1 a; X 2-5 😀de",
		AggregationNone:   "I-X 0-1 a; I-X 2-3 😀; I-X 3-4 d; I-X 4-5 e",
	} {
		j, err := NewJudge(m, charTokenizer{}, JudgeOptions{Aggregation: strategy})
		if err != nil {
			t.Fatal(err)
		}
		v, err := j.Verdict(text, tokenize.Encoded{Windows: []tokenize.Encoding{cut(0, 5), cut(2, 7)}},
			[][]float32{logits("X.XXX", 2), logits(".XX..", 5)})
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, e := range v.Entities {
			got = append(got, fmt.Sprintf("%s %d-%d %s", e.Group, e.Start, e.End, e.Word))
		}
		if s := strings.Join(got, "; "); s != want {
			t.Errorf("%s: %s\nwant %s", strategy, s, want)
		}
	}
}

func TestInvalidUTF8CountsAsPython(t *testing.T) {
	// "\xe4\xb8" is one character, "\xff\xff" are two.
	text := []byte("\xe4\xb8x\xff\xffZ")
	j, err := NewJudge(&Model{Name: "m", Task: TokenClassification, Labels: []string{"O", "X"}, unknown: "?"},
		charTokenizer{}, JudgeOptions{Aggregation: AggregationNone})
	if err != nil {
		t.Fatal(err)
	}
	enc := tokenize.Encoding{IDs: []int32{'?', '?', 'Z'}, Special: make([]bool, 3),
		Offsets: []tokenize.Span{{Start: 0, End: 3}, {Start: 3, End: 5}, {Start: 5, End: 6}}}
	v, err := j.Verdict(text, tokenize.Encoded{Windows: []tokenize.Encoding{enc}}, [][]float32{{0, 1, 0, 1, 0, 1}})
	if err != nil {
		t.Fatal(err)
	}
	var got []Entity
	for _, e := range v.Entities {
		e.Score = 0
		got = append(got, e)
	}
	want := []Entity{{Group: "X", Word: "\uFFFDx", Start: 0, End: 2, Index: 0}, {Group: "X", Word: "\uFFFD\uFFFD",
		Start: 2, End: 4, Index: 1}, {Group: "X", Word: "Z", Start: 4, End: 5, Index: 2}}
	if !slices.Equal(got, want) {
		t.Errorf("%+v, want %+v", got, want)
	}
}

func ExampleVerdict_AppendJSON() {
	for _, v := range []Verdict{
		{Label: "NEGATIVE", Score: 0.97312345678},
		{Label: "toxic", Score: 0.9, Scores: []LabelScore{{"toxic", 0.9}, {"hate", 0.000012345678}}, Truncated: true},
		{Entities: []Entity{{Group: "PER", Score: 0.99, Word: "Ada <Lovelace>", Start: 0, End: 12}}, Windows: 2},
		{Entities: []Entity{{Group: "B-PER", Score: 1, Word: "ada", Start: 0, End: 3, Index: 1}}, tokens: true,
			Windows: 1},
		{Entities: []Entity{}},
	} {
		fmt.Printf("%s\n", v.AppendJSON(nil))
	}
	// Output:
	// "label":"NEGATIVE","score":0.973123
	// "label":"toxic","score":0.9,"scores":[{"label":"toxic","score":0.9},{"label":"hate","score":1.23457e-05}],"truncated":true
	// "entities":[{"entity_group":"PER","score":0.99,"word":"Ada <Lovelace>","start":0,"end":12}],"windows":2
	// "entities":[{"entity":"B-PER","score":1,"index":1,"word":"ada","start":0,"end":3}]
	// "entities":[]
}

// parsedVerdict is what a reader makes of AppendJSON's members.
type parsedVerdict struct {
	Label     *string
	Score     *float64
	Scores    []LabelScore
	Truncated bool
	Windows   int
	Entities  []struct {
		Entity      *string
		EntityGroup *string `json:"entity_group"`
		Score       float64
		Word        string
		Start, End  int
		Index       int
	}
}

func FuzzAppendJSON(f *testing.F) {
	f.Add("a\"b\\c\x00\x1f\x7f\u2028\u2029<&>\xff\xe4\xb8", 0.1, int64(7), true)
	f.Add("", math.Copysign(0, -1), int64(-1), false)
	f.Add("😀", 1e300, int64(math.MaxInt64), true)
	f.Fuzz(func(t *testing.T, s string, x float64, n int64, flag bool) {
		verdicts := []Verdict{
			{Label: s, Score: x, Truncated: flag, Windows: int(n)},
			{Label: s, Score: x, Scores: []LabelScore{{s, x}, {s + "2", -x}}},
			{Entities: []Entity{{Group: s, Score: x, Word: s + s, Start: int(n), End: int(n), Index: int(n)}, {}},
				tokens: flag},
		}
		for _, v := range verdicts {
			b := v.AppendJSON([]byte("{"))
			b = append(b, '}')
			if again := v.AppendJSON([]byte("{")); string(again)+"}" != string(b) {
				t.Fatalf("twice, it is %s and %s", b, again)
			}
			for _, never := range []string{"\u2028", "\u2029", "\n", "\x00", "\\u003c"} {
				if strings.Contains(string(b), never) {
					t.Fatalf("%q holds %q", b, never)
				}
			}
			if !utf8.Valid(b) {
				t.Fatalf("%q is not UTF-8", b)
			}
			var got parsedVerdict
			if err := json.Unmarshal(b, &got); err != nil {
				t.Fatalf("%v: %s", err, b)
			}
			finite := !math.IsNaN(x) && !math.IsInf(x, 0)
			near := func(a, b float64) bool { return !finite || math.Abs(a-b) <= 1e-5*math.Abs(b) }
			var word string // s as encoding/json gives it back: every invalid byte is U+FFFD
			if e, err := json.Marshal(s); err != nil || json.Unmarshal(e, &word) != nil {
				t.Fatal(err)
			}
			switch {
			case v.Entities == nil:
				if got.Label == nil || *got.Label != word || (got.Score != nil) != finite || finite &&
					!near(*got.Score, x) || got.Truncated != v.Truncated || len(got.Scores) != len(v.Scores) {
					t.Fatalf("%+v came back as %s", v, b)
				}
			case len(got.Entities) != 2 || got.Label != nil:
				t.Fatalf("%+v came back as %s", v, b)
			default:
				e := got.Entities[0]
				group := e.EntityGroup
				if flag {
					group = e.Entity
				}
				if group == nil || *group != word || e.Start != int(n) || e.End != int(n) || !near(e.Score, x) ||
					flag && e.Index != int(n) {
					t.Fatalf("%+v came back as %s", v, b)
				}
			}
		}
	})
}

// Whatever logits and tokens are, a verdict is an error or it is well-formed: entities lie within the text, in order,
// and their scores are probabilities.
func FuzzVerdict(f *testing.F) {
	f.Add([]byte("Ada Lovelace in Z\xffrich 😀"), uint64(1), uint8(2))
	f.Add([]byte(""), uint64(2), uint8(4))
	f.Fuzz(func(t *testing.T, text []byte, seed uint64, kind uint8) {
		strategies := []Aggregation{AggregationNone, AggregationSimple, AggregationFirst, AggregationAverage,
			AggregationMax}
		rng := rand.New(rand.NewPCG(seed, seed))
		labels := []string{"O", "B-A", "I-A", "B-B", "I-B"}
		j, err := NewJudge(&Model{Name: "m", Task: TokenClassification, Labels: labels, unknown: "?"}, charTokenizer{},
			JudgeOptions{Aggregation: strategies[int(kind)%5]})
		if err != nil {
			t.Fatal(err)
		}
		enc := tokenize.Encoding{IDs: []int32{0}, Offsets: []tokenize.Span{{}}, Special: []bool{true}}
		for i := 0; i < len(text); {
			n := min(len(text)-i, 1+rng.IntN(4))
			enc.IDs = append(enc.IDs, rng.Int32N(127))
			enc.Offsets = append(enc.Offsets, tokenize.Span{Start: i, End: i + n})
			enc.Special = append(enc.Special, rng.IntN(10) == 0)
			i += n
		}
		logits := make([]float32, len(enc.IDs)*len(labels))
		for i := range logits {
			logits[i] = float32(rng.NormFloat64() * 10)
		}
		v, err := j.Verdict(text, tokenize.Encoded{Windows: []tokenize.Encoding{enc}}, [][]float32{logits})
		if err != nil {
			t.Fatal(err)
		}
		chars := len([]rune(decode(text)))
		start := 0
		for _, e := range v.Entities {
			if e.Start < start || e.End < e.Start || e.End > chars || !(e.Score > 0 && e.Score <= 1.000001) ||
				e.Group == outside {
				t.Fatalf("entity %+v of a text of %d characters, after %d", e, chars, start)
			}
			start = e.Start
		}
		if again, err := j.Verdict(text, tokenize.Encoded{Windows: []tokenize.Encoding{enc}},
			[][]float32{logits}); err != nil || !reflect.DeepEqual(again, v) {
			t.Fatalf("twice, it is %+v and %+v (%v)", v, again, err)
		}
	})
}
