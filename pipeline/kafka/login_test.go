package kafka

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"sluice/pipeline"
	"sluice/pipeline/pipelinetest"
)

// Logins with tokens, on a real broker that checks their signature, audience, issuer and time; and their renewal while
// connections live. The test broker ends a session 3 s after a login, whatever the mechanism.

// secureConfig is a worker on the SASL_SSL listener, as User:worker, who may do everything it needs. SASL is left to
// the test.
func secureConfig(t testing.TB, b *pipelinetest.Broker, partitions int) Config {
	t.Helper()
	in, out, group := topicNames(t)
	createTopics(t, b.Addrs(), partitions, nil, in, out)
	return realConfig(t, b, b.Listener(t, "scram-sha-512"), ExactlyOnce, in, out, group)
}

// logins counts the messages that tell of renewed logins.
type logins struct {
	slog.Handler
	renewed *atomic.Int64
}

func (l logins) Enabled(context.Context, slog.Level) bool { return true }
func (l logins) WithAttrs([]slog.Attr) slog.Handler       { return l }
func (l logins) Handle(ctx context.Context, r slog.Record) error {
	if r.Message == "logged in again" {
		l.renewed.Add(1)
	}
	if l.Handler.Enabled(ctx, r.Level) {
		return l.Handler.Handle(ctx, r)
	}
	return nil
}

// workThroughRenewals lets a worker copy records while its sessions end again and again, until its connections have
// logged in again several times. No record is lost or doubled, and no request had to be repeated: so no connection was
// closed by the broker, which is what it does to one whose session has ended.
func workThroughRenewals(t *testing.T, b *pipelinetest.Broker, cfg Config) {
	const partitions, renewals, step = 2, 12, 20
	var renewed, retries atomic.Int64
	cfg.Logger = slog.New(logins{cfg.Logger.Handler(), &renewed})
	cfg.Observer.Retry = func(step string, code int) {
		if code == 0 { // a connection's end; codes come while coordinators are elected
			retries.Add(1)
		}
	}
	w := startWorker(t, cfg)
	sent := 0
	more := func() {
		send(t, b.Addrs(), cfg.Topics[0], partitions, sent, sent+step)
		sent += step
		awaitCommitted(t, b.Addrs(), cfg.Group, int64(sent))
	}
	more()
	before := retries.Load()
	for end := time.Now().Add(90 * time.Second); renewed.Load() < renewals; more() {
		if time.Now().After(end) {
			t.Fatalf("only %d renewed logins; the worker: %v", renewed.Load(), w.err)
		}
	}
	if n := retries.Load() - before; n > 0 {
		t.Errorf("%d requests were repeated because a connection ended", n)
	}
	w.stop()
	if err := w.wait(t); err != nil {
		t.Fatal(err)
	}
	h := history(readAll(t, b.Addrs(), cfg.Outputs[0], kgo.ReadCommitted()), partitions)
	if r := h.Check(sent); !r.Clean() {
		t.Error(r)
	}
	t.Logf("%d records, %d logins renewed", sent, renewed.Load())
}

func TestLoginsAreRenewedBeforeTheirSessionsEnd(t *testing.T) {
	b := pipelinetest.Kafka(t, "--acl")
	sign := b.Signer(t)
	t.Run("SCRAM", func(t *testing.T) {
		cfg := secureConfig(t, b, 2)
		workThroughRenewals(t, b, cfg)
	})
	t.Run("a token file that is renewed", func(t *testing.T) {
		cfg := secureConfig(t, b, 2)
		file := filepath.Join(t.TempDir(), "token")
		var mu sync.Mutex // logins of several connections
		renew := func() {
			if err := pipelinetest.WriteToken(file, sign.Token(4*time.Second, nil)); err != nil {
				t.Error(err)
			}
		}
		renew()
		cfg.SASL = SASL{Mechanism: OAuthBearer, Secret: func(context.Context) (pipeline.Secret, error) {
			mu.Lock()
			defer mu.Unlock()
			renew() // the first tokens expire while the worker runs
			return pipeline.ReadSecret(file)
		}}
		workThroughRenewals(t, b, cfg)
	})
	t.Run("an OIDC provider", func(t *testing.T) {
		cfg := secureConfig(t, b, 2)
		p := pipelinetest.NewProvider(t, func() string { return sign.Token(15*time.Second, nil) }, 15*time.Second)
		cfg.SASL = SASL{Mechanism: OAuthBearer, Secret: NewTokenSource(oidcOf(p)).Token}
		workThroughRenewals(t, b, cfg)
		if n := p.Given.Load(); n < 1 {
			t.Errorf("%d tokens were given", n)
		}
	})
}

