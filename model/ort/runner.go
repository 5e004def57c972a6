package ort

import (
	"context"
	"errors"
	"fmt"
	"math"
	"runtime"
	"sync"

	onnx "github.com/yalue/onnxruntime_go"

	"sluice/pipeline"
	"sluice/pipeline/engine"
)

// Runner computes batches on its caller's thread, in buffers of its own that grow to the largest batch. One goroutine
// at a time may call Run; Close may come from any.
type runner struct {
	session *Session
	cpu     int // index into processCPUs; -1: any core

	mu      sync.Mutex // Run and Close
	options *onnx.RunOptions
	release func()    // undoes Bind; nil while not pinned
	rows    [][]int32 // of the last batch: its memory is used again
	types   [][]byte  // the same
	inputs  []inputBuffer
	output  pinned[float32]
	half    pinned[byte] // fp16 output
}

// inputBuffer is the memory of one input; narrow is used where its elements are int32.
type inputBuffer struct {
	wide   pinned[int64]
	narrow pinned[int32]
}

var _ engine.Runner = (*runner)(nil)

// NewRunner makes the cpu-th runner (from 0), which Bind pins to the cpu-th core of the process; with a negative cpu it
// runs anywhere. Close it before the session, or after.
func (s *Session) NewRunner(cpu int) (engine.Runner, error) {
	options, err := onnx.NewRunOptions()
	if err != nil {
		return nil, fmt.Errorf("model %s: run options: %w", s.model.Name, err)
	}
	return &runner{session: s, cpu: cpu, options: options, inputs: make([]inputBuffer, len(s.graph.inputs))}, nil
}

// Bind pins the calling thread, which the goroutine must have locked, to the runner's core, where the model runs on the
// CPU: a thread that waits for a GPU needs no core of its own. Where there are more runners than cores the scheduler
// does better; where the system refuses, the session has a warning.
func (r *runner) Bind() error {
	if r.session.Device() != "cpu" || r.cpu < 0 || r.session.runners > len(processCPUs) || r.cpu >= len(processCPUs) {
		return nil
	}
	core := processCPUs[r.cpu]
	release, err := pin(core)
	if err != nil {
		r.session.warn("runner %d is not pinned to core %d: %v", r.cpu, core, err)
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.release = release
	return nil
}

// Run implements engine.Runner. Its errors are *pipeline.Fault: reason "bad-row" for a row that no model could take,
// "deadline" and "canceled" for a run that the context ended, "closed", and "run-failed" for all
// that ONNX Runtime says.
func (r *runner) Run(ctx context.Context, rows []engine.Input) ([][]float32, error) {
	if len(rows) == 0 {
		return nil, nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	b, err := r.batch(rows)
	if err != nil {
		return nil, err
	}
	r.session.mu.RLock()
	defer r.session.mu.RUnlock()
	if r.options == nil || r.session.session == nil {
		return nil, r.fault(pipeline.Internal, "closed", errors.New("the session is closed"), b)
	}
	if ctx.Err() != nil {
		return nil, r.ended(ctx, b)
	}

	// What ORT gets points into memory that is pinned until Close; the tensors live as long as this call.
	var values []onnx.Value
	defer func() {
		for _, v := range values {
			v.Destroy()
		}
	}()
	for i := range r.session.graph.inputs {
		v, err := r.inputs[i].fill(&r.session.graph.inputs[i], b)
		if err != nil {
			return nil, r.fault(pipeline.Internal, "run-failed", err, b)
		}
		values = append(values, v)
	}
	inputs := values[:len(values):len(values)]
	out, err := r.newOutput(b)
	if err != nil {
		return nil, r.fault(pipeline.Internal, "run-failed", err, b)
	}
	values = append(values, out)

	// Terminate ends the run between two nodes of the graph. It sticks to the options until it is unset, so the
	// callback must be over before they are used again.
	over := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(over)
		_ = r.options.Terminate() // cannot fail: the options exist until Close, which waits for this run
	})
	err = r.session.session.RunWithOptions(inputs, []onnx.Value{out}, r.options)
	if !stop() {
		<-over
		if e := r.options.UnsetTerminate(); e != nil {
			return nil, r.fault(pipeline.Internal, "run-failed", e, b)
		}
	}
	switch {
	case err != nil && ctx.Err() != nil:
		return nil, r.ended(ctx, b)
	case err != nil:
		return nil, r.fault(pipeline.Internal, "run-failed", err, b)
	}
	return r.session.graph.split(r.result(b), b), nil
}

