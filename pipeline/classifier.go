package pipeline

import (
	"fmt"
	"runtime"
	"slices"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"

	"sluice/model"
	"sluice/pipeline/failpoint"
	"sluice/tokenize"
)

// This file owns the classify stage's processor: decode -> tokenize -> engine -> judge -> outcome. A record's journey
// is one work value; whoever completes its last model makes the outcome.

// ClassifierModel is one model as the classifier uses it.
type ClassifierModel struct {
	Name string // the verdict's name in the output field
	Step
	Student *Student // a small model that is asked first; nil: none

	rule string // the verdict's name in rules
}

// Asker asks a model for the logits of a text's windows; done is called once, with one slice a window, or with an
// error. cached: no window had to be run. What package engine's Handle.Submit does, in terms of this package, which
// cannot import that one.
type Asker func(windows []tokenize.Encoding, urgent bool, since time.Time,
	done func(logits [][]float32, cached bool, err error))

// Step is a model that makes verdicts.
type Step struct {
	Ask       Asker
	Tag       string // which model it is: "sentiment@3f9c2a1b2c3d"
	Tokenizer tokenize.Tokenizer
	Judge     *model.Judge
	Options   tokenize.Options // MaxTokens, Windows, Stride; Offsets follows the judge
}

// Student is a small model before the full one: a verdict of it with a confidence of at least Threshold is final.
type Student struct {
	Step
	Threshold float64
}

// Route says how a verdict came to be.
type Route string

const (
	ByModel   Route = "model"   // computed for this record, or at the same time for another one with the same tokens
	ByStudent Route = "student" // the student was sure enough
	ByCache   Route = "cache"   // computed before
	ByLLM     Route = "llm"     // the endpoint's answer
	// the local verdict, because the endpoint was not asked or not believed; a reason says why
	Fallback Route = "fallback"
)

// Decision is a verdict with who made it, and how.
type Decision struct {
	model.Verdict
	Tag    string
	Route  Route
	Unsure *model.Verdict // what the student had said, where it was not sure enough
	Reason string         // of a Fallback

	provisional bool // an amendment follows
}

// ClassifierOptions configure a Classifier.
type ClassifierOptions struct {
	Decoder      Decoder
	Writer       Writer
	MaxTextBytes int       // longer texts are cut before tokenizing and flagged
	Urgent       *Urgent   // which records go first; nil: none
	Tokenizers   int       // goroutines that decode and tokenize; GOMAXPROCS
	Watchdog     *Watchdog // required
	Metrics      *Metrics
}

// Classifier is the Processor that runs every model on every record.
type Classifier struct {
	models []ClassifierModel
	groups []tokenizerGroup
	o      ClassifierOptions

	full, student []int // which group has the tokens of the i-th model, and of its student

	mu     sync.Mutex
	work   *sync.Cond
	first  []*Job // urgent by topic or header
	intake []*Job
	closed bool
	wg     sync.WaitGroup
}

// tokenizerGroup is a set of models that see the same tokens: the text is tokenized once for all of them.
type tokenizerGroup struct {
	tokenizer tokenize.Tokenizer
	options   tokenize.Options
}

// work is one record under way.
type work struct {
	job     *Job
	text    []byte
	flags   Flags
	urgent  bool
	encoded []tokenize.Encoded // one a group
	mu      sync.Mutex
	made    []Decision // one a model
	left    int
	fault   *Fault
}

// NewClassifier starts the tokenizing goroutines; Close stops them.
func NewClassifier(models []ClassifierModel, o ClassifierOptions) *Classifier {
	if o.Tokenizers <= 0 {
		o.Tokenizers = runtime.GOMAXPROCS(0)
	}
	c := &Classifier{models: models, o: o, full: make([]int, len(models)), student: make([]int,
		len(models))}
	c.work = sync.NewCond(&c.mu)
	for i := range models {
		models[i].rule = RuleName(models[i].Name)
		c.full[i] = c.group(&models[i].Step)
		if s := models[i].Student; s != nil {
			c.student[i] = c.group(&s.Step)
		}
	}
	for range o.Tokenizers {
		c.wg.Go(c.tokenizeLoop)
	}
	return c
}

// group finds or makes the group of a model's tokenizer and options.
func (c *Classifier) group(s *Step) int {
	at := slices.IndexFunc(c.groups, func(g tokenizerGroup) bool {
		a, b := g.options, s.Options
		a.Offsets, b.Offsets = false, false
		return g.tokenizer.Digest() == s.Tokenizer.Digest() && a == b
	})
	if at < 0 {
		at = len(c.groups)
		c.groups = append(c.groups, tokenizerGroup{tokenizer: s.Tokenizer, options: s.Options})
	}
	g := &c.groups[at]
	g.options.Offsets = g.options.Offsets || s.Judge.NeedsOffsets()
	return at
}

