// Package load generates load on a pair of Kafka topics and measures what comes out: an open loop, so that a system
// that stalls is charged for every record that was due while it stalled.
//
// It knows nothing about the system under test. Records go into one topic and are recognised in another by a mark that
// is carried in the key, in a header and in the value, because systems differ in what they pass on. All times are read
// from one clock, that of this process.
//
//	schedule.go  when records are due: fixed in advance by a seed
//	texts.go     what is in them: profiles of length, duplicates and poison
//	session.go   sending and collecting on real topics
//	tally.go     what became of every record: latency, lost, doubled (plain state)
//	find.go      the highest rate that is sustained (pure)
//	drain.go     the other measurement: how fast a backlog that waits is worked off
//	process.go   CPU time, memory and metrics of the system under test
//	report.go    the figures; text.go, html.go and plot.go show them
//
// It is pure Go: no cgo, no tokenizer, no model. What needs those is passed in.
package load

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"sluice/pipeline/codec"
)

// Target is the pair of topics between which a system works.
type Target struct {
	Brokers    []string
	Input      string
	Output     string
	DeadLetter string       // "": none
	Format     Format       // of the values
	TextField  string       // of JSON values, a path as codec.ParsePath reads it; "": text
	Client     []kgo.Opt    // TLS, SASL: whatever the brokers ask for
	Found      *TopicCounts // set by Check
}

// TopicCounts is what Check found.
type TopicCounts struct {
	Input, Output, DeadLetter int // partitions
	Broker                    string
}

// Format is the form of a record's value.
type Format string

const (
	JSON Format = "json" // {"bench":"MARK","text":"..."}
	Text Format = "text" // the text alone; the mark is in key and header only
)

// Field and Header carry the mark in JSON values and among the headers.
const (
	Field  = "bench"
	Header = "sluice.bench"
)

func (t *Target) options(more ...kgo.Opt) []kgo.Opt {
	return slices.Concat([]kgo.Opt{kgo.SeedBrokers(t.Brokers...), kgo.ClientID("sluice-bench")}, t.Client, more)
}

// textPath is where the text stands in JSON values.
func (t *Target) textPath() (codec.Path, error) {
	if t.TextField == "" {
		return codec.Path{"text"}, nil
	}
	path, err := codec.ParsePath(t.TextField)
	if err != nil {
		return nil, fmt.Errorf("the path of the text field: %w", err)
	}
	return path, nil
}

// around is what stands before and behind the text in a JSON value, behind the mark. Each step of the path is a key of
// an object, where one of digits is found as well as in a list.
func (t *Target) around() (before, behind string, err error) {
	path, err := t.textPath()
	for i, name := range path {
		if i > 0 {
			before += "{"
			behind += "}"
		}
		before += `"` + escape(name) + `":`
	}
	return before + `"`, `"` + behind + "}", err
}

func (t *Target) outputs() []string {
	if t.DeadLetter == "" {
		return []string{t.Output}
	}
	return []string{t.Output, t.DeadLetter}
}

// Check asks the brokers for the topics and fills in Found. The error names every topic that is missing.
func (t *Target) Check(ctx context.Context) error {
	if len(t.Brokers) == 0 || t.Input == "" || t.Output == "" {
		return errors.New("brokers, an input topic and an output topic must be given")
	}
	if t.Input == t.Output || t.Input == t.DeadLetter || t.Output == t.DeadLetter {
		return fmt.Errorf("input %q, output %q and dead letter topic %q must be different topics", t.Input, t.Output,
			t.DeadLetter)
	}
	if _, err := t.textPath(); err != nil {
		return err
	}
	client, err := kgo.NewClient(t.options()...)
	if err != nil {
		return err
	}
	defer client.Close()
	admin := kadm.NewClient(client)
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	topics, err := admin.ListTopics(ctx, append(t.outputs(), t.Input)...)
	if err != nil {
		return fmt.Errorf("no broker answers at %s: %w; check the addresses", strings.Join(t.Brokers, ", "), err)
	}
	found := &TopicCounts{}
	var errs []error
	for name, into := range map[string]*int{t.Input: &found.Input, t.Output: &found.Output,
		t.DeadLetter: &found.DeadLetter} {
		if name == "" {
			continue
		}
		detail := topics[name]
		if detail.Err != nil || len(detail.Partitions) == 0 {
			errs = append(errs, fmt.Errorf("topic %s on %s: %w; create it, or check the name", name,
				strings.Join(t.Brokers, ", "), errors.Join(detail.Err, errNoPartitions(len(detail.Partitions)))))
			continue
		}
		*into = len(detail.Partitions)
	}
	if len(errs) > 0 {
		slices.SortFunc(errs, func(a, b error) int { return strings.Compare(a.Error(), b.Error()) })
		return errors.Join(errs...)
	}
	if versions, err := admin.ApiVersions(ctx); err == nil {
		found.Broker = guess(versions)
	}
	t.Found = found
	return nil
}

func errNoPartitions(n int) error {
	if n > 0 {
		return nil
	}
	return errors.New("it has no partitions")
}

// guess is the brokers' version by the requests they know.
func guess(versions kadm.BrokersApiVersions) string {
	for _, v := range versions.Sorted() {
		if v.Err == nil {
			return v.VersionGuess()
		}
	}
	return ""
}

// Mark says which record of a run this is, and when it was due.
type Mark struct {
	Step     int
	Seq      int
	Intended time.Time // microseconds
}

// marker writes and finds the marks of one run. All marks have the same length.
type marker struct{ prefix []byte }

// markSize is "sb-RRRRRRRR-SSSS-QQQQQQQQ-TTTTTTTTTTTTTT", all hexadecimal.
const (
	prefixSize = 3 + 8 + 1
	markSize   = prefixSize + 4 + 1 + 8 + 1 + 14
)

func newMarker() marker {
	var b [4]byte
	rand.Read(b[:]) // never fails (crypto/rand)
	return marker{[]byte("sb-" + hex.EncodeToString(b[:]) + "-")}
}

func (m marker) append(b []byte, k Mark) []byte {
	b = append(b, m.prefix...)
	b = appendHex(b, uint64(k.Step), 4)
	b = append(b, '-')
	b = appendHex(b, uint64(k.Seq), 8)
	b = append(b, '-')
	return appendHex(b, uint64(k.Intended.UnixMicro()), 14)
}

func appendHex(b []byte, v uint64, digits int) []byte {
	for shift := 4 * (digits - 1); shift >= 0; shift -= 4 {
		b = append(b, "0123456789abcdef"[v>>shift&15])
	}
	return b
}

// find looks for the mark where it survived: headers, then the key, then the value.
func (m marker) find(r *kgo.Record) (Mark, bool) {
	for i := range r.Headers {
		if k, ok := m.parse(r.Headers[i].Value); ok {
			return k, true
		}
	}
	if k, ok := m.parse(r.Key); ok {
		return k, true
	}
	return m.parse(r.Value)
}

func (m marker) parse(b []byte) (k Mark, ok bool) {
	at := bytes.Index(b, m.prefix)
	if at < 0 || len(b) < at+markSize {
		return k, false
	}
	s := string(b[at+prefixSize : at+markSize])
	step, err1 := strconv.ParseUint(s[:4], 16, 32)
	seq, err2 := strconv.ParseUint(s[5:13], 16, 32)
	at64, err3 := strconv.ParseUint(s[14:], 16, 63)
	if err1 != nil || err2 != nil || err3 != nil {
		return k, false
	}
	return Mark{Step: int(step), Seq: int(seq), Intended: time.UnixMicro(int64(at64))}, true
}