func TestRefusedTokens(t *testing.T) {
	b := pipelinetest.Kafka(t, "--acl")
	sign := b.Signer(t)
	other, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		secret   func() (pipeline.Secret, error)
		says     string
		hopeless bool
	}{
		"expired": {token(sign.Token(-time.Hour, nil)), "refuse the token", true},
		"of another audience": {token(sign.Token(time.Hour, map[string]any{"aud": "billing"})),
			"for another audience or issuer", true},
		"of another issuer": {token(sign.Token(time.Hour, map[string]any{"iss": "https://elsewhere.example"})),
			"refuse the token", true},
		"signed by others": {token(pipelinetest.Signer{Key: other}.Token(time.Hour, nil)), "refuse the token", true},
		"no token at all":  {token("c4n4ry"), "refuse the token", true},
		"of several lines": {token("c4n4ry\nsecond line"), "has blanks or control characters", false},
		"not to be had": {func() (pipeline.Secret, error) { return nil, errors.New("the provider is away") },
			"the provider is away", false},
		"empty": {func() (pipeline.Secret, error) { return nil, nil }, "no password and no token is " +
			"given", false},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := testConfig(t, strings.Split(b.Env["KAFKA_BOOTSTRAP_SASL_SSL"], ","), "in", "out", "g")
			cfg.TLS = fixedTLS(&tls.Config{RootCAs: b.Authorities(t)})
			cfg.SASL = SASL{Mechanism: OAuthBearer, Secret: func(context.Context) (pipeline.Secret,
				error) {
				return tc.secret()
			}}
			client := newClient(t, cfg)
			err := client.refresh(t.Context())
			if err == nil {
				t.Fatal("the broker lets it in")
			}
			sentence, hopeless := client.connectionProblem(err)
			if !strings.Contains(sentence, tc.says) || hopeless != tc.hopeless {
				t.Errorf("%q (hopeless: %v)", sentence, hopeless)
			}
			if s, _ := tc.secret(); s != nil && strings.Contains(sentence+err.Error(), s.Reveal()) {
				t.Errorf("the token is told: %s", sentence)
			}
		})
	}
}

func token(s string) func() (pipeline.Secret, error) {
	return func() (pipeline.Secret, error) { return pipeline.NewSecret(s), nil }
}

// ---- the provider

// oidcOf is how a worker asks a provider.
func oidcOf(p *pipelinetest.Provider) OIDC {
	pool := x509.NewCertPool()
	pool.AddCert(p.Certificate())
	return OIDC{TokenURL: p.URL, ClientID: pipelinetest.ProviderClient, Scope: pipelinetest.ProviderScope,
		ClientSecret: token(clientSecret), RootCAs: func() (*x509.CertPool, error) { return pool, nil }}
}

const clientSecret = pipelinetest.ProviderSecret

