package pipeline

import (
	"errors"
	"fmt"
)

// Kind says who owns a fault and the one way out of it.
type Kind string

const (
	Poison    Kind = "poison"    // the record is at fault: dead letter
	Transient Kind = "transient" // try again
	Rebalance Kind = "rebalance" // the group has moved on: wait for the next assignment
	Config    Kind = "config"    // a person must act: stop, exit 2
	Fenced    Kind = "fenced"    // a twin has taken over: stop, exit 3
	Internal  Kind = "internal"  // a broken promise of our own code or of a library: stop, exit 1
)

// Fault is an error with one owner. Stage names where it arose (decode, tokenize, infer, judge, encode, fetch, join,
// commit), Reason is a stable, machine-readable word, Err is the sentence for a person: what, where, why, what to do.
type Fault struct {
	Kind   Kind
	Stage  string
	Reason string
	Err    error
}

func (f *Fault) Error() string {
	if f.Err == nil {
		return fmt.Sprintf("%s: %s", f.Stage, f.Reason)
	}
	return fmt.Sprintf("%s: %v", f.Stage, f.Err)
}

func (f *Fault) Unwrap() error { return f.Err }

// Faultf builds a fault whose sentence is formatted as by fmt.Errorf.
func Faultf(kind Kind, stage, reason, format string, args ...any) *Fault {
	return &Fault{Kind: kind, Stage: stage, Reason: reason, Err: fmt.Errorf(format, args...)}
}

// AsFault is err as a fault: itself where it is one, else a poison fault of the given stage.
func AsFault(stage string, err error) *Fault {
	var f *Fault
	if errors.As(err, &f) {
		return f
	}
	return &Fault{Kind: Poison, Stage: stage, Reason: "failed", Err: err}
}

// KindOf is the kind of the first fault in err's chain; any other error is Internal, and nil is "".
func KindOf(err error) Kind {
	if err == nil {
		return ""
	}
	var f *Fault
	if errors.As(err, &f) {
		return f.Kind
	}
	return Internal
}
