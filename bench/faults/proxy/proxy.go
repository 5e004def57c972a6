// Package proxy stands between Kafka clients and their brokers and does to the traffic what networks do: it delays,
// holds, swallows, damages and resets, whole links or single requests and answers, chosen by client id and API key.
// Plain TCP only.
package proxy

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"
)

// This file owns listeners, connections and the pumping of frames. What happens to a frame is decided in rule.go.
//
// A connection is two goroutines, one a direction. A held frame holds up the frames behind it, as TCP does. When the
// client's side ends, requests that are still held go to the broker all the same: that is how a request arrives late.

// largestFrame bounds what is taken for a frame: what is larger is not Kafka.
const largestFrame = 128 << 20

// Proxy is one listener for every broker of a cluster.
type Proxy struct {
	listeners []net.Listener
	wg        sync.WaitGroup

	mu      sync.Mutex
	targets []string
	refused []bool // by broker: connections are reset, new ones too
	rules   []*Rule
	links   map[*link]bool
	closed  bool
}

// New listens for as many brokers on free ports of 127.0.0.1.
func New(brokers int) (*Proxy, error) {
	p := &Proxy{targets: make([]string, brokers), refused: make([]bool, brokers), links: map[*link]bool{}}
	for i := range brokers {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, errors.Join(fmt.Errorf("proxy: listening for broker %d: %w", i+1, err), p.Close())
		}
		p.listeners = append(p.listeners, l)
		p.wg.Go(func() { p.accept(l, i) })
	}
	return p, nil
}

// Addresses are where clients reach the brokers, in the order of the brokers.
func (p *Proxy) Addresses() []string {
	var all []string
	for _, l := range p.listeners {
		all = append(all, l.Addr().String())
	}
	return all
}

// Forward says where the brokers are. Until then connections are reset.
func (p *Proxy) Forward(targets []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	copy(p.targets, targets)
}

// Refuse cuts a broker (from 1; 0: every one) off: its connections are reset, and new ones too until it is taken back.
func (p *Proxy) Refuse(broker int, refuse bool) {
	p.mu.Lock()
	for i := range p.refused {
		if broker == 0 || broker == i+1 {
			p.refused[i] = refuse
		}
	}
	p.mu.Unlock()
	if refuse {
		p.ResetAll(broker)
	}
}

// ResetAll resets the present connections to a broker (0: every one) and returns how many there were.
func (p *Proxy) ResetAll(broker int) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := 0
	for l := range p.links {
		if broker == 0 || broker == l.broker {
			l.reset()
			n++
		}
	}
	return n
}

// Close ends everything.
func (p *Proxy) Close() error {
	p.mu.Lock()
	p.closed = true
	rules := p.rules
	p.rules = nil
	for l := range p.links {
		l.reset()
	}
	p.mu.Unlock()
	for _, r := range rules {
		r.end()
	}
	var errs []error
	for _, l := range p.listeners {
		errs = append(errs, l.Close())
	}
	p.wg.Wait()
	return errors.Join(errs...)
}

func (p *Proxy) accept(l net.Listener, index int) {
	for {
		c, err := l.Accept()
		if err != nil {
			return // closed
		}
		p.mu.Lock()
		target, refuse := p.targets[index], p.refused[index] || p.closed
		p.mu.Unlock()
		if refuse || target == "" {
			reset(c)
			continue
		}
		p.wg.Go(func() { p.serve(c, target, index+1) })
	}
}

// link is one connection of a client, and ours to the broker for it.
type link struct {
	broker         int
	client, server net.Conn

	mu      sync.Mutex
	name    string             // client id
	pending map[int32]question // requests without an answer yet, by correlation id
	half    bool               // the broker's side is gone and the client is not told
}

type question struct{ key, version int16 }

func (l *link) reset() {
	reset(l.client)
	reset(l.server)
}

// reset closes with an RST instead of a FIN, where it is TCP.
func reset(c net.Conn) {
	if t, ok := c.(*net.TCPConn); ok {
		t.SetLinger(0)
	}
	c.Close()
}

