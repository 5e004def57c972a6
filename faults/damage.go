package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"sluice/faults/history"
)

// This file owns the scenarios in which a batch is damaged where the broker keeps it, so that fetching it again does not help.
// The file is written to while the broker has it open: both see the same pages.

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
		s := stored{at: at, size: int64(binary.BigEndian.Uint32(b[fieldLength:])) + fieldLength + 4, base: int64(binary.BigEndian.Uint64(b))}
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

// rotten damages one batch for good, waits for the worker to give up, and does as its message says.
func rotten(do harm, says string, lost skips, repair *func() error) func(*run) error {
	return func(r *run) error {
		w, err := r.start("w-0")
		if err != nil {
			return err
		}
		if err := errors.Join(w.await(r.ctx), r.produce(200), r.settle(time.Minute)); err != nil {
			return err
		}
		w.stop(syscall.SIGTERM)
		for range 8 { // a batch each
			if err := r.produce(80); err != nil {
				return err
			}
		}
		partition := int32(r.rng.IntN(r.partitions))
		file := filepath.Join(r.c.dir, "kafka", "broker-1", "data", fmt.Sprintf("%s-%d", r.in, partition), fmt.Sprintf("%020d.log", 0))
		raw, all, err := segment(file)
		if err != nil {
			return err
		}
		if len(all) < 9 {
			return fmt.Errorf("%s has %d batches, want 9 and more", file, len(all))
		}
		b := all[len(all)-2-r.rng.IntN(5)] // neither the first nor the last of what comes
		whole := raw[b.at : b.at+b.size]
		bad := append([]byte(nil), whole...)
		do(bad, r.rng.IntN(1<<20))
		if err := overwrite(file, b.at, bad); err != nil {
			return err
		}
		*repair = func() error { return overwrite(file, b.at, whole) } // for the checker, which reads all of the input
		if w, err = r.start("w-0"); err != nil {
			return err
		}
		// Its operator takes a while, and records of other partitions come on. Every end is one that the marks of the quarantine
		// tell of: none of those records may be taken for its cause.
		if err := await(r.ctx, 90*time.Second, fmt.Sprintf("%s to end %d times", w.name, ends), func() error {
			if err := r.produce(8); err != nil {
				return err
			}
			if _, exits := w.counts(); len(exits) < ends {
				return fmt.Errorf("it ended with %v", exits)
			}
			return nil
		}); err != nil {
			return err
		}
		if _, exits := w.counts(); slices.ContainsFunc(exits[:ends], func(code int) bool { return code != exitConfig }) {
			r.fail("%s ended with exit codes %v, want %d each time", w.name, exits, exitConfig)
		}
		if err := r.refuses(w, nil, says, fmt.Sprintf("%s-%d cannot be read at offset %d", r.in, partition, b.base),
			fmt.Sprintf("kafka-consumer-groups --reset-offsets --group %s --topic %s:%d --to-offset %d --execute", r.group, r.in, partition, b.after)); err != nil {
			return err
		}
		g, err := r.standing()
		if err != nil {
			return err
		}
		if at := g.Committed[history.Partition{Topic: r.in, Number: partition}]; at != b.base {
			r.fail("%s ended at the damaged batch with %d committed; the batch begins at %d, and who skips it now loses what is between", w.name, at, b.base)
		}
		if err := r.reset(fmt.Sprintf("%s:%d", r.in, partition), "--to-offset", fmt.Sprint(b.after)); err != nil {
			return err
		}
		lost[partition] = span{b.base, b.after}
		if w, err = r.start("w-0"); err != nil {
			return err
		}
		return errors.Join(w.await(r.ctx), r.produce(200))
	}
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
		all = append(all, scenario{name: name, fault: fault, brokers: 1, rate: -1, long: long, before: stand, do: rotten(do, says, lost, &repair), inputs: lost.forgive,
			injected: injected + ". Exit code 2, and again after each of 3 restarts, when all before it is committed; no other record is blamed; the message names partition, offset and command; after kafka-consumer-groups --reset-offsets --to-offset nothing but that batch is missing",
			after: func(r *run) error {
				return errors.Join(lost.only(r), r.condemned("no such text", "killed-the-worker", 0), repair())
			}})
	}
	add("corrupt-on-disk", "a batch is damaged for good", "one bit of a batch is flipped in the broker's segment file", "checksum ", bitRot, false)
	add("unknown-codec", "a batch of an unknown compression", "codec 6 in a batch's attributes in the segment file, with a valid checksum", "compression type ", strangeCodec, false)
	add("unknown-format", "a batch of an unknown format version", "magic 3 in the segment file", "message format version 3", strangeFormat, true)
	return all
}
