package llm_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"sluice/pipeline"
	"sluice/pipeline/llm"
	"sluice/pipeline/llm/openai"
	"sluice/pipeline/llm/standin"
)

// This file owns the tests of refusals: what is adapted, what is told, what opens a breaker, and what it costs.

// logged is one line of a log.
type logged struct {
	Level, Msg, Endpoint, Said, Reason, Error, Parameter, Name string
	Status                                                     int
}

// journal is a log whose lines tests count.
type journal struct{ lockedBuffer }

func (j *journal) logger() *slog.Logger {
	return slog.New(slog.NewJSONHandler(j, &slog.HandlerOptions{Level: slog.LevelInfo}))
}

// lines are those whose message holds a part.
func (j *journal) lines(t testing.TB, part string) (found []logged) {
	t.Helper()
	for line := range strings.Lines(j.String()) {
		var l logged
		if err := json.Unmarshal([]byte(line), &l); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		if strings.Contains(l.Msg, part) {
			found = append(found, l)
		}
	}
	return found
}

// refusing is a pool of endpoint a whose log is kept.
func (t *bubble) refusing(o llm.Options, names ...string) (*llm.Pool, *journal) {
	j := &journal{}
	o.Logger = j.logger()
	if len(names) == 0 {
		names = []string{"a"}
	}
	return t.pool(o, names...), j
}

func TestAParameterThatIsRefusedByNameIsAdapted(t *testing.T) {
	for _, c := range []struct {
		name    string
		refuses []string
		start   llm.Names
		extra   int       // calls that are refused before all is found
		want    llm.Names // in /status
		told    int       // lines of the log
	}{
		{"all is taken", nil, nil, 0, nil, 0},
		{"OpenAI's newer kind", []string{"max_tokens", "temperature"}, nil, 2,
			llm.Names{"max_tokens": "max_completion_tokens", "temperature": "omit"}, 2},
		{"no bound", []string{"max_tokens", "max_completion_tokens"}, nil, 2, llm.Names{"max_tokens": "omit"}, 2},
		{"Mistral's kind, configured for OpenAI's", []string{"max_completion_tokens"},
			llm.Names{"max_tokens": "max_completion_tokens"}, 1, llm.Names{"max_tokens": "max_tokens"}, 1},
		{"no stream", []string{"stream"}, nil, 1, llm.Names{"stream": "omit"}, 1},
		{"configured", []string{"max_tokens", "temperature"},
			llm.Names{"max_tokens": "max_completion_tokens", "temperature": "omit"}, 0,
			llm.Names{"max_tokens": "max_completion_tokens", "temperature": "omit"}, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			inBubble(t, func(t *bubble) {
				t.a = newStub(standin.Options{Refuses: c.refuses})
				t.net.Serve("a", t.a)
				p, log := t.refusing(llm.Options{Parameters: c.start})
				for i := range 40 {
					if r := t.must(p, fmt.Sprint("good ", i)); i > 0 && r.Attempts != 1 || r.Attempts > 4 {
						t.Errorf("question %d took %d attempts", i, r.Attempts)
					}
				}
				if n := t.a.Stats().Requests; n != 40+c.extra {
					t.Errorf("%d requests for 40 questions, want %d", n, 40+c.extra)
				}
				s := p.Status()[0]
				if fmt.Sprint(s.Parameters) != fmt.Sprint(c.want) || s.Breaker != "closed" || s.Refuses != "" {
					t.Errorf("status %+v, want parameters %v", s, c.want)
				}
				told := log.lines(t, "parameter")
				if len(told) != c.told {
					t.Errorf("told %+v, want %d lines", told, c.told)
				}
				for _, l := range told {
					if !strings.Contains(l.Said, "is not supported with this model") &&
						!strings.Contains(l.Said, "Only the default (1) value is supported.") || l.Parameter == "" {
						t.Errorf("told %+v", l)
					}
				}
				// It holds over a broken connection.
				t.net.Stop("a")
				t.fails(t.Context(), p, "good")
				t.net.Serve("a", t.a)
				if r := t.must(p, "good"); r.Attempts != 1 {
					t.Errorf("%d attempts after a broken connection", r.Attempts)
				}
			})
		})
	}
}

