// Package escalate is the second stage: what the local models were unsure of is asked of endpoints (package llm). It
// says when to ask, what may be spent, what leaves the worker, and what an answer may change.
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
	"sluice/pipeline/codec"
	"sluice/pipeline/failpoint"
	"sluice/pipeline/llm"
	"sluice/pipeline/llm/label"
	"sluice/pipeline/publish"
)

// This file owns the escalate stage's processor: request -> may it be asked -> question -> answer -> final verdict. Its
// goroutines do nothing but wait for the endpoint; none of them belongs to the classify stage (P7).

// Reasons of a fallback, beside ReasonSeverityFloor. The list is closed: reasons stand in verdicts and in metrics.
const (
	FallbackAge      = "max-age"  // the record is older than MaxAge: not asked
	FallbackBudget   = "budget"   // the day's budget is spent: not asked, or not again
	FallbackEndpoint = "endpoint" // no endpoint answered in time
	FallbackRefused  = "refused"  // endpoints refuse requests, whatever they ask; the log has their sentence
	FallbackTooLong  = "too-long" // the question is longer than the endpoint's context
	FallbackDeclined = "declined" // the model, or a content filter before it, declined to answer about this text
	FallbackAnswer   = "answer"   // what came cannot be used, also after one repair

	FallbackPanic      = "panic"             // our own code, or a library's, panicked over it
	FallbackQuarantine = "killed-the-worker" // workers died while the question was under way: not asked again
)

