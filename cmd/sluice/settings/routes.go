package settings

import (
	"fmt"

	"sluice/cmd/sluice/config"
)

// This file owns the list routes.

// Route copies results to another topic, in the same transaction.
type Route struct {
	Name  string `key:"name"`
	When  string `key:"when"`
	Topic string `key:"topic"`
}

var routeKeys = []config.Key{
	{Name: "name", Need: true, Example: "urgent", Doc: "name of the route in headers and errors"},
	{Name: "when", Need: true, Example: `sentiment.label == "NEGATIVE" && sentiment.score > 0.95`,
		Doc: "rule over the verdicts and the record: results for which it holds are copied"},
	{Name: "topic", Need: true, Example: "urgent_alerts", Doc: "topic for the copies"},
}

func checkRoutes(c *config.Check, s *Settings) {
	for i, r := range s.Routes {
		at := func(name string) string { return fmt.Sprintf("routes[%d].%s", i, name) }
		if r.Name != "" && !ModelName.MatchString(r.Name) {
			c.Mistake(at("name"), "%q cannot be the name of a route: letters, digits, dot, dash and underscore", r.Name)
		}
		for j, other := range s.Routes[:i] {
			if r.Name != "" && r.Name == other.Name {
				c.Mistake(at("name"), "%q is also the name of routes[%d]; names must differ", r.Name, j)
			}
		}
		checkRule(c, s, at("when"), r.When)
		for _, other := range []struct{ path, topic string }{{"output.topic", s.Output.Topic},
			{"dead_letter.topic", s.DeadLetter.Topic}} {
			if r.Topic != "" && r.Topic == other.topic {
				c.Between([]string{at("topic"), other.path}, "%q is also %s; give the copies a topic of their own",
					r.Topic, other.path)
			}
		}
	}
}