// An endpoint that is away for long may come back as another program: what was learnt is found anew, and told no more.
func TestParametersAreFoundAnewAfterAnOutage(t *testing.T) {
	inBubble(t, func(t *bubble) {
		old := newStub(standin.Options{Refuses: []string{"max_tokens", "temperature"}})
		t.net.Serve("a", old)
		p, log := t.refusing(llm.Options{BreakerFailures: 2})
		t.must(p, "good")
		t.net.Stop("a")
		t.fails(t.Context(), p, "good")
		t.net.Serve("a", newStub(standin.Options{Refuses: []string{"max_completion_tokens"}}))
		time.Sleep(11 * time.Second)
		if r := t.must(p, "good"); r.Attempts != 1 || p.Status()[0].Parameters != nil {
			t.Errorf("%+v, %+v", r, p.Status()[0])
		}
		t.net.Stop("a")
		t.fails(t.Context(), p, "good")
		t.net.Serve("a", old)
		time.Sleep(11 * time.Second)
		t.must(p, "good")
		if told := log.lines(t, "parameter"); len(told) != 2 {
			t.Errorf("told %+v", told)
		}
	})
}

// Whatever an endpoint takes and refuses, a question is no more attempts than it may be, and each is asked for leave.
func TestNoQuestionTakesMoreCallsThanItMay(t *testing.T) {
	always := standin.Body(400, `{"error":"no"}`)
	for _, o := range []standin.Options{
		{}, {Structured: []string{}}, {Structured: []string{"json_object"}}, {Structured: []string{}, Ignore: true},
		{Refuses: []string{"max_tokens", "temperature"}},
		{Refuses: []string{"max_tokens", "max_completion_tokens", "temperature", "stream"}, Structured: []string{}},
	} {
		for most := 1; most <= 7; most++ {
			inBubble(t, func(t *bubble) {
				served := newStub(o)
				t.net.Serve("a", served)
				p, _ := t.refusing(llm.Options{MaxAttempts: most})
				for i := range 20 {
					if i == 10 {
						served.Always(always)
					}
					before := served.Stats().Requests
					leave := 0
					c := question(t.task, "good")
					c.Attempt = func(context.Context, int) error { leave++; return nil }
					r, err := p.Ask(t.Context(), c)
					n := served.Stats().Requests - before
					attempts := r.Attempts
					var e *llm.CallError
					if errors.As(err, &e) {
						attempts = e.Attempts
					}
					if n > most || n != attempts || n != leave {
						t.Errorf("%+v, max_attempts %d, question %d: %d requests, %d attempts, %d asked for leave (%v)",
							o, most, i, n, attempts, leave, err)
					}
					if err != nil && i >= 8 && i < 10 {
						t.Errorf("%+v, max_attempts %d: question %d is not answered yet: %v", o, most, i, err)
					}
				}
			})
		}
	}
}

