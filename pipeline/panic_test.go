package pipeline

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"
)

func TestAPanicWhileAMessageIsReplacedIsThatRecordsFate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newFakeGroup(1, 9)
		dead := 0
		g.fail = refusing(func(m *Message) bool {
			return m.Topic == "out" && string(m.Headers[0].Value) == "4"
		})
		o := StageOptions{
			Refused: func(*Record, *Outcome, []Refusal) (Outcome, bool) { panic("no room") },
			Panicked: func(r *Record, f *Fault) Outcome {
				if dead++; r.Offset != 4 || f.Kind != Poison || f.Reason != "panic" {
					t.Errorf("offset %d: %v", r.Offset, f)
				}
				return Outcome{Disposition: DeadLetter, Messages: []Message{{Topic: "dead", Source: r.TopicPartition(),
					Headers: []Header{{"o", fmt.Append(nil, r.Offset)}}}}}
			},
		}
		err := runStage(t, g, &fakeProcessor{took: random(time.Millisecond)}, o, func(stop context.CancelFunc, _ *Stage,
			_ *fakeSource) {
			time.Sleep(time.Minute)
			stop()
		})
		if err != nil || dead != 1 {
			t.Errorf("%v, %d dead letters", err, dead)
		}
		g.check(t)
	})
}
