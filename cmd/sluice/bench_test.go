package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	loadgen "sluice/cmd/sluice/load"
	"sluice/cmd/sluice/load/ceiling"
)

func TestBenchMeasuresAWorkerOnItsOwnBroker(t *testing.T) {
	dir := needModel(t, "sentiment-tiny")
	page, figures := filepath.Join(t.TempDir(), "r.html"), filepath.Join(t.TempDir(), "r.json")
	r := finish(t, sluice(t, "bench", "-m", dir, "--rate", "200", "--seconds", "2", "--profile", "poison", "--poison",
		"0.05", "--html", page, "--json", figures))
	if r.code != 0 {
		t.Fatalf("exit code %d\n%s\n%s", r.code, r.out, r.err)
	}
	for _, want := range []string{"int8 peak", "tokens     mean", "p99.9", "CPU s/1000", "0 lost, 0 doubled",
		"the first 20 % of each step is dropped"} {
		if !strings.Contains(r.out, want) {
			t.Errorf("the report lacks %q:\n%s", want, r.out)
		}
	}
	b, err := os.ReadFile(figures)
	if err != nil {
		t.Fatal(err)
	}
	var rep loadgen.Report
	if err := json.Unmarshal(b, &rep); err != nil {
		t.Fatal(err)
	}
	st := rep.Steps[0]
	if len(rep.Steps) != 1 || st.Lost+st.Doubled+st.Misdirected > 0 || st.Poison == 0 || st.DeadLetters != st.Poison ||
		st.Records < 300 || st.Latency.P50 <= 0 {
		t.Errorf("%+v", st)
	}
	if st.Worker == nil || st.Worker.CPUPer1000 <= 0 || st.Worker.RSSMax < 10<<20 || st.Worker.Fill == nil ||
		*st.Worker.Fill <= 0.3 || *st.Worker.Fill > 1 {
		t.Errorf("%+v", st.Worker)
	}
	if b, err = os.ReadFile(page); err != nil || !strings.Contains(string(b), "<svg") || strings.Contains(string(b),
		"http") {
		t.Errorf("the page: %v, %d bytes", err, len(b))
	}
}

