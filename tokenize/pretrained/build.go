package pretrained

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// This file owns the rules of the classes.

// builder makes one Tokenizer.
type builder struct {
	files *files
	model struct {
		Type   string          `json:"type"`
		Vocab  json.RawMessage `json:"vocab"`
		Merges json.RawMessage `json:"merges"`
	}
	vocab vocabulary // of model
	named []named    // bos_token and so on, in transformers' order
	extra []*token   // extra_special_tokens
	out   Tokenizer
}

type named struct {
	key   string
	token *token // nil: none
	given bool   // by a file, not by the class
	name  string // where another token has taken its place: what RobertaTokenizer goes on calling it
}

var specialKeys = []string{"bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"}

// defaults are the special tokens of the classes.
var defaults = map[string]map[string]*token{
	"bert": {"unk_token": text("[UNK]"), "sep_token": text("[SEP]"), "pad_token": text("[PAD]"),
		"cls_token": text("[CLS]"), "mask_token": text("[MASK]")},
	"roberta":     robertaDefaults,
	"xlm-roberta": robertaDefaults,
	"camembert":   robertaDefaults,
}

var robertaDefaults = map[string]*token{"bos_token": text("<s>"), "eos_token": text("</s>"), "sep_token": text("</s>"),
	"cls_token": text("<s>"), "unk_token": text("<unk>"), "pad_token": text("<pad>"), "mask_token": text("<mask>")}

type object = map[string]any

// build fills out.
func (b *builder) build(family string) error {
	if err := b.read(); err != nil {
		return err
	}
	if err := b.sides(family); err != nil {
		return err
	}
	decoder, err := b.tokens(family)
	if err != nil {
		return err
	}
	if family == "backend" {
		b.padding()
		added := b.addedOf(b.files.spec)
		all := b.add(added, decoder)
		spec := maps.Clone(b.files.spec)
		spec["added_tokens"] = encoded(all)
		spec["truncation"], spec["padding"] = json.RawMessage("null"), json.RawMessage("null")
		if empty(spec["post_processor"]) {
			spec["post_processor"] = encoded(object{"type": "TemplateProcessing", "special_tokens": object{},
				"single": []any{sequence("A", 0)}, "pair": []any{sequence("A", 0), sequence("B", 1)}})
		}
		b.out.Definition = encoded(spec)
		b.out.Special = b.special(all)
		return nil
	}
	all := b.add(nil, decoder)
	spec, err := b.spec(family, all)
	if err != nil {
		return err
	}
	b.overruled("normalizer", "lowercase", "do_lower_case", spec)
	b.overruled("pre_tokenizer", "add_prefix_space", "add_prefix_space", spec)
	spec["version"], spec["truncation"], spec["padding"] = "1.0", nil, nil
	spec["added_tokens"] = all
	b.out.Definition = encoded(spec)
	b.out.Special = b.special(all)
	return nil
}

// overruled warns where the class's default, which no file names, goes before what a part of tokenizer.json says.
func (b *builder) overruled(part, key, argument string, spec object) {
	var theirs map[string]json.RawMessage
	var said bool
	built, ok := spec[part].(object)
	if _, told := b.files.config[argument]; told || !ok || json.Unmarshal(b.files.spec[part], &theirs) != nil ||
		json.Unmarshal(theirs[key], &said) != nil {
		return
	}
	if made, ok := built[key].(bool); ok && made != said {
		b.out.Warnings = append(b.out.Warnings, fmt.Sprintf("%s says %s: %v, and the default of class %s, %v, goes "+
			"before it, as in transformers: if the model was trained otherwise, write \"%s\": %v into %s",
			TokenizerFile, key, said, b.out.Class, made, argument, said, ConfigFile))
	}
}

// read finds the vocabulary.
func (b *builder) read() error {
	if json.Unmarshal(b.files.spec["model"], &b.model) != nil {
		return errNoModel
	}
	var err error
	if b.vocab, err = readVocabulary(b.model.Vocab); err != nil {
		return fmt.Errorf("%s: model.vocab: %w: save the tokenizer again with AutoTokenizer", TokenizerFile, err)
	}
	return nil
}

