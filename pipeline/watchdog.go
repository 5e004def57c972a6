package pipeline

import (
	"fmt"
	"sync"
	"time"
)

// This file owns the watchdog: an eye on what is done to records by code that nobody can interrupt. A model's run is
// told to end when its time is over; a tokenizer, a JSON parser or a rule cannot even be told. Whatever goes on for
// longer than WatchdogOptions.Timeout and Grace together has a thread that cannot be got back, and the process must be
// left.

// Defaults of WatchdogOptions.
const (
	watchTimeout = 30 * time.Second
	watchGrace   = 10 * time.Second
)

// graceSteps are the steps in which Grace is counted. Each begins when the one before has been noticed: a process that
// was frozen for a while, with its work, has not waited.
const graceSteps = 10

// WatchdogOptions configure a Watchdog; the zero value of a field means the default named with it.
type WatchdogOptions struct {
	Timeout time.Duration // longest one piece of work may take; 30 s
	Grace   time.Duration // how much longer it may take to end after that; 10 s
	// Wedged is called when a piece of work does not end. Its thread cannot be ended: the process must be left. It may
	// be called for several pieces of work, on any goroutine. Required.
	Wedged func(error)
}

// Watchdog looks at work that nobody can interrupt. Safe for concurrent use. A nil Watchdog looks at nothing.
type Watchdog struct{ o WatchdogOptions }

// NewWatchdog makes a watchdog.
func NewWatchdog(o WatchdogOptions) *Watchdog {
	if o.Timeout <= 0 {
		o.Timeout = watchTimeout
	}
	if o.Grace <= 0 {
		o.Grace = watchGrace
	}
	return &Watchdog{o}
}

// Watch is an eye on one goroutine's work. A nil Watch, of a nil Watchdog, does nothing.
type Watch struct {
	dog *Watchdog

	mu    sync.Mutex
	stage string
	doing func() string // subject and verb of a sentence: "a model has been running on 3 rows"
	began time.Time
	left  int // steps of the grace period
	ended bool
	timer *time.Timer
}

// Watch begins to look at work that begins now; stage is where a fault would say that it arose. doing is called when
// the work does not end: subject and verb of a sentence, such as "a model has been running on 3 rows".
func (d *Watchdog) Watch(stage string, doing func() string) *Watch {
	if d == nil {
		return nil
	}
	w := &Watch{dog: d, stage: stage, doing: doing, began: time.Now(), left: graceSteps}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.timer = time.AfterFunc(d.o.Timeout, w.look)
	return w
}

// Next says that the work before has ended, and that other work begins now, with as much time; also after End.
func (w *Watch) Next(stage string, doing func() string) {
	if w == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.stage, w.doing, w.began, w.left, w.ended = stage, doing, time.Now(), graceSteps, false
	w.timer.Reset(w.dog.o.Timeout)
}

// End says that the work has ended, and that none begins for now.
func (w *Watch) End() {
	if w == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ended = true
	w.timer.Stop()
}

func (w *Watch) look() {
	timeout := w.dog.o.Timeout
	w.mu.Lock()
	took := time.Since(w.began)
	if w.ended || took < timeout { // other work began as the timer fired
		w.mu.Unlock()
		return
	}
	if w.left > 0 {
		w.left--
		w.timer.Reset(w.dog.o.Grace / graceSteps)
		w.mu.Unlock()
		return
	}
	err := Faultf(Internal, w.stage, "wedged",
		"%s for %v and does not end, although its time was over after %v (run_timeout): its thread cannot be got "+
			"back, "+
			"so the worker ends; what is not committed will be processed again after a restart",
		w.doing(), took.Round(time.Second), timeout)
	w.mu.Unlock()
	w.dog.o.Wedged(err)
}

// What is being done, as sentences name it.

func ofCondemning(r *Record) func() string {
	return func() string {
		return fmt.Sprintf("an outcome without processing has been made for the record of %s at offset %d",
			r.TopicPartition(), r.Offset)
	}
}

func ofReplacing(r *Record) func() string {
	return func() string {
		return fmt.Sprintf("another outcome has been made for the record of %s at offset %d", r.TopicPartition(),
			r.Offset)
	}
}

func ofTapping(t Tap, records int) func() string {
	return func() string { return fmt.Sprintf("%T has been told of %d durable records", t, records) }
}
