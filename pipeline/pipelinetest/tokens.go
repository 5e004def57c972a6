package pipelinetest

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"sync/atomic"
	"testing"
	"time"
)

// This file owns the tokens that a real broker accepts (RFC 7519, RS256), and the two ways in which a worker comes by
// them: a file that is replaced again and again, and an OpenID Connect provider.

// Signer makes tokens.
type Signer struct{ Key *rsa.PrivateKey }

// Signer makes tokens that the broker accepts.
func (b *Broker) Signer(tb testing.TB) Signer {
	tb.Helper()
	raw, err := os.ReadFile(b.Env["KAFKA_IDP_KEY"])
	if err != nil {
		tb.Fatal(err)
	}
	block, _ := pem.Decode(raw)
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		tb.Fatal(err)
	}
	return Signer{key.(*rsa.PrivateKey)}
}

// Token is one for User:worker that ends in lifetime from now, with other claims than usual.
func (s Signer) Token(lifetime time.Duration, claims map[string]any) string {
	all := map[string]any{"sub": "worker", "aud": "kafka", "iss": "https://idp.example",
		"iat": time.Now().Add(-time.Minute).Unix(), "exp": time.Now().Add(lifetime).Unix()}
	maps.Copy(all, claims)
	part := func(v any) string {
		b, err := json.Marshal(v)
		if err != nil {
			panic(err)
		}
		return base64.RawURLEncoding.EncodeToString(b)
	}
	text := part(map[string]string{"alg": "RS256", "typ": "JWT", "kid": "test"}) + "." + part(all)
	sum := sha256.Sum256([]byte(text))
	sig, err := rsa.SignPKCS1v15(rand.Reader, s.Key, crypto.SHA256, sum[:])
	if err != nil {
		panic(err)
	}
	return text + "." + base64.RawURLEncoding.EncodeToString(sig)
}

// WriteToken replaces a token file in one step, as those who keep tokens fresh do.
func WriteToken(file, token string) error {
	if err := os.WriteFile(file+".new", []byte(token+"\n"), 0o600); err != nil {
		return err
	}
	return os.Rename(file+".new", file)
}

// keepTokenFresh replaces the file every second, by tokens that live for six, until the broker is removed.
func (b *Broker) keepTokenFresh(tb testing.TB, file string) {
	tb.Helper()
	sign := b.Signer(tb)
	if err := WriteToken(file, sign.Token(6*time.Second, nil)); err != nil {
		tb.Fatal(err)
	}
	stop, stopped := make(chan struct{}), make(chan struct{})
	b.stopTokens = func() { close(stop); <-stopped }
	go func() {
		defer close(stopped)
		for tick := time.NewTicker(time.Second); ; {
			select {
			case <-stop:
				return
			case <-tick.C:
				if err := WriteToken(file, sign.Token(6*time.Second, nil)); err != nil {
					panic(err)
				}
			}
		}
	}()
}

// What a Provider expects of its client.
const (
	ProviderClient = "sluice"
	ProviderSecret = "c4n4ry/of+the client"
	ProviderScope  = "kafka write"
)

// Provider is a token endpoint over TLS for the client credentials grant.
type Provider struct {
	*httptest.Server
	Given  atomic.Int64                     // tokens
	Answer atomic.Pointer[http.HandlerFunc] // in place of a token
}

// NewProvider is one that lives as long as the test. Its tokens are said to end after so long.
func NewProvider(tb testing.TB, issue func() string, ends time.Duration) *Provider {
	p := newProvider(issue, ends)
	tb.Cleanup(p.Close)
	return p
}

// startProvider is one whose tokens the broker accepts for a little longer than they are said to.
func startProvider(s Signer, ends time.Duration) *Provider {
	return newProvider(func() string { return s.Token(ends+5*time.Second, nil) }, ends)
}

func newProvider(issue func() string, ends time.Duration) *Provider {
	p := &Provider{}
	p.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if h := p.Answer.Load(); h != nil {
			(*h)(w, r)
			return
		}
		id, secret, _ := r.BasicAuth()
		w.Header().Set("Content-Type", "application/json")
		if secret != url.QueryEscape(ProviderSecret) || id != ProviderClient ||
			r.FormValue("grant_type") != "client_credentials" || r.FormValue("scope") != ProviderScope {
			w.WriteHeader(http.StatusUnauthorized)
			fmt.Fprintf(w, `{"error":"invalid_client","error_description":"I do not know %s"}`, ProviderSecret)
			return
		}
		p.Given.Add(1)
		json.NewEncoder(w).Encode(map[string]any{"access_token": issue(), "token_type": "Bearer",
			"expires_in": int(ends.Seconds())})
	}))
	p.Config.ErrorLog = log.New(io.Discard, "", 0)
	p.StartTLS()
	return p
}
