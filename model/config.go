package model

// What Hugging Face's config.json tells about a model. It is read as transformers reads it: unknown keys and nulls are
// no mistakes, missing ones have defaults.

import (
	"bytes"
	_ "embed" // the defaults
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// Config is what config.json says about inputs and outputs.
type Config struct {
	ModelType     string   // "bert"
	Architectures []string // ["BertForTokenClassification"]
	Labels        []string // id2label by id; LABEL_0.. where config.json names none
	ProblemType   string   // "", regression, single_label_classification or multi_label_classification
	// tokens of the longest row, special tokens included (RoBERTa's offset taken off); 0 if unknown
	MaxPositions int
	PadTokenID   int32
	VocabSize    int // rows of the embedding table: ids are below; 0 if unknown

	TokenTypes     int    // type_vocab_size: kinds of tokens that it tells apart, 2 for pairs; below 2: none
	TokenizerClass string // tokenizer_class, which transformers asks where tokenizer_config.json names none; ""

	givenType      string // model_type as config.json has it; ModelType may be told by the class
	padKnown       bool   // config.json names pad_token_id
	positionsKnown bool   // and max_position_embeddings
	warnings       []string
}

// Problem types of transformers.
const (
	Regression  = "regression"
	SingleLabel = "single_label_classification"
	MultiLabel  = "multi_label_classification"
)

// offsetPositions are the model types that count positions from pad_token_id + 1, as RoBERTa does, so that the table is
// longer than the longest row (transformers: create_position_ids_from_input_ids of each of them).
var offsetPositions = []string{
	"roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "roberta-prelayernorm", "mpnet", "longformer", "ibert",
	"data2vec-text", "xmod", "luke", "markuplm",
}

// readConfig reads config.json by read, which Open gives.
func readConfig(read func(name string) ([]byte, error)) (Config, error) {
	raw, err := read(ConfigFile)
	if err != nil {
		return Config{}, err
	}
	c, err := parseConfig(raw)
	if err != nil {
		return Config{}, fmt.Errorf("%s: %w", ConfigFile, err)
	}
	return c, nil
}

func parseConfig(raw []byte) (Config, error) {
	fields, err := configFields(raw)
	if err != nil {
		return Config{}, err
	}
	c := Config{
		ModelType: fields.name("model_type"), Architectures: fields.names("architectures"),
		ProblemType: fields.name("problem_type"),
	}
	id2label, numLabels := fields.labels("id2label"), fields.number("num_labels", 1)
	c.TokenizerClass = fields.name("tokenizer_class")
	types := fields.number("type_vocab_size", 0)
	positions, pad, vocab := fields.number("max_position_embeddings", 1), fields.number("pad_token_id", 0),
		fields.number("vocab_size", 1)
	errs := fields.errs
	c.givenType = c.ModelType
	if c.ModelType == "" && len(c.Architectures) > 0 {
		c.ModelType = modelTypes[architecture.ReplaceAllString(c.Architectures[0], "")]
	}
	defaults := configDefaults()[c.ModelType]

	labels, err := labelsOf(id2label, numLabels)
	if err != nil {
		errs = append(errs, err)
	}
	c.Labels = labels
	if id2label != nil && numLabels != nil && *numLabels != len(id2label) {
		c.warnings = append(c.warnings, fmt.Sprintf("%s: num_labels is %d, but id2label has %d entries: id2label "+
			"counts", ConfigFile, *numLabels, len(id2label)))
	}
	switch c.ProblemType {
	case "", Regression, MultiLabel:
	case SingleLabel:
		if len(labels) == 1 {
			errs = append(errs, fmt.Errorf("problem_type: %s needs at least two labels, id2label has one: use %s for "+
				"a model with one output", SingleLabel, Regression))
		}
	default:
		errs = append(errs, fmt.Errorf("problem_type: %q is unknown; it is one of %s, or absent", c.ProblemType,
			quoted(Regression, SingleLabel, MultiLabel)))
	}

	switch {
	case types != nil:
		c.TokenTypes = *types
	case defaults.TypeVocabSize != nil:
		c.TokenTypes = *defaults.TypeVocabSize
	}
	c.padKnown = pad != nil
	if pad == nil {
		pad = defaults.PadTokenID
	}
	if pad != nil {
		c.PadTokenID = int32(*pad)
	}
	if vocab != nil {
		c.VocabSize = *vocab
	}
	if c.positionsKnown = positions != nil; !c.positionsKnown {
		positions = defaults.MaxPositions
	}
	if positions != nil {
		c.MaxPositions = *positions
		if slices.Contains(offsetPositions, c.ModelType) {
			c.MaxPositions -= int(c.PadTokenID) + 1
		}
		if c.MaxPositions < 1 {
			errs = append(errs, fmt.Errorf("max_position_embeddings: %d leaves no position for a token", *positions))
		}
	}
	if len(errs) > 0 {
		return Config{}, errors.Join(errs...)
	}
	return c, nil
}

// configDefault is what transformers takes where config.json of a model type does not say it.
type configDefault struct {
	PadTokenID    *int `json:"pad_token_id"`
	MaxPositions  *int `json:"max_position_embeddings"`
	TypeVocabSize *int `json:"type_vocab_size"`
}

//go:embed config_defaults.json
var configDefaultsFile []byte // of scripts/make_config_defaults.py, which asks transformers' configuration classes

// configDefaults are the defaults by model type.
var configDefaults = sync.OnceValue(func() map[string]configDefault {
	var all map[string]configDefault
	if err := json.Unmarshal(configDefaultsFile, &all); err != nil {
		panic(err) // it is compiled in
	}
	return all
})

// architecture is what stands behind the family in a class's name.
var architecture = regexp.MustCompile(`For[A-Z][A-Za-z]*$`)

// modelTypes are families by how their classes' names begin, for a config.json that names the class only.
var modelTypes = map[string]string{"Roberta": "roberta", "XLMRoberta": "xlm-roberta", "Camembert": "camembert",
	"Data2VecText": "data2vec-text", "Bert": "bert", "DistilBert": "distilbert", "Electra": "electra", "Ernie": "ernie"}

// fields are the members of a config.json. A missing one and a null are the same: transformers 5 writes many nulls.
type fields struct {
	of   map[string]json.RawMessage
	errs []error // what is not of its key's kind
}

// configFields reads an object as Python's json does, which writes NaN and Infinity, too.
func configFields(raw []byte) (*fields, error) {
	raw = withoutNaN(bytes.TrimPrefix(raw, []byte("\ufeff")))
	f := &fields{}
	err := json.Unmarshal(raw, &f.of)
	var syntax *json.SyntaxError
	switch {
	case errors.As(err, &syntax):
		return nil, fmt.Errorf("not a JSON object: %w: copy it again from the Hugging Face model", err)
	case err != nil || f.of == nil:
		return nil, fmt.Errorf("is %.60s, not a JSON object: copy it again from the Hugging Face model", raw)
	}
	return f, nil
}

var notANumber = regexp.MustCompile(`"(?:[^"\\]|\\.)*"|-?Infinity|NaN`)

// withoutNaN puts what JSON has no number for in quotes, so that only who wants a number there sees that it is none.
func withoutNaN(raw []byte) []byte {
	return notANumber.ReplaceAllFunc(raw, func(found []byte) []byte {
		if found[0] == '"' {
			return found
		}
		return []byte(`"` + string(found) + `"`)
	})
}

func (f *fields) given(name string) (json.RawMessage, bool) {
	raw, ok := f.of[name]
	return raw, ok && string(raw) != "null"
}

func (f *fields) wrong(name, what string) {
	f.errs = append(f.errs, fmt.Errorf("%s: is %.60s: %s", name, f.of[name], what))
}

// name is a string, or "".
func (f *fields) name(name string) (s string) {
	if raw, ok := f.given(name); ok && json.Unmarshal(raw, &s) != nil {
		f.wrong(name, "it must be a name in quotes")
	}
	return s
}

func (f *fields) names(name string) (list []string) {
	if raw, ok := f.given(name); ok && json.Unmarshal(raw, &list) != nil {
		f.wrong(name, `it must be a list of names, such as ["BertForSequenceClassification"]`)
	}
	return list
}

// number is a whole number of at least least, or nil.
func (f *fields) number(name string, least int32) *int {
	raw, ok := f.given(name)
	if !ok {
		return nil
	}
	var n int32
	if json.Unmarshal(raw, &n) != nil || n < least {
		f.wrong(name, fmt.Sprintf("it must be a whole number from %d to %d, without quotes, as the model was "+
			"trained with", least, math.MaxInt32))
		return nil
	}
	whole := int(n)
	return &whole
}

// labels are the names of id2label, nil where there is none.
func (f *fields) labels(name string) map[string]string {
	raw, ok := f.given(name)
	if !ok {
		return nil
	}
	var values map[string]any
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	if d.Decode(&values) != nil {
		f.wrong(name, `it must map numbers to names, as {"0": "NEGATIVE"}`)
		return nil
	}
	labels := make(map[string]string, len(values))
	for key, v := range values {
		label, ok := pythonName(v)
		if !ok {
			shown, _ := json.Marshal(v) // it comes from JSON
			f.errs = append(f.errs, fmt.Errorf("%s: %q is %.60s: give the label's name in quotes", name, key, shown))
		}
		labels[key] = label
	}
	return labels
}

// pythonName is a label that is no string as Python prints it: that is how the training program had it.
func pythonName(v any) (string, bool) {
	switch v := v.(type) {
	case string:
		return v, true
	case bool:
		if v {
			return "True", true
		}
		return "False", true
	case json.Number:
		if !strings.ContainsAny(string(v), ".eE") {
			return string(v), true
		}
		x, err := v.Float64()
		if err != nil {
			return "", false
		}
		if size := math.Abs(x); x != 0 && (size < 1e-4 || size >= 1e16) {
			return strconv.FormatFloat(x, 'e', -1, 64), true
		}
		s := strconv.FormatFloat(x, 'f', -1, 64)
		if !strings.Contains(s, ".") {
			s += ".0"
		}
		return s, true
	default:
		return "", false
	}
}

// labelsOf orders id2label by id. Without one, labels are LABEL_0.. up to num_labels, and without that there are two:
// the defaults of PreTrainedConfig.
func labelsOf(id2label map[string]string, numLabels *int) ([]string, error) {
	if id2label == nil {
		n := 2
		if numLabels != nil {
			n = *numLabels
		}
		if n > 1<<20 {
			return nil, fmt.Errorf("num_labels: %d is not a number of labels", n)
		}
		labels := make([]string, n)
		for i := range labels {
			labels[i] = "LABEL_" + strconv.Itoa(i)
		}
		return labels, nil
	}
	if len(id2label) == 0 {
		return nil, errors.New("id2label: has no entries: name every output of the model")
	}
	labels := make([]string, len(id2label))
	seen := make([]bool, len(id2label))
	for key, v := range id2label {
		i, err := strconv.Atoi(strings.TrimSpace(key))
		if err != nil || i < 0 || i >= len(labels) || seen[i] {
			return nil, fmt.Errorf("id2label: key %q: the keys of %d labels must be the numbers 0 to %d", key,
				len(labels), len(labels)-1)
		}
		seen[i], labels[i] = true, v
	}
	return labels, nil
}

// task is what the first architecture is made for.
func (c *Config) task() (Task, error) {
	if len(c.Architectures) == 0 {
		return "", fmt.Errorf("%s: architectures: is missing, so the task is unknown: add it (such as "+
			"[\"BertForSequenceClassification\"]) or export the model with scripts/export_model.py", ConfigFile)
	}
	switch a := c.Architectures[0]; {
	case strings.HasSuffix(a, "ForSequenceClassification"):
		return TextClassification, nil
	case strings.HasSuffix(a, "ForTokenClassification"):
		return TokenClassification, nil
	default:
		return "", fmt.Errorf("%s: architectures: %q is neither for sequence classification nor for token "+
			"classification: only those two can be served", ConfigFile, a)
	}
}
