package escalate

import (
	"slices"
	"unicode"
)

// This file owns the second look: what was found once in a text is found wherever else it stands, where the model
// overlooked it.

const (
	longestRepeat = 120 // characters of a value that is looked for elsewhere: names are shorter
	shortRepeat   = 3   // characters up to which a value must stand there exactly so: "US" is not "us"
)

// values is a trie of the values found, in skeleton characters.
type values struct {
	next map[rune]*values
	ends []value // those that end here
}

// value is something found, as it is written in the text.
type value struct {
	kind   string
	word   []rune
	phrase bool // with white space in it
}

// repeats finds the values of parts wherever else they stand as words of their own: in any case and with or without
// accents, but a single capitalized word only where it is capitalized ("Will" is not "will").
func (sk *skeleton) repeats(chars []rune, parts []found) []found {
	text := []rune(sk.text)
	from := make([]int, 0, len(text)) // the character each came from
	for i := range sk.text {
		from = append(from, sk.at[i])
	}
	root := &values{next: map[rune]*values{}}
	for _, part := range parts {
		start, _ := slices.BinarySearch(from, part.start)
		end, _ := slices.BinarySearch(from, part.end)
		if end-start >= 2 && end-start <= longestRepeat {
			word := chars[part.start:part.end]
			root.add(text[start:end], value{part.kind, word, slices.ContainsFunc(word, unicode.IsSpace)})
		}
	}
	var more []found
	for i := range text {
		if i > 0 && joined(text[i-1], text[i]) {
			continue
		}
		at, longest := root, found{}
		for j := i; j < len(text); j++ {
			if at = at.next[text[j]]; at == nil {
				break
			}
			if j+1 < len(text) && joined(text[j], text[j+1]) {
				continue
			}
			here := chars[from[i] : from[j]+1]
			for _, v := range at.ends {
				if v.standsIn(here) {
					longest = found{from[i], from[j] + 1, v.kind}
					break
				}
			}
		}
		if longest.end > 0 {
			more = append(more, longest)
		}
	}
	return more
}

// add puts v at the end of its path, unless one that allows as much is there: at most one of each first letter's case
// and, for short ones, of each spelling.
func (t *values) add(path []rune, v value) {
	for _, r := range path {
		if t.next[r] == nil {
			t.next[r] = &values{next: map[rune]*values{}}
		}
		t = t.next[r]
	}
	for _, other := range t.ends {
		if other.standsIn(v.word) {
			return
		}
	}
	t.ends = append(t.ends, v)
}

// standsIn says whether here, which has the same skeleton, is the value again.
func (v value) standsIn(here []rune) bool {
	switch {
	case len(v.word) <= shortRepeat:
		return slices.Equal(v.word, here)
	case v.phrase:
		return true
	}
	return !unicode.IsUpper(v.word[0]) || unicode.IsUpper(here[0])
}