// sides reads what does not belong to a class: the side that is cut off, and the longest row.
func (b *builder) sides(family string) error {
	side := "right"
	var truncation struct {
		Direction string `json:"direction"`
	}
	if raw := b.files.spec["truncation"]; raw != nil && json.Unmarshal(raw, &truncation) == nil {
		side = strings.ToLower(cmp.Or(truncation.Direction, side))
	}
	if raw, ok := b.files.config["truncation_side"]; ok {
		if err := json.Unmarshal(raw, &side); err != nil || string(raw) == "null" || (side != "left" &&
			side != "right") {
			return b.bad("truncation_side", raw, "left or right")
		}
	}
	b.out.CutLeft = side == "left"
	b.out.Split = b.loose("split_special_tokens", false)
	b.out.Types = family == "bert" && !strings.HasPrefix(b.out.Class, "DistilBert")
	if raw, ok := b.files.config["model_input_names"]; ok {
		var names []string
		if err := json.Unmarshal(raw, &names); err != nil {
			return b.bad("model_input_names", raw, "a list of names")
		}
		b.out.Types = slices.Contains(names, "token_type_ids")
	}

	for _, key := range []string{"model_max_length", "max_len"} {
		raw, ok := b.files.config[key]
		if !ok {
			continue
		}
		var most float64
		if err := json.Unmarshal(raw, &most); err != nil {
			return b.bad(key, raw, "a number of tokens")
		}
		if most >= 1 && most < 1e9 { // transformers writes 1e30 where there is no limit
			b.out.MaxTokens = int(most)
		}
		break
	}
	return nil
}

func (b *builder) bad(key string, raw json.RawMessage, wanted string) error {
	return fmt.Errorf("%s: %s is %s where transformers needs %s: correct it, or take it out", ConfigFile, key,
		brief(raw), wanted)
}

// padding takes the token of tokenizer.json's padding where no file names a pad_token.
func (b *builder) padding() {
	var padding struct {
		Token string `json:"pad_token"`
	}
	n := b.name("pad_token")
	if raw := b.files.spec["padding"]; raw != nil && json.Unmarshal(raw, &padding) == nil && padding.Token != "" &&
		!n.given {
		n.token = text(padding.Token)
	}
}

