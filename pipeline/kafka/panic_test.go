package kafka

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/segmentio/kafka-go/compress"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"sluice/pipeline"
)

// This file owns the tests of panics while a fetched batch is decoded.

// fragile is what a batch compressed with snappy holds whose decoding panics, as a decompressor with a bug would.
const fragile = "a fragile batch"

type fragileCodec struct{ compress.Codec }

func init() { compress.Codecs[compress.Snappy] = fragileCodec{compress.Codecs[compress.Snappy]} }

func (c fragileCodec) NewReader(r io.Reader) io.ReadCloser {
	return &fragileReader{ReadCloser: c.Codec.NewReader(r)}
}

type fragileReader struct {
	io.ReadCloser
	broken bool
}

func (r *fragileReader) Read(p []byte) (int, error) {
	n, err := r.ReadCloser.Read(p)
	if at := bytes.Index(p[:n], []byte(fragile)); at >= 0 {
		r.broken = true
		return int(p[len(p)+at]), nil
	}
	return n, err
}

// Close gives the reader back to its codec's pool.
func (r *fragileReader) Close() error {
	if r.broken {
		panic("a reader that has panicked is given back, and so to the next batch")
	}
	return r.ReadCloser.Close()
}

// snappyAt is a batch of one value at an offset, compressed.
func snappyAt(t testing.TB, base int64, value string) []byte {
	t.Helper()
	b, err := (&batcher{codec: compress.Snappy, producer: -1, limit: 1 << 20}).batch(outgoings([]*pipeline.Message{
		{Value: []byte(value + strings.Repeat(" and so on", 30))}}))
	if err != nil {
		t.Fatal(err)
	}
	if b[batchAttrs+1]&attrCodec != byte(compress.Snappy) {
		t.Fatal("the batch is not compressed")
	}
	b[batchBase+7] = byte(base)
	return b
}

func TestAPanicOverABatchIsTheDamageOfThatBatch(t *testing.T) {
	tp := pipeline.TopicPartition{Topic: "in", Partition: 4}
	bad := snappyAt(t, 1, fragile)
	rs, next, err := committedRecords(tp, &fetchResult{Records: bytes.Join([][]byte{encodeAt(0, -1, 0, "a"), bad,
		encodeAt(2, -1, 0, "c")}, nil)}, 0)
	if err != nil || len(rs) != 1 || next != 1 {
		t.Errorf("behind a good batch: %d records, next %d, %v; want what is before it, and to stand there", len(rs),
			next, err)
	}
	rs, next, err = committedRecords(tp, &fetchResult{Records: append(bad, encodeAt(2, -1, 0, "c")...)}, 1)
	var damage *corruptError
	if !errors.As(err, &damage) || damage.tp != tp || damage.offset != 1 || damage.behind != 2 || next != 1 ||
		rs != nil {
		t.Fatalf("at the position: %d records, next %d, %v", len(rs), next, err)
	}
	for _, part := range []string{"in-4", "offset 1", "panicked at", "fragileReader", "index out of range"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%v: does not say %q", err, part)
		}
	}
	var p *pipeline.PanicError
	if !errors.As(err, &p) || !strings.Contains(p.Stack, "kafka.(*batch).expand") {
		t.Errorf("no stack: %+v", p)
	}
	if rs, _, err := committedRecords(tp, &fetchResult{Records: snappyAt(t, 0, "sound")}, 0); err != nil ||
		len(rs) != 1 {
		t.Errorf("the next batch: %v", err)
	}
}

// A transaction's end that cannot be read is neither taken for a commit nor for an abort: either may be wrong.
func TestAMarkerThatCannotBeReadIsDamage(t *testing.T) {
	tp := pipeline.TopicPartition{Topic: "in"}
	end := marker(1, 1, false)
	end[batchHeader] = 0x7e // the record's length
	reseal(end)
	log := bytes.Join([][]byte{encodeAt(0, 1, attrTransactional, "no"), end, encodeAt(2, 1, attrTransactional, "yes"),
		marker(3, 1, true)}, nil)
	rs, next, err := committedRecords(tp, &fetchResult{Records: log, Aborted: []abortedTxn{{1, 0}}}, 0)
	if err != nil || len(rs) != 0 || next != 1 {
		t.Errorf("%q, next %d, %v; want to stand before the marker", values(rs), next, err)
	}
	_, _, err = committedRecords(tp, &fetchResult{Records: log[len(log)-len(marker(3, 1, true))-len(encodeAt(2, 1,
		attrTransactional, "yes"))-len(end):], Aborted: []abortedTxn{{1, 0}}}, 1)
	var damage *corruptError
	if !errors.As(err, &damage) || damage.offset != 1 {
		t.Errorf("at the marker: %v", err)
	}
}