func TestARefusalOfEverythingIsToldOnceAndOpensTheBreaker(t *testing.T) {
	for _, c := range []struct {
		name   string
		step   standin.Step
		reason llm.Reason
		status int
		said   string
		calls  int // at most, for 40 questions at once and one after the other
	}{
		{"400 of an unknown kind", standin.Body(400, `{"error":{"message":"Sorry, tenant 7 is not enrolled."}}`),
			llm.ReasonRefused, 400, "Sorry, tenant 7 is not enrolled.", 12},
		{"422", standin.Body(422, `{"detail":"Not today."}`), llm.ReasonRefused, 422, "Not today.", 12},
		{"405", standin.Body(405, `{"detail":"Method Not Allowed"}`), llm.ReasonRefused, 405, "Method Not Allowed", 11},
		{"a value", standin.Body(400, `{"error":{"message":"max_tokens is too large: 256. This model supports at most `+
			`128 completion tokens","param":"max_tokens"}}`), llm.ReasonRefused, 400, "supports at most 128", 12},
		{"a role", standin.Body(400, `{"error":{"message":"Unsupported value: 'messages[0].role' does not support `+
			`'system' with this model.","param":"messages[0].role","code":"unsupported_value"}}`), llm.ReasonRefused,
			400, "does not support 'system'", 12},
		{"401", standin.Body(401, `{"error":{"message":"Incorrect API key provided: sk-ab****yz."}}`),
			llm.ReasonUnauthorized, 401, "Incorrect API key provided: …", 12},
		{"403", standin.Body(403, `{"message":"no access to model"}`), llm.ReasonUnauthorized, 403, "no access", 12},
		{"no credit", standin.Body(402, `{"error":{"message":"Insufficient Balance"}}`), llm.ReasonQuota, 402,
			"Insufficient Balance", 11},
		{"OpenAI's quota", standin.Body(429, `{"error":{"message":"You exceeded your current quota, please check your `+
			`plan and billing details.","code":"insufficient_quota"}}`), llm.ReasonQuota, 429,
			"exceeded your current quota", 11},
		{"no such model", standin.Body(404, `{"error":{"message":"The model 'stub' does not exist."}}`),
			llm.ReasonNotFound, 404, "The model 'stub' does not exist.", 17},
		{"no such model, 400", standin.Body(400, `{"error":{"message":"Invalid model: stub"}}`), llm.ReasonNotFound,
			400, "Invalid model: stub", 17},
		{"200 with a refusal in it", standin.Body(200, `{"error":{"message":"nope, not with this plan","code":403}}`),
			llm.ReasonUnauthorized, 200, "nope, not with this plan", 12},
		{"without a word", standin.Body(400, ``), llm.ReasonRefused, 400, "", 12},
		{"a page", standin.Body(403, `<html><h1>Forbidden</h1></html>`), llm.ReasonUnauthorized, 403, "", 12},
	} {
		t.Run(c.name, func(t *testing.T) {
			inBubble(t, func(t *bubble) {
				t.a.Always(c.step)
				p, log := t.refusing(llm.Options{BreakerFailures: 10, BreakerPause: 5 * time.Minute})
				for i := range 40 {
					e := t.fails(t.Context(), p, fmt.Sprint("good ", i))
					if e.Reason != c.reason || !e.Refused() || e.Attempts > 4 {
						t.Fatalf("question %d: %+v (%v)", i, e, e)
					}
					if i == 39 && (e.Attempts != 0 || e.Usage != (llm.Usage{})) {
						t.Errorf("an endpoint that refuses everything is still asked: %+v", e)
					}
				}
				if n := t.a.Stats().Requests; n > c.calls {
					t.Errorf("%d calls for 40 questions, want at most %d", n, c.calls)
				}
				told := log.lines(t, "refuses requests")
				if len(told) != 1 || told[0].Level != "WARN" || !strings.Contains(told[0].Said, c.said) ||
					told[0].Said == "" != (c.said == "") || told[0].Status != c.status ||
					told[0].Reason != string(c.reason) || told[0].Error == "" {
					t.Errorf("told %+v, want once %q", told, c.said)
				}
				if s := p.Status()[0]; s.Breaker != "open" || !strings.Contains(s.Refuses, "status") {
					t.Errorf("status %+v", s)
				}
				if left := log.lines(t, "left alone"); len(left) != 1 || left[0].Said != "" {
					t.Errorf("left alone: %+v", left)
				}
				// A probe finds out when it is mended, and costs no more than the search for a form.
				before := t.a.Stats().Requests
				time.Sleep(6 * time.Minute)
				t.fails(t.Context(), p, "good")
				t.fails(t.Context(), p, "good")
				if n := t.a.Stats().Requests - before; n > 2 || n < 1 || p.Status()[0].Breaker != "open" {
					t.Errorf("%d calls to probe, breaker %s", n, p.Status()[0].Breaker)
				}
				t.a.Always(standin.Good())
				time.Sleep(6 * time.Minute)
				t.must(p, "good")
				t.must(p, "good")
				if s := p.Status()[0]; s.Breaker != "closed" || s.Refuses != "" {
					t.Errorf("mended: %+v", s)
				}
				if back := log.lines(t, "again"); len(back) != 1 || back[0].Level != "INFO" {
					t.Errorf("told %+v", back)
				}
				if again := log.lines(t, "refuses requests"); len(again) != 1 {
					t.Errorf("told again while it lasted: %+v", again)
				}
			})
		})
	}
}

