package load

import "testing"

func TestSpreadIsTheMedianWithTheRange(t *testing.T) {
	if got := Spread([]float64{3, 1, 2}, "%.0f"); got != "2 (1–3)" {
		t.Error(got)
	}
}
