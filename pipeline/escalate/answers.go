package escalate

import (
	"crypto/sha256"

	"github.com/maypok86/otter/v2"
)

// This file owns the answers that are kept for the next record with the same question.

// answerOverhead is about what an entry costs beyond the answer's texts: key, node and its place in the tables.
const answerOverhead = 256

type answerCache struct {
	entries *otter.Cache[[sha256.Size]byte, Answer]
}

// newAnswerCache makes a cache that holds about so many bytes at most; what is asked for often stays longest
// (W-TinyLFU).
func newAnswerCache(bytes int) *answerCache {
	return &answerCache{otter.Must(&otter.Options[[sha256.Size]byte, Answer]{
		MaximumWeight: uint64(bytes),
		Weigher: func(_ [sha256.Size]byte, a Answer) uint32 {
			return uint32(len(a.Label) + len(a.Explanation) + answerOverhead)
		},
	})}
}

func (p *Processor) cached(key [sha256.Size]byte) (result, bool) {
	if p.cache == nil {
		return result{}, false
	}
	a, ok := p.cache.entries.GetIfPresent(key)
	return result{answer: a}, ok
}

func (p *Processor) keep(key [sha256.Size]byte, a Answer) {
	if p.cache != nil {
		p.cache.entries.Set(key, a)
	}
}
