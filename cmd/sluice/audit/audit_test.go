package audit

import (
	"fmt"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"
	"pgregory.net/rapid"

	"sluice/pipeline"
	"sluice/pipeline/escalate"
	"sluice/pipeline/publish"
)

// message is one of an output topic. id is what follows "in/0/": "7#0".
func message(topic string, offset int64, id string, more ...kgo.RecordHeader) *kgo.Record {
	source, _, _ := strings.Cut(id, "#")
	return &kgo.Record{Topic: topic, Offset: offset, Headers: append(more,
		kgo.RecordHeader{Key: publish.HeaderSource, Value: []byte("in/0/" + source)},
		kgo.RecordHeader{Key: publish.HeaderID, Value: []byte("in/0/" + id)})}
}

// count plays records 0 to n-1 of one partition and messages of output topics, in order.
func count(n int64, play func(*tally, *lane)) Partition {
	t := newTally()
	t.request = "ask"
	l := t.open(pipeline.TopicPartition{Topic: "in", Partition: 0}, 0, n)
	for o := range n {
		t.input(&kgo.Record{Topic: "in", Offset: o})
	}
	play(t, l)
	return l.close()
}

func TestTallyCountsWhatIsWrong(t *testing.T) {
	results := func(t *tally, ids ...string) {
		for i, id := range ids {
			t.output(Results, message("out", int64(i), id), false)
		}
	}
	upstream := []kgo.RecordHeader{{Key: publish.HeaderSource, Value: []byte("other/3/9")}, {Key: publish.HeaderID,
		Value: []byte("other/3/9#0")}}
	for _, c := range []struct {
		name string
		play func(*tally, *lane)
		want string // lost, doubled, disordered, unfinished, stray, unverifiable
	}{
		{"all is well", func(t *tally, _ *lane) { results(t, "0#0", "1#0", "2#0") }, "0 0 0 0 0 0"},
		{"lost", func(t *tally, _ *lane) { results(t, "0#0", "2#0") }, "1 0 0 0 0 0"},
		{"doubled is not disorder too", func(t *tally, _ *lane) { results(t, "0#0", "1#0", "2#0", "1#0") },
			"0 1 0 0 0 0"},
		{"disorder", func(t *tally, _ *lane) { results(t, "0#0", "2#0", "1#0") }, "0 0 1 0 0 0"},
		{"a result and a dead letter are one too many", func(t *tally, _ *lane) {
			results(t, "0#0", "1#0", "2#0")
			t.output(DeadLetters, message("dlq", 0, "1#0"), false)
		}, "0 1 0 0 0 0"},
		{"a dead letter is an answer", func(t *tally, _ *lane) {
			results(t, "0#0", "2#0")
			t.output(DeadLetters, message("dlq", 0, "1#0"), false)
		}, "0 0 0 0 0 0"},
		{"an amendment is no double, two are", func(t *tally, _ *lane) {
			results(t, "0#0", "1#0", "2#0", "0#2",
				"0#2")
		}, "0 1 0 0 0 0"},
		{"an amendment is no first result", func(t *tally, _ *lane) { results(t, "0#2", "1#0", "2#0") }, "1 0 0 0 0 0"},
		{"the headers of a worker before this one do not count", func(t *tally, _ *lane) {
			for o := range int64(3) {
				t.output(Results, message("out", o, fmt.Sprintf("%d#0", o), upstream...), false)
			}
		}, "0 0 0 0 0 0"},
		{"a message of somebody else is no answer", func(t *tally, _ *lane) {
			results(t, "0#0", "1#0")
			t.output(Results, &kgo.Record{Topic: "out", Offset: 9, Headers: upstream}, false)
			t.output(Results, &kgo.Record{Topic: "out", Offset: 10}, false)
		}, "1 0 0 0 0 0"},
		{"results beyond the range do not count", func(t *tally, _ *lane) {
			results(t, "0#0", "1#0", "2#0", "3#0",
				"3#0")
		}, "0 0 0 0 0 0"},
		{"copies", func(t *tally, _ *lane) {
			results(t, "0#0", "1#0")
			t.output(Routed, message("alerts", 0, "0#0@urgent"), false)
			t.output(Routed, message("alerts", 1, "0#0@angry"), false) // another rule
			t.output(Routed, message("alerts", 2, "1#0@urgent"), false)
			t.output(Routed, message("alerts", 3, "1#0@urgent"), false) // doubled
			t.output(Routed, message("alerts", 4, "2#0@urgent"), false) // without a result
		}, "1 1 0 0 1 0"},
		{"requests", func(t *tally, _ *lane) {
			for o := range int64(3) { // the last is in flight
				t.output(Requests, message("ask", o, fmt.Sprintf("%d#escalation", o)), o < 2)
			}
			results(t, "0#0", "1#0", "2#0", "0#2") // 1 was committed, and there is nothing
		}, "0 0 0 1 0 0"},
		{"what ends a request without an answer is a final verdict", func(t *tally, _ *lane) {
			t.output(Requests, message("ask", 0, "0#escalation"), true)
			t.output(Requests, message("ask", 1, "1#escalation"), true)
			results(t, "0#0", "1#0", "2#0")
			letter := message("dlq", 0, "0#escalation")
			letter.Headers = append(letter.Headers, kgo.RecordHeader{Key: publish.HeaderSource,
				Value: []byte("ask/0/0")}, kgo.RecordHeader{Key: publish.HeaderID, Value: []byte("ask/0/0#0")})
			t.output(DeadLetters, letter, false)
			t.output(DeadLetters, message("dlq", 1, "1#2"), false) // an amendment that no topic takes
		}, "0 0 0 0 0 0"},
		{"a deferred result comes when it comes, once; a shadow needs no more", func(t *tally, _ *lane) {
			mode := func(m escalate.Mode) kgo.RecordHeader {
				return kgo.RecordHeader{Key: escalate.HeaderEscalation, Value: []byte(`{"mode":"` + m + `"}`)}
			}
			t.output(Requests, message("ask", 0, "0#escalation", mode(escalate.Defer)), true)
			t.output(Requests, message("ask", 1, "1#escalation", mode(escalate.Defer)), false)
			t.output(Requests, message("ask", 2, "2#escalation", mode(escalate.Shadow)), true)
			results(t, "2#0", "0#0")
		}, "0 0 0 0 0 0"},
		{"a deferred result that never came", func(t *tally, _ *lane) {
			t.output(Requests, message("ask", 0, "0#escalation", kgo.RecordHeader{Key: escalate.HeaderEscalation,
				Value: []byte(`{"mode":"defer"}`)}), true)
			results(t, "1#0", "2#0")
		}, "0 0 0 1 0 0"},
		{"what may have been deleted is not lost", func(t *tally, l *lane) {
			l.uncertain = []string{"out"}
			results(t, "1#0")
		}, "1 0 0 0 0 1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := count(3, c.play)
			if got := fmt.Sprint(p.Lost, p.Doubled, p.Disordered, p.Unfinished, p.Stray,
				p.Unverifiable); got != c.want {
				t.Errorf("lost, doubled, disordered, unfinished, stray, unverifiable: %s, want %s\n%v", got, c.want,
					p.Examples)
			}
		})
	}
}

