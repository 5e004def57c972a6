package main

import (
	"context"

	"github.com/prometheus/client_golang/prometheus"

	"sluice/model"
	"sluice/model/judging"
	"sluice/pipeline"
	"sluice/tokenize"
)

// This file is how the tools run models over texts: the one place that joins package judging to the engine.

// judges are loaded models in an engine, for texts of files.
type judges struct {
	all    []*loadedModel // every student behind its model, as in the engine
	engine *pipeline.Engine
	end    context.CancelCauseFunc
}

// openJudges starts an engine for models. The context that it returns ends with the cause when the engine is broken.
func openJudges(ctx context.Context, models []*loadedModel, warm bool, o pipeline.EngineOptions) (context.Context,
	*judges, error) {
	ctx, end := context.WithCancelCause(ctx)
	o.Metrics, o.Fail = pipeline.NewMetrics(prometheus.NewRegistry()), end
	engine, err := newEngine(models, warm, o)
	if err != nil {
		end(nil)
		return ctx, nil, err
	}
	return ctx, &judges{withStudents(models), engine, end}, nil
}

// close ends the engine; the models stay open.
func (j *judges) close() {
	j.engine.Close()
	j.end(nil)
}

// of is the i-th of all models.
func (j *judges) of(i int) judging.Model { return &engineModel{j.all[i], j.engine, i} }

// engineModel is a model of an engine. It implements judging.Model.
type engineModel struct {
	*loadedModel
	engine *pipeline.Engine
	index  int
}

// Encode implements judging.Model.
func (m *engineModel) Encode(texts [][]byte) []tokenize.Encoded {
	options := m.tokenizeOptions()
	options.Offsets = m.judge.NeedsOffsets()
	return m.tokenizer.Encode(texts, options)
}

// Run implements judging.Model.
func (m *engineModel) Run(rows [][]int32, done func(logits [][]float32, err error)) {
	ask := pipeline.Ask{Model: m.index, Rows: make([]pipeline.Row, len(rows)), Done: func(a pipeline.Answer) {
		done(a.Logits, unfault(a.Err))
	}}
	for i := range rows {
		ask.Rows[i] = rows[i]
	}
	m.engine.Submit(ask)
}

// Verdict implements judging.Model.
func (m *engineModel) Verdict(text []byte, enc tokenize.Encoded, logits [][]float32) (model.Verdict, error) {
	return m.judge.Verdict(text, enc, logits)
}
