package pipeline

import "context"

// Row is one model input row: token ids with special tokens.
type Row []int32

// Runner computes logits on one OS thread. Implemented by model/ort; one runner belongs to one goroutine that is locked to
// its thread.
type Runner interface {
	// Bind is called once, on the locked thread, before the first Run: the place to pin the thread to a core.
	Bind() error
	// Run computes the logits of rows, in their order: [labels] per row for text-classification, [tokens*labels] per row
	// (row-major) for token-classification. The slices are the caller's. The context's deadline ends the run. Rows with
	// NaN or Inf logits are returned as they are; the caller checks.
	Run(ctx context.Context, rows []Row) ([][]float32, error)
	Close() error
}
