package escalate

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"sluice/pipeline"
)

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func wallets(partitions ...int32) map[pipeline.TopicPartition]string {
	m := map[pipeline.TopicPartition]string{}
	for _, p := range partitions {
		m[pipeline.TopicPartition{Topic: "escalations", Partition: p}] = ""
	}
	return m
}

func tp(p int32) pipeline.TopicPartition {
	return pipeline.TopicPartition{Topic: "escalations", Partition: p}
}

// own assigns wallets by the metadata of their partitions, as a stage does.
func own(b *Budget, partitions int, metadata map[pipeline.TopicPartition]string) {
	members := map[pipeline.TopicPartition]pipeline.Members{}
	for tp, s := range metadata {
		members[tp] = membersOf(s)
	}
	b.Attachment(func() int { return partitions }).Assigned(members)
}

func membersOf(metadata string) (m pipeline.Members) {
	if json.Unmarshal([]byte(metadata), &m) != nil {
		return nil
	}
	return m
}

// beside is what a stage commits beside the offsets of wallets.
func beside(b *Budget) map[pipeline.TopicPartition]string {
	a := b.Attachment(nil)
	m := map[pipeline.TopicPartition]string{}
	for tp := range b.wallets {
		m[tp] = fmt.Sprintf(`{%q:%s}`, a.Name(), a.Note(tp))
	}
	return m
}

// spentAs is what one call took, for the truth that the property compares with.
type spentAs struct {
	worker    int
	day       string
	estimate  int64
	actual    int64 // -1 while outstanding
	committed bool  // a commit after the charge was made held every wallet
	charge    *Charge
}

// TestBudgetIsNeverPassed: whatever the schedule of workers, assignments, charges, commits, crashes and midnights, what
// was spent on a day, outstanding charges included, stays within the day's budget; a crash adds no more than the calls
// that were charged after the worker's last commit.
func TestBudgetIsNeverPassed(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		partitions := rapid.IntRange(1, 7).Draw(t, "partitions")
		limits := Limits{
			CallsPerDay:  int64(rapid.IntRange(1, 60).Draw(t, "calls a day")),
			TokensPerDay: int64(rapid.IntRange(1, 3000).Draw(t, "tokens a day")),
		}
		now := noon
		const workers = 3
		var (
			budgets   [workers]*Budget
			owned     [workers]map[pipeline.TopicPartition]string
			committed = wallets()
			truth     []*spentAs
			lost      = map[string][2]int64{} // by day: calls and tokens that a crash made forgotten
		)
		for p := range partitions {
			committed[tp(int32(p))] = ""
		}
		for w := range workers {
			budgets[w], owned[w] = NewBudget(limits, func() time.Time { return now }),
				map[pipeline.TopicPartition]string{}
		}
		commit := func(w int) {
			maps.Copy(committed, beside(budgets[w]))
			for _, s := range truth {
				if s.worker == w {
					s.committed = true
				}
			}
		}
		assign := func() {
			for w := range workers {
				owned[w] = map[pipeline.TopicPartition]string{}
			}
			for p := range partitions {
				w := rapid.IntRange(0, workers-1).Draw(t, "owner")
				owned[w][tp(int32(p))] = committed[tp(int32(p))]
			}
			for w := range workers {
				own(budgets[w], partitions, owned[w])
			}
		}
		check := func() {
			calls, tokens := map[string]int64{}, map[string]int64{}
			for _, s := range truth {
				calls[s.day]++
				if s.actual >= 0 {
					tokens[s.day] += s.actual
				} else {
					tokens[s.day] += s.estimate
				}
			}
			for d := range calls {
				if calls[d] > limits.CallsPerDay+lost[d][0] {
					t.Fatalf("%s: %d calls with a budget of %d, and %d forgotten in crashes", d, calls[d],
						limits.CallsPerDay, lost[d][0])
				}
				if tokens[d] > limits.TokensPerDay+lost[d][1] {
					t.Fatalf("%s: %d tokens with a budget of %d, and %d forgotten in crashes", d, tokens[d],
						limits.TokensPerDay, lost[d][1])
				}
			}
		}
		assign()
		t.Repeat(map[string]func(*rapid.T){
			"charge": func(t *rapid.T) {
				w, p := rapid.IntRange(0, workers-1).Draw(t, "worker"), rapid.IntRange(0, partitions-1).Draw(t,
					"partition")
				prompt, completion := rapid.IntRange(0, 200).Draw(t, "prompt"), rapid.IntRange(0, 50).Draw(t,
					"completion")
				if c, ok := budgets[w].Charge(tp(int32(p)), prompt, completion); ok {
					truth = append(truth, &spentAs{worker: w, day: dayOf(now).String(), estimate: int64(prompt +
						completion), actual: -1, charge: c})
				}
			},
			"settle": func(t *rapid.T) {
				open := slices.DeleteFunc(slices.Clone(truth), func(s *spentAs) bool {
					return s.actual >= 0 ||
						s.charge == nil
				})
				if len(open) == 0 {
					t.Skip("nothing is outstanding")
				}
				s := rapid.SampledFrom(open).Draw(t, "call")
				s.actual = int64(rapid.IntRange(0, int(s.estimate)).Draw(t, "took"))
				s.charge.Settle(int(s.actual), 0)
			},
			"commit": func(t *rapid.T) { commit(rapid.IntRange(0, workers-1).Draw(t, "worker")) },
			"rebalance": func(*rapid.T) {
				for w := range workers {
					commit(w)
				}
				assign()
			},
			"crash": func(t *rapid.T) {
				w := rapid.IntRange(0, workers-1).Draw(t, "worker")
				for _, s := range truth {
					if s.worker != w {
						continue
					}
					if !s.committed && s.charge != nil {
						l := lost[s.day]
						l[0], l[1] = l[0]+1, l[1]+s.estimate
						lost[s.day] = l
					}
					s.charge = nil // never settled
				}
				budgets[w] = NewBudget(limits, func() time.Time { return now })
				for o := range workers {
					if o != w {
						commit(o)
					}
				}
				assign()
			},
			"time": func(t *rapid.T) {
				now = now.Add(time.Duration(rapid.IntRange(1, 20).Draw(t,
					"hours")) * time.Hour)
			},
			"": func(*rapid.T) { check() },
		})
	})
}

