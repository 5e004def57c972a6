package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"path/filepath"
	"runtime"
	"time"

	"sluice/cmd/sluice/load/bare"
	"sluice/model"
	"sluice/model/ort"
	"sluice/pipeline/engine"
	"sluice/tokenize/hf"
)

// bareRate is the rate of a ceiling: (messages, tokens) a second.
func bareRate(ctx context.Context, s *system, texts []string, textsFile string, seconds float64) (messages,
	tokens float64, err error) {
	if s.Name == "bare-dynamic" {
		return pythonBare(ctx, s, textsFile, seconds)
	}
	m, err := model.Open(s.modelDir())
	if err != nil {
		return 0, 0, err
	}
	tok, err := hf.Of(m)
	if err != nil {
		return 0, 0, err
	}
	defer tok.Close()
	raw := make([][]byte, len(texts))
	for i, t := range texts {
		raw[i] = []byte(t)
	}
	var rows []engine.Input
	for _, e := range tok.Encode(raw, m.TokenizeOptions()) {
		rows = append(rows, &e.Windows[0])
	}
	runners := runtime.GOMAXPROCS(0)
	session, err := ort.Open(m, engine.RuntimeOptions{Device: "cpu", Runners: runners})
	if err != nil {
		return 0, 0, err
	}
	defer session.Close()
	r, err := bare.Run(ctx, rows, bare.Options{Runners: runners, Length: time.Duration(seconds * float64(time.Second)),
		Open: session.NewRunner})
	return r.RowsPerS, r.TokensPerS, err
}

// pythonBare runs the loop of the Python peer without Kafka.
func pythonBare(ctx context.Context, s *system, textsFile string, seconds float64) (messages, tokens float64,
	err error) {
	c := exec.CommandContext(ctx, filepath.Join(buildDir, "onnxruntime/bin/python"), "bench/peers/onnxruntime/bare.py",
		s.modelDir(), textsFile, fmt.Sprint(seconds))
	out, err := c.Output()
	if err != nil {
		if e, ok := err.(*exec.ExitError); ok {
			err = fmt.Errorf("%w\n%s", err, e.Stderr)
		}
		return 0, 0, err
	}
	var r struct{ Messages, Tokens float64 }
	if err := json.Unmarshal(out, &r); err != nil {
		return 0, 0, fmt.Errorf("bare.py printed no figures: %w: %s", err, out)
	}
	return r.Messages, r.Tokens, nil
}
