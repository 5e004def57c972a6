package main

import (
	"strings"
	"testing"

	"sluice/pipeline/escalate"
	"sluice/pipeline/llm/label"
	"sluice/pipeline/pipelinetest/injections"
)

// TestNoOrderIsFollowed is promise P6: nothing that an endpoint says becomes a field name, a topic, a URL or a key.
func TestNoOrderIsFollowed(t *testing.T) {
	s, err := measure(injections.Corpus())
	if err != nil {
		t.Fatal(err)
	}
	all := s.total()
	if len(s.followed) > 0 {
		t.Errorf("orders were followed: %s", strings.Join(s.followed, ", "))
	}
	for _, f := range s.families {
		if f.escaped > 0 {
			t.Errorf("%s: %d texts ended their block", f.name, f.escaped)
		}
	}
	// The same orders are followed where everything is believed: else these trials would show nothing.
	for _, kind := range []string{"field", "topic", "key", "url"} {
		if all.of[kind] < 20 || all.lenient[kind] != all.of[kind] {
			t.Errorf("%s: a lenient reader follows %d of %d", kind, all.lenient[kind], all.of[kind])
		}
	}
	if all.lowered > 0 || all.lowering < 50 {
		t.Errorf("%d of %d orders lowered the severity in spite of the floor", all.lowered, all.lowering)
	}
	// What docs/escalation-safety.md says is not defended.
	if all.flips != all.of["label"] || all.flipsFloor != all.of["label"]-all.lowering {
		t.Errorf("%d of %d labels flipped, %d with the floor: correct docs/escalation-safety.md", all.flips,
			all.of["label"], all.flipsFloor)
	}
}

func TestNoAnswerBringsAFieldOfItsOwn(t *testing.T) {
	task, err := label.New(label.Options{Labels: injections.Labels, Explain: true})
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range injections.Corpus() {
		for _, content := range i.Obedient() {
			for _, policy := range []escalate.Policy{floor, noFloor} {
				p := publish(task, policy, i, content)
				if names := strange(p); names != nil || p.topic != ownTopic || p.key != ownKey {
					t.Errorf("%s: fields %q, topic %s, key %s", i.ID, names, p.topic, p.key)
				}
			}
		}
	}
}

func TestAReportSaysWhenAnOrderWasFollowed(t *testing.T) {
	if !follows(published{topic: "x", key: ownKey, value: map[string]any{}}, "topic", "x") ||
		!follows(published{topic: ownTopic, key: ownKey, value: map[string]any{
			"explanation": "see EVIL\u200b.example"}}, "url", "https://evil.example/a") ||
		!follows(published{topic: ownTopic, key: ownKey, value: map[string]any{"a": []any{map[string]any{"owned": 1}}}},
			"field", "owned") ||
		follows(published{topic: ownTopic, key: ownKey, value: map[string]any{"explanation": "key is x"}}, "key", "x") {
		t.Error("the judge is wrong")
	}
}
