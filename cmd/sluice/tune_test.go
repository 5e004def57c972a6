package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"sluice/model/tune"
)

// tuneFiles are a configuration with the bundled sentiment pair, and labelled texts of our own.
func tuneFiles(t *testing.T, models string) (config, labelled string) {
	t.Helper()
	config = filepath.Join(t.TempDir(), "c.yaml")
	text := fmt.Sprintf(`kafka: {brokers: ["localhost:9092"], group: g}
input: {topics: [in]}
output: {topic: out}
dead_letter: {topic: dlq}   # what is no good
models:
%s`, models)
	if err := os.WriteFile(config, []byte(text), 0o640); err != nil {
		t.Fatal(err)
	}
	labelled, err := filepath.Abs("testdata/labelled.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	return config, labelled
}

func pair(t *testing.T) string {
	full, student := needModel(t, "sentiment"), needModel(t, "sentiment-tiny")
	return fmt.Sprintf("  - name: sentiment\n    path: %s\n    student: %s   # asked first\n    scores: all\n", full,
		student)
}

func TestTuneShowsWhatItWouldWriteAndWritesIt(t *testing.T) {
	config, labelled := tuneFiles(t, pair(t))
	before, err := os.ReadFile(config)
	if err != nil {
		t.Fatal(err)
	}
	plot, figures := filepath.Join(t.TempDir(), "p.svg"), filepath.Join(t.TempDir(), "t.json")
	args := []string{"tune", "-c", config, "--labelled", labelled, "--target-accuracy", "model-20", "--max-llm-rate",
		"0.5", "--llm-accuracy", "0.95", "--seconds", "0.05", "--plot", plot, "--json", figures}
	r := finish(t, sluice(t, args...))
	if r.code != 0 {
		t.Fatalf("exit code %d\n%s\n%s", r.code, r.out, r.err)
	}
	var rep tune.Report
	b, err := os.ReadFile(figures)
	if err == nil {
		err = json.Unmarshal(b, &rep)
	}
	if err != nil {
		t.Fatal(err)
	}
	line := "    student_threshold: " + tune.Threshold(rep.Choice.Student)
	for _, want := range []string{"24 choose, 24 are held out", "## Student", "## Escalation",
		"## Result, on texts that were held out", "+" + line, "--- " + config,
		"when: 'sentiment.score < " + tune.Threshold(rep.Choice.Escalate), "Nothing was written; --write writes it."} {
		if !strings.Contains(r.out, want) {
			t.Errorf("no %q in\n%s", want, r.out)
		}
	}
	if rep.Speed.Model <= 0 || rep.Speed.Student <= 0 || rep.Speed.Tokenize <= 0 || rep.Choice.Student > 1 ||
		rep.Result[0].Point.Accuracy < 0.8 {
		t.Errorf("%+v\n%+v", rep.Speed, rep.Result)
	}
	if b, err := os.ReadFile(plot); err != nil || !strings.Contains(string(b), "</svg>") {
		t.Errorf("no plot: %v", err)
	}
	if now, err := os.ReadFile(config); err != nil || string(now) != string(before) {
		t.Fatalf("the file was changed without --write: %v\n%s", err, now)
	}

	link := filepath.Join(t.TempDir(), "link.yaml") // stays a link
	if err := os.Symlink(config, link); err != nil {
		t.Fatal(err)
	}
	args[2] = link
	r = finish(t, sluice(t, append(args, "--write")...))
	if r.code != 0 || !strings.Contains(r.out, "Written to "+link) {
		t.Fatalf("exit code %d\n%s\n%s", r.code, r.out, r.err)
	}
	now, err := os.ReadFile(config)
	if want := strings.Replace(string(before), "# asked first\n", "# asked first\n"+line+"\n", 1); err != nil ||
		string(now) != want {
		t.Errorf("%v\n%s", err, now)
	}
	if st, err := os.Lstat(link); err != nil || st.Mode()&os.ModeSymlink == 0 {
		t.Error("the link was replaced by a file")
	}
	if st, err := os.Stat(config); err != nil || st.Mode().Perm() != 0o640 {
		t.Errorf("permissions: %v, %v", st.Mode(), err)
	}
	if r = finish(t, sluice(t, args...)); r.code != 0 || !strings.Contains(r.out, "Nothing to change in the "+
		"configuration file.") {
		t.Errorf("a second time: exit code %d\n%s\n%s", r.code, r.out, r.err)
	}
	cmd := sluice(t, args...)
	cmd.Env = append(cmd.Env, "SLUICE_MODELS__0__STUDENT_THRESHOLD=0.99")
	if r = finish(t, cmd); r.code != 1 || !strings.Contains(r.err, "is given by SLUICE_MODELS__0__STUDENT_THRESHOLD, "+
		"which wins over the file") {
		t.Errorf("with the environment against it: exit code %d\n%s\n%s", r.code, r.out, r.err)
	}
}

func TestTuneSaysWhatFewTextsCannotShow(t *testing.T) {
	config, labelled := tuneFiles(t, pair(t))
	r := finish(t, sluice(t, "tune", "-c", config, "--labelled", labelled, "--target-accuracy", "model-0.3",
		"--seconds", "0", "--json", "-", "--write"))
	var rep tune.Report
	if err := json.Unmarshal([]byte(r.out), &rep); err != nil {
		t.Fatalf("%v\n%s\n%s", err, r.out, r.err)
	}
	if r.code != 1 || rep.Choice.Reached || !strings.Contains(rep.Choice.StudentReason, "900 or more are needed") {
		t.Errorf("exit code %d: %+v", r.code, rep.Choice)
	}
	if b, err := os.ReadFile(config); err != nil || strings.Contains(string(b), "student_threshold") {
		t.Errorf("written all the same: %v\n%s", err, b)
	}
}

func TestTuneWritesTheRuleOfTheEscalation(t *testing.T) {
	escalation := `escalation:
  when: 'sentiment.score < 0.9'   # unsure
  topic: ask
  endpoint: {urls: ["http://localhost:1/v1"], model: m}
  budget: {price_input_per_million: 2, price_output_per_million: 10}
`
	config, labelled := tuneFiles(t, pair(t)+escalation)
	args := []string{"tune", "-c", config, "--labelled", labelled, "--target-accuracy", "model-20", "--max-llm-rate",
		"0.5", "--seconds", "0", "--json", "-", "--write"}
	r := finish(t, sluice(t, args...))
	var rep tune.Report
	if err := json.Unmarshal([]byte(r.out), &rep); err != nil || r.code != 0 {
		t.Fatalf("exit code %d, %v\n%s\n%s", r.code, err, r.out, r.err)
	}
	if rep.Now.Escalate != 0.9 || rep.Prices.InputPerMillion != 2 || rep.Prices.OutputPerMillion != 10 ||
		rep.Prices.PromptTokens < 50 || rep.Result[3].Point.Cost <= 0 {
		t.Errorf("%+v %+v %+v", rep.Now, rep.Prices, rep.Result[3])
	}
	b, err := os.ReadFile(config)
	if want := fmt.Sprintf("  when: 'sentiment.score < %s'   # unsure\n",
		tune.Threshold(rep.Choice.Escalate)); err != nil || !strings.Contains(string(b), want) {
		t.Errorf("no %q in %v\n%s", want, err, b)
	}
	if r := finish(t, sluice(t, "validate", "--offline", "-c", config)); r.code != 0 {
		t.Errorf("what was written is not valid: %s\n%s", r.out, r.err)
	}

	config, _ = tuneFiles(t, pair(t)+strings.Replace(escalation, "sentiment.score < 0.9", "sentiment.margin < 0.5", 1))
	args[2] = config
	r = finish(t, sluice(t, args...))
	if want := "For the escalation write:\n\n  escalation:\n    when: 'sentiment.score < " +
		tune.Threshold(rep.Choice.Escalate); r.code != 0 || !strings.Contains(r.err, want) {
		t.Errorf("exit code %d, no %q in\n%s", r.code, want, r.err)
	}
	if b, err := os.ReadFile(config); err != nil || !strings.Contains(string(b), "sentiment.margin < 0.5") {
		t.Errorf("a rule of another form was changed: %v\n%s", err, b)
	}
}

func TestTuneComparesEntities(t *testing.T) {
	config, _ := tuneFiles(t, fmt.Sprintf("  - {name: ner, path: %s, aggregation: first}\n", needModel(t, "ner")))
	labelled := filepath.Join(t.TempDir(), "entities.jsonl")
	lines := `{"text": "Ada Lovelace lived in London.", "entities": [{"entity_group": "LOC", "start": 22, "end": 28}, {"entity_group": "PER", "start": 0, "end": 12}]}
{"text": "The weather was fine.", "entities": []}
{"text": "Paris is a city.", "entities": [{"entity_group": "ORG", "start": 0, "end": 5}]}
`
	if err := os.WriteFile(labelled, []byte(lines), 0o600); err != nil {
		t.Fatal(err)
	}
	r := finish(t, sluice(t, "tune", "-c", config, "--labelled", labelled, "--seconds", "0", "--holdout", "0", "--json",
		"-"))
	var rep tune.Report
	if err := json.Unmarshal([]byte(r.out), &rep); err != nil || r.code != 0 {
		t.Fatalf("exit code %d, %v\n%s\n%s", r.code, err, r.out, r.err)
	}
	// Two of three texts are fully right; of three entities said and three that are there, two are the same.
	if p := rep.Result[0].Point; p.Accuracy != 2.0/3 || p.F1 != 2.0/3 || !rep.Entities {
		t.Errorf("%+v", p)
	}
	r = finish(t, sluice(t, "tune", "-c", config, "--labelled", labelled, "--max-llm-rate", "0.1"))
	if r.code != 2 || !strings.Contains(r.err, "the endpoint is not asked about entities") {
		t.Errorf("exit code %d: %s", r.code, r.err)
	}
}

func TestTuneNamesMistakes(t *testing.T) {
	config, labelled := tuneFiles(t, pair(t))
	both, _ := tuneFiles(t, pair(t)+fmt.Sprintf("  - {name: toxicity, path: %s}\n  - {name: ner, path: %s}\n  - "+
		"{name: again, path: %s}\n", needModel(t, "toxicity"), needModel(t, "ner"), needModel(t, "sentiment")))
	bad := filepath.Join(t.TempDir(), "bad.jsonl")
	if err := os.WriteFile(bad,
		[]byte("{\"text\":\"a\",\"label\":\"POSITIVE\"}\n{\"text\":\"b\",\"label\":\"great\"}\n{\"txt\":\"c\"}\n"),
		0o600); err != nil {
		t.Fatal(err)
	}
	wrongLabel := filepath.Join(t.TempDir(), "label.jsonl")
	if err := os.WriteFile(wrongLabel,
		[]byte("{\"text\":\"a\",\"label\":\"POSITIVE\"}\n{\"text\":\"b\",\"label\":\"great\"}\n"),
		0o600); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name, says string
		args       []string
	}{
		{"no labelled file", "give --labelled FILE", []string{"-c", config}},
		{"a file that is not there", "no such file", []string{"-c", config, "--labelled", bad + "x"}},
		{"a line", `bad.jsonl: line 3: has no "text"`, []string{"-c", config, "--labelled", bad}},
		{"a label", `label.jsonl: line 2: "great" is none of the model's labels (NEGATIVE, POSITIVE)`,
			[]string{"-c", config, "--labelled", wrongLabel}},
		{"a goal", "write for example 0.92, or model-0.3", []string{"-c", config, "--labelled", labelled,
			"--target-accuracy", "92"}},
		{"points", "names no points", []string{"-c", config, "--labelled", labelled, "--target-accuracy", "model-x"}},
		{"a share", "is not a share", []string{"-c", config, "--labelled", labelled, "--max-llm-rate", "5"}},
		{"a confidence", "above 0.5 and below 1", []string{"-c", config, "--labelled", labelled, "--confidence", "95"}},
		{"write and not", "contradict each other", []string{"-c", config, "--labelled", labelled, "--write",
			"--dry-run"}},
		{"all held out", "too few to hold out", []string{"-c", config, "--labelled", labelled, "--holdout", "0.999"}},
		{"two models with these labels", "those of several models (sentiment, again); name one with --verdict",
			[]string{"-c", both, "--labelled", labelled}},
		{"a model that is none", `no model "sentimnt"; did you mean sentiment?`, []string{"-c", both, "--labelled",
			labelled, "--verdict", "sentimnt"}},
		{"a model with several labels a text", "gives every label a score of its own", []string{"-c", both,
			"--labelled", labelled, "--verdict", "toxicity"}},
		{"a model for entities", `the model ner finds entities, and the file has labels`, []string{"-c", both,
			"--labelled", labelled, "--verdict", "ner"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := finish(t, sluice(t, append([]string{"tune", "--seconds", "0"}, tc.args...)...))
			if r.code != 2 || !strings.Contains(r.err, tc.says) {
				t.Errorf("exit code %d, want 2; standard error:\n%s\nwant in it: %s", r.code, r.err, tc.says)
			}
		})
	}
}
