package pipelinetest

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// This file owns who may do what on a real broker, and the ways in: its secured listeners, as a worker's configuration
// has them, and the administrator.

// ListenerVariable chooses the way in that TestListener gives: one of Listeners. Empty: plaintext, without permissions.
const ListenerVariable = "SLUICE_TEST_LISTENER"

// Listeners are the secured ways in, each with a principal that may do nothing unless it is granted (see Grant).
var Listeners = []string{"ssl", "mtls", "plain", "scram-sha-256", "scram-sha-512", "token-file", "oidc"}

// Listener is one way in to a broker, in the words of the configuration; what is empty does not apply. It can travel to
// another process.
type Listener struct {
	Name      string
	Principal string // whom the broker takes a client for; empty: the administrator, nothing is to be granted
	Brokers   []string

	CAFile, CertFile, KeyFile            string
	Mechanism, User, Password, TokenFile string
	TokenURL, TokenCAFile                string
	ClientID, ClientSecret, Scope        string
}

// TestListener is the broker on which tests of a worker run and the worker's way in, by ListenerVariable.
func TestListener(tb testing.TB) (*Broker, *Listener) {
	tb.Helper()
	name := os.Getenv(ListenerVariable)
	if name == "" {
		b := Kafka(tb)
		return b, b.Listener(tb, "")
	}
	b := Kafka(tb, "--closed")
	return b, b.Listener(tb, name)
}

// Listener is a way in by its name, see Listeners; "" is plaintext. The tokens of "token-file" and "oidc" are renewed
// every second or so, and live for a few, as long as the process.
func (b *Broker) Listener(tb testing.TB, name string) *Listener {
	tb.Helper()
	if name == "" {
		return &Listener{Brokers: b.Addrs()}
	}
	l := &Listener{Name: name, Principal: "User:worker", Brokers: b.at("KAFKA_BOOTSTRAP_SASL_SSL"),
		CAFile: b.Env["KAFKA_CA"]}
	switch name {
	case "ssl":
		l.Principal, l.Brokers = "User:ANONYMOUS", b.at("KAFKA_BOOTSTRAP_SSL")
		if !slices.Contains(b.args, "--closed") {
			tb.Fatal("without --closed, User:ANONYMOUS is the administrator")
		}
	case "mtls":
		l.Principal, l.Brokers = "User:client", b.at("KAFKA_BOOTSTRAP_SSL")
		l.CertFile, l.KeyFile = b.Env["KAFKA_CLIENT_CERT"], b.Env["KAFKA_CLIENT_KEY"]
	case "plain", "scram-sha-256", "scram-sha-512":
		l.Mechanism, l.User, l.Password = strings.ToUpper(name), b.Env["KAFKA_USER"], b.Env["KAFKA_PASSWORD"]
	case "token-file":
		l.Mechanism, l.TokenFile = "OAUTHBEARER", filepath.Join(b.dir, "token")
		b.renewing.Do(func() { b.keepTokenFresh(tb, l.TokenFile) })
	case "oidc":
		b.providing.Do(func() {
			b.provider = startProvider(b.Signer(tb), 6*time.Second)
			ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: b.provider.Certificate().Raw})
			if err := os.WriteFile(filepath.Join(b.dir, "provider.pem"), ca, 0o600); err != nil {
				tb.Fatal(err)
			}
		})
		l.Mechanism, l.TokenURL, l.TokenCAFile = "OAUTHBEARER", b.provider.URL, filepath.Join(b.dir, "provider.pem")
		l.ClientID, l.ClientSecret, l.Scope = ProviderClient, ProviderSecret, ProviderScope
	default:
		tb.Fatalf("%s: no listener %q; use one of %v", ListenerVariable, name, Listeners)
	}
	return l
}

