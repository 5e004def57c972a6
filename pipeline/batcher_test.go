package pipeline

import (
	"testing"

	"pgregory.net/rapid"
)

// Whatever arrives in whatever order: every row runs exactly once, no batch passes the budget (a longer row runs alone), a
// batch holds one model's rows, and a free runner never gets nothing while something waits.
func TestBatcherRunsEveryRowOnceWithinTheBudget(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		budget := rapid.IntRange(1, 300).Draw(t, "budget")
		b := newBatcher(2, budget)
		type key struct{ model, id int }
		waiting := map[key]int{} // tokens
		next := 0
		t.Repeat(map[string]func(*rapid.T){
			"add": func(t *rapid.T) {
				m, n := rapid.IntRange(0, 1).Draw(t, "model"), rapid.IntRange(1, 600).Draw(t, "tokens")
				next++
				b.add(m, nil, next, make(Row, n))
				waiting[key{m, next}] = n
			},
			"next": func(t *rapid.T) {
				idle := rapid.IntRange(0, 3).Draw(t, "idle")
				out, ok := b.next(idle, nil)
				if ok != (len(waiting) > 0) {
					t.Fatalf("next says %v with %d rows waiting", ok, len(waiting))
				}
				tokens := 0
				for _, task := range out.tasks {
					k := key{out.model, task.index}
					n, here := waiting[k]
					if !here || n != len(task.row) {
						t.Fatalf("row %v is not waiting", k)
					}
					delete(waiting, k)
					tokens += n
				}
				if tokens != out.tokens || tokens > budget && len(out.tasks) > 1 {
					t.Fatalf("batch of %d rows, %d tokens (says %d), budget %d", len(out.tasks), tokens, out.tokens, budget)
				}
			},
			"": func(t *rapid.T) {
				rows, tokens := 0, 0
				for i := range b.queues {
					rows += b.queues[i].rows
					tokens += b.queues[i].tokens
				}
				want := 0
				for _, n := range waiting {
					want += n
				}
				if rows != len(waiting) || tokens != want {
					t.Fatalf("%d rows, %d tokens counted; %d, %d wait", rows, tokens, len(waiting), want)
				}
			},
		})
	})
}

func TestBatcherServesTheOldestFirst(t *testing.T) {
	b := newBatcher(1, 64)
	b.add(0, nil, 0, make(Row, 100)) // a long text, oldest
	for i := 1; i < 10; i++ {
		b.add(0, nil, i, make(Row, 10))
	}
	out, _ := b.next(0, nil)
	if len(out.tasks) != 1 || out.tasks[0].index != 0 || out.reason != ByBudget {
		t.Fatalf("first batch has %d rows, first is %d, closed by %s; want the long text alone, by budget", len(out.tasks), out.tasks[0].index, out.reason)
	}
	out, _ = b.next(0, nil)
	if len(out.tasks) != 6 || out.reason != ByBudget {
		t.Fatalf("second batch has %d rows, closed by %s; want 6 of 10 tokens within 64", len(out.tasks), out.reason)
	}
	out, _ = b.next(0, nil)
	if len(out.tasks) != 3 || out.reason != ByDrained {
		t.Fatalf("third batch has %d rows, closed by %s; want the last 3", len(out.tasks), out.reason)
	}
}

func TestBatcherSharesAFewRowsAmongIdleRunners(t *testing.T) {
	b := newBatcher(1, 256)
	for i := range 4 {
		b.add(0, nil, i, make(Row, 20))
	}
	out, _ := b.next(1, nil)
	if len(out.tasks) != 2 || out.reason != ByShare {
		t.Fatalf("with one more runner idle the batch has %d rows, closed by %s; want 2, shared", len(out.tasks), out.reason)
	}
	out, _ = b.next(0, nil)
	if len(out.tasks) != 2 {
		t.Fatalf("the other runner gets %d rows, want 2", len(out.tasks))
	}
}

func TestLengthClassesFillAtLeastHalf(t *testing.T) {
	for n := 1; n <= 8<<(classes-1); n++ {
		c := classOf(n)
		if n > 8<<c || c > 0 && n <= 8<<(c-1) {
			t.Fatalf("%d tokens are in class %d", n, c)
		}
	}
}
