package load_test

import (
	"fmt"
	"time"

	"sluice/cmd/sluice/load"
)

// When records are due is fixed by a seed before the first of them is sent.
func ExampleSchedule() {
	due, err := load.Schedule(load.Bursts, 6, 2*time.Second, 1)
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, d := range due {
		fmt.Println(d.Round(10 * time.Millisecond))
	}
	// Output:
	// 0s
	// 0s
	// 0s
	// 550ms
	// 670ms
	// 880ms
	// 1s
	// 1s
	// 1s
	// 1.23s
	// 1.31s
	// 1.33s
	// 1.45s
}

// A profile says what is sent, and how it is spread over time.
func ExampleProfileNamed() {
	p, err := load.ProfileNamed("zipf")
	fmt.Println(p.Lengths, p.Arrivals, p.Duplicates, err)
	_, err = load.ProfileNamed("longer")
	fmt.Println(err)
	// Output:
	// mixed poisson 0.3 <nil>
	// profile "longer" is unknown; there are short, mixed, long, zipf, bursts, poison
}
