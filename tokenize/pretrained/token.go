package pretrained

import (
	"bytes"
	"encoding/json"
	"errors"
	"slices"
)

// This file owns single tokens and vocabularies.

// token is an added token, as tokenizer.json and tokenizer_config.json write it (tokenizers' AddedToken).
type token struct {
	ID         int    `json:"id"`
	Content    string `json:"content"`
	SingleWord bool   `json:"single_word"`
	LStrip     bool   `json:"lstrip"`
	RStrip     bool   `json:"rstrip"`
	Normalized bool   `json:"normalized"`
	Special    bool   `json:"special"`

	text bool // was told as a text only
}

func text(content string) *token { return &token{Content: content, text: true} }

// UnmarshalJSON gives what is not told the defaults of AddedToken: normalized unless special.
func (t *token) UnmarshalJSON(raw []byte) error {
	type plain token
	var v struct {
		plain
		Normalized *bool `json:"normalized"`
	}
	if err := json.Unmarshal(raw, &v); err != nil {
		return err
	}
	*t = token(v.plain)
	t.Normalized = !t.Special
	if v.Normalized != nil {
		t.Normalized = *v.Normalized
	}
	return nil
}

// typed is a special token as tokenizer_config.json writes it.
func typed(t token) json.RawMessage {
	t.Special = true
	return encoded(struct {
		Type string `json:"__type"`
		token
	}{"AddedToken", t})
}

// readToken reads a special token: a text, an object of type AddedToken, or null (nil). plain says that it is an object
// without a type, which transformers takes only where it knows the token already.
func readToken(raw json.RawMessage) (t *token, plain bool, err error) {
	if len(raw) == 0 || string(raw) == "null" {
		return nil, false, nil
	}
	var s string
	if json.Unmarshal(raw, &s) == nil {
		return text(s), false, nil
	}
	var kind struct {
		Type string `json:"__type"`
	}
	t = new(token)
	if raw[0] != '{' {
		return nil, false, errors.New("not a token")
	}
	if err := errors.Join(json.Unmarshal(raw, &kind), json.Unmarshal(raw, t)); err != nil {
		return nil, false, err
	}
	return t, kind.Type != "AddedToken", nil
}

// mergedTokens is a list of special tokens with those of another list behind it that it lacks, whose objects need no
// type; an object of the other goes before the list.
func mergedTokens(list, more json.RawMessage) (json.RawMessage, error) {
	if empty(more) || more[0] == '{' {
		return more, nil
	}
	var all, items []json.RawMessage
	if err := json.Unmarshal(more, &items); err != nil {
		return nil, err
	}
	if !empty(list) {
		if err := json.Unmarshal(list, &all); err != nil {
			return nil, err
		}
	}
	for _, item := range items {
		t, _, err := readToken(item)
		if err != nil || t == nil {
			return nil, errors.New("not a list of tokens")
		}
		if !t.text {
			item = typed(*t)
		}
		if !slices.ContainsFunc(all, func(a json.RawMessage) bool { return bytes.Equal(a, item) }) {
			all = append(all, item)
		}
	}
	return encoded(all), nil
}

// readTokens reads a list of special tokens, or an object of names and tokens: then names has theirs, in its order.
func readTokens(raw json.RawMessage) (list []*token, names []string, err error) {
	if empty(raw) {
		return nil, nil, nil
	}
	var items []json.RawMessage
	if raw[0] == '{' {
		var byName map[string]json.RawMessage
		if err := json.Unmarshal(raw, &byName); err != nil {
			return nil, nil, err
		}
		names = order(raw)
		for _, key := range names {
			items = append(items, byName[key])
		}
	} else if err := json.Unmarshal(raw, &items); err != nil {
		return nil, nil, err
	}
	for _, item := range items {
		t, plain, err := readToken(item)
		if err != nil || t == nil || plain {
			return nil, nil, errors.New("not a list of tokens")
		}
		list = append(list, t)
	}
	return list, names, nil
}

// vocabulary maps tokens to ids.
type vocabulary struct {
	ids    map[string]int
	size   int
	pieces bool // a list with scores (Unigram)
}

func readVocabulary(raw json.RawMessage) (vocabulary, error) {
	v := vocabulary{}
	if len(raw) > 0 && raw[0] == '[' {
		var list []piece
		if err := json.Unmarshal(raw, &list); err != nil {
			return v, errors.New("not a list of tokens and scores")
		}
		v.ids, v.size, v.pieces = make(map[string]int, len(list)), len(list), true
		for i := len(list) - 1; i >= 0; i-- { // the first of two counts
			v.ids[string(list[i])] = i
		}
		return v, nil
	}
	if err := json.Unmarshal(raw, &v.ids); err != nil || v.ids == nil {
		return v, errors.New("not an object of tokens and ids")
	}
	v.size = len(v.ids)
	return v, nil
}

// pieceAt is the token of an entry of a list of tokens and scores. It reads no further: the largest lists have 250,000.
func pieceAt(raw json.RawMessage, at int) (string, bool) {
	d := json.NewDecoder(bytes.NewReader(raw))
	if t, err := d.Token(); err != nil || t != json.Delim('[') || at < 0 {
		return "", false
	}
	for i := 0; d.More(); i++ {
		var p piece
		if d.Decode(&p) != nil {
			return "", false
		}
		if i == at {
			return string(p), true
		}
	}
	return "", false
}

// piece is the token of a pair of token and score.
type piece string

// UnmarshalJSON reads the pair.
func (p *piece) UnmarshalJSON(raw []byte) error {
	pair := [2]any{}
	if err := json.Unmarshal(raw, &pair); err != nil {
		return err
	}
	s, ok := pair[0].(string)
	if !ok {
		return errors.New("not a token")
	}
	*p = piece(s)
	return nil
}
