package kafka

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"slices"
	"testing"
	"time"

	"github.com/segmentio/kafka-go/compress"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"pgregory.net/rapid"

	"sluice/pipeline"
)

var allCodecs = []compress.Compression{compress.None, compress.Gzip, compress.Snappy, compress.Lz4, compress.Zstd}

// drawBytes draws null, empty and other byte strings.
func drawBytes(t *rapid.T, name string) []byte {
	switch rapid.IntRange(0, 4).Draw(t, name+" kind") {
	case 0:
		return nil
	case 1:
		return []byte{}
	}
	return rapid.SliceOfN(rapid.Byte(), 1, 300).Draw(t, name)
}

func drawMessages(t *rapid.T) []*pipeline.Message {
	var ms []*pipeline.Message
	for range rapid.IntRange(1, 40).Draw(t, "messages") {
		m := &pipeline.Message{Key: drawBytes(t, "key"), Value: drawBytes(t, "value")}
		if rapid.IntRange(0, 9).Draw(t, "timed") > 0 {
			m.Timestamp = time.UnixMilli(rapid.Int64Range(0, 1<<42).Draw(t, "time"))
		}
		for range rapid.IntRange(0, 4).Draw(t, "headers") {
			m.Headers = append(m.Headers, pipeline.Header{Key: rapid.StringN(0, 20, -1).Draw(t, "header"),
				Value: drawBytes(t, "header value")})
		}
		ms = append(ms, m)
	}
	return ms
}

// franzDecode decodes batches with franz-go, an implementation that shares no code with ours.
func franzDecode(t *rapid.T, raw []byte) []*kgo.Record {
	p := kmsg.NewFetchResponseTopicPartition()
	p.RecordBatches = raw
	p.HighWatermark = 1 << 40
	fp, _ := kgo.ProcessFetchPartition(kgo.ProcessFetchPartitionOpts{KeepControlRecords: true, Topic: "out",
		Partition: 3}, &p, kgo.DefaultDecompressor(), nil)
	if fp.Err != nil {
		t.Fatal(fp.Err)
	}
	return fp.Records
}

func sameBytes(a, b []byte) bool { return bytes.Equal(a, b) && (a == nil) == (b == nil) }

func TestBatchesAreReadByFranzGoAsTheyWereMeant(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		ms := drawMessages(t)
		e := batcher{codec: rapid.SampledFrom(allCodecs).Draw(t, "codec"), transactional: rapid.Bool().Draw(t,
			"transactional"),
			producer: rapid.Int64Range(0, 1<<60).Draw(t, "producer"), epoch: 7, sequence: rapid.Int32Range(0,
				1<<31-1).Draw(t, "sequence"),
			limit: rapid.IntRange(200, 20000).Draw(t, "limit")}
		first := e.sequence
		batches, err := e.encode(outgoings(ms))
		if err != nil {
			t.Fatal(err)
		}
		if want := int32((int64(first) + int64(len(ms))) & 0x7fffffff); e.sequence != want {
			t.Fatalf("next sequence %d, want %d", e.sequence, want)
		}
		left := ms
		sequence := first
		for _, b := range batches {
			if len(b.data) > e.limit && len(b.messages) > 1 {
				t.Fatalf("a batch of %d records has %d bytes, limit %d", len(b.messages), len(b.data), e.limit)
			}
			var head kmsg.RecordBatch
			if err := head.ReadFrom(b.data); err != nil {
				t.Fatal(err)
			}
			if head.ProducerID != e.producer || head.ProducerEpoch != 7 || head.FirstSequence != sequence ||
				head.NumRecords != int32(len(b.messages)) || head.LastOffsetDelta != int32(len(b.messages)-1) {
				t.Fatalf("header %+v", head)
			}
			sequence = int32((int64(sequence) + int64(len(b.messages))) & 0x7fffffff)
			rs := franzDecode(t, b.data)
			if len(rs) != len(b.messages) {
				t.Fatalf("franz-go reads %d records of %d", len(rs), len(b.messages))
			}
			for i, r := range rs {
				m := left[i]
				if !sameBytes(r.Key, m.Key) || !sameBytes(r.Value, m.Value) ||
					r.Timestamp.UnixMilli() != millis(m.Timestamp) || r.Attrs.IsTransactional() != e.transactional ||
					len(r.Headers) != len(m.Headers) {
					t.Fatalf("record %d: %+v, want %+v", i, r, m)
				}
				for j, h := range r.Headers {
					if h.Key != m.Headers[j].Key || !sameBytes(h.Value, m.Headers[j].Value) {
						t.Fatalf("header %d: %+v, want %+v", j, h, m.Headers[j])
					}
				}
			}
			left = left[len(b.messages):]

			// And by ourselves.
			own, next, err := committedRecords(pipeline.TopicPartition{Topic: "out", Partition: 3},
				&fetchResult{Records: slices.Clone(b.data)}, 0)
			if err != nil || len(own) != len(b.messages) || next != int64(len(b.messages)) {
				t.Fatalf("%d records, next %d, %v", len(own), next, err)
			}
			for i, r := range own {
				if !sameBytes(r.Key, rs[i].Key) || !sameBytes(r.Value, rs[i].Value) ||
					millis(r.Timestamp) != rs[i].Timestamp.UnixMilli() {
					t.Fatalf("we read %+v, franz-go %+v", r, rs[i])
				}
			}
		}
		if len(left) != 0 {
			t.Fatalf("%d messages are in no batch", len(left))
		}
	})
}