func TestBenchTopicsTakesWhatTheWorkersConfigurationSays(t *testing.T) {
	dir := needModel(t, "sentiment-tiny")
	address, _ := cluster(t, "customer_reviews", "review_analysis", "review_dlq")
	file := runConfig(t, address, dir)
	texts := filepath.Join(t.TempDir(), "texts")
	if err := os.WriteFile(texts, []byte("a fine day\n{\"text\":\"a bad day\"}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	w := startWorker(t, "-c", file)
	w.waitReady(t)
	r := finish(t, sluice(t, "bench", "topics", "-c", file, "-m", dir, "--texts", texts, "--rate", "100", "--seconds",
		"1s", "--metrics", w.http+"/metrics", "--json", "-"))
	if r.code != 0 {
		t.Fatalf("exit code %d\n%s", r.code, r.err)
	}
	var rep loadgen.Report
	if err := json.Unmarshal([]byte(r.out), &rep); err != nil {
		t.Fatalf("%v\n%s", err, r.out)
	}
	if rep.Target.Input != "customer_reviews" || rep.Target.DeadLetter != "review_dlq" ||
		rep.Total.Lost+rep.Total.Doubled+rep.Total.DeadLetters != 0 ||
		rep.Tokens == nil || rep.Tokens.Max > 8 || rep.Steps[0].Worker == nil || rep.Steps[0].Worker.CPUSeconds < 0 ||
		rep.Profile.Lengths != loadgen.AsIs {
		t.Errorf("%s", r.out)
	}

	// The same topics, with nobody who answers.
	w.cmd.Process.Kill()
	<-w.done
	r = finish(t, sluice(t, "bench", "topics", "-c", file, "--rate", "100", "--seconds", "1s", "--patience", "1s"))
	if r.code != 1 || !strings.Contains(r.err, "does the system under test run, read customer_reviews and write "+
		"review_analysis?") {
		t.Errorf("%+v", r)
	}
}

func TestBenchEngineAndSizeMeasureTheModelAlone(t *testing.T) {
	dir := needModel(t, "sentiment-tiny")
	r := finish(t, sluice(t, "bench", "engine", "-m", dir, "--seconds", "200ms", "--rounds", "1", "--batch-tokens",
		"32,256", "--runners", "1", "--json", "-"))
	var rep ceiling.Report
	if err := json.Unmarshal([]byte(r.out), &rep); err != nil || r.code != 0 {
		t.Fatalf("exit code %d, %v\n%s\n%s", r.code, err, r.out, r.err)
	}
	if len(rep.Rows) != 2 || rep.Rows[0].BatchTokens != 32 || rep.Rows[0].RowsOfBatch >= rep.Rows[1].RowsOfBatch ||
		rep.Rows[1].TokensPerS < 1000 || rep.Rows[1].GMACs <= 0 {
		t.Errorf("%s", r.out)
	}
	if r = finish(t, sluice(t, "bench", "engine", "-m", dir, "--seconds", "100ms", "--rounds", "1")); r.code != 0 ||
		!strings.Contains(r.out, "texts/batch") {
		t.Errorf("%+v", r)
	}
	r = finish(t, sluice(t, "bench", "size", "--rate", "5000", "--tokens", "25", "--per-core", "10000", "-m", dir))
	for _, want := range []string{"125000 tokens/s", "cores        20", "workers      10 of 2 cores",
		"partitions   20 or more", "memory", "assumed", "one worker missing"} {
		if r.code != 0 || !strings.Contains(r.out, want) {
			t.Errorf("size does not say %q: %+v", want, r)
		}
	}
}

func TestBenchScaleComparesOneWorkerWithMany(t *testing.T) {
	dir := needModel(t, "sentiment-tiny")
	if cores, err := loadgen.Cores(); err != nil || len(cores) < 2 {
		missing(t, "two workers need two cores; there are %d (%v)", len(cores), err)
	}
	r := finish(t, sluice(t, "bench", "scale", "-m", dir, "--seconds", "1.5", "--rounds", "1", "--workers", "2",
		"--json", "-"))
	var rep ceiling.Report
	if err := json.Unmarshal([]byte(r.out), &rep); err != nil || r.code != 0 {
		t.Fatalf("exit code %d, %v\n%s\n%s", r.code, err, r.out, r.err)
	}
	if len(rep.Rows) != 2 || len(rep.Workers) != 2 || rep.Rows[0].Efficiency != 1 || rep.Workers[1].Workers != 2 ||
		rep.Workers[1].Efficiency <= 0 ||
		rep.Workers[0].Drained.Lost+rep.Workers[1].Drained.Doubled != 0 || rep.Workers[1].Drained.Rate <= 0 {
		t.Errorf("%s", r.out)
	}
}

func TestBenchRefusesWhatCannotBe(t *testing.T) {
	dir := t.TempDir()
	blank := filepath.Join(dir, "blank")
	if err := os.WriteFile(blank, []byte(" \n\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	broken := filepath.Join(dir, "broken")
	if err := os.WriteFile(broken, []byte("fine\n{\"txt\":\"x\"}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	address, _ := cluster(t, "in", "out")
	topics := []string{"bench", "topics", "--brokers", address, "--seconds", "1s", "--input", "in", "--output"}
	for _, tc := range []struct {
		name string
		args []string
		code int
		says string
	}{
		{"a subcommand that is none", []string{"bench", "enigne"}, 2, `unknown command "enigne"`},
		{"a profile that is none", []string{"bench", "--profile", "longer"}, 2,
			`profile "longer" is unknown; there are short, mixed, long, zipf, bursts, poison`},
		{"arrivals that are none", []string{"bench", "--arrivals", "now"}, 2, "poisson, constant, bursts"},
		{"every mistake at once", []string{"bench", "--rate", "-1", "--seconds", "1ms", "--warmup", "1"}, 2,
			"must not be negative; --seconds must be at least 1; --warmup"},
		{"a guarantee that is none", []string{"bench", "--guarantee", "twice"}, 2, "exactly-once"},
		{"a model that is none", []string{"bench", "-m", dir}, 2, "model.onnx"},
		{"no topics", []string{"bench", "topics"}, 2, "give --brokers, --input and --output"},
		{"a length that is none", []string{"bench", "--seconds", "long"}, 2, `"long" is not a number of seconds`},
		{"rate and find", []string{"bench", "topics", "--rate", "5", "--find"}, 2, "exclude each other"},
		{"blank texts", append(topics, "out", "--texts", blank), 2, "holds no text"},
		{"a line without a text", append(topics, "out", "--texts", broken), 2,
			`broken:2 is no JSON object with a string in "text"`},
		{"a topic that is not there", append(topics, "verdicts"), 1, "topic verdicts on " + address},
		{"no broker", []string{"bench", "topics", "--brokers", "127.0.0.1:1", "--input", "in", "--output", "out"}, 1,
			"no broker answers at 127.0.0.1:1"},
		{"a process that is not there", append(topics, "out", "--pid", "999999999"), 2, "process 999999999 is not " +
			"there"},
		{"metrics that are not there", append(topics, "out", "--metrics", "http://127.0.0.1:1/metrics"), 2,
			"server.listen"},
		{"poison without a dead letter topic", append(topics, "out", "--poison", "0.1"), 1, "dead letter topic"},
		{"a size of nothing", []string{"bench", "size", "--rate", "5"}, 2, "--tokens"},
		{"no runners", []string{"bench", "engine", "--runners", "0"}, 2, "--runners must be between 1 and 1024"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := finish(t, sluice(t, tc.args...))
			if r.code != tc.code || !strings.Contains(r.err, tc.says) {
				t.Errorf("exit code %d, want %d; standard error:\n%s\nwant in it: %s", r.code, tc.code, r.err, tc.says)
			}
		})
	}
}
