package main

// This file owns the list of scenarios, in the order of the table.

func scenarios() []scenario {
	var all []scenario
	all = append(all, brokerScenarios()...)
	all = append(all, networkScenarios()...)
	all = append(all, processScenarios()...)
	all = append(all, recordScenarios()...)
	all = append(all, refusalScenarios()...)
	all = append(all, policyScenarios()...)
	all = append(all, limitScenarios()...)
	all = append(all, poisonScenarios()...)
	all = append(all, clockScenarios()...)
	all = append(all, alertScenarios()...)
	return append(all, escalationScenarios()...)
}
