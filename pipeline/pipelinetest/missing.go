package pipelinetest

import (
	"os"
	"testing"
)

// This file owns what a test does where something is not there that it needs.

// Missing skips a test loudly because of what is not there; in CI, where it ought to be there, it fails the test.
func Missing(tb testing.TB, format string, args ...any) {
	tb.Helper()
	if os.Getenv("CI") == "true" {
		tb.Fatalf("MISSING IN CI: "+format, args...)
	}
	tb.Skipf("SKIPPED, NOT TESTED: "+format, args...)
}
