package main

import (
	"crypto/tls"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sasl/scram"

	"sluice/pipeline/pipelinetest"
)

// Secrets that must be seen nowhere, each as a configuration has it.
const (
	canaryPassword = "c4n4ry-Password-7f2e"
	canaryClient   = "c4n4ry-Client/Secret-91ab"
	canaryAPIKey   = "c4n4ry-Api-Key-33cd"
	canaryServer   = "c4n4ry-Server-Token-52ef"
	canaryToken    = "c4n4ry-Bearer-Token-88aa"
	canaryPayload  = "c4n4ry-Payload-of-a-record"
)

// sightings collects everything that anybody could see of a process, and finds canaries in it.
type sightings struct {
	all   strings.Builder
	where map[string]int
}

func (s *sightings) saw(what, text string) {
	s.where[what] = len(text)
	fmt.Fprintf(&s.all, "\n==== %s\n%s", what, text)
}

// check looks for the secrets, plain and in the forms in which they travel. keyPEM is a private key.
func (s *sightings) check(t *testing.T, keyPEM string) {
	t.Helper()
	forms := map[string]string{}
	for _, c := range []string{canaryPassword, canaryClient, canaryAPIKey, canaryServer, canaryToken, canaryPayload} {
		forms[c] = c
		forms[c+" in base64"] = base64.StdEncoding.EncodeToString([]byte(c))
		forms[c+" in base64, of a login"] = base64.StdEncoding.EncodeToString([]byte("sluice:" + url.QueryEscape(c)))
		forms[c+" in hex"] = hex.EncodeToString([]byte(c))
		forms[c+" escaped"] = url.QueryEscape(c)
		forms[c+" in the second half"] = c[len(c)/2:]
	}
	for i, line := range strings.Split(strings.TrimSpace(keyPEM), "\n") {
		if len(line) > 20 && !strings.HasPrefix(line, "-----") {
			forms[fmt.Sprintf("line %d of the private key", i)] = line
		}
	}
	if len(forms) < 30 {
		t.Fatalf("only %d forms are looked for", len(forms))
	}
	text := s.all.String()
	for name, form := range forms {
		if i := strings.Index(text, form); i >= 0 {
			t.Errorf("%s can be seen: ...%s...", name, text[max(0, i-200):min(len(text), i+len(form)+50)])
		}
	}
	for what, n := range s.where {
		if n == 0 {
			t.Errorf("%s: nothing was there to be looked at", what)
		}
	}
}

