package audit

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"time"
)

func TestAReportSaysWhatItComesTo(t *testing.T) {
	for name, c := range map[string]struct {
		total      Partition
		repeats    bool
		incomplete bool
		says       string
	}{
		"clean": {Partition{Records: 7}, false, false, "clean: each of 7 records has exactly one answer, in " +
			"order\n"},
		"skipped": {Partition{Records: 7, Skipped: 3}, false, false, "clean: each of 4 records has exactly one " +
			"answer, in order; 3 more were left out by rules of skip\n"},
		"lost":         {Partition{Records: 7, Lost: 1}, false, false, "NOT CLEAN: 1 lost, 0 without a final verdict"},
		"doubled":      {Partition{Records: 7, Doubled: 2}, false, false, "NOT CLEAN: 0 lost"},
		"repeats":      {Partition{Records: 7, Doubled: 2}, true, false, "2 repeats, which at-least-once allows\n"},
		"nothing":      {Partition{}, false, false, "nothing to count"},
		"deleted":      {Partition{Records: 7, Unverifiable: 3}, false, false, "3 of 7 records cannot be verified\n"},
		"not complete": {Partition{Records: 7}, false, true, "NOT COMPLETE"},
	} {
		r := Report{Group: "g", Until: "now", Repeats: c.repeats, Incomplete: c.incomplete, Total: c.total,
			Partitions: []Partition{c.total}, Foreign: map[string]int64{"out": 4}, Notes: []string{"a note"}}
		r.Partitions[0].Topic, r.Partitions[0].Examples = "in", []string{"in/0/5 is lost"}
		var page, object bytes.Buffer
		r.WriteText(&page)
		text := page.String()
		for _, want := range []string{"group g, records from the beginning of the log to now", "in-0", c.says,
			"note: a note",
			"note: out: 4 messages", "found: in/0/5 is lost"} {
			if !strings.Contains(text, want) {
				t.Errorf("%s: no %q in\n%s", name, want, text)
			}
		}
		if strings.Contains(text, "unverifiable") != (c.total.Unverifiable > 0) ||
			strings.Contains(text, "stray copies  ") {
			t.Errorf("%s: a column without anything to say:\n%s", name, text)
		}
		var back Report
		if err := r.WriteJSON(&object); err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(object.Bytes(), &back); err != nil || back.Total.Lost != c.total.Lost {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestTimesAreDurationsBeforeNowOrTimes(t *testing.T) {
	now := time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
	for s, want := range map[string]time.Time{"90m": now.Add(-90 * time.Minute), "0s": now,
		"2026-11-24T08:00:00Z": now.Add(-4 * time.Hour)} {
		if got, err := ParseTime(s, now); err != nil || !got.Equal(want) {
			t.Errorf("%s: %v, %v", s, got, err)
		}
	}
	for _, s := range []string{"", "yesterday", "-5m", "2026-11-24"} {
		if got, err := ParseTime(s, now); err == nil || !strings.Contains(err.Error(), "neither a duration before "+
			"now") {
			t.Errorf("%q: %v, %v", s, got, err)
		}
	}
}
