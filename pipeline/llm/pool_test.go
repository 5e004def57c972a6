package llm_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"sluice/pipeline/llm"
	"sluice/pipeline/llm/label"
	"sluice/pipeline/llm/openai"
	"sluice/pipeline/llm/standin"
)

// This file owns what the tests of calls stand on, and the tests of what a call brings: an answer or a reason.

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

func newTask(t testing.TB) *label.Task {
	task, err := label.New(label.Options{Labels: labels})
	if err != nil {
		t.Fatal(err)
	}
	return task
}

// question is the call of a task about a text.
func question[V any](task llm.Task[V], text string) llm.Call {
	return llm.Call{Affinity: text, Messages: task.Messages(text), Schema: task.Schema(), Choices: task.Choices()}
}

// filled are the options with numbers, where they have none, that tests of seconds are written for: more patience than
// the defaults have, and less with an endpoint that fails.
func filled(o llm.Options) llm.Options {
	o.Name = "test"
	if o.Protocol == nil {
		o.Protocol = openai.Protocol{}
	}
	o.Timeout = cmp.Or(o.Timeout, 30*time.Second)
	o.MaxAttempts = cmp.Or(o.MaxAttempts, 4)
	o.MaxConcurrency = cmp.Or(o.MaxConcurrency, 32)
	o.MaxTokens = cmp.Or(o.MaxTokens, 256)
	o.MaxResponseBytes = cmp.Or(o.MaxResponseBytes, 256<<10)
	o.Structured = cmp.Or(o.Structured, llm.ModeAuto)
	o.BreakerFailures = cmp.Or(o.BreakerFailures, 5)
	o.BreakerPause = cmp.Or(o.BreakerPause, 10*time.Second)
	return o
}

// bubble runs a test in a synctest bubble, with endpoints in memory: a and b, both good until told otherwise.
type bubble struct {
	*testing.T
	net  *standin.Network
	a, b *standin.Server
	task *label.Task
}

func inBubble(t *testing.T, f func(t *bubble)) {
	synctest.Test(t, func(t *testing.T) {
		b := &bubble{T: t, net: &standin.Network{}, a: newStub(standin.Options{}), b: newStub(standin.Options{}),
			task: newTask(t)}
		b.net.Serve("a", b.a)
		b.net.Serve("b", b.b)
		defer b.net.Close()
		f(b)
		if v := append(b.a.Violations(), b.b.Violations()...); len(v) > 0 {
			t.Errorf("requests that a strict endpoint refuses: %q", v)
		}
	})
}

// pool makes a pool of the endpoints with these names whose back-off is never shortened.
func (t *bubble) pool(o llm.Options, names ...string) *llm.Pool {
	for _, n := range names {
		o.URLs = append(o.URLs, "http://"+n+"/v1")
	}
	o.Model, o.Dial = "stub", t.net.Dial
	p, err := llm.NewPool(filled(o))
	if err != nil {
		t.Fatal(err)
	}
	p.SetJitter(func() float64 { return 1 })
	t.Cleanup(p.Close)
	return p
}

// must asks and expects the oracle's answer.
func (t *bubble) must(p *llm.Pool, text string) llm.Reply {
	t.Helper()
	r, err := p.Ask(t.Context(), question(t.task, text))
	if err != nil {
		t.Fatalf("%q: %v", text, err)
	}
	a, err := t.task.Parse(r.Content)
	if err != nil || a.Label != oracle(text) {
		t.Fatalf("%q: answer %q reads as %+v, %v", text, r.Content, a, err)
	}
	return r
}

// fails asks and expects a *llm.CallError.
func (t *bubble) fails(ctx context.Context, p *llm.Pool, text string) *llm.CallError {
	t.Helper()
	r, err := p.Ask(ctx, question(t.task, text))
	var e *llm.CallError
	if !errors.As(err, &e) {
		t.Fatalf("%q: answer %+v, error %v; want a *llm.CallError", text, r, err)
	}
	return e
}

