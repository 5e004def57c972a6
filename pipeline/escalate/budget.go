package escalate

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"slices"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"sluice/pipeline"
	"sluice/pipeline/llm"
)

// This file owns what may be spent: wallets and charges. It is plain state; the clock is passed in (but for Wait, which
// waits for real). It asks nobody and knows no endpoint.
//
// Every partition of the escalation topic is a wallet that holds an equal part of the day's budget (UTC). What has been
// spent of it today stands in the metadata of the escalation group's committed offset for that partition, so that it
// moves with the partition: workers need not agree about anything, and together can never spend more than the budget. A
// charge is taken when a call starts, for the most that it can take (llm.Pool.Ceiling), and settled when it ends. It is
// taken from the wallet of the record's own partition first, then from the fullest that this worker owns: one worker
// that owns all partitions has the whole budget, whatever the partitions' traffic.
//
// What is strict: the sum, over all workers, of settled and outstanding charges of a day never exceeds the budget, as
// long as every wallet that changed is committed before its partition moves and no call takes more than it was charged
// for. What a crash can add: the calls that were charged after the last commit of the wallets they were charged to, and
// no others. The day on which partitions are added to the topic can exceed by what the old wallets had spent beyond
// their new, smaller part.

// Limits bound what all workers of a group spend together. 0: no limit.
type Limits struct {
	CallsPerSecond            float64
	CallsPerDay, TokensPerDay int64   // tokens: prompt and completion
	MoneyPerDay               float64 // in the currency of the prices
	// Prices of a million tokens.
	InputPerMillion, OutputPerMillion float64
}

// Check says what of the limits makes no sense.
func (l Limits) Check() error {
	for _, v := range []struct {
		name string
		n    float64
	}{
		{"calls_per_second", l.CallsPerSecond}, {"calls_per_day", float64(l.CallsPerDay)}, {"tokens_per_day",
			float64(l.TokensPerDay)},
		{"money_per_day", l.MoneyPerDay}, {"input_per_million", l.InputPerMillion}, {"output_per_million",
			l.OutputPerMillion},
	} {
		if !(v.n >= 0) || v.n > 1e9 && v.name != "calls_per_day" && v.name != "tokens_per_day" {
			return fmt.Errorf("%s: %v must be between 0 (no limit) and 1e9", v.name, v.n)
		}
	}
	if l.MoneyPerDay > 0 && l.InputPerMillion == 0 && l.OutputPerMillion == 0 {
		return fmt.Errorf("money_per_day: %v limits nothing without prices; set input_per_million and "+
			"output_per_million, or leave it out", l.MoneyPerDay)
	}
	return nil
}

// Budget is one worker's part of the limits. Its methods may be called concurrently.
type Budget struct {
	limits Limits
	total  amounts // of a day; only where limited
	now    func() time.Time

	mu         sync.Mutex
	partitions int // of the whole topic
	wallets    map[pipeline.TopicPartition]*wallet
	limiter    *rate.Limiter
}

// NewBudget returns a budget that owns no wallet yet. The limits must have passed Check.
func NewBudget(l Limits, now func() time.Time) *Budget {
	return &Budget{
		limits: l, now: now,
		total:   amounts{l.CallsPerDay, l.TokensPerDay, int64(math.Floor(l.MoneyPerDay * nano))},
		wallets: map[pipeline.TopicPartition]*wallet{},
		limiter: rate.NewLimiter(0, 0),
	}
}

func (b *Budget) limited(resource int) bool {
	return b.total[resource] > 0 || resource == money && b.limits.MoneyPerDay > 0
}

// share is the part of the day's budget that is in partition p's wallet: the parts of all partitions sum up to the
// whole.
func (b *Budget) share(resource int, p int32) int64 {
	n := int64(b.partitions)
	if n == 0 {
		return 0
	}
	s := b.total[resource] / n
	if int64(p) < b.total[resource]%n {
		s++
	}
	return s
}

func (b *Budget) left(resource int, tp pipeline.TopicPartition) int64 {
	return max(0, b.share(resource, tp.Partition)-b.wallets[tp].spent[resource])
}

// Attachment is the budget's wallets as a stage keeps them beside offsets. partitions is asked for the number of
// partitions of the whole topic at every assignment.
func (b *Budget) Attachment(partitions func() int) pipeline.Attachment {
	return attachment{b, partitions}
}

type attachment struct {
	budget     *Budget
	partitions func() int
}

// Name implements pipeline.Attachment.
func (attachment) Name() string { return walletMember }

