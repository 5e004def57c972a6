// Command sluice reads text from Kafka topics, runs exported transformer models on it inside its own process, and
// writes verdicts back to Kafka. See `sluice --help`.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"sluice/cmd/sluice/config"
	"sluice/cmd/sluice/worker"
	"sluice/pipeline"
)

// Exit codes.
const (
	exitDone   = 0
	exitFailed = 1 // failed while running
	exitUsage  = 2 // wrong usage or configuration
	exitFenced = 3 // a twin with the same instance id has taken over
)

func main() {
	p := &worker.Process{Exit: func() { os.Exit(exitFailed) }}
	os.Exit(execute(p, os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// execute runs one command line in a process and returns its exit code.
func execute(p *worker.Process, args []string, in io.Reader, out, errw io.Writer) int {
	ctx, stop := untilSignal(errw)
	defer stop()
	root, started := newRoot(p)
	root.SetArgs(args)
	root.SetIn(in)
	root.SetOut(out)
	root.SetErr(errw)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitDone
	}
	if !*started { // cobra itself refused the command line
		err = &usageError{err}
	}
	var silent *exitError
	if !errors.As(err, &silent) {
		fmt.Fprintf(errw, "sluice: %v\n", err)
	}
	var usage *usageError
	if errors.As(err, &usage) {
		fmt.Fprintf(errw, "See \"sluice --help\".\n")
	}
	return exitCode(err)
}

// untilSignal ends its context at the first SIGINT or SIGTERM, and the process at the second.
func untilSignal(errw io.Writer) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(context.Background())
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	done := make(chan struct{})
	go func() {
		select {
		case s := <-signals:
			cancel(fmt.Errorf("stopped by %v", s))
		case <-done:
			return
		}
		// A terminal, timeout(1) and some supervisors signal the process and its group: one wish, delivered twice.
		select {
		case <-time.After(500 * time.Millisecond):
		case <-done:
			return
		}
		for len(signals) > 0 {
			<-signals
		}
		select {
		case <-signals:
			fmt.Fprintln(errw, "sluice: second signal: ending at once; what is not committed will be processed again")
			os.Exit(exitFailed)
		case <-done:
		}
	}()
	return ctx, func() { signal.Stop(signals); close(done); cancel(nil) }
}

// usageError is a wrong command line.
type usageError struct{ err error }

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

func usageErrorf(format string, args ...any) error { return &usageError{fmt.Errorf(format, args...)} }

// exitError ends with a code; what there is to say has been said.
type exitError struct{ code int }

func (e *exitError) Error() string { return fmt.Sprintf("exit code %d", e.code) }

func exitCode(err error) int {
	var (
		usage  *usageError
		config *config.Mistakes
		exit   *exitError
	)
	switch {
	case err == nil:
		return exitDone
	case errors.As(err, &exit):
		return exit.code
	case errors.As(err, &usage), errors.As(err, &config):
		return exitUsage
	}
	switch pipeline.KindOf(err) {
	case pipeline.Config:
		return exitUsage
	case pipeline.Fenced:
		return exitFenced
	}
	return exitFailed
}

// newRoot makes the tree of commands, which run models in a process. started becomes true when the command line was
// understood and a command begins.
func newRoot(p *worker.Process) (root *cobra.Command, started *bool) {
	started = new(bool)
	root = &cobra.Command{
		Use:   "sluice",
		Short: "Transformer verdicts on Kafka topics, exactly once",
		Long: `Sluice reads text from Kafka topics, runs exported transformer models on it inside this process, and
writes verdicts (labels with scores, named entities) back to Kafka, exactly once. To scale, start more workers in the
same group.`,
		SilenceErrors:     true,
		SilenceUsage:      true,
		CompletionOptions: cobra.CompletionOptions{HiddenDefaultCmd: true},
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			*started = true
			return applyEnv(cmd.Flags())
		},
	}
	root.SetHelpFunc(func(cmd *cobra.Command, _ []string) { writeHelp(cmd.OutOrStdout(), cmd) })
	root.SetUsageFunc(func(cmd *cobra.Command) error { writeHelp(cmd.ErrOrStderr(), cmd); return nil })
	cobra.EnableCommandSorting = false
	root.AddCommand(runCommand(p), demoCommand(p), classifyCommand(p), validateCommand(p), aclsCommand(),
		verifyCommand(),
		modelsCommand(p), calibrateCommand(p), tuneCommand(p), benchCommand(), healthCommand(), versionCommand())
	return root, started
}