// tokens reads the special tokens and the added tokens decoder (by id), as _from_pretrained does.
func (b *builder) tokens(family string) ([]*token, error) {
	c := maps.Clone(b.files.config)
	var decoder []*token
	byName := map[string]*token{}
	note := func(id int, t token) {
		t.ID = id
		decoder = append(decoder, &t)
		byName[t.Content] = &t
	}
	extraKey := "extra_special_tokens"
	if raw, ok := c["additional_special_tokens"]; ok && empty(c[extraKey]) {
		c[extraKey] = raw
		delete(c, "additional_special_tokens")
	}
	if raw, ok := c["added_tokens_decoder"]; ok {
		var list map[string]*token
		if err := json.Unmarshal(raw, &list); err != nil {
			return nil, b.bad("added_tokens_decoder", raw, "an object of ids and tokens")
		}
		for _, key := range keys(list) {
			id, err := strconv.Atoi(key)
			if err != nil || list[key] == nil {
				return nil, b.bad("added_tokens_decoder", raw, "an object of ids and tokens")
			}
			note(id, *list[key])
		}
	} else {
		for _, key := range keys(b.files.specialMap) {
			raw := b.files.specialMap[key]
			if key == extraKey {
				merged, err := mergedTokens(c[extraKey], raw)
				if err != nil {
					return nil, fmt.Errorf("%s: %s is %s where transformers needs a list of tokens: correct it, or "+
						"take it out", SpecialMapFile, key, brief(raw))
				}
				c[key] = merged
				continue
			}
			var t token
			if json.Unmarshal(raw, &t) == nil && len(raw) > 0 && raw[0] == '{' {
				raw = typed(t)
			}
			c[key] = raw
		}
		if len(b.files.added) > 0 {
			special := map[string]bool{}
			for _, key := range specialKeys {
				if t, _, _ := readToken(c[key]); t != nil {
					special[t.Content] = true
				}
			}
			list, _, _ := readTokens(c[extraKey])
			for _, t := range list {
				special[t.Content] = true
			}
			for _, content := range keys(b.files.added) {
				note(b.files.added[content], token{Content: content, Special: special[content],
					Normalized: !special[content]})
			}
		}
		for _, t := range b.addedOf(b.files.spec) {
			note(t.ID, *t)
		}
	}
	slices.SortStableFunc(decoder, func(x, y *token) int { return x.ID - y.ID })
	decoder = lastOfEach(decoder)

	for _, key := range specialKeys {
		n := named{key: key, token: defaults[family][key]}
		if raw, ok := c[key]; ok {
			n.given = true
			t, plain, err := readToken(raw)
			if err != nil || plain {
				return nil, b.bad(key, raw, "a token")
			}
			if n.token = t; t != nil && byName[t.Content] != nil {
				n.token = byName[t.Content]
			}
		}
		b.named = append(b.named, n)
	}
	if family == "camembert" {
		if n := b.name("mask_token"); n.token != nil && n.token.text {
			n.token = &token{Content: n.token.Content, LStrip: true, Special: true}
		}
	}
	for _, key := range b.files.order { // tokens of the model's own, such as "image_token"
		if slices.Contains(specialKeys, key) || !strings.HasSuffix(key, "_token") {
			continue
		}
		if t, plain, err := readToken(c[key]); err == nil && !plain && t != nil {
			b.named = append(b.named, named{key: key, token: t, given: true})
		}
	}
	raw, ok := c[extraKey]
	if !ok { // what special_tokens_map.json says, and then the class
		raw = c["additional_special_tokens"]
		if family == "camembert" && (len(raw) == 0 || string(raw) == "null") {
			raw = json.RawMessage(`["<s>NOTUSED", "</s>NOTUSED", "<unk>NOTUSED"]`)
		}
	}
	list, names, err := readTokens(raw)
	if err != nil {
		return nil, b.bad(extraKey, raw, "a list of tokens")
	}
	for i, t := range list {
		switch {
		case names == nil:
			b.extra = append(b.extra, t)
		case slices.Contains(specialKeys, names[i]):
			n := b.name(names[i])
			if n.token != nil {
				n.name = n.token.Content
			}
			n.token, n.given = t, true
		default:
			b.named = append(b.named, named{key: names[i], token: t, given: true})
		}
	}
	if n := b.name("unk_token").token; n != nil {
		b.out.Unknown = n.Content
	}
	return decoder, nil
}

// lastOfEach leaves the last token of every id.
func lastOfEach(list []*token) []*token {
	var out []*token
	for i, t := range list {
		if i+1 == len(list) || list[i+1].ID != t.ID {
			out = append(out, t)
		}
	}
	return out
}

func (b *builder) name(key string) *named {
	for i := range b.named {
		if b.named[i].key == key {
			return &b.named[i]
		}
	}
	return &named{key: key}
}

// addedOf are the added tokens of a tokenizer.json, by id.
func (b *builder) addedOf(spec map[string]json.RawMessage) []*token {
	var list []*token
	_ = json.Unmarshal(spec["added_tokens"], &list) // tokenize/hf says what is wrong with them
	return slices.DeleteFunc(list, func(t *token) bool { return t == nil })
}

