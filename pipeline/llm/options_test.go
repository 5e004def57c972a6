package llm_test

import (
	"strings"
	"testing"
	"time"

	"sluice/pipeline/llm"
	"sluice/pipeline/llm/openai"
)

// The numbers are those of the configuration's documentation.
func TestDefaultsMakeAPool(t *testing.T) {
	o := llm.DefaultOptions()
	if o.Timeout != 10*time.Second || o.MaxAttempts != 4 || o.MaxConcurrency != 16 || o.MaxTokens != 200 ||
		o.MaxResponseBytes != 256<<10 || o.Structured != "auto" || o.BreakerFailures != 10 ||
		o.BreakerPause != 15*time.Second {
		t.Errorf("%+v", o)
	}
	o.Name, o.Protocol, o.URLs, o.Model = "test", openai.Protocol{}, []string{"http://a/v1"}, "m"
	p, err := llm.NewPool(o)
	if err != nil {
		t.Fatal(err)
	}
	p.Close()
}

// A pool has no defaults of its own: what is missing is said, under the name that the configuration has for it.
func TestNothingIsFilledIn(t *testing.T) {
	for want, forget := range map[string]func(o *llm.Options){
		"no name":            func(o *llm.Options) { o.Name = "" },
		"no protocol":        func(o *llm.Options) { o.Protocol = nil },
		"timeout":            func(o *llm.Options) { o.Timeout = 0 },
		"max_attempts":       func(o *llm.Options) { o.MaxAttempts = 0 },
		"max_concurrency":    func(o *llm.Options) { o.MaxConcurrency = 0 },
		"max_tokens":         func(o *llm.Options) { o.MaxTokens = 0 },
		"max_response_bytes": func(o *llm.Options) { o.MaxResponseBytes = 0 },
		"structured":         func(o *llm.Options) { o.Structured = "" },
		"breaker_failures":   func(o *llm.Options) { o.BreakerFailures = 0 },
		"breaker_pause":      func(o *llm.Options) { o.BreakerPause = 0 },
	} {
		o := llm.DefaultOptions()
		o.Name, o.Protocol, o.URLs, o.Model = "test", openai.Protocol{}, []string{"http://a/v1"}, "m"
		forget(&o)
		if _, err := llm.NewPool(o); err == nil || !strings.Contains(err.Error(), want) ||
			strings.Contains(err.Error(), "\n") {
			t.Errorf("%s is missing: %v", want, err)
		}
	}
}
