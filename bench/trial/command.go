// Package trial is what the commands under bench/ have in common: their flags, a real broker on this machine, and the
// turns in which they compare ways to run the worker.
package trial

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"

	"sluice/cmd/sluice/load"
)

// This file owns what the commands under bench/ have in common: their flags, how they begin, their turns, how they end.

// Command is a program that measures a worker and writes a page about it. A field's value before Main is its flag's
// standard; where that is zero there is no such flag.
type Command struct {
	Name   string // as errors name it
	Binary string // -sluice
	Model  string // -model
	Texts  string // -texts: JSON lines with a text field, the words of generated texts
	Out    string // -out

	Rounds, Partitions int // -rounds, -partitions
}

// NewCommand is a command with the standards that they share.
func NewCommand(name, out string) *Command {
	return &Command{Name: name, Binary: "dist/sluice", Model: "models/sentiment", Texts: "cmd/sluice/demo/stream.jsonl",
		Out: out, Partitions: 6}
}

// Main reads the command line, with the flags that were declared before, runs, and ends the process where there is an
// error.
func (c *Command) Main(run func(context.Context) error) {
	c.flags(flag.CommandLine)
	flag.Parse()
	if err := run(context.Background()); err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", c.Name, err)
		os.Exit(1)
	}
}

func (c *Command) flags(f *flag.FlagSet) {
	for _, s := range []struct {
		value       *string
		name, usage string
	}{
		{&c.Binary, "sluice", "the worker"},
		{&c.Model, "model", "directory of the (full) model"},
		{&c.Texts, "texts", "JSON lines with a text field: the words of the texts"},
		{&c.Out, "out", "where the report goes"},
	} {
		if *s.value != "" {
			f.StringVar(s.value, s.name, *s.value, s.usage)
		}
	}
	for _, n := range []struct {
		value       *int
		name, usage string
	}{
		{&c.Rounds, "rounds", "rounds; what is compared takes turns within each"},
		{&c.Partitions, "partitions", "partitions of the topics"},
	} {
		if *n.value != 0 {
			f.IntVar(n.value, n.name, *n.value, n.usage)
		}
	}
}

// Generated are texts of a profile, made of the words of the command's texts.
func (c *Command) Generated(profile string) (*load.Texts, error) {
	words, err := load.ReadTexts(c.Texts, "text")
	if err != nil {
		return nil, err
	}
	p, err := load.ProfileNamed(profile)
	if err != nil {
		return nil, err
	}
	return load.NewTexts(p, words, 1)
}

// Alternation compares variants of the command's worker on a broker.
func (c *Command) Alternation(b *Broker) Alternation {
	return Alternation{Broker: b, Binary: c.Binary, Model: c.Model, Partitions: c.Partitions, Rounds: c.Rounds,
		Status: os.Stderr}
}

// Publish prints the page and writes it to its place.
func (c *Command) Publish(page []byte) error {
	os.Stdout.Write(page)
	return os.WriteFile(c.Out, page, 0o644)
}

// Turns measures every one of what is named once a round, beginning with another one each time, so that all of them see
// the same machine.
func Turns(status io.Writer, rounds int, names []string, measure func(k int) error) error {
	for round := range rounds {
		for i := range names {
			k := (i + round) % len(names)
			fmt.Fprintf(status, "round %d of %d: %s\n", round+1, rounds, names[k])
			if err := measure(k); err != nil {
				return fmt.Errorf("%s: %w", names[k], err)
			}
		}
	}
	return nil
}
