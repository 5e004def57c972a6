package demo

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"sluice/cmd/sluice/terminal"
)

// This file owns the output: a table that is drawn again ten times a second, or plain lines.

// view writes the state to a terminal or to a pipe.
type view struct {
	out   io.Writer
	state *state
	table bool

	mu   sync.Mutex
	on   bool // the table has the screen
	stop chan struct{}
	done chan struct{}
	said time.Time // when the last line of figures was printed (plain)
}

func newView(out io.Writer, state *state, plain bool) *view {
	_, _, tty := terminal.Size(out)
	return &view{out: out, state: state, table: tty && !plain, stop: make(chan struct{}),
		done: make(chan struct{})}
}

// say prints a line, unless the table has the screen.
func (v *view) say(format string, args ...any) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if !v.on {
		fmt.Fprintf(v.out, format+"\n", args...)
	}
}

// introduce says what there is to connect to.
func (v *view) introduce(p Plan) {
	v.say("broker     %s (this process; connect with any Kafka client while the demo runs)", p.Broker)
	v.say("topics     %s -> %s, %s", p.Input, p.Output, p.DeadLetter)
	if e := p.Escalation; e != nil {
		v.say("endpoint   %s (a stand-in in this process that counts words), asked where %s", e.URL, e.When)
	}
}

// ready says that the worker is, and begins to show rows.
func (v *view) ready(w Worker) {
	for _, m := range w.Describe {
		v.say("model      %s", m)
	}
	if w.Address != "" {
		v.say("status     http://%s/status and /metrics", w.Address)
	}
	v.say("ready      after %.1f s; the first verdicts follow", time.Since(v.state.began).Seconds())
	v.begin()
}

// logWriter keeps log lines off the table, which shows the latest problem itself.
func (v *view) logWriter(w io.Writer) io.Writer { return &logGate{v, w} }

type logGate struct {
	v *view
	w io.Writer
}

func (g *logGate) Write(b []byte) (int, error) {
	g.v.mu.Lock()
	defer g.v.mu.Unlock()
	if g.v.on {
		return len(b), nil
	}
	return g.w.Write(b)
}

// Sequences of a terminal: the alternate screen without cursor and without wrapping, and back.
const (
	screenOn  = "\x1b[?1049h\x1b[?25l\x1b[?7l"
	screenOff = "\x1b[?7h\x1b[?25h\x1b[?1049l"
)

// begin gives the screen to the table. Plain lines need no beginning.
func (v *view) begin() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.said = time.Now()
	if !v.table {
		close(v.done)
		return
	}
	v.on = true
	io.WriteString(v.out, screenOn)
	go func() {
		defer close(v.done)
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for {
			v.draw()
			select {
			case <-tick.C:
			case <-v.stop:
				return
			}
		}
	}()
}

// end gives the screen back.
func (v *view) end() {
	close(v.stop)
	v.mu.Lock()
	on := v.on
	v.mu.Unlock()
	if !on {
		return
	}
	<-v.done
	v.mu.Lock()
	v.on = false
	io.WriteString(v.out, screenOff)
	v.mu.Unlock()
}

// draw paints one frame in one write, line over line, so that nothing flickers.
func (v *view) draw() {
	width, height, _ := terminal.Size(v.out)
	var b strings.Builder
	b.WriteString("\x1b[H")
	for i, line := range v.state.frame(width, height, time.Now()) {
		if i > 0 {
			b.WriteString("\r\n")
		}
		b.WriteString(line)
		b.WriteString("\x1b[0m\x1b[K")
	}
	b.WriteString("\x1b[J")
	io.WriteString(v.out, b.String())
}

// show prints a row, where there is no table.
func (v *view) show(row row) {
	if v.table {
		return
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	fmt.Fprintln(v.out, row.plain())
	if now := time.Now(); now.Sub(v.said) > 5*time.Second {
		v.said = now
		fmt.Fprintln(v.out, "-- "+v.state.figures(now).String())
	}
}

func (f figures) String() string {
	s := fmt.Sprintf("%d in, %d verdicts, %.0f/s, %d dead letters | latency p50 %s, p99 %s | lag %d, in flight %d",
		f.sent, f.results, f.rate, f.dead, milliseconds(f.p50), milliseconds(f.p99), f.lag, f.inFlight)
	if f.asked {
		s += fmt.Sprintf(" | endpoint: %d amended (%d changed), %d fell back, %d open, p50 %s", f.amended, f.changed,
			f.fellBack, f.open, milliseconds(f.wait))
	}
	return s
}
