package pipelinetest

import "testing"

func TestHistoryFindsWhatIsWrong(t *testing.T) {
	for _, c := range []struct {
		name string
		ids  []int // in the order of one partition
		want Report
	}{
		{"all is well", []int{0, 1, 2}, Report{Sent: 3}},
		{"lost", []int{0, 2}, Report{Sent: 3, Lost: 1}},
		{"doubled", []int{0, 1, 1, 2}, Report{Sent: 3, Doubled: 1, Disorder: 1}},
		{"out of order", []int{0, 2, 1}, Report{Sent: 3, Disorder: 1}},
		{"never sent", []int{0, 1, 2, 3, -1}, Report{Sent: 3, Foreign: 2}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var h History
			for offset, id := range c.ids {
				h.Add(0, int64(offset), id)
			}
			got := h.Check(3)
			if got.Clean() != (c.name == "all is well") {
				t.Errorf("Clean of %v", got)
			}
			got.Examples = nil
			if got.String() != c.want.String() {
				t.Errorf("%v, want %v", got, c.want)
			}
		})
	}
}
