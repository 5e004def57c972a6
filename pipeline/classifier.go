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
	"sluice/tokenize"
)

// This file owns the classify stage's processor: decode -> tokenize -> engine -> judge -> outcome. A record's journey is
// one work value; whoever completes its last model makes the outcome.

// ClassifierModel is one model as the classifier uses it; its index in the list is its index in the Engine.
type ClassifierModel struct {
	Name      string // the verdict's name in the output field
	Tag       string // which model made it: "sentiment@3f9c2a1b2c3d"
	Tokenizer tokenize.Tokenizer
	Judge     *model.Judge
	Options   tokenize.Options // MaxTokens, Windows, Stride; Offsets follows the judge
}

// ClassifierOptions configure a Classifier.
type ClassifierOptions struct {
	Decoder      Decoder
	Writer       Writer
	MaxTextBytes int // longer texts are cut before tokenizing and flagged
	Tokenizers   int // goroutines that decode and tokenize; GOMAXPROCS
	Metrics      *Metrics
}

// Classifier is the Processor that runs every model on every record.
type Classifier struct {
	models []ClassifierModel
	groups []tokenizerGroup
	engine *Engine
	o      ClassifierOptions

	mu     sync.Mutex
	work   *sync.Cond
	intake []*Job
	closed bool
	wg     sync.WaitGroup
}

// tokenizerGroup is a set of models that see the same tokens: the text is tokenized once for all of them.
type tokenizerGroup struct {
	tokenizer tokenize.Tokenizer
	options   tokenize.Options
	models    []int
}

// work is one record under way.
type work struct {
	job      *Job
	text     []byte
	flags    Flags
	verdicts []model.Verdict // one a model
	mu       sync.Mutex
	left     int
	fault    *Fault
}

// NewClassifier starts the tokenizing goroutines; Close stops them.
func NewClassifier(models []ClassifierModel, engine *Engine, o ClassifierOptions) *Classifier {
	if o.Tokenizers <= 0 {
		o.Tokenizers = runtime.GOMAXPROCS(0)
	}
	c := &Classifier{models: models, engine: engine, o: o}
	c.work = sync.NewCond(&c.mu)
	for i, m := range models {
		at := slices.IndexFunc(c.groups, func(g tokenizerGroup) bool {
			a, b := g.options, m.Options
			a.Offsets, b.Offsets = false, false
			return g.tokenizer.Digest() == m.Tokenizer.Digest() && a == b
		})
		if at < 0 {
			at = len(c.groups)
			c.groups = append(c.groups, tokenizerGroup{tokenizer: m.Tokenizer, options: m.Options})
		}
		g := &c.groups[at]
		g.models = append(g.models, i)
		g.options.Offsets = g.options.Offsets || m.Judge.NeedsOffsets()
	}
	for range o.Tokenizers {
		c.wg.Go(c.tokenizeLoop)
	}
	return c
}

// Process implements Processor.
func (c *Classifier) Process(j *Job) {
	c.mu.Lock()
	c.intake = append(c.intake, j)
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

// tokenizeAtOnce bounds how many records one call of a tokenizer takes, so that the first of a burst reaches a runner soon.
const tokenizeAtOnce = 16

func (c *Classifier) tokenizeLoop() {
	var jobs []*Job
	for {
		c.mu.Lock()
		for len(c.intake) == 0 && !c.closed {
			c.work.Wait()
		}
		if c.closed {
			c.mu.Unlock()
			return
		}
		n := min(tokenizeAtOnce, len(c.intake))
		jobs = append(jobs[:0], c.intake[:n]...)
		rest := copy(c.intake, c.intake[n:])
		clear(c.intake[rest:])
		c.intake = c.intake[:rest]
		c.mu.Unlock()
		c.start(jobs)
	}
}

// start decodes and tokenizes jobs and submits their rows.
func (c *Classifier) start(jobs []*Job) {
	began := time.Now()
	works := make([]*work, 0, len(jobs))
	texts := make([][]byte, 0, len(jobs))
	for _, j := range jobs {
		if w := c.open(j); w != nil {
			works = append(works, w)
			texts = append(texts, w.text)
		}
	}
	if len(works) == 0 {
		return
	}
	encoded := make([][]tokenize.Encoded, len(c.groups))
	for g := range c.groups {
		encoded[g] = c.groups[g].tokenizer.Encode(texts, c.groups[g].options)
	}
	c.o.Metrics.tokenizeTime.Observe(time.Since(began).Seconds())
	for i, w := range works {
		tokens := 0
		for g := range c.groups {
			e := &encoded[g][i]
			if e.Err != nil && w.fault == nil {
				w.fault = &Fault{Kind: Poison, Stage: "tokenize", Reason: "tokenizer-failed", Err: e.Err}
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
		for g, group := range c.groups {
			e := encoded[g][i]
			rows := make([]Row, len(e.Windows))
			for k := range rows {
				rows[k] = e.Windows[k].IDs
			}
			for _, m := range group.models {
				c.engine.Submit(m, rows, func(logits [][]float32, err error) { c.judge(w, m, e, logits, err) })
			}
		}
	}
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
	w := &work{job: j, verdicts: make([]model.Verdict, len(c.models))}
	clean := tokenize.Clean(text, c.o.MaxTextBytes)
	w.text, w.flags = clean.Bytes, Flags{Repaired: clean.Repaired, Cut: clean.Cut}
	if blank(w.text) {
		j.Done(c.o.Writer.Empty(r, c.models, w.flags))
		return nil
	}
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

// judge takes one model's logits for a record.
func (c *Classifier) judge(w *work, m int, e tokenize.Encoded, logits [][]float32, err error) {
	var v model.Verdict
	if err == nil {
		v, err = c.verdict(w, m, e, logits)
	}
	w.mu.Lock()
	w.verdicts[m] = v
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
func (c *Classifier) verdict(w *work, m int, e tokenize.Encoded, logits [][]float32) (v model.Verdict, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = Faultf(Poison, "judge", "panic", "model %s: post-processing panicked: %v", c.models[m].Name, p)
		}
	}()
	if v, err = c.models[m].Judge.Verdict(w.text, e, logits); err != nil {
		err = Faultf(Poison, "judge", "no-verdict", "model %s: %w", c.models[m].Name, err)
	}
	return v, err
}

// close makes the outcome of a record whose models are done.
func (c *Classifier) close(w *work) {
	if w.fault != nil {
		w.job.Done(c.o.Writer.DeadLetter(w.job.Record, w.fault, 1))
		return
	}
	w.job.Done(c.o.Writer.Result(w.job.Record, c.models, w.verdicts, w.flags))
}

// asPoison makes err a fault that goes to the dead letter topic. A fault of another kind has stopped the worker already;
// what is made of its record then is never committed.
func asPoison(stage string, err error) *Fault {
	if f, ok := err.(*Fault); ok {
		return f
	}
	return &Fault{Kind: Poison, Stage: stage, Reason: "failed", Err: fmt.Errorf("%w", err)}
}
