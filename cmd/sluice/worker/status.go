package worker

import (
	"bytes"
	"encoding/json"
	"time"

	"sluice/pipeline"
	"sluice/pipeline/tap"
)

// This file owns the answer of /status: what is said of the worker, then what each kind says of itself.

// Member is one member of a JSON object.
type Member struct {
	Name  string
	Value any
}

// Members are a JSON object whose members keep their order.
type Members []Member

// MarshalJSON implements json.Marshaler.
func (m Members) MarshalJSON() ([]byte, error) {
	var b bytes.Buffer
	for i, member := range m {
		b.WriteByte("{,"[min(i, 1)])
		name, err := json.Marshal(member.Name)
		if err != nil {
			return nil, err
		}
		value, err := json.Marshal(member.Value)
		if err != nil {
			return nil, err
		}
		b.Write(name)
		b.WriteByte(':')
		b.Write(value)
	}
	if len(m) == 0 {
		b.WriteByte('{')
	}
	b.WriteByte('}')
	return b.Bytes(), nil
}

// StagePage is one stage in /status.
type StagePage struct {
	pipeline.Status
	Rates tap.RatesPage `json:"rates"`
}

// page is the answer of /status.
func (s *server) page(problems *Problems) Members {
	s.mu.Lock()
	notReadyWhy, stages := s.phase, s.stages
	s.mu.Unlock()
	var ofKinds []Member
	for _, k := range s.kinds {
		r := (&Worker{Stages: stages}).Stage(k.Name)
		if r == nil {
			ofKinds = append(ofKinds, k.Absent...)
			continue
		}
		p := r.page()
		if notReadyWhy == "" {
			notReadyWhy = notReady(p.Status)
		}
		ofKinds = append(ofKinds, r.Page(p)...)
	}
	c := s.about.Settings
	page := Members{
		{"version", s.about.Version}, {"started", s.about.Started},
		{"uptime_seconds", time.Since(s.about.Started).Seconds()}, {"ready", notReadyWhy == ""},
	}
	if notReadyWhy != "" {
		page = append(page, Member{"not_ready", notReadyWhy})
	}
	page = append(page, Member{"group", c.Kafka.Group}, Member{"instance_id", c.Kafka.InstanceID},
		Member{"guarantee", c.Kafka.Guarantee}, Member{"inputs", c.Input.Topics}, Member{"output", c.Output.Topic},
		Member{"dead_letter", c.DeadLetter.Topic}, Member{"runners", Runners(c.Runners)})
	page = append(page, ofKinds...)
	if p := problems.Last(); p != nil {
		page = append(page, Member{"last_error", p})
	}
	return page
}
