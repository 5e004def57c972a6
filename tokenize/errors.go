package tokenize

import (
	"errors"
	"fmt"
)

// ErrClosed is the error of every text that is given to a closed tokenizer.
var ErrClosed = errors.New("tokenize: the tokenizer is closed")

// OptionsError says that no text can be tokenized with these Options: the caller is at fault, not a text.
type OptionsError struct {
	Options Options
	Reason  string
}

func (e *OptionsError) Error() string {
	return fmt.Sprintf("tokenize: max tokens %d, stride %d: %s", e.Options.MaxTokens, e.Options.Stride, e.Reason)
}

// TextError says that one text could not be tokenized, and never quotes it.
type TextError struct {
	Bytes  int // length of the text
	Reason string
}

func (e *TextError) Error() string {
	return fmt.Sprintf("tokenize: a text of %d bytes: %s", e.Bytes, e.Reason)
}
