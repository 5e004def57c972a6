package settings

import (
	"net/url"
	"slices"
	"time"

	"sluice/cmd/sluice/config"
	"sluice/pipeline"
	"sluice/pipeline/kafka"
)

// This file owns the section kafka: the cluster, the group, and how connections are encrypted and logged in.

// Kafka says where the cluster is and how the worker takes part in its group.
type Kafka struct {
	Brokers            []string      `key:"brokers"`
	Group              string        `key:"group"`
	InstanceID         string        `key:"instance_id"`
	SessionTimeout     time.Duration `key:"session_timeout"`
	RebalanceTimeout   time.Duration `key:"rebalance_timeout"`
	TransactionTimeout time.Duration `key:"transaction_timeout"`
	Guarantee          string        `key:"guarantee"`
	CommitInterval     time.Duration `key:"commit_interval"`
	Compression        string        `key:"compression"`
	Fetch              Fetch         `key:"fetch"`
	TLS                TLS           `key:"tls"`
	SASL               SASL          `key:"sasl"`
}

// Fetch shapes the long-poll requests that read the input.
type Fetch struct {
	MaxBytes config.Bytes  `key:"max_bytes"`
	MaxWait  time.Duration `key:"max_wait"`
}

// TLS encrypts the connections to the brokers. Any of the files, or server_name, switches TLS on.
type TLS struct {
	Enabled    bool   `key:"enabled"`
	CAFile     string `key:"ca_file"`
	CertFile   string `key:"cert_file"`
	KeyFile    string `key:"key_file"`
	ServerName string `key:"server_name"`
}

// SASL logs in to the brokers. Passwords and tokens come from files, from the environment or from an identity
// provider.
type SASL struct {
	Mechanism    string          `key:"mechanism"`
	Username     string          `key:"username"`
	PasswordFile string          `key:"password_file"`
	Password     pipeline.Secret `key:"password"`
	TokenFile    string          `key:"token_file"`
	OIDC         OIDC            `key:"oidc"`
}

// OIDC fetches tokens (OAUTHBEARER) from an OpenID Connect provider by the client credentials grant.
type OIDC struct {
	TokenURL         string          `key:"token_url"`
	ClientID         string          `key:"client_id"`
	ClientSecretFile string          `key:"client_secret_file"`
	ClientSecret     pipeline.Secret `key:"client_secret"`
	Scope            string          `key:"scope"`
	CAFile           string          `key:"ca_file"`
}

// On says whether connections are encrypted.
func (t TLS) On() bool {
	return t.Enabled || t.CAFile != "" || t.CertFile != "" || t.KeyFile != "" || t.ServerName != ""
}

// On says whether tokens come from a provider.
func (o OIDC) On() bool { return o.TokenURL != "" }

// hostname is the instance id by default: what the machine is called.
const hostname = "${HOSTNAME}"

