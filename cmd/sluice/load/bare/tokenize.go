package bare

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// This file measures tokenizers, which a worker needs beside its sessions.

const textsAtOnce = 16 // texts of one call of a tokenizer, as a worker has them

// Tokenize is how many texts a second n goroutines tokenize together, over and over for about a length of time; encode
// is called by several of them at a time.
func Tokenize(encode func(texts [][]byte), texts [][]byte, n int, length time.Duration) float64 {
	chunks := slices.Collect(slices.Chunk(texts, textsAtOnce))
	var next, count atomic.Int64
	var wg sync.WaitGroup
	began := time.Now()
	for range n {
		wg.Go(func() {
			for {
				chunk := chunks[int(next.Add(1)-1)%len(chunks)]
				encode(chunk)
				count.Add(int64(len(chunk)))
				if time.Since(began) >= length {
					return
				}
			}
		})
	}
	wg.Wait()
	return float64(count.Load()) / time.Since(began).Seconds()
}
