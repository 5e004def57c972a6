//go:build !failpoint

package failpoint

import "testing"

// The product must not be endable from its environment.
func TestWithoutTheTagNothingHappens(t *testing.T) {
	t.Setenv("FAILPOINT", AfterFetch+":1:panic")
	Hit(AfterFetch)
	if On {
		t.Error("On is true in a build without failpoints")
	}
}
