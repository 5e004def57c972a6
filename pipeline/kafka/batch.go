package kafka

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"time"

	"github.com/segmentio/kafka-go/compress"

	"sluice/pipeline"
)

// This file owns record batches, format version 2 (KIP-98; layout in Kafka's DefaultRecordBatch): decoding what a fetch
// brought and encoding what a transaction publishes. The bytes of a decoded record belong to the record; the bytes of
// an encoded batch are kept for retries, which must be identical.

// Offsets of fields within a batch.
const (
	batchBase      = 0  // int64 offset of the first record
	batchLength    = 8  // int32 bytes behind this field
	batchMagic     = 16 // int8
	batchCRC       = 17 // uint32 Castagnoli of everything behind it
	batchAttrs     = 21 // int16
	batchLastDelta = 23 // int32
	batchBaseTime  = 27 // int64 ms
	batchMaxTime   = 35 // int64 ms
	batchProducer  = 43 // int64
	batchEpoch     = 51 // int16
	batchSequence  = 53 // int32
	batchCount     = 57 // int32
	batchHeader    = 61
)

// Bits of the attributes.
const (
	attrCodec         = 7
	attrLogAppendTime = 1 << 3
	attrTransactional = 1 << 4
	attrControl       = 1 << 5
)

// maxExpanded bounds what one compressed batch may expand to.
const maxExpanded = 256 << 20

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// errPartial says that the bytes end within the first batch: the answer was cut at a size limit.
var errPartial = errors.New("the answer ends within its first batch")

// batch is the header of a decoded batch with its undecoded records.
type batch struct {
	base, last int64
	attrs      int16
	baseTime   int64
	maxTime    int64
	producer   int64
	count      int
	payload    []byte // aliases the bytes that it was read from
}

func (b *batch) transactional() bool { return b.attrs&attrTransactional != 0 }
func (b *batch) control() bool       { return b.attrs&attrControl != 0 }

// nextBatch reads the first batch of p and returns the bytes behind it.
func nextBatch(p []byte) (b batch, rest []byte, err error) {
	if len(p) < batchMagic+1 {
		return b, nil, errPartial
	}
	be := binary.BigEndian
	size := int64(int32(be.Uint32(p[batchLength:]))) + batchLength + 4
	if magic := p[batchMagic]; magic != 2 {
		return b, nil, fmt.Errorf("message format version %d: Sluice reads version 2 (Kafka 0.11 and later); copy "+
			"the topic with a current client", magic)
	}
	if size < batchHeader {
		return b, nil, fmt.Errorf("a batch of %d bytes is shorter than its header", size)
	}
	if int64(len(p)) < size {
		return b, nil, errPartial
	}
	p, rest = p[:size], p[size:]
	if want, got := be.Uint32(p[batchCRC:]), crc32.Checksum(p[batchAttrs:], castagnoli); want != got {
		return b, nil, fmt.Errorf("checksum %08x instead of %08x", got, want)
	}
	b = batch{
		base:     int64(be.Uint64(p[batchBase:])),
		attrs:    int16(be.Uint16(p[batchAttrs:])),
		baseTime: int64(be.Uint64(p[batchBaseTime:])),
		maxTime:  int64(be.Uint64(p[batchMaxTime:])),
		producer: int64(be.Uint64(p[batchProducer:])),
		count:    int(int32(be.Uint32(p[batchCount:]))),
		payload:  p[batchHeader:],
	}
	b.last = b.base + int64(int32(be.Uint32(p[batchLastDelta:])))
	if b.last < b.base || b.count < 0 {
		return b, nil, fmt.Errorf("the batch counts %d records and ends at offset %d before its begin at %d", b.count,
			b.last, b.base)
	}
	return b, rest, nil
}

// offsetBehind is the offset behind the first batch of p by its header alone, unchecked; -1 where p is too short.
func offsetBehind(p []byte) int64 {
	if len(p) < batchHeader {
		return -1
	}
	return int64(binary.BigEndian.Uint64(p[batchBase:])) + int64(int32(binary.BigEndian.Uint32(p[batchLastDelta:]))) + 1
}

// expand is the batch's records, decompressed, in memory of their own.
func (b *batch) expand() ([]byte, error) {
	kind := compress.Compression(b.attrs & attrCodec)
	if kind == compress.None {
		return bytes.Clone(b.payload), nil // so that a record in flight does not hold on to the whole answer
	}
	codec := kind.Codec()
	if codec == nil {
		return nil, fmt.Errorf("compression type %d is not known", kind)
	}
	r := codec.NewReader(bytes.NewReader(b.payload))
	var out bytes.Buffer
	n, err := io.Copy(&out, io.LimitReader(r, maxExpanded+1))
	r.Close() // back into the codec's pool, but for one that has panicked
	if err != nil {
		return nil, fmt.Errorf("decompressing %s: %w", kind, err)
	}
	if n > maxExpanded {
		return nil, fmt.Errorf("decompressing %s: more than %d bytes in one batch", kind, maxExpanded)
	}
	return out.Bytes(), nil
}

