package history

import (
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// amended is a run of n records in which all went well: every fourth result is provisional and has a final verdict
// behind all results, every third result has an alert, and so has every second final verdict.
func amended(n int) Run {
	run := good(n)
	alert := func(o Output) {
		o.Partition.Topic, o.Offset = "alerts", int64(len(run.Alerts))
		run.Alerts = append(run.Alerts, o)
	}
	for i := range n {
		o := &run.Outputs[i]
		if o.Dead {
			continue
		}
		o.ID, o.Revision = o.Source+"#0", 1
		o.Provisional, o.Asked = i%4 == 0, i%4 == 0
		if o.Due = i%3 == 0; o.Due {
			alert(*o)
		}
		if o.Provisional {
			f := *o
			f.ID, f.Amends, f.Revision, f.Provisional, f.Asked, f.Due = f.Source+"#2", f.ID, 2, false, false, i%8 == 0
			f.Offset, f.Value = int64(10_000+i), fmt.Appendf(nil, `{"id":%d,"v":%d}`, i, i)
			if i%16 == 0 {
				f.Fallback, f.Reason = true, "endpoint"
			}
			run.Outputs = append(run.Outputs, f)
			if f.Due {
				alert(f)
			}
		}
	}
	return run
}

func TestPlantedFaultsBesideResultsAreFound(t *testing.T) {
	const n = 40
	final := func(r *Run, i int) *Output { // of record i
		k := slices.IndexFunc(r.Outputs, func(o Output) bool {
			return o.Revision == 2 &&
				o.Source == r.Outputs[i].Source
		})
		return &r.Outputs[k]
	}
	without := func(all []Output, revision int, source string) []Output {
		return slices.DeleteFunc(all, func(o Output) bool { return o.Revision == revision && o.Source == source })
	}
	silent := func(r *Report) int { return r.Silent }
	alone := func(r *Report) int { return r.Alone }
	unsettled := func(r *Report) int { return r.Unsettled }
	misplaced := func(r *Report) int { return r.Misplaced }
	for _, c := range []struct {
		name  string
		plant func(*Run)
		want  func(*Report) int
	}{
		{"a missing alert", func(r *Run) { r.Alerts = r.Alerts[1:] }, silent},
		{"a missing alert of a final verdict", func(r *Run) { r.Alerts = without(r.Alerts, 2, final(r, 16).Source) },
			silent},
		{"all alerts missing", func(r *Run) { r.Alerts = nil }, silent},
		{"a doubled alert", func(r *Run) {
			a := r.Alerts[1]
			a.Offset = 1000
			r.Alerts = append(r.Alerts, a)
		}, func(r *Report) int { return r.Repeated }},
		{"an alert without a result", func(r *Run) { r.Outputs = without(r.Outputs, 1, r.Outputs[6].Source) }, alone},
		{"an alert of a dead letter", func(r *Run) {
			a := r.Alerts[0]
			a.Source = r.Outputs[3].Source
			r.Alerts = append(r.Alerts, a)
		}, alone},
		{"an alert whose rule does not hold", func(r *Run) {
			a := r.Outputs[1]
			a.Partition.Topic = "alerts"
			r.Alerts = append(r.Alerts, a)
		}, alone},
		{"an alert of a final verdict that is not there", func(r *Run) {
			r.Outputs = without(r.Outputs, 2,
				final(r, 16).Source)
		}, alone},
		{"an alert of another revision", func(r *Run) { r.Alerts[0].Revision = 2 }, silent},
		{"an alert that is no copy", func(r *Run) { r.Alerts[1].Value = []byte("{}") },
			func(r *Report) int { return r.Changed }},
		{"a lost final verdict", func(r *Run) { r.Outputs = without(r.Outputs, 2, final(r, 4).Source) }, unsettled},
		{"a doubled final verdict", func(r *Run) {
			f := *final(r, 4)
			f.Offset++
			r.Outputs = append(r.Outputs, f)
		}, func(r *Report) int { return r.Doubled }},
		{"a final verdict of a result that is final", func(r *Run) {
			r.Outputs[4].Provisional,
				r.Outputs[4].Asked = false, false
		}, misplaced},
		{"a final verdict without its provisional result", func(r *Run) {
			r.Outputs = without(r.Outputs, 1,
				r.Outputs[4].Source)
		}, misplaced},
		{"a final verdict that amends another", func(r *Run) { final(r, 4).Amends = r.Outputs[6].ID }, misplaced},
		{"a final verdict before its provisional result", func(r *Run) { final(r, 4).Offset = -1 }, misplaced},
		{"a final verdict in another partition", func(r *Run) { final(r, 4).Partition.Number = 1 }, misplaced},
		{"a final verdict that says that it is provisional", func(r *Run) { final(r, 4).Provisional = true },
			misplaced},
		{"a result that should be provisional", func(r *Run) { r.Outputs[5].Asked = true }, misplaced},
		{"a fallback without a reason", func(r *Run) { final(r, 16).Reason = "" },
			func(r *Report) int { return r.Unreasoned }},
		{"a final verdict with other source bytes", func(r *Run) { final(r, 4).Value = []byte(`{"id":5,"v":1}`) },
			func(r *Report) int { return r.Changed }},
		{"a final verdict of nothing", func(r *Run) { final(r, 4).Source = "in/0/999" },
			func(r *Report) int { return r.Foreign }},
		{"provisional results in disorder", func(r *Run) {
			r.Outputs[4].Offset, r.Outputs[6].Offset = r.Outputs[6].Offset, r.Outputs[4].Offset
		}, func(r *Report) int { return r.Disorder }},
	} {
		t.Run(c.name, func(t *testing.T) {
			run := amended(n)
			c.plant(&run)
			r := Check(run)
			if r.Clean() || c.want(r) == 0 || len(r.Examples) == 0 {
				t.Errorf("%v %v", r, r.Examples)
			}
		})
	}
}

func TestAGoodRunWithAlertsAndFinalVerdictsIsClean(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		run := amended(rapid.IntRange(0, 60).Draw(t, "records"))
		run.Outputs = rapid.Permutation(run.Outputs).Draw(t, "outputs")
		run.Alerts = rapid.Permutation(run.Alerts).Draw(t, "alerts")
		if r := Check(run); !r.Clean() {
			t.Errorf("%v %v", r, r.Examples)
		}
	})
}

// In the middle of a run some records are not processed yet: what is visible has to fit all the same.
func TestAlertsInTheMiddleOfARun(t *testing.T) {
	run := amended(40)
	some := slices.DeleteFunc(slices.Clone(run.Outputs), func(
		o Output) bool {
		return o.Source == run.Outputs[6].Source
	})
	alerts := slices.DeleteFunc(slices.Clone(run.Alerts), func(
		o Output) bool {
		return o.Source == run.Outputs[6].Source
	})
	if r := CheckAlerts(some, alerts); !r.Clean() {
		t.Errorf("%v %v", r, r.Examples)
	}
	if r := CheckAlerts(some, run.Alerts); r.Alone != 1 {
		t.Errorf("an alert whose result is not visible: %v", r)
	}
	if r := CheckAlerts(run.Outputs, alerts); r.Silent != 1 {
		t.Errorf("a result whose alert is not visible: %v", r)
	}
}
