package settings

import (
	"fmt"
	"slices"

	"sluice/cmd/sluice/config"
	"sluice/pipeline/codec"
	"sluice/pipeline/rule"
)

// This file owns the list models.

// Model is one model directory and how its verdicts are made.
type Model struct {
	Name             string  `key:"name"`
	Path             string  `key:"path"`
	Field            string  `key:"field"`
	Device           string  `key:"device"`
	DeviceFallback   string  `key:"device_fallback"`
	Aggregation      string  `key:"aggregation"`
	LongText         string  `key:"long_text"`
	Stride           int     `key:"stride"`
	WindowMerge      string  `key:"window_merge"`
	Student          string  `key:"student"`
	StudentThreshold float64 `key:"student_threshold"`
	Scores           string  `key:"scores"`
	SpecialTokens    string  `key:"special_tokens"`
	Reads            string  `key:"reads"`
}

var modelKeys = []config.Key{
	{Name: "name", Need: true, Example: "sentiment", Doc: "name of the model in verdicts, metrics and /status"},
	{Name: "path", Need: true, File: config.FileNameOrURI, Example: "models/sentiment", Doc: "model directory"},
	{Name: "field", Example: "entities", Doc: "member of the output field that takes the verdict; empty: the name"},
	{Name: "device", Example: "cuda", OneOf: []string{"cpu", "cuda", "openvino"}, Doc: "where the model runs"},
	{Name: "device_fallback", Example: "cpu",
		OneOf: []string{"fail", "cpu"},
		Doc:   "what to do where the device is missing: refuse to start, or run on the CPU and say so"},
	{Name: "aggregation", Example: "first",
		OneOf: []string{"none", "simple", "first", "average", "max"},
		Doc:   "how tokens become entities (token-classification), as Hugging Face's aggregation_strategy"},
	{Name: "long_text", Example: "window",
		OneOf: []string{"truncate", "window"},
		Doc:   "texts longer than the model: cut off and flag, or read in overlapping windows"},
	{Name: "stride", Range: config.Range{Least: "0"}, Example: "64", Doc: "tokens that neighbouring windows share"},
	{Name: "window_merge", Example: "max",
		OneOf: []string{"mean", "max"}, Doc: "how the scores of windows become one (text-classification)"},
	{Name: "student", File: config.FileNameOrURI, Example: "models/sentiment-tiny",
		Doc: "directory of a smaller model with the same labels that is asked first"},
	{Name: "student_threshold", Range: config.Range{Above: "0", Most: "1"}, Example: "0.96",
		Doc: "score (of entities: the least sure token) from which the student's verdict is final; below, the " +
			"full model decides"},
	{Name: "scores", Example: "all",
		OneOf: []string{"top", "all"}, Doc: "top: the best label; all: every label with its score"},
	{Name: "special_tokens", Example: "model",
		OneOf: []string{"text", "model"},
		Doc: "what [SEP] or a marker that was added for the model is in a text: text; or the model's token, as for " +
			"transformers. Empty: as the manifest says, else text"},
	{Name: "reads", Example: "text",
		OneOf: []string{ReadsPair, ReadsText},
		Doc: "where input.text_pair names a second text: pair: the model reads both (text-classification only); " +
			"text: the first alone. Empty: pair if it can"},
}

// What models read, where records have two texts.
const (
	ReadsPair = "pair"
	ReadsText = "text"
	readsBoth = "pair if it can"
)

// ReadsPairs says whether a model reads both texts of a record; must: it is an error if it cannot.
func (m Model) ReadsPairs() (pair, must bool) {
	return m.Reads == ReadsPair || m.Reads == readsBoth, m.Reads == ReadsPair
}

// ModelsToOpen are the models of a configuration, each with what it reads.
func (s *Settings) ModelsToOpen() []Model {
	list := slices.Clone(s.Models)
	for i := range list {
		switch {
		case s.Input.TextPair == "":
			list[i].Reads = ReadsText
		case list[i].Reads == "":
			list[i].Reads = readsBoth
		}
	}
	return list
}

// VerdictField is the member of the output field that takes this model's verdict.
func (m Model) VerdictField() string {
	if m.Field != "" {
		return m.Field
	}
	return m.Name
}

// DefaultModel is what holds for every entry of models.
func DefaultModel() Model {
	return Model{
		Device: "cpu", DeviceFallback: "fail", Aggregation: "simple", LongText: "truncate", Stride: 64,
		WindowMerge: "mean", Scores: "top", StudentThreshold: 0.95,
	}
}

func checkModels(c *config.Check, s *Settings) {
	for i, m := range s.Models {
		at := func(name string) string { return fmt.Sprintf("models[%d].%s", i, name) }
		if m.Name != "" && !ModelName.MatchString(m.Name) {
			c.Mistake(at("name"), "%q cannot be the name of a model: letters, digits, dot, dash and underscore", m.Name)
		}
		if slices.Contains(codec.ReservedNames, m.VerdictField()) {
			c.Between([]string{at("field"), at("name")}, "%q is a member that the output field has itself; give the "+
				"model another field, or another name", m.VerdictField())
		}
		if m.Field != "" {
			if err := codec.CheckField(m.Field); err != nil {
				c.Mistake(at("field"), "%v", err)
			}
		}
		for j, other := range s.Models[:i] {
			switch {
			case m.Name != "" && m.Name == other.Name:
				c.Mistake(at("name"), "%q is also the name of models[%d]; names must differ", m.Name, j)
			case m.VerdictField() != "" && m.VerdictField() == other.VerdictField():
				c.Between([]string{at("field"), at("name")}, "%q is also the verdict field of models[%d]; give one "+
					"of them another field, or another name", m.VerdictField(), j)
			}
		}
		if s.Input.TextPair == "" && c.Given(at("reads")) {
			c.Between([]string{at("reads"), "input.text_pair"}, "has no effect without input.text_pair, the path of "+
				"the second text; give it, or remove reads")
		}
		if m.LongText == "truncate" {
			for _, name := range []string{"stride", "window_merge"} {
				if c.Given(at(name)) {
					c.Between([]string{at(name), at("long_text")}, "has no effect with long_text: truncate; set "+
						"long_text: window, or remove %s", name)
				}
			}
		}
		if m.Student == "" && c.Given(at("student_threshold")) {
			c.Between([]string{at("student_threshold"), at("student")}, "has no effect without a student; give "+
				"student, the directory of a smaller model, or remove it")
		}
		if m.Student != "" && m.Student == m.Path {
			c.Between([]string{at("student"), at("path")}, "is the model itself; give a smaller one, or remove it")
		}
		if m.Device == "cpu" && c.Given(at("device_fallback")) {
			c.Between([]string{at("device_fallback"), at("device")}, "has no effect with device: cpu; set device: "+
				"cuda or openvino, or remove device_fallback")
		}
	}
}

// VerdictNames are the names of the verdicts in results, for rules.
func (s *Settings) VerdictNames() []string {
	names := make([]string, len(s.Models))
	for i, m := range s.Models {
		names[i] = m.VerdictField()
	}
	return names
}

// checkRule type-checks a rule over verdicts.
func checkRule(c *config.Check, s *Settings, path, source string) {
	if source == "" || len(s.Models) == 0 {
		return
	}
	if _, err := rule.ParseVerdicts(source, rule.Declare(s.VerdictNames()...)); err != nil {
		c.Mistake(path, "%v", err)
	}
}
