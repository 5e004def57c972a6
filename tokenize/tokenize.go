// Package tokenize holds what every tokenizer of Sluice promises: encodings, text hygiene and offset maps. Pure Go;
// the Hugging Face implementation is tokenize/hf.
package tokenize

import (
	"slices"
	"unsafe"
)

// Span is a half-open range [Start, End) of bytes of the text that was given to the tokenizer.
type Span struct{ Start, End int }

// Encoding is one row of model input: the token ids of one text, or of one window of a long text.
type Encoding struct {
	IDs     []int32 // with the model's special tokens
	TypeIDs []byte  // token type of each id: 1 in the second text of a pair; nil where it is no pair, or not asked for
	Offsets []Span  // one a token, bytes of the original text; special tokens have {0, 0}. nil unless asked for
	Special []bool  // true for tokens the tokenizer added ([CLS], [SEP]); nil unless asked for
}

// Cost is what a model's run pays for the row: its tokens. With Key and TokenIDs an Encoding is a row that the engine
// takes as it is.
func (e *Encoding) Cost() int { return len(e.IDs) }

// Key is what tells the row from others of the same model: the memory of the ids, and of a pair a copy with the token
// types behind them. It must not be written to.
func (e *Encoding) Key() []byte {
	ids := unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(e.IDs))), 4*len(e.IDs))
	if e.TypeIDs == nil {
		return ids
	}
	return slices.Concat(ids, e.TypeIDs)
}

// TokenIDs are the ids.
func (e *Encoding) TokenIDs() []int32 { return e.IDs }

// TokenTypes are the token types of the ids; nil where all are 0.
func (e *Encoding) TokenTypes() []byte { return e.TypeIDs }

// Encoded is one tokenized text.
type Encoded struct {
	Windows   []Encoding // at least one; more only with Options.Windows
	Truncated bool       // tokens were cut off (never with windows)
	Err       error      // this text could not be tokenized; the other texts are unharmed
}

// Options say how texts longer than the model are handled.
type Options struct {
	MaxTokens int  // longest row, special tokens included; 0: no limit
	Windows   bool // false: truncate; true: cut into windows that overlap by Stride tokens
	Stride    int  // tokens that successive windows share, special tokens not counted
	CutLeft   bool // what is cut off is the beginning of a text (truncation_side: left); windows end with its end
	Offsets   bool // fill Offsets and Special; not of pairs
	Types     bool // fill TypeIDs of pairs
}

// Tokenizer turns texts into ids exactly as the Hugging Face tokenizer of the same tokenizer.json. Special tokens
// written in a text are text, unless it was opened to find them; NUL is a character; invalid UTF-8 reads as one U+FFFD
// per maximal invalid part, and offsets refer to the bytes given. Safe for concurrent use.
type Tokenizer interface {
	Encode(texts [][]byte, o Options) []Encoded
	// EncodePairs turns pairs of texts into one row each. A pair too long loses tokens of its longer text first, as
	// with transformers' truncation=True. Pairs have no windows and no offsets.
	EncodePairs(pairs [][2][]byte, o Options) []Encoded
	// Token is the vocabulary entry of an id ("##ing"), as convert_ids_to_tokens; "" for an unknown id.
	Token(id int32) string
	// Join turns tokens back into text, as convert_tokens_to_string.
	Join(tokens []string) string
	// ContinuingPrefix is what the vocabulary marks continuations of a word with ("##"), or "" where it marks none. The
	// aggregation of entities depends on it.
	ContinuingPrefix() string
	// Digest is the SHA-256 (hex) of the tokenizer's definition: equal digests, equal encodings.
	Digest() string
	Close() error
}
