package escalate

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"

	"sluice/pipeline"
	"sluice/pipeline/failpoint"
	"sluice/tokenize"
)

// This file owns the escalate stage's processor: request -> may it be asked -> question -> answer -> final verdict. Its
// goroutines do nothing but wait for the endpoint; none of them belongs to the classify stage (P7).

// Reasons of a fallback, beside ReasonSeverityFloor. The list is closed: reasons stand in verdicts and in metrics.
const (
	FallbackAge      = "max-age"  // the record is older than MaxAge: not asked
	FallbackBudget   = "budget"   // the day's budget is spent: not asked, or not again
	FallbackEndpoint = "endpoint" // no endpoint answered in time
	FallbackAnswer   = "answer"   // what came cannot be used, also after one repair

	FallbackPanic      = "panic"             // our own code, or a library's, panicked over it
	FallbackQuarantine = "killed-the-worker" // workers died while the question was under way: not asked again
)

// ProcessorOptions configure a Processor. Everything without a default is required.
type ProcessorOptions struct {
	Decoder      pipeline.Decoder // finds the text in a request's value, as the classify stage does
	MaxTextBytes int              // longer texts are cut
	Writer       *pipeline.Writer
	Prompt       *Prompt
	Redactor     *Redactor // nil: texts leave the worker as they are
	Policy       Policy
	Pool         *Pool
	Budget       *Budget
	Model        string        // as verdicts name it
	Deadline     time.Duration // of one question, all calls together
	MaxAge       time.Duration // 0: no limit
	Concurrency  int           // questions under way at once
	CacheBytes   int           // answers to questions asked before; 0: none are kept
	Metrics      *Metrics
	Logger       *slog.Logger
	// Watchdog looks at everything that is done to a request but the question itself, which has a Deadline, and the
	// wait for it. nil: nothing does.
	Watchdog *pipeline.Watchdog

	step func(name, text string) // tests' way into the steps of a request: it is called as each begins; nil: nothing is
}

// watch begins to look at what is done to a request.
func (p *Processor) watch(r *pipeline.Record, step string) *pipeline.Watch {
	return p.o.Watchdog.Watch(step, ofStep(r, step))
}

// begin begins a step of a request that is looked at.
func (p *Processor) begin(w *pipeline.Watch, r *pipeline.Record, step, text string) {
	w.Next(step, ofStep(r, step))
	if p.o.step != nil {
		p.o.step(step, text)
	}
}

// ofStep is what is being done, as a watchdog's sentence names it.
func ofStep(r *pipeline.Record, step string) func() string {
	return func() string {
		return fmt.Sprintf("the request of %s at offset %d has been worked on (%s)", r.TopicPartition(), r.Offset, step)
	}
}

// Processor asks about every request and makes its final verdict. It implements pipeline.Processor.
type Processor struct {
	o       ProcessorOptions
	cache   *answerCache // nil: none
	flights singleflight.Group
	ctx     context.Context
	cancel  context.CancelFunc

	mu     sync.Mutex
	work   *sync.Cond
	queue  []*pipeline.Job
	empty  day // the last on which the budget was found empty; 0: none
	closed bool
	wg     sync.WaitGroup
}

// NewProcessor starts Concurrency goroutines; Close stops them.
func NewProcessor(o ProcessorOptions) *Processor {
	p := &Processor{o: o}
	p.work = sync.NewCond(&p.mu)
	p.ctx, p.cancel = context.WithCancel(context.Background())
	if o.CacheBytes > 0 {
		p.cache = newAnswerCache(o.CacheBytes)
	}
	o.Metrics.watch(o.Budget, o.Pool)
	for range o.Concurrency {
		p.wg.Go(p.loop)
	}
	return p
}

// Process implements pipeline.Processor.
func (p *Processor) Process(j *pipeline.Job) {
	p.mu.Lock()
	p.queue = append(p.queue, j)
	p.mu.Unlock()
	p.work.Signal()
}

// Close ends the calls in progress. Jobs that are not done by then never are: their requests will be read again.
func (p *Processor) Close() {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.cancel()
	p.work.Broadcast()
	p.wg.Wait()
}

