package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"sluice/cmd/sluice/config"
	"sluice/cmd/sluice/settings"
	"sluice/cmd/sluice/suggest"
	"sluice/model/source"
	"sluice/pipeline/engine"
	"sluice/pipeline/rule"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	loadgen "sluice/cmd/sluice/load"
	"sluice/cmd/sluice/load/bare"
	"sluice/cmd/sluice/terminal"
	"sluice/cmd/sluice/worker"
	"sluice/model"
	"sluice/model/judging"
	"sluice/model/labelled"
	"sluice/model/rewrite"
	"sluice/model/tune"
	"sluice/pipeline/llm/label"
)

// This file is the command that chooses thresholds: its flags, and what becomes of them. Texts are read by package
// labelled and judged through package judging, curves and choice are package tune's, and package rewrite changes the
// configuration file.

// tuneOptions are the flags of tune.
type tuneOptions struct {
	process                   *worker.Process
	config, labelled, verdict string

	target        string
	mostCalls     float64 // NaN: not asked for
	llmAccuracy   float64
	studentLoss   float64 // points
	confidence    float64
	holdout       float64
	seed          uint64
	splits        int
	endpoint      tuneEndpoint
	length        time.Duration
	write, dryRun bool
	json, plot    string
}

// tuneEndpoint is what a call costs.
type tuneEndpoint struct {
	promptTokens, answerTokens int
	inputPrice, outputPrice    float64
}

// bytesOfToken is how many bytes of an English prompt make about one token, for the tokenizers of today's models.
const bytesOfToken = 4

// of fills in what was not given: prices from the configuration, and the tokens of the prompt, estimated from the one
// that a worker would send. asked: the escalation of the configuration is about this model.
func (e tuneEndpoint) of(ctx context.Context, c *settings.Loaded, m *model.Model, asked bool) (tuneEndpoint, error) {
	if m.Task != model.TextClassification {
		return e, nil
	}
	var task *label.Task
	if asked {
		plan, err := worker.PlanEscalation(ctx, &c.Settings)
		if err != nil {
			return e, err
		}
		task = plan.Task
		if e.inputPrice == 0 && e.outputPrice == 0 {
			e.inputPrice, e.outputPrice = c.Escalation.Budget.PriceInputPerMillion,
				c.Escalation.Budget.PriceOutputPerMillion
		}
	} else {
		var err error
		if task, err = label.New(label.Options{Labels: m.Labels}); err != nil {
			return e, err
		}
	}
	if e.promptTokens == 0 {
		bytes := len(task.Schema())
		for _, message := range task.Messages("") {
			bytes += len(message.Content)
		}
		e.promptTokens = (bytes + bytesOfToken - 1) / bytesOfToken
	}
	return e, nil
}

// shareValue is a flag for a number between 0 and 1 that may be left out.
type shareValue float64

func (v *shareValue) Set(s string) error {
	x, err := strconv.ParseFloat(s, 64)
	if err != nil || !(x >= 0 && x <= 1) {
		return fmt.Errorf("%q is not a share; write a number between 0 and 1", s)
	}
	*v = shareValue(x)
	return nil
}

func (v *shareValue) String() string {
	if math.IsNaN(float64(*v)) {
		return ""
	}
	return strconv.FormatFloat(float64(*v), 'f', -1, 64)
}
func (v *shareValue) Type() string { return "share" }

