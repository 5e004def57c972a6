package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"sluice/cmd/sluice/settings"
	"sluice/cmd/sluice/suggest"
	"sluice/cmd/sluice/worker"
	"sluice/model"
	"sluice/model/calibrate"
	"sluice/model/ort"
	"sluice/model/rewrite"
	"sluice/pipeline/engine"
)

// This file makes a model's scores mean what they say: it runs the model on labelled texts, has a calibration fitted to
// its raw logits, and writes it into the manifest.

// calibrateOptions are the flags of calibrate.
type calibrateOptions struct {
	process  *worker.Process
	model    string
	labelled string
	evaluate string
	method   string
	plot     string
	folds    int
	seed     uint64
	dryRun   bool
}

func calibrateCommand(p *worker.Process) *cobra.Command {
	o := calibrateOptions{process: p}
	cmd := &cobra.Command{
		Use:   "calibrate -m MODEL_DIR --labelled FILE",
		Short: "Make a model's scores mean what they say",
		Long: `Runs a model on labelled texts, fits a map from its scores to probabilities, and writes it into the
directory's manifest.json: from then on scores in verdicts are calibrated, and the model has another digest. Of all
verdicts with a score near 0.9, nine in ten are right, on texts like the labelled ones. Give texts that the model was
not trained on, at least some hundred.

FILE has one JSON object a line: {"text": "…", "label": "POSITIVE"}; for a model with independent labels {"text": "…",
"labels": ["toxic"]}; for named entities {"text": "…", "entities": [{"entity_group": "PER", "start": 0, "end": 3}]},
where start and end count characters. Labels may be numbers; TSV, CSV and IOB2 are read, too, and files may be
compressed (gzip, Zstandard). Every figure is of texts that the map was not fitted on (folds).`,
		Example: `  sluice calibrate -m models/sentiment --labelled dev.jsonl --dry-run
  sluice calibrate -m models/sentiment --labelled dev.jsonl --evaluate test.jsonl --plot reliability.svg`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := o.check(); err != nil {
				return err
			}
			return calibrateModel(cmd.Context(), cmd.OutOrStdout(), cmd.ErrOrStderr(), o)
		},
	}
	fs := cmd.Flags()
	modelFlag(fs, &o.model, "its manifest.json is written")
	fs.StringVar(&o.labelled, "labelled", "", "`FILE` of labelled texts that the model was not trained on")
	describe(fs, "labelled", envCalibrate+"LABELLED", "dev.jsonl")
	fs.StringVar(&o.evaluate, "evaluate", "", "`FILE` of further labelled texts: nothing is fitted on them, the "+
		"result is measured on them too")
	describe(fs, "evaluate", envCalibrate+"EVALUATE", "test.jsonl")
	fs.StringVar(&o.method, "method", "auto", "`auto|temperature|isotonic`; auto: isotonic only where it is better "+
		"on held-out folds, and nothing where neither is")
	describe(fs, "method", envCalibrate+"METHOD", "temperature")
	fs.IntVar(&o.folds, "folds", 5, "`N` parts of the texts; each is judged by a map that was fitted on the others")
	describe(fs, "folds", envCalibrate+"FOLDS", "10")
	fs.Uint64Var(&o.seed, "seed", 1, "`N` that decides which text is in which fold")
	describe(fs, "seed", envCalibrate+"SEED", "7")
	fs.StringVar(&o.plot, "plot", "", "draw the reliability diagram into `FILE`, an SVG")
	describe(fs, "plot", envCalibrate+"PLOT", "reliability.svg")
	fs.BoolVar(&o.dryRun, "dry-run", false, "print what would be written, write no manifest")
	describe(fs, "dry-run", envCalibrate+"DRY_RUN", "true")
	return cmd
}

func (o calibrateOptions) check() error {
	var errs []error
	if o.model == "" {
		errs = append(errs, errors.New("no model; give a model directory with -m"))
	}
	if o.labelled == "" {
		errs = append(errs, errors.New("no labelled texts; give a file with --labelled"))
	}
	if methods := []string{"auto", string(model.Temperature), string(model.IsotonicRegression)}; !slices.Contains(
		methods, o.method) {
		errs = append(errs, fmt.Errorf("--method: %q is not one of %s%s", o.method, strings.Join(methods, ", "),
			suggest.DidYouMean(o.method, methods)))
	}
	if o.folds < 2 || o.folds > 100 {
		errs = append(errs, fmt.Errorf("--folds: %d is out of range; between 2 and 100", o.folds))
	}
	if len(errs) > 0 {
		return &usageError{fmt.Errorf("calibrate: %w", errors.Join(errs...))}
	}
	return nil
}

// methods are those that a model can have. The error says why it can have none.
func (o calibrateOptions) methods(m *model.Model) ([]model.CalibrationMethod, error) {
	switch {
	case m.Task == model.TokenClassification && o.method == string(model.IsotonicRegression):
		return nil, usageErrorf("calibrate: --method isotonic is for text-classification, and %s is for %s; use "+
			"temperature", o.model, m.Task)
	case m.Task == model.TokenClassification:
		return []model.CalibrationMethod{model.Temperature}, nil
	case m.Config.ProblemType == model.Regression:
		return nil, usageErrorf("calibrate: %s is a regression: its values are no probabilities, and there is "+
			"nothing to calibrate", o.model)
	default:
		return []model.CalibrationMethod{model.Temperature, model.IsotonicRegression}, nil
	}
}