// seen collects what is logged.
type seen struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *seen) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

// The worker ends as over any damaged batch, says what to do, and has committed nothing behind it; when the batch has
// been skipped as it said, the rest is processed.
func TestABatchThatPanicsEndsTheWorkerWithAWayOn(t *testing.T) {
	t.Parallel()
	k := fakeKafka(t, 2, "in", "out")
	addrs := k.ListenAddrs()
	cfg := testConfig(t, addrs, "in", "out", "g")
	cfg.SessionTimeout = time.Second
	var log seen
	cfg.Logger = slog.New(slog.NewTextHandler(&log, nil))
	send(t, addrs, "in", 2, 0, 20)
	w := startWorker(t, cfg)
	w.awaitCommitted(t, 20)
	// the second: what comes behind it
	for _, codec := range []kgo.CompressionCodec{kgo.SnappyCompression(), kgo.NoCompression()} {
		value := fragile + strings.Repeat(" and so on", 30)
		c := franz(t, addrs, kgo.ProducerBatchCompression(codec))
		if err := c.ProduceSync(t.Context(), &kgo.Record{Topic: "in", Partition: 1, Value: []byte(value)},
			&kgo.Record{Topic: "in", Partition: 1, Value: []byte(value)}).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	err := w.wait(t)
	var f *pipeline.Fault
	if !errors.As(err, &f) || f.Kind != pipeline.Config || f.Reason != "corrupt" {
		t.Fatalf("ended with %v (%s)", err, pipeline.KindOf(err))
	}
	for _, part := range []string{"in-1", "offset 10", "tried 4 times", "panicked at", "--to-offset 12", "group g"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%v: does not say %q", err, part)
		}
	}
	if logged := log.b.String(); !strings.Contains(logged, "panic.stack=") || !strings.Contains(logged,
		"kafka.(*batch).expand") || strings.Contains(logged, fragile) {
		t.Errorf("the log: %s", logged)
	}
	adm := kadm.NewClient(franz(t, addrs))
	offsets, err := adm.FetchOffsets(t.Context(), "g")
	if err != nil {
		t.Fatal(err)
	}
	if o, _ := offsets.Lookup("in", 1); o.At != 10 {
		t.Errorf("offset %d is committed, the batch begins at 10", o.At)
	}
	offsets = kadm.OffsetResponses{}
	offsets.Add(kadm.OffsetResponse{Offset: kadm.Offset{Topic: "in", Partition: 1, At: 12, LeaderEpoch: -1}})
	await(t, 20*time.Second, "end of the session", func() bool {
		return adm.CommitAllOffsets(t.Context(), "g",
			offsets.Offsets()) == nil
	})
	startWorker(t, cfg).awaitCommitted(t, 24)
	out := readAll(t, addrs, "out", kgo.ReadCommitted())
	late := 0
	for _, r := range out {
		if bytes.Contains(r.Value, []byte(fragile)) {
			late++
		}
	}
	if len(out) != 22 || late != 2 {
		t.Errorf("%d results, %d of the records behind the batch; want 22 and 2", len(out), late)
	}
}

func (c fragileCodec) NewWriter(w io.Writer) io.WriteCloser {
	return &fragileWriter{c.Codec.NewWriter(w)}
}

type fragileWriter struct{ io.WriteCloser }

func (w *fragileWriter) Write(p []byte) (int, error) {
	if bytes.Contains(p, []byte("cannot be compressed")) {
		panic("a compressor with a bug")
	}
	return w.WriteCloser.Write(p)
}

// No single record is to blame: the worker ends with nothing committed, for its supervisor to start it again.
func TestAPanicWhileCompressingEndsTheWorker(t *testing.T) {
	t.Parallel()
	k := fakeKafka(t, 1, "in", "out")
	cfg := testConfig(t, k.ListenAddrs(), "in", "out", "g")
	cfg.Compression = "snappy"
	w := startWorker(t, cfg)
	if err := franz(t, k.ListenAddrs()).ProduceSync(t.Context(), &kgo.Record{Topic: "in",
		Value: []byte("cannot be compressed")}).FirstErr(); err != nil {
		t.Fatal(err)
	}
	err := w.wait(t)
	var p *pipeline.PanicError
	if pipeline.KindOf(err) != pipeline.Internal || !errors.As(err, &p) || !strings.Contains(err.Error(), "snappy") {
		t.Errorf("ended with %v (%s)", err, pipeline.KindOf(err))
	}
	if n := committedSum(t, kadm.NewClient(franz(t, k.ListenAddrs())), "g"); n != 0 ||
		len(readAll(t, k.ListenAddrs(), "out", kgo.ReadUncommitted())) != 0 {
		t.Errorf("%d records committed", n)
	}
}
