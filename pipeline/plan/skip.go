package plan

import (
	"sluice/pipeline"
	"sluice/pipeline/codec"
	"sluice/pipeline/rule"
)

// Skip is a rule that leaves records out: they are not judged, nothing is published for them, and offsets go on.
type Skip struct {
	Name string
	When *rule.Rule // over records whose text has not been looked for: rule.ParseBeforeText
}

// Skips are rules in the order in which they are asked.
type Skips []Skip

// Of is the name of the first rule that leaves a record out; "": none does. v is the record's value, nil where it has
// none or where it cannot be read: a rule that looks at its fields says nothing then, so that a tombstone is passed on
// and a broken value is a dead letter. failed, which may be nil, is told of every rule that could not be evaluated, and
// so does not hold.
func (s Skips) Of(r *pipeline.Record, v codec.Value, failed func(rule string)) string {
	for _, k := range s {
		if v == nil && k.When.ReadsFields() {
			continue
		}
		yes, err := k.When.Holds(&rule.Subject{Record: r, Value: v})
		if err != nil && failed != nil {
			failed("skip." + k.Name)
		}
		if yes {
			return k.Name
		}
	}
	return ""
}
