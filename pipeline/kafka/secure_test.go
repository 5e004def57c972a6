package kafka

import (
	"crypto/tls"
	"crypto/x509"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"sluice/pipeline"
	"sluice/pipeline/pipelinetest"
)

// TLS, SASL and permissions on a real broker with an authorizer that denies by default.

func testCA(t testing.TB, b *pipelinetest.Broker) *x509.CertPool {
	t.Helper()
	pem, err := os.ReadFile(b.Env["KAFKA_CA"])
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		t.Fatal("no certificate in the CA file")
	}
	return pool
}

func fixedTLS(c *tls.Config) func() (*tls.Config, error) {
	return func() (*tls.Config, error) { return c, nil }
}

func TestConnectionsAndWhatGoesWrongWithThem(t *testing.T) {
	b := pipelinetest.Kafka(t, "--acl")
	pool := testCA(t, b)
	certificate, err := tls.LoadX509KeyPair(b.Env["KAFKA_CLIENT_CERT"], b.Env["KAFKA_CLIENT_KEY"])
	if err != nil {
		t.Fatal(err)
	}
	withCA := &tls.Config{RootCAs: pool}
	login := func(mechanism, user, password string) SASL {
		return SASL{mechanism, user, Fixed(pipeline.NewSecret(password))}
	}
	scram := login("scram-sha-512", "worker", "worker-secret")
	for _, c := range []struct {
		name     string
		listener string
		tls      *tls.Config
		sasl     SASL
		says     string // empty: the connection works
		hopeless bool
	}{
		{"plaintext", "KAFKA_BOOTSTRAP", nil, SASL{}, "", false},
		{"SCRAM-SHA-512 over TLS", "KAFKA_BOOTSTRAP_SASL_SSL", withCA, scram, "", false},
		{"PLAIN over TLS", "KAFKA_BOOTSTRAP_SASL_SSL", withCA, login("plain", "worker", "worker-secret"), "", false},
		{"client certificate", "KAFKA_BOOTSTRAP_SSL", &tls.Config{RootCAs: pool, Certificates: []tls.Certificate{certificate}}, SASL{}, "", false},
		{"wrong password, SCRAM", "KAFKA_BOOTSTRAP_SASL_SSL", withCA, login("scram-sha-512", "worker", "nope"), `login of user "worker" with scram-sha-512: wrong user or password`, true},
		{"wrong password, PLAIN", "KAFKA_BOOTSTRAP_SASL_SSL", withCA, login("plain", "worker", "nope"), "wrong user or password", true},
		{"unknown user", "KAFKA_BOOTSTRAP_SASL_SSL", withCA, login("scram-sha-512", "nobody", "nope"), "wrong user or password", true},
		{"mechanism not offered", "KAFKA_BOOTSTRAP_SASL_SSL", withCA, login("scram-sha-256", "worker", "worker-secret"), "do not offer the SASL mechanism scram-sha-256", true},
		{"unknown CA", "KAFKA_BOOTSTRAP_SASL_SSL", &tls.Config{}, scram, "set tls.ca_file", true},
		{"wrong name", "KAFKA_BOOTSTRAP_SASL_SSL", &tls.Config{RootCAs: pool, ServerName: "kafka.example"}, scram, "set tls.server_name", true},
		{"plaintext client, TLS port", "KAFKA_BOOTSTRAP_SASL_SSL", nil, SASL{}, "expect TLS on this port", true},
		{"TLS client, plaintext port", "KAFKA_BOOTSTRAP", withCA, SASL{}, "does not speak TLS", false},
		{"TLS without SASL, SASL port", "KAFKA_BOOTSTRAP_SASL_SSL", withCA, SASL{}, "wants a SASL login", false},
		{"no client certificate", "KAFKA_BOOTSTRAP_SSL", withCA, SASL{}, "client certificate", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg := testConfig(t, strings.Split(b.Env[c.listener], ","), "in", "out", "g")
			cfg.SASL = c.sasl
			if c.tls != nil {
				cfg.TLS = fixedTLS(c.tls)
			}
			client := newClient(t, cfg)
			err := client.refresh(t.Context())
			if c.says == "" {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			sentence, hopeless := client.connectionProblem(err)
			if err == nil || !strings.Contains(sentence, c.says) || hopeless != c.hopeless {
				t.Errorf("%q (hopeless: %v, error %v); want %q", sentence, hopeless, err, c.says)
			}
			if strings.Contains(sentence, "nope") || strings.Contains(sentence, "worker-secret") {
				t.Errorf("the sentence tells the password: %s", sentence)
			}
			if !c.hopeless {
				return
			}
			err = startWorker(t, cfg).wait(t)
			if pipeline.KindOf(err) != pipeline.Config || !strings.Contains(err.Error(), c.says) {
				t.Errorf("Run: %v", err)
			}
		})
	}
}

