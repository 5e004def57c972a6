package proxy

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"syscall"
	"testing"
	"time"
)

// The broker of these tests answers every request with its correlation id and "ok", and tells what it got.
type broker struct {
	l   net.Listener
	got chan Frame // requests, with key and correlation id in Version
}

func startBroker(t *testing.T) *broker {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b := &broker{l: l, got: make(chan Frame, 100)}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				for {
					f, err := readFrame(c)
					if err != nil {
						return
					}
					id := f.Bytes[8:12]
					b.got <- Frame{Key: int16(binary.BigEndian.Uint16(f.Bytes[4:])),
						Version: int16(binary.BigEndian.Uint32(id))}
					c.Write(append(append([]byte{0, 0, 0, 6}, id...), "ok"...))
				}
			}()
		}
	}()
	return b
}

func request(key int16, id int32, client string) []byte {
	b := make([]byte, 14, 14+len(client))
	binary.BigEndian.PutUint32(b, uint32(10+len(client)))
	binary.BigEndian.PutUint16(b[4:], uint16(key))
	binary.BigEndian.PutUint32(b[8:], uint32(id))
	binary.BigEndian.PutUint16(b[12:], uint16(len(client)))
	return append(b, client...)
}

func newProxy(t *testing.T) (*Proxy, *broker) {
	t.Helper()
	b := startBroker(t)
	p, err := New(1)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	p.Forward([]string{b.l.Addr().String()})
	return p, b
}

func dial(t *testing.T, p *Proxy) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", p.Addresses()[0])
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(20 * time.Second))
	return c
}

func send(t *testing.T, c net.Conn, key int16, id int32, client string) {
	t.Helper()
	if _, err := c.Write(request(key, id, client)); err != nil {
		t.Fatal(err)
	}
}

// answered reads one answer, which must be to id.
func answered(t *testing.T, c net.Conn, id int32) {
	t.Helper()
	f, err := readFrame(c)
	if err != nil {
		t.Fatalf("answer %d: %v", id, err)
	}
	if got := int32(binary.BigEndian.Uint32(f.Bytes[4:])); got != id {
		t.Fatalf("answer to %d, want %d", got, id)
	}
}

func (b *broker) gets(t *testing.T, key int16) {
	t.Helper()
	select {
	case f := <-b.got:
		if f.Key != key {
			t.Fatalf("the broker got API %d, want %d", f.Key, key)
		}
	case <-time.After(20 * time.Second):
		t.Fatalf("API %d does not reach the broker", key)
	}
}

func TestTrafficGoesThrough(t *testing.T) {
	p, _ := newProxy(t)
	c := dial(t, p)
	for id := range int32(5) {
		send(t, c, Heartbeat, id, "w-0")
		answered(t, c, id)
	}
}

func TestARuleActsOnItsClientAndItsAPIOnly(t *testing.T) {
	p, b := newProxy(t)
	r := p.Add(&Rule{Client: "w-1", Keys: []int16{EndTxn}, Do: Swallow()})
	c := dial(t, p)
	send(t, c, EndTxn, 1, "w-0")
	answered(t, c, 1)
	d := dial(t, p)
	send(t, d, EndTxn, 1, "w-1")
	send(t, d, Heartbeat, 2, "w-1")
	answered(t, d, 2)
	b.gets(t, EndTxn)
	b.gets(t, Heartbeat)
	if r.Hits() != 1 {
		t.Errorf("%d hits, want 1", r.Hits())
	}
	p.Remove(r)
	send(t, d, EndTxn, 3, "w-1")
	answered(t, d, 3)
}

func TestASwallowedAnswerIsExecutedAllTheSame(t *testing.T) {
	p, b := newProxy(t)
	p.Add(&Rule{Answers: true, Keys: []int16{EndTxn}, Times: 1, Do: Swallow()})
	c := dial(t, p)
	send(t, c, EndTxn, 1, "w-0")
	b.gets(t, EndTxn)
	send(t, c, EndTxn, 2, "w-0")
	answered(t, c, 2)
}

func TestAHeldRequestArrivesAfterItsClientHasGone(t *testing.T) {
	p, b := newProxy(t)
	release := make(chan struct{})
	r := p.Add(&Rule{Keys: []int16{EndTxn}, Times: 1, Do: Hold(release)})
	c := dial(t, p)
	send(t, c, EndTxn, 1, "w-0")
	<-r.First()
	c.Close()
	d := dial(t, p)
	send(t, d, AddPartitionsToTxn, 2, "w-0") // the next transaction
	answered(t, d, 2)
	b.gets(t, AddPartitionsToTxn)
	close(release)
	b.gets(t, EndTxn)
}

