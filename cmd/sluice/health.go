package main

import (
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"sluice/cmd/sluice/config"
	"sluice/cmd/sluice/settings"
)

func healthCommand() *cobra.Command {
	var address string
	cmd := &cobra.Command{
		Use:   "health",
		Short: "Ask a running worker whether it is ready",
		Long: `Asks /readyz of a worker on this machine. Exit code 0 when it is ready; otherwise 1 and a sentence that says why not. Made
for health checks of containers that have no other HTTP client.`,
		Example: "  sluice health\n  sluice health --address 127.0.0.1:9000",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return askReady(cmd.OutOrStdout(), address)
		},
	}
	cmd.Flags().StringVar(&address, "address", settings.Default().Server.Listen, "`ADDRESS` that the worker "+
		"listens on")
	describe(cmd.Flags(), "address", config.EnvName("server.listen"), "127.0.0.1:9000")
	return cmd
}

func askReady(out io.Writer, address string) error {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return usageErrorf("health: %q is not host:port", address)
	}
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
		return fmt.Errorf("no worker answers: %w", err)
	}
	defer r.Body.Close()
	text, err := io.ReadAll(io.LimitReader(r.Body, 4096))
	if err != nil {
		return fmt.Errorf("health: %w", err)
	}
	if r.StatusCode != http.StatusOK {
		return fmt.Errorf("not ready: %s", strings.TrimSpace(string(text)))
	}
	fmt.Fprintln(out, strings.TrimSpace(string(text)))
	return nil
}