func tuneCommand(p *worker.Process) *cobra.Command {
	o := tuneOptions{process: p, mostCalls: math.NaN()}
	cmd := &cobra.Command{
		Use:   "tune -c FILE --labelled FILE",
		Short: "Choose the thresholds of student and escalation by labelled texts",
		Long: `Runs a model of the configuration and its student over labelled texts and prints what each threshold
costs and gains: who decides how much, accuracy, msgs/s on this machine, calls and cost of the endpoint for a million
messages. Then it chooses: one part of the texts decides, and what is reported is measured on the other. A threshold is
taken only where a one-sided bound says that it keeps the goal, so it asks for more texts rather than promise what they
do not show.

A line of the labelled file is {"text": "…", "label": "NEGATIVE"}, and may have "llm": what the endpoint answered. For
a model of entities it is {"text": "…", "entities": [{"entity_group": "PER", "start": 0, "end": 12}]}. Without a goal
the student may cost 0.3 points of accuracy and the escalation stays as it is. The change of the configuration is shown
as a diff; it is written with --write, or where somebody at the terminal says so. Exit code 1 where the goal is not
reached; then nothing is written.`,
		Example: `  sluice tune -c reviews.yaml --labelled labelled.jsonl --target-accuracy model-0.3
  sluice tune -c reviews.yaml --labelled labelled.jsonl --max-llm-rate 0.05 --llm-accuracy 0.95 --write`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			goal, err := o.goal()
			if err != nil {
				return err
			}
			c, err := commandConfig(cmd, o.config)
			if err != nil {
				return err
			}
			return runTune(cmd.Context(), cmd.InOrStdin(), cmd.OutOrStdout(), cmd.ErrOrStderr(), c, o, goal)
		},
	}
	fs := cmd.Flags()
	addConfigFlag(cmd, &o.config)
	fs.StringVar(&o.labelled, "labelled", "", "`FILE` of labelled texts: JSON lines, TSV, CSV or IOB2")
	describe(fs, "labelled", envTune+"LABELLED", "labelled.jsonl")
	fs.StringVar(&o.verdict, "verdict", "", "`NAME` of the model that the labels are for; default: the only one that "+
		"has such labels")
	describe(fs, "verdict", envTune+"VERDICT", "sentiment")
	fs.StringVar(&o.target, "target-accuracy", "", "least `ACCURACY`: a number between 0 and 1, or model-POINTS for "+
		"so many points below the full model alone")
	describe(fs, "target-accuracy", envTune+"TARGET_ACCURACY", "model-0.3")
	fs.Var((*shareValue)(&o.mostCalls), "max-llm-rate", "most `SHARE` of texts that the endpoint is asked about")
	describe(fs, "max-llm-rate", envTune+"MAX_LLM_RATE", "0.05")
	fs.Var((*shareValue)(&o.llmAccuracy), "llm-accuracy", "assumed `SHARE` of right answers of the endpoint, for "+
		"texts without \"llm\"; 0: unknown")
	describe(fs, "llm-accuracy", envTune+"LLM_ACCURACY", "0.95")
	fs.Float64Var(&o.studentLoss, "student-loss", 0.3, "`POINTS` of accuracy that the student may cost where "+
		"--target-accuracy does not say")
	describe(fs, "student-loss", envTune+"STUDENT_LOSS", "0.5")
	fs.Float64Var(&o.confidence, "confidence", 0.95, "`SHARE`: how sure the choice must be, one-sided")
	describe(fs, "confidence", envTune+"CONFIDENCE", "0.9")
	fs.Float64Var(&o.holdout, "holdout", 0.5, "`SHARE` of the texts, of each label, that does not choose and is "+
		"reported on; 0: all choose")
	describe(fs, "holdout", envTune+"HOLDOUT", "0.3")
	fs.Uint64Var(&o.seed, "seed", 1, "`N` that fixes which texts are held out")
	describe(fs, "seed", envTune+"SEED", "7")
	fs.IntVar(&o.splits, "splits", 100, "`N` other splits on which the student's threshold is chosen and measured "+
		"again, to see what is chance")
	describe(fs, "splits", envTune+"SPLITS", "1000")
	fs.IntVar(&o.endpoint.promptTokens, "prompt-tokens", 0, "`N` tokens of a prompt beside the text, whose own are "+
		"counted by the model's tokenizer; 0: estimated from the prompt")
	describe(fs, "prompt-tokens", envTune+"PROMPT_TOKENS", "350")
	fs.IntVar(&o.endpoint.answerTokens, "answer-tokens", 20, "`N` tokens of an answer")
	describe(fs, "answer-tokens", envTune+"ANSWER_TOKENS", "40")
	fs.Float64Var(&o.endpoint.inputPrice, "input-price", 0, "`PRICE` of a million prompt tokens; 0: that of "+
		"escalation.budget")
	describe(fs, "input-price", envTune+"INPUT_PRICE", "0.2")
	fs.Float64Var(&o.endpoint.outputPrice, "output-price", 0, "`PRICE` of a million answer tokens; 0: that of "+
		"escalation.budget")
	describe(fs, "output-price", envTune+"OUTPUT_PRICE", "0.6")
	secondsFlag(fs, &o.length, "seconds", 3*time.Second, "`SECONDS` to measure the speed of each model; 0: do not")
	describe(fs, "seconds", envTune+"SECONDS", "10")
	fs.BoolVar(&o.write, "write", false, "write the thresholds into the configuration file")
	fs.BoolVar(&o.dryRun, "dry-run", false, "write nothing and do not ask; without a terminal this is so anyway")
	fs.StringVar(&o.json, "json", "", "write every figure to `FILE`; -: to standard output, in place of the tables")
	describe(fs, "json", envTune+"JSON", "tune.json")
	fs.StringVar(&o.plot, "plot", "", "draw the curves into `FILE` (SVG)")
	describe(fs, "plot", envTune+"PLOT", "tune.svg")
	return cmd
}

