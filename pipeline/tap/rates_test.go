package tap

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"sluice/pipeline"
)

// clock is one that a test sets.
type clock struct{ time.Time }

func (c *clock) now() time.Time { return c.Time }

func (c *clock) pass(d time.Duration) { c.Time = c.Time.Add(d) }

func scored(by ...pipeline.By) *pipeline.Outcome {
	o := &pipeline.Outcome{Disposition: pipeline.Scored}
	for _, b := range by {
		o.Facts = append(o.Facts, pipeline.Fact{Name: "sentiment", By: b})
	}
	return o
}

func TestRatesAreMeansOfTheLastMinutes(t *testing.T) {
	c := &clock{time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)}
	r := NewRates(c.now)
	every := func(seconds, perSecond int, o *pipeline.Outcome) {
		for range seconds {
			for range perSecond {
				r.Durable(&pipeline.Record{}, o)
			}
			c.pass(time.Second)
		}
	}
	want := func(name string, got PerSecond, one, five float64) {
		t.Helper()
		if fmt.Sprintf("%.2f %.2f", got.OneMinute, got.FiveMinutes) != fmt.Sprintf("%.2f %.2f", one, five) {
			t.Errorf("%s: %+v, want %v and %v", name, got, one, five)
		}
	}
	want("nothing yet", r.Page().Records, 0, 0)
	every(10, 6, scored(pipeline.ByModel))
	want("since the start", r.Page().Records, 6, 6)
	every(50, 0, nil)
	want("a quiet minute", r.Page().Records, 1, 1)
	every(60, 3, &pipeline.Outcome{Disposition: pipeline.DeadLetter})
	p := r.Page()
	want("results", p.Outcomes[pipeline.Scored], 0, 60./120)
	want("dead letters", p.Outcomes[pipeline.DeadLetter], 3, 180./120)
	want("verdicts", p.Verdicts["sentiment"][pipeline.ByModel], 0, 60./120)
	c.pass(400 * time.Second)
	want("long after", r.Page().Outcomes[pipeline.Scored], 0, 0)
	// the wall clock steps back: nothing is lost or counted twice, the rest of the hour is one second
	c.pass(-time.Hour)
	every(20, 1, scored())
	want("after a step back", r.Page().Records, 0, 0)
	c.pass(time.Hour)
	want("when the clock has caught up", r.Page().Records, 20./60, 20./300)
}

func TestRatesHaveABound(t *testing.T) {
	c := &clock{time.Unix(1000, 0)}
	r := NewRates(c.now)
	for i := range 1000 {
		o := scored()
		o.Disposition = pipeline.Disposition(fmt.Sprint(i))
		o.Facts = []pipeline.Fact{{Name: fmt.Sprint(i), By: pipeline.ByModel}}
		r.Durable(&pipeline.Record{}, o)
	}
	c.pass(10 * time.Second)
	p := r.Page()
	if len(p.Outcomes) != mostNames+1 || len(p.Verdicts) != mostNames+1 || p.Outcomes[Other].OneMinute != 93.6 ||
		p.Verdicts[Other][Other].OneMinute != 93.6 || p.Records.OneMinute != 100 {
		t.Errorf("%d dispositions, %d verdicts, other %v and %v", len(p.Outcomes), len(p.Verdicts), p.Outcomes[Other],
			p.Verdicts[Other])
	}
}

func TestATapOfRatesTakesNoMemoryForARecord(t *testing.T) {
	r, o := NewRates(time.Now), scored(pipeline.ByModel, pipeline.ByStudent)
	if n := testing.AllocsPerRun(1000, func() { r.Durable(nil, o) }); n > 0 {
		t.Errorf("%v allocations a record", n)
	}
}

// What /status shows.
func ExampleRates() {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	rates := NewRates(func() time.Time { return now })
	for range 300 { // a stage does this: StageOptions.Taps
		rates.Durable(&pipeline.Record{}, scored(pipeline.ByModel))
	}
	now = now.Add(100 * time.Second)
	page, err := json.MarshalIndent(rates.Page(), "", "  ")
	fmt.Println(string(page), err)
	// Output:
	// {
	//   "records_per_second": {
	//     "1m": 0,
	//     "5m": 3
	//   },
	//   "outcomes_per_second": {
	//     "result": {
	//       "1m": 0,
	//       "5m": 3
	//     }
	//   },
	//   "verdicts_per_second": {
	//     "sentiment": {
	//       "model": {
	//         "1m": 0,
	//         "5m": 3
	//       }
	//     }
	//   }
	// } <nil>
}