// Whatever is taken out of, repeated in or moved within a good history: it is counted as that, and nothing else is.
func TestTallyCountsRandomHistories(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		n := rapid.Int64Range(1, 400).Draw(rt, "records")
		lost, doubled := int64(0), int64(0)
		var ids []string
		for o := range n {
			switch rapid.IntRange(0, 9).Draw(rt, "fate") {
			case 0:
				lost++
			case 1:
				doubled++
				ids = append(ids, fmt.Sprintf("%d#0", o), fmt.Sprintf("%d#0", o))
			default:
				ids = append(ids, fmt.Sprintf("%d#0", o))
			}
		}
		p := count(n, func(t *tally, _ *lane) {
			for i, id := range ids {
				t.output(Results, message("out", int64(i), id), false)
			}
		})
		if p.Lost != lost || p.Doubled != doubled || p.Disordered != 0 || p.Results != n-lost || p.Records != n {
			rt.Fatalf("%+v, want %d lost and %d doubled of %d", p, lost, doubled, n)
		}
	})
}

// What a rule leaves out needs no answer, and may have one of before the rule.
func TestRecordsThatARuleLeavesOutAreNotLost(t *testing.T) {
	c := newTally()
	c.skipped = func(r *pipeline.Record) bool {
		return string(r.Value) == "delete" || len(r.Headers) == 1 && string(r.Headers[0].Value) == "test"
	}
	l := c.open(pipeline.TopicPartition{Topic: "in", Partition: 0}, 0, 5)
	for o, value := range []string{"review", "delete", "delete", "review", "review"} {
		r := &kgo.Record{Topic: "in", Offset: int64(o), Value: []byte(value)}
		if o == 3 {
			r.Headers = []kgo.RecordHeader{{Key: "kind", Value: []byte("test")}}
		}
		c.input(r)
	}
	c.output(Results, message("out", 0, "0#0"), false)
	c.output(Results, message("out", 1, "2#0"), false)
	if p := l.close(); p.Records != 5 || p.Results != 2 || p.Skipped != 2 || p.Lost != 1 {
		t.Errorf("%+v", p)
	}
}

func TestABitmapIsASet(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		b, set := bitmap{}, map[int64]bool{}
		for _, n := range rapid.SliceOf(rapid.Int64Range(0, 5*page)).Draw(rt, "offsets") {
			if b.add(n) == set[n] {
				rt.Fatalf("add(%d) says %v", n, set[n])
			}
			set[n] = true
			if !b.has(n) || b.has(n+1) != set[n+1] {
				rt.Fatalf("has is wrong around %d", n)
			}
		}
		if b.count() != int64(len(set)) {
			rt.Fatalf("%d members, want %d", b.count(), len(set))
		}
	})
}
