package escalate

import (
	"cmp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"sluice/pipeline/llm"
	"sluice/pipeline/llm/label"
	"sluice/pipeline/llm/openai"
	"sluice/pipeline/llm/standin"
)

// This file owns the endpoint that the tests of the stage ask, and the bubble of virtual time that they run in.

var labels = []string{"NEGATIVE", "POSITIVE"}

// oracle is what the stub's model thinks.
func oracle(text string) string {
	if strings.Contains(text, "good") {
		return "POSITIVE"
	}
	return "NEGATIVE"
}

func newStub(o standin.Options) *standin.Server {
	o.Labels, o.Oracle = labels, oracle
	return standin.New(o)
}

// bubble runs a test in a synctest bubble, with endpoints in memory: a, which pools ask, and b, which nobody should.
// Both are good until told otherwise.
type bubble struct {
	*testing.T
	net  *standin.Network
	a, b *standin.Server
	task *label.Task
}

func inBubble(t *testing.T, f func(t *bubble)) {
	synctest.Test(t, func(t *testing.T) {
		b := &bubble{T: t, net: &standin.Network{}, a: newStub(standin.Options{}), b: newStub(standin.Options{})}
		b.net.Serve("a", b.a)
		b.net.Serve("b", b.b)
		defer b.net.Close()
		f(b)
		if v := append(b.a.Violations(), b.b.Violations()...); len(v) > 0 {
			t.Errorf("requests that a strict endpoint refuses: %q", v)
		}
	})
}

// pool makes a pool of endpoint a, with numbers, where o has none, that tests of seconds are written for.
func (t *bubble) pool(o llm.Options) *llm.Pool {
	o.Name, o.Protocol, o.URLs, o.Model = "escalation", openai.Protocol{}, []string{"http://a/v1"}, "stub"
	o.Dial = t.net.Dial
	o.Timeout = cmp.Or(o.Timeout, 30*time.Second)
	o.MaxAttempts = cmp.Or(o.MaxAttempts, 4)
	o.MaxConcurrency = cmp.Or(o.MaxConcurrency, 32)
	o.MaxTokens = cmp.Or(o.MaxTokens, 256)
	o.MaxResponseBytes = cmp.Or(o.MaxResponseBytes, 256<<10)
	o.Structured = cmp.Or(o.Structured, llm.ModeAuto)
	o.BreakerFailures = cmp.Or(o.BreakerFailures, 5)
	o.BreakerPause = cmp.Or(o.BreakerPause, 10*time.Second)
	p, err := llm.NewPool(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}
