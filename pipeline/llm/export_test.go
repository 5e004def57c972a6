package llm

import (
	"net/http"
	"net/netip"
	"time"
)

// This file is the tests' way in: what no user needs to set or to see.

// SetJitter replaces the random part of back-off, in [0, 1).
func (p *Pool) SetJitter(jitter func() float64) { p.backoff.jitter = jitter }

// SetBackoff replaces the first and the longest pause.
func (p *Pool) SetBackoff(base, most time.Duration) { p.backoff.base, p.backoff.most = base, most }

// Order is the URLs in the order in which a call asks them.
func (p *Pool) Order(affinity string) (urls []string) {
	for _, e := range p.order(affinity) {
		urls = append(urls, e.url)
	}
	return urls
}

// Failure is what Read has found.
type Failure struct {
	Reason      Reason
	Err         error
	Retry, Form bool
}

// Read judges a whole answer. The failure is nil where there is an answer.
func (p *Pool) Read(body []byte, c *Call) (Reply, *Failure) {
	r, f := p.read(body, &Request{Call: c}, nil)
	if f == nil {
		return r, nil
	}
	return r, &Failure{f.reason, f.err, f.retry, f.form}
}

// NewClient makes the HTTP client of a pool.
func NewClient(o *Options) (*http.Client, error) { return newClient(o) }

// CheckAddr says whether an address is refused.
func CheckAddr(a netip.Addr) error { return checkAddr(a) }

// ReasonOf is the reason of a failure of the transport.
func ReasonOf(err error) Reason {
	reason, _ := reasonOf(err)
	return reason
}