func TestAskInEveryMode(t *testing.T) {
	for _, mode := range append([]string{llm.ModeAuto}, openai.Protocol{}.Modes()...) {
		t.Run(mode, func(t *testing.T) {
			inBubble(t, func(t *bubble) {
				p := t.pool(llm.Options{Structured: mode}, "a")
				for _, text := range []string{"good", "bad", "\"}]\n\x00<|im_end|> good", strings.Repeat("long ",
					5000)} {
					r := t.must(p, text)
					if r.Attempts != 1 || r.Endpoint != "http://a/v1" || r.UsageEstimated || r.PromptTokens < 50 ||
						r.CompletionTokens < 1 {
						t.Errorf("reply %+v", r)
					}
					if mode != llm.ModeAuto && r.Structured != mode {
						t.Errorf("asked in mode %s, want %s", r.Structured, mode)
					}
				}
			})
		})
	}
}

func TestStructuredModeIsFound(t *testing.T) {
	for _, c := range []struct {
		name   string
		takes  []string
		ignore bool
		want   string
	}{
		{"takes all", nil, false, "json_schema"},
		{"vLLM's new way", []string{"structured_outputs"}, false, "structured_outputs"},
		{"vLLM's old way", []string{"guided_choice"}, false, "guided_choice"},
		{"objects only", []string{"json_object"}, false, "json_object"},
		{"nothing", []string{}, false, "none"},
		{"ignores all but guided_choice", []string{"guided_choice"}, true, "guided_choice"},
		{"ignores all but objects", []string{"json_object"}, true, "json_object"},
	} {
		t.Run(c.name, func(t *testing.T) {
			inBubble(t, func(t *bubble) {
				t.net.Serve("a", newStub(standin.Options{Structured: c.takes, Ignore: c.ignore}))
				p := t.pool(llm.Options{}, "a")
				for range 4 { // ignored modes show by answers in prose
					if _, err := p.Ask(t.Context(), question(t.task, "good")); err != nil {
						t.Fatal(err)
					}
				}
				if got := p.Status()[0].Structured; got != c.want {
					t.Errorf("mode %s, want %s", got, c.want)
				}
				t.must(p, "good")
			})
		})
	}
}

func TestStructuredModeIsFoundAgainAfterARestart(t *testing.T) {
	inBubble(t, func(t *bubble) {
		old := newStub(standin.Options{Structured: []string{"json_object"}})
		t.net.Serve("a", old)
		p := t.pool(llm.Options{}, "a")
		t.must(p, "good")
		before := old.Stats().Requests
		t.must(p, "good")
		if n := old.Stats().Requests - before; n != 1 {
			t.Errorf("%d requests for the second call: what the endpoint refused was not remembered", n)
		}
		t.net.Stop("a")
		e := t.fails(t.Context(), p, "good")
		if e.Reason != llm.ReasonConnect || e.Unusable() || e.Usage != (llm.Usage{}) {
			t.Errorf("%+v", e)
		}
		t.net.Serve("a", t.a)
		if r := t.must(p, "good"); r.Structured != "json_schema" {
			t.Errorf("asked in mode %s after the restart", r.Structured)
		}
	})
}

func TestABadRequestIsNotTakenForAMode(t *testing.T) {
	inBubble(t, func(t *bubble) {
		small := newStub(standin.Options{ContextTokens: 1000})
		t.net.Serve("a", small)
		p := t.pool(llm.Options{}, "a")
		if e := t.fails(t.Context(), p, strings.Repeat("word ", 2000)); e.Reason != llm.ReasonTooLong ||
			!e.Unusable() ||
			e.Attempts != 1 || e.Status != 400 {
			t.Errorf("%+v", e)
		}
		small.Always(standin.Status(400, ""))
		if e := t.fails(t.Context(), p, "good"); e.Reason != llm.ReasonRefused || !e.Unusable() {
			t.Errorf("%+v", e)
		}
		small.Always(standin.Good())
		t.must(p, "good")
		before := small.Stats().Requests
		small.Always(standin.Status(400, ""))
		t.fails(t.Context(), p, "good")
		if n := small.Stats().Requests - before; n != 1 {
			t.Errorf("a refusal in a mode that has worked was asked about %d times", n)
		}
		small.Always(standin.Good())
		if got := p.Status()[0]; got.Structured != "json_schema" || got.Breaker != "closed" {
			t.Errorf("after refusals that were not about the mode: %+v", got)
		}
	})
}

