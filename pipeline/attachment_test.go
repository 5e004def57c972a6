package pipeline

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// quarantined are the options of a stage that keeps marks.
func quarantined(attachments ...Attachment) StageOptions {
	return StageOptions{Panicked: deadLetter, Attachments: attachments,
		Quarantine: func(r *Record, _ int) Outcome { return deadLetter(r, nil) }}
}

func TestAMemberThatNobodyKnowsSurvivesCommitsOfMarksAndAttachments(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newFakeGroup(2, 20)
		moves, rests := TopicPartition{"in", 0}, TopicPartition{"in", 1}
		delete(g.logs, rests)
		g.logs[rests] = 0 // nothing to read: what changes beside its offset is committed all the same
		for tp := range g.logs {
			g.metadata[tp] = `{"wallet": 5, "of_a_later_version": {"b": 1, "a": [2]}}`
		}
		wallet := &notes{name: "wallet", want: map[TopicPartition]string{moves: "6", rests: "7"}}
		second := &notes{name: "second", want: map[TopicPartition]string{moves: `"x"`}}
		_, _, stop := begin(t, g, quarantined(wallet, second))
		g.until(t)
		time.Sleep(time.Second)
		for tp, want := range map[TopicPartition]string{
			moves: `{"of_a_later_version":{"b":1,"a":[2]},"second":"x","starts":{"open":true},"wallet":6}`,
			rests: `{"of_a_later_version":{"b":1,"a":[2]},"starts":{"open":true},"wallet":7}`,
		} {
			if got := g.metadata[tp]; got != want {
				t.Errorf("%v: %s, want %s", tp, got, want)
			}
			if told := string(wallet.told[tp]["wallet"]); told != "5" {
				t.Errorf("%v: the wallet was told %s", tp, told)
			}
		}
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		if got, want := g.metadata[moves],
			`{"of_a_later_version":{"b":1,"a":[2]},"second":"x","wallet":6}`; got != want {
			t.Errorf("after the stop: %s, want %s", got, want)
		}
	})
}

func TestWhatIsTooLargeBesideAnOffsetIsLeftOutAndTheCommitGoesOn(t *testing.T) {
	tp := TopicPartition{"in", 0}
	text := func(n int) string { return `"` + strings.Repeat("x", n-2) + `"` }
	first, last := &notes{name: "first"}, &notes{name: "last"}
	for _, c := range []struct {
		name                string
		metadata            string
		first, last         string
		left, kept, dropped string
	}{
		{"all fits", `{"a":1}`, text(2000), text(2000), "[]", "a first last starts", ""},
		{"what is unknown comes last", `{"a":` + text(200) + `,"b":` + text(3000) + `}`, text(500), text(500), "[b]",
			"a first last starts", "b"},
		{"attachments come before it, the first first", `{"a":1}`, text(2100), text(2100), "[last]", "a first starts",
			"last"},
		{"an attachment that is too large alone", "", text(5000), "7", "[first]", "last starts", "first"},
		{"a note that is no JSON", `{"a":1}`, `{"`, "7", "[first]", "a last starts", "first"},
	} {
		t.Run(c.name, func(t *testing.T) {
			first.want, last.want = map[TopicPartition]string{tp: c.first}, map[TopicPartition]string{tp: c.last}
			all := []Attachment{first, last}
			others := tell(all, map[TopicPartition]Committed{tp: {Metadata: c.metadata}})[tp]
			text, left := compose(mark{Open: true}, all, others, tp)
			if fmt.Sprint(left) != c.left || len(text) > largestMetadata {
				t.Errorf("left out: %v, want %s; %d bytes", left, c.left, len(text))
			}
			m := readMembers(text)
			for _, name := range strings.Fields(c.kept) {
				if m[name] == nil {
					t.Errorf("%s is not there", name)
				}
			}
			for _, name := range strings.Fields(c.dropped) {
				if m[name] != nil {
					t.Errorf("%s is there", name)
				}
			}
		})
	}
	synctest.Test(t, func(t *testing.T) {
		g := newFakeGroup(1, 100)
		g.fail = func(_ int, c *Commit) error {
			if len(c.Metadata[tp]) > 4096 {
				return Faultf(Config, "commit", "metadata", "[12] offset metadata too large")
			}
			return nil
		}
		first.want = map[TopicPartition]string{tp: text(4097)}
		_, _, stop := begin(t, g, quarantined(first))
		g.until(t)
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		g.check(t)
	})
}

func TestTwoOwnersOfOneMemberAreRefused(t *testing.T) {
	for _, names := range [][]string{{"starts"}, {"wallet", "wallet"}} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%v is taken", names)
				}
			}()
			var o StageOptions
			for _, n := range names {
				o.Attachments = append(o.Attachments, &notes{name: n})
			}
			NewStage(nil, nil, o)
		}()
	}
}

func TestACommitWithNothingButAMarkTakesNoJSON(t *testing.T) {
	tp := TopicPartition{"in", 0}
	if n := testing.AllocsPerRun(100, func() { compose(mark{Open: true}, nil, nil, tp) }); n > 0 {
		t.Errorf("%v allocations", n)
	}
}
