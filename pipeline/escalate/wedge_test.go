package escalate

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"sluice/pipeline"
	"sluice/pipeline/llm"
	"sluice/pipeline/llm/standin"
)

// Whatever is done to a request and does not end is found, and named. A question that takes long is not.
func TestARequestThatSomethingHangsOnIsFound(t *testing.T) {
	for _, step := range []string{"decode", "redact", "prompt", "parse", "decide", "encode"} {
		t.Run(step, func(t *testing.T) {
			inBubble(t, func(t *bubble) {
				b := newBroker(1)
				t.a.Always(standin.Slow(50 * time.Second))
				b.add(t, ask{text: "fine", score: 0.6}, ask{text: "endless", score: 0.6})
				free, found := make(chan struct{}), make(chan error, 10)
				d := t.work(b, deskOptions{redact: []string{"email"}, pool: llm.Options{Timeout: time.Minute},
					dog: pipeline.NewWatchdog(pipeline.WatchdogOptions{Timeout: 20 * time.Second,
						Wedged: func(err error) {
							found <- err
						}}),
					step: func(name, text string) {
						if name == step && text == "endless" {
							<-free
						}
					}})
				err := <-found
				var f *pipeline.Fault
				if !errors.As(err, &f) || f.Stage != step || f.Reason != "wedged" || f.Kind != pipeline.Internal ||
					!strings.Contains(err.Error(), "the request of asks-0 at offset 1 has been worked on "+
						"("+step+") for 30s") {
					t.Error(err)
				}
				close(free)
				if got := d.await(2); len(got) != 2 || len(found) > 0 {
					t.Errorf("%d results, %d more were found", len(got), len(found))
				}
				d.stop()
				time.Sleep(time.Hour)
				synctest.Wait()
				if len(found) > 0 {
					t.Errorf("found when all has ended: %v", <-found)
				}
			})
		})
	}
}
