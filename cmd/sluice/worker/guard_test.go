package worker

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"sluice/cmd/sluice/settings"
	"sluice/pipeline"
	"sluice/pipeline/pipelinetest"
)

// serving starts the endpoints with settings.
func serving(t *testing.T, o settings.Server) *server {
	t.Helper()
	o.Listen = "127.0.0.1:0"
	_, problems := NewLogger(io.Discard, settings.Default().Log)
	s, err := startServer(o, prometheus.NewRegistry(), problems, Kinds, about{Settings: &settings.Settings{}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.close)
	return s
}

func fetch(t *testing.T, c *http.Client, method, url, token string, body io.Reader) (int, string, *http.Response) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, url, body)
	if err != nil {
		t.Fatal(err)
	}
	if token != "" {
		r.Header.Set("Authorization", token)
	}
	res, err := c.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(b), res
}

func TestOnlyWhoKnowsTheTokenReadsMoreThanTheProbes(t *testing.T) {
	file := tempFile(t, "token", "first-token\n")
	s := serving(t, settings.Server{TokenFile: file, Pprof: true})
	url := "http://" + s.address()
	get := func(path, token string) int {
		code, body, _ := fetch(t, http.DefaultClient, "GET", url+path, token, nil)
		if strings.Contains(body, "-token") {
			t.Errorf("%s tells the token: %s", path, body)
		}
		return code
	}
	for path, open := range map[string]int{"/healthz": 200, "/readyz": 503, "/": 200, "/metrics": 401, "/status": 401,
		"/debug/pprof/": 401, "/debug/pprof/heap": 401, "/debug/pprof/profile?seconds=1": 401,
		"/debug/pprof/cmdline": 401} {
		if code := get(path, ""); code != open {
			t.Errorf("%s without a token: %d", path, code)
		}
	}
	for token, want := range map[string]int{"Bearer first-token": 200, "bearer  first-token": 200,
		"Bearer first-toke": 401, "Bearer first-tokens": 401, "Bearer ": 401, "Basic first-token": 401,
		"first-token": 401} {
		if code := get("/metrics", token); code != want {
			t.Errorf("%q: %d, want %d", token, code, want)
		}
	}
	for _, path := range []string{"/status", "/debug/pprof/", "/debug/pprof/goroutine"} {
		if code := get(path, "Bearer first-token"); code != 200 {
			t.Errorf("%s with the token: %d", path, code)
		}
	}
	putFile(t, file, "second-token\n")
	if get("/metrics", "Bearer first-token") != 401 || get("/metrics", "Bearer second-token") != 200 {
		t.Error("the renewed token is not the one that counts")
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if code := get("/metrics", "Bearer second-token"); code != 503 {
		t.Errorf("with no token to compare with: %d", code)
	}
}

func TestTheServerOnlyAnswersReadsOfModestSize(t *testing.T) {
	url := "http://" + serving(t, settings.Server{}).address()
	for _, method := range []string{"POST", "PUT", "DELETE", "PATCH", "CONNECT", "OPTIONS"} {
		if code, _, _ := fetch(t, http.DefaultClient, method, url+"/status", "", nil); code != 405 {
			t.Errorf("%s: %d", method, code)
		}
	}
	if code, _, r := fetch(t, http.DefaultClient, "HEAD", url+"/metrics", "", nil); code != 200 ||
		r.ContentLength == 0 {
		t.Errorf("HEAD: %d", code)
	}
	if code, _, _ := fetch(t, http.DefaultClient, "GET", url+"/status", "", strings.NewReader("body")); code != 413 {
		t.Errorf("a body: %d", code)
	}
	if code, _, _ := fetch(t, http.DefaultClient, "GET", url+"/status", "Bearer "+strings.Repeat("x",
		2*serverHeaderBytes), nil); code != 431 {
		t.Errorf("a header of 32 KiB: %d", code)
	}
	if code, _, _ := fetch(t, http.DefaultClient, "GET", url+"/debug/pprof/", "", nil); code != 404 {
		t.Errorf("pprof, which is off: %d", code)
	}
}

// Slow loris: connections that begin a request and never end it. They must neither keep others out nor stay.
func TestSlowConnectionsKeepNobodyOut(t *testing.T) {
	s := serving(t, settings.Server{})
	var slow []net.Conn
	for i := range 3 * serverConnections {
		c, err := net.Dial("tcp", s.address())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err := fmt.Fprintf(c, "GET /metrics HTTP/1.1\r\nHost: x\r\nX-%d: ", i); err != nil {
			t.Logf("connection %d was closed already: %v", i, err)
		}
		slow = append(slow, c)
		if i%serverConnections == serverConnections-1 {
			client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
			if code, _, _ := fetch(t, client, "GET", "http://"+s.address()+"/healthz", "", nil); code != 200 {
				t.Fatalf("after %d slow connections: %d", i+1, code)
			}
			s.gate.mu.Lock()
			if n := len(s.gate.inside); n > serverConnections {
				t.Errorf("%d connections are held", n)
			}
			s.gate.mu.Unlock()
		}
	}
	// The first ones were pushed out; the others end at the timeout of a header. None gets an answer as if it had
	// asked.
	for i, c := range slow {
		if err := c.SetReadDeadline(time.Now().Add(30 * time.Second)); err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(c)
		if ne, ok := err.(net.Error); ok && ne.Timeout() {
			t.Fatalf("slow connection %d is still open", i)
		}
		if strings.Contains(string(b), " 200 ") {
			t.Errorf("slow connection %d: %s", i, b)
		}
	}
}

// A connection with a request in progress is never pushed out, and beyond the bound a request is refused rather than
// queued.
func TestABusyServerRefusesAndAnswersWhatItBegan(t *testing.T) {
	entered, leave := make(chan struct{}), make(chan struct{})
	h, gate := newHTTPServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		entered <- struct{}{}
		<-leave
		fmt.Fprint(w, "done")
	}))
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go h.Serve(ln)
	defer h.Close()
	ask := func() (net.Conn, *bufio.Reader) {
		c, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		c.SetDeadline(time.Now().Add(20 * time.Second))
		fmt.Fprint(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
		return c, bufio.NewReader(c)
	}
	var readers []*bufio.Reader
	for range gate.most {
		_, r := ask()
		readers = append(readers, r)
		<-entered
	}
	_, r := ask()
	res, err := http.ReadResponse(r, nil)
	if err != nil || res.StatusCode != 503 {
		t.Fatalf("one request too many: %v, %v", res, err)
	}
	close(leave)
	for i, r := range readers {
		if res, err := http.ReadResponse(r, nil); err != nil || res.StatusCode != 200 {
			t.Errorf("request %d: %v, %v", i, res, err)
		}
	}
}

