// Package hf is tokenize.Tokenizer over Hugging Face's tokenizers library. It is the only importer of
// github.com/daulet/tokenizers, whose static library is built from the crate in native/.
//
// # Building
//
// The package needs cgo and libtokenizers.a, which `scripts/native.sh tokenizers` builds with cargo:
//
//	eval "$(scripts/native.sh env)" && go test ./tokenize/hf
//
// sets CGO_LDFLAGS=-L<directory of the archive>. The other flags, -ltokenizers -ldl -lm -lstdc++, come from daulet's
// package: libstdc++ must be there when the binary is linked (package g++), though nothing calls it and the binary does
// not load it. A daulet archive from elsewhere lacks the slz_ functions of native.h and fails to link. The name of the
// directory holds a hash of the crate, because Go's build cache does not notice a changed archive.
package hf

/*
#include "native.h"
*/
import "C"

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"reflect"
	"strings"
	"sync"
	"unsafe"

	"github.com/daulet/tokenizers"

	"sluice/tokenize"
	"sluice/tokenize/pretrained"
)

// Tokenizer is a loaded tokenizer.json. Its methods may be called by many goroutines at once, Close too.
type Tokenizer struct {
	digest           string
	continuingPrefix string
	addedTokens      int // special tokens that a row of one text gets
	addedToPairs     int // special tokens that a row of a pair gets

	mu     sync.RWMutex // held for reading while the library works on the handle
	tok    *tokenizers.Tokenizer
	handle unsafe.Pointer // the same tokenizer, for the calls of native.h; nil once closed
}

var _ tokenize.Tokenizer = (*Tokenizer)(nil)

// Version is the version of Hugging Face's tokenizers crate that is linked in, such as "0.23.2".
func Version() string { return C.GoString(C.tokenizers_version()) }

// Option changes how texts are read.
type Option func(*options)

type options struct{ special bool }

// FindSpecial finds special tokens in texts, as transformers does: a text with "[SEP]" in it has that token. Without it
// they are text, so that nobody who writes a text can write the tokens that a model takes for its frame.
func FindSpecial(o *options) { o.special = true }

// Open reads a tokenizer.json.
func Open(path string, opts ...Option) (*Tokenizer, error) {
	definition, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("tokenizer: %s does not exist; a model directory needs the tokenizer.json of its "+
			"Hugging Face model", path)
	}
	if err != nil {
		return nil, fmt.Errorf("tokenizer: %w", err)
	}
	t, err := New(definition, opts...)
	if err != nil {
		return nil, fmt.Errorf("tokenizer: %s: %w", path, err)
	}
	return t, nil
}

// Of makes the tokenizer of a model. Special tokens in texts are found where the model is said to want it.
func Of(m interface {
	Tokenizer() (*pretrained.Tokenizer, error)
}) (*Tokenizer, error) {
	t, err := m.Tokenizer()
	if err != nil {
		return nil, err
	}
	var opts []Option
	if t.Find && !t.Split {
		opts = append(opts, FindSpecial)
	}
	return New(t.Definition, opts...)
}

// New makes a tokenizer of the bytes of a tokenizer.json. What it says of truncation and padding is ignored (see
// tokenize.Options), and does not count in the digest. See package tokenize/pretrained for a folder whose
// tokenizer.json is not all.
func New(definition []byte, opts ...Option) (*Tokenizer, error) {
	var o options
	for _, set := range opts {
		set(&o)
	}
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(definition, &fields); err != nil {
		return nil, fmt.Errorf("not a tokenizer.json: %w", err)
	}
	var model struct {
		ContinuingPrefix string `json:"continuing_subword_prefix"`
	}
	if fields["model"] == nil {
		return nil,
			errors.New(
				"not a tokenizer.json: it has no member \"model\"; export one with transformers' " +
					"tokenizer.save_pretrained")
	}
	if err := json.Unmarshal(fields["model"], &model); err != nil {
		return nil, fmt.Errorf("not a tokenizer.json: its member \"model\": %w", err)
	}
	fields["truncation"], fields["padding"] = json.RawMessage("null"), json.RawMessage("null")
	definition, err := json.Marshal(fields) // sorted: equal tokenizers, equal bytes
	if err != nil {
		return nil, fmt.Errorf("not a tokenizer.json: %w", err)
	}
	var native []tokenizers.TokenizerOption
	if !o.special {
		native = append(native, tokenizers.WithEncodeSpecialTokens())
	}
	tok, err := tokenizers.FromBytes(definition, native...)
	if err != nil {
		return nil, fmt.Errorf("the tokenizers library refuses it: %w", err)
	}
	handle, err := handleOf(tok)
	if err != nil {
		tok.Close()
		return nil, err
	}
	if o.special {
		definition = append(definition, " special tokens are found"...)
	}
	digest := sha256.Sum256(definition)
	return &Tokenizer{
		digest:           hex.EncodeToString(digest[:]),
		continuingPrefix: model.ContinuingPrefix,
		addedTokens:      int(C.slz_added_tokens(handle, false)),
		addedToPairs:     int(C.slz_added_tokens(handle, true)),
		tok:              tok,
		handle:           handle,
	}, nil
}

// handleOf is the pointer that daulet's Tokenizer keeps to itself, and that our own C calls need.
func handleOf(tok *tokenizers.Tokenizer) (unsafe.Pointer, error) {
	f := reflect.ValueOf(tok).Elem().FieldByName("tokenizer")
	if !f.IsValid() || f.Kind() != reflect.UnsafePointer || f.IsNil() {
		return nil, errors.New("this version of github.com/daulet/tokenizers keeps its handle elsewhere: adapt " +
			"hf.handleOf")
	}
	return f.UnsafePointer(), nil
}

// Close frees the tokenizer when the calls in progress are done. Later calls see a closed tokenizer.
func (t *Tokenizer) Close() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.handle == nil {
		return nil
	}
	t.handle = nil
	return t.tok.Close()
}

// Digest is the SHA-256 of the definition without truncation and padding, and of whether special tokens are found, as
// lower-case hex.
func (t *Tokenizer) Digest() string { return t.digest }

// ContinuingPrefix is the model's continuing_subword_prefix: "##" for WordPiece, usually "" for others.
func (t *Tokenizer) ContinuingPrefix() string { return t.continuingPrefix }

// Token is the vocabulary entry of an id, "" for an unknown id or a closed tokenizer.
func (t *Tokenizer) Token(id int32) string {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if t.handle == nil || id < 0 {
		return ""
	}
	return taken(C.slz_token(t.handle, C.uint32_t(id)))
}

// Join is transformers' convert_tokens_to_string: the tokens as the decoder of tokenizer.json writes them, separated by
// spaces where it has no decoder. "" for a closed tokenizer.
func (t *Tokenizer) Join(tokens []string) string {
	if len(tokens) == 0 {
		return ""
	}
	joined := []byte(strings.Join(tokens, ""))
	ends, at := make([]uint32, len(tokens)), 0
	for i, token := range tokens {
		at += len(token)
		ends[i] = uint32(at)
	}
	t.mu.RLock()
	defer t.mu.RUnlock()
	if t.handle == nil {
		return ""
	}
	return taken(C.slz_join(t.handle, (*C.uint8_t)(unsafe.SliceData(joined)), (*C.uint32_t)(&ends[0]),
		C.uint32_t(len(ends))))
}

// taken copies a string of the library and frees it.
func taken(s C.struct_slz_string) string {
	defer C.slz_free_string(s)
	return string(unsafe.Slice((*byte)(s.data), int(s.len)))
}