var kafkaKeys = []config.Key{
	{Name: "brokers", Need: true, Example: "kafka-1:9092,kafka-2:9092",
		Doc: "addresses (host:port) of brokers to ask first"},
	{Name: "group", Need: true, Example: "reviews", Doc: "consumer group; workers of one group share the partitions"},
	{Name: "instance_id", Example: "reviews-0",
		Doc: "name of this worker (static membership): unique in the group, the same after a restart"},
	{Name: "session_timeout", Example: "2m",
		Range: config.Range{Least: "500ms", Most: "30m",
			TooMuch: "brokers allow no more: group.max.session.timeout.ms"},
		Doc: "how long a dead worker keeps its partitions; a restart within it causes no rebalance"},
	{Name: "rebalance_timeout", Example: "25s",
		Range: config.Range{Least: "500ms", Most: "30m"},
		Doc:   "how long a rebalance waits for members that do not answer"},
	{Name: "transaction_timeout", Example: "1m",
		Range: config.Range{Least: "1s", Most: "15m", TooMuch: "brokers allow no more: transaction.max.timeout.ms"},
		Doc:   "how long the broker keeps an open transaction of a dead worker"},
	{Name: "guarantee", Example: "at-least-once",
		OneOf: []string{"exactly-once", "at-least-once"},
		Doc: "exactly-once: results and offsets in one transaction; at-least-once: repeats after a crash carry " +
			"the same id"},
	{Name: "commit_interval", Example: "100ms",
		Range: config.Range{Least: "1ms", Most: "5m"},
		Doc:   "longest a finished result waits for its commit"},
	{Name: "compression", Example: "zstd",
		OneOf: []string{"none", "gzip", "snappy", "lz4", "zstd"}, Doc: "compression of what is written"},
	{Name: "fetch.max_bytes", Example: "16MiB",
		Range: config.Range{Least: "1KiB", Below: "1GiB"},
		Doc:   "most bytes in the answer to one fetch"},
	{Name: "fetch.max_wait", Example: "500ms",
		Range: config.Range{Least: "1ms", Most: "30s"},
		Doc:   "longest the broker waits for records"},
	{Name: "tls.enabled", Example: "true",
		Doc: "encrypt with the system's certificate authorities; the other keys of kafka.tls imply it"},
	{Name: "tls.ca_file", File: config.FileName, Example: "/etc/kafka/ca.pem",
		Doc: "PEM file of the certificate authorities to trust, in place of the system's"},
	{Name: "tls.cert_file", File: config.FileName, Example: "/etc/kafka/client.pem",
		Doc: "PEM file of the client certificate (with key_file)"},
	{Name: "tls.key_file", File: config.FileName, Example: "/etc/kafka/client.key",
		Doc: "PEM file of the client certificate's key"},
	{Name: "tls.server_name", Example: "kafka.internal",
		Doc: "name to expect in the broker's certificate, where it is not the address"},
	{Name: "sasl.mechanism", Example: "SCRAM-SHA-512",
		OneOf: []string{"PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"},
		Doc:   "how to log in; empty: no login"},
	{Name: "sasl.username", Example: "sluice", Doc: "user to log in as (PLAIN, SCRAM)"},
	{Name: "sasl.password_file", File: config.FileName, Example: "/run/secrets/kafka-password",
		Doc: "file that holds the password (a newline at its end is ignored); read at every login"},
	{Name: "sasl.password", Secret: true, Example: "(from a secret store)",
		Doc: "the password itself; from the environment only"},
	{Name: "sasl.token_file", File: config.FileName, Example: "/var/run/secrets/tokens/kafka",
		Doc: "file that holds the token (OAUTHBEARER), kept fresh by somebody else; read at every login"},
	{Name: "sasl.oidc.token_url", Example: "https://login.example/oauth2/token",
		Doc: "token endpoint of the identity provider (OAUTHBEARER); redirects are not followed"},
	{Name: "sasl.oidc.client_id", Example: "sluice", Doc: "client id at the identity provider"},
	{Name: "sasl.oidc.client_secret_file", File: config.FileName, Example: "/run/secrets/kafka-client",
		Doc: "file that holds the client secret; read for every token"},
	{Name: "sasl.oidc.client_secret", Secret: true, Example: "(from a secret store)",
		Doc: "the client secret itself; from the environment only"},
	{Name: "sasl.oidc.scope", Example: "kafka",
		Doc: "scopes to ask for, separated by blanks; empty: the provider's default"},
	{Name: "sasl.oidc.ca_file", File: config.FileName, Example: "/etc/kafka/idp-ca.pem",
		Doc: "PEM file of the certificate authorities to trust for token_url, in place of the system's"},
}

func checkKafka(c *config.Check, s *Settings) {
	k := &s.Kafka
	for _, b := range k.Brokers {
		checkAddress(c, "kafka.brokers", b, "localhost:9092")
	}
	if k.InstanceID == hostname {
		k.InstanceID = c.Env("HOSTNAME")
	}
	if k.InstanceID == "" {
		c.Mistake("kafka.instance_id", "must not be empty: it lets a restarted worker take up its partitions without "+
			"a rebalance; write for example %q", hostname)
	}
	if k.Guarantee == "exactly-once" {
		if k.CommitInterval*2 > k.TransactionTimeout {
			c.Between([]string{"kafka.commit_interval", "kafka.transaction_timeout"}, "%s leaves no time to finish a "+
				"transaction within kafka.transaction_timeout (%s); lower commit_interval, or raise "+
				"transaction_timeout to more than twice as much",
				config.ShortDuration(k.CommitInterval), config.ShortDuration(k.TransactionTimeout))
		}
	}
	checkSecurity(c, k)
}

