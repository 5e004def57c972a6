package escalate

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"

	"sluice/model"
	"sluice/pipeline"
	"sluice/pipeline/codec"
	"sluice/pipeline/publish"
	"sluice/pipeline/rule"
)

// This file owns the final verdict that is made of a request and its answer. Everything here is a pure function of its
// arguments.

// Final is what the escalate stage decided about a request.
type Final struct {
	By          pipeline.By // ByLLM or Fallback
	Reason      string      // of a Fallback: why the local verdict stands
	Label       string      // ByLLM
	Score       float64
	Scored      bool   // the endpoint said how sure it is
	Model       string // of the endpoint; also of a Fallback after an answer
	Prompt      string // version
	Explanation string // "": none
	Flags       []string
}

// Verdict is the value of a fact that the escalate stage made.
type Verdict struct {
	Final
	LocalLabel string // what the local model said
	LocalScore float64
	LocalTag   string
	members    local // of the local verdict
}

// AppendJSON implements codec.Appender.
func (v *Verdict) AppendJSON(b []byte) []byte {
	if v.By != pipeline.ByLLM {
		return v.members.AppendJSON(b)
	}
	b = append(b, `"label":`...)
	b = model.AppendString(b, v.Label)
	if v.Scored {
		b = append(b, `,"score":`...)
		b = model.AppendScore(b, v.Score)
	}
	return b
}

// AppendMore implements codec.MoreAppender.
func (v *Verdict) AppendMore(b []byte) []byte {
	text := func(name, value string) {
		if value != "" {
			b = append(append(append(b, `,"`...), name...), `":`...)
			b = model.AppendString(b, value)
		}
	}
	text("prompt", v.Prompt)
	text("explanation", v.Explanation)
	if len(v.Flags) > 0 {
		b = append(append(b, `,"flags":`...), mustJSON(v.Flags)...)
	}
	if v.By == pipeline.ByLLM {
		b = append(b, `,"local":{"label":`...)
		b = model.AppendString(b, v.LocalLabel)
		b = append(b, `,"score":`...)
		b = model.AppendScore(b, v.LocalScore)
		b = append(b, `,"model":`...)
		b = append(model.AppendString(b, v.LocalTag), '}')
	}
	return b
}

// Finals makes the outcomes of requests.
type Finals struct{ Publisher *publish.Publisher }

// Outcome publishes the final verdict of a request: an amendment, or the one result of a deferred record; a pointer in
// the dead letter topic where that is larger than its topic takes. In shadow nothing is published. value is the
// source's, text what was judged.
func (p Finals) Outcome(q *Request, value codec.Value, text []byte, f Final) pipeline.Outcome {
	facts := slices.Clone(q.facts)
	asked := &facts[q.asked]
	asked.By, asked.Reason = f.By, f.Reason
	was := asked.Tag
	asked.Value = &Verdict{Final: f, LocalLabel: q.Label, LocalScore: q.Score, LocalTag: was,
		members: asked.Value.(local)}
	tags := q.models
	if f.By == pipeline.ByLLM {
		asked.Tag = f.Model
		if was != "" {
			tags = strings.Replace(tags, was, f.Model, 1)
		}
	}
	if q.Mode == Shadow {
		return pipeline.Outcome{Facts: facts, Disposition: pipeline.Compared}
	}
	disposition := pipeline.Amended
	if f.By == pipeline.Fallback {
		disposition = pipeline.FellBack
	}
	r := &q.Source
	id, revision := publish.FirstID, "1"
	var amends []pipeline.Header
	if q.Mode == Amend {
		id, revision = publish.AmendmentID, "2"
		first := publish.ID(r, publish.FirstID)
		asked.Revision, asked.Amends = 2, string(first)
		amends = []pipeline.Header{{Key: publish.HeaderAmends, Value: first}}
	}
	j := &publish.Judged{Record: r, Value: value, Text: text, Verdicts: codec.Verdicts{Facts: facts, Flags: q.flags}}
	a := publish.Amendment{Disposition: disposition, Headers: append([]pipeline.Header{
		{Key: publish.HeaderSource, Value: publish.Source(r)},
		{Key: publish.HeaderID, Value: publish.ID(r, id)},
		{Key: publish.HeaderModel, Value: []byte(tags)},
		{Key: publish.HeaderRevision, Value: []byte(revision)},
	}, amends...)}
	if len(p.Publisher.Routes) > 0 {
		a.Env = q.env(j.Subject(), f)
	}
	return q.named(p.Publisher.Amend(j, a))
}

// Refused is the outcome of a request of which a broker has refused a message (Publisher.Refused).
func (p Finals) Refused(q *Request, meant *pipeline.Outcome, refusals []pipeline.Refusal) (pipeline.Outcome, bool) {
	o, ok := p.Publisher.Refused(&q.Source, meant, refusals)
	return q.named(o), ok
}

// named gives a dead letter in an amendment's place the amendment's id: the first is that of the provisional result,
// which is there.
func (q *Request) named(o pipeline.Outcome) pipeline.Outcome {
	if q.Mode != Amend || o.Disposition != pipeline.DeadLetter {
		return o
	}
	m := &o.Messages[0]
	for i := range m.Headers {
		if m.Headers[i].Key == publish.HeaderID {
			m.Headers[i].Value = publish.ID(&q.Source, publish.AmendmentID)
		}
	}
	m.Headers = append(m.Headers, pipeline.Header{Key: publish.HeaderAmends,
		Value: publish.ID(&q.Source, publish.FirstID)})
	return o
}

// env is what rules see of the final verdicts.
func (q *Request) env(s *rule.Subject, f Final) rule.Env {
	env := rule.NewEnv(s, nil)
	for name, raw := range q.rules {
		var v struct {
			rule.Verdict
			Route string `json:"route"` // what by was called before
		}
		if json.Unmarshal(raw, &v) != nil {
			continue // then the rule fails, and is counted
		}
		if v.By == "" {
			v.By = v.Route
		}
		if name == rule.Name(q.Verdict) {
			v.By = string(f.By)
			if f.By == pipeline.ByLLM {
				v.Label, v.Score, v.Margin, v.Entropy, v.Confidence = f.Label, f.Score, f.Score, 0, f.Score
				v.Scores = maps.Clone(v.Scores)
				clear(v.Scores)
			}
		}
		env[name] = v.Verdict
	}
	return env
}
