package worker

import (
	"errors"
	"fmt"
	"slices"

	"sluice/cmd/sluice/settings"
	"sluice/pipeline"
	"sluice/pipeline/codec"
	"sluice/pipeline/codec/formats"
	"sluice/pipeline/publish"
	"sluice/pipeline/rule"
)

// This file owns what several stages make of the same settings: values, results, routes, dead letters and limits.

// resultTopics are the topics that finished records go to.
func resultTopics(s *settings.Settings) []string {
	topics := []string{s.Output.Topic, s.DeadLetter.Topic}
	for _, r := range s.Routes {
		if !slices.Contains(topics, r.Topic) {
			topics = append(topics, r.Topic)
		}
	}
	return topics
}

// NewPublisher makes the publisher of a stage. maxBytes is the largest message that a topic takes, nil: any;
// ruleFailed is told of routes that could not be evaluated. The error is a configuration fault.
func NewPublisher(s *settings.Settings, maxBytes func(string) int, ruleFailed func(string)) (*publish.Publisher,
	error) {
	var errs []error
	form, err := newCodec(s)
	if err != nil {
		errs = append(errs, err)
	}
	p := &publish.Publisher{Codec: form, Output: s.Output.Topic, DeadLetters: s.DeadLetter.Topic, MaxBytes: maxBytes,
		RuleFailed: ruleFailed}
	for i, r := range s.Routes {
		when, err := verdictRule(s, r.When)
		if err != nil {
			errs = append(errs, fmt.Errorf("routes[%d].when: %w", i, err))
		}
		p.Routes = append(p.Routes, publish.Route{Name: r.Name, When: when, Topic: r.Topic})
	}
	if len(errs) > 0 {
		return nil, startFault("routes", errors.Join(errs...))
	}
	return p, nil
}

// verdictRule compiles a rule over the verdicts of the configuration.
func verdictRule(s *settings.Settings, source string) (*rule.Verdicts, error) {
	return rule.ParseVerdicts(source, rule.Declare(s.VerdictNames()...))
}

// newCodec is the codec of the input's format.
func newCodec(s *settings.Settings) (codec.Codec, error) {
	text, err := codec.ParsePath(s.Input.Text)
	if err != nil {
		return nil, fmt.Errorf("input.text: %w", err)
	}
	o := formats.Options{Text: text, Field: s.Output.Field, MaxDepth: s.Input.MaxDepth}
	if s.Input.TextPair != "" {
		if o.Pair, err = codec.ParsePath(s.Input.TextPair); err != nil {
			return nil, fmt.Errorf("input.text_pair: %w", err)
		}
	}
	c, err := formats.New(s.Input.Format, o)
	if err != nil {
		return nil, fmt.Errorf("input.format: %w", err)
	}
	return c, nil
}

// Limits are the bounds of a stage as the settings have them.
func Limits(l settings.Limits) pipeline.Limits {
	return pipeline.Limits{
		PartitionRecords: l.Partition.Records, PartitionBytes: int(l.Partition.Bytes),
		PartitionTokens: l.Partition.Tokens,
		TotalRecords:    l.Total.Records, TotalBytes: int(l.Total.Bytes), TotalTokens: l.Total.Tokens,
	}
}
