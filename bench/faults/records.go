package main

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"sluice/bench/faults/history"
	"sluice/pipeline/pipelinetest/leak"
)

// This file owns the scenarios in which topics and what lies in them are unusual.

// producer is a client of its own for records that the harness's usual one does not take.
func (r *run) producer(opts ...kgo.Opt) (*kgo.Client, error) {
	return kgo.NewClient(append([]kgo.Opt{kgo.SeedBrokers(r.c.direct...),
		kgo.RecordPartitioner(kgo.ManualPartitioner())}, opts...)...)
}

// large mixes records that are larger than a fetch among the others.
func large(r *run) error {
	c, err := r.producer(kgo.ProducerBatchMaxBytes(8<<20), kgo.ProducerBatchCompression(kgo.NoCompression()))
	if err != nil {
		return err
	}
	defer c.Close()
	for i := range pick(r, 6, 30) {
		sleep(r.ctx, 500*time.Millisecond)
		value := fmt.Sprintf(`{"id":%d,"text":%q}`, i, strings.Repeat("A long story of a stay by the sea. ", 60_000+i))
		if err := c.ProduceSync(r.ctx, &kgo.Record{Topic: r.in, Partition: int32(i % r.partitions),
			Key: fmt.Appendf(nil, "large-%d", i), Value: []byte(value)}).FirstErr(); err != nil {
			return err
		}
	}
	return nil
}

// bombs are batches of a few kilobytes that become many megabytes.
func bombs(r *run) error {
	c, err := r.producer(kgo.ProducerBatchMaxBytes(100<<20), kgo.MaxProduceRequestsInflightPerBroker(1),
		kgo.ProducerBatchCompression(kgo.ZstdCompression()))
	if err != nil {
		return err
	}
	defer c.Close()
	w := r.workers[0]
	before, err := w.metrics()
	if err != nil {
		return err
	}
	most := 0.0
	const size = 32 << 20
	for i := range pick(r, 4, 20) {
		value := `{"id":1,"text":"` + strings.Repeat("a", size) + `"}`
		if err := c.ProduceSync(r.ctx, &kgo.Record{Topic: r.in, Partition: int32(i % r.partitions),
			Key: fmt.Appendf(nil, "bomb-%d", i), Value: []byte(value)}).FirstErr(); err != nil {
			return err
		}
		for range 10 {
			sleep(r.ctx, 100*time.Millisecond)
			if m, err := w.metrics(); err == nil {
				most = max(most, m["process_resident_memory_bytes"])
			}
		}
	}
	grown := (most - before["process_resident_memory_bytes"]) / (1 << 20)
	const bound = 768
	if r.note("RSS %+.0f MiB at most", grown); grown > bound {
		r.fail("%s grew by %.0f MiB over batches of %d MiB; the bound is %d", w.name, grown, size>>20, bound)
	}
	return nil
}

// upstream writes transactions, every third of which aborts, into the input.
func upstream(r *run) error {
	c, err := r.producer(kgo.TransactionalID(r.group+"-upstream"), kgo.TransactionTimeout(30*time.Second))
	if err != nil {
		return err
	}
	defer c.Close()
	aborted := 0
	for i := range pick(r, 60, 600) {
		if err := c.BeginTransaction(); err != nil {
			return err
		}
		for range 1 + r.rng.IntN(40) {
			c.Produce(r.ctx, r.record(r.produced), nil)
			r.produced++
		}
		if err := c.Flush(r.ctx); err != nil {
			return err
		}
		end := kgo.TryCommit
		if i%3 == 1 {
			end, aborted = kgo.TryAbort, aborted+1
		}
		if err := c.EndTransaction(r.ctx, end); err != nil {
			return err
		}
	}
	r.note("%d upstream transactions aborted", aborted)
	return nil
}