// records appends the batch's records from offset from on. On an error it returns to as it was.
func (b *batch) records(tp pipeline.TopicPartition, from int64, to []pipeline.Record) ([]pipeline.Record, error) {
	raw, err := b.expand()
	if err != nil {
		return to, err
	}
	d := varints{p: raw}
	n := len(to)
	for i := range b.count {
		size := d.int()
		if d.bad || size < 0 || size > int64(len(d.p)) {
			return to[:n], fmt.Errorf("record %d of %d is longer than the batch", i, b.count)
		}
		r := varints{p: d.p[:size]}
		d.p = d.p[size:]
		r.skip(1) // attributes: unused
		delta := r.int()
		offset := b.base + r.int()
		rec := pipeline.Record{Topic: tp.Topic, Partition: tp.Partition, Offset: offset, Key: r.bytes(),
			Value: r.bytes()}
		if headers := r.int(); headers > 0 && headers <= int64(len(r.p)) {
			rec.Headers = make([]pipeline.Header, headers)
			for j := range rec.Headers {
				rec.Headers[j] = pipeline.Header{Key: string(r.bytes()), Value: r.bytes()}
			}
		} else if headers != 0 {
			r.bad = true
		}
		if r.bad {
			return to[:n], fmt.Errorf("record %d of %d is malformed", i, b.count)
		}
		ms := b.baseTime + delta
		if b.attrs&attrLogAppendTime != 0 {
			ms = b.maxTime
		}
		if ms >= 0 { // -1: the producer gave none
			rec.Timestamp = time.UnixMilli(ms)
		}
		if offset >= from {
			to = append(to, rec)
		}
	}
	return to, nil
}

// aborts says whether a control batch is an abort marker. One that cannot be read is an error: taken for another marker
// it would hide what the producer wrote after it.
func (b *batch) aborts() (bool, error) {
	marker, err := b.records(pipeline.TopicPartition{}, b.base, nil)
	// Key: int16 version, int16 type; type 0 is ABORT, 1 is COMMIT.
	return err == nil && len(marker) > 0 && len(marker[0].Key) >= 4 && binary.BigEndian.Uint16(marker[0].Key[2:]) == 0,
		err
}

// varints reads the zigzag varints and byte strings of a record; bad is set by the first read that fails.
type varints struct {
	p   []byte
	bad bool
}

func (v *varints) int() int64 {
	x, n := binary.Varint(v.p)
	if n <= 0 {
		v.bad, v.p = true, nil
		return 0
	}
	v.p = v.p[n:]
	return x
}

func (v *varints) skip(n int) {
	if n > len(v.p) {
		v.bad, v.p = true, nil
		return
	}
	v.p = v.p[n:]
}

// bytes is nil for length -1, else a slice that nothing can be appended to without copying.
func (v *varints) bytes() []byte {
	n := v.int()
	if n == -1 || v.bad {
		return nil
	}
	if n < 0 || n > int64(len(v.p)) {
		v.bad, v.p = true, nil
		return nil
	}
	b := v.p[:n:n]
	v.p = v.p[n:]
	return b
}

func codecByName(name string) (compress.Compression, error) {
	for _, c := range []compress.Compression{compress.Gzip, compress.Snappy, compress.Lz4, compress.Zstd} {
		if c.String() == name {
			return c, nil
		}
	}
	if name == "none" {
		return compress.None, nil
	}
	return 0, fmt.Errorf("%q is not known; use none, gzip, snappy, lz4 or zstd", name)
}

// outgoing is a message of a commit and its index there.
type outgoing struct {
	*pipeline.Message
	at int
}

// encodedBatch is one batch as it is sent, any number of times.
type encodedBatch struct {
	data     []byte
	messages []outgoing // what is in it
	damaged  int        // times that the broker found it so
}

// batcher encodes messages into batches of one partition. The sequence runs on from batch to batch.
type batcher struct {
	codec         compress.Compression
	transactional bool
	producer      int64
	epoch         int16
	sequence      int32
	limit         int // most bytes of a batch
}