func TestEncodingTwiceGivesTheSameBytes(t *testing.T) {
	ms := []*pipeline.Message{{Value: []byte("one"), Timestamp: time.UnixMilli(5)}, {Key: []byte("k"),
		Value: []byte("two")}}
	for _, codec := range allCodecs {
		e1, e2 := batcher{codec: codec, limit: 1000}, batcher{codec: codec, limit: 1000}
		a, err1 := e1.encode(outgoings(ms))
		b, err2 := e2.encode(outgoings(ms))
		if err1 != nil || err2 != nil || !bytes.Equal(a[0].data, b[0].data) {
			t.Errorf("%s: %v %v", codec, err1, err2)
		}
	}
}

// outgoings are messages of a commit that has no others.
func outgoings(ms []*pipeline.Message) []outgoing {
	out := make([]outgoing, len(ms))
	for i, m := range ms {
		out[i] = outgoing{m, i}
	}
	return out
}

func TestALoneMessageMayBeLargerThanTheLimit(t *testing.T) {
	e := batcher{codec: compress.Zstd, limit: 1000}
	bs, err := e.encode(outgoings([]*pipeline.Message{{Value: []byte("small")},
		{Value: bytes.Repeat([]byte("a"), 100_000)}, {Value: []byte("small")}}))
	if err != nil || len(bs) != 3 || len(bs[1].data) > 1000 {
		t.Errorf("%d batches, %v: a message that fits after compression is sent, alone", len(bs), err)
	}
}

// encodeAt is a batch of one producer at an offset, for filter tests. count 0 gives a batch that compaction has
// emptied.
func encodeAt(base int64, producer int64, attrs uint16, values ...string) []byte {
	var ms []*pipeline.Message
	for _, v := range values {
		ms = append(ms, &pipeline.Message{Value: []byte(v)})
	}
	e := batcher{producer: producer, limit: 1 << 20}
	b, err := e.batch(outgoings(ms))
	if err != nil {
		panic(err)
	}
	binary.BigEndian.PutUint64(b[batchBase:], uint64(base))
	binary.BigEndian.PutUint16(b[batchAttrs:], attrs)
	return reseal(b)
}

func reseal(b []byte) []byte {
	binary.BigEndian.PutUint32(b[batchCRC:], crc32.Checksum(b[batchAttrs:], castagnoli))
	return b
}

