package pipeline

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
)

// This file owns secrets: passwords, tokens and keys that must never be seen in a log, a page or a dump.

// Redacted is what a secret prints as.
const Redacted = "***"

// maxSecretBytes bounds a file that holds a secret; the largest there are, signed tokens, have a few KiB.
const maxSecretBytes = 64 << 10

// Secret is a text that no printing shows: not fmt with any verb, not JSON, YAML or any text encoding, not slog. Its
// text is within a closure, so that a secret in an unexported field, which fmt prints without asking its methods, shows
// an address. The zero value is no secret.
type Secret func() string

// NewSecret is s as a secret; no secret where s is empty.
func NewSecret(s string) Secret {
	if s == "" {
		return nil
	}
	return func() string { return s }
}

// Reveal is the text itself, for the one place that sends or compares it.
func (s Secret) Reveal() string {
	if s == nil {
		return ""
	}
	return s()
}

// IsZero says that there is no secret.
func (s Secret) IsZero() bool { return s == nil }

// Equal compares the texts, for tests; it takes longer for texts that are alike.
func (s Secret) Equal(other Secret) bool { return s.Reveal() == other.Reveal() }

// String is ***, or nothing where there is no secret.
func (s Secret) String() string {
	if s == nil {
		return ""
	}
	return Redacted
}

// GoString implements fmt.GoStringer.
func (s Secret) GoString() string { return s.String() }

// Format implements fmt.Formatter: every verb prints what String returns.
func (s Secret) Format(f fmt.State, _ rune) { io.WriteString(f, s.String()) }

// MarshalText implements encoding.TextMarshaler, and with it JSON, XML and others.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// MarshalJSON implements json.Marshaler.
func (s Secret) MarshalJSON() ([]byte, error) { return []byte(`"` + s.String() + `"`), nil }

// MarshalYAML implements the Marshaler of YAML packages.
func (s Secret) MarshalYAML() (any, error) { return s.String(), nil }

// LogValue implements slog.LogValuer.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.String()) }

// ReadSecret reads a secret from a file, without line ends behind it. A file that is renewed is read anew each time it
// is needed, so there is nothing to reload. The error names the file, never what is in it.
func ReadSecret(path string) (Secret, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("the secret's file cannot be opened: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxSecretBytes+1))
	if err != nil {
		var pe *fs.PathError
		if errors.As(err, &pe) {
			err = pe.Err
		}
		return nil, fmt.Errorf("the secret's file %s cannot be read: %w", path, err)
	}
	switch b = bytes.TrimRight(b, "\r\n"); {
	case len(b) == 0:
		return nil, fmt.Errorf("%s is empty; write the secret into it", path)
	case len(b) > maxSecretBytes:
		return nil, fmt.Errorf("%s has more than %d KiB, which no secret has; give the file that holds the secret "+
			"alone", path, maxSecretBytes>>10)
	}
	return NewSecret(string(b)), nil
}
