package codec

import (
	"strings"
	"testing"
)

func TestParsePath(t *testing.T) {
	for path, want := range map[string]string{"text": "text", "a.b.c": "a|b|c", `a\.b.c`: "a.b|c", `a\\b`: `a\b`,
		`a\\.b`: `a\|b`, "comments.0.text": "comments|0|text",
		// what other path languages have operators for are characters of a key
		"#": "#", "a.#.b": "a|#|b", "*": "*", "a?": "a?", "!a": "!a", "@this": "@this", "b|@this": "b|@this",
		"$.a": "$|a", "a[0]": "a[0]", `"a"`: `"a"`, "a b": "a b", "é.😀": "é|😀", "-1": "-1", "~0/x": "~0/x",
		"#(a==1)#": "#(a==1)#", "{a,b}": "{a,b}", "a:1": "a:1"} {
		p, err := ParsePath(path)
		if err != nil {
			t.Errorf("ParsePath(%q): %v", path, err)
			continue
		}
		if got := strings.Join(p, "|"); got != want || path == want && len(p) != 1 {
			t.Errorf("ParsePath(%q) is %s, want %s", path, got, want)
		}
		if p.String() != path {
			t.Errorf("%q is written %q", path, p)
		}
	}
	for path, want := range map[string]string{"": "it is empty", ".": "character 1", "a.": "character 3",
		"a..b": "character 3", ".a": "character 1", `a\`: "the backslash at character 2", `a\#b`: "the backslash at",
		`\a.b`: "the backslash at character 1"} {
		if p, err := ParsePath(path); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("ParsePath(%q) is %q, %v, want %q in the error", path, p, err, want)
		}
	}
}

func TestPosition(t *testing.T) {
	for step, want := range map[string]int{"0": 0, "7": 7, "10": 10} {
		if n, ok := Position(step); n != want || !ok {
			t.Errorf("%q is %d, %v", step, n, ok)
		}
	}
	for _, step := range []string{"", "-0", "-1", "+1", "01", "00", "1e0", "0x1", "1_0", " 1", "1.0", "#", "last", "１",
		"99999999999999999999"} {
		if n, ok := Position(step); ok {
			t.Errorf("%q is the position %d", step, n)
		}
	}
}