// The real program with secrets in files and variables, working, refused, misconfigured and crashing: nothing that it
// writes or serves shows any of them.
func TestNoSecretIsEverSeen(t *testing.T) {
	dir := needModel(t, "sentiment-tiny")
	ca := pipelinetest.NewAuthority(t, "CA")
	certPEM, keyPEM := ca.Issue(t, time.Hour, "worker")
	brokerTLS := &tls.Config{Certificates: []tls.Certificate{ca.Certificate(t, time.Hour, "127.0.0.1")}}
	fake, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(1, "customer_reviews", "review_analysis",
		"review_dlq", "review_escalations"),
		kfake.EnableSASL(), kfake.Superuser("SCRAM-SHA-256", "worker", canaryPassword), kfake.TLS(brokerTLS))
	if err != nil {
		t.Fatal(err)
	}
	defer fake.Close()
	address := fake.ListenAddrs()[0]

	// An endpoint and an identity provider that say aloud whatever they are sent.
	gossip := func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusUnauthorized)
		fmt.Fprintf(w, `{"error":%q,"error_description":%q}`, "who sends "+r.Header.Get("Authorization"),
			fmt.Sprint(r.Header, string(body)))
	}
	asked := make(chan struct{}, 100)
	llm := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer "+canaryAPIKey {
			t.Error("the endpoint was asked without the key")
		}
		gossip(w, r)
		asked <- struct{}{}
	}))
	defer llm.Close()
	provider := httptest.NewServer(http.HandlerFunc(gossip))
	defer provider.Close()

	file := func(name, text string) string { return tempFile(t, name, text) }
	base := strings.NewReplacer("localhost:9092", address, "models/sentiment", dir).Replace(minimal)
	caFile := file("ca.pem", string(ca.PEM))
	scramSettings := fmt.Sprintf("group: reviews\n  instance_id: w-0\n  tls: {ca_file: %s, cert_file: %s, key_file: "+
		"%s}\n  sasl: {mechanism: SCRAM-SHA-256, username: worker}",
		caFile, file("cert.pem", string(certPEM)), file("key.pem", string(keyPEM)))
	config := file("c.yaml", strings.Replace(base, "group: reviews", scramSettings, 1)+fmt.Sprintf(`
server: {listen: "127.0.0.1:0", pprof: true, token_file: %s}
escalation: {when: "sentiment.score < 2", topic: review_escalations, endpoint: {urls: [%q], model: m}}
log: {level: debug}
`, file("server-token", canaryServer+"\n"), llm.URL+"/v1"))
	oidcSettings := fmt.Sprintf("group: reviews\n  tls: {ca_file: %s}\n  sasl: {mechanism: OAUTHBEARER, oidc: "+
		"{token_url: %q, client_id: sluice, client_secret_file: %s}}", caFile, provider.URL,
		file("client", canaryClient+"\n"))
	oidc := file("oidc.yaml", strings.Replace(base, "group: reviews", oidcSettings, 1))
	tokenSettings := fmt.Sprintf("group: reviews\n  tls: {ca_file: %s}\n  sasl: {mechanism: OAUTHBEARER, token_file: "+
		"%s}", caFile, file("token", canaryToken+"\n"))
	tokens := file("tokens.yaml", strings.Replace(base, "group: reviews", tokenSettings, 1))
	mistaken := file("mistaken.yaml", strings.Replace(base, "group: reviews", fmt.Sprintf(
		"group: reviews\n  sasl: {mechanism: PLAIN, password: %s, oidc: {token_url: \"https://u:%s@idp.example\", "+
			"client_secret: %s}}", canaryPassword, canaryClient, canaryClient), 1)+
		fmt.Sprintf("escalation: {when: 'true', topic: x, endpoint: {urls: [\"htp://u:%s@x\", "+
			"\"http://x/v1?key=%s\"], model: m, api_key: %s}}\n", canaryAPIKey, canaryAPIKey, canaryAPIKey))

	env := []string{"SLUICE_KAFKA__SASL__PASSWORD=" + canaryPassword, "SLUICE_ESCALATION__ENDPOINT__API_KEY=" +
		canaryAPIKey, "GOTRACEBACK=all"}
	command := func(env []string, args ...string) *exec.Cmd {
		cmd := sluice(t, args...)
		cmd.Env = append(cmd.Env, env...)
		return cmd
	}
	seen := &sightings{where: map[string]int{}}
	ends := func(what string, code int, says string, cmd *exec.Cmd) {
		t.Helper()
		r := finish(t, cmd)
		seen.saw(what, r.out+r.err)
		if r.code != code || !strings.Contains(r.out+r.err, says) {
			t.Errorf("%s: exit code %d, want %d and %q in\n%s%s", what, r.code, code, says, r.out, r.err)
		}
	}
	ends("validate --print", 0, `password: "***"`, command(env, "validate", "-c", config, "--print"))
	ends("validate with a wrong password", 2, "wrong user, password or token",
		command([]string{"SLUICE_KAFKA__SASL__PASSWORD=" + canaryToken, env[1]}, "validate", "-c", config))
	ends("validate with a provider that refuses", 2, "refuses client", command(nil, "validate", "-c", oidc))
	ends("validate with a token that is refused", 2, "OAUTHBEARER", command(nil, "validate", "-c", tokens))
	ends("validate with secrets in the file and in addresses", 2, "a secret does not belong in the configuration file",
		command(nil, "validate", "-c", mistaken))
	ends("a secret as a flag", 2, "unknown flag", command(nil, "run", "-c", config, "--kafka.sasl.password"))
	ends("acls", 0, "kafka-acls.sh", command(env, "acls", "-c", config))

	// kafka's stand-in closes the connection of a login that it refuses, so the worker goes on trying.
	locked := startCommand(t, command([]string{"SLUICE_KAFKA__SASL__PASSWORD=" + canaryToken, env[1]}, "run", "-c",
		config))
	for deadline := time.Now().Add(60 * time.Second); !strings.Contains(locked.logs(), "wrong user, password or "+
		"token"); {
		if time.Now().After(deadline) {
			t.Fatalf("nothing is said about the wrong password\n%s", locked.logs())
		}
		_, body, _ := fetch(t, http.DefaultClient, "GET", locked.http+"/status", "Bearer "+canaryServer, nil)
		seen.saw("/status with a wrong password", body)
	}
	if err := locked.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	locked.exit(t)
	seen.saw("the log with a wrong password", locked.logs())

	w := startCommand(t, command(env, "run", "-c", config))
	w.waitReady(t)
	client, err := kgo.NewClient(kgo.SeedBrokers(address), kgo.DefaultProduceTopic("customer_reviews"),
		kgo.DialTLSConfig(&tls.Config{RootCAs: ca.Pool}),
		kgo.SASL(scram.Auth{User: "worker", Pass: canaryPassword}.AsSha256Mechanism()))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	for _, v := range []string{`{"text":"` + canaryPayload + `"}`, canaryPayload, `{"text":"` + canaryPayload,
		`{"text":{"a":"` + canaryPayload + `"}}`} {
		if err := client.ProduceSync(t.Context(), &kgo.Record{Key: []byte(canaryPayload), Value: []byte(v),
			Headers: []kgo.RecordHeader{{Key: "h", Value: []byte(canaryPayload)}}}).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	select {
	case <-asked:
	case <-time.After(60 * time.Second):
		t.Fatalf("the endpoint was not asked\n%s", w.logs())
	}
	for _, path := range []string{"/metrics", "/status", "/debug/pprof/", "/debug/pprof/goroutine?debug=2",
		"/debug/pprof/heap?debug=1"} {
		for _, token := range []string{"", "Bearer " + canaryServer} {
			code, body, _ := fetch(t, http.DefaultClient, "GET", w.http+path, token, nil)
			if token != "" && code != 200 {
				t.Errorf("%s: %d", path, code)
			}
			seen.saw(fmt.Sprintf("%s, token: %v", path, token != ""), body)
		}
	}
	// A crash: the dump of all goroutines, as after a panic.
	if err := w.cmd.Process.Signal(syscall.SIGQUIT); err != nil {
		t.Fatal(err)
	}
	if code := w.exit(t); code != 2 || !strings.Contains(w.logs(), "goroutine 1 ") {
		t.Errorf("no dump: exit code %d", code)
	}
	seen.saw("the worker's log and dump", w.logs())
	seen.check(t, string(keyPEM))
}