func TestBudgetOfOneWorkerIsTheWholeBudget(t *testing.T) {
	b := NewBudget(Limits{TokensPerDay: 1000}, func() time.Time { return noon })
	own(b, 4, wallets(0, 1, 2, 3))
	c, ok := b.Charge(tp(2), 600, 100) // more than one wallet holds
	if !ok {
		t.Fatal("700 of 1000 tokens were refused")
	}
	if got := b.Left().Tokens; got != 300 {
		t.Errorf("left: %d tokens, want 300", got)
	}
	if _, ok := b.Charge(tp(2), 301, 0); ok {
		t.Error("301 tokens were given where 300 were left")
	}
	c.Settle(50, 10)
	if got := b.Left().Tokens; got != 940 {
		t.Errorf("left after settling: %d tokens, want 940", got)
	}
	c.Settle(0, 0)
	c.Void()
	if got := b.Left().Tokens; got != 940 {
		t.Errorf("a charge was settled twice: %d tokens left, want 940", got)
	}
}

func TestBudgetIsSharedByPartitions(t *testing.T) {
	for _, total := range []int64{1, 5, 12, 100} {
		var sum int64
		for p := range int32(12) {
			b := NewBudget(Limits{CallsPerDay: total}, func() time.Time { return noon })
			own(b, 12, wallets(p))
			for {
				if _, ok := b.Charge(tp(p), 1, 1); !ok {
					break
				}
				sum++
			}
		}
		if sum != total {
			t.Errorf("12 workers with a wallet each made %d calls of %d", sum, total)
		}
	}
}

func TestBudgetSurvivesARestart(t *testing.T) {
	now := noon
	limits := Limits{CallsPerDay: 10, MoneyPerDay: 0.01, InputPerMillion: 0.5, OutputPerMillion: 2}
	b := NewBudget(limits, func() time.Time { return now })
	own(b, 2, wallets(0, 1))
	for range 7 {
		c, ok := b.Charge(tp(0), 400, 100)
		if !ok {
			t.Fatal("refused within the budget")
		}
		c.Settle(400, 100) // 0.0004
	}
	metadata := beside(b)
	for tp, s := range metadata {
		if len(s) > 200 {
			t.Errorf("%v: %d bytes of metadata", tp, len(s))
		}
	}
	again := NewBudget(limits, func() time.Time { return now })
	own(again, 2, metadata)
	if l := again.Left(); l.Calls != 3 || l.Tokens != -1 || fmt.Sprintf("%.4f", l.Money) != "0.0072" {
		t.Errorf("left after a restart: %+v", l)
	}
	now = now.Add(12 * time.Hour)
	if l := again.Left(); l.Calls != 10 || l.Money != 0.01 {
		t.Errorf("left on the next day: %+v", l)
	}
	now = now.Add(-time.Hour) // the clock steps back over midnight
	if _, ok := again.Charge(tp(0), 1, 1); !ok {
		t.Error("refused after the clock stepped back")
	}
	if l := again.Left(); l.Calls != 9 {
		t.Errorf("left after the clock stepped back: %+v, want 9 calls: a day that has begun is not given out twice", l)
	}
}

