package load

import (
	"bytes"
	"compress/gzip"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestTextsOfFilesOfOtherPrograms(t *testing.T) {
	plain := "\ufeffzwei\r\n\r\n{\"text\":\"größer\"}\r\n"
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	io.WriteString(z, plain)
	z.Close()
	file := filepath.Join(t.TempDir(), "texts")
	read := func(content string) ([]string, error) {
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return ReadTexts(file, "")
	}
	for _, content := range []string{plain, packed.String()} {
		got, err := read(content)
		if d := cmp.Diff([]string{"zwei", "größer"}, got); err != nil || d != "" {
			t.Errorf("%v\n%s", err, d)
		}
	}
	for content, want := range map[string]string{"a\ngr\xf6\xdfer\n": ": line 2: is not UTF-8; convert the file",
		"PK\x03\x04": " is a zip archive", "ab\x00": ": line 1: holds a NUL byte", "": " holds no text"} {
		if _, err := read(content); err == nil || !strings.HasPrefix(err.Error(), file+want) {
			t.Errorf("%q: %v", content, err)
		}
	}
}