// goal checks the flags and says what is to be reached. Every mistake is named.
func (o *tuneOptions) goal() (tune.Goal, error) {
	g := tune.Goal{Within: math.NaN(), MostCalls: o.mostCalls, StudentLoss: o.studentLoss / 100,
		Confidence: o.confidence}
	var errs []error
	wrong := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if o.labelled == "" {
		wrong("no labelled texts; give --labelled FILE")
	}
	if points, ok := strings.CutPrefix(o.target, "model-"); ok {
		x, err := strconv.ParseFloat(points, 64)
		if err != nil || !(x > 0 && x < 100) {
			wrong("--target-accuracy: %q names no points; write for example model-0.3, for 0.3 points below the full "+
				"model", o.target)
		}
		g.Within = x / 100
	} else if o.target != "" {
		x, err := strconv.ParseFloat(o.target, 64)
		if err != nil || !(x > 0 && x < 1) {
			wrong("--target-accuracy: %q is neither a number above 0 and below 1 nor model-POINTS; write for example "+
				"0.92, or model-0.3", o.target)
		}
		g.Accuracy = x
	}
	if !(o.studentLoss > 0 && o.studentLoss < 100) {
		wrong("--student-loss: %v is out of range; points of accuracy above 0 and below 100", o.studentLoss)
	}
	if !(o.confidence > 0.5 && o.confidence < 1) {
		wrong("--confidence: %v is out of range; above 0.5 and below 1", o.confidence)
	}
	if !(o.holdout >= 0 && o.holdout < 1) {
		wrong("--holdout: %v is out of range; from 0 to below 1", o.holdout)
	}
	if e := o.endpoint; e.promptTokens < 0 || e.answerTokens < 0 || !(e.inputPrice >= 0) || !(e.outputPrice >= 0) {
		wrong("--prompt-tokens, --answer-tokens, --input-price and --output-price must not be negative")
	}
	if o.length != 0 && o.length < 10*time.Millisecond {
		wrong("--seconds must be at least 0.01, or 0 to measure no speed")
	}
	if o.splits < 0 {
		wrong("--splits must not be negative")
	}
	if o.write && o.dryRun {
		wrong("--write and --dry-run contradict each other; keep one")
	}
	if errs != nil {
		return g, &usageError{fmt.Errorf("tune: %w", errors.Join(errs...))}
	}
	return g, nil
}

// runTune is the command.
func runTune(ctx context.Context, in io.Reader, out, errw io.Writer, c *settings.Loaded, o tuneOptions,
	goal tune.Goal) error {
	t, err := o.open(ctx, c)
	if err != nil {
		return err
	}
	st := stepsTo(errw)
	r, err := t.report(ctx, o, goal, st)
	if err != nil {
		return err
	}
	if o.plot != "" {
		if err := writeFile(o.plot, r.Plot); err != nil {
			return fmt.Errorf("tune: %w", err)
		}
	}
	page := out
	if o.json == "-" {
		page = errw
		if err := r.JSON(out); err != nil {
			return err
		}
	} else {
		r.Write(out)
		if o.json != "" {
			if err := writeFile(o.json, r.JSON); err != nil {
				return fmt.Errorf("tune: %w", err)
			}
		}
	}
	if !r.Choice.Reached {
		return &exitError{exitFailed}
	}
	return t.offer(in, page, r.Choice, o)
}

// tuning is one run of the command: the labelled texts, and the model of the configuration that they are for.
type tuning struct {
	process *worker.Process
	config  *settings.Loaded
	file    string
	texts   []labelled.Text
	at      int // place of the model
	model   *model.Model
}