// batch reads and checks the rows; r.mu is held. The check is needed: ONNX Runtime takes negative ids for counted from
// the end, and answers a row longer than the position table in words that name no row.
func (r *runner) batch(rows []engine.Input) (*batch, error) {
	m := r.session.model
	r.rows, r.types = r.rows[:0], r.types[:0]
	b := &batch{pad: m.Config.PadTokenID}
	for i, in := range rows {
		bad := func(format string, args ...any) error {
			return pipeline.Faultf(pipeline.Internal, "infer", "bad-row", "model %s, row %d of %d: %s", m.Name, i+1,
				len(rows), fmt.Sprintf(format, args...))
		}
		text, ok := in.(tokenRow)
		if !ok {
			return nil, bad("it is no row of tokens (%T)", in)
		}
		row := text.TokenIDs()
		r.rows = append(r.rows, row)
		if len(row) == 0 {
			return nil, bad("it has no tokens")
		}
		if len(row) > m.MaxTokens {
			return nil, bad("it has %d tokens, the model takes %d: tokenize with Options.MaxTokens", len(row),
				m.MaxTokens)
		}
		for k, id := range row {
			if id < 0 || m.Config.VocabSize > 0 && int(id) >= m.Config.VocabSize {
				return nil, bad("token %d has id %d, the vocabulary has 0 to %d: tokenizer.json is not the model's", k,
					id, m.Config.VocabSize-1)
			}
		}
		var types []byte
		if pair, ok := in.(typedRow); ok {
			types = pair.TokenTypes()
		}
		r.types = append(r.types, types)
		for k, t := range types {
			switch {
			case t == 0 || m.Config.TokenTypes < 2:
			case !r.session.graph.takesTypes():
				return nil, pipeline.Faultf(pipeline.Config, "infer", "no-token-types", "model %s tells the second "+
					"text of a pair by its token types, and its ONNX has no input %s: export it again with "+
					"--pairs, or give it one text (reads: text)", m.Name, tokenTypes)
			case int(t) >= m.Config.TokenTypes:
				return nil, bad("token %d is of type %d, the model has types 0 to %d", k, t, m.Config.TokenTypes-1)
			}
		}
		b.tokens += len(row)
		b.longest = max(b.longest, len(row))
	}
	b.rows, b.types = r.rows, r.types
	return b, nil
}

// tokenRow is what a text model's row must have.
type tokenRow interface{ TokenIDs() []int32 }

// typedRow is a row that may be a pair of texts.
type typedRow interface{ TokenTypes() []byte }

func (f *inputBuffer) fill(in *input, b *batch) (onnx.Value, error) {
	shape := in.layout.shape(b)
	n := int(shape.FlattenedSize())
	wide := f.wide.grow(n)
	in.layout.fill(wide, b)
	if !in.narrow {
		return onnx.NewTensor(shape, wide)
	}
	narrow := f.narrow.grow(n)
	for i, x := range wide {
		narrow[i] = int32(x)
	}
	return onnx.NewTensor(shape, narrow)
}

func (r *runner) newOutput(b *batch) (onnx.Value, error) {
	shape := r.session.graph.outputShape(b)
	n := int(shape.FlattenedSize())
	if r.session.graph.half {
		return onnx.NewCustomDataTensor(shape, r.half.grow(2*n), onnx.TensorElementDataTypeFloat16)
	}
	return onnx.NewTensor(shape, r.output.grow(n))
}

// result is the output of the last run, valid until the next.
func (r *runner) result(b *batch) []float32 {
	shape := r.session.graph.outputShape(b)
	out := r.output.grow(int(shape.FlattenedSize()))
	if r.session.graph.half {
		for i := range out {
			out[i] = fromHalf(uint16(r.half.data[2*i]) | uint16(r.half.data[2*i+1])<<8)
		}
	}
	return out
}

// Close frees the runner's memory, after the run in progress, and unpins its thread.
func (r *runner) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.options == nil {
		return nil
	}
	err := r.options.Destroy()
	r.options = nil
	for i := range r.inputs {
		r.inputs[i].wide.free()
		r.inputs[i].narrow.free()
	}
	r.output.free()
	r.half.free()
	if r.release != nil {
		r.release()
	}
	return err
}

func (r *runner) ended(ctx context.Context, b *batch) error {
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return r.fault(pipeline.Internal, "deadline", errors.New("the run took longer than its time limit"), b)
	}
	return r.fault(pipeline.Transient, "canceled", ctx.Err(), b)
}

func (r *runner) fault(kind pipeline.Kind, reason string, err error, b *batch) error {
	return pipeline.Faultf(kind, "infer", reason, "model %s, %d rows, %d tokens, longest %d: %w", r.session.model.Name,
		len(b.rows), b.tokens, b.longest, err)
}

// pinned is memory that C may keep a pointer to.
type pinned[T any] struct {
	data   []T
	pinner runtime.Pinner
}

// grow returns n elements of any content. Elements of an earlier grow may move.
func (p *pinned[T]) grow(n int) []T {
	if n > len(p.data) {
		p.free()
		p.data = make([]T, max(n+n/2, 64))
		p.pinner.Pin(&p.data[0])
	}
	return p.data[:n]
}

func (p *pinned[T]) free() {
	p.pinner.Unpin()
	p.data = nil
}

// fromHalf widens an IEEE 754 binary16.
func fromHalf(h uint16) float32 {
	sign, exponent, fraction := uint32(h>>15)<<31, uint32(h>>10)&31, uint32(h)&1023
	switch {
	case exponent == 31: // infinity, NaN
		return math.Float32frombits(sign | 0xFF<<23 | fraction<<13)
	case exponent == 0: // zero, subnormal: fraction * 2^-24
		f := float32(fraction) / (1 << 24)
		return math.Float32frombits(sign | math.Float32bits(f))
	default:
		return math.Float32frombits(sign | (exponent+112)<<23 | fraction<<13)
	}
}
