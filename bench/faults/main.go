// Command faults injects faults into workers, brokers and the network between them, and checks the promises with an
// independent reader. `make faults` runs it; it writes docs/reliability.md. What is random comes from the seed: the
// schedule of a row can be run again, though processes never interleave twice in the same way.
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

	"sluice/bench/faults/report"
)

// This file owns the command line and the page.

type options struct {
	sluice string // binary with failpoints
	model  string
	page   string
	date   string
	long   bool
	again  bool
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
	flag.BoolVar(&o.again, "again", false, "run a scenario that fails a second time, unless something was lost, "+
		"doubled, out of order or went back: for machines with other work")
	seed := flag.Uint64("seed", 0, "seed of the schedules; 0: a random one")
	only := flag.String("only", "", "names of scenarios, comma-separated; empty: all of the form")
	lanes := flag.Int("lanes", 3, "scenarios that run at the same time, each lane on brokers of its own; 1: one "+
		"after the other")
	list := flag.Bool("list", false, "list the scenarios and end")
	lock := flag.String("lock", "", "file to lock while scenarios run, where heavy programs share a machine; let go "+
		"between scenarios, after 4 minutes at the latest that a lane may begin one")
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
	if *lanes < 1 {
		return fmt.Errorf("-lanes %d: at least 1", *lanes)
	}
	if *seed == 0 {
		*seed = rand.Uint64N(1 << 32)
	}
	say("seed %d, %s form", *seed, o.length())
	var chosen []*scenario
	for i := range all {
		if s := &all[i]; slices.Contains(wanted, s.name) && (!s.long || o.long || *only != "") {
			chosen = append(chosen, s)
		}
	}
	p := &plan{o: o, seed: *seed, names: names, old: old, lock: &sharedLock{path: *lock}}
	began := time.Now()
	p.all(ctx, chosen, *lanes)
	idle := p.lock.idle()
	say("%d scenarios in %v, seed %d", len(p.rows), (time.Since(began) - idle).Round(time.Second), *seed)
	if *lock != "" {
		say("%v more of waiting for %s", idle.Round(time.Second), *lock)
	}
	return errors.Join(ctx.Err(), p.verdict(chosen))
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

func writePage(file string, rows []report.Row) error {
	if file == "" {
		return nil
	}
	return os.WriteFile(file, []byte(report.Render(rows)), 0o644)
}
