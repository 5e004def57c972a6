// Command options measures what the engine's options bring on this machine, on a real broker, exactly-once: the cache where
// texts repeat, and a student before the full model. Variants alternate, round by round; ratios are of the same round.
//
//	make bench-options LABELLED=dev.tsv
//
// The student's threshold is chosen on one half of the labelled texts and its accuracy reported on the other.
package main

import (
	"bytes"
	"context"
	"encoding/csv"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"sluice/bench/load"
)

type options struct {
	binary, model, student, labelled, more, material, out string
	rounds, partitions                                    int
	seconds, keep                                         float64
}

func main() {
	var o options
	flag.StringVar(&o.binary, "sluice", "dist/sluice", "the worker")
	flag.StringVar(&o.model, "model", "models/sentiment", "directory of the full model")
	flag.StringVar(&o.student, "student", "models/sentiment-tiny", "directory of the student")
	flag.StringVar(&o.labelled, "labelled", "", "tab-separated file with columns label and text; without it the student is left out")
	flag.StringVar(&o.more, "more", "", "a file of the same form with more texts, for the speed with a student only")
	flag.StringVar(&o.material, "texts", "cmd/sluice/demo/stream.jsonl", "JSON lines with a text field: the words of the texts with and without duplicates")
	flag.IntVar(&o.rounds, "rounds", 5, "rounds")
	flag.IntVar(&o.partitions, "partitions", 6, "partitions of the topics")
	flag.Float64Var(&o.seconds, "seconds", 15, "about how long one measurement takes")
	flag.Float64Var(&o.keep, "keep", 0.003, "accuracy that the student may cost")
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
	if o.labelled != "" {
		if err := b.withStudent(ctx, &page); err != nil {
			return err
		}
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

// text is one labelled text with the verdicts of both models.
type text struct {
	Text, Label   string
	full, student string
	studentIsSure float64
}

// withStudent chooses a threshold on the even texts, and measures accuracy on the odd ones and speed on all.
func (b *bench) withStudent(ctx context.Context, page *bytes.Buffer) error {
	texts, err := readLabelled(b.o.labelled)
	if err != nil {
		return err
	}
	if err := b.judge(texts); err != nil {
		return err
	}
	accuracy := func(half int, threshold float64) (right, final float64) {
		n := 0.0
		for i := half; i < len(texts); i += 2 {
			t, label := texts[i], texts[i].full
			if t.studentIsSure >= threshold {
				label = t.student
				final++
			}
			if label == t.Label {
				right++
			}
			n++
		}
		return right / n, final / n
	}
	const never = 2.0
	full, _ := accuracy(0, never)
	fullTest, _ := accuracy(1, never)
	chosen := never
	fmt.Fprintf(page, "## A student before the full model\n\nStudent `%s`, %d labelled texts of `%s`. The lowest threshold is taken from which on the accuracy on one half of them stays within %.1f points of the full model's; accuracy is reported on the other half.\n\n"+
		"| threshold | decided by the student | accuracy, half that chooses (full model %.2f %%) | accuracy, other half (full model %.2f %%) |\n|---|---|---|---|\n",
		filepath.Base(b.o.student), len(texts), filepath.Base(b.o.labelled), 100*b.o.keep, 100*full, 100*fullTest)
	for step := 99; step >= 50; step-- { // downwards: where it loses too much once, lower thresholds are not taken
		threshold := float64(step) / 100
		if step%5 != 0 && step < 90 {
			continue
		}
		here, _ := accuracy(0, threshold)
		there, final := accuracy(1, threshold)
		fmt.Fprintf(page, "| %.2f | %.1f %% | %.2f %% | %.2f %% |\n", threshold, 100*final, 100*here, 100*there)
	}
	for step := 999; step >= 500; step-- {
		threshold := float64(step) / 1000
		if here, _ := accuracy(0, threshold); here < full-b.o.keep {
			break
		}
		chosen = threshold
	}
	if chosen == never {
		fmt.Fprintf(page, "\nNo threshold keeps the accuracy: the student is no help here.\n\n")
		return nil
	}
	there, final := accuracy(1, chosen)
	fmt.Fprintf(page, "\nChosen: %.3f. On the other half the student decides %.1f %%, accuracy %.2f %% (full model %.2f %%, difference %+.2f points; %d texts, so one text is %.2f points).\n\n",
		chosen, 100*final, 100*there, 100*fullTest, 100*(there-fullTest), len(texts)/2, 200/float64(len(texts)))

	speed := texts
	if b.o.more != "" {
		more, err := readLabelled(b.o.more)
		if err != nil {
			return err
		}
		speed = append(slices.Clone(texts), more...)
	}
	value := func(i int, mark []byte) []byte {
		v, err := json.Marshal(map[string]string{load.Field: string(mark), "text": speed[i].Text})
		if err != nil { // strings always marshal
			panic(err)
		}
		return v
	}
	student, err := filepath.Abs(b.o.student)
	if err != nil {
		return err
	}
	fmt.Fprintf(page, "Speed on %d texts, each once:\n\n", len(speed))
	return b.alternation.Run(ctx, page, []load.Variant{
		{Name: "full model only", Value: value, Records: len(speed)},
		{Name: fmt.Sprintf("student first, threshold %.3f", chosen), Value: value, Records: len(speed),
			Env: []string{"SLUICE_MODELS__0__STUDENT=" + student, "SLUICE_MODELS__0__STUDENT_THRESHOLD=" + strconv.FormatFloat(chosen, 'f', -1, 64)}},
	})
}

// judge asks both models about every text.
func (b *bench) judge(texts []text) error {
	var in, out, problems bytes.Buffer
	for _, t := range texts {
		if err := json.NewEncoder(&in).Encode(map[string]string{"text": t.Text}); err != nil {
			return err
		}
	}
	c := exec.Command(b.o.binary, "classify", "-m", "full="+b.o.model, "-m", "student="+b.o.student)
	c.Stdin, c.Stdout, c.Stderr = &in, &out, &problems
	if err := c.Run(); err != nil {
		return fmt.Errorf("%s classify: %w\n%s", b.o.binary, err, problems.String())
	}
	answers := json.NewDecoder(&out)
	for i := range texts {
		var a struct {
			Inference struct {
				Full, Student struct {
					Label string
					Score float64
				}
			}
		}
		if err := answers.Decode(&a); err != nil {
			return fmt.Errorf("the answer to text %d: %w", i+1, err)
		}
		texts[i].full, texts[i].student, texts[i].studentIsSure = a.Inference.Full.Label, a.Inference.Student.Label, a.Inference.Student.Score
	}
	return nil
}

func readLabelled(file string) ([]text, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	r := csv.NewReader(f)
	r.Comma, r.LazyQuotes, r.FieldsPerRecord = '\t', true, -1
	rows, err := r.ReadAll()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	if len(rows) < 2 {
		return nil, fmt.Errorf("%s: a line of headings and at least one text are needed", file)
	}
	label, body := slices.Index(rows[0], "label"), slices.Index(rows[0], "text")
	if label < 0 || body < 0 {
		return nil, fmt.Errorf("%s: the first line must name the columns label and text, separated by a tab; it is %q", file, strings.Join(rows[0], "\t"))
	}
	var texts []text
	for i, row := range rows[1:] {
		if len(row) <= max(label, body) {
			return nil, fmt.Errorf("%s:%d: %d columns where %d are named", file, i+2, len(row), len(rows[0]))
		}
		texts = append(texts, text{Text: row[body], Label: row[label]})
	}
	return texts, nil
}
