package main

import (
	"context"
	"time"

	"sluice/model"
	"sluice/model/judging"
	"sluice/pipeline/engine"
	"sluice/tokenize"
)

// This file is how the tools run models over texts: the one place that joins package judging to the engine.

// judges are loaded models in an engine, for texts of files.
type judges struct {
	all    []*loadedModel // every student behind its model
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
func openJudges(ctx context.Context, models []*loadedModel, o judgeOptions) (context.Context, *judges, error) {
	ctx, end := context.WithCancelCause(ctx)
	eng, err := newEngine(ctx, models, engine.Options{Devices: devices(o.runners), BatchTokens: o.batchTokens, Warm: o.warm,
		Timeout: o.runTimeout, Watchdog: newWatchdog(o.runTimeout, sayAnd(end)), Metrics: toolMetrics(), Fail: end})
	if err != nil {
		end(nil)
		return ctx, nil, err
	}
	return ctx, &judges{withStudents(models), eng, end}, nil
}

// close ends the engine; the models stay open.
func (j *judges) close() {
	j.engine.Close()
	j.end(nil)
}

// of is the i-th of all models.
func (j *judges) of(i int) judging.Model { return &engineJudge{j.all[i]} }

// engineJudge is a model of an engine. It implements judging.Model.
type engineJudge struct{ *loadedModel }

// Encode implements judging.Model.
func (m *engineJudge) Encode(texts [][]byte) []tokenize.Encoded {
	options := m.tokenizeOptions()
	options.Offsets = m.judge.NeedsOffsets()
	return m.tokenizer.Encode(texts, options)
}

// Run implements judging.Model.
func (m *engineJudge) Run(rows [][]int32, done func(logits [][]float32, err error)) {
	ask := engine.Ask{Inputs: make([]engine.Input, len(rows)), Done: func(a engine.Answer) { done(a.Logits, unfault(a.Err)) }}
	for i := range rows {
		ask.Inputs[i] = engine.Tokens(rows[i])
	}
	m.handle.Submit(ask)
}

// Verdict implements judging.Model.
func (m *engineJudge) Verdict(text []byte, enc tokenize.Encoded, logits [][]float32) (model.Verdict, error) {
	return m.judge.Verdict(text, enc, logits)
}