// Settings are kafka.brokers, kafka.tls and kafka.sasl of a configuration file, as lines that stand below `kafka:` with
// two blanks before each. The password and the client secret are in files, in dir.
func (l *Listener) Settings(tb testing.TB, dir string) string {
	tb.Helper()
	secret := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text+"\n"), 0o600); err != nil {
			tb.Fatal(err)
		}
		return path
	}
	text := fmt.Sprintf("  brokers: [%s]\n", strings.Join(l.Brokers, ", "))
	if l.CAFile != "" {
		text += fmt.Sprintf("  tls: {ca_file: %q", l.CAFile)
		if l.CertFile != "" {
			text += fmt.Sprintf(", cert_file: %q, key_file: %q", l.CertFile, l.KeyFile)
		}
		text += "}\n"
	}
	switch {
	case l.User != "":
		text += fmt.Sprintf("  sasl: {mechanism: %s, username: %s, password_file: %q}\n", l.Mechanism, l.User,
			secret("password", l.Password))
	case l.TokenFile != "":
		text += fmt.Sprintf("  sasl: {mechanism: %s, token_file: %q}\n", l.Mechanism, l.TokenFile)
	case l.TokenURL != "":
		text += fmt.Sprintf("  sasl: {mechanism: %s, oidc: {token_url: %q, client_id: %s, client_secret_file: %q, "+
			"scope: %q, ca_file: %q}}\n",
			l.Mechanism, l.TokenURL, l.ClientID, secret("client-secret", l.ClientSecret), l.Scope, l.TokenCAFile)
	}
	return text
}

// ---- the administrator

// Administrator is how a test's own client reaches the cluster that one of the addresses belongs to, by whatever
// listener: as the administrator. A cluster that Kafka did not start is reached as it is given.
func Administrator(addrs []string) []kgo.Opt {
	brokersMu.Lock()
	defer brokersMu.Unlock()
	for _, b := range brokers {
		for _, key := range []string{"KAFKA_BOOTSTRAP", "KAFKA_BOOTSTRAP_SSL", "KAFKA_BOOTSTRAP_SASL_SSL"} {
			if b.Env[key] != "" && slices.Contains(b.at(key), addrs[0]) {
				return b.Administrator()
			}
		}
	}
	return []kgo.Opt{kgo.SeedBrokers(addrs...)}
}

// Administrator is how a test's own client reaches the broker as its administrator.
func (b *Broker) Administrator() []kgo.Opt {
	if !slices.Contains(b.args, "--closed") {
		return []kgo.Opt{kgo.SeedBrokers(b.Addrs()...)}
	}
	cert, err := tls.LoadX509KeyPair(b.Env["KAFKA_ADMIN_CERT"], b.Env["KAFKA_ADMIN_KEY"])
	if err != nil {
		panic(err)
	}
	return []kgo.Opt{kgo.SeedBrokers(b.at("KAFKA_BOOTSTRAP_SSL")...),
		kgo.DialTLSConfig(&tls.Config{RootCAs: b.authorities(), Certificates: []tls.Certificate{cert}})}
}

// Client is a client of the administrator, which lives as long as the test. Records go to the partition that they name.
func (b *Broker) Client(tb testing.TB, opts ...kgo.Opt) *kgo.Client {
	tb.Helper()
	c, err := kgo.NewClient(slices.Concat(b.Administrator(), []kgo.Opt{kgo.RecordPartitioner(kgo.ManualPartitioner()),
		kgo.MetadataMinAge(100 * time.Millisecond)}, opts)...)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(c.Close)
	return c
}

// JavaClient is a file of properties with which Kafka's own tools reach the broker as its administrator, and their
// --bootstrap-server.
func (b *Broker) JavaClient(tb testing.TB) (file, bootstrap string) {
	tb.Helper()
	text, bootstrap := "", b.Env["KAFKA_BOOTSTRAP"]
	if b.Env["KAFKA_CA"] != "" {
		bootstrap = b.Env["KAFKA_BOOTSTRAP_SASL_SSL"]
		text = fmt.Sprintf(`security.protocol=SASL_SSL
sasl.mechanism=PLAIN
sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required `+
			`username="admin" password="admin-secret";
ssl.truststore.type=PEM
ssl.truststore.location=%s
`, b.Env["KAFKA_CA"])
	}
	file = filepath.Join(tb.TempDir(), "admin.properties")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		tb.Fatal(err)
	}
	return file, bootstrap
}

// Authorities are those that signed the broker's certificate.
func (b *Broker) Authorities(tb testing.TB) *x509.CertPool {
	tb.Helper()
	if b.Env["KAFKA_CA"] == "" {
		tb.Fatal("the broker has no certificate; start it with --secure, --acl or --closed")
	}
	return b.authorities()
}

