package worker

import (
	"sluice/cmd/sluice/settings"
	"testing"

	"sluice/pipeline/llm"
)

// What a pool has by default is what a worker has whose configuration says nothing of the endpoint but where it is.
func TestAPoolsDefaultsAreTheConfigurations(t *testing.T) {
	e, o := settings.Default().Escalation.Endpoint, llm.DefaultOptions()
	for _, c := range []struct {
		key              string
		configured, pool any
	}{
		{"timeout", e.Timeout, o.Timeout}, {"max_attempts", e.MaxAttempts, o.MaxAttempts},
		{"max_concurrency", e.MaxConcurrency, o.MaxConcurrency}, {"max_tokens", e.MaxTokens, o.MaxTokens},
		{"max_response_bytes", int64(e.MaxResponseBytes), o.MaxResponseBytes},
		{"structured", e.Structured, o.Structured}, {"breaker_failures", e.BreakerFailures, o.BreakerFailures},
		{"breaker_pause", e.BreakerPause, o.BreakerPause},
	} {
		if c.configured != c.pool {
			t.Errorf("%s: the configuration has %v, a pool %v", c.key, c.configured, c.pool)
		}
	}
}
