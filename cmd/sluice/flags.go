package main

import (
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"sluice/cmd/sluice/config"
)

// Every flag can be given by an environment variable too. Those that stand for configuration keys are package config's;
// these are the others.
const (
	envConfig     = "SLUICE_CONFIG"
	envGrace      = "SLUICE_GRACE"
	envStage      = "SLUICE_STAGE"
	envModels     = "SLUICE_MODEL"
	envOnnx       = "SLUICE_ONNXRUNTIME"
	envDemo       = "SLUICE_DEMO_"
	envClassify   = "SLUICE_CLASSIFY_"
	envBench      = "SLUICE_BENCH_"
	envVerify     = "SLUICE_VERIFY_"
	envACLs       = "SLUICE_ACLS_"
	envTune       = "SLUICE_TUNE_"
	envCalibrate  = "SLUICE_CALIBRATE_"
	annotationEnv = "env"
	annotationEx  = "example"
)

// commandEnv are the variables under our prefix that are no configuration keys.
var commandEnv = map[string]bool{
	envConfig: true, envGrace: true, envStage: true, envModels: true, envOnnx: true,
	envDemo + "ESCALATE": true, envDemo + "RATE": true, envDemo + "RECORDS": true, envDemo + "MODELS": true, envDemo +
		"PORT": true, envDemo + "PLAIN": true,
	envClassify + "FORMAT": true, envClassify + "TEXT": true, envClassify + "FIELD": true, envClassify +
		"RUNNERS": true,
	envClassify + "LONG_TEXT": true, envClassify + "STRIDE": true, envClassify + "AGGREGATION": true, envClassify +
		"SCORES": true,
	envClassify + "DEVICE": true, envClassify + "SKIP": true, envClassify + "TEXT_PAIR": true,
	envClassify + "SPECIAL_TOKENS": true,
	envVerify + "SINCE":            true, envVerify + "UNTIL": true, envVerify + "PATIENCE": true,
	envVerify + "JSON":        true,
	envCalibrate + "LABELLED": true, envCalibrate + "EVALUATE": true, envCalibrate + "METHOD": true, envCalibrate +
		"FOLDS": true,
	envCalibrate + "SEED": true, envCalibrate + "PLOT": true, envCalibrate + "DRY_RUN": true,
	envACLs + "PRINCIPAL": true, envACLs + "STAGE": true, envACLs + "COMMAND_CONFIG": true, envACLs + "JSON": true,
	envBench + "PROFILE": true, envBench + "TEXTS": true, envBench + "DUPLICATES": true, envBench + "POISON": true,
	envBench + "ARRIVALS": true,
	envBench + "SEED":     true, envBench + "RATE": true, envBench + "START": true, envBench + "STEPS": true, envBench +
		"SECONDS": true,
	envBench + "SEARCH_SECONDS": true, envBench + "WARMUP": true, envBench + "PATIENCE": true, envBench + "JSON": true,
	envBench + "HTML":       true,
	envBench + "PARTITIONS": true, envBench + "GUARANTEE": true, envBench + "BROKERS": true, envBench + "INPUT": true,
	envBench + "OUTPUT":      true,
	envBench + "DEAD_LETTER": true, envBench + "FORMAT": true, envBench + "TEXT_FIELD": true, envBench + "PID": true,
	envBench + "METRICS": true,
	envBench + "SYSTEM":  true, envBench + "FIND": true, envBench + "RUNNERS": true, envBench + "BATCH_TOKENS": true,
	envBench + "WINDOW": true,
	envBench + "ROUNDS": true, envBench + "WORKERS": true, envBench + "TOKENS": true, envBench + "PER_CORE": true,
	envBench + "EFFICIENCY":  true,
	envBench + "UTILIZATION": true, envBench + "CORES_PER_WORKER": true, envBench + "WORKER_ARGS": true,
	envTune + "LABELLED": true, envTune + "VERDICT": true, envTune + "TARGET_ACCURACY": true, envTune +
		"MAX_LLM_RATE": true, envTune + "LLM_ACCURACY": true,
	envTune + "STUDENT_LOSS": true, envTune + "CONFIDENCE": true, envTune + "HOLDOUT": true, envTune + "SEED": true,
	envTune + "SPLITS": true, envTune + "PROMPT_TOKENS": true,
	envTune + "ANSWER_TOKENS": true, envTune + "INPUT_PRICE": true, envTune + "OUTPUT_PRICE": true, envTune +
		"SECONDS": true, envTune + "JSON": true,
	envTune + "PLOT": true,
}

