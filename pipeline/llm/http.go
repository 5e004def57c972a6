package llm

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"sluice/pipeline"
)

// This file owns how an endpoint is reached: which addresses, through which proxy, and that nothing is followed. It
// also owns the key's file. It knows nothing of calls.

// AddressError says that a connection was refused because of where it would have gone.
type AddressError struct {
	Addr netip.Addr
	What string // link-local, unspecified, multicast
}

// Error implements error.
func (e *AddressError) Error() string {
	return fmt.Sprintf("%v is a %s address, which an endpoint never has: name the host's own address (cloud metadata "+
		"services live at link-local ones, so they are refused, by name or by number)", e.Addr, e.What)
}

// metadataIPv6 is the one cloud metadata service that is not at a link-local address (AWS, IPv6).
var metadataIPv6 = netip.MustParseAddr("fd00:ec2::254")

// nat64 is the well-known prefix under which an IPv4 address may hide (RFC 6052).
var nat64 = netip.MustParsePrefix("64:ff9b::/96")

func checkAddr(a netip.Addr) error {
	a = a.Unmap().WithZone("")
	if nat64.Contains(a) {
		b := a.As16()
		a = netip.AddrFrom4([4]byte(b[12:]))
	}
	switch {
	case a.IsLinkLocalUnicast(), a == metadataIPv6:
		return &AddressError{a, "link-local"}
	case a.IsUnspecified():
		return &AddressError{a, "unspecified"}
	case a.IsMulticast(), a == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return &AddressError{a, "multicast"}
	}
	return nil
}

// checkConnect is a net.Dialer's Control: it sees the very address that is about to be connected to, after DNS, so that
// a name cannot be pointed elsewhere between a check and its use.
func checkConnect(_, address string, _ syscall.RawConn) error {
	a, err := netip.ParseAddrPort(address)
	if err != nil {
		return fmt.Errorf("address %q: %w", address, err)
	}
	return checkAddr(a.Addr())
}

// parseEndpoint checks one URL of the configuration, to which path is added, and returns it without a slash at its end.
func parseEndpoint(s, path string) (*url.URL, error) {
	u, err := url.Parse(s)
	if err != nil {
		// url.Error repeats the URL, which may hold a password.
		return nil, errors.New("an endpoint's URL cannot be parsed; it looks like http://host:8000/v1")
	}
	switch {
	case u.User != nil:
		return nil, fmt.Errorf("endpoint %s: a URL must not hold credentials; use api_key_file", u.Redacted())
	case u.Scheme != "http" && u.Scheme != "https", u.Host == "" || u.Hostname() == "":
		return nil, fmt.Errorf("endpoint %q: must look like http://host:8000/v1", s)
	case u.RawQuery != "" || u.Fragment != "":
		return nil, fmt.Errorf("endpoint %s: must end with its path (usually /v1), without a query or fragment",
			(&url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path}).String())
	case path != "" && strings.HasSuffix(strings.TrimRight(u.Path, "/"), path):
		return nil, fmt.Errorf("endpoint %q: leave %s out, it is added to every URL", s, path)
	}
	if a, err := netip.ParseAddr(u.Hostname()); err == nil {
		if err := checkAddr(a); err != nil {
			return nil, fmt.Errorf("endpoint %s: %w", s, err)
		}
	}
	u.Path = strings.TrimRight(u.Path, "/")
	u.RawPath = ""
	return u, nil
}

// newClient makes the one HTTP client of a pool: no proxy but o.Proxy, no redirects, no cookies, no compression (so
// that the cap on an answer's size is a cap on what is unpacked, too).
func newClient(o *Options) (*http.Client, error) {
	dialer := &net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second, Control: checkConnect}
	t := &http.Transport{
		DialContext:            dialer.DialContext,
		TLSClientConfig:        o.TLS.Clone(),
		TLSHandshakeTimeout:    10 * time.Second,
		ForceAttemptHTTP2:      true,
		MaxIdleConnsPerHost:    o.MaxConcurrency,
		IdleConnTimeout:        90 * time.Second,
		MaxResponseHeaderBytes: 64 << 10,
		DisableCompression:     true,
	}
	if o.Dial != nil {
		t.DialContext = o.Dial
	}
	t.DialContext = recoverDial(t.DialContext)
	if o.Proxy != "" {
		u, err := url.Parse(o.Proxy)
		if err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https" && u.Scheme != "socks5") {
			return nil, fmt.Errorf("%s proxy: must look like http://host:3128, https://… or socks5://…", o.Name)
		}
		t.Proxy = http.ProxyURL(u)
	}
	return &http.Client{Transport: t, CheckRedirect: func(*http.Request,
		[]*http.Request) error {
		return http.ErrUseLastResponse
	}}, nil
}