func (b *Broker) authorities() *x509.CertPool {
	text, err := os.ReadFile(b.Env["KAFKA_CA"])
	pool := x509.NewCertPool()
	if err != nil || !pool.AppendCertsFromPEM(text) {
		panic(fmt.Sprintf("%s: no certificate: %v", b.Env["KAFKA_CA"], err))
	}
	return pool
}

// Issue makes a certificate of the broker's own authority, which it and its clients accept, for a name.
func (b *Broker) Issue(tb testing.TB, valid time.Duration, names ...string) (certPEM, keyPEM []byte) {
	tb.Helper()
	pair, err := tls.LoadX509KeyPair(b.Env["KAFKA_CA"], strings.TrimSuffix(b.Env["KAFKA_CA"], ".pem")+".key")
	if err != nil {
		tb.Fatal(err)
	}
	return issue(tb, pair.Leaf, pair.PrivateKey, valid, names...)
}

// ---- permissions

// Permission is one that a principal is granted. kafka.ACL converts to it.
type Permission struct {
	Operation, Resource, Name, Pattern, Why string // as in kafka.ACL
}

func (p Permission) builder(principal string) *kadm.ACLBuilder {
	b := kadm.NewACLs()
	switch p.Resource {
	case "Topic":
		b = b.Topics(p.Name)
	case "Group":
		b = b.Groups(p.Name)
	case "TransactionalId":
		b = b.TransactionalIDs(p.Name)
	default:
		panic(fmt.Sprintf("%+v", p))
	}
	operation, ok := map[string]kadm.ACLOperation{"Read": kadm.OpRead, "Write": kadm.OpWrite,
		"Describe": kadm.OpDescribe, "DescribeConfigs": kadm.OpDescribeConfigs}[p.Operation]
	pattern, known := map[string]kadm.ACLPattern{"literal": kadm.ACLPatternLiteral,
		"prefixed": kadm.ACLPatternPrefixed}[p.Pattern]
	if !ok || !known {
		panic(fmt.Sprintf("%+v", p))
	}
	return b.Operations(operation).ResourcePatternType(pattern).Allow(principal).AllowHosts("*")
}

// Grant gives permissions to a principal, such as User:worker, and waits until the broker's authorizer has them:
// changes reach it by way of the controller's log.
func (b *Broker) Grant(tb testing.TB, principal string, ps ...Permission) {
	tb.Helper()
	admin := kadm.NewClient(b.Client(tb))
	for _, p := range ps {
		created, err := admin.CreateACLs(tb.Context(), p.builder(principal))
		for _, c := range created {
			if err == nil {
				err = c.Err
			}
		}
		if err != nil {
			tb.Fatalf("granting %+v: %v", p, err)
		}
	}
	b.AwaitPermissions(tb, len(ps), principal, ps...)
}

// Revoke takes permissions away and waits until the authorizer knows.
func (b *Broker) Revoke(tb testing.TB, principal string, ps ...Permission) {
	tb.Helper()
	admin := kadm.NewClient(b.Client(tb))
	for _, p := range ps {
		if _, err := admin.DeleteACLs(tb.Context(), p.builder(principal)); err != nil {
			tb.Fatalf("revoking %+v: %v", p, err)
		}
	}
	b.AwaitPermissions(tb, 0, principal, ps...)
}

// AwaitPermissions waits until the authorizer has n of these permissions.
func (b *Broker) AwaitPermissions(tb testing.TB, n int, principal string, ps ...Permission) {
	tb.Helper()
	admin := kadm.NewClient(b.Client(tb))
	ctx, cancel := context.WithTimeout(tb.Context(), 30*time.Second)
	defer cancel()
	for {
		has := 0
		for _, p := range ps {
			found, err := admin.DescribeACLs(ctx, p.builder(principal))
			for _, f := range found {
				if err == nil {
					err = f.Err
				}
				has += len(f.Described)
			}
			if err != nil {
				tb.Fatalf("%d of %d permissions of %s are there: %v", has, n, principal, err)
			}
		}
		if has == n {
			return
		}
	}
}
