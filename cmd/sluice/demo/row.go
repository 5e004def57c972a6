package demo

import (
	"encoding/json"
	"fmt"
	"sluice/pipeline/publish"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// This file owns rows: results and dead letters, read as their consumers read them.

// row is one result or dead letter.
type row struct {
	source   string // partition/offset of the input record
	topic    string
	latency  time.Duration
	text     string
	verdicts []verdict
	entities []entity
	by       string
	failure  string // why it is a dead letter

	provisional bool   // an amendment follows
	amends      bool   // it is one
	was         string // an amendment by the endpoint: the local label
	reason      string // of a fallback
}

type verdict struct {
	name, label string
	score       float64
}

type entity struct{ group, word string }

// newRow reads a result as its consumers do.
func newRow(r *kgo.Record, now time.Time) row {
	row := row{topic: r.Topic, latency: max(0, now.Sub(r.Timestamp))}
	for _, h := range r.Headers {
		switch h.Key {
		case publish.HeaderSource:
			_, row.source, _ = strings.Cut(string(h.Value), "/")
		case publish.HeaderErrorMessage:
			row.failure = string(h.Value)
		}
	}
	var value struct {
		Text      string          `json:"text"`
		Inference json.RawMessage `json:"inference"`
	}
	if err := json.Unmarshal(r.Value, &value); err != nil {
		row.text = string(r.Value)
		return row
	}
	row.text = value.Text
	dec := json.NewDecoder(strings.NewReader(string(value.Inference)))
	if t, err := dec.Token(); err != nil || t != json.Delim('{') {
		return row
	}
	for dec.More() { // a map would lose the order of the models
		name, err := dec.Token()
		var raw json.RawMessage
		if err != nil || dec.Decode(&raw) != nil {
			return row
		}
		var v struct {
			Label       string  `json:"label"`
			Score       float64 `json:"score"`
			By          string  `json:"by"`
			Reason      string  `json:"reason"`
			Amends      string  `json:"amends"`
			Provisional bool    `json:"provisional"`
			Local       struct {
				Label string `json:"label"`
			} `json:"local"`
			Entities []struct {
				Group string `json:"entity_group"`
				Start int    `json:"start"`
				End   int    `json:"end"`
			} `json:"entities"`
		}
		if json.Unmarshal(raw, &v) != nil {
			continue // "reason", "flags"
		}
		// where verdicts differ, who made the one that was in question
		if row.by == "" || v.Provisional || v.Amends != "" {
			row.by = v.By
		}
		if v.Provisional {
			row.provisional = true
		}
		if v.Amends != "" {
			row.amends, row.was, row.reason = true, v.Local.Label, v.Reason
		}
		characters := []rune(row.text)
		if v.Label != "" {
			row.verdicts = append(row.verdicts, verdict{fmt.Sprint(name), v.Label, v.Score})
		}
		for _, e := range v.Entities {
			if 0 <= e.Start && e.Start <= e.End && e.End <= len(characters) { // the text's own spelling
				row.entities = append(row.entities, entity{e.Group, string(characters[e.Start:e.End])})
			}
		}
	}
	return row
}

// plain is a row as one line: offset, verdicts, entities, who made it, text.
func (r row) plain() string {
	return strings.Join([]string{r.source, r.verdict(), r.entityList(), r.by, printable(r.text)}, "  ")
}

func (r row) verdict() string {
	if r.topic == deadLetterTopic {
		return "DEAD LETTER " + printable(r.failure)
	}
	parts := make([]string, len(r.verdicts))
	for i, v := range r.verdicts {
		parts[i] = fmt.Sprintf("%s %.4f", printable(v.label), v.score)
	}
	switch {
	case r.was != "":
		parts = append(parts, "(amended, was "+printable(r.was)+")")
	case r.amends:
		parts = append(parts, "(final: "+printable(r.reason)+")")
	case r.provisional:
		parts = append(parts, "(asking)")
	}
	if len(parts) == 0 {
		return "-"
	}
	return strings.Join(parts, " ")
}

func (r row) entityList() string {
	if len(r.entities) == 0 {
		return "-"
	}
	parts := make([]string, len(r.entities))
	for i, e := range r.entities {
		parts[i] = printable(e.group) + ":" + printable(e.word)
	}
	return strings.Join(parts, ", ")
}
