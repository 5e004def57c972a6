package main

import (
	"bytes"
	"crypto/tls"
	"encoding/pem"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"sluice/pipeline/pipelinetest"
)

// This file owns secured listeners of a real broker as a user meets them: tokens that are renewed under `sluice run`,
// and brokers with a wrong certificate. The other tests of real brokers run on these listeners, too: `make
// test-secured`.

// onListener is a worker's configuration by a listener of a real broker, with the permissions that `sluice acls`
// prints.
type onListener struct {
	broker *pipelinetest.Broker
	client *kgo.Client
	name   string
	config string
}

func newOnListener(t *testing.T, name string, l *pipelinetest.Listener, b *pipelinetest.Broker) *onListener {
	t.Helper()
	dir := needModel(t, "sentiment-tiny")
	o := &onListener{broker: b, name: name}
	o.client = b.Client(t, kgo.ConsumeTopics(name+"-out"), kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	if r, err := kadm.NewClient(o.client).CreateTopics(t.Context(), 1, 1, nil, name+"-in", name+"-out",
		name+"-dlq"); err != nil || r.Error() != nil {
		t.Fatal(err, r.Error())
	}
	o.config = runConfigBy(t, b, l, dir, "customer_reviews", name+"-in", "review_analysis", name+"-out", "review_dlq",
		name+"-dlq",
		"group: reviews", "group: "+name+"\n  commit_interval: 20ms", "output:", "log: {level: debug}\noutput:")
	return o
}

// round sends a record and waits for its result.
func (o *onListener) round(t *testing.T, w *workerProcess, text string) {
	t.Helper()
	if err := o.client.ProduceSync(t.Context(), &kgo.Record{Topic: o.name + "-in", Value: fmt.Appendf(nil,
		`{"text":%q}`, text)}).FirstErr(); err != nil {
		t.Fatal(err)
	}
	found := make(chan []byte, 1)
	go func() {
		for ctx := t.Context(); ctx.Err() == nil; {
			for _, r := range o.client.PollFetches(ctx).Records() {
				found <- r.Value
				return
			}
		}
	}()
	select {
	case v := <-found:
		if !bytes.Contains(v, []byte(text)) || !bytes.Contains(v, []byte(`"label"`)) {
			t.Fatalf("the result of %q is %s", text, v)
		}
	case err := <-w.done:
		t.Fatalf("the worker ended: %v\n%s", err, w.logs())
	case <-time.After(time.Minute):
		t.Fatalf("no result of %q after a minute\n%s", text, w.logs())
	}
}

// until polls the worker.
func (w *workerProcess) until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !ok(); {
		select {
		case err := <-w.done:
			t.Fatalf("the worker ended: %v\n%s", err, w.logs())
		case <-time.After(20 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			t.Fatalf("after a minute: no %s\n%s", what, w.logs())
		}
	}
}

// renewals is how often a connection has logged in again (KIP-368); the broker ends sessions after 3 s.
func (w *workerProcess) renewals() int { return strings.Count(w.logs(), "logged in again") }

// A running worker goes on when the token that it began with has long expired, with results all the while.
func TestTokensAreRenewedUnderARunningWorkerOnARealBroker(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: no real broker")
	}
	b := pipelinetest.Kafka(t, "--closed")
	const life = 8 * time.Second // of a token; the worker takes a part of it to start
	sign := b.Signer(t)
	stays := func(t *testing.T, o *onListener, first time.Time, renew func()) {
		w := startWorker(t, "-c", o.config)
		o.round(t, w, "a day at the sea")
		renew()
		w.until(t, "end of the first token", func() bool { return time.Now().After(first.Add(life)) })
		before := w.renewals()
		w.until(t, "login of several connections after that", func() bool { return w.renewals() >= before+4 })
		o.round(t, w, "another day at the sea")
		w.cmd.Process.Signal(syscall.SIGTERM)
		if code := w.exit(t); code != exitDone {
			t.Errorf("exit code %d\n%s", code, w.logs())
		}
		for _, complaint := range []string{"refuse the token", "closed the connection", "level=ERROR"} {
			if strings.Contains(w.logs(), complaint) {
				t.Errorf("the log has %q\n%s", complaint, w.logs())
			}
		}
		t.Logf("%d logins renewed", w.renewals())
	}
	t.Run("token file", func(t *testing.T) {
		l := *b.Listener(t, "token-file")
		l.TokenFile = filepath.Join(t.TempDir(), "token") // nobody else's
		write := func(lifetime time.Duration) {
			if err := pipelinetest.WriteToken(l.TokenFile, sign.Token(lifetime, nil)); err != nil {
				t.Fatal(err)
			}
		}
		write(time.Hour)
		o := newOnListener(t, "renewed-file", &l, b)
		began := time.Now()
		write(life)
		stays(t, o, began, func() { write(time.Hour) })
	})
	t.Run("OIDC provider", func(t *testing.T) {
		p := pipelinetest.NewProvider(t, func() string { return sign.Token(life, nil) }, life)
		l := *b.Listener(t, "oidc")
		l.TokenURL, l.TokenCAFile = p.URL, tempFile(t, "provider.pem",
			string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: p.Certificate().Raw})))
		o := newOnListener(t, "renewed-oidc", &l, b)
		stays(t, o, time.Now(), func() {})
		if n := p.Given.Load(); n < 2 {
			t.Errorf("%d tokens were given", n)
		}
	})
}