func calibrateModel(ctx context.Context, out, errw io.Writer, o calibrateOptions) error {
	described, err := model.Open(o.model)
	if err != nil {
		return &usageError{err}
	}
	methods, err := o.methods(described)
	if err != nil {
		return err
	}
	if described.Manifest == nil && !o.dryRun {
		return usageErrorf("calibrate: %s has no %s, which is where a calibration is written; export the model with "+
			"scripts/export_model.py, or see what it would be with --dry-run", o.model, model.ManifestFile)
	}
	files := []*calibrate.File{}
	for _, name := range []string{o.labelled, o.evaluate} {
		if name == "" {
			continue
		}
		f, err := calibrate.Open(name, described, suggest.DidYouMean)
		if err != nil {
			return &usageError{fmt.Errorf("calibrate: %s: %w", name, err)}
		}
		files = append(files, f)
	}

	judged := settings.DefaultModel()
	judged.Path, judged.Name = o.model, described.Name
	st := stepsTo(errw)
	models, err := o.process.OpenModels(ctx, []settings.Model{judged}, ort.DefaultRunners(), time.Minute, st)
	if err != nil {
		return err
	}
	defer models.Close()
	if models[0].Model.Manifest.Pairs() {
		return usageErrorf("calibrate: %s was exported for pairs of texts, and labelled files hold single ones: it "+
			"cannot be calibrated", o.model)
	}
	if err := judgeLabelled(ctx, o.process, models, files, st); err != nil {
		return err
	}

	report, result, err := o.fit(models[0], files, methods)
	if err != nil {
		return err
	}
	report.Write(out)
	if o.plot != "" {
		if err := writeFile(o.plot, report.Plot); err != nil {
			return fmt.Errorf("calibrate: --plot: %w", err)
		}
	}
	return o.write(out, models[0], result.Calibration)
}

// fit fits a calibration to the first of the judged files, and measures it on the second where there is one.
func (o calibrateOptions) fit(m *worker.Model, files []*calibrate.File, methods []model.CalibrationMethod) (
	*calibrate.Report, *calibrate.Result, error) {
	subject := calibrate.Subject{Model: m.Model, Tokenizer: m.Tokenizer,
		Aggregation: model.Aggregation(m.Settings.Aggregation)}
	fitted := files[0]
	rows, err := fitted.Rows(&subject)
	if err != nil {
		return nil, nil, &usageError{fmt.Errorf("calibrate: %s: %w", fitted.Name, err)}
	}
	options := calibrate.Options{Folds: o.folds, Seed: o.seed}
	if o.method != "auto" {
		options.Method = model.CalibrationMethod(o.method)
	}
	result, err := calibrate.Fit(rows, methods, options)
	if err != nil {
		return nil, nil, fmt.Errorf("calibrate: %s: %w", fitted.Name, err)
	}
	if c := result.Calibration; c != nil {
		c.FittedOn.Name, c.FittedOn.SHA256 = filepath.Base(fitted.Name), fitted.SHA256
	}
	report := calibrate.NewReport(subject, fitted, rows, result, options)
	for _, f := range files[1:] {
		if err := report.Evaluate(f); err != nil {
			return nil, nil, &usageError{fmt.Errorf("calibrate: %s: %w", f.Name, err)}
		}
	}
	if m.Model.Task == model.TokenClassification {
		err = report.Sentences(files[len(files)-1])
	}
	return report, result, err
}

// judgeLabelled runs the model on every text. Logits are raw: a calibration that the model has is a judge's affair.
func judgeLabelled(ctx context.Context, p *worker.Process, models worker.Models, files []*calibrate.File,
	st worker.Steps) error {
	ctx, judges, err := openJudges(ctx, p, models, judgeOptions{runners: ort.DefaultRunners(),
		batchTokens: engine.DefaultBatchTokens, runTimeout: settings.Default().RunTimeout})
	if err != nil {
		return err
	}
	defer judges.close()
	for _, f := range files {
		end := st.Begin("judging %d texts of %s", len(f.Texts), f.Name)
		err := f.Judge(ctx, judges.of(0))
		end()
		if err != nil {
			return fmt.Errorf("calibrate: %s: %w", f.Name, err)
		}
	}
	return nil
}

// write puts the calibration into the manifest, or says what it would be.
func (o calibrateOptions) write(out io.Writer, m *worker.Model, c *model.Calibration) error {
	if c == nil {
		fmt.Fprintln(out, "\nNothing is written: on texts that it was not fitted on, no map is better than the "+
			"scores as they are. More texts may show otherwise.")
		return nil
	}
	path := m.Model.Path(model.ManifestFile)
	if m.Model.Manifest == nil {
		fmt.Fprintf(out, "\nNothing is written: there is no %s.\n", path)
		return nil
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	edited, err := model.WithCalibration(raw, c)
	if err != nil {
		return fmt.Errorf("calibrate: %s: %w", o.model, err)
	}
	if o.dryRun {
		fmt.Fprintf(out, "\nNothing is written (--dry-run).\n")
		return nil
	}
	if err := rewrite.Replace(path, raw, edited); err != nil {
		return fmt.Errorf("calibrate: writing %s: %w", path, err)
	}
	after, err := model.Open(o.model)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "\n%s is written: verdicts say %s now, before %s.\n", path, after.Tag(after.Name),
		m.Model.Tag(m.Model.Name))
	return nil
}
