package llm_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sluice/pipeline"
	"sluice/pipeline/llm"
	"sluice/pipeline/llm/standin"
)

// This file owns the tests of how an endpoint is reached: addresses, proxies, keys, TLS.

func TestAddressesThatAreRefused(t *testing.T) {
	for _, s := range []string{
		"169.254.169.254", "169.254.0.1", "::ffff:169.254.169.254", "fe80::1", "fe80::1%eth0", "0.0.0.0", "::",
		"::ffff:0.0.0.0", "224.0.0.1", "255.255.255.255",
		"ff02::1", "fd00:ec2::254", "64:ff9b::a9fe:a9fe", "64:ff9b::",
	} {
		var e *llm.AddressError
		if err := llm.CheckAddr(netip.MustParseAddr(s)); !errors.As(err, &e) {
			t.Errorf("%s is let through", s)
		}
	}
	for _, s := range []string{"127.0.0.1", "::1", "10.0.0.7", "192.168.1.1", "169.253.255.255", "169.255.0.0",
		"fd00::1", "2001:db8::1", "64:ff9b::a00:7"} {
		if err := llm.CheckAddr(netip.MustParseAddr(s)); err != nil {
			t.Errorf("%s: %v", s, err)
		}
	}
}

// TestAddressesAreCheckedAtTheDial: what a name stands for is only known when it is connected to.
func TestAddressesAreCheckedAtTheDial(t *testing.T) {
	client, err := llm.NewClient(&llm.Options{})
	if err != nil {
		t.Fatal(err)
	}
	for _, u := range []string{"http://169.254.169.254/latest/meta-data", "http://[fe80::1]/",
		"http://[::ffff:169.254.169.254]/", "http://0.0.0.0:1/"} {
		_, err := client.Get(u)
		var e *llm.AddressError
		if !errors.As(err, &e) {
			t.Errorf("%s: %v, want an *llm.AddressError", u, err)
		}
		if reason := llm.ReasonOf(err); reason != llm.ReasonAddress {
			t.Errorf("%s: reason %s", u, reason)
		}
	}
}

func TestProxyIsOnlyTheConfigured(t *testing.T) {
	for _, v := range []string{"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"} {
		t.Setenv(v, "http://b:3128")
	}
	inBubble(t, func(t *bubble) {
		t.must(t.pool(llm.Options{}, "a"), "good")
		if n := t.b.Stats().Requests; n != 0 {
			t.Errorf("%d requests went to the proxy of the environment", n)
		}
		var asked []string
		t.net.Serve("proxy", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			asked = append(asked, r.URL.String())
			t.a.ServeHTTP(w, r)
		}))
		t.must(t.pool(llm.Options{Proxy: "http://proxy:3128"}, "inside"), "good")
		if len(asked) != 1 || asked[0] != "http://inside/v1/chat/completions" {
			t.Errorf("the proxy was asked for %q", asked)
		}
	})
}

const canaryKey = "sk-canary-7f3a9d"

// TestTheKeyIsNeverTold: whatever an endpoint does with it.
func TestTheKeyIsNeverTold(t *testing.T) {
	malformed := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			panic(err)
		}
		conn.Write([]byte(r.Header.Get("Authorization") + " " + r.Header.Get("Authorization") + "\r\n\r\n"))
		conn.Close()
	})
	inBubble(t, func(t *bubble) {
		t.a = newStub(standin.Options{APIKey: canaryKey})
		var log bytes.Buffer
		text := "good canary-text"
		for name, step := range map[string]standin.Step{
			"good": standin.Good(), "echo": standin.Echo(), "redirect": standin.Redirect("http://b/?" + canaryKey +
				"canary-text"), "401": standin.Status(401, canaryKey), "malformed": {},
			"type": {Status: 200, Raw: []byte(canaryKey), Header: http.Header{"Content-Type": {canaryKey +
				"canary-text"}}},
			"garbage": {Status: 200, Raw: []byte(canaryKey + "canary-text")}, "usage": standin.Usage(canaryKey,
				"canary-text"), "finish": standin.Finish(canaryKey),
		} {
			t.net.Serve("a", t.a)
			if name == "malformed" {
				t.net.Serve("a", malformed)
			}
			t.a.Always(step)
			p := t.pool(llm.Options{APIKey: func() (pipeline.Secret, error) {
				return pipeline.NewSecret(canaryKey),
					nil
			}, BreakerFailures: 2, Logger: slog.New(slog.NewTextHandler(&log, nil))}, "a")
			_, err := p.Ask(t.Context(), question(t.task, text))
			if (err == nil) != (name == "good") {
				t.Errorf("%s: error %v", name, err)
			}
			for e := err; e != nil; e = errors.Unwrap(e) {
				log.WriteString(e.Error() + "\n")
			}
			for _, s := range p.Status() {
				log.WriteString(string(s.LastReason) + s.URL + "\n")
			}
		}
		if s := log.String(); strings.Contains(s, canaryKey) || strings.Contains(s, "canary-text") || len(s) < 500 {
			t.Errorf("key or text in errors, logs or status (or nothing there at all):\n%s", s)
		}
		if n := t.b.Stats().Requests; n != 0 {
			t.Errorf("%d requests followed a redirect", n)
		}
	})
}

