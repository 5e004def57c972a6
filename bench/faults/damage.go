package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"sluice/bench/faults/history"
)

// This file owns the scenarios in which a batch is damaged where the broker keeps it, so that fetching it again does
// not help. The file is written to while the broker has it open: both see the same pages.

// stored is one batch of a segment file, by the layout of Kafka's DefaultRecordBatch.
type stored struct {
	at, size    int64 // in the file
	base, after int64 // offsets
}

// Fields of a batch, in bytes from its beginning.
const (
	fieldLength    = 8
	fieldMagic     = 16
	fieldCRC       = 17
	fieldAttrs     = 21
	fieldLastDelta = 23
	fieldRecords   = 61
)

// segment lists the batches of a segment file.
func segment(file string) (raw []byte, all []stored, err error) {
	if raw, err = os.ReadFile(file); err != nil {
		return nil, nil, err
	}
	for at := int64(0); at+fieldRecords < int64(len(raw)); {
		b := raw[at:]
		s := stored{at: at, size: int64(binary.BigEndian.Uint32(b[fieldLength:])) + fieldLength + 4,
			base: int64(binary.BigEndian.Uint64(b))}
		if s.size < fieldRecords || at+s.size > int64(len(raw)) {
			break // preallocated space, or a batch that is being written
		}
		s.after = s.base + int64(binary.BigEndian.Uint32(b[fieldLastDelta:])) + 1
		all = append(all, s)
		at += s.size
	}
	return raw, all, nil
}

// A harm changes a batch, given a number to choose the place by.
type harm func(b []byte, n int)

// bitRot flips one bit of the records.
func bitRot(b []byte, n int) { b[fieldRecords+n%(len(b)-fieldRecords)] ^= 1 << (n % 8) }

// strangeCodec names a compression that does not exist, and has a valid checksum.
func strangeCodec(b []byte, _ int) {
	b[fieldAttrs+1] = b[fieldAttrs+1]&^7 | 6
	binary.BigEndian.PutUint32(b[fieldCRC:], crc32.Checksum(b[fieldAttrs:], crc32.MakeTable(crc32.Castagnoli)))
}

// strangeFormat names a format version that does not exist.
func strangeFormat(b []byte, _ int) { b[fieldMagic] = 3 }

// spoilt is a batch that was damaged in the log of its partition's leader.
type spoilt struct {
	partition int32
	leader    int
	batch     stored
	whole     []byte // as it was
	w         *worker
}

// file is where a broker keeps the partition: one segment.
func (b *spoilt) file(r *run, broker int) string {
	return filepath.Join(r.c.dir, "kafka", fmt.Sprintf("broker-%d", broker), "data", fmt.Sprintf("%s-%d", r.in,
		b.partition), fmt.Sprintf("%020d.log", 0))
}

// in says whether the batch lies undamaged in a broker's log.
func (b *spoilt) in(r *run, broker int) error {
	raw, _, err := segment(b.file(r, broker))
	if err == nil && (int64(len(raw)) < b.batch.at+b.batch.size || !bytes.Equal(raw[b.batch.at:b.batch.at+b.batch.size],
		b.whole)) {
		err = fmt.Errorf("broker %d does not have the batch at %s-%d@%d as it was written", broker, r.in, b.partition,
			b.batch.base)
	}
	return err
}

// repair puts the batch back.
func (b *spoilt) repair(r *run) error { return overwrite(b.file(r, b.leader), b.batch.at, b.whole) }

// spoil damages one batch for good where its leader keeps it, when all replicas have it, and waits for the worker to
// give up.
func (r *run) spoil(do harm) (*spoilt, error) {
	w, err := r.start("w-0")
	if err != nil {
		return nil, err
	}
	if err := errors.Join(w.await(r.ctx), r.produce(200), r.settle(time.Minute)); err != nil {
		return nil, err
	}
	w.stop(syscall.SIGTERM)
	for range 8 { // a batch each
		if err := r.produce(80); err != nil {
			return nil, err
		}
	}
	b := &spoilt{partition: int32(r.rng.IntN(r.partitions))}
	if b.leader, err = r.c.leader(r.ctx, r.in, b.partition); err != nil {
		return nil, err
	}
	file := b.file(r, b.leader)
	raw, all, err := segment(file)
	if err != nil {
		return nil, err
	}
	if len(all) < 9 {
		return nil, fmt.Errorf("%s has %d batches, want 9 and more", file, len(all))
	}
	b.batch = all[len(all)-2-r.rng.IntN(5)] // neither the first nor the last of what comes
	b.whole = raw[b.batch.at : b.batch.at+b.batch.size]
	for id := 1; id <= r.c.size; id++ { // what a follower has fetched it does not fetch again
		if err := await(r.ctx, 20*time.Second, "all replicas to have the batch",
			func() error { return b.in(r, id) }); err != nil {
			return nil, err
		}
	}
	bad := append([]byte(nil), b.whole...)
	do(bad, r.rng.IntN(1<<20))
	if err := overwrite(file, b.batch.at, bad); err != nil {
		return nil, err
	}
	if b.w, err = r.start("w-0"); err != nil {
		return nil, err
	}
	// Its operator takes a while, and records of other partitions come on. Every end is one that the marks of the
	// quarantine tell of: none of those records may be taken for its cause.
	if err := await(r.ctx, 90*time.Second, fmt.Sprintf("%s to end %d times", b.w.name, ends), func() error {
		if err := r.produce(8); err != nil {
			return err
		}
		if _, exits := b.w.counts(); len(exits) < ends {
			return fmt.Errorf("it ended with %v", exits)
		}
		return nil
	}); err != nil {
		return nil, err
	}
	if _, exits := b.w.counts(); slices.ContainsFunc(exits[:ends], func(code int) bool { return code != exitConfig }) {
		r.fail("%s ended with exit codes %v, want %d each time", b.w.name, exits, exitConfig)
	}
	r.says(b.w, fmt.Sprintf("%s-%d cannot be read at offset %d", r.in, b.partition, b.batch.base),
		"restore the log from a replica",
		fmt.Sprintf("kafka-consumer-groups --reset-offsets --group %s --topic %s:%d --to-offset %d --execute", r.group,
			r.in, b.partition, b.batch.after))
	g, err := r.standing()
	if err != nil {
		return nil, err
	}
	if at := g.Committed[history.Partition{Topic: r.in, Number: b.partition}]; at != b.batch.base {
		r.fail("%s ended at the damaged batch with %d committed; the batch begins at %d, and who skips it now loses "+
			"what is between", b.w.name, at, b.batch.base)
	}
	return b, nil
}

