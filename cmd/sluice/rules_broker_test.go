package main

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"sluice/pipeline/pipelinetest"
)

// stream is records of all kinds that rules look at, by their keys, and what becomes of each: r is a result, d a dead
// letter, t a tombstone, "" nothing; behind it are the routes that have a copy.
var stream = []struct{ key, value, becomes string }{
	{"1", `{"id":1,"priority":1,"priority":9,"text":"fine"}`, "r dup same"},
	{"2", `{"id":2,"priority":9,"priority":1,"text":"fine"}`, "r same"},
	{"3", `{"id":3,"priority":9,"text":"fine"}`, "r dup same"},
	{"4", `{"id":4,"user_id":9007199254740992,"text":"fine"}`, "r same"},
	{"5", `{"id":5,"user_id":9007199254740993,"text":"fine"}`, "r same big"},
	{"6", `{"id":6,"user_id":9007199254740994,"text":"fine"}`, "r same"},
	{"7", `{"id":7,"user_id":"9007199254740993","text":"fine"}`, "r same"},
	{"8", `{"id":8,"user_id":9007199254740993.0,"text":"fine"}`, "r same big"},
	{"15", `{"id":15,"text":"first","text":"second"}`, "r same"},
	{"20", `{"op":"d","after":null}`, ""},
	{"21", `{"op":"d"}`, ""},
	{"22", `{"op":"c","op":"d","text":"fine"}`, ""},
	{"23", `{"op":"d","op":"c","text":"fine"}`, "r same"},
	{"24", `{"op":"d"`, "d"},
	{"25", `{"op":"u","text":null}`, "d"},
	{"26", "null", "t"},
	{"27", "\xef\xbb\xbf" + `{"id":27,"text":"fine"}`, "r same"},
	{"28", "\x00\x00\x00\x00\x07" + `{"id":28,"text":"fine"}`, "d"},
	{"29", `{"id":29,"text":"\ud83d\u0066ine"}`, "r same"},
	{"30", `{"op":"d"}`, ""},
}

const rulesYAML = `skip:
  - {name: deletes, when: 'field("op") == "d"'}
routes:
  - {name: dup, when: 'number("priority") > 7', topic: r-dup}
  - {name: same, when: 'field("text") == text', topic: r-same}
  - {name: big, when: 'field("user_id") == 9007199254740993', topic: r-big}
`