// open reads the texts and finds their model, which is not loaded yet.
func (o *tuneOptions) open(ctx context.Context, c *settings.Loaded) (*tuning, error) {
	f, err := os.Open(o.labelled)
	if err != nil {
		return nil, usageErrorf("tune: %v", err)
	}
	texts, err := labelled.Read(f, labelled.Wanted{Name: o.labelled})
	f.Close()
	if err != nil {
		return nil, usageErrorf("tune: %s: %w", o.labelled, err)
	}
	candidates := make([]tune.Candidate, len(c.Models))
	for i, s := range c.Models {
		candidates[i] = tune.Candidate{Name: s.Name, Field: s.VerdictField(),
			Aggregation: model.Aggregation(s.Aggregation),
			Open:        func() (*model.Model, error) { return source.Open(ctx, s.Path) }}
	}
	at, m, err := tune.Which(candidates, o.verdict, texts, suggest.DidYouMean)
	if err != nil {
		return nil, usageErrorf("tune: %s: %w", o.labelled, err)
	}
	if m.Task == model.TokenClassification && (!math.IsNaN(o.mostCalls) || o.llmAccuracy > 0) {
		return nil, usageErrorf("tune: --max-llm-rate and --llm-accuracy have no meaning for %s: the endpoint is not "+
			"asked about entities; remove them", c.Models[at].VerdictField())
	}
	return &tuning{process: o.process, config: c, file: o.labelled, texts: texts, at: at, model: m}, nil
}

// escalates says whether the escalation of the configuration is about the model.
func (t *tuning) escalates() bool {
	e := &t.config.Escalation
	return e.On() && (e.Verdict == t.config.Models[t.at].VerdictField() || e.Verdict == "" && len(t.config.Models) == 1)
}

// report runs the model and its student over the texts and chooses.
func (t *tuning) report(ctx context.Context, o tuneOptions, goal tune.Goal, st worker.Steps) (*tune.Report, error) {
	call, err := o.endpoint.of(ctx, t.config, t.model, t.escalates())
	if err != nil {
		return nil, fmt.Errorf("tune: %w", err)
	}
	settings := t.config.Models[t.at]
	machine := loadgen.DescribeMachine()
	r := &tune.Report{
		Date: time.Now().UTC().Format(time.DateOnly), Machine: fmt.Sprintf("%s, %d cores", machine.CPU, machine.Cores),
		File: filepath.Base(t.file), Name: settings.VerdictField(), Seed: o.seed,
		Now: tune.Setting{Student: tune.Never},
	}
	cascade := &tune.Cascade{
		Entities: t.model.Task == model.TokenClassification, Labels: t.model.Labels, LLMAccuracy: o.llmAccuracy,
		Prices: tune.Prices{InputPerMillion: call.inputPrice, OutputPerMillion: call.outputPrice,
			PromptTokens: call.promptTokens, AnswerTokens: call.answerTokens},
	}
	if !cascade.Entities {
		r.LLM = tune.Answers(t.texts, o.llmAccuracy)
	}
	samples, err := t.run(ctx, r, cascade, o.length, st)
	if err != nil {
		return nil, err
	}
	if cascade.HasStudent {
		r.Now.Student = settings.StudentThreshold
	}
	if t.escalates() {
		r.Now.Escalate, _ = rewrite.RuleThreshold(t.config.Escalation.When, rule.Name(settings.VerdictField()))
	}
	if err := r.Fill(cascade, samples, o.holdout, goal); err != nil {
		return nil, usageErrorf("tune: %s: %w", t.file, err)
	}
	r.Repeat(cascade, samples, o.splits, o.holdout, goal)
	return r, nil
}

// run has the model and its student judge every text, and measures how fast each is where length is not 0. It fills in
// what the report and the cascade say about them.
func (t *tuning) run(ctx context.Context, r *tune.Report, cascade *tune.Cascade, length time.Duration,
	st worker.Steps) (
	[]tune.Sample, error) {
	c := t.config
	runners := worker.Runners(c.Runners)
	if c.Input.TextPair != "" {
		return nil, usageErrorf("tune: the configuration reads pairs of texts (input.text_pair), and labelled files " +
			"hold single ones: thresholds of models of pairs cannot be tuned")
	}
	models, err := t.process.OpenModels(ctx, c.Models[t.at:t.at+1], runners, c.RunTimeout, st)
	if err != nil {
		return nil, err
	}
	defer models.Close()
	whole, judges, err := openJudges(ctx, t.process, models, judgeOptions{runners: runners, batchTokens: c.BatchTokens,
		runTimeout: c.RunTimeout, warm: length > 0})
	if err != nil {
		return nil, err
	}
	closed := sync.OnceFunc(judges.close)
	defer closed()
	said := make([][]judging.Judged, 2) // the model, and its student where it has one
	for i, m := range judges.all {
		end := st.Begin("%d texts through %s", len(t.texts), m.Settings.Path)
		said[i], err = judging.Labelled(whole, judges.of(i), t.texts, int(c.Input.MaxTextBytes))
		end()
		if err != nil {
			return nil, fmt.Errorf("tune: %s: %w", m.Settings.Path, err)
		}
	}
	budgets := make([]engine.Budget, len(judges.all))
	for i, m := range judges.all {
		budgets[i] = m.Handle.Budget()
	}
	closed() // its threads would be in the way of what is measured
	r.Model, cascade.HasStudent = judges.all[0].Tag(), len(judges.all) > 1
	if cascade.HasStudent {
		r.Student = judges.all[1].Tag()
	}
	if length > 0 {
		if cascade.Speed, err = speedOf(ctx, judges.all, said, budgets, runners, length, st); err != nil {
			return nil, err
		}
	}
	r.SpeedHow = cascade.Speed.How(runners)
	return tune.Samples(t.texts, said[0], said[1], cascade.Prices.PromptTokens), nil
}

