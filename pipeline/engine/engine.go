// Package engine runs rows through models. Models come and go by handle: Load makes a model ready on every runner of
// its device and measures how large its batches should be, Submit queues the rows of one record, Release frees the
// model after its last answer. It knows neither Kafka nor tokenizers nor what logits mean, and of a row only its cost
// and its key (Input), so texts, pairs of texts and rows of features are all the same to it.
//
// Every device has a pool: goroutines that are locked to their OS threads, each with a runner of every model of the
// device, which share a batcher. A row that is waiting or running already is not run again for another record: both get
// its logits. A batch that fails is halved until the bad row is alone. What the engine is given to run models with is
// behind the interfaces Runtime, Session and Runner.
package engine

import (
	"hash/maphash"
	"runtime"
	"sync/atomic"
	"time"

	"sluice/pipeline"
)

// This file owns the engine as its users see it: options, asks and answers.

// Device is where models run: a pool of runners of its own. Runners of another device never wait for it.
type Device struct {
	Name    string // as Session.Device says: "cpu", "cuda"
	Runners int    // runs in progress at once, each on its own thread; GOMAXPROCS
}

// Options configure an Engine.
type Options struct {
	// Devices are all that models may be loaded for. The threads of a device start with its first model.
	Devices     []Device
	BatchTokens int // token budget of one run; 0: measured for every model (needs Model.Probe)
	// Warm: a model runs its largest row on every runner while it is loaded, so that the first record does not pay for
	// growing buffers.
	Warm bool
	// a record should be judged this long after its timestamp; 0: in order of arrival. See Handle.due
	Deadline   time.Duration
	CacheBytes int           // about the most memory for results of rows seen before; 0: no cache
	Timeout    time.Duration // longest one run may take: its context's deadline; 30 s
	// Watchdog looks at what cannot be told to end: runs, and what is done with answers. When it finds that something
	// hangs, Load, Release and Close may never return: the process must be left. Required.
	Watchdog *pipeline.Watchdog
	Metrics  *Metrics    // required
	Fail     func(error) // called when a model is broken and the worker must stop; required
}

// Ask is the rows of one record, for one model.
type Ask struct {
	Inputs []Input   // one, or one a window of a long text
	Urgent bool      // goes before others, see batcher.go
	Since  time.Time // the record's timestamp; the zero time: unknown
	// Done is called once, on a runner's goroutine, or on the caller's where nothing had to be run. It must not wait
	// for other asks, nor call Release.
	Done func(Answer)
}

// Answer is what became of an Ask.
type Answer struct {
	Logits [][]float32 // one slice an input, shared with others who asked for the same row: not to be written to
	Cached bool        // every row's logits came from the cache
	Err    error       // a *pipeline.Fault: Poison when a row of this record fails though the model works
}

// request is an Ask under way: it ends with the last of its rows.
type request struct {
	answer  Answer
	left    int
	started bool
	added   time.Time
	done    func(Answer)
}

// Engine runs rows of several models on the runners of their devices. Safe for concurrent use.
type Engine struct {
	o     Options
	pools map[string]*pool // by device; never changed
	epoch time.Time        // zero of the clock of due
	seed  maphash.Seed
	cache *resultCache // nil: none

	handles atomic.Uint64 // that were ever made
}

// New makes an engine without models.
func New(o Options) *Engine {
	if o.Timeout <= 0 {
		o.Timeout = 30 * time.Second
	}
	e := &Engine{o: o, pools: map[string]*pool{}, epoch: time.Now(), seed: maphash.MakeSeed()}
	if o.CacheBytes > 0 {
		e.cache = newResultCache(o.CacheBytes)
		o.Metrics.watchCache(e.cache)
	}
	for _, d := range o.Devices {
		if d.Runners <= 0 {
			d.Runners = runtime.GOMAXPROCS(0)
		}
		e.pools[d.Name] = newPool(e, d)
	}
	return e
}

// Close stops the runners after the run in progress and closes the runners of all models; what still waits is never
// done. Sessions stay open.
func (e *Engine) Close() {
	for _, p := range e.pools {
		p.stop()
	}
	for _, p := range e.pools {
		p.end()
	}
	if e.cache != nil {
		e.cache.close()
	}
}

func errClosed() error {
	return pipeline.Faultf(pipeline.Internal, "infer", "closed", "the engine is closed")
}
