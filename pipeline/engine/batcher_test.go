package engine

import (
	"testing"

	"pgregory.net/rapid"
)

// Whatever arrives in whatever order: every row runs exactly once, no batch passes the budget (a longer row runs
// alone), a batch holds one model's rows, and a free runner never gets nothing while something waits.
func TestBatcherRunsEveryRowOnceWithinTheBudget(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		budget := rapid.IntRange(1, 300).Draw(t, "budget")
		runners := rapid.IntRange(1, 4).Draw(t, "runners")
		b := batcherOf(runners, Budget{Tokens: budget, Least: rapid.IntRange(1, budget).Draw(t, "least")},
			Budget{Tokens: budget, Least: budget})
		var running []batch
		type key struct {
			model *queue
			id    int
		}
		waiting := map[key]int{} // tokens
		next := 0
		t.Repeat(map[string]func(*rapid.T){
			"add": func(t *rapid.T) {
				m, n := rapid.IntRange(0, 1).Draw(t, "model"), rapid.IntRange(1, 600).Draw(t, "tokens")
				next++
				b.add(&task{queue: b.queues[m], cost: n, priority: priority(rapid.IntRange(0, 1).Draw(t, "priority")),
					due: int64(rapid.IntRange(0, 5).Draw(t, "due")), hash: uint64(next)})
				waiting[key{b.queues[m], next}] = n
			},
			"next": func(t *rapid.T) {
				idle := rapid.IntRange(0, 3).Draw(t, "idle")
				if len(running) == runners {
					b.done(running[0])
					running = running[1:]
				}
				out, ok := b.next(idle, nil)
				if ok {
					running = append(running, out)
				}
				if ok != (len(waiting) > 0) {
					t.Fatalf("next says %v with %d rows waiting", ok, len(waiting))
				}
				tokens := 0
				for _, task := range out.tasks {
					k := key{out.queue, int(task.hash)}
					n, here := waiting[k]
					if !here || n != task.cost {
						t.Fatalf("row %d is not waiting", k.id)
					}
					delete(waiting, k)
					tokens += n
				}
				if tokens != out.cost || tokens > budget && len(out.tasks) > 1 {
					t.Fatalf("batch of %d rows, %d tokens (says %d), budget %d", len(out.tasks), tokens, out.cost,
						budget)
				}
			},
			"": func(t *rapid.T) {
				rows, tokens := 0, 0
				for i := range b.queues {
					rows += b.queues[i].rows
					tokens += b.queues[i].cost
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

// batcherOf makes a batcher of models with these budgets.
func batcherOf(runners int, budgets ...Budget) *batcher {
	b := newBatcher(runners)
	for _, budget := range budgets {
		b.open(&queue{budget: budget})
	}
	return b
}

// waits makes a batcher of one model in which rows of these lengths wait, in order of arrival.
func waits(runners, budget int, lengths ...int) *batcher {
	b := batcherOf(runners, Budget{Tokens: budget, Least: budget})
	for i, n := range lengths {
		b.add(&task{queue: b.queues[0], cost: n, priority: ordinary, due: int64(i)})
	}
	return b
}

func TestBatcherServesTheOldestFirst(t *testing.T) {
	b := waits(1, 64, 100, 10, 10, 10, 10, 10, 10, 10, 10, 10) // a long text, oldest
	out, _ := b.next(0, nil)
	if len(out.tasks) != 1 || out.tasks[0].cost != 100 || out.reason != ByBudget {
		t.Fatalf("first batch has %d rows, closed by %s; want the long text alone, by budget", len(out.tasks),
			out.reason)
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
	b := waits(2, 256, 20, 20, 20, 20)
	out, _ := b.next(1, nil)
	if len(out.tasks) != 2 || out.reason != ByShare {
		t.Fatalf("with one more runner idle the batch has %d rows, closed by %s; want 2, shared", len(out.tasks),
			out.reason)
	}
	out, _ = b.next(0, nil)
	if len(out.tasks) != 2 {
		t.Fatalf("the other runner gets %d rows, want 2", len(out.tasks))
	}
}

func TestBusyRunnersShareWhatIsLessThanTheirBudgets(t *testing.T) {
	for waiting, want := range map[int]int{4: 3, 8: 4, 64: 16} { // rows of 16 tokens; budget 256, least 48, two runners
		b := batcherOf(2, Budget{Tokens: 256, Least: 48})
		for i := range waiting {
			b.add(&task{queue: b.queues[0], cost: 16, priority: ordinary, due: int64(i)})
		}
		if out, _ := b.next(0, nil); len(out.tasks) != want {
			t.Errorf("of %d rows waiting a runner takes %d, want %d", waiting, len(out.tasks), want)
		}
	}
}

func TestUrgentRowsGoFirstAndOthersAreNotStarved(t *testing.T) {
	b := batcherOf(1, Budget{Tokens: 16, Least: 16})
	for i := range 40 {
		b.add(&task{queue: b.queues[0], cost: 16, priority: ordinary, due: int64(i)})
		b.add(&task{queue: b.queues[0], cost: 16, priority: urgent, due: int64(1000 + i)})
	}
	var order []priority
	for range 40 {
		out, _ := b.next(0, nil)
		order = append(order, out.tasks[0].priority)
	}
	if order[0] != urgent {
		t.Error("an urgent row does not go first")
	}
	for i := 0; i+urgentStreak < len(order); i++ {
		others := 0
		for _, p := range order[i : i+urgentStreak+1] {
			if p == ordinary {
				others++
			}
		}
		if others != 1 {
			t.Fatalf("of %d batches in a row %d are for others, want 1: %v", urgentStreak+1, others, order)
		}
	}
}

func TestLongRowsLeaveARunnerToShorterOnes(t *testing.T) {
	b := waits(2, 64, 300, 300, 20, 300)
	long, _ := b.next(0, nil)
	short, _ := b.next(0, nil)
	if !long.long || short.long {
		t.Fatalf("two runners took rows of %d and %d tokens; want the older long one and, past the second, the short "+
			"one", long.tasks[0].cost, short.tasks[0].cost)
	}
	b.done(short)
	second, ok := b.next(0, nil)
	if !ok || !second.long {
		t.Fatal("a free runner idles although only long rows wait")
	}
	b.add(&task{queue: b.queues[0], cost: 20, priority: ordinary, due: 1000})
	b.done(long)
	b.done(second)
	if third, _ := b.next(0, nil); !third.long {
		t.Fatal("the last long row was passed over although no long row was running")
	}
}

func TestARowThatIsDueFirstGoesFirst(t *testing.T) {
	b := batcherOf(1, Budget{Tokens: 16, Least: 16})
	for i, due := range []int64{50, 10, 30, 20, 40} {
		b.add(&task{queue: b.queues[0], cost: 9 + i, priority: ordinary, due: due}) // of several classes
	}
	for _, want := range []int64{10, 20, 30, 40, 50} {
		out, _ := b.next(0, nil)
		if out.tasks[0].due != want {
			t.Fatalf("the row due at %d runs before the one due at %d", out.tasks[0].due, want)
		}
	}
}

func TestLengthClassesFillAtLeastFourFifths(t *testing.T) {
	longest := map[int]int{}
	shortest := map[int]int{}
	for n := 1; n <= 4096; n++ {
		c := classOf(n)
		longest[c] = n
		if shortest[c] == 0 {
			shortest[c] = n
		}
		if n > 1 && c < classOf(n-1) {
			t.Fatalf("%d tokens are in a lower class than %d", n, n-1)
		}
	}
	for c, n := range shortest {
		if c > 0 && 5*n < 4*longest[c] {
			t.Errorf("class %d holds rows of %d to %d tokens", c, n, longest[c])
		}
		if low := octaveBelow(c); 2*longest[low] <= longest[c] || low > 1 && 2*longest[low-1] > longest[c] {
			t.Errorf("an octave below class %d (%d tokens) begins with class %d (%d tokens)", c, longest[c], low,
				longest[low])
		}
	}
}
