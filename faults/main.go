// Command faults injects faults into workers, brokers and the network between them, and checks the promises with an
// independent reader. `make faults` runs it; it writes docs/reliability.md. What is random comes from the seed: the schedule
// of a row can be run again, though processes never interleave twice in the same way.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"sluice/faults/report"
)

// This file owns the command line, the order of scenarios and the page.

type options struct {
	sluice string // binary with failpoints
	model  string
	page   string
	date   string
	long   bool
}

func (o *options) length() string {
	if o.long {
		return "long"
	}
	return "short"
}

func say(format string, args ...any) { fmt.Fprintf(os.Stderr, "faults: "+format+"\n", args...) }

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := faults(ctx); err != nil {
		say("%v", err)
		stop()
		os.Exit(1)
	}
}

func faults(ctx context.Context) error {
	o := &options{date: time.Now().UTC().Format(time.DateOnly)}
	flag.StringVar(&o.sluice, "sluice", "build/faults/sluice", "worker binary, built with -tags failpoint")
	flag.StringVar(&o.model, "model", "models/sentiment-tiny", "model directory")
	flag.StringVar(&o.page, "page", "docs/reliability.md", "page to write; empty: none")
	flag.BoolVar(&o.long, "long", false, "the long form")
	seed := flag.Uint64("seed", 0, "seed of the schedules; 0: a random one")
	only := flag.String("only", "", "names of scenarios, comma-separated; empty: all of the form")
	list := flag.Bool("list", false, "list the scenarios and end")
	lock := flag.String("lock", "", "file to lock while a scenario runs, where heavy programs share a machine")
	flag.Parse()
	all := scenarios()
	var names []string
	for i := range all {
		names = append(names, all[i].name)
	}
	if *list {
		for _, s := range all {
			fmt.Printf("%-28s %s\n", s.name, s.fault)
		}
		return nil
	}
	wanted := names
	if *only != "" {
		wanted = strings.Split(*only, ",")
		for _, n := range wanted {
			if !slices.Contains(names, n) {
				return fmt.Errorf("-only %s: there is no such scenario; -list names them", n)
			}
		}
	}
	if _, err := os.Stat(o.sluice); err != nil {
		return fmt.Errorf("no worker binary: %w; make faults builds it", err)
	}
	old, err := readPage(o.page)
	if err != nil {
		return err
	}
	if *seed == 0 {
		*seed = rand.Uint64N(1 << 32)
	}
	say("seed %d, %s form", *seed, o.length())
	var rows []report.Row
	failed := 0
	began := time.Now()
	var c *cluster
	defer func() { // whatever ends the run, no broker stays
		if c != nil {
			if err := c.stop(); err != nil {
				say("stopping the cluster: %v", err)
			}
		}
	}()
	for _, size := range []int{3, 1} {
		for i := range all {
			s := &all[i]
			if s.brokers != size || !slices.Contains(wanted, s.name) || s.long && !o.long && *only == "" {
				continue
			}
			unlock, err := takeLock(ctx, *lock)
			if err != nil {
				return err
			}
			if c == nil {
				if c, err = startCluster(ctx, size, size == 3); err != nil {
					return errors.Join(err, unlock())
				}
			}
			started := time.Now()
			row := report.Row{}
			if err := c.heal(ctx); err != nil {
				row = report.Row{Name: s.name, Length: o.length(), Fault: s.fault, Injected: s.injected, Result: report.Fail, Counts: fmt.Sprintf("the cluster was not whole before the scenario: %v", err), Seed: fmt.Sprint(*seed), Date: o.date}
			} else {
				row = execute(ctx, c, s, o, seedOf(*seed, s.name))
				row.Seed = fmt.Sprint(*seed)
			}
			if err := unlock(); err != nil {
				return err
			}
			if ctx.Err() != nil {
				return ctx.Err()
			}
			fmt.Printf("%-28s %-12s %4.0f s  %s\n", s.name, row.Result, time.Since(started).Seconds(), row.Counts)
			rows = append(rows, row)
			if row.Result == report.Fail {
				failed++
			}
			if o.page != "" { // after every scenario: an hour of rows is not lost with the last one
				if err := os.WriteFile(o.page, []byte(report.Render(report.Merge(names, old, rows))), 0o644); err != nil {
					return err
				}
			}
		}
		if c != nil {
			if err := c.stop(); err != nil {
				say("stopping the cluster: %v", err)
			}
			c = nil
		}
	}
	say("%d scenarios in %v, seed %d", len(rows), time.Since(began).Round(time.Second), *seed)
	if failed > 0 {
		return fmt.Errorf("%d of %d scenarios failed", failed, len(rows))
	}
	return nil
}

// seedOf gives every scenario a seed of its own, so that it has the same schedule whatever else runs.
func seedOf(seed uint64, name string) uint64 {
	h := fnv.New64a()
	h.Write([]byte(name))
	return seed ^ h.Sum64()
}

func readPage(file string) ([]report.Row, error) {
	if file == "" {
		return nil, nil
	}
	b, err := os.ReadFile(file)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	rows, err := report.Parse(string(b))
	if err != nil {
		return nil, fmt.Errorf("%s: %w; name another file with -page, or remove it", file, err)
	}
	return rows, nil
}

// takeLock waits for an exclusive lock (flock(2)) and returns what lets it go.
func takeLock(ctx context.Context, file string) (func() error, error) {
	if file == "" {
		return func() error { return nil }, nil
	}
	f, err := os.OpenFile(file, os.O_CREATE|os.O_RDWR, 0o666)
	if err != nil {
		return nil, err
	}
	for told := false; ; told = true {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return f.Close, nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, errors.Join(fmt.Errorf("-lock %s: %w", file, err), f.Close())
		}
		if !told {
			say("waiting for %s", file)
		}
		if !sleep(ctx, 200*time.Millisecond) {
			return nil, errors.Join(ctx.Err(), f.Close())
		}
	}
}
