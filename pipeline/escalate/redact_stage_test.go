package escalate_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"
	"unicode/utf8"

	"github.com/tidwall/gjson"

	"sluice/pipeline/escalate"
	"sluice/pipeline/llm"
	"sluice/pipeline/llm/label"
	"sluice/pipeline/llm/standin"
	"sluice/pipeline/pipelinetest/injections"
)

// TestNoCanaryLeavesTheWorker reads every request that an endpoint got: the question, and the repair that repeats its
// bad answer.
func TestNoCanaryLeavesTheWorker(t *testing.T) {
	redactor, err := escalate.NewRedactor([]string{"PER", "email", "phone", "number"})
	if err != nil {
		t.Fatal(err)
	}
	task, err := label.New(label.Options{Labels: injections.Labels, Explain: true})
	if err != nil {
		t.Fatal(err)
	}
	people := []struct{ before, name, between, email, phone, card string }{
		{"Hello, this is ", "Rosalind Canary", ", ", "rosalind.canary@mail.example", "+44 20 7946 0958",
			"4111 1111 1111 1111"},
		{"Guten Tag, ich bin ", "Jürgen Kanarienvogel", ": ", "juergen@kanarienvogel.example", "030 / 9018 2007",
			"DE89 3704 0044 0532 0130 00"},
		{"Bonjour, ici ", "Élodie Canari", " ; ", "elodie_canari@courriel.example", "06 12 34 56 78",
			"5500-0000-0000-0004"},
		{"Здравствуйте, я ", "Анна Канарейкина", ", ", "анна@пример.example", "+7 (912) 345-67-89",
			"2200 0000 0000 0053"},
		{"مرحبا، أنا ", "ليلى كناري", "، ", "layla@kanari.example", "٠١٠٠ ١٢٣ ٤٥٦٧", "٤١١١ ١١١١ ١١١١ ١١١١"},
		{"नमस्ते, मैं ", "अदिति कनारी", ", ", "aditi@kanari.example", "९८७६५ ४३२१०", "४१११-११११-११११-११११"},
		{"您好,我是", "金丝雀", ",", "jinsique@youxiang.example", "13812345678", "6222021234567890128"},
		{"I am ", "Ada\u200b Canaryson", "; ", "ada\u200b@canary\u00adson.example", "+\uff14\uff19 30 5566\u2060 7788",
			"5566\u200b7788\u200b5566\u200b7788"},
	}
	var source requests
	names := map[string]string{} // by source
	for n, who := range people {
		text := who.before + who.name + who.between + strings.Join([]string{who.email, who.phone, who.card},
			who.between) + who.between + who.name
		start := utf8.RuneCountInString(who.before)
		names[fmt.Sprintf("reviews/0/%d", n)] = who.name
		source = append(source, asked(t, fmt.Sprint(n), text, "NEGATIVE", int64(n), escalate.Span{Group: "PER",
			Start: start, End: start + utf8.RuneCountInString(who.name)}))
	}
	var mu sync.Mutex
	before := map[string]bool{}
	server := standin.New(standin.Options{Labels: injections.Labels, Obey: func(user string) string {
		mu.Lock()
		defer mu.Unlock()
		text, _ := injections.TextOf(user)
		if !before[user] { // the first answer repeats the text, and is refused
			before[user] = true
			return text
		}
		return `{"label":"NEGATIVE","confidence":1,"explanation":"[PER_1] at [EMAIL_1], not [PER_2]"}`
	}})
	got := throughStage(t, task, redactor, escalate.Policy{}, source, server)

	bodies := server.Bodies()
	if len(bodies) != 2*len(people) {
		t.Fatalf("%d requests about %d texts", len(bodies), len(people))
	}
	for _, body := range bodies {
		var request struct{ Messages []llm.Message }
		if err := json.Unmarshal(body, &request); err != nil {
			t.Fatal(err)
		}
		var sent strings.Builder
		for _, m := range request.Messages[1:] {
			text, _ := injections.TextOf(m.Content)
			sent.WriteString(m.Content + "\n" + text + "\n")
		}
		if !strings.Contains(sent.String(), "[PER_1]") || !strings.Contains(sent.String(), "[EMAIL_1]") {
			t.Errorf("no placeholders in\n%s", sent.String())
		}
		for _, who := range people {
			for _, canary := range append(strings.FieldsFunc(who.email, func(r rune) bool {
				return r == '@' ||
					r == '.'
			}), who.name, who.phone, who.card) {
				for _, part := range append(strings.Fields(canary), canary) {
					if utf8.RuneCountInString(part) > 3 && part != "mail" && part != "example" &&
						strings.Contains(sent.String(), part) {
						t.Errorf("%q left the worker in\n%s", part, sent.String())
					}
				}
			}
		}
	}
	for _, m := range got {
		said := gjson.GetBytes(m.Value, "inference.sentiment.explanation").Str
		name := ""
		for _, h := range m.Headers {
			if h.Key == "sluice.source" {
				name = names[string(h.Value)]
			}
		}
		if strings.Contains(name, "\u200b") { // nothing invisible comes back
			name = "[PER_1]"
		}
		if name == "" || !strings.HasPrefix(said, name+" at ") || !strings.HasSuffix(said, ", not [PER_2]") {
			t.Errorf("the explanation is %q, of %q", said, name)
		}
	}
}