// add is what the backend holds in the end: the tokens that it has, those of the decoder, and the special tokens that
// are among neither, as TokenizersBackend.__init__ and the Rust crate's add_tokens do.
func (b *builder) add(has, decoder []*token) []*token {
	wanted := slices.Clone(decoder)
	known := map[string]bool{}
	for _, t := range slices.Concat(has, decoder) {
		known[t.Content] = true
	}
	isNamed := map[string]bool{}
	for _, n := range b.named {
		if n.token == nil {
			continue
		}
		isNamed[n.token.Content] = true
		if !known[n.token.Content] {
			known[n.token.Content] = true
			wanted = append(wanted, n.token)
		}
	}
	for _, t := range b.extra {
		if !known[t.Content] {
			known[t.Content] = true
			wanted = append(wanted, t)
		}
	}
	all := []*token{}
	at := map[string]*token{}
	size, most := b.vocab.size, -1
	put := func(t token) {
		if t.Content == "" {
			return
		}
		if old := at[t.Content]; old != nil {
			t.ID, t.Special = old.ID, t.Special || old.Special
			*old = t
			return
		}
		if id, ok := b.vocab.ids[t.Content]; ok {
			t.ID = id
		} else if most >= size {
			t.ID = most + 1
		} else {
			t.ID = size
		}
		most = max(most, t.ID)
		at[t.Content] = &t
		all = append(all, &t)
	}
	for _, t := range has {
		put(*t)
	}
	for _, t := range wanted {
		made := *t
		if made.text {
			made = token{Content: made.Content, Special: true}
		}
		made.Special = made.Special || isNamed[made.Content]
		put(made)
	}
	slices.SortStableFunc(all, func(x, y *token) int { return x.ID - y.ID })
	return all
}

// special are the special tokens that no model has by its class.
func (b *builder) special(all []*token) []string {
	usual := map[string]bool{}
	for _, n := range b.named {
		if n.token != nil && slices.Contains(specialKeys, n.key) {
			usual[n.token.Content] = true
		}
	}
	for _, m := range defaults {
		for _, t := range m {
			usual[t.Content] = true
		}
	}
	var own []string
	for _, t := range all {
		if t.Special && !usual[t.Content] && !strings.HasSuffix(t.Content, "NOTUSED") && !unused(t.Content) {
			own = append(own, t.Content)
		}
	}
	return own
}

// unused says whether a token is one of BERT's reserved ones.
func unused(s string) bool { return strings.HasPrefix(s, "[unused") || strings.HasPrefix(s, "<unused") }

// id is the id of a named token in the vocabulary or among the added tokens.
func (b *builder) id(t *token, all []*token) (int, bool) {
	for _, a := range all {
		if a.Content == t.Content {
			return a.ID, true
		}
	}
	id, ok := b.vocab.ids[t.Content]
	return id, ok
}

// flag is a boolean argument of the class. null is none, but for those that transformers lets be null.
func (b *builder) flag(key string, otherwise bool) (bool, error) {
	raw, ok := b.files.config[key]
	if !ok {
		return otherwise, nil
	}
	var v *bool
	if err := json.Unmarshal(raw, &v); err != nil || v == nil {
		return false, b.bad(key, raw, "true or false")
	}
	return *v, nil
}

// loose is a flag that Python only asks for its truth.
func (b *builder) loose(key string, otherwise bool) bool {
	raw, ok := b.files.config[key]
	if !ok {
		return otherwise
	}
	return !empty(raw) && string(raw) != "false" && string(raw) != "0"
}

// spec is the definition that a class builds around the vocabulary.
func (b *builder) spec(family string, all []*token) (object, error) {
	model := &b.model
	needs := map[string]string{"bert": "WordPiece", "roberta": "BPE", "xlm-roberta": "Unigram",
		"camembert": "Unigram"}[family]
	if b.vocab.pieces != (needs == "Unigram") {
		return nil, fmt.Errorf("%s: class %s needs a %s vocabulary, model.type is %q: correct tokenizer_class in %s, "+
			"or save the tokenizer again with AutoTokenizer", TokenizerFile, b.out.Class, needs, model.Type, ConfigFile)
	}
	switch family {
	case "bert":
		return b.bert(model.Vocab, all)
	case "roberta":
		return b.roberta(model.Vocab, model.Merges, all)
	}
	return b.sentencePiece(family, model.Vocab, all)
}

