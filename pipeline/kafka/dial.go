package kafka

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"time"

	segmentio "github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"
	"github.com/segmentio/kafka-go/protocol/saslauthenticate"
	"github.com/segmentio/kafka-go/protocol/saslhandshake"
	"github.com/segmentio/kafka-go/sasl"
)

// This file owns how a connection comes about: TCP, TLS, login, and the renewal of the login while the connection lives
// (KIP-368). kafka-go could do the first three, but it reads certificates once, keeps the session lifetime that a
// broker tells to itself, and cannot log in again.

const dialTimeout = 5 * time.Second

// dial makes a connection that is ready for requests. ctx bounds all of it.
func (c *Client) dial(ctx context.Context, network, address string) (net.Conn, error) {
	raw, err := (&net.Dialer{}).DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	conn, err := c.secure(ctx, raw, address)
	if err != nil {
		raw.Close()
		return nil, err
	}
	c.dials.Add(1)
	return conn, nil
}

func (c *Client) secure(ctx context.Context, conn net.Conn, address string) (net.Conn, error) {
	if c.cfg.TLS != nil {
		config, err := c.cfg.TLS()
		if err != nil {
			return nil, &credentialError{err}
		}
		if config.ServerName == "" {
			host, _, err := net.SplitHostPort(address)
			if err != nil {
				return nil, err
			}
			config = config.Clone()
			config.ServerName = host
		}
		t := tls.Client(conn, config)
		if err := t.HandshakeContext(ctx); err != nil {
			return nil, err
		}
		conn = t
	}
	if c.cfg.SASL.Mechanism == "" {
		return conn, nil
	}
	l := &loginConn{Conn: conn, client: c}
	deadline, _ := ctx.Deadline()
	if err := conn.SetDeadline(deadline); err != nil {
		return nil, err
	}
	if err := l.login(ctx); err != nil {
		return nil, err
	}
	return l, conn.SetDeadline(time.Time{})
}

// loginConn is a connection that logs in again before its session ends. kafka-go sends one request at a time on a
// connection and waits for its answer, always in one goroutine, so the first Write after a Read begins a request: then
// nothing is under way, and the login fits in between.
type loginConn struct {
	net.Conn
	client   *Client
	renew    time.Time // when to log in again; zero: never
	answered bool      // there was a Read since the last Write
	deadline time.Time // as set by SetDeadline
}

// SetDeadline implements net.Conn; a login that falls into a request keeps the request's deadline.
func (l *loginConn) SetDeadline(t time.Time) error {
	l.deadline = t
	return l.Conn.SetDeadline(t)
}

func (l *loginConn) Read(b []byte) (int, error) {
	l.answered = true
	return l.Conn.Read(b)
}

func (l *loginConn) Write(b []byte) (int, error) {
	if l.answered && !l.renew.IsZero() && !time.Now().Before(l.renew) {
		ctx, cancel := context.WithDeadline(context.Background(), cmp.Or(l.deadline, time.Now().Add(requestTimeout)))
		err := l.login(ctx)
		cancel()
		if err != nil {
			return 0, fmt.Errorf("logging in again before the session ends: %w", err)
		}
		l.client.log.Debug("logged in again", "broker", l.RemoteAddr().String(), "next", l.renew)
	}
	l.answered = false
	return l.Conn.Write(b)
}

// The versions of the two login requests: v1 carries the session lifetime; every broker since 2.2 speaks it.
var loginVersions = map[protocol.ApiKey]int16{protocol.SaslHandshake: 1, protocol.SaslAuthenticate: 1}

// login runs the exchange of the mechanism and notes when it is to be repeated: after 85 % of the lifetime that the
// broker gives the session, as late as brokers' own clients, and never within a second, which a broker refuses.
func (l *loginConn) login(ctx context.Context) error {
	mechanism, err := l.client.cfg.SASL.mechanism(ctx)
	if err != nil {
		return err
	}
	conn := protocol.NewConn(l.Conn, l.client.cfg.ClientID)
	conn.SetVersions(loginVersions)
	began := time.Now()
	r, err := conn.RoundTrip(&saslhandshake.Request{Mechanism: mechanism.Name()})
	if err != nil {
		return fmt.Errorf("SaslHandshake: %w", err)
	}
	if h, ok := r.(*saslhandshake.Response); !ok || h.ErrorCode != 0 {
		if !ok {
			return fmt.Errorf("SaslHandshake: the broker answered with a %T", r)
		}
		return &loginError{mechanism: mechanism.Name(), code: segmentio.Error(h.ErrorCode), offered: h.Mechanisms}
	}
	lifetime, err := exchange(ctx, conn, mechanism)
	if err != nil {
		return err
	}
	if l.renew = (time.Time{}); lifetime > 0 {
		l.renew = began.Add(max(lifetime*85/100, 1100*time.Millisecond))
	}
	return nil
}

// exchange passes the mechanism's messages to the broker and back until both are content. lifetime is 0 where the
// session has no end.
func exchange(ctx context.Context, conn *protocol.Conn, mechanism sasl.Mechanism) (lifetime time.Duration, err error) {
	machine, message, err := mechanism.Start(ctx)
	if err != nil {
		return 0, err
	}
	for done := false; !done; {
		r, err := conn.RoundTrip(&saslauthenticate.Request{AuthBytes: message})
		if err != nil {
			return 0, &hungUpError{mechanism.Name(), err}
		}
		a, ok := r.(*saslauthenticate.Response)
		switch {
		case !ok:
			return 0, fmt.Errorf("SaslAuthenticate: the broker answered with a %T", r)
		case a.ErrorCode != 0:
			return 0, &loginError{mechanism: mechanism.Name(), code: segmentio.Error(a.ErrorCode), says: a.ErrorMessage}
		}
		lifetime = time.Duration(a.SessionLifetimeMs) * time.Millisecond
		if done, message, err = machine.Next(ctx, a.AuthBytes); err != nil {
			return 0, err
		}
	}
	return lifetime, nil
}

// loginError is a login that a broker refused.
type loginError struct {
	mechanism string
	code      segmentio.Error
	says      string   // the broker's own words; brokers put no secret into them
	offered   []string // mechanisms, where it does not offer ours
}

func (e *loginError) Error() string {
	if len(e.offered) > 0 {
		return fmt.Sprintf("the broker offers %v, not %s", e.offered, e.mechanism)
	}
	return fmt.Sprintf("the broker refuses the login with %s: [%d] %s: %.200q", e.mechanism, int(e.code),
		e.code.Title(), e.says)
}

// Unwrap gives the broker's error code.
func (e *loginError) Unwrap() error { return e.code }

// hungUpError is a connection that ended in the middle of a login: some brokers refuse one in this way, without a word.
type hungUpError struct {
	mechanism string
	err       error
}

func (e *hungUpError) Error() string {
	return fmt.Sprintf("the connection ended during the login with %s: %v", e.mechanism, e.err)
}
func (e *hungUpError) Unwrap() error { return e.err }

// credentialError is a password, a token or a certificate that could not be had. Trying again can help: a file may be
// about to be renewed, an endpoint to come back.
type credentialError struct{ err error }

func (e *credentialError) Error() string { return e.err.Error() }
func (e *credentialError) Unwrap() error { return e.err }

var errNoCredential = errors.New("no password and no token is given")