// A few refusals do not open the breaker; that they end is told, too, and so are others and later ones.
func TestRefusalsThatEndAreTold(t *testing.T) {
	inBubble(t, func(t *bubble) {
		p, log := t.refusing(llm.Options{BreakerFailures: 10})
		refuse := func(sentence string) {
			t.a.Always(standin.Body(400, fmt.Sprintf(`{"error":%q}`, sentence)))
			t.fails(t.Context(), p, "good")
			t.a.Always(standin.Good())
			t.must(p, "good")
		}
		for i := range 20 {
			refuse(fmt.Sprintf("no more than %d words", i)) // only numbers differ: the same refusal
		}
		if told, back := log.lines(t, "refuses requests"), log.lines(t, "takes requests again"); len(told) != 1 ||
			len(back) != 1 || back[0].Level != "INFO" {
			t.Errorf("told %+v and %+v", told, back)
		}
		refuse("something else")
		time.Sleep(11 * time.Minute)
		refuse("no more than 5 words")
		if told, back := log.lines(t, "refuses requests"), log.lines(t, "takes requests again"); len(told) != 3 ||
			len(back) != 3 {
			t.Errorf("told %+v and %+v", told, back)
		}
		if s := p.Status()[0]; s.Breaker != "closed" {
			t.Errorf("%+v", s)
		}
		for i := range 200 {
			refuse(strings.Repeat("x", i%100+1))
		}
		if told := log.lines(t, "refuses requests"); len(told) != 10 { // two are older, eight of 100 are told at once
			t.Errorf("%d lines", len(told))
		}
	})
}

// What one record brings upon itself is no fault of the endpoint.
func TestARefusalOfOneQuestionDoesNotOpenTheBreaker(t *testing.T) {
	for name, c := range map[string]struct {
		body   string
		reason llm.Reason
	}{
		"too long": {`{"error":{"message":"This model's maximum context length is 128 tokens, you have %d"}}`,
			llm.ReasonTooLong},
		"filtered": {`{"error":{"message":"The response was filtered (%d)","code":"content_filter"}}`,
			llm.ReasonRefusal},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *bubble) {
				p, log := t.refusing(llm.Options{BreakerFailures: 3})
				for i := range 50 {
					t.a.Script(standin.Body(400, fmt.Sprintf(c.body, i)))
					if e := t.fails(t.Context(), p, "good"); e.Reason != c.reason || e.Attempts != 1 || e.Refused() ||
						!e.Unusable() {
						t.Fatalf("%+v", e)
					}
				}
				if told := log.lines(t, "refuses a question"); len(told) != 1 || told[0].Level != "WARN" ||
					told[0].Said == "" || told[0].Reason != string(c.reason) {
					t.Errorf("told %+v", told)
				}
				if s := p.Status()[0]; s.Breaker != "closed" || s.Refuses != "" {
					t.Errorf("%+v", s)
				}
				t.must(p, "good")
				if back := log.lines(t, "again"); len(back) != 0 {
					t.Errorf("told %+v, though it never refused more than single questions", back)
				}
			})
		})
	}
}

// A probe with a question that no endpoint takes says nothing about whether a lasting refusal has ended.
func TestAProbeThatIsRefusedForItselfLeavesTheBreaker(t *testing.T) {
	inBubble(t, func(t *bubble) {
		t.a.Always(standin.Body(401, `{}`))
		p, _ := t.refusing(llm.Options{BreakerFailures: 2})
		t.fails(t.Context(), p, "good")
		t.fails(t.Context(), p, "good")
		time.Sleep(11 * time.Second)
		t.a.Always(standin.Status(413, ""))
		t.fails(t.Context(), p, "good")
		if s := p.Status()[0]; s.Breaker != "half-open" {
			t.Errorf("%+v", s)
		}
		t.a.Always(standin.Good())
		t.must(p, "good")
		if s := p.Status()[0]; s.Breaker != "closed" {
			t.Errorf("%+v", s)
		}
	})
}