// TestPermissions: the smallest set of permissions is enough, and each one that lacks is named, by Check or by Run.
func TestPermissions(t *testing.T) {
	b := pipelinetest.Kafka(t, "--acl")
	in, out, group := topicNames(t)
	createTopics(t, b.Addrs(), 2, nil, in, out)
	send(t, b.Addrs(), in, 2, 0, 100)
	cfg := testConfig(t, strings.Split(b.Env["KAFKA_BOOTSTRAP_SASL_SSL"], ","), in, out, group)
	cfg.TLS, cfg.SASL = fixedTLS(&tls.Config{RootCAs: testCA(t, b)}), SASL{"scram-sha-512", "worker", Fixed(pipeline.NewSecret("worker-secret"))}
	adm := kadm.NewClient(franz(t, b.Addrs()))
	rights := []struct {
		name string
		acl  *kadm.ACLBuilder
		says string // by Run, when it lacks
		seen string // by Check, when it lacks; empty: it cannot see it
	}{
		{"READ on the input", kadm.NewACLs().Topics(in).ResourcePatternType(kadm.ACLPatternLiteral).Operations(kadm.OpRead), in, in},
		{"WRITE on the output", kadm.NewACLs().Topics(out).ResourcePatternType(kadm.ACLPatternLiteral).Operations(kadm.OpWrite), out, out},
		{"READ on the group", kadm.NewACLs().Groups(group).ResourcePatternType(kadm.ACLPatternLiteral).Operations(kadm.OpRead), "READ on group " + group, "READ on group " + group},
		{"WRITE on the transactional id", kadm.NewACLs().TransactionalIDs(group + ".").ResourcePatternType(kadm.ACLPatternPrefixed).Operations(kadm.OpWrite), "WRITE on transactional id " + group, "WRITE on transactional id " + group},
	}
	change := func(i int, grant bool) {
		t.Helper()
		acl := rights[i].acl.Allow("User:worker").AllowHosts("*")
		var err error
		if grant {
			var r kadm.CreateACLsResults
			if r, err = adm.CreateACLs(t.Context(), acl); err == nil {
				for _, x := range r {
					if x.Err != nil {
						err = x.Err
					}
				}
			}
		} else {
			_, err = adm.DeleteACLs(t.Context(), acl)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if problems := newClient(t, cfg).Check(t.Context()); len(problems) != 4 {
		t.Errorf("Check without any permission: %d problems: %v", len(problems), problems)
	}
	for i := range rights {
		change(i, true)
	}
	allowed := func(what string, ok func([]error) bool) {
		t.Helper()
		await(t, 20*time.Second, what, func() bool { return ok(newClient(t, cfg).Check(t.Context())) })
	}
	allowed("Check without problems", func(p []error) bool { return len(p) == 0 })
	for i, r := range rights {
		change(i, false)
		allowed("Check that misses "+r.name, func(p []error) bool {
			return len(p) == 1 && strings.Contains(p[0].Error(), r.seen)
		})
		err := startWorker(t, cfg).wait(t)
		if pipeline.KindOf(err) != pipeline.Config || !strings.Contains(err.Error(), r.says) {
			t.Errorf("without %s: %v", r.name, err)
		} else {
			t.Logf("without %s: %v", r.name, err)
		}
		change(i, true)
		allowed("Check without problems", func(p []error) bool { return len(p) == 0 })
	}
	w := startWorker(t, cfg)
	await(t, 30*time.Second, "100 results", func() bool { return len(readAll(t, b.Addrs(), out, kgo.ReadCommitted())) == 100 })
	w.stop()
	if err := w.wait(t); err != nil {
		t.Fatal(err)
	}
	// DESCRIBE without WRITE: what Check cannot see, the worker's start does, before anything is read.
	change(1, false)
	if _, err := adm.CreateACLs(t.Context(), kadm.NewACLs().Topics(out).ResourcePatternType(kadm.ACLPatternLiteral).Operations(kadm.OpDescribe).Allow("User:worker").AllowHosts("*")); err != nil {
		t.Fatal(err)
	}
	allowed("Check with DESCRIBE alone", func(p []error) bool { return len(p) == 0 })
	if err := startWorker(t, cfg).wait(t); pipeline.KindOf(err) != pipeline.Config || !strings.Contains(err.Error(), "WRITE on topic "+out) {
		t.Errorf("without WRITE: %v", err)
	}
}
