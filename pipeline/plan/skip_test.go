package plan_test

import (
	"testing"
	"testing/synctest"
	"time"

	"sluice/pipeline"
	"sluice/pipeline/pipelinetest/words"
	"sluice/pipeline/plan"
	"sluice/pipeline/rule"
)

// skips are rules by their names, in order.
func skips(t *testing.T, rules ...string) plan.Skips {
	t.Helper()
	var s plan.Skips
	for i := 0; i < len(rules); i += 2 {
		when, err := rule.ParseBeforeText(rules[i+1])
		if err != nil {
			t.Fatal(err)
		}
		s = append(s, plan.Skip{Name: rules[i], When: when})
	}
	return s
}

// A rule is asked before the text is looked for, so a record without one is left out and no dead letter. What cannot be
// read, and a tombstone, are left out by what stands beside the value only.
func TestWhichRecordsAreLeftOut(t *testing.T) {
	deletes := skips(t, "deletes", `field("op") == "d" || field("before") != nil && field("after") == nil`, "odd",
		`field("id") != nil && field("id") % 2 == 1`, "empty", `bytes == 0`, "tests", `headers["x"] == "test"`)
	for name, c := range map[string]struct {
		value, header string
		by            string // "": it is not left out
		disposition   pipeline.Disposition
		reason        string // of a dead letter
	}{
		"no text, by a field":           {`{"op":"d","id":2}`, "", "deletes", pipeline.Skipped, ""},
		"a null in the text's place":    {`{"before":{},"after":null,"text":null}`, "", "deletes", pipeline.Skipped, ""},
		"the last of repeated keys":     {`{"op":"c","op":"d","text":"sixsix"}`, "", "deletes", pipeline.Skipped, ""},
		"not the last":                  {`{"op":"d","op":"c","text":"sixsix"}`, "", "", pipeline.Scored, ""},
		"with a text":                   {`{"op":"d","text":"sixsix"}`, "", "deletes", pipeline.Skipped, ""},
		"the output field is there":     {`{"op":"d","inference":1}`, "", "deletes", pipeline.Skipped, ""},
		"the first rule that holds":     {`{"op":"d","id":3,"text":"sixsix"}`, "test", "deletes", pipeline.Skipped, ""},
		"a blank text":                  {`{"op":"d","text":" "}`, "", "deletes", pipeline.Skipped, ""},
		"another rule":                  {`{"id":9007199254740993,"text":"sixsix"}`, "", "odd", pipeline.Skipped, ""},
		"none":                          {`{"id":9007199254740992,"text":"sixsix"}`, "", "", pipeline.Scored, ""},
		"no field and no text":          {`{"id":2}`, "", "", pipeline.DeadLetter, "missing-text"},
		"not an object":                 {`[{"op":"d"}]`, "", "", pipeline.DeadLetter, "not-an-object"},
		"no JSON":                       {`{"op":"d"`, "", "", pipeline.DeadLetter, "invalid-json"},
		"no JSON, by a header":          {`{"op":"d"`, "test", "tests", pipeline.Skipped, ""},
		"an empty value":                {``, "", "empty", pipeline.Skipped, ""},
		"a rule that cannot be decided": {`{"id":2.5,"text":"sixsix"}`, "", "", pipeline.Scored, ""},
	} {
		failed := map[string]int{}
		b := words.New(t, words.Options{Skip: deletes, Change: func(b *words.Bench) {
			b.Publisher.RuleFailed = func(rule string) { failed[rule]++ }
		}})
		r := words.Records(c.value)[0]
		if c.header != "" {
			r.Headers = append(r.Headers, pipeline.Header{Key: "x", Value: []byte(c.header)})
		}
		o := becomes(t, b, &r)
		if o.Disposition != c.disposition || o.SkippedBy != c.by || (len(o.Messages) == 0) != (c.by != "") {
			t.Errorf("%s: it became %s by %q (%v), %d messages, want %s by %q", name, o.Disposition, o.SkippedBy,
				o.Fault, len(o.Messages), c.disposition, c.by)
		}
		if c.reason != "" && (o.Fault == nil || o.Fault.Reason != c.reason) {
			t.Errorf("%s: %v, want %s", name, o.Fault, c.reason)
		}
		if want := name == "a rule that cannot be decided"; (failed["skip.odd"] == 1) != want || len(failed) > 1 {
			t.Errorf("%s: rules that failed: %v", name, failed)
		}
		if o.Disposition == pipeline.Skipped && b.Tokenizer.Texts() != 0 {
			t.Errorf("%s: its text was tokenized", name)
		}
	}
}

func TestATombstoneIsLeftOutByWhatStandsBesideItOnly(t *testing.T) {
	for source, want := range map[string]pipeline.Disposition{
		`field("after") == nil`:                     pipeline.Tombstone,
		`number("id") == 0 || key == "k"`:           pipeline.Tombstone, // it looks at a field
		`key == "k"`:                                pipeline.Skipped,
		`bytes == 0 && topic == "in"`:               pipeline.Skipped,
		`headers["x"] == "2" && partition == 3`:     pipeline.Skipped,
		`headers["x"] == "2" && field("op") == nil`: pipeline.Tombstone,
	} {
		b := words.New(t, words.Options{Skip: skips(t, "s", source)})
		if o := b.Outcomes("null")[0]; o.Disposition != want {
			t.Errorf("%s: a tombstone became %s, want %s", source, o.Disposition, want)
		}
	}
}

// A record that cannot be read yet is asked about when it can.
func TestARecordThatCannotBeReadYetIsLeftOutLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &registry{}
		b := words.New(t, words.Options{Skip: skips(t, "deletes", `field("op") == "d"`, "all", `key == "k"`),
			Change: func(b *words.Bench) { r.Codec, b.Publisher.Codec = b.Publisher.Codec, r }})
		var got *pipeline.Outcome
		b.Plan().Submit(&words.Records(`{"op":"d"}`)[0], func(_ *plan.Item, o pipeline.Outcome) { got = &o })
		time.Sleep(time.Minute)
		if got != nil {
			t.Fatalf("while the registry is away the record became %+v", got)
		}
		r.there.Store(true)
		time.Sleep(time.Minute)
		synctest.Wait()
		if got == nil || got.Disposition != pipeline.Skipped || got.SkippedBy != "deletes" {
			t.Errorf("once it is back: %+v", got)
		}
	})
}

// becomes takes one record through a plan.
func becomes(t *testing.T, b *words.Bench, r *pipeline.Record) pipeline.Outcome {
	t.Helper()
	done := make(chan pipeline.Outcome, 1)
	b.Plan().Submit(r, func(_ *plan.Item, o pipeline.Outcome) { done <- o })
	select {
	case o := <-done:
		return o
	case <-time.After(10 * time.Second):
		t.Fatal("the record does not finish")
		return pipeline.Outcome{}
	}
}