func TestAnotherEndpointTakesWhatOneRefuses(t *testing.T) {
	for _, status := range []int{400, 402, 404, 405, 422} {
		inBubble(t, func(t *bubble) {
			t.a.Always(standin.Body(status, `{"error":"not here"}`))
			p, log := t.refusing(llm.Options{}, "a", "b")
			for i := range 60 {
				if r := t.must(p, fmt.Sprint("good ", i)); r.Endpoint != "http://b/v1" || r.Attempts > 3 {
					t.Errorf("%d: %+v", status, r)
				}
			}
			if n := t.a.Stats().Requests; n == 0 || n > 8 {
				t.Errorf("%d: %d calls to the endpoint that refuses", status, n)
			}
			if told := log.lines(t, "refuses requests"); len(told) != 1 || told[0].Endpoint != "http://a/v1" {
				t.Errorf("%d: told %+v", status, told)
			}
		})
	}
}

// A quota of a minute is waited for; one that is used up for good is not.
func TestQuotas(t *testing.T) {
	const gemini = `[{"error":{"code":429,"message":"You exceeded your current quota, please check your plan and ` +
		`billing details.","status":"RESOURCE_EXHAUSTED"}}]`
	inBubble(t, func(t *bubble) {
		p, log := t.refusing(llm.Options{})
		t.a.Script(standin.Body(429, gemini), standin.Body(429, gemini))
		if r := t.must(p, "good"); r.Attempts != 3 {
			t.Errorf("%+v", r)
		}
		passing := standin.Body(429, `{"error":{"code":"insufficient_quota"}}`)
		passing.Header = http.Header{"Retry-After": {"2"}}
		t.a.Script(passing)
		if r := t.must(p, "good"); r.Attempts != 2 {
			t.Errorf("%+v", r)
		}
		if told := log.lines(t, "refuses"); len(told) != 0 {
			t.Errorf("told %+v", told)
		}
		t.a.Script(standin.Body(429, `{"error":{"code":"insufficient_quota"}}`))
		if e := t.fails(t.Context(), p, "good"); e.Reason != llm.ReasonQuota || e.Attempts != 1 {
			t.Errorf("%+v", e)
		}
	})
}

// Proxies answer with status 200 and an error within.
func TestAnErrorInAnAnswerIsWhatItSays(t *testing.T) {
	for body, want := range map[string]llm.Reason{
		`{"error":{"message":"slow down","code":429}}`:                         llm.ReasonRateLimited,
		`{"error":{"message":"overloaded"}}`:                                   llm.ReasonStatus,
		`{"error":{"message":"upstream","code":502}}`:                          llm.ReasonStatus,
		`{"error":{"message":"maximum context length is 9"}}`:                  llm.ReasonTooLong,
		`{"error":{"message":"x","code":"content_filter"}}`:                    llm.ReasonRefusal,
		`{"error":{"message":"The model x does not exist"}}`:                   llm.ReasonNotFound,
		`{"error":{"message":"bad request, and that is that","code":"400"}}`:   llm.ReasonRefused,
		`{"object":"error","message":"insufficient credits","code":402}`:       llm.ReasonQuota,
		`{"detail":[{"loc":["body","stream"],"msg":"must not be, they say"}]}`: llm.ReasonStatus,
		`{"id":"x","choices":[]}`:                                              llm.ReasonMalformed,
	} {
		inBubble(t, func(t *bubble) {
			t.a.Always(standin.Body(200, body))
			p, _ := t.refusing(llm.Options{})
			if e := t.fails(t.Context(), p, "good"); e.Reason != want || e.Usage.PromptTokens == 0 {
				t.Errorf("%s: %+v", body, e)
			}
		})
	}
	inBubble(t, func(t *bubble) { // a parameter that is refused so is adapted, too
		t.a.Script(standin.Body(200, `{"error":{"message":"Unsupported parameter: 'max_tokens'","param":"max_tokens"}}`))
		p, _ := t.refusing(llm.Options{})
		if r := t.must(p, "good"); r.Attempts != 2 || p.Status()[0].Parameters["max_tokens"] !=
			"max_completion_tokens" {
			t.Errorf("%+v, %+v", r, p.Status()[0])
		}
	})
}

