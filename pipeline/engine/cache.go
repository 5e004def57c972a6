package engine

import (
	"unsafe"

	"github.com/maypok86/otter/v2"
)

// This file owns the cache of results: logits of rows that were computed before, by model digest and the row's key. The
// key holds the row's content itself, so an answer is never another row's; the digest keeps models apart. What the
// logits mean (labels, thresholds, aggregation) is decided anew for every record.

// cacheKey is one row of one model.
type cacheKey struct{ digest, row string }

// cacheOverhead is about what an entry costs beyond key and logits: node and its place in the tables.
const cacheOverhead = 256

type resultCache struct {
	entries *otter.Cache[cacheKey, []float32]
}

// newResultCache makes a cache that holds about the given number of bytes at most; what is asked for often stays
// longest (W-TinyLFU).
func newResultCache(bytes int) *resultCache {
	return &resultCache{otter.Must(&otter.Options[cacheKey, []float32]{
		MaximumWeight: uint64(bytes),
		Weigher: func(k cacheKey, logits []float32) uint32 {
			return uint32(len(k.row) + 4*len(logits) + cacheOverhead)
		},
	})}
}

// get returns logits that are not to be written to.
func (c *resultCache) get(digest string, row Input) ([]float32, bool) {
	b := row.Key()
	// the key lives for this call only
	return c.entries.GetIfPresent(cacheKey{digest, unsafe.String(unsafe.SliceData(b), len(b))})
}

// put copies the key and the logits: theirs may be parts of a whole batch.
func (c *resultCache) put(digest string, row Input, logits []float32) {
	c.entries.Set(cacheKey{digest, string(row.Key())}, append([]float32(nil), logits...))
}

func (c *resultCache) bytes() uint64 { return c.entries.WeightedSize() }

func (c *resultCache) close() { c.entries.StopAllGoroutines() }
