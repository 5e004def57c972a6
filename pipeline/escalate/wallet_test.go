package escalate

import (
	"testing"
	"time"

	"sluice/pipeline"
)

// A wallet is read in its own member and in the form that it had before, whichever knows of more; what is not its own
// it leaves alone.
func TestAWalletOfAFormerVersionIsReadAndTakenOut(t *testing.T) {
	for _, c := range []struct {
		name, metadata string
		left           int64
	}{
		{"the former form", `{"sluice_budget":1,"day":"2026-03-01","calls":5,"tokens":1,"money":1,"starts":{},"x":1}`,
			3},
		{"its own member", `{"budget":{"version":1,"day":"2026-03-01","calls":6},"starts":{},"x":1}`, 2},
		{"both, of one day", `{"budget":{"version":1,"day":"2026-03-01","calls":2},"sluice_budget":1,` +
			`"day":"2026-03-01","calls":5,"starts":{},"x":1}`, 3},
		{"both, the former of yesterday", `{"budget":{"version":1,"day":"2026-03-01","calls":2},"sluice_budget":1,` +
			`"day":"2026-02-28","calls":5,"starts":{},"x":1}`, 6},
		{"the former makes no sense", `{"sluice_budget":1,"day":7,"calls":5,"starts":{},"x":1}`, 8},
		{"a day of somebody else", `{"starts":{},"x":1}`, 8},
	} {
		b := NewBudget(Limits{CallsPerDay: 8}, noonClock)
		m := membersOf(c.metadata)
		b.Attachment(func() int { return 1 }).Assigned(map[pipeline.TopicPartition]pipeline.Members{tp(0): m})
		if got := b.Left().Calls; got != c.left {
			t.Errorf("%s: %d calls left, want %d", c.name, got, c.left)
		}
		delete(m, walletMember)
		if len(m) != 2 || m["x"] == nil || m["starts"] == nil {
			t.Errorf("%s: %s is left of others", c.name, m)
		}
	}
}

// What others keep beside an offset of the escalation topic outlives commits of wallets, and so does what was spent
// before an update, which moves to its own member.
func TestAWorkerThatIsUpdatedForgetsNothing(t *testing.T) {
	inBubble(t, func(t *bubble) {
		b := newBroker(1)
		today := time.Now().UTC().Format(time.DateOnly)
		b.committed[b.owned[0]] = pipeline.Committed{Metadata: `{"calls":7,"day":"` + today +
			`","money":0,"sluice_budget":1,"starts":{"open":true},"tokens":3,"z":[1]}`}
		b.add(t, distinct(5, 1)...)
		d := t.work(b, deskOptions{limits: Limits{CallsPerDay: 10}})
		got := d.await(5)
		if n := fallbacks(got); n[""] != 3 || n[FallbackBudget] != 2 || t.a.Stats().Requests != 3 {
			t.Errorf("%v: 7 of 10 calls were spent", n)
		}
		d.stop()
		if m, want := b.committed[b.owned[0]].Metadata, `{"budget":{"version":1,"day":"`+today+
			`","calls":10,"tokens":`; len(m) < len(want) || m[:len(want)] != want ||
			m[len(m)-len(`,"z":[1]}`):] != `,"z":[1]}` {
			t.Errorf("beside the offset: %s", m)
		}
	})
}

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
		own(b, 1, map[pipeline.TopicPartition]string{tp(0): s})
		l := b.Left()
		if l.Calls < 0 || l.Calls > 10 || l.Tokens < 0 || l.Tokens > 1000 || l.Money < 0 || l.Money > 1 {
			t.Fatalf("%q: left %+v", s, l)
		}
		m := beside(b)
		if len(m[tp(0)]) > 200 {
			t.Fatalf("%q becomes %d bytes", s, len(m[tp(0)]))
		}
		again := NewBudget(Limits{CallsPerDay: 10, TokensPerDay: 1000, MoneyPerDay: 1, InputPerMillion: 1,
			OutputPerMillion: 1}, noonClock)
		own(again, 1, m)
		if got := again.Left(); got != l {
			t.Fatalf("%q: left %+v, after a restart %+v", s, l, got)
		}
	})
}