// Where nothing bounds an answer, what the endpoint says that it took is believed beyond max_tokens.
func TestWhatAnUnboundedAnswerTakes(t *testing.T) {
	inBubble(t, func(t *bubble) {
		t.net.Serve("a", newStub(standin.Options{Unbounded: true}))
		for names, want := range map[string]int{"": 50, llm.Omit: 5000} {
			served := newStub(standin.Options{Unbounded: true})
			served.Always(standin.Usage(120, 5000))
			t.net.Serve("a", served)
			o := llm.Options{MaxTokens: 50}
			if names != "" {
				o.Parameters = llm.Names{"max_tokens": names}
			}
			if r := t.must(t.pool(o, "a"), "good"); r.CompletionTokens != want {
				t.Errorf("max_tokens %q: %+v, want %d", names, r, want)
			}
		}
	})
}

const secretKey = "sk-proj-Zx81kQw77LmNop2Rst4Uvw6Xyz"

// An endpoint may repeat the key, whole or in part, and the text, as it came or as it was sent.
func TestNothingSecretIsSaid(t *testing.T) {
	const text = "Good morning, my name is Zacharias Ümlauten, or Theo\u200bdora, card 4929-1234, " +
		"\"quoted\"\\path 我叫王小明"
	for name, sentence := range map[string]string{
		"the key":                "Incorrect API key provided: " + secretKey,
		"the key, shortened":     "Incorrect API key provided: sk-pr******************6Xyz. See https://x.example/keys",
		"a part of the key":      "the key that ends in 6Xyz is revoked",
		"the header":             "map[Authorization:[Bearer " + secretKey + "]]",
		"another key":            "use gsk_a81Kd92LLw0QQq7zz instead",
		"the text":               "cannot take: " + text,
		"the text, in capitals":  strings.ToUpper(text),
		"the text, decomposed":   "name Zacharias U\u0308mlauten",
		"what nobody sees":       "Theodora",
		"a part of the text":     "near 'zachari' and 'mlauten' at 492",
		"words glued":            "非法输入我叫王小明",
		"the question, escaped":  `{\"content\":\"Good morning, my name is Zacharias \u00dcmlauten\"}`,
		"as bytes in Python":     `b"Zacharias \\xc3\\x9cmlauten"`,
		"as a URL has it":        "text=Zacharias%20%C3%9Cmlauten%20%E6%88%91%E5%8F%AB",
		"lines, links and marks": "a\nb\x1b[31m <b>Zacharias</b> see https://zacharias.example/x?k=" + secretKey,
		"without an end":         strings.Repeat("Zacharias says no. ", 5000),
	} {
		inBubble(t, func(t *bubble) {
			body, err := json.Marshal(map[string]any{"error": map[string]any{"message": sentence + " [refused]"}})
			if err != nil {
				t.Fatal(err)
			}
			for _, status := range []int{400, 401, 200, 500} {
				t.a.Always(standin.Step{Status: status, Raw: body})
				p, log := t.refusing(llm.Options{APIKey: func() (pipeline.Secret, error) {
					return pipeline.NewSecret(secretKey), nil
				}, BreakerFailures: 3})
				e := t.fails(t.Context(), p, text)
				status, err := json.Marshal(p.Status())
				if err != nil {
					t.Fatal(err)
				}
				all := strings.ToLower(log.String() + e.Error() + string(status))
				for _, secret := range []string{"zx81", "6xyz", "sk-pr", "a81kd92", "zachari", "mlauten", "theodora",
					"4929", "1234", "我叫", "王小", "morning", "x.example", "\\u001b"} {
					if strings.Contains(all, secret) {
						t.Errorf("%s: %q is said in\n%s", name, secret, all)
					}
				}
				for _, l := range log.lines(t, "") {
					if utf8.RuneCountInString(l.Said) > 300 {
						t.Errorf("%s: %d characters are said", name, utf8.RuneCountInString(l.Said))
					}
				}
				if !strings.Contains(name, "without") && !strings.Contains(all, "refused]") {
					t.Errorf("%s: nothing is said:\n%s", name, all)
				}
			}
		})
	}
}

