// Package suggest finds the word that a person may have meant.
package suggest

import (
	"fmt"
	"strings"
)

// DidYouMean is "; did you mean X?" for the candidate nearest to s, or "" where none is near.
func DidYouMean(s string, candidates []string) string {
	if n := Nearest(s, candidates); n != "" {
		return fmt.Sprintf("; did you mean %s?", n)
	}
	return ""
}

// Nearest is the candidate with the smallest edit distance to s, case and separators apart, if it is small enough to
// be a slip rather than another word.
func Nearest(s string, candidates []string) string {
	norm := strings.NewReplacer("-", "", "_", "")
	s = strings.ToLower(norm.Replace(s))
	best, bestDist := "", max(1, min(3, len(s)/2))+1
	for _, c := range candidates {
		n := strings.ToLower(norm.Replace(c))
		d := editDistance(s, n)
		if d > 0 && len(s) >= 4 && (strings.HasPrefix(n, s) || strings.HasPrefix(s, n)) {
			d = 1 // an abbreviation, or a word too many
		}
		if d < bestDist {
			best, bestDist = c, d
		}
	}
	return best
}

// editDistance counts insertions, deletions, substitutions and swaps of neighbours (optimal string alignment).
func editDistance(a, b string) int {
	prev2, prev, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range prev {
		prev[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			row[j] = min(prev[j]+1, row[j-1]+1, prev[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], prev2[j-2]+1)
			}
		}
		prev2, prev, row = prev, row, prev2
	}
	return prev[len(b)]
}
