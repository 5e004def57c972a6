package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"sluice/model"
	"sluice/model/calibrate"
	"sluice/model/ort"
	"sluice/pipeline/engine"
)

// This file makes a model's scores mean what they say: it runs the model on labelled texts, has a calibration fitted to
// its raw logits, and writes it into the manifest.

// calibrateOptions are the flags of calibrate.
type calibrateOptions struct {
	model    string
	labelled string
	evaluate string
	method   string
	plot     string
	folds    int
	seed     uint64
	dryRun   bool
}

func calibrateCommand() *cobra.Command {
	o := calibrateOptions{}
	cmd := &cobra.Command{
		Use:   "calibrate -m MODEL_DIR --labelled FILE",
		Short: "Make a model's scores mean what they say",
		Long: `Runs a model on labelled texts, fits a map from its scores to probabilities, and writes it into the directory's manifest.json:
from then on scores in verdicts are calibrated, and the model has another digest. Of all verdicts with a score near 0.9, nine
in ten are right, on texts like the labelled ones. Give texts that the model was not trained on, at least some hundred.

FILE has one JSON object a line: {"text": "…", "label": "POSITIVE"}; for a model with independent labels {"text": "…",
"labels": ["toxic"]}; for named entities {"text": "…", "entities": [{"entity_group": "PER", "start": 0, "end": 3}]}, where
start and end count characters. Every figure is of texts that the map was not fitted on (folds).`,
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
			didYouMean(o.method, methods)))
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

// labelledFile is a file of labelled texts with the model's raw logits.
type labelledFile struct {
	name, sum string
	texts     []labelledText
	judged    []judgedText
	truncated int
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
	files := []*labelledFile{}
	for _, name := range []string{o.labelled, o.evaluate} {
		if name == "" {
			continue
		}
		f, err := openLabelled(name, described)
		if err != nil {
			return &usageError{fmt.Errorf("calibrate: %s: %w", name, err)}
		}
		files = append(files, f)
	}

	settings := defaultModel()
	settings.Path, settings.Name = o.model, described.Name
	st := steps{func(format string, args ...any) { fmt.Fprintf(errw, format+"\n", args...) }}
	models, err := openModels(ctx, []ModelSettings{settings}, ort.DefaultRunners(), time.Minute, st)
	if err != nil {
		return err
	}
	defer closeModels(models)
	if err := judgeLabelled(ctx, models[0], files, st); err != nil {
		return err
	}

	fitted := files[0]
	rows, err := fitted.rows(models[0])
	if err != nil {
		return &usageError{fmt.Errorf("calibrate: %s: %w", fitted.name, err)}
	}
	method := model.CalibrationMethod(o.method)
	if o.method == "auto" {
		method = ""
	}
	result, err := calibrate.Fit(rows, methods, calibrate.Options{Method: method, Folds: o.folds, Seed: o.seed})
	if err != nil {
		return fmt.Errorf("calibrate: %s: %w", fitted.name, err)
	}
	if c := result.Calibration; c != nil {
		c.FittedOn.Name, c.FittedOn.SHA256 = filepath.Base(fitted.name), fitted.sum
	}
	report := calibrationReport{model: models[0], fitted: fitted, result: result, rows: rows, seed: o.seed,
		folds: o.folds}
	if len(files) > 1 {
		if err := report.evaluateOn(files[1]); err != nil {
			return &usageError{fmt.Errorf("calibrate: %s: %w", files[1].name, err)}
		}
	}
	if models[0].model.Task == model.TokenClassification {
		if err := report.sentences(files[len(files)-1]); err != nil {
			return err
		}
	}
	report.print(out)
	if o.plot != "" {
		if err := report.plot(o.plot); err != nil {
			return fmt.Errorf("calibrate: --plot: %w", err)
		}
	}
	return o.write(out, models[0], result.Calibration)
}

// openLabelled reads and checks one file before any model is loaded.
func openLabelled(name string, m *model.Model) (*labelledFile, error) {
	raw, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(raw)
	texts, err := readLabelled(bytes.NewReader(raw), m)
	if err != nil {
		return nil, err
	}
	return &labelledFile{name: name, sum: hex.EncodeToString(sum[:]), texts: texts}, nil
}

// judgeLabelled runs the model on every text. Logits are raw: a calibration that the model has is a judge's affair.
func judgeLabelled(ctx context.Context, m *loadedModel, files []*labelledFile, st steps) error {
	failed := make(chan error, 1)
	fail := func(err error) {
		select {
		case failed <- err:
		default:
		}
	}
	const runTimeout = 30 * time.Second
	eng, err := newEngine(ctx, []*loadedModel{m}, engine.Options{
		BatchTokens: engine.DefaultBatchTokens, Devices: devices(ort.DefaultRunners()), Timeout: runTimeout,
		Watchdog: newWatchdog(runTimeout, sayAnd(fail)), Metrics: toolMetrics(), Fail: fail,
	})
	if err != nil {
		return err
	}
	defer eng.Close()
	for _, f := range files {
		end := st.begin("judging %d texts of %s", len(f.texts), f.name)
		err := f.judge(ctx, m, failed)
		end()
		if err != nil {
			return err
		}
	}
	return nil
}

// write puts the calibration into the manifest, or says what it would be.
func (o calibrateOptions) write(out io.Writer, m *loadedModel, c *model.Calibration) error {
	if c == nil {
		fmt.Fprintln(out, "\nNothing is written: on texts that it was not fitted on, no map is better than the "+
			"scores as they are. More texts may show otherwise.")
		return nil
	}
	path := m.model.Path(model.ManifestFile)
	if m.model.Manifest == nil {
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
	if err := replaceFile(path, raw, edited); err != nil {
		return fmt.Errorf("calibrate: writing %s: %w", path, err)
	}
	after, err := model.Open(o.model)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "\n%s is written: verdicts say %s now, before %s.\n", path, after.Tag(after.Name),
		m.model.Tag(m.model.Name))
	return nil
}
