package worker

// This file guards the HTTP endpoints: who may ask (TLS, token, client certificate), and how much one client can hold
// of time, memory and connections.

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"sluice/cmd/sluice/settings"
	"sluice/pipeline"
)

// The limits of the server. A scrape is a request of 1 KiB and an answer of 100 KiB, a few times a minute.
const (
	serverHeaderBytes   = 16 << 10
	serverHeaderTimeout = 5 * time.Second  // to read a request's header
	serverReadTimeout   = 10 * time.Second // to read a request
	serverWriteTimeout  = 30 * time.Second // from a request's header to the end of its answer; profiles set their own
	serverIdleTimeout   = 2 * time.Minute  // between requests of one connection
	serverConnections   = 64
)

// newHTTPServer is an HTTP/1.1 server with the limits, for a handler of all endpoints.
func newHTTPServer(h http.Handler) (*http.Server, *turnstile) {
	gate := &turnstile{most: serverConnections, inside: map[net.Conn]*visitor{}}
	s := &http.Server{
		Handler:           gate.wrap(bodiless(h)),
		ReadHeaderTimeout: serverHeaderTimeout, ReadTimeout: serverReadTimeout, WriteTimeout: serverWriteTimeout,
		IdleTimeout:    serverIdleTimeout,
		MaxHeaderBytes: serverHeaderBytes,
		ConnState:      gate.connState,
		ConnContext:    gate.connContext,
		// Whoever reaches the port can make it complain (handshakes that fail); that must not fill the log.
		ErrorLog:  slog.NewLogLogger(slog.Default().Handler(), slog.LevelDebug),
		Protocols: new(http.Protocols),
	}
	s.Protocols.SetHTTP1(true) // the limits above count connections, and HTTP/2 has many requests on one
	return s, gate
}

// bodiless refuses requests with a body: no endpoint has a use for one.
func bodiless(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ContentLength != 0 {
			w.Header().Set("Connection", "close")
			http.Error(w, "no endpoint takes a body", http.StatusRequestEntityTooLarge)
			return
		}
		h.ServeHTTP(w, r)
	})
}

// turnstile bounds the connections. When there are too many, the one that has been silent for longest makes room: a
// client that opens connections and says nothing, or says it slowly, pushes out its own, and never one whose request is
// being answered.
type turnstile struct {
	mu     sync.Mutex
	most   int
	inside map[net.Conn]*visitor
}

type visitor struct {
	since time.Time // of the connection, or of its last answer
	busy  bool      // a request is being answered
}

type visitorKey struct{}

// connContext is asked for every new connection, before anything is read from it.
func (g *turnstile) connContext(ctx context.Context, c net.Conn) context.Context {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.inside) >= g.most {
		g.makeRoom()
	}
	v := &visitor{since: time.Now()}
	g.inside[c] = v
	return context.WithValue(ctx, visitorKey{}, v)
}

func (g *turnstile) connState(c net.Conn, state http.ConnState) {
	if state == http.StateClosed || state == http.StateHijacked {
		g.mu.Lock()
		defer g.mu.Unlock()
		delete(g.inside, c)
	}
}

func (g *turnstile) makeRoom() {
	var longest net.Conn
	for c, v := range g.inside {
		if !v.busy && (longest == nil || v.since.Before(g.inside[longest].since)) {
			longest = c
		}
	}
	if longest != nil {
		delete(g.inside, longest)
		go longest.Close() // which over TLS may have to wait for the client
	}
}

// wrap marks a connection as busy while a request of it is answered. When all are busy, the request is refused.
func (g *turnstile) wrap(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		v, _ := r.Context().Value(visitorKey{}).(*visitor)
		g.mu.Lock()
		full := len(g.inside) > g.most
		if v != nil && !full {
			v.busy = true
		}
		g.mu.Unlock()
		if full {
			w.Header().Set("Connection", "close")
			http.Error(w, "too many requests at once", http.StatusServiceUnavailable)
			return
		}
		defer func() {
			g.mu.Lock()
			defer g.mu.Unlock()
			if v != nil {
				v.busy, v.since = false, time.Now()
			}
		}()
		h.ServeHTTP(w, r)
	})
}