func (p *Processor) loop() {
	for {
		p.mu.Lock()
		for len(p.queue) == 0 && !p.closed {
			p.work.Wait()
		}
		if p.closed {
			p.mu.Unlock()
			return
		}
		j := p.queue[0]
		p.queue[0] = nil
		p.queue = p.queue[1:]
		p.mu.Unlock()
		if j.Dropped() { // its partition has moved: the new owner asks
			continue
		}
		if o, done := p.outcome(j.Record); done {
			j.Done(o)
		}
	}
}

// outcome makes what is to be published for a request. done is false when the processor is closing. Of a request that
// cannot even be read, or whose final verdict cannot be written, because that panics, it is a dead letter.
func (p *Processor) outcome(r *pipeline.Record) (o pipeline.Outcome, done bool) {
	stage := "decode"
	w := p.watch(r, stage)
	defer func() {
		w.End()
		if x := recover(); x != nil {
			e := p.panicked(r, x, "it goes to the dead letter topic")
			o, done = p.o.Writer.DeadLetter(r, pipeline.Faultf(pipeline.Poison, stage, "panic", "processing %w", e), 1),
				true
		}
	}()
	q, err := pipeline.ParseRequest(r)
	if err != nil {
		return p.o.Writer.DeadLetter(r, asFault(err), 0), true
	}
	value, err := p.o.Decoder.Decode(q.Source.Value)
	if err != nil {
		return p.o.Writer.DeadLetter(r, asFault(err), 0), true
	}
	text := tokenize.Clean(value, p.o.MaxTextBytes).Bytes
	p.begin(w, r, stage, string(text))
	w.End() // final waits, and watches what it does
	f, done := p.final(r, q, string(text))
	if !done {
		return o, false
	}
	stage = "encode"
	p.begin(w, r, stage, string(text))
	o = p.o.Writer.Final(q, text, f.Final)
	p.o.Metrics.decided(q, f)
	return o, true
}

// panicked tells the log of a panic over a request.
func (p *Processor) panicked(r *pipeline.Record, value any, then string) *pipeline.PanicError {
	e := pipeline.Recovered(value)
	p.tellPanic(r.TopicPartition(), r.Offset, e, then)
	return e
}

func (p *Processor) tellPanic(tp pipeline.TopicPartition, offset int64, e *pipeline.PanicError, then string) {
	p.o.Logger.Error("processing an escalation request panicked; "+then, "partition", tp.String(), "offset", offset,
		"panic", e)
}

const localStands = "its local verdict is final"

// Quarantine is the outcome of a request that is not processed any more because it kills the process
// (StageOptions.Quarantine): its local verdict is final, so that this record, too, has one. What cannot even be read is
// a dead letter.
func (p *Processor) Quarantine(r *pipeline.Record, deaths int) (o pipeline.Outcome) {
	dead := func() pipeline.Outcome { return p.o.Writer.Quarantine(r, deaths) }
	defer func() {
		if recover() != nil { // reading it may be what the workers died of
			o = dead()
		}
	}()
	q, err := pipeline.ParseRequest(r)
	if err != nil {
		return dead()
	}
	value, err := p.o.Decoder.Decode(q.Source.Value)
	if err != nil {
		return dead()
	}
	f := decided{Final: pipeline.Final{Route: pipeline.Fallback, Reason: FallbackQuarantine,
		Prompt: p.o.Prompt.Version()}}
	p.o.Metrics.decided(q, f)
	return p.o.Writer.Final(q, tokenize.Clean(value, p.o.MaxTextBytes).Bytes, f.Final)
}

func asFault(err error) *pipeline.Fault {
	var f *pipeline.Fault
	if errors.As(err, &f) {
		return f
	}
	return &pipeline.Fault{Kind: pipeline.Poison, Stage: "decode", Reason: "failed", Err: err}
}

// decided is a final verdict and what metrics want to know about how it came to be.
type decided struct {
	pipeline.Final
	reused bool // it was there already, or another record's question brought it
	answer string
}

// result is what a question has brought: an answer, or the reason of a fallback.
type result struct {
	answer   Answer
	fallback string
}

