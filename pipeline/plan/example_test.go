package plan_test

import (
	"context"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"sluice/pipeline"
	"sluice/pipeline/codec"
	"sluice/pipeline/codec/jsonvalue"
	"sluice/pipeline/plan"
	"sluice/pipeline/publish"
)

// customer is a step that asks a store of features who wrote a text. The store may be away for a while.
type customer struct{ plan.Place }

// Describe implements plan.Step.
func (*customer) Describe() plan.Info {
	return plan.Info{Name: "customer", Stage: "enrich", Goal: true, Fact: "customer", Tag: "store",
		Deadline: time.Second,
		Fallback: func(*plan.Item, error) pipeline.Fact {
			return pipeline.Fact{Tag: "store", Reason: "store-away", Value: tier("unknown")}
		}}
}

// Start implements plan.Waiting.
func (*customer) Start(_ context.Context, it *plan.Item, end plan.End) {
	id, _ := it.Value.Field(codec.Path{"user_id"})
	go func() { // an answer may come later
		if id != int64(7) {
			end.Fail(pipeline.Faultf(pipeline.Poison, "enrich", "unknown-customer", "there is no customer %v", id))
			return
		}
		end.Fact(pipeline.Fact{Tag: "store", By: pipeline.ByModel, Value: tier("gold")})
	}()
}

// A step is a type with a Place, a description, and one of Do and Start.
func Example() {
	reg := prometheus.NewRegistry()
	form := jsonvalue.New(jsonvalue.Options{Text: codec.Path{"text"}, Field: "inference", MaxDepth: 64})
	stop := func(err error) { fmt.Println("the worker stops:", err) }
	p, err := plan.New([]plan.Step{&customer{}}, plan.Options{
		Codec:     form,
		Publisher: &publish.Publisher{Codec: form, Output: "results", DeadLetters: "dead"},
		Metrics:   plan.NewMetrics(reg, pipeline.NewStageMetrics(reg, pipeline.StageMetricsOptions{})),
		Watchdog: pipeline.NewWatchdog(
			pipeline.WatchdogOptions{Timeout: time.Minute, Grace: time.Second, Wedged: stop}),
		Fail: stop,
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer p.Close()
	for _, value := range []string{`{"user_id":7,"text":"Love it"}`, `{"user_id":8,"text":"Hate it"}`} {
		done := make(chan pipeline.Outcome)
		p.Submit(&pipeline.Record{Topic: "reviews", Value: []byte(value)}, func(_ *plan.Item, o pipeline.Outcome) {
			done <- o
		})
		o := <-done
		fmt.Println(o.Messages[0].Topic)
		fmt.Println(string(o.Messages[0].Value))
	}
	// Output:
	// results
	// {"user_id":7,"text":"Love it","inference":{"customer":{"tier":"gold","by":"model","model":"store","revision":1}}}
	// dead
	// {"user_id":8,"text":"Hate it"}
}
