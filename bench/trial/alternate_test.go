package trial

import (
	"errors"
	"flag"
	"io"
	"slices"
	"testing"
)

func TestSpreadIsTheMedianWithTheRange(t *testing.T) {
	if got := Spread([]float64{3, 1, 2}, "%.0f"); got != "2 (1–3)" {
		t.Error(got)
	}
}

// Everybody has a turn a round, and everybody is first as often as the others; the first of all is the first that is
// named.
func TestTurns(t *testing.T) {
	var order []int
	names := []string{"a", "b", "c"}
	if err := Turns(io.Discard, 3, names, func(k int) error { order = append(order, k); return nil }); err != nil ||
		!slices.Equal(order, []int{0, 1, 2, 1, 2, 0, 2, 0, 1}) {
		t.Errorf("%v, %v", order, err)
	}
	broken := errors.New("broken")
	if err := Turns(io.Discard, 3, names, func(k int) error {
		if k == 1 {
			return broken
		}
		return nil
	}); !errors.Is(err, broken) || err.Error() != "b: broken" {
		t.Errorf("%v", err)
	}
}

func TestACommandHasTheFlagsThatItHasStandardsFor(t *testing.T) {
	c := NewCommand("bench/x", "x.md")
	c.Texts, c.Rounds = "", 9
	f := flag.NewFlagSet("x", flag.ContinueOnError)
	c.flags(f)
	if err := f.Parse([]string{"-model", "m", "-rounds", "2"}); err != nil {
		t.Fatal(err)
	}
	if f.Lookup("texts") != nil || c.Model != "m" || c.Rounds != 2 || c.Partitions != 6 || c.Out != "x.md" ||
		c.Binary != "dist/sluice" {
		t.Errorf("%+v", c)
	}
}
