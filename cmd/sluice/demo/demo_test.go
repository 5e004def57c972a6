package demo

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"sluice/pipeline"
)

func modelDirs(t *testing.T, names ...string) string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range names {
		if err := os.Mkdir(filepath.Join(dir, name), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name, "config.json"), []byte("{}"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestFindTakesTheModelsOfTheDemoOrWhateverThereIs(t *testing.T) {
	valid := func(name string) bool { return name != "no name" }
	for _, c := range []struct {
		dirs []string
		want string
	}{
		{[]string{"sentiment", "ner", "toxicity"}, "sentiment entities"},
		{[]string{"ner"}, "entities"},
		{[]string{"mine", "no name"}, "mine"},
	} {
		dir := modelDirs(t, c.dirs...)
		list, err := Find(dir, valid)
		var got []string
		for i := range list {
			got = append(got, list[i].Verdict())
			if list[i].Dir != filepath.Join(dir, list[i].Name) {
				t.Errorf("%+v", list[i])
			}
		}
		if err != nil || strings.Join(got, " ") != c.want {
			t.Errorf("%v: %v, want %s: %v", c.dirs, got, c.want, err)
		}
	}
	if _, err := Find(t.TempDir(), valid); pipeline.KindOf(err) != pipeline.Config ||
		!strings.Contains(err.Error(), "there is no model directory in ") {
		t.Errorf("%v", err)
	}
}

// worker answers every record, as a worker would, with the verdict of the oracle.
func worker(ctx context.Context, j Job) error {
	client, err := kgo.NewClient(kgo.SeedBrokers(j.Plan.Broker), kgo.ConsumeTopics(j.Plan.Input),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.ProducerLinger(0))
	if err != nil {
		return err
	}
	defer client.Close()
	j.Started(Worker{Models: []string{"m@1"}, Describe: []string{"m: m@1"}, Guarantee: "exactly-once",
		Queue: func() (int64, int) { return 0, 0 }, Problem: func() string { return "" }})
	for ctx.Err() == nil {
		client.PollFetches(ctx).EachRecord(func(r *kgo.Record) {
			out := record(r.Partition, r.Offset, j.Plan.Output, sampleResult)
			out.Timestamp, out.Partition = r.Timestamp, r.Partition
			client.Produce(ctx, out, nil)
		})
	}
	return nil
}

func TestADemoEndsWhenEveryRecordHasItsAnswer(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var out bytes.Buffer
	if err := Run(ctx, &out, &out, Options{Records: 100}, worker); err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
	for _, want := range []string{"broker     127.0.0.1:", "model      m: m@1", "ready      after ",
		"100 records in, 100 results and 0 dead letters out, 0 of them twice", "every record has exactly one answer"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, out.String())
		}
	}
}

func TestADemoEndsWithItsWorker(t *testing.T) {
	broken := errors.New("the model is broken")
	for want, end := range map[string]error{broken.Error(): broken, "the worker ended before the demo": nil} {
		var out bytes.Buffer
		err := Run(t.Context(), &out, &out, Options{Records: 1}, func(context.Context, Job) error { return end })
		if err == nil || err.Error() != want {
			t.Errorf("%v, want %s", err, want)
		}
	}
}

func TestEscalatingNeedsTheModelThatIsAskedAbout(t *testing.T) {
	p := Plan{Models: []Model{{Name: "ner"}}}
	if _, err := escalate(&p); pipeline.KindOf(err) != pipeline.Config ||
		!strings.Contains(err.Error(), "a model named sentiment") {
		t.Errorf("%v", err)
	}
	p.Models = append(p.Models, Model{Name: "sentiment", Field: "mood"})
	end, err := escalate(&p)
	if err != nil {
		t.Fatal(err)
	}
	end()
	if e := p.Escalation; e.Verdict != "mood" || e.When != "mood.score < 0.8" || !strings.HasPrefix(e.URL,
		"http://127.") {
		t.Errorf("%+v", e)
	}
}
