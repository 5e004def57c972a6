package pipeline

import (
	"unsafe"

	"github.com/maypok86/otter/v2"
)

// This file owns the cache of results: logits of rows that were computed before, by model digest and token ids. The key
// holds the ids themselves, so an answer is never another row's; the digest keeps models apart. What the logits mean
// (labels, thresholds, aggregation) is decided anew for every record.

// cacheKey is one row of one model.
type cacheKey struct{ digest, ids string }

// cacheOverhead is about what an entry costs beyond ids and logits: key, node and its place in the tables.
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
			return uint32(len(k.ids) + 4*len(logits) + cacheOverhead)
		},
	})}
}

// get returns logits that are not to be written to.
func (c *resultCache) get(digest string, row Row) ([]float32, bool) {
	b := bytesOf(row)
	// the key lives for this call only
	return c.entries.GetIfPresent(cacheKey{digest, unsafe.String(unsafe.SliceData(b), len(b))})
}

// put copies the row and the logits: theirs may be parts of a whole batch.
func (c *resultCache) put(digest string, row Row, logits []float32) {
	c.entries.Set(cacheKey{digest, string(bytesOf(row))}, append([]float32(nil), logits...))
}

func (c *resultCache) bytes() uint64 { return c.entries.WeightedSize() }

func (c *resultCache) close() { c.entries.StopAllGoroutines() }

// bytesOf is the memory of a row.
func bytesOf(row Row) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(row))), 4*len(row))
}
