package main

import (
	"errors"
	"fmt"
	"time"

	"sluice/pipeline/failpoint"
	"sluice/pipeline/llm/standin"
)

// This file owns the scenarios in which the escalate stage or its LLM endpoint fails.

// atCalls are the places of the escalate stage before and after a call.
var atCalls = []string{failpoint.EscalateBeforeCall, failpoint.EscalateAfterCall}

// dieAtCalls kills workers that run both stages around calls, within transactions and at random.
func dieAtCalls(r *run) error {
	d := r.schedule(r.workers, append([]string{"after-produce", "before-end-txn"}, atCalls...), pick(r, 2, 24))
	if err := d.happen(); err != nil {
		return err
	}
	_, err := d.total()
	return err
}

// dieApart kills a worker of the classify stage and one of the escalate stage, at the same time.
func dieApart(r *run) error {
	classify := r.schedule(r.workers[:1], []string{"after-produce", "before-end-txn", failpoint.AfterInference},
		pick(r, 1, 12))
	escalate := r.schedule(r.workers[1:2], append([]string{"after-produce", "before-end-txn"}, atCalls...),
		pick(r, 1, 12))
	died := make(chan error, 1)
	go func() { died <- classify.happen() }()
	err := escalate.happen()
	if err := errors.Join(err, <-died); err != nil {
		return err
	}
	_, err = classify.total()
	_, also := escalate.total()
	return errors.Join(err, also)
}

// endpointFails lets the endpoint die, hang, fail, refuse everything and talk nonsense, in an order of the schedule,
// and come back. Meanwhile the classify stage has to go on.
func endpointFails(r *run) error {
	e := r.endpoint
	const gone = "gone"
	ways := map[string]standin.Step{gone: {}, "hanging": standin.Hang(), "answering 500": standin.Status(500, ""),
		"refusing":         standin.Body(400, `{"error":{"message":"This tenant is not enrolled."}}`),
		"talking nonsense": standin.WrongLabel()}
	order := []string{gone, "hanging", "answering 500", "refusing", "talking nonsense"}
	for range pick(r, 1, 3) {
		r.rng.Shuffle(len(order), func(i, j int) { order[i], order[j] = order[j], order[i] })
		for _, way := range order {
			sleep(r.ctx, time.Second) // good answers in between
			before := e.stub.Stats()
			if way == gone {
				e.stop()
			} else {
				e.stub.Always(ways[way])
			}
			err := r.classifies("the endpoint is " + way)
			sleep(r.ctx, pick(r, 3*time.Second, 15*time.Second))
			if way == gone {
				err = errors.Join(err, e.start())
			} else {
				e.stub.Always(standin.Good())
				if n := e.stub.Stats().Requests - before.Requests; n == 0 {
					err = errors.Join(err, fmt.Errorf("nobody asked the endpoint while it was %s", way))
				}
			}
			if err != nil {
				return err
			}
		}
	}
	answered := e.stub.Stats().Answers
	return await(r.ctx, 30*time.Second, "answers of the endpoint that is back", func() error {
		if n := e.stub.Stats().Answers - answered; n < 5 {
			return fmt.Errorf("%d answers", n)
		}
		return nil
	})
}

// classifies waits until the group of the input has committed all records that are there now, and that came since.
func (r *run) classifies(while string) error {
	sleep(r.ctx, time.Second)
	now, err := r.standing()
	if err != nil {
		return err
	}
	// 15 s: more than enough for a stage that does not wait for the endpoint, far too little for one that does.
	return await(r.ctx, 15*time.Second, "the classify stage to go on while "+while, func() error {
		g, err := r.standing()
		if err != nil {
			return err
		}
		for p, end := range now.Ends {
			if p.Topic == r.in && g.Committed[p] < end {
				return fmt.Errorf("%s is committed to %d, it ended at %d", p, g.Committed[p], end)
			}
		}
		return nil
	})
}

func escalationScenarios() []scenario {
	const more = "one final verdict for each provisional result, P3"
	return []scenario{
		{name: "escalation-kill", fault: "workers with both stages die while they ask the endpoint",
			injected: "SIGKILL before and after calls, within transactions, and at random", promises: more,
			do: dieAtCalls, brokers: 1, workers: 2, rate: 100, alerts: true, escalate: true, finals: []string{"llm"}},
		{name: "escalation-apart", fault: "workers of separate classify and escalate stages die",
			injected: "SIGKILL of both at failpoints of their stages, and at random", promises: more,
			do: dieApart, brokers: 1, workers: 3, rate: 100, alerts: true, escalate: true, stages: []string{"classify",
				"escalate", "escalate"}, finals: []string{"llm"}},
		{name: "escalation-endpoint", fault: "the LLM endpoint dies, hangs, fails, refuses, talks " +
			"nonsense, and comes back",
			injected: "connections refused, no answer, status 500, status 400, a label that does not exist, in " +
				"random order, 4 s each (long: 16 s, three times)",
			promises: more + ", P7 (the classify stage goes on)", do: endpointFails, brokers: 1, workers: 2, rate: 100,
			alerts: true, escalate: true, finals: []string{"llm", "endpoint", "refused", "answer"}},
	}
}
