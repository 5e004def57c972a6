package worker

import (
	"log/slog"
	"time"

	"sluice/model/ort"
	"sluice/pipeline"
	"sluice/pipeline/engine"
	"sluice/tokenize"
)

// This file owns what models share with the process that they run in: the runtime, and the end of the process where one
// of them hangs.

// Process is the process that models and stages run in. Workers and the tools are given the same one.
type Process struct {
	// Exit ends the process as one that has failed. It is called when something hangs that cannot be ended.
	Exit  func()
	Hooks Hooks
}

// Hooks are for tests: each puts something else in a place that no setting reaches. The zero value changes nothing.
type Hooks struct {
	Runtime   func(engine.Runtime) engine.Runtime         // around what runs models
	Tokenizer func(tokenize.Tokenizer) tokenize.Tokenizer // around the tokenizers of records' texts
	Processor func(pipeline.Processor) pipeline.Processor // around the processor of every stage
	// WedgedGrace and WedgedExit take the place of the constants, for tests that are in more of a hurry; 0: neither.
	WedgedGrace, WedgedExit time.Duration
}

const (
	// wedgedGrace is how much longer than run_timeout something may take until it is taken to hang.
	wedgedGrace = 10 * time.Second
	// wedgedExit is how long after that the process ends.
	wedgedExit = 3 * time.Second
)

// Runtime loads ONNX Runtime, the file that SLUICE_ONNXRUNTIME names or lib/libonnxruntime.so.1 beside the binary, and
// returns what runs models with it. Later calls return the same.
func Runtime() (engine.Runtime, error) {
	if err := ort.Init(""); err != nil {
		return nil, err
	}
	return ort.Runtime{}, nil
}

// runtime is Runtime with the hook around it.
func (p *Process) runtime() (engine.Runtime, error) {
	r, err := Runtime()
	if err == nil && p.Hooks.Runtime != nil {
		r = p.Hooks.Runtime(r)
	}
	return r, err
}

func (p *Process) tokenizer(t tokenize.Tokenizer) tokenize.Tokenizer {
	if p.Hooks.Tokenizer != nil {
		return p.Hooks.Tokenizer(t)
	}
	return t
}

func (p *Process) processor(of pipeline.Processor) pipeline.Processor {
	if p.Hooks.Processor != nil {
		return p.Hooks.Processor(of)
	}
	return of
}

// Watchdog makes a watchdog whose bark ends the process. fail is told when something hangs, and must see to it that
// what can be ended in order is; then the process ends, because the thread that hangs cannot, and nothing that it uses
// may be freed.
func (p *Process) Watchdog(runTimeout time.Duration, fail func(error)) *pipeline.Watchdog {
	grace, exit := p.Hooks.WedgedGrace, p.Hooks.WedgedExit
	if grace == 0 {
		grace = wedgedGrace
	}
	if exit == 0 {
		exit = wedgedExit
	}
	return pipeline.NewWatchdog(pipeline.WatchdogOptions{Timeout: runTimeout, Grace: grace, Wedged: func(err error) {
		fail(err)
		time.AfterFunc(exit, p.Exit)
	}})
}

// failAndSay ends a stage and tells its log why.
func failAndSay(fail func(error), log *slog.Logger) func(error) {
	return func(err error) {
		fail(err)
		log.Error("ending the process: something hangs that cannot be ended", "error", err)
	}
}

// Unfault is the sentence of a fault without its stage.
func Unfault(err error) error {
	if f, ok := err.(*pipeline.Fault); ok && f.Err != nil {
		return f.Err
	}
	return err
}

// startFault is a configuration fault that joins mistakes.
func startFault(reason string, err error) error {
	return &pipeline.Fault{Kind: pipeline.Config, Stage: "start", Reason: reason, Err: err}
}

// Report is how `sluice validate` is told what was found.
type Report struct {
	OK    func(what string)
	Wrong func(error)
	Warn  func(format string, args ...any)
	// Unseen is told what was not looked at, and why: no mistake.
	Unseen func(what string)
	Steps  Steps
	// Process is what models are opened in.
	Process *Process
}