func TestReasons(t *testing.T) {
	for _, c := range []struct {
		name     string
		step     standin.Step
		want     llm.Reason
		attempts int
		unusable bool
		spent    bool
	}{
		{"500", standin.Status(500, ""), llm.ReasonStatus, 4, false, false},
		{"502", standin.Status(502, ""), llm.ReasonStatus, 4, false, false},
		{"503", standin.Status(503, ""), llm.ReasonStatus, 4, false, false},
		{"503 that says when", standin.Status(503, "1"), llm.ReasonRateLimited, 4, false, false},
		{"429", standin.Status(429, ""), llm.ReasonRateLimited, 4, false, false},
		{"429 that says when", standin.Status(429, "1"), llm.ReasonRateLimited, 4, false, false},
		{"429 that says nonsense", standin.Status(429, "soon, -3"), llm.ReasonRateLimited, 4, false, false},
		{"401", standin.Status(401, ""), llm.ReasonUnauthorized, 4, false, false},
		{"404", standin.Status(404, ""), llm.ReasonNotFound, 4, false, false},
		{"413", standin.Status(413, ""), llm.ReasonTooLong, 1, true, false},
		{"418", standin.Status(418, ""), llm.ReasonRefused, 1, true, false},
		{"204", standin.Status(204, ""), llm.ReasonStatus, 4, false, false},
		// once more without a form: it may have been that
		{"echo", standin.Echo(), llm.ReasonRefused, 2, true, false},
		{"redirect", standin.Redirect("http://b/v1/chat/completions"), llm.ReasonRedirect, 4, false, false},
		{"hang", standin.Hang(), llm.ReasonTimeout, 4, false, true},
		{"drip", standin.Drip(time.Second), llm.ReasonTimeout, 4, false, true},
		{"endless", standin.Endless(), llm.ReasonTooLarge, 4, false, true},
		{"garbage", standin.Garbage(), llm.ReasonMalformed, 4, false, true},
		{"packed", standin.Step{Header: http.Header{"Content-Encoding": {"gzip"}}}, llm.ReasonContentType, 4, false,
			true},
		{"html", standin.HTML(), llm.ReasonContentType, 4, false, true},
		{"cut", standin.Cut(), llm.ReasonMalformed, 4, false, true},
		{"reset", standin.Reset(), llm.ReasonConnect, 4, false, true},
		{"two choices", standin.Choices(2), llm.ReasonMalformed, 4, false, true},
		{"no choice", standin.Choices(0), llm.ReasonMalformed, 4, false, true},
		{"tool call", standin.ToolCall(), llm.ReasonMalformed, 4, false, true},
		{"strange end", standin.Finish("abort"), llm.ReasonMalformed, 4, false, true},
		{"length", standin.Finish("length"), llm.ReasonLength, 1, true, true},
		{"filter", standin.Finish("content_filter"), llm.ReasonRefusal, 1, true, true},
		{"refusal", standin.Refusal(), llm.ReasonRefusal, 1, true, true},
		{"empty", standin.Empty(), llm.ReasonEmpty, 4, true, true}, // in another form each
		{"usage of words", standin.Usage("many", "more"), llm.ReasonMalformed, 4, false, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			inBubble(t, func(t *bubble) {
				t.a.Always(c.step)
				p := t.pool(llm.Options{}, "a")
				call := question(t.task, "good")
				most, mostCompleted := p.Ceiling(&call)
				e := t.fails(t.Context(), p, "good")
				if e.Reason != c.want || e.Attempts != c.attempts || e.Unusable() != c.unusable ||
					e.Endpoint != "http://a/v1" {
					t.Errorf("%+v (%v), want %s after %d attempts, unusable: %v", e, e, c.want, c.attempts, c.unusable)
				}
				if (e.Usage.PromptTokens > 0) != c.spent || e.Usage.PromptTokens > c.attempts*most ||
					e.Usage.CompletionTokens > c.attempts*mostCompleted {
					t.Errorf("usage %+v, spent: %v, at most %d and %d an attempt", e.Usage, c.spent, most,
						mostCompleted)
				}
				if n := t.b.Stats().Requests; n != 0 {
					t.Errorf("%d requests at an endpoint that is not in the configuration", n)
				}
				t.a.Always(standin.Good())
				t.must(p, "good") // and the pool goes on
			})
		})
	}
}