// compact fills the input with records most of which compaction removes, and waits until it has, before workers start.
func compact(r *run) error {
	var all []*kgo.Record
	const n = 6000
	for i := range n {
		m := r.record(i)
		if i%6 != 0 {
			m.Key = fmt.Appendf(nil, "again-%d", i%7)
		}
		all = append(all, m)
	}
	r.produced = n
	for len(all) > 0 { // in several segments
		k := min(len(all), 1000)
		if err := r.c.client.ProduceSync(r.ctx, all[:k]...).FirstErr(); err != nil {
			return err
		}
		all = all[k:]
		sleep(r.ctx, 1200*time.Millisecond)
	}
	return await(r.ctx, 90*time.Second, "compaction", func() error {
		left, err := r.read(r.in, kgo.ReadCommitted())
		if err != nil {
			return err
		}
		if len(left) > n/2 {
			return fmt.Errorf("%d of %d records are left", len(left), n)
		}
		return nil
	})
}

// keep remembers the records of the input before some of them are deleted: their outputs are no foreign ones.
func (r *run) keep() error {
	records, err := r.read(r.in, kgo.ReadCommitted())
	r.gone = append(r.gone, records...)
	return err
}

// remade deletes the input topic and makes it again under the same name.
func remade(r *run) error {
	sleep(r.ctx, 2*time.Second)
	if err := r.fedAll(); err != nil {
		return err
	}
	if err := r.settle(30 * time.Second); err != nil {
		return err
	}
	if err := r.keep(); err != nil {
		return err
	}
	if r, err := r.c.admin.DeleteTopic(r.ctx, r.in); errors.Join(err, r.Err) != nil {
		return errors.Join(err, r.Err)
	}
	sleep(r.ctx, r.between(time.Second, 4*time.Second))
	if err := r.c.createTopic(r.ctx, r.partitions, r.in); err != nil {
		return err
	}
	c, err := r.producer() // the usual client has the id of the former topic in mind
	if err != nil {
		return err
	}
	defer c.Close()
	for range 10 {
		var all []*kgo.Record
		for range 60 {
			all = append(all, r.record(r.produced))
			r.produced++
		}
		if err := c.ProduceSync(r.ctx, all...).FirstErr(); err != nil {
			return err
		}
		sleep(r.ctx, 300*time.Millisecond)
	}
	return nil
}

// grown adds partitions while records flow.
func grown(r *run) error {
	sleep(r.ctx, 2*time.Second)
	if err := r.fedAll(); err != nil {
		return err
	}
	more := 2 * r.partitions
	if err := r.widen(more); err != nil {
		return err
	}
	sleep(r.ctx, 3*time.Second) // until the feeder's client knows them
	r.partitions = more
	r.feed()
	sleep(r.ctx, 3*time.Second)
	return nil
}

// widen gives the input so many partitions.
func (r *run) widen(partitions int) error {
	answers, err := r.c.admin.UpdatePartitions(r.ctx, partitions, r.in)
	if err == nil {
		err = answers.Error()
	}
	if err != nil {
		return err
	}
	return await(r.ctx, 20*time.Second, "the new partitions", func() error {
		topics, err := r.c.admin.ListTopics(r.ctx, r.in)
		if err == nil && len(topics[r.in].Partitions) != partitions {
			err = fmt.Errorf("%d partitions", len(topics[r.in].Partitions))
		}
		return err
	})
}

// wide is one worker with very many partitions, that dies once.
func wide(r *run) error {
	sleep(r.ctx, 4*time.Second)
	r.workers[0].end(syscall.SIGKILL)
	return r.workers[0].await(r.ctx)
}