func TestAPIKeyErrors(t *testing.T) {
	inBubble(t, func(t *bubble) {
		for _, key := range []string{"", "two\nlines", "with space", "schlüssel"} {
			p := t.pool(llm.Options{APIKey: func() (pipeline.Secret, error) { return pipeline.NewSecret(key), nil }},
				"a")
			e := t.fails(t.Context(), p, "good")
			if e.Reason != llm.ReasonAPIKey || key != "" && strings.Contains(e.Error(), key) {
				t.Errorf("%q: %+v, %v", key, e, e)
			}
			if s := p.Status()[0]; s.Breaker != "closed" {
				t.Errorf("%q: %+v", key, s)
			}
		}
		if n := t.a.Stats().Requests; n != 0 {
			t.Errorf("%d requests without a key", n)
		}
	})
}

func TestKeyFileIsReadAgainWhenItChanges(t *testing.T) {
	path := filepath.Join(t.TempDir(), "key")
	key := llm.KeyFile(path)
	if _, err := key(); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("no file: %v", err)
	}
	write := func(s string, at time.Time) {
		t.Helper()
		if err := os.WriteFile(path, []byte(s), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(path, at, at); err != nil {
			t.Fatal(err)
		}
	}
	start := time.Now().Truncate(time.Second)
	write("first\n", start)
	if k, err := key(); k.Reveal() != "first" || err != nil {
		t.Errorf("%q, %v", k, err)
	}
	write("other\n", start.Add(time.Second))
	if k, err := key(); k.Reveal() != "other" || err != nil {
		t.Errorf("after a change: %q, %v", k, err)
	}
	// as Kubernetes does it: another file under the same name
	next := path + ".next"
	if err := os.WriteFile(next, []byte("third\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(next, start.Add(time.Second), start.Add(time.Second)); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(next, path); err != nil {
		t.Fatal(err)
	}
	if k, err := key(); k.Reveal() != "third" || err != nil {
		t.Errorf("after a rename: %q, %v", k, err)
	}
	for i, bad := range []string{"", " \n", "hush-hush\nhush-hush", strings.Repeat("x", 20<<10)} {
		write(bad, start.Add(time.Duration(i+2)*time.Second))
		if k, err := key(); err == nil || strings.Contains(err.Error(), "hush") {
			t.Errorf("%.20q: %q, %v", bad, k, err)
		}
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(path, 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := key(); err == nil {
		t.Error("a folder is no key")
	}
}

// TestOverTLS is on real sockets: certificates, HTTP/2 and what goes wrong with them.
func TestOverTLS(t *testing.T) {
	stub := newStub(standin.Options{})
	server := httptest.NewUnstartedServer(stub)
	server.EnableHTTP2 = true
	server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	server.StartTLS()
	defer server.Close()
	plain := httptest.NewServer(stub)
	defer plain.Close()
	roots := x509.NewCertPool()
	roots.AddCert(server.Certificate())
	task := newTask(t)
	ask := func(o llm.Options, url string) error {
		o.URLs, o.Model, o.MaxAttempts = []string{url + "/v1"}, "stub", 1
		p, err := llm.NewPool(filled(o))
		if err != nil {
			t.Fatal(err)
		}
		defer p.Close()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		_, err = p.Ask(ctx, question(task, "good"))
		return err
	}
	for name, c := range map[string]struct {
		o    llm.Options
		url  string
		want llm.Reason
	}{
		"trusted":    {llm.Options{TLS: &tls.Config{RootCAs: roots}}, server.URL, ""},
		"plain":      {llm.Options{}, plain.URL, ""},
		"unknown CA": {llm.Options{}, server.URL, llm.ReasonTLS},
		"wrong host": {llm.Options{TLS: &tls.Config{RootCAs: roots, ServerName: "elsewhere.test"}}, server.URL,
			llm.ReasonTLS},
		"no TLS":       {llm.Options{}, strings.Replace(plain.URL, "http:", "https:", 1), llm.ReasonTLS},
		"no plain":     {llm.Options{}, strings.Replace(server.URL, "https:", "http:", 1), llm.ReasonRefused},
		"nobody":       {llm.Options{}, "http://127.0.0.1:1", llm.ReasonConnect},
		"no such host": {llm.Options{}, "http://no-such-host.invalid:8000", llm.ReasonConnect},
	} {
		err := ask(c.o, c.url)
		var e *llm.CallError
		if errors.As(err, &e); (err != nil) != (c.want != "") || e != nil && e.Reason != c.want {
			t.Errorf("%s: %v, want reason %q", name, err, c.want)
		}
	}
}
