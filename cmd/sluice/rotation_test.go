package main

import (
	"crypto/tls"
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"sluice/pipeline/pipelinetest"
)

// This file owns the renewal of certificates under a running worker, by its own files.

// era is what a broker shows and accepts: its certificate and those of its clients are of one authority.
type era struct {
	authority *pipelinetest.Authority
	config    *tls.Config
	mu        sync.Mutex
	names     []string // of the clients that were let in
}

func newEra(t *testing.T, name string) *era {
	t.Helper()
	e := &era{authority: pipelinetest.NewAuthority(t, name)}
	e.config = &tls.Config{
		Certificates: []tls.Certificate{e.authority.Certificate(t, time.Hour, "127.0.0.1")},
		ClientAuth:   tls.RequireAndVerifyClientCert, ClientCAs: e.authority.Pool,
		SessionTicketsDisabled: true,
		VerifyConnection: func(s tls.ConnectionState) error {
			e.mu.Lock()
			defer e.mu.Unlock()
			e.names = append(e.names, s.PeerCertificates[0].Subject.CommonName)
			return nil
		},
	}
	return e
}

func (e *era) letIn(name string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Contains(e.names, name)
}

// cutListener can cut all connections that it has accepted.
type cutListener struct {
	net.Listener
	mu   sync.Mutex
	open []net.Conn
}

func (l *cutListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err == nil {
		l.mu.Lock()
		l.open = append(l.open, c)
		l.mu.Unlock()
	}
	return c, err
}

func (l *cutListener) cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range l.open {
		c.Close()
	}
	l.open = nil
}

// The worker's certificate, key and CA are replaced on disk while it runs; from then on the brokers are of the new
// authority alone, and close their connections. The worker comes back with the new certificate, and goes on where it
// was.
func TestCertificatesReplacedOnDiskAreUsedByARunningWorker(t *testing.T) {
	dir := needModel(t, "sentiment-tiny")
	before, after := newEra(t, "old CA"), newEra(t, "new CA")
	var now atomic.Pointer[era]
	now.Store(before)
	var listener *cutListener
	fake, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(1, "customer_reviews", "review_analysis",
		"review_dlq"),
		kfake.ListenFn(func(network, address string) (net.Listener, error) {
			l, err := net.Listen(network, address)
			if err != nil {
				return nil, err
			}
			listener = &cutListener{Listener: l}
			return tls.NewListener(listener, &tls.Config{GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config,
				error) {
				return now.Load().config, nil
			}}), nil
		}))
	if err != nil {
		t.Fatal(err)
	}
	defer fake.Close()
	address := fake.ListenAddrs()[0]

	files := t.TempDir()
	ca, certFile, keyFile := filepath.Join(files, "ca.pem"), filepath.Join(files, "cert.pem"), filepath.Join(files,
		"key.pem")
	replace := func(e *era, client string) {
		t.Helper()
		cert, key := e.authority.Issue(t, time.Hour, client)
		putFile(t, ca, string(e.authority.PEM))
		putFile(t, certFile, string(cert))
		putFile(t, keyFile, string(key))
	}
	replace(before, "worker-before")
	settings := fmt.Sprintf("group: reviews\n  instance_id: w-0\n  commit_interval: 20ms\n  tls: {ca_file: %q, "+
		"cert_file: %q, key_file: %q}", ca, certFile, keyFile)
	text := strings.NewReplacer("localhost:9092", address, "models/sentiment", dir, "group: reviews", settings).Replace(
		minimal)
	w := startWorker(t, "-c", tempFile(t, "c.yaml", text+"server: {listen: \"127.0.0.1:0\"}\n"))
	w.waitReady(t)

	// One record in, one verdict out; the test's own client shows a certificate of whatever authority there is now.
	round := func(e *era, value string) {
		t.Helper()
		c, err := kgo.NewClient(kgo.SeedBrokers(address), kgo.DialTLSConfig(&tls.Config{RootCAs: e.authority.Pool,
			Certificates: []tls.Certificate{e.authority.Certificate(t, time.Hour, "test")}}),
			kgo.DefaultProduceTopic("customer_reviews"), kgo.ConsumeTopics("review_analysis"),
			kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if err := c.ProduceSync(t.Context(), kgo.StringRecord(fmt.Sprintf(`{"text":%q}`,
			value))).FirstErr(); err != nil {
			t.Fatal(err)
		}
		found := make(chan struct{})
		go func() {
			for ctx := t.Context(); ctx.Err() == nil; {
				for _, r := range c.PollFetches(ctx).Records() {
					if strings.Contains(string(r.Value), value) {
						close(found)
						return
					}
				}
			}
		}()
		select {
		case <-found:
		case err := <-w.done:
			t.Fatalf("the worker ended: %v\n%s", err, w.logs())
		case <-time.After(time.Minute):
			t.Fatalf("no verdict on %q after a minute\n%s", value, w.logs())
		}
	}
	round(before, "what a lovely day")

	replace(after, "worker-after")
	now.Store(after)
	listener.cut()
	round(after, "what a terrible night")
	if !before.letIn("worker-before") || !after.letIn("worker-after") || before.letIn("worker-after") ||
		after.letIn("worker-before") {
		t.Errorf("old brokers let in %q, new ones %q", before.names, after.names)
	}
	w.cmd.Process.Signal(syscall.SIGTERM)
	if code := w.exit(t); code != 0 {
		t.Errorf("exit code %d\n%s", code, w.logs())
	}
}