func TestBudgetMetadataOfOthers(t *testing.T) {
	for _, s := range []string{
		"", "hello", "{", `{"sluice_budget":1}`, `{"sluice_budget":1,"day":"2026-03-01","calls":-4}`,
		`{"sluice_budget":0,"day":"2026-03-01","calls":4}`,
		`{"sluice_budget":1,"day":"yesterday","calls":4}`, `{"sluice_budget":1,"day":"2026-02-28","calls":4}`, `[1]`,
		strings.Repeat("{", 4096),
	} {
		b := NewBudget(Limits{CallsPerDay: 8}, func() time.Time { return noon })
		own(b, 1, map[pipeline.TopicPartition]string{tp(0): s})
		if got := b.Left().Calls; got != 8 {
			t.Errorf("%.40q: %d calls left of 8", s, got)
		}
	}
	for _, s := range []string{
		`{"sluice_budget":1,"day":"2026-03-01","calls":5}`,
		`{"sluice_budget":2,"day":"2026-03-01","calls":5,"new":{"a":1}}`,
		`{"sluice_budget":1,"day":"2026-03-02","calls":5}`, `{"sluice_budget":1,"day":"2050-01-01","calls":5}`,
	} {
		b := NewBudget(Limits{CallsPerDay: 8}, func() time.Time { return noon })
		own(b, 1, map[pipeline.TopicPartition]string{tp(0): s})
		if got := b.Left().Calls; got != 3 {
			t.Errorf("%s: %d calls left, want 3", s, got)
		}
		later := NewBudget(Limits{CallsPerDay: 8}, func() time.Time { return noon.Add(48 * time.Hour) })
		own(later, 1, beside(b))
		if got := later.Left().Calls; got != 8 {
			t.Errorf("%s: %d calls left two days later, want 8", s, got)
		}
	}
	b := NewBudget(Limits{CallsPerDay: 1 << 62, TokensPerDay: 1 << 62}, func() time.Time { return noon })
	own(b, 1, map[pipeline.TopicPartition]string{
		tp(0): `{"sluice_budget":1,"day":"2026-03-01","calls":9223372036854775807,"tokens":9223372036854775807}`})
	for range 4 {
		c, ok := b.Charge(tp(0), 1<<40, 1<<40)
		if ok {
			c.Settle(1<<62, 1<<62)
		}
	}
	for _, s := range beside(b) {
		if len(s) > 200 || strings.Contains(s, "-9") {
			t.Errorf("metadata %s", s)
		}
	}
}

func TestBudgetKeepsWhatItKnowsBeyondTheMetadata(t *testing.T) {
	b := NewBudget(Limits{CallsPerDay: 10}, func() time.Time { return noon })
	own(b, 1, wallets(0))
	old := beside(b)
	for range 4 {
		b.Charge(tp(0), 1, 1)
	}
	own(b, 1, old)
	if got := b.Left().Calls; got != 6 {
		t.Errorf("%d calls left after a rebalance that moved nothing, want 6", got)
	}
	own(b, 1, nil)
	if _, ok := b.Charge(tp(0), 1, 1); ok {
		t.Error("a worker without partitions got a call")
	}
	own(b, 1, map[pipeline.TopicPartition]string{tp(0): `{"sluice_budget":1,"day":"2026-03-01","calls":9}`})
	if got := b.Left().Calls; got != 1 {
		t.Errorf("%d calls left after the partition came back with 9 spent, want 1", got)
	}
}

func TestNothingGoesBackIntoAWalletThatWasAnothers(t *testing.T) {
	b := NewBudget(Limits{TokensPerDay: 1000}, noonClock)
	own(b, 1, wallets(0))
	c, _ := b.Charge(tp(0), 400, 0) // after the last commit
	own(b, 1, nil)
	own(b, 1, map[pipeline.TopicPartition]string{tp(0): `{"sluice_budget":1,"day":"2026-03-01","tokens":300}`})
	c.Settle(100, 0)
	if got := b.Left().Tokens; got != 700 {
		t.Errorf("%d tokens left where another worker had spent 300 of 1000; want 700", got)
	}
}

func TestCallsPerSecondAreSharedByPartitions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := NewBudget(Limits{CallsPerSecond: 8}, time.Now)
		own(b, 4, wallets(0)) // a quarter: 2 a second
		start := time.Now()
		for range 12 {
			if err := b.Wait(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if took := time.Since(start); took != 6*time.Second {
			t.Errorf("12 calls took %v, want 6s", took)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		if err := b.Wait(ctx); err == nil || time.Since(start) != 6*time.Second {
			t.Errorf("a wait that is longer than the deadline: %v after %v, want an error at once", err,
				time.Since(start))
		}
	})
}

func TestLimitsCheck(t *testing.T) {
	for name, l := range map[string]Limits{
		"negative": {CallsPerDay: -1}, "money without prices": {MoneyPerDay: 5},
		"not a number": {CallsPerSecond: nan()},
	} {
		if l.Check() == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if err := (Limits{CallsPerDay: 1e12, TokensPerDay: 1e12, CallsPerSecond: 0.1}).Check(); err != nil {
		t.Error(err)
	}
}

func nan() float64 { var z float64; return z / z }

func noonClock() time.Time { return noon }

func TestACallOverMidnightGivesNothingBackToTheNewDay(t *testing.T) {
	now := noon
	b := NewBudget(Limits{TokensPerDay: 1000}, func() time.Time { return now })
	own(b, 1, wallets(0))
	yesterday, _ := b.Charge(tp(0), 500, 0)
	now = now.Add(12 * time.Hour)
	if _, ok := b.Charge(tp(0), 300, 0); !ok {
		t.Fatal("refused on a new day")
	}
	yesterday.Settle(10, 0)
	if got := b.Left().Tokens; got != 700 {
		t.Errorf("%d tokens left on the new day, want 700", got)
	}
}