// Process implements Processor.
func (c *Classifier) Process(j *Job) {
	early := c.o.Urgent.early(j.Record)
	c.mu.Lock()
	if early {
		c.first = append(c.first, j)
	} else {
		c.intake = append(c.intake, j)
	}
	c.mu.Unlock()
	c.work.Signal()
}

// Close stops tokenizing. Jobs not yet tokenized are never done.
func (c *Classifier) Close() {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.work.Broadcast()
	c.wg.Wait()
}

// tokenizeAtOnce bounds how many records one call of a tokenizer takes, so that the first of a burst reaches a runner
// soon.
const tokenizeAtOnce = 16

func (c *Classifier) tokenizeLoop() {
	var jobs []*Job
	for {
		c.mu.Lock()
		for len(c.first)+len(c.intake) == 0 && !c.closed {
			c.work.Wait()
		}
		if c.closed {
			c.mu.Unlock()
			return
		}
		jobs = takeJobs(&c.first, jobs[:0])
		jobs = takeJobs(&c.intake, jobs)
		c.mu.Unlock()
		c.start(jobs)
	}
}

// takeJobs moves jobs from the front of a queue until there are tokenizeAtOnce.
func takeJobs(from *[]*Job, to []*Job) []*Job {
	n := min(tokenizeAtOnce-len(to), len(*from))
	to = append(to, (*from)[:n]...)
	rest := copy(*from, (*from)[n:])
	clear((*from)[rest:])
	*from = (*from)[:rest]
	return to
}

// start decodes and tokenizes jobs and submits their rows.
func (c *Classifier) start(jobs []*Job) {
	began := time.Now()
	works := make([]*work, 0, len(jobs))
	texts := make([][]byte, 0, len(jobs))
	dog := c.o.Watchdog.Watch("decode", ofReading(jobs[0].Record))
	defer dog.End()
	for i, j := range jobs {
		if i > 0 {
			dog.Next("decode", ofReading(j.Record))
		}
		if w := c.openSafely(j); w != nil {
			works = append(works, w)
			texts = append(texts, w.text)
		}
	}
	if len(works) == 0 {
		return
	}
	encoded := make([][]tokenize.Encoded, len(c.groups))
	for g := range c.groups {
		dog.Next("tokenize", ofTokenizing(works))
		encoded[g] = encodeSafely(c.groups[g].tokenizer, texts, c.groups[g].options)
	}
	c.o.Metrics.tokenizeTime.Observe(time.Since(began).Seconds())
	failpoint.Hit(failpoint.AfterTokenize)
	dog.Next("judge", ofVerdicts(len(works))) // where the cache has the answers
	for i, w := range works {
		tokens := 0
		w.encoded = make([]tokenize.Encoded, len(c.groups))
		for g := range c.groups {
			e := &encoded[g][i]
			w.encoded[g] = *e
			if e.Err != nil && w.fault == nil {
				if w.fault = asPoison("tokenize", e.Err); w.fault.Reason == "failed" {
					w.fault.Reason = "tokenizer-failed"
				}
			}
			for k := range e.Windows {
				tokens += len(e.Windows[k].IDs)
			}
		}
		if w.fault != nil {
			c.close(w)
			continue
		}
		w.job.Weigh(tokens)
		w.left = len(c.models)
		for m := range c.models {
			if c.models[m].Student != nil {
				c.askStudent(w, m)
			} else {
				c.ask(w, m, nil)
			}
		}
	}
}

// ask asks the m-th model for its verdict. unsure is what its student has said; nil: nothing.
func (c *Classifier) ask(w *work, m int, unsure *model.Verdict) {
	s, e := &c.models[m].Step, &w.encoded[c.full[m]]
	c.submit(w, s, e, func(logits [][]float32, cached bool, err error) {
		v, err := c.verdict(w, s, c.models[m].Name, e, logits, err)
		c.decide(w, m, Decision{Verdict: v, Tag: s.Tag, Route: routeOf(cached, ByModel), Unsure: unsure}, err)
	})
}

// askStudent asks the student of the m-th model, and the model itself where the student is not sure enough. A student
// that fails on a text is not sure of it.
func (c *Classifier) askStudent(w *work, m int) {
	s, e := c.models[m].Student, &w.encoded[c.student[m]]
	c.submit(w, &s.Step, e, func(logits [][]float32, cached bool, err error) {
		v, err := c.verdict(w, &s.Step, c.models[m].Name, e, logits, err)
		if err != nil || v.Confidence < s.Threshold {
			c.o.Metrics.student.WithLabelValues(c.models[m].Name, "unsure").Inc()
			if err != nil {
				c.ask(w, m, nil)
			} else {
				c.ask(w, m, &v)
			}
			return
		}
		c.o.Metrics.student.WithLabelValues(c.models[m].Name, "final").Inc()
		c.decide(w, m, Decision{Verdict: v, Tag: s.Tag, Route: routeOf(cached, ByStudent)}, nil)
	})
}