// Rules read a record as the worker does, and what a rule of skip leaves out leaves no trace but its count: offsets go
// on behind it, and `sluice verify` misses nothing.
func TestRulesReadRecordsAsTheWorkerDoesOnARealBroker(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: no real broker")
	}
	dir := needModel(t, "sentiment-tiny")
	broker, listener := pipelinetest.TestListener(t)
	outputs := []string{"rules-out", "rules-dlq", "r-dup", "r-same", "r-big"}
	client := broker.Client(t, kgo.ConsumeTopics(outputs...), kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	admin := kadm.NewClient(client)
	if _, err := admin.CreateTopics(t.Context(), 1, 1, nil, append(outputs, "rules-in")...); err != nil {
		t.Fatal(err)
	}
	var records []*kgo.Record
	want := map[string][]string{}
	for _, s := range stream {
		r := &kgo.Record{Topic: "rules-in", Key: []byte(s.key), Value: []byte(s.value)}
		if s.value == "null" {
			r.Value = nil
		}
		records = append(records, r)
		for _, b := range strings.Fields(s.becomes) {
			topic := map[string]string{"r": outputs[0], "t": outputs[0], "d": outputs[1]}[b]
			if topic == "" {
				topic = "r-" + b
			}
			want[topic] = append(want[topic], s.key)
		}
	}
	if err := client.ProduceSync(t.Context(), records...).FirstErr(); err != nil {
		t.Fatal(err)
	}
	config := runConfigBy(t, broker, listener, dir, "output: {", rulesYAML+"output: {", "customer_reviews", "rules-in",
		"review_analysis", outputs[0], "review_dlq", outputs[1], "group: reviews", "group: rules")
	grantVerify(t, broker, listener, outputs[:2]...)
	w := startWorker(t, "-c", config)
	w.waitReady(t)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	for committed := int64(-1); committed < int64(len(records)); { // the last record is left out
		offsets, err := admin.FetchOffsets(ctx, "rules")
		if err != nil {
			t.Fatalf("offset %d: %v\n%s", committed, err, w.logs())
		}
		if o, ok := offsets.Lookup("rules-in", 0); ok {
			committed = o.At
		}
	}
	_, metrics := w.get(t, "/metrics") // which follow a commit
	for ; !strings.Contains(metrics, `outcome="skipped"} 4`) && ctx.Err() == nil; _, metrics = w.get(t, "/metrics") {
	}
	for _, m := range []string{`sluice_skipped_records_total{rule="deletes"} 4`,
		`sluice_records_total{outcome="skipped"} 4`, `sluice_records_total{outcome="dead_letter"} 3`,
		`sluice_dead_letters_total{reason="schema-registry-format",stage="decode"} 1`} {
		if !strings.Contains(metrics, m+"\n") {
			t.Errorf("no %s in the metrics", m)
		}
	}
	w.cmd.Process.Signal(syscall.SIGTERM)
	if code := w.exit(t); code != exitDone {
		t.Errorf("exit code %d\n%s", code, w.logs())
	}
	n := 0
	for _, keys := range want {
		n += len(keys)
	}
	got := map[string][]string{}
	values := map[string]string{}
	for read := 0; read < n; {
		f := client.PollFetches(ctx)
		if ctx.Err() != nil {
			t.Fatalf("%d of %d messages: %v\n%s", read, n, got, w.logs())
		}
		f.EachRecord(func(r *kgo.Record) {
			read++
			got[r.Topic] = append(got[r.Topic], string(r.Key))
			if r.Topic == outputs[0] {
				values[string(r.Key)] = string(r.Value)
			}
		})
	}
	for _, topic := range outputs {
		if !slices.Equal(got[topic], want[topic]) {
			t.Errorf("%s has records %v, want %v", topic, got[topic], want[topic])
		}
	}
	if !strings.HasPrefix(values["27"], `{"id":27,"text":"fine","inference":{`) || !json.Valid([]byte(values["27"])) {
		t.Errorf("behind a byte order mark: %q", values["27"])
	}
	if !strings.HasPrefix(values["29"], `{"id":29,"text":"\ud83d\u0066ine","inference":{`) ||
		!strings.Contains(values["29"], `"flags":["unpaired-surrogate"]`) {
		t.Errorf("half of a character: %q", values["29"])
	}
	r := finish(t, sluice(t, "verify", "-c", config, "--since", "all", "--json"))
	var report struct {
		Total struct{ Records, Results, Skipped, Lost, Doubled int64 }
	}
	if err := json.Unmarshal([]byte(r.out), &report); err != nil || r.code != exitDone || report.Total.Lost != 0 ||
		report.Total.Skipped != 4 || report.Total.Doubled != 0 || report.Total.Records != int64(len(records)) {
		t.Errorf("verify: %+v, %v", r, err)
	}
}

// The same records through classify: a line that is left out gives nothing, all others what they give without rules.
func TestClassifyLeavesLinesOut(t *testing.T) {
	dir := needModel(t, "sentiment-tiny")
	var in strings.Builder
	var want []string
	for i, s := range stream {
		fmt.Fprintln(&in, s.value)
		switch {
		case s.becomes == "" || s.value == "null":
		case s.value[0] == 0: // no line of a text
			want = append(want, fmt.Sprintf(`"reason":"not-text","line":%d}`, i+1))
		case s.becomes == "d":
			want = append(want, fmt.Sprintf(`"line":%d}`, i+1))
		default:
			want = append(want, strings.TrimPrefix(strings.TrimSuffix(s.value, "}"), "\xef\xbb\xbf")+`,"inference":{`)
		}
	}
	in.WriteString("a plain text\n")
	want = append(want, `{"text":"a plain text","inference":{`)
	cmd := sluice(t, "classify", "-m", dir, "--skip", `field("op") == "d"`, "--skip", "bytes == 4")
	cmd.Stdin = strings.NewReader(in.String())
	r := finish(t, cmd)
	lines := strings.Split(strings.TrimSuffix(r.out, "\n"), "\n")
	if r.code != exitFailed || len(lines) != len(want) ||
		!strings.Contains(r.err, "sluice: 5 of 21 lines were left out by --skip\nsluice: 3 of 21 lines could not "+
			"be judged") {
		t.Fatalf("exit code %d, %d lines, want %d\n%s\n%s", r.code, len(lines), len(want), r.out, r.err)
	}
	for i, line := range lines {
		if !strings.HasPrefix(line, want[i]) && !strings.HasSuffix(line, want[i]) {
			t.Errorf("answer %d is %s, want %s", i, line, want[i])
		}
	}
}

