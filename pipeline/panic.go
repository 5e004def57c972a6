package pipeline

import (
	"fmt"
	"log/slog"
	"reflect"
	"runtime"
	"strings"
)

// This file owns what becomes of a panic that was recovered from: an error that says where, and a stack for the log.

// PanicError is a recovered panic.
type PanicError struct {
	Value any
	Where string // function:line that panicked, of our own code or of a library's
	Stack string // function:line of every caller, the innermost first; no arguments
}

// Recovered is the error for what recover has returned. To be called by the deferred function itself.
func Recovered(value any) *PanicError {
	var pcs [64]uintptr
	frames := runtime.CallersFrames(pcs[:runtime.Callers(2, pcs[:])])
	e := &PanicError{Value: value}
	var stack []string
	for past := false; ; {
		f, more := frames.Next()
		if past && (len(stack) > 0 || !strings.HasPrefix(f.Function, "runtime.")) {
			stack = append(stack, fmt.Sprintf("%s:%d", f.Function, f.Line))
		}
		past = past || f.Function == "runtime.gopanic" || f.Function == "runtime.sigpanic"
		if !more {
			break
		}
	}
	if len(stack) > 0 {
		e.Where, e.Stack = stack[0], strings.Join(stack, "\n")
	}
	return e
}

// Error has the panic's own words, which may repeat what was being processed: it is for a place that holds the payload,
// too, such as a dead letter. See What.
func (e *PanicError) Error() string { return fmt.Sprintf("panicked at %s: %v", e.Where, e.Value) }

// What is the panic's value without anything that was being processed: the words of Go's runtime, or else the value's type.
func (e *PanicError) What() string {
	if re, ok := e.Value.(runtime.Error); ok {
		return re.Error()
	}
	return fmt.Sprintf("a value of type %v", reflect.TypeOf(e.Value))
}

// LogValue implements slog.LogValuer. It shows nothing that was being processed (P9).
func (e *PanicError) LogValue() slog.Value {
	return slog.GroupValue(slog.String("what", e.What()), slog.String("stack", e.Stack))
}

// panicked is the fault of a record whose processing panicked.
func panicked(stage string, value any) *Fault {
	return Faultf(Poison, stage, "panic", "processing %w", Recovered(value))
}
