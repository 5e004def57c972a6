package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"sluice/cmd/sluice/settings"
	"sluice/model"
	"sluice/model/tune"
	"sluice/pipeline/llm/label"
	"sluice/pipeline/rule"
)

// This file is the command that chooses thresholds: its flags, and what becomes of them. The models are run by
// tunemodels.go, the configuration is changed by tunewrite.go; curves and choice are package tune's.

// tuneOptions are the flags of tune.
type tuneOptions struct {
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
func (e tuneEndpoint) of(c *settings.Loaded, m *model.Model, asked bool) (tuneEndpoint, error) {
	if m.Task != model.TextClassification {
		return e, nil
	}
	var task *label.Task
	if asked {
		plan, err := planEscalation(&c.Settings)
		if err != nil {
			return e, err
		}
		task = plan.task
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

// escalates says whether the escalation of the configuration is about the at-th model.
func escalates(c *settings.Loaded, at int) bool {
	return c.Escalation.On() && (c.Escalation.Verdict == c.Models[at].VerdictField() || c.Escalation.Verdict == "" &&
		len(c.Models) == 1)
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

func tuneCommand() *cobra.Command {
	o := tuneOptions{mostCalls: math.NaN()}
	cmd := &cobra.Command{
		Use:   "tune -c FILE --labelled FILE",
		Short: "Choose the thresholds of student and escalation by labelled texts",
		Long: `Runs a model of the configuration and its student over labelled texts and prints what each threshold costs and gains:
who decides how much, accuracy, msgs/s on this machine, calls and cost of the endpoint for a million messages. Then it
chooses: one part of the texts decides, and what is reported is measured on the other. A threshold is taken only where a
one-sided bound says that it keeps the goal, so it asks for more texts rather than promise what they do not show.

A line of the labelled file is {"text": "…", "label": "NEGATIVE"}, and may have "llm": what the endpoint answered. For a
model of entities it is {"text": "…", "entities": [{"entity_group": "PER", "start": 0, "end": 12}]}.
Without a goal the student may cost 0.3 points of accuracy and the escalation stays as it is. The change of the configuration
is shown as a diff; it is written with --write, or where somebody at the terminal says so. Exit code 1 where the goal is
not reached; then nothing is written.`,
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
	fs.StringVar(&o.labelled, "labelled", "", "`FILE` of labelled texts, one JSON object a line")
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
	f, err := os.Open(o.labelled)
	if err != nil {
		return usageErrorf("tune: %v", err)
	}
	texts, err := tune.ReadTexts(f)
	f.Close()
	if err != nil {
		return usageErrorf("tune: %s: %w", o.labelled, err)
	}
	at, m, err := tunedModel(c.Models, o.verdict, texts)
	if err != nil {
		return usageErrorf("tune: %s: %w", o.labelled, err)
	}
	if m.Task == model.TokenClassification && (!math.IsNaN(o.mostCalls) || o.llmAccuracy > 0) {
		return usageErrorf("tune: --max-llm-rate and --llm-accuracy have no meaning for %s: the endpoint is not "+
			"asked about entities; remove them", c.Models[at].VerdictField())
	}
	call, err := o.endpoint.of(c, m, escalates(c, at))
	if err != nil {
		return fmt.Errorf("tune: %w", err)
	}
	ran, err := runModels(ctx, c, at, texts, call.promptTokens, o.length,
		steps{func(format string, args ...any) { fmt.Fprintf(errw, format+"\n", args...) }})
	if err != nil {
		return err
	}
	cascade := &tune.Cascade{
		HasStudent: ran.student != "", Entities: m.Task == model.TokenClassification, Labels: m.Labels,
		LLMAccuracy: o.llmAccuracy, Speed: ran.speed,
		Prices: tune.Prices{InputPerMillion: call.inputPrice, OutputPerMillion: call.outputPrice,
			PromptTokens: call.promptTokens, AnswerTokens: call.answerTokens},
	}
	settings := c.Models[at]
	r := tune.Report{
		Date: time.Now().UTC().Format(time.DateOnly), Machine: ran.machine, File: filepath.Base(o.labelled),
		Name: settings.VerdictField(), Model: ran.model, Student: ran.student,
		Seed: o.seed, LLM: llmSource(texts, o.llmAccuracy), SpeedHow: ran.how, Now: tune.Setting{Student: tune.Never},
	}
	if cascade.Entities {
		r.LLM = ""
	}
	if cascade.HasStudent {
		r.Now.Student = settings.StudentThreshold
	}
	if escalates(c, at) {
		r.Now.Escalate, _ = tune.RuleThreshold(c.Escalation.When, rule.Name(settings.VerdictField()))
	}
	if err := r.Fill(cascade, ran.samples, o.holdout, goal); err != nil {
		return usageErrorf("tune: %s: %w", o.labelled, err)
	}
	r.Repeat(cascade, ran.samples, o.splits, o.holdout, goal)

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
	return offer(in, page, c, at, r.Choice, o)
}

// llmSource says where the endpoint's part of the curve comes from.
func llmSource(texts []tune.Text, assumed float64) string {
	answered := 0
	for i := range texts {
		if texts[i].Answered {
			answered++
		}
	}
	switch {
	case answered == len(texts):
		return "its answers are in the labelled file"
	case answered > 0 && assumed > 0:
		return fmt.Sprintf("its answers to %d of %d texts are in the labelled file; for the others %.4g %% right "+
			"answers are assumed, whatever the text", answered, len(texts), 100*assumed)
	case answered > 0:
		return fmt.Sprintf("its answers to %d of %d texts are in the labelled file; steps that ask about others show "+
			"shares and cost only", answered, len(texts))
	case assumed > 0:
		return fmt.Sprintf("%.4g %% right answers are assumed, whatever the text", 100*assumed)
	}
	return `what it answers is unknown, so its steps show shares and cost only; give "llm" in the labelled file, or --llm-accuracy`
}