// A text may stand in a list, and change data have it in a member that is null in a delete.
func TestClassifyFindsTextsInListsAndChangeData(t *testing.T) {
	dir := needModel(t, "sentiment-tiny")
	const change = `{"payload":{"op":"u","before":null,"after":{"comments":[{"text":"x"},{"text":"fine"}]}}}`
	cmd := sluice(t, "classify", "-m", "m="+dir, "--text", "payload.after.comments.1.text", "--skip",
		`field("payload.op") == "d"`)
	cmd.Stdin = strings.NewReader(change + "\n" + `{"payload":{"op":"d","before":{"comments":[]},"after":null}}` + "\n" +
		`{"payload":{"op":"c","after":{"comments":[{"text":"x"}]}}}` + "\n")
	r := finish(t, cmd)
	lines := strings.Split(strings.TrimSuffix(r.out, "\n"), "\n")
	if len(lines) != 2 || !strings.HasPrefix(lines[0], strings.TrimSuffix(change, "}")+`,"inference":{"m":{"label":`) ||
		!strings.Contains(lines[1], `the list \"payload.after.comments\" has no element 1`) ||
		!strings.HasSuffix(lines[1], `"reason":"missing-text","line":3}`) {
		t.Errorf("%s\n%s", r.out, r.err)
	}
	r = finish(t, sluice(t, "classify", "-m", "m="+dir, "--text", "a..b", "--skip", `text == ""`, "--skip",
		`field("x") ==`))
	if r.code != exitUsage || !strings.Contains(r.err, "--text: nothing stands before the dot") ||
		!strings.Contains(r.err, "--skip: column 1: unknown name text") ||
		!strings.Contains(r.err, "--skip: column 13: unexpected token EOF") {
		t.Errorf("exit code %d\n%s", r.code, r.err)
	}
}

// An unpaired half of a character takes nothing with it: what is found, and where, is as with U+FFFD in its place.
func TestHalvesOfCharactersKeepOffsets(t *testing.T) {
	dir := needModel(t, "ner")
	cmd := sluice(t, "classify", "-m", "ner="+dir, "--aggregation", "first")
	cmd.Stdin = strings.NewReader(`{"id":1,"text":"\ud83d\u0041da Lovelace lives in London"}
{"id":2,"text":"\ufffdAda Lovelace lives in London"}
{"id":3,"text":"nice \ud83d\ud83d\ude00 Ada Lovelace lives in London"}
{"id":4,"text":"nice \ufffd\ud83d\ude00 Ada Lovelace lives in London"}
`)
	r := finish(t, cmd)
	var spans []string
	var flags [][]string
	for line := range strings.Lines(r.out) {
		var v struct {
			Inference struct {
				NER struct {
					Entities []struct {
						Group      string `json:"entity_group"`
						Word       string
						Start, End int
						Score      float64
					}
				}
				Flags []string
			}
		}
		if err := json.Unmarshal([]byte(line), &v); err != nil {
			t.Fatal(err)
		}
		s := ""
		for _, e := range v.Inference.NER.Entities {
			s += fmt.Sprintf("%s %s %d %d %.6f; ", e.Group, e.Word, e.Start, e.End, e.Score)
		}
		spans, flags = append(spans, s), append(flags, v.Inference.Flags)
	}
	half := []string{"unpaired-surrogate"}
	if len(spans) != 4 || spans[0] != spans[1] || spans[2] != spans[3] ||
		!strings.HasPrefix(spans[0], "PER ada lovelace 1 13 0.975388; LOC london 23 29 0.970438") ||
		!strings.HasPrefix(spans[2], "ORG nice 0 4 0.864465; PER ada lovelace 8 20 0.967548; LOC london 30 36 "+
			"0.965379") {
		t.Errorf("%q\n%s", spans, r.err)
	}
	if !slices.EqualFunc(flags, [][]string{half, nil, half, nil}, slices.Equal) {
		t.Errorf("flags %q", flags)
	}
}
