// Command options measures what the engine's cache brings on this machine, on a real broker, exactly-once, where texts
// repeat. Variants alternate, round by round; ratios are of the same round. (What a student brings is bench/tune's.)
//
//	make bench-options
package main

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"sluice/bench/trial"
	"sluice/cmd/sluice/load"
)

func main() {
	b := &bench{Command: trial.NewCommand("bench/options", "bench/results/options.md")}
	b.Rounds = 5
	flag.Float64Var(&b.seconds, "seconds", 15, "about how long one measurement takes")
	b.Main(b.run)
}

type bench struct {
	*trial.Command
	seconds float64
}

func (b *bench) run(ctx context.Context) error {
	broker, err := trial.StartBroker()
	if err != nil {
		return err
	}
	defer broker.Stop()
	var page bytes.Buffer
	fmt.Fprintf(&page, "# What the engine's options bring\n\nA real broker, exactly-once, records waiting in %d "+
		"partitions beforehand; full model `%s`. Variants alternate within each of %d rounds; medians with the "+
		"range, ratios of equal rounds.\nMade by `make bench-options`. Machine: %v; %s; %s.\n\n",
		b.Partitions, filepath.Base(b.Model), b.Rounds, load.DescribeMachine(), version(b.Binary),
		time.Now().UTC().Format(time.DateOnly))
	if err := b.duplicates(ctx, broker, &page); err != nil {
		return err
	}
	return b.Publish(page.Bytes())
}

func version(binary string) string {
	out, err := exec.Command(binary, "version").Output()
	if err != nil {
		return "unknown version"
	}
	line, _, _ := strings.Cut(string(out), "\n")
	return line
}

// duplicates compares texts without repeats with 30 % repeats, by Zipf's law among 1,000 texts, with and without the
// cache.
func (b *bench) duplicates(ctx context.Context, broker *trial.Broker, page *bytes.Buffer) error {
	distinct, err := b.Generated("mixed")
	if err != nil {
		return err
	}
	repeats, err := b.Generated("zipf")
	if err != nil {
		return err
	}
	alternation := b.Alternation(broker)
	once, err := alternation.Drain(ctx, trial.Variant{Texts: distinct, Records: 3000})
	if err != nil {
		return err
	}
	n := max(2000, int(once.Rate*b.seconds/0.9))
	cache := []string{"SLUICE_CACHE__MAX_BYTES=64MiB"}
	fmt.Fprintf(page, "## Texts that repeat\n\n%d records of mixed lengths; in the lower rows 30 %% of them repeat "+
		"one of 1,000 texts by Zipf's law (and the first of each is new). Without the cache, equal texts that are in "+
		"flight together are still run once.\n\n", n)
	return alternation.Run(ctx, page, []trial.Variant{
		{Name: "no repeats, cache off", Texts: distinct, Records: n},
		{Name: "30 % repeats, cache off", Texts: repeats, Records: n},
		{Name: "30 % repeats, cache on (64 MiB)", Texts: repeats, Env: cache, Records: n},
	})
}