// A model's name, the names of parameters and plain words are no secrets, even where the text has them too.
func TestWhatMayBeSaid(t *testing.T) {
	inBubble(t, func(t *bubble) {
		p, log := t.refusing(llm.Options{})
		for _, sentence := range []string{
			"The model `meta-llama/Llama-3.1-8B-Instruct` does not exist.",
			"Unsupported value: 'messages[0].role' does not support 'system' with this model.",
			"Invalid schema for response_format 'verdict': In context=(), 'required' is required to be supplied",
		} {
			t.a.Always(standin.Body(400, fmt.Sprintf(`{"error":%q}`, sentence)))
			t.fails(t.Context(), p, "the model does not support this role, it is required")
			told := log.lines(t, "refuses requests")
			if got := told[len(told)-1].Said; got != strings.ReplaceAll(sentence, "`", "") {
				t.Errorf("%q is said as %q", sentence, got)
			}
			t.a.Always(standin.Good())
			t.must(p, "good")
		}
	})
}

func TestParametersOfAPoolAreChecked(t *testing.T) {
	_, err := llm.NewPool(filled(llm.Options{Model: "m", URLs: []string{"http://h/v1"}, Protocol: openai.Protocol{},
		Parameters: llm.Names{"top_k": "omit"}}))
	if err == nil || !strings.Contains(err.Error(), "parameters") || !strings.Contains(err.Error(), "temperature") {
		t.Errorf("%v", err)
	}
}

// What an endpoint fails with is said when it is left alone.
func TestWhatAFailureSaysIsToldWithTheBreaker(t *testing.T) {
	inBubble(t, func(t *bubble) {
		t.a.Always(standin.Body(500, `{"error":"model requires more system memory (9 GiB) than is available (2 GiB)"}`))
		p, log := t.refusing(llm.Options{BreakerFailures: 2})
		t.fails(t.Context(), p, "good")
		told := log.lines(t, "left alone")
		if len(told) != 1 || !strings.Contains(told[0].Said, "more system memory") ||
			!strings.Contains(told[0].Error, "status 500") {
			t.Errorf("told %+v", told)
		}
	})
}

// A text may name a parameter, and an endpoint may repeat the text where it refuses something else.
func TestATextDoesNotTalkAParameterAway(t *testing.T) {
	inBubble(t, func(t *bubble) {
		p, _ := t.refusing(llm.Options{})
		const text = "the temperature is good; Unsupported parameter: 'max_tokens'"
		for _, body := range []string{`{"error":{"message":"not this: the temperature is good"}}`,
			`{"error":{"message":"Unsupported parameter: 'max_tokens' is what you say"}}`} {
			t.a.Always(standin.Body(400, body))
			t.fails(t.Context(), p, text)
			if s := p.Status()[0]; len(s.Parameters) != 0 {
				t.Errorf("%s: %+v", body, s.Parameters)
			}
		}
		t.a.Always(standin.Good())
		t.a.Script(standin.Body(400, `{"error":{"message":"no","param":"max_tokens","code":"unsupported_parameter"}}`))
		t.must(p, text) // what stands in a member of its own is the endpoint's
		if s := p.Status()[0]; s.Parameters["max_tokens"] != "max_completion_tokens" {
			t.Errorf("%+v", s.Parameters)
		}
	})
}
