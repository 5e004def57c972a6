package kafka

import (
	"crypto/tls"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"sluice/pipeline"
	"sluice/pipeline/pipelinetest"
)

// TLS, SASL and permissions on a real broker with an authorizer that denies by default.

func fixedTLS(c *tls.Config) func() (*tls.Config, error) {
	return func() (*tls.Config, error) { return c, nil }
}

func TestConnectionsAndWhatGoesWrongWithThem(t *testing.T) {
	b := pipelinetest.Kafka(t, "--acl")
	pool := b.Authorities(t)
	certificate, err := tls.LoadX509KeyPair(b.Env["KAFKA_CLIENT_CERT"], b.Env["KAFKA_CLIENT_KEY"])
	if err != nil {
		t.Fatal(err)
	}
	withCA := &tls.Config{RootCAs: pool}
	login := func(mechanism, user, password string) SASL {
		return SASL{mechanism, user, Fixed(pipeline.NewSecret(password))}
	}
	scram := login("scram-sha-512", "worker", "worker-secret")
	// the real broker offers all that a worker can
	fake, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.EnableSASL())
	if err != nil {
		t.Fatal(err)
	}
	defer fake.Close()
	listeners := maps.Clone(b.Env)
	listeners["without OAUTHBEARER"] = fake.ListenAddrs()[0]
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
		{"SCRAM-SHA-256 over TLS", "KAFKA_BOOTSTRAP_SASL_SSL", withCA, login("scram-sha-256", "worker",
			"worker-secret"), "", false},
		{"wrong password, SCRAM-SHA-256", "KAFKA_BOOTSTRAP_SASL_SSL", withCA, login("scram-sha-256", "worker", "nope"),
			"wrong user or password", true},
		{"PLAIN over TLS", "KAFKA_BOOTSTRAP_SASL_SSL", withCA, login("plain", "worker", "worker-secret"), "", false},
		{"client certificate", "KAFKA_BOOTSTRAP_SSL", &tls.Config{RootCAs: pool, Certificates: []tls.Certificate{
			certificate}}, SASL{}, "", false},
		{"wrong password, SCRAM", "KAFKA_BOOTSTRAP_SASL_SSL", withCA, login("scram-sha-512", "worker", "nope"),
			`login of user "worker" with scram-sha-512: wrong user or password`, true},
		{"wrong password, PLAIN", "KAFKA_BOOTSTRAP_SASL_SSL", withCA, login("plain", "worker", "nope"),
			"wrong user or password", true},
		{"unknown user", "KAFKA_BOOTSTRAP_SASL_SSL", withCA, login("scram-sha-512", "nobody", "nope"),
			"wrong user or password", true},
		{"mechanism not offered", "without OAUTHBEARER", nil, login(OAuthBearer, "", "nope"), "do not offer the SASL " +
			"mechanism OAUTHBEARER", true},
		{"unknown CA", "KAFKA_BOOTSTRAP_SASL_SSL", &tls.Config{}, scram, "set tls.ca_file", true},
		{"wrong name", "KAFKA_BOOTSTRAP_SASL_SSL", &tls.Config{RootCAs: pool, ServerName: "kafka.example"}, scram,
			"set tls.server_name", true},
		{"plaintext client, TLS port", "KAFKA_BOOTSTRAP_SASL_SSL", nil, SASL{}, "expect TLS on this port", true},
		{"TLS client, plaintext port", "KAFKA_BOOTSTRAP", withCA, SASL{}, "does not speak TLS", false},
		{"TLS without SASL, SASL port", "KAFKA_BOOTSTRAP_SASL_SSL", withCA, SASL{}, "wants a SASL login", false},
		{"no client certificate", "KAFKA_BOOTSTRAP_SSL", withCA, SASL{}, "client certificate", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg := testConfig(t, strings.Split(listeners[c.listener], ","), "in", "out", "g")
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
	l := b.Listener(t, "scram-sha-512")
	cfg := testConfig(t, nil, in, out, group)
	if err := secureBy(&cfg, l); err != nil {
		t.Fatal(err)
	}
	rights := permissions(cfg.Access())
	says := func(p pipelinetest.Permission) string { // Run, when it lacks; the same Check
		switch p.Resource {
		case "Topic":
			return "permission " + strings.ToUpper(p.Operation) + " on topic " + p.Name
		case "Group":
			return "permission READ on group " + p.Name
		}
		return "permission WRITE on transactional id " + cfg.TransactionalID()
	}
	if problems := newClient(t, cfg).Check(t.Context()); len(problems) != 4 {
		t.Errorf("Check without any permission: %d problems: %v", len(problems), problems)
	}
	b.Grant(t, l.Principal, rights...)
	allowed := func(what string, ok func([]error) bool) {
		t.Helper()
		await(t, 20*time.Second, what, func() bool { return ok(newClient(t, cfg).Check(t.Context())) })
	}
	allowed("Check without problems", func(p []error) bool { return len(p) == 0 })
	for _, r := range rights {
		b.Revoke(t, l.Principal, r)
		name := r.Operation + " on " + r.Resource + " " + r.Name
		allowed("Check that misses "+name, func(p []error) bool {
			return len(p) == 1 && strings.Contains(p[0].Error(), says(r))
		})
		err := startWorker(t, cfg).wait(t)
		if pipeline.KindOf(err) != pipeline.Config || !strings.Contains(err.Error(), says(r)) {
			t.Errorf("without %s: %v", name, err)
		} else {
			t.Logf("without %s: %v", name, err)
		}
		b.Grant(t, l.Principal, r)
		allowed("Check without problems", func(p []error) bool { return len(p) == 0 })
	}
	w := startWorker(t, cfg)
	await(t, 30*time.Second, "100 results", func() bool {
		return len(readAll(t, b.Addrs(), out,
			kgo.ReadCommitted())) == 100
	})
	w.stop()
	if err := w.wait(t); err != nil {
		t.Fatal(err)
	}
	// DESCRIBE without WRITE: what Check cannot see, the worker's start does, before anything is read.
	b.Revoke(t, l.Principal, rights[1])
	b.Grant(t, l.Principal, pipelinetest.Permission{Operation: "Describe", Resource: "Topic", Name: out,
		Pattern: "literal"})
	allowed("Check with DESCRIBE alone", func(p []error) bool { return len(p) == 0 })
	if err := startWorker(t, cfg).wait(t); pipeline.KindOf(err) != pipeline.Config || !strings.Contains(err.Error(),
		"WRITE on topic "+out) {
		t.Errorf("without WRITE: %v", err)
	}
}

