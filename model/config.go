package model

// What Hugging Face's config.json tells about a model. It is read as transformers reads it: unknown keys and nulls are
// no mistakes, missing ones have defaults.

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
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

	padKnown bool // config.json names pad_token_id
	warnings []string
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
	"data2vec-text", "xmod", "luke", "mluke", "markuplm",
}

// twoTokenTypes are the model types whose type_vocab_size is 2 by default, and whose tokenizers make both.
var twoTokenTypes = []string{"bert", "electra", "albert", "convbert", "megatron-bert", "mobilebert", "rembert",
	"roformer", "squeezebert", "big_bird", "ernie", "nezha", "funnel", "layoutlm"}

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
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(raw, &fields); err != nil {
		return Config{}, fmt.Errorf("not a JSON object: %w: copy it again from the Hugging Face model", err)
	}
	var (
		c         Config
		errs      []error
		id2label  map[string]any
		numLabels *int
		positions *int
		pad       *int32
		vocab     *int
	)
	// A null leaves the zero value: transformers 5 writes many.
	read := func(name string, into any) {
		if v, ok := fields[name]; ok {
			if err := json.Unmarshal(v, into); err != nil {
				errs = append(errs, fmt.Errorf("%s: cannot read %.60s: %w", name, v, err))
			}
		}
	}
	read("model_type", &c.ModelType)
	read("architectures", &c.Architectures)
	read("problem_type", &c.ProblemType)
	read("id2label", &id2label)
	read("num_labels", &numLabels)
	read("max_position_embeddings", &positions)
	read("pad_token_id", &pad)
	read("vocab_size", &vocab)
	read("tokenizer_class", &c.TokenizerClass)
	var types *int
	read("type_vocab_size", &types)
	if len(errs) > 0 {
		return Config{}, errors.Join(errs...)
	}

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
	case slices.Contains(twoTokenTypes, c.ModelType):
		c.TokenTypes = 2
	}
	offset := slices.Contains(offsetPositions, c.ModelType)
	c.padKnown = pad != nil
	switch {
	case pad != nil && *pad >= 0:
		c.PadTokenID = *pad
	case pad != nil:
		errs = append(errs, fmt.Errorf("pad_token_id: %d is not a token: give the id of the tokenizer's padding token",
			*pad))
	case offset:
		c.PadTokenID = 1 // the default of every model type of that family
	}
	if vocab != nil {
		c.VocabSize = *vocab
	}
	if positions != nil {
		c.MaxPositions = *positions
		if offset {
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

// labelsOf orders id2label by id. Without one, labels are LABEL_0.. up to num_labels, and without that there are two:
// the defaults of PreTrainedConfig.
func labelsOf(id2label map[string]any, numLabels *int) ([]string, error) {
	if id2label == nil {
		n := 2
		if numLabels != nil {
			n = *numLabels
		}
		if n < 1 || n > 1<<20 {
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
		seen[i] = true
		if s, ok := v.(string); ok {
			labels[i] = s
		} else {
			labels[i] = fmt.Sprint(v)
		}
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