// describe says which environment variable gives a flag, and shows an example.
func describe(fs *pflag.FlagSet, name, env, example string) {
	f := fs.Lookup(name)
	f.Annotations = map[string][]string{annotationEnv: {env}, annotationEx: {example}}
	if !commandEnv[env] && env != config.EnvName("server.listen") {
		panic("flag --" + name + ": " + env + " is not in commandEnv")
	}
}

// applyEnv sets the flags that were not given from their environment variables.
func applyEnv(fs *pflag.FlagSet) error {
	var err error
	fs.VisitAll(func(f *pflag.Flag) {
		env := f.Annotations[annotationEnv]
		if len(env) == 0 || f.Changed || err != nil {
			return
		}
		if v, ok := os.LookupEnv(env[0]); ok && v != "" {
			if setErr := fs.Set(f.Name, v); setErr != nil {
				err = usageErrorf("%s: %v", env[0], setErr)
			}
		}
	})
	return err
}

// writeHelp prints a command's help: what it does, how it is called, and of every flag its environment variable,
// default and an example.
func writeHelp(w io.Writer, cmd *cobra.Command) {
	if text := cmd.Long; text != "" {
		fmt.Fprintf(w, "%s\n\n", strings.TrimSpace(text))
	} else if cmd.Short != "" {
		fmt.Fprintf(w, "%s\n\n", cmd.Short)
	}
	fmt.Fprintln(w, "Usage:")
	if cmd.Runnable() {
		fmt.Fprintf(w, "  %s\n", cmd.UseLine())
	} else {
		fmt.Fprintf(w, "  %s COMMAND\n", cmd.CommandPath())
	}
	if cmd.Example != "" {
		fmt.Fprintf(w, "\nExamples:\n%s\n", strings.TrimRight(cmd.Example, "\n"))
	}
	if cmd.HasAvailableSubCommands() {
		fmt.Fprintln(w, "\nCommands:")
		for _, c := range cmd.Commands() {
			if c.IsAvailableCommand() {
				fmt.Fprintf(w, "  %-10s %s\n", c.Name(), c.Short)
			}
		}
		fmt.Fprintf(w, "\n\"%s COMMAND --help\" says more about a command.\n", cmd.CommandPath())
	}
	var flags []*pflag.Flag
	keys := false
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		if config.IsKeyFlag(f) {
			keys = true
		} else if !f.Hidden && f.Name != "help" {
			flags = append(flags, f)
		}
	})
	if len(flags) > 0 {
		fmt.Fprintln(w, "\nFlags:")
		for _, f := range flags {
			writeFlag(w, f)
		}
	}
	if keys {
		workerKeys().WriteKeys(w)
	}
	if !cmd.HasParent() {
		fmt.Fprint(w, "\nExit codes: 0 done, 1 failed while running, 2 wrong usage or configuration, 3 fenced by a "+
			"twin.\n")
	}
}

func writeFlag(w io.Writer, f *pflag.Flag) {
	name := "--" + f.Name
	if f.Shorthand != "" {
		name = "-" + f.Shorthand + ", " + name
	}
	kind, doc := pflag.UnquoteUsage(f)
	if kind != "" {
		name += " " + kind
	}
	fmt.Fprintf(w, "  %s\n      %s\n", name, doc)
	var facts []string
	if env := f.Annotations[annotationEnv]; len(env) > 0 {
		facts = append(facts, "env "+env[0])
	}
	if f.DefValue != "" && f.DefValue != "[]" {
		facts = append(facts, "default "+f.DefValue)
	} else if len(facts) > 0 {
		facts = append(facts, "default none")
	}
	if ex := f.Annotations[annotationEx]; len(ex) > 0 {
		facts = append(facts, "example "+ex[0])
	}
	if len(facts) > 0 {
		fmt.Fprintf(w, "      %s\n", strings.Join(facts, " | "))
	}
}
