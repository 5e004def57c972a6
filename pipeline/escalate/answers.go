package escalate

import (
	"crypto/sha256"

	"github.com/maypok86/otter/v2"

	"sluice/pipeline/llm/label"
)

// This file owns the answers that are kept for the next record with the same question.

// answerOverhead is about what an entry costs beyond the answer's texts: key, node and its place in the tables.
const answerOverhead = 256

type answerCache struct {
	entries *otter.Cache[[sha256.Size]byte, label.Answer]
}

// newAnswerCache makes a cache that holds about so many bytes at most; what is asked for often stays longest
// (W-TinyLFU).
func newAnswerCache(bytes int) *answerCache {
	return &answerCache{otter.Must(&otter.Options[[sha256.Size]byte, label.Answer]{
		MaximumWeight: uint64(bytes),
		Weigher: func(_ [sha256.Size]byte, a label.Answer) uint32 {
			return uint32(len(a.Label) + len(a.Explanation) + answerOverhead)
		},
	})}
}

func (p *Processor) cached(key [sha256.Size]byte) (label.Answer, bool) {
	if p.cache == nil {
		return label.Answer{}, false
	}
	return p.cache.entries.GetIfPresent(key)
}

func (p *Processor) keep(key [sha256.Size]byte, a label.Answer) {
	if p.cache != nil {
		p.cache.entries.Set(key, a)
	}
}
