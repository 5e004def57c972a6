package settings

import (
	"fmt"

	"sluice/cmd/sluice/config"
	"sluice/pipeline/codec/formats"
	"sluice/pipeline/rule"
)

// This file owns the list skip.

// Skip leaves records out.
type Skip struct {
	Name string `key:"name"`
	When string `key:"when"`
}

var skipKeys = []config.Key{
	{Name: "name", Need: true, Example: "deletes", Doc: "name of the rule in metrics and errors"},
	{Name: "when", Need: true, Example: `field("payload.op") == "d"`,
		Doc: "rule over the record, without its text: records for which it holds are neither judged nor published, " +
			"and never a dead letter; sluice_skipped_records_total counts them. One that looks at fields does not " +
			"hold for a null value"},
}

func checkSkip(c *config.Check, s *Settings) {
	for i, k := range s.Skip {
		at := func(name string) string { return fmt.Sprintf("skip[%d].%s", i, name) }
		if k.Name != "" && !ModelName.MatchString(k.Name) {
			c.Mistake(at("name"), "%q cannot be the name of a rule: letters, digits, dot, dash and underscore", k.Name)
		}
		for j, other := range s.Skip[:i] {
			if k.Name != "" && k.Name == other.Name {
				c.Mistake(at("name"), "%q is also the name of skip[%d]; names must differ", k.Name, j)
			}
		}
		if k.When == "" {
			continue
		}
		r, err := rule.ParseBeforeText(k.When)
		if err != nil {
			c.Mistake(at("when"), "%v", err)
		} else if f := formats.Named(s.Input.Format); f != nil && !f.Fields && r.ReadsFields() {
			c.Between([]string{at("when"), "input.format"}, "values of input.format: %s have no fields, so field and "+
				"number find nothing; write a rule over topic, key, headers or bytes, or set format: json", f.Name)
		}
	}
}
