package main

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"time"

	"sluice/bench/faults/history"
	"sluice/pipeline/llm/standin"
)

// This file owns the LLM endpoint of scenarios with an escalation, and the rules by which their workers alert and
// escalate: as the workers' configuration has them, and as the checker works them out by itself.

const (
	askedBelow   = 0.75 // escalation.when
	urgentAbove  = 0.9  // routes[].when
	urgentLabel  = "NEGATIVE"
	surelyStated = 0.95 // the endpoint's confidence: its NEGATIVE verdicts are urgent
)

// furtherConfig are the parts of a worker's configuration for routes and escalation.
func (r *run) furtherConfig() string {
	text := ""
	if r.s.alerts {
		text += fmt.Sprintf("routes:\n  - {name: urgent, when: 'sentiment.label == %q && sentiment.score > %v', "+
			"topic: %q}\n", urgentLabel, urgentAbove, r.urgent)
	}
	if r.s.escalate {
		// No cache: equal questions are to be asked again and again.
		text += fmt.Sprintf("escalation:\n  when: 'sentiment.score < %v'\n  topic: %q\n  mode: amend\n  cache: 0\n"+
			"  endpoint: {urls: [%q], model: stub, max_concurrency: 4, timeout: 1s, deadline: 2s, max_attempts: 2, "+
			"breaker_pause: 300ms}\n", askedBelow, r.asks, r.endpoint.url())
	}
	return text
}

// judge reads the verdict of a result or alert: what it says of itself, and what the rules say of it.
func judge(o *history.Output) error {
	var v struct {
		Inference struct {
			Sentiment struct {
				Label       string
				Score       float64
				By, Reason  string
				Provisional bool
			}
		}
	}
	if err := json.Unmarshal(o.Value, &v); err != nil {
		return fmt.Errorf("no result: %w", err)
	}
	s := v.Inference.Sentiment
	if s.Label == "" {
		return fmt.Errorf("a result without a label: %.200q", o.Value)
	}
	o.Provisional, o.Fallback, o.Reason = s.Provisional, s.By == "fallback", s.Reason
	o.Due = s.Label == urgentLabel && s.Score > urgentAbove
	o.Asked = s.Score < askedBelow
	return nil
}

// endpoint is a strict stand-in for an LLM endpoint, that can go away and come back at the same address.
type endpoint struct {
	stub    *standin.Server
	address string
	server  *http.Server // nil: away
}

func startEndpoint(seed uint64) (*endpoint, error) {
	labels := []string{"NEGATIVE", "POSITIVE"}
	e := &endpoint{address: "127.0.0.1:0", stub: standin.New(standin.Options{Labels: labels, Confidence: surelyStated,
		Seed: seed, KeepBytes: 1,
		Oracle:  func(text string) string { return labels[len(text)%2] },
		Latency: standin.Exponential(5 * time.Millisecond)})}
	return e, e.start()
}

func (e *endpoint) url() string { return "http://" + e.address + "/v1" }

// start serves, after stop again.
func (e *endpoint) start() error {
	l, err := net.Listen("tcp", e.address)
	if err != nil {
		return fmt.Errorf("the LLM endpoint: %w", err)
	}
	e.address = l.Addr().String()
	e.server = &http.Server{Handler: e.stub}
	go e.server.Serve(l)
	return nil
}

// stop breaks all connections; further ones are refused.
func (e *endpoint) stop() {
	if e.server != nil {
		e.server.Close()
		e.server = nil
	}
}
