package main

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"syscall"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"sluice/pipeline/failpoint"
	"sluice/pipeline/pipelinetest/badrecords"
)

// This file owns the scenarios in which a record, or the model that runs on it, does harm to the worker.

// Parts of texts at which failpoints of the workers act.
const (
	panicsOver = "this text makes a handler panic"
	killsOver  = "this text ends the process"
)

// bewitched starts workers that die or panic over some texts.
func bewitched(r *run) error {
	for i := range 2 {
		if _, err := r.command(fmt.Sprintf("w-%d", i), nil, "env", fmt.Sprintf("%s=%s:panic,%s:kill",
			failpoint.EnvTexts, panicsOver, killsOver)); err != nil {
			return err
		}
	}
	return nil
}

// poison produces records with a text, and nobody waits.
func (r *run) poison(text string, n int) error {
	for range n {
		m := &kgo.Record{Topic: r.in, Partition: int32(r.rng.IntN(r.partitions)), Key: fmt.Appendf(nil, "poison-%d",
			r.rng.Uint32()), Value: fmt.Appendf(nil, `{"id":0,"text":"Well, %s."}`, text)}
		if err := r.c.client.ProduceSync(r.ctx, m).FirstErr(); err != nil {
			return err
		}
		sleep(r.ctx, 200*time.Millisecond)
	}
	return nil
}

// condemned demands that records with a text are dead letters of a reason, and that no other record is.
func (r *run) condemned(text, reason string, n int) error {
	letters, err := r.read(r.dlq, kgo.ReadCommitted())
	if err != nil {
		return err
	}
	for _, m := range letters {
		is := bytes.Contains(m.Value, []byte(text))
		because := ""
		for _, h := range m.Headers {
			if h.Key == "sluice.error.reason" {
				because = string(h.Value)
			}
		}
		if is != (because == reason) {
			r.fail("a dead letter of reason %q: %.120q", because, m.Value)
		}
		if is {
			n--
		}
	}
	if n != 0 {
		r.fail("%d records are missing among the dead letters of reason %q", n, reason)
	}
	return nil
}

// panics: records over which a handler panics are dead letters, and nobody ends.
func panics(r *run) error {
	sleep(r.ctx, time.Second)
	if err := r.poison(panicsOver, pick(r, 8, 60)); err != nil {
		return err
	}
	n := 0
	for _, w := range r.workers {
		n += w.log.met()["text"]
	}
	if r.note("%d panics", n); n == 0 {
		return errors.New("no handler panicked")
	}
	return nil
}

// killer: a record that kills every process that touches it is found without a disk, by marks beside the committed
// offsets.
func killer(r *run) error {
	for range pick(r, 1, 3) {
		sleep(r.ctx, time.Second)
		before := 0
		for _, w := range r.workers {
			n, _ := w.counts()
			before += n
		}
		letters, err := r.read(r.dlq, kgo.ReadCommitted())
		if err != nil {
			return err
		}
		found := func(all []*kgo.Record) (n int) {
			for _, m := range all {
				if bytes.Contains(m.Value, []byte(killsOver)) {
					n++
				}
			}
			return n
		}
		had := found(letters)
		if err := r.poison(killsOver, 1); err != nil {
			return err
		}
		if err := await(r.ctx, 90*time.Second, "the killer among the dead letters", func() error {
			letters, err := r.read(r.dlq, kgo.ReadCommitted())
			if err == nil && found(letters) == had {
				err = errors.New("it is not there")
			}
			return err
		}); err != nil {
			return err
		}
		after := 0
		for _, w := range r.workers {
			n, _ := w.counts()
			after += n
		}
		deaths := after - before
		if r.note("%d deaths", deaths); deaths < 2 || deaths > 4 {
			r.fail("%d deaths by one record: four are due (in company, among few, two alone), or fewer where workers "+
				"had died there before", deaths)
		}
	}
	return nil
}

// wedged lets a model run hang: the watchdog ends the process with exit code 1, and its supervisor does the rest.
func wedged(r *run) error {
	for range pick(r, 1, 4) {
		w := r.workers[0]
		w.arm(fmt.Sprintf("%s:%d:hang", failpoint.InInference, 10+r.rng.IntN(40)))
		w.end(syscall.SIGKILL) // the next start has the failpoint
		hung := w.log.met()[failpoint.InInference]
		if err := await(r.ctx, 30*time.Second, "a model run to hang", func() error {
			if w.log.met()[failpoint.InInference] == hung {
				return errors.New("it runs")
			}
			return nil
		}); err != nil {
			return err
		}
		w.arm("")
		_, before := w.counts()
		at := time.Now()
		if err := await(r.ctx, 40*time.Second, "the watchdog", func() error {
			if _, exits := w.counts(); len(exits) == len(before) {
				return errors.New(w.name + " lives")
			}
			return nil
		}); err != nil {
			return err
		}
		r.note("ended %.0f s after the run began to hang", time.Since(at).Seconds())
		if _, exits := w.counts(); exits[len(before)] != 1 {
			r.fail("%s ended with exit code %d, want 1", w.name, exits[len(before)])
		}
		for _, s := range []string{"does not end, although its time was over", "will be processed again after a " +
			"restart"} {
			if !strings.Contains(w.log.String(), s) {
				r.fail("%s does not say %q in its log: %s", w.name, s, lastLine(w.log.String()))
			}
		}
		if err := w.await(r.ctx); err != nil {
			return err
		}
	}
	return nil
}