// overload feeds 120 % of what a worker can do, and looks whether it keeps its speed and its size.
func overload(r *run) error {
	committed := func() (float64, error) {
		m, err := r.workers[0].metrics()
		return m["sluice_records_total"], err
	}
	if err := r.produce(30_000); err != nil {
		return err
	}
	from, err := committed()
	if err != nil {
		return err
	}
	began := time.Now()
	sleep(r.ctx, 5*time.Second)
	to, err := committed()
	if err != nil {
		return err
	}
	capacity := (to - from) / time.Since(began).Seconds()
	if err := r.settle(2 * time.Minute); err != nil {
		return err
	}
	r.s.rate = int(1.2 * capacity)
	r.feed()
	var rates, sizes []float64 // of every 30 s
	last, err := committed()
	if err != nil {
		return err
	}
	for range pick(r, 4, 20) {
		at := time.Now()
		sleep(r.ctx, 30*time.Second)
		m, err := r.workers[0].metrics()
		if err != nil {
			return err
		}
		rates = append(rates, (m["sluice_records_total"]-last)/time.Since(at).Seconds())
		last = m["sluice_records_total"]
		sizes = append(sizes, m["process_resident_memory_bytes"]/(1<<20))
		if n := m["sluice_in_flight_records"]; n > float64(inFlightBound) {
			r.fail("%.0f records in flight, the bound is %d with one fetch", n, inFlightBound)
		}
	}
	behind, err := r.standing()
	if err != nil {
		return err
	}
	lag := int64(0)
	for p, end := range behind.Ends {
		lag += end - max(0, behind.Committed[p])
	}
	if r.note("lag %d at the end of the overload", lag); lag < int64(r.s.rate) {
		r.fail("the lag is %d after the overload, less than a second of the feed: it was none", lag)
	}
	// Best is what holds for two minutes (short: one): a single half minute says more about what else the machine does.
	best, mean, window := 0.0, average(rates), pick(r, 2, 4)
	for i := range len(rates) - window + 1 {
		best = max(best, average(rates[i:i+window]))
	}
	r.note("fed %d/s, committed %.0f/s on average, %.0f/s in the best %d s, %.0f to %.0f/s in single 30 s; RSS %.0f "+
		"MiB at first, %.0f at last", r.s.rate, mean, best, 30*window, slices.Min(rates), slices.Max(rates), sizes[0],
		sizes[len(sizes)-1])
	if mean < 0.95*best {
		r.fail("%.0f records a second under overload, less than 95 %% of the best, %.0f", mean, best)
	}
	if sizes[len(sizes)-1] > sizes[0]+128 {
		r.fail("RSS grew from %.0f to %.0f MiB under overload; the bound is 128 more", sizes[0], sizes[len(sizes)-1])
	}
	return nil
}

// soak puts very many texts through the only worker, no two equal, and looks whether it holds more and more.
func soak(r *run) error {
	short, long := pick(r, 100_000, 1_000_000), pick(r, 1000, 10_000)
	c, err := r.producer(kgo.MaxBufferedRecords(10_000))
	if err != nil {
		return err
	}
	defer c.Close()
	fed := make(chan error, 1)
	began := time.Now()
	go func() {
		var mu sync.Mutex
		var first error
		for i, text := range leak.Texts(short, long) {
			c.Produce(r.ctx, &kgo.Record{Topic: r.in, Partition: int32(i % r.partitions), Key: fmt.Appendf(nil, "r-%d",
				i), Value: fmt.Appendf(nil, `{"id":%d,"text":%q}`, i, text)}, func(_ *kgo.Record, err error) {
				mu.Lock()
				defer mu.Unlock()
				first = cmp.Or(first, err)
			})
		}
		err := c.Flush(r.ctx)
		mu.Lock()
		defer mu.Unlock()
		fed <- errors.Join(first, err)
	}()
	var samples []leak.Sample
	if err := await(r.ctx, pick(r, 5*time.Minute, 20*time.Minute), "all texts to be judged", func() error {
		if starts, _ := r.workers[0].counts(); starts != 1 {
			return nil // unharmed says it
		}
		sleep(r.ctx, 400*time.Millisecond)
		m, err := r.workers[0].metrics()
		if err != nil {
			return err
		}
		n := int(m["sluice_records_total"])
		if samples = append(samples, leak.Sample{Texts: n, At: time.Since(began),
			Resident: m["process_resident_memory_bytes"], Goroutines: int(m["go_goroutines"])}); n < short+long {
			return fmt.Errorf("%d of %d are", n, short+long)
		}
		return nil
	}); err != nil {
		return err
	}
	if err := <-fed; err != nil {
		return err
	}
	took := time.Since(began)
	v, err := leak.Judge(samples)
	if err != nil {
		r.fail("%s: %v", r.workers[0].name, err)
	}
	r.note("%d short and %d long texts in %.0f s; %v", short, long, took.Seconds(), v)
	return unharmed(r)
}

