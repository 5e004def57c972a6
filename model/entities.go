package model

// From the logits of tokens to entities, step by step what transformers 5.23 does in
// pipelines/token_classification.py; the functions bear the names of its methods where they have the same task.

import (
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"sluice/tokenize"
)

// outside is the label of what is no entity (ignore_labels).
const outside = "O"

type aggregator struct {
	strategy      Aggregation
	labels        []string
	tok           tokenize.Tokenizer
	unknown       string // token of unknown words; "" if the tokenizer has none
	marksSubwords bool   // the vocabulary has a continuing prefix
	temperature   float64
}

// preEntity is one token that is not special, before any aggregation.
type preEntity struct {
	word       string
	scores     []float32 // [labels]
	start, end int       // characters
	index      int
	subword    bool
}

// labelled is a token or a word with the label that was chosen for it.
type labelled struct {
	label      string
	score      float32
	word       string
	start, end int
	index      int
}

// leastSure are the scores of the least sure decision so far: of the token, or of the word, with the lowest top score.
// Of several measures it parts right texts from wrong ones best, or as well as the best (docs/calibration.md).
type leastSure struct {
	scores []float32
	top    float32
}

func (l *leastSure) take(scores []float32, top float32) {
	if l.scores == nil || top < l.top {
		l.scores, l.top = scores, top
	}
}

// measure fills in the verdict's Confidence, Margin and Entropy.
func (l *leastSure) measure(v *Verdict) {
	v.Confidence, v.Margin, v.Entropy = 1, 1, 0
	if l.scores != nil {
		v.Confidence, v.Margin, v.Entropy = float64(l.top), margin(l.scores, argmax(l.scores)), entropy(l.scores)
	}
}

// entities of all windows of one text, and the least sure decision among their tokens or words.
func (a *aggregator) entities(text []byte, windows []tokenize.Encoding, logits [][]float32) ([]Entity, leastSure,
	error) {
	chars := tokenize.NewRunes(text)
	all := []Entity{}
	var least leastSure
	for w, enc := range windows {
		if len(enc.Offsets) != len(enc.IDs) || len(enc.Special) != len(enc.IDs) {
			return nil, least, fmt.Errorf("window %d has %d tokens, but %d offsets and %d special marks: tokenize "+
				"with Options.Offsets", w, len(enc.IDs), len(enc.Offsets), len(enc.Special))
		}
		tokens, err := a.gatherPreEntities(text, chars, enc, logits[w])
		if err != nil {
			return nil, least, fmt.Errorf("window %d: %w", w, err)
		}
		all = append(all, a.aggregate(tokens, &least)...)
	}
	if len(windows) > 1 {
		all = aggregateOverlapping(all)
	}
	return all, least, nil
}

func (a *aggregator) gatherPreEntities(text []byte, chars *tokenize.Runes, enc tokenize.Encoding, logits []float32) (
	[]preEntity, error) {
	tokens := make([]preEntity, 0, len(enc.IDs))
	for i, id := range enc.IDs {
		if enc.Special[i] {
			continue
		}
		t, err := a.token(text, chars, enc.Offsets[i], id, i)
		if err != nil {
			return nil, err
		}
		t.scores = softmax(logits[i*len(a.labels):(i+1)*len(a.labels)], a.temperature)
		tokens = append(tokens, t)
	}
	return tokens, nil
}

// token is the i-th token of a row, without scores.
func (a *aggregator) token(text []byte, chars *tokenize.Runes, o tokenize.Span, id int32, i int) (preEntity, error) {
	if o.Start < 0 || o.End < o.Start || o.End > len(text) {
		return preEntity{}, fmt.Errorf("token %d spans bytes %d to %d of a text of %d", i, o.Start, o.End, len(text))
	}
	span := chars.Span(o)
	t := preEntity{word: a.tok.Token(id), start: span.Start, end: span.End, index: i}
	if a.marksSubwords {
		// "##ing" is longer than the "ing" it stands for, and so is a word whose accents were stripped: transformers
		// takes both for continuations.
		t.subword = utf8.RuneCountInString(t.word) != t.end-t.start
	} else {
		// The guess of the reference: a word begins at a space, before the token or (byte-level BPE) as its first
		// character. A space is one byte wherever it stands.
		t.subword = o.Start > 0 && text[o.Start-1] != ' ' && !(o.Start < len(text) && text[o.Start] == ' ')
	}
	if a.unknown != "" && t.word == a.unknown {
		t.word, t.subword = decode(text[o.Start:o.End]), false
	}
	return t, nil
}

// TokenSpan is a token that begins a word.
type TokenSpan struct {
	Index      int // in the row, special tokens counted
	Start, End int // characters of the text
}

// WordStarts are the tokens of a window that begin a word, as aggregation "first" takes them. Token-classification
// only.
func (j *Judge) WordStarts(text []byte, enc tokenize.Encoding) ([]TokenSpan, error) {
	if j.entities == nil {
		return nil, fmt.Errorf("a model for %s has no words", j.task)
	}
	if len(enc.Offsets) != len(enc.IDs) || len(enc.Special) != len(enc.IDs) {
		return nil, fmt.Errorf("%d tokens, but %d offsets and %d special marks: tokenize with Options.Offsets",
			len(enc.IDs), len(enc.Offsets), len(enc.Special))
	}
	var spans []TokenSpan
	chars := tokenize.NewRunes(text)
	for i, id := range enc.IDs {
		if enc.Special[i] {
			continue
		}
		t, err := j.entities.token(text, chars, enc.Offsets[i], id, i)
		if err != nil {
			return nil, err
		}
		if !t.subword && t.end > t.start {
			spans = append(spans, TokenSpan{i, t.start, t.end})
		}
	}
	return spans, nil
}