func (b *builder) bert(vocab json.RawMessage, all []*token) (object, error) {
	lower, err := b.flag("do_lower_case", true)
	if err != nil {
		return nil, err
	}
	chinese, err := b.flag("tokenize_chinese_chars", true)
	if err != nil {
		return nil, err
	}
	var accents *bool
	if raw, ok := b.files.config["strip_accents"]; ok {
		if err := json.Unmarshal(raw, &accents); err != nil {
			return nil, b.bad("strip_accents", raw, "true, false or null")
		}
	}
	unknown, err := b.need("unk_token")
	if err != nil {
		return nil, err
	}
	if _, ok := b.vocab.ids[unknown.Content]; !ok {
		return nil, fmt.Errorf("%s: unk_token %q is not in the vocabulary: name the one that is", ConfigFile,
			unknown.Content)
	}
	ends := []struct {
		key       string
		otherwise int
	}{{"cls_token", 2}, {"sep_token", 3}}
	var names [2]string
	var ids [2]int
	for i, e := range ends {
		names[i], ids[i] = "None", e.otherwise // as Python writes it where it is null
		if t := b.name(e.key).token; t != nil {
			names[i] = t.Content
			if id, ok := b.id(t, all); ok {
				ids[i] = id
			}
		}
	}
	return object{
		"model": object{"type": "WordPiece", "unk_token": unknown.Content, "continuing_subword_prefix": "##",
			"max_input_chars_per_word": 100, "vocab": vocab},
		"normalizer": object{"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": chinese,
			"strip_accents": accents, "lowercase": lower},
		"pre_tokenizer": object{"type": "BertPreTokenizer"},
		"decoder":       object{"type": "WordPiece", "prefix": "##", "cleanup": true},
		"post_processor": template(
			[]any{special(names[0], 0), sequence("A", 0), special(names[1], 0)},
			[]any{special(names[0], 0), sequence("A", 0), special(names[1], 0), sequence("B", 1), special(names[1], 1)},
			names, ids),
	}, nil
}