// marker is a control batch that ends a transaction.
func marker(base, producer int64, commit bool) []byte {
	kind := byte(0)
	if commit {
		kind = 1
	}
	e := batcher{producer: producer, limit: 1 << 20}
	b, err := e.batch(outgoings([]*pipeline.Message{{Key: []byte{0, 0, 0, kind}, Value: []byte{0, 0, 0, 0, 0, 0}}}))
	if err != nil {
		panic(err)
	}
	binary.BigEndian.PutUint64(b[batchBase:], uint64(base))
	binary.BigEndian.PutUint16(b[batchAttrs:], attrTransactional|attrControl)
	return reseal(b)
}

func values(rs []pipeline.Record) []string {
	var out []string
	for _, r := range rs {
		out = append(out, string(r.Value))
	}
	return out
}

func TestFilterSkipsWhatAReadCommittedReaderMustNotSee(t *testing.T) {
	tp := pipeline.TopicPartition{Topic: "in"}
	const tx = attrTransactional
	empty := func(base int64, n int) []byte { // what compaction leaves of a producer's last batch
		vs := make([]string, n)
		b := encodeAt(base, 9, 0, vs...)[:batchHeader]
		binary.BigEndian.PutUint32(b[batchLength:], batchHeader-12)
		binary.BigEndian.PutUint32(b[batchCount:], 0)
		return reseal(b)
	}
	for _, c := range []struct {
		name    string
		from    int64
		aborted []abortedTxn
		log     [][]byte
		want    []string
		next    int64
	}{
		{"plain records", 0, nil, [][]byte{encodeAt(0, -1, 0, "a", "b"), encodeAt(2, -1, 0, "c")}, []string{"a", "b",
			"c"}, 3},
		{"a batch that begins before the position", 1, nil, [][]byte{encodeAt(0, -1, 0, "a", "b", "c")},
			[]string{"b", "c"}, 3},
		{"a committed transaction", 0, nil, [][]byte{encodeAt(0, 1, tx, "a"), marker(1, 1, true)}, []string{"a"}, 2},
		{"an aborted transaction", 0, []abortedTxn{{1, 0}}, [][]byte{encodeAt(0, 1, tx, "a", "b"), marker(2, 1, false)},
			nil, 3},
		{"aborted, then committed, by one producer", 0, []abortedTxn{{1, 0}},
			[][]byte{encodeAt(0, 1, tx, "no"), marker(1, 1, false), encodeAt(2, 1, tx, "yes"), marker(3, 1, true)},
			[]string{"yes"}, 4},
		{"committed, then aborted, by one producer", 0, []abortedTxn{{1, 2}},
			[][]byte{encodeAt(0, 1, tx, "yes"), marker(1, 1, true), encodeAt(2, 1, tx, "no"), marker(3, 1, false)},
			[]string{"yes"}, 4},
		{"two producers interleaved", 0, []abortedTxn{{2, 1}},
			[][]byte{encodeAt(0, 1, tx, "one"), encodeAt(1, 2, tx, "two"), encodeAt(2, 1, tx, "three"),
				marker(3, 2, false), marker(4, 1, true)}, []string{"one", "three"}, 5},
		{"aborted list out of order", 0, []abortedTxn{{2, 1}, {1, 0}},
			[][]byte{encodeAt(0, 1, tx, "no"), encodeAt(1, 2, tx, "no"), marker(2, 1, false), marker(3, 2, false),
				encodeAt(4, -1, 0, "yes")}, []string{"yes"}, 5},
		{"an idempotent producer with the id of an aborted transaction", 0, []abortedTxn{{1, 0}},
			[][]byte{encodeAt(0, 1, 0, "yes")}, []string{"yes"}, 1},
		{"a gap that compaction left", 0, nil, [][]byte{encodeAt(7, -1, 0, "h")}, []string{"h"}, 8},
		{"batches without records", 3, nil, [][]byte{empty(3, 4), empty(7, 2)}, nil, 9},
		{"nothing", 5, nil, nil, nil, 5},
	} {
		t.Run(c.name, func(t *testing.T) {
			rs, next, err := committedRecords(tp, &fetchResult{Records: bytes.Join(c.log, nil), Aborted: c.aborted},
				c.from)
			if err != nil || !slices.Equal(values(rs), c.want) || next != c.next {
				t.Errorf("%q, next %d, %v; want %q, next %d", values(rs), next, err, c.want, c.next)
			}
		})
	}
}

