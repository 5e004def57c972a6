package suggest_test

import (
	"fmt"
	"testing"

	"sluice/cmd/sluice/suggest"
)

func Example() {
	modes := []string{"amend", "defer", "shadow"}
	fmt.Printf("there is no mode defr%s\n", suggest.DidYouMean("defr", modes))
	fmt.Printf("there is no mode later%s\n", suggest.DidYouMean("later", modes))
	// Output:
	// there is no mode defr; did you mean defer?
	// there is no mode later
}

func TestNearest(t *testing.T) {
	candidates := []string{"exactly-once", "at-least-once", "group", "session_timeout", "max"}
	for s, want := range map[string]string{
		"exactly_once": "exactly-once", "EXACTLYONCE": "exactly-once", "gruop": "group",
		"session": "session_timeout", "groups": "group", "min": "", "": "", "colour": "",
		"sesion_timeuot": "session_timeout",
	} {
		if got := suggest.Nearest(s, candidates); got != want {
			t.Errorf("nearest to %q is %q, want %q", s, got, want)
		}
	}
}