// Assigned implements pipeline.Attachment.
func (a attachment) Assigned(beside map[pipeline.TopicPartition]pipeline.Members) {
	a.budget.assign(a.partitions(), beside)
}

// Note implements pipeline.Attachment: an owned wallet, of at most 200 bytes. All that have changed join a commit, also
// where their partition's offset stays: charges may be borrowed from any of them.
func (a attachment) Note(tp pipeline.TopicPartition) json.RawMessage { return a.budget.note(tp) }

// assign sets the wallets that this worker owns, to what stands beside their offsets. Of a wallet that it owned before,
// it keeps what it knows beyond that. What is not a wallet counts as nothing spent. partitions is the number of
// partitions of the whole topic.
func (b *Budget) assign(partitions int, beside map[pipeline.TopicPartition]pipeline.Members) {
	b.mu.Lock()
	defer b.mu.Unlock()
	today := dayOf(b.now())
	wallets := map[pipeline.TopicPartition]*wallet{}
	for tp, m := range beside {
		w := readWallet(m)
		w.turn(today)
		if old := b.wallets[tp]; old != nil {
			old.turn(today)
			w.join(*old)
		}
		wallets[tp] = &w
		if old := b.wallets[tp]; old != nil {
			*old = w
			wallets[tp] = old
		}
	}
	b.wallets = wallets
	b.partitions = max(partitions, len(wallets))
	if b.limits.CallsPerSecond > 0 {
		part := b.limits.CallsPerSecond * float64(len(wallets)) / float64(max(b.partitions, 1))
		b.limiter.SetLimit(rate.Limit(part))
		b.limiter.SetBurst(max(1, int(part)))
	}
}

// Charge is what one call has been charged. It is settled once.
type Charge struct {
	b        *Budget
	tp       pipeline.TopicPartition
	estimate [2]int // prompt and completion tokens of one attempt
	attempts int
	parts    []part
	settled  bool
}

// part is what a wallet gave.
type part struct {
	from   *wallet
	day    day
	amount amounts
}

func (b *Budget) cost(attempts int64, prompt, completion int) amounts {
	const most = 1 << 40 // tokens of a call, so that nothing overflows
	prompt, completion = min(max(0, prompt), most), min(max(0, completion), most)
	// Prices are per million tokens, money in 1e-9: a thousand units for a token of price 1. Rounded up.
	m := math.Ceil(1000 * (float64(prompt)*b.limits.InputPerMillion + float64(completion)*b.limits.OutputPerMillion))
	return amounts{attempts, int64(prompt) + int64(completion), int64(min(m, math.MaxInt64/4))}
}

// Charge takes what a call for a record of tp may take: one attempt with so many tokens. It reports false, and takes
// nothing, when the wallets of this worker do not hold that much together.
func (b *Budget) Charge(tp pipeline.TopicPartition, prompt, completion int) (*Charge, bool) {
	c := &Charge{b: b, tp: tp, estimate: [2]int{prompt, completion}}
	return c, c.Again()
}

// Again charges a further attempt of the same call.
func (c *Charge) Again() bool {
	b := c.b
	b.mu.Lock()
	defer b.mu.Unlock()
	if c.settled || !b.take(c, b.cost(1, c.estimate[0], c.estimate[1])) {
		return false
	}
	c.attempts++
	return true
}

// take moves an amount from the wallets into the charge, or nothing at all.
func (b *Budget) take(c *Charge, want amounts) bool {
	today := dayOf(b.now())
	var sum amounts
	for tp, w := range b.wallets {
		w.turn(today)
		for r := range sum {
			sum[r] += b.left(r, tp)
		}
	}
	for r := range sum {
		if b.limited(r) && sum[r] < want[r] {
			return false
		}
	}
	if len(b.wallets) == 0 {
		return false
	}
	for r, n := range want {
		if !b.limited(r) { // counted all the same, in the record's own wallet
			b.give(c, b.home(c.tp), r, n)
			continue
		}
		for _, tp := range b.fullestFirst(c.tp, r) {
			k := min(n, b.left(r, tp))
			b.give(c, tp, r, k)
			n -= k
		}
	}
	return true
}

// home is tp where this worker owns it, else the first that it owns.
func (b *Budget) home(tp pipeline.TopicPartition) pipeline.TopicPartition {
	if b.wallets[tp] != nil {
		return tp
	}
	return slices.MinFunc(slices.Collect(maps.Keys(b.wallets)), compare)
}

