package demo

import (
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/mattn/go-runewidth"
	"github.com/twmb/franz-go/pkg/kgo"
)

var paint = regexp.MustCompile("\x1b\\[[0-9]*m")

func record(partition int32, offset int64, topic, value string) *kgo.Record {
	return &kgo.Record{Topic: topic, Partition: partition, Value: []byte(value),
		Timestamp: time.Now().Add(-10 * time.Millisecond),
		Headers: []kgo.RecordHeader{{Key: "sluice.source", Value: fmt.Appendf(nil, "customer_reviews/%d/%d", partition,
			offset)}}}
}

const sampleResult = `{"text":"Ada 李 was here","inference":{"sentiment":{"label":"POSITIVE","score":0.9731,"by":"model","model":"m@1","revision":1},` +
	`"entities":{"entities":[{"entity_group":"PER","score":0.9,"word":"ada 李","start":0,"end":5}],"by":"model","model":"n@2","revision":1}}}`

func TestARowShowsWhatTheResultSays(t *testing.T) {
	row := newRow(record(2, 7, outputTopic, sampleResult), time.Now())
	if got, want := row.plain(), "2/7  POSITIVE 0.9731  PER:Ada 李  model  Ada 李 was here"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	if row.latency < 10*time.Millisecond || row.latency > time.Minute {
		t.Errorf("latency %v", row.latency)
	}
	r := record(0, 1, deadLetterTopic, "{no json")
	r.Headers = append(r.Headers, kgo.RecordHeader{Key: "sluice.error.message",
		Value: []byte("the value is not valid JSON")})
	if got := newRow(r, time.Now()).plain(); got != "0/1  DEAD LETTER the value is not valid JSON  -    {no json" {
		t.Errorf("%q", got)
	}
}

func TestNoRecordCanWriteToTheTerminal(t *testing.T) {
	nasty := "\x1b[2J\x1b]0;title\x07 \u009b31m \u202egnp \u2066x\u2069 a\nb\tc\rd \x00 \xff \u2028 \ufeff " +
		"👩\u200d👩\u200d👧 ok"
	for _, s := range []string{printable(nasty), row{text: nasty, verdicts: []verdict{{"m", nasty, 1}},
		entities: []entity{{nasty, nasty}}}.plain()} {
		if !utf8.ValidString(s) {
			t.Errorf("not UTF-8: %q", s)
		}
		for _, r := range s {
			if unicode.IsControl(r) || r == '\u202e' || r == '\u2066' || r == '\u2028' {
				t.Errorf("%q is in %q", r, s)
			}
		}
	}
	if got := printable("👩\u200d👧 a\nb"); got != "👩\u200d👧 a b" {
		t.Errorf("%q", got)
	}
}

func TestTheTableFitsEveryTerminal(t *testing.T) {
	d := newState(time.Now(), Plan{Broker: "127.0.0.1:9092"})
	texts := []string{"short", strings.Repeat("long text ", 60), strings.Repeat("漢字かな", 40), strings.Repeat("👩‍👩‍👧😀",
		30), "שלום עולם مرحبا", "e\u0301\u0327 combining", "\x1b[31mred\x1b[0m", ""}
	for i := range 100 {
		value := strings.Replace(sampleResult, "Ada 李 was here", strings.NewReplacer("\x1b", `\u001b`).Replace(
			texts[i%len(texts)]), 1)
		d.answered(newRow(record(int32(i%3), int64(i/3), outputTopic, value), time.Now()))
	}
	for _, width := range []int{1, 5, 20, 40, 59, 60, 80, 89, 90, 132, 300} {
		for _, height := range []int{1, 3, 6, 24, 200} {
			lines := d.frame(width, height, time.Now())
			if len(lines) > height {
				t.Errorf("%d lines on a terminal of %d", len(lines), height)
			}
			for _, line := range lines {
				bare := paint.ReplaceAllString(line, "")
				if w := runewidth.StringWidth(bare); w > width {
					t.Errorf("a line of %d cells on a terminal of %d: %q", w, width, bare)
				}
				if strings.ContainsRune(bare, '\x1b') {
					t.Errorf("an escape from a text: %q", bare)
				}
			}
			if height >= 24 && width >= 60 && !strings.Contains(lines[4], "VERDICT") {
				t.Errorf("no header at %dx%d: %q", width, height, lines)
			}
		}
	}
}

func TestRepeatedAndMissingResultsAreNoticed(t *testing.T) {
	d := newState(time.Now(), Plan{})
	for _, offset := range []int64{0, 1, 1, 3} {
		d.produced()
		d.answered(newRow(record(0, offset, outputTopic, sampleResult), time.Now()))
	}
	if d.count() != 3 || d.missing(3) != "demo: 1 results came twice" {
		t.Errorf("%d, %q", d.count(), d.missing(3))
	}
	d.repeated = 0
	if got := d.missing(4); got != "demo: 4 records were to be judged, 3 have an answer" {
		t.Errorf("%q", got)
	}
}

func TestFigures(t *testing.T) {
	now := time.Now()
	d := newState(now.Add(-time.Minute), Plan{})
	for i := range 50 {
		d.produced()
		d.answered(newRow(record(0, int64(i), outputTopic, sampleResult), now))
	}
	d.firstAt = now.Add(-10 * time.Second)
	f := d.figures(time.Now())
	if f.sent != 50 || f.results != 50 || f.rate < 9 || f.rate > 11 {
		t.Errorf("%+v", f)
	}
	list := make([]time.Duration, 100)
	for i := range list {
		list[i] = time.Duration(100-i) * time.Millisecond
	}
	if p50, p99 := percentiles(list); p50 != 51*time.Millisecond || p99 != 100*time.Millisecond {
		t.Errorf("p50 %v, p99 %v", p50, p99)
	}
}