// recoverDial is dial, whose panics are its errors: net/http dials in goroutines of its own, where a panic would end
// the process.
func recoverDial(dial dialFunc) dialFunc {
	return func(ctx context.Context, network, address string) (c net.Conn, err error) {
		defer func() {
			if x := recover(); x != nil {
				c, err = nil, pipeline.Recovered(x)
			}
		}()
		return dial(ctx, network, address)
	}
}

type dialFunc = func(ctx context.Context, network, address string) (net.Conn, error)

// reasonOf says what kind of failure of the transport err is, and a sentence that holds nothing a peer sent: net/http
// quotes a malformed answer, and a peer may put into one whatever it was told.
func reasonOf(err error) (Reason, error) {
	var (
		addr     *AddressError
		dns      *net.DNSError
		op       *net.OpError
		verify   *tls.CertificateVerificationError
		host     x509.HostnameError
		unknown  x509.UnknownAuthorityError
		record   tls.RecordHeaderError
		alert    tls.AlertError
		errno    syscall.Errno
		panicked *pipeline.PanicError
		protocol = errors.New("the connection broke, or what came back is not HTTP; is this the right port, and http " +
			"or https right?")
	)
	switch {
	case errors.As(err, &panicked):
		return ReasonPanic, panicked
	case errors.As(err, &addr):
		return ReasonAddress, addr
	case errors.As(err, &verify), errors.As(err, &host), errors.As(err, &unknown), errors.As(err, &alert):
		return ReasonTLS, errors.New("TLS: the endpoint's certificate, or ours, is not accepted; check ca_file, " +
			"server_name and the certificate's dates")
	case errors.As(err, &record), errors.Is(err, http.ErrSchemeMismatch):
		return ReasonTLS, errors.New("TLS: the endpoint does not speak TLS; use http:// if that is meant")
	case errors.As(err, &dns):
		return ReasonConnect, fmt.Errorf("host %q is not found in DNS", dns.Name)
	case errors.As(err, &op) && errors.As(err, &errno):
		return ReasonConnect, fmt.Errorf("%s: %w", op.Op, errno)
	}
	return ReasonConnect, protocol
}

// maxKeyBytes bounds a file that holds an API key: it goes into a header of every request.
const maxKeyBytes = 16 << 10

// KeyFile returns Options.APIKey for a key that stands in a file: read again whenever the file changes, so that a
// key can be rotated without a restart. Beside pipeline.ReadSecret it wants a small regular file, takes white space
// around the key away, and refuses what no header can hold. Its errors name the file, never what is in it.
func KeyFile(path string) func() (pipeline.Secret, error) {
	var (
		mu   sync.Mutex
		seen os.FileInfo
		key  pipeline.Secret
	)
	return func() (pipeline.Secret, error) {
		mu.Lock()
		defer mu.Unlock()
		info, err := os.Stat(path)
		if err != nil {
			return nil, fmt.Errorf("API key: %w", err)
		}
		if seen != nil && os.SameFile(seen, info) && seen.ModTime().Equal(info.ModTime()) &&
			seen.Size() == info.Size() {
			return key, nil
		}
		if !info.Mode().IsRegular() || info.Size() > maxKeyBytes {
			return nil, fmt.Errorf("API key: %s is not a small regular file", path)
		}
		s, err := pipeline.ReadSecret(path)
		if err != nil {
			return nil, fmt.Errorf("API key: %w", err)
		}
		k := strings.TrimSpace(s.Reveal())
		if err := checkKey(k); err != nil {
			return nil, fmt.Errorf("API key: %s: %w", path, err)
		}
		seen, key = info, pipeline.NewSecret(k)
		return key, nil
	}
}

// checkKey says whether a key can stand in a header (RFC 6750's b64token, with every other visible ASCII character,
// too).
func checkKey(k string) error {
	if k == "" {
		return errors.New("the key is empty")
	}
	for i := 0; i < len(k); i++ {
		if k[i] <= ' ' || k[i] > '~' {
			return errors.New("the key has a character that is not visible ASCII; it must be one line, without " +
				"quotes around it")
		}
	}
	return nil
}

// attemptContext ends with ctx or after timeout, whichever is first.
func attemptContext(ctx context.Context, timeout time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, timeout, errAttemptTimeout)
}

var errAttemptTimeout = errors.New("timeout of one attempt")