func TestAnswersThatThePromptMustJudge(t *testing.T) {
	for name, step := range map[string]standin.Step{
		"fences": standin.Fences(), "prose": standin.Prose(), "wrong label": standin.WrongLabel(),
		"missing field": standin.MissingField(),
		"extra field":   standin.ExtraField(), "out of range": standin.OutOfRange(),
		"reordered": standin.ReorderedFields(),
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *bubble) {
				t.a.Always(step)
				r, err := t.pool(llm.Options{}, "a").Ask(t.Context(), question(t.task, "good"))
				if err != nil {
					t.Fatal(err)
				}
				a, err := t.task.Parse(r.Content)
				if tolerated := name == "fences" || name == "reordered"; tolerated != (err == nil) {
					t.Errorf("%q reads as %+v, %v", r.Content, a, err)
				}
				if err == nil && a.Label != "POSITIVE" {
					t.Errorf("label %s", a.Label)
				}
			})
		})
	}
}

func TestUsageIsNotTrusted(t *testing.T) {
	for _, c := range []struct {
		prompt, completion any
		estimated          bool
	}{
		{120, 9, false}, {nil, nil, true}, {-5, 9, true}, {120, -1, true}, {0, 0, true}, {1 << 60, 9, true},
		{120, 1 << 60, true}, {1.5, 2, true}, {"120", "9", false},
	} {
		t.Run(fmt.Sprint(c.prompt, c.completion), func(t *testing.T) {
			inBubble(t, func(t *bubble) {
				t.a.Always(standin.Usage(c.prompt, c.completion))
				p := t.pool(llm.Options{MaxTokens: 50}, "a")
				call := question(t.task, "good")
				most, _ := p.Ceiling(&call)
				r := t.must(p, "good")
				if r.UsageEstimated != c.estimated || r.PromptTokens < 100 || r.PromptTokens > most ||
					r.CompletionTokens < 1 || r.CompletionTokens > 50 {
					t.Errorf("%+v, estimated: %v, at most %d", r, c.estimated, most)
				}
			})
		})
	}
}

func TestUsageIsOfAllAttempts(t *testing.T) {
	inBubble(t, func(t *bubble) {
		p := t.pool(llm.Options{}, "a")
		once := t.must(p, "good")
		t.a.Script(standin.ToolCall(), standin.Status(500, "")) // the first has cost what it says, the second nothing
		r := t.must(p, "good")
		if r.Attempts != 3 || r.PromptTokens != 2*once.PromptTokens || r.CompletionTokens != 2*once.CompletionTokens {
			t.Errorf("usage %+v after one attempt, %+v after three of which two were answered", once.Usage, r.Usage)
		}
		t.a.Script(standin.Hang()) // nobody knows what that has cost: as much as it can
		c := question(t.task, "good")
		most, mostCompleted := p.Ceiling(&c)
		r = t.must(p, "good")
		if r.PromptTokens < most || r.CompletionTokens < mostCompleted {
			t.Errorf("usage %+v with an attempt that timed out, whose ceiling is %d and %d", r.Usage, most,
				mostCompleted)
		}
	})
}

func TestDeadlineAndCancel(t *testing.T) {
	inBubble(t, func(t *bubble) {
		t.a.Always(standin.Hang())
		p := t.pool(llm.Options{Timeout: 10 * time.Second, BreakerFailures: 3}, "a")
		for want, set := range map[llm.Reason]func() (context.Context, context.CancelFunc){
			llm.ReasonDeadline: func() (context.Context, context.CancelFunc) {
				return context.WithTimeout(t.Context(),
					3*time.Second)
			},
			llm.ReasonCanceled: func() (context.Context, context.CancelFunc) {
				ctx, cancel := context.WithCancel(t.Context())
				time.AfterFunc(3*time.Second, cancel)
				return ctx, cancel
			},
		} {
			for range 5 {
				ctx, cancel := set()
				start := time.Now()
				if e := t.fails(ctx, p, "good"); e.Reason != want || time.Since(start) != 3*time.Second ||
					e.Usage.PromptTokens == 0 {
					t.Errorf("%+v after %v, want %s", e, time.Since(start), want)
				}
				cancel()
			}
		}
		if s := p.Status()[0]; s.Breaker != "closed" || s.InFlight != 0 {
			t.Errorf("callers in haste opened the breaker: %+v", s)
		}
	})
}