func TestTokensOfAProvider(t *testing.T) {
	var serial atomic.Int64
	p := pipelinetest.NewProvider(t, func() string { return fmt.Sprint("token-", serial.Add(1)) }, 100*time.Second)
	t.Setenv("HTTPS_PROXY", "http://127.0.0.1:1") // is not looked at
	elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter,
		*http.Request) {
		t.Error("the redirect was followed")
	}))
	defer elsewhere.Close()
	now := time.Now()
	s := NewTokenSource(oidcOf(p))
	s.now = func() time.Time { return now }
	want := func(token string) {
		t.Helper()
		got, err := s.Token(t.Context())
		if err != nil || got.Reveal() != token {
			t.Errorf("%q, %v, want %q", got.Reveal(), err, token)
		}
	}
	fail := func(h http.HandlerFunc) { p.Answer.Store(&h) }
	want("token-1")
	now = now.Add(79 * time.Second)
	want("token-1")
	now = now.Add(2 * time.Second)
	want("token-2") // at 80 % of its time
	fail(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) })
	now = now.Add(85 * time.Second)
	want("token-2") // the provider is away, and the token still valid
	now = now.Add(6 * time.Second)
	for name, tc := range map[string]struct {
		h    http.HandlerFunc
		says string
	}{
		"away": {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) },
			"500 Internal Server Error"},
		"redirect": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, elsewhere.URL, http.StatusTemporaryRedirect)
		}, "redirects (307 Temporary Redirect), which is not followed"},
		"no JSON":  {func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "<html>") }, "cannot parse"},
		"no token": {func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "{}") }, "no token from"},
		"bottomless": {func(w http.ResponseWriter, r *http.Request) {
			for w.Header().Set("Content-Type", "application/json"); ; {
				if _, err := fmt.Fprint(w, strings.Repeat(" ", 1<<16)); err != nil {
					return
				}
			}
		}, "no token from"},
	} {
		fail(tc.h)
		if _, err := s.Token(t.Context()); err == nil || !strings.Contains(err.Error(), tc.says) ||
			strings.Contains(err.Error(), clientSecret) {
			t.Errorf("%s: %v", name, err)
		}
	}
	p.Answer.Store(nil)
	want("token-3")

	wrong := oidcOf(p)
	wrong.ClientSecret = token("wrong")
	if _, err := NewTokenSource(wrong).Token(t.Context()); err == nil || !strings.Contains(err.Error(),
		`refuses client "sluice": 401 Unauthorized, invalid_client;`) {
		t.Errorf("a wrong client secret: %v", err)
	}
	wrong = oidcOf(p)
	wrong.ClientID = "echo"
	if _, err := NewTokenSource(wrong).Token(t.Context()); err == nil || strings.Contains(err.Error(), clientSecret) ||
		!strings.Contains(err.Error(), "invalid_client") {
		t.Errorf("a provider that says the secret aloud: %v", err)
	}
	wrong = oidcOf(p)
	wrong.RootCAs = nil
	if _, err := NewTokenSource(wrong).Token(t.Context()); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("a provider of an unknown CA: %v", err)
	}
}

func TestLinkLocalAddressesAreRefused(t *testing.T) {
	for address, refused := range map[string]bool{"169.254.169.254:80": true, "[fe80::1%eth0]:443": true,
		"[::ffff:169.254.1.1]:80": true, "127.0.0.1:80": false, "10.0.0.1:443": false, "[2001:db8::1]:443": false} {
		if err := refuseLinkLocal("tcp", address, nil); (err != nil) != refused {
			t.Errorf("%s: %v", address, err)
		}
	}
	_, err := NewTokenSource(OIDC{TokenURL: "http://169.254.169.254/token", ClientID: "x",
		ClientSecret: token("y")}).Token(t.Context())
	if err == nil || !strings.Contains(err.Error(), "link-local") {
		t.Errorf("%v", err)
	}
}

// One goroutine asks the provider; the others wait for it, or until they may wait no more.
func TestManyConnectionsAskForOneToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := NewTokenSource(OIDC{ClientSecret: func() (pipeline.Secret, error) { t.Error("asked"); return nil, nil }})
		s.busy <- struct{}{} // somebody is asking
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := s.Token(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		s.token, s.renew = pipeline.NewSecret("x"), time.Now().Add(time.Minute)
		go func() { time.Sleep(time.Second); <-s.busy }()
		if got, err := s.Token(t.Context()); err != nil || got.Reveal() != "x" {
			t.Error(err)
		}
	})
}

// ---- certificates

// A broker whose certificate has expired, is for another name or of an unknown CA gets neither password nor token, and
// the sentence says which of the three it is.
func TestWrongCertificatesAreRefusedAndNamed(t *testing.T) {
	ca, strangers := pipelinetest.NewAuthority(t, "our CA"), pipelinetest.NewAuthority(t, "another CA")
	for name, tc := range map[string]struct {
		cert tls.Certificate
		says string
	}{
		"expired": {ca.Certificate(t, -time.Hour, "127.0.0.1"), "is not valid at this time: x509: certificate " +
			"has expired or is not yet valid"},
		"wrong host": {ca.Certificate(t, time.Hour, "kafka.example"), "is for other names"},
		"unknown CA": {strangers.Certificate(t, time.Hour, "127.0.0.1"), "cannot be verified: x509: certificate " +
			"signed by unknown authority; set tls.ca_file"},
		"wrong host 2": {ca.Certificate(t, time.Hour, "10.1.2.3"), "is for other names"},
	} {
		t.Run(name, func(t *testing.T) {
			ln, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{tc.cert}})
			if err != nil {
				t.Fatal(err)
			}
			defer ln.Close()
			go func() {
				for {
					conn, err := ln.Accept()
					if err != nil {
						return
					}
					go func() {
						defer conn.Close()
						if n, _ := conn.Read(make([]byte, 1)); n > 0 {
							t.Error("something was sent to a broker with a wrong certificate")
						}
					}()
				}
			}()
			cfg := testConfig(t, []string{ln.Addr().String()}, "in", "out", "g")
			cfg.TLS = fixedTLS(&tls.Config{RootCAs: ca.Pool})
			cfg.SASL = SASL{Plain, "worker", Fixed(pipeline.NewSecret("worker-secret"))}
			client := newClient(t, cfg)
			sentence, hopeless := client.connectionProblem(client.refresh(t.Context()))
			if !strings.Contains(sentence, tc.says) || !hopeless {
				t.Errorf("%q (hopeless: %v), want %q", sentence, hopeless, tc.says)
			}
		})
	}
}

