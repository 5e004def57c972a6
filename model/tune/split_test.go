package tune

import (
	"slices"
	"testing"
)

func TestSplitKeepsProportionsAndLosesNothing(t *testing.T) {
	var labels []string
	for i := range 1000 {
		labels = append(labels, map[bool]string{true: "RARE", false: "OFTEN"}[i%10 == 0])
	}
	choosing, held := Split(labels, 0.3, 5)
	if len(choosing) != 700 || len(held) != 300 {
		t.Errorf("%d and %d", len(choosing), len(held))
	}
	rare := 0
	for _, i := range held {
		rare += int(truth(labels[i] == "RARE"))
	}
	if rare != 30 {
		t.Errorf("%d of the rare label are held out", rare)
	}
	both := slices.Sorted(slices.Values(slices.Concat(choosing, held)))
	for i := range both {
		if both[i] != i {
			t.Fatalf("text %d is in neither part or in both", i)
		}
	}
	again, _ := Split(labels, 0.3, 5)
	other, _ := Split(labels, 0.3, 6)
	if !slices.Equal(choosing, again) || slices.Equal(choosing, other) {
		t.Error("the seed does not fix the split")
	}
	if all, none := Split(labels, 0, 5); len(all) != 1000 || len(none) != 0 {
		t.Error("a share of 0 holds something out")
	}
}
