// Command options measures what the engine's cache brings on this machine, on a real broker, exactly-once, where texts repeat.
// Variants alternate, round by round; ratios are of the same round. (What a student brings is bench/tune's.)
//
//	make bench-options
package main

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"sluice/bench/load"
)

type options struct {
	binary, model, material, out string
	rounds, partitions           int
	seconds                      float64
}

func main() {
	var o options
	flag.StringVar(&o.binary, "sluice", "dist/sluice", "the worker")
	flag.StringVar(&o.model, "model", "models/sentiment", "directory of the full model")
	flag.StringVar(&o.material, "texts", "cmd/sluice/demo/stream.jsonl", "JSON lines with a text field: the words of the texts with and without duplicates")
	flag.IntVar(&o.rounds, "rounds", 5, "rounds")
	flag.IntVar(&o.partitions, "partitions", 6, "partitions of the topics")
	flag.Float64Var(&o.seconds, "seconds", 15, "about how long one measurement takes")
	flag.StringVar(&o.out, "out", "bench/results/options.md", "where the tables go")
	flag.Parse()
	if err := run(context.Background(), o); err != nil {
		fmt.Fprintln(os.Stderr, "bench/options:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o options) error {
	broker, err := load.StartBroker()
	if err != nil {
		return err
	}
	defer broker.Stop()
	m := load.DescribeMachine()
	var page bytes.Buffer
	fmt.Fprintf(&page, "# What the engine's options bring\n\nA real broker, exactly-once, records waiting in %d partitions beforehand; full model `%s`. Variants alternate within each of %d rounds; medians with the range, ratios of equal rounds.\nMade by `make bench-options`. Machine: %s, %d cores; %s; %s.\n\n",
		o.partitions, filepath.Base(o.model), o.rounds, m.CPU, m.Cores, version(o.binary), time.Now().UTC().Format(time.DateOnly))
	b := &bench{o: o, alternation: load.Alternation{Broker: broker, Binary: o.binary, Model: o.model, Partitions: o.partitions, Rounds: o.rounds, Status: os.Stderr}}
	if err := b.duplicates(ctx, &page); err != nil {
		return err
	}
	fmt.Print(page.String())
	return os.WriteFile(o.out, page.Bytes(), 0o644)
}

func version(binary string) string {
	out, err := exec.Command(binary, "version").Output()
	if err != nil {
		return "unknown version"
	}
	line, _, _ := strings.Cut(string(out), "\n")
	return line
}

type bench struct {
	o           options
	alternation load.Alternation
}

// duplicates compares texts without repeats with 30 % repeats, by Zipf's law among 1,000 texts, with and without the cache.
func (b *bench) duplicates(ctx context.Context, page *bytes.Buffer) error {
	material, err := load.ReadTexts(b.o.material, "text")
	if err != nil {
		return err
	}
	var distinct, repeats *load.Texts
	for name, into := range map[string]**load.Texts{"mixed": &distinct, "zipf": &repeats} {
		profile, err := load.ProfileNamed(name)
		if err == nil {
			*into, err = load.NewTexts(profile, material, 1)
		}
		if err != nil {
			return err
		}
	}
	trial, err := b.alternation.Drain(ctx, load.Variant{Texts: distinct, Records: 3000})
	if err != nil {
		return err
	}
	n := max(2000, int(trial.Rate*b.o.seconds/0.9))
	cache := []string{"SLUICE_CACHE__MAX_BYTES=64MiB"}
	fmt.Fprintf(page, "## Texts that repeat\n\n%d records of mixed lengths; in the lower rows 30 %% of them repeat one of 1,000 texts by Zipf's law (and the first of each is new). Without the cache, equal texts that are in flight together are still run once.\n\n", n)
	return b.alternation.Run(ctx, page, []load.Variant{
		{Name: "no repeats, cache off", Texts: distinct, Records: n},
		{Name: "30 % repeats, cache off", Texts: repeats, Records: n},
		{Name: "30 % repeats, cache on (64 MiB)", Texts: repeats, Env: cache, Records: n},
	})
}
