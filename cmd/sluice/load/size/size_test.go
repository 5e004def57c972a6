package size

import (
	"math"
	"testing"
)

func TestSizing(t *testing.T) {
	for _, c := range []struct {
		name                                 string
		stream                               Stream
		wantCores, wantWorkers, wantPartions int
	}{
		{"one core is enough", Stream{10, 20, 3000, 0.9, 0.7, 1}, 1, 1, 2},
		{"exactly at the edge", Stream{100, 10, 1000, 1, 1, 1}, 1, 1, 2},
		{"whole workers", Stream{100, 11, 1000, 1, 1, 4}, 4, 1, 2},
		{"what is kept free counts", Stream{1000, 25, 5000, 0.9, 0.7, 2}, 8, 4, 8},
	} {
		s, err := Of(c.stream)
		if err != nil || s.Cores != c.wantCores || s.Workers != c.wantWorkers || s.Partitions != c.wantPartions {
			t.Errorf("%s: %+v, %v", c.name, s, err)
		}
		if capacity := float64(s.Cores) * c.stream.PerCore * c.stream.Efficiency; s.TokensPerS/capacity >
			c.stream.Utilization+1e-9 {
			t.Errorf("%s: planned for %.2f of the maximum, not %.2f", c.name, s.TokensPerS/capacity,
				c.stream.Utilization)
		}
	}
	if _, err := Of(Stream{1e300, 1e10, 1, 1, 1, 1}); err == nil {
		t.Error("an endless number of cores")
	}
	if s, err := Of(Stream{1, 1, math.SmallestNonzeroFloat64, 0.5, 0.5, 1}); err == nil {
		t.Errorf("cores that do nothing: %+v", s)
	}
}