func (p *Proxy) serve(c net.Conn, target string, broker int) {
	s, err := net.DialTimeout("tcp", target, 5*time.Second)
	if err != nil {
		reset(c)
		return
	}
	l := &link{broker: broker, client: c, server: s, pending: map[int32]question{}}
	p.mu.Lock()
	p.links[l] = true
	gone := p.closed || p.refused[broker-1]
	p.mu.Unlock()
	if gone {
		l.reset()
	}
	var wg sync.WaitGroup
	wg.Go(func() { p.pump(l, false) })
	wg.Go(func() { p.pump(l, true) })
	wg.Wait()
	l.client.Close()
	l.server.Close()
	p.mu.Lock()
	delete(p.links, l)
	p.mu.Unlock()
}

// pump moves frames of one direction until the connection ends.
func (p *Proxy) pump(l *link, answers bool) {
	from, to := l.client, l.server
	if answers {
		from, to = to, from
	}
	for {
		f, err := readFrame(from)
		if err != nil {
			break
		}
		f.Answer, f.Broker = answers, l.broker
		l.label(f)
		if !p.treat(l, f, to) {
			break
		}
	}
	l.mu.Lock()
	half := l.half
	l.mu.Unlock()
	if half && answers {
		return // the client's side stays open
	}
	// The other direction has its own end: a request may still be held. A client that is gone is not waited for.
	if answers {
		l.client.Close()
	} else {
		l.server.Close()
	}
}

// label finds out which request a frame is, or is the answer to.
func (l *link) label(f *Frame) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !f.Answer {
		if len(f.Bytes) < 14 {
			f.Key = -1
			return
		}
		f.Key = int16(binary.BigEndian.Uint16(f.Bytes[4:]))
		f.Version = int16(binary.BigEndian.Uint16(f.Bytes[6:]))
		if n := int(int16(binary.BigEndian.Uint16(f.Bytes[12:]))); n >= 0 && 14+n <= len(f.Bytes) {
			l.name = string(f.Bytes[14 : 14+n])
		}
		l.pending[int32(binary.BigEndian.Uint32(f.Bytes[8:]))] = question{f.Key, f.Version}
		f.Client = l.name
		return
	}
	f.Client = l.name
	f.Key = -1
	if len(f.Bytes) < 8 {
		return
	}
	id := int32(binary.BigEndian.Uint32(f.Bytes[4:]))
	if q, ok := l.pending[id]; ok {
		delete(l.pending, id)
		f.Key, f.Version = q.key, q.version
	}
}

// treat does to a frame what the first rule that matches says, and passes it on. false ends the direction.
func (p *Proxy) treat(l *link, f *Frame, to net.Conn) bool {
	r := p.match(f)
	if r == nil {
		_, err := to.Write(f.Bytes)
		return err == nil
	}
	switch a := r.Do; a.kind {
	case actDelay:
		t := time.NewTimer(a.delay)
		defer t.Stop()
		select {
		case <-t.C:
		case <-r.ended:
		}
	case actHold:
		select {
		case <-a.until:
		case <-r.ended:
		}
	case actSwallow:
		return true
	case actReset:
		n := min(a.after, len(f.Bytes))
		to.Write(f.Bytes[:n])
		l.reset()
		return false
	case actFlip:
		f.Bytes[f.flipAt] ^= 0x40
	case actHalfOpen:
		l.mu.Lock()
		l.half = true
		l.mu.Unlock()
		reset(l.server)
		io.Copy(io.Discard, l.client) // until the client has had enough
		return false
	}
	_, err := to.Write(f.Bytes)
	return err == nil
}

// readFrame reads one frame, its length included.
func readFrame(c net.Conn) (*Frame, error) {
	var head [4]byte
	if _, err := io.ReadFull(c, head[:]); err != nil {
		return nil, err
	}
	n := int(binary.BigEndian.Uint32(head[:]))
	if n < 0 || n > largestFrame {
		return nil, fmt.Errorf("proxy: a frame of %d bytes is not Kafka", n)
	}
	b := make([]byte, 4+n)
	copy(b, head[:])
	_, err := io.ReadFull(c, b[4:])
	return &Frame{Bytes: b}, err
}
