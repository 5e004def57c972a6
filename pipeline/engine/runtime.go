package engine

import (
	"context"
	"time"

	"sluice/model"
	"sluice/tokenize"
)

// This file owns what the engine asks of a runtime. Package model/ort implements it with ONNX Runtime, package
// enginetest with functions.

// Runtime opens models for their device. Safe for concurrent use.
type Runtime interface {
	// Open loads a model, which has been verified. An error is a *pipeline.Fault of kind Config.
	Open(m *model.Model, o RuntimeOptions) (Session, error)
}

// RuntimeOptions say where a model runs.
type RuntimeOptions struct {
	Device         string // as the runtime names it; "cpu" (default), "cuda" or "openvino" for ONNX Runtime
	DeviceFallback string // when the device cannot be used: "fail" (default) or "cpu"
	// how many runners will be made of the session; as many as the process has cores. Their threads are pinned if there
	// are cores for all
	Runners int
}

// Session is one opened model. Its methods may be called by many goroutines.
type Session interface {
	// NewRunner makes the n-th runner, from 0, of the device's pool; with a negative n one that is bound to nothing.
	// Runners are closed before the session.
	NewRunner(n int) (Runner, error)
	// SelfTest computes what the model's manifest knows the answers of. note is a sentence for a person where there is
	// nothing to test. An error is a *pipeline.Fault of kind Config.
	SelfTest(ctx context.Context, tok tokenize.Tokenizer) (note string, err error)
	// Warmup runs the largest row once, so that the runner's buffers have their full size before the first record.
	Warmup(ctx context.Context, r Runner) error
	// Clock is the time that counts when token budgets are measured: the calling thread's processor time for a model on
	// the CPU. nil: the wall clock's.
	Clock() func() time.Duration
	// Device is whose runners run the model: a Device.Name. It is "cpu" also where another provider computes on the
	// CPU, because cores are what runners of both would share.
	Device() string
	// Provider is what computes, for people: "cpu", "cuda", "openvino".
	Provider() string
	// Warnings are sentences about what works, but not as one would wish. Runners may add to them when they are bound.
	Warnings() []string
	// Close waits for runs in progress and frees the model.
	Close() error
}

// Runner computes logits on one OS thread: it belongs to one goroutine that is locked to its thread.
type Runner interface {
	// Bind is called once, on the locked thread, before the first Run: the place to pin the thread to a core.
	Bind() error
	// Run computes the logits of rows, in their order: [labels] per row for text-classification, [tokens*labels] per
	// row (row-major) for token-classification. The logits are the caller's; rows are only lent, the slice included.
	// The context's deadline ends the run: it is the only time limit of a run, and the caller sets it. Rows with NaN or
	// Inf logits are returned as they are; the caller checks.
	Run(ctx context.Context, rows []Input) ([][]float32, error)
	Close() error
}
