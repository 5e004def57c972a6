package worker

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"

	"sluice/cmd/sluice/settings"
)

// NewLogger logs to w, and keeps the latest problem for /status.
func NewLogger(w io.Writer, s settings.Log) (*slog.Logger, *Problems) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(s.Level)); err != nil {
		panic(err) // the configuration has been checked
	}
	var h slog.Handler
	if s.Format == "json" {
		h = slog.NewJSONHandler(w, &slog.HandlerOptions{Level: level, ReplaceAttr: func(_ []string,
			a slog.Attr) slog.Attr {
			if a.Value.Kind() == slog.KindDuration { // "1.5s", as in text, not nanoseconds
				a.Value = slog.StringValue(a.Value.Duration().String())
			}
			return a
		}})
	} else {
		h = slog.NewTextHandler(w, &slog.HandlerOptions{Level: level})
	}
	p := &Problems{state: &problemState{}, next: h}
	return slog.New(p), p
}

// Problems is a slog.Handler that remembers the latest warning or error that names its cause ("error").
type Problems struct {
	state *problemState
	next  slog.Handler
}

type problemState struct {
	mu   sync.Mutex
	last *Problem
}

// Problem is the latest problem, in /status.
type Problem struct {
	Time    time.Time `json:"time"`
	Level   string    `json:"level"`
	Message string    `json:"message"`
}

// Last is the latest problem; nil where there was none.
func (p *Problems) Last() *Problem {
	p.state.mu.Lock()
	defer p.state.mu.Unlock()
	return p.state.last
}

// Enabled implements slog.Handler: problems are remembered even where they are not logged.
func (p *Problems) Enabled(ctx context.Context, l slog.Level) bool {
	return l >= slog.LevelWarn || p.next.Enabled(ctx, l)
}

// Handle implements slog.Handler.
func (p *Problems) Handle(ctx context.Context, r slog.Record) error {
	if r.Level >= slog.LevelWarn {
		r.Attrs(func(a slog.Attr) bool {
			if a.Key == "error" {
				p.remember(r, a.Value)
			}
			return true
		})
	}
	if !p.next.Enabled(ctx, r.Level) {
		return nil
	}
	return p.next.Handle(ctx, r)
}

func (p *Problems) remember(r slog.Record, cause slog.Value) {
	p.state.mu.Lock()
	p.state.last = &Problem{Time: r.Time, Level: r.Level.String(), Message: fmt.Sprintf("%s: %v", r.Message, cause)}
	p.state.mu.Unlock()
}

// WithAttrs implements slog.Handler.
func (p *Problems) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &Problems{state: p.state, next: p.next.WithAttrs(attrs)}
}

// WithGroup implements slog.Handler.
func (p *Problems) WithGroup(name string) slog.Handler {
	return &Problems{state: p.state, next: p.next.WithGroup(name)}
}

// Steps report work that takes long, by Tell, in words for a person.
type Steps struct {
	Tell func(format string, args ...any)
}

// Begin begins a step, and returns the function that ends it. One of more than a second is announced while it runs, and
// its duration is told at its end.
func (s Steps) Begin(format string, args ...any) (end func()) {
	name, began := fmt.Sprintf(format, args...), time.Now()
	var mu sync.Mutex
	announced, over := false, false
	timer := time.AfterFunc(time.Second, func() {
		mu.Lock()
		defer mu.Unlock()
		if !over {
			announced = true
			s.Tell("%s ...", name)
		}
	})
	return func() {
		timer.Stop()
		mu.Lock()
		defer mu.Unlock()
		over = true
		if announced {
			s.Tell("%s: done after %.1f s", name, time.Since(began).Seconds())
		}
	}
}