// A real broker shows a certificate that has expired, is for another host or of an unknown CA: `sluice validate` and
// `sluice run` end, say which of the three it is and what to set; with the right certificate the same configuration
// works.
func TestWrongCertificatesOfARealBrokerAreNamed(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: no real broker")
	}
	b := pipelinetest.Kafka(t, "--closed")
	l := b.Listener(t, "scram-sha-512")
	o := newOnListener(t, "certificates", l, b)
	strangers := pipelinetest.NewAuthority(t, "another CA")
	const keystore = "listener.name.sasl_ssl.ssl.keystore."
	admin := kadm.NewClient(o.client)
	alter := func(changes ...kadm.AlterConfig) {
		t.Helper()
		if r, err := admin.AlterBrokerConfigs(t.Context(), changes, 1); err != nil || r[0].Err != nil {
			t.Fatal(err, r)
		}
	}
	shown := func() []byte {
		// to look at it
		c, err := tls.DialWithDialer(&net.Dialer{Timeout: 5 * time.Second}, "tcp", l.Brokers[0],
			&tls.Config{InsecureSkipVerify: true})
		if err != nil {
			return nil
		}
		defer c.Close()
		return c.ConnectionState().PeerCertificates[0].Raw
	}
	usual := shown()
	// each of the broker's threads takes a certificate up by itself, and connections go round
	await := func(cert []byte) {
		t.Helper()
		deadline := time.Now().Add(30 * time.Second)
		for inARow := 0; inARow < 10; inARow++ {
			if !slices.Equal(shown(), cert) {
				inARow = -1
			}
			if time.Now().After(deadline) {
				t.Fatal("after 30 s the broker does not show the certificate that it was given")
			}
		}
	}
	restore := func() {
		alter(kadm.AlterConfig{Op: kadm.DeleteConfig, Name: keystore + "location"},
			kadm.AlterConfig{Op: kadm.DeleteConfig, Name: keystore + "type"})
		await(usual)
	}
	for _, c := range []struct {
		name       string
		issue      func() (cert, key []byte)
		says, sets string
	}{
		{"expired", func() ([]byte, []byte) { return b.Issue(t, -time.Hour, "broker", "127.0.0.1", "localhost") },
			"certificate has expired", "have it renewed, or put this machine's clock right"},
		{"wrong host", func() ([]byte, []byte) { return b.Issue(t, time.Hour, "kafka.example") }, "is for other names",
			"set tls.server_name"},
		{"unknown CA", func() ([]byte, []byte) { return strangers.Issue(t, time.Hour, "broker", "127.0.0.1") },
			"signed by unknown authority", "set tls.ca_file"},
	} {
		t.Run(c.name, func(t *testing.T) {
			cert, key := c.issue()
			file := tempFile(t, "keystore.pem", string(key)+string(cert))
			path, kind := file, "PEM"
			alter(kadm.AlterConfig{Op: kadm.SetConfig, Name: keystore + "location", Value: &path},
				kadm.AlterConfig{Op: kadm.SetConfig, Name: keystore + "type", Value: &kind})
			block, _ := pem.Decode(cert)
			await(block.Bytes)
			for _, verb := range []string{"validate", "run"} {
				cmd := sluice(t, verb, "-c", o.config)
				stop := time.AfterFunc(time.Minute, func() { cmd.Process.Signal(os.Kill) })
				r := finish(t, cmd)
				stop.Stop()
				if said := r.out + r.err; r.code != exitUsage || !strings.Contains(said, c.says) ||
					!strings.Contains(said, c.sets) || !strings.Contains(said, l.Brokers[0]) {
					t.Errorf("%s: exit code %d, want %d and %q, %q in\n%s", verb, r.code, exitUsage, c.says, c.sets,
						said)
				}
				if strings.Contains(r.out+r.err, l.Password) {
					t.Errorf("%s tells the password", verb)
				}
			}
			restore()
			if r := finish(t, sluice(t, "validate", "-c", o.config)); r.code != exitDone {
				t.Errorf("with the right certificate again: exit code %d\n%s%s", r.code, r.out, r.err)
			}
		})
	}
}
