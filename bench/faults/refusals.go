package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"syscall"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"sluice/pipeline"
)

// This file owns the scenarios in which a broker refuses what workers write for what it is.

// refusedText is in every record of which the broker refuses the result.
const refusedText = "nobody takes this record as it is"

// noLimit is the largest value of the settings in milliseconds.
const noLimit = "9223372036854775807"

// refused mixes records among the others of which the broker refuses what is made of them, and kills workers meanwhile.
// change makes one of a record.
func refused(change func(*kgo.Record)) func(*run) error {
	return func(r *run) error {
		for i := range pick(r, 4, 40) {
			sleep(r.ctx, r.between(300*time.Millisecond, time.Second))
			var all []*kgo.Record
			for n := range 5 {
				m := &kgo.Record{Topic: r.in, Partition: int32(r.rng.IntN(r.partitions)), Timestamp: time.Now(),
					Key:   fmt.Appendf(nil, "refused-%d-%d", i, n),
					Value: fmt.Appendf(nil, `{"id":%d,"text":"Well, %s."}`, n, refusedText)}
				change(m)
				all = append(all, m)
			}
			if err := r.c.client.ProduceSync(r.ctx, all...).FirstErr(); err != nil {
				return err
			}
			if i%4 == 1 {
				w := r.workers[r.rng.IntN(len(r.workers))]
				w.end(syscall.SIGKILL)
				if err := w.await(r.ctx); err != nil {
					return err
				}
			}
		}
		return nil
	}
}

// refusedRecords is how many of them there are.
func refusedRecords(r *run) int { return 5 * pick(r, 4, 40) }

// noneEnds demands that no worker ended by itself.
func (r *run) noneEnds() {
	for _, w := range r.workers {
		for _, e := range w.endings() {
			r.fail("%s ended by itself, %s: %s", w.name, e.how, e.said)
		}
	}
}

// wholeLetters demands that the refused records, and no others, are dead letters of a reason, byte for byte.
func wholeLetters(reason string) func(*run) error {
	return func(r *run) error {
		r.noneEnds()
		return r.condemned(refusedText, reason, refusedRecords(r))
	}
}

// pointers demands that of the refused records pointers are left, with a key and a time that brokers take.
func pointers(r *run) error {
	r.noneEnds()
	letters, err := r.read(r.dlq, kgo.ReadCommitted())
	if err != nil {
		return err
	}
	n := 0
	for _, m := range letters {
		reason := ""
		for _, h := range m.Headers {
			if h.Key == "sluice.error.reason" {
				reason = string(h.Value)
			}
		}
		if reason != pipeline.RefusedTimestamp {
			continue
		}
		n++
		var at struct {
			Topic   string
			Refused string `json:"refused_by"`
		}
		if err := json.Unmarshal(m.Value, &at); err != nil || at.Topic != r.in || at.Refused != r.dlq ||
			len(m.Key) == 0 || time.Since(m.Timestamp).Abs() > time.Hour {
			r.fail("no pointer: %.200q, key %q, at %v", m.Value, m.Key, m.Timestamp)
		}
	}
	if want := refusedRecords(r); n != want {
		r.fail("%d pointers, want %d", n, want)
	}
	return nil
}

// grownLatest adds partitions twice, with records in them before anybody has looked: while workers run, and while none
// does.
func grownLatest(r *run) error {
	more := func() error {
		r.partitions += 4
		if err := r.widen(r.partitions); err != nil {
			return err
		}
		c, err := r.producer() // the usual client does not know them yet
		if err != nil {
			return err
		}
		defer c.Close()
		for range pick(r, 3, 30) {
			var all []*kgo.Record
			for range 10 * r.partitions {
				all = append(all, r.record(r.produced))
				r.produced++
			}
			if err := c.ProduceSync(r.ctx, all...).FirstErr(); err != nil {
				return err
			}
			sleep(r.ctx, 100*time.Millisecond)
		}
		return nil
	}
	if err := errors.Join(r.produce(400), more(), r.settle(time.Minute)); err != nil {
		return err
	}
	for _, w := range r.workers {
		w.stop(syscall.SIGTERM)
	}
	if err := more(); err != nil {
		return err
	}
	for i := range 2 {
		w, err := r.start(fmt.Sprintf("w-%d", i))
		if err != nil {
			return err
		}
		if err := w.await(r.ctx); err != nil {
			return err
		}
	}
	return r.settle(time.Minute)
}

func refusalScenarios() []scenario {
	micros := func(m *kgo.Record) { m.Timestamp = time.UnixMilli(m.Timestamp.UnixMicro()) }
	keyless := func(m *kgo.Record) { m.Key = nil }
	lax := []string{"message.timestamp.after.max.ms", noLimit}
	s := []scenario{
		{name: "refused-timestamp", fault: "the result topic refuses timestamps", injected: "timestamps in " +
			"microseconds; the result topic takes an hour ahead; a worker is killed meanwhile. A dead letter each, " +
			"no exit", inConfig: lax, dlqConfig: lax, do: refused(micros),
			after: wholeLetters(pipeline.RefusedTimestamp)},
		{name: "refused-key", fault: "a compacted result topic refuses messages without a key", injected: "records " +
			"without a key; cleanup.policy=compact; a worker is killed meanwhile. A dead letter each, no exit",
			outConfig: []string{"cleanup.policy", "compact"}, do: refused(keyless),
			after: wholeLetters(pipeline.RefusedRecord)},
		{name: "refused-twice", fault: "result topic and dead letter topic refuse a record", injected: "timestamps " +
			"in microseconds and no key; both topics take an hour ahead, the dead letter topic is compacted; a " +
			"worker is killed meanwhile. A pointer each, no exit", inConfig: lax,
			dlqConfig: []string{"cleanup.policy", "compact"},
			do:        refused(func(m *kgo.Record) { micros(m); keyless(m) }), after: pointers},
		{name: "partitions-added-latest", fault: "partitions are added; start: latest", injected: "CreatePartitions " +
			"from 4 to 8 while workers run, to 12 while they are down; records are in the new ones before anybody " +
			"looks. All of them are read", args: []string{"--input.start=latest"}, rate: -1, do: grownLatest,
			settle: 2 * time.Minute},
	}
	for i := range s {
		s[i].brokers, s[i].workers = 1, 2
	}
	return s
}
