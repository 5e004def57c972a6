package main

// This file owns the list of scenarios, in the order of the table.

func scenarios() []scenario {
	var all []scenario
	all = append(all, brokerScenarios()...)
	all = append(all, networkScenarios()...)
	return all
}