func TestResetInTheMiddleOfAnAnswer(t *testing.T) {
	p, _ := newProxy(t)
	p.Add(&Rule{Answers: true, Keys: []int16{Fetch}, After: 1, Times: 1, Do: Reset(7)})
	c := dial(t, p)
	send(t, c, Fetch, 1, "w-0")
	answered(t, c, 1)
	send(t, c, Fetch, 2, "w-0")
	got, err := io.ReadAll(c)
	if !errors.Is(err, syscall.ECONNRESET) || len(got) > 7 {
		t.Errorf("read %d bytes, then %v; want at most 7, then a reset", len(got), err)
	}
}

func TestARefusedBrokerResetsAndComesBack(t *testing.T) {
	p, _ := newProxy(t)
	c := dial(t, p)
	send(t, c, Heartbeat, 1, "w-0")
	answered(t, c, 1)
	p.Refuse(1, true)
	if _, err := c.Read(make([]byte, 1)); err == nil {
		t.Error("the connection lives on")
	}
	if d, err := net.Dial("tcp", p.Addresses()[0]); err == nil { // the reset may come before the connection is made
		if _, err := d.Read(make([]byte, 1)); err == nil {
			t.Error("a new connection is served")
		}
		d.Close()
	}
	p.Clear()
	e := dial(t, p)
	send(t, e, Heartbeat, 1, "w-0")
	answered(t, e, 1)
}

func TestHalfOpenIsSilent(t *testing.T) {
	p, _ := newProxy(t)
	p.Add(&Rule{Keys: []int16{Heartbeat}, Times: 1, Do: HalfOpen()})
	c := dial(t, p)
	send(t, c, Heartbeat, 1, "w-0")
	send(t, c, Heartbeat, 2, "w-0")
	c.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
	var timeout net.Error
	if _, err := c.Read(make([]byte, 1)); !errors.As(err, &timeout) || !timeout.Timeout() {
		t.Errorf("%v; the connection must be open and silent", err)
	}
	d := dial(t, p) // a new one works
	send(t, d, Heartbeat, 3, "w-0")
	answered(t, d, 3)
}

// fetchAnswer is an answer of version 11 with the records of two partitions.
func fetchAnswer(records ...[]byte) []byte {
	b := binary.BigEndian.AppendUint32(nil, 7) // correlation id
	b = append(b, make([]byte, 4+2+4)...)      // throttle, error, session
	b = binary.BigEndian.AppendUint32(b, 1)    // topics
	b = append(binary.BigEndian.AppendUint16(b, 2), "in"...)
	b = binary.BigEndian.AppendUint32(b, uint32(len(records)))
	for i, r := range records {
		b = binary.BigEndian.AppendUint32(b, uint32(i))
		b = append(b, make([]byte, 2+8+8+8)...)
		b = binary.BigEndian.AppendUint32(b, 1) // aborted transactions
		b = append(b, make([]byte, 16+4)...)
		b = binary.BigEndian.AppendUint32(b, uint32(len(r)))
		b = append(b, r...)
	}
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(b))), b...)
}

func TestFlipDamagesRecordsAndNothingElse(t *testing.T) {
	batch := bytes.Repeat([]byte{0xAA}, 100)
	f := &Frame{Key: Fetch, Version: 11, Answer: true, Bytes: fetchAnswer(nil, batch)}
	at, ok := inRecords(f)
	if !ok || f.Bytes[at] != 0xAA || at != len(f.Bytes)-100+61 {
		t.Fatalf("inRecords = %d, %v; the batch begins at %d", at, ok, len(f.Bytes)-100)
	}
	for _, none := range []*Frame{
		{Key: Fetch, Version: 11, Answer: true, Bytes: fetchAnswer(nil, nil)},
		{Key: Fetch, Version: 11, Answer: true, Bytes: f.Bytes[:60]},
		{Key: Fetch, Version: 11, Answer: true, Bytes: nil},
		{Key: Heartbeat, Version: 11, Answer: true, Bytes: f.Bytes},
		{Key: Fetch, Version: 11, Bytes: f.Bytes},
	} {
		if at, ok := inRecords(none); ok {
			t.Errorf("found records at %d in %v", at, none)
		}
	}
}

func FuzzInRecords(f *testing.F) {
	f.Add(fetchAnswer(nil, bytes.Repeat([]byte{1}, 80)))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		if at, ok := inRecords(&Frame{Key: Fetch, Version: 11, Answer: true, Bytes: b}); ok &&
			(at < 0 || at >= len(b)) {
			t.Errorf("%d of %d", at, len(b))
		}
	})
}
