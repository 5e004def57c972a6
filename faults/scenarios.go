package main

// This file owns the list of scenarios, in the order of the table.

func scenarios() []scenario {
	var all []scenario
	all = append(all, brokerScenarios()...)
	all = append(all, networkScenarios()...)
	all = append(all, processScenarios()...)
	all = append(all, recordScenarios()...)
	return append(all,
		scenario{name: "alerts", fault: "any fault, while routes publish alerts", promises: "P3", brokers: 1, cannot: "this harness configures no routes yet, so it sees no alert without its result or the other way round"},
		scenario{name: "escalation", fault: "LLM endpoint or escalate stage dies", promises: everyPromise, brokers: 1, cannot: "this harness has no LLM endpoint yet: failpoints escalate-before-call and escalate-after-call are not passed"},
	)
}
