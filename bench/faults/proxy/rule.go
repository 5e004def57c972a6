package proxy

import (
	"encoding/binary"
	"slices"
	"sync"
	"time"
)

// This file owns which frame a fault happens to, and what the faults are.

// Kafka's API keys that rules name (https://kafka.apache.org/protocol#protocol_api_keys).
const (
	Produce            int16 = 0
	Fetch              int16 = 1
	Metadata           int16 = 3
	FindCoordinator    int16 = 10
	JoinGroup          int16 = 11
	Heartbeat          int16 = 12
	SyncGroup          int16 = 14
	InitProducerID     int16 = 22
	AddPartitionsToTxn int16 = 24
	AddOffsetsToTxn    int16 = 25
	EndTxn             int16 = 26
	TxnOffsetCommit    int16 = 28
)

// Frame is one request or answer, as it was on the wire.
type Frame struct {
	Broker  int // from 1
	Client  string
	Key     int16 // of the request, also in its answer; -1: unknown
	Version int16
	Answer  bool
	Bytes   []byte // with the four bytes of its length in front

	flipAt int
}

// Rule is a fault and what it happens to. The zero value of a field matches everything.
type Rule struct {
	Broker  int    // from 1
	Client  string // client id
	Keys    []int16
	Answers bool // answers to the requests instead of the requests
	Both    bool // requests and answers
	After   int  // how many frames that match are let through first
	Times   int  // how often; 0: until removed
	Do      Action

	mu    sync.Mutex
	seen  int
	hits  int
	first chan struct{} // closed at the first hit
	ended chan struct{} // closed when removed: what is held goes on
}

type actionKind int

const (
	actDelay actionKind = iota
	actHold
	actSwallow
	actReset
	actFlip
	actHalfOpen
)

// Action is what happens to a frame that a rule matches.
type Action struct {
	kind  actionKind
	delay time.Duration
	until <-chan struct{}
	after int
}

// Delay passes the frame on after d.
func Delay(d time.Duration) Action { return Action{kind: actDelay, delay: d} }

// Hold passes the frame on when until is closed, or the rule removed; a request also when its client has gone.
func Hold(until <-chan struct{}) Action { return Action{kind: actHold, until: until} }

// Swallow loses the frame; the connection stays open.
func Swallow() Action { return Action{kind: actSwallow} }

// Reset passes n bytes of the frame on and resets the connection on both sides.
func Reset(n int) Action { return Action{kind: actReset, after: n} }

// Flip damages one bit of a record batch in the answer to a Fetch of version 11, where its checksum covers it. Answers
// without records do not match.
func Flip() Action { return Action{kind: actFlip} }

// HalfOpen ends the broker's side; the client's stays open and silent.
func HalfOpen() Action { return Action{kind: actHalfOpen} }

// Add puts a rule in force. Earlier rules go first.
func (p *Proxy) Add(r *Rule) *Rule {
	r.first, r.ended = make(chan struct{}), make(chan struct{})
	p.mu.Lock()
	p.rules = append(p.rules, r)
	p.mu.Unlock()
	return r
}

// Remove ends a rule. What it holds goes on.
func (p *Proxy) Remove(r *Rule) {
	p.mu.Lock()
	p.rules = slices.DeleteFunc(p.rules, func(x *Rule) bool { return x == r })
	p.mu.Unlock()
	r.end()
}

// Clear ends every rule and takes every refusal back.
func (p *Proxy) Clear() {
	p.mu.Lock()
	rules := p.rules
	p.rules = nil
	clear(p.refused)
	p.mu.Unlock()
	for _, r := range rules {
		r.end()
	}
}

func (r *Rule) end() {
	r.mu.Lock()
	defer r.mu.Unlock()
	select {
	case <-r.ended:
	default:
		close(r.ended)
	}
}

// Hits is how often the rule has acted.
func (r *Rule) Hits() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.hits
}

// First is closed when the rule has acted once.
func (r *Rule) First() <-chan struct{} { return r.first }

// match is the first rule that acts on a frame; nil: none.
func (p *Proxy) match(f *Frame) *Rule {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, r := range p.rules {
		if r.acts(f) {
			return r
		}
	}
	return nil
}

func (r *Rule) acts(f *Frame) bool {
	if r.Broker != 0 && r.Broker != f.Broker || r.Client != "" && r.Client != f.Client || !r.Both &&
		r.Answers != f.Answer ||
		r.Keys != nil && !slices.Contains(r.Keys, f.Key) {
		return false
	}
	if r.Do.kind == actFlip {
		at, ok := inRecords(f)
		if !ok {
			return false
		}
		f.flipAt = at
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.seen++; r.seen <= r.After || r.Times > 0 && r.hits == r.Times {
		return false
	}
	if r.hits++; r.hits == 1 {
		close(r.first)
	}
	return true
}

// inRecords is a place within the first record batch of a Fetch answer of version 11 that the batch's checksum covers.
func inRecords(f *Frame) (at int, ok bool) {
	if !f.Answer || f.Key != Fetch || f.Version != 11 {
		return 0, false
	}
	const batchHeader = 61
	d := reader{b: f.Bytes, at: 4 + 4 + 4 + 2 + 4} // length, correlation id, throttle time, error, session
	for range d.int32() {
		d.skip(int(d.int16())) // topic
		if d.bad {
			return 0, false
		}
		for range d.int32() {
			d.skip(4 + 2 + 8 + 8 + 8) // partition, error, high watermark, last stable offset, log start
			d.skip(16 * max(0, int(d.int32())))
			d.skip(4) // preferred replica
			n := int(d.int32())
			if !d.bad && n > batchHeader && d.at+n <= len(d.b) {
				return d.at + batchHeader, true
			}
			d.skip(max(0, n))
			if d.bad {
				return 0, false
			}
		}
	}
	return 0, false
}

type reader struct {
	b   []byte
	at  int
	bad bool
}

func (d *reader) skip(n int) {
	if n < 0 || d.at+n > len(d.b) {
		d.bad = true
		return
	}
	d.at += n
}

func (d *reader) int16() int16 {
	if d.skip(2); d.bad {
		return 0
	}
	return int16(binary.BigEndian.Uint16(d.b[d.at-2:]))
}

func (d *reader) int32() int32 {
	if d.skip(4); d.bad {
		return 0
	}
	return int32(binary.BigEndian.Uint32(d.b[d.at-4:]))
}