func TestFilterReportsDamageOnlyWhereReadingStands(t *testing.T) {
	tp := pipeline.TopicPartition{Topic: "in", Partition: 4}
	good, bad := encodeAt(0, -1, 0, "a"), encodeAt(1, -1, 0, "b")
	bad[len(bad)-1] ^= 1
	rs, next, err := committedRecords(tp, &fetchResult{Records: append(slices.Clone(good), bad...)}, 0)
	if err != nil || len(rs) != 1 || next != 1 {
		t.Errorf("damage behind a good batch: %d records, next %d, %v", len(rs), next, err)
	}
	_, next, err = committedRecords(tp, &fetchResult{Records: bad}, 1)
	var damage *corruptError
	if !errors.As(err, &damage) || damage.tp != tp || damage.offset != 1 || next != 1 {
		t.Errorf("damage at the position: next %d, %v", next, err)
	}
	rs, next, err = committedRecords(tp, &fetchResult{Records: append(slices.Clone(good), good[:30]...)}, 0)
	if err != nil || len(rs) != 1 || next != 1 {
		t.Errorf("an answer cut within its second batch: %d records, next %d, %v", len(rs), next, err)
	}
	if _, _, err = committedRecords(tp, &fetchResult{Records: good[:30]}, 0); !errors.Is(err, errPartial) {
		t.Errorf("an answer cut within its first batch: %v", err)
	}
	old := slices.Clone(good)
	old[batchMagic] = 1
	if _, _, err = committedRecords(tp, &fetchResult{Records: old}, 0); !errors.As(err, &damage) {
		t.Errorf("an old message format: %v", err)
	}
}

func TestRecordsDoNotShareMemoryWithTheAnswer(t *testing.T) {
	raw := encodeAt(0, -1, 0, "abc", "def")
	rs, _, err := committedRecords(pipeline.TopicPartition{}, &fetchResult{Records: raw}, 0)
	if err != nil {
		t.Fatal(err)
	}
	clear(raw)
	_ = append(rs[0].Value, "XXXX"...)
	if !slices.Equal(values(rs), []string{"abc", "def"}) {
		t.Errorf("%q", values(rs))
	}
}

func FuzzCommittedRecords(f *testing.F) {
	f.Add(encodeAt(0, 1, attrTransactional, "a", "b"), int64(0))
	f.Add(append(encodeAt(0, 1, 0, "a"), marker(1, 1, false)...), int64(1))
	for _, codec := range allCodecs {
		e := batcher{codec: codec, limit: 1 << 20}
		b, err := e.batch(outgoings([]*pipeline.Message{{Key: []byte("k"), Value: bytes.Repeat([]byte("v"), 500),
			Headers: []pipeline.Header{{Key: "h"}}}}))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b, int64(0))
	}
	f.Fuzz(func(t *testing.T, raw []byte, from int64) {
		if len(raw) >= batchHeader { // let the fuzzer get past the checksum
			raw = slices.Clone(raw)
			if n := int64(binary.BigEndian.Uint32(raw[batchLength:])) + 12; n >= batchHeader && n <= int64(len(raw)) {
				reseal(raw[:n])
			}
		}
		from = max(0, min(from, 1<<60))
		rs, next, err := committedRecords(pipeline.TopicPartition{}, &fetchResult{Records: raw}, from)
		if next < from || err != nil && (next != from || rs != nil) {
			t.Errorf("from %d: next %d, %d records, %v", from, next, len(rs), err)
		}
		// every batch, not only until the first that is damaged
		for v := (view{aborted: map[int64]bool{}}); err == nil && len(raw) > 0; {
			_, raw, _, err = v.take(raw, pipeline.TopicPartition{}, from, nil)
		}
		var p *pipeline.PanicError
		if errors.As(err, &p) {
			t.Errorf("%v\n%s", p, p.Stack)
		}
	})
}
