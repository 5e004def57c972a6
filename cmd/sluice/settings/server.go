package settings

import (
	"net"

	"sluice/cmd/sluice/config"
)

// This file owns the sections server and log.

// Server is the HTTP endpoints /metrics, /healthz, /readyz and /status.
type Server struct {
	Listen    string    `key:"listen"`
	TLS       ServerTLS `key:"tls"`
	TokenFile string    `key:"token_file"`
	Insecure  bool      `key:"insecure"`
	Pprof     bool      `key:"pprof"`
}

// ServerTLS encrypts the HTTP endpoints.
type ServerTLS struct {
	CertFile     string `key:"cert_file"`
	KeyFile      string `key:"key_file"`
	ClientCAFile string `key:"client_ca_file"`
}

var serverKeys = []config.Key{
	{Name: "listen", Example: "0.0.0.0:9464",
		Doc: `address of /metrics, /healthz, /readyz and /status; "off": no server`},
	{Name: "tls.cert_file", File: config.FileName, Example: "/etc/sluice/tls.crt",
		Doc: "PEM file of the certificate to serve with, intermediates behind it (with key_file); a renewed one " +
			"is taken up"},
	{Name: "tls.key_file", File: config.FileName, Example: "/etc/sluice/tls.key",
		Doc: "PEM file of the certificate's key"},
	{Name: "tls.client_ca_file", File: config.FileName, Example: "/etc/sluice/clients.pem",
		Doc: "PEM file of the certificate authorities whose client certificates /metrics, /status and " +
			"/debug/pprof/ want"},
	{Name: "token_file", File: config.FileName, Example: "/run/secrets/sluice-token",
		Doc: "file that holds the token which /metrics, /status and /debug/pprof/ want (Authorization: Bearer " +
			"...); read at every request"},
	{Name: "insecure", Example: "true",
		Doc: "allow listen on other than loopback addresses without TLS and a token: whoever reaches the port " +
			"reads /metrics and /status"},
	{Name: "pprof", Example: "true",
		Doc: "serve Go's profiles under /debug/pprof/ too; for whoever may see what the process does"},
}

// Log says what is logged, to standard error. Payloads and secrets never are.
type Log struct {
	Level  string `key:"level"`
	Format string `key:"format"`
}

var logKeys = []config.Key{
	{Name: "level", Example: "debug",
		OneOf: []string{"debug", "info", "warn", "error"}, Doc: "least severe message to log"},
	{Name: "format", Example: "json", OneOf: []string{"text", "json"}, Doc: "form of log lines"},
}

// checkServer: what can be reached from other machines wants TLS and a proof of who asks.
func checkServer(c *config.Check, all *Settings) {
	s := &all.Server
	if s.Listen == "off" {
		idleKeys(c, []string{"server.tls.cert_file", "server.tls.key_file", "server.tls.client_ca_file",
			"server.token_file", "server.insecure", "server.pprof"}, "with server.listen: off; remove it, or give an "+
			"address", "server.listen")
		return
	}
	checkAddress(c, "server.listen", s.Listen, "127.0.0.1:9464, or off")
	t := &s.TLS
	if t.CertFile != "" && t.KeyFile == "" {
		c.Between([]string{"server.tls.cert_file", "server.tls.key_file"}, "a certificate needs its key; give "+
			"server.tls.key_file too, or remove cert_file")
	}
	if t.KeyFile != "" && t.CertFile == "" {
		c.Between([]string{"server.tls.key_file", "server.tls.cert_file"}, "a key needs its certificate; give "+
			"server.tls.cert_file too, or remove key_file")
	}
	if t.ClientCAFile != "" && t.CertFile == "" {
		c.Between([]string{"server.tls.client_ca_file", "server.tls.cert_file"}, "client certificates are asked for "+
			"over TLS only; give server.tls.cert_file and key_file, or remove it")
	}
	host, _, err := net.SplitHostPort(s.Listen)
	if err != nil || IsLoopback(host) {
		return
	}
	proof := s.TokenFile != "" || t.ClientCAFile != ""
	if !s.Insecure && (t.CertFile == "" || !proof) {
		c.Between([]string{"server.listen", "server.tls.cert_file", "server.token_file"}, "%s can be reached from "+
			"other machines; give server.tls (cert_file, key_file) and server.token_file or "+
			"server.tls.client_ca_file, or listen on 127.0.0.1, or say server.insecure: true if whoever reaches the "+
			"port may read /metrics and /status", s.Listen)
	}
	if s.Pprof && !proof {
		c.Between([]string{"server.pprof", "server.listen"}, "profiles show what the process does, and %s can be "+
			"reached from other machines; give server.token_file or server.tls.client_ca_file, or listen on 127.0.0.1",
			s.Listen)
	}
}