func (b *builder) roberta(vocab, merges json.RawMessage, all []*token) (object, error) {
	prefix, err := b.flag("add_prefix_space", false)
	if err != nil {
		return nil, err
	}
	trim, err := b.flag("trim_offsets", true)
	if err != nil {
		return nil, err
	}
	if len(merges) == 0 {
		merges = json.RawMessage("[]")
	}
	ends := object{}
	for short, key := range map[string]string{"cls": "cls_token", "sep": "sep_token"} {
		content, id, err := b.end(key, all)
		if err != nil {
			return nil, err
		}
		ends[short] = []any{cmp.Or(b.name(key).name, content), id}
	}
	return object{
		"model": object{"type": "BPE", "dropout": nil, "unk_token": nil, "continuing_subword_prefix": "",
			"end_of_word_suffix": "", "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
			"vocab": vocab, "merges": merges},
		"normalizer": nil,
		"pre_tokenizer": object{"type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": true,
			"use_regex": true},
		"decoder": object{"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
		"post_processor": object{"type": "RobertaProcessing", "sep": ends["sep"], "cls": ends["cls"],
			"trim_offsets": trim, "add_prefix_space": prefix},
	}, nil
}

func (b *builder) sentencePiece(family string, vocab json.RawMessage, all []*token) (object, error) {
	scheme := "never"
	if b.loose("add_prefix_space", true) {
		scheme = "always"
	}
	unknown := 3 // XLMRobertaTokenizer takes no other
	if family == "camembert" {
		unknown = 0
		if t := b.name("unk_token").token; t != nil {
			unknown = b.vocab.ids[t.Content]
		}
	}
	if unknown >= b.vocab.size {
		return nil, fmt.Errorf("%s: model.vocab has %d entries, and class %s takes entry %d for the unknown token: "+
			"correct tokenizer_class in %s", TokenizerFile, b.vocab.size, b.out.Class, unknown, ConfigFile)
	}
	normalizer, err := charsmap(b.files.spec["normalizer"])
	if err != nil {
		return nil, err
	}
	var names [2]string
	var ids [2]int
	for i, key := range []string{"bos_token", "eos_token"} {
		if names[i], ids[i], err = b.end(key, all); err != nil {
			return nil, err
		}
	}
	metaspace := object{"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": true}
	begin, end := special(names[0], 0), special(names[1], 0)
	return object{
		"model":      object{"type": "Unigram", "unk_id": unknown, "byte_fallback": false, "vocab": vocab},
		"normalizer": normalizer,
		"pre_tokenizer": object{"type": "Sequence", "pretokenizers": []any{object{"type": "WhitespaceSplit"},
			metaspace}},
		"decoder": metaspace,
		"post_processor": template([]any{begin, sequence("A", 0), end},
			[]any{begin, sequence("A", 0), end, end, sequence("B", 0), end}, names, ids),
	}, nil
}

// need is a special token that the class cannot do without.
func (b *builder) need(key string) (*token, error) {
	t := b.name(key).token
	if t == nil {
		return nil, b.bad(key, json.RawMessage("null"), "a token")
	}
	return t, nil
}

// end is a special token that stands at an end of every row, and its id.
func (b *builder) end(key string, all []*token) (content string, id int, err error) {
	t, err := b.need(key)
	if err != nil {
		return "", 0, err
	}
	id, ok := b.id(t, all)
	if !ok {
		return "", 0, fmt.Errorf("%s: %s %q is not in the vocabulary: name the one that is", ConfigFile, key, t.Content)
	}
	return t.Content, id, nil
}

// charsmap is the first Precompiled normalizer of a definition, SentencePiece's table of characters; nil: none.
func charsmap(raw json.RawMessage) (any, error) {
	var n struct {
		Type        string            `json:"type"`
		Normalizers []json.RawMessage `json:"normalizers"`
		Charsmap    *string           `json:"precompiled_charsmap"`
	}
	if len(raw) == 0 || string(raw) == "null" {
		return nil, nil
	}
	if err := json.Unmarshal(raw, &n); err != nil {
		return nil, fmt.Errorf("%s: normalizer: %w: save the tokenizer again with AutoTokenizer", TokenizerFile, err)
	}
	if n.Type == "Precompiled" && n.Charsmap != nil {
		return raw, nil
	}
	if n.Type != "Sequence" {
		return nil, nil
	}
	for _, one := range n.Normalizers {
		if found, err := charsmap(one); err != nil || found != nil {
			return found, err
		}
	}
	return nil, nil
}

func special(name string, kind int) object {
	return object{"SpecialToken": object{"id": name, "type_id": kind}}
}

func sequence(name string, kind int) object {
	return object{"Sequence": object{"id": name, "type_id": kind}}
}

func template(single, pair []any, names [2]string, ids [2]int) object {
	tokens := object{}
	for i, name := range names {
		tokens[name] = object{"id": name, "ids": []int{ids[i]}, "tokens": []string{name}}
	}
	return object{"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": tokens}
}

// modelUnknown is the unknown token of the vocabulary itself; "" if it has none.
func (b *builder) modelUnknown() (string, error) {
	if b.files.spec["model"] == nil {
		return "", errNoModel
	}
	var model struct {
		Unknown *string         `json:"unk_token"` // WordPiece, BPE
		ID      *int            `json:"unk_id"`    // Unigram
		Vocab   json.RawMessage `json:"vocab"`
	}
	if err := json.Unmarshal(b.files.spec["model"], &model); err != nil {
		return "", errNoModel
	}
	if model.Unknown != nil {
		return *model.Unknown, nil
	}
	if model.ID == nil {
		return "", nil
	}
	token, ok := pieceAt(model.Vocab, *model.ID)
	if !ok {
		return "", fmt.Errorf("%s: model.unk_id: %d is not an entry of model.vocab: save the tokenizer again with "+
			"AutoTokenizer", TokenizerFile, *model.ID)
	}
	return token, nil
}

var errNoModel = fmt.Errorf("%s: has no member \"model\" that is an object: save the tokenizer again with "+
	"AutoTokenizer", TokenizerFile)

// vocabulary makes the part of a tokenizer.json that a class builds from, of the files that stand in its place.
func (b *builder) vocabulary(read Reader, family string) error {
	var model object
	switch family {
	case "bert":
		raw, err := read(WordPieceFile)
		if errors.Is(err, fs.ErrNotExist) {
			return noVocabulary(read, WordPieceFile)
		}
		if err != nil {
			return err
		}
		vocab := map[string]int{}
		for i, line := range lines(raw) {
			vocab[strings.TrimRight(string(line), whitespace)] = i
		}
		model = object{"type": "WordPiece", "vocab": vocab}
	case "roberta":
		raw, err := read(BPEVocabFile)
		if errors.Is(err, fs.ErrNotExist) {
			return noVocabulary(read, BPEVocabFile+" and "+BPEMergesFile)
		}
		if err != nil {
			return err
		}
		merges, err := read(BPEMergesFile)
		if errors.Is(err, fs.ErrNotExist) {
			return noVocabulary(read, BPEMergesFile)
		}
		if err != nil {
			return err
		}
		var list [][2]string
		for i, line := range lines(merges) {
			if bytes.HasPrefix(line, []byte("#version")) {
				continue
			}
			one, two, ok := strings.Cut(strings.TrimRight(string(line), whitespace), " ")
			if !ok {
				return fmt.Errorf("%s: line %d is not two tokens: copy it from the Hugging Face model", BPEMergesFile,
					i+1)
			}
			list = append(list, [2]string{one, two})
		}
		model = object{"type": "BPE", "vocab": json.RawMessage(raw), "merges": list}
	default:
		return noVocabulary(read, "")
	}
	raw, err := json.Marshal(model)
	if err != nil {
		return fmt.Errorf("%s: not JSON: copy it from the Hugging Face model", BPEVocabFile)
	}
	b.files.spec = map[string]json.RawMessage{"model": raw}
	return nil
}

// whitespace is what Rust's trim_end takes off a line.
const whitespace = " \t\n\v\f\r\u0085\u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a" +
	"\u2028\u2029\u202f\u205f\u3000"

// lines are the lines of a file; a line end is no line of its own.
func lines(raw []byte) [][]byte {
	if len(raw) == 0 {
		return nil
	}
	return bytes.Split(bytes.TrimSuffix(raw, []byte("\n")), []byte("\n"))
}

// noVocabulary says that a folder lacks what its tokenizer is made of.
func noVocabulary(read Reader, instead string) error {
	const convert = "convert it where Python is: scripts/export_model.py does, and so does " +
		"AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)"
	for _, name := range SentencePieceFiles {
		if _, err := read(name); err == nil {
			return fmt.Errorf("%s is missing, and %s is read by Python's sentencepiece only: %s", TokenizerFile, name,
				convert)
		}
	}
	if instead != "" {
		return fmt.Errorf("%s is missing, and so is %s: copy them from the Hugging Face model", TokenizerFile, instead)
	}
	return fmt.Errorf("%s is missing: a fast Hugging Face tokenizer is needed: %s", TokenizerFile, convert)
}

func empty(raw json.RawMessage) bool {
	return slices.Contains([]string{"", "null", "[]", "{}", `""`}, string(bytes.TrimSpace(raw)))
}

// encoded is JSON with its members sorted and nothing escaped for HTML: equal tokenizers, equal bytes.
func encoded(v any) json.RawMessage {
	var out bytes.Buffer
	e := json.NewEncoder(&out)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		panic(err) // what is encoded here was decoded before
	}
	return bytes.TrimSuffix(out.Bytes(), []byte("\n"))
}
