package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"sluice/cmd/sluice/settings"
	"sluice/cmd/sluice/suggest"
	"sluice/cmd/sluice/worker"
)

func modelsCommand(p *worker.Process) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "models",
		Short: "Look at model directories",
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usageErrorf("sluice models: there is no command %q%s", args[0], suggest.DidYouMean(args[0],
					[]string{"verify"}))
			}
			return cmd.Help()
		},
	}
	cmd.AddCommand(modelsVerifyCommand(p))
	return cmd
}

func modelsVerifyCommand(p *worker.Process) *cobra.Command {
	return &cobra.Command{
		Use:   "verify DIR...",
		Short: "Verify the files of model directories and run their self-test",
		Long: `Hashes every file of the model directories against their manifests, loads them, and compares the logits
of their golden texts with those of the machine that exported them. Exit code 1 when one does not match.`,
		Example: "  sluice models verify models/*",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usageErrorf("sluice models verify: no model directory given")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, dirs []string) error {
			return verifyModels(cmd.Context(), p, cmd.OutOrStdout(), cmd.ErrOrStderr(), dirs)
		},
	}
}

func verifyModels(ctx context.Context, p *worker.Process, out, errw io.Writer, dirs []string) error {
	if _, err := worker.Runtime(); err != nil {
		return err
	}
	st := stepsTo(errw)
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "DIRECTORY\tMODEL\tTASK\tLAYOUT\tPRECISION\tLABELS\tSECONDS\tRESULT")
	var failures, notes []string
	isFile := func(path string) bool { st, err := os.Stat(path); return err == nil && !st.IsDir() }
	onlyFiles := !slices.ContainsFunc(dirs, func(d string) bool { return !isFile(d) })
	for _, dir := range dirs {
		if isFile(dir) && !onlyFiles {
			continue // models/* also matches the notes beside the models
		}
		s := settings.DefaultModel()
		s.Path, s.Name = dir, filepath.Base(filepath.Clean(dir))
		began := time.Now()
		models, err := p.OpenModels(ctx, []settings.Model{s}, 1, time.Minute, st)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		took := time.Since(began).Seconds()
		if err != nil {
			failures = append(failures, worker.Unfault(err).Error())
			fmt.Fprintf(table, "%s\t-\t-\t-\t-\t-\t%.1f\tFAILED\n", dir, took)
			continue
		}
		page := models[0].Page()
		result := "ok"
		if models[0].Model.Manifest == nil {
			result = "loads; no manifest, nothing to compare with"
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%d\t%.1f\t%s\n", dir, models[0].Model.Tag(models[0].Model.Name),
			page.Task,
			page.Layout, page.Precision, len(page.Labels), took, result)
		for _, w := range page.Warnings {
			notes = append(notes, dir+": "+w)
		}
		models.Close()
	}
	if err := table.Flush(); err != nil {
		return err
	}
	for _, n := range notes {
		fmt.Fprintf(errw, "warning: %s\n", n)
	}
	for _, f := range failures {
		fmt.Fprintf(errw, "sluice: %s\n", indentLines(f))
	}
	if len(failures) > 0 {
		return &exitError{exitFailed}
	}
	return nil
}

// indentLines sets the further lines of a text under its first.
func indentLines(s string) string { return strings.ReplaceAll(s, "\n", "\n         ") }
