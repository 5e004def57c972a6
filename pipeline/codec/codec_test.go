package codec

import (
	"strings"
	"testing"
)

func TestParsePath(t *testing.T) {
	for path, want := range map[string]string{"text": "text", "a.b.c": "a|b|c", `a\.b.c`: "a.b|c", `a\\b`: `a\b`} {
		p := ParsePath(path)
		if got := strings.Join(p, "|"); got != want {
			t.Errorf("ParsePath(%q) is %s, want %s", path, got, want)
		}
		if p.String() != path {
			t.Errorf("%q is written %q", path, p)
		}
	}
}