// encode encodes messages, in order, into as few batches as the limit allows. It does not check that a lone message
// fits the limit after compression: the caller does.
func (e *batcher) encode(messages []outgoing) ([]encodedBatch, error) {
	var parts [][]outgoing
	for len(messages) > 0 {
		n, size := 0, batchHeader
		for n < len(messages) {
			size += recordBound(messages[n].Message)
			if n > 0 && size > e.limit {
				break
			}
			n++
		}
		parts = append(parts, messages[:n])
		messages = messages[n:]
	}
	return e.batches(parts...)
}

// batches encodes each part as a batch; none where it has no messages.
func (e *batcher) batches(parts ...[]outgoing) ([]encodedBatch, error) {
	var out []encodedBatch
	for _, part := range parts {
		if len(part) == 0 {
			continue
		}
		b, err := e.batch(part)
		if err != nil {
			return nil, err
		}
		out = append(out, encodedBatch{data: b, messages: part})
		e.sequence = int32((int64(e.sequence) + int64(len(part))) & 0x7fffffff)
	}
	return out, nil
}

// recordBound is at least the number of bytes that m takes uncompressed within a batch.
func recordBound(m *pipeline.Message) int { return m.Size() + 32 + 10*len(m.Headers) }

func (e *batcher) batch(messages []outgoing) ([]byte, error) {
	first := millis(messages[0].Timestamp)
	most := first
	var records, body []byte
	for i, m := range messages {
		t := millis(m.Timestamp)
		most = max(most, t)
		body = append(body[:0], 0) // attributes
		body = binary.AppendVarint(body, t-first)
		body = binary.AppendVarint(body, int64(i))
		body = appendBytes(body, m.Key)
		body = appendBytes(body, m.Value)
		body = binary.AppendVarint(body, int64(len(m.Headers)))
		for _, h := range m.Headers {
			body = binary.AppendVarint(body, int64(len(h.Key)))
			body = append(body, h.Key...)
			body = appendBytes(body, h.Value)
		}
		records = binary.AppendVarint(records, int64(len(body)))
		records = append(records, body...)
	}
	codec := e.codec
	if codec != compress.None {
		small, err := squeeze(codec, records)
		if err != nil {
			return nil, err
		}
		if len(small) < len(records) {
			records = small
		} else {
			codec = compress.None // never larger than the limit that the raw size was measured against
		}
	}
	attrs := uint16(codec)
	if e.transactional {
		attrs |= attrTransactional
	}
	b := make([]byte, batchHeader, batchHeader+len(records))
	be := binary.BigEndian
	be.PutUint32(b[batchLength:], uint32(batchHeader+len(records)-batchLength-4))
	be.PutUint32(b[batchLength+4:], 0xffffffff) // partition leader epoch: the broker's business
	b[batchMagic] = 2
	be.PutUint16(b[batchAttrs:], attrs)
	be.PutUint32(b[batchLastDelta:], uint32(len(messages)-1))
	be.PutUint64(b[batchBaseTime:], uint64(first))
	be.PutUint64(b[batchMaxTime:], uint64(most))
	be.PutUint64(b[batchProducer:], uint64(e.producer))
	be.PutUint16(b[batchEpoch:], uint16(e.epoch))
	be.PutUint32(b[batchSequence:], uint32(e.sequence))
	be.PutUint32(b[batchCount:], uint32(len(messages)))
	b = append(b, records...)
	be.PutUint32(b[batchCRC:], crc32.Checksum(b[batchAttrs:], castagnoli))
	return b, nil
}

// squeeze compresses. A panic in the codec is its error: it is no single record's, for the batch is compressed as a
// whole.
func squeeze(codec compress.Compression, p []byte) (small []byte, err error) {
	defer func() {
		if x := recover(); x != nil {
			small, err = nil, fmt.Errorf("compressing with %s: %w; nothing of it is committed; report it, and set "+
				"kafka.compression to another codec", codec, pipeline.Recovered(x))
		}
	}()
	var out bytes.Buffer
	w := codec.Codec().NewWriter(&out)
	if _, err := w.Write(p); err != nil {
		return nil, fmt.Errorf("compressing with %s: %w", codec, err)
	}
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("compressing with %s: %w", codec, err)
	}
	return out.Bytes(), nil
}

// appendBytes appends a byte string; nil is Kafka's null.
func appendBytes(b, s []byte) []byte {
	if s == nil {
		return binary.AppendVarint(b, -1)
	}
	b = binary.AppendVarint(b, int64(len(s)))
	return append(b, s...)
}

// millis is Kafka's timestamp of t, -1 for the zero time.
func millis(t time.Time) int64 {
	if t.IsZero() {
		return -1
	}
	return t.UnixMilli()
}
