package pipeline

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

const canary = "c4n4ry-in-the-mine"

func TestNoPrintingShowsASecret(t *testing.T) {
	type settings struct {
		Password Secret `json:"password" yaml:"password"`
		Pointer  *Secret
		Map      map[string]Secret
		hidden   Secret
		list     []Secret
	}
	secret := NewSecret(canary)
	s := settings{secret, &secret, map[string]Secret{"k": secret}, secret, []Secret{secret}}
	var out bytes.Buffer
	for _, verb := range []string{"v", "+v", "#v", "s", "q", "x", "X", "d", "t", "T", "p", "e", "c", "U", "10.3s", "#x",
		"z"} {
		for _, v := range []any{secret, &secret, s, &s, []any{secret}, fmt.Errorf("no login with %v: %w", secret,
			errors.New("x"))} {
			fmt.Fprintf(&out, "%"+verb+"\n", v)
		}
	}
	fmt.Fprintln(&out, secret, s)
	for _, h := range []slog.Handler{slog.NewTextHandler(&out, nil), slog.NewJSONHandler(&out, nil)} {
		slog.New(h).With("w", secret).Error("x", "secret", secret, "settings", s, "pointer", &s, "group",
			slog.GroupValue(slog.Any("a", secret)))
	}
	for _, marshal := range []func(any) ([]byte, error){json.Marshal, yaml.Marshal, func(v any) ([]byte,
		error) {
		return xml.Marshal(secret)
	}} {
		b, err := marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		out.Write(b)
	}
	forms := []string{canary, fmt.Sprintf("%x", canary), fmt.Sprintf("%X", canary), fmt.Sprintf("%v", []byte(canary)),
		"c4n"}
	for _, form := range forms {
		if strings.Contains(out.String(), form) {
			t.Errorf("the secret is shown as %s", form)
		}
	}
	if n := strings.Count(out.String(), Redacted); n < 100 {
		t.Errorf("only %d of the places say that there is a secret", n)
	}
	if secret.Reveal() != canary || !secret.Equal(NewSecret(canary)) || secret.Equal(nil) || !NewSecret("").IsZero() ||
		fmt.Sprint(Secret(nil)) != "" {
		t.Error("Reveal, Equal, IsZero or the zero value")
	}
}

func TestReadSecret(t *testing.T) {
	dir := t.TempDir()
	for name, tc := range map[string]struct {
		text, want, says string
	}{
		"with a line end":   {canary + "\n", canary, ""},
		"with Windows' own": {canary + "\r\n", canary, ""},
		"with inner blanks": {" a b \t\n", " a b \t", ""},
		"empty":             {"\n", "", "is empty"},
		"much too long":     {strings.Repeat(canary, 5000), "", "more than 64 KiB"},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(dir, name)
			if err := os.WriteFile(path, []byte(tc.text), 0o600); err != nil {
				t.Fatal(err)
			}
			s, err := ReadSecret(path)
			if s.Reveal() != tc.want || (err == nil) != (tc.says == "") || err != nil &&
				(!strings.Contains(err.Error(), tc.says) || !strings.Contains(err.Error(), path) ||
					strings.Contains(err.Error(), canary)) {
				t.Errorf("%q, %v", s.Reveal(), err)
			}
		})
	}
	for _, path := range []string{dir, filepath.Join(dir, "none")} {
		if _, err := ReadSecret(path); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v", path, err)
		}
	}
}