func routeOf(cached bool, otherwise Route) Route {
	if cached {
		return ByCache
	}
	return otherwise
}

func (c *Classifier) submit(w *work, s *Step, e *tokenize.Encoded, done func([][]float32, bool, error)) {
	s.Ask(e.Windows, w.urgent, w.job.Record.Timestamp, done)
}

// openSafely is open, whose panic is its record's fault.
func (c *Classifier) openSafely(j *Job) (w *work) {
	defer func() {
		if p := recover(); p != nil {
			w = nil
			j.Done(c.o.Writer.DeadLetter(j.Record, Panicked("decode", p), 1))
		}
	}()
	return c.open(j)
}

// encodeSafely tokenizes texts. Where that panics each of them is tokenized alone, and it is the fault of those that
// panic again.
func encodeSafely(t tokenize.Tokenizer, texts [][]byte, o tokenize.Options) (encoded []tokenize.Encoded) {
	defer func() {
		p := recover()
		if p == nil {
			return
		}
		encoded = make([]tokenize.Encoded, len(texts))
		if len(texts) == 1 {
			encoded[0].Err = Panicked("tokenize", p)
			return
		}
		for i := range texts {
			encoded[i] = encodeSafely(t, texts[i:i+1], o)[0]
		}
	}()
	failpoint.Texts(texts)
	return t.Encode(texts, o)
}

// open decodes a job. It returns nil when the outcome needs no model.
func (c *Classifier) open(j *Job) *work {
	r := j.Record
	if r.Value == nil {
		j.Done(c.o.Writer.Tombstone(r))
		return nil
	}
	text, err := c.o.Decoder.Decode(r.Value)
	if err != nil {
		j.Done(c.o.Writer.DeadLetter(r, asPoison("decode", err), 0))
		return nil
	}
	w := &work{job: j, made: make([]Decision, len(c.models))}
	clean := tokenize.Clean(text, c.o.MaxTextBytes)
	w.text, w.flags = clean.Bytes, Flags{Repaired: clean.Repaired, Cut: clean.Cut}
	if blank(w.text) {
		j.Done(c.o.Writer.Empty(r, c.models, w.flags))
		return nil
	}
	w.urgent = c.o.Urgent.is(r, w.text, c.o.Metrics)
	return w
}

// blank says that a text has nothing but white space.
func blank(text []byte) bool {
	for len(text) > 0 {
		r, n := utf8.DecodeRune(text)
		if !unicode.IsSpace(r) {
			return false
		}
		text = text[n:]
	}
	return true
}

// decide takes one model's decision about a record.
func (c *Classifier) decide(w *work, m int, d Decision, err error) {
	w.mu.Lock()
	w.made[m] = d
	if err != nil && w.fault == nil {
		w.fault = asPoison("infer", err)
	}
	w.left--
	last := w.left == 0
	w.mu.Unlock()
	if last {
		c.close(w)
	}
}

// verdict makes sense of logits. A panic over one text is that text's fault, not the worker's.
func (c *Classifier) verdict(w *work, s *Step, name string, e *tokenize.Encoded, logits [][]float32,
	asked error) (v model.Verdict, err error) {
	if asked != nil {
		return v, asked
	}
	defer func() {
		if p := recover(); p != nil {
			err = Panicked("judge", fmt.Sprintf("model %s: %v", name, p))
		}
	}()
	if v, err = s.Judge.Verdict(w.text, *e, logits); err != nil {
		err = Faultf(Poison, "judge", "no-verdict", "model %s: %w", name, err)
	}
	return v, err
}

// close makes the outcome of a record whose models are done.
func (c *Classifier) close(w *work) { w.job.Done(c.outcome(w)) }

func (c *Classifier) outcome(w *work) (o Outcome) {
	defer func() {
		if p := recover(); p != nil {
			o = c.o.Writer.DeadLetter(w.job.Record, Panicked("encode", p), 1)
		}
	}()
	if w.fault != nil {
		return c.o.Writer.DeadLetter(w.job.Record, w.fault, 1)
	}
	return c.o.Writer.Result(w.job.Record, w.text, c.models, w.made, w.flags)
}

// asPoison makes err a fault that goes to the dead letter topic. A fault of another kind has stopped the worker
// already; what is made of its record then is never committed.
func asPoison(stage string, err error) *Fault {
	if f, ok := err.(*Fault); ok {
		return f
	}
	return &Fault{Kind: Poison, Stage: stage, Reason: "failed", Err: fmt.Errorf("%w", err)}
}