// One broker of several has let its certificate expire; the first contact is with another. Check says what is to be
// done.
func TestCheckNamesTheWrongCertificateOfOneBroker(t *testing.T) {
	ca := pipelinetest.NewAuthority(t, "our CA")
	certs := []tls.Certificate{ca.Certificate(t, time.Hour, "127.0.0.1"), ca.Certificate(t, -time.Hour, "127.0.0.1")}
	k, err := kfake.NewCluster(kfake.NumBrokers(2), kfake.SeedTopics(1, "in", "out"),
		kfake.ListenFn(func(network, address string) (net.Listener, error) {
			cert := certs[0]
			if len(certs) > 1 {
				certs = certs[1:]
			}
			return tls.Listen(network, address, &tls.Config{Certificates: []tls.Certificate{cert}})
		}))
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	if err := k.MoveTopicPartition("in", 0, 1); err != nil {
		t.Fatal(err)
	}
	cfg := testConfig(t, k.ListenAddrs()[:1], "in", "out", "g")
	cfg.TLS = fixedTLS(&tls.Config{RootCAs: ca.Pool})
	problems := errors.Join(newClient(t, cfg).Check(t.Context())...)
	for _, part := range []string{"topic in:", "is not valid at this time", "have it renewed"} {
		if problems == nil || !strings.Contains(problems.Error(), part) {
			t.Errorf("%v: does not say %q", problems, part)
		}
	}
}

// Client certificate and CA are asked for at every connection: what was refused works as soon as the files are right.
func TestRenewedCertificatesHoldForTheNextConnection(t *testing.T) {
	b := pipelinetest.Kafka(t, "--acl")
	good, err := tls.LoadX509KeyPair(b.Env["KAFKA_CLIENT_CERT"], b.Env["KAFKA_CLIENT_KEY"])
	if err != nil {
		t.Fatal(err)
	}
	strangers := pipelinetest.NewAuthority(t, "another CA")
	// The wrong one is sent even though the broker does not name its CA.
	send := func(c tls.Certificate) func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		return func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &c, nil }
	}
	var now atomic.Pointer[tls.Config]
	cfg := testConfig(t, strings.Split(b.Env["KAFKA_BOOTSTRAP_SSL"], ","), "in", "out", "g")
	cfg.TLS = func() (*tls.Config, error) { return now.Load(), nil }
	client := newClient(t, cfg)
	now.Store(&tls.Config{RootCAs: strangers.Pool, GetClientCertificate: send(good)})
	if sentence, _ := client.connectionProblem(client.refresh(t.Context())); !strings.Contains(sentence,
		"unknown authority") {
		t.Errorf("the broker's CA is not known: %s", sentence)
	}
	now.Store(&tls.Config{RootCAs: b.Authorities(t), GetClientCertificate: send(strangers.Certificate(t, time.Hour,
		"client"))})
	if sentence, _ := client.connectionProblem(client.refresh(t.Context())); !strings.Contains(sentence,
		"client certificate") {
		t.Errorf("a client certificate of another CA: %s", sentence)
	}
	now.Store(&tls.Config{RootCAs: b.Authorities(t), GetClientCertificate: send(good)})
	await(t, 20*time.Second, "connection", func() bool { return client.refresh(t.Context()) == nil })
}

var _ net.Conn = (*loginConn)(nil)