// ProcessorOptions configure a Processor. Everything without a default is required.
type ProcessorOptions struct {
	Codec        codec.Codec // of a request's value, as the classify stage has it
	MaxTextBytes int         // longer texts are cut
	Publisher    *publish.Publisher
	Task         llm.Task[label.Answer] // what is asked about a text
	Redactor     *Redactor              // nil: texts leave the worker as they are
	Policy       Policy
	Pool         *llm.Pool
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

// outcome makes what is to be published for a request. done is false when the processor is closing. A panic makes a
// dead letter where the request cannot be read, or its final verdict not be written. A panic in between has been dealt
// with by final.
func (p *Processor) outcome(r *pipeline.Record) (o pipeline.Outcome, done bool) {
	stage := "decode"
	w := p.watch(r, stage)
	defer func() {
		w.End()
		if x := recover(); x != nil {
			e := p.panicked(r, x, "it goes to the dead letter topic")
			o, done = p.o.Publisher.DeadLetter(r,
				pipeline.Faultf(pipeline.Poison, stage, "panic", "processing %w", e), 1),
				true
		}
	}()
	q, err := ParseRequest(r)
	if err != nil {
		return p.o.Publisher.DeadLetter(r, pipeline.AsFault("decode", err), 0), true
	}
	value, err := p.open(w, r, q)
	if p.ctx.Err() != nil {
		return o, false
	}
	if err != nil {
		return p.o.Publisher.DeadLetter(r, pipeline.AsFault("decode", err), 0), true
	}
	text, _ := codec.Clean(value, p.o.MaxTextBytes) // the request has the flags
	p.begin(w, r, stage, string(text))
	w.End() // final waits, and watches what it does
	f, done := p.final(r, q, string(text))
	if !done {
		return o, false
	}
	stage = "encode"
	p.begin(w, r, stage, string(text))
	o = Finals{p.o.Publisher}.Outcome(q, value, text, f.Final)
	p.o.Metrics.decided(q, f)
	return o, true
}

// open reads the value of a request's record. What the codec has to wait for is waited for; ctx ends that.
func (p *Processor) open(w *pipeline.Watch, r *pipeline.Record, q *Request) (codec.Value, error) {
	for pause := 50 * time.Millisecond; ; pause = min(2*pause, 5*time.Second) {
		value, err := p.o.Codec.Open(p.ctx, q.Source.Value)
		if k := pipeline.KindOf(err); k == "" || k == pipeline.Poison {
			return value, err
		}
		p.o.Logger.Warn("the value of a record cannot be read yet; trying again",
			"partition", r.TopicPartition().String(),
			"offset", r.Offset, "error", err)
		w.End() // the wait is no work
		select {
		case <-time.After(pause):
		case <-p.ctx.Done():
			return nil, err
		}
		w.Next("decode", ofStep(r, "decode"))
	}
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
	dead := func() pipeline.Outcome { return p.o.Publisher.Quarantine(r, deaths) }
	defer func() {
		if recover() != nil { // reading it may be what the workers died of
			o = dead()
		}
	}()
	q, err := ParseRequest(r)
	if err != nil {
		return dead()
	}
	value, err := p.o.Codec.Open(p.ctx, q.Source.Value)
	if err != nil {
		return dead()
	}
	f := p.fallback(FallbackQuarantine)
	p.o.Metrics.decided(q, f)
	text, _ := codec.Clean(value, p.o.MaxTextBytes)
	return Finals{p.o.Publisher}.Outcome(q, value, text, f.Final)
}

// decided is a final verdict and what metrics want to know about how it came to be.
type decided struct {
	Final
	reused bool // it was there already, or another record's question brought it
	answer string
}

// result is what a question has brought: an answer, or the reason of a fallback.
type result struct {
	answer   label.Answer
	fallback string // "": there is an answer
	reused   bool   // it was kept, or another record's question brought it
}

// ofThatRecord says that a fallback is about the record that asked, and not about the question.
func (r *result) ofThatRecord() bool { return r.fallback == FallbackAge || r.fallback == FallbackPanic }

var errClosing = errors.New("the processor is closing")

// final decides about one request. A panic on the way is a fallback of this request and of no other. done is false when
// the processor is closing.
func (p *Processor) final(r *pipeline.Record, q *Request, text string) (d decided, done bool) {
	defer func() {
		if x := recover(); x != nil {
			p.panicked(r, x, localStands)
			d, done = p.fallback(FallbackPanic), true
		}
	}()
	if p.tooOld(q) {
		return p.fallback(FallbackAge), true
	}
	res, err := p.find(r, q, text)
	switch {
	case err != nil:
		return decided{}, false
	case res.fallback != "":
		return p.fallback(res.fallback), true
	}
	w := p.watch(r, "decide")
	defer w.End()
	p.begin(w, r, "decide", text)
	return p.decide(q, &res), true
}

// fallback is the decision that the local verdict stands.
func (p *Processor) fallback(reason string) decided {
	return decided{Final: Final{By: pipeline.Fallback, Reason: reason, Prompt: p.o.Task.Version()}}
}

// decide says what the answer changes.
func (p *Processor) decide(q *Request, res *result) decided {
	say := p.o.Policy.Decide(Local{Label: q.Label, Score: q.Score}, res.answer)
	d := decided{reused: res.reused, answer: res.answer.Label}
	d.Prompt, d.Model, d.Flags, d.Explanation = p.o.Task.Version(), p.o.Model, say.Flags, res.answer.Explanation
	if say.By == pipeline.Fallback {
		d.By, d.Reason = pipeline.Fallback, say.Reason
		return d
	}
	d.By, d.Label, d.Score, d.Scored = pipeline.ByLLM, say.Label, say.Score, say.Scored
	return d
}

// find brings the result of a question: the answer that is kept, or one that is asked for now. The error is errClosing.
func (p *Processor) find(r *pipeline.Record, q *Request, text string) (result, error) {
	key := p.key(q, text)
	if answer, ok := p.cached(key); ok {
		return result{answer: answer, reused: true}, nil
	}
	for {
		res, err := p.together(key, r, q, text)
		if err != nil || !res.reused || !res.ofThatRecord() {
			return res, err
		}
		// The record that was to bring the answer had become too old for it, or it panicked. This one is another.
		if p.tooOld(q) {
			return result{fallback: FallbackAge}, nil
		}
	}
}

// together asks a question and keeps its answer, or waits for the record that asks the same question already.
func (p *Processor) together(key [sha256.Size]byte, r *pipeline.Record, q *Request, text string) (result,
	error) {
	asked := false
	v, err, _ := p.flights.Do(string(key[:]), func() (any, error) {
		asked = true
		return p.contained(r, q, text)
	})
	if err != nil {
		return result{}, err
	}
	res := v.(result)
	res.reused = !asked
	if asked && res.fallback == "" {
		p.keep(key, res.answer)
	}
	return res, nil
}

// contained is ask, whose panic is a fallback. singleflight would hand the panic to everybody who waits.
func (p *Processor) contained(r *pipeline.Record, q *Request, text string) (res result, err error) {
	defer func() {
		if x := recover(); x != nil {
			p.panicked(r, x, localStands)
			res, err = result{fallback: FallbackPanic}, nil
		}
	}()
	return p.ask(r, q, text)
}

func (p *Processor) tooOld(q *Request) bool {
	return p.o.MaxAge > 0 && !q.Source.Timestamp.IsZero() && time.Since(q.Source.Timestamp) > p.o.MaxAge
}

// ask asks one question: a call, and one more where the answer cannot be used. The error is errClosing.
func (p *Processor) ask(r *pipeline.Record, q *Request, text string) (result, error) {
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
	messages := p.o.Task.Messages(sent)
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
		answer, err := p.o.Task.Parse(reply.Content)
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
		if messages = p.o.Task.Repair(messages, reply.Content, err); messages == nil {
			return result{fallback: FallbackAnswer}, nil
		}
	}
}

