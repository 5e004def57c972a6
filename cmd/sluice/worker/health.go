package worker

import (
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"sluice/cmd/sluice/settings"
)

// This file asks a worker on this machine whether it is ready.

// AskReady asks /readyz of the worker that listens on an address, host:port, and returns its answer. The error says why
// it is not ready, or that none answers.
func AskReady(host, port string) (string, error) {
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1" // a worker that listens everywhere listens here
	}
	local := settings.IsLoopback(host)
	client := &http.Client{Timeout: 3 * time.Second, Transport: &http.Transport{
		// Nothing is sent that is worth anything, and the certificate is for the name that others know the machine by.
		TLSClientConfig: &tls.Config{InsecureSkipVerify: local}, DisableKeepAlives: true,
	}}
	at := net.JoinHostPort(host, port) + "/readyz"
	r, err := client.Get("http://" + at)
	if err == nil && r.StatusCode == http.StatusBadRequest { // as a server of TLS answers to who speaks plainly
		r.Body.Close()
		r, err = client.Get("https://" + at)
	}
	if err != nil {
		return "", fmt.Errorf("no worker answers: %w", err)
	}
	defer r.Body.Close()
	text, err := io.ReadAll(io.LimitReader(r.Body, 4096))
	if err != nil {
		return "", fmt.Errorf("health: %w", err)
	}
	if r.StatusCode != http.StatusOK {
		return "", fmt.Errorf("not ready: %s", strings.TrimSpace(string(text)))
	}
	return strings.TrimSpace(string(text)), nil
}
