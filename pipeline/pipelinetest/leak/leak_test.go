package leak

import (
	"strings"
	"testing"
)

// run is 200 samples of a process whose memory and goroutines go as the functions say, from 0 at the first to 1 at the
// last.
func run(resident, goroutines func(part float64) float64) (all []Sample) {
	for i := range 200 {
		part := float64(i) / 199
		noise := float64(i%7-3) * (1 << 20)
		all = append(all, Sample{Texts: 5000 * (i + 1), Resident: 130<<20 + resident(part)*(1<<20) + noise,
			Goroutines: int(30 + goroutines(part) + float64(i%3))})
	}
	return all
}

func TestJudge(t *testing.T) {
	flat := func(float64) float64 { return 0 }
	for _, c := range []struct {
		name                 string
		resident, goroutines func(float64) float64
		says                 string // "": all is flat
	}{
		{"what stays flat is no leak", flat, flat, ""},
		{"what grows in the first quarter only is no leak", func(part float64) float64 { return 200 * min(part, 0.24) },
			flat, ""},
		{"memory that grows with every text is one", func(part float64) float64 { return 50 * part }, flat,
			"resident memory grows"},
		{"memory that stays up after a step is one", func(part float64) float64 { return 60 * float64(int(part+0.5)) },
			flat, "resident memory grows"},
		{"goroutines that stay are one", flat, func(part float64) float64 { return 8 * part }, "goroutines go from"},
		{"a burst of goroutines is one", flat, func(part float64) float64 {
			if part > 0.5 && part < 0.51 {
				return 20
			}
			return 0
		}, "goroutines go from"},
	} {
		t.Run(c.name, func(t *testing.T) {
			v, err := Judge(run(c.resident, c.goroutines))
			if c.says == "" && err != nil || c.says != "" && (err == nil || !strings.Contains(err.Error(), c.says)) {
				t.Errorf("%v: error %v, want %q", v, err, c.says)
			}
		})
	}
	if _, err := Judge(run(flat, flat)[:10]); err == nil {
		t.Error("ten samples are enough to be sure")
	}
}

func TestNoTwoTextsAreEqual(t *testing.T) {
	seen, long := map[string]bool{}, 0
	for i, s := range Texts(2000, 20) {
		if i != len(seen) || seen[s] {
			t.Fatalf("text %d, after %d others, is %.80q", i, len(seen), s)
		}
		seen[s] = true
		switch n := len(strings.Fields(s)); {
		case n >= 1500:
			long++
		case n > 28:
			t.Errorf("text %d has %d words", i, n)
		}
	}
	if len(seen) != 2020 || long != 20 {
		t.Errorf("%d texts, %d of them long; want 2020 and 20", len(seen), long)
	}
}
