//go:build failpoint

package failpoint

import (
	"strings"
	"testing"
)

func TestTheActionComesAtItsCountAndOnce(t *testing.T) {
	plans = must("a:3:panic,b:1:panic")
	defer func() { plans = must("") }()
	panics := func(name string) (did bool) {
		defer func() { did = recover() != nil }()
		Hit(name)
		return false
	}
	var got []bool
	for range 5 {
		got = append(got, panics("a"))
	}
	if got[0] || got[1] || !got[2] || got[3] || got[4] {
		t.Errorf("a of count 3 acted at %v", got)
	}
	if !panics("b") || panics("c") {
		t.Error("b must act at once, c never")
	}
}

func TestMistakesAreNamed(t *testing.T) {
	for spec, want := range map[string]string{
		"a": "name:count:action", "a:0:kill": "from 1", "a:x:kill": "from 1", "a:1:explode": "kill, pause, panic or " +
			"hang", "a:1:kill,a:2:kill": "twice",
	} {
		if _, err := parse(spec); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("parse(%q) = %v, want %q", spec, err, want)
		}
	}
}

func TestATextDoesHarmEveryTime(t *testing.T) {
	harmful = mustTexts("some words:panic,others:panic")
	defer func() { harmful = nil }()
	panics := func(texts ...string) (did bool) {
		defer func() { did = recover() != nil }()
		var all [][]byte
		for _, s := range texts {
			all = append(all, []byte(s))
		}
		Texts(all)
		return false
	}
	if !panics("good", "has some words in it") || !panics("has some words in it") || !panics("and others") {
		t.Error("a text with a harmful part must act whenever it comes")
	}
	if panics("good", "some other words") {
		t.Error("texts without a harmful part must not act")
	}
	for spec, want := range map[string]string{"words": "part:action", ":panic": "part:action",
		"words:explode": "kill, pause, panic or hang"} {
		if _, err := parseTexts(spec); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("parseTexts(%q) = %v, want %q", spec, err, want)
		}
	}
}
