package standin_test

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"sluice/pipeline/llm/standin"
)

const schema = `{"type":"object","properties":{"label":{"type":"string","enum":["NO","YES"]},"confidence":{"type":"number"}},"required":["label","confidence"],"additionalProperties":false}`

// body is a good request with some of its text replaced.
func body(replace ...string) string {
	return strings.NewReplacer(replace...).Replace(
		`{"model":"stub","max_tokens":50,"temperature":0,"stream":false,"response_format":{"type":"json_schema","json_schema":{"name":"v","strict":true,"schema":` +
			schema +
			`}},"messages":[{"role":"system","content":"classify"},{"role":"user","content":"between:\nX\n\"is it \\u0067ood?\"\nX"}]}`)
}

func post(t *testing.T, s *standin.Server, content string, change func(*http.Request)) (int, string) {
	t.Helper()
	r := httptest.NewRequest(http.MethodPost, "/v1/chat/completions", strings.NewReader(content))
	r.Header.Set("Content-Type", "application/json")
	if change != nil {
		change(r)
	}
	w := httptest.NewRecorder()
	s.ServeHTTP(w, r)
	return w.Code, w.Body.String()
}

func stub(o standin.Options) *standin.Server {
	o.Labels = []string{"NO", "YES"}
	o.Oracle = func(text string) string {
		if text == "is it good?" {
			return "YES"
		}
		return "NO"
	}
	return standin.New(o)
}

func TestAGoodRequestIsAnswered(t *testing.T) {
	s := stub(standin.Options{})
	code, answer := post(t, s, body(), nil)
	var a struct {
		Choices []struct {
			Finish  string `json:"finish_reason"`
			Message struct{ Role, Content string }
		}
		Usage map[string]int
	}
	if err := json.Unmarshal([]byte(answer), &a); err != nil || code != 200 {
		t.Fatalf("%d %s: %v", code, answer, err)
	}
	if c := a.Choices[0]; c.Finish != "stop" || c.Message.Role != "assistant" ||
		c.Message.Content != `{"label":"YES","confidence":0.9}` {
		t.Errorf("%s", answer)
	}
	if a.Usage["prompt_tokens"] == 0 || a.Usage["completion_tokens"] == 0 || len(s.Violations()) > 0 {
		t.Errorf("usage %v, violations %q", a.Usage, s.Violations())
	}
	if !s.Saw("is it good?") || s.Saw("is it bad?") {
		t.Error("the text is not found in what was kept, though it was written with an escape; or another one is")
	}
}

func TestWhatAStrictEndpointRefuses(t *testing.T) {
	long := strings.Repeat("x", 5<<20)
	for name, c := range map[string]struct {
		body   string
		change func(*http.Request)
		status int
	}{
		"not JSON":                 {"hello", nil, 400},
		"two objects":              {body() + "{}", nil, 400},
		"an unknown field":         {body(`"stream"`, `"topic":"x","stream"`), nil, 400},
		"another model":            {body(`"stub"`, `"gpt"`), nil, 404},
		"no system message":        {body(`"system"`, `"user"`), nil, 400},
		"an unknown role":          {body(`"role":"user"`, `"role":"tool"`), nil, 400},
		"an empty message":         {body("classify", " "), nil, 400},
		"no max_tokens":            {body(`"max_tokens":50,`, ""), nil, 400},
		"heat":                     {body(`"temperature":0`, `"temperature":1`), nil, 400},
		"a stream":                 {body("false,", "true,"), nil, 400},
		"an open schema":           {body(`"additionalProperties":false`, `"additionalProperties":true`), nil, 400},
		"an optional property":     {body(`["label","confidence"]`, `["label"]`), nil, 400},
		"a schema that isn't":      {body(schema, `"yes"`), nil, 400},
		"an unknown format":        {body(`"json_schema","json`, `"xml","json`), nil, 400},
		"two forms":                {body(`"stream"`, `"guided_choice":["a"],"stream"`), nil, 400},
		"not UTF-8":                {body("classify", "\xff"), nil, 400},
		"another content type":     {body(), func(r *http.Request) { r.Header.Set("Content-Type", "text/plain") }, 400},
		"no key":                   {body(), func(r *http.Request) { r.Header.Del("Authorization") }, 401},
		"another method":           {body(), func(r *http.Request) { r.Method = http.MethodPut }, 405},
		"a body without measure":   {long, nil, 413},
		"another path (not kept)":  {body(), func(r *http.Request) { r.URL.Path = "/v1/completions" }, 404},
		"models, but not with GET": {"", func(r *http.Request) { r.URL.Path = "/v1/models" }, 405},
	} {
		s := stub(standin.Options{APIKey: "k"})
		code, answer := post(t, s, c.body, func(r *http.Request) {
			r.Header.Set("Authorization", "Bearer k")
			if c.change != nil {
				c.change(r)
			}
		})
		if code != c.status || !json.Valid([]byte(answer)) {
			t.Errorf("%s: status %d, want %d (%s)", name, code, c.status, answer)
		}
		if chat := !strings.Contains(name, "path") && !strings.Contains(name, "models"); chat &&
			len(s.Violations()) != 1 {
			t.Errorf("%s: violations %q", name, s.Violations())
		}
	}
}