func TestCloseEndsCalls(t *testing.T) {
	inBubble(t, func(t *bubble) {
		t.a.Always(standin.Hang())
		p := t.pool(llm.Options{MaxConcurrency: 2}, "a")
		var wg sync.WaitGroup
		for range 6 {
			wg.Go(func() {
				if e := t.fails(t.Context(), p, "good"); e.Reason != llm.ReasonClosed {
					t.Errorf("%+v", e)
				}
			})
		}
		synctest.Wait()
		p.Close()
		wg.Wait()
		if e := t.fails(t.Context(), p, "good"); e.Reason != llm.ReasonClosed {
			t.Errorf("after Close: %+v", e)
		}
	})
}

func TestAttemptMayBeRefused(t *testing.T) {
	inBubble(t, func(t *bubble) {
		t.a.Always(standin.Status(500, ""))
		p := t.pool(llm.Options{}, "a")
		c := question(t.task, "good")
		over := errors.New("over budget")
		var seen []int
		c.Attempt = func(_ context.Context, n int) error {
			if seen = append(seen, n); n == 3 {
				return over
			}
			return nil
		}
		_, err := p.Ask(t.Context(), c)
		var e *llm.CallError
		if !errors.As(err, &e) || e.Reason != llm.ReasonNotAllowed || !errors.Is(err, over) || e.Attempts != 2 ||
			!slices.Equal(seen, []int{1, 2, 3}) {
			t.Errorf("%v, attempts %v", err, seen)
		}
		if n := t.a.Stats().Requests; n != 2 {
			t.Errorf("%d requests, want 2", n)
		}
		if s := p.Status()[0]; s.InFlight != 0 {
			t.Errorf("%+v", s)
		}
	})
}

func TestNewPoolChecks(t *testing.T) {
	for name, c := range map[string]struct {
		o    llm.Options
		want string
	}{
		"no URL":     {llm.Options{Model: "m"}, "urls is empty"},
		"no model":   {llm.Options{URLs: []string{"http://h/v1"}}, "no model"},
		"not a URL":  {llm.Options{Model: "m", URLs: []string{"localhost:8000"}}, "must look like"},
		"a file":     {llm.Options{Model: "m", URLs: []string{"file:///etc/passwd"}}, "must look like"},
		"a password": {llm.Options{Model: "m", URLs: []string{"http://u:hunter2@h/v1"}}, "api_key_file"},
		"a broken password": {llm.Options{Model: "m", URLs: []string{"http://u:hunter2@h:port/v1"}},
			"cannot be parsed"},
		"a query": {llm.Options{Model: "m", URLs: []string{"http://h/v1?key=hunter2"}}, "without a query"},
		"the whole path": {llm.Options{Model: "m", URLs: []string{"http://h/v1/chat/completions"}},
			"leave /chat/completions out"},
		"twice":          {llm.Options{Model: "m", URLs: []string{"http://h/v1", "http://h/v1/"}}, "named twice"},
		"cloud metadata": {llm.Options{Model: "m", URLs: []string{"http://169.254.169.254/v1"}}, "link-local"},
		"unspecified":    {llm.Options{Model: "m", URLs: []string{"http://0.0.0.0:8000/v1"}}, "unspecified"},
		"an unknown mode": {llm.Options{Model: "m", URLs: []string{"http://h/v1"}, Structured: "xml"},
			"auto, json_schema"},
		"a proxy of no kind":  {llm.Options{Model: "m", URLs: []string{"http://h/v1"}, Proxy: "hunter2"}, "proxy"},
		"a negative timeout":  {llm.Options{Model: "m", URLs: []string{"http://h/v1"}, Timeout: -1}, "negative"},
		"everything at once?": {llm.Options{Structured: "xml"}, "no model"},
	} {
		_, err := llm.NewPool(filled(c.o))
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: error %v, want %q in it and no secret", name, err, c.want)
		}
	}
}
