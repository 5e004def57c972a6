package main

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"sluice/cmd/sluice/audit"
	"sluice/pipeline/pipelinetest"
)

// The product as a user runs it: two processes of `sluice run` with a bundled model on a real broker, killed with
// SIGKILL again and again while they work. An independent read_committed client must see every record once, in order,
// as a result or as a dead letter, and the group's offsets at the end of the log.
func TestKilledWorkersLoseAndDoubleNothingOnARealBroker(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: no real broker")
	}
	dir := needModel(t, "sentiment-tiny")
	broker, listener := pipelinetest.TestListener(t)
	const records, kills, every = 6000, 12, 400
	topics := []string{"customer_reviews", "review_analysis", "review_dlq"}
	client := broker.Client(t, kgo.ConsumeTopics(topics[1:]...), kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.RecordPartitioner(kgo.RoundRobinPartitioner()))
	admin := kadm.NewClient(client)
	if _, err := admin.CreateTopics(t.Context(), 4, 1, nil, topics...); err != nil {
		t.Fatal(err)
	}
	var input []*kgo.Record
	dead := 0
	for i := range records {
		value := fmt.Sprintf(`{"id":%d,"text":"Review number %d of a hotel by the sea, all in all a pleasant stay."}`,
			i, i)
		if i%50 == 7 {
			value = value[:len(value)-1] // no JSON
			dead++
		}
		input = append(input, &kgo.Record{Topic: topics[0], Key: []byte(strconv.Itoa(i)), Value: []byte(value)})
	}
	// There are always records ahead of the next kill, however fast the machine is.
	produced := 0
	produce := func(n int) {
		n = min(n, records-produced)
		if err := client.ProduceSync(t.Context(), input[produced:produced+n]...).FirstErr(); err != nil {
			t.Fatal(err)
		}
		produced += n
	}
	produce(3 * every)

	config := runConfigBy(t, broker, listener, dir)
	start := func(instance string) *workerProcess {
		return startWorker(t, "-c", config, "--kafka.instance_id="+instance, "--kafka.commit_interval=20ms",
			"--limits.partition.records=100", "--batch_tokens=256")
	}
	workers := []*workerProcess{start("w-0"), start("w-1")}

	seen := map[string]int{}
	last := map[string]int{}
	got, letters, killed := 0, 0, 0
	var again *kgo.Record
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	for got < records {
		f := client.PollFetches(ctx)
		if ctx.Err() != nil {
			t.Fatalf("%d of %d records after 4 minutes and %d kills\n%s\n%s", got, records, killed, workers[0].logs(),
				workers[1].logs())
		}
		f.EachRecord(func(r *kgo.Record) {
			got++
			if r.Topic == topics[2] {
				letters++
			} else {
				again = r
			}
			id := string(r.Key)
			seen[id]++
			n, err := strconv.Atoi(id)
			if err != nil {
				t.Fatalf("%s-%d@%d has key %q, which no record has", r.Topic, r.Partition, r.Offset, id)
			}
			lane := fmt.Sprint(r.Topic, r.Partition)
			if before, ok := last[lane]; ok && n <= before {
				t.Errorf("%s-%d@%d: record %d after %d", r.Topic, r.Partition, r.Offset, n, before)
			}
			last[lane] = n
		})
		if killed < kills && got >= (killed+1)*every {
			w := killed % 2
			if err := workers[w].cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
			<-workers[w].done
			killed++
			workers[w] = start(fmt.Sprintf("w-%d", w))
			produce(every)
			if killed == kills {
				produce(records)
			}
		}
	}
	for _, w := range workers {
		w.waitReady(t)
		w.cmd.Process.Signal(syscall.SIGTERM)
	}
	for _, w := range workers {
		if code := w.exit(t); code != exitDone {
			t.Errorf("exit code %d after SIGTERM\n%s", code, w.logs())
		}
	}
	lost, doubled := 0, 0
	for i := range records {
		switch n := seen[strconv.Itoa(i)]; {
		case n == 0:
			lost++
		case n > 1:
			doubled++
		}
	}
	if lost+doubled > 0 || got != records || letters != dead {
		t.Errorf("%d records: %d lost, %d doubled, %d messages, %d dead letters where %d were due", records, lost,
			doubled, got, letters, dead)
	}
	offsets, err := admin.FetchOffsets(t.Context(), "reviews")
	if err != nil {
		t.Fatal(err)
	}
	ends, err := admin.ListEndOffsets(t.Context(), topics[0])
	if err != nil {
		t.Fatal(err)
	}
	ends.Each(func(o kadm.ListedOffset) {
		if c, ok := offsets.Lookup(o.Topic, o.Partition); !ok || c.At != o.Offset {
			t.Errorf("%s-%d: offset %d is committed, the log ends at %d", o.Topic, o.Partition, c.At, o.Offset)
		}
	})
	grantVerify(t, broker, listener, topics[1:]...)
	// What the product itself says about it, before and after somebody writes a result once more.
	if r := finish(t, sluice(t, "verify", "-c", config, "--since", "all")); r.code != exitDone ||
		!strings.Contains(r.out, fmt.Sprintf("clean: each of %d records has exactly one answer, in order", records)) {
		t.Errorf("verify: exit code %d\n%s%s", r.code, r.out, r.err)
	}
	if err := client.ProduceSync(t.Context(), &kgo.Record{Topic: topics[1], Value: again.Value,
		Headers: again.Headers}).FirstErr(); err != nil {
		t.Fatal(err)
	}
	r := finish(t, sluice(t, "verify", "-c", config, "--json"))
	var found audit.Report
	if err := json.Unmarshal([]byte(r.out), &found); err != nil || r.code != exitFailed || found.Total.Doubled != 1 ||
		found.Total.Lost != 0 {
		t.Errorf("verify of a doubled result: exit code %d, %v\n%s%s", r.code, err, r.out, r.err)
	}
	t.Logf("%d records, %d SIGKILLs, %d lost, %d doubled, %d dead letters", records, killed, lost, doubled, letters)
	if killed != kills {
		t.Errorf("only %d kills happened while there was work", killed)
	}
}
