// Command tune shows that a tuned student keeps the full model's accuracy on texts that did not choose its threshold,
// and what it brings: `sluice tune` on labelled texts, then the worker on a real broker, exactly-once, with and without
// the student at that threshold.
//
//	make bench-tune LABELLED=labelled.jsonl
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"sluice/bench/trial"
	"sluice/cmd/sluice/load"
	"sluice/model/labelled"
	"sluice/model/tune"
)

type options struct {
	*trial.Command
	student, labelled, target, source, plot string
}

func main() {
	o := options{Command: trial.NewCommand("bench/tune", "bench/results/tune.md")}
	o.Rounds, o.Texts = 9, "" // its texts are the labelled ones
	flag.StringVar(&o.student, "student", "models/sentiment-tiny", "directory of the student")
	flag.StringVar(&o.labelled, "labelled", "", "labelled texts, as sluice tune reads them")
	flag.StringVar(&o.target, "target-accuracy", "model-0.3", "goal, as sluice tune reads it")
	flag.StringVar(&o.source, "source", "", "a sentence about where the texts come from")
	flag.StringVar(&o.plot, "plot", "bench/results/tune.svg", "where the plot goes")
	o.Main(func(ctx context.Context) error { return run(ctx, o) })
}

func run(ctx context.Context, o options) error {
	if o.labelled == "" {
		return fmt.Errorf("no labelled texts; give -labelled FILE (make bench-tune LABELLED=FILE)")
	}
	student, err := filepath.Abs(o.student)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "sluice-tune-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	rep, tables, err := choose(ctx, o, student, dir)
	if err != nil {
		return err
	}
	var page bytes.Buffer
	fmt.Fprintf(&page, "# What tuning chooses, and whether it holds\n\n`sluice tune --target-accuracy %s` on the "+
		"pair `%s` before `%s`. %s\nMade by `make bench-tune`. The plot is [%s](%s).\n\n%s\n",
		o.target, filepath.Base(o.student), filepath.Base(o.Model), o.source, filepath.Base(o.plot),
		filepath.Base(o.plot), tables)
	if rep.Choice.Student != tune.Never {
		if err := measure(ctx, o, student, rep.Choice.Student, &page); err != nil {
			return err
		}
	}
	return o.Publish(page.Bytes())
}

// choose runs sluice tune and returns its figures and its tables.
func choose(ctx context.Context, o options, student, dir string) (*tune.Report, string, error) {
	model, err := filepath.Abs(o.Model)
	if err != nil {
		return nil, "", err
	}
	config, figures := filepath.Join(dir, "pair.yaml"), filepath.Join(dir, "tune.json")
	text := fmt.Sprintf("kafka: {brokers: [\"localhost:9092\"], group: tune}\ninput: {topics: [in]}\noutput: {topic: "+
		"out}\ndead_letter: {topic: dlq}\nmodels: [{name: sentiment, path: %q, student: %q}]\n", model, student)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return nil, "", err
	}
	cmd := exec.CommandContext(ctx, o.Binary, "tune", "-c", config, "--labelled", o.labelled, "--target-accuracy",
		o.target, "--plot", o.plot, "--json", figures, "--dry-run")
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	b, readErr := os.ReadFile(figures)
	if readErr != nil { // else the goal may only not be reached, which the tables say
		return nil, "", fmt.Errorf("%s tune: %w", o.Binary, err)
	}
	var rep tune.Report
	if err := json.Unmarshal(b, &rep); err != nil {
		return nil, "", fmt.Errorf("%s tune: its figures: %w", o.Binary, err)
	}
	tables, _, _ := strings.Cut(string(out), "\n--- ") // the diff is of a file that nobody will see
	tables, _, _ = strings.Cut(tables, "For the escalation write:")
	return &rep, tables, nil
}

// measure lets the worker work off the texts, with and without the student.
func measure(ctx context.Context, o options, student string, threshold float64, page *bytes.Buffer) error {
	f, err := os.Open(o.labelled)
	if err != nil {
		return err
	}
	texts, err := labelled.Read(f, labelled.Wanted{Name: o.labelled})
	f.Close()
	if err != nil {
		return err
	}
	broker, err := trial.StartBroker()
	if err != nil {
		return err
	}
	defer broker.Stop()
	value := func(i int, mark []byte) []byte {
		v, err := json.Marshal(map[string]string{load.Field: string(mark), "text": texts[i].Text})
		if err != nil { // strings always marshal
			panic(err)
		}
		return v
	}
	fmt.Fprintf(page, "## On a real broker\n\nThe worker with the full model alone and with the student at the "+
		"chosen threshold, exactly-once, broker and worker on the same machine (%v): %d records that wait in %d "+
		"partitions, each text once, cache off. The worker stands ready while they are written, and all of its work "+
		"counts. The variants alternate within each of %d rounds; medians with the range, ratios of equal rounds. "+
		"Where other work uses the machine meanwhile, CPU time is the figure to trust: its ratio is what the student "+
		"saves.\n\n",
		load.DescribeMachine(), len(texts), o.Partitions, o.Rounds)
	a := o.Alternation(broker)
	return a.Run(ctx, page, []trial.Variant{
		{Name: "full model alone", Value: value, Records: len(texts)},
		{Name: "student first, from " + tune.Threshold(threshold) + " on final", Value: value, Records: len(texts),
			Env: []string{"SLUICE_MODELS__0__STUDENT=" + student, "SLUICE_MODELS__0__STUDENT_THRESHOLD=" +
				tune.Threshold(threshold)}},
	})
}
