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

// Recovered is the error for what recover has returned; to be called before the deferred function returns.
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

// Error shows nothing of what was being processed (P9): of the panic's value only the words of Go's own runtime, and
// else the type, because a text of other code may repeat what it worked on.
func (e *PanicError) Error() string {
	if re, ok := e.Value.(runtime.Error); ok {
		return fmt.Sprintf("panicked at %s: %v", e.Where, re)
	}
	return fmt.Sprintf("panicked at %s with a value of type %v", e.Where, reflect.TypeOf(e.Value))
}

// LogValue implements slog.LogValuer: Error and the stack.
func (e *PanicError) LogValue() slog.Value {
	return slog.GroupValue(slog.String("what", e.Error()), slog.String("stack", e.Stack))
}

// Panicked is the fault of a record whose processing panicked, in the panic's own words: a dead letter holds the
// payload, too.
func Panicked(stage string, value any) *Fault {
	return Faultf(Poison, stage, "panic", "processing panicked at %s: %v", Recovered(value).Where, value)
}