func TestACLsNameEveryResourceOnce(t *testing.T) {
	c := DefaultConfig()
	c.Group, c.Topics, c.Outputs = "g", []string{"in"}, []string{"out", "dlq", "asked"}
	second := Access{Read: []string{"asked"}, Write: []string{"out", "dlq"}, Group: "g-escalation",
		TransactionalIDs: "g-escalation."}
	var got []string
	for _, a := range ACLs(c.Access(), second) {
		got = append(got, a.Command("--bootstrap-server b:9092", "User:it's me"))
	}
	const head = `kafka-acls.sh --bootstrap-server b:9092 --add --allow-principal 'User:it'\''s me' --operation `
	want := []string{
		head + "Read --topic in --resource-pattern-type literal", head + "Write --topic out --resource-pattern-type " +
			"literal",
		head + "Write --topic dlq --resource-pattern-type literal", head +
			"Write --topic asked --resource-pattern-type literal",
		head + "Read --group g --resource-pattern-type literal", head + "Write --transactional-id g. " +
			"--resource-pattern-type prefixed",
		head + "Read --topic asked --resource-pattern-type literal", head + "Read --group g-escalation " +
			"--resource-pattern-type literal",
		head + "Write --transactional-id g-escalation. --resource-pattern-type prefixed",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	c.Guarantee = AtLeastOnce
	for _, a := range ACLs(c.Access()) {
		if a.Resource == "TransactionalId" {
			t.Errorf("at-least-once uses no transactions: %+v", a)
		}
	}
}
