package history

import (
	"fmt"
	"testing"

	"pgregory.net/rapid"
)

// good is a run of n records over two partitions in which all went well.
func good(n int) Run {
	run := Run{Group: Group{Committed: map[Partition]int64{}, Ends: map[Partition]int64{}}}
	for i := range n {
		from := Partition{"in", int32(i % 2)}
		in := Input{Partition: from, Offset: int64(i / 2), Key: fmt.Sprint("r-", i), Value: fmt.Appendf(nil,
			`{"id":%d}`, i), Same: "a"}
		out := Output{Partition: Partition{"out", from.Number}, Offset: in.Offset, Key: in.Key, Value: fmt.Appendf(nil,
			`{"id":%d,"v":1}`, i), Source: fmt.Sprintf("%s/%d", from, in.Offset)}
		if i%5 == 3 {
			in.Value = in.Value[:len(in.Value)-1]
			out.Dead, out.Value, out.Partition.Topic = true, in.Value, "dlq"
		}
		run.Inputs = append(run.Inputs, in)
		run.Outputs = append(run.Outputs, out)
		run.Group.Committed[from], run.Group.Ends[from] = in.Offset+1, in.Offset+1
		run.Samples = append(run.Samples, Sample{Partition: from, Offset: in.Offset + 1})
	}
	return run
}

func TestPlantedFaultsAreFound(t *testing.T) {
	for _, c := range []struct {
		name  string
		plant func(*Run)
		want  func(*Report) int
	}{
		{"a lost result", func(r *Run) { r.Outputs = append(r.Outputs[:4], r.Outputs[5:]...) },
			func(r *Report) int { return r.Lost }},
		{"a lost dead letter", func(r *Run) { r.Outputs = append(r.Outputs[:3], r.Outputs[4:]...) },
			func(r *Report) int { return r.Lost }},
		{"a doubled result", func(r *Run) {
			o := r.Outputs[4]
			o.Offset = 1000
			r.Outputs = append(r.Outputs, o)
		}, func(r *Report) int { return r.Doubled }},
		{"a result and a dead letter of one record", func(r *Run) {
			o := r.Outputs[4]
			o.Partition.Topic, o.Dead, o.Value = "dlq", true, r.Inputs[4].Value
			r.Outputs = append(r.Outputs, o)
		}, func(r *Report) int { return r.Doubled }},
		{"a result of nothing", func(r *Run) {
			o := r.Outputs[4]
			o.Source, o.Offset = "in/0/999", 1000
			r.Outputs = append(r.Outputs, o)
		}, func(r *Report) int { return r.Foreign }},
		{"a result that names another source", func(r *Run) { r.Outputs[4].Source = r.Outputs[6].Source },
			func(r *Report) int { return r.Lost }},
		{"a result with another key", func(r *Run) { r.Outputs[4].Key = "r-6" },
			func(r *Report) int { return r.Changed }},
		{"disorder", func(r *Run) {
			r.Outputs[4].Offset, r.Outputs[6].Offset = r.Outputs[6].Offset, r.Outputs[4].Offset
		}, func(r *Report) int { return r.Disorder }},
		{"an offset that goes back", func(r *Run) {
			r.Samples = append(r.Samples, Sample{Partition: Partition{"in", 0},
				Offset: 1})
		}, func(r *Report) int { return r.Backward }},
		{"an offset beyond the end", func(r *Run) { r.Group.Committed[Partition{"in", 0}]++ },
			func(r *Report) int { return r.Passed }},
		{"a result before its commit", func(r *Run) {
			p := Partition{"in", 0}
			r.Group.Committed[p] = 9
			r.Group.Ends[p] = 9
		}, func(r *Report) int { return r.Ahead }},
		{"a lag", func(r *Run) { r.Group.Ends[Partition{"in", 1}] += 7 }, func(r *Report) int { return int(r.Lag) }},
		{"another verdict for an equal text", func(r *Run) { r.Outputs[4].Value = []byte(`{"id":4,"v":2}`) },
			func(r *Report) int { return r.Unlike }},
		{"changed source bytes", func(r *Run) { r.Outputs[4].Value = []byte(`{"id":5,"v":1}`) },
			func(r *Report) int { return r.Changed }},
		{"a value made of nothing", func(r *Run) { r.Inputs[4].Value = nil }, func(r *Report) int { return r.Changed }},
		{"nothing made of a value", func(r *Run) { r.Outputs[4].Value = nil },
			func(r *Report) int { return r.Changed }},
		{"a changed dead letter", func(r *Run) { r.Outputs[3].Value = []byte(`{"id":`) },
			func(r *Report) int { return r.Changed }},
	} {
		t.Run(c.name, func(t *testing.T) {
			run := good(20)
			c.plant(&run)
			r := Check(run)
			if r.Clean() || c.want(r) == 0 || len(r.Examples) == 0 && r.Lag == 0 {
				t.Errorf("%v %v", r, r.Examples)
			}
		})
	}
}

func TestAGoodRunIsClean(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		run := good(rapid.IntRange(0, 60).Draw(t, "records"))
		run.Outputs = rapid.Permutation(run.Outputs).Draw(t, "outputs") // readers see partitions in any order
		if r := Check(run); !r.Clean() {
			t.Errorf("%v %v", r, r.Examples)
		}
	})
}

func TestARecordWithoutAValueComesOutWithoutOne(t *testing.T) {
	run := good(20)
	run.Inputs[4].Value, run.Outputs[4].Value = nil, nil
	if r := Check(run); !r.Clean() {
		t.Errorf("%v %v", r, r.Examples)
	}
}

func TestOptionalRecordsMayBeLostAndNotDoubled(t *testing.T) {
	run := good(20)
	run.Inputs[4].Optional = true
	o := run.Outputs[4]
	run.Outputs = append(run.Outputs[:4], run.Outputs[5:]...)
	if r := Check(run); !r.Clean() {
		t.Errorf("lost: %v", r)
	}
	run.Outputs = append(run.Outputs, o, o)
	if r := Check(run); r.Doubled != 1 {
		t.Errorf("doubled: %v", r)
	}
}