// speedOf times tokenizers and models, each alone. all[0] is the full model.
func speedOf(ctx context.Context, all worker.Models, said [][]judging.Judged, budgets []engine.Budget, runners int,
	length time.Duration,
	st worker.Steps) (s tune.Speed, err error) {
	var tokenizers []float64
	for i, m := range all {
		var rows []engine.Input
		var texts [][]byte
		for k := range said[i] {
			texts = append(texts, said[i][k].Text)
			windows := said[i][k].Encoded.Windows
			for n := range windows {
				rows = append(rows, &windows[n])
			}
		}
		end := st.Begin("measuring %s for %v", m.Settings.Path, length)
		r, err := bare.Run(ctx, rows, bare.Options{Runners: runners, BatchTokens: budgets[i].Tokens,
			Length: length, Open: m.Session.NewRunner, Warm: m.Session.Warmup})
		end()
		if err != nil {
			return s, fmt.Errorf("tune: measuring %s: %w", m.Settings.Path, err)
		}
		if i == 0 {
			s.Model = r.TokensPerS
		} else {
			s.Student = r.TokensPerS
		}
		options := m.TokenizeOptions()
		if i > 0 && m.Tokenizer.Digest() == all[0].Tokenizer.Digest() && options == all[0].TokenizeOptions() {
			continue // tokenized once for both
		}
		encode := func(texts [][]byte) { m.Tokenizer.Encode(texts, options) }
		tokenizers = append(tokenizers, bare.Tokenize(encode, texts, runners, length/4))
	}
	s.Tokenize = tune.Tokenizers(tokenizers...)
	return s, nil
}

// offer shows what changes in the configuration and writes it, if that is wanted.
func (t *tuning) offer(in io.Reader, out io.Writer, choice tune.Choice, o tuneOptions) error {
	c, settings := t.config, t.config.Models[t.at]
	now := tune.Configured{At: t.at, Student: settings.Student != "", Threshold: settings.StudentThreshold,
		Rule: rule.Name(settings.VerdictField())}
	if t.escalates() {
		now.When = c.Escalation.When
	}
	changes, advice := now.Changes(choice)
	for _, a := range advice {
		fmt.Fprint(out, a)
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
	after, err := rewrite.Rewrite(before, changes)
	if errors.Is(err, rewrite.ErrByHand) {
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
	fmt.Fprintf(out, "\n%s\n", rewrite.Diff(c.File, before, after))
	if wanted, err := o.wanted(in, out, c.File); err != nil || !wanted {
		return err
	}
	if err := rewrite.Replace(c.File, before, after); err != nil {
		return fmt.Errorf("tune: %w", err)
	}
	fmt.Fprintf(out, "Written to %s. A worker reads it at its next start.\n", c.File)
	return nil
}

// wanted says whether the change is to be written, by the flags, or by whoever sits at the terminal.
func (o *tuneOptions) wanted(in io.Reader, out io.Writer, file string) (bool, error) {
	if o.write {
		return true, nil
	}
	if o.dryRun || !terminal.Asks(in) {
		fmt.Fprintln(out, "Nothing was written; --write writes it.")
		return false, nil
	}
	fmt.Fprintf(out, "Write this into %s? [y/N] ", file)
	answer, err := bufio.NewReader(in).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return false, fmt.Errorf("tune: reading the answer: %w", err)
	}
	if a := strings.ToLower(strings.TrimSpace(answer)); a == "y" || a == "yes" {
		return true, nil
	}
	fmt.Fprintln(out, "Nothing was written.")
	return false, nil
}