// badInput feeds texts alone, and then the same ones with every kind of bad record between them: the checker demands
// that equal texts have equal verdicts, byte for byte.
func badInput(r *run) error {
	words := strings.Fields("the hotel was lovely and quiet but the food took hours awful service friendly staff we " +
		"will come back never again a view over the sea")
	good := make([]string, pick(r, 3000, 30_000))
	for i := range good {
		var b []string
		for range 2 + r.rng.IntN(30) {
			b = append(b, words[r.rng.IntN(len(words))])
		}
		good[i] = fmt.Sprintf(`{"id":%d,"text":"%s, %d"}`, i, strings.Join(b, " "), i)
	}
	record := func(pass string, i int) *kgo.Record {
		return &kgo.Record{Topic: r.in, Partition: int32(i % r.partitions), Key: fmt.Appendf(nil, "%s-%d", pass, i),
			Value: []byte(good[i])}
	}
	c, err := r.producer(kgo.ProducerBatchMaxBytes(1 << 20))
	if err != nil {
		return err
	}
	defer c.Close()
	var alone, mixed []*kgo.Record
	bad := 0
	for i := range good {
		alone = append(alone, record("alone", i))
	}
	if err := c.ProduceSync(r.ctx, alone...).FirstErr(); err != nil {
		return err
	}
	if err := r.settle(2 * time.Minute); err != nil {
		return err
	}
	r.rng.Shuffle(len(good), func(i, j int) { good[i], good[j] = good[j], good[i] }) // other batches, other mates
	pcg := rand.New(rand.NewPCG(r.seed, 1))
	for i := range good {
		mixed = append(mixed, record("mixed", i))
		if r.rng.IntN(4) == 0 { // of all records a fifth
			mixed = append(mixed, &kgo.Record{Topic: r.in, Partition: int32(r.rng.IntN(r.partitions)),
				Key: fmt.Appendf(nil, "bad-%d", bad), Value: badrecords.Kinds[bad%len(badrecords.Kinds)](pcg)})
			bad++
		}
	}
	if err := c.ProduceSync(r.ctx, mixed...).FirstErr(); err != nil {
		return err
	}
	r.note("%d texts alone, then again among %d bad records of %d kinds", len(good), bad, len(badrecords.Kinds))
	return nil
}

// goodOnes demands that no good record is a dead letter.
func goodOnes(r *run) error {
	letters, err := r.read(r.dlq, kgo.ReadCommitted())
	if err != nil {
		return err
	}
	if len(letters) == 0 {
		r.fail("not one bad record is a dead letter")
	}
	for _, m := range letters {
		if !bytes.HasPrefix(m.Key, []byte("bad-")) {
			r.fail("a good record is a dead letter: %.120q", m.Value)
		}
	}
	return unharmed(r)
}

func poisonScenarios() []scenario {
	s := []scenario{
		{name: "bad-records", fault: "bad records at volume", injected: "3000 texts (long: 30000) alone, then the " +
			"same with every kind of bad record mixed in, a fifth of all; no exit", promises: "verdicts of the good " +
			"ones byte for byte as without the bad ones", do: badInput, after: goodOnes, workers: 2, rate: -1},
		{name: "handler-panic", fault: "a handler panics over records", injected: "failpoint in the tokenizing of " +
			"some texts: dead letters of reason panic, those only; no exit", before: bewitched, do: panics,
			after: func(r *run) error {
				return errors.Join(unharmed(r), r.condemned(panicsOver, "panic",
					pick(r, 8, 60)))
			}},
		{name: "killer-record", fault: "a record kills every process that touches it", injected: "SIGKILL in the " +
			"tokenizing of one text (long: 3): dead letter of reason killed-the-worker after 4 deaths at most",
			before: bewitched, do: killer,
			after: func(r *run) error { return r.condemned(killsOver, "killed-the-worker", pick(r, 1, 3)) }},
		{name: "wedged-inference", fault: "a model run never ends", injected: "failpoint in-inference hangs; " +
			"run_timeout 2 s; the watchdog ends the worker with exit code 1", do: wedged, workers: 2,
			args: []string{"--run_timeout=2s"}, ends: []string{"exit 1"}},
	}
	for i := range s {
		s[i].brokers = 1
	}
	return s
}