// fullestFirst is every owned wallet: the record's own, then the fullest.
func (b *Budget) fullestFirst(own pipeline.TopicPartition, resource int) []pipeline.TopicPartition {
	tps := slices.Collect(maps.Keys(b.wallets))
	slices.SortFunc(tps, func(x, y pipeline.TopicPartition) int {
		switch {
		case x == own:
			return -1
		case y == own:
			return 1
		}
		return cmp.Or(cmp.Compare(b.left(resource, y), b.left(resource, x)), compare(x, y))
	})
	return tps
}

func compare(x, y pipeline.TopicPartition) int {
	return cmp.Or(cmp.Compare(x.Topic, y.Topic), cmp.Compare(x.Partition, y.Partition))
}

// give takes n of a resource from tp's wallet for c.
func (b *Budget) give(c *Charge, tp pipeline.TopicPartition, resource int, n int64) {
	if n == 0 {
		return
	}
	w := b.wallets[tp]
	w.spent[resource] += n
	for i := range c.parts {
		if p := &c.parts[i]; p.from == w && p.day == w.day {
			p.amount[resource] += n
			return
		}
	}
	p := part{from: w, day: w.day}
	p.amount[resource] = n
	c.parts = append(c.parts, p)
}

// Settle says what the call really took, all attempts together (llm.Reply.Usage, llm.CallError.Usage). What it took
// less goes back, as far as the wallets are still this worker's and the day is the same; what it took more is charged
// to the record's own wallet even where that overdraws it. Further calls of Settle and Void do nothing.
func (c *Charge) Settle(prompt, completion int) {
	c.settle(c.b.cost(int64(c.attempts), prompt, completion))
}

// Void takes a charge back: no attempt was made.
func (c *Charge) Void() { c.settle(amounts{}) }

func (c *Charge) settle(really amounts) {
	b := c.b
	b.mu.Lock()
	defer b.mu.Unlock()
	if c.settled {
		return
	}
	c.settled = true
	var back amounts
	for _, p := range c.parts {
		back.add(p.amount)
	}
	for r := range back {
		back[r] -= really[r]
	}
	for _, p := range slices.Backward(c.parts) { // what was borrowed goes back first
		// A wallet that has been another worker's meanwhile is another one to us, and may not know of the charge:
		// nothing goes back into that.
		for r := range back {
			k := min(back[r], p.amount[r])
			if k <= 0 {
				continue
			}
			back[r] -= k
			if p.from.day == p.day {
				p.from.spent[r] = max(0, p.from.spent[r]-k)
			}
		}
	}
	if len(b.wallets) == 0 {
		return
	}
	w := b.wallets[b.home(c.tp)]
	w.turn(dayOf(b.now()))
	for r, n := range back {
		if n < 0 {
			w.spent[r] -= n
		}
	}
}

// Left is what this worker may still spend today. -1: no limit.
type Left struct {
	Calls, Tokens int64
	Money         float64
}

// Left sums up the wallets that this worker owns.
func (b *Budget) Left() Left {
	b.mu.Lock()
	defer b.mu.Unlock()
	today := dayOf(b.now())
	sum := amounts{-1, -1, -1}
	for r := range sum {
		if !b.limited(r) {
			continue
		}
		sum[r] = 0
		for tp, w := range b.wallets {
			w.turn(today)
			sum[r] += b.left(r, tp)
		}
	}
	l := Left{Calls: sum[calls], Tokens: sum[tokens], Money: -1}
	if b.limited(money) {
		l.Money = float64(sum[money]) / nano
	}
	return l
}

// Wait waits until this worker may make another call within CallsPerSecond: of which its part is as large as its part
// of the partitions. It returns ctx's error, or one that says that ctx would end before.
func (b *Budget) Wait(ctx context.Context) error {
	if b.limits.CallsPerSecond == 0 {
		return ctx.Err()
	}
	if err := b.limiter.Wait(ctx); err != nil {
		return fmt.Errorf("calls_per_second: %w", err)
	}
	return nil
}

// note is an owned wallet as it is to be committed with its partition's offset; nil: it is not owned.
func (b *Budget) note(tp pipeline.TopicPartition) json.RawMessage {
	b.mu.Lock()
	defer b.mu.Unlock()
	w := b.wallets[tp]
	if w == nil {
		return nil
	}
	w.turn(dayOf(b.now()))
	return w.encode()
}

// Price is what so many tokens cost, by the limits' prices.
func (b *Budget) Price(u llm.Usage) float64 {
	return (float64(u.PromptTokens)*b.limits.InputPerMillion +
		float64(u.CompletionTokens)*b.limits.OutputPerMillion) / 1e6
}