func average(x []float64) float64 {
	sum := 0.0
	for _, v := range x {
		sum += v
	}
	return sum / float64(len(x))
}

func recordScenarios() []scenario {
	s := []scenario{
		{name: "large-input", fault: "records larger than a fetch", injected: "records of 2 MB among the others, " +
			"fetch.max_bytes is 1 MiB", do: large, args: []string{"--kafka.fetch.max_bytes=1MiB"},
			inConfig: []string{"max.message.bytes", "8388608"}, outConfig: []string{"max.message.bytes", "8388608"}},
		{name: "large-output", fault: "results larger than their topic takes", injected: "max.message.bytes of the " +
			"result topic is 1000: a pointer in the dead letter topic", do: quiet,
			outConfig: []string{"max.message.bytes", "1000"}},
		{name: "aborted-upstream", fault: "aborted transactions in the input", injected: "a transactional producer " +
			"aborts every third of its transactions", do: upstream, rate: -1},
		{name: "compacted-input", fault: "compacted gaps in the input", injected: "compaction removes more than half " +
			"of the records before they are read", before: compact, do: quiet, rate: -1,
			inConfig: []string{"cleanup.policy", "compact", "segment.ms", "1000", "min.cleanable.dirty.ratio", "0.01",
				"max.compaction.lag.ms", "2000"}},
		{name: "compression-bomb", fault: "compression bombs in the input", injected: "zstd batches of a few kB that " +
			"hold one record of 32 MiB", promises: "P7 (RSS grows by at most 768 MiB)", do: bombs,
			inputs: func(in *history.Input) { in.Same = "" }},
		{name: "topic-remade", fault: "the input topic is deleted and made again", injected: "DeleteTopics, " +
			"CreateTopics 1 to 4 s later; every record of both is demanded", do: remade, remade: true},
		{name: "partitions-added", fault: "partitions are added while records flow", injected: "CreatePartitions " +
			"from 4 to 8; the leader looks every 30 s", do: grown, settle: 2 * time.Minute},
		{name: "overload", fault: "120 % of the capacity", injected: "10 minutes at 1.2 times the rate at which a " +
			"backlog goes down", promises: "P7 (in flight, RSS +128 MiB), on average 95 % of the throughput of the " +
			"best two minutes", do: overload, rate: -1, workers: 1, long: true, alone: true, distinct: true,
			settle: 10 * time.Minute},
		{name: "slow-leak", fault: "a slow leak, if there is one", injected: "1,000,000 short texts (4 to 28 words) " +
			"and 10,000 long ones (1,500 to 2,500), no two equal (short: a tenth of both), through one worker; the " +
			"first quarter does not count", promises: "P7 (RSS: slope and medians flat within 10 % or 24 MiB; " +
			"goroutines +3)", do: soak, rate: -1, workers: 1, long: true, alone: true},
	}
	for i := range s {
		s[i].brokers = 1
		if s[i].workers == 0 {
			s[i].workers = 2
		}
	}
	return append(s, scenario{name: "200-partitions", fault: "200 partitions on one worker",
		injected: "one worker, killed once", do: wide, partitions: 200, brokers: 1, workers: 1})
}

// quiet lets records flow: the fault lies in them.
func quiet(r *run) error {
	sleep(r.ctx, pick(r, 4*time.Second, 30*time.Second))
	return nil
}
