package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"time"

	"sluice/cmd/sluice/worker"
	"sluice/model"
	"sluice/model/judging"
	"sluice/pipeline/engine"
	"sluice/tokenize"
)

// This file is how the tools run models over texts: the one place that joins package judging to the engine.

// judges are loaded models in an engine, for texts of files.
type judges struct {
	all    worker.Models // every student behind its model
	engine *engine.Engine
	end    context.CancelCauseFunc
}

// judgeOptions say how the tools run models.
type judgeOptions struct {
	runners     int
	batchTokens int           // 0: measured
	runTimeout  time.Duration // longest one run may take
	warm        bool
}

// openJudges starts an engine for models. The context that it returns ends with the cause when the engine is broken.
func openJudges(ctx context.Context, p *worker.Process, models worker.Models, o judgeOptions) (context.Context, *judges,
	error) {
	ctx, end := context.WithCancelCause(ctx)
	eng, err := models.Engine(ctx, engine.Options{Devices: worker.Devices(o.runners), BatchTokens: o.batchTokens,
		Warm:    o.warm,
		Timeout: o.runTimeout, Watchdog: p.Watchdog(o.runTimeout, sayAnd(end)), Metrics: worker.ToolMetrics(),
		Fail: end})
	if err != nil {
		end(nil)
		return ctx, nil, err
	}
	return ctx, &judges{models.WithStudents(), eng, end}, nil
}

// close ends the engine; the models stay open.
func (j *judges) close() {
	j.engine.Close()
	j.end(nil)
}

// of is the i-th of all models.
func (j *judges) of(i int) judging.Model { return &engineJudge{j.all[i]} }

// engineJudge is a model of an engine. It implements judging.Model.
type engineJudge struct{ *worker.Model }

// Encode implements judging.Model.
func (m *engineJudge) Encode(texts [][]byte) []tokenize.Encoded {
	options := m.TokenizeOptions()
	options.Offsets = m.Judge.NeedsOffsets()
	return m.Tokenizer.Encode(texts, options)
}

// Run implements judging.Model.
func (m *engineJudge) Run(rows [][]int32, done func(logits [][]float32, err error)) {
	ask := engine.Ask{Inputs: make([]engine.Input, len(rows)), Done: func(a engine.Answer) {
		done(a.Logits,
			worker.Unfault(a.Err))
	}}
	for i := range rows {
		ask.Inputs[i] = engine.Tokens(rows[i])
	}
	m.Handle.Submit(ask)
}

// Verdict implements judging.Model.
func (m *engineJudge) Verdict(text []byte, enc tokenize.Encoded, logits [][]float32) (model.Verdict, error) {
	return m.Judge.Verdict(text, enc, logits)
}

// sayAnd says on standard error what went wrong, for tools without a log, and hands it on.
func sayAnd(then func(error)) func(error) {
	return func(err error) {
		then(err)
		fmt.Fprintf(os.Stderr, "sluice: %v\n", err)
	}
}

// stepsTo tells of what takes long in lines.
func stepsTo(w io.Writer) worker.Steps {
	return worker.Steps{Tell: func(format string, args ...any) { fmt.Fprintf(w, format+"\n", args...) }}
}
