package plan

import (
	"sluice/pipeline"
	"sluice/pipeline/publish"
	"sluice/pipeline/rule"
)

// Urgent says which records go first. A nil Urgent is none.
type Urgent struct {
	Topics      []string
	HeaderName  string     // a header that makes a record urgent; "": none
	HeaderValue string     // the value it must have; "": any
	When        *rule.Rule // nil: none
}

// early is whether a record is urgent by what is known before it is opened.
func (u *Urgent) early(r *pipeline.Record) bool {
	if u == nil {
		return false
	}
	for _, t := range u.Topics {
		if t == r.Topic {
			return true
		}
	}
	if u.HeaderName != "" {
		for _, h := range r.Headers {
			if h.Key == u.HeaderName && (u.HeaderValue == "" || u.HeaderValue == string(h.Value)) {
				return true
			}
		}
	}
	return false
}

// is whether a record is urgent. A rule that cannot be evaluated for it does not hold; failed is told.
func (u *Urgent) is(j *publish.Judged, m *Metrics, failed func(rule string)) bool {
	if u == nil {
		return false
	}
	yes := u.early(j.Record)
	if !yes && u.When != nil {
		var err error
		if yes, err = u.When.Holds(j.Subject()); err != nil && failed != nil {
			failed("urgent.when")
		}
	}
	if yes {
		m.urgent.Inc()
	}
	return yes
}