func TestModelsAreListed(t *testing.T) {
	w := httptest.NewRecorder()
	stub(standin.Options{Model: "m"}).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/v1/models", nil))
	if w.Code != 200 || !strings.Contains(w.Body.String(), `"id":"m"`) {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

func TestFailuresAreDrawnFromTheSeed(t *testing.T) {
	draw := func(seed uint64) string {
		s := stub(standin.Options{FailureShare: 0.3, Seed: seed})
		var b strings.Builder
		for range 200 {
			code, _ := post(t, s, body(), nil)
			b.WriteByte("ok5"[code/250])
		}
		return b.String()
	}
	first, again, other := draw(1), draw(1), draw(2)
	if first != again || first == other {
		t.Error("the same seed does not give the same failures, or another one does")
	}
	if n := strings.Count(first, "5"); n < 40 || n > 80 {
		t.Errorf("%d of 200 requests failed, want about 60", n)
	}
}

func TestBodiesAreBounded(t *testing.T) {
	s := stub(standin.Options{KeepBytes: 2000})
	for range 20 {
		post(t, s, body(), nil)
	}
	if n := len(s.Bodies()); n < 1 || n > 4 || s.Stats().DroppedKeep != 20-n {
		t.Errorf("%d bodies kept, %+v", n, s.Stats())
	}
	defer func() {
		if recover() == nil {
			t.Error("Saw answered though bodies were dropped")
		}
	}()
	s.Saw("canary")
}

func TestObey(t *testing.T) {
	s := stub(standin.Options{Obey: func(user string) string {
		if strings.Contains(standin.Text(user), "good") {
			return `{"topic":"admin"}`
		}
		return ""
	}})
	if _, answer := post(t, s, body(), nil); !strings.Contains(answer, `{\"topic\":\"admin\"}`) {
		t.Error(answer)
	}
	if _, answer := post(t, s, body("0067", "0068"), nil); !strings.Contains(answer, `\"NO\"`) {
		t.Error(answer)
	}
}

func TestTextIsTheLongestStringOnALine(t *testing.T) {
	for user, want := range map[string]string{
		"no string": "no string", "x\n\"a\"\ny": "a", "\"a\"\n\"longer\"": "longer", "\"broken\n\"\\u00e4\"": "ä",
		"say \"this\"": `say "this"`, "\"\"": "",
	} {
		if got := standin.Text(user); got != want {
			t.Errorf("%q: %q, want %q", user, got, want)
		}
	}
}

func TestNetworkStopsAndServes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var network standin.Network
		defer network.Close()
		transport := &http.Transport{DialContext: network.Dial}
		defer transport.CloseIdleConnections()
		client := &http.Client{Transport: transport}
		get := func() (string, error) {
			resp, err := client.Get("http://host/v1/models")
			if err != nil {
				return "", err
			}
			defer resp.Body.Close()
			b, err := io.ReadAll(resp.Body)
			return string(b), err
		}
		if _, err := get(); err == nil {
			t.Error("nobody is there, and no error")
		}
		network.Serve("host", stub(standin.Options{Model: "first"}))
		if b, err := get(); err != nil || !strings.Contains(b, "first") {
			t.Error(b, err)
		}
		network.Serve("host", stub(standin.Options{Model: "second"}))
		if b, err := get(); err != nil || !strings.Contains(b, "second") {
			t.Error(b, err)
		}
		network.Stop("host")
		if _, err := get(); err == nil {
			t.Error("the host is stopped, and no error")
		}
	})
}

func TestSlotsQueueThenRefuse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := stub(standin.Options{Slots: 2, Queue: 1, Latency: standin.Constant(time.Second)})
		codes := make(chan int, 5)
		for range 5 {
			go func() {
				r := httptest.NewRequest(http.MethodPost, "/v1/chat/completions", bytes.NewBufferString(body()))
				r.Header.Set("Content-Type", "application/json")
				w := httptest.NewRecorder()
				s.ServeHTTP(w, r)
				codes <- w.Code
			}()
		}
		count := map[int]int{}
		for range 5 {
			count[<-codes]++
		}
		if count[200] < 3 || count[429] < 1 || count[200]+count[429] != 5 {
			t.Errorf("statuses %v of 5 at once with 2 slots and 1 that may queue", count)
		}
	})
}