var errClosing = errors.New("the processor is closing")

// final decides about one request. A panic on the way is a fallback of this request and of no other.
func (p *Processor) final(r *pipeline.Record, q *pipeline.Request, text string) (d decided, done bool) {
	defer func() {
		if x := recover(); x != nil {
			p.panicked(r, x, localStands)
			d = decided{Final: pipeline.Final{Route: pipeline.Fallback, Reason: FallbackPanic,
				Prompt: p.o.Prompt.Version()}}
			done = true
		}
	}()
	d.Prompt = p.o.Prompt.Version()
	fallback := func(reason string) (decided, bool) {
		d.Route, d.Reason = pipeline.Fallback, reason
		return d, true
	}
	if p.tooOld(q) {
		return fallback(FallbackAge)
	}
	key := p.key(q, text)
	res, reused := p.cached(key)
	for asked := false; !reused && !asked; {
		// Whoever asks the same question meanwhile waits for this answer.
		v, err, _ := p.flights.Do(string(key[:]), func() (v any, err error) {
			asked = true
			defer func() { // else singleflight would hand the panic to everybody who waits
				if x := recover(); x != nil {
					p.panicked(r, x, localStands)
					v, err = result{fallback: FallbackPanic}, nil
				}
			}()
			return p.ask(r, q, text)
		})
		if err != nil {
			return d, false
		}
		if res = v.(result); !asked && (res.fallback == FallbackAge || res.fallback == FallbackPanic) {
			if p.tooOld(q) {
				return fallback(FallbackAge)
			}
			// the record that was to bring the answer had become too old for it, or it panicked; this one is another
			continue
		}
		reused = !asked
		if asked && res.fallback == "" {
			p.keep(key, res.answer)
		}
	}
	if res.fallback != "" {
		return fallback(res.fallback)
	}
	w := p.watch(r, "decide")
	defer w.End()
	p.begin(w, r, "decide", text)
	d.reused, d.answer = reused, res.answer.Label
	say := p.o.Policy.Decide(Local{Label: q.Label, Score: q.Score}, res.answer)
	d.Model, d.Flags, d.Explanation = p.o.Model, say.Flags, res.answer.Explanation
	if say.Route == RouteFallback {
		return fallback(say.Reason)
	}
	d.Route, d.Label, d.Score, d.Scored = pipeline.ByLLM, say.Label, say.Score, say.Scored
	return d, true
}

func (p *Processor) tooOld(q *pipeline.Request) bool {
	return p.o.MaxAge > 0 && !q.Source.Timestamp.IsZero() && time.Since(q.Source.Timestamp) > p.o.MaxAge
}

// ask asks one question: a call, and one more where the answer cannot be used. The error is errClosing.
func (p *Processor) ask(r *pipeline.Record, q *pipeline.Request, text string) (result, error) {
	if err := p.o.Budget.Wait(p.ctx); p.ctx.Err() != nil {
		return result{}, errClosing
	} else if err != nil { // this worker's share of calls_per_second is nothing: its partitions have moved away
		return result{fallback: FallbackBudget}, nil
	}
	if p.tooOld(q) {
		return result{fallback: FallbackAge}, nil
	}
	w := p.watch(r, "prompt")
	defer w.End()
	sent, back := text, (*Restorer)(nil)
	if p.o.Redactor != nil {
		spans := make([]Span, len(q.Spans))
		for i, s := range q.Spans {
			spans[i] = Span(s)
		}
		p.begin(w, r, "redact", text)
		sent, back = p.o.Redactor.Redact(text, spans)
	}
	ctx, cancel := context.WithTimeout(p.ctx, p.o.Deadline)
	defer cancel()
	p.begin(w, r, "prompt", text)
	messages := p.o.Prompt.Messages(sent, NewDelimiter())
	for try := 1; ; try++ {
		w.End() // calls have deadlines
		reply, fallback := p.call(ctx, r, messages)
		if p.ctx.Err() != nil {
			return result{}, errClosing
		}
		if fallback != "" {
			return result{fallback: fallback}, nil
		}
		p.begin(w, r, "parse", text)
		answer, err := p.o.Prompt.Parse(reply.Content)
		if err == nil {
			if back != nil {
				answer.Explanation = back.Restore(answer.Explanation)
			}
			return result{answer: answer}, nil
		}
		p.o.Metrics.unusable(err)
		if try == 2 {
			return result{fallback: FallbackAnswer}, nil
		}
		messages = p.o.Prompt.Repair(messages, reply.Content, err)
	}
}