// call makes one call, all its attempts charged to the budget. It returns the reason of a fallback where there is no
// answer. Should it panic, what was charged stays charged: the most that the call can have taken.
func (p *Processor) call(ctx context.Context, r *pipeline.Record, messages []llm.Message) (llm.Reply, string) {
	tp := r.TopicPartition()
	c := llm.Call{Affinity: tp.String(), Messages: messages, Schema: p.o.Task.Schema(), Choices: p.o.Task.Choices()}
	most, mostAnswered := p.o.Pool.Ceiling(&c)
	charge, ok := p.o.Budget.Charge(tp, most, mostAnswered)
	p.budgetSpent(!ok)
	if !ok {
		return llm.Reply{}, FallbackBudget
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
	var ce *llm.CallError
	if !errors.As(err, &ce) {
		ce = &llm.CallError{Reason: llm.ReasonClosed, Err: err}
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
		return llm.Reply{}, FallbackPanic
	case errors.Is(err, errOverBudget):
		p.budgetSpent(true)
		return llm.Reply{}, FallbackBudget
	case ce.Refused():
		return llm.Reply{}, FallbackRefused
	case ce.Reason == llm.ReasonTooLong:
		return llm.Reply{}, FallbackTooLong
	case ce.Reason == llm.ReasonRefusal:
		return llm.Reply{}, FallbackDeclined
	case ce.Unusable():
		return llm.Reply{}, FallbackAnswer
	}
	p.o.Logger.Debug("a question got no answer; the local verdict is final", "partition", tp.String(), "error", err)
	return llm.Reply{}, FallbackEndpoint
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
		p.o.Logger.Warn("the escalation budget of today is spent; local verdicts are final (by fallback, reason " +
			"budget) until midnight UTC; to ask on, raise escalation.budget")
	case changed:
		p.o.Logger.Info("there is escalation budget again")
	}
}

// key names a question: equal keys have the same answer.
func (p *Processor) key(q *Request, text string) [sha256.Size]byte {
	h := sha256.New()
	for _, s := range []string{p.o.Task.Version(), p.o.Model, q.Verdict, text} {
		h.Write([]byte{byte(len(s) >> 24), byte(len(s) >> 16), byte(len(s) >> 8), byte(len(s))})
		h.Write([]byte(s))
	}
	return [sha256.Size]byte(h.Sum(nil))
}