func checkSecurity(c *config.Check, k *Kafka) {
	tls, sasl := &k.TLS, &k.SASL
	if tls.CertFile != "" && tls.KeyFile == "" {
		c.Between([]string{"kafka.tls.cert_file", "kafka.tls.key_file"}, "a client certificate needs its key; give "+
			"kafka.tls.key_file too, or remove cert_file")
	}
	if tls.KeyFile != "" && tls.CertFile == "" {
		c.Between([]string{"kafka.tls.key_file", "kafka.tls.cert_file"}, "a key needs its client certificate; give "+
			"kafka.tls.cert_file too, or remove key_file")
	}
	if c.Given("kafka.tls.enabled") && !tls.Enabled && tls.On() {
		c.Between([]string{"kafka.tls.enabled"}, "false contradicts the other keys of kafka.tls; set it to true, or "+
			"remove them")
	}
	checkLogin(c, sasl, tls.On())
}

// checkLogin: each mechanism has its own keys; those of others have no effect and are mistakes.
func checkLogin(c *config.Check, s *SASL, encrypted bool) {
	password := []string{"kafka.sasl.username", "kafka.sasl.password_file", "kafka.sasl.password"}
	oidc := []string{"kafka.sasl.oidc.token_url", "kafka.sasl.oidc.client_id", "kafka.sasl.oidc.client_secret_file",
		"kafka.sasl.oidc.client_secret", "kafka.sasl.oidc.scope", "kafka.sasl.oidc.ca_file"}
	token := append([]string{"kafka.sasl.token_file"}, oidc...)
	switch s.Mechanism {
	case "":
		idleKeys(c, slices.Concat(password, token), "without kafka.sasl.mechanism; give one (PLAIN, SCRAM-SHA-256, "+
			"SCRAM-SHA-512, OAUTHBEARER), or remove this key", "kafka.sasl.mechanism")
		return
	case kafka.OAuthBearer:
		idleKeys(c, password, "with OAUTHBEARER, where the token names the user; remove it, or use another mechanism",
			"kafka.sasl.mechanism")
		checkToken(c, s, oidc)
	default:
		idleKeys(c, token, "with "+s.Mechanism+"; set mechanism: OAUTHBEARER, or remove it", "kafka.sasl.mechanism")
		if s.Username == "" {
			c.Mistake("kafka.sasl.username", "is missing; %s needs one", s.Mechanism)
		}
		oneSecret(c, "kafka.sasl.mechanism", s.Mechanism+" needs a password", "kafka.sasl.password_file",
			s.PasswordFile, "kafka.sasl.password", s.Password)
	}
	if !encrypted && (s.Mechanism == kafka.Plain || s.Mechanism == kafka.OAuthBearer) {
		c.Warn("kafka.sasl.mechanism", "%s without kafka.tls sends the password or token readable for everybody on "+
			"the way", s.Mechanism)
	}
}

func checkToken(c *config.Check, s *SASL, oidc []string) {
	o := &s.OIDC
	if s.TokenFile != "" {
		idleKeys(c, oidc, "beside kafka.sasl.token_file; tokens come from the one or the other, remove one of them",
			"kafka.sasl.token_file")
		return
	}
	if !o.On() {
		idleKeys(c, oidc[1:], "without kafka.sasl.oidc.token_url; give the address of the token endpoint, or remove it",
			"kafka.sasl.oidc.token_url")
		c.Between(append([]string{"kafka.sasl.mechanism", "kafka.sasl.token_file"}, oidc...),
			"OAUTHBEARER needs a token; give kafka.sasl.token_file, or kafka.sasl.oidc")
		return
	}
	u, err := url.Parse(o.TokenURL)
	switch {
	case err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "":
		c.Mistake("kafka.sasl.oidc.token_url", "is not an address; write for example "+
			"https://login.example/oauth2/token")
	case u.User != nil:
		c.Mistake("kafka.sasl.oidc.token_url", "holds a user or password; give them as client_id and "+
			"client_secret_file")
	case u.Scheme == "http" && !IsLoopback(u.Hostname()):
		c.Mistake("kafka.sasl.oidc.token_url", "would send the client secret readable for everybody on the way; use "+
			"https")
	}
	if o.ClientID == "" {
		c.Mistake("kafka.sasl.oidc.client_id", "is missing; the token endpoint wants one")
	}
	oneSecret(c, "kafka.sasl.oidc.token_url", "the token endpoint wants a client secret",
		"kafka.sasl.oidc.client_secret_file", o.ClientSecretFile, "kafka.sasl.oidc.client_secret", o.ClientSecret)
}
