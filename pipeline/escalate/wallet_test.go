package escalate

import (
	"testing"

	"sluice/pipeline"
)

// FuzzWallet: whatever stands beside an offset, no budget grows by it, and what is written back can be read.
func FuzzWallet(f *testing.F) {
	for _, s := range []string{"", "{", `{"sluice_budget":1,"day":"2026-03-01","calls":5,"tokens":6,"money":7}`,
		`{"sluice_budget":1,"day":"9999-12-31","calls":9223372036854775807}`,
		`{"sluice_budget":1,"day":"0001-01-01"}`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		b := NewBudget(Limits{CallsPerDay: 10, TokensPerDay: 1000, MoneyPerDay: 1, InputPerMillion: 1,
			OutputPerMillion: 1}, noonClock)
		b.Assign(1, map[pipeline.TopicPartition]string{tp(0): s})
		l := b.Left()
		if l.Calls < 0 || l.Calls > 10 || l.Tokens < 0 || l.Tokens > 1000 || l.Money < 0 || l.Money > 1 {
			t.Fatalf("%q: left %+v", s, l)
		}
		m := b.Metadata()
		if len(m[tp(0)]) > 200 {
			t.Fatalf("%q becomes %d bytes", s, len(m[tp(0)]))
		}
		again := NewBudget(Limits{CallsPerDay: 10, TokensPerDay: 1000, MoneyPerDay: 1, InputPerMillion: 1,
			OutputPerMillion: 1}, noonClock)
		again.Assign(1, m)
		if got := again.Left(); got != l {
			t.Fatalf("%q: left %+v, after a restart %+v", s, l, got)
		}
	})
}
