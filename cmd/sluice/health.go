package main

import (
	"fmt"
	"io"
	"net"

	"github.com/spf13/cobra"

	"sluice/cmd/sluice/config"
	"sluice/cmd/sluice/settings"
	"sluice/cmd/sluice/worker"
)

func healthCommand() *cobra.Command {
	var address string
	cmd := &cobra.Command{
		Use:   "health",
		Short: "Ask a running worker whether it is ready",
		Long: `Asks /readyz of a worker on this machine. Exit code 0 when it is ready; otherwise 1 and a sentence that
says why not. Made for health checks of containers that have no other HTTP client.`,
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
	answer, err := worker.AskReady(host, port)
	if err != nil {
		return err
	}
	fmt.Fprintln(out, answer)
	return nil
}
