package bare

import (
	"sync/atomic"
	"testing"
	"time"
)

func TestTokenizeTakesEveryTextInTurns(t *testing.T) {
	texts := make([][]byte, 2*textsAtOnce+1)
	for i := range texts {
		texts[i] = []byte{byte(i)}
	}
	var calls atomic.Int64
	var seen [64]atomic.Bool
	rate := Tokenize(func(part [][]byte) {
		calls.Add(1)
		if len(part) > textsAtOnce {
			t.Errorf("%d texts at once", len(part))
		}
		for _, text := range part {
			seen[text[0]].Store(true)
		}
	}, texts, 3, time.Millisecond)
	if calls.Load() < 3 || rate <= 0 {
		t.Errorf("%d calls, %v texts a second", calls.Load(), rate)
	}
	for i := range texts {
		if !seen[i].Load() {
			t.Errorf("text %d was never tokenized", i)
		}
	}
}