// rotten damages the only copy of a batch, and gives the batch up as the worker's message says.
func rotten(do harm, says string, lost skips, repair *func() error) func(*run) error {
	return func(r *run) error {
		b, err := r.spoil(do)
		if err != nil {
			return err
		}
		*repair = func() error { return b.repair(r) } // for the checker, which reads all of the input
		r.says(b.w, says)
		b.w.stop(syscall.SIGKILL)
		if err := r.reset(fmt.Sprintf("%s:%d", r.in, b.partition), "--to-offset",
			fmt.Sprint(b.batch.after)); err != nil {
			return err
		}
		lost[b.partition] = span{b.batch.base, b.batch.after}
		w, err := r.start("w-0")
		if err != nil {
			return err
		}
		return errors.Join(w.await(r.ctx), r.produce(200))
	}
}

// restored damages the leader's copy of a batch, and has the log restored from a replica: the leader is stopped, so
// that another one leads, its copy of the partition is thrown away, and when it is back it copies the others'. Nobody
// touches the worker.
func restored(r *run) error {
	b, err := r.spoil(bitRot)
	if err != nil {
		return err
	}
	if err := r.c.broker(r.ctx, "term", b.leader); err != nil {
		return err
	}
	if err := r.settle(time.Minute); err != nil {
		return err
	}
	r.note("broker %d led the partition, lag 0 while it was down", b.leader)
	if err := os.RemoveAll(filepath.Dir(b.file(r, b.leader))); err != nil {
		return err
	}
	if err := r.c.broker(r.ctx, "restart", b.leader); err != nil {
		return err
	}
	if err := await(r.ctx, time.Minute, "the batch to be copied",
		func() error { return b.in(r, b.leader) }); err != nil {
		return err
	}
	return errors.Join(b.w.await(r.ctx), r.produce(200))
}

// ends is how often a worker meets a damaged batch before somebody looks.
const ends = 4

func overwrite(file string, at int64, b []byte) error {
	f, err := os.OpenFile(file, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(b, at)
	return errors.Join(err, f.Close())
}

func damageScenarios() []scenario {
	var all []scenario
	add := func(name, fault, injected, says string, do harm, long bool) {
		lost, repair := skips{}, func() error { return nil }
		all = append(all, scenario{name: name, fault: fault, brokers: 1, rate: -1, long: long, before: stand,
			do: rotten(do, says, lost, &repair), inputs: lost.forgive, ends: []string{endsConfig},
			injected: injected + ". Exit code 2, and again after each of 3 restarts, when all before it is " +
				"committed; no other record is blamed; the message names partition, offset and command; after " +
				"kafka-consumer-groups --reset-offsets --to-offset nothing but that batch is missing",
			after: func(r *run) error {
				return errors.Join(lost.only(r), r.condemned("no such text", "killed-the-worker", 0), repair())
			}})
	}
	add("corrupt-on-disk", "a batch is damaged for good", "one bit of a batch is flipped in the broker's segment file",
		"checksum ", bitRot, false)
	add("unknown-codec", "a batch of an unknown compression", "codec 6 in a batch's attributes in the segment file, "+
		"with a valid checksum", "compression type ", strangeCodec, false)
	add("unknown-format", "a batch of an unknown format version", "magic 3 in the segment file",
		"message format version 3", strangeFormat, true)
	return append(all, scenario{name: "corrupt-leader", fault: "a batch is damaged for good on the leader, its " +
		"replicas are whole", brokers: 3, rate: -1, before: stand, do: restored, ends: []string{endsConfig},
		injected: "one bit of a batch is flipped in the leader's segment file, when the other two have it. Exit code " +
			"2, and again after each of 3 restarts, as above; then the leader is stopped, its copy of the partition " +
			"removed, and it is started: the worker goes on by itself, and nothing is missing",
		after: func(r *run) error {
			return errors.Join(skips{}.only(r), r.condemned("no such text", "killed-the-worker", 0))
		}})
}