// call makes one call, all its attempts charged to the budget. It returns the reason of a fallback where there is no
// answer. Should it panic, what was charged stays charged: the most that the call can have taken.
func (p *Processor) call(ctx context.Context, r *pipeline.Record, messages []Message) (Reply, string) {
	tp := r.TopicPartition()
	c := Call{Affinity: tp.String(), Messages: messages, Schema: p.o.Prompt.Schema(), Choices: p.o.Prompt.Choices()}
	most, mostAnswered := p.o.Pool.Ceiling(&c)
	charge, ok := p.o.Budget.Charge(tp, most, mostAnswered)
	p.budgetSpent(!ok)
	if !ok {
		return Reply{}, FallbackBudget
	}
	c.Attempt = func(ctx context.Context, attempt int) error {
		if attempt == 1 {
			return nil // charged above
		}
		if err := p.o.Budget.Wait(ctx); err != nil {
			return err
		}
		if !charge.Again() {
			return errOverBudget
		}
		return nil
	}
	failpoint.Hit(failpoint.EscalateBeforeCall)
	reply, err := p.o.Pool.Ask(ctx, c)
	failpoint.Hit(failpoint.EscalateAfterCall)
	if err == nil {
		charge.Settle(reply.PromptTokens, reply.CompletionTokens)
		p.o.Metrics.took(reply.Usage, p.o.Budget)
		return reply, ""
	}
	var ce *CallError
	if !errors.As(err, &ce) {
		ce = &CallError{Reason: ReasonClosed, Err: err}
	}
	if ce.Attempts == 0 {
		charge.Void()
	} else {
		charge.Settle(ce.Usage.PromptTokens, ce.Usage.CompletionTokens)
		p.o.Metrics.took(ce.Usage, p.o.Budget)
	}
	var panicked *pipeline.PanicError
	switch {
	case errors.As(err, &panicked):
		p.tellPanic(tp, r.Offset, panicked, localStands)
		return Reply{}, FallbackPanic
	case errors.Is(err, errOverBudget):
		p.budgetSpent(true)
		return Reply{}, FallbackBudget
	case ce.Unusable():
		return Reply{}, FallbackAnswer
	}
	p.o.Logger.Debug("a question got no answer; the local verdict is final", "partition", tp.String(), "error", err)
	return Reply{}, FallbackEndpoint
}

var errOverBudget = errors.New("the budget is spent")

// budgetSpent says once a day that the budget is spent, and on a later day that there is one again. Towards its end the
// budget is spent and not spent by turns, as calls take less than they were charged.
func (p *Processor) budgetSpent(spent bool) {
	today := dayOf(p.o.Budget.now())
	p.mu.Lock()
	before := p.empty
	switch {
	case spent:
		p.empty = max(p.empty, today)
	case p.empty < today:
		p.empty = 0
	}
	changed := p.empty != before
	p.mu.Unlock()
	switch {
	case changed && spent:
		p.o.Logger.Warn("the escalation budget of today is spent; local verdicts are final (route fallback, reason " +
			"budget) until midnight UTC; to ask on, raise escalation.budget")
	case changed:
		p.o.Logger.Info("there is escalation budget again")
	}
}

// key names a question: equal keys have the same answer.
func (p *Processor) key(q *pipeline.Request, text string) [sha256.Size]byte {
	h := sha256.New()
	for _, s := range []string{p.o.Prompt.Version(), p.o.Model, q.Verdict, text} {
		h.Write([]byte{byte(len(s) >> 24), byte(len(s) >> 16), byte(len(s) >> 8), byte(len(s))})
		h.Write([]byte(s))
	}
	return [sha256.Size]byte(h.Sum(nil))
}