// guard decides who may ask. Its zero value lets everybody in.
type guard struct {
	token       func() (pipeline.Secret, error) // nil: no token is wanted
	certificate bool                            // a client certificate is wanted
}

// protect lets a request through that proves what is wanted.
func (g guard) protect(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if g.certificate && (r.TLS == nil || len(r.TLS.VerifiedChains) == 0) {
			http.Error(w, "a client certificate of server.tls.client_ca_file is needed", http.StatusForbidden)
			return
		}
		if g.token != nil {
			want, err := g.token()
			if err != nil { // nobody gets in
				slog.Warn("the server's token cannot be read", "error", err)
				http.Error(w, "the token cannot be checked just now", http.StatusServiceUnavailable)
				return
			}
			scheme, given, _ := strings.Cut(r.Header.Get("Authorization"), " ")
			if !strings.EqualFold(scheme, "Bearer") || !sameSecret(want.Reveal(), strings.TrimSpace(given)) {
				w.Header().Set("WWW-Authenticate", `Bearer realm="sluice"`)
				http.Error(w, "the token of server.token_file is needed (Authorization: Bearer ...)",
					http.StatusUnauthorized)
				return
			}
		}
		h.ServeHTTP(w, r)
	})
}

// sameSecret takes equally long whatever the two have in common, their length included.
func sameSecret(a, b string) bool {
	x, y := sha256.Sum256([]byte(a)), sha256.Sum256([]byte(b))
	return subtle.ConstantTimeCompare(x[:], y[:]) == 1
}

// serverTLS is nil without TLS. Files are read again at most once a second, so a renewed certificate is taken up, and a
// flood of handshakes reads nothing.
func serverTLS(t settings.ServerTLS) (*tls.Config, error) {
	if t.CertFile == "" {
		return nil, nil
	}
	read := func() (*tls.Config, error) {
		cert, err := readKeyPair("server.tls", t.CertFile, t.KeyFile)
		if err != nil {
			return nil, err
		}
		c := &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{cert},
			NextProtos: []string{"http/1.1"}}
		if t.ClientCAFile != "" {
			// Probes (/healthz, /readyz) cannot show a certificate, so it is asked for here and wanted by the guard.
			c.ClientAuth = tls.VerifyClientCertIfGiven
			if c.ClientCAs, err = readCAs("server.tls.client_ca_file", t.ClientCAFile); err != nil {
				return nil, err
			}
		}
		return c, nil
	}
	current, err := read()
	if err != nil {
		return nil, err
	}
	var mu sync.Mutex
	var told string
	at := time.Now()
	return &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"},
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
			mu.Lock()
			defer mu.Unlock()
			if time.Since(at) < time.Second {
				return current, nil
			}
			at = time.Now()
			next, err := read()
			switch {
			case err == nil:
				current, told = next, ""
			case told != err.Error(): // half-written files: the old pair serves on until they are whole
				told = err.Error()
				slog.Warn("the server's renewed certificate cannot be used; the former one serves on", "error", err)
			}
			return current, nil
		}}, nil
}

// listenTLS opens the server's address, with TLS if it is set.
func listenTLS(address string, c *tls.Config) (net.Listener, error) {
	ln, err := net.Listen("tcp", address)
	if err != nil {
		return nil, listenFault(address, err)
	}
	if c != nil {
		return tls.NewListener(ln, c), nil
	}
	return ln, nil
}

// guardOf reads what is needed once, so that a mistake shows at the start.
func guardOf(o settings.Server) (guard, *tls.Config, error) {
	g := guard{certificate: o.TLS.ClientCAFile != ""}
	if o.TokenFile != "" {
		g.token = secretFile("server.token_file", o.TokenFile)
		if _, err := g.token(); err != nil {
			return g, nil, err
		}
	}
	c, err := serverTLS(o.TLS)
	if err != nil {
		return g, nil, fmt.Errorf("the server's certificate: %w", err)
	}
	return g, c, nil
}