// decode is b.decode("utf-8", "replace"): each maximal invalid part becomes one U+FFFD.
func decode(b []byte) string {
	if utf8.Valid(b) {
		return string(b)
	}
	var out []byte
	for len(b) > 0 {
		r, n := utf8.DecodeRune(b)
		if r == utf8.RuneError && n == 1 { // as long as it counts as one character
			for n < len(b) && tokenize.NewRunes(b[:n+1]).Offset(n+1) == 1 {
				n++
			}
		}
		out = utf8.AppendRune(out, r)
		b = b[n:]
	}
	return string(out)
}

// aggregate makes the entities of one window, without those outside.
func (a *aggregator) aggregate(tokens []preEntity, least *leastSure) []Entity {
	var words []labelled
	switch a.strategy {
	case AggregationNone, AggregationSimple:
		words = make([]labelled, len(tokens))
		for i, t := range tokens {
			top := argmax(t.scores)
			least.take(t.scores, t.scores[top])
			words[i] = labelled{a.labels[top], t.scores[top], t.word, t.start, t.end, t.index}
		}
	default:
		words = a.aggregateWords(tokens, least)
	}
	if a.strategy == AggregationNone {
		var out []Entity
		for _, w := range words {
			if w.label != outside {
				out = append(out, Entity{Group: w.label, Score: float64(w.score), Word: w.word, Start: w.start,
					End: w.end, Index: w.index})
			}
		}
		return out
	}
	return a.groupEntities(words)
}

// aggregateWords makes the tokens of a word agree on one label.
func (a *aggregator) aggregateWords(tokens []preEntity, least *leastSure) []labelled {
	var words []labelled
	for len(tokens) > 0 {
		n := 1
		for n < len(tokens) && tokens[n].subword {
			n++
		}
		words = append(words, a.aggregateWord(tokens[:n], least))
		tokens = tokens[n:]
	}
	return words
}

func (a *aggregator) aggregateWord(tokens []preEntity, least *leastSure) labelled {
	scores := tokens[0].scores
	switch a.strategy {
	case AggregationMax:
		for _, t := range tokens[1:] {
			if slices.Max(t.scores) > slices.Max(scores) {
				scores = t.scores
			}
		}
	case AggregationAverage:
		sums := slices.Clone(scores)
		for _, t := range tokens[1:] {
			for i, s := range t.scores {
				sums[i] += s
			}
		}
		for i := range sums {
			sums[i] /= float32(len(tokens))
		}
		scores = sums
	}
	pieces := make([]string, len(tokens))
	for i, t := range tokens {
		pieces[i] = t.word
	}
	top := argmax(scores)
	least.take(scores, scores[top])
	return labelled{label: a.labels[top], score: scores[top], word: a.tok.Join(pieces), start: tokens[0].start,
		end: tokens[len(tokens)-1].end}
}

// groupEntities joins neighbours of one group; a B- label begins a new entity.
func (a *aggregator) groupEntities(words []labelled) []Entity {
	var out []Entity
	for len(words) > 0 {
		_, last := SplitLabel(words[0].label)
		n := 1
		for ; n < len(words); n++ {
			position, group := SplitLabel(words[n].label)
			if group != last || position == "B" {
				break
			}
		}
		if e := a.groupSubEntities(words[:n]); e.Group != outside {
			out = append(out, e)
		}
		words = words[n:]
	}
	return out
}

func (a *aggregator) groupSubEntities(words []labelled) Entity {
	// Everything up to the first hyphen goes, whatever it is: label.split("-", 1)[-1].
	group := words[0].label
	if _, after, ok := strings.Cut(group, "-"); ok {
		group = after
	}
	if group == outside {
		return Entity{Group: outside}
	}
	var sum float32
	pieces := make([]string, len(words))
	for i, w := range words {
		sum += w.score
		pieces[i] = w.word
	}
	return Entity{
		Group: group, Score: float64(sum / float32(len(words))), Word: a.tok.Join(pieces),
		Start: words[0].start, End: words[len(words)-1].end,
	}
}

// aggregateOverlapping resolves entities that two windows saw: of those that overlap the longest remains, of equally
// long ones the surest. transformers refuses windows together with AggregationNone; here single tokens are resolved
// alike.
func aggregateOverlapping(all []Entity) []Entity {
	if len(all) == 0 {
		return all
	}
	slices.SortStableFunc(all, func(a, b Entity) int { return a.Start - b.Start })
	out := all[:0:0]
	previous := all[0]
	// from the first on, as the reference: an empty first entity (an offset-less space) comes out twice
	for _, e := range all {
		if e.Start >= previous.End {
			out = append(out, previous)
			previous = e
			continue
		}
		length, before := e.End-e.Start, previous.End-previous.Start
		if length > before || length == before && e.Score > previous.Score {
			previous = e
		}
	}
	return append(out, previous)
}
