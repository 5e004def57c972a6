package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/term"

	"sluice/cmd/sluice/config"
	"sluice/cmd/sluice/settings"
	"sluice/model/tune"
	"sluice/pipeline/rule"
)

// This file shows what a tuning changes in the configuration file, and writes it.

// offer shows what changes in the configuration and writes it, if that is wanted.
func offer(in io.Reader, out io.Writer, c *settings.Loaded, at int, choice tune.Choice, o tuneOptions) error {
	var changes []tune.Change
	settings := c.Models[at]
	if settings.Student != "" && choice.Student != tune.Never && choice.Student != settings.StudentThreshold {
		changes = append(changes, tune.Change{Section: []any{"models", at}, Key: "student_threshold", After: "student",
			Value: tune.Threshold(choice.Student)})
	}
	if settings.Student != "" && choice.Student == tune.Never {
		fmt.Fprintf(out, "The student is no help for this goal: remove models[%d].student, or tune for another goal.\n",
			at)
	}
	if name := rule.Name(settings.VerdictField()); choice.Escalates {
		now, simple := 0.0, false
		if escalates(c, at) {
			now, simple = tune.RuleThreshold(c.Escalation.When, name)
		}
		switch {
		case !simple: // no escalation yet, or a rule that says more than a threshold
			fmt.Fprintf(out, "For the escalation write:\n\n  escalation:\n    when: '%s.score < %s'\n\n", name,
				tune.Threshold(choice.Escalate))
		case now != choice.Escalate:
			changes = append(changes, tune.Change{Section: []any{"escalation"}, Key: "when",
				Value: tune.Threshold(choice.Escalate), Rule: true, Model: name})
		}
	}
	if len(changes) == 0 {
		fmt.Fprintln(out, "Nothing to change in the configuration file.")
		return nil
	}
	for i := range changes {
		if given := c.Origin(changes[i].String()); given.Env != "" || given.Flag != "" {
			return fmt.Errorf("tune: %s is given by %s, which wins over the file; set it there to %s",
				changes[i].String(), given, changes[i].Written())
		}
	}
	if c.File == "" {
		for _, change := range changes {
			fmt.Fprintf(out, "There is no configuration file to write to; set %s to %s.\n",
				config.EnvName(change.String()),
				change.Written())
		}
		return nil
	}
	before, err := os.ReadFile(c.File)
	if err != nil {
		return fmt.Errorf("tune: %w", err)
	}
	after, err := tune.Rewrite(before, changes)
	if errors.Is(err, tune.ErrByHand) {
		fmt.Fprintf(out, "%s cannot be changed automatically (%v). Write there:\n", c.File, err)
		for _, change := range changes {
			fmt.Fprintf(out, "  %s: %s\n", change.String(), change.Written())
		}
		if o.write {
			return &exitError{exitFailed}
		}
		return nil
	}
	if err != nil {
		return fmt.Errorf("tune: %s: %w", c.File, err)
	}
	fmt.Fprintf(out, "\n%s\n", tune.Diff(c.File, before, after))
	switch {
	case o.write:
	case o.dryRun || !atTerminal(in):
		fmt.Fprintln(out, "Nothing was written; --write writes it.")
		return nil
	default:
		fmt.Fprintf(out, "Write this into %s? [y/N] ", c.File)
		answer, err := bufio.NewReader(in).ReadString('\n')
		if err != nil && !errors.Is(err, io.EOF) {
			return fmt.Errorf("tune: reading the answer: %w", err)
		}
		if a := strings.ToLower(strings.TrimSpace(answer)); a != "y" && a != "yes" {
			fmt.Fprintln(out, "Nothing was written.")
			return nil
		}
	}
	if err := replaceFile(c.File, before, after); err != nil {
		return fmt.Errorf("tune: %w", err)
	}
	fmt.Fprintf(out, "Written to %s. A worker reads it at its next start.\n", c.File)
	return nil
}

func atTerminal(r io.Reader) bool {
	f, ok := r.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// replaceFile writes a file anew through another one beside it, so that it is never half of each; links stay links.
// Nothing is written where the file is not what it was any more.
func replaceFile(name string, before, after []byte) error {
	target, err := filepath.EvalSymlinks(name)
	if err != nil {
		return err
	}
	now, err := os.ReadFile(target)
	if err != nil {
		return err
	}
	if !bytes.Equal(now, before) {
		return fmt.Errorf("%s was changed meanwhile; run the command again", name)
	}
	st, err := os.Stat(target)
	if err != nil {
		return err
	}
	temp, err := os.CreateTemp(filepath.Dir(target), ".tune-*")
	if err != nil {
		return err
	}
	_, err = temp.Write(after)
	err = errors.Join(err, temp.Chmod(st.Mode().Perm()), temp.Sync(), temp.Close())
	if err == nil {
		err = os.Rename(temp.Name(), target)
	}
	if err != nil {
		return errors.Join(err, os.Remove(temp.Name()))
	}
	return nil
}