func TestTheServersCertificateIsRenewedAndClientsShowTheirs(t *testing.T) {
	ca, clients, strangers := pipelinetest.NewAuthority(t, "server CA"), pipelinetest.NewAuthority(t, "client CA"),
		pipelinetest.NewAuthority(t, "another CA")
	dir := t.TempDir()
	o := settings.Server{TLS: settings.ServerTLS{CertFile: filepath.Join(dir, "tls.crt"),
		KeyFile: filepath.Join(dir,
			"tls.key"), ClientCAFile: filepath.Join(dir, "clients.pem")}}
	issue := func(name string) {
		cert, key := ca.Issue(t, time.Hour, name, "127.0.0.1")
		putFile(t, o.TLS.CertFile, string(cert))
		putFile(t, o.TLS.KeyFile, string(key))
	}
	issue("first.example")
	putFile(t, o.TLS.ClientCAFile, string(clients.PEM))
	s := serving(t, o)
	url := "https://" + s.address()
	client := func(certificates ...tls.Certificate) *http.Client {
		return &http.Client{Transport: &http.Transport{DisableKeepAlives: true,
			TLSClientConfig: &tls.Config{RootCAs: ca.Pool, Certificates: certificates}}}
	}
	known := client(clients.Certificate(t, time.Hour, "prometheus"))
	if code, _, _ := fetch(t, client(), "GET", url+"/healthz", "", nil); code != 200 {
		t.Errorf("a probe without certificate: %d", code)
	}
	if code, _, _ := fetch(t, client(), "GET", url+"/metrics", "", nil); code != 403 {
		t.Errorf("/metrics without certificate: %d", code)
	}
	code, _, res := fetch(t, known, "GET", url+"/metrics", "", nil)
	if code != 200 || res.TLS.PeerCertificates[0].Subject.CommonName != "first.example" {
		t.Errorf("/metrics with a certificate: %d", code)
	}
	for name, c := range map[string]tls.Certificate{"of another CA": strangers.Certificate(t, time.Hour, "x"),
		"that has expired": clients.Certificate(t, -time.Minute, "x")} {
		// Go's client sends no certificate of a CA that the server does not name, so it is forced to.
		force := &tls.Config{RootCAs: ca.Pool, GetClientCertificate: func(*tls.CertificateRequestInfo) (
			*tls.Certificate, error) {
			return &c, nil
		}}
		conn, err := tls.Dial("tcp", s.address(), force)
		if err == nil {
			conn.SetDeadline(time.Now().Add(20 * time.Second))
			fmt.Fprint(conn, "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
			_, err = conn.Read(make([]byte, 1))
			conn.Close()
		}
		if err == nil {
			t.Errorf("a client certificate %s is let in", name)
		}
	}
	host, port, _ := net.SplitHostPort(s.address())
	if _, err := AskReady(host, port); err == nil || !strings.Contains(err.Error(), "not ready: starting") {
		t.Errorf("sluice health over TLS: %v", err)
	}
	issue("second.example")
	for deadline := time.Now().Add(20 * time.Second); ; {
		_, _, res := fetch(t, known, "GET", url+"/metrics", "", nil)
		if res.TLS.PeerCertificates[0].Subject.CommonName == "second.example" {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the renewed certificate is not served")
		}
	}
	_, problems := NewLogger(io.Discard, settings.Default().Log)
	putFile(t, o.TLS.KeyFile, "broken")
	if code, _, _ := fetch(t, known, "GET", url+"/metrics", "", nil); code != 200 {
		t.Errorf("while the files are half-written: %d", code)
	}
	if _, err := startServer(settings.Server{Listen: "127.0.0.1:0", TLS: o.TLS}, prometheus.NewRegistry(),
		problems, Kinds, about{}); err == nil || pipeline.KindOf(err) != pipeline.Config ||
		!strings.Contains(err.Error(),
			"server.tls.cert_file and key_file") {
		t.Errorf("starting with broken files: %v", err)
	}
}

func tempFile(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	putFile(t, path, text)
	return path
}

// replaceFile writes a file as renewals do: whole, under another name, then renamed.
func putFile(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path+".new", []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}
