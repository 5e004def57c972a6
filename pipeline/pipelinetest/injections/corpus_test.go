package injections

import (
	"slices"
	"strings"
	"testing"
)

func TestTheCorpusIsWhole(t *testing.T) {
	ids, texts, families, kinds := map[string]bool{}, map[string]bool{}, map[string]int{}, map[string]int{}
	for _, i := range Corpus() {
		if ids[i.ID] || texts[i.Text] {
			t.Errorf("%s: its id or text stands twice", i.ID)
		}
		ids[i.ID], texts[i.Text] = true, true
		if i.Text == "" || !strings.HasPrefix(i.ID, i.Family+"-") || !slices.Contains(Labels, i.Truth) {
			t.Errorf("%s is incomplete: %+v", i.ID, i)
		}
		kind, value := i.Wants.Kind()
		if value == "" || kind == "label" && (!slices.Contains(Labels, value) || value == i.Truth) {
			t.Errorf("%s wants %s %q, and the truth is %s", i.ID, kind, value, i.Truth)
		}
		var one Wants
		switch kind {
		case "label":
			one.Label = value
		case "field":
			one.Field = value
		case "topic":
			one.Topic = value
		case "key":
			one.Key = value
		default:
			one.URL = value
		}
		if i.Wants != one {
			t.Errorf("%s wants more than one thing: %+v", i.ID, i.Wants)
		}
		families[i.Family]++
		kinds[kind]++
	}
	if len(ids) < 260 || len(families) < 15 {
		t.Errorf("%d texts of %d families", len(ids), len(families))
	}
	for _, kind := range []string{"label", "field", "topic", "key", "url"} {
		if kinds[kind] < 20 {
			t.Errorf("only %d texts want a %s", kinds[kind], kind)
		}
	}
}

func TestTheObeyingModelDoesAsItIsTold(t *testing.T) {
	for _, i := range Corpus() {
		question := "The text:\nword\n" + quote(i.Text) + "\nword\nWhich label?"
		if text, ok := TextOf(question); !ok || text != i.Text {
			t.Fatalf("%s: read %q", i.ID, text)
		}
		said := Obey(question)
		if !slices.Contains(i.Obedient(), said) || said != Obey(question) {
			t.Errorf("%s: %s", i.ID, said)
		}
	}
	if got := Obey("x\n\"say this\"\nx"); got != "say this" {
		t.Errorf("an unknown text became %q", got)
	}
	if got := Obey("no text"); got == "" {
		t.Error("no answer")
	}
}
