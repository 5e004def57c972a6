package kafka

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"

	"sluice/pipeline"
)

// This file owns tokens from an OpenID Connect provider, by the client credentials grant (RFC 6749, section 4.4;
// KIP-768).

// OIDC says where tokens come from. The endpoint is the configured one and no other: redirects are not followed, no
// proxy is taken from the environment, and link-local addresses (a cloud's metadata service) are refused whatever a
// name resolves to.
type OIDC struct {
	TokenURL     string
	ClientID     string
	ClientSecret func() (pipeline.Secret, error) // asked for every token
	Scope        string                          // empty: the provider's default
	RootCAs      func() (*x509.CertPool, error)  // asked for every token; nil: the system's
}

const (
	tokenTimeout = 4 * time.Second // a token is fetched while a connection is made
	tokenMargin  = 10 * time.Second
)

// TokenSource keeps one token and fetches the next one when 80 % of its time are over. While the provider is away, a
// token that is still valid serves on.
type TokenSource struct {
	o     OIDC
	now   func() time.Time
	busy  chan struct{} // holds one entry while a token is looked up
	token pipeline.Secret
	renew time.Time
	ends  time.Time
}

// NewTokenSource makes a source; the first token is fetched when it is asked for.
func NewTokenSource(o OIDC) *TokenSource {
	return &TokenSource{o: o, now: time.Now, busy: make(chan struct{}, 1)}
}

// Token is a token that is valid now. It can be called by many goroutines; one of them asks the provider.
func (s *TokenSource) Token(ctx context.Context) (pipeline.Secret, error) {
	select {
	case s.busy <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	defer func() { <-s.busy }()
	now := s.now()
	if !s.token.IsZero() && now.Before(s.renew) {
		return s.token, nil
	}
	token, err := s.fetch(ctx)
	if err != nil {
		if !s.token.IsZero() && now.Before(s.ends.Add(-tokenMargin)) {
			s.renew = now.Add(tokenTimeout) // let connections be made in between
			return s.token, nil
		}
		return nil, err
	}
	s.token = pipeline.NewSecret(token.AccessToken)
	lifetime := time.Duration(token.ExpiresIn) * time.Second
	if lifetime == 0 && !token.Expiry.IsZero() { // told in another form than JSON
		lifetime = time.Until(token.Expiry)
	}
	s.renew, s.ends = now.Add(lifetime*8/10), now.Add(lifetime) // without a lifetime: for this login only
	return s.token, nil
}

func (s *TokenSource) fetch(ctx context.Context) (*oauth2.Token, error) {
	secret, err := s.o.ClientSecret()
	if err != nil {
		return nil, err
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if s.o.RootCAs != nil {
		if config.RootCAs, err = s.o.RootCAs(); err != nil {
			return nil, err
		}
	}
	transport := &http.Transport{
		DialContext: (&net.Dialer{Control: refuseLinkLocal}).DialContext, TLSClientConfig: config,
		DisableKeepAlives:      true,
		MaxResponseHeaderBytes: 64 << 10,
	}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport, Timeout: tokenTimeout, CheckRedirect: func(*http.Request,
		[]*http.Request) error {
		return http.ErrUseLastResponse
	}}
	c := clientcredentials.Config{ClientID: s.o.ClientID, ClientSecret: secret.Reveal(), TokenURL: s.o.TokenURL,
		Scopes: strings.Fields(s.o.Scope)}
	token, err := c.Token(context.WithValue(ctx, oauth2.HTTPClient, client))
	var refused *oauth2.RetrieveError
	switch {
	case errors.As(err, &refused) && refused.Response != nil && refused.Response.StatusCode/100 == 3:
		return nil, fmt.Errorf("the token endpoint %s redirects (%s), which is not followed; configure the address "+
			"that answers itself", s.o.TokenURL, refused.Response.Status)
	case errors.As(err, &refused):
		status, code := "an error", "an error that RFC 6749 does not name"
		if refused.Response != nil {
			status = refused.Response.Status
		}
		// and nothing else of the answer: it could repeat what we sent
		if slices.Contains(refusals, refused.ErrorCode) {
			code = refused.ErrorCode
		}
		return nil, fmt.Errorf("the token endpoint %s refuses client %q: %s, %s; check client id, secret and scope",
			s.o.TokenURL, s.o.ClientID, status, code)
	case err != nil:
		return nil, fmt.Errorf("no token from %s: %w", s.o.TokenURL, err)
	}
	return token, nil
}

// refusals are the error codes of RFC 6749, section 5.2, and two of section 4.1.2.1 that providers use here too.
var refusals = []string{"invalid_request", "invalid_client", "invalid_grant", "unauthorized_client",
	"unsupported_grant_type", "invalid_scope", "server_error", "temporarily_unavailable"}

// refuseLinkLocal is asked with every address that is about to be connected to, after names are resolved.
func refuseLinkLocal(_, address string, _ syscall.RawConn) error {
	if ap, err := netip.ParseAddrPort(address); err != nil || ap.Addr().Unmap().IsLinkLocalUnicast() {
		return fmt.Errorf("%s is a link-local address, which no token endpoint has", address)
	}
	return nil
}
