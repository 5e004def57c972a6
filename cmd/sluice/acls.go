package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"sluice/cmd/sluice/worker"
	"sluice/pipeline/kafka"
)

func aclsCommand() *cobra.Command {
	var file, principal, stage, login string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "acls -c FILE",
		Short: "Print the Kafka permissions that a configuration needs",
		Long: `Prints the calls of kafka-acls.sh that allow a worker with this configuration what it needs, and nothing
else. No broker is asked. "sluice validate" then says which of them the brokers do not grant. As comments follow those
that let it see what the topics are set to, which it can do without; --json leaves them out.`,
		Example: "  sluice acls -c reviews.yaml --principal User:sluice --command-config admin.properties | sh\n  " +
			"sluice acls -c reviews.yaml --json",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := commandConfig(cmd, file)
			if err != nil {
				return err
			}
			if err := checkStage(stage); err != nil {
				return err
			}
			kinds, err := worker.Kinds.Pick(&c.Settings, stage)
			if err != nil {
				return err
			}
			connection := "--bootstrap-server " + strings.Join(c.Kafka.Brokers, ",")
			if login != "" {
				connection += " --command-config " + login
			}
			access := kinds.Access(&c.Settings)
			if err := printACLs(cmd.OutOrStdout(), kafka.ACLs(access...), connection, principal, asJSON); err != nil ||
				asJSON {
				return err
			}
			return printOptional(cmd.OutOrStdout(), kafka.LooksAt(access...), connection, principal)
		},
	}
	addConfigFlag(cmd, &file)
	fs := cmd.Flags()
	stages := worker.Kinds.Stages()
	last := len(stages) - 1
	fs.StringVar(&principal, "principal", "User:sluice", "`PRINCIPAL` to allow it to, as the brokers name who logs in")
	describe(fs, "principal", envACLs+"PRINCIPAL", "User:reviews")
	fs.StringVar(&stage, "stage", worker.All, "`STAGE` of the worker: "+strings.Join(stages[:last], ", ")+" or "+
		stages[last]+", as for run")
	describe(fs, "stage", envACLs+"STAGE", "classify")
	fs.StringVar(&login, "command-config", "", "`FILE` with the administrator's login, for kafka-acls.sh")
	describe(fs, "command-config", envACLs+"COMMAND_CONFIG", "admin.properties")
	fs.BoolVar(&asJSON, "json", false, "print a JSON list in place of commands")
	describe(fs, "json", envACLs+"JSON", "true")
	workerKeys().AddFlags(fs)
	return cmd
}

func printACLs(w io.Writer, acls []kafka.ACL, connection, principal string, asJSON bool) error {
	if asJSON {
		type entry struct {
			Principal  string `json:"principal"`
			Permission string `json:"permission"`
			kafka.ACL
		}
		list := make([]entry, len(acls))
		for i, a := range acls {
			list[i] = entry{principal, "Allow", a}
		}
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		return enc.Encode(list)
	}
	for _, a := range acls {
		if _, err := fmt.Fprintf(w, "# %s %s: %s\n%s\n", strings.ToLower(a.Resource), a.Name, a.Why,
			a.Command(connection, principal)); err != nil {
			return err
		}
	}
	return nil
}

// printOptional prints permissions that are not needed as comments.
func printOptional(w io.Writer, acls []kafka.ACL, connection, principal string) error {
	for i, a := range acls {
		if i == 0 {
			if _, err := fmt.Fprintf(w, "# not needed: %s\n", a.Why); err != nil {
				return err
			}
		}
		if _, err := fmt.Fprintf(w, "# %s\n", a.Command(connection, principal)); err != nil {
			return err
		}
	}
	return nil
}
